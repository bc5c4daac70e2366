"""The ASGI application: HTTP in, envelopes to the methods, answers out.

    POST (any path)   JSON-RPC 2.0, one call or a batch
    GET /healthz      200 while the process lives
    GET /readyz       200 once a worker serves, else 503
    GET /metrics      Prometheus text format
    GET /status       JSON for people and the ``avalon`` command
    GET /openrpc.json   every method, for tools (OpenRPC)
    GET /orders/<workOrderId>/events   an order's transitions, as server-sent events
    GET /deliveries   for the operator: what is to be posted, was, or could not be

Raw ASGI: a framework would cost each order as much again as the whole rest of the listener (ADR 6). Every answer to
a POST is a complete JSON-RPC envelope, whatever was sent; the only exceptions are notifications, which the standard
leaves unanswered (204).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from avalon_core.protocol.errors import RpcCode, RpcError
from avalon_core.protocol.jsonrpc import BadCall, Call, decode_envelope, encode_batch
from avalon_service.listener.bodies import LARGE_BYTES, BodyRoom, Lease, hold
from avalon_service.listener.departures import Departures
from avalon_service.listener.events import EventStreams
from avalon_service.listener.methods import Methods, encode_wire_error
from avalon_service.listener.origins import set_client
from avalon_service.openrpc import served_document
from avalon_service.settings import Settings

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON = b"application/json"
PREFER_WAIT = b"wait="
_MAX_PREFER_BYTES = 256
_EVENTS = re.compile(r"/orders/([0-9A-Za-z]{1,66})/events")
_NO_SUCH_PAGE = (
    b'{"error":"no such page: there are /healthz, /readyz, /status, /metrics, /openrpc.json, /orders/<workOrderId>/events '
    b'and, for the operator, /deliveries"}'
)


class Pages(Protocol):
    """What the GET paths answer."""

    def is_ready(self) -> bool:
        """A worker serves."""
        ...

    async def status(self) -> bytes:
        """JSON."""
        ...

    async def metrics(self) -> tuple[bytes, bytes]:
        """Content type and body."""
        ...

    async def deliveries(self, headers: list[tuple[bytes, bytes]], query: bytes) -> tuple[int, bytes]:
        """Status and JSON; for the operator."""
        ...

    def answered(self, method: str, seconds: float) -> None:
        """A call was answered; for metrics."""
        ...


class BodyRefused(Exception):
    """The body was not read to its end."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class ClientGone(Exception):
    """The client closed the connection."""


