"""The envelope never raises, whatever arrives, and every fault can be answered."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from avalon_core.protocol.errors import GeneralError, RpcCode, RpcError, WireError, WorkOrderError, wire_error
from avalon_core.protocol.jsonrpc import (
    MAX_ID_CHARS,
    BadCall,
    Call,
    Envelope,
    decode_answer,
    decode_envelope,
    encode_batch,
    encode_call,
    encode_error,
    encode_success,
)
from avalon_core.protocol.limits import MAX_BATCH_CALLS

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
NEARLY_A_CALL = st.dictionaries(
    st.sampled_from(["jsonrpc", "method", "params", "id", "x"]), st.just("2.0") | JSON, max_size=5
)


def check_answerable(envelope: Envelope) -> None:
    """Every call has an id that can be echoed, every fault a standard code, and a batch no more than its cap."""
    assert 1 <= len(envelope.calls) <= MAX_BATCH_CALLS
    assert envelope.is_batch or len(envelope.calls) == 1
    for call in envelope.calls:
        if isinstance(call, BadCall):
            assert call.error.code in (RpcCode.PARSE_ERROR, RpcCode.INVALID_REQUEST)
            answer = json.loads(encode_error(call.id, call.error.code, call.error.message))
        else:
            answer = json.loads(encode_success(call.id, None))
        assert answer["id"] == call.id
        assert answer["jsonrpc"] == "2.0"


@given(st.binary(max_size=60))
@example(b"\xff")
@example(b"\xef\xbb\xbf{}")
@example(b"[")
@example(b" " * 300 + b"[]")
@example(b"\0")
def test_arbitrary_bytes_are_answered(body: bytes) -> None:
    check_answerable(decode_envelope(body))


@given(JSON | NEARLY_A_CALL | st.lists(NEARLY_A_CALL, max_size=3))
def test_arbitrary_json_is_answered(value: Any) -> None:
    envelope = decode_envelope(json.dumps(value).encode())
    check_answerable(envelope)
    assert envelope.is_batch == (isinstance(value, list) and bool(value))


def with_id(text: str) -> bytes:
    return b'{"jsonrpc":"2.0","method":"m","params":{},"id":' + text.encode() + b"}"


HOSTILE = {
    "an id of five thousand digits": (with_id("9" * 5000), RpcCode.INVALID_REQUEST),
    "an id beyond the bits that are echoed": (with_id("9" * 400), RpcCode.INVALID_REQUEST),
    "an id that overflows a float": (with_id("1e999"), RpcCode.INVALID_REQUEST),
    "an id with a fraction": (with_id("1.0"), RpcCode.INVALID_REQUEST),
    "an id that is a truth value": (with_id("true"), RpcCode.INVALID_REQUEST),
    "an id that is an object": (with_id('{"a":1}'), RpcCode.INVALID_REQUEST),
    "an id with a lone surrogate": (with_id('"\\ud800"'), RpcCode.PARSE_ERROR),
    "an id that is too long": (with_id('"' + "a" * (MAX_ID_CHARS + 1) + '"'), RpcCode.INVALID_REQUEST),
    "a number with a sign before it": (with_id("+1"), RpcCode.PARSE_ERROR),
    "a number with a leading zero": (with_id("01"), RpcCode.PARSE_ERROR),
    "a number in hex": (with_id("0x1"), RpcCode.PARSE_ERROR),
    "not a number": (with_id("NaN"), RpcCode.PARSE_ERROR),
    "nothing": (b"", RpcCode.PARSE_ERROR),
    "white space": (b" \r\n", RpcCode.PARSE_ERROR),
    "invalid UTF-8": (b'{"jsonrpc":"2.0","method":"\xff","id":1}', RpcCode.PARSE_ERROR),
    "UTF-16": ('{"jsonrpc":"2.0"}'.encode("utf-16"), RpcCode.PARSE_ERROR),
    "two values": (b"{}{}", RpcCode.INVALID_REQUEST),
    "two calls": (with_id("1") * 2, RpcCode.PARSE_ERROR),
    "an array nested without end": (b"[" * 200_000, RpcCode.PARSE_ERROR),
    "deep nesting in params": (
        b'{"jsonrpc":"2.0","method":"m","id":1,"params":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        RpcCode.PARSE_ERROR,
    ),
    "deep nesting in place of a call": (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, RpcCode.PARSE_ERROR),
    "an empty batch": (b"[]", RpcCode.INVALID_REQUEST),
    "a batch over the cap": (b"[" + b",".join([b"{}"] * (MAX_BATCH_CALLS + 1)) + b"]", RpcCode.INVALID_REQUEST),
    "another version": (b'{"jsonrpc":"1.0","method":"m","id":1}', RpcCode.INVALID_REQUEST),
    "no method": (b'{"jsonrpc":"2.0","id":1}', RpcCode.INVALID_REQUEST),
}  # fmt: skip


@pytest.mark.parametrize(("body", "code"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_bodies_are_answered_with_a_standard_code(body: bytes, code: RpcCode) -> None:
    envelope = decode_envelope(body)
    check_answerable(envelope)
    (call,) = envelope.calls
    assert isinstance(call, BadCall)
    assert call.error.code == code


def test_the_id_of_a_malformed_call_is_echoed_where_it_can_be_told() -> None:
    (call,) = decode_envelope(b'{"id":"seven","method":3}').calls
    assert call.id == "seven"


def test_nul_in_an_id_and_in_a_method_is_text_like_any_other() -> None:
    (call,) = decode_envelope(b'{"jsonrpc":"2.0","method":"\\u0000","id":"\\u0000"}').calls
    assert isinstance(call, Call)
    assert json.loads(encode_success(call.id, 1))["id"] == "\0"


def test_a_call_without_id_is_a_notification_and_one_with_null_is_not() -> None:
    batch = decode_envelope(b'[{"jsonrpc":"2.0","method":"m"},{"jsonrpc":"2.0","method":"m","id":null},1]')
    notification, call, neither = batch.calls
    assert notification.is_notification
    assert not call.is_notification
    assert isinstance(neither, BadCall)


@given(st.integers(-(2**1024) + 1, 2**1024 - 1) | st.text(max_size=MAX_ID_CHARS) | st.none(), JSON)
def test_calls_and_answers_round_trip(id_: int | str | None, value: Any) -> None:
    (call,) = decode_envelope(encode_call("Method", value, id_)).calls
    assert (call.method, call.id, msgspec.json.decode(call.params)) == ("Method", id_, value)
    answer = decode_answer(encode_success(id_, value))
    assert answer.id == id_
    assert msgspec.json.decode(answer.result_or_raise(GeneralError)) == value


@given(
    st.integers(-40000, 40000), st.text(max_size=20), st.dictionaries(st.text(max_size=5), JSON, max_size=3)
)
def test_an_error_is_rebuilt_as_the_class_that_was_raised(
    code: int, message: str, data: dict[str, Any]
) -> None:
    with pytest.raises(WireError) as raised:
        decode_answer(encode_error(1, code, message, data)).result_or_raise(WorkOrderError)
    assert type(raised.value) is (RpcError if code < 0 else WorkOrderError)
    assert (raised.value.code, raised.value.data) == (code, data)
    assert type(wire_error(WorkOrderError, code, message)) is type(raised.value)


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_an_answer_is_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(WireError):
        decode_answer(body).result_or_raise(GeneralError)


def test_the_answers_of_a_batch_are_one_array() -> None:
    assert json.loads(encode_batch([encode_success(1, "a"), encode_error(None, 2, "b")])) == [
        {"jsonrpc": "2.0", "id": 1, "result": "a"},
        {"jsonrpc": "2.0", "id": None, "error": {"code": 2, "message": "b"}},
    ]
