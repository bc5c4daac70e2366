"""When things fall due: a heap whose entries can be moved and dropped."""

from __future__ import annotations

import heapq

_SLACK = 64
"""Outdated heap entries that are tolerated beyond as many as there are live ones, before the heap is rebuilt."""


class Timers:
    """Moments by key, the earliest first. All operations are O(log n), amortised."""

    def __init__(self) -> None:
        self._moments: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._moments)

    def set(self, key: int, moment: float) -> None:
        """Let a key fall due at a moment, instead of any earlier one set for it."""
        moments = self._moments
        moments[key] = moment
        heap = self._heap
        if len(heap) > 2 * len(moments) + _SLACK:
            self._heap = heap = [(when, what) for what, when in moments.items()]
            heapq.heapify(heap)
        else:
            heapq.heappush(heap, (moment, key))

    def drop(self, key: int) -> None:
        """Let a key never fall due."""
        self._moments.pop(key, None)

    def next(self) -> float | None:
        """The earliest moment."""
        heap, moments = self._heap, self._moments
        while heap:
            moment, key = heap[0]
            if moments.get(key) == moment:
                return moment
            heapq.heappop(heap)
        return None

    def due(self, now: float) -> list[int]:
        """The keys whose moment has come, earliest first; they are dropped."""
        keys = []
        while (moment := self.next()) is not None and moment <= now:
            _, key = heapq.heappop(self._heap)
            del self._moments[key]
            keys.append(key)
        return keys
