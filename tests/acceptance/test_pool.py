"""A pool as an operator runs it: ``avalon up --pool``, its processes killed, restarted, drained, refused and changed."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest
from pool_service import POOL, begun_with, changed, command, manifest, measured, of_role, pids, status_of
from service_process import SUITES, Requester, ServiceProcess, wait_until
from test_keys import NOT_READY, key_of, verify

from avalon_core.crypto.orders import SealedOrder, open_result, voucher_digest
from avalon_core.crypto.signing import SigningKey, load_verification_key
from avalon_core.errors import AvalonError
from avalon_core.protocol.encodings import decode_base64
from avalon_core.protocol.orders import decode_result

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

Start = Callable[..., ServiceProcess]
SECONDS = 5.0
"""Within which a pool of which something is left answers."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    running = ServiceProcess(
        tmp_path_factory.mktemp("service") / "data", "--pool", "--kme", "2", "--wpe", "2"
    )
    try:
        yield running.wait_ready()
        assert running.stop() == 0, running.log
        assert "Traceback" not in running.log, running.log
    finally:
        running.kill()


async def ready(service: ServiceProcess, session: aiohttp.ClientSession) -> Requester:
    """A requester of a service that is starting."""
    await asyncio.to_thread(service.wait_ready)
    requester = Requester(service.url, session)
    await requester.meet_worker()
    return requester


async def process(requester: Requester, data: bytes = b"x", **options: Any) -> Any:
    """One order, from the sealing to the checked result; the result's members."""
    sealed = requester.seal([data], **options)
    answer = await requester.submit(sealed, wait=30)
    assert requester.open(sealed, answer) == [b"RESULT: " + data]
    return answer["result"]


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.05)


async def told(service: ServiceProcess, requester: Requester, what: str) -> list[dict[str, Any]]:
    """What the status tells of the places for KMEs, or WPEs."""
    places: list[dict[str, Any]] = (await status_of(service, requester))[what]
    return places


async def serves(service: ServiceProcess, requester: Requester, kmes: int = 2) -> None:
    """Return when so many KMEs serve, and have a session with every WPE."""

    async def all_there() -> bool:
        status = await status_of(service, requester)
        wpes = [wpe for wpe in status["wpes"] if wpe["state"] in ("serving", "spare")]
        serving = [
            kme["enclave"] for kme in status["kmes"] if kme.get("enclave") and kme["enclave"]["serving"]
        ]
        return (
            len(wpes) == len(status["wpes"])
            and len(serving) == kmes
            and all(kme["wpes"] == len(wpes) for kme in serving)
        )

    await until(all_there)


async def one_after_another(requester: Requester, stop: asyncio.Event) -> float:
    """Orders without a pause; how long the slowest took."""
    slowest = 0.0
    while not stop.is_set():
        began = time.monotonic()
        await process(requester, suite=SUITES[int(began * 1000) % 3])
        slowest = max(slowest, time.monotonic() - began)
    return slowest


def gone(processes: set[int], service: ServiceProcess, role: str) -> Callable[[], bool]:
    return lambda: not processes & pids(service, role) and len(pids(service, role)) >= len(processes)


# What there is


async def test_the_processes_name_their_roles(service: ServiceProcess) -> None:
    assert len(of_role(service, "kme")) == len(of_role(service, "wpe")) == 2
    assert len(service.enclaves()) == 4


@pytest.mark.parametrize("suite", SUITES)
async def test_a_result_is_signed_by_a_one_time_key_that_the_pool_vouches_for(
    service: ServiceProcess, requester: Requester, suite: str
) -> None:
    sealed = requester.seal([b"x"], suite=suite)
    result = (await requester.submit(sealed, wait=30))["result"]
    assert requester.worker is not None
    pem = result["extVerificationKey"]
    digest = voucher_digest(pem, sealed.request.requester_nonce)
    voucher = decode_base64(result["extVerificationKeySignature"], what="voucher")
    requester.worker.verification_key.verify(digest, voucher, strict=True)
    assert load_verification_key(pem) != requester.worker.verification_key
    assert (await process(requester, suite=suite))["extVerificationKey"] != pem
    for member, other in (
        ("extVerificationKey", (await process(requester, suite=suite))["extVerificationKey"]),
        ("extVerificationKeySignature", result["workerSignature"]),
        ("workerSignature", result["extVerificationKeySignature"]),
    ):
        forged = decode_result(msgspec.json.encode(result | {member: other}))
        with pytest.raises(AvalonError, match="does not verify"):
            open_result(sealed, forged, requester.worker.verification_key)


