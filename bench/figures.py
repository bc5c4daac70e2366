"""The figures beside the table of ``make bench``: large items, many stored orders, RSA on the cores that are left.

Each function measures one thing in the same run as what it is compared with, and returns a ratio.
"""

from __future__ import annotations

import asyncio
import base64
import multiprocessing
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from load import draft, http_request, run_load, seal_many

from avalon_core.crypto import aead
from avalon_core.crypto.orders import open_result, seal_order
from avalon_core.crypto.sealing import RsaPrivateKey
from avalon_core.protocol.errors import WorkOrderError
from avalon_core.protocol.jsonrpc import decode_answer
from avalon_core.protocol.orders import decode_result
from avalon_service.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from bench import Service

    from avalon_core.attestation import AppraisedWorker

LARGE_BYTES = 16 * 1024 * 1024 - 1024
"""As large as an item's cap lets an encrypted item be."""


def large_item(service: Service, worker_id: str, worker: AppraisedWorker) -> tuple[float, float, float]:
    """(seconds of an echo of 16 MiB, seconds of base64 and AES-GCM alone both ways, growth of memory in MB)."""
    data = os.urandom(LARGE_BYTES)
    key, nonce = os.urandom(32), bytes(12)

    def bare() -> None:
        text = base64.b64encode(aead.seal(key, nonce, data))
        aead.open_(key, nonce, base64.b64decode(text))

    alone = min(_seconds(bare) for _ in range(3))
    before = service.memory_mb()
    best = float("inf")
    for _ in range(3):
        sealed = seal_order(draft(worker_id, "echo-result", data), worker.public_keys)
        request = http_request(sealed, service.host)
        load = uvloop.run(run_load(service.host, service.port, [request], 1))
        result = decode_result(decode_answer(load.answers[0]).result_or_raise(WorkOrderError))
        [item] = open_result(sealed, result, worker.verification_key)
        if item.data != b"RESULT: " + data:
            raise SystemExit("the large item came back changed")
        best = min(best, load.latencies[0])
    return best, alone, service.memory_mb() - before


def rsa_on_cores_left(
    service: Service, worker_id: str, worker: AppraisedWorker, count: int
) -> tuple[float, float]:
    """(orders a second in the RSA dialect, bare decryptions a second on the cores that the generator leaves)."""
    sealed = seal_many(count, worker_id, worker.public_keys, suite="avalon")
    requests = [http_request(order, service.host) for order in sealed]
    own = time.process_time()
    load = uvloop.run(run_load(service.host, service.port, requests, 64))
    cores = (os.cpu_count() or 1) - (time.process_time() - own) / load.seconds
    return load.rate, cores * busy_rsa_rate()


def busy_rsa_rate() -> float:
    """RSA-3072 decryptions a second of one core while all cores do the same: cores share units and power."""
    with multiprocessing.get_context("spawn").Pool() as pool:
        rates = pool.map(_rsa_rate, [1.0] * (os.cpu_count() or 1))
    return sum(rates) / len(rates)


def _rsa_rate(seconds: float) -> float:
    key = RsaPrivateKey.generate()
    sealed = key.public_key.seal(b"s" * 32)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        key.open_(sealed)
        done += 1
    return done / (time.perf_counter() - began)


def fill(directory: Path, number: int) -> None:
    """Put finished orders into a service's database, as the service itself would."""
    from store import LIMITS, drive, new_orders

    async def run() -> None:
        store = await SqliteStore.open(directory / "avalon.sqlite", limits=LIMITS)
        for start in range(0, number, 50_000):
            await drive(store.orders, new_orders(f"stored{start}", min(50_000, number - start), 3000), 1024)
        await store.close()

    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    asyncio.run(run())


def submit_rate(service: Service, worker_id: str, worker: AppraisedWorker, count: int) -> float:
    """Asynchronous submissions a second, acknowledged durably."""
    sealed = seal_many(count, worker_id, worker.public_keys, suite="~avalon-hpke-1")
    requests = [http_request(order, service.host, wait=0) for order in sealed]
    return uvloop.run(run_load(service.host, service.port, requests, 64)).rate


def _seconds(function) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
