"""Receipts: what is well formed, what is signed, and the rules of their status."""

import hashlib
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avalon_core.crypto.dialects import AVALON, EEA, HPKE
from avalon_core.crypto.receipts import (
    failure_hash,
    request_hashes,
    response_hashes,
    sign_creation,
    sign_update,
    signed_response_hash,
    verify_creation,
    verify_update,
)
from avalon_core.crypto.signing import SigningKey
from avalon_core.errors import SignatureMismatch
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.errors import GeneralError
from avalon_core.protocol.orders import WorkOrderRequest, WorkOrderResult
from avalon_core.protocol.receipts import (
    ReceiptCreateParams,
    ReceiptLookUpNextParams,
    ReceiptLookUpParams,
    ReceiptStatus,
    ReceiptUpdateParams,
    ReceiptUpdateRetrieveParams,
    creation_digest,
    decode_receipt,
    decode_receipt_page,
    decode_receipt_update,
    status_after,
    update_digest,
)

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
PENDING, COMPLETED, PROCESSED, FAILED, REJECTED = list(ReceiptStatus)[:5]
OWN = 1000
REFUSED = None

STATUS_AFTER = {
    "pending becomes anything": {
        (PENDING, new): new for new in (PENDING, COMPLETED, PROCESSED, FAILED, REJECTED)
    },
    "failed becomes anything": {
        (FAILED, new): new for new in (PENDING, COMPLETED, PROCESSED, FAILED, REJECTED)
    },
    "rejected becomes anything": {
        (REJECTED, new): new for new in (PENDING, COMPLETED, PROCESSED, FAILED, REJECTED)
    },
    "an application's own status becomes anything": {
        (OWN, new): new for new in (PENDING, COMPLETED, PROCESSED, FAILED, REJECTED)
    },
    "after processed comes completed": {(PROCESSED, COMPLETED): COMPLETED},
    "processed stays processed": {(PROCESSED, PROCESSED): PROCESSED},
    "processed does not go back": {(PROCESSED, new): REFUSED for new in (PENDING, FAILED, REJECTED)},
    "after completed comes nothing": {
        (COMPLETED, new): REFUSED for new in (PENDING, COMPLETED, PROCESSED, FAILED, REJECTED, 256, OWN)
    },
    "a type above 255 leaves the status": {
        (old, new): old
        for old in (PENDING, PROCESSED, FAILED, REJECTED, OWN)
        for new in (256, 1001, 2**31 - 1)
    },
    "reserved types are refused": {
        (old, new): REFUSED for old in (PENDING, COMPLETED, PROCESSED, OWN) for new in (5, 100, 254)
    },
    "any is no status": {(old, 255): REFUSED for old in (PENDING, PROCESSED, OWN)},
    "a negative type is refused": {(PENDING, -1): REFUSED},
}


@pytest.mark.parametrize("sentence", STATUS_AFTER)
def test_status_after(sentence):
    for (old, new), expected in STATUS_AFTER[sentence].items():
        if expected is REFUSED:
            with pytest.raises(GeneralError) as caught:
                status_after(old, new)
            assert caught.value.code == 2
        else:
            assert status_after(old, new) == expected, (old, new)


@given(st.lists(st.integers(min_value=0, max_value=300), max_size=20))
def test_completed_is_final_and_processed_never_goes_back(types):
    status, seen = int(PENDING), [int(PENDING)]
    for new in types:
        try:
            status = status_after(status, new)
        except GeneralError:
            continue
        seen.append(status)
    if COMPLETED in seen:
        assert seen.index(COMPLETED) == len(seen) - 1
    if PROCESSED in seen:
        assert set(seen[seen.index(PROCESSED) :]) <= {PROCESSED, COMPLETED}


def creation(**changes):
    values = {
        "work_order_id": "aB" * 32,
        "worker_service_id": "0x01",
        "worker_id": "cc",
        "requester_id": "dd",
        "request_hash": bytes(32),
        "nonce": "00FF",
    }
    return sign_creation(KEY, **(values | changes))


def test_the_creation_s_digest_is_of_the_texts_one_after_the_other():
    text = "aB" * 32 + "0x01" + "cc" + "dd" + "0" + encode_base64(bytes(32)) + "00FF"
    assert creation_digest(creation()) == hashlib.sha256(text.encode()).digest()


def test_the_update_s_digest_is_of_the_texts_one_after_the_other():
    assert update_digest("aB", 2, "data") == hashlib.sha256(b"aB2data").digest()


