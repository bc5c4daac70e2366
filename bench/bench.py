"""``make bench``: what an order costs, end to end, beside its bare cryptography in the same run.

Starts a real service with its enclave process (SIMULATED platform) and drives it over HTTP. Orders are sealed before
the clock starts; a sample of the results is verified and decrypted after it stops. Figures move with the machine,
ratios less: quote the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import uvloop

from avalon_core.attestation import AppraisedWorker, TrustPolicy, appraise_worker
from avalon_core.crypto.dialects import WorkerKeys, WorkerPublicKeys
from avalon_core.crypto.orders import Item, open_order, open_result, seal_result, unlock
from avalon_core.crypto.sealing import HpkePrivateKey, RsaPrivateKey
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.errors import GeneralError, WorkOrderError
from avalon_core.protocol.ids import worker_id_of
from avalon_core.protocol.jsonrpc import decode_answer, encode_call
from avalon_core.protocol.orders import decode_result
from avalon_core.protocol.workers import decode_record

sys.path.insert(0, str(Path(__file__).parent))
import appraisal
import figures
from load import Load, http_request, run_load, seal_many

SUITES = ("~avalon-hpke-1", "avalon", "eea-1.1")


@dataclass(frozen=True, kw_only=True)
class Service:
    process: subprocess.Popen[str]
    host: str
    port: int

    def cpu_seconds(self) -> tuple[float, float]:
        """User and system time of the service process, and of everything it started (the enclave)."""
        root = psutil.Process(self.process.pid)
        own, others = root.cpu_times(), [child.cpu_times() for child in root.children(recursive=True)]
        return own.user + own.system, sum(times.user + times.system for times in others)

    def memory_mb(self) -> float:
        root = psutil.Process(self.process.pid)
        return sum(p.memory_full_info().uss for p in (root, *root.children(recursive=True))) / 1e6


def start_service(directory: str, *arguments: str) -> tuple[Service, float]:
    began = time.perf_counter()
    process = subprocess.Popen(
        [
            str(Path(sys.executable).parent / "avalon"),
            "up",
            "--port",
            "0",
            "--data-dir",
            directory,
            *arguments,
        ],
        stdout=subprocess.PIPE,
        stderr=(Path(directory) / "service.log").open("w"),
        text=True,
    )
    line = process.stdout.readline()
    if not line.startswith("avalon ready"):
        process.wait(10)
        raise SystemExit("the service did not start:\n" + (Path(directory) / "service.log").read_text())
    url = urllib.parse.urlsplit(line.split()[2])
    return Service(process=process, host=url.hostname, port=url.port), time.perf_counter() - began


def bare_cryptography() -> dict[str, float]:
    """Seconds of the primitives alone that one order of each suite cannot do without, in this process."""
    signer, digest = SigningKey.generate(), os.urandom(32)
    rsa, hpke = RsaPrivateKey.generate(), HpkePrivateKey.generate()
    sealed_rsa, sealed_hpke = rsa.public_key.seal(b"s" * 32), hpke.public_key.seal(b"s" * 32, digest)
    sign = _timed(lambda: signer.sign(digest))
    rsa_open = _timed(lambda: rsa.open_(sealed_rsa), 200)
    hpke_open = _timed(lambda: hpke.open_(sealed_hpke, digest), 500)
    print(f"  RSA-3072 decryption {rsa_open * 1e6:8.0f} us")
    print(f"  HPKE opening        {hpke_open * 1e6:8.0f} us   (MLKEM768-X25519)")
    print(f"  ECDSA signature     {sign * 1e6:8.0f} us")
    return {
        "rsa": rsa_open,
        "~avalon-hpke-1": hpke_open + sign,
        "avalon": rsa_open + sign,
        "eea-1.1": rsa_open + sign,
    }


def core_cost() -> dict[str, float]:
    """Seconds of opening an order and sealing its result by avalon_core, in this process."""
    keys = WorkerKeys(rsa=RsaPrivateKey.generate(), hpke=HpkePrivateKey.generate())
    public = WorkerPublicKeys(rsa=keys.rsa.public_key, hpke=keys.hpke.public_key)
    signer = SigningKey.generate()
    costs = {}
    for suite in SUITES:
        request = seal_many(1, "aa", public, suite=suite)[0].request

        def one(request=request) -> None:
            opened = open_order(request, unlock(request, keys))
            seal_result(opened, [Item(index=0, data=b"RESULT: hello")], signer)

        costs[suite] = _timed(one, 200)
    return costs


def _timed(function: Callable[[], object], times: int = 500) -> float:
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(times // 5):
            function()
        best = min(best, (time.perf_counter() - began) / (times // 5))
    return best


def call(service: Service, method: str, params: dict[str, object]) -> bytes:
    request = urllib.request.Request(
        f"http://{service.host}:{service.port}/",
        encode_call(method, params, 1),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def meet(service: Service) -> tuple[str, AppraisedWorker]:
    """The worker, appraised."""
    worker_id = worker_id_of("singleton-worker-1")
    raw = decode_answer(call(service, "WorkerRetrieve", {"workerId": worker_id})).result_or_raise(
        GeneralError
    )
    report, worker = appraise_worker(
        decode_record(raw), TrustPolicy.development(), worker_id=worker_id, as_of=datetime.now(UTC)
    )
    report.raise_for_verdict()
    return worker_id, worker


def bar(what: str, found: float, sign: str, wanted: float, unit: str = "") -> None:
    """One figure beside the bar that it is measured against."""
    held = found <= wanted if sign == "<=" else found >= wanted
    print(f"  {'holds ' if held else 'MISSES'} {what:<58}{found:>9.2f}{unit} (bar: {sign} {wanted:g}{unit})")


def bars(
    service: Service, rows: list[dict], bare: dict[str, float], ready: float, idle: float, memory: float
) -> None:
    """Every bar of the project, with what was measured in this run."""
    worker_id, worker = meet(service)
    by = {(row["suite"], row["clients"]): row for row in rows}
    print("\nthe bars:")
    bar("ready, in seconds", ready, "<=", 2)
    bar("idle memory", memory, "<=", 200, " MB")
    bar("idle CPU", idle * 100, "<=", 1, " %")
    busy = 1 / figures.busy_rsa_rate()
    print(
        f"  (an RSA-3072 decryption while all cores are busy: {busy * 1e6:.0f} us; alone {bare['rsa'] * 1e6:.0f} us)"
    )
    for suite, wanted in (("~avalon-hpke-1", 0.35), ("avalon", 1.35)):
        if (suite, 64) in by:
            cpu = by[suite, 64]["cpu_us"] / 1e6
            bar(f"CPU of an echo in {suite}, in bare RSA decryptions", cpu / bare["rsa"], "<=", wanted)
            print(f"         the same in decryptions on busy cores {cpu / busy:33.2f}")
        if (suite, 1) in by:
            allowed = 2 * bare[suite] * 1e3 + 3
            bar(f"p50 at one client in {suite}", by[suite, 1]["p50_ms"], "<=", allowed, " ms")
    rate, left = figures.rsa_on_cores_left(service, worker_id, worker, 1500)
    bar("RSA dialect, share of what the cores left decrypt bare", rate / left, ">=", 0.8)
    seconds, alone, growth = figures.large_item(service, worker_id, worker)
    bar("16 MiB echo, share of base64 and AES-GCM both ways", alone / seconds, ">=", 0.4)
    print(
        f"         it took {seconds * 1e3:.0f} ms, the codecs {alone * 1e3:.0f} ms; memory grew by {growth:.0f} MB"
    )


def stored_bar(number: int) -> None:
    """Submissions with many stored orders beside submissions with ten, alternating in one run."""
    print(f"\nfilling a database with {number} finished orders ...", flush=True)
    rates: dict[int, list[float]] = {10: [], number: []}
    with tempfile.TemporaryDirectory() as few, tempfile.TemporaryDirectory() as many:
        figures.fill(Path(few), 10)
        figures.fill(Path(many), number)
        services = {10: start_service(few)[0], number: start_service(many)[0]}
        try:
            for _ in range(9):
                for count, service in services.items():
                    rates[count].append(figures.submit_rate(service, *meet(service), 2000))
        finally:
            for service in services.values():
                service.process.send_signal(signal.SIGTERM)
                service.process.wait(60)
    print(
        f"  submissions a second with ten: {statistics.median(rates[10]):.0f}, with {number}: "
        f"{statistics.median(rates[number]):.0f} (medians of nine runs each)"
    )
    bar(
        f"submit rate with {number} stored orders, to that with ten",
        statistics.median(rates[number]) / statistics.median(rates[10]),
        ">=",
        0.95,
    )


def measure(
    service: Service, suites: tuple[str, ...], counts: dict[int, int], bare: dict[str, float]
) -> list[dict]:
    worker_id = worker_id_of("singleton-worker-1")
    raw = decode_answer(call(service, "WorkerRetrieve", {"workerId": worker_id})).result_or_raise(
        GeneralError
    )
    report, worker = appraise_worker(
        decode_record(raw), TrustPolicy.development(), worker_id=worker_id, as_of=datetime.now(UTC)
    )
    report.raise_for_verdict()
    rows = []
    print(
        f"\n{'suite':<16}{'clients':>8}{'orders':>8}{'orders/s':>10}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'CPU us':>9}{'enclave':>9}{'/bare':>8}{'/RSA':>8}"
    )
    for suite in suites:
        for clients, count in counts.items():
            sealed = seal_many(count + 50, worker_id, worker.public_keys, suite=suite)
            requests = [http_request(order, service.host) for order in sealed]
            uvloop.run(run_load(service.host, service.port, requests[count:], min(clients, 50)))
            before = service.cpu_seconds()
            load = uvloop.run(run_load(service.host, service.port, requests[:count], clients))
            host, enclave = (
                (after - start) / count for start, after in zip(before, service.cpu_seconds(), strict=True)
            )
            cpu = host + enclave
            verify_sample(sealed[:count], load, worker)
            row = {
                "suite": suite,
                "clients": clients,
                "orders": count,
                "orders_per_second": load.rate,
                "p50_ms": load.percentile(50) * 1e3,
                "p95_ms": load.percentile(95) * 1e3,
                "p99_ms": load.percentile(99) * 1e3,
                "cpu_us": cpu * 1e6,
                "cpu_enclave_us": enclave * 1e6,
                "cpu_over_bare": cpu / bare[suite],
                "cpu_over_rsa_decryption": cpu / bare["rsa"],
            }
            rows.append(row)
            print(
                f"{suite:<16}{clients:>8}{count:>8}{load.rate:>10.0f}{row['p50_ms']:>9.2f}{row['p95_ms']:>9.2f}"
                f"{row['p99_ms']:>9.2f}{row['cpu_us']:>9.0f}{row['cpu_enclave_us']:>9.0f}{row['cpu_over_bare']:>8.2f}{row['cpu_over_rsa_decryption']:>8.2f}"
            )
    return rows


def verify_sample(sealed: list, load: Load, worker) -> None:
    """Every answer must be a result; every twentieth is verified and decrypted."""
    by_id = {order.request.work_order_id: order for order in sealed}
    for number, body in enumerate(load.answers):
        raw = decode_answer(body).result_or_raise(WorkOrderError)
        if number % 20 == 0:
            result = decode_result(raw)
            items = open_result(by_id[result.work_order_id], result, worker.verification_key)
            if [item.data for item in items] != [b"RESULT: hello"]:
                raise SystemExit("a result is wrong")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--orders", type=int, default=2000, help="orders per row at 64 clients (fewer for fewer clients)"
    )
    parser.add_argument("--suite", action="append", choices=SUITES)
    parser.add_argument(
        "--stored",
        type=int,
        default=0,
        help="also compare the submit rate with so many stored orders (1000000: 3 minutes)",
    )
    parser.add_argument("--no-pool", action="store_true", help="leave out the figures of a pool")
    parser.add_argument("--json", action="store_true", help="also print the figures as one JSON object")
    options = parser.parse_args()
    counts = {1: max(options.orders // 8, 100), 8: max(options.orders // 2, 100), 64: options.orders}
    print("bare cryptography of one order, in this process, now:")
    bare = bare_cryptography()
    for suite, cost in core_cost().items():
        print(
            f"  open an order and seal its result ({suite:<14}) {cost * 1e6:8.0f} us   {cost / bare[suite]:.2f} x bare"
        )
    with tempfile.TemporaryDirectory() as directory:
        service, ready = start_service(directory)
        try:
            print(f"service ready in {ready:.2f} s, {service.memory_mb():.0f} MB (SIMULATED enclave)")
            idle_before, idle_began = sum(service.cpu_seconds()), time.monotonic()
            time.sleep(2)
            idle = (sum(service.cpu_seconds()) - idle_before) / (time.monotonic() - idle_began)
            print(f"idle CPU {idle * 100:.1f} %")
            memory = service.memory_mb()
            rows = measure(service, tuple(options.suite or SUITES), counts, bare)
            bars(service, rows, bare, ready, idle, memory)
            appraisal.section(bar, f"http://{service.host}:{service.port}")
            print(f"\nmemory after: {service.memory_mb():.0f} MB")
        finally:
            service.process.send_signal(signal.SIGTERM)
            service.process.wait(30)
    if not options.no_pool:
        import pool  # it stands on this module

        pool.section(max(options.orders * 3 // 4, 300), rounds=5)
    if options.stored:
        stored_bar(options.stored)
    if options.json:
        print(json.dumps({"bare_us": {k: v * 1e6 for k, v in bare.items()}, "rows": rows}))


if __name__ == "__main__":
    main()
