"""How many large bodies may be in memory at a time: those that are being received, and those not yet accepted.

A body of up to a megabyte is nobody's concern. A larger one is read on only when there is room for it; until then its
client's connection is not read either. The room is free again when the order is durable (its answer may still be
waited for), or at the latest when the call is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from contextvars import ContextVar

LARGE_BYTES = 1024 * 1024

ROOM_BYTES = 96 * 1024 * 1024
"""Four of the largest orders. Each takes up to three times its size meanwhile: as it came, as it is stored, and its
items as text."""

_lease: ContextVar[Lease | None] = ContextVar("_lease", default=None)


class Lease:
    """Room for one body."""

    __slots__ = ("_room", "_size")

    def __init__(self, room: BodyRoom, size: int) -> None:
        self._room = room
        self._size = size

    def release(self) -> None:
        """Free it; once is enough."""
        size, self._size = self._size, 0
        if size:
            self._room.give_back(size)


class BodyRoom:
    """Room for large bodies, given out in the order of asking."""

    def __init__(self, room: int = ROOM_BYTES) -> None:
        """``room``: bytes. A body that is larger than all of it has it alone."""
        self._all = self._free = room
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> Lease:
        """Wait for room for so many bytes."""
        size = min(size, self._all)
        if self._waiting or size > self._free:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size, future))
            try:
                await future
            except BaseException:
                if future.done() and not future.cancelled():
                    self.give_back(size)
                else:
                    with contextlib.suppress(ValueError):
                        self._waiting.remove((size, future))
                    self._serve()
                raise
        else:
            self._free -= size
        return Lease(self, size)

    def give_back(self, size: int) -> None:
        """Let others in."""
        self._free += size
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size, future = self._waiting.popleft()
            if not future.done():
                self._free -= size
                future.set_result(None)


def hold(lease: Lease | None) -> None:
    """Have the lease released when the order of this call is durable."""
    _lease.set(lease)


def accepted() -> None:
    """The order of this call is durable."""
    lease = _lease.get()
    if lease is not None:
        lease.release()
