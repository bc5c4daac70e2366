"""Keys of workers that vouch for themselves, and requesters whose orders must be signed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
import pytest
from foreign_worker import ForeignWorker, call_as, code_of, token_of
from service_process import SUITES, WORKER_ID, Requester, ServiceProcess

from avalon_core.crypto.orders import Item, OrderDraft, SealedOrder, seal_order
from avalon_core.crypto.registry import key_digest, key_request_digest
from avalon_core.crypto.signing import SigningKey, VerificationKey
from avalon_core.errors import SignatureMismatch
from avalon_core.protocol.encodings import decode_base64, encode_base64
from avalon_core.protocol.registry import EncryptionKeyGetParams

pytestmark = [pytest.mark.acceptance]

Start = Callable[..., ServiceProcess]

OK, FAILED, INVALID, DENIED, NOT_READY = 0, 1, 3, 4, 5
BAD_SIGNATURE = 4
OTHER_KEY = SigningKey.generate()


@pytest.fixture
def token(service: ServiceProcess) -> str:
    return token_of(service)


async def key_of(requester: Requester, worker_id: str = WORKER_ID, **more: Any) -> Any:
    return await requester.call("EncryptionKeyGet", {"workerId": worker_id, "requesterId": "ab", **more})


def verify(grant: Any, key: VerificationKey) -> None:
    digest = key_digest(
        worker_id=grant["workerId"],
        encryption_key=grant["encryptionKey"],
        encryption_key_nonce=grant["encryptionKeyNonce"],
        tag=grant["tag"],
        signature_nonce=grant.get("signatureNonce"),
    )
    key.verify(digest, decode_base64(grant["signature"], what="signature"), strict=True)


async def registered(requester: Requester) -> ForeignWorker:
    worker = ForeignWorker()
    await requester.call("WorkerRegister", worker.signed("WorkerRegister", worker.registration()))
    return worker


@pytest.mark.parametrize(
    ("more", "tag"),
    [({}, "ab"), ({"tag": ""}, "ab"), ({"tag": "0xCD"}, "0xCD"), ({"lastUsedKeyNonce": ""}, "ab"),
     ({"lastUsedKeyNonce": "00"}, "ab"), ({"signature": "", "signatureNonce": ""}, "ab")],
    ids=str,
)  # fmt: skip
async def test_the_enclave_vouches_for_its_key(requester: Requester, more: dict[str, Any], tag: str) -> None:
    grant = (await key_of(requester, **more))["result"]
    assert requester.worker is not None
    record = (await requester.call("WorkerRetrieve", {"workerId": WORKER_ID}))["result"]
    type_data = record["details"]["workerTypeData"]
    assert grant["workerId"] == WORKER_ID
    assert grant["tag"] == tag
    assert grant["encryptionKey"] == type_data["encryptionKey"]
    assert grant["encryptionKeyNonce"] == type_data["encryptionKeyNonce"]
    verify(grant, requester.worker.verification_key)
    for name, other in (
        ("tag", "ef"),
        ("encryptionKeyNonce", "00"),
        ("workerId", "ab"),
        ("signatureNonce", ""),
    ):
        with pytest.raises(SignatureMismatch):
            verify({**grant, name: other}, requester.worker.verification_key)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"workerId": "ab"}, INVALID),
        ({"requesterId": "x"}, INVALID),
        ({"requesterId": None}, INVALID),
        ({"tag": "x"}, INVALID),
        ({"more": 1}, INVALID),
        ({"lastUsedKeyNonce": "x"}, INVALID),
        ({"signature": "AAAA"}, DENIED),
    ],
    ids=str,
)
async def test_a_bad_request_for_a_key(requester: Requester, params: dict[str, Any], code: int) -> None:
    answer = await requester.call("EncryptionKeyGet", {"workerId": WORKER_ID, "requesterId": "ab", **params})
    assert code_of(answer) == code


async def test_who_wants_a_newer_key_than_there_is_must_wait(requester: Requester) -> None:
    nonce = (await key_of(requester))["result"]["encryptionKeyNonce"]
    assert code_of(await key_of(requester, lastUsedKeyNonce=nonce)) == NOT_READY
    assert code_of(await key_of(requester, lastUsedKeyNonce=nonce.upper())) == NOT_READY


async def test_a_worker_elsewhere_pushes_its_keys(requester: Requester) -> None:
    worker = await registered(requester)
    assert code_of(await key_of(requester, worker.worker_id)) == NOT_READY
    for_all, for_one = worker.pushed_key(), worker.pushed_key("cd")
    for pushed in (for_all, for_one):
        assert code_of(await requester.call("EncryptionKeySet", pushed)) == OK
    common = (await key_of(requester, worker.worker_id))["result"]
    assert common == for_all
    own = (await key_of(requester, worker.worker_id, requesterId="cd"))["result"]
    assert own == for_one
    for grant in (common, own):
        verify(grant, worker.signing.verification_key)
    newer = worker.pushed_key()
    assert code_of(await requester.call("EncryptionKeySet", newer)) == OK
    last = {"lastUsedKeyNonce": for_all["encryptionKeyNonce"]}
    assert (await key_of(requester, worker.worker_id, **last))["result"] == newer
    # An update of the record leaves the keys, unless it changes the key that signed them.
    await requester.call("WorkerUpdate", worker.signed("WorkerUpdate", worker.update()))
    assert (await key_of(requester, worker.worker_id))["result"] == newer
    old, worker.signing = worker.signing, SigningKey.generate()
    await requester.call("WorkerUpdate", worker.signed("WorkerUpdate", worker.update(), old))
    assert code_of(await key_of(requester, worker.worker_id)) == NOT_READY


PUSHES: dict[str, tuple[Callable[[ForeignWorker], dict[str, Any]], int]] = {
    "signed by another key": (lambda w: w.pushed_key(key=OTHER_KEY), DENIED),
    "another tag than was signed": (lambda w: {**w.pushed_key(), "tag": "cd"}, DENIED),
    "another nonce than was signed": (lambda w: {**w.pushed_key(), "encryptionKeyNonce": "cd"}, DENIED),
    "an old signature nonce": (lambda w: w.pushed_key(signatureNonce="1"), DENIED),
    "no signature": (lambda w: {n: v for n, v in w.pushed_key().items() if n != "signature"}, INVALID),
    "a key that is none": (lambda w: w.pushed_key(encryptionKey="key"), INVALID),
    "a key of another kind": (
        lambda w: w.pushed_key(encryptionKey=OTHER_KEY.verification_key.pem),
        INVALID,
    ),
    "an unknown worker": (lambda w: w.pushed_key(workerId="ab"), INVALID),
    "the worker that is hosted here": (lambda w: w.pushed_key(workerId=WORKER_ID), DENIED),
    "a tag that is no hex": (lambda w: w.pushed_key("x"), INVALID),
}


@pytest.mark.parametrize(("make", "code"), PUSHES.values(), ids=PUSHES.keys())
async def test_a_push_that_is_refused(
    requester: Requester, make: Callable[[ForeignWorker], dict[str, Any]], code: int
) -> None:
    worker = await registered(requester)
    assert code_of(await requester.call("EncryptionKeySet", make(worker))) == code
    assert code_of(await key_of(requester, worker.worker_id)) == NOT_READY


async def test_a_replayed_push_is_refused(requester: Requester) -> None:
    worker = await registered(requester)
    first, second = worker.pushed_key(), worker.pushed_key()
    again = worker.pushed_key(encryptionKeyNonce=second["encryptionKeyNonce"])
    assert code_of(await requester.call("EncryptionKeySet", first)) == OK
    assert code_of(await requester.call("EncryptionKeySet", second)) == OK
    assert code_of(await requester.call("EncryptionKeySet", first)) == DENIED
    assert code_of(await requester.call("EncryptionKeySet", second)) == DENIED
    assert code_of(await requester.call("EncryptionKeySet", again)) == INVALID
    assert (await key_of(requester, worker.worker_id))["result"] == second


async def test_there_is_an_end_to_tags(requester: Requester) -> None:
    worker = await registered(requester)
    codes = [
        code_of(await requester.call("EncryptionKeySet", worker.pushed_key(f"{number:02x}")))
        for number in range(65)
    ]
    assert codes == [OK] * 64 + [FAILED]
    assert code_of(await requester.call("EncryptionKeySet", worker.pushed_key("00"))) == OK


async def test_no_key_of_a_compromised_worker_is_given_out(requester: Requester, token: str) -> None:
    worker = await registered(requester)
    assert code_of(await requester.call("EncryptionKeySet", worker.pushed_key())) == OK
    await call_as(requester, token, "WorkerSetStatus", worker.status(4))
    assert code_of(await key_of(requester, worker.worker_id)) == FAILED
    assert code_of(await requester.call("EncryptionKeySet", worker.pushed_key())) == DENIED


async def test_keys_outlive_crashes(start: Start, session: aiohttp.ClientSession) -> None:
    service = start().wait_ready()
    requester = Requester(service.url, session)
    await requester.meet_worker()
    worker = await registered(requester)
    pushed = worker.pushed_key()
    assert code_of(await requester.call("EncryptionKeySet", pushed)) == OK
    hosted = (await key_of(requester))["result"]
    service.kill()
    requester.url = start().wait_ready().url
    assert (await key_of(requester, worker.worker_id))["result"] == pushed
    again = (await key_of(requester))["result"]
    assert again["encryptionKeyNonce"] == hosted["encryptionKeyNonce"]
    assert code_of(await requester.call("EncryptionKeySet", pushed)) == DENIED


# Requesters' keys


def signed_order(
    requester: Requester, requester_id: str, signer: SigningKey | None, suite: str
) -> SealedOrder:
    assert requester.worker is not None
    template = requester.seal([b"x"], suite=suite, requester_id=requester_id)
    draft = OrderDraft(
        work_order_id=template.request.work_order_id,
        worker_id=template.request.worker_id,
        workload_id=template.request.workload_id,
        requester_id=template.request.requester_id,
        requester_nonce=template.request.requester_nonce,
        inputs=[Item(index=0, data=b"x")],
        signer=signer,
    )
    return seal_order(draft, requester.worker.public_keys, suite=suite)


@pytest.mark.parametrize("suite", SUITES)
async def test_a_requester_with_a_key_must_sign(requester: Requester, token: str, suite: str) -> None:
    key = SigningKey.generate()
    requester_id = key.to_bytes().hex()
    pem = key.verification_key.pem

    async def outcome(signer: SigningKey | None, name: str = requester_id) -> int | None:
        order = signed_order(requester, name, signer, suite)
        answer = await requester.submit(order, wait=30)
        return None if "result" in answer else code_of(answer)

    assert await outcome(None) is None
    assert await outcome(OTHER_KEY) is None  # proves possession of a key, and nobody said which it must be
    set_key = {"requesterId": requester_id, "verifyingKey": pem}
    assert code_of(await requester.call("RequesterKeySet", set_key)) == 3
    assert code_of(await call_as(requester, "x" * 43, "RequesterKeySet", set_key)) == 3
    assert code_of(await call_as(requester, token, "RequesterKeySet", set_key)) == OK
    assert await outcome(None) == BAD_SIGNATURE
    assert await outcome(None, requester_id.upper()) == BAD_SIGNATURE
    assert await outcome(None, f"0x{requester_id}"[:66]) == BAD_SIGNATURE
    assert await outcome(OTHER_KEY) == BAD_SIGNATURE
    assert await outcome(key) is None
    assert await outcome(None, "ab") is None
    got = await call_as(requester, token, "RequesterKeyGet", {"requesterId": requester_id})
    assert got["result"] == {"requesterId": requester_id, "verifyingKey": pem}
    assert code_of(await requester.call("RequesterKeyGet", {"requesterId": requester_id})) == 3
    remove = {"requesterId": requester_id, "verifyingKey": None}
    assert code_of(await call_as(requester, token, "RequesterKeySet", remove)) == OK
    assert await outcome(None) is None


async def test_requesters_keys_outlive_a_crash(start: Start, session: aiohttp.ClientSession) -> None:
    service = start().wait_ready()
    requester = Requester(service.url, session)
    pem = SigningKey.generate().verification_key.pem
    set_key = {"requesterId": "abcd", "verifyingKey": pem}
    assert code_of(await call_as(requester, token_of(service), "RequesterKeySet", set_key)) == OK
    service.kill()
    requester.url = start().wait_ready().url
    await requester.meet_worker()
    order = signed_order(requester, "abcd", None, SUITES[0])
    assert code_of(await requester.submit(order, wait=30)) == BAD_SIGNATURE


async def test_a_signed_request_for_a_key_is_checked(requester: Requester, token: str) -> None:
    key = SigningKey.generate()
    params = {"workerId": WORKER_ID, "requesterId": key.to_bytes().hex(), "signatureNonce": "01"}
    set_key = {"requesterId": params["requesterId"], "verifyingKey": key.verification_key.pem}
    assert code_of(await call_as(requester, token, "RequesterKeySet", set_key)) == OK
    digest = key_request_digest(msgspec.convert(params, EncryptionKeyGetParams))
    good = {**params, "signature": encode_base64(key.sign(digest))}
    bad = {**params, "signature": encode_base64(OTHER_KEY.sign(digest))}
    assert (await requester.call("EncryptionKeyGet", good))["result"]["tag"] == params["requesterId"]
    assert code_of(await requester.call("EncryptionKeyGet", bad)) == DENIED
    assert code_of(await requester.call("EncryptionKeyGet", {**good, "tag": "cd"})) == DENIED


@pytest.mark.parametrize("pem", ["no key", 7], ids=str)
async def test_a_requesters_key_that_is_none_is_refused(requester: Requester, token: str, pem: Any) -> None:
    set_key = {"requesterId": "ee", "verifyingKey": pem}
    assert code_of(await call_as(requester, token, "RequesterKeySet", set_key)) == 2
