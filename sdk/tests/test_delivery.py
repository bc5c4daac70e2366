"""Lost connections, lost answers, busy services: the same bytes go out again, and no later than the deadline."""

import time

import pytest

from avalon_sdk import Busy, CannotConnect, ResultTimeout, RetryPolicy
from avalon_sdk.deadline import Deadline
from avalon_sdk.testing import SimulatedService


def submitted(service: SimulatedService) -> list[bytes]:
    return [call.params for call in service.calls if call.method == "WorkOrderSubmit"]


async def test_a_lost_answer_leads_to_the_same_bytes_under_the_same_id(service):
    ran = []
    service.workloads["count"] = lambda inputs: ran.append(inputs) or [b"done"]
    async with service.client() as client:
        worker = await client.find_worker()
        service.lose_answers = 3
        outcome = await worker.run("count", ["a"])
    assert len(submitted(service)) == 4
    assert len(set(submitted(service))) == 1
    assert outcome.work_order_id.encode() in submitted(service)[0]
    assert len(ran) == 1


async def test_a_connection_that_is_not_made_is_tried_again(service):
    async with service.client() as client:
        worker = await client.find_worker()
        service.refuse_connections = 5
        assert (await worker.run("echo-result", ["a"])).texts() == ["RESULT: a"]
    assert len(submitted(service)) == 1


async def test_the_first_contact_gives_up_soon(service):
    service.refuse_connections = 100
    async with service.client() as client:
        with pytest.raises(CannotConnect, match="avalon up"):
            await client.run("echo-result", ["a"])
    assert service.refuse_connections == 97


async def test_trying_again_ends_at_the_deadline(service):
    async with service.client() as client:
        worker = await client.find_worker()
        service.refuse_connections = 10**9
        started = time.monotonic()
        with pytest.raises(CannotConnect):
            await worker.run("echo-result", ["a"], timeout=0.05)
        assert time.monotonic() - started < 1.0


async def test_an_order_that_was_accepted_is_not_forgotten_when_the_service_goes_away(service):
    service.pause()
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"])
        service.refuse_connections = 10**9
        with pytest.raises(ResultTimeout, match="last: no answer"):
            await handle.result(timeout=0.05)
        service.refuse_connections = 0
        service.resume()
        assert (await handle.result()).texts() == ["RESULT: a"]


async def test_a_busy_service_is_asked_again_with_the_same_bytes(service):
    async with service.client() as client:
        worker = await client.find_worker()
        service.busy.extend([None, 0.0, None])
        assert (await worker.run("echo-result", ["a"])).texts() == ["RESULT: a"]
    assert len(set(submitted(service))) == 1


async def test_a_service_that_asks_for_more_patience_than_there_is_time_ends_it_at_once(service):
    service.busy.append(20.0)
    async with service.client() as client:
        started = time.monotonic()
        with pytest.raises(Busy) as caught:
            await client.run("echo-result", ["a"], timeout=10.0)
    assert time.monotonic() - started < 1.0
    assert caught.value.retry_after == 20.0


async def test_retry_after_is_honoured_where_it_is_longer_than_our_pause(monkeypatch):
    pauses = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("avalon_sdk.deadline.anyio.sleep", pause)
    answers = iter([3.0, None, None])

    async def call() -> str:
        try:
            raise Busy("busy", code=8, retry_after=next(answers))
        except StopIteration:
            return "done"

    assert await RetryPolicy(first_pause=0.5, longest_pause=0.6).persist(call, Deadline.after(60)) == "done"
    assert pauses[0] == 3.0
    assert all(0.5 <= pause <= 1.1 for pause in pauses[1:])


async def test_a_certificate_that_is_wrong_is_not_tried_again():
    tried = []

    async def call() -> None:
        tried.append(1)
        raise CannotConnect("https://x", "certificate", may_pass=False)

    with pytest.raises(CannotConnect):
        await RetryPolicy().persist(call, Deadline.after(60))
    assert tried == [1]
