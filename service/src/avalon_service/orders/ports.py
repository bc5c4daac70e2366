"""What the service asks of whoever keeps its orders and its workers.

Two ports, in the field's own verbs. Every implementation passes the suite in `avalon_service.store.conformance`, which
says precisely what the words below mean. All verbs belong to one event loop: the one in which the store was opened.

Times are seconds since the epoch by the store's own clock; time-outs and leases are in seconds.
Any verb may raise `StoreUnavailable`: then nothing was changed as far as the store knows, and the call may be repeated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from avalon_service.orders.state import Order, OrderFailure, OrderState, OrderView

if TYPE_CHECKING:
    from avalon_service.deliveries.ports import DeliveryStore
    from avalon_service.orders.receipt_ports import ReceiptStore

__all__ = [
    "Claim",
    "Followed",
    "LookUpPage",
    "NewOrder",
    "Order",
    "OrderCounts",
    "OrderEvent",
    "OrderFailure",
    "OrderState",
    "OrderStore",
    "OrderView",
    "Revoked",
    "Store",
    "Submission",
    "WorkerDirectory",
    "WorkerEntry",
]

WORKER_TYPES = {1: "TEE-SGX", 2: "MPC", 3: "ZK"}
"""The protocol's kinds of workers."""

WORKER_STATUSES = {1: "active", 2: "off-line", 3: "decommissioned", 4: "compromised"}
"""The protocol's states of a worker in the directory."""


