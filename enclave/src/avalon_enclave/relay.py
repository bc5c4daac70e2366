"""A queue whose takers work one at a time, and relieve whoever is held up.

An order of our own suite costs some 0.2 ms, in many calls of microseconds that each let go of the interpreter. Threads
that do such work side by side spend more on taking turns at the interpreter than they win. So they stand in line: the
first takes entry after entry, and wakes nobody. It is relieved, and the next in line goes on with what waits, where

- it says that its work takes long and leaves the interpreter to others (:meth:`Relay.step_aside`), or
- one entry holds it up for longer than :data:`PATIENCE_SECONDS` while others wait.

Then it works on beside the new first one, and stands in line again when it is done. Time is looked at only while
entries wait behind one that is being worked on.
"""

import queue
import threading
import time
from typing import Generic, TypeVar

PATIENCE_SECONDS = 0.005
"""As long as the interpreter itself lets a thread run that others wait for."""

_Entry = TypeVar("_Entry")


class Relay(Generic[_Entry]):
    """The queue. Any thread may put; those that take must come back for the next until they are given None."""

    def __init__(self) -> None:
        self._entries: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._baton = threading.Lock()
        """Held by the first in line. Another thread lets go of it where the first one is relieved."""

        self._lock = threading.Lock()
        """Guards the two below."""

        self._working: int | None = None
        """The thread that is first in line, while it works on an entry."""

        self._taken = 0
        self._watching = False
        self._watch = threading.Event()
        threading.Thread(target=self._keep, name="relay", daemon=True).start()

    def put(self, entry: _Entry) -> None:
        """Add an entry."""
        self._entries.put(entry)
        if self._working is not None:
            self._see_that_nobody_waits_long()

    def take(self) -> _Entry | None:
        """Wait for the next entry, having finished the one before. None: there is none any more (for this thread)."""
        me = threading.get_ident()
        with self._lock:
            first = self._working == me
            if first:
                self._working = None
        if not first:
            self._baton.acquire()
        entry = self._entries.get()
        if entry is None:
            self._baton.release()
            return None
        with self._lock:
            self._working = me
            self._taken += 1
        if not self._entries.empty():
            self._see_that_nobody_waits_long()
        return entry

    def step_aside(self) -> None:
        """Let the next in line go on with what waits. Nothing happens where the caller is not the first."""
        with self._lock:
            self._relieve(threading.get_ident())

    def end(self, takers: int) -> None:
        """Give None to so many takers, once they have taken all that waits."""
        for _ in range(takers):
            self._entries.put(None)

    def _relieve(self, thread: int | None) -> None:
        if thread is not None and self._working == thread:
            self._working = None
            self._baton.release()

    def _see_that_nobody_waits_long(self) -> None:
        if not self._watching:
            self._watching = True
            self._watch.set()

    def _keep(self) -> None:
        """Relieve who is held up. Ends a round of looking only when it has said so and nobody waits behind anybody."""
        while True:
            seen = -1
            while self._working is not None and not self._entries.empty():
                with self._lock:
                    if self._taken == seen:
                        self._relieve(self._working)
                    seen = self._taken
                time.sleep(PATIENCE_SECONDS)
            self._watch.clear()
            self._watching = False
            if self._working is None or self._entries.empty():
                self._watch.wait()
