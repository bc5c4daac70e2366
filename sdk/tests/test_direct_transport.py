"""The HTTP edge against a real server on loopback: what a service may do to its caller."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web

from avalon_core.protocol.jsonrpc import encode_error
from avalon_sdk import AvalonClient, BadAnswer, BadRequest, Busy, CannotConnect, DirectTransport, RetryPolicy
from avalon_sdk.transports import direct, jsonrpc

FAST = RetryPolicy(first_pause=0.001, longest_pause=0.01)


def client_of(http_service) -> AvalonClient:
    return AvalonClient(http_service.url, trust=http_service.service.trust, retry=FAST)


def is_submit(body: bytes) -> bool:
    return b"WorkOrderSubmit" in body


async def test_an_order_over_http_asks_the_service_to_hold_the_call(http_service):
    async with client_of(http_service) as client:
        assert (await client.run("echo-result", ["a"])).texts() == ["RESULT: a"]
    headers, body = http_service.posts[-1]
    assert is_submit(body)
    assert headers["Prefer"] == "wait=29"
    assert headers["Content-Type"] == "application/json"
    assert headers["Accept-Encoding"] == "identity"


async def test_a_connection_lost_after_the_order_arrived_leads_to_the_same_bytes(http_service):
    lost = []

    async def lose_first(request: web.Request, body: bytes) -> None:
        if is_submit(body) and len(lost) < 2:
            await http_service.service.answer(body, wait=0)
            lost.append(body)
            assert request.transport is not None
            request.transport.abort()

    http_service.misbehave = lose_first
    async with client_of(http_service) as client:
        assert (await client.run("echo-result", ["a"])).texts() == ["RESULT: a"]
    sent = [
        body.split(b'"params":')[1].split(b',"id":')[0] for _, body in http_service.posts if is_submit(body)
    ]
    assert len(sent) == 3
    assert len(set(sent)) == 1


async def test_a_silent_service_is_left_at_the_deadline(http_service):
    silence = asyncio.Event()

    async def say_nothing(request: web.Request, body: bytes) -> None:
        await silence.wait()

    http_service.misbehave = say_nothing
    async with client_of(http_service) as client:
        with pytest.raises(CannotConnect, match="nothing within"):
            await client.run("echo-result", ["a"], timeout=0.1)
    silence.set()


async def test_an_answer_without_end_is_cut_off(http_service, monkeypatch):
    monkeypatch.setattr(jsonrpc, "MAX_RECORD_BYTES", 1000)

    async def flood(request: web.Request, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * 100_000)
        except ConnectionError:
            return response

    http_service.misbehave = flood
    async with client_of(http_service) as client:
        with pytest.raises(BadAnswer, match="more than 1000 bytes"):
            await client.find_worker()


@pytest.mark.parametrize(
    ("what", "status", "text", "expected"),
    [
        ("a web page", 200, "<html>", "not JSON-RPC"),
        ("nothing", 200, "", "not JSON-RPC"),
        ("an array", 200, "[]", "not JSON-RPC"),
        ("deep nesting", 200, "[" * 100_000, "not JSON-RPC"),
        ("another call's answer", 200, '{"jsonrpc":"2.0","id":"x","result":{}}', "another call"),
        ("a fault of the server", 500, "Internal Server Error", "HTTP 500"),
        ("a wrong path", 404, "Not Found", "HTTP 404"),
    ],
)
async def test_an_answer_that_is_none_is_refused(http_service, what, status, text, expected):
    async def answer(request: web.Request, body: bytes) -> web.Response:
        return web.Response(status=status, text=text)

    http_service.misbehave = answer
    async with client_of(http_service) as client:
        with pytest.raises(BadAnswer, match=expected):
            await client.find_worker()
    assert len(http_service.posts) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(http_service, status):
    async def redirect(request: web.Request, body: bytes) -> web.Response | None:
        if request.path == "/elsewhere":
            return None
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    http_service.misbehave = redirect
    async with client_of(http_service) as client:
        with pytest.raises(BadAnswer, match="redirects are not followed"):
            await client.find_worker()
    assert len(http_service.posts) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_status_is_tried_again(http_service, status):
    async def busy_twice(request: web.Request, body: bytes) -> web.Response | None:
        return (
            web.Response(status=status, headers={"Retry-After": "0"}) if len(http_service.posts) < 3 else None
        )

    http_service.misbehave = busy_twice
    async with client_of(http_service) as client:
        await client.find_worker()
    assert len(http_service.posts) == 4


@pytest.mark.parametrize("status", [502, 504])
async def test_a_proxy_without_a_service_behind_it_is_no_answer(http_service, status):
    async def bad_gateway(request: web.Request, body: bytes) -> web.Response:
        return web.Response(status=status)

    http_service.misbehave = bad_gateway
    async with client_of(http_service) as client:
        with pytest.raises(CannotConnect, match=f"HTTP {status}"):
            await client.find_worker()
    assert len(http_service.posts) == 3


async def test_an_error_object_of_code_8_carries_the_retry_after_header(http_service):
    async def busy(request: web.Request, body: bytes) -> web.Response | None:
        if not is_submit(body):
            return None
        call_id = jsonrpc.msgspec.json.decode(body)["id"]
        return web.Response(body=encode_error(call_id, 8, "queue full"), headers={"Retry-After": "100"})

    http_service.misbehave = busy
    async with client_of(http_service) as client:
        with pytest.raises(Busy, match="queue full") as caught:
            await client.run("echo-result", ["a"])
    assert caught.value.retry_after == 100.0


async def test_nobody_listens():
    async with AvalonClient("http://127.0.0.1:1", retry=FAST) as client:
        with pytest.raises(CannotConnect, match=r"connection refused.*avalon up"):
            await client.find_worker()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:1947",
        "ftp://127.0.0.1",
        "http://",
        "http://user:pass@127.0.0.1",
        "http://x:y",
        "http://[x",
    ],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(BadRequest, match="expected http://host:port"):
        DirectTransport(url)


def test_retry_after_is_seconds_or_a_date_or_nothing():
    assert direct._seconds("7") == 7.0
    assert direct._seconds("999999") == direct.MAX_RETRY_AFTER_SECONDS
    assert (
        50
        < (direct._seconds(format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)) or 0)
        <= 60
    )
    assert direct._seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert [direct._seconds(text) for text in (None, "", "soon", "-1", "1e9")] == [None] * 5
