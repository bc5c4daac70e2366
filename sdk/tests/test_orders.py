import asyncio

import pytest

from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.errors import WorkOrderError
from avalon_core.protocol.orders import decode_request
from avalon_sdk import (
    BadRequest,
    NoSuchWorker,
    OrderFailed,
    OrderRefused,
    Progress,
    ResultTimeout,
    Step,
    SuiteNotOffered,
)
from avalon_sdk.sync import Client
from avalon_sdk.testing import SimulatedService


def methods(service: SimulatedService) -> list[str]:
    return [call.method for call in service.calls]


@pytest.mark.parametrize("suite", ["~avalon-hpke-1", "avalon", "eea-1.1"])
@pytest.mark.parametrize("mode", ["wait", "poll", "sync"])
async def test_an_order_comes_back_in_every_suite_and_mode(service, suite, mode):
    async with service.client() as client:
        outcome = await client.run("echo-result", ["text", b"\xff"], suite=suite, mode=mode)
    assert list(outcome.items) == [b"RESULT: text", b"RESULT: \xff"]
    assert outcome.suite == suite
    assert outcome.simulated
    assert (outcome.sizes.inputs, outcome.sizes.outputs) == (5, 21)


async def test_no_plaintext_is_in_what_is_sent(service):
    async with service.client() as client:
        await client.run("echo-result", [b"Z" * 60])
    assert all(b"WlpaWlpa" not in call.params and b"ZZZZZZ" not in call.params for call in service.calls)


async def test_a_quick_order_costs_one_request_and_the_record_is_fetched_once(service):
    async with service.client() as client:
        await client.run("echo-result", ["a"])
        await client.run("echo-result", ["b"])
    assert methods(service) == ["WorkerLookUp", "WorkerRetrieve", "WorkOrderSubmit", "WorkOrderSubmit"]
    assert service.calls[-1].wait == 29  # asked to hold the call until a little before the deadline


async def test_submit_returns_at_once_and_the_handle_waits(service):
    service.pause()
    asked = asyncio.Event()
    service.on_call = lambda call: call.method == "WorkOrderGetResult" and asked.set()
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"])
        waiting = asyncio.create_task(handle.result())
        await asked.wait()
        service.resume()
        assert (await waiting).texts() == ["RESULT: a"]
        assert (await handle.result()) is waiting.result()
    assert methods(service).count("WorkOrderGetResult") == 1


async def test_time_up_says_how_to_resume_and_resuming_works(service):
    service.pause()
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"])
        with pytest.raises(ResultTimeout, match=f"{handle.work_order_id}.*again") as caught:
            await handle.result(timeout=0.01)
        assert caught.value.work_order_id == handle.work_order_id
        service.resume()
        assert (await handle.result()).texts() == ["RESULT: a"]


async def test_a_service_that_does_not_hold_calls_is_asked_at_growing_intervals(service, monkeypatch):
    pauses = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 7:
            service.resume()

    monkeypatch.setattr("avalon_sdk.orders.anyio.sleep", pause)
    service.holds_calls = False
    service.pause()
    async with service.client() as client:
        assert (await client.run("echo-result", ["a"])).texts() == ["RESULT: a"]
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert methods(service).count("WorkOrderGetResult") == 8


async def test_poll_mode_never_asks_the_service_to_hold_a_call(service, monkeypatch):
    async def pause(seconds: float) -> None:
        service.resume()

    monkeypatch.setattr("avalon_sdk.orders.anyio.sleep", pause)
    service.pause()
    async with service.client() as client:
        await client.run("echo-result", ["a"], mode="poll")
    assert {call.wait for call in service.calls} == {0}


async def test_sync_mode_seals_the_time_into_the_order(service):
    async with service.client() as client:
        await client.run("echo-result", ["a"], mode="sync", timeout=10.0)
    assert 9000 < decode_request(service.calls[-1].params).response_timeout_msecs <= 9500


async def test_steps_are_told_in_their_order(service):
    told: list[Progress] = []
    async with service.client() as client:
        await client.run("echo-result", ["a"], on_progress=told.append)
    states = {Step.SCHEDULED, Step.PROCESSING, Step.PUT_BACK}
    assert [progress.step for progress in told] == [step for step in Step if step not in states]
    assert all(progress.simulated for progress in told)


async def test_worker_by_name_by_id_and_by_none_is_the_same(service):
    async with service.client() as client:
        by_name = await client.find_worker("simulated-worker")
        by_id = await client.find_worker(worker_id=service.worker_id)
        either = await client.find_worker()
        assert by_name.worker_id == by_id.worker_id == either.worker_id == service.worker_id
        assert (await by_name.run("echo-result", ["a"])).texts() == ["RESULT: a"]
        assert (await (await by_name.submit("echo-result", ["b"])).result()).texts() == ["RESULT: b"]
        assert (await client.run("echo-result", ["c"], worker="simulated-worker")).texts() == ["RESULT: c"]
        assert [listed.is_trusted for listed in await client.workers()] == [True]


async def test_unknown_and_inactive_workers_are_said_to_be_so(service):
    async with service.client() as client:
        with pytest.raises(NoSuchWorker, match="has no worker"):
            await client.find_worker("nobody")
        service.forge_record = lambda record: record.update(status=2)
        with pytest.raises(NoSuchWorker, match="got status 'off-line', expected 'active'"):
            await client.find_worker("simulated-worker")
        with pytest.raises(NoSuchWorker, match="no active worker"):
            await client.find_worker()


