"""A store that fails on purpose: for tests of whoever uses one.

```python
store = FaultyStore(MemoryStore())
store.faults.fail("complete")  # the next completion is not carried out
store.faults.lose_answer(
    "submit", after=2
)  # the third submission from now is, but its caller does not learn it
```
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

from avalon_service.deliveries.ports import (
    Delivery,
    DeliveryCounts,
    DeliveryState,
    DeliveryStore,
    Id,
    Post,
)
from avalon_service.orders.errors import StoreUnavailable
from avalon_service.orders.ports import (
    Claim,
    Followed,
    LookUpPage,
    NewOrder,
    OrderCounts,
    OrderEvent,
    OrderStore,
    Revoked,
    Store,
    Submission,
    WorkerDirectory,
    WorkerEntry,
)
from avalon_service.orders.receipt_ports import (
    Awaiting,
    FoundUpdate,
    NewReceipt,
    NewReceiptUpdate,
    Receipt,
    ReceiptStore,
    ReceiptUpdate,
)
from avalon_service.orders.state import OrderFailure, OrderView

DELIVERIES = "deliveries."
"""Before a verb of the deliveries, as for receipts."""

RECEIPTS = "receipts."
"""Before a verb of the receipts: some of them have the names of others."""


class InjectedFault(StoreUnavailable):
    """A fault that a test asked for."""


class Faults:
    """Which calls are to fail, by verb."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = defaultdict(int)
        """How often each verb was called."""
        self._failing: dict[str, dict[int, bool]] = defaultdict(dict)

    def fail(self, verb: str, *, after: int = 0, times: int = 1) -> None:
        """Let calls of a verb fail without effect, starting after some more calls of it."""
        self._plan(verb, after, times, carried_out=False)

    def lose_answer(self, verb: str, *, after: int = 0, times: int = 1) -> None:
        """Let calls of a verb fail after they took effect: what a broken connection to a database does."""
        self._plan(verb, after, times, carried_out=True)

    def clear(self) -> None:
        """Let nothing fail any more."""
        self._failing.clear()

    def begin(self, verb: str) -> bool:
        """Count a call and fail it now if that is planned; return whether its answer is to be lost."""
        number = self.calls[verb]
        self.calls[verb] += 1
        carried_out = self._failing[verb].pop(number, None)
        if carried_out is False:
            raise InjectedFault(f"{verb} was told to fail")
        return carried_out is True

    def end(self, verb: str, lost: bool) -> None:
        """Lose the answer of a call that took effect."""
        if lost:
            raise InjectedFault(f"{verb} was told to lose its answer")

    def _plan(self, verb: str, after: int, times: int, *, carried_out: bool) -> None:
        of_deliveries = verb.startswith(DELIVERIES) and hasattr(DeliveryStore, verb.removeprefix(DELIVERIES))
        of_receipts = verb.startswith(RECEIPTS) and hasattr(ReceiptStore, verb.removeprefix(RECEIPTS))
        if (
            not of_deliveries
            and not of_receipts
            and not hasattr(OrderStore, verb)
            and not hasattr(WorkerDirectory, verb)
        ):
            raise ValueError(f"got verb {verb!r}, expected one of a port")
        first = self.calls[verb] + after
        self._failing[verb].update(dict.fromkeys(range(first, first + times), carried_out))


