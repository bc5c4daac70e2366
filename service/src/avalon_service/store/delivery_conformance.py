"""What every `DeliveryStore` must do: see `conformance`, whose fixtures this uses."""

from __future__ import annotations

import pytest

from avalon_service.deliveries.ports import Delivery, DeliveryCounts, DeliveryKind, DeliveryState, Id, Post
from avalon_service.orders.errors import StoreClosed
from avalon_service.store.conformance import World, _Conformance

RESULT = Post(kind=DeliveryKind.RESULT, uri="https://receiver.example/result")
NOTIFY = Post(kind=DeliveryKind.NOTIFY, uri="https://receiver.example/notify")


async def planned(world: World, name: str, *posts: Post, call_id: Id = 1) -> list[Delivery]:
    """Plan posts of an order."""
    return await world.store.deliveries.plan(name, posts or (RESULT,), call_id=call_id, now=world.clock.now)


class DeliveryStoreConformance(_Conformance):
    """What a `DeliveryStore` must do."""

    @pytest.mark.parametrize("call_id", [1, 2**100, "text", "", None])
    async def test_what_is_planned_is_pending(self, world: World, call_id: Id) -> None:
        """Until it is finished, over restarts; with everything that was said of it."""
        new = await planned(world, "a", RESULT, NOTIFY, call_id=call_id)
        assert [(d.work_order_id, d.kind, d.uri, d.call_id) for d in new] == [
            ("a", post.kind, post.uri, call_id) for post in (RESULT, NOTIFY)
        ]
        assert {(d.state, d.planned_at, d.attempts, d.due_at) for d in new} == {
            (DeliveryState.PENDING, world.clock.now, 0, None)
        }
        assert await world.store.deliveries.pending() == new
        await world.restart()
        assert await world.store.deliveries.pending() == new
        assert await world.store.deliveries.counts() == DeliveryCounts(pending=2)

    async def test_planning_again_changes_nothing(self, world: World) -> None:
        """Whatever became of the first; only what is new is planned."""
        (first,) = await planned(world, "a")
        assert await planned(world, "a", Post(kind=DeliveryKind.RESULT, uri="https://other.example/")) == []
        (other,) = await planned(world, "a", RESULT, NOTIFY)
        assert other.kind is DeliveryKind.NOTIFY
        await world.store.deliveries.finish(first.number, DeliveryState.DELIVERED, attempts=1, now=1.0)
        await world.restart()
        assert await planned(world, "a", RESULT, NOTIFY) == []
        assert await world.store.deliveries.pending() == [other]

    async def test_a_failed_attempt_is_remembered(self, world: World) -> None:
        """Over restarts."""
        (delivery,) = await planned(world, "a")
        await world.store.deliveries.postpone(delivery.number, attempts=3, due_at=12.5, error="refused")
        await world.restart()
        (known,) = await world.store.deliveries.pending()
        assert (known.attempts, known.due_at, known.last_error) == (3, 12.5, "refused")

    @pytest.mark.parametrize("state", [DeliveryState.DELIVERED, DeliveryState.DEAD])
    async def test_what_is_finished_stays_so(self, world: World, state: DeliveryState) -> None:
        """And is pending no more."""
        (delivery,) = await planned(world, "a")
        deliveries = world.store.deliveries
        await deliveries.finish(delivery.number, state, attempts=2, now=7.0, error="why")
        await deliveries.finish(delivery.number, DeliveryState.PENDING, attempts=9, now=9.0)
        await deliveries.postpone(delivery.number, attempts=9, due_at=9.0, error="late")
        for _ in range(2):
            assert await world.store.deliveries.pending() == []
            (known,) = await world.store.deliveries.page(state, limit=5)
            assert (known.state, known.attempts, known.due_at, known.finished_at, known.last_error) == (
                state, 2, None, 7.0, "why",
            )  # fmt: skip
            assert getattr(await world.store.deliveries.counts(), state.value) == 1
            assert (await world.store.deliveries.counts()).pending == 0
            await world.restart()

    async def test_pages(self, world: World) -> None:
        """The latest first, without gaps or repetitions."""
        for name in "abcde":
            (delivery,) = await planned(world, name)
            if name != "c":
                await world.store.deliveries.finish(
                    delivery.number, DeliveryState.DEAD, attempts=1, now=world.clock.now
                )
        first = await world.store.deliveries.page(DeliveryState.DEAD, limit=3)
        rest = await world.store.deliveries.page(DeliveryState.DEAD, limit=3, before=first[-1].number)
        assert [d.work_order_id for d in first + rest] == list("edba")
        assert await world.store.deliveries.page(DeliveryState.DEAD, limit=0) == []
        assert await world.store.deliveries.page(DeliveryState.DELIVERED, limit=3) == []

    async def test_purging(self, world: World) -> None:
        """By age and by number of those finished, the first finished first; what is pending stays. No number is used twice."""
        deliveries = world.store.deliveries
        numbers = []
        for name in "abcd":
            (delivery,) = await planned(world, name)
            numbers.append(delivery.number)
            if name != "a":
                await deliveries.finish(
                    delivery.number, DeliveryState.DELIVERED, attempts=1, now=world.clock.now
                )
            world.clock.now += 1
        assert await deliveries.purge(older_than=world.clock.now - 2, keep=9) == 1
        assert await deliveries.purge(older_than=0, keep=1) == 1
        assert [d.work_order_id for d in await deliveries.page(DeliveryState.DELIVERED, limit=9)] == ["d"]
        assert await deliveries.purge(older_than=2e9, keep=0) == 1
        assert await deliveries.counts() == DeliveryCounts(pending=1)
        assert [d.work_order_id for d in await deliveries.pending()] == ["a"]
        await world.restart()
        (again,) = await planned(world, "d")
        assert again.number > max(numbers)

    async def test_many_are_purged_in_one_call(self, world: World) -> None:
        """More than fit into one transaction."""
        deliveries = world.store.deliveries
        for number in range(1100):
            (delivery,) = await planned(world, f"{number}")
            await deliveries.finish(delivery.number, DeliveryState.DEAD, attempts=1, now=world.clock.now)
        assert await deliveries.purge(older_than=0, keep=50) == 1050
        assert await deliveries.counts() == DeliveryCounts(dead=50)

    async def test_a_closed_store_takes_nothing(self, world: World) -> None:
        """And promises nothing."""
        await world.store.close()
        with pytest.raises(StoreClosed):
            await planned(world, "a")
        with pytest.raises(StoreClosed):
            await world.store.deliveries.pending()
