"""The deliverer over a store in memory and a poster that does as told. Nothing here waits for time to pass."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from avalon_service.deliveries.addresses import AddressRules
from avalon_service.deliveries.deliverer import Deliverer
from avalon_service.deliveries.lanes import Lanes
from avalon_service.deliveries.ports import DeliveryCounts, DeliveryKind, DeliveryState, Post
from avalon_service.deliveries.poster import PostFailed, PostRefused
from avalon_service.deliveries.retries import Retries
from avalon_service.orders.ports import NewOrder, OrderFailure
from avalon_service.store.conformance import ManualClock
from avalon_service.store.faulty import FaultyStore
from avalon_service.store.memory import MemoryJournal, MemoryStore


class Poster:
    """Keeps what is posted and raises what it is told to."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, bytes, str]] = []
        self.errors: dict[str, list[Exception]] = {}
        self.holding: dict[str, asyncio.Event] = {}
        self._arrived = asyncio.Condition()

    async def post(self, uri: str, body: bytes, *, key: str) -> None:
        async with self._arrived:
            self.posts.append((uri, body, key))
            self._arrived.notify_all()
        if uri in self.holding:
            await self.holding[uri].wait()
        if self.errors.get(uri):
            raise self.errors[uri].pop(0)

    async def received(self, count: int) -> None:
        async with asyncio.timeout(10), self._arrived:
            await self._arrived.wait_for(lambda: len(self.posts) >= count)


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.journal = MemoryJournal()
        self.poster = Poster()
        self.open()

    def open(self) -> None:
        self.store = FaultyStore(MemoryStore(clock=self.clock, journal=self.journal))
        self.deliverer = Deliverer(
            store=self.store.deliveries,
            orders=self.store.orders,
            poster=self.poster,
            rules=AddressRules(ports=()),
            retries=Retries(attempts=3, first=10.0, longest=100.0),
            max_pending=100,
            concurrency=8,
            per_host=2,
            clock=self.clock,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Deliverer]:
        await self.deliverer.load()
        task = asyncio.create_task(self.deliverer.run())
        try:
            yield self.deliverer
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def submit(self, name: str, uri: str = "https://receiver.example/", kind: str = "result") -> None:
        await self.store.orders.submit(
            NewOrder(work_order_id=name, worker_id="w", requester_id="r", request=name.encode())
        )
        await self.deliverer.plan(name, (Post(kind=DeliveryKind(kind), uri=uri),), 1)

    async def finish(self, name: str) -> None:
        (claim,) = await self.store.orders.claim("w", limit=1, lease=1e9)
        assert claim.work_order_id == name
        await self.store.orders.complete(name, claim.token, b'{"of":"%b"}' % name.encode())

    async def settled(self, **counts: int) -> None:
        """Return when there are so many deliveries in each state."""
        expected = DeliveryCounts(**counts)
        for _ in range(200):
            if await self.store.deliveries.counts() == expected:
                return
            await asyncio.sleep(0)
        assert await self.store.deliveries.counts() == expected


@pytest.fixture
async def world() -> World:
    return World()


async def test_a_finished_order_is_posted_at_once(world: World) -> None:
    async with world.running():
        await world.submit("a")
        await asyncio.sleep(0)
        assert world.poster.posts == []
        await world.finish("a")
        await world.settled(delivered=1)
    [(uri, body, key)] = world.poster.posts
    assert (uri, key) == ("https://receiver.example/", "result-a")
    assert json.loads(body) == {"jsonrpc": "2.0", "id": 1, "result": {"of": "a"}}


async def test_an_order_that_ends_before_it_is_planned_is_posted_all_the_same(world: World) -> None:
    async with world.running() as deliverer:
        await world.store.orders.submit(
            NewOrder(work_order_id="a", worker_id="w", requester_id="r", request=b"a")
        )
        await world.finish("a")
        await deliverer.plan("a", (Post(kind=DeliveryKind.NOTIFY, uri="https://receiver.example/"),), None)
        await world.settled(delivered=1)
    assert json.loads(world.poster.posts[0][1]) == {
        "jsonrpc": "2.0",
        "id": None,
        "result": {"workOrderId": "a"},
    }


@pytest.mark.parametrize("how", ["cancelled", "expired", "failed"])
async def test_every_end_is_posted(world: World, how: str) -> None:
    failure = OrderFailure(code=9, message="no such workload")
    async with world.running():
        await world.submit("a")
        if how == "failed":
            (claim,) = await world.store.orders.claim("w", limit=1, lease=1.0)
            await world.store.orders.fail("a", claim.token, failure)
        else:
            await world.store.orders.cancel("a", failure, expired=how == "expired")
        await world.settled(delivered=1)
    assert json.loads(world.poster.posts[0][1])["error"]["code"] == 9


