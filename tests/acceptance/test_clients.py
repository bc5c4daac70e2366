"""Clients that are slow, go away, come in thousands or send too much: the others do not notice, and memory stays flat."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import resource
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from service_process import WORKER_ID, Requester, ServiceProcess

from avalon_core.protocol.jsonrpc import encode_call

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240)]

CLIENTS = int(os.environ.get("AVALON_CLIENTS", "10000"))
SPARE_FILES = 500
"""File descriptors that both processes need for other things."""

MAX_BODY = 1024 * 1024
BODY_SECONDS = 3.0
PROMPT = 5.0
KIB, MIB = 1024, 1024 * 1024
MAX_BYTES_OF_A_CLIENT = 60 * KIB
MAX_GROWTH = 30 * MIB
"""Between one wave of clients and the next."""

_FOREVER = """
import time
from avalon_enclave.workloads.base import Isolation, ItemByItem, Limits

class Forever(ItemByItem):
    name = "test-forever"
    title = input_help = "nothing"
    limits = Limits(seconds=3600.0, isolation=Isolation.PROCESS)
    def answer(self, data, context):
        time.sleep(3600)
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One thread for an order that never ends, one for all others; small caps."""
    folder = tmp_path_factory.mktemp("workloads")
    (folder / "forever.py").write_text(_FOREVER)
    metadata = folder / "forever-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: forever\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[avalon.workloads]\ntest-forever = forever:Forever\n")
    # The service inherits the limit.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    running = ServiceProcess(
        tmp_path_factory.mktemp("service") / "data",
        environment={
            "PYTHONPATH": str(folder),
            "AVALON_ENCLAVE_THREADS": "2",
            "AVALON_MAX_BODY_BYTES": str(MAX_BODY),
            "AVALON_BODY_TIMEOUT_SECONDS": str(BODY_SECONDS),
            "AVALON_MAX_WAIT_SECONDS": "120",
        },
    )
    try:
        yield running.wait_ready()
        assert "Traceback" not in running.log
        assert "call failed" not in running.log
    finally:
        running.kill()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def memory(service: ServiceProcess) -> int:
    return psutil.Process(service.process.pid).memory_info().rss


async def prompt(requester: Requester) -> float:
    """How long others wait: for a page, a look-up and an order together."""
    began = time.monotonic()
    assert (await requester.get("/healthz"))[0] == 200
    assert (await requester.call("WorkerLookUp", {}))["result"]["ids"] == [WORKER_ID]
    sealed = requester.seal([b"x"])
    assert requester.open(sealed, await requester.submit(sealed, wait=20)) == [b"RESULT: x"]
    took = time.monotonic() - began
    assert took < PROMPT
    return took


async def calls_under_way(requester: Requester) -> int:
    count: int = json.loads((await requester.get("/status"))[1])["calls_under_way"]
    return count


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def never_ending(requester: Requester, service: ServiceProcess) -> AsyncIterator[str]:
    """The id of an order that does not end."""
    sealed = requester.seal([b"x"], workload="test-forever")
    request = sealed.request
    assert (await requester.submit(sealed))["error"]["code"] == 5
    params = {
        "workOrderId": request.work_order_id,
        "requesterId": request.requester_id,
        "encryptedRequestHash": request.encrypted_request_hash,
    }
    try:
        yield request.work_order_id
    finally:
        assert (await requester.call("WorkOrderCancel", params))["error"]["code"] == 0


def http(body: bytes, *, wait: int = 0, length: int | None = None) -> bytes:
    head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"prefer: wait={wait}\r\n" if wait else ""
    return f"{head}content-length: {len(body) if length is None else length}\r\n\r\n".encode() + body


class Waiting(asyncio.Protocol):
    """A client that asks and waits: as small as a client can be."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.answer = b""
        self.transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.answer += data

    def reset(self) -> None:
        """Go without a word."""
        assert self.transport is not None
        connection: socket.socket = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()  # type: ignore[attr-defined]


async def connect(service: ServiceProcess, request: bytes, count: int) -> list[Waiting]:
    loop, clients = asyncio.get_running_loop(), list[Waiting]()
    while len(clients) < count:
        some = min(250, count - len(clients))
        made = await asyncio.gather(
            *(
                loop.create_connection(lambda: Waiting(request), "127.0.0.1", service.port)
                for _ in range(some)
            )
        )
        clients += [client for _, client in made]
    return clients


async def test_thousands_that_wait(service: ServiceProcess, requester: Requester) -> None:
    """They cost memory alone, and what one wave of them took serves the next.

    It does not go back to the system at once, or not at all: of what the first wave took, some is garbage that is
    collected when there is more of it, and some lies between what is still in use. So the peaks are compared.
    """
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES
    count = min(CLIENTS, allowed)
    if count < CLIENTS:
        print(f"  {count} instead of {CLIENTS} clients: the limit of open files allows no more")
    async with never_ending(requester, service) as work_order_id:
        request = http(encode_call("WorkOrderGetResult", {"workOrderId": work_order_id}, 1), wait=120)
        await prompt(requester)
        peaks = []
        before = memory(service)
        for round_ in (1, 2, 3):
            connecting = asyncio.create_task(connect(service, request, count))
            slowest = 0.0
            while not connecting.done():
                slowest = max(slowest, await prompt(requester))
                await asyncio.sleep(0.2)
            clients = await connecting
            await until(lambda: _reached(requester, count))
            await asyncio.sleep(2.5)  # by then the service looks out for their departure
            peaks.append(memory(service))
            each = (peaks[-1] - before) / count
            slowest = max([slowest, *[await prompt(requester) for _ in range(3)]])
            assert not any(client.answer for client in clients)
            for client in clients:
                client.reset()
            await until(lambda: _nobody(requester))
            await asyncio.sleep(1)
            print(
                f"  wave {round_}: {count} clients wait, {each / KIB:.1f} KiB each; others were served within "
                f"{slowest:.2f} s; memory {before / MIB:.0f} MiB before, {peaks[-1] / MIB:.0f} MiB meanwhile, "
                f"{memory(service) / MIB:.0f} MiB after"
            )
            assert each < MAX_BYTES_OF_A_CLIENT
        assert max(peaks) - peaks[0] < MAX_GROWTH
        await prompt(requester)


