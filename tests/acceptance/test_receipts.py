"""Receipts against a real service, by a client that knows nothing but the wire."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from service_process import SUITES, WORKER_ID, Requester, ServiceProcess, wait_until

from avalon_core.crypto.orders import Item, OrderDraft, SealedOrder, seal_order
from avalon_core.crypto.receipts import (
    RENOUNCED,
    create_receipt,
    failure_hash,
    sign_creation,
    signed_response_hash,
    verify_creation,
    verify_update,
)
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.ids import workload_id_of
from avalon_core.protocol.orders import decode_result
from avalon_core.protocol.receipts import (
    LAST_UPDATE,
    LAST_UPDATE_OF_THE_ORIGINAL,
    ReceiptStatus,
    decode_receipt,
    decode_receipt_update,
    update_digest,
)

pytestmark = [pytest.mark.acceptance]

SERVICE_ID = "5e" * 32
PENDING, COMPLETED, PROCESSED, FAILED, REJECTED = range(5)
KEY = SigningKey.generate()


async def create(
    requester: Requester, sealed: SealedOrder, key: SigningKey = KEY, **changes: Any
) -> dict[str, Any]:
    params = msgspec.to_builtins(
        create_receipt(sealed.request, sealed.request_hash, key, worker_service_id=SERVICE_ID)
    )
    answer: dict[str, Any] = await requester.call("WorkOrderReceiptCreate", params | changes)
    return answer


async def retrieve(requester: Requester, sealed: SealedOrder) -> dict[str, Any]:
    params = {"workOrderId": sealed.request.work_order_id}
    answer: dict[str, Any] = await requester.call("WorkOrderReceiptRetrieve", params)
    return answer


async def status_of(requester: Requester, sealed: SealedOrder) -> int:
    status: int = (await retrieve(requester, sealed))["result"]["receiptCurrentStatus"]
    return status


async def retrieve_update(
    requester: Requester, sealed: SealedOrder, index: int, **more: str
) -> dict[str, Any]:
    params = {"workOrderId": sealed.request.work_order_id, "updateIndex": index} | more
    answer: dict[str, Any] = await requester.call("WorkOrderReceiptUpdateRetrieve", params)
    return answer


async def update(
    requester: Requester,
    sealed: SealedOrder,
    type_: int,
    data: str,
    *,
    key: SigningKey = KEY,
    updater: str | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Signed by hand: what a well-behaved client cannot even make is sent, too."""
    order_id = sealed.request.work_order_id
    params = {
        "workOrderId": order_id,
        "updaterId": updater or sealed.request.requester_id,
        "updateType": type_,
        "updateData": data,
        "updateSignature": encode_base64(key.sign(update_digest(order_id, type_, data))),
        "signatureRules": "SHA-256/SECP256K1",
        "receiptVerificationKey": key.verification_key.pem,
    }
    answer: dict[str, Any] = await requester.call("WorkOrderReceiptUpdate", params | changes)
    return answer


def assert_done(answer: dict[str, Any], sealed: SealedOrder) -> None:
    assert answer["error"]["code"] == 0, answer
    assert answer["error"]["data"] == {"workOrderId": sealed.request.work_order_id}


def response_hash(requester: Requester, sealed: SealedOrder, answer: dict[str, Any]) -> str:
    """R of a result, computed by the requester."""
    assert requester.worker is not None
    result = decode_result(msgspec.json.encode(answer["result"]))
    return encode_base64(signed_response_hash(sealed.request, result, requester.worker.verification_key))


async def assert_worker_s_word(
    requester: Requester, sealed: SealedOrder, type_: int, data: str, index: int = LAST_UPDATE
) -> None:
    assert requester.worker is not None
    found = (await retrieve_update(requester, sealed, index, updaterId=WORKER_ID))["result"]
    assert (found["updaterId"], found["updateType"], found["updateData"]) == (WORKER_ID, type_, data)
    assert found["updateCount"] == 1
    verify_update(decode_receipt_update(msgspec.json.encode(found)), requester.worker.verification_key)
    assert found["receiptVerificationKey"] == requester.worker.verification_key.pem


@pytest.mark.parametrize("suite", SUITES)
async def test_a_receipt_of_a_finished_order_gets_the_worker_s_word(requester: Requester, suite: str) -> None:
    sealed = requester.seal([b"x"], suite=suite)
    answer = await requester.submit(sealed, wait=30)
    assert_done(await create(requester, sealed), sealed)
    assert await status_of(requester, sealed) == PROCESSED
    await assert_worker_s_word(requester, sealed, PROCESSED, response_hash(requester, sealed, answer))


