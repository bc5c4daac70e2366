"""Who posts next: receivers take turns, and each has its own small number of posts at a time."""

from __future__ import annotations

from collections import OrderedDict, deque


class _Lane:
    __slots__ = ("active", "failing", "ready")

    def __init__(self) -> None:
        self.ready: deque[int] = deque()
        self.active = 0
        self.failing = False


class Lanes:
    """Numbers that are ready, by receiver. A receiver that fails gets one post at a time until it takes one."""

    def __init__(self, *, limit: int, per_receiver: int) -> None:
        self._limit = limit
        self._per_receiver = per_receiver
        self._lanes: dict[str, _Lane] = {}
        self._turns: OrderedDict[str, None] = OrderedDict()
        self._active = 0

    def put(self, receiver: str, number: int) -> None:
        """Add one that is ready."""
        lane = self._lanes.get(receiver)
        if lane is None:
            lane = self._lanes[receiver] = _Lane()
        lane.ready.append(number)
        self._offer(receiver, lane)

    def take(self) -> tuple[str, int] | None:
        """Take the next that may be posted now, if there is one; `done` must follow."""
        if not self._turns or self._active >= self._limit:
            return None
        receiver, _ = self._turns.popitem(last=False)
        lane = self._lanes[receiver]
        number = lane.ready.popleft()
        lane.active += 1
        self._active += 1
        self._offer(receiver, lane)
        return receiver, number

    def done(self, receiver: str, *, failed: bool) -> None:
        """A post that was taken has ended."""
        lane = self._lanes[receiver]
        lane.active -= 1
        lane.failing = failed
        self._active -= 1
        if lane.active or lane.ready:
            self._offer(receiver, lane)
        else:
            del self._lanes[receiver]

    def _offer(self, receiver: str, lane: _Lane) -> None:
        if lane.ready and lane.active < (1 if lane.failing else self._per_receiver):
            self._turns.setdefault(receiver)
        else:
            self._turns.pop(receiver, None)
