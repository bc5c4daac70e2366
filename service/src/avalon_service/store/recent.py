"""The finished orders that were used last, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict

from avalon_service.orders.state import Order

_OVERHEAD = 1024
"""What an order without a result takes, generously: it bounds the number of small ones."""


class RecentOrders:
    """A cache of final orders, least recently used out first. Final orders never change, so it is never wrong."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._orders: OrderedDict[str, Order] = OrderedDict()

    def get(self, work_order_id: str) -> Order | None:
        """The order, if it is still here."""
        order = self._orders.get(work_order_id)
        if order is not None:
            self._orders.move_to_end(work_order_id)
        return order

    def put(self, order: Order) -> None:
        """Remember a final order, unless it alone would push most others out."""
        size = _size(order)
        if size > self._capacity // 4:
            return
        self.drop(order.work_order_id)
        self._orders[order.work_order_id] = order
        self._size += size
        while self._size > self._capacity:
            _, oldest = self._orders.popitem(last=False)
            self._size -= _size(oldest)

    def drop(self, work_order_id: str) -> None:
        """Forget an order."""
        order = self._orders.pop(work_order_id, None)
        if order is not None:
            self._size -= _size(order)


def _size(order: Order) -> int:
    return _OVERHEAD + len(order.result or b"")
