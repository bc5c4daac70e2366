"""What it costs to appraise evidence, and what of it a requester pays for each order.

    python bench/appraisal.py

For each kind of evidence of the simulator (the bytes and the verifiers are those of hardware): *first*, with nothing kept
from before; *next*, other evidence of the same platform, as when a worker's evidence was refreshed; beside the bare library
where there is one, alternating in one run. Then what the SDK does for each order with a record that it knows.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

import dcap_qvl
import msgspec

from avalon_core.attestation.appraisal import appraise
from avalon_core.attestation.checks import Verdict
from avalon_core.attestation.dcap import certificates, library, pck, statements
from avalon_core.attestation.dcap.qvl import prepare
from avalon_core.attestation.policy import TrustPolicy
from avalon_core.simulator.vendors import MEASUREMENT_BYTES, EvidenceRequest, Issued, SimulatedVendors
from avalon_sdk import AvalonClient
from avalon_sdk.deadline import Deadline
from avalon_sdk.testing import SimulatedService

ROUNDS = 9
KINDS = ("sgx", "tdx", "snp", "nitro")
MOST_OVER_BARE = 1.3
MOST_OF_AN_ORDER = 0.05

Bar = Callable[..., None]


def section(bar: Bar, url: str) -> None:
    """Print the figures, and each beside its bar (``bench.bar``). ``url``: of a service that runs, in development."""
    print("\nappraisal of evidence, in this process, now (SIMULATED vendors, ordinary verifiers):")
    print(f"  {'':<8}{'first us':>10}{'next us':>10}{'bare us':>10}{'next/bare':>11}")
    for kind in KINDS:
        first, following, bare = appraisal_cost(kind)
        compared = f"{bare * 1e6:10.0f}{following / bare:11.2f}" if bare else ""
        print(f"  {kind:<8}{first * 1e6:10.0f}{following * 1e6:10.0f}{compared}")
        if kind == "sgx":
            sgx = following / bare
    order, (record, held) = asyncio.run(client_cost(url)), asyncio.run(record_cost())
    print(f"  an order, CPU of the client             {order * 1e6:8.1f} us")
    print(f"  a record that passed before             {record * 1e6:8.1f} us, retrieved again")
    print(f"  a worker that is in hand                {held * 1e6:8.1f} us")
    bar("appraising SGX evidence, to bare dcap-qvl", sgx, "<=", MOST_OVER_BARE)
    bar("a known record, share of an order's client cost", record / order, "<=", MOST_OF_AN_ORDER)


def appraisal_cost(kind: str) -> tuple[float, float, float]:
    """(first, next, bare) seconds of one appraisal, medians; bare is 0 where no library stands behind it."""
    vendors, now = SimulatedVendors(), datetime.now(UTC)
    measurement = b"m" * MEASUREMENT_BYTES[kind]
    policy = TrustPolicy.development({measurement.hex()})
    made = [
        vendors.issue(
            EvidenceRequest(kind=kind, measurement=measurement, report_data=bytes([number]) * 64), now
        )
        for number in range(40)
    ]

    def judge(issued: Issued) -> None:
        report = appraise(issued.evidence, policy, collateral=issued.collateral, as_of=now)
        if report.verdict is not Verdict.PASSED:
            raise SystemExit(f"good evidence of {kind} did not pass")

    judge(made[0])
    first, following, bare = [], [], []
    for _ in range(ROUNDS):
        _forget()
        first.append(_timed(judge, made[:1]))
        following.append(_timed(judge, made))
        if kind in ("sgx", "tdx"):
            bare.append(_timed(_bare(made[0], vendors.root(kind), now), made))
    return (
        statistics.median(first),
        statistics.median(following),
        statistics.median(bare) if bare else 0.0,
    )


def _bare(issued: Issued, root: bytes, now: datetime) -> Callable[[Issued], None]:
    """The library alone, with everything prepared that can be."""
    verifier, at = dcap_qvl.QuoteVerifier(root), int(now.timestamp())
    [collateral] = issued.collateral.dcap
    prepared = prepare(collateral, collateral.tcb_info_issuer_chain, collateral.qe_identity_issuer_chain)
    policy = dcap_qvl.QuotePolicy.claims_only(at)

    def verify(one: Issued) -> None:
        verifier.verify_with_policy(one.evidence.document, prepared, at, policy).to_json()

    return verify


async def client_cost(url: str) -> float:
    """CPU seconds of this process for one order at a service, from plaintext to plaintext."""
    async with AvalonClient(url, trust=TrustPolicy.development()) as client:
        worker = await client.find_worker()
        costs = []
        for _ in range(ROUNDS):
            began = time.process_time()
            for _ in range(30):
                await worker.run("echo-result", [b"hello"])
            costs.append((time.process_time() - began) / 30)
    return min(costs)


async def record_cost() -> tuple[float, float]:
    """Seconds of (a known record that is retrieved, a worker in hand), without the way to the service."""
    service = SimulatedService()
    raw = msgspec.json.encode(service.record())
    async with service.client() as client:
        finder, deadline = client._finder, Deadline.after(60)
        worker = await finder.find(name=None, worker_id=service.worker_id, deadline=deadline)
        if not finder.appraise(service.worker_id, raw).is_trusted:
            raise SystemExit("a good record did not pass")

        async def record() -> None:
            # Received anew, so that no identity of objects helps.
            finder.appraise(service.worker_id, bytes(memoryview(raw)))

        async def in_hand() -> None:
            await finder.renewed(worker, deadline)

        return await _awaited(record, 500), await _awaited(in_hand, 500)


async def _awaited(function: Callable, times: int) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(times):
            await function()
        best = min(best, (time.perf_counter() - began) / times)
    return best


def _timed(function: Callable[[Issued], None], made: list[Issued]) -> float:
    """Seconds of one, over all of them."""
    gc.disable()
    try:
        # CPU time: what else the machine has to do must not decide a ratio.
        began = time.process_time()
        for issued in made:
            function(issued)
        return (time.process_time() - began) / len(made)
    finally:
        gc.enable()


def _forget() -> None:
    """Empty what the verifiers keep of certificates and statements that they have read."""
    for module in (certificates, library, pck, statements):
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


if __name__ == "__main__":
    import signal
    import tempfile

    from bench import bar as print_bar
    from bench import start_service

    with tempfile.TemporaryDirectory() as directory:
        running, _ = start_service(directory)
        try:
            section(print_bar, f"http://{running.host}:{running.port}")
        finally:
            running.process.send_signal(signal.SIGTERM)
            running.process.wait(30)