async def test_a_voucher_is_of_one_order_only(requester: Requester) -> None:
    """A one-time key that got away signs nothing else: its voucher names the requester's nonce."""
    assert requester.worker is not None
    one, two = requester.seal([b"1"]), requester.seal([b"2"])
    first = (await requester.submit(one, wait=30))["result"]
    second = (await requester.submit(two, wait=30))["result"]
    members = {name: first[name] for name in ("extVerificationKey", "extVerificationKeySignature")}
    forged = decode_result(msgspec.json.encode(second | members))
    with pytest.raises(AvalonError, match="does not verify"):
        open_result(two, forged, requester.worker.verification_key)


async def test_status_and_metrics(service: ServiceProcess, requester: Requester) -> None:
    await serves(service, requester)
    before = await status_of(service, requester)
    await asyncio.gather(*(process(requester, b"%d" % number) for number in range(20)))
    status = await status_of(service, requester)
    assert (status["state"], status["epoch"], status["manifestVersion"]) == ("serving", 1, 1)
    assert status["simulated"] is True
    assert [kme["state"] for kme in status["kmes"]] == ["serving", "serving"]
    assert {kme["pid"] for kme in status["kmes"]} == pids(service, "kme")
    assert {wpe["pid"] for wpe in status["wpes"]} == pids(service, "wpe")
    assert len({kme["measurement"] for kme in status["kmes"]}) == 1
    assert len({kme["enclave"]["instance"] for kme in status["kmes"]}) == 2
    assert {kme["enclave"]["pool"] for kme in status["kmes"]} == {status["pool"]}
    epochs = [kme["enclave"]["epochs"] for kme in status["kmes"]]
    assert epochs[0] == epochs[1]
    opened = [sum(kme["enclave"]["counters"]["opened"] for kme in told["kmes"]) for told in (before, status)]
    assert opened[1] - opened[0] == 20
    assert status["links"] == 5  # the KMEs', and of each WPE one to each
    refused = await requester.call("PoolStatus", {})
    assert refused["error"]["code"] == 3

    metrics = (await requester.get("/metrics"))[1].decode()
    name = status["worker"]
    assert f'avalon_worker_serving{{simulated="true",worker="{name}"}} 1.0' in metrics
    for role in ("kme", "wpe"):
        line = f'avalon_pool_enclaves{{role="{role}",state="serving",worker="{name}"}} 2.0'
        assert line in metrics, metrics
    assert f'avalon_pool_epoch{{worker="{name}"}} 1.0' in metrics
    page = json.loads((await requester.get("/status"))[1])
    assert page["workers"][0]["state"] == "serving"
    assert page["workers"][0]["in_flight"] == 0
    assert page["pools"][0]["pool"] == status["pool"]


async def test_rotation(service: ServiceProcess, requester: Requester) -> None:
    """New keys for whoever asks; orders that were sealed to the old ones still open."""
    assert requester.worker is not None
    old = (await key_of(requester))["result"]
    verify(old, requester.worker.verification_key)
    nonce = old["encryptionKeyNonce"]
    assert (await key_of(requester, lastUsedKeyNonce=nonce))["error"]["code"] == NOT_READY
    before = [requester.seal([b"old"], suite=suite) for suite in SUITES]
    epoch = (await status_of(service, requester))["epoch"]
    assert (await command(service, requester, "PoolRotate"))["epoch"] == epoch + 1

    new = (await key_of(requester, lastUsedKeyNonce=nonce))["result"]
    verify(new, requester.worker.verification_key)
    assert new["encryptionKey"] != old["encryptionKey"]
    assert (await key_of(requester, lastUsedKeyNonce=new["encryptionKeyNonce"]))["error"]["code"] == NOT_READY
    verification_key, old_keys = requester.worker.verification_key, requester.worker.public_keys

    async def published() -> bool:
        await requester.meet_worker()
        assert requester.worker is not None
        return requester.worker.public_keys.hpke.key_id != old_keys.hpke.key_id

    await until(published)
    assert requester.worker.verification_key == verification_key
    for sealed in before:
        assert requester.open(sealed, await requester.submit(sealed, wait=30)) == [b"RESULT: old"]
    for suite in SUITES:
        await process(requester, suite=suite)
    kmes = (await status_of(service, requester))["kmes"]
    assert [[one["number"] for one in kme["enclave"]["epochs"]] for kme in kmes] == [
        [epoch + 1, *range(epoch, 0, -1)]
    ] * 2


# What dies


