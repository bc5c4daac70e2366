"""Evidence of a running service: issued by a simulated machine, refreshed, and judged by policies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from service_process import AVALON, WORKER_ID, Requester, ServiceProcess, wait_until

from avalon_sdk import AvalonClient, TrustPolicy, UntrustedWorker, load_policy

pytestmark = [pytest.mark.acceptance]

Start = Callable[..., ServiceProcess]


def avalon(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([AVALON, *arguments], capture_output=True, text=True, timeout=60, check=False)


def quoting_process(service: ServiceProcess) -> psutil.Process:
    [found] = [
        child
        for child in psutil.Process(service.process.pid).children()
        if "avalon_service.quoting" in child.cmdline()
    ]
    return found


async def record_of(requester: Requester) -> dict[str, Any]:
    answer = await requester.call("WorkerRetrieve", {"workerId": WORKER_ID})
    return answer["result"]["details"]["workerTypeData"]


async def next_record(requester: Requester, before: dict[str, Any]) -> dict[str, Any]:
    """The record once its evidence is another."""
    for _ in range(600):
        record = await record_of(requester)
        if record["keyBinding"]["nonce"] != before["keyBinding"]["nonce"]:
            return record
        await asyncio.sleep(0.05)
    raise AssertionError("the evidence was not refreshed")


async def test_evidence_is_refreshed_and_orders_go_on(start: Start, session: aiohttp.ClientSession) -> None:
    service = start(environment={"AVALON_EVIDENCE_REFRESH_SECONDS": "0.5"}).wait_ready()
    requester = Requester(service.url, session)
    worker = await requester.meet_worker()
    sealed = requester.seal([b"a"])
    first = await record_of(requester)
    second = await next_record(requester, first)
    changed = {name for name in second if second[name] != first.get(name)}
    assert changed == {"proofData", "keyBinding"}
    again = await requester.meet_worker()
    assert again.verification_key == worker.verification_key
    assert requester.open(sealed, await requester.submit(sealed, wait=30)) == [b"RESULT: a"]
    # The quoting process dies: the worker goes on, and has new evidence once there is a new process.
    quoting_process(service).send_signal(signal.SIGKILL)
    other = requester.seal([b"b"])
    assert requester.open(other, await requester.submit(other, wait=30)) == [b"RESULT: b"]
    third = await next_record(requester, await record_of(requester))
    await next_record(requester, third)
    assert "quoting process ended" in service.log
    await requester.meet_worker()
    assert service.stop() == 0


def test_the_quoting_process_ends_with_the_service_however_it_ends(start: Start) -> None:
    service = start().wait_ready()
    quoting = quoting_process(service)
    service.kill()
    wait_until(lambda: not quoting.is_running() or quoting.status() == psutil.STATUS_ZOMBIE)


def test_a_quoting_process_that_cannot_be_started_is_said(start: Start, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    service = start(environment={"TMPDIR": str(long)})
    assert service.process.wait(30) == 3
    assert "quoting process cannot be started" in service.log
    assert "Traceback" not in service.log


async def test_the_policy_that_the_service_writes_admits_it_and_nobody_else(
    start: Start, tmp_path: Path
) -> None:
    service = start().wait_ready()
    path = service.data_dir / "policy.toml"
    assert path.stat().st_mode & 0o077 == 0
    done = avalon("submit", "echo-result", "hello", "--url", service.url, "--policy", str(path))
    assert (done.returncode, done.stdout) == (0, "RESULT: hello\n"), done.stderr
    assert "SIMULATED" in done.stderr
    shown = json.loads(avalon("worker", "show", "--url", service.url, "--policy", str(path), "--json").stdout)
    assert (shown["mode"], shown["verdict"], shown["problems"]) == ("SIMULATED sgx", "passed", [])
    # Other code is another measurement, and the policy of before refuses it.
    site = tmp_path / "site" / "more-1.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    (site / "entry_points.txt").write_text("[avalon.workloads]\nmore = more_workloads:Missing\n")
    kept = tmp_path / "policy.toml"
    kept.write_bytes(path.read_bytes())
    assert service.stop() == 0
    changed = start(environment={"PYTHONPATH": str(site.parent)}).wait_ready()
    async with AvalonClient(changed.url, trust=load_policy(kept)) as client:
        with pytest.raises(UntrustedWorker, match="code identity failed"):
            await client.run("echo-result", ["secret"])
    async with AvalonClient(changed.url, trust=load_policy(path)) as client:
        assert (await client.run("echo-result", ["hello"])).texts() == ["RESULT: hello"]


async def test_a_policy_for_production_refuses_the_simulators_worker(start: Start) -> None:
    service = start().wait_ready()
    shown = json.loads(avalon("worker", "show", "--url", service.url, "--json").stdout)
    measurement = shown["measurement"]
    refused = avalon("submit", "echo-result", "x", "--url", service.url, "--measurement", measurement)
    assert refused.returncode == 4
    assert "accepted root failed" in refused.stderr
    async with AvalonClient(service.url, trust=TrustPolicy.production({measurement})) as client:
        [listed] = await client.workers()
        assert [check.name for check in listed.report.problems] == ["accepted root"]
        with pytest.raises(UntrustedWorker, match="SIMULATED"):
            await client.run("echo-result", ["secret"])
    told = avalon("workers", "--url", service.url, "--measurement", measurement).stdout
    assert "NOT trusted: 1 of " in told
    assert "accepted root failed: got simulator (SIMULATED)" in told


def test_what_avalon_measure_says_is_what_the_evidence_carries(start: Start) -> None:
    service = start().wait_ready()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AVALON_")}
    measured = subprocess.run(
        [AVALON, "measure", "--json"], capture_output=True, text=True, check=True, env=environment
    )
    shown = json.loads(avalon("worker", "show", "--url", service.url, "--json").stdout)
    assert shown["measurement"] == json.loads(measured.stdout)["measurement"]


async def test_the_simulated_machine_can_be_one_with_tdx(
    start: Start, session: aiohttp.ClientSession
) -> None:
    service = start(environment={"AVALON_SIMULATED_KIND": "tdx"}).wait_ready()
    requester = Requester(service.url, session)
    worker = await requester.meet_worker()
    assert worker.report.claims is not None
    assert (worker.report.claims.tee, len(worker.report.claims.measurement)) == ("tdx", 96)
    assert (await record_of(requester))["proofDataType"] == "TEE-TDX"
    path = service.data_dir / "policy.toml"
    assert avalon("submit", "echo-result", "x", "--url", service.url, "--policy", str(path)).returncode == 0


async def test_a_pools_evidence_is_refreshed_too_and_its_policy_admits_its_kmes_and_wpes(
    start: Start, session: aiohttp.ClientSession
) -> None:
    settings = {"AVALON_POOL": "true", "AVALON_POOL_WPES": "1", "AVALON_EVIDENCE_REFRESH_SECONDS": "1"}
    service = start(environment=settings).wait_ready()
    requester = Requester(service.url, session)
    worker = await requester.meet_worker()
    second = await next_record(requester, await record_of(requester))
    assert second["verificationKey"] == worker.verification_key.pem
    policy = load_policy(service.data_dir / "policy.toml")
    async with AvalonClient(service.url, trust=policy) as client:
        assert (await client.run("echo-result", ["hello"])).texts() == ["RESULT: hello"]
