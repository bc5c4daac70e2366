"""Sealing and opening: what comes out is what went in, and every refusal has its code."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avalon_core.crypto import aead
from avalon_core.crypto.dialects import AVALON, EEA, OrderKeys, WorkerKeys, WorkerPublicKeys
from avalon_core.crypto.dialects.hpke import seal_owned_input, seal_owner_key
from avalon_core.crypto.orders import Item, ResultRefused, SealedOrder, open_result, seal_order, seal_result
from avalon_core.crypto.sealing import HpkePrivateKey
from avalon_core.crypto.signing import SigningKey
from avalon_core.errors import DecryptionFailed, EncodingError, KeyFormatError
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.errors import WorkOrderError
from avalon_core.protocol.limits import MAX_ITEM_INDEX, MAX_ITEMS, MAX_OWN_KEYS
from avalon_core.protocol.orders import InDataItem, OutDataItem, WorkOrderRequest

SUITES = ("~avalon-hpke-1", "avalon", "eea-1.1")
OLD = ("avalon", "eea-1.1")
STRANGER = SigningKey(b"\x09" * 32)


def change(request: WorkOrderRequest, **members: Any) -> WorkOrderRequest:
    return msgspec.structs.replace(request, **members)


def change_item(request: WorkOrderRequest, **members: Any) -> WorkOrderRequest:
    first, *rest = request.in_data
    return change(request, in_data=(msgspec.structs.replace(first, **members), *rest))


def owned(
    world, index: int, *, key: bytes = b"k" * 32, iv: bytes = b"i" * 12, text: bytes = b"owned"
) -> InDataItem:
    """An item of an owner's, for our suite."""
    draft = world.draft()
    data, wrapped, iv_hex = seal_owned_input(
        key, iv, text, worker=world.public.hpke, worker_id=draft.worker_id, workload_id=draft.workload_id
    )
    return InDataItem(index=index, data=data, encrypted_data_encryption_key=wrapped, iv=iv_hex)


def owned_by_rsa(world, index: int, dialect) -> InDataItem:
    """An item of an owner's, for the old dialects."""
    message = aead.seal(b"k" * 32, b"i" * 12, b"owned", dialect.layout)
    wrapped = world.public.rsa.seal(b"k" * 32).hex()
    return InDataItem(
        index=index, data=encode_base64(message), encrypted_data_encryption_key=wrapped, iv=b"i".hex() * 12
    )


ITEMS = st.dictionaries(st.integers(0, MAX_ITEM_INDEX), st.binary(max_size=40), max_size=5)


@given(st.sampled_from(SUITES), ITEMS, ITEMS, st.sets(st.integers(0, 3)), st.booleans(), st.booleans())
def test_what_is_sealed_opens(world, suite, inputs, outputs, clear, signed, shared_iv) -> None:
    draft = world.draft(
        inputs=[Item(index=i, data=data) for i, data in inputs.items()],
        clear=frozenset(clear),
        signer=world.requester if signed else None,
        result_uri="https://example.org/ü",
    )
    sealed = world.seal(draft, suite=suite, shared_iv=shared_iv)
    opened = world.open(sealed.request)
    assert {item.index: item.data for item in opened.inputs} == inputs
    assert [item.index for item in opened.inputs] == sorted(inputs)
    assert (opened.request_hash, opened.dialect) == (sealed.request_hash, sealed.dialect)
    result = seal_result(opened, [Item(index=i, data=d) for i, d in outputs.items()], world.worker_signer)
    got = open_result(sealed, result, world.worker_signer.verification_key)
    assert {item.index: item.data for item in got} == outputs