async def test_a_kme_that_dies_costs_nothing(service: ServiceProcess, requester: Requester) -> None:
    """Orders go on at once, whichever of the two it is; no WPE is started anew; and it comes back into the pool."""
    await serves(service, requester)
    wpes, key = pids(service, "wpe"), (await key_of(requester))["result"]["encryptionKey"]
    for number in range(2):
        victim = of_role(service, "kme")[number if number == 0 else -1]
        stop = asyncio.Event()
        clients = [asyncio.create_task(one_after_another(requester, stop)) for _ in range(4)]
        await asyncio.sleep(0.3)
        victim.kill()
        await asyncio.to_thread(wait_until, gone({victim.pid}, service, "kme"))
        stop.set()
        slowest = max(await asyncio.gather(*clients))
        print(f"  while a KME was gone the slowest order took {slowest:.2f} s")
        assert slowest < SECONDS
        await serves(service, requester)
    assert pids(service, "wpe") == wpes
    assert (await key_of(requester))["result"]["encryptionKey"] == key
    assert (await status_of(service, requester))["rollbacks"] == 0


async def test_all_kmes_die_and_come_back(service: ServiceProcess, requester: Requester) -> None:
    """By their seals: no WPE is started anew, and what was accepted meanwhile is processed."""
    await serves(service, requester)
    wpes = pids(service, "wpe")
    kmes = of_role(service, "kme")
    for kme in kmes:
        kme.kill()
    began = time.monotonic()
    await asyncio.gather(*(process(requester, b"%d" % number) for number in range(10)))
    print(f"  without any KME: the first orders after {time.monotonic() - began:.2f} s")
    await serves(service, requester)
    assert pids(service, "wpe") == wpes
    assert not pids(service, "kme") & {kme.pid for kme in kmes}
    status = await status_of(service, requester)
    assert status["rollbacks"] == 0
    page = json.loads((await requester.get("/status"))[1])
    assert page["workers"][0]["state"] == "serving"


async def test_a_wpe_that_dies_costs_no_order(service: ServiceProcess, requester: Requester) -> None:
    await serves(service, requester)
    orders = [requester.seal([b"%d" % number], suite=SUITES[number % 3]) for number in range(60)]
    submitted = asyncio.gather(*(requester.submit(order, wait=30) for order in orders))
    await asyncio.sleep(0.02)
    for wpe in of_role(service, "wpe"):
        wpe.kill()
    for number, (order, answer) in enumerate(zip(orders, await submitted, strict=True)):
        assert requester.open(order, answer) == [b"RESULT: %d" % number]
    await serves(service, requester)


async def test_a_stopped_kme_is_found_out(start: Start, session: aiohttp.ClientSession) -> None:
    service = start(environment=POOL | {"AVALON_LEASE_SECONDS": "3"})
    requester = await ready(service, session)
    await serves(service, requester)
    [victim, _] = of_role(service, "kme")
    victim.suspend()
    began = time.monotonic()
    await asyncio.gather(*(process(requester, b"%d" % number) for number in range(20)))
    assert time.monotonic() - began < SECONDS
    await serves(service, requester)
    assert victim.pid not in pids(service, "kme")
    assert "no sign of life" in service.log


async def test_keys_outlive_a_restart_of_the_service(start: Start, session: aiohttp.ClientSession) -> None:
    """In order, by kill -9, and by kill -9 in its first moments, when only one KME has sealed the keys."""
    service = start("--pool")
    await asyncio.to_thread(service.wait_ready)
    requester = Requester(service.url, session)
    worker = await requester.meet_worker()
    sealed = [requester.seal([b"%d" % number], suite=SUITES[number % 3]) for number in range(6)]
    for end in ("kill", "stop", "kill"):
        await asyncio.to_thread(getattr(service, end))
        service = start("--pool", port=service.port)
        began = time.monotonic()
        await ready(service, session)
        assert time.monotonic() - began < 15, service.log
        again = await requester.meet_worker()
        assert again.verification_key == worker.verification_key
        assert again.public_keys.hpke.key_id == worker.public_keys.hpke.key_id
        order = sealed.pop()
        assert requester.open(order, await requester.submit(order, wait=30))
    assert (await status_of(service, requester))["rollbacks"] == 0


