"""Orders by their id: from the journal, with everything to open their results, or known to the service alone."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from avalon_core.protocol.ids import WorkOrderId
from avalon_sdk.cli.trusting import open_client
from avalon_sdk.client import DEFAULT_URL, AvalonClient
from avalon_sdk.deadline import Deadline
from avalon_sdk.errors import AvalonClientError
from avalon_sdk.events import OrderEvent, follow
from avalon_sdk.journal import JournalEntry, OrderJournal
from avalon_sdk.planning import require_hex_id
from avalon_sdk.transports.direct import DirectTransport


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the commands that speak of one order have in common."""

    order: str
    """Its id; of one in the journal the beginning will do."""

    url: str | None
    policy: str | None
    measurements: Sequence[str]
    timeout: float
    as_json: bool

    def open_client(self, entry: JournalEntry | None) -> AvalonClient:
        """A client of the service that has the order."""
        return open_client(self.address(entry), self.policy, self.measurements)

    def address(self, entry: JournalEntry | None) -> str:
        """The one that was given, else the journal's."""
        return self.url or (entry.address if entry is not None else DEFAULT_URL)

    def work_order_id(self, entry: JournalEntry | None) -> WorkOrderId:
        """In full."""
        return WorkOrderId(entry.work_order_id if entry else require_hex_id(self.order, "ID"))

    def entry(self) -> JournalEntry | None:
        """From the journal, where it is there.

        Raises:
            BadRequest: not an id, or the beginning of several.
            JournalUnusable: the journal cannot be used, or not this entry.
        """
        journal = OrderJournal()
        known = [entry for entry in journal.entries() if entry.work_order_id.startswith(self.order)]
        if not known:
            require_hex_id(self.order, "ID")
            return None
        return journal.entry(self.order)

    def required_entry(self) -> JournalEntry:
        """From the journal.

        Raises:
            JournalUnusable: it is not there, and what to do.
        """
        return OrderJournal().entry(self.order)


async def present_state(url: str, work_order_id: WorkOrderId, timeout: float) -> OrderEvent:
    """The state that the service says the order is in.

    Raises:
        NoSuchOrder, NotOffered, CannotConnect, Busy, BadAnswer, ResultTimeout
    """
    transport = DirectTransport(url)
    try:
        events = follow(transport, work_order_id, Deadline.after(timeout), timeout)
        event = await anext(events)
        await events.aclose()
    finally:
        await transport.close()
    return event


def note_state(entry: JournalEntry | None, state: str) -> None:
    """How the order ended was seen: the journal need not ask again. That it cannot be noted harms nothing."""
    if entry is None or entry.state == state:
        return
    journal = OrderJournal()
    with suppress(AvalonClientError):
        whole = entry if entry.saved else journal.entry(entry.work_order_id)
        journal.keep(
            JournalEntry(
                work_order_id=whole.work_order_id,
                address=whole.address,
                workload=whole.workload,
                worker_id=whole.worker_id,
                sealed_at=whole.sealed_at,
                state=state,
                saved=whole.saved,
            )
        )


def at_second(moment: datetime | float) -> str:
    """A time, for people: UTC, to the second."""
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