class Slow:
    """A service that hands its enclave one order at a time, and can hold that one up."""

    def __init__(self, service: ServiceProcess, requester: Requester) -> None:
        self.service = service
        self.requester = requester

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Nothing is processed meanwhile: so receipts come before their orders are handed over."""
        enclaves = self.service.enclaves()
        for enclave in enclaves:
            enclave.suspend()
        try:
            await self.requester.submit(self.requester.seal([b"in front"]))
            yield
        finally:
            for enclave in enclaves:
                enclave.resume()


@pytest.fixture
async def slow(
    start: Callable[..., ServiceProcess], session: aiohttp.ClientSession, slow_workload: Path
) -> Slow:
    service = start(environment={"PYTHONPATH": str(slow_workload), "AVALON_IN_FLIGHT": "1"})
    await asyncio.to_thread(service.wait_ready)
    requester = Requester(service.url, session)
    await requester.meet_worker()
    return Slow(service, requester)


@pytest.mark.parametrize("suite", SUITES)
async def test_a_receipt_of_an_order_that_waits_gets_the_worker_s_word_with_its_answer(
    slow: Slow, suite: str
) -> None:
    requester = slow.requester
    async with slow.held():
        sealed = requester.seal([b"x"], suite=suite)
        await requester.submit(sealed)
        assert_done(await create(requester, sealed), sealed)
        assert await status_of(requester, sealed) == PENDING
        nothing = await retrieve_update(requester, sealed, 1)
        assert nothing["error"]["code"] == 2
        assert nothing["error"]["data"]["updateCount"] == 0
    answer = await requester.result(sealed)
    assert await status_of(requester, sealed) == PROCESSED
    await assert_worker_s_word(requester, sealed, PROCESSED, response_hash(requester, sealed, answer))


async def test_a_receipt_of_an_order_in_process_gets_the_worker_s_word(slow: Slow) -> None:
    sealed = slow.requester.seal([b"0.5"], workload="test-sleep")
    await slow.requester.submit(sealed)
    await asyncio.sleep(0.2)
    assert_done(await create(slow.requester, sealed), sealed)
    answer = await slow.requester.result(sealed)
    assert await status_of(slow.requester, sealed) == PROCESSED
    word = response_hash(slow.requester, sealed, answer)
    await assert_worker_s_word(slow.requester, sealed, PROCESSED, word)


def failure(sealed: SealedOrder, error: dict[str, Any]) -> str:
    return encode_base64(failure_hash(sealed.request, error["code"], error["message"]))


@pytest.mark.parametrize("suite", SUITES)
async def test_a_refusal_is_signed_too(slow: Slow, suite: str) -> None:
    requester = slow.requester
    async with slow.held():
        sealed = requester.seal([b"x"], workload="no-such-workload", suite=suite)
        await requester.submit(sealed)
        assert_done(await create(requester, sealed), sealed)
    error = (await requester.result(sealed))["error"]
    assert error["code"] == 9
    assert await status_of(requester, sealed) == FAILED
    await assert_worker_s_word(requester, sealed, FAILED, failure(sealed, error))


@pytest.mark.parametrize("suite", SUITES)
async def test_a_receipt_that_comes_after_the_failure_gets_the_worker_s_word_on_it(
    slow: Slow, suite: str
) -> None:
    requester = slow.requester
    for sealed, code in (
        (requester.seal([b"x"], workload="no-such-workload", suite=suite), 9),
        (requester.seal([b"x"], workload="test-raise", suite=suite), 1),
    ):
        error = (await requester.submit(sealed, wait=30))["error"]
        assert error["code"] == code
        assert_done(await create(requester, sealed), sealed)
        assert await status_of(requester, sealed) == FAILED
        await assert_worker_s_word(requester, sealed, FAILED, failure(sealed, error))


async def test_of_an_order_that_the_service_ended_the_worker_says_that_it_will_not_answer_it(
    slow: Slow,
) -> None:
    """Whether it was cancelled, or came too late; whether the receipt was there before or not."""
    requester = slow.requester
    renounced = {"code": 1, "message": RENOUNCED}
    cancelled = requester.seal([b"20"], workload="test-sleep")
    await requester.submit(cancelled)
    assert_done(await create(requester, cancelled), cancelled)
    request = cancelled.request
    params = {
        "workOrderId": request.work_order_id,
        "requesterId": request.requester_id,
        "encryptedRequestHash": request.encrypted_request_hash,
    }
    assert (await requester.call("WorkOrderCancel", params))["error"]["code"] == 0
    late = requester.seal([b"20"], workload="test-sleep", timeout_msecs=200)
    assert "not finished within" in (await requester.submit(late))["error"]["message"]
    assert_done(await create(requester, late), late)
    for sealed in (cancelled, late):
        assert await status_of(requester, sealed) == FAILED
        await assert_worker_s_word(requester, sealed, FAILED, failure(sealed, renounced))


async def test_what_the_worker_says_of_a_failure_after_its_enclave_was_started_anew(slow: Slow) -> None:
    """It has forgotten why; what it says is true all the same."""
    requester = slow.requester
    sealed = requester.seal([b"x"], workload="no-such-workload")
    assert (await requester.submit(sealed, wait=30))["error"]["code"] == 9
    for enclave in slow.service.enclaves():
        enclave.kill()
    after = requester.seal([b"x"])
    assert "result" in await requester.submit(after, wait=30)
    assert_done(await create(requester, sealed), sealed)
    assert await status_of(requester, sealed) == FAILED
    data = failure(sealed, {"code": 1, "message": RENOUNCED})
    await assert_worker_s_word(requester, sealed, FAILED, data)


async def test_what_becomes_of_receipts_is_in_the_metrics(slow: Slow) -> None:
    requester = slow.requester
    sealed = requester.seal([b"x"])
    await requester.submit(sealed, wait=30)
    assert_done(await create(requester, sealed), sealed)
    assert (await create(requester, sealed))["error"]["code"] == 2
    assert await status_of(requester, sealed) == PROCESSED
    text = (await requester.get("/metrics"))[1].decode()
    for kind, outcome, count in (
        ("creation", "accepted", 1),
        ("creation", "refused", 1),
        ("update", "accepted", 0),
        ("worker", "processed", 1),
    ):
        assert f'avalon_receipts_total{{kind="{kind}",outcome="{outcome}"}} {count}.0' in text


async def test_what_is_retrieved_is_what_was_created(requester: Requester) -> None:
    sealed = requester.seal([b"x"])
    await requester.submit(sealed, wait=30)
    params = msgspec.to_builtins(
        create_receipt(sealed.request, sealed.request_hash, KEY, worker_service_id=SERVICE_ID)
    )
    assert_done(await requester.call("WorkOrderReceiptCreate", params), sealed)
    result = (await retrieve(requester, sealed))["result"]
    assert result == params | {"receiptCurrentStatus": PROCESSED}
    assert verify_creation(decode_receipt(msgspec.json.encode(result))) == KEY.verification_key


def _created_by_another(params: dict[str, Any]) -> None:
    params["receiptVerificationKey"] = SigningKey.generate().verification_key.pem


def _set(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda params: params.update(values)


REFUSED_CREATIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], int]] = {
    "another order's hash is a wrong parameter": (_set(workOrderRequestHash=encode_base64(bytes(32))), 2),
    "a hash in hex is a wrong parameter": (_set(workOrderRequestHash="00" * 32), 2),
    "an order that was never submitted is a wrong parameter": (_set(workOrderId="ab" * 32), 2),
    "another worker's id is a wrong parameter": (_set(workerId="ab" * 32), 2),
    "another requester's id is a wrong parameter": (_set(requesterId="ab" * 32), 2),
    "a reserved status is a wrong parameter": (_set(receiptCreateStatus=17), 2),
    "the status of look-ups is a wrong parameter": (_set(receiptCreateStatus=255), 2),
    "other rules are a wrong parameter": (_set(signatureRules="SHA-512/ED25519"), 2),
    "an extra member is a wrong parameter": (_set(extra=1), 2),
    "a missing member is a wrong parameter": (lambda params: params.pop("requesterGeneratedNonce"), 2),
    "a signature that is not base64 is a wrong parameter": (_set(requesterSignature="!"), 2),
    "a key that is none is a wrong signature": (_set(receiptVerificationKey="PEM"), 4),
    "a changed nonce breaks the signature": (_set(requesterGeneratedNonce="00"), 4),
    "a changed status breaks the signature": (_set(receiptCreateStatus=3), 4),
    "another key does not verify the signature": (_created_by_another, 4),
}


@pytest.mark.parametrize("sentence", REFUSED_CREATIONS)
async def test_refused_creations(requester: Requester, sentence: str) -> None:
    change, code = REFUSED_CREATIONS[sentence]
    sealed = requester.seal([b"x"])
    await requester.submit(sealed, wait=30)
    params = msgspec.to_builtins(
        create_receipt(sealed.request, sealed.request_hash, KEY, worker_service_id=SERVICE_ID)
    )
    change(params)
    answer = await requester.call("WorkOrderReceiptCreate", params)
    assert answer["error"]["code"] == code, answer
    assert (await retrieve(requester, sealed))["error"]["code"] == 2


async def test_a_second_receipt_is_refused(requester: Requester) -> None:
    sealed = requester.seal([b"x"])
    await requester.submit(sealed, wait=30)
    assert_done(await create(requester, sealed), sealed)
    again = await create(requester, sealed, SigningKey.generate())
    assert again["error"]["code"] == 2
    assert "has a receipt already" in again["error"]["message"]


async def test_one_of_many_creations_at_once_wins(requester: Requester) -> None:
    sealed = requester.seal([b"x"])
    await requester.submit(sealed, wait=30)
    answers = await asyncio.gather(*(create(requester, sealed) for _ in range(10)))
    assert sorted(answer["error"]["code"] for answer in answers) == [0] + 9 * [2]


@pytest.mark.parametrize("suite", SUITES)
async def test_the_key_that_signed_the_order_is_the_only_one_for_its_receipt(
    requester: Requester, suite: str
) -> None:
    assert requester.worker is not None
    request = requester.seal([b"x"]).request
    draft = OrderDraft(
        work_order_id=request.work_order_id,
        worker_id=request.worker_id,
        workload_id=workload_id_of("echo-result"),
        requester_id=request.requester_id,
        requester_nonce=request.requester_nonce,
        inputs=[Item(index=0, data=b"x")],
        signer=KEY,
    )
    sealed = seal_order(draft, requester.worker.public_keys, suite=suite)
    await requester.submit(sealed, wait=30)
    refused = await create(requester, sealed, SigningKey.generate())
    assert refused["error"]["code"] == 4
    assert "that signed the order" in refused["error"]["message"]
    assert_done(await create(requester, sealed), sealed)


async def test_the_requester_closes_the_receipt_with_the_hash_of_the_response(requester: Requester) -> None:
    sealed = requester.seal([b"x"])
    answer = await requester.submit(sealed, wait=30)
    data = response_hash(requester, sealed, answer)
    assert_done(await create(requester, sealed), sealed)
    wrong = await update(requester, sealed, COMPLETED, encode_base64(hashlib.sha256(b"").digest()))
    assert wrong["error"]["code"] == 2
    assert_done(await update(requester, sealed, COMPLETED, data, receiptVerificationKey=None), sealed)
    assert await status_of(requester, sealed) == COMPLETED
    assert_done(await update(requester, sealed, COMPLETED, data), sealed)  # the very same one
    late = await update(requester, sealed, 1000, "a word more")
    assert late["error"]["code"] == 2
    assert "completed, which is final" in late["error"]["message"]
    first, last, theirs = await asyncio.gather(
        retrieve_update(requester, sealed, 1),
        retrieve_update(requester, sealed, LAST_UPDATE_OF_THE_ORIGINAL),
        retrieve_update(requester, sealed, 1, updaterId=sealed.request.requester_id),
    )
    assert first["result"]["updaterId"] == WORKER_ID
    assert last["result"]["updateType"] == COMPLETED
    assert (first["result"]["updateCount"], last["result"]["updateCount"]) == (2, 2)
    assert theirs["result"] == last["result"] | {"updateCount": 1}
    assert (await retrieve_update(requester, sealed, 3))["error"]["data"]["updateCount"] == 2


@pytest.fixture
async def processed(requester: Requester) -> SealedOrder:
    """An order with a receipt and the worker's word in it."""
    sealed = requester.seal([b"x"])
    await requester.submit(sealed, wait=30)
    assert_done(await create(requester, sealed), sealed)
    assert await status_of(requester, sealed) == PROCESSED
    return sealed


