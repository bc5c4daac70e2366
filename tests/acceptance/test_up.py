"""``avalon up`` as an operator meets it."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from service_process import Requester, ServiceProcess

pytestmark = [pytest.mark.acceptance]

Start = Callable[..., ServiceProcess]


def test_a_port_that_is_taken_is_said_with_the_remedy(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service = start(port=taken.getsockname()[1])
        assert service.process.wait(30) == 3
    assert "choose another with --port" in service.log
    assert "Traceback" not in service.log


def test_a_second_service_on_one_data_directory_is_refused(start: Start) -> None:
    first = start().wait_ready()
    second = start()
    assert second.process.wait(30) == 3
    assert str(first.process.pid) in second.log
    assert "in use" in second.log


def test_a_data_directory_that_cannot_be_made_is_said(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    service = start("--data-dir", str(tmp_path / "file" / "below"))
    assert service.process.wait(30) == 3
    assert "--data-dir" in service.log


def test_production_refuses_the_simulated_platform(start: Start) -> None:
    service = start("--profile", "production")
    assert service.process.wait(30) == 3
    assert "refuses the simulated platform" in service.log


def test_a_wrong_setting_is_a_usage_error_that_names_it(start: Start) -> None:
    service = start(environment={"AVALON_LEASE_SECONDS": "soon"})
    assert service.process.wait(30) == 2
    assert "lease_seconds" in service.log
    assert "AVALON_LEASE_SECONDS" in service.log


def test_sealed_keys_of_another_machine_are_not_replaced_silently(start: Start, tmp_path: Path) -> None:
    assert start().wait_ready().stop() == 0
    [sealed] = (tmp_path / "data").glob("workers/*/sealed-keys")
    damaged = bytearray(sealed.read_bytes())
    damaged[-1] ^= 1
    sealed.write_bytes(damaged)
    service = start()
    assert service.process.wait(60) == 3
    assert "remove them to start with new keys" in service.log
    assert sealed.read_bytes() == bytes(damaged), (
        "the keys that orders may be sealed to must not be overwritten"
    )


def test_state_is_readable_by_its_owner_only(start: Start, tmp_path: Path) -> None:
    start().wait_ready()
    for path in [tmp_path / "data", *(tmp_path / "data").rglob("*")]:
        assert not path.stat().st_mode & 0o077, f"{path} is readable by others"


async def test_a_synchronous_order_has_a_real_deadline(
    start: Start, session: aiohttp.ClientSession, slow_workload: Path
) -> None:
    service = start(environment={"PYTHONPATH": str(slow_workload)}).wait_ready()
    requester = Requester(service.url, session)
    await requester.meet_worker()
    late = requester.seal([b"20"], workload="test-sleep", timeout_msecs=500)
    began = time.monotonic()
    answer = await requester.submit(late)
    assert 0.4 < time.monotonic() - began < 5
    assert answer["error"]["code"] == 1
    assert "responseTimeoutMSecs" in answer["error"]["message"] or "deadline" in answer["error"]["message"]
    assert answer["error"]["data"]["workOrderId"] == late.request.work_order_id
    # The late result is refused for good, and other orders are served meanwhile.
    quick = requester.seal([b"x"], timeout_msecs=5000)
    assert requester.open(quick, await requester.submit(quick)) == [b"RESULT: x"]
    assert (await requester.result(late, wait=1))["error"]["code"] == 1


async def test_a_workload_that_fails_leaks_nothing(
    start: Start, session: aiohttp.ClientSession, slow_workload: Path, tmp_path: Path
) -> None:
    service = start(environment={"PYTHONPATH": str(slow_workload)}).wait_ready()
    requester = Requester(service.url, session)
    await requester.meet_worker()
    canary = os.urandom(12).hex()
    for workload in ("test-raise", "test-print"):
        sealed = requester.seal([canary.encode()], workload=workload)
        answer = await requester.submit(sealed, wait=30)
        if workload == "test-raise":
            assert answer["error"]["code"] == 1
        else:
            assert requester.open(sealed, answer) == [b"printed"]
        assert canary not in str(answer)
    assert await asyncio.to_thread(service.stop) == 0
    for path in [service.log_path, *(tmp_path / "data").rglob("*")]:
        if path.is_file():
            assert canary.encode() not in path.read_bytes(), path


async def test_slow_workloads_delay_nobody_else(
    start: Start, session: aiohttp.ClientSession, slow_workload: Path
) -> None:
    service = start(environment={"PYTHONPATH": str(slow_workload)}).wait_ready()
    requester = Requester(service.url, session)
    await requester.meet_worker()
    slow = [requester.seal([b"25"], workload="test-sleep") for _ in range(4)]
    for order in slow:
        assert (await requester.submit(order))["error"]["code"] == 5
    for suite in ("~avalon-hpke-1", "avalon"):
        quick = requester.seal([b"x"], suite=suite)
        assert requester.open(quick, await requester.submit(quick, wait=15)) == [b"RESULT: x"]
    # They were overtaken: none of the slow ones is done.
    assert [(await requester.result(order, wait=0))["error"]["code"] for order in slow] == [5] * 4