def test_owned_items_open_in_every_suite_and_templates_hide_outputs_from_the_requester(world) -> None:
    for suite, item in (
        ("~avalon-hpke-1", owned(world, 4)),
        ("avalon", owned_by_rsa(world, 4, AVALON)),
        ("eea-1.1", owned_by_rsa(world, 4, EEA)),
    ):
        wrapped = item.encrypted_data_encryption_key
        template = OutDataItem(index=4, encrypted_data_encryption_key=wrapped)
        draft = world.draft("mine", owned_inputs=[item], out_data=[template])
        sealed = world.seal(draft, suite=suite)
        assert wrapped not in {i.encrypted_data_encryption_key for i in sealed.request.in_data}
        opened = world.open(sealed.request)
        assert [item.data for item in opened.inputs] == [b"mine", b"owned"]
        result = seal_result(opened, opened.inputs, world.worker_signer)
        visible = open_result(sealed, result, world.worker_signer.verification_key)
        assert visible == [Item(index=0, data=b"mine")]
        holder = SealedOrder(
            request=sealed.request, dialect=sealed.dialect, request_hash=sealed.request_hash, keys=opened.keys
        )
        both = open_result(holder, result, world.worker_signer.verification_key)
        assert both == opened.inputs


def test_who_sees_an_order_cannot_put_its_owned_items_into_another(world) -> None:
    """The host sees every order and may submit orders of its own for the same worker and workload."""
    seen = world.seal(world.draft(owned_inputs=[owned(world, 0)])).request
    other = world.seal(world.draft(work_order_id="bad0")).request
    for index in (0, 1):
        item = msgspec.structs.replace(seen.in_data[0], index=index)
        stolen = world.draft(work_order_id="bad0", owned_inputs=[item])
        with refusal(1, "keys do not open"):
            world.open(world.seal(stolen).request)
    with refusal(1, "keys do not open"):
        world.open(change(other, in_data=seen.in_data))


def test_an_owners_consent_is_to_one_worker_and_one_workload(world) -> None:
    for members in ({"workload_id": "ff"}, {"worker_id": "ff"}):
        with refusal(1, "keys do not open"):
            world.open(world.seal(world.draft(owned_inputs=[owned(world, 0)], **members)).request)


@contextlib.contextmanager
def refusal(code: int, words: str):
    with pytest.raises(WorkOrderError) as refused:
        yield
    assert refused.value.code == code, refused.value
    assert words in refused.value.message, refused.value.message
    assert refused.value.__cause__ is None


Case = Callable[[Any], Any]

