"""One bounded GET to a vendor's service. Foreign exceptions end here.

What a service may do to its caller is bounded: an answer has a largest size, a call a longest time, a redirect leads to the
same service or nowhere, no compression is accepted, and no proxy is taken from the environment. Nothing is said about
whether the answer is any good.
"""

import email.utils
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urljoin, urlsplit

import aiohttp

from avalon_sdk.collateral.errors import BadCollateral, NoSuchCollateral, VendorBusy, VendorUnreachable
from avalon_sdk.deadline import Deadline

CONNECT_SECONDS = 5.0
CALL_SECONDS = 15.0
"""For one call; the deadline bounds all of them together."""

MAX_REDIRECTS = 3
MAX_HEADER_BYTES = 64 * 1024
"""Issuer chains travel in headers: two certificates, percent-encoded, have about 4 KB."""

MAX_RETRY_AFTER_SECONDS = 3600.0
_CHUNK_BYTES = 64 * 1024
_BUSY = frozenset({429, 503})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NONE = frozenset({404, 410, 461, 462})
"""461 and 462 are a PCCS' own: it does not know the platform, or has no certificate of its TCB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer with status 200."""

    headers: Mapping[str, str]
    """By lower-case name."""

    body: bytes = field(repr=False)


class VendorHttp:
    """A client of vendors' services."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        """``tls``: to trust a private certificate authority, as those of many a PCCS are."""
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def get(
        self, url: str, *, headers: Mapping[str, str], max_bytes: int, deadline: Deadline
    ) -> Answer:
        """One attempt.

        Raises:
            NoSuchCollateral: the service says that there is none.
            VendorBusy, VendorUnreachable, BadCollateral
        """
        seconds = max(min(CALL_SECONDS, deadline.left), 0.001)
        with _translated(url, seconds):
            for _ in range(MAX_REDIRECTS + 1):
                answer = await self._call(url, headers, max_bytes, seconds)
                if isinstance(answer, Answer):
                    return answer
                url = answer
        raise BadCollateral(f"{_shown(url)} redirects more than {MAX_REDIRECTS} times")

    async def close(self) -> None:
        """Give connections back."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _call(
        self, url: str, headers: Mapping[str, str], max_bytes: int, seconds: float
    ) -> Answer | str:
        """The answer, or where the service redirects to."""
        async with self._open_session().get(
            url,
            headers={**headers, "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS),
            allow_redirects=False,
            ssl=self._tls if self._tls is not None else True,
        ) as response:
            if response.status in _REDIRECTS:
                return _same_service(url, response.headers.get("Location", ""))
            if response.status != 200:
                raise _fault(url, response)
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise BadCollateral(f"{_shown(url)} answers in an encoding that was not asked for: refused")
            body = await _read(url, response, max_bytes)
            return Answer(
                headers={name.lower(): value for name, value in response.headers.items()}, body=body
            )

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False, max_line_size=MAX_HEADER_BYTES, max_field_size=MAX_HEADER_BYTES
            )
        return self._session


def _fault(url: str, response: aiohttp.ClientResponse) -> Exception:
    status = response.status
    if status in _NONE:
        return NoSuchCollateral(
            f"{_shown(url)} has none (HTTP {status}): is it this vendor's platform, of a kind that it supports, and does "
            "this service know it?"
        )
    if status in _BUSY:
        return VendorBusy(
            _shown(url), status=status, retry_after=_seconds(response.headers.get("Retry-After"))
        )
    if status in (401, 403):
        return BadCollateral(
            f"{_shown(url)} wants to be shown a key (HTTP {status}): give a subscription key"
        )
    if status >= 500:
        return VendorUnreachable(_shown(url), f"it is broken (HTTP {status})")
    return BadCollateral(f"{_shown(url)} does not take the request (HTTP {status}): is it such a service?")


def _same_service(url: str, location: str) -> str:
    """Where a redirect leads.

    Raises:
        BadCollateral: to another host, port or scheme, or nowhere.
    """
    try:
        target = urljoin(url, location)
        here, there = urlsplit(url), urlsplit(target)
        same = (here.scheme, here.hostname, here.port) == (there.scheme, there.hostname, there.port)
    except ValueError:
        same = False
    if not location or not same:
        raise BadCollateral(
            f"{_shown(url)} redirects elsewhere ({location[:100]!r}), which is not followed: give the address itself"
        )
    return target


async def _read(url: str, response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        content += chunk
        if len(content) > max_bytes:
            response.close()
            raise BadCollateral(f"{_shown(url)} answers more than {max_bytes} bytes: refused")
    return bytes(content)


@contextmanager
def _translated(url: str, seconds: float) -> Iterator[None]:
    """The one edge at which errors of HTTP become ours."""
    try:
        yield
    except aiohttp.ClientSSLError as exc:
        raise VendorUnreachable(
            _shown(url), f"the secure connection is not acceptable ({exc})", may_pass=False
        ) from exc
    except TimeoutError as exc:
        raise VendorUnreachable(_shown(url), f"nothing whole within {seconds:.1f} s") from exc
    except aiohttp.ClientConnectorError as exc:
        raise VendorUnreachable(_shown(url), _why(exc.os_error)) from exc
    except aiohttp.ClientResponseError as exc:
        raise BadCollateral(f"{_shown(url)} does not answer in HTTP: {exc.message}") from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise VendorUnreachable(_shown(url), "the connection was lost, or the answer was cut off") from exc


def _shown(url: str) -> str:
    """The address for people: without the query, which names platforms and is long."""
    return url.partition("?")[0]


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
    try:
        date = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return min(max(0.0, (date - datetime.now(UTC)).total_seconds()), MAX_RETRY_AFTER_SECONDS)
