"""What a store writes down: the port between the scheduling of orders and the medium that outlives a restart.

A journal takes *entries* and settles each exactly once, in the event loop, possibly before `write` returns: with None
when it is durable, else with the reason why nothing of it was written. It has no opinion about orders.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from avalon_service.orders.errors import StoreUnavailable
from avalon_service.orders.state import Order, OrderState


class Conflict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Why an order was not accepted: its id was used before."""

    digest: bytes
    purged: bool


class Acceptance:
    """A new order to write down."""

    __slots__ = ("order", "request", "stowed")

    def __init__(self, order: Order, request: bytes, stowed: str | None = None) -> None:
        self.order = order
        self.request = request
        self.stowed = stowed
        """What `Journal.stow` returned for the request."""

    @property
    def body(self) -> bytes:
        """What may be large."""
        return self.request

    def settle(self, trouble: StoreUnavailable | Conflict | None) -> None:
        """Learn what became of it."""
        raise NotImplementedError


class Change:
    """A new state of an open order to write down: final, or scheduled again after a crash."""

    __slots__ = ("order", "stowed")

    def __init__(self, order: Order) -> None:
        self.order = order
        self.stowed: str | None = None
        """For the journal's own use: where it has put a large result."""

    @property
    def body(self) -> bytes:
        """What may be large."""
        return self.order.result or b""

    def settle(self, trouble: StoreUnavailable | None) -> None:
        """Learn what became of it."""
        raise NotImplementedError


class Purged(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one pass of purging removed."""

    states: dict[str, OrderState]
    """The state in which each purged order had ended, by id."""
    more: bool
    """Whether another pass may find more."""


class Journal(Protocol):
    """The durable record of orders."""

    epoch: int
    """How often the journal was opened."""

    def open_orders(self) -> list[tuple[Order, bytes | None, int]]:
        """The orders that are not final, by sequence, each with its request or (where it is large) None, and its size."""
        ...

    def finished_counts(self) -> dict[OrderState, int]:
        """How many finished orders there are."""
        ...

    def stows(self, request: bytes) -> bool:
        """Whether a request of this size must be stowed before it is accepted."""
        ...

    async def stow(self, request: bytes) -> str:
        """Bring a large request in, ahead of its acceptance: it counts for nothing before that, and may be dropped.

        Raises:
            StoreUnavailable: nothing is left of it.
        """
        ...

    def drop(self, stowed: str) -> None:
        """Let go of a request that was stowed and not accepted."""
        ...

    def accept(self, acceptance: Acceptance) -> None:
        """Write down a new order, unless its id is known. Sequences rise from one acceptance to the next."""
        ...

    def change(self, change: Change) -> None:
        """Write down the new state of an open order."""
        ...

    async def finished(self, work_order_id: str) -> Order | None:
        """A finished order."""
        ...

    async def request(self, work_order_id: str) -> bytes | None:
        """The request of any stored order; None if there is none, or it was lost."""
        ...

    async def purge(
        self, *, older_than: float, surplus: int, spare: frozenset[str], now: float, forget_before: float
    ) -> Purged:
        """Remove some of the oldest finished orders, leaving tombstones; drop tombstones older than `forget_before`.

        Removes the `surplus` oldest and those finished before `older_than`, but none of `spare`.
        """
        ...
