"""Exchanges of existing clients and of a running original: opened, verified, and answered in kind."""

import json
from pathlib import Path
from typing import Any

import pytest

from avalon_core.crypto.dialects import DIALECTS, OrderKeys
from avalon_core.crypto.dialects.session import AVALON, nonce_reuse
from avalon_core.crypto.orders import (
    Item,
    OpenedOrder,
    SealedOrder,
    open_order,
    open_result,
    seal_result,
    unlock,
)
from avalon_core.crypto.orders import (
    nonce_reuse as nonce_reuse_of_orders,
)
from avalon_core.crypto.signing import _normalise, digest_of_text, load_verification_key
from avalon_core.protocol.encodings import decode_base64
from avalon_core.protocol.errors import WorkOrderError
from avalon_core.protocol.orders import (
    WorkOrderRequest,
    decode_request,
    decode_result,
    encode_request,
    encode_result,
)
from avalon_core.protocol.workers import decode_record

WIRE = Path(__file__).parent / "vectors" / "wire"
FIXED = json.loads((WIRE / "fixed_keys.json").read_text())
RECORDED = json.loads((WIRE / "recorded_from_original.json").read_text())
CASES = {case["name"]: case for case in FIXED["cases"]}
EXCHANGES = {exchange["name"]: exchange for exchange in RECORDED["exchanges"]}
EACH_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
EACH_EXCHANGE = pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


def request_of(case: dict[str, Any]) -> WorkOrderRequest:
    return decode_request(raw(case["request"]["params"]))


def opened_case(case: dict[str, Any], world) -> OpenedOrder:
    request = request_of(case)
    return open_order(request, unlock(request, world.worker))


def sealed_view(opened: OpenedOrder) -> SealedOrder:
    """What the order's sender has kept."""
    keys = OrderKeys(session=opened.keys.session)
    return SealedOrder(
        request=opened.request, dialect=opened.dialect, keys=keys, request_hash=opened.request_hash
    )


def test_the_committed_copies_are_the_shared_vectors(shared_vectors: Path) -> None:
    for name in ("fixed_keys.json", "recorded_from_original.json"):
        assert (WIRE / name).read_bytes() == (shared_vectors / "wire" / name).read_bytes()


def test_there_are_twenty_cases_and_five_exchanges() -> None:
    assert (len(CASES), len(EXCHANGES)) == (20, 5)


@EACH_CASE
def test_a_request_opens_in_its_dialect_to_its_plaintext(case: dict[str, Any], world) -> None:
    opened = opened_case(case, world)
    assert opened.dialect is DIALECTS[case["dialect"]]
    assert opened.keys.session.hex() == case["sessionKeyHex"]
    assert opened.request_hash.hex() == case["requestHashHex"]
    plain = sorted(case["plainInData"], key=lambda item: item["index"])
    assert [(item.index, item.data.decode()) for item in opened.inputs] == [
        (item["index"], item["text"]) for item in plain
    ]
    own = {str(i.index): opened.keys.own[i.encrypted_data_encryption_key].hex()
           for i in opened.request.in_data if i.has_own_key}  # fmt: skip
    assert own == case["itemKeysHex"]


@EACH_CASE
def test_a_recorded_result_verifies_and_decrypts(case: dict[str, Any], world) -> None:
    opened = opened_case(case, world)
    result = decode_result(raw(case["result"]))
    assert (
        opened.dialect.result_hash(opened.request, result, opened.request_hash).hex()
        == case["responseHashHex"]
    )
    outputs = open_result(sealed_view(opened), result, world.worker_signer.verification_key)
    assert [item.index for item in outputs] == [item.index for item in opened.inputs]
    for output, given in zip(outputs, opened.inputs, strict=True):
        assert (
            output.data.endswith(given.data)
            or case["request"]["params"]["workloadId"] != "6563686f2d726573756c74"
        )


@EACH_CASE
def test_our_signature_is_the_recorded_one_up_to_the_sign_of_s(case: dict[str, Any], world) -> None:
    signer = world.one_time if "extVerificationKey" in case["result"] else world.worker_signer
    recorded = decode_base64(case["result"]["workerSignature"], what="signature")
    assert signer.sign(bytes.fromhex(case["responseHashHex"])) == _normalise(recorded)


