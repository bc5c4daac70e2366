"""What the service asks of whoever keeps its receipts. The suite in `avalon_service.store.receipt_conformance` says
precisely what the words below mean.

Signatures are verified and parties told apart before anything comes here; the store keeps the rules of a receipt's
status (`avalon_core.protocol.receipts.status_after`), since only it sees two updates that come at the same time.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from avalon_service.orders.ports import LookUpPage


class NewReceipt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A receipt as its requester created it. The texts are kept as they came: signatures cover them."""

    work_order_id: str
    worker_service_id: str
    worker_id: str
    requester_id: str
    create_status: int
    request_hash: str
    """Base64."""
    nonce: str
    signature: str
    """Base64."""
    signature_rules: str
    verification_key: str
    """PEM."""


class Receipt(NewReceipt, frozen=True, kw_only=True, gc=False):
    """A stored receipt."""

    status: int
    """After all updates."""
    update_count: int = 0
    created_at: float
    updated_at: float
    """Of the last update, or of the creation. Seconds since the epoch."""


class NewReceiptUpdate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An update as its updater signed it."""

    work_order_id: str
    updater_id: str
    update_type: int
    update_data: str
    signature: str
    """Base64."""
    signature_rules: str
    verification_key: str
    """PEM of the key under which the signature was verified."""


class ReceiptUpdate(NewReceiptUpdate, frozen=True, kw_only=True, gc=False):
    """A stored update."""

    position: int
    """Among all updates of the receipt, from 1."""
    at: float
    """Seconds since the epoch."""


class FoundUpdate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An update that was asked for by its index."""

    update: ReceiptUpdate
    count: int
    """How many there are to choose from: of the receipt, or of the updater where one was asked for."""


class Awaiting(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Some of the receipts to which the worker has not said its word yet."""

    work_order_ids: tuple[str, ...]
    tag: str
    """Where the next ones start; empty if these are the last."""


class ReceiptStore(Protocol):
    """Keeps receipts and their updates. They outlive the work orders that they are about.

    A receipt *awaits* its worker's word from its creation until `settle`, or an update that settles it.
    """

    async def create(self, new: NewReceipt) -> Receipt:
        """Keep a receipt; durable when this returns.

        Raises:
            ReceiptExists: the work order has one.
        """
        ...

    async def update(
        self, new: NewReceiptUpdate, *, room: int | None = None, settles: bool = False
    ) -> ReceiptUpdate:
        """Add an update and set the status that it brings; durable when this returns.

        The same updater's update of the same type and data is the same update: it is not added again, and the status
        stays as it is, whatever came between. (Its signature covers nothing else, so anybody could repeat it.)

        Args:
            new: the update.
            room: how many updates the receipt may have with this one; None for any number.
            settles: the receipt awaits no more, even if the update is refused by the rules or not added again.

        Raises:
            UnknownReceipt: no such receipt.
            ReceiptUpdateRefused: the rules of a receipt's status forbid it.
            ReceiptFull: there is no room.
        """
        ...

    async def settle(self, work_order_id: str) -> None:
        """Let a receipt await no more, durably. Nothing happens where it does not, or there is none."""
        ...

    def awaits(self, work_order_id: str) -> bool:
        """Whether the order has a receipt that awaits its worker's word. Never waits, and costs next to nothing.

        It may be out of date where other processes create receipts; `awaiting` never is.
        """
        ...

    async def awaiting(self, worker_id: str, *, tag: str = "", limit: int = 100) -> Awaiting:
        """The work orders whose receipts await the word of this worker, in the order of creation."""
        ...

    async def retrieve(self, work_order_id: str) -> Receipt:
        """A receipt.

        Raises:
            UnknownReceipt: no such receipt.
        """
        ...

    async def retrieve_update(
        self, work_order_id: str, index: int | None, *, updater_id: str | None = None
    ) -> FoundUpdate:
        """An update of a receipt.

        Args:
            work_order_id: of the receipt.
            index: from 1, in the order in which they were added; None for the last.
            updater_id: only updates of this updater count; None for any.

        Raises:
            UnknownReceipt: no such receipt.
            UnknownReceiptUpdate: it has no such update.
        """
        ...

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
        """The work orders with a receipt that matches every criterion, in the order of creation.

        Paging neither skips nor repeats a receipt that matched all the while. The total is that of the first page:
        counting again for every page would make a long look-up slow.

        Args:
            worker_service_id: None for any, like those below.
            worker_id: of the worker.
            requester_id: of the requester.
            status: the present one.
            tag: empty for the first page, then the tag of the page before, with the same criteria.
            limit: the most ids on one page, at least 1.

        Raises:
            EndOfLookUp: a tag was given and nothing comes after it.
            InvalidTag: the tag is malformed.
        """
        ...

    async def purge(self, *, older_than: float) -> int:
        """Forget the receipts that were last updated before a moment, with their updates; how many they were."""
        ...

    async def close(self) -> None:
        """Refuse everything from now on."""
        ...
