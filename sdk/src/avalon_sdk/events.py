"""Where an order stands, as the service tells it: server-sent events (WHATWG HTML, section 9.2) from
``GET /orders/<workOrderId>/events``.

An event is the service's word and nobody vouches for it. It is good for showing, and for knowing when to ask; whether an
order is done, and what came of it, only a verified result says.
"""

import enum
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
import msgspec

from avalon_core.protocol.ids import WorkOrderId
from avalon_sdk.deadline import Deadline
from avalon_sdk.errors import BadAnswer, Busy, CannotConnect, ResultTimeout
from avalon_sdk.transports.base import ServerEvent, Transport

MAX_LINE_BYTES = 64 * 1024
"""An event of ours has some hundred bytes."""

MAX_EVENTS = 10_000
"""Of one order: it goes back to the queue a few times, not thousands of times."""

MAX_RECONNECTS = 8
"""In a row, without an event between: then the connection's error is passed on."""

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


class OrderState(enum.StrEnum):
    """Where an order is in its life."""

    SCHEDULED = "scheduled"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        """The order changes no more."""
        return self not in (OrderState.SCHEDULED, OrderState.PROCESSING)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderEvent:
    """The order came into a state, as the service says."""

    work_order_id: WorkOrderId
    state: OrderState
    at: datetime
    """By the service's clock."""

    attempts: int
    """How often an enclave took it on."""

    @property
    def was_put_back(self) -> bool:
        """It was with an enclave, which did not finish it, and is in the queue again."""
        return self.state is OrderState.SCHEDULED and self.attempts > 0


class _Data(msgspec.Struct, frozen=True, rename="camel"):
    work_order_id: str
    state: OrderState
    at: float
    attempts: int


_decoder = msgspec.json.Decoder(_Data)


class EventParser:
    """From bytes as they arrive to events. Comments (heartbeats) are passed over."""

    def __init__(self) -> None:
        self._rest = b""
        self._id = ""
        self._kind = ""
        self._data: list[str] = []
        self._held = 0
        self._is_first_line = True

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that are complete now.

        Raises:
            BadAnswer: a line or an event without end.
        """
        lines, self._rest = _split(self._rest + chunk)
        if len(self._rest) > MAX_LINE_BYTES:
            raise BadAnswer(f"the stream of events has a line of more than {MAX_LINE_BYTES} bytes: refused")
        events = []
        for line in lines:
            event = self._take(line)
            if event is not None:
                events.append(event)
        return events

    def _take(self, raw: bytes) -> ServerEvent | None:
        line = raw.decode(errors="replace")
        if self._is_first_line:
            line, self._is_first_line = line.removeprefix("\ufeff"), False
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._held += len(value) + 1
            if self._held > MAX_LINE_BYTES:
                raise BadAnswer(f"an event has more than {MAX_LINE_BYTES} bytes: refused")
            self._data.append(value)
        elif name == "event":
            self._kind = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> ServerEvent | None:
        data, kind = self._data, self._kind
        self._data, self._kind, self._held = [], "", 0
        return ServerEvent(id=self._id, kind=kind or "message", data="\n".join(data)) if data else None


def _split(held: bytes) -> tuple[list[bytes], bytes]:
    """Complete lines, ended by CR LF, LF or CR, and what is left. A CR at the very end may be half of a CR LF."""
    at_end = b"\r" if held.endswith(b"\r") else b""
    text = held.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, rest = text.split(b"\n")
    return lines, rest + at_end


def read_event(event: ServerEvent, work_order_id: WorkOrderId) -> OrderEvent:
    """What a server-sent event says of this order.

    Raises:
        BadAnswer: nothing, or it speaks of another order.
    """
    try:
        data = _decoder.decode(event.data)
        at = datetime.fromtimestamp(data.at, UTC)
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError, OSError) as exc:
        raise BadAnswer(f"the service sent an event that is none: {exc}") from exc
    if data.work_order_id != work_order_id:
        raise BadAnswer(
            f"the service sent an event of another order: got {data.work_order_id!r:.80}, expected {work_order_id}"
        )
    return OrderEvent(work_order_id=work_order_id, state=data.state, at=at, attempts=max(0, data.attempts))


async def follow(
    transport: Transport, work_order_id: WorkOrderId, deadline: Deadline, timeout: float
) -> AsyncGenerator[OrderEvent, None]:
    """The present state of an order, then each that it comes into; ends after the final one.

    A lost connection is made anew, and goes on where it was (``Last-Event-ID``).

    Raises:
        ResultTimeout: the deadline, which began ``timeout`` seconds earlier, passed.
        NoSuchOrder, NotOffered, CannotConnect, Busy, BadAnswer
    """
    last_id, failures, count = "", 0, 0
    while True:
        trouble: CannotConnect | Busy | None = None
        try:
            stream = transport.events(work_order_id, last_event_id=last_id, timeout=deadline.left)
            async with aclosing(stream):
                async for sent in stream:
                    if sent.kind != "state":
                        continue
                    event, last_id, failures, count = read_event(sent, work_order_id), sent.id, 0, count + 1
                    if count > MAX_EVENTS:
                        raise BadAnswer(f"the service sent more than {MAX_EVENTS} events of one order")
                    yield event
                    if event.state.is_final:
                        return
        except (CannotConnect, Busy) as exc:
            trouble = exc
        failures += 1
        if deadline.left <= 0:
            raise ResultTimeout(work_order_id, timeout, trouble.message if trouble else "")
        if failures > MAX_RECONNECTS or (isinstance(trouble, CannotConnect) and not trouble.may_pass):
            raise trouble or CannotConnect(transport.address, "streams of events end without a final state")
        asked = (trouble.retry_after or 0.0) if isinstance(trouble, Busy) else 0.0
        pause = min(_FIRST_PAUSE_SECONDS * 2 ** (failures - 1), _LONGEST_PAUSE_SECONDS)
        await anyio.sleep(min(max(pause, asked), deadline.left))
