"""Where an order stands, by the service's word: shown, followed over lost connections, and never believed."""

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avalon_core.protocol.errors import WorkOrderError
from avalon_sdk import (
    AvalonClient,
    BadAnswer,
    CannotConnect,
    NoSuchOrder,
    NotOffered,
    OrderState,
    Progress,
    ResultTimeout,
    RetryPolicy,
    Step,
)
from avalon_sdk import events as events_module
from avalon_sdk.events import MAX_LINE_BYTES, EventParser
from avalon_sdk.sync import Client
from avalon_sdk.transports.base import ServerEvent


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(events_module, "_FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(events_module, "_LONGEST_PAUSE_SECONDS", 0.01)


async def test_each_state_is_told_until_the_final_one(service):
    service.pause()
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"])
        told = []

        async def follow() -> None:
            told.extend([(e.state.value, e.attempts, e.was_put_back) async for e in handle.events()])

        async with anyio.create_task_group() as group:
            group.start_soon(follow)
            for state in ("processing", "scheduled"):
                await anyio.sleep(0.02)
                service.move(state)
            await anyio.sleep(0.02)
            service.resume()
    assert told == [
        ("scheduled", 0, False),
        ("processing", 1, False),
        ("scheduled", 1, True),
        ("processing", 2, False),
        ("completed", 2, False),
    ]


async def test_a_lost_stream_goes_on_where_it_was(service):
    service.pause()
    service.lose_events = 3
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"])
        seen = []
        async for event in handle.events():
            seen.append(event.state)
            if len(seen) == 1:
                service.refuse_connections = 2
                service.move("processing")
                service.resume()
    assert seen[0] is OrderState.SCHEDULED
    assert seen[-1] is OrderState.COMPLETED
    assert service.event_streams[:2] == ["", "scheduled-0"]


async def test_a_service_that_stays_away_is_given_up(service):
    service.pause()
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"])
        service.refuse_connections = 10**6
        with pytest.raises(CannotConnect):
            await anext(handle.events())
    assert service.refuse_connections == 10**6 - events_module.MAX_RECONNECTS - 1


async def test_following_ends_at_the_deadline(service):
    service.pause()
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"])
        with pytest.raises(ResultTimeout):
            _ = [event async for event in handle.events(timeout=0.05)]


async def test_a_service_that_lies_about_completion_does_not_complete_the_order(service):
    service.pause()
    service.forge_events = lambda events: [event | {"state": "completed"} for event in events]
    told: list[Progress] = []
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"], on_progress=told.append)
        assert [event.state async for event in handle.events()] == [OrderState.COMPLETED]
        assert handle.outcome is None
        with pytest.raises(ResultTimeout):
            await handle.result(timeout=0.1)
        assert Step.VERIFIED not in [progress.step for progress in told]
        service.resume()
        assert (await handle.result()).texts() == ["RESULT: a"]


async def test_a_service_that_lies_about_failure_takes_no_result_away(service):
    service.forge_events = lambda events: [event | {"state": "failed"} for event in events]
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"], on_progress=lambda _: None)
        assert (await handle.result()).texts() == ["RESULT: a"]


@pytest.mark.parametrize(
    ("what", "forge"),
    [
        ("another order", lambda e: e | {"workOrderId": "00" * 32}),
        ("no such state", lambda e: e | {"state": "won"}),
        ("no time", lambda e: e | {"at": 1e300}),
        ("a time that is none", lambda e: e | {"at": "now"}),
        ("nothing", lambda e: {"state": "x", "attempts": 0}),
    ],
)
async def test_an_event_that_is_none_is_refused(service, what, forge):
    service.forge_events = lambda events: [forge(event) for event in events]
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"])
        with pytest.raises(BadAnswer, match="event"):
            await anext(handle.events())


async def test_events_without_end_are_cut_off(service, monkeypatch):
    monkeypatch.setattr(events_module, "MAX_EVENTS", 10)
    service.pause()
    service.forge_events = lambda events: events * 100
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"])
        with pytest.raises(BadAnswer, match="more than 10 events"):
            _ = [event async for event in handle.events()]


async def test_progress_tells_what_the_service_says_of_a_long_order(service):
    service.pause()
    told: list[Step] = []
    async with service.client() as client:
        handle = await client.submit(
            "echo-result", ["a"], on_progress=lambda progress: told.append(progress.step)
        )

        async def go_on() -> None:
            for state in ("processing", "scheduled"):
                await anyio.sleep(0.03)
                service.move(state)
            await anyio.sleep(0.03)
            service.resume()

        async with anyio.create_task_group() as group:
            group.start_soon(go_on)
            await handle.result()
    at = [
        told.index(step)
        for step in (Step.SUBMITTED, Step.SCHEDULED, Step.PROCESSING, Step.PUT_BACK, Step.VERIFIED)
    ]
    assert at == sorted(at)


async def test_a_service_without_events_is_none_the_worse(service):
    service.sends_events = False
    service.pause()
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"], on_progress=lambda _: None)
        with pytest.raises(NotOffered):
            await anext(handle.events())
        service.resume()
        assert (await handle.result()).texts() == ["RESULT: a"]


async def test_a_failure_while_watched_comes_out_as_itself(service):
    service.pause()
    service.failure = WorkOrderError(1, "division by zero")
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"], on_progress=lambda _: None)
        service.resume()
        with pytest.raises(Exception, match="division by zero") as caught:
            await handle.result()
    assert type(caught.value).__name__ == "OrderFailed"
    assert handle.failure is caught.value


async def test_what_an_observer_raises_comes_out_as_itself(service):
    service.pause()

    def observe(progress: Progress) -> None:
        if progress.step is Step.SCHEDULED:
            raise LookupError("my own fault")

    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"], on_progress=observe)
        with pytest.raises(LookupError, match="my own fault"):
            await handle.result()


async def test_over_http(http_service):
    service = http_service.service
    service.pause()
    async with AvalonClient(http_service.url, trust=service.trust) as client:
        handle = await client.submit("echo-result", ["a"])
        states = []
        async for event in handle.events():
            states.append(event.state.value)
            service.resume()
        assert (states[0], states[-1]) == ("scheduled", "completed")
        service._orders.clear()
        with pytest.raises(NoSuchOrder):
            await anext(handle.events())
        service.sends_events = False
        with pytest.raises(NotOffered):
            await anext(handle.events())


async def test_over_http_a_web_page_is_no_stream(http_service):
    async with AvalonClient(http_service.url, trust=http_service.service.trust) as client:
        handle = await client.submit("echo-result", ["a"])
        http_service.service.has_order = lambda _: False
        with pytest.raises(NoSuchOrder):
            await anext(handle.events())


def test_the_blocking_client_follows_too(service):
    with Client(service.transport(), trust=service.trust, retry=RetryPolicy(first_pause=0.001)) as client:
        handle = client.submit("echo-result", ["a"])
        assert [event.state for event in handle.events()] == [OrderState.COMPLETED]
        service.pause()
        waiting = client.submit("echo-result", ["b"])
        for event in waiting.events():
            assert event.state is OrderState.SCHEDULED
            break
        assert waiting.cancel() is OrderState.CANCELLED


_STREAM = (
    b"\xef\xbb\xbf: hello\r\nretry: 10\r\nid: one\r\ndata: a\r\ndata:b\r\n\r\n"
    b"event: state\rid: two\rdata: c\r\rdata\n\nid: bad\0id\nevent: x\n\nunknown: y\ndata:  d\n\n"
)
_EVENTS = [
    ServerEvent(id="one", kind="message", data="a\nb"),
    ServerEvent(id="two", kind="state", data="c"),
    ServerEvent(id="two", kind="message", data=""),
    ServerEvent(id="two", kind="message", data=" d"),
]


@given(st.lists(st.integers(0, len(_STREAM))))
def test_the_parser_reads_the_same_however_the_bytes_are_cut(cuts):
    parser, found, last = EventParser(), [], 0
    for cut in [*sorted(cuts), len(_STREAM)]:
        found += parser.feed(_STREAM[last:cut])
        last = cut
    assert found == _EVENTS


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_the_parser_takes_any_bytes(chunks):
    parser = EventParser()
    for chunk in chunks:
        parser.feed(chunk)


@pytest.mark.parametrize("chunk", [b"x" * 70_000, b"data: " + b"y" * 1000 + b"\n"])
def test_a_line_or_an_event_without_end_is_refused(chunk):
    parser = EventParser()

    def flood() -> None:
        for _ in range(MAX_LINE_BYTES // len(chunk) + 2):
            parser.feed(chunk)

    with pytest.raises(BadAnswer, match="refused"):
        flood()