# Each: the code, words of the message, and how the order came to be. Opened with no registered key.
OURS: dict[str, tuple[int, str, Case]] = {
    "a session iv": (2, "sessionKeyIv", lambda w: change(w.seal(w.draft("a")).request, session_key_iv="00" * 12)),
    "an empty session iv": (2, "sessionKeyIv", lambda w: change(w.seal(w.draft("a")).request, session_key_iv="")),
    "an empty signature": (
        2, "leave it out", lambda w: change(w.seal(w.draft("a")).request, requester_signature="")),
    "a key without its signature": (
        2, "both or neither",
        lambda w: change(w.seal(w.draft("a", signer=w.requester)).request, requester_signature=None)),
    "a signature without its key": (
        2, "both or neither",
        lambda w: change(w.seal(w.draft("a", signer=w.requester)).request, verifying_key=None)),
    "an item's iv without a key of its own": (
        2, "iv belongs to", lambda w: change_item(w.seal(w.draft("a")).request, iv="00" * 12)),
    "a clear item's iv": (
        2, "iv belongs to",
        lambda w: change_item(w.seal(w.draft("a", clear=frozenset({0}))).request, iv="00" * 12)),
    "an owned item without iv": (
        2, "needs an iv", lambda w: change_item(w.seal(w.draft(owned_inputs=[owned(w, 0)])).request, iv=None)),
    "one key and iv for two owned items": (
        2, "same key and iv", lambda w: w.seal(w.draft(owned_inputs=[owned(w, 0), owned(w, 1)])).request),
    "one key in one wrapping, and one iv": (
        2, "same key and iv",
        lambda w: w.seal(
            w.draft(owned_inputs=[item := owned(w, 0), msgspec.structs.replace(item, index=1)])).request),
    "a template's iv": (
        2, "outData: iv", lambda w: w.seal(w.draft("a", out_data=[OutDataItem(index=0, iv="00" * 12)])).request),
    "another key's id": (
        2, "retrieve the worker's record again",
        lambda w: change(w.seal(w.draft("a")).request, worker_encryption_key="00" * 32)),
    "no key's id where there was one": (
        1, "keys do not open", lambda w: change(w.seal(w.draft("a")).request, worker_encryption_key=None)),
    "an order sealed to another worker's key": (
        1, "keys do not open",
        lambda w: change(
            seal_order(
                w.draft("a"),
                WorkerPublicKeys(rsa=w.public.rsa, hpke=HpkePrivateKey(b"x" * 96).public_key)).request,
            worker_encryption_key=w.public.hpke.key_id)),
    "a session key in upper case": (
        1, "keys do not open",
        lambda w: change(
            r := w.seal(w.draft("a")).request, encrypted_session_key=r.encrypted_session_key.upper())),
    "a request hash in upper case": (
        1, "does not open in any dialect",
        lambda w: change(
            r := w.seal(w.draft("a")).request, encrypted_request_hash=r.encrypted_request_hash.upper())),
    "another order's request hash": (
        1, "does not open in any dialect",
        lambda w: change(
            w.seal(w.draft("a")).request,
            encrypted_request_hash=w.seal(w.draft("a")).request.encrypted_request_hash)),
    "another order's item": (
        1, "does not match the request",
        lambda w: change(w.seal(w.draft("a")).request, in_data=w.seal(w.draft("a")).request.in_data)),
    "an owner's key that is not the worker's to open": (
        1, "keys do not open",
        lambda w: w.seal(w.draft(owned_inputs=[
            msgspec.structs.replace(owned(w, 0), encrypted_data_encryption_key="00" * 1168)])).request),
    "an owner's key of 31 bytes": (
        1, "32 bytes",
        lambda w: w.seal(w.draft("a", out_data=[OutDataItem(index=0, encrypted_data_encryption_key=seal_owner_key(
            b"k" * 31, worker=w.public.hpke, worker_id=w.draft().worker_id,
            workload_id=w.draft().workload_id))])).request),
    "an order secret of 31 bytes": (
        1, "32 bytes", lambda w: w.seal(w.draft("a"), random=lambda count: bytes(count - 1)).request),
    "an owned item whose data is another's": (
        1, "item 0 does not open",
        lambda w: w.seal(w.draft(owned_inputs=[
            msgspec.structs.replace(owned(w, 0), data=owned(w, 0, key=b"q" * 32).data)])).request),
    "an owned item whose data is not base64": (
        2, "not base64",
        lambda w: w.seal(w.draft(owned_inputs=[msgspec.structs.replace(owned(w, 0), data="*")])).request),
    "an owned item whose data has stray bits": (
        2, "trailing bits",
        lambda w: w.seal(w.draft(owned_inputs=[msgspec.structs.replace(owned(w, 0), data="QR==")])).request),
    "a clear item that is not base64": (
        2, "not base64",
        lambda w: w.seal(w.draft(owned_inputs=[
            InDataItem(index=0, data="*", encrypted_data_encryption_key="-")])).request),
    "a clear item with stray bits": (
        2, "trailing bits",
        lambda w: w.seal(w.draft(owned_inputs=[
            InDataItem(index=0, data="QR==", encrypted_data_encryption_key="-")])).request),
    "an item shorter than its tag": (
        1, "does not open",
        lambda w: w.seal(w.draft(owned_inputs=[InDataItem(index=0, data="QUFB")])).request),
    "a data hash that is not the data's": (
        1, "dataHash does not match",
        lambda w: w.seal(w.draft(owned_inputs=[
            InDataItem(index=0, data="QUFB", encrypted_data_encryption_key="-", data_hash="00" * 32)])).request),
    "a signature by another key": (
        4, "requesterSignature", lambda w: resigned(w, "~avalon-hpke-1", STRANGER)),
    "a high S": (4, "requesterSignature", lambda w: with_high_s(w, "~avalon-hpke-1")),
    "a verifying key that is none": (
        4, "public key", lambda w: unreadable_key(w, "not a key")),
}  # fmt: skip


def resigned(world, suite: str, signer: SigningKey) -> WorkOrderRequest:
    sealed = world.seal(world.draft("a", signer=world.requester), suite=suite)
    return change(sealed.request, requester_signature=encode_base64(signer.sign(sealed.request_hash)))


def with_high_s(world, suite: str) -> WorkOrderRequest:
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

    from avalon_core.crypto.signing import _ORDER

    sealed = world.seal(world.draft("a", signer=world.requester), suite=suite)
    r, s = decode_dss_signature(world.requester.sign(sealed.request_hash))
    return change(sealed.request, requester_signature=encode_base64(encode_dss_signature(r, _ORDER - s)))


class UnreadableSigner:
    """Signs like a requester, and names a key that cannot be read."""

    def __init__(self, signer: SigningKey, pem: str) -> None:
        self.verification_key = msgspec.defstruct("Key", [("pem", str)])(pem)
        self.sign = signer.sign


def unreadable_key(world, pem: str) -> WorkOrderRequest:
    return world.seal(world.draft("a", signer=UnreadableSigner(world.requester, pem))).request


@pytest.mark.parametrize(("code", "words", "make"), OURS.values(), ids=OURS)
def test_our_suite_refuses(world, code: int, words: str, make: Case) -> None:
    request = make(world)
    with refusal(code, words):
        world.open(request)


def rsa_of(world, secret: bytes) -> str:
    return world.public.rsa.seal(secret).hex()


def old(suite: str, **members: Any) -> Case:
    return lambda w: change(w.seal(w.draft("a", "b"), suite=suite).request, **members)


def swap_layout(world, suite: str) -> WorkOrderRequest:
    """The tag of the request hash moved to where the other dialect has it."""
    request = world.seal(world.draft("a"), suite=suite, shared_iv=True).request
    message = bytes.fromhex(request.encrypted_request_hash)
    moved = message[-16:] + message[:-16] if suite == "avalon" else message[16:] + message[:16]
    return change(request, encrypted_request_hash=moved.hex())


def eea_without_iv(world) -> WorkOrderRequest:
    """What a client makes that takes the specification by the letter: an iv of zeros."""
    sealed = world.seal(world.draft(), suite="eea-1.1")
    message = aead.seal(sealed.keys.session, bytes(12), sealed.request_hash, EEA.layout)
    return change(sealed.request, session_key_iv=None, encrypted_request_hash=message.hex())