@EACH_CASE
def test_our_worker_answers_byte_for_byte_what_the_client_can_read(case: dict[str, Any], world) -> None:
    opened = opened_case(case, world)
    recorded = decode_result(raw(case["result"]))
    outputs = open_result(sealed_view(opened), recorded, world.worker_signer.verification_key)
    pooled = "extVerificationKey" in case["result"]
    signer, voucher = (
        (world.one_time, world.voucher(opened.request)) if pooled else (world.worker_signer, None)
    )
    nonce = decode_base64(recorded.worker_nonce, what="nonce")
    ours = seal_result(opened, outputs, signer, voucher=voucher, worker_nonce=nonce)
    if opened.request.session_key_iv:
        assert ours.out_data == recorded.out_data
        assert ours.worker_nonce == recorded.worker_nonce
    again = open_result(
        sealed_view(opened), decode_result(encode_result(ours)), world.worker_signer.verification_key
    )
    assert again == outputs


@EACH_CASE
def test_requester_signatures_verify_under_the_registered_key(case: dict[str, Any], world) -> None:
    request = request_of(case)
    signed = bool(request.requester_signature)
    assert signed == ("requester signature" in case["name"])
    keys = unlock(request, world.worker)
    if not signed:
        with pytest.raises(WorkOrderError, match="must be signed"):
            open_order(request, keys, registered_key=world.requester.verification_key)
        return
    assert open_order(request, keys, registered_key=world.requester.verification_key)
    key = load_verification_key(FIXED["requesterVerificationKeyPem"])
    key.verify(bytes.fromhex(case["requestHashHex"]), decode_base64(request.requester_signature, what="s"))


@EACH_CASE
def test_a_request_keeps_its_members_through_encoding(case: dict[str, Any]) -> None:
    request = request_of(case)
    assert decode_request(encode_request(request)) == request


@EACH_CASE
def test_cases_with_a_session_iv_are_legacy_and_the_others_are_not(case: dict[str, Any]) -> None:
    request = request_of(case)
    assert (nonce_reuse(request) is not None) == bool(request.session_key_iv)
    assert nonce_reuse_of_orders is nonce_reuse


def test_the_encryption_key_is_signed_by_the_verification_key() -> None:
    key = load_verification_key(FIXED["workerVerificationKeyPem"])
    signature = bytes.fromhex(FIXED["encryptionKeySignatureHex"])
    key.verify(digest_of_text(FIXED["workerEncryptionKeyPem"]), signature)


@EACH_EXCHANGE
def test_an_exchange_with_a_running_original_verifies_and_decrypts(exchange: dict[str, Any]) -> None:
    record = decode_record(raw(RECORDED["workerRetrieve"]["result"]))
    verification_key = load_verification_key(record.details.worker_type_data.verification_key)
    request = decode_request(raw(exchange["request"]))
    keys = OrderKeys(session=bytes.fromhex(exchange["sessionKeyHex"]))
    opened = open_order(request, keys)
    assert opened.dialect is AVALON
    assert [item.data.decode() for item in opened.inputs] == exchange["plainInData"]
    result = decode_result(raw(exchange["response"]["result"]))
    outputs = open_result(sealed_view(opened), result, verification_key)
    assert outputs
    if exchange["name"] != "heart":
        assert outputs[0].data.decode() == "RESULT: " + exchange["plainInData"][0]


def test_the_recorded_worker_record_decodes_and_its_key_signature_verifies() -> None:
    record = decode_record(raw(RECORDED["workerRetrieve"]["result"]))
    data = record.details.worker_type_data
    assert record.is_active
    assert record.details.payload_formats == {"JSON-RPC"}
    assert data.proof_data is None
    key = load_verification_key(data.verification_key)
    key.verify(digest_of_text(data.encryption_key), bytes.fromhex(data.encryption_key_signature))


@EACH_CASE
def test_a_result_of_one_order_is_refused_for_another_execution(case: dict[str, Any], world) -> None:
    """The worker's nonce is signed: a result cannot be given the nonce of another."""
    opened = opened_case(case, world)
    first = seal_result(opened, [Item(index=0, data=b"a")], world.worker_signer)
    second = seal_result(opened, [Item(index=0, data=b"a")], world.worker_signer)
    assert first.worker_nonce != second.worker_nonce
    assert first.worker_signature != second.worker_signature
