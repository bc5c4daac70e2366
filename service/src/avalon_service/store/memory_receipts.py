"""Receipts in memory: for tests, and for whoever can afford to lose them at a restart."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import msgspec
from msgspec.structs import asdict, replace

from avalon_core.protocol.errors import GeneralError
from avalon_core.protocol.receipts import status_after
from avalon_service.orders.errors import (
    EndOfLookUp,
    ReceiptExists,
    ReceiptFull,
    ReceiptUpdateRefused,
    StoreClosed,
    UnknownReceipt,
    UnknownReceiptUpdate,
)
from avalon_service.orders.ports import LookUpPage
from avalon_service.orders.receipt_ports import (
    Awaiting,
    FoundUpdate,
    NewReceipt,
    NewReceiptUpdate,
    Receipt,
    ReceiptUpdate,
)
from avalon_service.store.receipt_tags import ReceiptTag, read_tag


class _Kept(msgspec.Struct):
    number: int
    receipt: Receipt
    updates: list[ReceiptUpdate]
    awaits: bool = True


class ReceiptShelf:
    """The receipts themselves. A second store over the same shelf is a restart."""

    def __init__(self) -> None:
        self.kept: dict[str, _Kept] = {}
        """By work order, in the order of creation."""
        self.numbers = itertools.count(1)


class MemoryReceipts:
    """A `ReceiptStore` in memory."""

    def __init__(self, shelf: ReceiptShelf, *, clock: Callable[[], float]) -> None:
        self._shelf = shelf
        self._clock = clock
        self._closed = False

    async def create(self, new: NewReceipt) -> Receipt:
        """See `ReceiptStore.create`."""
        self._check_open()
        if new.work_order_id in self._shelf.kept:
            raise ReceiptExists(new.work_order_id)
        now = self._clock()
        receipt = Receipt(**asdict(new), status=new.create_status, created_at=now, updated_at=now)
        number = next(self._shelf.numbers)
        self._shelf.kept[new.work_order_id] = _Kept(number=number, receipt=receipt, updates=[])
        return receipt

    async def update(
        self, new: NewReceiptUpdate, *, room: int | None = None, settles: bool = False
    ) -> ReceiptUpdate:
        """See `ReceiptStore.update`."""
        kept = self._find(new.work_order_id)
        if settles:
            kept.awaits = False
        same = (new.updater_id, new.update_type, new.update_data)
        for known in kept.updates:
            if (known.updater_id, known.update_type, known.update_data) == same:
                return known
        receipt = kept.receipt
        try:
            status = status_after(receipt.status, new.update_type)
        except GeneralError as exc:
            raise ReceiptUpdateRefused(new.work_order_id, exc.message) from None
        position = receipt.update_count + 1
        if room is not None and position > room:
            raise ReceiptFull(new.work_order_id)
        now = max(self._clock(), receipt.updated_at)
        update = ReceiptUpdate(**asdict(new), position=position, at=now)
        kept.updates.append(update)
        kept.receipt = replace(receipt, status=status, update_count=position, updated_at=now)
        return update

    async def settle(self, work_order_id: str) -> None:
        """See `ReceiptStore.settle`."""
        self._check_open()
        kept = self._shelf.kept.get(work_order_id)
        if kept is not None:
            kept.awaits = False

    def awaits(self, work_order_id: str) -> bool:
        """See `ReceiptStore.awaits`."""
        kept = self._shelf.kept.get(work_order_id)
        return kept is not None and kept.awaits

    async def awaiting(self, worker_id: str, *, tag: str = "", limit: int = 100) -> Awaiting:
        """See `ReceiptStore.awaiting`."""
        self._check_open()
        after = int(tag or 0)
        found = [
            kept
            for kept in self._shelf.kept.values()
            if kept.awaits and kept.receipt.worker_id == worker_id and kept.number > after
        ]
        page = found[:limit]
        return Awaiting(
            work_order_ids=tuple(kept.receipt.work_order_id for kept in page),
            tag=str(page[-1].number) if len(found) > len(page) else "",
        )

    async def retrieve(self, work_order_id: str) -> Receipt:
        """See `ReceiptStore.retrieve`."""
        return self._find(work_order_id).receipt

    async def retrieve_update(
        self, work_order_id: str, index: int | None, *, updater_id: str | None = None
    ) -> FoundUpdate:
        """See `ReceiptStore.retrieve_update`."""
        kept = self._find(work_order_id)
        updates = [update for update in kept.updates if updater_id in (None, update.updater_id)]
        place = len(updates) if index is None else index
        if not 1 <= place <= len(updates):
            raise UnknownReceiptUpdate(work_order_id, len(updates))
        return FoundUpdate(update=updates[place - 1], count=len(updates))

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
        self._check_open()
        start = read_tag(tag)
        matching = [
            kept
            for kept in self._shelf.kept.values()
            if worker_service_id in (None, kept.receipt.worker_service_id)
            and worker_id in (None, kept.receipt.worker_id)
            and requester_id in (None, kept.receipt.requester_id)
            and status in (None, kept.receipt.status)
        ]
        left = [kept for kept in matching if start is None or kept.number > start.after]
        page = left[: max(1, limit)]
        if start is not None and not page:
            raise EndOfLookUp
        total = len(matching) if start is None else start.total
        return LookUpPage(
            total=total,
            tag=str(ReceiptTag(page[-1].number, total)) if len(left) > len(page) else "",
            ids=tuple(kept.receipt.work_order_id for kept in page),
        )

    async def purge(self, *, older_than: float) -> int:
        """See `ReceiptStore.purge`."""
        self._check_open()
        old = [key for key, kept in self._shelf.kept.items() if kept.receipt.updated_at < older_than]
        for key in old:
            del self._shelf.kept[key]
        return len(old)

    async def close(self) -> None:
        """See `ReceiptStore.close`."""
        self._closed = True

    def _find(self, work_order_id: str) -> _Kept:
        self._check_open()
        try:
            return self._shelf.kept[work_order_id]
        except KeyError:
            raise UnknownReceipt(work_order_id) from None

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed
