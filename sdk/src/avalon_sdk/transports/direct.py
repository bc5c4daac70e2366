"""The direct model: JSON-RPC over HTTP POST. Foreign exceptions end here.

What a service may do to its caller is bounded: an answer has a largest size, a call a longest time, a redirect is
not followed (what was sealed for one address is not carried to another), no compression is accepted, and no proxy
is taken from the environment.
"""

import email.utils
import os
import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

import aiohttp

from avalon_core.protocol.ids import WorkOrderId
from avalon_sdk import trust
from avalon_sdk.authority import TokenSource, header_of, token_source
from avalon_sdk.errors import (
    AvalonClientError,
    BadAnswer,
    BadRequest,
    Busy,
    CannotConnect,
    NoSuchOrder,
    NotOffered,
)
from avalon_sdk.events import EventParser
from avalon_sdk.transports.base import ServerEvent
from avalon_sdk.transports.jsonrpc import MAX_RECORD_BYTES, JsonRpcTransport, Reply

CONNECT_SECONDS = 5.0
"""A host that does not take a connection within this time is treated as absent."""

MAX_RETRY_AFTER_SECONDS = 3600.0
"""What a service may ask of our patience; the caller's deadline bounds it further."""

SILENCE_SECONDS = 90.0
"""A stream of events that is silent for so long (services send heartbeats) is a lost connection."""

EVENT_STREAM = "text/event-stream"
_MAX_FAULT_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
_BUSY_STATUS = frozenset({429, 503})
_GATEWAY_STATUS = frozenset({502, 504})
"""A proxy before the service could not reach it: the same as no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The answer to a GET."""

    status: int
    body: bytes = field(repr=False)
    date: datetime | None
    """The service's clock."""


