"""WorkOrderSubmit, WorkOrderGetResult and our own WorkOrderCancel."""

from __future__ import annotations

from collections.abc import Mapping

from avalon_core.protocol.errors import WorkOrderCode, WorkOrderError
from avalon_core.protocol.jsonrpc import Call, Id, encode_error
from avalon_service.listener.bodies import accepted
from avalon_service.listener.methods import GuardedMethod, Method, take_params
from avalon_service.listener.origins import origin
from avalon_service.orders.answers import encode_order
from avalon_service.orders.ports import OrderView
from avalon_service.orders.service import OrderService
from avalon_service.orders.state import OrderState
from avalon_service.registry.operator import Headers, Operator, WrongToken
from avalon_service.registry.workers import WRONG_TOKEN


class WorkOrderMethods:
    """The methods of work orders."""

    def __init__(self, orders: OrderService, operator: Operator | None = None) -> None:
        self._orders = orders
        self._operator = operator

    def table(self) -> Mapping[str, Method]:
        """By their names on the wire."""
        return {"WorkOrderSubmit": self._submit, "WorkOrderGetResult": self._get_result}

    def guarded(self) -> Mapping[str, GuardedMethod]:
        """Those that the operator may call without the requester's proof."""
        return {"WorkOrderCancel": self._cancel}

    async def _submit(self, call: Call, wait: float) -> bytes:
        order = await self._orders.submit(
            take_params(call), wait=wait, call_id=call.id, origin=origin(), accepted=accepted
        )
        return encode_order(call.id, order)

    async def _get_result(self, call: Call, wait: float) -> bytes:
        return encode_order(call.id, await self._orders.result(call.params, wait=wait))

    async def _cancel(self, call: Call, headers: Headers) -> bytes:
        try:
            by_operator = self._operator is not None and self._operator.sent(headers)
        except WrongToken:
            raise WorkOrderError(WorkOrderCode.ACCESS_DENIED, WRONG_TOKEN) from None
        return _encode_cancellation(call.id, await self._orders.cancel(call.params, by_operator=by_operator))


def _encode_cancellation(id_: Id, order: OrderView) -> bytes:
    """Success is an error object of code 0, as of every write; an order that has ended otherwise is code 1."""
    state = order.state.value
    data = {"workOrderId": order.work_order_id, "state": state}
    if order.state is OrderState.CANCELLED:
        return encode_error(id_, WorkOrderCode.SUCCESS, "the order is cancelled", data)
    return encode_error(
        id_, WorkOrderCode.FAILED, f"the order is {state} and cannot be cancelled any more", data
    )
