"""A service in memory, and the same one behind a real HTTP server on a free loopback port."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from avalon_sdk.testing import SimulatedService

Handler = Callable[[web.Request, bytes], Awaitable[web.StreamResponse | None]]


@dataclass
class HttpService:
    """A simulated service behind HTTP. ``misbehave`` may answer a POST in its place."""

    service: SimulatedService
    url: str = ""
    misbehave: Handler | None = None
    ready: bool = True
    status: Any = None
    posts: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def post(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.posts.append((dict(request.headers), body))
        if self.misbehave is not None:
            answered = await self.misbehave(request, body)
            if answered is not None:
                return answered
        wait = int(request.headers.get("Prefer", "wait=0").removeprefix("wait="))
        token = request.headers.get("Authorization", "").removeprefix("Bearer ") or None
        answer = await self.service.answer(body, wait=wait, token=token)
        return web.Response(body=answer, content_type="application/json")

    async def events(self, request: web.Request) -> web.StreamResponse:
        work_order_id = request.match_info["id"]
        if not self.service.sends_events:
            return web.Response(status=404, text='{"error":"no such page"}')
        if not self.service.has_order(work_order_id):
            return web.Response(status=404, text='{"error":"no such order here"}')
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with suppress(ConnectionError):
            async for chunk in self.service.events(work_order_id, request.headers.get("Last-Event-ID", "")):
                await response.write(chunk)
        return response

    async def healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def readyz(self, request: web.Request) -> web.Response:
        return web.Response(text="ready") if self.ready else web.Response(status=503, text="no worker yet")

    async def show_status(self, request: web.Request) -> web.Response:
        return web.json_response(self.status) if self.status is not None else web.Response(status=404)


@pytest.fixture
def service() -> SimulatedService:
    return SimulatedService()


@pytest.fixture
async def http_service(service: SimulatedService) -> AsyncIterator[HttpService]:
    http = HttpService(service=service)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_get("/healthz", http.healthz)
    app.router.add_get("/readyz", http.readyz)
    app.router.add_get("/status", http.show_status)
    app.router.add_get("/orders/{id}/events", http.events)
    app.router.add_post("/{path:.*}", http.post)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    http.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield http
    await runner.cleanup()


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Avalon = Callable[..., Awaitable[Ran]]


@pytest.fixture
def avalon() -> Avalon:
    """Runs the command as a process of its own."""

    async def run(*arguments: str, stdin: bytes = b"", **env: str) -> Ran:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("AVALON_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from avalon_sdk.cli import main; main()",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=clean | {"COLUMNS": "200"} | env,
        )
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return Ran(process.returncode, out.decode(), err.decode())

    return run
