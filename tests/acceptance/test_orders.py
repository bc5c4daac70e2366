"""Orders against a real service, by a client that knows nothing but the wire."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from service_process import SUITES, WORKER_ID, Requester, ServiceProcess

from avalon_core.crypto.orders import SealedOrder

pytestmark = [pytest.mark.acceptance]

EXAMPLE = b"Data: 25 10 1 67 102 125 1 95 5 10 1 11 36 1"


@pytest.mark.parametrize("suite", SUITES)
async def test_the_worked_example_gives_47_percent(requester: Requester, suite: str) -> None:
    sealed = requester.seal([EXAMPLE], workload="heart-disease-eval", suite=suite)
    assert requester.open(sealed, await requester.submit(sealed, wait=30)) == [
        b"You have a 47% risk of heart disease"
    ]


@pytest.mark.parametrize("suite", SUITES)
async def test_several_items_come_back_in_order(requester: Requester, suite: str) -> None:
    sealed = requester.seal([b"a", "héllo 世界".encode(), b"\x00\xff"], suite=suite)
    answer = await requester.submit(sealed, wait=30)
    assert requester.open(sealed, answer) == [
        b"RESULT: a",
        "RESULT: héllo 世界".encode(),
        b"RESULT: \x00\xff",
    ]


async def test_a_client_of_the_original_is_served_unmodified(requester: Requester) -> None:
    """It sends one sessionKeyIv for everything, a timeout of 6000, upper-case hex; and reads the result or code 5."""
    sealed = requester.seal(
        [EXAMPLE], workload="heart-disease-eval", suite="avalon", shared_iv=True, timeout_msecs=6000
    )
    assert sealed.request.session_key_iv
    assert sealed.request.session_key_iv == sealed.request.session_key_iv.upper()
    answer = await requester.submit(sealed)
    while "error" in answer and answer["error"]["code"] == 5:
        answer = await requester.result(sealed, wait=0)
    assert requester.open(sealed, answer) == [b"You have a 47% risk of heart disease"]


async def test_an_asynchronous_submit_is_pending_and_then_polled(requester: Requester) -> None:
    sealed = requester.seal([b"x"])
    answer = await requester.submit(sealed)
    assert answer["error"]["code"] == 5
    assert answer["error"]["data"]["workOrderId"] == sealed.request.work_order_id
    assert requester.open(sealed, await requester.result(sealed)) == [b"RESULT: x"]


async def test_the_same_bytes_again_are_the_same_order(requester: Requester) -> None:
    sealed = requester.seal([b"once"])
    first = await requester.submit(sealed, wait=30)
    again = await requester.submit(sealed, wait=30)
    assert first["result"] == again["result"] == (await requester.result(sealed))["result"]


async def test_other_bytes_under_a_used_id_are_refused(requester: Requester) -> None:
    sealed = requester.seal([b"once"])
    await requester.submit(sealed, wait=30)
    params = _params(sealed)
    params["requesterNonce"] = "00" * 16
    answer = await requester.call("WorkOrderSubmit", params)
    assert answer["error"]["code"] == 2
    assert answer["error"]["data"]["workOrderId"] == sealed.request.work_order_id


def _params(sealed: SealedOrder) -> dict[str, Any]:
    params: dict[str, Any] = msgspec.to_builtins(sealed.request)
    return params


def _changed(member: str, value: object):
    def change(params: dict[str, Any]) -> None:
        params[member] = value

    return change


def _tampered_hex(member: str):
    def change(params: dict[str, Any]) -> None:
        text = str(params[member])
        params[member] = text[:-1] + ("0" if text[-1] != "0" else "1")

    return change


REFUSALS = {
    "an unknown worker is a wrong parameter": (_changed("workerId", "ab" * 32), 2),
    "an id that is not hex is a wrong parameter": (_changed("workOrderId", "xyz"), 2),
    "an id over 32 bytes is a wrong parameter": (_changed("workOrderId", "ab" * 33), 2),
    "a missing member is a wrong parameter": (lambda params: params.pop("requesterNonce"), 2),
    "an extra member is a wrong parameter": (_changed("extra", 1), 2),
    "an unknown payload format is a wrong parameter": (_changed("payloadFormat", "XML"), 2),
    "an unknown algorithm is a wrong parameter": (_changed("dataEncryptionAlgorithm", "AES-GCM-128"), 2),
    "a signature that is not base64 is a wrong parameter": (_changed("requesterSignature", "!!"), 2),
    "items with one index twice are a wrong parameter": (
        lambda params: params.update(inData=[{"index": 0, "data": ""}, {"index": 0, "data": ""}]),
        2,
    ),
    "an item that is not base64 is a wrong parameter": (
        lambda params: params.update(inData=[{"index": 0, "data": "???"}]),
        2,
    ),
    "an unknown workload is code 9": (None, 9),
    "a tampered session key fails": (_tampered_hex("encryptedSessionKey"), 1),
    "a tampered request hash fails": (_tampered_hex("encryptedRequestHash"), 1),
    "a tampered nonce fails": (_tampered_hex("requesterNonce"), 1),
    "tampered data fails": (
        lambda params: params["inData"][0].update(data="AAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        1,
    ),
}


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("sentence", REFUSALS)
async def test_refusals_have_the_original_s_codes(requester: Requester, sentence: str, suite: str) -> None:
    change, code = REFUSALS[sentence]
    workload = "echo-result" if change else "no-such-workload"
    sealed = requester.seal([b"secret"], workload=workload, suite=suite)
    params = _params(sealed)
    if change:
        change(params)
    answer = await requester.call("WorkOrderSubmit", params, wait=30)
    assert answer["error"]["code"] == code, answer
    assert answer["error"]["data"]["workOrderId"] == params["workOrderId"]
    assert "secret" not in json.dumps(answer)


async def test_an_unknown_order_has_no_result(requester: Requester) -> None:
    answer = await requester.call("WorkOrderGetResult", {"workOrderId": "ab" * 32}, wait=5)
    assert answer["error"]["code"] == 2


async def test_look_ups_find_the_worker(requester: Requester) -> None:
    everyone = await requester.call("WorkerLookUp", {"workerType": 1})
    assert everyone["result"] == {"totalCount": 1, "lookupTag": "", "ids": [WORKER_ID]}
    assert (await requester.call("WorkerLookUp", {"workerType": 2}))["result"]["totalCount"] == 0
    assert (await requester.call("WorkerLookUpNext", {"workerType": 1, "lookUpTag": "?"}))["error"][
        "code"
    ] == 2
    assert (await requester.call("WorkerRetrieve", {"workerId": "ab"}))["error"]["code"] == 2


async def test_a_batch_is_answered_as_one(requester: Requester) -> None:
    sealed = requester.seal([b"x"])
    body = json.dumps(
        [
            {"jsonrpc": "2.0", "id": "a", "method": "WorkOrderSubmit", "params": _params(sealed)},
            {"jsonrpc": "2.0", "method": "WorkerLookUp", "params": {}},
            {"jsonrpc": "2.0", "id": None, "method": "WorkerLookUp", "params": {}},
            {"jsonrpc": "2.0", "id": 3, "method": "NoSuchMethod"},
            17,
        ]
    )
    status, raw = await requester.post(body.encode(), prefer="wait=30")
    answers = json.loads(raw)
    assert status == 200
    assert [answer["id"] for answer in answers] == ["a", None, 3, None]
    assert requester.open(sealed, answers[0]) == [b"RESULT: x"]
    assert answers[2]["error"]["code"] == -32601
    assert answers[3]["error"]["code"] == -32600


async def test_a_notification_is_carried_out_and_not_answered(requester: Requester) -> None:
    sealed = requester.seal([b"x"])
    body = json.dumps({"jsonrpc": "2.0", "method": "WorkOrderSubmit", "params": _params(sealed)})
    assert await requester.post(body.encode()) == (204, b"")
    assert requester.open(sealed, await requester.result(sealed)) == [b"RESULT: x"]


async def test_many_at_once_get_each_its_own(requester: Requester) -> None:
    orders = [requester.seal([str(number).encode()], suite=SUITES[number % 3]) for number in range(60)]
    answers = await asyncio.gather(*(requester.submit(order, wait=30) for order in orders))
    opened = [requester.open(order, answer) for order, answer in zip(orders, answers, strict=True)]
    assert opened == [[b"RESULT: %d" % number] for number in range(60)]


async def test_pages_say_what_is_so(requester: Requester, service: ServiceProcess) -> None:
    assert (await requester.get("/healthz"))[0] == 200
    assert (await requester.get("/readyz"))[0] == 200
    status = json.loads((await requester.get("/status"))[1])
    assert status["simulated"] is True
    assert status["profile"] == "development"
    assert status["workers"][0]["state"] == "serving"
    metrics = (await requester.get("/metrics"))[1].decode()
    assert 'avalon_worker_serving{simulated="true",worker="singleton-worker-1"} 1.0' in metrics
    assert (await requester.get("/nothing"))[0] == 404
    assert "SIMULATED" in service.ready_line
    assert "SIMULATED" in service.log
