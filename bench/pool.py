"""The figures of a pool beside those of a singleton, in alternating runs: orders a second, and CPU time an order.

    python bench/pool.py [--orders 1500] [--rounds 5]

All services run at the same time and take turns, so that what else the machine does meets all of them. Two cores show
what a second WPE wins only where the load generator and the host cost little beside the workload: with echo they do not.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent))
from bench import Service, bar, meet, start_service
from load import http_request, run_load, seal_many

from avalon_core.channel.pool import OpenOrder
from avalon_core.crypto.dialects import WorkerPublicKeys
from avalon_core.crypto.manifests import Manifest, encode_manifest
from avalon_core.crypto.orders import Item, OrderDraft, open_result, seal_order
from avalon_core.protocol.errors import WorkOrderError
from avalon_core.protocol.ids import worker_id_of, workload_id_of
from avalon_core.protocol.jsonrpc import decode_answer
from avalon_core.protocol.orders import decode_result, encode_request, header_of
from avalon_enclave.pool import state as states
from avalon_enclave.pool.office import Office
from avalon_enclave.replay import fingerprint

SHAPES = {"singleton": (), "pool 1x1": (1, 1), "pool 1x2": (1, 2), "pool 2x2": (2, 2)}
"""KMEs and WPEs."""

CLIENTS = 64
FIB = [b"20000"] * 128
"""Items of one order of the CPU-bound workload (python-fib): tens of milliseconds of pure Python, in one thread."""


@dataclass
class Runs:
    """What was measured of one shape with one kind of order."""

    rates: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def cpu_us(self) -> float:
        # The least: whatever else a machine does, it only ever adds to it.
        return min(self.cpus) * 1e6


def start_shape(directory: str, shape: tuple[int, ...]) -> Service:
    arguments = ("--pool", "--kme", str(shape[0]), "--wpe", str(shape[1])) if shape else ()
    return start_service(directory, *arguments)[0]


def fib_orders(count: int, worker_id: str, keys) -> list:
    return [
        seal_order(
            OrderDraft(
                work_order_id=os.urandom(32).hex(),
                worker_id=worker_id,
                workload_id=workload_id_of("python-fib"),
                requester_id=os.urandom(32).hex(),
                requester_nonce=os.urandom(16).hex(),
                inputs=[Item(index=index, data=data) for index, data in enumerate(FIB)],
            ),
            keys,
        )
        for _ in range(count)
    ]


def run_once(service: Service, kind: str, count: int, runs: Runs) -> None:
    """One run of one kind of order against one service; every tenth result is checked."""
    worker_id, worker = meet(service)
    if kind == "fib":
        sealed = fib_orders(count, worker_id, worker.public_keys)
    else:
        sealed = seal_many(count, worker_id, worker.public_keys, suite=kind)
    requests = [http_request(order, service.host) for order in sealed]
    before = sum(service.cpu_seconds())
    load = uvloop.run(run_load(service.host, service.port, requests, min(CLIENTS, count)))
    runs.cpus.append((sum(service.cpu_seconds()) - before) / count)
    runs.rates.append(load.rate)
    by_id = {order.request.work_order_id: order for order in sealed}
    for body in load.answers[::10]:
        result = decode_result(decode_answer(body).result_or_raise(WorkOrderError))
        open_result(by_id[result.work_order_id], result, worker.verification_key)


def rsa_scaling(count: int = 240) -> float:
    """How much faster two threads of a KME open orders in the RSA dialect than one: what its threads do, without the rest."""
    manifest = Manifest(worker_name="bench", accept_legacy=True)
    office = Office()
    office.take_pool(states.load(states.create(encode_manifest(manifest), now=int(time.time()))))
    office.is_open = True
    own = office.pool.current.keys
    keys = WorkerPublicKeys(rsa=own.rsa.public_key, hpke=own.hpke.public_key)
    registration = office.register("aa" * 16)

    def orders() -> list[OpenOrder]:
        sealed = seal_many(count, worker_id_of("bench"), keys, suite="avalon")
        return [
            OpenOrder(number, 1, header_of(order.request), fingerprint(encode_request(order.request)))
            for number, order in enumerate(sealed)
        ]

    def seconds(threads: int) -> float:
        waiting = orders()
        parts = [waiting[number::threads] for number in range(threads)]

        def work(part: Sequence[OpenOrder]) -> None:
            for order in part:
                if office.open(registration, order).code:
                    raise SystemExit("an order was refused")

        running = [threading.Thread(target=work, args=(part,)) for part in parts]
        began = time.perf_counter()
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return time.perf_counter() - began

    return statistics.median(seconds(1) / seconds(2) for _ in range(5))


def section(orders: int, rounds: int) -> None:
    """Measure and print all of it."""
    kinds = {"~avalon-hpke-1": orders, "avalon": orders // 3, "fib": 48}
    found = {(shape, kind): Runs() for shape in SHAPES for kind in kinds}
    directories = [tempfile.TemporaryDirectory() for _ in SHAPES]
    services: dict[str, Service] = {}
    try:
        for directory, (shape, enclaves) in zip(directories, SHAPES.items(), strict=True):
            services[shape] = start_shape(directory.name, enclaves)
        for kind, count in kinds.items():
            for service in services.values():
                run_once(service, kind, max(count // 4, 16), Runs())
            for _ in range(rounds):
                for shape, service in services.items():
                    run_once(service, kind, count, found[shape, kind])
    finally:
        for service in services.values():
            service.process.send_signal(signal.SIGTERM)
        for service in services.values():
            service.process.wait(60)
        for directory in directories:
            directory.cleanup()
    print(f"\npool: {CLIENTS} clients, {rounds} alternating runs: median rates, least CPU")
    busy = os.getloadavg()[0]
    print(
        f"(load average {busy:.1f} on {os.cpu_count()} cores: what scales with cores shows on a quiet machine only)"
    )
    print(f"{'':<12}" + "".join(f"{kind + ' /s':>18}{'CPU us':>9}" for kind in kinds))
    for shape in SHAPES:
        cells = (found[shape, kind] for kind in kinds)
        print(f"{shape:<12}" + "".join(f"{runs.rate:>18.0f}{runs.cpu_us:>9.0f}" for runs in cells))
    ours = "~avalon-hpke-1"
    bar(
        f"CPU of an echo in {ours}, pool 1x1 to singleton",
        found["pool 1x1", ours].cpu_us / found["singleton", ours].cpu_us,
        "<=",
        1.25,
    )
    for shape in ("pool 1x2", "pool 2x2"):
        print(
            f"         the same of {shape} {found[shape, ours].cpu_us / found['singleton', ours].cpu_us:45.2f}"
        )
    rsa = found["pool 1x1", "avalon"].cpu_us / found["singleton", "avalon"].cpu_us
    print(f"         of pool 1x1 in the RSA dialect {rsa:34.2f}")
    bar(
        "CPU-bound workload, two WPEs to one",
        found["pool 1x2", "fib"].rate / found["pool 1x1", "fib"].rate,
        ">=",
        1.9 if (os.cpu_count() or 1) > 1 else 0.9,
    )
    bar("RSA openings of a KME, two threads to one", rsa_scaling(), ">=", 1.8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=1500, help="echo orders of one run in our suite")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    section(options.orders, options.rounds)


if __name__ == "__main__":
    main()
