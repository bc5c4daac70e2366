"""Clients that go away while they wait for an answer.

A call whose client is gone is cancelled, so that nothing of it stays in memory. Only calls that take a second or longer
are looked at: the server tells of a departure to whoever asks, asking costs a task, and most calls end before that.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_PATIENCE = 1.0
"""Seconds between two looks at the calls under way. A call is watched when it is met for the second time."""

_FALLEN = 4
"""The load has fallen when no more than this fraction of the calls is left."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Departures:
    """Cancels the tasks of clients that are gone; belongs to one event loop."""

    def __init__(self, patience: float = _PATIENCE, *, load_fell: Callable[[], None] = lambda: None) -> None:
        """``load_fell``: called when far fewer calls are under way than were since it was called last."""
        self._patience = patience
        self._load_fell = load_fell
        self._peak = 0
        self._loop = asyncio.get_running_loop()
        self._fresh: dict[asyncio.Task[Any], Receive] = {}
        self._met: dict[asyncio.Task[Any], Receive] = {}
        self._watched: dict[asyncio.Task[Any], asyncio.Task[None]] = {}
        self._gone: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._looking = False

    def __len__(self) -> int:
        """Calls under way."""
        return len(self._fresh) + len(self._met) + len(self._watched)

    def enter(self, task: asyncio.Task[Any], receive: Receive) -> None:
        """A call begins, its body is read."""
        self._fresh[task] = receive
        if not self._looking:
            self._looking = True
            self._loop.call_later(self._patience, self._look)

    def leave(self, task: asyncio.Task[Any]) -> None:
        """The call's answer is there, or it was cancelled."""
        if self._fresh.pop(task, None) is None and self._met.pop(task, None) is None:
            self._watched.pop(task).cancel()

    def is_gone(self, task: asyncio.Task[Any] | None) -> bool:
        """The task was cancelled because its client is gone."""
        return task in self._gone

    def _look(self) -> None:
        for task, receive in self._met.items():
            self._watched[task] = self._loop.create_task(self._watch(task, receive))
        self._met, self._fresh = self._fresh, {}
        left = len(self)
        self._peak = max(self._peak, left)
        if left <= self._peak // _FALLEN:
            self._peak = left
            self._load_fell()
        self._looking = left > 0
        if self._looking:
            self._loop.call_later(self._patience, self._look)

    async def _watch(self, task: asyncio.Task[Any], receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        self._gone.add(task)
        task.cancel()
