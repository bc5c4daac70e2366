"""Garbage at the listener: no 500, no hang, and a complete envelope for whatever was a POST."""

from __future__ import annotations

import asyncio
import json
import math
import urllib.parse
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_process import Requester, ServiceProcess

pytestmark = [pytest.mark.acceptance]

METHODS = [
    "WorkOrderSubmit",
    "WorkOrderGetResult",
    "WorkerLookUp",
    "WorkerLookUpNext",
    "WorkerRetrieve",
    "Nothing",
    "",
]
MEMBERS = [
    "workOrderId",
    "workerId",
    "inData",
    "outData",
    "payloadFormat",
    "responseTimeoutMSecs",
    "requesterNonce",
    "x",
]

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(MEMBERS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
calls = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0") | scalars, "method": st.sampled_from(METHODS) | scalars},
    optional={"id": anything, "params": anything},
)
ABUSE = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_is_envelope(status: int, body: bytes) -> None:
    """A complete JSON-RPC answer, or a batch of them, or nothing to a notification."""
    assert status in (200, 204, 413, 408), (status, body)
    if status == 204:
        assert body == b""
        return
    answers = json.loads(body)
    for answer in answers if isinstance(answers, list) else [answers]:
        assert answer["jsonrpc"] == "2.0"
        assert "id" in answer
        assert ("result" in answer) != ("error" in answer)
        if "error" in answer:
            assert isinstance(answer["error"]["code"], int)
            assert answer["error"]["message"]
            assert answer["error"]["code"] != -32603, answer


@pytest.fixture
def post(service: ServiceProcess) -> Any:
    """POST from a synchronous test, one connection each."""
    parts = urllib.parse.urlsplit(service.url)

    def post(body: bytes) -> tuple[int, bytes]:
        import http.client

        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
        try:
            connection.request("POST", "/any/path", body, {"content-type": "application/json; charset=utf-8"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    return post


@ABUSE
@given(body=st.binary(max_size=200))
def test_arbitrary_bytes(post: Any, body: bytes) -> None:
    assert_is_envelope(*post(body))


@ABUSE
@given(value=anything)
def test_arbitrary_json(post: Any, value: object) -> None:
    assert_is_envelope(*post(json.dumps(value).encode()))


@ABUSE
@given(value=calls | st.lists(calls, max_size=5))
def test_arbitrary_calls(post: Any, value: object) -> None:
    assert_is_envelope(*post(json.dumps(value).encode()))


NASTY = {
    "nothing at all": b"",
    "white space": b" \n\t",
    "an unfinished string": b'{"jsonrpc": "2',
    "deeply nested arrays": b"[" * 100_000,
    "deeply nested params": b'{"jsonrpc":"2.0","id":1,"method":"WorkOrderSubmit","params":'
    + b'{"a":' * 50_000
    + b"1"
    + b"}" * 50_000
    + b"}",
    "deeply nested id": b'{"jsonrpc":"2.0","method":"x","id":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "not UTF-8": b'{"jsonrpc":"2.0","id":1,"method":"\xff"}',
    "a lone surrogate": b'{"jsonrpc":"2.0","id":"\\ud800","method":"WorkerLookUp","params":{}}',
    "a lone surrogate in params": b'{"jsonrpc":"2.0","id":1,"method":"WorkerLookUp","params":{"organizationId":"\\ud800"}}',
    "a number beyond all bounds": b'{"jsonrpc":"2.0","id":1e999,"method":"WorkerLookUp"}',
    "an id of ten thousand digits": b'{"jsonrpc":"2.0","method":"WorkerLookUp","id":' + b"9" * 10_000 + b"}",
    "a batch of nothing": b"[]",
    "a batch that is too long": b"[" + b",".join([b"1"] * 5000) + b"]",
    "NaN": b'{"jsonrpc":"2.0","id":NaN,"method":"x"}',
    "one member twice": b'{"jsonrpc":"2.0","id":1,"id":2,"method":"WorkerLookUp","method":"Nothing"}',
    "params as an array": b'{"jsonrpc":"2.0","id":1,"method":"WorkerRetrieve","params":["ab"]}',
    "params that are null": b'{"jsonrpc":"2.0","id":1,"method":"WorkerRetrieve","params":null}',
}


@pytest.mark.parametrize("sentence", NASTY)
async def test_nasty_bodies_get_an_envelope(requester: Requester, sentence: str) -> None:
    assert_is_envelope(*await requester.post(NASTY[sentence]))


async def test_a_body_over_the_cap_is_refused_before_it_is_read(
    requester: Requester, service: ServiceProcess
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 40000000\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert b" 413 " in head.splitlines()[0]
    writer.close()
    assert (await requester.get("/readyz"))[0] == 200


async def test_a_chunked_body_over_the_cap_is_refused(service: ServiceProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    head = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
    for _ in range(40):
        writer.write(chunk)
        try:
            await writer.drain()
        except ConnectionError:
            break
        if head.done():
            break
    assert b" 413 " in (await asyncio.wait_for(head, 10)).splitlines()[0]
    writer.close()


async def test_cut_connections_do_no_harm(requester: Requester, service: ServiceProcess) -> None:
    for cut in (
        b"",
        b"POST",
        b"POST / HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{",
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(cut)
        await writer.drain()
        writer.close()
    sealed = requester.seal([b"x"])
    assert requester.open(sealed, await requester.submit(sealed, wait=20)) == [b"RESULT: x"]


async def test_garbage_instead_of_http_is_answered_400(service: ServiceProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
    assert b" 400 " in await asyncio.wait_for(reader.readline(), 10)
    writer.close()


async def test_other_methods_are_refused(requester: Requester, service: ServiceProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(b"DELETE / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b" 405 " in await asyncio.wait_for(reader.readline(), 10)
    writer.close()


async def test_nothing_went_wrong_inside(requester: Requester, service: ServiceProcess) -> None:
    """Runs last in this file: the log of all of the above holds no failure of the service's own."""
    assert "call failed" not in service.log
    assert "Traceback" not in service.log
    assert math.isfinite(json.loads((await requester.get("/status"))[1])["uptime_seconds"])