class Listener:
    """The application."""

    def __init__(
        self,
        methods: Methods,
        pages: Pages,
        settings: Settings,
        streams: EventStreams | None = None,
        departures: Departures | None = None,
    ) -> None:
        self._methods = methods
        self._pages = pages
        self._streams = streams
        self._departures = departures if departures is not None else Departures()
        self._counts_origins = settings.queued_per_address > 0
        self._max_body = settings.max_body_bytes
        self._max_wait = settings.max_wait_seconds
        self._body_timeout = settings.body_timeout_seconds
        self._room = BodyRoom()
        self._clock = asyncio.get_running_loop().time

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        try:
            if scope["method"] == "POST":
                await self._post(scope, receive, send)
            else:
                await self._get(scope, receive, send)
        except ClientGone:
            return
        except asyncio.CancelledError:
            if not self._departures.is_gone(asyncio.current_task()):
                raise

    def close(self) -> None:
        """End what would not end by itself: the streams of events."""
        if self._streams is not None:
            self._streams.close()

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        try:
            body, lease = await self._read(headers, receive)
        except BodyRefused as exc:
            answer = encode_wire_error(None, RpcError(RpcCode.INVALID_REQUEST, exc.message))
            # What is left of the body is not read, so the connection cannot be used again.
            await _respond(send, exc.status, answer, extra=((b"connection", b"close"),))
            return
        envelope = decode_envelope(body)
        del body  # what is needed of it is in the calls
        wait = _preferred_wait(headers)
        if self._counts_origins and scope.get("client"):
            set_client(scope["client"][0])
        task = asyncio.current_task()
        assert task is not None
        self._departures.enter(task, receive)
        try:
            if not envelope.is_batch:
                if lease is not None:
                    hold(lease)
                answers = [await self._answer(envelope.calls[0], wait, headers)]
            else:
                answers = await asyncio.gather(
                    *(self._answer(call, wait, headers) for call in envelope.calls)
                )
        finally:
            self._departures.leave(task)
            if lease is not None:
                lease.release()
        given = [answer for answer in answers if answer is not None]
        if not given:
            await _respond(send, 204, b"")
        else:
            await _respond(send, 200, encode_batch(given) if envelope.is_batch else given[0])

    async def _answer(
        self, call: Call | BadCall, wait: float, headers: list[tuple[bytes, bytes]]
    ) -> bytes | None:
        if isinstance(call, BadCall):
            return encode_wire_error(call.id, call.error)
        began = self._clock()
        try:
            answer = await self._methods.answer(call, 0.0 if call.is_notification else wait, headers)
        except Exception as exc:
            log.error("call failed method=%s error=%s", call.method[:64], type(exc).__name__, exc_info=exc)
            error = RpcError(RpcCode.INTERNAL_ERROR, "internal error: the operator's log says more")
            answer = encode_wire_error(call.id, error)
        self._pages.answered(
            call.method if call.method in self._methods.names else "other", self._clock() - began
        )
        return None if call.is_notification else answer

    async def _read(self, headers: list[tuple[bytes, bytes]], receive: Receive) -> tuple[bytes, Lease | None]:
        """The body, and if it is large the room that it takes, for the caller to release."""
        too_large = f"the body is larger than {self._max_body} bytes"
        announced = 0
        for name, value in headers:
            if name == b"content-length" and (announced := int(value)) > self._max_body:
                raise BodyRefused(413, too_large)
        message = await self._receive(receive)
        body: bytes = message.get("body", b"")
        lease = None
        if message.get("more_body", False):
            chunks, size = [body], len(body)
            deadline = self._clock() + self._body_timeout
            try:
                async with asyncio.timeout_at(deadline):
                    while message.get("more_body", False):
                        if lease is None and max(announced, size) > LARGE_BYTES:
                            lease = await self._room.take(announced or self._max_body)
                        message = await self._receive(receive)
                        chunks.append(message.get("body", b""))
                        size += len(chunks[-1])
                        if size > self._max_body:
                            raise BodyRefused(413, too_large)
            except BaseException as exc:
                if lease is not None:
                    lease.release()
                if not isinstance(exc, TimeoutError):
                    raise
                raise BodyRefused(408, f"the body did not arrive within {self._body_timeout:g} s") from None
            body = b"".join(chunks)
        if len(body) > self._max_body:
            raise BodyRefused(413, too_large)
        return body, lease

    async def _receive(self, receive: Receive) -> Message:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message

    async def _get(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["method"] not in ("GET", "HEAD"):
            await _respond(
                send,
                405,
                b'{"error":"use POST for JSON-RPC, GET for pages"}',
                extra=((b"allow", b"GET, HEAD, POST"),),
            )
        elif path == "/healthz":
            await _respond(send, 200, b'{"status":"alive"}')
        elif path == "/readyz":
            ready = self._pages.is_ready()
            await _respond(
                send,
                200 if ready else 503,
                b'{"status":"ready"}' if ready else b'{"status":"no worker serves yet"}',
            )
        elif path == "/status":
            await _respond(send, 200, await self._pages.status())
        elif self._streams is not None and (order := _EVENTS.fullmatch(path)) is not None:
            last_id = next((value for name, value in scope["headers"] if name == b"last-event-id"), b"")
            head_only = scope["method"] == "HEAD"
            await self._streams.serve(order[1], last_id.decode("latin-1"), receive, send, head_only=head_only)
        elif path == "/deliveries":
            status, body = await self._pages.deliveries(scope["headers"], scope.get("query_string", b""))
            await _respond(send, status, body)
        elif path == "/openrpc.json":
            await _respond(send, 200, await served_document())
        elif path == "/metrics":
            content_type, body = await self._pages.metrics()
            await _respond(send, 200, body, content_type=content_type)
        else:
            await _respond(send, 404, _NO_SUCH_PAGE)


def _preferred_wait(headers: list[tuple[bytes, bytes]]) -> float:
    """Seconds of ``Prefer: wait=N`` (RFC 7240), 0 without it or where it makes no sense: it is a preference."""
    for name, value in headers:
        if name == b"prefer" and len(value) <= _MAX_PREFER_BYTES:
            for part in value.split(b","):
                key = part.strip().lower()
                if key.startswith(PREFER_WAIT) and key[len(PREFER_WAIT) :].isdigit():
                    return float(key[len(PREFER_WAIT) :])
    return 0.0


async def _respond(
    send: Send,
    status: int,
    body: bytes,
    *,
    content_type: bytes = JSON,
    extra: tuple[tuple[bytes, bytes], ...] = (),
) -> None:
    headers: list[tuple[bytes, bytes]] = [(b"content-length", b"%d" % len(body)), *extra]
    if body:
        headers.append((b"content-type", content_type))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
