"""What an enclave tells its operator: events from a fixed list, fields of our own making, never text of an order.

Every event has a least interval between two reports, so that nobody can flood the host's log through the enclave.
What was held back is counted in the next report (``suppressed``).
"""

import builtins
import enum
import threading
import time
from collections.abc import Callable

from avalon_core.channel.messages import Log


class Event(enum.StrEnum):
    """Everything that an enclave can report."""

    SIMULATED_PLATFORM = "simulated_platform"
    """No hardware protects this enclave."""

    PLATFORM_FOUND = "platform_found"
    """What the platform found on this machine, and evidence will carry."""

    KEYS_NOT_RESTORED = "keys_not_restored"
    """The sealed keys do not open: the enclave ends."""

    WORKLOAD_SKIPPED = "workload_skipped"
    """An installed workload is broken and is not offered."""

    LEGACY_ORDER_ACCEPTED = "legacy_order_accepted"
    """An order repeats a key and iv, and was processed all the same."""

    WORKLOAD_FAILED = "workload_failed"
    """A workload raised an error, crashed, or returned what is not acceptable."""

    WORKLOAD_OVERRAN = "workload_overran"
    """A workload exceeded its time limit; the order was answered as failed."""

    WORKLOAD_WEDGED = "workload_wedged"
    """A workload did not come back: the enclave ends, so that its host starts it again."""

    ORDER_NOT_PROCESSED = "order_not_processed"
    """Something unexpected: a defect of the enclave."""

    QUEUE_FULL = "queue_full"
    """The host hands over more than the enclave holds."""

    KME_JOINED = "kme_joined"
    """A key management enclave and this enclave have proved to each other what they are."""

    KME_SERVING = "kme_serving"
    """This key management enclave has the pool's keys and opens orders."""

    WPE_JOINED = "wpe_joined"
    """A work order processing enclave was admitted."""

    LINK_CLOSED = "link_closed"
    """A link to a peer ended: it was refused, broke the rules, or the session is over. The reason says which."""

    ROLLBACK_DETECTED = "rollback_detected"
    """A peer has seen a newer seal of this enclave than the host gave it: the host went back in time."""

    POOL_RESTORED_ALONE = "pool_restored_alone"
    """The pool's state was restored without a peer to ask whether it is the newest."""

    CHANNEL_BROKEN = "channel_broken"
    """The host broke the rules of the channel: the enclave ends."""


_LEVELS = {
    Event.SIMULATED_PLATFORM: "warning",
    Event.PLATFORM_FOUND: "info",
    Event.KEYS_NOT_RESTORED: "error",
    Event.WORKLOAD_WEDGED: "error",
    Event.ORDER_NOT_PROCESSED: "error",
    Event.CHANNEL_BROKEN: "error",
    Event.ROLLBACK_DETECTED: "error",
    Event.KME_JOINED: "info",
    Event.KME_SERVING: "info",
    Event.WPE_JOINED: "info",
}
_LEAST_INTERVAL_SECONDS = {
    Event.LEGACY_ORDER_ACCEPTED: 60.0,
    Event.WORKLOAD_SKIPPED: 0.0,
    Event.WORKLOAD_FAILED: 1.0,
    Event.WORKLOAD_OVERRAN: 1.0,
    Event.ORDER_NOT_PROCESSED: 1.0,
    Event.QUEUE_FULL: 10.0,
}


class Journal:
    """Sends events to the host. Safe to use from every thread."""

    def __init__(self, send: Callable[[Log], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._clock = clock
        self._lock = threading.Lock()
        self._next: dict[Event, float] = {}
        self._suppressed: dict[Event, int] = {}

    def record(self, event: Event, **fields: str | float) -> None:
        """Report an event, unless it was reported a moment ago."""
        with self._lock:
            now = self._clock()
            if now < self._next.get(event, 0.0):
                self._suppressed[event] = self._suppressed.get(event, 0) + 1
                return
            self._next[event] = now + _LEAST_INTERVAL_SECONDS.get(event, 0.0)
            suppressed = self._suppressed.pop(event, 0)
        if suppressed:
            fields["suppressed"] = suppressed
        self._send(Log(level=_LEVELS.get(event, "warning"), event=event.value, fields=dict(fields)))


def type_name(error: BaseException | str) -> str:
    """The name of an error's type: all that is ever told of an error inside a workload.

    Only names that Python or the enclave itself defines: a type that a workload makes can be named by its data.
    """
    name = error if isinstance(error, str) else type(error).__name__
    return name if name in _TELLABLE else "Exception"


_TELLABLE = frozenset(
    {
        name
        for name, value in vars(builtins).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    | {"ChildDied", "OutputRefused", "WorkOrderError", "ChannelError", "EncodingError", "DecryptionFailed"}
)
