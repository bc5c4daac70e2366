"""Data that belongs to somebody other than the requester, outputs likewise; clear items and addresses."""

import pytest

from avalon_core.protocol.orders import decode_request
from avalon_sdk import BadRequest, OrderFailed, OutputKey, OwnedInput, ResultRefused, seal_owned_input
from avalon_sdk.testing import SimulatedService


async def test_a_requester_runs_a_workload_on_data_that_it_cannot_read(service):
    async with service.client() as owner, service.client() as requester:
        worker = await owner.find_worker()
        item = seal_owned_input(worker, "echo-result", b"the owner's secret").to_bytes()
        assert b"secret" not in item
        outcome = await requester.run("echo-result", ["mine", OwnedInput.from_bytes(item), "mine too"])
        assert outcome.texts() == ["RESULT: mine", "RESULT: the owner's secret", "RESULT: mine too"]
        assert outcome.sizes.inputs == len("minemine too")


async def test_owned_data_serves_no_other_workload(service):
    service.workloads["other"] = lambda inputs: inputs
    async with service.client() as client:
        item = seal_owned_input(await client.find_worker(), "echo-result", b"secret")
        with pytest.raises(OrderFailed, match="do not open"):
            await client.run("other", [item])


async def test_an_output_under_an_owner_s_key_is_the_owner_s_alone(service):
    async with service.client() as owner, service.client() as requester:
        worker = await owner.find_worker()
        key = OutputKey.generate()
        outputs = {0: key.seal_to(worker, "echo-result"), 1: "clear"}
        handle = await requester.submit("echo-result", ["a", "b", "c"], outputs=outputs)
        outcome = await handle.result()
        assert outcome.texts() == ["RESULT: b", "RESULT: c"]
        restored = OutputKey(key.to_bytes())
        assert restored.open_outputs(handle.request, outcome.raw, worker) == {0: b"RESULT: a"}
        with pytest.raises(ResultRefused, match="none of"):
            OutputKey.generate().open_outputs(handle.request, outcome.raw, worker)
        other = await requester.submit("echo-result", ["a"], outputs={0: key.seal_to(worker, "echo-result")})
        theirs = (await other.result()).raw
        with pytest.raises(ResultRefused, match="another order"):
            key.open_outputs(handle.request, theirs, worker)
        stranger = SimulatedService(name="stranger")
        async with stranger.client() as elsewhere:
            with pytest.raises(ResultRefused, match="not signed by this worker"):
                key.open_outputs(handle.request, outcome.raw, await elsewhere.find_worker())
        with pytest.raises(ResultRefused):
            key.open_outputs(handle.request, b"{}", worker)


async def test_what_travels_in_clear_text_is_what_was_named(service):
    async with service.client() as client:
        outcome = await client.run("echo-result", ["a", "b"], clear=[1])
    assert outcome.texts() == ["RESULT: a", "RESULT: b"]
    items = decode_request(service.calls[-1].params).in_data
    assert [item.is_clear for item in items] == [False, True]


async def test_addresses_travel_with_the_order(service):
    async with service.client() as client:
        await client.run(
            "echo-result", ["a"], result_uri="https://me.example/r", notify_uri="https://me.example/n"
        )
    request = decode_request(service.calls[-1].params)
    assert (request.result_uri, request.notify_uri) == ("https://me.example/r", "https://me.example/n")


@pytest.mark.parametrize(
    ("what", "items", "options"),
    [
        ("a clear item that is not there", ["a"], {"clear": [1]}),
        ("an output in no known way", ["a"], {"outputs": {0: "loud"}}),
        ("an index below zero", ["a"], {"outputs": {-1: "clear"}}),
        ("templates in a suite that does not protect them", ["a"], {"suite": "avalon", "outputs": {0: "clear"}}),
        ("an address that is none", ["a"], {"result_uri": "mailto:me"}),
        ("an address without end", ["a"], {"notify_uri": "https://me/" + "x" * 3000}),
        ("addresses of a synchronous order", ["a"], {"mode": "sync", "notify_uri": "https://me/"}),
        ("a key of an owner in an old suite", [OwnedInput(data="AA==", wrapped_key="00", iv="00" * 12)], {"suite": "avalon"}),
        ("an owned item in clear text", [OwnedInput(data="AA==", wrapped_key="00", iv="00" * 12)], {"clear": [0]}),
    ],
)  # fmt: skip
async def test_bad_options_are_refused_before_anything_is_sent(service, what, items, options):
    async with service.client() as client:
        with pytest.raises(BadRequest, match="expected"):
            await client.run("echo-result", items, **options)
    assert service.calls == []


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"\xff", b'{"data":"!","wrapped_key":"zz","iv":""}', b"[" * 100_000]
)
def test_what_is_no_owned_input_is_refused(raw):
    with pytest.raises(BadRequest, match="not an owned input"):
        OwnedInput.from_bytes(raw)
    with pytest.raises(BadRequest, match="32 bytes"):
        OutputKey(b"short")
