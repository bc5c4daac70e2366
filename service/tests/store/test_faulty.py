"""The wrapper that fails on purpose."""

from __future__ import annotations

import inspect

import pytest

from avalon_service.deliveries.ports import DeliveryStore
from avalon_service.orders.ports import NewOrder, OrderStore, WorkerDirectory
from avalon_service.orders.receipt_ports import ReceiptStore
from avalon_service.store.faulty import (
    Faults,
    FaultyDeliveries,
    FaultyOrders,
    FaultyReceipts,
    FaultyStore,
    FaultyWorkers,
    InjectedFault,
)
from avalon_service.store.memory import MemoryStore

ORDER = NewOrder(work_order_id="a", worker_id="w", requester_id="r", request=b"{}")


async def test_a_failing_call_has_no_effect() -> None:
    store = FaultyStore(MemoryStore())
    store.faults.fail("submit")
    with pytest.raises(InjectedFault):
        await store.orders.submit(ORDER)
    assert await store.orders.get("a") is None
    assert (await store.orders.submit(ORDER)).fresh


async def test_a_call_whose_answer_is_lost_took_effect() -> None:
    store = FaultyStore(MemoryStore())
    store.faults.lose_answer("submit")
    with pytest.raises(InjectedFault):
        await store.orders.submit(ORDER)
    assert not (await store.orders.submit(ORDER)).fresh


async def test_faults_begin_after_and_end_after_the_calls_named() -> None:
    store = FaultyStore(MemoryStore())
    store.faults.fail("counts", after=1, times=2)
    outcomes = []
    for _ in range(4):
        try:
            await store.orders.counts()
            outcomes.append(True)
        except InjectedFault:
            outcomes.append(False)
    assert outcomes == [True, False, False, True]
    assert store.faults.calls["counts"] == 4


def test_a_verb_that_does_not_exist_cannot_fail() -> None:
    with pytest.raises(ValueError, match="verb"):
        Faults().fail("sumbit")


@pytest.mark.parametrize(
    ("port", "wrapper"),
    [
        (OrderStore, FaultyOrders),
        (WorkerDirectory, FaultyWorkers),
        (ReceiptStore, FaultyReceipts),
        (DeliveryStore, FaultyDeliveries),
    ],
)
def test_the_wrapper_has_the_port_s_very_signatures(port: type, wrapper: type) -> None:
    for name, verb in inspect.getmembers(port, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(wrapper, name)) == inspect.signature(verb), name