async def test_an_old_seal_is_noticed_by_the_other_kme(start: Start, session: aiohttp.ClientSession) -> None:
    service = start("--pool")
    requester = await ready(service, session)
    await serves(service, requester)
    [seal] = service.data_dir.glob("pools/*/kme-2/sealed")
    old = seal.read_bytes()
    await command(service, requester, "PoolRotate")
    await asyncio.to_thread(wait_until, lambda: seal.read_bytes() != old)
    [victim] = [kme for kme in await told(service, requester, "kmes") if kme["name"] == "kme-2"]
    seal.write_bytes(old)
    psutil.Process(victim["pid"]).kill()
    await asyncio.to_thread(wait_until, lambda: "rollback_detected" in service.log)
    await serves(service, requester)
    status = await status_of(service, requester)
    assert status["rollbacks"] == 1
    assert [kme["enclave"]["epochs"][0]["number"] for kme in status["kmes"]] == [2, 2]
    assert seal.read_bytes() != old


async def test_keys_that_nobody_has_any_more(start: Start, session: aiohttp.ClientSession) -> None:
    """Never replaced in silence: requesters would seal to keys that no owner has agreed to."""
    service = start("--pool")
    await ready(service, session)
    await asyncio.to_thread(service.stop)
    for folder in service.data_dir.glob("pools/*/kme-*"):
        shutil.rmtree(folder)
    again = start("--pool", port=service.port)
    assert await asyncio.to_thread(again.process.wait, 30) == 3
    assert "recover the pool from the owners' shares" in again.log
    assert "Traceback" not in again.log


async def test_a_drained_pool_finishes_what_it_has(
    start: Start, session: aiohttp.ClientSession, slow_workload: Path
) -> None:
    environment = POOL | {"PYTHONPATH": str(slow_workload)}
    service = start(environment=environment)
    requester = await ready(service, session)
    slow = requester.seal([b"1.5"], workload="test-sleep")
    await requester.submit(slow)
    await asyncio.sleep(0.3)
    assert await command(service, requester, "PoolDrain") == {"draining": True}
    assert requester.open(slow, await requester.result(slow)) == [b"slept"]
    await asyncio.to_thread(wait_until, lambda: not pids(service, "wpe"))
    assert len(pids(service, "kme")) == 2
    waiting = requester.seal([b"x"])
    assert (await requester.submit(waiting, wait=1))["error"]["code"] == 5
    assert (await status_of(service, requester))["state"] == "draining"
    assert (await requester.get("/readyz"))[0] == 503
    assert (await requester.get("/healthz"))[0] == 200
    assert (await key_of(requester))["result"]["encryptionKey"]
    assert await asyncio.to_thread(service.stop) == 0
    again = start(environment=environment, port=service.port)
    await asyncio.to_thread(again.wait_ready)
    assert requester.open(waiting, await requester.result(waiting)) == [b"RESULT: x"]


# What the manifest says


