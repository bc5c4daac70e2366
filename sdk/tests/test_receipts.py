"""Receipts: what is signed is verified, whatever a service says of it."""

import hashlib

import pytest

from avalon_core.crypto.receipts import create_receipt, sign_update
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.errors import WorkOrderError
from avalon_sdk import (
    BadRequest,
    NoSuchReceipt,
    OrderFailed,
    ReceiptRefused,
    ReceiptStatus,
    ServiceError,
    UntrustedWorker,
)
from avalon_sdk.sync import Client
from avalon_sdk.testing import SimulatedService

REQUESTER = SigningKey.generate()
STRANGER = SigningKey.generate()


async def finished(client, **options):
    handle = await client.submit("echo-result", ["a"], **options)
    await handle.result()
    return handle


@pytest.mark.parametrize("suite", ["~avalon-hpke-1", "avalon", "eea-1.1"])
async def test_the_whole_life_of_a_receipt(service, suite):
    async with service.client() as client:
        service.pause()
        handle = await client.submit("echo-result", ["a"], suite=suite)
        created = await client.create_receipt(handle, REQUESTER)
        assert (created.status_name, created.updates, created.worker_says) == ("pending", (), None)
        service.resume()
        await handle.result()
        receipt = await client.retrieve_receipt(handle, requester_key=REQUESTER.verification_key)
        assert receipt.status is not None
        assert (receipt.status_name, receipt.worker_says.agrees_with) == ("processed", "result")
        await client.update_receipt(handle, REQUESTER, ReceiptStatus.COMPLETED)
        receipt = await client.retrieve_receipt(handle)
        assert [(u.index, u.by, u.type_name, u.agrees_with) for u in receipt.updates] == [
            (1, "worker", "processed", "result"),
            (2, "requester", "completed", "result"),
        ]
        assert [u.index async for u in client.receipt_updates(handle)] == [1, 2]


async def test_by_the_id_alone_the_worker_is_found_and_checked(service):
    async with service.client() as client:
        handle = await finished(client)
        await client.create_receipt(handle, REQUESTER)
        receipt = await client.retrieve_receipt(handle.work_order_id)
        assert receipt.worker_says.agrees_with == ""
        service.forge_record = lambda record: record["details"]["workerTypeData"].update(proofData=None)
        with pytest.raises(UntrustedWorker):
            await client.retrieve_receipt(handle.work_order_id)


async def test_an_auditor_adds_an_update_that_sets_no_status(service):
    async with service.client() as client:
        handle = await finished(client)
        await client.create_receipt(handle, REQUESTER)
        await client.update_receipt(handle.work_order_id, STRANGER, 4711, "seen", updater_id="ab" * 32)
        receipt = await client.retrieve_receipt(handle)
        assert (receipt.updates[1].by, receipt.updates[1].type_name) == ("other", "application's 4711")
        assert receipt.updates[1].key == STRANGER.verification_key


async def test_the_worker_s_word_vouches_for_the_failure_that_the_service_told(service):
    service.failure = WorkOrderError(1, "division by zero")
    async with service.client() as client:
        service.pause()
        handle = await client.submit("echo-result", ["a"])
        service.resume()
        with pytest.raises(OrderFailed):
            await handle.result()
        await client.create_receipt(handle, REQUESTER)
        assert (await client.retrieve_receipt(handle)).worker_says.agrees_with == "failure"
        handle.failure.said = "something nicer"
        assert (await client.retrieve_receipt(handle)).worker_says.agrees_with == ""


def wrong_hash(update):
    """The worker's own key: a service cannot do this, a worker that was broken could."""
    return encode_base64(hashlib.sha256(b"another response").digest())


def resigned(update: dict, key: SigningKey, **changed: object) -> None:
    """Changed, and signed anew by somebody."""
    update |= changed
    signed = sign_update(
        key,
        work_order_id=update["workOrderId"],
        updater_id=update["updaterId"],
        update_type=update["updateType"],
        update_data=update["updateData"],
    )
    update["updateSignature"] = signed.update_signature
    update["receiptVerificationKey"] = key.verification_key.pem