async def _reached(requester: Requester, count: int) -> bool:
    return await calls_under_way(requester) >= count


async def _nobody(requester: Requester) -> bool:
    return await calls_under_way(requester) == 0


async def test_those_who_wait_get_the_answer(service: ServiceProcess, requester: Requester) -> None:
    """A thousand clients wait for one order, half of them go away: the others are answered when it ends."""
    async with never_ending(requester, service) as work_order_id:
        request = http(encode_call("WorkOrderGetResult", {"workOrderId": work_order_id}, 1), wait=120)
        clients = await connect(service, request, 1000)
        await until(lambda: _reached(requester, 1000))
        for client in clients[::2]:
            client.reset()
        await prompt(requester)
    stayed = clients[1::2]
    async with asyncio.timeout(10):
        while not all(client.answer.endswith(b"}}}") for client in stayed):  # noqa: ASYNC110 (a thousand protocols)
            await asyncio.sleep(0.05)
    assert all(b"cancelled by its requester" in client.answer for client in stayed)
    await until(lambda: _nobody(requester))
    for client in stayed:
        client.reset()


async def test_bodies_byte_by_byte(service: ServiceProcess, requester: Requester) -> None:
    """Those who make it within the time are answered, the others are told so; nobody else waits for either."""
    body = encode_call("WorkerRetrieve", {"workerId": WORKER_ID}, 1)

    async def send(pause: float) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        try:
            for byte in http(body):
                writer.write(bytes([byte]))
                await asyncio.sleep(pause)
            return await asyncio.wait_for(reader.readuntil(b"\r\n"), 20)
        except (ConnectionError, asyncio.IncompleteReadError):
            return b"cut"
        finally:
            writer.close()

    fast = [asyncio.create_task(send(0.005)) for _ in range(100)]
    slow = [asyncio.create_task(send(2.5 * BODY_SECONDS / len(body))) for _ in range(100)]
    times = []
    while not all(task.done() for task in (*fast, *slow)):
        times.append(await prompt(requester))
        await asyncio.sleep(0.3)
    print(f"  200 slow writers; others were served within {max(times):.2f} s")
    assert {task.result().split()[1] for task in fast} == {b"200"}
    assert {b"408" in task.result() or task.result() == b"cut" for task in slow} == {True}


async def test_answers_that_nobody_reads(service: ServiceProcess, requester: Requester) -> None:
    """Hundreds of pipelined requests for large answers, and not a byte is taken: the service stops making them."""
    before = memory(service)
    page = b"GET /openrpc.json HTTP/1.1\r\nhost: x\r\n\r\n"
    connections = []
    for _ in range(50):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", service.port))
        connection.sendall(page * 300)
        connections.append(connection)
    times = []
    for _ in range(10):
        times.append(await prompt(requester))
        await asyncio.sleep(0.2)
    grown = memory(service) - before
    print(
        f"  50 clients that do not read: {grown / MIB:.1f} MiB; others were served within {max(times):.2f} s"
    )
    assert grown < 64 * MIB
    for connection in connections:
        connection.close()
    await prompt(requester)


async def test_bodies_at_the_cap_and_over_it(service: ServiceProcess, requester: Requester) -> None:
    def of(size: int) -> bytes:
        call = encode_call("WorkerRetrieve", {"workerId": WORKER_ID, "x": ""}, 1)
        return call.replace(b'"x":""', b'"x":"' + b"a" * (size - len(call)) + b'"')

    async def chunks(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    async with aiohttp.ClientSession() as session:
        for size, expected, code in ((MAX_BODY - 1, 200, 2), (MAX_BODY, 200, 2), (MAX_BODY + 1, 413, -32600)):
            body = of(size)
            assert len(body) == size
            for data in (io.BytesIO(body), chunks(body)):
                async with session.post(service.url, data=data) as answer:
                    assert answer.status == expected
                    envelope = json.loads(await answer.read())
                    assert envelope["error"]["code"] == code
                    assert len(envelope["error"]["message"]) < 1000


LENGTHS = {
    "a length that is none": b"abc",
    "a negative length": b"-1",
    "a length beyond all numbers": b"9" * 200,
    "a length beyond Python's digits": b"9" * 5000,
    "a length in hex": b"0x10",
    "two lengths in one": b"3, 4",
    "a signed length": b"+2",
    "a length with an underscore": b"1_0",
    "no length": b"",
}


@pytest.mark.parametrize("sentence", LENGTHS)
async def test_strange_lengths(service: ServiceProcess, requester: Requester, sentence: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: " + LENGTHS[sentence] + b"\r\n\r\n{}")
    writer.write_eof()
    status = (await asyncio.wait_for(reader.readline(), 10)).split()
    assert not status or status[1] in (b"400", b"413", b"200"), status
    writer.close()
    await prompt(requester)


def test_nothing_went_wrong_inside(service: ServiceProcess) -> None:
    """Runs last in this file."""
    assert "Traceback" not in service.log, service.log[-3000:]
    assert "call failed" not in service.log
    assert isinstance(service.log_path, Path)
