"""The life of one order, without any store."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avalon_service.orders import state
from avalon_service.orders.errors import InvalidTransition, OrderError, StaleClaim
from avalon_service.orders.state import Order, OrderFailure, OrderState

FAILURE = OrderFailure(code=1, message="no")
SCHEDULED = Order(
    work_order_id="a", worker_id="w", requester_id="r", digest=bytes(32), sequence=1, accepted_at=100.0
)
PROCESSING = state.claim(SCHEDULED, token=7, until=130.0, now=100.0)
Event = Callable[[Order, float], Order]

EVENTS: dict[str, Event] = {
    "claim": lambda order, now: state.claim(order, token=order.token + 1, until=now + 30, now=now),
    "extend": lambda order, now: state.extend(order, token=order.token, until=now + 30),
    "lapse": lambda order, _: state.lapse(order),
    "release": lambda order, _: state.release(order, token=order.token),
    "crash": lambda order, now: state.crash(order, token=order.token, max_crashes=3, now=now),
    "complete": lambda order, now: state.complete(order, token=order.token, result=b"r", now=now),
    "stale complete": lambda order, now: state.complete(order, token=order.token - 1, result=b"s", now=now),
    "fail": lambda order, now: state.fail(order, token=order.token, failure=FAILURE, now=now),
    "cancel": lambda order, now: state.cancel(order, failure=FAILURE, now=now),
    "expire": lambda order, now: state.expire(order, now=now),
}


@given(
    st.lists(st.tuples(st.sampled_from(sorted(EVENTS)), st.floats(0, 1000)), max_size=30),
    st.none() | st.just(500.0),
)
def test_no_history_breaks_the_rules(history: list[tuple[str, float]], deadline: float | None) -> None:
    order = Order(
        work_order_id="a",
        worker_id="w",
        requester_id="r",
        digest=b"",
        sequence=1,
        accepted_at=100.0,
        deadline=deadline,
    )
    for event, now in history:
        before = order
        try:
            order = EVENTS[event](order, now)
        except OrderError:
            assert order is before
            continue
        assert not before.state.final, "a final order changed"
        assert event != "stale complete"
        assert order.token >= before.token
        assert order.crashes <= 3
        assert (order.sequence, order.accepted_at, order.digest) == (1, 100.0, b"")
        if order.state is OrderState.COMPLETED:
            assert deadline is None or now < deadline
        if order.finished_at is not None:
            assert order.finished_at >= order.accepted_at


@pytest.mark.parametrize(
    ("event", "order", "error"),
    [
        pytest.param("claim", PROCESSING, InvalidTransition, id="a claimed order is not claimed again"),
        pytest.param("lapse", SCHEDULED, InvalidTransition, id="an unclaimed order has no lease to end"),
        pytest.param("complete", SCHEDULED, StaleClaim, id="an unclaimed order has no result"),
        pytest.param("stale complete", PROCESSING, StaleClaim, id="an older token completes nothing"),
        pytest.param(
            "cancel", EVENTS["expire"](SCHEDULED, 1.0), InvalidTransition, id="a final order stays final"
        ),
    ],
)
def test_what_an_order_does_not_allow(event: str, order: Order, error: type[OrderError]) -> None:
    with pytest.raises(error, match="work order 'a'"):
        EVENTS[event](order, 100.0)


def test_a_token_must_be_greater_than_the_last() -> None:
    with pytest.raises(InvalidTransition, match="got token 7, expected more than 7"):
        state.claim(state.lapse(PROCESSING), token=7, until=130.0, now=100.0)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"lease_until": 1.0}, id="a scheduled order with a lease"),
        pytest.param({"state": OrderState.PROCESSING}, id="a processing order without a lease"),
        pytest.param(
            {"state": OrderState.COMPLETED, "finished_at": 1.0}, id="a completed order without a result"
        ),
        pytest.param({"state": OrderState.FAILED, "finished_at": 1.0}, id="a failed order without a reason"),
        pytest.param({"state": OrderState.COMPLETED, "result": b""}, id="a completed order without a time"),
        pytest.param({"result": b""}, id="a scheduled order with a result"),
        pytest.param({"error": FAILURE}, id="a scheduled order with a failure"),
    ],
)
def test_an_order_that_exists_is_well_formed(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Order(
            work_order_id="a",
            worker_id="w",
            requester_id="r",
            digest=b"",
            sequence=1,
            accepted_at=0.0,
            **fields,
        )
