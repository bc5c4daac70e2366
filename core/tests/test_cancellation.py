"""Who may cancel an order."""

from __future__ import annotations

import pytest

from avalon_core.crypto.cancellation import cancellation_digest, check_cancellation
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.cancellation import WorkOrderCancelParams
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.errors import WorkOrderError
from avalon_core.protocol.ids import Base64Str, HexStr, RequesterId, WorkOrderId

KEY, OTHER = SigningKey(b"\1" * 32), SigningKey(b"\2" * 32)
ORDER = {"work_order_id": "aa", "requester_id": "bb", "encrypted_request_hash": "CC"}


def cancellation(
    signed: dict[str, str] | None = None, key: SigningKey = KEY, **changes: str
) -> WorkOrderCancelParams:
    """The params of a cancellation, signed over ``signed`` where given."""
    members = {"work_order_id": "aa", "requester_id": "bb", **changes}
    signature = encode_base64(key.sign(cancellation_digest(**signed))) if signed else members.get("signature")
    hash_ = members.get("encrypted_request_hash")
    return WorkOrderCancelParams(
        work_order_id=WorkOrderId(members["work_order_id"]),
        requester_id=RequesterId(members["requester_id"]),
        encrypted_request_hash=HexStr(hash_) if hash_ is not None else None,
        signature=Base64Str(signature) if signature is not None else None,
    )


def check(shown: WorkOrderCancelParams, key: SigningKey | None, hash_: str = "CC") -> None:
    pem = key.verification_key.pem if key else None
    check_cancellation(shown, requester_id="bb", encrypted_request_hash=hash_, key=pem)


def test_the_digest_is_as_documented() -> None:
    assert cancellation_digest(**ORDER).hex() == (
        "49b41ed3c069ec296511e3e6581cc71ffaa28fef48bf3ba3cde42f2e60c8c53b"
    )


def test_a_bound_order_is_cancelled_by_its_key() -> None:
    check(cancellation(ORDER), KEY)


def test_any_other_order_is_cancelled_by_its_encrypted_request_hash() -> None:
    check(cancellation(encrypted_request_hash="CC"), None)


DENIED = {
    "a bound order is not cancelled by its hash": (cancellation(encrypted_request_hash="CC"), KEY),
    "a bound order is not cancelled by another key": (cancellation(ORDER, OTHER), KEY),
    "a bound order is not cancelled without signature": (cancellation(), KEY),
    "a signature that is not base64 is none": (cancellation(signature="!"), KEY),
    "a signature that is not DER is none": (cancellation(signature="AAAA"), KEY),
    "a signature for another order is none": (cancellation({**ORDER, "work_order_id": "ab"}), KEY),
    "a signature for an earlier order of the id is none": (
        cancellation({**ORDER, "encrypted_request_hash": "DD"}),
        KEY,
    ),
    "a signature does not replace the requester's id": (cancellation(ORDER, requester_id="bc"), KEY),
    "the spelling of the requester's id matters": (
        cancellation(requester_id="BB", encrypted_request_hash="CC"),
        None,
    ),
    "an unbound order is not cancelled by a signature": (cancellation(ORDER), None),
    "an unbound order is not cancelled by another hash": (cancellation(encrypted_request_hash="CD"), None),
    "the spelling of the hash matters": (cancellation(encrypted_request_hash="cc"), None),
    "an unbound order is not cancelled by nothing": (cancellation(), None),
}


@pytest.mark.parametrize("sentence", DENIED)
def test_what_is_denied(sentence: str) -> None:
    shown, key = DENIED[sentence]
    with pytest.raises(WorkOrderError) as caught:
        check(shown, key)
    assert caught.value.code == 3
    assert "CC" not in caught.value.message


def test_an_order_of_which_nothing_is_known_is_nobody_s() -> None:
    for shown in (cancellation(), cancellation(encrypted_request_hash="")):
        with pytest.raises(WorkOrderError):
            check(shown, None, hash_="")