OTHER = SigningKey.generate()
HASH = encode_base64(bytes(32))

REFUSED_UPDATES: dict[str, tuple[dict[str, Any], int]] = {
    "processed does not become pending": ({"type_": PENDING}, 2),
    "processed does not become failed": ({"type_": FAILED}, 2),
    "processed does not become rejected": ({"type_": REJECTED}, 2),
    "a reserved type is refused": ({"type_": 99}, 2),
    "any is not a status": ({"type_": 255}, 2),
    "completed needs a hash": ({"type_": COMPLETED, "data": "done"}, 2),
    "completed needs the hash of the response": ({"type_": COMPLETED, "data": HASH}, 2),
    "the requester's key is the one of the creation": ({"key": OTHER}, 4),
    "nobody speaks for the worker": ({"key": OTHER, "updater": WORKER_ID}, 4),
    "nobody speaks for the worker by another spelling": (
        {"key": OTHER, "updater": "0x" + WORKER_ID.upper()},
        4,
    ),
    "a signature of something else does not verify": ({"updateData": "changed"}, 4),
    "a third party names its key": ({"key": OTHER, "updater": "cc", "receiptVerificationKey": None}, 2),
    "a third party does not set the status": (
        {"key": OTHER, "updater": "cc", "type_": COMPLETED, "data": HASH},
        3,
    ),
    "a third party does not come with the requester's key": ({"updater": "cc"}, 4),
    "too much data is refused": ({"data": "x" * 20_000}, 2),
}


