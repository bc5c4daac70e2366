"""What is signed outside of orders: no two different things have one digest."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avalon_core.crypto.registry import check_details, key_digest, key_nonce, key_request_digest, write_digest
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.registry import (
    EncryptionKeyGetParams,
    WorkerRegisterParams,
    WorkerSetStatusParams,
    WorkerUpdateParams,
)

REGISTER = {
    "workerId": "ab",
    "workerType": 1,
    "organizationId": "cd",
    "applicationTypeId": ["01", "02"],
    "details": {"a": 1},
    "signatureNonce": "01",
    "signature": "AA==",
}


def register(**changes: object) -> WorkerRegisterParams:
    return msgspec.json.decode(msgspec.json.encode({**REGISTER, **changes}), type=WorkerRegisterParams)


@pytest.mark.parametrize(
    "changes",
    [
        {"workerId": "AB"},
        {"workerType": 2},
        {"organizationId": ""},
        {"organizationId": "cd01", "applicationTypeId": ["02"]},
        {"applicationTypeId": ["02", "01"]},
        {"applicationTypeId": "01"},
        {"details": {"a": 2}},
        {"signatureNonce": "1"},
    ],
    ids=str,
)
def test_every_member_of_a_registration_is_signed(changes: dict[str, object]) -> None:
    assert write_digest(register(**changes)) != write_digest(register())


def test_the_signature_itself_is_not_signed_and_spaces_of_details_are() -> None:
    assert write_digest(register(signature="AAA=")) == write_digest(register())
    spaced = msgspec.json.decode(
        msgspec.json.encode(REGISTER).replace(b'{"a":1}', b'{"a": 1}'), type=WorkerRegisterParams
    )
    assert write_digest(spaced) != write_digest(register())


def test_one_method_is_not_another() -> None:
    nonce = {"signatureNonce": "01", "signature": "AA=="}
    update = msgspec.json.decode(
        msgspec.json.encode({"workerId": "ab", "details": {}, **nonce}), type=WorkerUpdateParams
    )
    status = msgspec.json.decode(
        msgspec.json.encode({"workerId": "ab", "status": 1, **nonce}), type=WorkerSetStatusParams
    )
    assert len({write_digest(update), write_digest(status), write_digest(register())}) == 3


@given(st.lists(st.text(max_size=4), min_size=10, max_size=10))
def test_members_of_a_key_do_not_run_into_each_other(texts: list[str]) -> None:
    def digest(texts: list[str]) -> bytes:
        key, nonce, tag, worker_id, signature_nonce = texts
        return key_digest(
            worker_id=worker_id,
            encryption_key=key,
            encryption_key_nonce=nonce,
            tag=tag,
            signature_nonce=signature_nonce,
        )

    assert (digest(texts[:5]) == digest(texts[5:])) == (texts[:5] == texts[5:])


def test_a_pushed_key_is_not_an_enclaves_answer() -> None:
    members = {"worker_id": "ab", "encryption_key": "k", "encryption_key_nonce": "00", "tag": ""}
    assert key_digest(**members) != key_digest(**members, signature_nonce="")


def test_an_absent_member_of_a_request_is_not_an_empty_one() -> None:
    absent = EncryptionKeyGetParams(worker_id="ab", requester_id="cd")  # type: ignore[arg-type]
    empty = msgspec.structs.replace(absent, tag="")
    assert key_request_digest(absent) != key_request_digest(empty)


def test_the_nonce_of_a_key_changes_with_it() -> None:
    assert key_nonce("a") == key_nonce("a") != key_nonce("b")
    assert len(key_nonce("a")) == 64


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"signature": None}, "both or neither"),
        ({"signatureNonce": None}, "both or neither"),
        ({"signatureNonce": "12345678901234567"}, "signatureNonce"),
        ({"workerType": 0}, "workerType"),
        ({"applicationTypeId": ["x"]}, "applicationTypeId"),
        ({"organizationId": "x"}, "organizationId"),
        ({"more": 1}, "more"),
    ],
    ids=str,
)
def test_a_malformed_registration_is_refused(changes: dict[str, object], said: str) -> None:
    members = {name: value for name, value in {**REGISTER, **changes}.items() if value is not None}
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.json.decode(msgspec.json.encode(members), type=WorkerRegisterParams)


@pytest.mark.parametrize(
    ("details", "said"),
    [
        (b"[]", "Expected `object`"),
        (b"{}", "workerTypeData"),
        (b'"text"', "Expected `object`"),
        (b'{"workerTypeData": {"verificationKey": "x"}}', "encryptionKey"),
        (
            b'{"workerTypeData": {"verificationKey": "x", "encryptionKey": "", "encryptionKeySignature": ""}}',
            "verificationKey: not a public key",
        ),
        (b'{"workerTypeData": ' + b"[" * 100_000, "details"),
        (b" " * 300_000, "at most 262144"),
    ],
    ids=range(7),
)
def test_details_that_are_none_are_refused(details: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_details(details)


def test_details_with_the_keys_are_read() -> None:
    pem = SigningKey.generate().verification_key.pem
    details = {
        "workerTypeData": {"verificationKey": pem, "encryptionKey": "k", "encryptionKeySignature": "00"},
        "ofAnotherService": 1,
    }
    assert check_details(msgspec.json.encode(details)).worker_type_data.verification_key == pem
