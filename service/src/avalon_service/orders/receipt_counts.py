"""What became of receipts since the service started, for its metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from avalon_service.orders.errors import StoreUnavailable

OUTCOMES: Mapping[str, Sequence[str]] = {
    "creation": ("accepted", "refused", "error"),
    "update": ("accepted", "refused", "error"),
    "worker": ("processed", "failed", "unsigned", "unverified", "unwanted"),
}
"""By kind: what others sent (``error``: the store was not available), and the words of workers that are hosted here.

``unsigned``: the enclave does not sign, because it answered too late, or the result is not its own; ``unverified``: its
signature is not under the key in the worker's record; ``unwanted``: the receipt is closed, or purged.
"""


class ReceiptCounts:
    """Counts by kind and outcome."""

    def __init__(self) -> None:
        self._counts = {(kind, outcome): 0 for kind, outcomes in OUTCOMES.items() for outcome in outcomes}

    def add(self, kind: str, outcome: str) -> None:
        """Count one more."""
        self._counts[kind, outcome] += 1

    def items(self) -> Iterator[tuple[str, str, int]]:
        """Kind, outcome and count of each; all of them, in the order of :data:`OUTCOMES`."""
        for (kind, outcome), count in self._counts.items():
            yield kind, outcome, count

    @contextmanager
    def counting(self, kind: str) -> Iterator[None]:
        """Count what is done inside by its end: accepted, refused (it raises), or an error of the store."""
        try:
            yield
        except StoreUnavailable:
            self.add(kind, "error")
            raise
        except Exception:
            self.add(kind, "refused")
            raise
        self.add(kind, "accepted")