@pytest.mark.parametrize("sentence", REFUSED_UPDATES)
async def test_refused_updates(requester: Requester, processed: SealedOrder, sentence: str) -> None:
    change, code = REFUSED_UPDATES[sentence]
    options = {"type_": 1000, "data": "data"} | change
    answer = await update(requester, processed, options.pop("type_"), options.pop("data"), **options)
    assert answer["error"]["code"] == code, answer
    assert (await retrieve_update(requester, processed, LAST_UPDATE))["result"]["updateCount"] == 1


async def test_others_add_what_is_their_own(requester: Requester, processed: SealedOrder) -> None:
    assert_done(await update(requester, processed, 1000, "seen", key=OTHER, updater="cc"), processed)
    found = (await retrieve_update(requester, processed, 1, updaterId="cc"))["result"]
    assert (found["updateType"], found["updateData"], found["updateCount"]) == (1000, "seen", 1)
    assert await status_of(requester, processed) == PROCESSED


async def test_nobody_fills_a_receipt_up(requester: Requester, processed: SealedOrder) -> None:
    answers = [
        (await update(requester, processed, 1000, str(number), key=OTHER, updater="cc"))["error"]["code"]
        for number in range(130)
    ]
    assert answers == 127 * [0] + 3 * [2]
    assert_done(await update(requester, processed, 1000, "mine"), processed)


