"""A store that lives in memory: for tests, and for whoever can afford to lose everything at a restart."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from avalon_service.orders.errors import StoreClosed, UnknownWorker
from avalon_service.orders.ports import LookUpPage, WorkerEntry
from avalon_service.orders.state import Order, OrderState
from avalon_service.store.directory import Directory
from avalon_service.store.journal import Acceptance, Change, Conflict, Purged
from avalon_service.store.limits import Limits
from avalon_service.store.memory_deliveries import MemoryDeliveries, MemoryDeliveryJournal
from avalon_service.store.memory_receipts import MemoryReceipts, ReceiptShelf
from avalon_service.store.orders import BookedOrders


class MemoryJournal:
    """What a `MemoryStore` would have written down. A second store over the same journal is a restart."""

    def __init__(self) -> None:
        self.epoch = 0
        self.workers = Directory()
        self.receipts = ReceiptShelf()
        self.deliveries = MemoryDeliveryJournal()
        self._open: dict[str, tuple[Order, bytes]] = {}
        self._finished: dict[str, tuple[Order, bytes]] = {}  # in the order of finishing
        self._tombstones: dict[str, tuple[bytes, float]] = {}

    def open_orders(self) -> list[tuple[Order, bytes | None, int]]:
        """See `Journal.open_orders`."""
        return [(order, request, len(request)) for order, request in self._open.values()]

    def finished_counts(self) -> dict[OrderState, int]:
        """See `Journal.finished_counts`."""
        counts: dict[OrderState, int] = {}
        for order, _ in self._finished.values():
            counts[order.state] = counts.get(order.state, 0) + 1
        return counts

    def stows(self, request: bytes) -> bool:
        """See `Journal.stows`: never."""
        return False

    async def stow(self, request: bytes) -> str:
        """See `Journal.stow`."""
        raise NotImplementedError

    def drop(self, stowed: str) -> None:
        """See `Journal.drop`."""

    def accept(self, acceptance: Acceptance) -> None:
        """See `Journal.accept`."""
        order = acceptance.order
        work_order_id = order.work_order_id
        if work_order_id in self._finished:
            known = self._finished[work_order_id][0]
            acceptance.settle(Conflict(digest=known.digest, purged=False))
        elif work_order_id in self._tombstones:
            acceptance.settle(Conflict(digest=self._tombstones[work_order_id][0], purged=True))
        else:
            self._open[work_order_id] = (order, acceptance.request)
            acceptance.settle(None)

    def change(self, change: Change) -> None:
        """See `Journal.change`."""
        order = change.order
        request = self._open[order.work_order_id][1]
        if order.state.final:
            del self._open[order.work_order_id]
            self._finished[order.work_order_id] = (order, request)
        else:
            self._open[order.work_order_id] = (replace(order, token=0), request)
        change.settle(None)

    async def finished(self, work_order_id: str) -> Order | None:
        """See `Journal.finished`."""
        stored = self._finished.get(work_order_id)
        return stored[0] if stored is not None else None

    async def request(self, work_order_id: str) -> bytes | None:
        """See `Journal.request`."""
        stored = self._open.get(work_order_id) or self._finished.get(work_order_id)
        return stored[1] if stored is not None else None

    async def purge(
        self, *, older_than: float, surplus: int, spare: frozenset[str], now: float, forget_before: float
    ) -> Purged:
        """See `Journal.purge`."""
        oldest = sorted((order for order, _ in self._finished.values()), key=_finished_at)
        states = {}
        for place, order in enumerate(oldest):
            if (place < surplus or _finished_at(order)[0] < older_than) and order.work_order_id not in spare:
                states[order.work_order_id] = order.state
                del self._finished[order.work_order_id]
                self._tombstones[order.work_order_id] = (order.digest, now)
        self._tombstones = {
            key: buried for key, buried in self._tombstones.items() if buried[1] >= forget_before
        }
        return Purged(states=states, more=False)


class MemoryWorkers:
    """A `WorkerDirectory` in memory."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._closed = False

    async def register(self, entry: WorkerEntry, *, keep_status: bool = False) -> None:
        """See `WorkerDirectory.register`."""
        self._check_open()
        if keep_status:
            with contextlib.suppress(UnknownWorker):
                entry = replace(entry, status=self._directory.retrieve(entry.worker_id).status)
        self._directory.put(self._directory.number_for(entry.worker_id), entry)

    async def update(self, worker_id: str, details: bytes) -> None:
        """See `WorkerDirectory.update`."""
        await self.register(replace(self._directory.retrieve(worker_id), details=details))

    async def set_status(self, worker_id: str, status: int) -> None:
        """See `WorkerDirectory.set_status`."""
        await self.register(replace(self._directory.retrieve(worker_id), status=status))

    async def retrieve(self, worker_id: str) -> WorkerEntry:
        """See `WorkerDirectory.retrieve`."""
        self._check_open()
        return self._directory.retrieve(worker_id)

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
        self._check_open()
        return self._directory.look_up(
            worker_type=worker_type,
            organization_id=organization_id,
            application_type_ids=application_type_ids,
            tag=tag,
            limit=limit,
        )

    async def close(self) -> None:
        """Refuse everything from now on."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed


class MemoryStore:
    """Orders and workers in memory; make it inside the event loop that will use it."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        limits: Limits | None = None,
        journal: MemoryJournal | None = None,
    ) -> None:
        self.journal = journal if journal is not None else MemoryJournal()
        """Give it to the next store to imitate a restart."""
        self.journal.epoch += 1
        self.orders = BookedOrders(self.journal, clock=clock, limits=limits or Limits())
        self.workers = MemoryWorkers(self.journal.workers)
        self.receipts = MemoryReceipts(self.journal.receipts, clock=clock)
        self.deliveries = MemoryDeliveries(self.journal.deliveries)

    async def close(self) -> None:
        """Close both ports."""
        await self.orders.close()
        await self.workers.close()
        await self.receipts.close()
        await self.deliveries.close()


def _finished_at(order: Order) -> tuple[float, int]:
    assert order.finished_at is not None
    return order.finished_at, order.sequence
