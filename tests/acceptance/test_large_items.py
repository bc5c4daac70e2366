"""Items as large as they may be, through a real service: right, beside others, across a crash, and out of memory again."""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest
from service_process import Requester, ServiceProcess

from avalon_core.crypto.orders import SealedOrder
from avalon_core.protocol.jsonrpc import encode_call
from avalon_core.protocol.orders import encode_request

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

Start = Callable[..., ServiceProcess]

LARGE_BYTES = 16 * 1024 * 1024 - 1024
MIB = 1024 * 1024


async def submit(
    session: aiohttp.ClientSession, service: ServiceProcess, sealed: SealedOrder, *, wait: int = 0
) -> Any:
    """As the requester's own, without what aiohttp warns of."""
    body = encode_call("WorkOrderSubmit", msgspec.Raw(encode_request(sealed.request)), 1)
    headers = {"content-type": "application/json", **({"prefer": f"wait={wait}"} if wait else {})}
    async with session.post(service.url, data=io.BytesIO(body), headers=headers) as answer:
        assert answer.status == 200
        return msgspec.json.decode(await answer.read())


def bodies(service: ServiceProcess) -> list[Path]:
    return list((service.data_dir / "avalon.sqlite.bodies").iterdir())


def memory(service: ServiceProcess) -> int:
    """Bytes that the service and its enclaves have to themselves."""
    root = psutil.Process(service.process.pid)
    return sum(int(p.memory_full_info().uss) for p in (root, *root.children(recursive=True)))


async def test_large_items_leave_memory_as_it_was(start: Start, session: aiohttp.ClientSession) -> None:
    service = start().wait_ready()
    requester = Requester(service.url, session)
    await requester.meet_worker()
    before, most = memory(service), 0
    data = os.urandom(LARGE_BYTES)
    running = True

    async def watch() -> None:
        nonlocal most
        while running:
            most = max(most, memory(service))
            await asyncio.sleep(0.05)

    async def echo() -> None:
        sealed = requester.seal([data])
        answer = await submit(session, service, sealed, wait=60)
        assert requester.open(sealed, answer) == [b"RESULT: " + data]

    async def small() -> float:
        sealed = requester.seal([b"small"])
        began = time.monotonic()
        answer = await requester.submit(sealed, wait=60)
        assert requester.open(sealed, answer) == [b"RESULT: small"]
        return time.monotonic() - began

    watching = asyncio.create_task(watch())
    for _ in range(3):
        await asyncio.gather(*(echo() for _ in range(4)), *(small() for _ in range(4)))
    running = False
    await watching
    assert len(bodies(service)) == 24
    # Twelve orders of 22 MB, four at a time: in each of both processes four times six buffers of that size at the most.
    assert most - before < 4 * 2 * 6 * 22 * MIB
    # The replay guard of the enclave keeps 32 MB of results.
    deadline = time.monotonic() + 40
    while memory(service) - before > 100 * MIB:
        assert time.monotonic() < deadline, f"{memory(service) - before} bytes were not given back"
        await asyncio.sleep(0.5)


async def test_large_orders_survive_kill_9(start: Start, session: aiohttp.ClientSession) -> None:
    data = os.urandom(3 * MIB)
    service = start().wait_ready()
    requester = Requester(service.url, session)
    await requester.meet_worker()
    sealed = [requester.seal([data]) for _ in range(6)]
    accepted = set()
    some = asyncio.Event()

    async def submit_one(number: int) -> None:
        try:
            answer = await submit(session, service, sealed[number])
        except (aiohttp.ClientError, ConnectionError):
            return
        assert answer["error"]["code"] == 5
        accepted.add(number)
        some.set()

    submitting = [asyncio.create_task(submit_one(number)) for number in range(len(sealed))]
    await some.wait()
    service.kill()
    await asyncio.gather(*submitting)
    assert accepted
    again = start(data_dir=service.data_dir).wait_ready()
    requester.url = again.url
    for number in accepted:
        answer = await requester.result(sealed[number], wait=60)
        assert requester.open(sealed[number], answer) == [b"RESULT: " + data]
    assert len(bodies(again)) <= 2 * len(sealed)