async def test_a_receipt_that_is_not_there(requester: Requester) -> None:
    sealed = requester.seal([b"x"])
    await requester.submit(sealed, wait=30)
    assert (await retrieve(requester, sealed))["error"]["code"] == 2
    assert (await retrieve_update(requester, sealed, 1))["error"]["code"] == 2
    assert (await update(requester, sealed, 1000, "x"))["error"]["code"] == 2
    assert (await retrieve_update(requester, sealed, 0))["error"]["code"] == 2


@pytest.mark.parametrize("tag_name", ["lookUpTag", "lookupTag", "lastLookUpTag"])
@pytest.mark.parametrize("status_name", ["receiptStatus", "requestCreateStatus"])
async def test_a_look_up_over_several_pages(requester: Requester, tag_name: str, status_name: str) -> None:
    mine = hashlib.sha256(f"{tag_name} {status_name}".encode()).hexdigest()
    orders = [requester.seal([b"x"], requester_id=mine) for _ in range(203)]
    await asyncio.gather(*(requester.submit(order, wait=30) for order in orders))
    await asyncio.gather(*(create(requester, order) for order in orders))
    await asyncio.gather(*(retrieve(requester, order) for order in orders))
    criteria = {
        "requesterId": mine,
        "workerId": WORKER_ID,
        "workerServiceId": SERVICE_ID,
        status_name: PROCESSED,
    }
    page = (await requester.call("WorkOrderReceiptLookUp", criteria))["result"]
    seen = page["ids"]
    while page["lookupTag"]:
        assert page["totalCount"] == 203
        assert len(page["ids"]) == 100
        page = (await requester.call("WorkOrderReceiptLookUpNext", criteria | {tag_name: page["lookupTag"]}))[
            "result"
        ]
        seen += page["ids"]
    assert sorted(seen) == sorted(order.request.work_order_id for order in orders)
    none = await requester.call("WorkOrderReceiptLookUp", criteria | {status_name: PENDING})
    assert none["result"] == {"totalCount": 0, "lookupTag": "", "ids": []}
    anything = await requester.call("WorkOrderReceiptLookUp", criteria | {status_name: ReceiptStatus.ANY})
    assert anything["result"]["totalCount"] == 203


