"""The life of one work order, as pure functions from an order and an event to the next order.

```
             claim                    complete
scheduled ──────────> processing ─────────────────> completed
    │  ^                 │  │       fail, crash too often
    │  └─────────────────┘  ├─────────────────────> failed
    │   lapse, release      │       cancel
    ├───────────────────────┼─────────────────────> cancelled
    │                       │       expire
    └───────────────────────┴─────────────────────> expired
```

Rules, in the order in which they are checked:

1. A final order never changes.
2. What a claim does to its order is done with the token of the latest claim, or not at all.
3. An order goes back to the queue as often as its leases end or its hosts let go of it, but only `max_crashes` times
   because an enclave died under it: an order that kills enclaves must not kill them for ever.
4. At its deadline an order that is not final can only expire, be cancelled or fail.

Time is an argument, in seconds since the epoch; it may step backwards between two events.
"""

from __future__ import annotations

import enum

import msgspec
from msgspec.structs import replace

from avalon_service.orders.errors import InvalidTransition, StaleClaim

FAILED_CODE = 1
"""`failed` in the protocol's space of work-order codes: what the store itself answers when it ends an order."""


class OrderState(enum.StrEnum):
    """Where an order is in its life."""

    SCHEDULED = "scheduled"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        """Whether an order in this state can no longer change."""
        return self in FINAL_STATES


FINAL_STATES = frozenset({OrderState.COMPLETED, OrderState.FAILED, OrderState.CANCELLED, OrderState.EXPIRED})

_SCHEDULED = OrderState.SCHEDULED
_PROCESSING = OrderState.PROCESSING
_COMPLETED = OrderState.COMPLETED