async def test_kmes_sign_results_where_the_manifest_says_so(
    start: Start, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    service = start(environment=begun_with(manifest(kme_signs_results=True), tmp_path))
    requester = await ready(service, session)
    for suite in SUITES:
        result = await process(requester, suite=suite)
        assert result.get("extVerificationKey") is None
    orders = [requester.seal([b"%d" % number], suite=SUITES[number % 3]) for number in range(90)]
    answers = await asyncio.gather(*(requester.submit(order, wait=30) for order in orders))
    for number, (order, answer) in enumerate(zip(orders, answers, strict=True)):
        assert requester.open(order, answer) == [b"RESULT: %d" % number]


async def test_wpes_that_may_process_one_order_only(
    start: Start, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Spares keep the pool usable, and no process ever sees the secrets of a second order."""
    environment = begun_with(manifest(orders_per_wpe=1), tmp_path)
    service = start(environment=environment | {"AVALON_POOL_WPES": "1", "AVALON_POOL_SPARES": "2"})
    requester = await ready(service, session)
    await serves(service, requester)
    began = time.monotonic()
    for suite in itertools.islice(itertools.cycle(SUITES), 2):
        await process(requester, suite=suite)
    assert time.monotonic() - began < SECONDS, "spares are taken at once"
    orders = [requester.seal([b"%d" % number], suite=SUITES[number % 3]) for number in range(6)]
    answers = await asyncio.gather(*(requester.submit(order, wait=60) for order in orders))
    for number, (order, answer) in enumerate(zip(orders, answers, strict=True)):
        assert requester.open(order, answer) == [b"RESULT: %d" % number]
    joined = {line.split("wpe=")[1].split()[0] for line in service.log.splitlines() if "wpe_joined" in line}
    assert len(joined) >= 8
    status = await status_of(service, requester)
    assert sum(wpe["restarts"] for wpe in status["wpes"]) == 0  # none has failed: each has done what it may


async def test_changed_code_is_refused_until_a_quorum_admits_it(
    start: Start, session: aiohttp.ClientSession, tmp_path: Path, slow_workload: Path
) -> None:
    """A WPE with another workload: refused with a reason, logged and counted; no operator can change that alone."""
    owners = [SigningKey.generate() for _ in range(3)]
    new_kme, new_wpe = measured("kme", slow_workload), measured("wpe", slow_workload)
    first = manifest(
        kme_measurements=(measured("kme"), new_kme),
        owners=tuple(owner.verification_key.pem for owner in owners),
        quorum=2,
    )
    environment = begun_with(first, tmp_path)
    service = start(environment=environment)
    requester = await ready(service, session)
    await process(requester)
    assert new_wpe not in first.wpe_measurements
    await asyncio.to_thread(service.stop)

    changed_code, port = environment | {"PYTHONPATH": str(slow_workload)}, service.port
    service = start(environment=changed_code, port=port)
    await asyncio.to_thread(wait_until, lambda: "measurement not allowed" in service.log)
    waiting = requester.seal([b"0.1"], workload="test-sleep")
    assert (await requester.submit(waiting, wait=1))["error"]["code"] == 5
    status = await status_of(service, requester)
    assert {wpe["state"] for wpe in status["wpes"]} == {"joining"}
    assert all(kme["enclave"]["wpes"] == 0 for kme in status["kmes"])
    assert all(
        kme["enclave"]["counters"]["refused_peers"]["measurement not allowed"] for kme in status["kmes"]
    )
    assert status["linksEnded"]["measurement not allowed"] >= 2
    metrics = (await requester.get("/metrics"))[1].decode()
    assert 'reason="measurement not allowed"' in metrics

    admitted = (*first.wpe_measurements, new_wpe)
    alone = changed(first, owners[:1], wpe_measurements=admitted)
    assert "1 owners have signed" in str(await command(service, requester, "PoolChange", change=alone))
    quorum = changed(first, owners[:2], wpe_measurements=admitted)
    assert await command(service, requester, "PoolChange", change=quorum) == {"version": 2}
    assert requester.open(waiting, await requester.result(waiting)) == [b"slept"]
    await serves(service, requester)
    assert (await status_of(service, requester))["manifestVersion"] == 2
    # It is kept: enclaves that start later go by it.
    await asyncio.to_thread(service.stop)
    service = start(environment=changed_code, port=port)
    await asyncio.to_thread(service.wait_ready)
    await process(requester)


async def test_a_manifest_that_does_not_admit_the_kmes_is_told(
    start: Start, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    environment = begun_with(manifest(kme_measurements=("ab" * 32,)), tmp_path)
    service = start(environment=environment)
    assert await asyncio.to_thread(service.process.wait, 60) == 3
    assert "does not admit" in service.log
    assert "Traceback" not in service.log


async def test_no_more_wpes_than_the_manifest_admits(
    start: Start, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    service = start(environment=begun_with(manifest(max_wpes=1), tmp_path))
    requester = await ready(service, session)
    await process(requester)
    await asyncio.to_thread(wait_until, lambda: "too many wpes" in service.log)
    status = await status_of(service, requester)
    assert sorted(wpe["state"] for wpe in status["wpes"]) == ["joining", "serving"]


# What must not be


async def test_production_refuses_a_pool_on_the_simulator(start: Start) -> None:
    service = start("--pool", "--profile", "production")
    assert await asyncio.to_thread(service.process.wait, 30) == 3
    assert "refuses the simulated platform" in service.log


async def test_two_pools_side_by_side_do_not_mix(
    start: Start, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    here, there = (start("--pool", data_dir=tmp_path / name) for name in ("here", "there"))
    requesters = [await ready(service, session) for service in (here, there)]
    first, second = (requester.worker for requester in requesters)
    assert first is not None
    assert second is not None
    assert first.verification_key != second.verification_key
    for requester in requesters:
        await process(requester)
    stray: SealedOrder = requesters[0].seal([b"x"])
    assert (await requesters[1].submit(stray, wait=30))["error"]["code"] in (1, 2)
    # One's sealed keys in the other's place: its platform does not open them.
    await asyncio.to_thread(there.stop)
    [ours] = here.data_dir.glob("pools/*/kme-1/sealed")
    for theirs in there.data_dir.glob("pools/*/kme-1/sealed"):
        theirs.write_bytes(ours.read_bytes())
    again = start("--pool", data_dir=there.data_dir, port=there.port)
    assert await asyncio.to_thread(again.process.wait, 30) == 3
    assert "does not open" in again.log
    await process(requesters[0])
