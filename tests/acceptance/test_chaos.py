"""Faults of one machine under a light load: processes killed and stopped, a full disk, steps of the clock, a cut network.

What must hold after each: every acknowledged order has a result that verifies, nobody got two different answers about
one order, and an order that was not acknowledged can be sent again, to the byte. How long the service took to recover
is printed. What needs root or another program is skipped where that is missing, unless AVALON_REQUIRE_ALL=1 (CI).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest
from service_process import SUITES, Requester, ServiceProcess, wait_until

from avalon_core.crypto.orders import SealedOrder
from avalon_core.protocol.jsonrpc import encode_call
from avalon_core.protocol.orders import encode_request
from avalon_service.orders.ports import NewOrder
from avalon_service.orders.state import OrderState
from avalon_service.store.sqlite import SqliteStore

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

Start = Callable[..., ServiceProcess]

RECOVERY = 30.0
REQUIRE_ALL = os.environ.get("AVALON_REQUIRE_ALL") == "1"
LEASE = {"AVALON_LEASE_SECONDS": "1.5"}
PENDING, BUSY = 5, 8


def unavailable(reason: str) -> None:
    """Skip for want of something; in CI everything must be there."""
    if REQUIRE_ALL:
        pytest.fail(f"AVALON_REQUIRE_ALL=1, but {reason}")
    pytest.skip(reason)


class LightLoad:
    """A few clients that submit without hurry and send again, to the byte, whatever was not acknowledged."""

    def __init__(self, requester: Requester, clients: int = 3) -> None:
        self.requester = requester
        self.url = requester.url
        self.sealed: dict[str, SealedOrder] = {}
        self.acknowledged: set[str] = set()
        self.results: dict[str, Any] = {}
        self.troubles = 0
        """Connections lost and orders refused for the moment."""

        self._answered: list[float] = []
        self._clients = clients
        self._stop = asyncio.Event()
        self._heard = asyncio.Condition()

    async def __aenter__(self) -> LightLoad:
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(self._clients)]
        await self.further_results(3)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def further_results(self, count: int) -> None:
        """Return when so many more orders were answered."""
        before = len(self.results)
        async with asyncio.timeout(RECOVERY), self._heard:
            await self._heard.wait_for(lambda: len(self.results) >= before + count)

    @contextlib.asynccontextmanager
    async def through(self, fault: str) -> AsyncIterator[None]:
        """A fault happens within; wait until orders are answered again, and print how long none was."""
        self._answered = [time.monotonic()]
        yield
        await self.further_results(6)
        gap = max(later - earlier for earlier, later in itertools.pairwise(self._answered))
        print(f"  {fault}: no answer for {gap:.2f} s")
        assert gap < RECOVERY

    async def _client(self, number: int) -> None:
        while not self._stop.is_set():
            sealed = self.requester.seal([b"%d" % number], suite=SUITES[len(self.sealed) % 3])
            self.sealed[sealed.request.work_order_id] = sealed
            while not self._stop.is_set() and not await self.submit(sealed):
                self.troubles += 1
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.02)

    async def submit(self, sealed: SealedOrder) -> bool:
        """Whether it was acknowledged."""
        order_id = sealed.request.work_order_id
        try:
            async with asyncio.timeout(10):
                answer = await self.requester.submit(sealed, wait=random.choice((0, 5)))
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False
        if "error" in answer:
            assert answer["error"]["code"] in (PENDING, BUSY), answer
            if answer["error"]["code"] == BUSY:
                return False
        self.acknowledged.add(order_id)
        if "result" in answer:
            await self._note(order_id, answer["result"])
        return True

    async def _note(self, order_id: str, result: Any) -> None:
        self._answered.append(time.monotonic())
        assert self.results.setdefault(order_id, result) == result, "answered twice differently"
        async with self._heard:
            self._heard.notify_all()

    async def check(self) -> None:
        """Every order has one result that verifies: acknowledged ones as they are, others when they are sent again."""
        assert len(self.acknowledged) > 5
        for order_id, sealed in self.sealed.items():
            if order_id in self.acknowledged:
                answer = await self.requester.result(sealed)
            else:
                answer = await self.requester.submit(sealed, wait=30)
            assert self.requester.open(sealed, answer)[0].startswith(b"RESULT: ")
            await self._note(order_id, answer["result"])
            again = await self.requester.submit(sealed, wait=30)
            await self._note(order_id, again["result"])


@contextlib.asynccontextmanager
async def loaded(service: ServiceProcess, session: aiohttp.ClientSession) -> AsyncIterator[LightLoad]:
    """A light load on a service, checked at the end."""
    requester = Requester(service.url, session)
    await requester.meet_worker()
    async with LightLoad(requester) as load:
        yield load
    await load.check()
    print(f"    {len(load.acknowledged)} orders acknowledged, {load.troubles} times in vain")


def started(start: Start, environment: dict[str, str] | None = None, **options: Any) -> ServiceProcess:
    return start(environment={**LEASE, **(environment or {})}, **options).wait_ready()


async def test_every_process_of_the_service_killed_and_stopped_in_turn(
    start: Start, session: aiohttp.ClientSession
) -> None:
    service = await asyncio.to_thread(started, start)
    async with loaded(service, session) as load:
        for number in range(len(psutil.Process(service.process.pid).children(recursive=True))):
            for fault in ("kill -9", "SIGSTOP for 0.2 s", "SIGSTOP for 3 s"):
                children = psutil.Process(service.process.pid).children(recursive=True)
                process = children[min(number, len(children) - 1)]
                name = "enclave" if "avalon_enclave" in process.cmdline() else process.name()
                async with load.through(f"{name}: {fault}"):
                    if fault == "kill -9":
                        process.kill()
                        continue
                    process.suspend()
                    await asyncio.sleep(3 if "3 s" in fault else 0.2)
                    with contextlib.suppress(psutil.Error):  # it was replaced meanwhile
                        process.resume()
        async with load.through("service: SIGSTOP for 3 s"):
            service.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(3)
            service.process.send_signal(signal.SIGCONT)
        async with load.through("service: kill -9, and started again"):
            enclaves = service.enclaves()
            service.kill()
            await asyncio.to_thread(
                wait_until, lambda: not any(e.is_running() and e.status() != "zombie" for e in enclaves)
            )
            again = await asyncio.to_thread(started, start, port=service.port)
    assert "Traceback" not in again.log
    assert "call failed" not in service.log


async def test_files_that_cannot_grow(start: Start, session: aiohttp.ClientSession) -> None:
    """A limit on the size of files (EFBIG) needs no root, and meets the store in the middle of a write."""
    service = await asyncio.to_thread(started, start)
    process = psutil.Process(service.process.pid)
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    async with loaded(service, session) as load:
        largest = max(path.stat().st_size for path in service.data_dir.glob("avalon.sqlite*"))
        async with load.through("files cannot grow for more than 1 s"):
            process.rlimit(psutil.RLIMIT_FSIZE, (largest + 16 * 1024, before[1]))
            await asyncio.to_thread(wait_until, lambda: "not stored" in service.log)
            await asyncio.sleep(1)
            assert (await load.requester.get("/healthz"))[0] == 200
            assert (await load.requester.get("/status"))[0] == 200
            process.rlimit(psutil.RLIMIT_FSIZE, before)
    assert "Traceback" not in service.log
    assert "call failed" not in service.log


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    if os.geteuid() != 0:
        unavailable("a small file system can be mounted by root only")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        unavailable(f"a small file system cannot be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(filler: Path) -> None:
    """Write until nothing fits any more."""
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    continue


async def test_a_full_disk(start: Start, session: aiohttp.ClientSession, small_disk: Path) -> None:
    service = await asyncio.to_thread(started, start, data_dir=small_disk / "data")
    assert service.log_path.parent == small_disk  # which must do no harm
    async with loaded(service, session) as load:
        filler = small_disk / "filler"
        async with load.through("a full disk, until clients were told so 10 times"):
            fill(filler)
            in_vain = load.troubles
            async with asyncio.timeout(RECOVERY):
                while load.troubles < in_vain + 10:  # noqa: ASYNC110 (other tasks count)
                    await asyncio.sleep(0.05)
            assert (await load.requester.get("/healthz"))[0] == 200
            assert (await load.requester.get("/status"))[0] == 200
            filler.unlink()
    assert "call failed" not in service.log
    assert await asyncio.to_thread(service.stop) == 0


def _faketime_library() -> Path:
    named = os.environ.get("AVALON_LIBFAKETIME")
    found = [Path(named)] if named else sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        unavailable("libfaketime is not installed (on Debian: apt-get install faketime)")
    return found[0]


async def test_steps_of_the_clock(start: Start, session: aiohttp.ClientSession, tmp_path: Path) -> None:
    """Forwards and backwards by seconds and by a day, for the service, while orders are under way."""
    steps = tmp_path / "steps"
    steps.write_text("+0\n")
    environment = {
        "LD_PRELOAD": str(_faketime_library()),
        "FAKETIME_TIMESTAMP_FILE": str(steps),
        # Looking at the file at every call would slow everything down by seconds.
        "FAKETIME_CACHE_DURATION": "1",
        "AVALON_LEASE_SECONDS": "6",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # Or a step of a day would rightly end every order that is under way.
        "AVALON_ORDER_LIFETIME_SECONDS": "864000",
    }
    service = await asyncio.to_thread(started, start, environment)
    async with loaded(service, session) as load:
        for step in ("+5", "-5", "+3600", "-3600", "+86400", "-86400", "+0"):
            async with load.through(f"clock {step} s"):
                steps.write_text(f"{step}\n")
                await asyncio.sleep(1.1)
    assert "Traceback" not in service.log
    assert "call failed" not in service.log


async def test_the_store_s_clock_is_stepped(tmp_path: Path) -> None:
    """Claimed, then a day on: the lease has ended, the order is processed again, and the late answer is refused or
    is the one that counts; then a day back: nothing is claimed twice at a time, nothing is lost."""
    now = [1_700_000_000.0]
    store = await SqliteStore.open(tmp_path / "a.sqlite", clock=lambda: now[0])
    try:
        for number in range(6):
            new = NewOrder(
                work_order_id=f"{number:02x}",
                worker_id="aa",
                requester_id="bb",
                request=b"{}",
                deadline=now[0] + 10 * 86400,
            )
            await store.orders.submit(new)
        first = await store.orders.claim("aa", limit=3, lease=15)
        assert len(first) == 3
        now[0] += 86400
        await store.orders.expire_due()
        second = await store.orders.claim("aa", limit=6, lease=15)
        assert {claim.work_order_id for claim in second} == {f"{number:02x}" for number in range(6)}
        now[0] -= 2 * 86400
        await store.orders.expire_due()
        assert not await store.orders.claim("aa", limit=6, lease=15)
        await store.orders.extend([(claim.work_order_id, claim.token) for claim in second], 15)
        for claim in first:
            with pytest.raises(Exception, match=claim.work_order_id):
                await store.orders.complete(claim.work_order_id, claim.token, b'"late"')
        for claim in second:
            await store.orders.complete(claim.work_order_id, claim.token, b'"in time"')
        for claim in second:
            order = await store.orders.get(claim.work_order_id)
            assert order is not None
            assert (order.state, order.result) == (OrderState.COMPLETED, b'"in time"')
    finally:
        await store.close()


async def test_connections_reset_in_mid_flight(start: Start, session: aiohttp.ClientSession) -> None:
    """In the head, in the body, while the order is processed, in the answer: each order is sent again until answered."""
    service = await asyncio.to_thread(started, start)
    async with loaded(service, session) as load:
        requester = load.requester
        cut: list[SealedOrder] = []
        for number in range(120):
            sealed = requester.seal([b"%d" % number], suite=SUITES[number % 3])
            body = encode_call("WorkOrderSubmit", msgspec.Raw(encode_request(sealed.request)), 1)
            head = b"POST / HTTP/1.1\r\nhost: x\r\nprefer: wait=5\r\ncontent-length: %d\r\n\r\n" % len(body)
            where = random.choice(("head", "body", "answer", "at once"))
            await asyncio.to_thread(reset, service.port, head + body, where)
            cut.append(sealed)
        for sealed in cut:
            answer = await requester.submit(sealed, wait=20)
            assert requester.open(sealed, answer)[0].startswith(b"RESULT: ")
            assert (await requester.submit(sealed, wait=20))["result"] == answer["result"]
        await load.further_results(6)
    assert "Traceback" not in service.log
    assert "call failed" not in service.log


def reset(port: int, request: bytes, where: str) -> None:
    """Send some of a request, perhaps read some of the answer, and reset the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        end = {"head": random.randrange(1, 60), "body": random.randrange(80, len(request))}.get(
            where, len(request)
        )
        connection.sendall(request[:end])
        if where == "answer":
            connection.recv(random.randrange(1, 40))
        elif where == "at once":
            time.sleep(random.choice((0, 0.002, 0.01)))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