class NewOrder(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An order as it comes in, validated and allowed by the caller."""

    work_order_id: str
    worker_id: str
    requester_id: str
    request: bytes
    """The raw JSON of the request's params: opaque to the store."""
    deadline: float | None = None
    """When the order expires unless it is final."""
    origin: str = ""
    """Whence it comes (a network address), for the cap on open orders from one place; not kept over a restart."""
    digest: bytes = b""
    """SHA-256 of `request`; computed unless given (give it if it is known already, or costly on the event loop)."""

    def __post_init__(self) -> None:
        if not self.digest:
            msgspec.structs.force_setattr(self, "digest", hashlib.sha256(self.request).digest())
        elif len(self.digest) != 32:
            raise ValueError(f"got a digest of {len(self.digest)} bytes, expected the 32 of SHA-256")


class Submission(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The answer to a submission."""

    fresh: bool
    """False if the very same request was accepted before under this id."""
    order: OrderView


class Claim(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An order handed to a host, for as long as the lease lasts."""

    work_order_id: str
    token: int
    """Fences this claim off from all others: strictly increasing over the life of the store, restarts included."""
    request: bytes
    deadline: float | None
    attempt: int
    """1 for the first claim of this order."""
    requester_id: str = ""


class OrderEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One transition in the life of an order. `scheduled` after the first attempt means that it was put back."""

    work_order_id: str
    state: OrderState
    at: float
    """Seconds since the epoch. Of a claim or a return to the queue it is not kept over a restart."""
    attempts: int


Followed = Callable[[OrderEvent], None]
"""Called with each transition of an order that is followed. Must return at once, and is called in the store's event
loop; what it raises is logged and otherwise ignored."""


class OrderCounts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How many orders are stored in each state, and what happened to them since the store was opened."""

    scheduled: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    put_back: int = 0
    """Orders that went back to the queue since the store was opened: leases ended, claims released, enclaves died."""
    purged: int = 0
    """Finished orders removed since the store was opened."""

    @property
    def open(self) -> int:
        """Orders that are not final."""
        return self.scheduled + self.processing

    @property
    def finished(self) -> int:
        """Orders that are final and not purged."""
        return self.completed + self.failed + self.cancelled + self.expired


Revoked = Callable[[str, int], None]
"""Called with the id and the token of a claim that its holder lost. Must return at once, and is called in the store's
event loop; what it raises is logged and otherwise ignored."""


class OrderStore(Protocol):
    """Keeps work orders from their acceptance until they are purged.

    A submitter sees `submit`, `wait`, `get`, `latest`, `follow` and `cancel`; a host `claimable`, `claim`, `extend`,
    `release`, `complete`, `fail` and `watch_revoked`; a housekeeper `expire_due`, `due_earlier`, `purge` and `counts`.
    """

    async def submit(self, new: NewOrder) -> Submission:
        """Accept an order; it is durable when this returns, and cannot be claimed before.

        The same id with the same request is the same order: `fresh` is False and the view is the present one. If the
        caller is cancelled meanwhile, the order may have been accepted all the same.

        Raises:
            DuplicateWorkOrder: the id was used for another request, or (up to the store's tombstone horizon) for an
                order that has been purged.
            QueueFull: as many orders are open as the store accepts, altogether, of this requester, or from this
                origin. Nothing was written. May also be raised to the
                repetition of an order that is already final; never to that of an open one.
            RequestTooLarge: the request exceeds the store's cap.
        """
        ...

    async def claim(self, worker_id: str, *, limit: int, lease: float) -> list[Claim]:
        """Take up to `limit` scheduled orders of a worker, without waiting for any; fewer where they are large.

        The worker's requesters take turns, one order each, and of each the oldest acceptance comes first. Whoever had
        nothing scheduled and has now, by a new order or one put back, gets a turn behind the others.
        Orders found past their deadline are expired instead. Claims are not durable: a restart of the store voids them
        all and schedules their orders again.
        """
        ...

    async def claimable(self, worker_id: str, timeout: float | None) -> bool:
        """Wait until `claim` may find something for this worker; False when the time-out ends first.

        Everyone who waits for the worker is woken, so another may be faster. None waits for ever, 0 only looks.
        """
        ...

    async def extend(self, claims: Sequence[tuple[str, int]], lease: float) -> list[str]:
        """Let claims, given as pairs of id and token, last for `lease` seconds from now.

        Returns:
            The ids of those that are no longer held (cancelled, expired, or put back): stop working on them.
        """
        ...

    async def release(self, work_order_id: str, token: int, *, crashed: bool = False) -> None:
        """Put a claimed order back at its old place among its requester's orders.

        Args:
            work_order_id: The order.
            token: That of the claim.
            crashed: Whether the enclave died under the order. This is counted durably, and when it has happened
                `max_crashes` times the order fails instead of going back.

        Raises:
            StaleClaim: the claim is no longer held; nothing changed.
        """
        ...

    async def complete(self, work_order_id: str, token: int, result: bytes) -> None:
        """Finish a claimed order with its result, durably; whoever waits for it is woken.

        A lease that has ended does no harm as long as the order was not put back.

        Raises:
            StaleClaim: the claim is no longer held, the order is final or unknown, or its deadline has passed;
                nothing changed by this call.
        """
        ...

    async def fail(self, work_order_id: str, token: int, failure: OrderFailure) -> None:
        """Finish a claimed order without a result, durably.

        Raises:
            StaleClaim: as for `complete`.
        """
        ...

    async def cancel(self, work_order_id: str, failure: OrderFailure, *, expired: bool = False) -> OrderView:
        """Finish an open order, scheduled or processing, as cancelled (or as expired); its holder is told.

        A completion on its way to the disk is not overtaken. A final order stays as it is: look at the view's state.

        Raises:
            UnknownWorkOrder: no such order.
        """
        ...

    def watch_revoked(self, worker_id: str, revoked: Revoked) -> Callable[[], None]:
        """Have `revoked(work_order_id, token)` called when a claim on an order of this worker is taken from its holder.

        That is: the order was cancelled or expired, or its lease ended and it was put back. Not called for what a
        holder does itself. Every watcher of a worker hears of all its claims.

        Returns:
            A function that ends the watch.
        """
        ...

    async def get(self, work_order_id: str) -> OrderView | None:
        """The order as it is now, or None if it is unknown or purged."""
        ...

    async def wait(self, work_order_id: str, timeout: float | None) -> OrderView:
        """The order as soon as it is final, or as it is when the time-out ends (None: never).

        Raises:
            UnknownWorkOrder: no such order.
        """
        ...

    async def latest(self, work_order_id: str) -> OrderEvent:
        """The last transition of an order.

        Raises:
            UnknownWorkOrder: no such order.
        """
        ...

    def follow(self, work_order_id: str, followed: Followed) -> Callable[[], None]:
        """Have `followed(event)` called at each transition of an order from now on; known or not, nothing is checked.

        To miss nothing, follow first and then ask for the `latest`.

        Returns:
            A function that ends it.
        """
        ...

    async def request_of(self, work_order_id: str) -> bytes | None:
        """The raw request of an open or finished order, or None if it is unknown or purged."""
        ...

    async def expire_due(self) -> float | None:
        """Put back the orders whose leases have ended and expire those past their deadline, durably.

        Returns:
            When the next lease or deadline ends, or None if there is none: sleep until then, or until `due_earlier`.

        Raises:
            StoreUnavailable: some orders could not be expired; they are due again shortly, by `due_earlier(None)`.
        """
        ...

    async def due_earlier(self, than: float | None) -> None:
        """Return when some lease or deadline ends before `than` (None: when there is any at all)."""
        ...

    async def purge(self, *, older_than: float, keep: int, spare: Collection[str] = ()) -> int:
        """Forget finished orders: those finished before `older_than`, and the oldest beyond the `keep` latest.

        Open orders stay, and so do those in `spare` and one that somebody is waiting for at this moment. The
        id and digest of a purged order are remembered for the store's tombstone horizon, so that it is not run again by mistake.

        Returns:
            How many orders were purged.
        """
        ...

    async def counts(self) -> OrderCounts:
        """How many orders there are in each state; cheap, however many are stored."""
        ...

    async def close(self) -> None:
        """Finish what is on its way to the disk and let go; whoever still waits gets `StoreClosed`."""
        ...


class WorkerEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A worker in the directory."""

    worker_id: str
    worker_type: int
    """A key of `WORKER_TYPES`."""
    organization_id: str = ""
    application_type_ids: tuple[str, ...] = ()
    details: bytes
    """The raw JSON of the worker's record: opaque to the directory."""
    status: int = 1
    """A key of `WORKER_STATUSES`."""

    def __post_init__(self) -> None:
        if self.worker_type not in WORKER_TYPES:
            raise ValueError(f"got worker type {self.worker_type}, expected one of {sorted(WORKER_TYPES)}")
        if self.status not in WORKER_STATUSES:
            raise ValueError(f"got worker status {self.status}, expected one of {sorted(WORKER_STATUSES)}")


class LookUpPage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One page of a look-up."""

    total: int
    """How many workers match, on all pages."""
    tag: str
    """Where the next page starts; empty exactly if this is the last."""
    ids: tuple[str, ...]


class WorkerDirectory(Protocol):
    """Knows the workers that this service offers."""

    async def register(self, entry: WorkerEntry, *, keep_status: bool = False) -> None:
        """Add a worker, or replace the entry of that id; durable when this returns. It keeps its place in look-ups.

        `keep_status`: an entry that is replaced keeps its status (what an operator set outlives a restart of the host).
        """
        ...

    async def update(self, worker_id: str, details: bytes) -> None:
        """Replace a worker's details, durably.

        Raises:
            UnknownWorker: no such worker.
        """
        ...

    async def set_status(self, worker_id: str, status: int) -> None:
        """Change a worker's status, durably.

        Raises:
            UnknownWorker: no such worker.
            ValueError: not a key of `WORKER_STATUSES`.
        """
        ...

    async def retrieve(self, worker_id: str) -> WorkerEntry:
        """A worker's entry.

        Raises:
            UnknownWorker: no such worker.
        """
        ...

    async def look_up(
        self,
        *,
        worker_type: int = 0,
        organization_id: str | None = None,
        application_type_ids: Sequence[str] | None = None,
        tag: str = "",
        limit: int = 100,
    ) -> LookUpPage:
        """The ids of the workers that match every criterion, in the order of their first registration.

        Paging neither skips nor repeats a worker that matched all the while, whatever is registered meanwhile.

        Args:
            worker_type: A key of `WORKER_TYPES`, or 0 for any.
            organization_id: None for any.
            application_type_ids: The worker must have all of these; None or empty for any.
            tag: Empty for the first page, then the tag of the page before, with the same criteria.
            limit: The most ids on one page, at least 1.

        Raises:
            EndOfLookUp: a tag was given and nothing comes after it.
            InvalidTag: the tag is malformed.
        """
        ...


class Store(Protocol):
    """All ports over one place to keep things."""

    @property
    def orders(self) -> OrderStore:
        """The work orders."""
        ...

    @property
    def workers(self) -> WorkerDirectory:
        """The workers."""
        ...

    @property
    def deliveries(self) -> DeliveryStore:
        """What is to be posted when work orders are finished."""
        ...

    @property
    def receipts(self) -> ReceiptStore:
        """The receipts of work orders."""
        ...

    async def close(self) -> None:
        """Close all."""
        ...
