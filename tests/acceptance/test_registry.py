"""Writes to the worker registry: who may make them, and what they change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from foreign_worker import ForeignWorker, call_as, code_of, token_of
from service_process import WORKER_ID, Requester, ServiceProcess, wait_until

from avalon_core.crypto.signing import SigningKey

pytestmark = [pytest.mark.acceptance]

Start = Callable[..., ServiceProcess]

OK, UNKNOWN, INVALID, DENIED, BAD_SIGNATURE, BUSY = 0, 1, 2, 3, 4, 8
OTHER_KEY = SigningKey.generate()


@pytest.fixture
def token(service: ServiceProcess) -> str:
    return token_of(service)


async def retrieve(requester: Requester, worker_id: str) -> Any:
    return (await requester.call("WorkerRetrieve", {"workerId": worker_id})).get("result")


REGISTRATIONS: dict[str, tuple[Callable[[ForeignWorker], dict[str, Any]], int]] = {
    "without authority": (lambda w: w.registration(), DENIED),
    "signed by the worker": (lambda w: w.signed("WorkerRegister", w.registration()), OK),
    "signed by another key": (
        lambda w: w.signed("WorkerRegister", w.registration(), OTHER_KEY),
        BAD_SIGNATURE,
    ),
    "another id than was signed": (
        lambda w: {**w.signed("WorkerRegister", w.registration()), "workerId": "ab"},
        BAD_SIGNATURE,
    ),
    "other details than were signed": (
        lambda w: {**w.signed("WorkerRegister", w.registration()), "details": w.details(fromAddress="x")},
        BAD_SIGNATURE,
    ),
    "a signature that is none": (
        lambda w: {**w.registration(), "signatureNonce": "1", "signature": "AAAA"},
        BAD_SIGNATURE,
    ),
    "a signature without a nonce": (lambda w: {**w.registration(), "signature": "AAAA"}, INVALID),
    "an update's signature": (
        lambda w: {**w.signed("WorkerUpdate", w.update()), **w.registration()},
        BAD_SIGNATURE,
    ),
    "details that are no object": (lambda w: w.registration(details="{}"), INVALID),
    "details without keys": (lambda w: w.registration(details={"workerTypeData": {}}), INVALID),
    "a key that is none": (
        lambda w: w.registration(
            details={
                "workerTypeData": {"verificationKey": "x", "encryptionKey": "x", "encryptionKeySignature": ""}
            }
        ),
        INVALID,
    ),
    "an unknown type": (lambda w: w.registration(workerType=4), INVALID),
    "an unknown member": (lambda w: w.registration(more=1), INVALID),
    "an id that is not hex": (lambda w: w.registration(workerId="worker"), INVALID),
    "the id of the worker that is hosted here": (
        lambda w: w.signed("WorkerRegister", w.registration(workerId=WORKER_ID)),
        DENIED,
    ),
    "the same in another spelling": (
        lambda w: w.signed("WorkerRegister", w.registration(workerId=f"0x{WORKER_ID.upper()}")),
        DENIED,
    ),
}


@pytest.mark.parametrize(("make", "code"), REGISTRATIONS.values(), ids=REGISTRATIONS.keys())
async def test_a_registration(
    requester: Requester, make: Callable[[ForeignWorker], dict[str, Any]], code: int
) -> None:
    worker = ForeignWorker()
    answer = await requester.call("WorkerRegister", make(worker))
    assert code_of(answer) == code, answer
    record = await retrieve(requester, worker.worker_id)
    assert (record is not None) == (code == OK)
    if code == DENIED and "hosts" not in answer["error"]["message"]:
        assert "operator-token" in answer["error"]["message"]


async def test_what_was_registered_is_found_and_retrieved(requester: Requester, token: str) -> None:
    worker = ForeignWorker()
    params = worker.registration(organizationId="0badcafe", applicationTypeId="07")
    assert code_of(await call_as(requester, token, "WorkerRegister", params)) == OK
    found = await requester.call("WorkerLookUp", {"organizationId": "0badcafe", "applicationTypeId": ["07"]})
    assert found["result"]["ids"] == [worker.worker_id]
    assert await retrieve(requester, worker.worker_id) == {
        "workerType": 1,
        "organizationId": "0badcafe",
        "applicationTypeId": "07",
        "details": worker.details(),
        "status": 1,
    }


@pytest.mark.parametrize("wrong", ["x", "", "token", "x" * 43])
@pytest.mark.parametrize("method", ["WorkerRegister", "WorkerUpdate", "WorkerSetStatus"])
async def test_a_wrong_token_is_refused_even_beside_a_signature(
    requester: Requester, wrong: str, method: str
) -> None:
    worker = ForeignWorker()
    if method != "WorkerRegister":
        await requester.call("WorkerRegister", worker.signed("WorkerRegister", worker.registration()))
    params = {
        "WorkerRegister": worker.registration(),
        "WorkerUpdate": worker.update(),
        "WorkerSetStatus": worker.status(2),
    }[method]
    assert code_of(await call_as(requester, wrong, method, worker.signed(method, params))) == DENIED


async def test_an_existing_worker_is_updated_not_registered_again(requester: Requester, token: str) -> None:
    worker = ForeignWorker()
    first = worker.signed("WorkerRegister", worker.registration())
    assert code_of(await requester.call("WorkerRegister", first)) == OK
    assert code_of(await requester.call("WorkerRegister", first)) == INVALID
    assert code_of(await call_as(requester, token, "WorkerRegister", worker.registration())) == INVALID
    squatter = ForeignWorker()
    squat = squatter.signed("WorkerRegister", squatter.registration(workerId=worker.worker_id))
    assert code_of(await requester.call("WorkerRegister", squat)) == INVALID
    update = worker.signed("WorkerUpdate", worker.update(details=worker.details(fromAddress="here")))
    assert code_of(await requester.call("WorkerUpdate", update)) == OK
    assert (await retrieve(requester, worker.worker_id))["details"]["fromAddress"] == "here"


async def test_a_replayed_write_is_refused(requester: Requester, token: str) -> None:
    worker = ForeignWorker()
    await requester.call("WorkerRegister", worker.signed("WorkerRegister", worker.registration()))
    old = worker.signed("WorkerUpdate", worker.update(details=worker.details(fromAddress="old")))
    new = worker.signed("WorkerUpdate", worker.update(details=worker.details(fromAddress="new")))
    off_line = worker.signed("WorkerSetStatus", worker.status(2))
    on_line = worker.signed("WorkerSetStatus", worker.status(1))
    for method, params in (
        ("WorkerUpdate", old),
        ("WorkerUpdate", new),
        ("WorkerSetStatus", off_line),
        ("WorkerSetStatus", on_line),
    ):
        assert code_of(await requester.call(method, params)) == OK
    # Nor does an update by the operator, which has no nonce, let the old ones in again.
    operators = worker.update(details=worker.details(fromAddress="new"))
    assert code_of(await call_as(requester, token, "WorkerUpdate", operators)) == OK
    for method, params in (
        ("WorkerUpdate", old),
        ("WorkerUpdate", new),
        ("WorkerSetStatus", off_line),
        ("WorkerSetStatus", on_line),
    ):
        assert code_of(await requester.call(method, params)) == BAD_SIGNATURE
    record = await retrieve(requester, worker.worker_id)
    assert (record["details"]["fromAddress"], record["status"]) == ("new", 1)


async def test_many_writes_with_one_nonce_change_one_thing(requester: Requester) -> None:
    worker = ForeignWorker()
    await requester.call("WorkerRegister", worker.signed("WorkerRegister", worker.registration()))
    nonce = next(worker.nonces)
    updates = [
        worker.signed(
            "WorkerUpdate", worker.update(details=worker.details(fromAddress=str(n)), signatureNonce=nonce)
        )
        for n in range(8)
    ]
    answers = await asyncio.gather(*(requester.call("WorkerUpdate", update) for update in updates))
    assert sorted(code_of(answer) for answer in answers) == [OK] + 7 * [BAD_SIGNATURE]


async def test_what_the_service_remembers_cannot_be_written(requester: Requester) -> None:
    worker = ForeignWorker()
    forged = worker.details(registration={"signatureNonce": "0", "keys": {}})
    params = worker.signed("WorkerRegister", worker.registration(details=forged))
    assert code_of(await requester.call("WorkerRegister", params)) == OK
    remembered = (await retrieve(requester, worker.worker_id))["details"]["registration"]
    assert remembered == {"signatureNonce": params["signatureNonce"]}


async def test_a_new_key_is_signed_by_the_old_one(requester: Requester) -> None:
    worker = ForeignWorker()
    await requester.call("WorkerRegister", worker.signed("WorkerRegister", worker.registration()))
    old, worker.signing = worker.signing, SigningKey.generate()
    params = worker.update()
    assert (
        code_of(await requester.call("WorkerUpdate", worker.signed("WorkerUpdate", params))) == BAD_SIGNATURE
    )
    assert code_of(await requester.call("WorkerUpdate", worker.signed("WorkerUpdate", params, old))) == OK
    status = worker.status(2)
    assert (
        code_of(await requester.call("WorkerSetStatus", worker.signed("WorkerSetStatus", status, old)))
        == BAD_SIGNATURE
    )
    assert code_of(await requester.call("WorkerSetStatus", worker.signed("WorkerSetStatus", status))) == OK


async def test_a_compromised_worker_is_the_operators_alone(requester: Requester, token: str) -> None:
    worker = ForeignWorker()
    await requester.call("WorkerRegister", worker.signed("WorkerRegister", worker.registration()))
    assert code_of(await call_as(requester, token, "WorkerSetStatus", worker.status(4))) == OK
    back = worker.signed("WorkerSetStatus", worker.status(1))
    assert code_of(await requester.call("WorkerSetStatus", back)) == DENIED
    assert (
        code_of(await requester.call("WorkerUpdate", worker.signed("WorkerUpdate", worker.update())))
        == DENIED
    )
    assert code_of(await call_as(requester, token, "WorkerSetStatus", worker.status(1))) == OK
    assert (await retrieve(requester, worker.worker_id))["status"] == 1


async def test_the_hosted_workers_record_is_its_enclaves(requester: Requester, token: str) -> None:
    before = await retrieve(requester, WORKER_ID)
    worker = ForeignWorker()
    worker.worker_id = WORKER_ID
    for params in (worker.update(), worker.signed("WorkerUpdate", worker.update())):
        assert code_of(await call_as(requester, token, "WorkerUpdate", params)) == DENIED
        assert code_of(await requester.call("WorkerUpdate", params)) == DENIED
    assert code_of(await requester.call("WorkerSetStatus", worker.status(3))) == DENIED
    forged = worker.signed("WorkerSetStatus", worker.status(3))
    assert code_of(await requester.call("WorkerSetStatus", forged)) == BAD_SIGNATURE
    assert await retrieve(requester, WORKER_ID) == before


async def test_unknown_workers_and_statuses(requester: Requester, token: str) -> None:
    worker = ForeignWorker()
    assert code_of(await call_as(requester, token, "WorkerUpdate", worker.update())) == INVALID
    assert code_of(await call_as(requester, token, "WorkerSetStatus", worker.status(2))) == INVALID
    hosted = {"workerId": WORKER_ID}
    for status in (0, 5, "2", None):
        answer = await call_as(requester, token, "WorkerSetStatus", {**hosted, "status": status})
        assert code_of(answer) == INVALID


async def test_an_order_for_a_worker_elsewhere_is_refused_at_once(requester: Requester) -> None:
    worker = ForeignWorker()
    await requester.call("WorkerRegister", worker.signed("WorkerRegister", worker.registration()))
    sealed = requester.seal([b"x"])
    params = {
        "responseTimeoutMSecs": 0,
        "payloadFormat": "JSON-RPC",
        "workOrderId": sealed.request.work_order_id,
        "workerId": worker.worker_id,
        "workloadId": sealed.request.workload_id,
        "requesterId": "aa",
        "encryptedSessionKey": "00",
        "requesterNonce": "00",
        "encryptedRequestHash": "00",
    }
    answer = await requester.call("WorkOrderSubmit", params)
    assert code_of(answer) == INVALID
    assert "takes no orders here" in answer["error"]["message"]
    assert answer["error"]["data"]["workOrderId"] == sealed.request.work_order_id


async def test_look_ups_page_over_many_workers(start: Start, session: aiohttp.ClientSession) -> None:
    service = start().wait_ready()
    requester, token = Requester(service.url, session), token_of(service)
    worker = ForeignWorker()
    ids = [f"{number:064x}" for number in range(250)]
    for worker_id in ids:
        params = worker.registration(
            workerId=worker_id, organizationId="bb" if worker_id[-1] == "0" else "aa"
        )
        assert code_of(await call_as(requester, token, "WorkerRegister", params)) == OK

    async def pages(**criteria: Any) -> list[list[str]]:
        page = (await requester.call("WorkerLookUp", criteria))["result"]
        found = [page]
        while page["lookupTag"]:
            name = ("lookUpTag", "lookupTag", "lastLookUpTag")[len(found) % 3]
            page = (await requester.call("WorkerLookUpNext", {**criteria, name: page["lookupTag"]}))["result"]
            found.append(page)
        total = len([worker_id for page in found for worker_id in page["ids"]])
        assert {page["totalCount"] for page in found} == {total}
        return [page["ids"] for page in found]

    everything = await pages()
    assert [len(page) for page in everything] == [100, 100, 51]
    assert [worker_id for page in everything for worker_id in page] == [WORKER_ID, *ids]
    assert await pages(organizationId="bb") == [[worker_id for worker_id in ids if worker_id[-1] == "0"]]
    assert await pages(workerType=2) == [[]]
    first = (await requester.call("WorkerLookUp", {}))["result"]
    beyond = {"lookUpTag": first["lookupTag"], "workerType": 3}
    assert code_of(await requester.call("WorkerLookUpNext", beyond)) == 5


async def test_the_directory_has_an_end(start: Start, session: aiohttp.ClientSession) -> None:
    service = start(environment={"AVALON_MAX_WORKERS": "2", "AVALON_SELF_REGISTRATION": "false"}).wait_ready()
    requester, token = Requester(service.url, session), token_of(service)
    worker, surplus = ForeignWorker(), ForeignWorker()
    refused = await requester.call("WorkerRegister", worker.signed("WorkerRegister", worker.registration()))
    assert code_of(refused) == DENIED
    assert "self_registration" in refused["error"]["message"]
    assert code_of(await call_as(requester, token, "WorkerRegister", worker.registration())) == OK
    assert code_of(await call_as(requester, token, "WorkerRegister", surplus.registration())) == UNKNOWN


async def test_a_status_that_the_operator_set_outlives_crashes(
    start: Start, session: aiohttp.ClientSession
) -> None:
    service = start().wait_ready()
    requester, token = Requester(service.url, session), token_of(service)
    await requester.meet_worker()
    hosted = {"workerId": WORKER_ID}
    assert code_of(await call_as(requester, token, "WorkerSetStatus", {**hosted, "status": 2})) == OK

    async def check(requester: Requester) -> None:
        assert (await retrieve(requester, WORKER_ID))["status"] == 2
        assert code_of(await requester.submit(requester.seal([b"x"]))) == BUSY

    await check(requester)
    [enclave] = service.enclaves()
    enclave.kill()
    await asyncio.to_thread(
        wait_until, lambda: [found.pid for found in service.enclaves()] not in ([], [enclave.pid])
    )
    await asyncio.to_thread(wait_until, lambda: service.log.count("enclave serves") == 2)
    await check(requester)
    service.kill()
    again = start().wait_ready()
    assert token_of(again) == token
    requester.url = again.url
    await check(requester)
    for status in (3, 4):
        assert code_of(await call_as(requester, token, "WorkerSetStatus", {**hosted, "status": status})) == OK
        assert code_of(await requester.submit(requester.seal([b"x"]))) == INVALID
    assert code_of(await call_as(requester, token, "WorkerSetStatus", {**hosted, "status": 1})) == OK
    sealed = requester.seal([b"x"])
    assert requester.open(sealed, await requester.submit(sealed, wait=30)) == [b"RESULT: x"]
    assert token not in again.log


async def test_an_off_line_worker_finishes_what_it_took(
    start: Start, session: aiohttp.ClientSession, slow_workload: Any
) -> None:
    service = start(environment={"PYTHONPATH": str(slow_workload)}).wait_ready()
    requester, token = Requester(service.url, session), token_of(service)
    await requester.meet_worker()
    orders = [requester.seal([b"0.3"], workload="test-sleep") for _ in range(6)]
    for order in orders:
        assert code_of(await requester.submit(order)) == 5
    off_line = {"workerId": WORKER_ID, "status": 2}
    assert code_of(await call_as(requester, token, "WorkerSetStatus", off_line)) == OK
    assert code_of(await requester.submit(requester.seal([b"x"]))) == BUSY
    for order in orders:
        assert requester.open(order, await requester.result(order)) == [b"slept"]


async def test_registrations_outlive_a_crash(start: Start, session: aiohttp.ClientSession) -> None:
    service = start().wait_ready()
    requester = Requester(service.url, session)
    worker = ForeignWorker()
    old = worker.signed("WorkerUpdate", worker.update())
    await requester.call("WorkerRegister", worker.signed("WorkerRegister", worker.registration()))
    await requester.call("WorkerSetStatus", worker.signed("WorkerSetStatus", worker.status(2)))
    before = await retrieve(requester, worker.worker_id)
    service.kill()
    requester.url = start().wait_ready().url
    assert await retrieve(requester, worker.worker_id) == before
    assert code_of(await requester.call("WorkerUpdate", old)) == BAD_SIGNATURE


def test_a_token_that_others_can_read_is_refused(start: Start) -> None:
    assert start().wait_ready().stop() == 0
    service = start()
    service.kill()
    (service.data_dir / "operator-token").chmod(0o644)
    service = start()
    assert service.process.wait(30) == 3
    assert "chmod 600" in service.log
    assert "Traceback" not in service.log
