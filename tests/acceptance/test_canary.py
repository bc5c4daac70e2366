"""A marker goes through every way that an order can take, and is afterwards found in the enclave and the requester only.

Not in a file of the service, not in its log, not in an answer, and not in the memory of its process; and neither are
the enclave's private keys, which this test knows because the simulated platform's seed is a file.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from foreign_worker import call_as, token_of
from service_process import SUITES, WORKER_ID, Requester, ServiceProcess

from avalon_core.crypto.orders import SealedOrder
from avalon_core.crypto.receipts import create_receipt, sign_update
from avalon_core.crypto.signing import SigningKey
from avalon_enclave.platforms.simulated import SimulatedTee

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

KEY = SigningKey.generate()
_WORKLOADS = '''
"""Every way in which a workload can try to give its input away without meaning to."""
import logging, os, sys, time, warnings
from avalon_enclave.workloads.base import Isolation, ItemByItem, Limits

class _Leaky(ItemByItem):
    title = input_help = "anything"
    limits = Limits(max_items=2, max_item_bytes=256, max_output_bytes=1024, seconds=2.0, isolation=Isolation.PROCESS)

class Print(_Leaky):
    name = "leak-print"
    def answer(self, data, context):
        print(data.decode(), flush=True)
        sys.stderr.write(data.decode())
        logging.getLogger("leak").critical("%s", data.decode())
        warnings.warn(data.decode())
        for descriptor in range(1, 3):
            os.write(descriptor, data)
        return data

class Raise(_Leaky):
    name = "leak-raise"
    def answer(self, data, context):
        raise type(data.decode(), (Exception,), {})(data.decode())

class Exit(_Leaky):
    name = "leak-exit"
    def answer(self, data, context):
        sys.exit(data.decode())

class Overrun(_Leaky):
    name = "leak-overrun"
    def answer(self, data, context):
        time.sleep(60)

class TooMuch(_Leaky):
    name = "leak-too-much"
    def answer(self, data, context):
        return data * 1000

class Die(_Leaky):
    name = "leak-die"
    def answer(self, data, context):
        os.kill(os.getpid(), 11)

class Recurse(_Leaky):
    name = "leak-recurse"
    def answer(self, data, context):
        return self.answer(data + b"", context)

class Trusted(_Leaky):
    name = "leak-thread"
    limits = Limits(max_items=2, max_item_bytes=256, max_output_bytes=1024, seconds=2.0, isolation=Isolation.THREAD)
    def answer(self, data, context):
        print(data.decode(), flush=True)
        raise KeyError(data.decode())
'''
LEAKS = ("print", "raise", "exit", "overrun", "too-much", "die", "recurse", "thread")


@pytest.fixture(scope="module")
def workloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workloads")
    (folder / "leaks.py").write_text(_WORKLOADS)
    metadata = folder / "leaks-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: leaks\nVersion: 1.0\n")
    classes = dict(zip(LEAKS, re.findall(r"class (?!_)(\w+)", _WORKLOADS), strict=True))
    entries = "".join(f"leak-{name} = leaks:{cls}\n" for name, cls in classes.items())
    (metadata / "entry_points.txt").write_text(f"[avalon.workloads]\n{entries}")
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, workloads: Path) -> Iterator[ServiceProcess]:
    running = ServiceProcess(
        tmp_path_factory.mktemp("service") / "data",
        environment={
            "PYTHONPATH": str(workloads),
            "AVALON_DELIVERY_ALLOW_PRIVATE": "true",
            "AVALON_DELIVERY_PORTS": "",
            "AVALON_DELIVERY_ATTEMPTS": "2",
            "AVALON_DELIVERY_FIRST_RETRY_SECONDS": "0.05",
        },
    )
    try:
        yield running.wait_ready()
        assert running.stop() == 0, running.log
    finally:
        running.kill()


class Eavesdropper(Requester):
    """A requester that keeps every byte which went over the wire."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        super().__init__(url, session)
        self.wire: list[bytes] = []

    async def post(self, body: bytes, **headers: str) -> tuple[int, bytes]:
        status, answer = await super().post(body, **headers)
        self.wire += [body, answer]
        return status, answer

    async def get(self, path: str) -> tuple[int, bytes]:
        status, answer = await super().get(path)
        self.wire.append(answer)
        return status, answer