THEIRS: dict[str, tuple[int, str, Case]] = {
    f"{name} ({suite})": (code, words, make)
    for suite in OLD
    for name, (code, words, make) in {
        "a session key of 31 bytes": (
            1, "32 bytes",
            lambda w, s=suite: change(
                w.seal(w.draft("a"), suite=s).request, encrypted_session_key=rsa_of(w, b"k" * 31))),
        "a session key of 33 bytes": (
            1, "32 bytes",
            lambda w, s=suite: change(
                w.seal(w.draft("a"), suite=s).request, encrypted_session_key=rsa_of(w, b"k" * 33))),
        "a session key that RSA does not open": (1, "keys do not open", old(suite, encrypted_session_key="00" * 384)),
        "a session key of another length": (1, "keys do not open", old(suite, encrypted_session_key="00")),
        "another session key": (
            1, "does not open in any dialect",
            lambda w, s=suite: change(
                w.seal(w.draft("a"), suite=s).request, encrypted_session_key=rsa_of(w, b"k" * 32))),
        "a request hash shorter than its tag": (1, "does not open in any dialect", old(suite, encrypted_request_hash="00")),
        "a changed workload": (1, "does not match the request", old(suite, workload_id="ff")),
        "a changed nonce": (1, "does not match the request", old(suite, requester_nonce="ff")),
        "a template added": (1, "does not match the request", old(suite, out_data=(OutDataItem(index=0, iv="00" * 12),))),
        "the layout of the other dialect": (1, "does not match the request", lambda w, s=suite: swap_layout(w, s)),
        "a signature by another key": (4, "requesterSignature", lambda w, s=suite: resigned(w, s, STRANGER)),
        "a signature without a key": (
            4, "public key", lambda w, s=suite: change(resigned(w, s, w.requester), verifying_key=None)),
        "a key on a curve that no library knows": (
            4, "public key",
            lambda w, s=suite: change(resigned(w, s, w.requester), verifying_key=(
                "-----BEGIN PUBLIC KEY-----\nMBMwDgYHKoZIzj0CAQYDKwF6AwEA\n-----END PUBLIC KEY-----\n"))),
        "a signature that is not DER": (
            4, "DER", lambda w, s=suite: change(resigned(w, s, w.requester), requester_signature="QUFB")),
        "a signature whose s is above the order": (
            4, "out of range",
            lambda w, s=suite: change(
                resigned(w, s, w.requester),
                requester_signature=encode_base64(bytes.fromhex("3026020101022100" + "ff" * 32)))),
        "a data hash that is not the data's": (
            1, "dataHash does not match",
            lambda w, s=suite: w.seal(w.draft(owned_inputs=[InDataItem(
                index=0, data="QUFB", encrypted_data_encryption_key="-", data_hash="00" * 32)]), suite=s).request),
        "an item shorter than its tag": (
            1, "item 0 does not open",
            lambda w, s=suite: w.seal(w.draft(owned_inputs=[InDataItem(index=0, data="QUFB")]), suite=s).request),
        "an owner's key of 31 bytes": (
            1, "keys do not open",
            lambda w, s=suite: w.seal(w.draft(owned_inputs=[InDataItem(
                index=0, data="QUFB", encrypted_data_encryption_key=rsa_of(w, b"k" * 31))]), suite=s).request),
        "an owner's key without the session's layer": (
            1, "keys do not open",
            lambda w, s=suite: change_item(
                w.seal(w.draft("a"), suite=s).request, encrypted_data_encryption_key=rsa_of(w, b"k" * 32))),
    }.items()
} | {
    "eea-1.1 without a session iv, as the specification would have it": (2, "sessionKeyIv", eea_without_iv),
    "a template of eea-1.1 that asks for clear text, a mark that nothing protects there": (
        2, "not protected",
        lambda w: w.seal(
            w.draft("a", out_data=[OutDataItem(index=0, encrypted_data_encryption_key="-")]), suite="eea-1.1").request),
    "a nonce of odd length, which eea-1.1 cannot hash": (2, "not hex", old("eea-1.1", requester_nonce="fff")),
    "an id of odd length, which eea-1.1 cannot hash": (2, "not hex", old("eea-1.1", requester_id="fff")),
}  # fmt: skip


@pytest.mark.parametrize(("code", "words", "make"), THEIRS.values(), ids=THEIRS)
def test_the_old_dialects_refuse(world, code: int, words: str, make: Case) -> None:
    request = make(world)
    with refusal(code, words):
        world.open(request)


def test_high_s_is_accepted_from_existing_clients(world) -> None:
    for suite in OLD:
        assert world.open(with_high_s(world, suite))


@pytest.mark.parametrize("suite", SUITES)
def test_the_registered_key_decides_and_not_the_one_that_came_along(world, suite: str) -> None:
    request = world.seal(world.draft("a", signer=world.requester), suite=suite).request
    assert world.open(request, registered=world.requester.verification_key)
    with refusal(4, "requesterSignature"):
        world.open(request, registered=STRANGER.verification_key)


@pytest.mark.parametrize("suite", SUITES)
def test_an_unsigned_order_of_a_registered_requester_is_refused(world, suite: str) -> None:
    request = world.seal(world.draft("a"), suite=suite).request
    with refusal(4, "must be signed"):
        world.open(request, registered=world.requester.verification_key)


@pytest.mark.parametrize("suite", SUITES)
def test_a_clear_item_does_not_make_later_items_clear(world, suite: str) -> None:
    draft = world.draft("public", "secret", "public too", clear=frozenset({0, 2}))
    request = world.seal(draft, suite=suite).request
    marks = [item.is_clear for item in request.in_data]
    assert marks == [True, False, True]
    assert encode_base64(b"secret") != request.in_data[1].data
    assert [item.data for item in world.open(request).inputs] == [b"public", b"secret", b"public too"]


