"""A pool is one worker to the outside: what clients see of a singleton they see of it. The same tests, against a pool.

Among them are the orders of the original's clients, unmodified. Left out are tests that kill or stop "the enclave" (the
pool has its own), and the one for which a worker must remember why it refused an order: a KME was never told.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from types import ModuleType

import aiohttp
import pytest
import test_keys
import test_orders
import test_receipts
from pool_service import POOL
from service_process import Requester, ServiceProcess
from test_receipts import Slow

pytestmark = [pytest.mark.acceptance]

_OF_THEIR_OWN = {"start", "slow", "slow_workload"}
"""Fixtures of tests that start services of their own."""

_WITH_SLOW = {
    "test_a_receipt_of_an_order_that_waits_gets_the_worker_s_word_with_its_answer",
    "test_a_receipt_of_an_order_in_process_gets_the_worker_s_word",
    "test_a_refusal_is_signed_too",
}


def same_for_a_pool(module: ModuleType) -> dict[str, object]:
    """Those that are the same for a pool."""
    return {
        name: test
        for name, test in vars(module).items()
        if name.startswith("test_")
        and callable(test)
        and (name in _WITH_SLOW or not _OF_THEIR_OWN & set(inspect.signature(test).parameters))
    }


for _module in (test_orders, test_keys, test_receipts):
    globals().update(same_for_a_pool(_module))

token, processed = test_keys.token, test_receipts.processed


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    running = ServiceProcess(tmp_path_factory.mktemp("service") / "data", environment=POOL)
    try:
        yield running.wait_ready()
        assert len(running.enclaves()) == 4, "an enclave has ended meanwhile"
        assert "restarted" not in running.log, running.log
        assert running.stop() == 0, running.log
        assert "Traceback" not in running.log, running.log
    finally:
        running.kill()


@pytest.fixture(scope="module")
def slow_service(tmp_path_factory: pytest.TempPathFactory, slow_workload: object) -> Iterator[ServiceProcess]:
    """One WPE that has one order in hand at a time, so that it can be held up."""
    environment = POOL | {"PYTHONPATH": str(slow_workload), "AVALON_IN_FLIGHT": "1", "AVALON_POOL_WPES": "1"}
    running = ServiceProcess(tmp_path_factory.mktemp("slow") / "data", environment=environment)
    try:
        yield running.wait_ready()
        assert running.stop() == 0, running.log
    finally:
        running.kill()


@pytest.fixture
async def slow(slow_service: ServiceProcess, session: aiohttp.ClientSession) -> Slow:
    requester = Requester(slow_service.url, session)
    await requester.meet_worker()
    return Slow(slow_service, requester)


async def test_the_pool_s_word_on_an_order_that_failed_before_there_was_a_receipt(slow: Slow) -> None:
    """A KME does not know why a WPE refused it. What it says is true all the same, and it never opens the order again."""
    requester = slow.requester
    for workload in ("no-such-workload", "test-raise"):
        sealed = requester.seal([b"x"], workload=workload)
        assert "error" in await requester.submit(sealed, wait=30)
        test_receipts.assert_done(await test_receipts.create(requester, sealed), sealed)
        assert await test_receipts.status_of(requester, sealed) == test_receipts.FAILED
        data = test_receipts.failure(sealed, {"code": 1, "message": test_receipts.RENOUNCED})
        await test_receipts.assert_worker_s_word(requester, sealed, test_receipts.FAILED, data)


async def test_the_pool_s_word_on_an_order_that_was_cancelled(slow: Slow) -> None:
    """The WPE lets go of it in the same moment: the KME that is asked too early is asked again."""
    requester = slow.requester
    sealed = requester.seal([b"20"], workload="test-sleep")
    await requester.submit(sealed)
    await asyncio.sleep(0.2)
    test_receipts.assert_done(await test_receipts.create(requester, sealed), sealed)
    request = sealed.request
    params = {
        "workOrderId": request.work_order_id,
        "requesterId": request.requester_id,
        "encryptedRequestHash": request.encrypted_request_hash,
    }
    assert (await requester.call("WorkOrderCancel", params))["error"]["code"] == 0
    assert await test_receipts.status_of(requester, sealed) == test_receipts.FAILED
    data = test_receipts.failure(sealed, {"code": 1, "message": test_receipts.RENOUNCED})
    await test_receipts.assert_worker_s_word(requester, sealed, test_receipts.FAILED, data)


async def test_orders_of_all_suites_at_once(requester: Requester) -> None:
    """More than the WPEs take in one turn."""
    orders = [requester.seal([b"%d" % number], suite=test_orders.SUITES[number % 3]) for number in range(200)]
    answers = await asyncio.gather(*(requester.submit(order, wait=30) for order in orders))
    for number, (order, answer) in enumerate(zip(orders, answers, strict=True)):
        assert requester.open(order, answer) == [b"RESULT: %d" % number]
        assert answer["result"]["extVerificationKey"]
        assert answer["result"]["extVerificationKeySignature"]
    assert len({answer["result"]["extVerificationKey"] for answer in answers}) == 200
