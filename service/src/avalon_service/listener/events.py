"""An order's transitions as a stream of events (server-sent events, WHATWG HTML section 9.2).

    GET /orders/<workOrderId>/events

    id: processing-1
    event: state
    data: {"workOrderId":"...","state":"processing","at":1700000000.25,"attempts":1}

The state that the order is in comes first, whatever it is, then each transition; `scheduled` after the first attempt
means that the order was put back. After the final one comes an event `end`, and the stream ends. An id follows from the
state alone, so a client that comes back with ``Last-Event-ID`` gets the present state unless it is the one that it
knows, and where that is final the answer is 204, which tells clients not to come back.

A stream costs what its connection costs: no task beside the one in which the server runs every request, which waits for
the client's departure. An event is written by a task of that moment.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from avalon_service.orders.errors import StoreUnavailable, UnknownWorkOrder
from avalon_service.orders.ports import OrderEvent, OrderStore

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_TICKS = 30
"""Looks for quiet streams during one interval of heartbeats: so many small bursts instead of a large one."""

_MAX_HELD = 64
"""Events that wait for a client that does not read. The oldest are dropped; the last is never."""

_HEAD = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
_JSON = (b"content-type", b"application/json")
_RETRY_AFTER = (b"retry-after", b"5")
_FIRST = b"retry: 2000\n\n"
_BEAT = b": \n\n"
_FAREWELL = b": the service stops\n\n"

_encoder = msgspec.json.Encoder()


class EventStreams:
    """All streams of a listener; made inside its event loop."""

    def __init__(self, orders: OrderStore, *, limit: int, heartbeat: float) -> None:
        self._orders = orders
        self._limit = limit
        self._heartbeat = heartbeat
        self._loop = asyncio.get_running_loop()
        self._streams: OrderedDict[_Stream, float] = OrderedDict()
        """When each was last written to, the longest ago first."""
        self._writing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        """Clients that follow an order now."""
        return len(self._streams)

    async def serve(
        self, work_order_id: str, last_id: str, receive: Receive, send: Send, *, head_only: bool = False
    ) -> None:
        """Answer one request: returns when the order is final, the client is gone, or the service stops."""
        if self._closed or len(self._streams) >= self._limit:
            await _refuse(send, 503, "as many clients follow orders as the service serves; ask again later")
            return
        stream = _Stream(self, send)
        end = self._orders.follow(work_order_id, stream.heard)
        try:
            latest = await self._orders.latest(work_order_id)
            known = last_id == _id_of(latest)
            if known and latest.state.final:
                await _answer(send, 204)
            elif head_only:
                await _answer(send, 200, _HEAD)
            else:
                self._touch(stream)
                await stream.open(None if known else latest)
                while (await receive())["type"] != "http.disconnect":
                    continue
        except UnknownWorkOrder:
            await _refuse(send, 404, "no such order here (never submitted, or purged)")
        except StoreUnavailable:
            await _refuse(send, 503, "the order cannot be read at the moment; ask again")
        finally:
            end()
            stream.forget()
            self._streams.pop(stream, None)

    def close(self) -> None:
        """End every stream, and serve no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for stream in list(self._streams):
            stream.put(_FAREWELL, last=True)

    def start_writing(self, stream: _Stream) -> None:
        """Have a stream written in a task."""
        self._touch(stream)
        task = self._loop.create_task(stream.write())
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    def _touch(self, stream: _Stream) -> None:
        self._streams[stream] = self._loop.time()
        self._streams.move_to_end(stream)
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(self._heartbeat / _TICKS, self._beat)

    def _beat(self) -> None:
        self._timer = None
        quiet_since = self._loop.time() - self._heartbeat
        for _ in range(len(self._streams) // (_TICKS // 2) + 1):
            stream = next(iter(self._streams), None)
            if stream is None or self._streams[stream] > quiet_since:
                break
            self._touch(stream)
            stream.put(_BEAT)
        if self._streams and self._timer is None and not self._closed:
            self._timer = self._loop.call_later(self._heartbeat / _TICKS, self._beat)


class _Stream:
    __slots__ = ("_held", "_is_last", "_is_open", "_is_writing", "_last_id", "_send", "_streams")

    def __init__(self, streams: EventStreams, send: Send) -> None:
        self._streams = streams
        self._send = send
        self._held: list[bytes] = []
        self._last_id = ""
        self._is_open = False
        self._is_last = False
        self._is_writing = False

    def heard(self, event: OrderEvent) -> None:
        """The order came into another state."""
        id_ = _id_of(event)
        if id_ == self._last_id:
            return
        self._last_id = id_
        self.put(_encode(id_, event), last=event.state.final)

    def put(self, data: bytes, *, last: bool = False) -> None:
        """Write soon; nothing is written after the last."""
        if self._is_last:
            return
        self._is_last = last
        if len(self._held) >= _MAX_HELD:
            del self._held[0]
        self._held.append(data)
        if self._is_open and not self._is_writing:
            self._is_writing = True
            self._streams.start_writing(self)

    async def open(self, latest: OrderEvent | None) -> None:
        """Begin the answer, with the present state unless the client knows it."""
        await self._send({"type": "http.response.start", "status": 200, "headers": list(_HEAD)})
        self._held.insert(0, _FIRST)
        self._is_open = self._is_writing = True
        if latest is not None:
            self.heard(latest)
        await self.write()

    async def write(self) -> None:
        """Write what is held, and what comes meanwhile."""
        try:
            while self._held:
                body, more = b"".join(self._held), not self._is_last
                self._held.clear()
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
        finally:
            self._is_writing = False

    def forget(self) -> None:
        """The client is gone, or has everything: write no more."""
        self._is_last = True
        self._held.clear()


def _id_of(event: OrderEvent) -> str:
    return f"{event.state.value}-{event.attempts}"


def _encode(id_: str, event: OrderEvent) -> bytes:
    data = {
        "workOrderId": event.work_order_id,
        "state": event.state.value,
        "at": round(event.at, 3),
        "attempts": event.attempts,
    }
    encoded = _encoder.encode(data)
    text = b"id: %b\nevent: state\ndata: %b\n\n" % (id_.encode(), encoded)
    return text + b"event: end\ndata: %b\n\n" % encoded if event.state.final else text


async def _refuse(send: Send, status: int, message: str) -> None:
    extra = (_JSON, _RETRY_AFTER) if status == 503 else (_JSON,)
    await _answer(send, status, extra, _encoder.encode({"error": message}))


async def _answer(
    send: Send, status: int, headers: tuple[tuple[bytes, bytes], ...] = (), body: bytes = b""
) -> None:
    length = ((b"content-length", b"%d" % len(body)),) if body or not headers else ()
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
    await send({"type": "http.response.body", "body": body})
