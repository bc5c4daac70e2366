"""kill -9 under load: every accepted order ends with exactly one result that verifies.

The listener and the host of the enclave are one process in this deployment (ADR 6), so killing either kills both.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from service_process import SUITES, Requester, ServiceProcess, wait_until

from avalon_core.crypto.orders import SealedOrder

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

Start = Callable[..., ServiceProcess]


class Load:
    """Submits without pause until told to stop; remembers which orders were accepted."""

    def __init__(self, requester: Requester, clients: int = 8) -> None:
        self.requester = requester
        self.accepted: dict[str, SealedOrder] = {}
        self.answers: dict[str, Any] = {}
        self._stop = asyncio.Event()
        self._accepting = asyncio.Condition()
        self._clients = clients
        self.refused: list[Any] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def reached(self, count: int) -> None:
        """Return when so many orders have been accepted."""
        async with self._accepting:
            await self._accepting.wait_for(lambda: len(self.accepted) >= count)

    async def _client(self, number: int) -> None:
        while not self._stop.is_set():
            sealed = self.requester.seal([b"%d" % number], suite=SUITES[len(self.accepted) % 3])
            order_id = sealed.request.work_order_id
            try:
                answer = await self.requester.submit(sealed, wait=random.choice((0, 0, 5)))
            except (aiohttp.ClientError, ConnectionError):
                # Not acknowledged, so nothing was promised. A requester would send the same bytes again.
                await asyncio.sleep(0.05)
                continue
            if "error" in answer and answer["error"]["code"] != 5:
                self.refused.append(answer)
                continue
            async with self._accepting:
                self.accepted[order_id] = sealed
                self._accepting.notify_all()
            if "result" in answer:
                self.answers[order_id] = answer["result"]

    async def check(self, requester: Requester) -> None:
        """Every accepted order has one result, it verifies, and it is the one that was answered before."""
        assert not self.refused, self.refused[:3]
        semaphore = asyncio.Semaphore(32)

        async def check(sealed: SealedOrder) -> None:
            async with semaphore:
                answer = await requester.result(sealed, wait=30)
            assert requester.open(sealed, answer)[0].startswith(b"RESULT: ")
            order_id = sealed.request.work_order_id
            assert self.answers.setdefault(order_id, answer["result"]) == answer["result"], (
                "answered twice differently"
            )

        await asyncio.gather(*(check(sealed) for sealed in self.accepted.values()))
        await asyncio.gather(*(check(sealed) for sealed in list(self.accepted.values())[:100]))


async def test_enclave_killed_under_load(start: Start, session: aiohttp.ClientSession) -> None:
    service = start().wait_ready()
    requester = Requester(service.url, session)
    await requester.meet_worker()
    async with Load(requester) as load:
        for round_ in range(1, 5):
            await load.reached(round_ * 60)
            [enclave] = service.enclaves()
            enclave.kill()
            await asyncio.to_thread(
                wait_until, lambda old=enclave.pid: [e.pid for e in service.enclaves()] not in ([], [old])
            )
    await load.check(requester)
    assert "enclave is restarted" in service.log


async def test_service_killed_under_load_and_started_again(
    start: Start, session: aiohttp.ClientSession
) -> None:
    service = start().wait_ready()
    port = service.port
    requester = Requester(service.url, session)
    await requester.meet_worker()
    async with Load(requester) as load:
        for round_ in range(1, 4):
            await load.reached(round_ * 60)
            enclaves = service.enclaves()
            service.kill()
            await asyncio.to_thread(
                wait_until,
                lambda gone=enclaves: not any(e.is_running() and e.status() != "zombie" for e in gone),
            )
            service = start(port=port)
            await asyncio.to_thread(service.wait_ready)
    await load.check(requester)
    # The keys outlived every crash, so the record is the one that was met first.
    before = requester.worker
    assert before is not None
    assert (await requester.meet_worker()).verification_key == before.verification_key


async def test_enclave_and_service_killed_at_once(start: Start, session: aiohttp.ClientSession) -> None:
    service = start().wait_ready()
    requester = Requester(service.url, session)
    await requester.meet_worker()
    async with Load(requester) as load:
        await load.reached(80)
        for enclave in service.enclaves():
            enclave.kill()
        service.kill()
        service = start(port=service.port)
        await asyncio.to_thread(service.wait_ready)
        await load.reached(160)
    await load.check(requester)


async def test_a_stopped_enclave_is_found_out_and_replaced(
    start: Start, session: aiohttp.ClientSession
) -> None:
    service = start(environment={"AVALON_LEASE_SECONDS": "1.5"}).wait_ready()
    requester = Requester(service.url, session)
    await requester.meet_worker()
    [enclave] = service.enclaves()
    enclave.suspend()
    sealed = requester.seal([b"patience"])
    answer = await requester.submit(sealed, wait=20)
    assert requester.open(sealed, answer) == [b"RESULT: patience"]
    assert "no sign of life" in service.log


async def test_fresh_keys_make_old_orders_fail_and_say_so(
    start: Start, session: aiohttp.ClientSession
) -> None:
    service = start("--keys", "fresh").wait_ready()
    requester = Requester(service.url, session)
    await requester.meet_worker()
    sealed = requester.seal([b"x"])
    [enclave] = service.enclaves()
    enclave.kill()
    await asyncio.to_thread(
        wait_until, lambda: "orders put back" in service.log or service.log.count("enclave serves") == 2
    )
    answer = await requester.submit(sealed, wait=20)
    assert answer["error"]["code"] == 2
    assert "retrieve the worker's record again" in answer["error"]["message"]


async def test_the_end_in_order_leaves_nothing_behind(start: Start, session: aiohttp.ClientSession) -> None:
    service = start().wait_ready()
    requester = Requester(service.url, session)
    await requester.meet_worker()
    orders = [requester.seal([b"%d" % number], suite="avalon") for number in range(50)]
    await asyncio.gather(*(requester.submit(order) for order in orders))
    enclaves = service.enclaves()
    assert await asyncio.to_thread(service.stop) == 0, service.log
    assert not any(enclave.is_running() for enclave in enclaves)
    again = start(port=service.port)
    await asyncio.to_thread(again.wait_ready)
    for order in orders:
        assert requester.open(order, await requester.result(order))
