"""The ways between an enclave and its host, and an enclave of another machine in a pool."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from service_process import AVALON, Requester, ServiceProcess

pytestmark = [pytest.mark.acceptance]


async def echo(service: ServiceProcess, session: aiohttp.ClientSession, text: str) -> list[bytes]:
    """One order of a requester who has checked the worker."""
    requester = Requester(service.url, session)
    await requester.meet_worker()
    sealed = requester.seal([text.encode()])
    await requester.submit(sealed)
    return requester.open(sealed, await requester.result(sealed))


@pytest.mark.parametrize("channel", ["fd", "unix", "tcp"])
async def test_an_enclave_is_reached_by_every_channel(
    channel: str, start: Callable[..., ServiceProcess], session: aiohttp.ClientSession
) -> None:
    service = start(environment={"AVALON_ENCLAVE_CHANNEL": channel}).wait_ready()
    assert await echo(service, session, "hello") == [b"RESULT: hello"]


def test_a_launcher_that_does_not_load_the_enclave_is_told(start: Callable[..., ServiceProcess]) -> None:
    service = start(
        environment={
            "AVALON_ENCLAVE_CHANNEL": "tcp",
            "AVALON_ENCLAVE_LAUNCHER": "/bin/sh,-c,echo no such TEE >&2",
        }
    )
    assert service.process.wait(timeout=30) == 3
    assert "no such TEE" in service.log


class Remote:
    """``avalon wpe`` or ``avalon kme`` as a process."""

    def __init__(self, role: str, address: str, token: Path, data: Path) -> None:
        data.mkdir()
        self.log = data / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    AVALON,
                    role,
                    "--join",
                    address,
                    "--pool-token",
                    str(token),
                    "--name",
                    f"far-{role}",
                    "--data-dir",
                    str(data),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.lines.put(line)

    def wait_joined(self) -> int:
        """The pid of the enclave, once the pool has taken it."""
        line = self.lines.get(timeout=40)
        found = re.search(r"pid (\d+)", line)
        assert found is not None, line
        assert "SIMULATED" in line
        return int(found.group(1))

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@pytest.fixture
def remotes() -> Iterator[list[Remote]]:
    started: list[Remote] = []
    yield started
    for remote in started:
        if remote.process.poll() is None:
            remote.process.kill()
        remote.process.wait()


def gate_of(service: ServiceProcess) -> str:
    """Where a pool takes enclaves: it says so before anything else starts."""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        found = re.search(r"takes enclaves of other machines address=(\S+)", service.log)
        if found is not None:
            return found.group(1)
        time.sleep(0.05)  # a log has nobody to tell that it has grown
    raise AssertionError(service.log)


async def test_enclaves_of_other_machines_make_a_pool_and_come_back(
    start: Callable[..., ServiceProcess],
    session: aiohttp.ClientSession,
    remotes: list[Remote],
    tmp_path: Path,
) -> None:
    service = start("--pool", "--kme", "1", "--wpe", "0", environment={"AVALON_POOL_LISTEN": "127.0.0.1:0"})
    address, token = gate_of(service), service.data_dir / "pool-token"
    wpe = Remote("wpe", address, token, tmp_path / "wpe")
    kme = Remote("kme", address, token, tmp_path / "kme")
    remotes += [wpe, kme]
    enclave = wpe.wait_joined()
    kme.wait_joined()
    service.wait_ready()
    assert await echo(service, session, "from afar") == [b"RESULT: from afar"]
    os.kill(enclave, signal.SIGKILL)
    assert wpe.wait_joined() != enclave, "its host brings another"
    assert await echo(service, session, "once more") == [b"RESULT: once more"]
    assert wpe.end() == 0
    assert kme.end() == 0


def test_whoever_has_another_token_is_turned_away(
    start: Callable[..., ServiceProcess], remotes: list[Remote], tmp_path: Path
) -> None:
    service = start("--pool", "--kme", "1", "--wpe", "1", environment={"AVALON_POOL_LISTEN": "127.0.0.1:0"})
    token = tmp_path / "token"
    token.write_text("00" * 32)
    remote = Remote("wpe", gate_of(service), token, tmp_path / "wpe")
    remotes.append(remote)
    assert remote.process.wait(timeout=30) == 3
    assert "wrong pool token" in remote.log.read_text()
    service.wait_ready()
