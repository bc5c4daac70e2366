"""Requests, results, records and channel messages: what is encoded is decoded, what is malformed is refused."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avalon_core.channel import messages
from avalon_core.channel.frames import FrameDecoder, encode_frame
from avalon_core.channel.messages import decode_to_enclave, decode_to_host, encode_message
from avalon_core.channel.pool_messages import PoolConfigure
from avalon_core.errors import AvalonError, ChannelError
from avalon_core.protocol.errors import GeneralError, WorkOrderError
from avalon_core.protocol.limits import MAX_FRAME_BYTES, MAX_ITEM_INDEX, MAX_ITEMS
from avalon_core.protocol.orders import (
    InDataItem,
    OutDataItem,
    WorkOrderRequest,
    WorkOrderResult,
    decode_request,
    decode_result,
    encode_request,
    encode_result,
)
from avalon_core.protocol.workers import (
    KeyBinding,
    WorkerDetails,
    WorkerRecord,
    WorkerTypeData,
    WorkloadInfo,
    decode_details,
    decode_record,
)

HEX_ID = st.from_regex(r"\A(0x)?[0-9a-fA-F]{1,64}\Z")
HEX = st.binary(min_size=1, max_size=20).map(bytes.hex)
TEXT = st.text(max_size=20)
BASE64 = st.from_regex(r"\A([A-Za-z0-9+/]{4}){0,5}\Z")
ITEM = {
    "index": st.integers(0, MAX_ITEM_INDEX),
    "data": BASE64,
    "data_hash": st.none() | st.just("") | st.just("aB" * 32),
    "encrypted_data_encryption_key": st.none() | st.sampled_from(["", "-", "null"]) | HEX,
    "iv": st.none() | st.just("") | st.just("0F" * 12),
}
IN_ITEMS = st.lists(st.builds(InDataItem, **ITEM), max_size=3, unique_by=lambda i: i.index).map(tuple)
OUT_ITEMS = st.lists(st.builds(OutDataItem, **ITEM), max_size=3, unique_by=lambda i: i.index).map(tuple)
REQUESTS = st.builds(
    WorkOrderRequest,
    response_timeout_msecs=st.integers(0, 2**31 - 1),
    payload_format=st.sampled_from(["JSON-RPC", "json-rpc", "~avalon-hpke-1"]),
    work_order_id=HEX_ID, worker_id=HEX_ID, workload_id=HEX_ID, requester_id=HEX_ID,
    encrypted_session_key=HEX, requester_nonce=HEX, encrypted_request_hash=HEX,
    result_uri=st.none() | TEXT, notify_uri=st.none() | TEXT,
    worker_encryption_key=st.none() | HEX,
    data_encryption_algorithm=st.sampled_from([None, "", "AES-GCM-256"]),
    session_key_iv=st.none() | st.just("") | st.just("0f" * 12),
    requester_signature=st.none() | BASE64,
    verifying_key=st.none() | TEXT,
    in_data=IN_ITEMS, out_data=OUT_ITEMS,
)  # fmt: skip
RESULTS = st.builds(
    WorkOrderResult,
    work_order_id=HEX_ID, workload_id=HEX_ID, worker_id=HEX_ID, requester_id=HEX_ID,
    worker_nonce=BASE64, worker_signature=BASE64, out_data=OUT_ITEMS,
    ext_verification_key=st.none() | TEXT, ext_verification_key_signature=st.none() | BASE64,
)  # fmt: skip
TYPE_DATA = st.builds(
    WorkerTypeData,
    verification_key=TEXT, encryption_key=TEXT, encryption_key_signature=HEX, proof_data_type=TEXT,
    proof_data=st.none() | st.dictionaries(TEXT, TEXT, max_size=2), extended_measurements=st.none() | TEXT,
    encryption_key_nonce=st.none() | TEXT, hpke_encryption_key=st.none() | HEX,
    hpke_encryption_key_signature=st.none() | HEX,
    key_binding=st.none() | st.builds(KeyBinding, worker_id=TEXT, role=TEXT, nonce=HEX, tenant=st.none() | TEXT),
    simulated=st.booleans(),
)  # fmt: skip
WORKLOADS = st.builds(
    WorkloadInfo, workload_id=TEXT, name=TEXT, title=TEXT, input_help=TEXT, max_items=st.integers(0, 9),
    max_item_bytes=st.integers(0, 9), time_limit_seconds=st.floats(0, 9),
)  # fmt: skip
DETAILS = st.builds(
    WorkerDetails,
    worker_type_data=TYPE_DATA,
    work_order_sync_uri=TEXT,
    work_order_payload_formats=TEXT,
    workloads=st.lists(WORKLOADS, max_size=2).map(tuple),
)
RECORDS = st.builds(
    WorkerRecord,
    worker_type=st.integers(0, 3),
    organization_id=TEXT,
    application_type_id=TEXT | st.lists(TEXT, max_size=2).map(tuple),
    details=DETAILS,
    status=st.integers(1, 4),
)


@given(REQUESTS)
def test_requests_round_trip(request: WorkOrderRequest) -> None:
    assert decode_request(encode_request(request)) == request


@given(RESULTS)
def test_results_round_trip(result: WorkOrderResult) -> None:
    assert decode_result(encode_result(result)) == result


@given(RECORDS)
def test_records_round_trip(record: WorkerRecord) -> None:
    assert decode_record(msgspec.json.encode(record)) == record
    assert decode_details(msgspec.json.encode(record.details)) == record.details


def test_unknown_members_of_results_and_records_are_tolerated() -> None:
    result = json.loads(encode_result(RESULT)) | {"receipt": {"a": 1}}
    assert decode_result(json.dumps(result).encode()) == RESULT


RESULT = WorkOrderResult(
    work_order_id="a", workload_id="b", worker_id="c", requester_id="d", worker_nonce="", worker_signature="",
    out_data=(),
)  # fmt: skip
PARAMS: dict[str, Any] = {
    "responseTimeoutMSecs": 0, "payloadFormat": "JSON-RPC", "workOrderId": "0a", "workerId": "0b",
    "workloadId": "0c", "requesterId": "0d", "encryptedSessionKey": "00", "requesterNonce": "00",
    "encryptedRequestHash": "00", "inData": [{"index": 0, "data": ""}],
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def test_the_smallest_request_is_well_formed() -> None:
    assert decode_request(json.dumps(PARAMS).encode()).in_data[0].index == 0


@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_in_place_of_params_is_refused_with_code_2(body: bytes) -> None:
    with pytest.raises(WorkOrderError) as refused:
        decode_request(body)
    assert refused.value.code == 2


@contextlib.contextmanager
def only_code_2() -> Iterator[None]:
    try:
        yield
    except WorkOrderError as refused:
        if refused.code != 2:
            raise


MEMBERS = [*PARAMS, "resultUri", "notifyUri", "workerEncryptionKey", "dataEncryptionAlgorithm", "sessionKeyIv",
           "requesterSignature", "verifyingKey", "outData", "surplus"]  # fmt: skip


@given(st.sampled_from(MEMBERS), JSON)
def test_anything_in_place_of_a_member_is_decoded_or_refused_with_code_2(member: str, value: Any) -> None:
    with only_code_2():
        request = decode_request(json.dumps(PARAMS | {member: value}).encode())
        assert decode_request(encode_request(request)) == request


@given(st.sampled_from(["index", "data", "dataHash", "encryptedDataEncryptionKey", "iv", "surplus"]), JSON)
def test_anything_in_an_item_is_decoded_or_refused_with_code_2(member: str, value: Any) -> None:
    params = PARAMS | {"inData": [{"index": 0, "data": "", member: value}]}
    with only_code_2():
        decode_request(json.dumps(params).encode())


ITEM_0 = {"index": 0, "data": ""}
MALFORMED: dict[str, Any] = {
    "a missing member": {n: v for n, v in PARAMS.items() if n != "workerId"},
    "a surplus member": PARAMS | {"surplus": 1},
    "a surplus member in an item": PARAMS | {"inData": [ITEM_0 | {"surplus": 1}]},
    "an unknown payload format": PARAMS | {"payloadFormat": "XML"},
    "a payload format that only upper-casing makes right": PARAMS | {"payloadFormat": "J\u017fON-RPC"},
    "our suite's name in another case": PARAMS | {"payloadFormat": "~AVALON-HPKE-1"},
    "an unknown algorithm": PARAMS | {"dataEncryptionAlgorithm": "AES-CBC"},
    "an id that is not hex": PARAMS | {"workOrderId": "xyz"},
    "an id with a line end": PARAMS | {"workOrderId": "0a\n"},
    "an id in other digits": PARAMS | {"workOrderId": "\u0660\uff11"},
    "an empty id": PARAMS | {"workOrderId": ""},
    "an id of 33 bytes": PARAMS | {"workOrderId": "a" * 65},
    "an id of two prefixes": PARAMS | {"workOrderId": "0x0xaa"},
    "a lone prefix": PARAMS | {"workOrderId": "0x"},
    "a prefix in upper case": PARAMS | {"workOrderId": "0Xaa"},
    "an id that is a number": PARAMS | {"workOrderId": 10},
    "a session key of odd length": PARAMS | {"encryptedSessionKey": "000"},
    "an empty session key": PARAMS | {"encryptedSessionKey": ""},
    "a session key with white space": PARAMS | {"encryptedSessionKey": "00 00"},
    "a session key with a prefix": PARAMS | {"encryptedSessionKey": "0x00"},
    "a session key beyond its cap": PARAMS | {"encryptedSessionKey": "00" * 5000},
    "an iv of 11 bytes": PARAMS | {"sessionKeyIv": "00" * 11},
    "an iv of 13 bytes": PARAMS | {"sessionKeyIv": "00" * 13},
    "an empty nonce": PARAMS | {"requesterNonce": ""},
    "a negative timeout": PARAMS | {"responseTimeoutMSecs": -1},
    "a timeout beyond 32 bits": PARAMS | {"responseTimeoutMSecs": 2**31},
    "a timeout of five thousand digits": b'{"responseTimeoutMSecs":' + b"9" * 5000 + b"}",
    "a timeout that overflows": b'{"responseTimeoutMSecs":1e999}',
    "a timeout with a fraction": PARAMS | {"responseTimeoutMSecs": 6000.0},
    "a timeout in a text": PARAMS | {"responseTimeoutMSecs": "6000"},
    "a truth value for a number": PARAMS | {"responseTimeoutMSecs": True},
    "a signature that is not base64": PARAMS | {"requesterSignature": "MEUC*"},
    "a signature with a line end": PARAMS | {"requesterSignature": "QUFB\n"},
    "a duplicate index of inputs": PARAMS | {"inData": [ITEM_0, ITEM_0]},
    "a duplicate index of templates": PARAMS | {"outData": [{"index": 3}, {"index": 3}]},
    "a negative index": PARAMS | {"inData": [{"index": -1, "data": ""}]},
    "an index beyond 31 bits": PARAMS | {"inData": [{"index": 2**31, "data": ""}]},
    "an item without data": PARAMS | {"inData": [{"index": 0}]},
    "a data hash of 31 bytes": PARAMS | {"inData": [ITEM_0 | {"dataHash": "00" * 31}]},
    "an item's key in other marks": PARAMS | {"inData": [ITEM_0 | {"encryptedDataEncryptionKey": "none"}]},
    "too many items": PARAMS | {"inData": [{"index": i, "data": ""} for i in range(MAX_ITEMS + 1)]},
    "a lone surrogate": json.dumps(PARAMS | {"resultUri": "\ud800"}).encode(),
    "deep nesting": b'{"inData":' + b"[" * 200_000,
    "an array": [PARAMS],
    "null": None,
    "invalid UTF-8": b'{"workOrderId":"\xff"}',
}


@pytest.mark.parametrize("params", MALFORMED.values(), ids=MALFORMED)
def test_malformed_params_are_refused_with_code_2(params: Any) -> None:
    body = params if isinstance(params, bytes) else json.dumps(params).encode()
    with pytest.raises(WorkOrderError) as refused:
        decode_request(body)
    assert refused.value.code == 2


def test_a_refusal_is_never_as_long_as_what_it_refuses() -> None:
    with pytest.raises(WorkOrderError) as refused:
        decode_request(json.dumps({"a" * 1_000_000: 1}).encode())
    assert len(str(refused.value)) < 500


def test_a_refusal_never_quotes_a_value() -> None:
    for member in PARAMS:
        with pytest.raises(WorkOrderError) as refused:
            decode_request(json.dumps(PARAMS | {member: "s3cr3t\n"}).encode())
        assert "s3cr3t" not in str(refused.value)


def test_of_a_member_that_is_given_twice_the_last_counts_everywhere() -> None:
    twice = (
        json.dumps(PARAMS)
        .encode()
        .replace(b'"workOrderId": "0a"', b'"workOrderId": "0a", "workOrderId": "ee"')
    )
    assert decode_request(twice).work_order_id == "ee"
    assert json.loads(twice)["workOrderId"] == "ee"


def test_items_that_are_not_base64_are_found_before_an_order_is_accepted() -> None:
    request = decode_request(json.dumps(PARAMS | {"inData": [{"index": 4, "data": "*"}]}).encode())
    with pytest.raises(WorkOrderError, match="item 4") as refused:
        request.check_encodings()
    assert refused.value.code == 2


@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_result_or_record_is_refused(body: bytes) -> None:
    with pytest.raises(WorkOrderError):
        decode_result(body)
    with pytest.raises(GeneralError):
        decode_record(body)
    with pytest.raises(GeneralError):
        decode_details(body)


# --- channel -----------------------------------------------------------------------------------------------------

MESSAGE_TYPES = [
    t
    for t in vars(messages).values()
    if isinstance(t, type) and issubclass(t, msgspec.Struct) and t.__module__ == messages.__name__
]
FIELD_VALUES = {
    str: TEXT, int: st.integers(0, 2**63 - 1), bytes: st.binary(max_size=30), bool: st.booleans(),
    bytes | None: st.none() | st.binary(max_size=30), str | None: st.none() | TEXT,
    dict[str, Any]: st.dictionaries(TEXT, TEXT | st.integers(0, 9), max_size=3),
    PoolConfigure | None: st.none() | st.builds(PoolConfigure, first_manifest=st.binary(max_size=30), start=TEXT),
}  # fmt: skip
MESSAGES = st.sampled_from(MESSAGE_TYPES).flatmap(
    lambda type_: st.builds(type_, **{f.name: FIELD_VALUES[f.type] for f in msgspec.structs.fields(type_)})
)
TO_ENCLAVE = tuple(messages.ToEnclave.__args__)


@given(MESSAGES)
def test_messages_round_trip_and_are_refused_in_the_other_direction(message: Any) -> None:
    mine, other = (decode_to_enclave, decode_to_host)[:: 1 if isinstance(message, TO_ENCLAVE) else -1]
    assert mine(encode_message(message)) == message
    with pytest.raises(ChannelError):
        other(encode_message(message))


@given(st.binary(max_size=60), MESSAGES, st.integers(0, 2**16))
def test_a_broken_message_is_a_channel_error(noise: bytes, message: Any, at: int) -> None:
    broken = bytearray(encode_message(message))
    broken[at % len(broken)] ^= 1 + at % 255
    for payload in (noise, bytes(broken), b"\x93\xa9configure\xa1\xff\xa1a", b"\x91" * 100_000, b""):
        for decode in (decode_to_enclave, decode_to_host):
            with contextlib.suppress(ChannelError):
                decode(payload)


@given(st.lists(st.binary(max_size=30), max_size=6), st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_frames_survive_any_chunking(payloads: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(encode_frame(payload) for payload in payloads)
    decoder, got, turn = FrameDecoder(), [], 0
    while stream:
        size = sizes[turn % len(sizes)]
        got += decoder.feed(stream[:size])
        stream, turn = stream[size:], turn + 1
    assert got == payloads
    assert decoder.is_empty


def test_a_reader_that_stops_early_loses_no_frame_and_reads_none_twice() -> None:
    decoder = FrameDecoder()
    decoder.feed(encode_frame(b"one") + encode_frame(b"two")[:3])
    frames = decoder.feed(encode_frame(b"two")[3:] + encode_frame(b"three") + b"\0")
    assert next(frames) == b"one"
    assert list(decoder.feed(b"")) == [b"two", b"three"]
    assert list(frames) == []
    assert not decoder.is_empty


def test_the_largest_frame_passes_in_chunks_as_a_pipe_delivers_them() -> None:
    payload = bytes(MAX_FRAME_BYTES)
    stream, decoder, got = memoryview(encode_frame(payload)), FrameDecoder(), []
    for start in range(0, len(stream), 65536):
        got += decoder.feed(bytes(stream[start : start + 65536]))
    assert got == [payload]


def test_a_frame_over_the_cap_is_refused_by_sender_and_receiver() -> None:
    with pytest.raises(ChannelError):
        encode_frame(bytes(MAX_FRAME_BYTES + 1))
    decoder = FrameDecoder()
    frames = decoder.feed(encode_frame(b"fine") + (MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
    assert next(frames) == b"fine"
    with pytest.raises(ChannelError, match="cap"):
        next(frames)
    with pytest.raises(AvalonError):
        list(decoder.feed(b""))