async def test_a_signed_order_names_its_key(service):
    signer = SigningKey.generate()
    async with service.client() as client:
        await client.run("echo-result", ["a"], signer=signer, requester_id="ab" * 32)
    request = decode_request(service.calls[-1].params)
    assert request.verifying_key == signer.verification_key.pem
    assert request.requester_signature
    assert request.requester_id == "ab" * 32


async def test_a_failed_and_a_refused_order_are_told_apart(service):
    async with service.client() as client:
        with pytest.raises(OrderRefused, match=r"no such workload.*code 9, invalid workload"):
            await client.run("nothing-of-the-kind", ["a"])
        service.failure = WorkOrderError(1, "division by zero")
        with pytest.raises(OrderFailed, match="division by zero"):
            await client.run("echo-result", ["a"])


async def test_a_rotated_key_leads_to_a_new_record_and_one_new_seal(service):
    async with service.client() as client:
        first = await client.run("echo-result", ["a"])
        service.rotate_keys()
        second = await client.run("echo-result", ["b"])
        third = await client.run("echo-result", ["c"])
    assert [first.texts(), second.texts(), third.texts()] == [["RESULT: a"], ["RESULT: b"], ["RESULT: c"]]
    assert methods(service)[3:] == ["WorkOrderSubmit", "WorkerRetrieve", "WorkOrderSubmit", "WorkOrderSubmit"]
    old, new = (decode_request(service.calls[i].params) for i in (3, 5))
    assert old.work_order_id != new.work_order_id


async def test_a_key_rotated_while_the_order_waited_is_found_out_by_the_handle(service):
    async with service.client() as client:
        service.pause()
        handle = await client.submit("echo-result", ["a"])
        service.rotate_keys()
        service.resume()
        assert (await handle.result()).texts() == ["RESULT: a"]


async def test_a_service_that_always_speaks_of_rotation_is_believed_once(service):
    service.failure = WorkOrderError(2, "workerEncryptionKey: rotated")
    async with service.client() as client:
        with pytest.raises(OrderRefused, match="rotated"):
            await client.run("echo-result", ["a"])
    assert methods(service).count("WorkOrderSubmit") == 2


async def test_asking_again_does_not_seal_again(service):
    service.pause()
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"])
        service.failure = WorkOrderError(2, "workerEncryptionKey: rotated")
        service.resume()
        for _ in range(3):
            with pytest.raises(OrderRefused, match="rotated"):
                await handle.result()
    assert methods(service).count("WorkOrderSubmit") == 2


@pytest.mark.parametrize(
    ("what", "arguments", "options"),
    [
        ("one text is no list", ("echo-result", "text"), {}),
        ("an item that is neither text nor bytes", ("echo-result", [1]), {}),
        ("more items than travel", ("echo-result", ["a"] * 1025), {}),
        ("a workload without a name", ("", ["a"]), {}),
        ("a workload whose id would be too long", ("x" * 33, ["a"]), {}),
        ("an unknown suite", ("echo-result", ["a"]), {"suite": "rot13"}),
        ("an unknown mode", ("echo-result", ["a"]), {"mode": "telepathy"}),
        ("no time", ("echo-result", ["a"]), {"timeout": 0}),
        ("time that is no number", ("echo-result", ["a"]), {"timeout": float("nan")}),
        ("a requester id that is no hex", ("echo-result", ["a"]), {"requester_id": "me"}),
    ],
)
async def test_bad_arguments_are_refused_before_anything_is_sent(service, what, arguments, options):
    async with service.client() as client:
        with pytest.raises(BadRequest, match="expected"):
            await client.run(*arguments, **options)
    assert service.calls == []


async def test_bytes_that_are_no_text_are_not_made_into_text(service):
    async with service.client() as client:
        outcome = await client.run("echo-result", [b"\xff"])
    with pytest.raises(BadRequest, match="items instead"):
        outcome.texts()


async def test_a_suite_that_is_not_offered_is_not_replaced_by_a_weaker_one(service):
    service.forge_record = lambda record: record["details"].update(workOrderPayloadFormats="JSON-RPC")
    async with service.client() as client:
        with pytest.raises(
            SuiteNotOffered, match="does not offer the suite '~avalon-hpke-1': it offers JSON-RPC"
        ):
            await client.run("echo-result", ["a"])
    assert "WorkOrderSubmit" not in methods(service)


def test_the_blocking_client_does_the_same(service):
    with Client(service.transport(), trust=service.trust) as client:
        assert client.run("echo-result", ["a"]).texts() == ["RESULT: a"]
        worker = client.find_worker("simulated-worker")
        assert worker.simulated
        assert worker.submit("echo-result", ["b"]).result().texts() == ["RESULT: b"]
        assert client.submit("echo-result", ["c"], worker=worker.trusted).result(5.0).texts() == ["RESULT: c"]
        assert [listed.worker_id for listed in client.workers()] == [service.worker_id]
    with pytest.raises(RuntimeError, match="with Client"):
        client.run("echo-result", ["a"])
