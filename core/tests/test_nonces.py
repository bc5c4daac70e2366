"""No key and nonce twice: every encryption of an order and of all its executions is recorded and compared."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from avalon_core.crypto import aead
from avalon_core.crypto.aead import Layout
from avalon_core.crypto.dialects import AVALON, EEA, OrderKeys
from avalon_core.crypto.dialects.hpke import seal_owned_input, seal_owner_key
from avalon_core.crypto.dialects.session import SessionDialect, nonce_reuse
from avalon_core.crypto.orders import Item, OpenedOrder, open_order, seal_result
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.errors import WorkOrderError
from avalon_core.protocol.limits import MAX_ITEM_INDEX
from avalon_core.protocol.orders import InDataItem, OutDataItem, WorkOrderRequest

SETTINGS = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])


@contextmanager
def recorded() -> Iterator[list[tuple[bytes, bytes, bytes]]]:
    """Every (key, nonce, plaintext) that goes through the one place where messages are encrypted."""
    calls: list[tuple[bytes, bytes, bytes]] = []
    real = aead.seal

    def seal(key: bytes, nonce: bytes, plaintext: bytes, layout: Layout = Layout.CIPHERTEXT_TAG) -> bytes:
        calls.append((key, nonce, plaintext))
        return real(key, nonce, plaintext, layout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aead, "seal", seal)
        yield calls


def repeated(calls: list[tuple[bytes, bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    pairs = [(key, nonce) for key, nonce, _ in calls]
    return [pair for pair in set(pairs) if pairs.count(pair) > 1]


INDEX = st.one_of(st.integers(0, 3), st.integers(0, MAX_ITEM_INDEX))
KEYS = st.sampled_from([b"1" * 32, b"2" * 32])
OWNED = st.dictionaries(
    INDEX, st.tuples(KEYS, st.sampled_from([b"a" * 12, b"b" * 12, bytes(12)])), max_size=3
)
TEMPLATES = st.dictionaries(INDEX, KEYS | st.sampled_from(["-", "", "null"]), max_size=3)


@SETTINGS
@given(
    st.dictionaries(INDEX, st.binary(max_size=3), max_size=4),
    OWNED,
    TEMPLATES,
    st.lists(st.dictionaries(INDEX, st.binary(max_size=3), max_size=4), min_size=1, max_size=3),
)
@example({0: b"a", 1: b"a"}, {2: (b"1" * 32, bytes(12))}, {2: b"1" * 32}, [{0: b"x", 2: b"y"}] * 3)
def test_our_suite_never_uses_a_key_and_nonce_twice(world, inputs, owned, templates, executions) -> None:
    owned = {index: pair for index, pair in owned.items() if index not in inputs}
    with recorded() as calls:
        draft = world.draft()
        scope = {"worker": world.public.hpke, "worker_id": draft.worker_id, "workload_id": draft.workload_id}
        items = []
        for index, (key, iv) in owned.items():
            data, wrapped, iv_hex = seal_owned_input(key, iv, b"owned %d" % index, **scope)
            items.append(InDataItem(index=index, data=data, encrypted_data_encryption_key=wrapped, iv=iv_hex))
        sealed = world.seal(
            world.draft(
                inputs=[Item(index=i, data=data) for i, data in inputs.items()],
                owned_inputs=items,
                out_data=[
                    OutDataItem(
                        index=index,
                        encrypted_data_encryption_key=key
                        if isinstance(key, str)
                        else seal_owner_key(key, **scope),
                    )
                    for index, key in templates.items()
                ],
            )
        )
        if len(set(owned.values())) != len(owned):
            with pytest.raises(WorkOrderError, match="same key and iv"):
                world.open(sealed.request)
            return
        opened = world.open(sealed.request)
        for outputs in executions:
            seal_result(
                opened, [Item(index=i, data=data) for i, data in outputs.items()], world.worker_signer
            )
    clear = sum(templates.get(i) == "-" for outputs in executions for i in outputs)
    sealed_outputs = sum(map(len, executions)) - clear
    wrapped_keys = len(owned) + sum(isinstance(key, bytes) for key in templates.values())
    assert len(calls) == len(inputs) + len(owned) + wrapped_keys + 1 + sealed_outputs
    assert repeated(calls) == []


def test_two_orders_of_the_same_words_share_no_key(world) -> None:
    with recorded() as calls:
        for _ in range(3):
            opened = world.open(world.seal(world.draft("a", "b")).request)
            seal_result(opened, opened.inputs, world.worker_signer)
    assert len(calls) == 15
    assert repeated(calls) == []


# --- the old dialects: nonce_reuse must be right about orders that clients make -------------------------------------

IVS = st.sampled_from([None, "0a" * 12, "0A" * 12, "0b" * 12, "0c" * 12])
OLD_KEYS = st.sampled_from([None, "", "null", "-", b"1" * 32, b"2" * 32])
OLD_ITEM = st.tuples(OLD_KEYS, IVS)
OLD_ITEMS = st.dictionaries(st.integers(0, 3), OLD_ITEM, max_size=3)


class Client:
    """An existing client with any habit: ivs of the session's, of items' own, or before each message."""

    def __init__(self, dialect: SessionDialect, session_iv: str | None, wrapping_iv: str | None) -> None:
        self.dialect, self.session_iv, self.wrapping_iv = dialect, session_iv, wrapping_iv
        self.keys: dict[str, bytes] = {}
        self.texts: dict[bytes, str] = {}

    def seal(self, key: bytes, iv: str | None, plaintext: bytes) -> bytes:
        return self.dialect.seal_message(key, bytes.fromhex(iv) if iv else None, plaintext)

    def wrap(self, key: bytes | str | None) -> str | None:
        """One wrapping for each key: a second wrapping of one key looks like another key to who holds none."""
        if not isinstance(key, bytes):
            return key
        if key not in self.texts:
            iv = bytes.fromhex(self.wrapping_iv) if self.wrapping_iv and not self.texts else key[:12]
            inner = hashlib.sha512(key).digest()
            text = (iv + aead.seal(SESSION, iv, inner, self.dialect.layout)).hex()
            self.texts[key] = text
            self.keys[text] = key
        return self.texts[key]

    def item(self, index: int, key: bytes | str | None, iv: str | None) -> InDataItem:
        wrapped = self.wrap(key)
        plain = b"input %d" % index
        if key == "-":
            data = plain
        else:
            data = self.seal(key if isinstance(key, bytes) else SESSION, iv or self.session_iv, plain)
        return InDataItem(index=index, data=encode_base64(data), encrypted_data_encryption_key=wrapped, iv=iv)


SESSION = b"s" * 32


def old_order(
    world, client: Client, inputs: dict[int, Any], templates: dict[int, Any]
) -> tuple[WorkOrderRequest, OpenedOrder]:
    base = world.draft()
    request = WorkOrderRequest(
        response_timeout_msecs=0, payload_format="JSON-RPC", work_order_id=base.work_order_id,
        worker_id="0b", workload_id="0c", requester_id="0d", encrypted_session_key="00", requester_nonce="00",
        encrypted_request_hash="00", session_key_iv=client.session_iv,
        in_data=tuple(client.item(index, *how) for index, how in inputs.items()),
        out_data=tuple(
            OutDataItem(index=index, encrypted_data_encryption_key=client.wrap(key), iv=iv)
            for index, (key, iv) in templates.items()
        ),
    )  # fmt: skip
    sealed = client.seal(SESSION, client.session_iv, client.dialect.request_hash(request))
    request = msgspec.structs.replace(request, encrypted_request_hash=sealed.hex())
    opened = open_order(request, OrderKeys(session=SESSION, own=client.keys))
    assert opened.dialect is client.dialect
    return request, opened


@SETTINGS
@given(
    st.sampled_from([AVALON, EEA]), IVS, IVS, OLD_ITEMS, OLD_ITEMS, st.sets(st.integers(0, 4)), st.booleans()
)
@example(AVALON, "0a" * 12, None, {0: (None, "0b" * 12)}, {0: (None, "0c" * 12)}, {0, 4}, False)
@example(AVALON, None, "0a" * 12, {0: (b"1" * 32, "0b" * 12), 1: (None, "0A" * 12)}, {}, {0}, False)
@example(AVALON, None, None, {0: (b"1" * 32, "0a" * 12)}, {0: (b"1" * 32, "0A" * 12)}, {0}, True)
def test_an_order_that_is_not_judged_legacy_repeats_nothing(
    world, dialect, session_iv, wrapping_iv, inputs, templates, outputs, shouting
) -> None:
    if dialect is EEA:
        session_iv = session_iv or "0d" * 12
        templates = {i: (None if key == "-" else key, iv) for i, (key, iv) in templates.items()}
    with recorded() as calls:
        client = Client(dialect, session_iv, wrapping_iv)
        request, opened = old_order(world, client, inputs, templates)
        if shouting and dialect is EEA:  # the case of hex is not hashed there
            request = msgspec.structs.replace(
                request,
                session_key_iv=session_iv.upper(),
                encrypted_request_hash=request.encrypted_request_hash.upper(),
            )
        judged = nonce_reuse(request)
        results = [Item(index=i, data=b"output %d" % i) for i in outputs]
        if judged is None and session_iv and outputs - set(templates):
            with pytest.raises(WorkOrderError, match="no template"):
                seal_result(opened, results, world.worker_signer)
        else:
            seal_result(opened, results, world.worker_signer)
    if judged is None:
        assert repeated(calls) == []


JUDGED = {
    "a session iv and any output without a template": ("0a" * 12, {0: (None, "0b" * 12)}, {}, True),
    "a session iv and no input at all": ("0a" * 12, {}, {}, True),
    "a session iv that an input uses too": ("0a" * 12, {0: (None, None)}, {0: (None, "0c" * 12)}, True),
    "a session iv that an input names in another case": ("0a" * 12, {0: (None, "0A" * 12)}, {0: (None, "0c" * 12)}, True),
    "a template that falls back on the session iv": ("0a" * 12, {0: (None, "0b" * 12)}, {0: (None, None)}, True),
    "a template with an input's iv": (None, {0: (None, "0b" * 12)}, {0: (None, "0b" * 12)}, True),
    "two inputs of one iv": (None, {0: (None, "0b" * 12), 1: (None, "0b" * 12)}, {}, True),
    "two inputs of one iv and one key of their own": (None, {0: (b"1" * 32, "0b" * 12), 1: (b"1" * 32, "0b" * 12)}, {}, True),
    "two inputs of one iv under two keys": (None, {0: (b"1" * 32, "0b" * 12), 1: (b"2" * 32, "0b" * 12)}, {}, False),
    "a clear input counts for nothing": (None, {0: (None, "0b" * 12), 1: ("-", "0b" * 12)}, {}, False),
    "an iv before every message": (None, {0: (None, None), 1: (None, None)}, {}, False),
    "a session iv for the request hash alone": ("0a" * 12, {0: (None, "0b" * 12)}, {0: (None, "0c" * 12)}, False),
    "every input clear and a template for each": ("0a" * 12, {0: ("-", None)}, {0: (None, "0c" * 12)}, False),
}  # fmt: skip


@pytest.mark.parametrize(("session_iv", "inputs", "templates", "legacy"), JUDGED.values(), ids=JUDGED)
def test_legacy_is_judged(world, session_iv, inputs, templates, legacy: bool) -> None:
    request, _ = old_order(world, Client(AVALON, session_iv, None), inputs, templates)
    assert (nonce_reuse(request) is not None) == legacy


def test_a_legacy_template_says_under_which_iv_its_output_travels(world) -> None:
    client = Client(AVALON, "0a" * 12, None)
    inputs = {0: (None, "0b" * 12), 1: ("-", None)}
    templates = {0: (None, "0c" * 12), 1: ("-", None), 2: (b"1" * 32, "0d" * 12)}
    request, opened = old_order(world, client, inputs, templates)
    assert nonce_reuse(request) is None
    result = seal_result(opened, [Item(index=i, data=b"out %d" % i) for i in range(3)], world.worker_signer)
    by_index = {item.index: item for item in result.out_data}
    assert [by_index[i].iv for i in range(3)] == ["0c" * 12, None, "0d" * 12]
    for index, key in ((0, SESSION), (2, b"1" * 32)):
        message = AVALON.base64_bytes(by_index[index].data)
        assert message
        expected = aead.seal(key, bytes.fromhex(by_index[index].iv or ""), b"out %d" % index)
        assert by_index[index].data == encode_base64(expected)
    assert by_index[1].data == encode_base64(b"out 1")


def test_an_output_that_would_share_the_request_hashs_key_and_iv_is_refused(world) -> None:
    client = Client(AVALON, "0a" * 12, None)
    _, opened = old_order(world, client, {0: (None, "0b" * 12)}, {0: (None, "0c" * 12)})
    with pytest.raises(WorkOrderError, match="output 7, for which the order has no template"):
        seal_result(opened, [Item(index=0, data=b""), Item(index=7, data=b"")], world.worker_signer)
