"""The worker's own word in a receipt: what the enclave signs, and that it signs nothing else."""

import dataclasses
import json

import pytest

from avalon_core.channel.messages import Done, Failed, Process, ReceiptSigned, SignReceipt
from avalon_core.crypto.dialects import WorkerKeys, WorkerPublicKeys
from avalon_core.crypto.orders import seal_order
from avalon_core.crypto.receipts import RENOUNCED, failure_hash, signed_response_hash
from avalon_core.crypto.sealing import HpkePrivateKey, RsaPrivateKey
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.errors import WorkOrderError
from avalon_core.protocol.ids import worker_id_of
from avalon_core.protocol.orders import decode_result, encode_request
from avalon_core.protocol.receipts import ReceiptStatus, update_digest
from avalon_enclave.events import Journal
from avalon_enclave.processor import Processor
from avalon_enclave.replay import ReplayGuard
from avalon_enclave.runtimes.base import Uncontrolled
from avalon_enclave.runtimes.thread import ThreadRuntime
from avalon_enclave.runtimes.watchdog import Watchdog
from avalon_enclave.workloads.echo import EchoResult

WORKER = worker_id_of("test worker")


@pytest.fixture(scope="module")
def processor() -> Processor:
    runtime = ThreadRuntime(EchoResult(), watchdog=Watchdog(lambda: None), journal=Journal(lambda log: None))
    return Processor(
        worker_id=WORKER,
        keys=WorkerKeys(rsa=RsaPrivateKey.generate(), hpke=HpkePrivateKey.generate()),
        signer=SigningKey.generate(),
        runtimes={b"echo-result".hex(): runtime},
    )


@pytest.fixture
def seal(processor, make_draft, suite):
    public = WorkerPublicKeys(rsa=processor.keys.rsa.public_key, hpke=processor.keys.hpke.public_key)

    def seal(workload="echo-result", suite=suite, **changes):
        shared_iv = {"shared_iv": False} if suite == "avalon" else {}
        return seal_order(make_draft(workload, b"x", **changes), public, suite=suite, **shared_iv)

    return seal


@pytest.fixture
def lenient(processor):
    return dataclasses.replace(processor, accept_legacy=True)


def verify(key, sealed, status: ReceiptStatus, response_hash: bytes, signature: bytes) -> None:
    digest = update_digest(sealed.request.work_order_id, int(status), encode_base64(response_hash))
    key.verify(digest, signature, strict=True)


def test_an_order_without_a_receipt_signs_none(lenient, seal):
    assert lenient.process(encode_request(seal().request), None, Uncontrolled()).receipt is None


def test_the_word_comes_with_the_answer_and_can_be_had_later(lenient, seal):
    sealed = seal()
    params = encode_request(sealed.request)
    processed = lenient.process(params, None, Uncontrolled(), receipt=True)
    key = lenient.signer.verification_key
    expected = signed_response_hash(sealed.request, decode_result(processed.result), key)
    assert processed.receipt is not None
    assert processed.receipt.response_hash == expected
    verify(key, sealed, ReceiptStatus.PROCESSED, expected, processed.receipt.signature)
    assert lenient.sign_receipt(params, processed.result) == processed.receipt
    again = lenient.process(params, None, Uncontrolled(), receipt=True)  # handed over once more
    assert (again.result, again.receipt) == (processed.result, processed.receipt)


def forged(lenient, sealed, result: bytes) -> int:
    with pytest.raises(WorkOrderError) as caught:
        lenient.sign_receipt(encode_request(sealed.request), result)
    return int(caught.value.code)


def test_a_result_that_this_worker_did_not_sign_for_this_order_is_not_signed(lenient, seal):
    sealed, other = seal(), seal()
    result = lenient.process(encode_request(sealed.request), None, Uncontrolled()).result
    theirs = dataclasses.replace(lenient, signer=SigningKey.generate(), replay=ReplayGuard())
    their_result = theirs.process(encode_request(sealed.request), None, Uncontrolled()).result
    assert forged(lenient, sealed, their_result) == 4
    assert forged(lenient, other, result) == 4
    changed = json.loads(result)
    for member, value in {
        "workerSignature": encode_base64(lenient.signer.sign(bytes(32))),
        "workerNonce": encode_base64(bytes(32)),
        "workOrderId": other.request.work_order_id,
        "outData": [],
    }.items():
        assert forged(lenient, sealed, json.dumps(changed | {member: value}).encode()) == 4, member
    assert forged(lenient, sealed, b"{}") == 10
    assert forged(dataclasses.replace(lenient, worker_id=worker_id_of("another")), sealed, result) == 2
    with pytest.raises(WorkOrderError):
        lenient.sign_receipt(b"{", result)


def test_the_bytes_of_a_response_hash_cannot_be_chosen(lenient, seal):
    """Whatever the host hands over, what is signed is the hash of a result, never a value of the host's."""
    sealed = seal()
    result = json.loads(lenient.process(encode_request(sealed.request), None, Uncontrolled()).result)
    assert lenient.sign_refusal(encode_request(sealed.request), WorkOrderError(1, "x")) is None
    stolen = lenient.sign_refusal(encode_request(seal().request), WorkOrderError(1, "x"))
    assert stolen is not None
    result["workerSignature"] = encode_base64(stolen.signature)
    assert forged(lenient, sealed, json.dumps(result).encode()) == 4