@pytest.mark.parametrize(
    ("what", "forge", "said"),
    [
        ("the worker's update is signed by another key", lambda u, s: resigned(u, STRANGER), "worker's key"),
        ("its data is changed", lambda u, s: u.update(updateData=wrong_hash(u)), "worker's key"),
        ("its type is changed", lambda u, s: u.update(updateType=3), "worker's key"),
        ("its signature is stripped", lambda u, s: u.update(updateSignature=""), "worker's key"),
        ("it is shown as the requester's", lambda u, s: u.update(updaterId=s.requester), "requester's key"),
        ("it is shown as a stranger's", lambda u, s: u.update(updaterId="ab" * 32), "somebody else's"),
        ("it names another order", lambda u, s: u.update(workOrderId="00" * 32), "another order"),
        ("it names no key", lambda u, s: u.update(receiptVerificationKey="x"), "key that is none"),
        ("a stranger sets the status", lambda u, s: resigned(u, STRANGER, updaterId="ab" * 32), "neither"),
        ("the worker names another response", lambda u, s: resigned(u, s._signing_key, updateData=wrong_hash(u)), "another response"),
    ],
)  # fmt: skip
async def test_a_forged_update_is_refused_when(service, what, forge, said):
    async with service.client(requester_id="cd" * 32) as client:
        service.requester = "cd" * 32
        handle = await finished(client)
        await client.create_receipt(handle, REQUESTER)
        service.forge_update = lambda update: forge(update, service)
        with pytest.raises(ReceiptRefused, match=said):
            await client.retrieve_receipt(handle)
        with pytest.raises(ReceiptRefused, match=said):
            _ = [update async for update in client.receipt_updates(handle)]


@pytest.mark.parametrize(
    ("what", "forge", "said"),
    [
        ("it names another order", lambda r: r.update(workOrderId="00" * 32), "another order"),
        ("it names another worker", lambda r: r.update(workerId="00" * 32), "another order"),
        ("it names another requester", lambda r: r.update(requesterId="00" * 32), "another order"),
        ("it names another request", lambda r: r.update(workOrderRequestHash=encode_base64(bytes(32))), "another order"),
        ("its nonce is changed", lambda r: r.update(requesterGeneratedNonce="00"), "signature"),
        ("its service is changed", lambda r: r.update(workerServiceId="00"), "signature"),
        ("its first status is changed", lambda r: r.update(receiptCreateStatus=2), "signature"),
        ("its key is another", lambda r: r.update(receiptVerificationKey=STRANGER.verification_key.pem), "signature"),
        ("its status does not follow from its updates", lambda r: r.update(receiptCurrentStatus=1), "add up"),
        ("its status forgets its updates", lambda r: r.update(receiptCurrentStatus=0), "add up"),
    ],
)  # fmt: skip
async def test_a_forged_receipt_is_refused_when(service, what, forge, said):
    async with service.client() as client:
        handle = await finished(client)
        await client.create_receipt(handle, REQUESTER)
        service.forge_receipt = forge
        with pytest.raises(ReceiptRefused, match=said):
            await client.retrieve_receipt(handle)


async def test_the_worker_s_answer_cannot_be_shown_as_an_application_s_remark(service):
    async with service.client() as client:
        handle = await finished(client)
        await client.create_receipt(handle, REQUESTER)
        await client.retrieve_receipt(handle)
        [word] = service.receipts.updates[handle.work_order_id]
        # A response whose hash begins with digits: one in some two hundred does.
        signed = sign_update(
            service._signing_key,
            work_order_id=handle.work_order_id,
            updater_id=word.updater_id,
            update_type=2,
            update_data=encode_base64(b"\xe7\xae\xb4" + bytes(29)),
        )
        assert signed.update_data.startswith("5660")
        service.forge_receipt = lambda receipt: receipt.update(receiptCurrentStatus=0)
        service.forge_update = lambda update: update.update(
            updateType=25660, updateData=signed.update_data[4:], updateSignature=signed.update_signature
        )
        with pytest.raises(ReceiptRefused, match="two ways"):
            await client.retrieve_receipt(handle)


async def test_a_receipt_of_another_order_is_refused(service):
    async with service.client() as client:
        one, other = await finished(client), await finished(client)
        for handle in (one, other):
            await client.create_receipt(handle, REQUESTER)
        receipts = service.receipts
        receipts.created[one.work_order_id] = receipts.created[other.work_order_id]
        with pytest.raises(ReceiptRefused, match="another order"):
            await client.retrieve_receipt(one)
        with pytest.raises(ReceiptRefused, match="another order"):
            await client.retrieve_receipt(one.work_order_id)