class DirectTransport(JsonRpcTransport):
    """A service at an HTTP address.

    Args:
        url: ``http://host:port`` or ``https://...``, any path.
        tls: to trust a private certificate authority, or to show a certificate.
        operator_token: where the service's operator is to be shown to be asking (registry writes, requesters' keys,
            orders that the operator cancels): the path of a file, or a callable. It travels with those calls alone, and
            never in clear text beyond this machine.

    Raises:
        BadRequest: not such a URL.
    """

    def __init__(
        self,
        url: str,
        *,
        tls: ssl.SSLContext | None = None,
        operator_token: TokenSource | Path | None = None,
    ) -> None:
        super().__init__()
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.username or parts.password:
            raise BadRequest(
                f"not the address of a service: got {url!r}, expected http://host:port or https://host:port "
                "without a user name"
            )
        self._url = url
        self._tls = tls
        self._operator_token = token_source(operator_token)
        self._session: aiohttp.ClientSession | None = None

    @property
    def address(self) -> str:
        return self._url

    @property
    def is_loopback(self) -> bool:
        return trust.is_loopback(self._url)

    async def exchange(
        self, body: bytes, *, wait: int, timeout: float, max_bytes: int, as_operator: bool = False
    ) -> Reply:
        headers = {"Content-Type": "application/json"}
        if as_operator and self._operator_token is not None:
            headers["Authorization"] = self._authorisation(self._operator_token)
        if wait > 0:
            headers["Prefer"] = f"wait={wait}"
        response, content = await self._request("POST", self._url, body, headers, timeout, max_bytes)
        status = response.status
        retry_after = _seconds(response.headers.get("Retry-After"))
        if status in _BUSY_STATUS:
            raise Busy(
                f"{self._url} is busy: HTTP {status} {response.reason or ''}".rstrip(),
                code=8,
                retry_after=retry_after,
            )
        if status in _GATEWAY_STATUS:
            raise CannotConnect(self._url, f"a proxy answered HTTP {status}")
        if 300 <= status < 400:
            raise BadAnswer(
                f"{self._url} redirects (HTTP {status}), and redirects are not followed: give the address itself"
            )
        return Reply(body=content, retry_after=retry_after, status_text=f"HTTP {status}")

    async def get(self, path: str, *, timeout: float) -> Page:
        """GET another of the service's pages, whatever its HTTP status.

        Raises:
            CannotConnect, BadAnswer
        """
        parts = urlsplit(self._url)
        url = f"{parts.scheme}://{parts.netloc}{path}"
        headers = {"Accept": "application/json"}
        response, content = await self._request("GET", url, None, headers, timeout, MAX_RECORD_BYTES)
        return Page(status=response.status, body=content, date=_date(response.headers.get("Date")))

    async def events(
        self, work_order_id: WorkOrderId, *, last_event_id: str, timeout: float
    ) -> AsyncGenerator[ServerEvent, None]:
        parts = urlsplit(self._url)
        url = f"{parts.scheme}://{parts.netloc}/orders/{quote(work_order_id, safe='')}/events"
        headers = {"Accept": EVENT_STREAM, "Cache-Control": "no-store"}
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id
        limits = aiohttp.ClientTimeout(
            total=max(timeout, 0.001), sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
        )
        with self._translated(timeout):
            async with self._send("GET", url, None, headers, limits) as response:
                if response.status == 204:
                    return
                if response.status != 200:
                    raise self._no_events(
                        work_order_id, response, await self._read(response, _MAX_FAULT_BYTES)
                    )
                if response.content_type != EVENT_STREAM:
                    raise NotOffered(f"{url} is not a stream of events", code=-32601)
                parser = EventParser()
                async for chunk in response.content.iter_any():
                    for event in parser.feed(chunk):
                        yield event

    def _no_events(
        self, work_order_id: WorkOrderId, response: aiohttp.ClientResponse, body: bytes
    ) -> AvalonClientError:
        status = response.status
        if status in _BUSY_STATUS:
            retry_after = _seconds(response.headers.get("Retry-After"))
            return Busy(f"{self._url} is busy: HTTP {status}", code=8, retry_after=retry_after)
        if status in _GATEWAY_STATUS:
            return CannotConnect(self._url, f"a proxy answered HTTP {status}")
        if status == 404 and b"no such order" in body:
            return NoSuchOrder(
                f"{self._url} has no work order {work_order_id}: it never arrived, or was purged. Submit it anew."
            )
        return NotOffered(f"{self._url} sends no events of orders: HTTP {status}", code=-32601)

    def _authorisation(self, source: TokenSource) -> str:
        if urlsplit(self._url).scheme != "https" and not self.is_loopback:
            raise BadRequest(
                f"the operator's token is not sent to {self._url} in clear text: use https, or call from the "
                "service's own machine"
            )
        return header_of(source)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _request(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: dict[str, str],
        timeout: float,
        max_bytes: int,
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        # To aiohttp a total of 0 means no limit at all.
        limits = aiohttp.ClientTimeout(total=max(timeout, 0.001), sock_connect=CONNECT_SECONDS)
        with self._translated(timeout):
            async with self._send(method, url, body, headers, limits) as response:
                return response, await self._read(response, max_bytes)

    def _send(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: dict[str, str],
        limits: aiohttp.ClientTimeout,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._open_session().request(
            method,
            url,
            data=body,
            headers=headers | {"Accept-Encoding": "identity"},
            timeout=limits,
            allow_redirects=False,
            ssl=self._tls if self._tls is not None else True,
        )

    @contextmanager
    def _translated(self, timeout: float) -> Iterator[None]:
        """The one edge at which errors of HTTP become ours."""
        try:
            yield
        except aiohttp.ClientSSLError as exc:
            raise CannotConnect(
                self._url, f"the secure connection is not acceptable ({exc})", may_pass=False
            ) from exc
        except TimeoutError as exc:
            raise CannotConnect(self._url, f"nothing within {timeout:.1f} s") from exc
        except aiohttp.ClientConnectorError as exc:
            raise CannotConnect(self._url, _why(exc.os_error)) from exc
        except aiohttp.ClientResponseError as exc:
            raise BadAnswer(
                f"{self._url} does not answer in HTTP: {exc.message}. Check the address."
            ) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise CannotConnect(self._url, "the connection was lost") from exc

    async def _read(self, response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
        content = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            content += chunk
            if len(content) > max_bytes:
                response.close()
                raise BadAnswer(
                    f"{self._url} answered more than {max_bytes} bytes, which no service needs to: refused"
                )
        return bytes(content)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        return self._session


def _why(error: OSError) -> str:
    """The system's words for a connection that was not made; asyncio's own are about its calls."""
    known = error.errno is not None and error.errno > 0
    return os.strerror(error.errno or 0).lower() if known else error.strerror or "no connection"


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After is seconds or a date (RFC 9110, section 10.2.3); anything else is as if it were not there."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return min(float(retry_after), MAX_RETRY_AFTER_SECONDS)
    date = _date(retry_after)
    if date is None:
        return None
    return min(max(0.0, (date - datetime.now(UTC)).total_seconds()), MAX_RETRY_AFTER_SECONDS)


def _date(text: str | None) -> datetime | None:
    try:
        date = email.utils.parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
