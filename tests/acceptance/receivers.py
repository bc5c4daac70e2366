"""Receivers of posts, as requesters would run them, on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from aiohttp import web


@dataclass(frozen=True, kw_only=True)
class Received:
    """One post."""

    key: str
    content_type: str
    body: bytes

    @property
    def json(self) -> object:
        return msgspec.json.decode(self.body)


class Receiver:
    """An HTTP server that keeps what is posted to it and answers as told. Use as a context manager."""

    def __init__(self, answer: Callable[[int], Awaitable[web.Response]] | None = None) -> None:
        """``answer``: makes the answer to the first, second, ... post; None: 204."""
        self._answer = answer
        self.posts: list[Received] = []
        self._arrived = asyncio.Condition()

    async def __aenter__(self) -> Receiver:
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}/here?secret=1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        assert request.method == "POST"
        post = Received(
            key=request.headers["idempotency-key"],
            content_type=request.content_type,
            body=await request.read(),
        )
        async with self._arrived:
            self.posts.append(post)
            self._arrived.notify_all()
        return await self._answer(len(self.posts)) if self._answer else web.Response(status=204)

    async def received(self, count: int, seconds: float = 30.0) -> list[Received]:
        """Wait for so many posts."""
        async with asyncio.timeout(seconds), self._arrived:
            await self._arrived.wait_for(lambda: len(self.posts) >= count)
        return self.posts


def always(status: int, **headers: str) -> Callable[[int], Awaitable[web.Response]]:
    """The same answer to every post."""

    async def answer(_: int) -> web.Response:
        return web.Response(status=status, headers=headers)

    return answer