@pytest.mark.parametrize("mark", ["", None, "null"])
def test_nobody_on_the_way_can_have_an_output_of_eea_travel_in_clear(world, mark: str | None) -> None:
    template = OutDataItem(index=0, encrypted_data_encryption_key=mark, iv="0a" * 12)
    request = world.seal(world.draft("a", out_data=[template]), suite="eea-1.1").request
    assert world.open(request)
    clear = msgspec.structs.replace(template, encrypted_data_encryption_key="-")
    with refusal(2, "not protected"):
        world.open(change(request, out_data=(clear,)))


@pytest.mark.parametrize("suite", SUITES)
def test_a_draft_with_an_index_twice_is_not_sealed(world, suite: str) -> None:
    with pytest.raises(ValueError, match="same index"):
        world.seal(world.draft(inputs=[Item(index=1, data=b"a"), Item(index=1, data=b"b")]), suite=suite)


def test_sealing_says_what_it_lacks(world) -> None:
    with pytest.raises(ValueError, match="no such suite"):
        world.seal(world.draft("a"), suite="other")
    with pytest.raises(KeyFormatError, match="offers no key"):
        seal_order(world.draft("a"), WorkerPublicKeys(rsa=world.public.rsa))
    for suite in SUITES:
        item = InDataItem(index=0, data="", encrypted_data_encryption_key="XY", iv="00" * 12)
        with pytest.raises(EncodingError):
            world.seal(world.draft(owned_inputs=[item]), suite=suite)


BAD_OUTPUTS = {
    "two outputs of one index": [Item(index=1, data=b"a"), Item(index=1, data=b"b")],
    "a negative index": [Item(index=-1, data=b"")],
    "an index beyond 31 bits": [Item(index=2**31, data=b"")],
    "too many outputs": [Item(index=i, data=b"") for i in range(MAX_ITEMS + 1)],
}


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("outputs", BAD_OUTPUTS.values(), ids=BAD_OUTPUTS)
def test_outputs_that_cannot_be_sealed_fail_the_order(world, suite: str, outputs: list[Item]) -> None:
    opened = world.open(world.seal(world.draft("a"), suite=suite).request)
    with refusal(1, "output"):
        seal_result(opened, outputs, world.worker_signer)


def refused_result(sealed: SealedOrder, result: Any, world, words: str) -> None:
    with pytest.raises(ResultRefused, match=words):
        open_result(sealed, result, world.worker_signer.verification_key)


@pytest.mark.parametrize("suite", SUITES)
def test_results_are_refused_that_are_not_this_orders(world, suite: str) -> None:
    sealed = world.seal(world.draft("a", "b"), suite=suite)
    opened = world.open(sealed.request)
    result = seal_result(opened, opened.inputs, world.worker_signer)
    replace = msgspec.structs.replace
    for member in ("work_order_id", "worker_id", "workload_id", "requester_id"):
        refused_result(sealed, replace(result, **{member: "ff"}), world, "another order")
    refused_result(sealed, replace(result, out_data=result.out_data * 2), world, "two outputs of one index")
    refused_result(sealed, replace(result, out_data=result.out_data[:1]), world, "signature does not verify")
    refused_result(sealed, replace(result, worker_signature=""), world, "signature does not verify")
    refused_result(sealed, seal_result(opened, opened.inputs, STRANGER), world, "signature does not verify")
    if suite == "~avalon-hpke-1":
        other = world.seal(world.draft("a", "b"), suite=suite)
        stale = seal_result(world.open(other.request), opened.inputs, world.worker_signer)
        refused_result(sealed, stale, world, "signature does not verify")


@pytest.mark.parametrize("suite", SUITES)
def test_an_output_must_travel_as_the_order_asked(world, suite: str) -> None:
    """The worker's signature does not always say how an output travels: an eavesdropper's marks must not count."""
    sealed = world.seal(world.draft("a"), suite=suite)
    opened = world.open(sealed.request)
    result = seal_result(opened, opened.inputs, world.worker_signer)
    for mark in ("-", "00ff"):
        item = msgspec.structs.replace(result.out_data[0], encrypted_data_encryption_key=mark)
        words = "the order asked for" if suite == "eea-1.1" else "signature does not verify"
        refused_result(sealed, msgspec.structs.replace(result, out_data=(item,)), world, words)


