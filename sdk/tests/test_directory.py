"""Writing to the worker directory, and a worker's own word on its encryption key."""

import pytest

from avalon_core.crypto.signing import SigningKey
from avalon_sdk import (
    AvalonClient,
    BadAnswer,
    BadRequest,
    KeyRefused,
    OrderFailed,
    OrderRefused,
    OrderState,
    ServiceError,
    TokenFile,
    WorkerStatus,
)
from avalon_sdk.authority import header_of
from avalon_sdk.sync import Client
from avalon_sdk.testing import SimulatedService
from avalon_sdk.transports.direct import DirectTransport

TOKEN = "a-token-of-more-than-thirty-two-characters"


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "operator-token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


def details_of(service: SimulatedService) -> bytes:
    import msgspec

    return msgspec.json.encode(service.record()["details"])


async def test_the_operator_registers_a_worker_and_sets_its_status(service):
    other = SimulatedService(name="other")
    service.operator_token = TOKEN
    async with service.client(operator_token=lambda: TOKEN) as client:
        await client.register_worker(other.worker_id, details_of(other))
        assert {w.worker_id async for w in client.look_up_workers()} == {service.worker_id, other.worker_id}
        await client.set_worker_status(other.worker_id, WorkerStatus.OFF_LINE)
        assert (await client.inspect_worker("other")).status == "off-line"
        await client.update_worker(other.worker_id, details_of(other))


async def test_a_worker_registers_itself_with_its_own_key(service):
    other = SimulatedService(name="other")
    async with service.client() as client:
        with pytest.raises(ServiceError, match="needs authority"):
            await client.register_worker(other.worker_id, details_of(other))
        with pytest.raises(ServiceError, match="does not verify"):
            await client.register_worker(other.worker_id, details_of(other), signer=SigningKey.generate())
        key = other._signing_key
        await client.register_worker(other.worker_id, details_of(other), signer=key)
        await client.set_worker_status(other.worker_id, WorkerStatus.COMPROMISED, signer=key)
    writes = [call for call in service.calls if call.method in ("WorkerRegister", "WorkerSetStatus")]
    nonces = [
        int(members(call.params)["signatureNonce"], 16) for call in writes if b"signatureNonce" in call.params
    ]
    assert nonces == sorted(set(nonces))


def members(raw: bytes) -> dict:
    import json

    return json.loads(raw)


async def test_the_token_travels_with_registry_writes_alone(http_service, token_file):
    http_service.service.operator_token = TOKEN
    client = AvalonClient(http_service.url, trust=http_service.service.trust, operator_token=token_file)
    async with client:
        await client.run("echo-result", ["a"])
        with pytest.raises(ServiceError, match="no such worker"):
            await client.set_worker_status("ab" * 32, WorkerStatus.ACTIVE)
    carried = ["Authorization" in headers for headers, _ in http_service.posts]
    assert carried == [False] * (len(carried) - 1) + [True]
    assert http_service.posts[-1][0]["Authorization"] == f"Bearer {TOKEN}"


async def test_the_token_is_not_sent_in_clear_text_beyond_this_machine(token_file):
    transport = DirectTransport("http://tcs.example.com", operator_token=token_file)
    with pytest.raises(BadRequest, match="in clear text"):
        await transport.exchange(b"", wait=0, timeout=1, max_bytes=1, as_operator=True)


def test_the_token_is_in_no_repr_and_is_never_a_plain_text(token_file):
    assert TOKEN not in repr(TokenFile(token_file))
    with pytest.raises(BadRequest, match="never the token itself"):
        AvalonClient(operator_token=TOKEN)  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="an address"):
        AvalonClient(SimulatedService().transport(), operator_token=token_file)


def test_a_token_file_is_private_readable_and_holds_a_token(token_file, tmp_path):
    assert header_of(TokenFile(token_file)) == f"Bearer {TOKEN}"
    with pytest.raises(BadRequest, match="cannot be read"):
        TokenFile(tmp_path / "none")()
    token_file.write_text("two words")
    with pytest.raises(BadRequest, match="not one"):
        header_of(TokenFile(token_file))
    token_file.write_bytes(b"\xff")
    with pytest.raises(BadRequest, match="cannot be read"):
        TokenFile(token_file)()
    token_file.chmod(0o604)
    with pytest.raises(BadRequest, match="chmod 600"):
        TokenFile(token_file)()
    for bad in ("", "a\nb", "x" * 2000, "é"):
        with pytest.raises(BadRequest, match="not one"):
            header_of(lambda bad=bad: bad)


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("an id", lambda c: c.set_worker_status("me", WorkerStatus.ACTIVE)),
        ("details", lambda c: c.register_worker("ab", b"{}")),
        ("details that are no JSON", lambda c: c.update_worker("ab", b"\xff")),
        ("an organization", lambda c: c.register_worker("ab", b"{}", organization_id="us")),
    ],
)
async def test_bad_arguments_are_refused_before_anything_is_sent(service, what, call):
    async with service.client() as client:
        with pytest.raises(BadRequest):
            await call(client)
    assert service.calls == []


async def test_criteria_travel_with_every_page(service):
    async with service.client() as client:
        _ = [
            w
            async for w in client.look_up_workers(
                worker_type=1, organization_id="ab", application_type_ids=["cd"]
            )
        ]
    assert members(service.calls[0].params) == {
        "workerType": 1,
        "organizationId": "ab",
        "applicationTypeId": ["cd"],
    }