async def test_another_order_s_update_is_refused(service):
    async with service.client() as client:
        one, other = await finished(client), await finished(client)
        for handle in (one, other):
            await client.create_receipt(handle, REQUESTER)
            await client.retrieve_receipt(handle)
        updates = service.receipts.updates
        updates[one.work_order_id] = updates[other.work_order_id]
        with pytest.raises(ReceiptRefused, match="another order"):
            await client.retrieve_receipt(one)
        service.forge_update = lambda update: update.update(workOrderId=one.work_order_id)
        with pytest.raises(ReceiptRefused, match="worker's key"):
            await client.retrieve_receipt(one)


async def test_a_receipt_that_somebody_else_made_of_an_order_is_told_by_the_key(service):
    async with service.client() as client:
        handle = await finished(client)
        theirs = create_receipt(
            handle.parsed_request, handle.request_hash, STRANGER, worker_service_id=service.worker_id
        )
        service.receipts.created[handle.work_order_id] = theirs
        service.receipts.updates[handle.work_order_id] = []
        assert (await client.retrieve_receipt(handle)).requester_key == STRANGER.verification_key
        with pytest.raises(ReceiptRefused, match="not the requester's key"):
            await client.retrieve_receipt(handle, requester_key=REQUESTER.verification_key)
        with pytest.raises(ServiceError, match="already"):
            await client.create_receipt(handle, REQUESTER)


async def test_of_a_signed_order_only_its_key_makes_a_receipt(service):
    async with service.client() as client:
        handle = await finished(client, signer=REQUESTER)
        theirs = create_receipt(handle.parsed_request, handle.request_hash, STRANGER, worker_service_id="00")
        service.receipts.created[handle.work_order_id] = theirs
        service.receipts.updates[handle.work_order_id] = []
        with pytest.raises(ReceiptRefused, match="not the requester's key"):
            await client.retrieve_receipt(handle)


async def test_a_lost_answer_to_a_creation_does_not_end_in_an_error(service):
    async with service.client() as client:
        handle = await finished(client)
        service.lose_answers = 1
        assert (await client.create_receipt(handle, REQUESTER)).status_name == "processed"


async def test_there_is_none(service):
    async with service.client() as client:
        handle = await finished(client)
        with pytest.raises(NoSuchReceipt):
            await client.retrieve_receipt(handle)
        with pytest.raises(BadRequest, match="hex"):
            await client.retrieve_receipt("../x")


async def test_what_cannot_be_signed_is_said(service):
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"])
        handle._outcome = handle._response_hash = None
        for arguments, said in (
            ((ReceiptStatus.COMPLETED,), "await result"),
            ((7,), "expected 0 to 4"),
            ((ReceiptStatus.COMPLETED, "no hash"), "updateData"),
        ):
            with pytest.raises(BadRequest, match=said):
                await client.update_receipt(handle, REQUESTER, *arguments)
        with pytest.raises(BadRequest, match="updater_id"):
            await client.update_receipt(handle.work_order_id, REQUESTER, 300, "x")


async def test_look_up_turns_pages(service):
    async with service.client() as client:
        handles = [await finished(client) for _ in range(5)]
        for handle in handles:
            await client.create_receipt(handle, REQUESTER)
        found = [
            work_order_id async for work_order_id in client.look_up_receipts(worker_id=service.worker_id)
        ]
        assert found == [handle.work_order_id for handle in handles]
        assert [w async for w in client.look_up_receipts(status=1)] == []
        with pytest.raises(BadRequest, match="worker_id"):
            _ = [w async for w in client.look_up_receipts(worker_id="nobody")]


async def test_a_look_up_without_end_ends(service, monkeypatch):
    monkeypatch.setattr("avalon_sdk.receipts.MAX_LISTED_RECEIPTS", 7)
    service.receipts._look_up = lambda named: {"totalCount": 1, "lookupTag": "x", "ids": ["00", "01"]}
    async with service.client() as client:
        assert len([w async for w in client.look_up_receipts()]) == 7


def test_the_blocking_client_does_the_same():
    service = SimulatedService()
    with Client(service.transport(), trust=service.trust) as client:
        handle = client.submit("echo-result", ["a"])
        handle.result()
        assert client.create_receipt(handle, REQUESTER).status_name == "processed"
        client.update_receipt(handle, REQUESTER, ReceiptStatus.COMPLETED)
        assert client.retrieve_receipt(handle).status_name == "completed"
        assert [update.by for update in client.receipt_updates(handle)] == ["worker", "requester"]
        assert list(client.look_up_receipts()) == [handle.work_order_id]
