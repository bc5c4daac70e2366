"""Keeps the deadlines of work that cannot be stopped.

At a deadline the order is answered as failed, and the thread has its time once more to come back. If it does not,
the enclave ends: its host starts another, and orders in flight go back to the queue. Nothing polls; the one thread
here sleeps until the next deadline. Where even that thread cannot run, because a workload holds the interpreter,
the enclave answers no Ping either, and its host ends it.
"""

import math
import threading
import time
from collections.abc import Callable


class Watch:
    """One piece of work."""

    __slots__ = ("deadline", "on_overrun", "overrun", "seconds")

    def __init__(self, seconds: float, on_overrun: Callable[[], None]) -> None:
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.on_overrun = on_overrun
        self.overrun = False


class Watchdog:
    """Watches over any number of pieces of work."""

    def __init__(self, on_wedged: Callable[[], None]) -> None:
        """``on_wedged``: work did not come back within twice its time. Ends the process."""
        self._on_wedged = on_wedged
        self._changed = threading.Condition()
        self._watched: set[Watch] = set()
        self._wake_at = math.inf
        threading.Thread(target=self._keep, name="watchdog", daemon=True).start()

    def start(self, seconds: float, on_overrun: Callable[[], None]) -> Watch:
        """Watch over work that starts now. ``on_overrun`` is called once, from another thread."""
        watch = Watch(seconds, on_overrun)
        with self._changed:
            self._watched.add(watch)
            if watch.deadline < self._wake_at:
                # Usually it sleeps towards an earlier deadline already, and need not be woken.
                self._wake_at = watch.deadline
                self._changed.notify()
        return watch

    def end(self, watch: Watch) -> None:
        """The work came back."""
        with self._changed:
            self._watched.discard(watch)

    def _keep(self) -> None:
        while True:
            overruns = self._wait()
            for watch in overruns:
                watch.on_overrun()

    def _wait(self) -> list[Watch]:
        """Sleep until a deadline passes; return what overran."""
        with self._changed:
            while True:
                now = time.monotonic()
                due = [watch for watch in self._watched if watch.deadline <= now]
                if any(watch.overrun for watch in due):
                    self._on_wedged()
                for watch in due:
                    watch.overrun = True
                    watch.deadline = now + watch.seconds
                if due:
                    return due
                # A deadline that it was to wake for stands, even where that work is done: the next piece of work is
                # usually due later, and then nobody wakes this thread for it. Waking it costs more than most work.
                earliest = min((watch.deadline for watch in self._watched), default=math.inf)
                self._wake_at = min(earliest, self._wake_at if self._wake_at > now else math.inf)
                self._changed.wait(None if self._wake_at == math.inf else self._wake_at - now)