class FaultyOrders:
    """An `OrderStore` that fails as planned, before or after another one acts."""

    def __init__(self, inner: OrderStore, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    async def submit(self, new: NewOrder) -> Submission:
        """See `OrderStore.submit`."""
        lost = self._faults.begin("submit")
        answer = await self._inner.submit(new)
        self._faults.end("submit", lost)
        return answer

    async def claim(self, worker_id: str, *, limit: int, lease: float) -> list[Claim]:
        """See `OrderStore.claim`."""
        lost = self._faults.begin("claim")
        answer = await self._inner.claim(worker_id, limit=limit, lease=lease)
        self._faults.end("claim", lost)
        return answer

    async def claimable(self, worker_id: str, timeout: float | None) -> bool:
        """See `OrderStore.claimable`."""
        lost = self._faults.begin("claimable")
        answer = await self._inner.claimable(worker_id, timeout)
        self._faults.end("claimable", lost)
        return answer

    async def extend(self, claims: Sequence[tuple[str, int]], lease: float) -> list[str]:
        """See `OrderStore.extend`."""
        lost = self._faults.begin("extend")
        answer = await self._inner.extend(claims, lease)
        self._faults.end("extend", lost)
        return answer

    async def release(self, work_order_id: str, token: int, *, crashed: bool = False) -> None:
        """See `OrderStore.release`."""
        lost = self._faults.begin("release")
        await self._inner.release(work_order_id, token, crashed=crashed)
        self._faults.end("release", lost)

    async def complete(self, work_order_id: str, token: int, result: bytes) -> None:
        """See `OrderStore.complete`."""
        lost = self._faults.begin("complete")
        await self._inner.complete(work_order_id, token, result)
        self._faults.end("complete", lost)

    async def fail(self, work_order_id: str, token: int, failure: OrderFailure) -> None:
        """See `OrderStore.fail`."""
        lost = self._faults.begin("fail")
        await self._inner.fail(work_order_id, token, failure)
        self._faults.end("fail", lost)

    async def cancel(self, work_order_id: str, failure: OrderFailure, *, expired: bool = False) -> OrderView:
        """See `OrderStore.cancel`."""
        lost = self._faults.begin("cancel")
        answer = await self._inner.cancel(work_order_id, failure, expired=expired)
        self._faults.end("cancel", lost)
        return answer

    async def get(self, work_order_id: str) -> OrderView | None:
        """See `OrderStore.get`."""
        lost = self._faults.begin("get")
        answer = await self._inner.get(work_order_id)
        self._faults.end("get", lost)
        return answer

    async def wait(self, work_order_id: str, timeout: float | None) -> OrderView:
        """See `OrderStore.wait`."""
        lost = self._faults.begin("wait")
        answer = await self._inner.wait(work_order_id, timeout)
        self._faults.end("wait", lost)
        return answer

    async def latest(self, work_order_id: str) -> OrderEvent:
        """See `OrderStore.latest`."""
        lost = self._faults.begin("latest")
        answer = await self._inner.latest(work_order_id)
        self._faults.end("latest", lost)
        return answer

    def follow(self, work_order_id: str, followed: Followed) -> Callable[[], None]:
        """See `OrderStore.follow`; never fails."""
        return self._inner.follow(work_order_id, followed)

    async def request_of(self, work_order_id: str) -> bytes | None:
        """See `OrderStore.request_of`."""
        lost = self._faults.begin("request_of")
        answer = await self._inner.request_of(work_order_id)
        self._faults.end("request_of", lost)
        return answer

    async def expire_due(self) -> float | None:
        """See `OrderStore.expire_due`."""
        lost = self._faults.begin("expire_due")
        answer = await self._inner.expire_due()
        self._faults.end("expire_due", lost)
        return answer

    async def due_earlier(self, than: float | None) -> None:
        """See `OrderStore.due_earlier`."""
        lost = self._faults.begin("due_earlier")
        await self._inner.due_earlier(than)
        self._faults.end("due_earlier", lost)

    async def purge(self, *, older_than: float, keep: int, spare: Collection[str] = ()) -> int:
        """See `OrderStore.purge`."""
        lost = self._faults.begin("purge")
        answer = await self._inner.purge(older_than=older_than, keep=keep, spare=spare)
        self._faults.end("purge", lost)
        return answer

    async def counts(self) -> OrderCounts:
        """See `OrderStore.counts`."""
        lost = self._faults.begin("counts")
        answer = await self._inner.counts()
        self._faults.end("counts", lost)
        return answer

    def watch_revoked(self, worker_id: str, revoked: Revoked) -> Callable[[], None]:
        """See `OrderStore.watch_revoked`; never fails."""
        return self._inner.watch_revoked(worker_id, revoked)

    async def close(self) -> None:
        """See `OrderStore.close`; never fails."""
        await self._inner.close()


class FaultyWorkers:
    """A `WorkerDirectory` that fails as planned, before or after another one acts."""

    def __init__(self, inner: WorkerDirectory, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    async def register(self, entry: WorkerEntry, *, keep_status: bool = False) -> None:
        """See `WorkerDirectory.register`."""
        lost = self._faults.begin("register")
        await self._inner.register(entry, keep_status=keep_status)
        self._faults.end("register", lost)

    async def update(self, worker_id: str, details: bytes) -> None:
        """See `WorkerDirectory.update`."""
        lost = self._faults.begin("update")
        await self._inner.update(worker_id, details)
        self._faults.end("update", lost)

    async def set_status(self, worker_id: str, status: int) -> None:
        """See `WorkerDirectory.set_status`."""
        lost = self._faults.begin("set_status")
        await self._inner.set_status(worker_id, status)
        self._faults.end("set_status", lost)

    async def retrieve(self, worker_id: str) -> WorkerEntry:
        """See `WorkerDirectory.retrieve`."""
        lost = self._faults.begin("retrieve")
        answer = await self._inner.retrieve(worker_id)
        self._faults.end("retrieve", lost)
        return answer

    async def look_up(
        self,
        *,
        worker_type: int = 0,
        organization_id: str | None = None,
        application_type_ids: Sequence[str] | None = None,
        tag: str = "",
        limit: int = 100,
    ) -> LookUpPage:
        """See `WorkerDirectory.look_up`."""
        lost = self._faults.begin("look_up")
        answer = await self._inner.look_up(
            worker_type=worker_type,
            organization_id=organization_id,
            application_type_ids=application_type_ids,
            tag=tag,
            limit=limit,
        )
        self._faults.end("look_up", lost)
        return answer


class FaultyDeliveries:
    """A `DeliveryStore` that fails as planned, before or after another one acts."""

    def __init__(self, inner: DeliveryStore, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    async def plan(
        self, work_order_id: str, posts: Sequence[Post], *, call_id: Id, now: float
    ) -> list[Delivery]:
        """See `DeliveryStore.plan`."""
        lost = self._faults.begin(DELIVERIES + "plan")
        answer = await self._inner.plan(work_order_id, posts, call_id=call_id, now=now)
        self._faults.end(DELIVERIES + "plan", lost)
        return answer

    async def pending(self) -> list[Delivery]:
        """See `DeliveryStore.pending`."""
        lost = self._faults.begin(DELIVERIES + "pending")
        answer = await self._inner.pending()
        self._faults.end(DELIVERIES + "pending", lost)
        return answer

    async def postpone(self, number: int, *, attempts: int, due_at: float, error: str) -> None:
        """See `DeliveryStore.postpone`."""
        lost = self._faults.begin(DELIVERIES + "postpone")
        await self._inner.postpone(number, attempts=attempts, due_at=due_at, error=error)
        self._faults.end(DELIVERIES + "postpone", lost)

    async def finish(
        self, number: int, state: DeliveryState, *, attempts: int, now: float, error: str = ""
    ) -> None:
        """See `DeliveryStore.finish`."""
        lost = self._faults.begin(DELIVERIES + "finish")
        await self._inner.finish(number, state, attempts=attempts, now=now, error=error)
        self._faults.end(DELIVERIES + "finish", lost)

    async def counts(self) -> DeliveryCounts:
        """See `DeliveryStore.counts`."""
        lost = self._faults.begin(DELIVERIES + "counts")
        answer = await self._inner.counts()
        self._faults.end(DELIVERIES + "counts", lost)
        return answer

    async def page(self, state: DeliveryState, *, limit: int, before: int | None = None) -> list[Delivery]:
        """See `DeliveryStore.page`."""
        lost = self._faults.begin(DELIVERIES + "page")
        answer = await self._inner.page(state, limit=limit, before=before)
        self._faults.end(DELIVERIES + "page", lost)
        return answer

    async def purge(self, *, older_than: float, keep: int) -> int:
        """See `DeliveryStore.purge`."""
        lost = self._faults.begin(DELIVERIES + "purge")
        answer = await self._inner.purge(older_than=older_than, keep=keep)
        self._faults.end(DELIVERIES + "purge", lost)
        return answer


class FaultyReceipts:
    """A `ReceiptStore` that fails as planned, before or after another one acts."""

    def __init__(self, inner: ReceiptStore, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    async def create(self, new: NewReceipt) -> Receipt:
        """See `ReceiptStore.create`."""
        lost = self._faults.begin(RECEIPTS + "create")
        answer = await self._inner.create(new)
        self._faults.end(RECEIPTS + "create", lost)
        return answer

    async def update(
        self, new: NewReceiptUpdate, *, room: int | None = None, settles: bool = False
    ) -> ReceiptUpdate:
        """See `ReceiptStore.update`."""
        lost = self._faults.begin(RECEIPTS + "update")
        answer = await self._inner.update(new, room=room, settles=settles)
        self._faults.end(RECEIPTS + "update", lost)
        return answer

    async def settle(self, work_order_id: str) -> None:
        """See `ReceiptStore.settle`."""
        lost = self._faults.begin(RECEIPTS + "settle")
        await self._inner.settle(work_order_id)
        self._faults.end(RECEIPTS + "settle", lost)

    def awaits(self, work_order_id: str) -> bool:
        """See `ReceiptStore.awaits`; never fails."""
        return self._inner.awaits(work_order_id)

    async def awaiting(self, worker_id: str, *, tag: str = "", limit: int = 100) -> Awaiting:
        """See `ReceiptStore.awaiting`."""
        lost = self._faults.begin(RECEIPTS + "awaiting")
        answer = await self._inner.awaiting(worker_id, tag=tag, limit=limit)
        self._faults.end(RECEIPTS + "awaiting", lost)
        return answer

    async def retrieve(self, work_order_id: str) -> Receipt:
        """See `ReceiptStore.retrieve`."""
        lost = self._faults.begin(RECEIPTS + "retrieve")
        answer = await self._inner.retrieve(work_order_id)
        self._faults.end(RECEIPTS + "retrieve", lost)
        return answer

    async def retrieve_update(
        self, work_order_id: str, index: int | None, *, updater_id: str | None = None
    ) -> FoundUpdate:
        """See `ReceiptStore.retrieve_update`."""
        lost = self._faults.begin(RECEIPTS + "retrieve_update")
        answer = await self._inner.retrieve_update(work_order_id, index, updater_id=updater_id)
        self._faults.end(RECEIPTS + "retrieve_update", lost)
        return answer

    async def look_up(
        self,
        *,
        worker_service_id: str | None = None,
        worker_id: str | None = None,
        requester_id: str | None = None,
        status: int | None = None,
        tag: str = "",
        limit: int = 100,
    ) -> LookUpPage:
        """See `ReceiptStore.look_up`."""
        lost = self._faults.begin(RECEIPTS + "look_up")
        answer = await self._inner.look_up(
            worker_service_id=worker_service_id,
            worker_id=worker_id,
            requester_id=requester_id,
            status=status,
            tag=tag,
            limit=limit,
        )
        self._faults.end(RECEIPTS + "look_up", lost)
        return answer

    async def purge(self, *, older_than: float) -> int:
        """See `ReceiptStore.purge`."""
        lost = self._faults.begin(RECEIPTS + "purge")
        answer = await self._inner.purge(older_than=older_than)
        self._faults.end(RECEIPTS + "purge", lost)
        return answer

    async def close(self) -> None:
        """See `ReceiptStore.close`; never fails."""
        await self._inner.close()


class FaultyStore:
    """All ports of another store, failing as planned."""

    def __init__(self, inner: Store, faults: Faults | None = None) -> None:
        self._inner = inner
        self.faults = faults if faults is not None else Faults()
        """The plan, to be changed at any time."""
        self.orders = FaultyOrders(inner.orders, self.faults)
        self.workers = FaultyWorkers(inner.workers, self.faults)
        self.deliveries = FaultyDeliveries(inner.deliveries, self.faults)
        self.receipts = FaultyReceipts(inner.receipts, self.faults)

    async def close(self) -> None:
        """Close the store behind; never fails."""
        await self._inner.close()