class OrderFailure(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Why an order ended without a result."""

    code: int
    """In the protocol's space of work-order codes."""
    message: str
    """For a person: what happened, what was expected, what to do."""


DEADLINE_PASSED = OrderFailure(code=FAILED_CODE, message="the order was not finished by its deadline")


class OrderView(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What may be seen of an order from outside the store."""

    work_order_id: str
    worker_id: str
    requester_id: str
    state: OrderState
    result: bytes | None = None
    """Opaque JSON of the result; there exactly when the order is completed."""
    error: OrderFailure | None = None
    """There exactly when the order failed, was cancelled or expired."""
    accepted_at: float
    """Seconds since the epoch."""
    finished_at: float | None = None
    """Seconds since the epoch; there exactly when the order is final, and never before `accepted_at`."""
    attempts: int = 0
    """How often the order was claimed. Claims that a restart of the store voided may be left out."""


class Order(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One work order without its request, which the store keeps beside it."""

    work_order_id: str
    worker_id: str
    requester_id: str
    digest: bytes
    """SHA-256 of the request: tells a repeated submission from another order under the same id."""
    sequence: int
    """The place in the queue: orders are claimed by rising sequence."""
    accepted_at: float
    deadline: float | None = None
    """Seconds since the epoch at which the order expires unless it is final."""
    state: OrderState = _SCHEDULED
    attempts: int = 0
    crashes: int = 0
    token: int = 0
    """The fencing token of the latest claim; 0 before the first."""
    lease_until: float | None = None
    """When the claim ends unless it is extended; there exactly while the order is processing."""
    finished_at: float | None = None
    result: bytes | None = None
    error: OrderFailure | None = None

    def __post_init__(self) -> None:
        state = self.state
        open_ = state is _SCHEDULED or state is _PROCESSING
        if (
            (self.lease_until is None) is (state is _PROCESSING)
            or (self.finished_at is None) is not open_
            or (self.result is None) is (state is _COMPLETED)
            or (self.error is None) is not (open_ or state is _COMPLETED)
        ):
            raise ValueError(f"order {self.work_order_id!r}: the fields do not fit the state {state.value!r}")

    def view(self) -> OrderView:
        """The order as the outside may see it."""
        return OrderView(
            work_order_id=self.work_order_id,
            worker_id=self.worker_id,
            requester_id=self.requester_id,
            state=self.state,
            result=self.result,
            error=self.error,
            accepted_at=self.accepted_at,
            finished_at=self.finished_at,
            attempts=self.attempts,
        )


def overdue(order: Order, *, now: float) -> bool:
    """Whether the deadline of an open order has passed."""
    return order.deadline is not None and order.deadline <= now


def claim(order: Order, *, token: int, until: float, now: float) -> Order:
    """Give a scheduled order to a host, until a moment, under a token greater than every earlier one.

    Raises:
        InvalidTransition: the order is not scheduled, its deadline has passed, or the token is not greater.
    """
    if order.state is not _SCHEDULED or overdue(order, now=now):
        raise InvalidTransition(
            order.work_order_id, f"cannot be claimed while {order.state.value} or overdue"
        )
    if token <= order.token:
        raise InvalidTransition(order.work_order_id, f"got token {token}, expected more than {order.token}")
    return replace(order, state=_PROCESSING, token=token, lease_until=until, attempts=order.attempts + 1)


def extend(order: Order, *, token: int, until: float) -> Order:
    """Keep a claim until a later (or earlier) moment.

    Raises:
        StaleClaim: the claim is no longer held.
    """
    _check_held(order, token)
    return replace(order, lease_until=until)


def lapse(order: Order) -> Order:
    """Put an order back because its lease ended: it keeps its place in the queue.

    Raises:
        InvalidTransition: the order is not processing.
    """
    if order.state is not _PROCESSING:
        raise InvalidTransition(order.work_order_id, f"has no lease to end while {order.state.value}")
    return replace(order, state=_SCHEDULED, lease_until=None)


def release(order: Order, *, token: int) -> Order:
    """Put an order back because its host lets go of it, for no fault of the order.

    Raises:
        StaleClaim: the claim is no longer held.
    """
    _check_held(order, token)
    return replace(order, state=_SCHEDULED, lease_until=None)


def crash(order: Order, *, token: int, max_crashes: int, now: float) -> Order:
    """Put an order back because the enclave died under it, or fail it if that happened `max_crashes` times.

    Raises:
        StaleClaim: the claim is no longer held.
    """
    _check_held(order, token)
    crashes = order.crashes + 1
    if crashes < max_crashes:
        return replace(order, state=_SCHEDULED, lease_until=None, crashes=crashes)
    message = f"the enclave died {crashes} times while it processed this order; it is not tried again"
    failure = OrderFailure(code=FAILED_CODE, message=message)
    return _finish(replace(order, crashes=crashes), OrderState.FAILED, now, error=failure)


def complete(order: Order, *, token: int, result: bytes, now: float) -> Order:
    """Finish an order with its result.

    Raises:
        StaleClaim: the claim is no longer held, or the deadline has passed.
    """
    _check_held(order, token)
    if overdue(order, now=now):
        raise StaleClaim(order.work_order_id, "its deadline has passed")
    return _finish(order, _COMPLETED, now, result=result)


def fail(order: Order, *, token: int, failure: OrderFailure, now: float) -> Order:
    """Finish an order that its enclave could not process.

    Raises:
        StaleClaim: the claim is no longer held.
    """
    _check_held(order, token)
    return _finish(order, OrderState.FAILED, now, error=failure)


def cancel(order: Order, *, failure: OrderFailure, now: float) -> Order:
    """Finish an open order because nobody wants it any more.

    Raises:
        InvalidTransition: the order is final.
    """
    return _finish(order, OrderState.CANCELLED, now, error=failure)


def expire(order: Order, *, now: float, failure: OrderFailure = DEADLINE_PASSED) -> Order:
    """Finish an open order because its time is over.

    Raises:
        InvalidTransition: the order is final.
    """
    return _finish(order, OrderState.EXPIRED, now, error=failure)


def _check_held(order: Order, token: int) -> None:
    if order.state is not _PROCESSING or order.token != token:
        raise StaleClaim(order.work_order_id)


def _finish(
    order: Order,
    state: OrderState,
    now: float,
    *,
    result: bytes | None = None,
    error: OrderFailure | None = None,
) -> Order:
    if order.state is not _SCHEDULED and order.state is not _PROCESSING:
        raise InvalidTransition(order.work_order_id, f"is {order.state.value}, which is final")
    accepted = order.accepted_at
    return replace(
        order,
        state=state,
        lease_until=None,
        finished_at=max(accepted, now),
        result=result,
        error=error,
    )