def test_a_refusal_names_the_request_that_was_refused(lenient, seal):
    sealed = seal("no-such-workload")
    refusal = WorkOrderError(9, "no such workload")
    signed = lenient.sign_refusal(encode_request(sealed.request), refusal)
    assert signed is not None
    assert signed.response_hash == failure_hash(sealed.request, 9, "no such workload")
    verify(
        lenient.signer.verification_key, sealed, ReceiptStatus.FAILED, signed.response_hash, signed.signature
    )
    assert lenient.sign_refusal(b"{", refusal) is None
    elsewhere = seal("no-such-workload", worker_id=worker_id_of("another"))
    assert lenient.sign_refusal(encode_request(elsewhere.request), refusal) is None


def failed(lenient, sealed) -> tuple[bytes, bytes]:
    """The worker's word on an order that has ended without a result: what it names, and what the next run gives."""
    params = encode_request(sealed.request)
    signed = lenient.sign_unanswered(params)
    verify(
        lenient.signer.verification_key, sealed, ReceiptStatus.FAILED, signed.response_hash, signed.signature
    )
    with pytest.raises(WorkOrderError) as refused:
        lenient.process(params, None, Uncontrolled())
    return signed.response_hash, failure_hash(sealed.request, refused.value.code, refused.value.message)


def test_a_failure_is_signed_later_in_the_words_in_which_it_was_told(lenient, seal):
    sealed = seal("no-such-workload")
    with pytest.raises(WorkOrderError) as told:
        lenient.process(encode_request(sealed.request), None, Uncontrolled())
    expected = failure_hash(sealed.request, told.value.code, told.value.message)
    assert failed(lenient, sealed) == (expected, expected)


def test_an_order_that_the_worker_never_had_is_renounced_and_refused_for_ever(lenient, seal):
    sealed = seal()
    expected = failure_hash(sealed.request, 1, RENOUNCED)
    assert failed(lenient, sealed) == (expected, expected)
    assert failed(lenient, sealed) == (expected, expected), "signed again, the same"


def test_a_refusal_that_was_signed_stands(lenient, seal):
    """An order is either refused or answered in receipts, whatever the host hands over once more."""
    sealed = seal()
    first = lenient.sign_refusal(encode_request(sealed.request), WorkOrderError(1, "the workload failed"))
    assert first is not None
    expected = failure_hash(sealed.request, 1, "the workload failed")
    assert failed(lenient, sealed) == (expected, expected) == (first.response_hash, expected)


def test_an_order_that_was_answered_is_not_renounced(lenient, seal):
    sealed = seal()
    params = encode_request(sealed.request)
    result = lenient.process(params, None, Uncontrolled()).result
    with pytest.raises(WorkOrderError, match="has answered the order"):
        lenient.sign_unanswered(params)
    assert lenient.process(params, None, Uncontrolled()).result == result


def test_an_order_that_is_renounced_while_it_runs_is_not_answered(lenient, seal):
    sealed = seal()
    opened = lenient.open(encode_request(sealed.request), None)
    signed = lenient.sign_unanswered(encode_request(sealed.request))
    with pytest.raises(WorkOrderError, match=RENOUNCED):
        lenient.finish(opened, Uncontrolled())
    assert signed.response_hash == failure_hash(sealed.request, 1, RENOUNCED)


def test_what_was_cancelled_while_it_ran_was_not_answered(lenient, seal):
    class Cancelled(Uncontrolled):
        cancelled = True

    sealed = seal()
    opened = lenient.open(encode_request(sealed.request), None)
    with pytest.raises(WorkOrderError, match="cancelled"):
        lenient.finish(opened, Cancelled())
    expected = failure_hash(sealed.request, 1, RENOUNCED)
    assert failed(lenient, sealed) == (expected, expected)


def test_over_the_channel(enclave, make_draft):
    """Done, Failed and ReceiptSigned carry what the host needs, and a plain order carries nothing."""
    public, key = enclave.keys
    sealed = seal_order(make_draft("echo-result", b"x"), public)
    params = encode_request(sealed.request)
    enclave.send(Process(handle=1, request=params, receipt=True))
    done = enclave.receive()
    assert isinstance(done, Done)
    verify(key, sealed, ReceiptStatus.PROCESSED, done.response_hash, done.receipt_signature)

    enclave.send(SignReceipt(handle=-1, request=params, result=done.result))
    assert enclave.receive() == ReceiptSigned(-1, done.response_hash, done.receipt_signature)
    enclave.send(SignReceipt(handle=-2, request=params, result=b"{}"))
    answer = enclave.receive()
    assert isinstance(answer, Failed)
    assert (answer.handle, answer.receipt_signature) == (-2, None)

    ended = seal_order(make_draft("echo-result", b"x"), public)
    enclave.send(SignReceipt(handle=-3, request=encode_request(ended.request), result=None))
    answer = enclave.receive()
    assert isinstance(answer, ReceiptSigned)
    verify(key, ended, ReceiptStatus.FAILED, answer.response_hash, answer.receipt_signature)
    enclave.send(SignReceipt(handle=-4, request=params, result=None))
    answer = enclave.receive()
    assert isinstance(answer, Failed)
    assert (answer.handle, answer.code) == (-4, 2)

    refused = seal_order(make_draft("no-such-workload", b"x"), public)
    enclave.send(Process(handle=2, request=encode_request(refused.request), receipt=True))
    failed = enclave.receive()
    assert isinstance(failed, Failed)
    assert failed.response_hash == failure_hash(refused.request, failed.code, failed.message)
    verify(key, refused, ReceiptStatus.FAILED, failed.response_hash, failed.receipt_signature)

    for number, order in enumerate((sealed, refused), start=3):
        enclave.send(Process(handle=number, request=encode_request(order.request)))
        answer = enclave.receive()
        assert (answer.response_hash, answer.receipt_signature) == (None, None)