def test_signatures_verify_and_nothing_else_does():
    receipt = creation()
    assert verify_creation(receipt) == KEY.verification_key
    verify_creation(receipt, KEY.verification_key)
    with pytest.raises(SignatureMismatch, match="not the requester's key"):
        verify_creation(receipt, OTHER.verification_key)
    for member in (
        "work_order_id",
        "worker_service_id",
        "worker_id",
        "requester_id",
        "requester_generated_nonce",
    ):
        with pytest.raises(SignatureMismatch):
            verify_creation(msgspec.structs.replace(receipt, **{member: "ee"}))
    with pytest.raises(SignatureMismatch):
        verify_creation(msgspec.structs.replace(receipt, receipt_create_status=3))
    with pytest.raises(SignatureMismatch, match="receiptVerificationKey"):
        verify_creation(msgspec.structs.replace(receipt, receipt_verification_key="PEM"))

    update = sign_update(KEY, work_order_id="ab", updater_id="cd", update_type=OWN, update_data="data")
    verify_update(update, KEY.verification_key)
    for changed in ({"work_order_id": "ef"}, {"update_type": 1001}, {"update_data": ""}):
        with pytest.raises(SignatureMismatch):
            verify_update(msgspec.structs.replace(update, **changed), KEY.verification_key)
    with pytest.raises(SignatureMismatch):
        verify_update(update, OTHER.verification_key)


CREATE = msgspec.json.decode(msgspec.json.encode(creation()))
UPDATE = msgspec.json.decode(
    msgspec.json.encode(
        sign_update(KEY, work_order_id="ab", updater_id="cd", update_type=OWN, update_data="data")
    )
)


def test_what_travels_is_named_as_the_specification_names_it():
    assert list(CREATE) == [
        "workOrderId",
        "workerServiceId",
        "workerId",
        "requesterId",
        "receiptCreateStatus",
        "workOrderRequestHash",
        "requesterGeneratedNonce",
        "requesterSignature",
        "signatureRules",
        "receiptVerificationKey",
    ]
    assert list(UPDATE) == [
        "workOrderId",
        "updaterId",
        "updateType",
        "updateData",
        "updateSignature",
        "signatureRules",
        "receiptVerificationKey",
    ]


MALFORMED = {
    "an id that is not hex": (ReceiptCreateParams, CREATE, {"workerServiceId": "xyz"}),
    "an id over 32 bytes": (ReceiptCreateParams, CREATE, {"workOrderId": "ab" * 33}),
    "an extra member": (ReceiptCreateParams, CREATE, {"extra": 1}),
    "a reserved status": (ReceiptCreateParams, CREATE, {"receiptCreateStatus": 5}),
    "a negative status": (ReceiptCreateParams, CREATE, {"receiptCreateStatus": -1}),
    "a status in a string": (ReceiptCreateParams, CREATE, {"receiptCreateStatus": "0"}),
    "a hash of 31 bytes": (ReceiptCreateParams, CREATE, {"workOrderRequestHash": encode_base64(bytes(31))}),
    "a hash in another spelling": (ReceiptCreateParams, CREATE, {"workOrderRequestHash": "A" * 42 + "B="}),
    "other rules": (ReceiptCreateParams, CREATE, {"signatureRules": "sha-256/secp256k1"}),
    "a signature that is not base64": (ReceiptCreateParams, CREATE, {"requesterSignature": "?"}),
    "no signature": (ReceiptCreateParams, CREATE, {"requesterSignature": ""}),
    "an update of a reserved type": (ReceiptUpdateParams, UPDATE, {"updateType": 254}),
    "processed without a hash": (ReceiptUpdateParams, UPDATE, {"updateType": 2}),
    "completed without a hash": (ReceiptUpdateParams, UPDATE, {"updateType": 1, "updateData": ""}),
    "very much data": (ReceiptUpdateParams, UPDATE, {"updateData": "x" * (16 * 1024 + 1)}),
    "index 0": (ReceiptUpdateRetrieveParams, {"workOrderId": "ab"}, {"updateIndex": 0}),
    "an index beyond the last": (
        ReceiptUpdateRetrieveParams,
        {"workOrderId": "ab"},
        {"updateIndex": 2**32 + 1},
    ),
    "two statuses": (ReceiptLookUpParams, {}, {"receiptStatus": 1, "requestCreateStatus": 2}),
    "no tag": (ReceiptLookUpNextParams, {}, {}),
    "an empty tag": (ReceiptLookUpNextParams, {}, {"lookUpTag": ""}),
}


@pytest.mark.parametrize("sentence", MALFORMED)
def test_malformed_params_are_refused(sentence):
    type_, good, change = MALFORMED[sentence]
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(good | change), type=type_)


