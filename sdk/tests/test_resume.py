"""An order in another process: saved, resumed, and what was done to the bytes in between."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avalon_core.attestation import TrustPolicy
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.orders import decode_request
from avalon_sdk import (
    AvalonClient,
    BadRequest,
    OrderRefused,
    OrderState,
    ResultRefused,
    SavedOrderRefused,
    UntrustedWorker,
    saved,
)
from avalon_sdk.testing import SimulatedService


async def saved_order(service: SimulatedService, **options: object) -> bytes:
    async with service.client() as client:
        return (await client.submit("echo-result", ["a"], **options)).save()


@pytest.mark.parametrize("suite", ["~avalon-hpke-1", "avalon", "eea-1.1"])
async def test_another_client_fetches_verifies_and_opens(service, suite):
    raw = await saved_order(service, suite=suite)
    async with service.client() as client:
        handle = client.resume(raw)
        outcome = await handle.result()
        assert outcome.texts() == ["RESULT: a"]
        assert outcome.sizes.inputs == 1
        assert handle.save() == raw
        assert handle.workload == "echo-result"


async def test_what_is_saved_holds_no_input_and_no_signing_key(service):
    signer = SigningKey.generate()
    async with service.client() as client:
        raw = (await client.submit("echo-result", ["the secret input"], signer=signer)).save()
    assert b"the secret input" not in raw
    assert signer.to_bytes().hex().encode() not in raw


async def test_the_result_of_a_resumed_order_is_verified(service):
    service.pause()
    raw = await saved_order(service)
    service.result_signer = SigningKey.generate()
    service.resume()
    async with service.client() as client:
        with pytest.raises(ResultRefused, match="signature"):
            await client.resume(raw).result()


async def test_an_order_that_never_arrived_is_sent_again_as_it_was(service):
    raw = await saved_order(service)
    elsewhere = SimulatedService()
    elsewhere._signing_key, elsewhere._keys = service._signing_key, service._keys
    async with elsewhere.client() as client:
        handle = client.resume(raw)
        with pytest.raises(OrderRefused, match="unknown work order"):
            await handle.result()
        await handle.resend()
        assert (await handle.result()).texts() == ["RESULT: a"]
    assert elsewhere.calls[-1].method == "WorkOrderGetResult" or handle.outcome is not None
    assert decode_request(elsewhere.calls[1].params) == decode_request(service.calls[-1].params)


async def test_a_policy_that_does_not_admit_the_worker_admits_no_saved_order_of_it(service):
    raw = await saved_order(service)
    async with service.client(trust=TrustPolicy.production({"00" * 32})) as client:
        with pytest.raises(UntrustedWorker):
            client.resume(raw)


async def test_a_resumed_order_is_not_sealed_anew(service):
    service.pause()
    raw = await saved_order(service)
    service.rotate_keys()
    service.resume()
    async with service.client() as client:
        with pytest.raises(OrderRefused, match="workerEncryptionKey"):
            await client.resume(raw).result()


def _again(raw: bytes, **changed: object) -> bytes:
    """As somebody who knows the format would forge it: with a digest that is right."""
    order, _ = saved.decode_saved(raw)
    return saved.encode_saved(saved.msgspec.structs.replace(order, **changed))


async def test_bytes_that_were_put_together_are_refused(service):
    raw, other = await saved_order(service), await saved_order(service)
    order, theirs = saved.decode_saved(raw)[0], saved.decode_saved(other)[0]
    stranger = SimulatedService(name=service.name)
    stranger_record = saved.decode_saved(await saved_order(stranger))[0].record
    request = saved.msgspec.structs.replace(order.request, requester_id="00" * 32)
    async with service.client() as client:
        for changed in (
            {"session_key": theirs.session_key},
            {"session_key": order.session_key[:-2]},
            {"session_key": order.session_key.upper()},
            {"request": theirs.request},
            {"request": request},
            {"suite": "avalon"},
            {"suite": "rot13"},
        ):
            with pytest.raises(SavedOrderRefused):
                client.resume(_again(raw, **changed))
        forged = saved.msgspec.convert(saved.msgspec.to_builtins(order.record), type(order.record))
        details = forged.details
        data = saved.msgspec.structs.replace(
            details.worker_type_data, verification_key=SigningKey.generate().verification_key.pem
        )
        forged = saved.msgspec.structs.replace(
            forged, details=saved.msgspec.structs.replace(details, worker_type_data=data)
        )
        with pytest.raises(UntrustedWorker):
            client.resume(_again(raw, record=forged))
        # Another worker of the same name and code is one that the policy admits; its signature is another all the same.
        handle = client.resume(_again(raw, record=stranger_record))
        with pytest.raises(ResultRefused):
            await handle.result()


_SERVICE = SimulatedService()
_RAW: list[bytes] = []


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_flipped_or_missing_byte_goes_unnoticed(data):
    import anyio

    if not _RAW:
        _RAW.append(anyio.run(saved_order, _SERVICE))
    raw = bytearray(_RAW[0])
    if data.draw(st.booleans()):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    client = AvalonClient(_SERVICE.transport(), trust=_SERVICE.trust)
    with pytest.raises(SavedOrderRefused):
        client.resume(bytes(raw))


async def test_an_order_is_cancelled_by_whoever_sent_it(service):
    service.pause()
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"])
        resumed = client.resume(handle.save())
        assert await resumed.cancel() is OrderState.CANCELLED
        assert await handle.cancel() is OrderState.CANCELLED


async def test_a_signed_order_is_cancelled_with_its_key_alone(service):
    service.pause()
    signer = SigningKey.generate()
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"], signer=signer)
        resumed = client.resume(handle.save())
        with pytest.raises(BadRequest, match="signed"):
            await resumed.cancel()
        with pytest.raises(OrderRefused, match="access denied"):
            await resumed.cancel(signer=SigningKey.generate())
        assert await resumed.cancel(signer=signer) is OrderState.CANCELLED


async def test_cancelling_what_is_finished_says_how_it_ended(service):
    async with service.client() as client:
        handle = await client.submit("echo-result", ["a"])
        assert await handle.cancel() is OrderState.COMPLETED
        assert (await handle.result()).texts() == ["RESULT: a"]