def spellings(secret: bytes) -> list[bytes]:
    """A secret as itself, in hex, and in base64 wherever it may begin in a text."""
    found = [secret, secret.hex().encode(), secret.hex().upper().encode()]
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + secret)
        found.append(encoded[4 if before else 0 : len(encoded) // 4 * 4 - 4])
    return found


def memory_of(pid: int) -> Iterator[bytes]:
    """The readable and writable memory of a process, piece by piece."""
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            addresses, permissions = line.split()[:2]
            if not permissions.startswith("rw"):
                continue
            start, end = (int(address, 16) for address in addresses.split("-"))
            piece = b""
            try:
                memory.seek(start)
                while start < end and (read := memory.read(min(end - start, 8 << 20))):
                    start += len(read)
                    yield piece[-4096:] + read
                    piece = read
            except (OSError, OverflowError):
                continue  # a device, or gone meanwhile


def found_in_memory(pid: int, secrets_: list[bytes]) -> set[bytes]:
    wanted = {spelling: secret for secret in secrets_ for spelling in spellings(secret)}
    return {secret for piece in memory_of(pid) for spelling, secret in wanted.items() if spelling in piece}


def private_keys(service: ServiceProcess) -> list[bytes]:
    """What the enclave sealed: possible because the platform is simulated."""
    [sealed] = service.data_dir.glob("workers/*/sealed-keys")
    platform = SimulatedTee(
        role="singleton",
        quoting_socket=None,
        state_path=service.data_dir / "workers" / "simulated-platform",
    )
    plain = msgspec.msgpack.decode(platform.unseal(sealed.read_bytes()))
    # Of the RSA key the end: its beginning is the public modulus.
    keys = [plain["signing"], plain["hpke"][:64], plain["hpke"][64:], plain["rsa"][-150:-50]]
    assert all(isinstance(key, bytes) and len(key) >= 32 for key in keys)
    return keys


async def every_way(requester: Requester, service: ServiceProcess, marker: bytes) -> None:
    """Every path that an order, its result, its failure or its receipt can take."""
    for suite in SUITES:
        done = requester.seal([marker, b"x" + marker], suite=suite, signer=KEY)
        answer = await requester.submit(done, wait=30)
        assert requester.open(done, answer)[0] == b"RESULT: " + marker
        await requester.submit(done, wait=30)
        risk = requester.seal([b"Data: " + marker], workload="heart-disease-eval", suite=suite)
        assert requester.open(risk, await requester.submit(risk, wait=30))
        orders = [requester.seal([marker], workload=f"leak-{name}", suite=suite) for name in LEAKS]
        orders += [requester.seal([marker], workload=name, suite=suite) for name in ("python-fib", "no-such")]
        answers = await asyncio.gather(*(requester.submit(order, wait=40) for order in orders))
        assert requester.open(orders[0], answers[0]) == [marker]
        assert all("error" in answer for answer in answers[1 : len(LEAKS)]), answers
        await refused(requester, marker, suite)
        await receipts(requester, done, orders[1])
    legacy = requester.seal([marker], suite="avalon", shared_iv=True, timeout_msecs=6000)
    await requester.submit(legacy)
    late = requester.seal([marker], workload="leak-overrun", timeout_msecs=300)
    assert (await requester.submit(late))["error"]["code"] == 1
    cancelled = requester.seal([marker], workload="leak-overrun")
    await requester.submit(cancelled)
    params = {"workOrderId": cancelled.request.work_order_id, "requesterId": "ab"}
    assert (await call_as(requester, token_of(service), "WorkOrderCancel", params))["error"]["code"] == 0
    await dead_letter(requester, marker)
    [enclave] = service.enclaves()
    survivor = requester.seal([marker], workload="leak-overrun")
    await requester.submit(survivor)
    enclave.kill()
    assert "error" in await requester.result(survivor, wait=30)
    for path in (
        "/status",
        "/metrics",
        "/deliveries",
        "/openrpc.json",
        f"/orders/{survivor.request.work_order_id}/events",
    ):
        await requester.get(path)


async def refused(requester: Requester, marker: bytes, suite: str) -> None:
    """Tampered with, for somebody else, malformed, over the caps."""
    changes: list[dict[str, Any]] = [
        {"encryptedRequestHash": "00" * 60},
        {"requesterNonce": "00"},
        {"workerId": "ab"},
        {"inData": [{"index": 0, "data": "AAAA"}]},
        {"encryptedSessionKey": "00" * 384},
        {"extra": 1},
        {"workerEncryptionKey": "00"},
    ]
    for change in changes:
        sealed = requester.seal([marker], suite=suite)
        await requester.call("WorkOrderSubmit", msgspec.to_builtins(sealed.request) | change, wait=20)
    too_large = requester.seal([marker * 20], workload="leak-print", suite=suite)
    assert "error" in await requester.submit(too_large, wait=20)


async def receipts(requester: Requester, done: SealedOrder, failed: SealedOrder) -> None:
    for sealed in (done, failed):
        params = create_receipt(sealed.request, sealed.request_hash, KEY, worker_service_id="5e")
        await requester.call("WorkOrderReceiptCreate", msgspec.to_builtins(params))
        order_id = sealed.request.work_order_id
        update = sign_update(
            KEY,
            work_order_id=order_id,
            updater_id=sealed.request.requester_id,
            update_type=300,
            update_data="a word",
        )
        await requester.call("WorkOrderReceiptUpdate", msgspec.to_builtins(update))
        await requester.call("WorkOrderReceiptRetrieve", {"workOrderId": order_id})
        await requester.call(
            "WorkOrderReceiptUpdateRetrieve",
            {"workOrderId": order_id, "updateIndex": 1, "updaterId": WORKER_ID},
        )


async def dead_letter(requester: Requester, marker: bytes) -> None:
    """A result that nobody takes."""
    sealed = requester.seal([marker], suite="avalon")
    params = msgspec.to_builtins(sealed.request) | {"resultUri": "http://127.0.0.1:9/"}
    assert (await requester.call("WorkOrderSubmit", params))["error"]["code"] == 5
    async with asyncio.timeout(30):
        while not json.loads((await requester.get("/status"))[1])["deliveries"]["dead"]:  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.05)


async def test_the_marker_and_the_keys_are_nowhere_but_in_the_enclave(
    service: ServiceProcess, session: aiohttp.ClientSession
) -> None:
    requester = Eavesdropper(service.url, session)
    await requester.meet_worker()
    # A letter first: it must be able to pass for a name, as that of an exception type.
    marker = f"m{secrets.token_hex(20)}".encode()
    await every_way(requester, service, marker)
    keys = private_keys(service)
    hidden = [marker, *keys]

    needles = [spelling for secret in hidden for spelling in spellings(secret)]
    assert not [body[:200] for body in requester.wire if any(needle in body for needle in needles)]
    assert len(requester.wire) > 150
    files = [path for path in service.data_dir.rglob("*") if path.is_file()]
    assert any(path.stat().st_size > 100_000 for path in files)
    for path in (*files, service.log_path):
        content = path.read_bytes()
        assert not [needle for needle in needles if needle in content], path
    assert "Traceback" not in service.log

    try:
        # That a secret is not found says something only if what is there is found.
        known = [WORKER_ID.encode(), token_digest(service)]
        present = found_in_memory(service.process.pid, known)
    except PermissionError:
        if os.environ.get("AVALON_REQUIRE_ALL") == "1":
            raise
        pytest.skip("the memory of another process cannot be read here (ptrace_scope)")
    assert present == set(known)
    assert not found_in_memory(service.process.pid, hidden)
    assert marker in found_in_memory(os.getpid(), [marker])


def token_digest(service: ServiceProcess) -> bytes:
    """What the service keeps of its operator's token: its hash."""
    return hashlib.sha256(token_of(service).encode()).digest()


async def test_the_operator_s_token_is_only_in_its_file(
    service: ServiceProcess, session: aiohttp.ClientSession
) -> None:
    requester = Eavesdropper(service.url, session)
    token = token_of(service).encode()
    await call_as(requester, token.decode(), "RequesterKeyGet", {"requesterId": "ab"})
    for path in ("/status", "/metrics", "/deliveries"):
        await requester.get(path)
    assert not [body for body in requester.wire if token in body]
    holders = [
        path.name for path in service.data_dir.rglob("*") if path.is_file() and token in path.read_bytes()
    ]
    assert holders == ["operator-token"]
    assert token not in service.log_path.read_bytes()


def test_the_scan_finds_every_spelling() -> None:
    """The test's own instrument: whatever stands before and after a secret, one of its spellings is in the text."""
    secret = secrets.token_bytes(32)
    texts: list[Callable[[bytes], bytes]] = [bytes, lambda data: data.hex().encode(), base64.b64encode]
    for before in range(7):
        for after in range(4):
            for encode in texts:
                text = encode(os.urandom(before) + secret + os.urandom(after))
                assert any(spelling in text for spelling in spellings(secret))
