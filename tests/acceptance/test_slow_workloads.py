"""Orders of slow and hung workloads, more than a service has threads, processes and places for: nobody else notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from service_process import Requester, ServiceProcess

pytestmark = [pytest.mark.acceptance]

THREADS, CHILDREN, IN_FLIGHT, SLOW = 2, 2, 4, 40
SOON = 2.0
"""Seconds; an echo takes some milliseconds. Without mercy for slow machines the slow orders would take minutes."""


@pytest.mark.parametrize("slow_requesters", [1, SLOW])
async def test_slow_orders_delay_nobody_however_many_there_are(
    start: Callable[..., ServiceProcess],
    session: aiohttp.ClientSession,
    slow_workload: Path,
    slow_requesters: int,
) -> None:
    service = start(
        environment={
            "PYTHONPATH": str(slow_workload),
            "AVALON_ENCLAVE_THREADS": str(THREADS),
            "AVALON_ENCLAVE_CHILDREN": str(CHILDREN),
            "AVALON_IN_FLIGHT": str(IN_FLIGHT),
        }
    )
    await asyncio.to_thread(service.wait_ready)
    requester = Requester(service.url, session)
    await requester.meet_worker()
    warm = requester.seal([b"x"], workload="test-print")
    assert requester.open(warm, await requester.submit(warm, wait=30)) == [b"printed"]
    for number in range(SLOW):
        slow = requester.seal([b"29"], workload="test-sleep", requester_id=f"{number % slow_requesters:064x}")
        await requester.submit(slow)
    for number in range(10):
        for workload, expected in (("echo-result", b"RESULT: %d" % number), ("test-print", b"printed")):
            sealed = requester.seal([b"%d" % number], workload=workload)
            began = time.monotonic()
            answer = await requester.submit(sealed, wait=30)
            assert time.monotonic() - began < SOON, workload
            assert requester.open(sealed, answer) == [expected]
    assert service.stop() == 0