async def test_look_ups_that_go_wrong(requester: Requester, processed: SealedOrder) -> None:
    codes = {
        "after-999999999-of-1": 5,
        "nonsense": 2,
        "": 2,
    }
    for tag, code in codes.items():
        answer = await requester.call("WorkOrderReceiptLookUpNext", {"lookUpTag": tag})
        assert answer["error"]["code"] == code, tag
    assert (await requester.call("WorkOrderReceiptLookUpNext", {}))["error"]["code"] == 2
    assert (await requester.call("WorkOrderReceiptLookUp", {"receiptStatus": "0"}))["error"]["code"] == 2


async def test_receipts_survive_a_crash_and_get_the_word_that_was_missing(
    start: Callable[..., ServiceProcess], session: aiohttp.ClientSession
) -> None:
    """Killed with receipts of finished orders at every stage, the service brings all of them to their end."""
    service = start()
    await asyncio.to_thread(service.wait_ready)
    requester = Requester(service.url, session)
    await requester.meet_worker()
    orders = [requester.seal([b"%d" % number], suite=SUITES[number % 3]) for number in range(90)]
    finished, open_ = orders[:45], orders[45:]
    await asyncio.gather(*(requester.submit(order, wait=30) for order in finished))

    acknowledged: list[SealedOrder] = []
    some = asyncio.Event()

    async def submit_and_create(order: SealedOrder, submit: bool) -> None:
        try:
            if submit:
                await requester.submit(order)
            if (await create(requester, order))["error"]["code"] == 0:
                acknowledged.append(order)
                if len(acknowledged) >= 30:
                    some.set()
        except (aiohttp.ClientError, ConnectionError):
            return

    tasks = [asyncio.create_task(submit_and_create(order, False)) for order in finished]
    tasks += [asyncio.create_task(submit_and_create(order, True)) for order in open_]
    await some.wait()
    await asyncio.to_thread(service.kill)
    await asyncio.gather(*tasks)
    again = start(port=service.port)
    await asyncio.to_thread(again.wait_ready)
    for order in acknowledged:
        answer = await requester.result(order)
        assert await status_of(requester, order) == PROCESSED
        await assert_worker_s_word(requester, order, PROCESSED, response_hash(requester, order, answer))


async def test_a_killed_enclave_gives_its_word_when_it_is_back(
    start: Callable[..., ServiceProcess], session: aiohttp.ClientSession
) -> None:
    service = start()
    await asyncio.to_thread(service.wait_ready)
    requester = Requester(service.url, session)
    await requester.meet_worker()
    sealed = requester.seal([b"x"])
    answer = await requester.submit(sealed, wait=30)
    [enclave] = service.enclaves()
    enclave.suspend()
    assert_done(await create(requester, sealed), sealed)
    enclave.kill()
    await asyncio.to_thread(wait_until, lambda: service.log.count("enclave serves") == 2)
    assert await status_of(requester, sealed) == PROCESSED
    await assert_worker_s_word(requester, sealed, PROCESSED, response_hash(requester, sealed, answer))


async def test_a_creation_by_members_needs_no_order_at_hand(requester: Requester) -> None:
    """As the original's clients do it: from ids and a hash."""
    sealed = requester.seal([b"x"], suite="avalon", shared_iv=True)
    await requester.submit(sealed, wait=30)
    signed = sign_creation(
        KEY,
        work_order_id=sealed.request.work_order_id,
        worker_service_id=WORKER_ID,
        worker_id=WORKER_ID,
        requester_id=sealed.request.requester_id,
        request_hash=sealed.request_hash,
        nonce="00FF",
    )
    assert_done(await requester.call("WorkOrderReceiptCreate", msgspec.to_builtins(signed)), sealed)