def test_well_formed_params_are_accepted():
    for type_, params in (
        (ReceiptCreateParams, CREATE),
        (ReceiptCreateParams, CREATE | {"receiptCreateStatus": 256}),
        (ReceiptUpdateParams, UPDATE),
        (ReceiptUpdateParams, UPDATE | {"updateType": 2, "updateData": encode_base64(bytes(32))}),
        (ReceiptUpdateParams, {name: UPDATE[name] for name in UPDATE if name != "receiptVerificationKey"}),
        (ReceiptUpdateParams, UPDATE | {"receiptVerificationKey": ""}),
        (ReceiptLookUpParams, {}),
        (ReceiptLookUpParams, {"workerId": "", "requesterId": "ab"}),
    ):
        msgspec.json.decode(msgspec.json.encode(params), type=type_)


@pytest.mark.parametrize(
    ("index", "last"), [(1, False), (0xFFFFFFFE, False), (0xFFFFFFFF, True), (1 << 32, True)]
)
def test_which_index_means_the_last_update(index, last):
    assert ReceiptUpdateRetrieveParams(work_order_id="ab", update_index=index).wants_last is last


@pytest.mark.parametrize("name", ["receiptStatus", "requestCreateStatus"])
@pytest.mark.parametrize(("given", "status"), [(0, 0), (2, 2), (255, None), (1000, 1000)])
def test_the_status_of_a_look_up_has_two_names(name, given, status):
    params = msgspec.convert({name: given}, ReceiptLookUpParams)
    assert params.status == status
    assert ReceiptLookUpParams().status is None


@pytest.mark.parametrize("name", ["lookUpTag", "lookupTag", "lastLookUpTag"])
def test_the_tag_of_a_look_up_has_three_names(name):
    assert msgspec.convert({name: "tag", "workerId": "ab"}, ReceiptLookUpNextParams).tag == "tag"


@pytest.mark.parametrize("decode", [decode_receipt, decode_receipt_update, decode_receipt_page])
@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"workOrderId": 1}', b"\xff"])
def test_answers_that_cannot_be_read(decode, answer):
    with pytest.raises(GeneralError) as caught:
        decode(answer)
    assert caught.value.code == 1


def request(payload_format: str, **changes) -> WorkOrderRequest:
    values = {
        "response_timeout_msecs": 0,
        "payload_format": payload_format,
        "work_order_id": "ab",
        "worker_id": "cd",
        "workload_id": "ef",
        "requester_id": "12",
        "encrypted_session_key": "00",
        "requester_nonce": "34",
        "encrypted_request_hash": "00",
    }
    return WorkOrderRequest(**(values | changes))


RESULT = WorkOrderResult(
    work_order_id="ab",
    workload_id="ef",
    worker_id="cd",
    requester_id="12",
    worker_nonce=encode_base64(bytes(32)),
    worker_signature="",
    out_data=(),
)


def test_hashes_follow_from_public_members_in_every_dialect_that_can_be():
    session, ours = request("JSON-RPC"), request("~avalon-hpke-1")
    assert request_hashes(session) == {AVALON.request_hash(session), EEA.request_hash(session)}
    assert request_hashes(ours) == {HPKE.request_hash(ours)}
    odd = request("JSON-RPC", requester_nonce="345")  # no whole bytes: the other dialect cannot hash it
    assert request_hashes(odd) == {AVALON.request_hash(odd)}
    assert len(response_hashes(session, RESULT)) == 2
    assert len(response_hashes(ours, RESULT)) == 1


@pytest.mark.parametrize(
    ("dialect", "payload_format"), [(AVALON, "JSON-RPC"), (EEA, "json-rpc"), (HPKE, "~avalon-hpke-1")]
)
def test_the_hash_that_a_worker_signed_is_found(dialect, payload_format):
    order = request(payload_format)
    expected = dialect.result_hash(order, RESULT, dialect.request_hash(order))
    signed = msgspec.structs.replace(RESULT, worker_signature=encode_base64(KEY.sign(expected)))
    assert signed_response_hash(order, signed, KEY.verification_key) == expected
    with pytest.raises(SignatureMismatch, match="not signed by this worker"):
        signed_response_hash(order, signed, OTHER.verification_key)
    with pytest.raises(SignatureMismatch, match="another order"):
        signed_response_hash(msgspec.structs.replace(order, work_order_id="ff"), signed, KEY.verification_key)
    with pytest.raises(SignatureMismatch):
        signed_response_hash(
            order, msgspec.structs.replace(signed, worker_signature="?"), KEY.verification_key
        )


def test_a_refusal_s_hash_is_of_one_request_and_one_refusal():
    orders = [
        request("JSON-RPC"),
        request("JSON-RPC", requester_nonce="35"),
        request("~avalon-hpke-1"),
        request("~avalon-hpke-1", work_order_id="ac"),
    ]
    refusals = [(1, "a"), (2, "a"), (1, "b"), (1, "")]
    hashes = [failure_hash(order, *refusal) for order, refusal in itertools.product(orders, refusals)]
    assert len(set(hashes)) == len(hashes)
