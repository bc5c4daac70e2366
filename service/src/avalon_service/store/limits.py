"""How much a store takes in, and for how long it remembers."""

from __future__ import annotations

import msgspec

KIB = 1024
MIB = 1024 * KIB
DAY = 86_400.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The caps of an order store. Every count and every size that comes from outside has one."""

    max_queued: int = 10_000
    """Open orders: more would only wait longer than their requesters do."""
    max_queued_per_requester: int = 1_000
    """Open orders of one requester id. Ids are free to choose, so this keeps order among the honest."""
    max_queued_per_origin: int = 0
    """Open orders that came from one place (`NewOrder.origin`). 0: as many as there is room for."""
    max_crashes: int = 5
    """How often an enclave may die under an order before the order fails."""
    max_request: int = 32 * MIB
    """Bytes of one request."""
    kept_request: int = 64 * KIB
    """Bytes of a request that is kept in memory until it is claimed; larger ones are read back."""
    kept_requests: int = 64 * MIB
    """Bytes of all requests so kept together; beyond it even small ones are read back."""
    stowed: int = 256 * KIB
    """Bytes from which on a request or a result is a file beside the database: writing it there takes a few
    milliseconds more than a small row and, from about here on, fewer than a large one."""
    claimed_bytes: int = 32 * MIB
    """Bytes of requests beyond which one claim takes no more orders: all that it takes are in memory together."""
    recent_bytes: int = 32 * MIB
    """Bytes of finished orders that are kept in memory for those who ask soon."""
    tombstone_horizon: float = 30 * DAY
    """Seconds for which the id of a purged order cannot be used again."""

    def __post_init__(self) -> None:
        for name in ("max_queued", "max_queued_per_requester", "max_crashes", "max_request"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"got {name} {value}, expected at least 1")
        if self.max_queued_per_origin < 0:
            raise ValueError(f"got max_queued_per_origin {self.max_queued_per_origin}, expected 0 or more")
