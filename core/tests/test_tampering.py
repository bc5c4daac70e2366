"""Change one character anywhere: our suite refuses, the old dialects refuse but for what they do not cover."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avalon_core.crypto import aead
from avalon_core.crypto.dialects import DIALECTS, OrderKeys
from avalon_core.crypto.dialects.hpke import seal_owned_input, seal_owner_key
from avalon_core.crypto.orders import Item, ResultRefused, SealedOrder, open_order, open_result, seal_result
from avalon_core.errors import AvalonError
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.errors import WorkOrderError
from avalon_core.protocol.orders import (
    InDataItem,
    OutDataItem,
    decode_request,
    decode_result,
    encode_request,
    encode_result,
)


def full_order(world, suite: str = "~avalon-hpke-1") -> SealedOrder:
    """A signature, an owner's item, a clear item, an encrypted item, and a template under an owner's key."""
    draft = world.draft()
    if suite == "~avalon-hpke-1":
        scope = {"worker": world.public.hpke, "worker_id": draft.worker_id, "workload_id": draft.workload_id}
        data, wrapped, iv = seal_owned_input(b"k" * 32, b"i" * 12, b"owned", **scope)
        reader = seal_owner_key(b"r" * 32, **scope)
    else:
        message = aead.seal(b"k" * 32, b"i" * 12, b"owned", DIALECTS[suite].layout)
        data, wrapped, iv = encode_base64(message), world.public.rsa.seal(b"k" * 32).hex(), b"i".hex() * 12
        reader = world.public.rsa.seal(b"r" * 32).hex()
    return world.seal(
        world.draft(
            "clear", "hidden",
            clear=frozenset({0}),
            owned_inputs=[
                InDataItem(index=2, data=data, encrypted_data_encryption_key=wrapped, iv=iv),
                InDataItem(
                    index=4, data="QUFB", encrypted_data_encryption_key="-",
                    data_hash="cb1ad2119d8fafb69566510ee712661f9f14b83385006ef92aec47f523a38358",
                ),
            ],
            out_data=[OutDataItem(index=3, encrypted_data_encryption_key=reader, iv=None)],
            response_timeout_msecs=5,
            result_uri="https://a.example/r",
            notify_uri="https://a.example/n",
            signer=world.requester,
        ),
        suite=suite,
    )  # fmt: skip


def tried(
    mutations: Callable[[Any], Any], whole: bytes, attempt: Callable[[bytes], Any]
) -> Iterator[tuple[str, Any]]:
    """Every mutation that was accepted, with what came out; the number tried is checked by the caller."""
    for where, mutant in mutations(json.loads(whole)):
        try:
            outcome = attempt(json.dumps(mutant, ensure_ascii=False).encode())
        except AvalonError:
            continue
        yield where, outcome


def test_any_change_to_an_order_of_our_suite_is_refused(world, mutations) -> None:
    """Exhaustive: every position of every text, every number, every member and item removed or repeated."""
    whole = encode_request(full_order(world).request)
    assert [item.data for item in world.open(decode_request(whole)).inputs] == [
        b"clear",
        b"hidden",
        b"owned",
        b"AAA",
    ]
    assert len(mutations(json.loads(whole))) > 10_000
    accepted = list(tried(mutations, whole, lambda body: world.open(decode_request(body))))
    assert accepted == []


def test_any_change_to_a_result_of_our_suite_is_refused(world, mutations) -> None:
    sealed = full_order(world)
    opened = world.open(sealed.request)
    outputs = [Item(index=3, data=b"theirs"), Item(index=1, data=b"mine")]
    for signer, voucher in ((world.worker_signer, None), (world.one_time, world.voucher(sealed.request))):
        whole = encode_result(seal_result(opened, outputs, signer, voucher=voucher))

        def attempt(body: bytes) -> Any:
            return open_result(sealed, decode_result(body), world.worker_signer.verification_key)

        assert attempt(whole) == [Item(index=1, data=b"mine")]
        assert list(tried(mutations, whole, attempt)) == []


def test_members_added_to_an_order_of_our_suite_are_refused(world) -> None:
    order = json.loads(encode_request(world.seal(world.draft("a")).request))
    world.open(decode_request(json.dumps(order).encode()))
    additions = {
        "resultUri": "", "notifyUri": "https://evil.example", "sessionKeyIv": "", "requesterSignature": "",
        "verifyingKey": "", "outData": [{"index": 0, "encryptedDataEncryptionKey": "-"}], "other": 1,
    }  # fmt: skip
    for name, value in additions.items():
        with pytest.raises(WorkOrderError):
            world.open(decode_request(json.dumps(order | {name: value}).encode()))
    for name in ("dataHash", "iv", "encryptedDataEncryptionKey"):
        item = order["inData"][0] | {name: ""}
        with pytest.raises(WorkOrderError):
            world.open(decode_request(json.dumps(order | {"inData": [item]}).encode()))


def test_a_signature_cannot_be_dropped_or_replaced_by_another_requester(world) -> None:
    order = json.loads(encode_request(world.seal(world.draft("a", signer=world.requester)).request))
    without = {name: order[name] for name in order if name not in ("requesterSignature", "verifyingKey")}
    opened = world.open(decode_request(json.dumps(order).encode()))
    other = world.worker_signer
    replaced = order | {
        "verifyingKey": other.verification_key.pem,
        "requesterSignature": encode_base64(other.sign(opened.request_hash)),
    }
    for tampered in (without, replaced):
        with pytest.raises(WorkOrderError):
            world.open(decode_request(json.dumps(tampered).encode()))


def test_what_is_the_same_order_stays_the_same(world) -> None:
    """Facts of JSON and of the protocol, stated: null is absent, and items count by index and not by place."""
    sealed = full_order(world)
    order = json.loads(encode_request(sealed.request))
    order["inData"].reverse()
    order["sessionKeyIv"] = None
    opened = world.open(decode_request(json.dumps(order).encode()))
    assert opened.request_hash == sealed.request_hash
    assert [item.index for item in opened.inputs] == [0, 1, 2, 4]


SMALL = st.dictionaries(st.integers(0, 20), st.binary(max_size=12), min_size=1, max_size=3)


@given(SMALL, st.sets(st.integers(0, 20)), st.booleans(), st.integers(0))
def test_a_change_anywhere_in_any_order_and_result_is_refused(
    world, mutations, inputs: dict[int, bytes], clear: set[int], signed: bool, at: int
) -> None:
    sealed = world.seal(
        world.draft(
            inputs=[Item(index=i, data=data) for i, data in inputs.items()],
            clear=frozenset(clear),
            signer=world.requester if signed else None,
            out_data=[OutDataItem(index=i, encrypted_data_encryption_key="-") for i in clear],
        )
    )
    opened = world.open(sealed.request)
    result = seal_result(opened, opened.inputs, world.worker_signer)
    assert open_result(sealed, result, world.worker_signer.verification_key) == opened.inputs
    changes = mutations(json.loads(encode_request(sealed.request)))
    _, mutant = changes[at % len(changes)]
    with pytest.raises(WorkOrderError):
        world.open(decode_request(json.dumps(mutant).encode()))
    changes = mutations(json.loads(encode_result(result)))
    _, mutant = changes[at % len(changes)]
    with pytest.raises((WorkOrderError, ResultRefused)):
        open_result(sealed, decode_result(json.dumps(mutant).encode()), world.worker_signer.verification_key)


# --- the old dialects: what they do not cover, as facts ----------------------------------------------------------

UNCOVERED = {
    "responseTimeoutMSecs, resultUri and notifyUri: where and when the answer goes is nobody's word": (
        r"\$\.(responseTimeoutMSecs|resultUri|notifyUri)\b"),
    "payloadFormat: its case": r"\$\.payloadFormat\[",
    "workerEncryptionKey and dataEncryptionAlgorithm: a hint and a constant": (
        r"\$\.(workerEncryptionKey|dataEncryptionAlgorithm)\b"),
    "requesterSignature: it can be dropped, and its base64 has stray bits": r"\$\.requesterSignature (removed|empty)$|\$\.requesterSignature\[",
    "sessionKeyIv, encryptedSessionKey and encryptedRequestHash: the case of their hex": (
        r"\$\.(sessionKeyIv|encryptedSessionKey|encryptedRequestHash)\["),
    "verifyingKey: one key has many spellings in PEM, and none is needed where the signature is dropped": r"\$\.verifyingKey",
    "index: items are hashed in its order, the number itself is not": r"\$\.inData\[\d+\]\.index$|\$\.outData\[\d+\]\.index$",
}  # fmt: skip
UNCOVERED_EEA = {
    "the case of all hex, and its 0x": (
        r"\$\.(workOrderId|workerId|workloadId|requesterId|requesterNonce)(\[| longer)|"
        r"\$\.(in|out)Data\[\d+\]\.(dataHash|iv|encryptedDataEncryptionKey)\["),
    "the spelling of base64": r"\$\.inData\[\d+\]\.data\[",
    "the marks - and null: which items are clear": r"\$\.inData\[\d+\]\.encryptedDataEncryptionKey",
}  # fmt: skip


def fold(where: str, named: dict[str, str]) -> str:
    """The fact that explains why a change was accepted, or the change itself."""
    return next((fact for fact, pattern in named.items() if re.match(pattern, where)), where)


@pytest.mark.parametrize("shared_iv", [False, True])
@pytest.mark.parametrize("suite", ["avalon", "eea-1.1"])
def test_an_old_dialect_refuses_every_change_to_what_it_covers(
    world, mutations, suite: str, shared_iv: bool
) -> None:
    """Unsigned, since a signature covers nothing more; session keys are opened once, RSA being another test's."""
    named = UNCOVERED | (UNCOVERED_EEA if suite == "eea-1.1" else {})
    sealed = world.seal(
        world.draft(
            "clear", "hidden", clear=frozenset({0}), signer=world.requester,
            owned_inputs=[InDataItem(
                index=4, data="QUFB", encrypted_data_encryption_key="-",
                data_hash="cb1ad2119d8fafb69566510ee712661f9f14b83385006ef92aec47f523a38358")],
            out_data=[OutDataItem(index=1, iv="0a" * 12)],
            response_timeout_msecs=5, result_uri="a:b", notify_uri="a:c",
        ),
        suite=suite, shared_iv=shared_iv,
    )  # fmt: skip
    keys = OrderKeys(session=sealed.keys.session)
    whole = encode_request(sealed.request)

    def attempt(body: bytes) -> list[bytes]:
        return [item.data for item in open_order(decode_request(body), keys).inputs]

    genuine = attempt(whole)
    accepted = dict(tried(mutations, whole, attempt))
    # The session key is given here, so its member is not looked at.
    accepted = {w: o for w, o in accepted.items() if not w.startswith("$.encryptedSessionKey")}
    facts = {fold(where, named) for where in accepted}
    assert facts <= set(named), sorted(facts - set(named))
    assert any(where == "$.requesterSignature removed" for where in accepted)
    changed = {where for where, outcome in accepted.items() if outcome != genuine}
    marks = {w for w in changed if not re.match(r"\$\.inData\[\d+\]\.encryptedDataEncryptionKey", w)}
    assert not marks, "a change that is accepted must not change what is computed, but for eea-1.1's marks"


