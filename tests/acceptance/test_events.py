"""An order's events, and clients that go away, against a real service."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from service_process import Requester, ServiceProcess, wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

Start = Callable[..., ServiceProcess]


class Events:
    """A stream of events, read as a browser reads it."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.last_id = ""
        self.beats = 0

    async def next(self) -> tuple[str, Any] | None:
        """Name and data of the next event, or None at the end of the stream."""
        name, data = "", ""
        async for raw in self.answer.content:
            line = raw.decode().rstrip("\n")
            if not line:
                if data:
                    return name, json.loads(data)
                continue
            member, _, value = line.partition(":")
            match member:
                case "id":
                    self.last_id = value.strip()
                case "event":
                    name = value.strip()
                case "data":
                    data = value
                case "":
                    self.beats += 1
        return None

    async def rest(self) -> list[tuple[str, Any]]:
        """All events until the end of the stream."""
        events = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events


@contextlib.asynccontextmanager
async def follow(
    requester: Requester, work_order_id: str, last_id: str | None = None
) -> AsyncIterator[Events]:
    headers = {"last-event-id": last_id} if last_id is not None else {}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session,
        session.get(f"{requester.url}/orders/{work_order_id}/events", headers=headers) as answer,
    ):
        yield Events(answer)


async def slow_service(start: Start, slow_workload: Path, **environment: str) -> ServiceProcess:
    process = start(environment={"PYTHONPATH": str(slow_workload), **environment})
    return await asyncio.to_thread(process.wait_ready)


async def requester_of(service: ServiceProcess, session: aiohttp.ClientSession) -> Requester:
    requester = Requester(service.url, session)
    await requester.meet_worker()
    return requester


async def test_a_stream_tells_of_every_transition_and_ends(
    start: Start, session: aiohttp.ClientSession, slow_workload: Path
) -> None:
    service = await slow_service(start, slow_workload, AVALON_EVENT_HEARTBEAT_SECONDS="0.2")
    requester = await requester_of(service, session)
    sealed = requester.seal([b"1.5"], workload="test-sleep")
    work_order_id = sealed.request.work_order_id
    await requester.submit(sealed)
    async with follow(requester, work_order_id) as events:
        assert events.answer.status == 200
        assert events.answer.content_type == "text/event-stream"
        seen = await events.rest()
        states = [data["state"] for name, data in seen if name == "state"]
        assert states in (["scheduled", "processing", "completed"], ["processing", "completed"])
        assert seen[-1][0] == "end"
        assert seen[-1][1]["attempts"] == 1
        assert {data["workOrderId"] for _, data in seen} == {work_order_id}
        assert [data["at"] for _, data in seen] == sorted(data["at"] for _, data in seen)
        assert events.beats >= 2
        last_id = events.last_id
    async with follow(
        requester, work_order_id, "processing-1"
    ) as events:  # what a client that was cut off missed
        assert [data["state"] for _, data in await events.rest()] == ["completed", "completed"]
    async with follow(requester, work_order_id, last_id) as events:
        assert events.answer.status == 204  # it knows: it shall not come back


async def test_an_order_put_back_is_scheduled_again(
    start: Start, session: aiohttp.ClientSession, slow_workload: Path
) -> None:
    service = await slow_service(start, slow_workload)
    requester = await requester_of(service, session)
    sealed = requester.seal([b"2"], workload="test-sleep")
    await requester.submit(sealed)
    async with follow(requester, sealed.request.work_order_id) as events:
        event = await events.next()
        while event is not None and event[1]["state"] != "processing":
            event = await events.next()
        [enclave] = service.enclaves()
        enclave.kill()
        told = [(data["state"], data["attempts"]) for name, data in await events.rest() if name == "state"]
        assert told == [("scheduled", 1), ("processing", 2), ("completed", 2)]


async def test_an_unknown_order_has_no_events(requester: Requester) -> None:
    async with follow(requester, "ab" * 32) as events:
        assert events.answer.status == 404
    async with follow(requester, "../../status") as events:
        assert events.answer.status in (200, 404)
        assert events.answer.content_type == "application/json"


async def test_streams_end_with_the_service_and_are_capped(
    start: Start, session: aiohttp.ClientSession, slow_workload: Path
) -> None:
    service = await slow_service(start, slow_workload, AVALON_MAX_EVENT_STREAMS="3")
    requester = await requester_of(service, session)
    sealed = requester.seal([b"20"], workload="test-sleep")
    work_order_id = sealed.request.work_order_id
    await requester.submit(sealed)
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(follow(requester, work_order_id)) for _ in range(3)]
        async with follow(requester, work_order_id) as refused:
            assert refused.answer.status == 503
            assert "retry-after" in refused.answer.headers
        await stack.pop_all().aclose()
        assert streams

    async def open_streams() -> int:
        return json.loads((await requester.get("/status"))[1])["event_streams"]

    async with asyncio.timeout(10):
        while await open_streams():  # noqa: ASYNC110 (of clients that went away the service tells only on its page)
            await asyncio.sleep(0.02)
    async with follow(requester, work_order_id) as events:
        assert await events.next() is not None
        rest = asyncio.create_task(events.rest())
        service.process.terminate()
        await asyncio.wait_for(rest, 10)
    assert await asyncio.to_thread(service.stop) == 0, service.log
    assert "Traceback" not in service.log


async def test_calls_of_clients_that_went_away_end(
    start: Start, session: aiohttp.ClientSession, slow_workload: Path
) -> None:
    """Three hundred, each with a call of 256 KB that would wait for a minute."""
    service = await slow_service(start, slow_workload)
    requester = await requester_of(service, session)
    sealed = requester.seal([b"25"], workload="test-sleep")
    await requester.submit(sealed)
    process = psutil.Process(service.process.pid)
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "WorkOrderGetResult",
        "params": {"workOrderId": sealed.request.work_order_id},
    }
    body = json.dumps(call).encode() + b" " * 256 * 1024
    head = b"POST / HTTP/1.1\r\nhost: x\r\nprefer: wait=60\r\ncontent-length: %d\r\n\r\n" % len(body)
    before = process.num_fds()
    writers = []
    for _ in range(300):
        _, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(head + body)
        await writer.drain()
        writers.append(writer)
    for writer in writers:
        writer.transport.abort()
    await asyncio.to_thread(wait_until, lambda: process.num_fds() <= before + 5)
    status = json.loads((await requester.get("/status"))[1])
    async with asyncio.timeout(10):
        while status["calls_under_way"]:
            await asyncio.sleep(0.1)
            status = json.loads((await requester.get("/status"))[1])
    assert "Traceback" not in service.log
