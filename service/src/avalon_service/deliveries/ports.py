"""What is asked of whoever keeps the deliveries: the posts that were promised with an order's acceptance.

A delivery is planned before its order is acknowledged and is *pending* until it is *delivered* or *dead*. Nothing else
is kept: the payload is made from the order when it is posted, so an order with a pending delivery is not purged.

Any verb may raise `StoreUnavailable`; then nothing was changed, and the call may be repeated.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

import msgspec

Id = str | int | None
"""The id of the JSON-RPC call that submitted the order; it is in what is posted."""


class DeliveryKind(enum.StrEnum):
    """What is posted."""

    RESULT = "result"
    """The whole answer: the result, or the error."""
    NOTIFY = "notify"
    """Only that the order is finished, whether well or not."""


class DeliveryState(enum.StrEnum):
    """What became of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    """Refused by the receiver or by our own rules, or tried as often as the service tries."""


class Post(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A post that an order asks for."""

    kind: DeliveryKind
    uri: str


class Delivery(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A post that was promised."""

    number: int
    """Rises with each delivery planned; never used twice."""
    work_order_id: str
    kind: DeliveryKind
    uri: str
    call_id: Id
    state: DeliveryState = DeliveryState.PENDING
    planned_at: float
    attempts: int = 0
    due_at: float | None = None
    """When to try again; None before the first attempt."""
    finished_at: float | None = None
    """There exactly when the delivery is delivered or dead."""
    last_error: str = ""
    """Why the last attempt failed, for a person."""


class DeliveryCounts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How many deliveries are stored in each state."""

    pending: int = 0
    delivered: int = 0
    dead: int = 0


class DeliveryStore(Protocol):
    """Keeps deliveries from their planning until they are purged. All verbs belong to the store's event loop."""

    async def plan(
        self, work_order_id: str, posts: Sequence[Post], *, call_id: Id, now: float
    ) -> list[Delivery]:
        """Promise posts for an order, durably.

        What was planned for this order and kind before stays as it is and is not in the answer: planning again after a
        lost acknowledgement does no harm.

        Returns:
            Those that are new.
        """
        ...

    async def pending(self) -> list[Delivery]:
        """All that are pending, by number."""
        ...

    async def postpone(self, number: int, *, attempts: int, due_at: float, error: str) -> None:
        """Note a failed attempt and when to try again, durably."""
        ...

    async def finish(
        self, number: int, state: DeliveryState, *, attempts: int, now: float, error: str = ""
    ) -> None:
        """Note that a pending delivery is delivered or dead, durably. One that is finished stays as it is."""
        ...

    async def counts(self) -> DeliveryCounts:
        """How many there are in each state; cheap, however many are stored."""
        ...

    async def page(self, state: DeliveryState, *, limit: int, before: int | None = None) -> list[Delivery]:
        """Up to `limit` deliveries in a state, the latest planned first, of those with a number below `before`."""
        ...

    async def purge(self, *, older_than: float, keep: int) -> int:
        """Forget deliveries finished before `older_than`, and the first finished beyond the `keep` last; never pending ones.

        Returns:
            How many were forgotten.
        """
        ...