@pytest.mark.parametrize("suite", SUITES)
def test_a_pools_one_time_key_counts_only_with_its_voucher_for_this_order(world, suite: str) -> None:
    sealed = world.seal(world.draft("a"), suite=suite)
    opened = world.open(sealed.request)
    good = world.voucher(sealed.request)
    result = seal_result(opened, opened.inputs, world.one_time, voucher=good)
    assert open_result(sealed, result, world.worker_signer.verification_key) == opened.inputs
    elsewhere = world.voucher(world.seal(world.draft("a", requester_nonce="11"), suite=suite).request)
    replace = msgspec.structs.replace
    for broken in (
        replace(result, ext_verification_key=None),
        replace(result, ext_verification_key=None, ext_verification_key_signature=None),
        replace(result, ext_verification_key_signature=None),
        replace(result, ext_verification_key_signature=""),
        replace(result, ext_verification_key=""),
        replace(result, ext_verification_key=STRANGER.verification_key.pem),
        seal_result(opened, opened.inputs, world.one_time, voucher=elsewhere),
        seal_result(opened, opened.inputs, world.worker_signer, voucher=good),
    ):
        refused_result(sealed, broken, world, "signature does not verify")


def test_no_object_shows_its_secrets(world) -> None:
    sealed = world.seal(world.draft("plain words", signer=world.requester))
    opened = world.open(sealed.request)
    shown = " ".join(
        map(repr, (sealed.keys, opened, opened.inputs, world.worker, world.draft("plain words")))
    )
    assert "plain words" not in shown
    assert repr(sealed.keys.session) not in shown
    assert sealed.keys.session.hex() not in shown


def test_the_worker_opens_only_with_its_own_keys(world) -> None:
    other = WorkerKeys(rsa=world.worker.rsa, hpke=HpkePrivateKey(b"y" * 96))
    request = change(world.seal(world.draft("a")).request)
    with refusal(2, "does not have"):
        type(world)(other, world.worker_signer, world.requester, world.one_time, {}).open(request)


@pytest.mark.parametrize("layout", list(aead.Layout))
@given(st.binary(max_size=50), st.integers(0, 10_000))
def test_both_layouts_open_what_they_seal_and_notice_every_bit(layout, data: bytes, at: int) -> None:
    key, nonce = b"k" * 32, b"n" * 12
    message = bytearray(aead.seal(key, nonce, data, layout))
    assert aead.open_(key, nonce, bytes(message), layout) == data
    message[at % len(message)] ^= 1 << at % 8
    for broken in (bytes(message), bytes(message[:-1]), b""):
        with pytest.raises(DecryptionFailed):
            aead.open_(key, nonce, broken, layout)


def test_json_of_an_order_holds_no_plaintext(world) -> None:
    for suite in SUITES:
        request = world.seal(world.draft("plain words"), suite=suite).request
        text = json.dumps(msgspec.to_builtins(request))
        assert encode_base64(b"plain words")[:12] not in text
        assert b"plain words".hex() not in text.lower()


def test_keys_for_another_order_do_not_open_this_one(world) -> None:
    from avalon_core.crypto.orders import open_order

    request = world.seal(world.draft("a")).request
    with refusal(1, "does not open in any dialect"):
        open_order(request, OrderKeys(session=b"z" * 32))


def test_more_own_keys_than_the_cap_are_refused_before_any_is_opened(world) -> None:
    """Each would cost the enclave a private-key operation."""
    items = tuple(
        InDataItem(index=index, data="", encrypted_data_encryption_key=f"{index:04x}", iv="00" * 12)
        for index in range(MAX_OWN_KEYS + 1)
    )
    request = change(world.seal(world.draft("a"), suite="avalon").request, in_data=items)
    with pytest.raises(WorkOrderError, match=f"at most {MAX_OWN_KEYS}") as refused:
        world.open(request)
    assert refused.value.code == 2
