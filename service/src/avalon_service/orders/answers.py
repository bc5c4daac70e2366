"""What an order is answered with, wherever the answer goes: to a caller, or to an address that the requester named.

Results become what existing clients expect: a pending order is an *error object* of code 5, and so on. Nothing further
in knows of that habit.
"""

from __future__ import annotations

from avalon_core.protocol.errors import WorkOrderCode
from avalon_core.protocol.jsonrpc import Id, encode_error, encode_success
from avalon_service.orders.ports import OrderView
from avalon_service.orders.state import OrderState


def encode_order(id_: Id, order: OrderView) -> bytes:
    """The whole answer: the result, the failure, or that there is none yet."""
    if order.state is OrderState.COMPLETED and order.result is not None:
        # Put together by hand: an encoder would grow its buffer many times over on the way to a large result.
        return b"".join((encode_success(id_, None).removesuffix(b"null}"), order.result, b"}"))
    data = {"workOrderId": order.work_order_id}
    if order.error is not None:
        return encode_error(id_, order.error.code, order.error.message, data)
    # Existing clients poll on while they read code 5 and stop at any other, so "processing" is 5, too.
    return encode_error(id_, WorkOrderCode.PENDING, "pending: ask again with WorkOrderGetResult", data)


def encode_notification(id_: Id, work_order_id: str) -> bytes:
    """That an order is finished, and nothing of how."""
    return encode_success(id_, {"workOrderId": work_order_id})
