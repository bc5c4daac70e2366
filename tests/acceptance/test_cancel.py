"""WorkOrderCancel against a real service: who may, and what becomes of the order."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from service_process import Requester, ServiceProcess, wait_until

from avalon_core.crypto.cancellation import cancellation_digest
from avalon_core.crypto.orders import SealedOrder
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.encodings import encode_base64

pytestmark = [pytest.mark.acceptance]

Start = Callable[..., ServiceProcess]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, slow_workload: Path) -> Iterator[ServiceProcess]:
    running = ServiceProcess(
        tmp_path_factory.mktemp("service") / "data",
        environment={"PYTHONPATH": str(slow_workload), "AVALON_ENCLAVE_CHILDREN": "1"},
    )
    try:
        yield running.wait_ready()
        assert running.stop() == 0, running.log
    finally:
        running.kill()


def proof(sealed: SealedOrder, key: SigningKey | None = None) -> dict[str, Any]:
    """The params of a cancellation."""
    request = sealed.request
    params = {"workOrderId": request.work_order_id, "requesterId": request.requester_id}
    if key is None:
        return {**params, "encryptedRequestHash": request.encrypted_request_hash}
    digest = cancellation_digest(
        work_order_id=request.work_order_id,
        requester_id=request.requester_id,
        encrypted_request_hash=request.encrypted_request_hash,
    )
    return {**params, "signature": encode_base64(key.sign(digest))}


async def cancel(requester: Requester, params: dict[str, Any], **headers: str) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "WorkOrderCancel", "params": params})
    _, answer = await requester.post(body.encode(), **headers)
    return json.loads(answer)["error"]


def sleeping(requester: Requester, **options: Any) -> SealedOrder:
    return requester.seal([b"20"], workload="test-sleep", **options)


async def test_a_running_order_is_cancelled_and_its_workload_ended(
    requester: Requester, service: ServiceProcess
) -> None:
    sealed = sleeping(requester)
    waiting = asyncio.create_task(requester.submit(sealed, wait=30))
    await asyncio.to_thread(wait_until, lambda: _in_flight(service) == 1)
    began = time.monotonic()
    answer = await cancel(requester, proof(sealed))
    assert (answer["code"], answer["data"]) == (
        0,
        {"workOrderId": sealed.request.work_order_id, "state": "cancelled"},
    )
    told = (await waiting)["error"]
    assert told["code"] == 1
    assert "cancelled by its requester" in told["message"]
    # The workload has one process: the next order is only processed because this one was ended.
    after = requester.seal([b"0"], workload="test-sleep")
    assert requester.open(after, await requester.submit(after, wait=30)) == [b"slept"]
    assert time.monotonic() - began < 15
    again = await cancel(requester, proof(sealed))
    assert (again["code"], again["data"]["state"]) == (0, "cancelled")


def _in_flight(service: ServiceProcess) -> int:
    import urllib.request

    with urllib.request.urlopen(f"{service.url}/status", timeout=5) as answer:
        return json.load(answer)["workers"][0]["in_flight"]


async def test_a_finished_order_stays_as_it_is(requester: Requester) -> None:
    sealed = requester.seal([b"x"])
    done = await requester.submit(sealed, wait=30)
    answer = await cancel(requester, proof(sealed))
    assert (answer["code"], answer["data"]["state"]) == (1, "completed")
    assert (await requester.result(sealed))["result"] == done["result"]


async def test_an_order_waiting_in_line_is_cancelled(requester: Requester) -> None:
    running, waiting = sleeping(requester), sleeping(requester)
    await requester.submit(running)
    await requester.submit(waiting)
    assert (await cancel(requester, proof(waiting)))["code"] == 0
    assert (await cancel(requester, proof(running)))["code"] == 0


SIGNED, OTHER = SigningKey.generate(), SigningKey.generate()


async def test_a_signed_order_is_cancelled_by_its_key_alone(requester: Requester) -> None:
    sealed = sleeping(requester, signer=SIGNED)
    await requester.submit(sealed)
    for params in (
        proof(sealed),
        proof(sealed, OTHER),
        {**proof(sealed, SIGNED), "signature": encode_base64(SIGNED.sign(bytes(32)))},
        {**proof(sealed, SIGNED), "signature": "AAAA"},
        {**proof(sealed, SIGNED), "requesterId": "ab"},
    ):
        assert (await cancel(requester, params))["code"] == 3, params
    assert (await cancel(requester, proof(sealed, SIGNED)))["code"] == 0


async def test_an_unsigned_order_is_cancelled_by_what_only_its_sender_knows(requester: Requester) -> None:
    sealed = sleeping(requester)
    await requester.submit(sealed)
    for params in (
        proof(sealed, OTHER),
        {**proof(sealed), "encryptedRequestHash": "ab" * 60},
        {**proof(sealed), "encryptedRequestHash": ""},
        {**proof(sealed), "requesterId": "ab"},
    ):
        answer = await cancel(requester, params)
        assert answer["code"] == 3, params
        assert answer["data"]["workOrderId"] == sealed.request.work_order_id
        assert sealed.request.encrypted_request_hash not in json.dumps(answer)
    assert (await cancel(requester, proof(sealed)))["code"] == 0


async def test_the_operator_needs_no_proof(requester: Requester, service: ServiceProcess) -> None:
    sealed = sleeping(requester)
    await requester.submit(sealed)
    params = {"workOrderId": sealed.request.work_order_id, "requesterId": "ab"}
    assert (await cancel(requester, params, authorization="Bearer " + "x" * 40))["code"] == 3
    token = (service.data_dir / "operator-token").read_text().strip()
    assert (await cancel(requester, params, authorization=f"Bearer {token}"))["code"] == 0
    assert "operator" in (await requester.result(sealed))["error"]["message"]


@pytest.mark.parametrize(
    "params",
    [
        {"workOrderId": "ab" * 32, "requesterId": "ab"},
        {"workOrderId": "xyz", "requesterId": "ab"},
        {"workOrderId": "ab" * 32},
        {"workOrderId": "ab" * 32, "requesterId": "ab", "more": 1},
    ],
    ids=["unknown order", "no id", "no requester", "unknown member"],
)
async def test_wrong_params(requester: Requester, params: dict[str, Any]) -> None:
    answer = await cancel(requester, params)
    assert answer["code"] == 2
    assert answer["data"]["workOrderId"] == params["workOrderId"]
