"""One HTTP POST to an address that a requester chose. See `addresses` for where it goes and where not."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from avalon_service.deliveries.addresses import AddressRefused, AddressRules

_DNS_THREADS = 32
"""Names that are resolved at a time. Threads of their own: a requester's slow name server delays nobody else's work."""

_MAX_HEADER_CHARS = 8190
_MAX_HEADERS = 64
_READ_AHEAD = 4096
"""Bytes of an answer that may lie in memory. Only its status is looked at."""

_TRY_AGAIN = frozenset({408, 425, 429})

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a name and a port to addresses."""


class PostFailed(Exception):
    """The receiver did not take it; it may later."""


class PostRefused(Exception):
    """The receiver does not want it, or the service does not post there: trying again is no use."""


class Poster(Protocol):
    """Posts."""

    async def post(self, uri: str, body: bytes, *, key: str) -> None:
        """Post JSON once.

        Args:
            uri: where to.
            body: the JSON.
            key: tells the receiver that two posts are the same one.

        Raises:
            PostFailed, PostRefused
        """
        ...


class PinnedResolver(AbstractResolver):
    """Resolves a name once and lets nothing through unless every address is allowed; the client connects to those."""

    def __init__(self, rules: AddressRules, resolve: Resolve) -> None:
        self._rules = rules
        self._resolve = resolve

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """See `AbstractResolver.resolve`."""
        found = [ipaddress.ip_address(text) for text in await self._resolve(host, port)]
        for address in found:
            self._rules.check_address(address)
        if not found:
            raise OSError("the name has no address")
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in found
        ]

    async def close(self) -> None:
        """See `AbstractResolver.close`."""


class HttpPoster:
    """A `Poster`; made inside the event loop."""

    def __init__(self, rules: AddressRules, *, timeout: float, resolve: Resolve | None = None) -> None:
        self._rules = rules
        self._threads = ThreadPoolExecutor(max_workers=_DNS_THREADS, thread_name_prefix="avalon-dns")
        connector = aiohttp.TCPConnector(
            resolver=PinnedResolver(rules, resolve or self._look_up),
            use_dns_cache=False,  # each post is checked anew
            force_close=True,
            limit=0,  # who may post, and how many at a time, is the deliverer's to say
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=timeout),
            trust_env=False,  # a proxy would resolve the name again, unchecked
            auto_decompress=False,
            read_bufsize=_READ_AHEAD,
            max_line_size=_MAX_HEADER_CHARS,
            max_field_size=_MAX_HEADER_CHARS,
            max_headers=_MAX_HEADERS,
            headers={"content-type": "application/json", "user-agent": "avalon-service"},
        )

    async def post(self, uri: str, body: bytes, *, key: str) -> None:
        """See `Poster.post`."""
        try:
            url = self._rules.check_uri(uri)
            async with self._session.post(
                url, data=body, headers={"idempotency-key": key}, allow_redirects=False
            ) as answer:
                status = answer.status
                answer.close()
        except AddressRefused as exc:
            raise PostRefused(str(exc)) from exc
        except TimeoutError as exc:
            raise PostFailed("no answer in time") from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise PostFailed(_brief(exc)) from exc
        _check_status(status)

    async def close(self) -> None:
        """End every connection."""
        await self._session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _look_up(self, host: str, port: int) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _get_addresses, host, port)
        return list(dict.fromkeys(found))


def _get_addresses(host: str, port: int) -> list[str]:
    return [str(place[0]) for _, _, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _check_status(status: int) -> None:
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        raise PostRefused(f"answered with a redirect ({status}), which is not followed")
    if 400 <= status < 500 and status not in _TRY_AGAIN:
        raise PostRefused(f"refused with status {status}")
    raise PostFailed(f"answered with status {status}")


def _brief(exc: Exception) -> str:
    """What went wrong, in the service's words: what the receiver sent is not repeated."""
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return "the name cannot be resolved"
    if isinstance(exc, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return f"no secure connection: {type(exc).__name__}"
    if isinstance(exc, aiohttp.ClientConnectorError):
        return f"cannot connect: {exc.os_error.strerror or type(exc.os_error).__name__}"
    return f"the exchange broke off: {type(exc).__name__}"
