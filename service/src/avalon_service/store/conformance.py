"""What every store must do: one suite for all implementations of the ports.

An implementation's tests provide a `medium` fixture, something on which a store can be opened again and again, and
subclass the two classes:

```python
class TestMyOrders(OrderStoreConformance):
    @pytest.fixture
    def medium(self) -> Medium: ...
```

Time is a clock that the tests turn. Nothing here sleeps for something to happen; what must *not* happen is given a few
turns of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from typing import Any, Protocol, TypeVar

import msgspec
import pytest

from avalon_service.orders.errors import (
    DuplicateWorkOrder,
    EndOfLookUp,
    InvalidTag,
    QueueFull,
    RequestTooLarge,
    StaleClaim,
    StoreClosed,
    UnknownWorker,
    UnknownWorkOrder,
)
from avalon_service.orders.ports import (
    Claim,
    NewOrder,
    OrderEvent,
    OrderFailure,
    OrderState,
    OrderStore,
    Store,
    Submission,
    WorkerDirectory,
    WorkerEntry,
)
from avalon_service.store.limits import DAY, KIB, Limits

_T = TypeVar("_T")

FAILURE = OrderFailure(code=9, message="no such workload")
WITHDRAWN = OrderFailure(code=1, message="withdrawn by its requester")
WORKER = "worker-1"
SOON = 20.0
"""Real seconds after which something that must happen has not."""


class ManualClock:
    """A clock that the test turns, forwards or backwards."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Medium(Protocol):
    """Where a store's contents outlive the store."""

    async def open(self, *, clock: ManualClock, limits: Limits) -> Store:
        """Open a store on what an earlier one, closed by now, has left."""
        ...


class World:
    """One store under test, its clock, and the words in which the tests speak."""

    def __init__(self, medium: Medium, clock: ManualClock, store: Store, limits: Limits) -> None:
        self.medium = medium
        self.clock = clock
        self.store = store
        self.limits = limits

    @property
    def orders(self) -> OrderStore:
        """The orders of the store that is open now."""
        return self.store.orders

    @property
    def workers(self) -> WorkerDirectory:
        """The workers of the store that is open now."""
        return self.store.workers

    async def restart(self, limits: Limits | None = None) -> None:
        """Close the store and open it again."""
        await self.store.close()
        self.limits = limits or self.limits
        self.store = await self.medium.open(clock=self.clock, limits=self.limits)

    async def submit(
        self,
        name: str,
        request: bytes = b"{}",
        *,
        worker_id: str = WORKER,
        requester_id: str = "requester",
        deadline: float | None = None,
        origin: str = "",
    ) -> Submission:
        """Submit an order."""
        new = NewOrder(
            work_order_id=name,
            worker_id=worker_id,
            requester_id=requester_id,
            request=request,
            deadline=deadline,
            origin=origin,
        )
        return await self.orders.submit(new)

    async def claim(self, limit: int = 1, lease: float = 30.0) -> list[Claim]:
        """Claim orders of the usual worker."""
        return await self.orders.claim(WORKER, limit=limit, lease=lease)

    async def claimed(self, name: str, request: bytes = b"{}", *, deadline: float | None = None) -> Claim:
        """Submit an order and claim it."""
        await self.submit(name, request, deadline=deadline)
        (claim,) = await self.claim()
        assert claim.work_order_id == name
        return claim

    async def finished(self, name: str, result: bytes = b"result") -> None:
        """Submit an order and complete it."""
        claim = await self.claimed(name)
        await self.orders.complete(name, claim.token, result)

    async def state(self, name: str) -> OrderState:
        """The state of an order that must be there."""
        view = await self.orders.get(name)
        assert view is not None
        return view.state


async def turns(number: int = 5) -> None:
    """Let everything else in the event loop have its turn."""
    for _ in range(number):
        await asyncio.sleep(0)


async def soon(awaitable: Awaitable[_T]) -> _T:
    """What must come, or the test fails."""
    return await asyncio.wait_for(awaitable, SOON)


