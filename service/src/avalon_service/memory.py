"""Memory that a rush has taken, given back when it is over.

What many waiting clients or a few large orders leave behind is free inside the process, but the process keeps it: in
cycles that the collector has not come to, and in pages of the C library's. Neither gives it back by itself.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import time
from collections.abc import Callable
from pathlib import Path

from avalon_core import allocator

_log = logging.getLogger(__name__)

_WORTH_BYTES = 16 * 1024 * 1024
"""Growth since the last time that is worth the while."""

_LEAST_PAUSE = 10.0
"""Seconds between two times: tidying takes a tenth of a second at the most, so it costs a hundredth of the time."""


class MemoryKeeper:
    """Tidies up when it is told that the load has fallen. Belongs to one event loop."""

    def __init__(
        self,
        *,
        resident: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``resident``: bytes of memory that the process has; by default those that the system tells of it."""
        self._resident = resident if resident is not None else resident_bytes
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._level = self._resident()
        self._last = -_LEAST_PAUSE
        self._later: asyncio.TimerHandle | None = None
        self._trimming: asyncio.Future[bool] | None = None

    def load_fell(self) -> None:
        """Tidy up, now or when the pause is over, if memory has grown enough since the last time."""
        if self._later is None:
            wait = self._last + _LEAST_PAUSE - self._clock()
            if wait > 0:
                self._later = self._loop.call_later(wait, self._tidy)
            else:
                self._tidy()

    def close(self) -> None:
        """Do not begin any more."""
        if self._later is not None:
            self._later.cancel()

    def _tidy(self) -> None:
        self._later = None
        if self._trimming is not None or self._resident() < self._level + _WORTH_BYTES:
            return
        self._last = self._clock()
        # In the loop's own thread: what the collector finds may belong to the loop.
        gc.collect()
        self._trimming = self._loop.run_in_executor(None, allocator.trim)
        self._trimming.add_done_callback(self._trimmed)

    def _trimmed(self, trimming: asyncio.Future[bool]) -> None:
        self._trimming = None
        if not trimming.cancelled():
            self._level = self._resident()
            _log.debug("memory tidied up resident_bytes=%d", self._level)


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0
