"""The real quoting process, as enclaves and its manager meet it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import psutil
import pytest

from avalon_core.attestation.bundles import collateral_from_object
from avalon_core.channel.quoting import (
    MAX_REQUEST_BYTES,
    Answer,
    CollateralAnswer,
    CollateralRequest,
    Quote,
    QuoteRequest,
    Refused,
    Request,
    Vendor,
    WhoAreYou,
    decode_answer,
    encode,
)
from avalon_core.simulator.roots import SIMULATOR
from avalon_core.simulator.seeds import DEFAULT_SEED
from avalon_service.hosts import quoting
from avalon_service.hosts.quoting import QuotingManager, QuotingUnavailable, ask_who
from avalon_service.quoting.desk import QuotingDesk

REQUEST = QuoteRequest(kind="sgx", measurement=b"m" * 32, report_data=b"r" * 64)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short one: paths of Unix sockets have at most 107 bytes."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def ask(path: Path, request: Request) -> Answer:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(encode(request))
        return decode_answer(receive(connection))


def receive(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as file:
        length = int.from_bytes(file.read(4), "big")
        return file.read(length)


def start(directory: Path, *arguments: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-m", "avalon_service.quoting", "--socket", str(directory / "q"), *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "SIMULATED" in process.stderr.readline()
    return process


def end(process: "subprocess.Popen[str]") -> int:
    process.send_signal(signal.SIGTERM)
    code = process.wait(10)
    assert process.stderr is not None
    process.stderr.close()
    return code


def test_it_answers_on_a_socket_of_its_owners_alone_and_ends_in_order(directory):
    process = start(directory)
    assert (directory / "q").stat().st_mode & 0o777 == 0o600
    vendor = ask(directory / "q", WhoAreYou())
    assert vendor == Vendor(root_sha256=SIMULATOR.sha256, published_seed=True)
    quote = ask(directory / "q", REQUEST)
    assert isinstance(quote, Quote)
    assert quote.format == "sgx-dcap"
    assert b"m" * 32 in quote.document
    assert collateral_from_object(msgspec.json.decode(quote.collateral)).dcap
    assert end(process) == 0
    assert not (directory / "q").exists()


def test_a_seed_of_its_own_makes_another_vendor(directory):
    for content in (b"s" * 32, b"73" * 32 + b"\n"):
        (directory / "seed").write_bytes(content)
        process = start(directory, "--seed-file", str(directory / "seed"))
        vendor = ask(directory / "q", WhoAreYou())
        assert isinstance(vendor, Vendor)
        assert vendor.root_sha256 != SIMULATOR.sha256
        assert not vendor.published_seed
        assert end(process) == 0


@pytest.mark.parametrize(
    ("why", "arguments"),
    [
        ("holds no seed", ["--socket", "{directory}/q", "--seed-file", "{directory}/bad"]),
        ("cannot be read", ["--socket", "{directory}/q", "--seed-file", "{directory}/none"]),
        ("cannot listen", ["--socket", "{directory}/" + "x" * 200]),
        ("no Unix socket", ["--listen", "fd:0"]),
        ("expected fd:N", ["--listen", "7"]),
    ],
)
def test_what_cannot_be_is_said_with_exit_code_2(directory, why, arguments):
    (directory / "bad").write_bytes(b"bad")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "avalon_service.quoting",
                *(a.format(directory=directory) for a in arguments),
            ],
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=20,
        )
    assert done.returncode == 2
    assert why in done.stderr
    assert "SIMULATED" in done.stderr


def test_a_client_that_breaks_the_rules_is_dropped_and_others_are_served(directory):
    process = start(directory)
    for said in ((MAX_REQUEST_BYTES + 1).to_bytes(4, "big"), (3).to_bytes(4, "big") + b"xyz"):
        with socket.socket(socket.AF_UNIX) as bad:
            bad.settimeout(10)
            bad.connect(str(directory / "q"))
            bad.sendall(said)
            assert bad.recv(1) == b""
    with socket.socket(socket.AF_UNIX) as idle:
        idle.connect(str(directory / "q"))
        assert isinstance(ask(directory / "q", REQUEST), Quote)
    assert end(process) == 0


def test_more_clients_than_it_takes_are_turned_away_and_places_come_free(directory):
    process = start(directory)
    idle = []
    try:
        for _ in range(32):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(10)
            connection.connect(str(directory / "q"))
            connection.sendall(encode(WhoAreYou()))
            assert receive(connection)
            idle.append(connection)
        with socket.socket(socket.AF_UNIX) as surplus:
            surplus.settimeout(10)
            surplus.connect(str(directory / "q"))
            assert surplus.recv(1) == b""
    finally:
        for connection in idle:
            connection.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if isinstance(ask(directory / "q", REQUEST), Quote):
                break
        except (OSError, ValueError):
            time.sleep(0.05)
    else:
        pytest.fail("no place came free")
    assert end(process) == 0


def test_what_cannot_be_vouched_for_is_refused_with_the_reason(directory):
    process = start(directory)
    for why, request in (
        ("unknown kind", QuoteRequest(kind="sev", measurement=b"", report_data=b"")),
        ("has 32 bytes", QuoteRequest(kind="sgx", measurement=b"", report_data=b"")),
        ("unknown state", QuoteRequest(kind="sgx", measurement=b"m" * 32, report_data=b"", state="bad")),
        ("no collateral", CollateralRequest(kind="sev")),
    ):
        answer = ask(directory / "q", request)
        assert isinstance(answer, Refused)
        assert why in answer.message
    assert end(process) == 0


def test_collateral_is_issued_anew_long_before_it_ends():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    moments = [now + timedelta(hours=7 * step) for step in range(300)]
    clock = iter(moments)
    desk = QuotingDesk(DEFAULT_SEED, lambda: next(clock))
    for moment in moments:
        answer = desk.answer(CollateralRequest(kind="sgx"))
        assert isinstance(answer, CollateralAnswer)
        (dcap,) = collateral_from_object(msgspec.json.decode(answer.collateral)).dcap
        info = msgspec.json.decode(dcap.tcb_info)
        assert datetime.fromisoformat(info["issueDate"]) <= moment
        assert datetime.fromisoformat(info["nextUpdate"]) > moment + timedelta(days=20)


# -- the manager


async def test_the_manager_starts_it_fast_and_ends_it():
    manager = QuotingManager()
    began = time.monotonic()
    vendor = await manager.start()
    assert vendor.root_sha256 == SIMULATOR.sha256
    # A third of a second where nothing else runs; the machines of CI are not like that.
    assert time.monotonic() - began < 5
    pid, path = manager.pid, manager.socket_path
    assert pid is not None
    assert isinstance(await asyncio.to_thread(ask, path, REQUEST), Quote)
    await manager.stop()
    await manager.stop()
    assert not psutil.pid_exists(pid)
    assert not path.parent.exists()


async def test_a_question_may_be_asked_before_it_is_ready():
    manager = QuotingManager()
    path = await manager.launch()
    try:
        assert isinstance(await asyncio.to_thread(ask, path, REQUEST), Quote)
        assert (await manager.ready()).published_seed
        with pytest.raises(RuntimeError, match="started already"):
            await manager.launch()
    finally:
        await manager.stop()
    with pytest.raises(RuntimeError, match="not started"):
        _ = manager.socket_path


async def test_the_manager_restarts_it_and_a_question_meanwhile_waits():
    manager = QuotingManager()
    await manager.start()
    try:
        for restarts in (1, 2):
            pid = manager.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            while psutil.pid_exists(pid):  # noqa: ASYNC110 nothing announces it
                await asyncio.sleep(0.01)
            # Nobody is there now, and the socket still takes the question.
            assert isinstance(await asyncio.to_thread(ask, manager.socket_path, REQUEST), Quote)
            assert manager.restarts == restarts
            assert manager.pid not in (None, pid)
    finally:
        await manager.stop()


async def test_the_manager_says_why_it_does_not_start(directory):
    (directory / "seed").write_bytes(b"too short")
    manager = QuotingManager(seed_file=directory / "seed")
    with pytest.raises(QuotingUnavailable, match="holds no seed"):
        await manager.start()
    assert manager.pid is None


async def test_the_manager_gives_up_on_one_that_says_nothing(monkeypatch):
    monkeypatch.setattr(quoting, "READY_SECONDS", 0.0)
    with pytest.raises(QuotingUnavailable, match="not ready within 0 s"):
        await QuotingManager().start()


async def test_asking_where_nobody_listens_fails(directory):
    with pytest.raises(OSError):
        await ask_who(directory / "nobody")


def test_it_ends_when_its_manager_is_killed():
    script = (
        "import asyncio, sys\n"
        "from avalon_service.hosts.quoting import QuotingManager\n"
        "async def main():\n"
        "    manager = QuotingManager()\n"
        "    await manager.start()\n"
        "    print(manager.pid, manager.socket_path, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, path = parent.stdout.readline().split()
    parent.kill()
    parent.wait(10)
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not psutil.pid_exists(int(pid))
    Path(path).unlink()
    Path(path).parent.rmdir()
