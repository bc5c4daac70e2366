"""WorkOrderSubmit and WorkOrderGetResult.

Here, at the outermost edge, results become what existing clients expect: a pending order is an *error object* of
code 5, and so on. Nothing further in knows of that habit.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from avalon_core.protocol.errors import WorkOrderCode
from avalon_core.protocol.jsonrpc import Call, Id, encode_error, encode_success
from avalon_service.listener.methods import Method
from avalon_service.orders.ports import OrderView
from avalon_service.orders.service import OrderService
from avalon_service.orders.state import OrderState


class WorkOrderMethods:
    """The methods of work orders."""

    def __init__(self, orders: OrderService) -> None:
        self._orders = orders

    def table(self) -> Mapping[str, Method]:
        """By their names on the wire."""
        return {"WorkOrderSubmit": self._submit, "WorkOrderGetResult": self._get_result}

    async def _submit(self, call: Call, wait: float) -> bytes:
        return encode_order(call.id, await self._orders.submit(call.params, wait=wait))

    async def _get_result(self, call: Call, wait: float) -> bytes:
        return encode_order(call.id, await self._orders.result(call.params, wait=wait))


def encode_order(id_: Id, order: OrderView) -> bytes:
    """What a work order method answers of an order."""
    if order.state is OrderState.COMPLETED and order.result is not None:
        return encode_success(id_, msgspec.Raw(order.result))
    data = {"workOrderId": order.work_order_id}
    if order.error is not None:
        return encode_error(id_, order.error.code, order.error.message, data)
    # Existing clients poll on while they read code 5 and stop at any other, so "processing" is 5, too.
    return encode_error(id_, WorkOrderCode.PENDING, "pending: ask again with WorkOrderGetResult", data)
