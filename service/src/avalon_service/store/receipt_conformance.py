"""What every store of receipts must do: one suite for all implementations of `ReceiptStore`.

Used as `avalon_service.store.conformance` is: subclass `ReceiptStoreConformance` and provide a `medium` fixture.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from avalon_core.protocol.errors import GeneralError
from avalon_core.protocol.receipts import ReceiptStatus, status_after
from avalon_service.orders.errors import (
    EndOfLookUp,
    InvalidTag,
    ReceiptExists,
    ReceiptFull,
    ReceiptUpdateRefused,
    StoreClosed,
    UnknownReceipt,
    UnknownReceiptUpdate,
)
from avalon_service.orders.receipt_ports import NewReceipt, NewReceiptUpdate, ReceiptStore
from avalon_service.store.conformance import ManualClock, Medium, World
from avalon_service.store.limits import Limits

PENDING, COMPLETED, PROCESSED, FAILED, REJECTED = (int(status) for status in list(ReceiptStatus)[:5])


def receipt(name: str, **changes: object) -> NewReceipt:
    """A receipt to create."""
    values: dict[str, object] = {
        "work_order_id": name,
        "worker_service_id": "service",
        "worker_id": "worker",
        "requester_id": "requester",
        "create_status": PENDING,
        "request_hash": "hash",
        "nonce": "nonce",
        "signature": "signature",
        "signature_rules": "rules",
        "verification_key": "key",
    }
    return NewReceipt(**(values | changes))  # type: ignore[arg-type]


def update(name: str, type_: int = 1000, data: str = "data", updater: str = "someone") -> NewReceiptUpdate:
    """An update to add."""
    return NewReceiptUpdate(
        work_order_id=name,
        updater_id=updater,
        update_type=type_,
        update_data=data,
        signature=f"signature of {type_} {data}",
        signature_rules="rules",
        verification_key="key",
    )


class ReceiptStoreConformance:
    """What a `ReceiptStore` must do."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The clock of the store."""
        return ManualClock()

    @pytest.fixture
    async def world(self, medium: Medium, clock: ManualClock) -> AsyncIterator[World]:
        """A fresh store."""
        limits = Limits()
        world = World(medium, clock, await medium.open(clock=clock, limits=limits), limits)
        yield world
        await world.store.close()

    # Creation

    async def test_a_receipt_is_kept_as_it_was_created(self, world: World) -> None:
        """All its texts, over a restart, with the status that it was created with."""
        new = receipt("a", create_status=FAILED, requester_id="0xAb", nonce="00")
        created = await world.store.receipts.create(new)
        assert {name: getattr(created, name) for name in NewReceipt.__struct_fields__} == {
            name: getattr(new, name) for name in NewReceipt.__struct_fields__
        }
        assert (created.status, created.update_count) == (FAILED, 0)
        assert created.created_at == created.updated_at == world.clock.now
        assert await world.store.receipts.retrieve("a") == created
        await world.restart()
        assert await world.store.receipts.retrieve("a") == created

    async def test_an_order_has_one_receipt(self, world: World) -> None:
        """The second changes nothing, however alike; one of many at once wins."""
        first = await world.store.receipts.create(receipt("a"))
        for other in (receipt("a"), receipt("a", requester_id="another")):
            with pytest.raises(ReceiptExists):
                await world.store.receipts.create(other)
        assert await world.store.receipts.retrieve("a") == first
        outcomes = await asyncio.gather(
            *(world.store.receipts.create(receipt("b")) for _ in range(5)), return_exceptions=True
        )
        assert sum(isinstance(outcome, ReceiptExists) for outcome in outcomes) == 4

    async def test_what_was_never_created_is_unknown(self, world: World) -> None:
        """To every verb that names it."""
        for call in (
            world.store.receipts.retrieve("a"),
            world.store.receipts.update(update("a")),
            world.store.receipts.retrieve_update("a", 1),
        ):
            with pytest.raises(UnknownReceipt):
                await call
        await world.store.receipts.settle("a")
        assert not world.store.receipts.awaits("a")

    # Updates

    async def test_updates_are_kept_in_their_order(self, world: World) -> None:
        """Each is found by its index, and by its index among its updater's."""
        receipts = world.store.receipts
        await receipts.create(receipt("a"))
        await receipts.create(receipt("b"))
        for number, updater in enumerate("xyxy"):
            world.clock.now += 1
            added = await receipts.update(update("a", data=str(number), updater=updater))
            assert (added.position, added.at) == (number + 1, world.clock.now)
        await receipts.update(update("b", data="other"))
        await world.restart()
        receipts = world.store.receipts
        found = [await receipts.retrieve_update("a", index) for index in (1, 2, 3, 4, None)]
        assert [one.update.update_data for one in found] == ["0", "1", "2", "3", "3"]
        assert {one.count for one in found} == {4}
        theirs = [await receipts.retrieve_update("a", index, updater_id="y") for index in (1, 2, None)]
        assert [(one.update.update_data, one.count) for one in theirs] == [("1", 2), ("3", 2), ("3", 2)]
        assert (await receipts.retrieve("a")).update_count == 4
        assert (await receipts.retrieve("a")).updated_at == world.clock.now

    @pytest.mark.parametrize(
        ("index", "updater"), [(2, None), (0, None), (-1, None), (1, "nobody"), (None, "no")]
    )
    async def test_an_update_that_is_not_there(
        self, world: World, index: int | None, updater: str | None
    ) -> None:
        """The error says how many there are."""
        await world.store.receipts.create(receipt("a"))
        await world.store.receipts.update(update("a"))
        with pytest.raises(UnknownReceiptUpdate) as caught:
            await world.store.receipts.retrieve_update("a", index, updater_id=updater)
        assert caught.value.count == (0 if updater else 1)

    async def test_an_update_sets_the_status_by_the_rules(self, world: World) -> None:
        """All of the core's rules hold, for every pair of a status and a type."""
        types = (PENDING, COMPLETED, PROCESSED, FAILED, REJECTED, 256, 1000)
        for first in types:
            for second in types:
                name = f"{first} {second}"
                await world.store.receipts.create(receipt(name))
                await world.store.receipts.update(update(name, first, "1"))
                status = status_after(PENDING, first)
                try:
                    expected = status_after(status, second)
                except GeneralError:
                    with pytest.raises(ReceiptUpdateRefused):
                        await world.store.receipts.update(update(name, second, "2"))
                    expected = status
                else:
                    await world.store.receipts.update(update(name, second, "2"))
                assert (await world.store.receipts.retrieve(name)).status == expected, name

    async def test_the_same_update_again_is_the_same_update(self, world: World) -> None:
        """It is not added again and sets nothing, whatever came between; of another updater it is another one."""
        receipts = world.store.receipts
        await receipts.create(receipt("a"))
        first = await receipts.update(update("a", FAILED))
        await receipts.update(update("a", PENDING))
        assert await receipts.update(update("a", FAILED)) == first
        assert (await receipts.retrieve("a")).status == PENDING
        assert (await receipts.update(update("a", FAILED, updater="another"))).position == 3
        await receipts.update(update("a", COMPLETED))
        assert await receipts.update(update("a", FAILED), room=1) == first

    async def test_two_updates_at_once_come_one_after_the_other(self, world: World) -> None:
        """No two have one position, and nothing follows a completion."""
        await world.store.receipts.create(receipt("a"))
        outcomes = await asyncio.gather(
            *(world.store.receipts.update(update("a", 1000, str(number))) for number in range(20)),
            world.store.receipts.update(update("a", COMPLETED)),
            *(world.store.receipts.update(update("a", 1001, str(number))) for number in range(20)),
            return_exceptions=True,
        )
        added = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert sorted(one.position for one in added) == list(range(1, len(added) + 1))
        assert max(added, key=lambda one: one.position).update_type == COMPLETED
        assert all(
            isinstance(one, ReceiptUpdateRefused) for one in outcomes if isinstance(one, BaseException)
        )

    async def test_there_is_room_for_so_many_updates(self, world: World) -> None:
        """As many as the caller says, and for ever more where it says nothing."""
        receipts = world.store.receipts
        await receipts.create(receipt("a"))
        for number in range(3):
            await receipts.update(update("a", data=str(number)), room=3)
        with pytest.raises(ReceiptFull):
            await receipts.update(update("a", data="one more"), room=3)
        assert (await receipts.update(update("a", data="one more"))).position == 4

    async def test_times_do_not_go_backwards(self, world: World) -> None:
        """A clock that is set back makes no update older than the one before."""
        await world.store.receipts.create(receipt("a"))
        world.clock.now -= 100
        assert (await world.store.receipts.update(update("a"))).at == world.clock.now + 100

    # Awaiting

    async def test_a_receipt_awaits_its_worker_s_word(self, world: World) -> None:
        """Until it is settled, by itself or with an update; over restarts."""
        for name in "abcd":
            await world.store.receipts.create(receipt(name, worker_id="other" if name == "d" else "worker"))
        await world.store.receipts.settle("a")
        await world.store.receipts.update(update("b"), settles=True)
        await world.store.receipts.update(update("c"))
        for _ in range(2):
            assert [name for name in "abcd" if world.store.receipts.awaits(name)] == ["c", "d"]
            assert (await world.store.receipts.awaiting("worker")).work_order_ids == ("c",)
            assert (await world.store.receipts.awaiting("other")).work_order_ids == ("d",)
            await world.restart()

    async def test_a_refused_update_settles_all_the_same(self, world: World) -> None:
        """Or the word of a worker that comes too late would be awaited for ever."""
        await world.store.receipts.create(receipt("a", create_status=COMPLETED))
        with pytest.raises(ReceiptUpdateRefused):
            await world.store.receipts.update(update("a"), settles=True)
        assert not world.store.receipts.awaits("a")
        await world.restart()
        assert not world.store.receipts.awaits("a")

    async def test_those_that_await_come_in_pages(self, world: World) -> None:
        """In the order of creation."""
        names = [f"{number:02}" for number in range(7)]
        for name in names:
            await world.store.receipts.create(receipt(name))
        seen: list[str] = []
        tag = ""
        while True:
            page = await world.store.receipts.awaiting("worker", tag=tag, limit=3)
            seen += page.work_order_ids
            await world.store.receipts.settle(seen[0])
            tag = page.tag
            if not tag:
                break
        assert seen == names

    # Look-ups

    async def test_look_ups_by_every_criterion(self, world: World) -> None:
        """All that are given must match."""
        receipts = world.store.receipts
        await receipts.create(receipt("a"))
        await receipts.create(receipt("b", worker_id="w2"))
        await receipts.create(receipt("c", requester_id="r2", worker_service_id="s2"))
        await receipts.create(receipt("d", requester_id="r2"))
        await receipts.update(update("d", PROCESSED))
        await receipts.update(update("a", 1000))
        assert (await receipts.look_up()).ids == ("a", "b", "c", "d")
        assert (await receipts.look_up(worker_id="worker")).ids == ("a", "c", "d")
        assert (await receipts.look_up(requester_id="r2")).ids == ("c", "d")
        assert (await receipts.look_up(worker_service_id="s2")).ids == ("c",)
        assert (await receipts.look_up(worker_service_id="service", worker_id="worker")).ids == ("a", "d")
        assert (await receipts.look_up(status=PROCESSED)).ids == ("d",)
        assert (await receipts.look_up(status=PENDING, worker_id="worker")).ids == ("a", "c")
        page = await receipts.look_up(
            requester_id="r2", worker_id="worker", worker_service_id="service", status=PROCESSED
        )
        assert (page.ids, page.total, page.tag) == (("d",), 1, "")
        nothing = await receipts.look_up(requester_id="r2", status=COMPLETED)
        assert (nothing.ids, nothing.total, nothing.tag) == ((), 0, "")

    @pytest.mark.parametrize(
        "criteria",
        [{}, {"requester_id": "requester"}, {"status": PENDING}, {"worker_id": "worker", "status": PENDING}],
    )
    async def test_paging_neither_skips_nor_repeats(self, world: World, criteria: dict[str, object]) -> None:
        """Whatever is created, changed or purged meanwhile, and over a restart; the total is the first page's."""
        names = [f"{number:02}" for number in range(8)]
        for name in ("old", *names):
            await world.store.receipts.create(receipt(name))
            world.clock.now += 1
        page = await world.store.receipts.look_up(limit=2, **criteria)  # type: ignore[arg-type]
        total = page.total
        seen = list(page.ids)
        for round_ in range(20):
            if not page.tag:
                break
            await world.store.receipts.create(
                receipt(f"new {round_}", requester_id="another", create_status=FAILED)
            )
            await world.store.receipts.update(update(page.ids[0], 1000, str(round_)))
            await world.store.receipts.purge(older_than=1_000_000.5)
            await world.restart()
            page = await world.store.receipts.look_up(limit=2, tag=page.tag, **criteria)  # type: ignore[arg-type]
            assert page.total == total
            assert 1 <= len(page.ids) <= 2
            seen += page.ids
            if round_ > 15:
                pytest.fail("the look-up does not end")
        assert [name for name in seen if not name.startswith("new")] == ["old", *names]
        assert len(set(seen)) == len(seen)

    async def test_a_page_that_just_fits_is_the_last(self, world: World) -> None:
        """Its tag is empty."""
        for name in "ab":
            await world.store.receipts.create(receipt(name))
        assert (await world.store.receipts.look_up(limit=2)).tag == ""
        assert (await world.store.receipts.look_up(limit=1)).tag != ""

    async def test_running_past_the_end(self, world: World) -> None:
        """Is told apart from an empty result."""
        for name in "ab":
            await world.store.receipts.create(receipt(name))
        tag = (await world.store.receipts.look_up(limit=1)).tag
        with pytest.raises(EndOfLookUp):
            await world.store.receipts.look_up(tag=tag, status=REJECTED)

    @pytest.mark.parametrize(
        "tag", ["x", "0", "after-1", "after-x-of-1", "after-1-of-", "after-²-of-1", "9" * 99]
    )
    async def test_a_malformed_tag_is_refused(self, world: World, tag: str) -> None:
        """It is not one that the store gave out."""
        with pytest.raises(InvalidTag):
            await world.store.receipts.look_up(tag=tag)

    # Purging

    async def test_old_receipts_are_purged_with_their_updates(self, world: World) -> None:
        """By the time of their last update; the order may have a receipt again, which starts anew."""
        receipts = world.store.receipts
        await receipts.create(receipt("a"))
        await receipts.create(receipt("b"))
        await receipts.update(update("a", PROCESSED))
        world.clock.now += 10
        await receipts.update(update("b", PROCESSED))
        assert await receipts.purge(older_than=world.clock.now) == 1
        assert not receipts.awaits("a")
        with pytest.raises(UnknownReceipt):
            await receipts.retrieve("a")
        assert (await receipts.look_up()).ids == ("b",)
        again = await receipts.create(receipt("a"))
        assert (again.status, again.update_count) == (PENDING, 0)
        with pytest.raises(UnknownReceiptUpdate):
            await receipts.retrieve_update("a", 1)
        assert await receipts.purge(older_than=world.clock.now + 1) == 2
        assert await receipts.purge(older_than=world.clock.now + 1) == 0

    async def test_a_purged_order_leaves_its_receipt(self, world: World) -> None:
        """They are kept for different times."""
        await world.finished("a")
        await world.store.receipts.create(receipt("a"))
        assert await world.orders.purge(older_than=world.clock.now + 1, keep=0) == 1
        assert (await world.store.receipts.retrieve("a")).work_order_id == "a"

    async def test_a_closed_store_answers_nothing(self, world: World) -> None:
        """Reads and writes alike."""
        receipts: ReceiptStore = world.store.receipts
        await receipts.create(receipt("a"))
        await world.store.close()
        for call in (
            receipts.create(receipt("b")),
            receipts.update(update("a")),
            receipts.settle("a"),
            receipts.retrieve("a"),
            receipts.retrieve_update("a", 1),
            receipts.look_up(),
            receipts.awaiting("worker"),
            receipts.purge(older_than=0),
        ):
            with pytest.raises(StoreClosed):
                await call
