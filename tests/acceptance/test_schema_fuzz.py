"""Every method with params made from the service's own document, right and nearly right, against a real service.

Whatever comes: never HTTP 500, never an internal error, always a complete answer with a code that the document
declares and a result that keeps to its schema; and the log knows of no failure. ``AVALON_FUZZ_SECONDS`` makes it longer.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import pytest
from foreign_worker import ForeignWorker
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from openrpc_document import Document
from plain_caller import OWN_CODES, Caller
from schema_strategies import anything, beyond, members, nested, valid
from service_process import SUITES, WORKER_ID, Requester, ServiceProcess

from avalon_core.crypto.receipts import create_receipt, sign_update
from avalon_core.crypto.signing import SigningKey

SECONDS = float(os.environ.get("AVALON_FUZZ_SECONDS", "20"))
EXAMPLES = 25
"""Of one method in one round."""

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120 + 2 * int(SECONDS))]

FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
KEY = SigningKey.generate()


@pytest.fixture(scope="module")
def caller(service: ServiceProcess) -> Iterator[Caller]:
    caller = Caller(service)
    yield caller
    caller.close()


@pytest.fixture
async def real_params(requester: Requester) -> dict[str, list[dict[str, Any]]]:
    """Params that really work, or did once: what is next to them reaches far into the service."""
    orders = [requester.seal([b"x"], suite=suite, signer=KEY) for suite in SUITES]
    for order in orders[1:]:
        await requester.submit(order, wait=30)
    fresh, done = orders[0], orders[-1]
    order_id, requester_id = done.request.work_order_id, done.request.requester_id
    receipts = [
        msgspec.to_builtins(create_receipt(order.request, order.request_hash, KEY, worker_service_id="5e"))
        for order in orders
    ]
    await requester.call("WorkOrderReceiptCreate", receipts[-1])
    update = sign_update(
        KEY, work_order_id=order_id, updater_id=requester_id, update_type=300, update_data="x"
    )
    foreign = ForeignWorker()
    await requester.call("WorkerRegister", foreign.signed("WorkerRegister", foreign.registration()))
    other = ForeignWorker()
    return {
        "WorkerLookUp": [{"workerType": 1}],
        "WorkerLookUpNext": [{"lookUpTag": "100"}],
        "WorkerRetrieve": [{"workerId": WORKER_ID}, {"workerId": foreign.worker_id}],
        "WorkerRegister": [other.registration(), other.signed("WorkerRegister", other.registration())],
        "WorkerUpdate": [foreign.update(), foreign.signed("WorkerUpdate", foreign.update())],
        "WorkerSetStatus": [foreign.status(2), foreign.signed("WorkerSetStatus", foreign.status(1))],
        "EncryptionKeyGet": [
            {"workerId": WORKER_ID, "requesterId": requester_id, "tag": "ab"},
            {"workerId": foreign.worker_id, "requesterId": requester_id, "lastUsedKeyNonce": "00"},
        ],
        "EncryptionKeySet": [foreign.pushed_key(), foreign.pushed_key(tag="ab")],
        "RequesterKeySet": [{"requesterId": "ab", "verifyingKey": KEY.verification_key.pem}],
        "RequesterKeyGet": [{"requesterId": "ab"}],
        "WorkOrderSubmit": [msgspec.to_builtins(order.request) for order in (fresh, *orders)],
        "WorkOrderGetResult": [{"workOrderId": order_id}, {"workOrderId": fresh.request.work_order_id}],
        "WorkOrderCancel": [
            {
                "workOrderId": order_id,
                "requesterId": requester_id,
                "encryptedRequestHash": done.request.encrypted_request_hash,
                "signature": "AAAA",
            }
        ],
        "WorkOrderReceiptCreate": receipts,
        "WorkOrderReceiptUpdate": [msgspec.to_builtins(update)],
        "WorkOrderReceiptRetrieve": [{"workOrderId": order_id}],
        "WorkOrderReceiptUpdateRetrieve": [
            {"workOrderId": order_id, "updateIndex": 1, "updaterId": WORKER_ID}
        ],
        "WorkOrderReceiptLookUp": [{"workerId": WORKER_ID, "receiptStatus": 255}],
        "WorkOrderReceiptLookUpNext": [{"lookUpTag": "after-1-of-2"}],
        "PoolStatus": [{}],
        "PoolRotate": [{"workerId": WORKER_ID}],
        "PoolDrain": [{}],
        "PoolChange": [{"change": '{"manifest":"e30=","signatures":{}}'}],
        "PoolShares": [{}],
        "PoolRecover": [{"recovery": "{}"}],
        "PoolShare": [{"share": "{}", "workerId": WORKER_ID}],
        "rpc.discover": [{}],
    }


@st.composite
def mutated(
    draw: Callable[[st.SearchStrategy[Any]], Any],
    schema: Mapping[str, Any],
    document: Document,
    bases: list[dict[str, Any]],
) -> Any:
    """Params as the schema has them or as they really were sent, with some members missing, wrong or too many."""
    params = dict(draw(st.sampled_from(bases) | members(schema, document.resolve)))
    properties = schema["properties"]
    for _ in range(draw(st.integers(0, 3))):
        known = sorted(params)
        match draw(st.sampled_from(["drop", "beyond", "valid", "extra", "inside", "replace"])):
            case "drop" if known:
                del params[draw(st.sampled_from(known))]
            case "beyond" if known:
                name = draw(st.sampled_from(known))
                params[name] = draw(beyond(properties.get(name, {}), document.resolve))
            case "valid" if properties:
                name = draw(st.sampled_from(sorted(properties)))
                params[name] = draw(valid(properties[name], document.resolve))
            case "extra":
                params[draw(st.text(max_size=12) | st.just("long" * 5000))] = draw(anything)
            case "inside" if known:
                name = draw(st.sampled_from(known))
                params[name] = _changed_within(draw, params[name])
            case "replace":
                return draw(st.just(params) | anything | st.just(nested(100)))
    return params


def _changed_within(draw: Callable[[st.SearchStrategy[Any]], Any], value: Any) -> Any:
    """A small change somewhere inside."""
    match value:
        case str() if value:
            at = draw(st.integers(0, len(value) - 1))
            return value[:at] + draw(st.sampled_from(["", "0", "A", "é", value[at] * 2])) + value[at + 1 :]
        case dict() if value:
            name = draw(st.sampled_from(sorted(value)))
            return {**value, name: draw(anything | st.just(_changed_within(draw, value[name])))}
        case list() if value:
            at = draw(st.integers(0, len(value) - 1))
            return [*value[:at], _changed_within(draw, value[at]), *value[at:]]
        case int():
            return value + draw(st.sampled_from([-1, 1, 2**32, 2**64]))
        case _:
            return draw(anything)


def test_params_from_the_document(
    caller: Caller, real_params: dict[str, list[dict[str, Any]]], service: ServiceProcess
) -> None:
    methods = caller.document.methods
    assert set(real_params) == set(methods)

    def run(method: str) -> None:
        params_like = mutated(caller.document.params_schema(method), caller.document, real_params[method])

        @FUZZ
        @given(params=params_like, as_operator=st.booleans(), wait=st.integers(0, 1))
        def attack(params: Any, as_operator: bool, wait: int) -> None:
            # Or there would be no worker left to send orders to.
            spared = isinstance(params, dict) and params.get("workerId") == WORKER_ID
            caller.call(method, params, as_operator=as_operator and not spared, wait=wait)

        attack()

    for method, bases in real_params.items():
        for params in bases:
            caller.call(method, params)
    began, rounds = time.monotonic(), 0
    while rounds == 0 or time.monotonic() < began + SECONDS:
        for method in methods:
            run(method)
            if rounds and time.monotonic() > began + SECONDS:
                break
        rounds += 1
    print(f"{caller.calls} calls in {time.monotonic() - began:.0f} s:\n{caller.show()}")
    # The fuzzer reaches what is behind the checks of form, or it would say little.
    beyond = {method for method, seen in caller.seen.items() if set(seen) - {2, *OWN_CODES}}
    # A look-up's next page has hardly any params that are right, so chance may keep the fuzzer out of one or two.
    assert len(beyond) >= len(methods) - 3, sorted(set(methods) - beyond)
    assert "Traceback" not in service.log
    assert "call failed" not in service.log


async def test_the_service_is_as_it_was(requester: Requester, service: ServiceProcess) -> None:
    """Runs last: an order is still processed, by the same enclave."""
    sealed = requester.seal([b"x"], signer=KEY)
    assert requester.open(sealed, await requester.submit(sealed, wait=30)) == [b"RESULT: x"]
    assert json.loads((await requester.get("/status"))[1])["workers"][0]["restarts"] == 0
    assert "Traceback" not in service.log