async def test_failures_are_tried_again_further_and_further_apart_and_then_no_more(world: World) -> None:
    world.poster.errors["https://receiver.example/"] = [PostFailed("down")] * 9
    async with world.running():
        await world.submit("a")
        await world.finish("a")
        pauses = []
        for attempt in (1, 2):
            await world.poster.received(attempt)
            for _ in range(20):
                await asyncio.sleep(0)
            [pending] = await world.store.deliveries.pending()
            assert (pending.attempts, pending.last_error) == (attempt, "down")
            assert pending.due_at is not None
            pauses.append(pending.due_at - world.clock.now)
            world.clock.now = pending.due_at
            world.deliverer._wake.set()
        await world.settled(dead=1)
    assert 10 <= pauses[0] <= 20
    assert 20 <= pauses[1] <= 30
    assert len(world.poster.posts) == 3
    [letter] = await world.store.deliveries.page(DeliveryState.DEAD, limit=1)
    assert (letter.attempts, letter.last_error) == (3, "tried 3 times: down")


async def test_a_refusal_is_final(world: World) -> None:
    world.poster.errors["https://receiver.example/"] = [PostRefused("gone")]
    async with world.running():
        await world.submit("a")
        await world.finish("a")
        await world.settled(dead=1)
    assert len(world.poster.posts) == 1


@pytest.mark.parametrize("when", ["before the end", "after the end", "while posting", "after a failure"])
async def test_a_crash_loses_nothing(world: World, when: str) -> None:
    uri = "https://receiver.example/"
    if when == "while posting":
        world.poster.holding[uri] = asyncio.Event()
    if when == "after a failure":
        world.poster.errors[uri] = [PostFailed("down")]
    async with world.running():
        await world.submit("a")
        if when != "before the end":
            await world.finish("a")
        if when in ("while posting", "after a failure"):
            await world.poster.received(1)
        if when == "after a failure":
            for _ in range(20):
                await asyncio.sleep(0)
    world.poster.holding.clear()
    world.clock.now += 50
    world.open()
    assert (await world.store.deliveries.counts()).pending == 1
    async with world.running():
        if when == "before the end":
            await world.finish("a")
        await world.settled(delivered=1)
    assert len({key for _, _, key in world.poster.posts}) == 1


async def test_an_outcome_that_cannot_be_noted_is_made_again(world: World) -> None:
    world.store.faults.fail("deliveries.finish")
    async with world.running():
        await world.submit("a")
        await world.finish("a")
        await world.poster.received(1)
        for _ in range(20):
            await asyncio.sleep(0)
        world.clock.now += 5
        world.deliverer._wake.set()
        await world.settled(delivered=1)
    assert len(world.poster.posts) == 2


async def test_orders_of_pending_deliveries_are_to_be_kept(world: World) -> None:
    async with world.running() as deliverer:
        await world.submit("a")
        assert deliverer.orders_to_keep() == {"a"}
        await world.finish("a")
        await world.settled(delivered=1)
        assert deliverer.orders_to_keep() == frozenset()


async def test_receivers_that_do_not_answer_delay_nobody_else(world: World) -> None:
    slow = "https://slow.example/"
    world.poster.holding[slow] = asyncio.Event()
    async with world.running():
        for number in range(20):
            await world.submit(f"slow{number}", slow)
            await world.finish(f"slow{number}")
        await world.submit("a", "https://fast.example/")
        await world.finish("a")
        await world.settled(delivered=1, pending=20)
    assert sum(uri == slow for uri, _, _ in world.poster.posts) == 2


def test_lanes_take_turns_and_a_failing_one_is_narrow() -> None:
    lanes = Lanes(limit=10, per_receiver=2)
    for number in range(4):
        lanes.put("a", number)
    lanes.put("b", 10)
    assert [lanes.take() for _ in range(4)] == [("a", 0), ("b", 10), ("a", 1), None]
    lanes.done("a", failed=True)
    assert lanes.take() is None
    lanes.done("a", failed=True)
    assert (lanes.take(), lanes.take()) == (("a", 2), None)
    lanes.done("a", failed=False)
    lanes.put("a", 4)
    assert (lanes.take(), lanes.take(), lanes.take()) == (("a", 3), ("a", 4), None)
    for receiver in "aab":
        lanes.done(receiver, failed=False)
    assert not lanes._lanes


def test_lanes_have_one_cap_for_all() -> None:
    lanes = Lanes(limit=3, per_receiver=2)
    for receiver in "abcd":
        lanes.put(receiver, 1)
    assert [taken and taken[0] for taken in (lanes.take() for _ in range(4))] == ["a", "b", "c", None]
    lanes.done("b", failed=True)
    assert lanes.take() == ("d", 1)


def test_pauses_double_up_to_the_longest() -> None:
    retries = Retries(attempts=5, first=1.0, longest=6.0)
    pauses = [retries.pause_after(attempts) for attempts in range(1, 6)]
    assert pauses[-1] is None
    for pause, least in zip(pauses[:-1], (1, 2, 4, 6), strict=True):
        assert pause is not None
        assert least <= pause <= min(least + 1, 6)