async def test_the_worker_s_key_is_taken_where_the_worker_vouches_for_it(service):
    async with service.client() as client:
        worker = await client.find_worker()
        grant = await client.encryption_key(worker)
        assert grant.encryption_key == worker.record.details.worker_type_data.encryption_key
        assert grant.tag == client.requester_id


@pytest.mark.parametrize(
    ("what", "forge", "said"),
    [
        ("another worker", lambda g: g.update(workerId="00" * 32), "another worker"),
        ("another requester", lambda g: g.update(tag="00" * 32), "another requester"),
        ("for all, and signed for one", lambda g: g.update(tag=""), "vouch"),
        ("another name", lambda g: g.update(encryptionKeyNonce="00"), "vouch"),
        ("no signature", lambda g: g.update(signature=""), "vouch"),
        (
            "another key",
            lambda g: g.update(encryptionKey=SigningKey.generate().verification_key.pem),
            "vouch",
        ),
    ],
)
async def test_a_forged_key_is_refused(service, what, forge, said):
    async with service.client() as client:
        worker = await client.find_worker()
        service.forge_record = forge
        with pytest.raises(KeyRefused, match=said):
            await client.encryption_key(worker)


async def test_a_worker_pushes_its_key_and_requesters_get_it(service):
    other = SimulatedService(name="other")
    key, pem = other._signing_key, other._keys.rsa.public_key.pem
    async with service.client() as client:
        await client.register_worker(other.worker_id, details_of(other), signer=key)
        with pytest.raises(ServiceError, match="does not verify"):
            await client.push_encryption_key(other.worker_id, pem, SigningKey.generate())
        await client.push_encryption_key(other.worker_id, pem, key)
        worker = await client.find_worker("other")
        grant = await client.encryption_key(worker)
        assert (grant.encryption_key, grant.tag) == (pem, "")
        await client.push_encryption_key(
            other.worker_id, pem, key, encryption_key_nonce="ab", tag=client.requester_id
        )
        grant = await client.encryption_key(worker)
        assert (grant.encryption_key_nonce, grant.tag) == ("ab", client.requester_id)
        with pytest.raises(BadRequest, match="encryption_key"):
            await client.push_encryption_key(other.worker_id, key.verification_key.pem, key)


async def test_the_operator_keeps_requesters_keys(service):
    service.operator_token = TOKEN
    key = SigningKey.generate().verification_key
    async with service.client() as anybody:
        for call in (anybody.set_requester_key("ab", key), anybody.requester_key("ab")):
            with pytest.raises(ServiceError, match="needs authority"):
                await call
    async with service.client(operator_token=lambda: TOKEN) as operator:
        assert await operator.requester_key("ab") is None
        await operator.set_requester_key("ab", key)
        assert await operator.requester_key("ab") == key
        await operator.set_requester_key("ab", None)
        assert await operator.requester_key("ab") is None
        service.directory.requester_keys["ab"] = "none"
        with pytest.raises(BadAnswer, match="is none"):
            await operator.requester_key("ab")


async def test_the_operator_cancels_anybody_s_order(service):
    service.operator_token = TOKEN
    service.pause()
    async with service.client() as requester:
        handle = await requester.submit("echo-result", ["a"], signer=SigningKey.generate())
        with pytest.raises(OrderRefused):
            await requester.cancel_order(handle.work_order_id)
        async with service.client(operator_token=lambda: TOKEN) as operator:
            assert await operator.cancel_order(handle.work_order_id) is OrderState.CANCELLED
            with pytest.raises(OrderRefused):
                await operator.cancel_order("ab")
        with pytest.raises(OrderFailed):
            await handle.result()


async def test_the_token_travels_with_the_operator_s_own_verbs(http_service, token_file):
    http_service.service.operator_token = TOKEN
    client = AvalonClient(http_service.url, trust=http_service.service.trust, operator_token=token_file)
    async with client:
        await client.requester_key("ab")
        with pytest.raises(OrderRefused):
            await client.cancel_order("ab")
    assert [headers.get("Authorization") for headers, _ in http_service.posts] == [f"Bearer {TOKEN}"] * 2


def test_the_blocking_client_does_the_same(service):
    other = SimulatedService(name="other")
    key = other._signing_key
    with Client(service.transport(), trust=service.trust) as client:
        client.register_worker(other.worker_id, details_of(other), signer=key)
        client.update_worker(other.worker_id, details_of(other), signer=key)
        client.set_worker_status(other.worker_id, WorkerStatus.OFF_LINE, signer=key)
        assert [worker.status for worker in client.look_up_workers()] == ["active", "off-line"]
        assert client.inspect_worker("other").status == "off-line"
        worker = client.find_worker().trusted
        assert client.encryption_key(worker).worker_id == service.worker_id
        client.push_encryption_key(other.worker_id, other._keys.rsa.public_key.pem, key)
    service.operator_token = TOKEN
    with Client(service.transport(operator_token=lambda: TOKEN), trust=service.trust) as client:
        client.set_requester_key("ab", key.verification_key)
        assert client.requester_key("ab") == key.verification_key
        service.pause()
        order = client.submit("echo-result", ["a"]).work_order_id
        assert client.cancel_order(order) is OrderState.CANCELLED
