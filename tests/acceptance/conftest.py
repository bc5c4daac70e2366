"""Fixtures: a service for a whole module, and services that a test may kill."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from service_process import Requester, ServiceProcess


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One service for a module's tests, which must leave it serving."""
    running = ServiceProcess(tmp_path_factory.mktemp("service") / "data")
    try:
        yield running.wait_ready()
        assert running.stop() == 0, running.log
    finally:
        running.kill()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ServiceProcess]]:
    """Start services of the test's own; all are ended with it."""
    started: list[ServiceProcess] = []

    def start(*arguments: str, data_dir: Path | None = None, **options: object) -> ServiceProcess:
        process = ServiceProcess(data_dir or tmp_path / "data", *arguments, **options)  # type: ignore[arg-type]
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60)) as session:
        yield session


@pytest.fixture
async def requester(service: ServiceProcess, session: aiohttp.ClientSession) -> Requester:
    """A requester who has checked the module's worker."""
    requester = Requester(service.url, session)
    await requester.meet_worker()
    return requester


_WORKLOADS = '''
"""Workloads for tests: slow, failing and talkative."""
import sys, time
from avalon_enclave.workloads.base import Isolation, ItemByItem, Limits

class Sleep(ItemByItem):
    name = "test-sleep"
    title = "Sleeps"
    input_help = "seconds"
    limits = Limits(max_items=1, max_item_bytes=16, max_output_bytes=64, seconds=30.0, isolation=Isolation.PROCESS)
    def answer(self, data, context):
        time.sleep(float(data))
        return b"slept"

class Raise(ItemByItem):
    name = "test-raise"
    title = "Raises"
    input_help = "anything"
    limits = Limits(max_items=1, max_item_bytes=64, max_output_bytes=64, seconds=5.0, isolation=Isolation.PROCESS)
    def answer(self, data, context):
        raise ValueError(data.decode())

class Print(ItemByItem):
    name = "test-print"
    title = "Prints"
    input_help = "anything"
    limits = Limits(max_items=1, max_item_bytes=64, max_output_bytes=64, seconds=5.0, isolation=Isolation.PROCESS)
    def answer(self, data, context):
        print(data.decode(), flush=True)
        print(data.decode(), file=sys.stderr, flush=True)
        return b"printed"
'''


@pytest.fixture(scope="session")
def slow_workload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH that installs workloads for tests by entry points, as a third party would."""
    folder = tmp_path_factory.mktemp("workloads")
    (folder / "avalon_test_workloads.py").write_text(_WORKLOADS)
    metadata = folder / "avalon_test_workloads-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: avalon-test-workloads\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[avalon.workloads]\n"
        "test-sleep = avalon_test_workloads:Sleep\n"
        "test-raise = avalon_test_workloads:Raise\n"
        "test-print = avalon_test_workloads:Print\n"
    )
    return folder