def test_the_marks_of_eea_are_not_covered_so_ciphertext_can_be_passed_off_as_plaintext(world) -> None:
    request = world.seal(world.draft("hidden"), suite="eea-1.1").request
    item = msgspec.structs.replace(request.in_data[0], encrypted_data_encryption_key="-")
    opened = world.open(msgspec.structs.replace(request, in_data=(item,)))
    assert opened.inputs[0].data != b"hidden"


def test_members_of_an_avalon_item_run_into_each_other(world) -> None:
    """A data hash is 64 characters of base64 too: it can be read as the beginning of a clear item's data."""
    draft = world.draft(owned_inputs=[InDataItem(
        index=0, data="QUFB", encrypted_data_encryption_key="-",
        data_hash="cb1ad2119d8fafb69566510ee712661f9f14b83385006ef92aec47f523a38358")])  # fmt: skip
    request = world.seal(draft, suite="avalon").request
    (item,) = request.in_data
    shifted = msgspec.structs.replace(item, data_hash=None, data=(item.data_hash or "") + item.data)
    opened = world.open(msgspec.structs.replace(request, in_data=(shifted,)))
    assert opened.inputs[0].data != b"AAA"


RESULT_UNCOVERED = {
    "index: the order of outputs counts, not the number": r"\$\.outData\[\d+\]\.index$",
    "workerSignature: its base64 has stray bits": r"\$\.workerSignature\[",
    "extVerificationKeySignature: likewise": r"\$\.extVerificationKeySignature\[",
    "iv: empty and absent are one": r"\$\.outData\[\d+\]\.iv removed$",
}
RESULT_UNCOVERED_EEA = {
    "the spelling of base64": r"\$\.(workerNonce\[|outData\[\d+\]\.data\[)",
    "marks and the case of hex: an output's key and iv are not hashed": (
        r"\$\.outData\[\d+\]\.(encryptedDataEncryptionKey|iv)"),
}  # fmt: skip


@pytest.mark.parametrize("suite", ["avalon", "eea-1.1"])
def test_an_old_dialect_refuses_every_change_to_what_its_result_covers(world, mutations, suite: str) -> None:
    named = RESULT_UNCOVERED | (RESULT_UNCOVERED_EEA if suite == "eea-1.1" else {})
    sealed = world.seal(world.draft("a", "b"), suite=suite)
    opened = world.open(sealed.request)
    for signer, voucher in ((world.worker_signer, None), (world.one_time, world.voucher(sealed.request))):
        whole = encode_result(seal_result(opened, opened.inputs, signer, voucher=voucher))

        def attempt(body: bytes) -> list[bytes]:
            outputs = open_result(sealed, decode_result(body), world.worker_signer.verification_key)
            return [output.data for output in outputs]

        genuine = attempt(whole)
        accepted = dict(tried(mutations, whole, attempt))
        facts = {fold(where, named) for where in accepted}
        assert facts <= set(named), sorted(facts - set(named))
        # Swapping two outputs' numbers swaps their places, which the hash does notice.
        assert {where for where, outcome in accepted.items() if outcome != genuine} == set()