async def started(coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
    """A task that has come as far as it can."""
    task = asyncio.ensure_future(coroutine)
    await turns()
    return task


class _Conformance:
    limits = Limits(max_queued=50, max_crashes=3, max_request=1024 * KIB, tombstone_horizon=10 * DAY)

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The clock of the store."""
        return ManualClock()

    @pytest.fixture
    async def world(self, medium: Medium, clock: ManualClock) -> AsyncIterator[World]:
        """A fresh store."""
        world = World(medium, clock, await medium.open(clock=clock, limits=self.limits), self.limits)
        yield world
        await world.store.close()


class OrderStoreConformance(_Conformance):
    """What an `OrderStore` must do."""

    # Submission

    async def test_an_order_is_accepted_as_scheduled(self, world: World) -> None:
        """The view shows what was submitted, and nothing has happened to it."""
        submission = await world.submit("a")
        view = submission.order
        assert submission.fresh
        assert (view.work_order_id, view.worker_id, view.requester_id) == ("a", WORKER, "requester")
        assert (view.state, view.result, view.error) == (OrderState.SCHEDULED, None, None)
        assert (view.accepted_at, view.finished_at, view.attempts) == (world.clock.now, None, 0)
        assert await world.orders.get("a") == view

    async def test_the_same_request_again_is_the_same_order(self, world: World) -> None:
        """In every state the answer is the present view."""
        await world.submit("a")
        again = await world.submit("a")
        assert (again.fresh, again.order.state) == (False, OrderState.SCHEDULED)
        (claim,) = await world.claim()
        assert (await world.submit("a")).order.state is OrderState.PROCESSING
        await world.orders.complete("a", claim.token, b"result")
        again = await world.submit("a")
        assert (again.fresh, again.order.result) == (False, b"result")
        await world.restart()
        again = await world.submit("a")
        assert (again.fresh, again.order.result) == (False, b"result")
        assert await world.claim() == []

    async def test_another_request_under_a_used_id_is_refused(self, world: World) -> None:
        """In every state, after a restart, and after purging."""
        await world.submit("a")
        with pytest.raises(DuplicateWorkOrder):
            await world.submit("a", b"other")
        (claim,) = await world.claim()
        await world.orders.complete("a", claim.token, b"result")
        with pytest.raises(DuplicateWorkOrder):
            await world.submit("a", b"other")
        await world.restart()
        with pytest.raises(DuplicateWorkOrder):
            await world.submit("a", b"other")
        await world.orders.purge(older_than=0, keep=0)
        with pytest.raises(DuplicateWorkOrder):
            await world.submit("a", b"other")

    async def test_concurrent_submissions_of_one_order_accept_it_once(self, world: World) -> None:
        """Whoever comes second gets the same order, or is refused if it is another one. Who is first is the store's to say."""
        answers = await asyncio.gather(*(world.submit("a") for _ in range(5)))
        assert sorted(answer.fresh for answer in answers) == [False] * 4 + [True]
        raced = await asyncio.gather(world.submit("b"), world.submit("b", b"other"), return_exceptions=True)
        assert {type(answer) for answer in raced} == {Submission, DuplicateWorkOrder}

    async def test_a_full_queue_takes_no_new_order(self, world: World) -> None:
        """Nothing is written, open orders may be repeated, and there is room again when one is done."""
        await world.restart(Limits(max_queued=2))
        await world.submit("a")
        claim = (await world.claim())[0]
        await world.submit("b")
        with pytest.raises(QueueFull):
            await world.submit("c")
        assert await world.orders.get("c") is None
        assert not (await world.submit("b")).fresh
        await world.orders.complete("a", claim.token, b"result")
        assert (await world.submit("c")).fresh

    async def test_a_burst_does_not_overfill_the_queue(self, world: World) -> None:
        """Submissions on their way count."""
        await world.restart(Limits(max_queued=3))
        answers = await asyncio.gather(*(world.submit(f"{i}") for i in range(9)), return_exceptions=True)
        assert sum(isinstance(answer, QueueFull) for answer in answers) == 6
        assert (await world.orders.counts()).scheduled == 3

    async def test_one_requester_cannot_fill_the_queue(self, world: World) -> None:
        """Submissions on their way and claimed orders count, over a restart; other requesters are not concerned."""
        await world.restart(Limits(max_queued_per_requester=3))
        answers = await asyncio.gather(*(world.submit(f"{i}") for i in range(5)), return_exceptions=True)
        assert sum(isinstance(answer, QueueFull) for answer in answers) == 2
        (claim,) = await world.claim()
        with pytest.raises(QueueFull, match="of this requester"):
            await world.submit("more")
        assert (await world.submit("other", requester_id="other")).fresh
        assert not (await world.submit("0")).fresh
        await world.restart(world.limits)
        with pytest.raises(QueueFull):
            await world.submit("more")
        (claim,) = await world.claim()
        await world.orders.complete(claim.work_order_id, claim.token, b"result")
        assert (await world.submit("more")).fresh
        with pytest.raises(QueueFull):
            await world.submit("and more")

    async def test_one_address_cannot_fill_the_queue(self, world: World) -> None:
        """Whatever requesters it speaks for. Orders of no known origin are not counted."""
        await world.restart(Limits(max_queued_per_origin=2))
        for name in "ab":
            await world.submit(name, requester_id=name, origin="192.0.2.1")
        with pytest.raises(QueueFull, match="address"):
            await world.submit("c", requester_id="c", origin="192.0.2.1")
        assert (await world.submit("c", requester_id="c", origin="192.0.2.2")).fresh
        assert (await world.submit("d", requester_id="d")).fresh
        await world.orders.cancel("a", WITHDRAWN)
        assert (await world.submit("e", requester_id="e", origin="192.0.2.1")).fresh

    async def test_a_refused_order_takes_no_room(self, world: World) -> None:
        """Nor does one that turns out to be taken."""
        await world.finished("a")
        await world.restart(Limits(max_queued_per_requester=1, max_queued_per_origin=1, max_request=4))
        for _ in range(3):
            with pytest.raises(RequestTooLarge):
                await world.submit("b", b"large", origin="x")
            with pytest.raises(DuplicateWorkOrder):
                await world.submit("a", b"[]", origin="x")
        assert (await world.submit("b", origin="x")).fresh

    async def test_a_request_beyond_the_cap_is_refused(self, world: World) -> None:
        """One of just that size is taken."""
        await world.submit("a", bytes(1024 * KIB))
        with pytest.raises(RequestTooLarge):
            await world.submit("b", bytes(1024 * KIB + 1))

    async def test_a_submitter_that_gives_up_leaves_the_store_in_order(self, world: World) -> None:
        """The order is there wholly or not at all."""
        task = asyncio.ensure_future(world.submit("a"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        again = await world.submit("a")
        assert again.order.state is OrderState.SCHEDULED
        assert len(await world.claim(5)) == 1

    @pytest.mark.parametrize(
        "request_", [b"", b"\x00\xff", b"x" * (65 * KIB)], ids=["empty", "binary", "large"]
    )
    async def test_a_request_arrives_as_it_was(self, world: World, request_: bytes) -> None:
        """At the host, at whoever asks, and after a restart."""
        await world.submit("a", request_)
        assert (await world.claim())[0].request == request_
        await world.restart()
        (claim,) = await world.claim()
        assert claim.request == request_
        assert await world.orders.request_of("a") == request_
        await world.orders.complete("a", claim.token, request_)
        assert await world.orders.request_of("a") == request_
        assert (await world.orders.wait("a", 0)).result == request_

    async def test_unknown_orders(self, world: World) -> None:
        """Each verb says so in its way."""
        assert await world.orders.get("a") is None
        assert await world.orders.request_of("a") is None
        with pytest.raises(UnknownWorkOrder):
            await world.orders.wait("a", 0)
        with pytest.raises(UnknownWorkOrder):
            await world.orders.cancel("a", WITHDRAWN)
        with pytest.raises(StaleClaim):
            await world.orders.complete("a", 1, b"")
        assert await world.orders.extend([("a", 1)], 5.0) == ["a"]

    # Claims

    async def test_orders_are_claimed_in_the_order_of_acceptance(self, world: World) -> None:
        """Those of one requester; each worker has its own line."""
        for name in "abc":
            await world.submit(name)
        await world.submit("z", worker_id="worker-2")
        claims = await world.claim(2) + await world.claim(2)
        assert [claim.work_order_id for claim in claims] == ["a", "b", "c"]
        assert [claim.attempt for claim in claims] == [1, 1, 1]
        assert await world.claim() == []
        assert await world.orders.claim("worker-3", limit=1, lease=1.0) == []

    async def test_requesters_take_turns(self, world: World) -> None:
        """One order each, in the order of acceptance within each."""
        for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
            await world.submit(name, requester_id=name[0])
        claims = await world.claim(4) + await world.claim(9)
        assert [claim.work_order_id for claim in claims] == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]

    async def test_a_long_queue_delays_another_requester_by_one_round_at_most(self, world: World) -> None:
        """Whenever the single order comes."""
        await world.restart(Limits(max_queued_per_requester=5000))
        await asyncio.gather(*(world.submit(f"a{i}", requester_id="a") for i in range(5000)))
        await world.submit("b", requester_id="b")
        claimed = [claim.work_order_id for claim in await world.claim(2)]
        assert "b" in claimed
        await world.claim(100)
        await world.submit("c", requester_id="c")
        assert "c" in [claim.work_order_id for claim in await world.claim(2)]

    async def test_an_order_put_back_keeps_its_place_within_its_requester(self, world: World) -> None:
        """Its requester gets a turn behind those who have one."""
        for name in ("a1", "b1", "a2", "b2"):
            await world.submit(name, requester_id=name[0])
        claims = {claim.work_order_id: claim.token for claim in await world.claim(3)}
        assert list(claims) == ["a1", "b1", "a2"]
        await world.orders.release("a2", claims["a2"])
        await world.orders.release("a1", claims["a1"])
        assert [claim.work_order_id for claim in await world.claim(9)] == ["b2", "a1", "a2"]

    async def test_a_requester_whose_orders_were_cancelled_has_no_turn(self, world: World) -> None:
        """And holds up nobody."""
        for name in ("a1", "b1", "a2"):
            await world.submit(name, requester_id=name[0])
        await world.orders.cancel("a1", WITHDRAWN)
        await world.orders.cancel("a2", WITHDRAWN)
        assert [claim.work_order_id for claim in await world.claim(9)] == ["b1"]

    async def test_a_follower_hears_of_every_transition(self, world: World) -> None:
        """In order, until it stops; each with its time and number of attempts."""
        heard: list[tuple[str, float, int]] = []
        end = world.orders.follow("a", lambda event: heard.append((event.state, event.at, event.attempts)))
        now = world.clock.now
        await world.submit("a", deadline=now + 100)
        await world.submit("other")
        (claim, _) = await world.claim(2)
        world.clock.now += 1
        await world.orders.release("a", claim.token)
        (claim,) = await world.claim(lease=5)
        world.clock.now += 5
        await world.orders.expire_due()
        (claim,) = await world.claim()
        await world.orders.release("a", claim.token, crashed=True)
        (claim,) = await world.claim()
        world.clock.now += 1
        await world.orders.complete("a", claim.token, b"result")
        assert heard == [
            ("scheduled", now, 0),
            ("processing", now, 1),
            ("scheduled", now + 1, 1),
            ("processing", now + 1, 2),
            ("scheduled", now + 6, 2),
            ("processing", now + 6, 3),
            ("scheduled", now + 6, 3),
            ("processing", now + 6, 4),
            ("completed", now + 7, 4),
        ]
        end()
        end()

    async def test_followers_do_not_disturb_each_other(self, world: World) -> None:
        """Nor whoever changes the order, whatever they raise."""
        heard: list[OrderState] = []

        def broken(event: OrderEvent) -> None:
            raise RuntimeError(event)

        world.orders.follow("a", broken)
        world.orders.follow("a", lambda event: heard.append(event.state))
        ended = world.orders.follow("a", lambda event: heard.append(event.state))
        await world.submit("a")
        ended()
        assert (await world.orders.cancel("a", WITHDRAWN)).state is OrderState.CANCELLED
        assert heard == [OrderState.SCHEDULED, OrderState.SCHEDULED, OrderState.CANCELLED]

    async def test_the_latest_transition_of_an_order(self, world: World) -> None:
        """In each state, and after a restart."""
        with pytest.raises(UnknownWorkOrder):
            await world.orders.latest("a")
        now = world.clock.now
        await world.submit("a")
        assert await world.orders.latest("a") == OrderEvent(
            work_order_id="a", state=OrderState.SCHEDULED, at=now, attempts=0
        )
        world.clock.now += 1
        (claim,) = await world.claim()
        latest = await world.orders.latest("a")
        assert (latest.state, latest.at, latest.attempts) == (OrderState.PROCESSING, now + 1, 1)
        world.clock.now += 1
        await world.orders.complete("a", claim.token, b"result")
        for _ in range(2):
            latest = await world.orders.latest("a")
            assert (latest.state, latest.at, latest.attempts) == (OrderState.COMPLETED, now + 2, 1)
            await world.restart()

    async def test_tokens_rise_for_ever(self, world: World) -> None:
        """Over orders, claims of the same order, and restarts."""
        tokens = []
        await world.submit("a")
        await world.submit("b")
        for _ in range(3):
            tokens += [claim.token for claim in await world.claim(2)]
            await world.restart()
        assert len(tokens) == 6
        assert tokens == sorted(set(tokens))

    async def test_a_lease_that_ends_puts_the_order_back_at_its_place(self, world: World) -> None:
        """Before those accepted later; the old token is worth nothing once it is claimed again."""
        stale = await world.claimed("a")
        await world.submit("b")
        world.clock.now += 31
        await world.orders.expire_due()
        fresh, other = await world.claim(2)
        assert (fresh.work_order_id, fresh.attempt, other.work_order_id) == ("a", 2, "b")
        with pytest.raises(StaleClaim):
            await world.orders.complete("a", stale.token, b"late")
        with pytest.raises(StaleClaim):
            await world.orders.fail("a", stale.token, FAILURE)
        with pytest.raises(StaleClaim):
            await world.orders.release("a", stale.token, crashed=True)
        assert await world.orders.extend([("a", stale.token), ("a", fresh.token)], 5.0) == ["a"]
        await world.orders.complete("a", fresh.token, b"in time")
        assert (await world.orders.wait("a", 0)).result == b"in time"

    async def test_a_token_is_stale_once_the_order_was_put_back(self, world: World) -> None:
        """Even if nobody claimed it since."""
        claim = await world.claimed("a")
        await world.orders.release("a", claim.token)
        with pytest.raises(StaleClaim):
            await world.orders.complete("a", claim.token, b"late")
        assert await world.state("a") is OrderState.SCHEDULED

    async def test_an_extended_claim_is_kept(self, world: World) -> None:
        """From the moment of extending, not from that of claiming."""
        claim = await world.claimed("a")
        world.clock.now += 29
        assert await world.orders.extend([("a", claim.token)], 30.0) == []
        world.clock.now += 29
        due = await world.orders.expire_due()
        assert due == world.clock.now + 1
        assert await world.state("a") is OrderState.PROCESSING
        world.clock.now += 1
        assert await world.orders.expire_due() is None
        assert await world.state("a") is OrderState.SCHEDULED

    async def test_released_orders_go_back_to_their_places(self, world: World) -> None:
        """In whatever order they are released."""
        for name in "abcde":
            await world.submit(name)
        claims = {claim.work_order_id: claim.token for claim in await world.claim(4)}
        for name in "cadb":
            await world.orders.release(name, claims[name])
        assert [claim.work_order_id for claim in await world.claim(9)] == list("abcde")
        assert (await world.orders.counts()).put_back == 4

    async def test_an_order_that_kills_enclaves_fails(self, world: World) -> None:
        """After `max_crashes`, restarts included; letting go otherwise does not count."""
        await world.submit("a")
        for _ in range(2):
            (claim,) = await world.claim()
            await world.orders.release("a", claim.token, crashed=True)
            (claim,) = await world.claim()
            await world.orders.release("a", claim.token)
            await world.restart()
        (claim,) = await world.claim()
        await world.orders.release("a", claim.token, crashed=True)
        view = await world.orders.wait("a", 0)
        assert view.state is OrderState.FAILED
        assert view.error is not None
        assert "3 times" in view.error.message
        assert await world.claim() == []

    async def test_a_restart_voids_claims_and_loses_nothing(self, world: World) -> None:
        """Claimed and waiting orders are scheduled, in their old order."""
        claim = await world.claimed("a")
        await world.submit("b")
        await world.restart()
        with pytest.raises(StaleClaim):
            await world.orders.complete("a", claim.token, b"late")
        counts = await world.orders.counts()
        assert (counts.scheduled, counts.processing) == (2, 0)
        assert [claim.work_order_id for claim in await world.claim(5)] == ["a", "b"]

    async def test_an_idle_host_is_woken_by_an_order(self, world: World) -> None:
        """Every one that waits for this worker, and nobody else."""
        idle = [await started(world.orders.claimable(WORKER, None)) for _ in range(2)]
        other = await started(world.orders.claimable("worker-2", None))
        assert not any(task.done() for task in idle)
        await world.submit("a")
        assert await soon(asyncio.gather(*idle)) == [True, True]
        assert not other.done()
        other.cancel()

    async def test_an_idle_host_is_woken_by_an_order_put_back(self, world: World) -> None:
        """By a release and by the end of a lease."""
        claim = await world.claimed("a")
        idle = await started(world.orders.claimable(WORKER, SOON))
        await world.orders.release("a", claim.token)
        assert await soon(idle)
        await world.claim()
        idle = await started(world.orders.claimable(WORKER, SOON))
        world.clock.now += 31
        await world.orders.expire_due()
        assert await soon(idle)

    async def test_waiting_for_orders_ends(self, world: World) -> None:
        """With the time-out if there is none, at once if there is one."""
        assert not await world.orders.claimable(WORKER, 0)
        assert not await soon(world.orders.claimable(WORKER, 0.01))
        await world.submit("a")
        assert await world.orders.claimable(WORKER, 0)

    async def test_a_holder_learns_that_its_claim_was_revoked(self, world: World) -> None:
        """By cancellation, by expiry and by the end of its lease, until it stops watching."""
        revoked: list[tuple[str, int]] = []
        end = world.orders.watch_revoked(WORKER, lambda name, token: revoked.append((name, token)))
        cancelled = await world.claimed("cancelled")
        await world.orders.cancel("cancelled", WITHDRAWN)
        expired = await world.claimed("expired", deadline=world.clock.now + 5)
        lapsed = await world.claimed("lapsed")
        done = await world.claimed("done")
        await world.orders.complete("done", done.token, b"")
        world.clock.now += 31
        await world.orders.expire_due()
        assert sorted(revoked) == [
            (claim.work_order_id, claim.token) for claim in (cancelled, expired, lapsed)
        ]
        (again,) = await world.claim()
        assert await world.orders.extend([(c.work_order_id, c.token) for c in (cancelled, again)], 9) == [
            "cancelled"
        ]
        end()
        end()
        await world.orders.cancel("lapsed", WITHDRAWN)
        assert len(revoked) == 3

    async def test_a_watcher_that_raises_harms_nobody(self, world: World) -> None:
        """Neither the caller nor the other watchers."""
        revoked: list[str] = []

        def broken(name: str, token: int) -> None:
            raise RuntimeError(name, token)

        world.orders.watch_revoked(WORKER, broken)
        world.orders.watch_revoked(WORKER, lambda name, _: revoked.append(name))
        await world.claimed("a")
        assert (await world.orders.cancel("a", WITHDRAWN)).state is OrderState.CANCELLED
        assert revoked == ["a"]

    # Outcomes

    async def test_a_failed_order_tells_why(self, world: World) -> None:
        """Also after a restart."""
        claim = await world.claimed("a")
        world.clock.now += 3
        await world.orders.fail("a", claim.token, FAILURE)
        view = await world.orders.wait("a", None)
        assert (view.state, view.error, view.finished_at, view.attempts) == (
            OrderState.FAILED, FAILURE, world.clock.now, 1,
        )  # fmt: skip
        await world.restart()
        assert await world.orders.get("a") == view

    @pytest.mark.parametrize("first", ["complete", "fail", "cancel", "expire"])
    async def test_a_final_order_never_changes(self, world: World, first: str) -> None:
        """Whatever comes after."""
        claim = await world.claimed("a")
        match first:
            case "complete":
                await world.orders.complete("a", claim.token, b"result")
            case "fail":
                await world.orders.fail("a", claim.token, FAILURE)
            case _:
                await world.orders.cancel("a", WITHDRAWN, expired=first == "expire")
        view = await world.orders.wait("a", 0)
        assert view.state.final
        world.clock.now += 100
        with pytest.raises(StaleClaim):
            await world.orders.complete("a", claim.token, b"other")
        with pytest.raises(StaleClaim):
            await world.orders.fail("a", claim.token, FAILURE)
        with pytest.raises(StaleClaim):
            await world.orders.release("a", claim.token, crashed=True)
        assert await world.orders.cancel("a", FAILURE) == view
        await world.orders.expire_due()
        assert await world.orders.get("a") == view
        await world.restart()
        assert await world.orders.get("a") == view
        assert (await world.orders.counts()).finished == 1

    async def test_a_scheduled_order_can_be_cancelled(self, world: World) -> None:
        """Those behind it move up."""
        for name in "abc":
            await world.submit(name)
        view = await world.orders.cancel("b", WITHDRAWN)
        assert (view.state, view.error) == (OrderState.CANCELLED, WITHDRAWN)
        assert [claim.work_order_id for claim in await world.claim(5)] == ["a", "c"]

    async def test_of_many_outcomes_at_once_one_counts(self, world: World) -> None:
        """A completion on its way is not overtaken."""
        claim = await world.claimed("a")
        outcomes = await asyncio.gather(
            world.orders.complete("a", claim.token, b"result"),
            world.orders.cancel("a", WITHDRAWN),
            world.orders.complete("a", claim.token, b"other"),
            world.orders.fail("a", claim.token, FAILURE),
            world.orders.release("a", claim.token),
            return_exceptions=True,
        )
        view = await world.orders.wait("a", 0)
        assert view.result == b"result"
        completed, cancelled, *stale = outcomes
        assert (completed, cancelled) == (None, view)
        assert all(isinstance(outcome, StaleClaim) for outcome in stale)

    # Waiting

    async def test_whoever_waits_is_woken_by_the_outcome(self, world: World) -> None:
        """All of them, with the result."""
        claim = await world.claimed("a")
        waiting = [await started(world.orders.wait("a", None)) for _ in range(10)]
        await world.orders.complete("a", claim.token, b"result")
        views = await soon(asyncio.gather(*waiting))
        assert {view.result for view in views} == {b"result"}

    async def test_whoever_waits_is_woken_by_a_cancellation(self, world: World) -> None:
        """As by any outcome."""
        await world.submit("a")
        waiting = await started(world.orders.wait("a", SOON))
        await world.orders.cancel("a", WITHDRAWN)
        assert (await soon(waiting)).error == WITHDRAWN

    async def test_a_time_out_shows_the_order_as_it_is(self, world: World) -> None:
        """Nothing else happens to it."""
        await world.claimed("a")
        assert (await world.orders.wait("a", 0)).state is OrderState.PROCESSING
        assert (await soon(world.orders.wait("a", 0.01))).state is OrderState.PROCESSING

    async def test_one_who_stops_waiting_does_not_disturb_the_others(self, world: World) -> None:
        """Nor the order."""
        claim = await world.claimed("a")
        gone = await started(world.orders.wait("a", None))
        stays = await started(world.orders.wait("a", None))
        gone.cancel()
        await turns()
        await world.orders.complete("a", claim.token, b"result")
        assert (await soon(stays)).result == b"result"

    # Time

    @pytest.mark.parametrize("claimed", [False, True], ids=["scheduled", "processing"])
    async def test_an_order_past_its_deadline_expires(self, world: World, claimed: bool) -> None:
        """At the deadline, not before; whoever waits is woken."""
        await world.submit("a", deadline=world.clock.now + 10)
        if claimed:
            await world.claim()
        waiting = await started(world.orders.wait("a", SOON))
        world.clock.now += 9
        due = await world.orders.expire_due()
        assert due == world.clock.now + 1
        assert not waiting.done()
        world.clock.now += 1
        assert await world.orders.expire_due() is None
        view = await soon(waiting)
        assert view.state is OrderState.EXPIRED
        assert view.error is not None
        assert (await world.orders.counts()).expired == 1

    async def test_an_order_past_its_deadline_is_not_claimed(self, world: World) -> None:
        """It expires, and the next one is taken."""
        await world.submit("a", deadline=world.clock.now + 1)
        await world.submit("b")
        world.clock.now += 1
        assert [claim.work_order_id for claim in await world.claim()] == ["b"]
        assert (await soon(world.orders.wait("a", SOON))).state is OrderState.EXPIRED

    async def test_a_result_after_the_deadline_comes_too_late(self, world: World) -> None:
        """Even if nobody expired the order yet."""
        claim = await world.claimed("a", deadline=world.clock.now + 1)
        world.clock.now += 1
        with pytest.raises(StaleClaim):
            await world.orders.complete("a", claim.token, b"late")
        assert (await soon(world.orders.wait("a", SOON))).state is OrderState.EXPIRED

    async def test_deadlines_survive_a_restart(self, world: World) -> None:
        """And are due at the same time."""
        await world.submit("a", deadline=world.clock.now + 10)
        await world.restart()
        assert await world.orders.expire_due() == world.clock.now + 10
        world.clock.now += 10
        await world.orders.expire_due()
        assert await world.state("a") is OrderState.EXPIRED

    async def test_a_sleeper_learns_of_what_is_due_earlier(self, world: World) -> None:
        """An earlier deadline or lease wakes it, a later one does not."""
        await world.submit("a", deadline=world.clock.now + 10)
        due = await world.orders.expire_due()
        sleeper = await started(world.orders.due_earlier(due))
        await world.submit("b", deadline=world.clock.now + 20)
        await turns()
        assert not sleeper.done()
        await world.submit("c", deadline=world.clock.now + 5)
        await soon(sleeper)
        due = await world.orders.expire_due()
        sleeper = await started(world.orders.due_earlier(due))
        await world.claim(lease=2.0)
        await soon(sleeper)
        await soon(world.orders.due_earlier(None))

    async def test_a_clock_that_steps_backwards_does_no_harm(self, world: World) -> None:
        """Orders are neither lost nor finished before they were accepted."""
        claim = await world.claimed("a", deadline=world.clock.now + 10)
        await world.submit("b")
        world.clock.now -= 5000
        await world.orders.expire_due()
        await world.submit("c")
        assert [claim.work_order_id for claim in await world.claim(5)] == ["b", "c"]
        await world.orders.complete("a", claim.token, b"result")
        view = await world.orders.wait("a", 0)
        assert view.finished_at == view.accepted_at
        await world.restart()
        assert (await world.orders.counts()).scheduled == 2

    # Purging and counting

    async def test_finished_orders_are_purged_by_age(self, world: World) -> None:
        """Those finished before, not at, the moment given; open ones stay however old."""
        await world.submit("open", worker_id="worker-2")
        await world.finished("a")
        world.clock.now += 10
        await world.finished("b")
        assert await world.orders.purge(older_than=world.clock.now, keep=100) == 1
        assert await world.orders.get("a") is None
        assert await world.orders.request_of("a") is None
        with pytest.raises(UnknownWorkOrder):
            await world.orders.wait("a", 0)
        with pytest.raises(UnknownWorkOrder):
            await world.orders.cancel("a", WITHDRAWN)
        assert await world.state("b") is OrderState.COMPLETED
        assert await world.state("open") is OrderState.SCHEDULED

    async def test_finished_orders_are_purged_by_number(self, world: World) -> None:
        """The oldest go first; counts follow, and hold after a restart."""
        for name in "abcd":
            await world.finished(name)
            world.clock.now += 1
        assert await world.orders.purge(older_than=0, keep=2) == 2
        assert await world.orders.purge(older_than=0, keep=2) == 0
        assert [name for name in "abcd" if await world.orders.get(name)] == ["c", "d"]
        counts = await world.orders.counts()
        assert (counts.completed, counts.purged) == (2, 2)
        await world.restart()
        assert (await world.orders.counts()).completed == 2

    async def test_many_orders_are_purged_in_one_call(self, world: World) -> None:
        """More than fit into one transaction."""
        await world.restart(Limits(max_queued_per_requester=2000))
        await asyncio.gather(*(world.submit(f"{i}") for i in range(1200)))
        await asyncio.gather(*(world.orders.cancel(f"{i}", WITHDRAWN) for i in range(1200)))
        assert await world.orders.purge(older_than=0, keep=100) == 1100
        assert (await world.orders.counts()).cancelled == 100

    async def test_an_id_is_taken_until_its_tombstone_is_dropped(self, world: World) -> None:
        """The same request is refused too: its answer is gone, and it must not be run twice by mistake."""
        await world.finished("a")
        await world.orders.purge(older_than=0, keep=0)
        with pytest.raises(DuplicateWorkOrder):
            await world.submit("a")
        world.clock.now += 9 * DAY
        await world.orders.purge(older_than=0, keep=0)
        await world.restart()
        with pytest.raises(DuplicateWorkOrder):
            await world.submit("a")
        world.clock.now += 2 * DAY
        await world.orders.purge(older_than=0, keep=0)
        assert (await world.submit("a")).fresh

    async def test_an_order_that_somebody_waits_for_is_not_purged_before_the_answer(
        self, world: World
    ) -> None:
        """However eager the housekeeper."""
        claim = await world.claimed("a")
        waiting = await started(world.orders.wait("a", None))
        _, _ = await asyncio.gather(
            world.orders.complete("a", claim.token, b"result"), world.orders.purge(older_than=2e9, keep=0)
        )
        assert (await soon(waiting)).result == b"result"

    async def test_orders_that_are_to_be_spared_are_not_purged(self, world: World) -> None:
        """By age or by number; the next time they may be."""
        for name in "abc":
            await world.finished(name)
        world.clock.now += 10
        assert await world.orders.purge(older_than=world.clock.now, keep=0, spare=["a", "unknown"]) == 2
        assert await world.state("a") is OrderState.COMPLETED
        assert await world.orders.purge(older_than=0, keep=0) == 1

    async def test_counts_follow_every_step(self, world: World) -> None:
        """And are the same after a restart, but for claims."""
        for name in ("completed", "failed", "crashed", "held", "waits", "cancelled", "expired"):
            await world.submit(name)
        claims = {claim.work_order_id: claim.token for claim in await world.claim(4)}
        await world.orders.complete("completed", claims["completed"], b"")
        await world.orders.fail("failed", claims["failed"], FAILURE)
        await world.orders.release("crashed", claims["crashed"], crashed=True)
        await world.orders.cancel("cancelled", WITHDRAWN)
        await world.orders.cancel("expired", WITHDRAWN, expired=True)
        counts = await world.orders.counts()
        assert (counts.scheduled, counts.processing, counts.put_back) == (2, 1, 1)
        assert (counts.completed, counts.failed, counts.cancelled, counts.expired) == (1, 1, 1, 1)
        await world.restart()
        counts = await world.orders.counts()
        assert (counts.scheduled, counts.processing, counts.put_back) == (3, 0, 0)
        assert (counts.completed, counts.failed, counts.cancelled, counts.expired) == (1, 1, 1, 1)
        assert (counts.open, counts.finished) == (3, 4)

    # Closing

    async def test_closing_wakes_whoever_waits(self, world: World) -> None:
        """And everything after it is refused."""
        claim = await world.claimed("a")
        waiting = [
            await started(world.orders.wait("a", None)),
            await started(world.orders.claimable(WORKER, None)),
            await started(world.orders.due_earlier(0.0)),
        ]
        await world.store.close()
        for outcome in await soon(asyncio.gather(*waiting, return_exceptions=True)):
            assert isinstance(outcome, StoreClosed)
        for call in (
            world.submit("b"),
            world.claim(),
            world.orders.complete("a", claim.token, b""),
            world.orders.cancel("a", WITHDRAWN),
            world.orders.get("a"),
            world.orders.purge(older_than=0, keep=0),
            world.orders.expire_due(),
        ):
            with pytest.raises(StoreClosed):
                await call
        await world.store.close()
        await world.restart()
        assert await world.state("a") is OrderState.SCHEDULED

    async def test_closing_finishes_what_is_on_its_way(self, world: World) -> None:
        """What was begun is either refused or there afterwards."""
        tasks = [await started(world.submit(f"{i}")) for i in range(5)]
        await world.store.close()
        outcomes = await soon(asyncio.gather(*tasks, return_exceptions=True))
        await world.restart()
        for name, outcome in enumerate(outcomes):
            if isinstance(outcome, Submission):
                assert await world.state(f"{name}") is OrderState.SCHEDULED


def worker(name: str, **changes: Any) -> WorkerEntry:
    """A worker's entry."""
    return msgspec.structs.replace(WorkerEntry(worker_id=name, worker_type=1, details=b"{}"), **changes)


class WorkerDirectoryConformance(_Conformance):
    """What a `WorkerDirectory` must do."""

    async def test_a_registered_worker_is_there(self, world: World) -> None:
        """As it was registered, also after a restart."""
        entry = worker(
            "a", organization_id="org", application_type_ids=("x", "y"), details=b'{"\xc3\xa4": 1}', status=2
        )
        await world.workers.register(entry)
        assert await world.workers.retrieve("a") == entry
        await world.restart()
        assert await world.workers.retrieve("a") == entry

    async def test_registering_again_replaces_the_entry_at_its_place(self, world: World) -> None:
        """A host that restarts registers its workers again."""
        for name in "abc":
            await world.workers.register(worker(name))
        await world.restart()
        await world.workers.register(worker("a", details=b"[2]"))
        await world.workers.register(worker("d"))
        assert (await world.workers.retrieve("a")).details == b"[2]"
        assert (await world.workers.look_up()).ids == ("a", "b", "c", "d")

    async def test_a_status_outlives_registering_again_where_it_shall(self, world: World) -> None:
        """What an operator set is not undone by a host that restarts; everything else is replaced."""
        await world.workers.register(worker("a", status=2), keep_status=True)
        assert (await world.workers.retrieve("a")).status == 2
        await world.workers.register(worker("a", details=b"[1]", organization_id="org"), keep_status=True)
        expected = worker("a", details=b"[1]", organization_id="org", status=2)
        assert await world.workers.retrieve("a") == expected
        await world.restart()
        assert await world.workers.retrieve("a") == expected
        await world.workers.register(worker("a"))
        assert (await world.workers.retrieve("a")).status == 1

    async def test_details_and_status_change_separately(self, world: World) -> None:
        """Durably, and without touching the rest."""
        await world.workers.register(worker("a", organization_id="org"))
        await asyncio.gather(world.workers.update("a", b"[1]"), world.workers.set_status("a", 3))
        await world.restart()
        expected = worker("a", organization_id="org", details=b"[1]", status=3)
        assert await world.workers.retrieve("a") == expected

    async def test_unknown_workers(self, world: World) -> None:
        """No verb but `register` makes one."""
        for call in (
            world.workers.retrieve("a"),
            world.workers.update("a", b"{}"),
            world.workers.set_status("a", 1),
        ):
            with pytest.raises(UnknownWorker):
                await call
        assert (await world.workers.look_up()).total == 0

    async def test_a_status_that_is_none_is_refused(self, world: World) -> None:
        """And changes nothing."""
        await world.workers.register(worker("a"))
        with pytest.raises(ValueError, match="status"):
            await world.workers.set_status("a", 5)
        assert (await world.workers.retrieve("a")).status == 1

    @pytest.mark.parametrize(
        ("criteria", "expected"),
        [
            pytest.param({}, "abcd", id="no criterion finds all"),
            pytest.param({"worker_type": 2}, "b", id="by type"),
            pytest.param({"organization_id": "org"}, "bc", id="by organisation"),
            pytest.param({"organization_id": ""}, "ad", id="the empty organisation is one of its own"),
            pytest.param({"application_type_ids": ["x"]}, "cd", id="by one application type"),
            pytest.param({"application_type_ids": ["y", "x"]}, "d", id="by all of several application types"),
            pytest.param({"application_type_ids": []}, "abcd", id="no application type is any"),
            pytest.param(
                {"organization_id": "org", "application_type_ids": ["x"]}, "c", id="all criteria together"
            ),
            pytest.param({"worker_type": 3}, "", id="nothing found is an empty page"),
        ],
    )
    async def test_look_up(self, world: World, criteria: dict[str, Any], expected: str) -> None:
        """Criteria are joined by "and"."""
        await world.workers.register(worker("a"))
        await world.workers.register(worker("b", worker_type=2, organization_id="org"))
        await world.workers.register(worker("c", organization_id="org", application_type_ids=("x",)))
        await world.workers.register(worker("d", application_type_ids=("x", "y")))
        page = await world.workers.look_up(**criteria)
        assert (page.total, page.tag, page.ids) == (len(expected), "", tuple(expected))

    async def test_paging_neither_skips_nor_repeats(self, world: World) -> None:
        """Whatever is registered meanwhile, and over a restart."""
        for name in "abcde":
            await world.workers.register(worker(name))
        seen: list[str] = []
        page = await world.workers.look_up(limit=2)
        while True:
            seen += page.ids
            if not page.tag:
                break
            assert len(page.ids) == 2
            await world.workers.register(worker("b", details=b"[]"))
            await world.workers.register(worker("f"))
            await world.restart()
            page = await world.workers.look_up(tag=page.tag, limit=2)
            assert page.total == 6
        assert seen == list("abcdef")

    async def test_a_page_that_just_fits_is_the_last(self, world: World) -> None:
        """Its tag is empty."""
        for name in "ab":
            await world.workers.register(worker(name))
        assert (await world.workers.look_up(limit=2)).tag == ""
        assert (await world.workers.look_up(limit=1)).tag != ""

    async def test_running_past_the_end(self, world: World) -> None:
        """Is told apart from an empty result."""
        for name in "ab":
            await world.workers.register(worker(name))
        tag = (await world.workers.look_up(limit=1)).tag
        with pytest.raises(EndOfLookUp):
            await world.workers.look_up(tag=tag, worker_type=3)

    @pytest.mark.parametrize(
        "tag", ["x", "0", "after-", "after-x", "after--1", "after-²", "after-" + "1" * 99]
    )
    async def test_a_malformed_tag_is_refused(self, world: World, tag: str) -> None:
        """It is not one that the directory gave out."""
        with pytest.raises(InvalidTag):
            await world.workers.look_up(tag=tag)

    async def test_a_closed_directory_answers_nothing(self, world: World) -> None:
        """Reads and writes alike."""
        await world.store.close()
        for call in (
            world.workers.register(worker("a")),
            world.workers.retrieve("a"),
            world.workers.look_up(),
        ):
            with pytest.raises(StoreClosed):
                await call
