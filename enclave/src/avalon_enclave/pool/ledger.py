"""Which order was opened for which WPE: what keeps an order from being opened twice at a time, or under other bytes.

The rules, for an order that a WPE asks for under the fencing token of its host's claim:

1. One id, one order: other bytes than those that were opened under the id before are refused for good.
2. An order for which the pool has signed that it failed is refused for good.
3. The highest token wins: a lower one is stale, and so is the same token from another WPE.
4. A WPE that starts afresh after N orders gets no more than N different orders opened.

An order that goes to another WPE under a higher token is counted for both. The ids of the last :data:`MAX_ORDERS` orders
are remembered. Peers tell each other what they opened before they answer the WPE, and tell all that they remember to one
that joins, before it serves. So the rules hold over the pool, but for what two KMEs that cannot hear each other open
meanwhile, and after all KMEs were gone at a time: the service's store takes only one answer of an order in any case.
"""

from collections import OrderedDict
from dataclasses import dataclass

MAX_ORDERS = 262_144
"""About 60 MB at most."""

_NO_FINGERPRINT = bytes(16)
"""Of an order that was renounced before anybody asked for it: as long as any, as it is told to the peers."""

FAILED_TOKEN = -1
"""In the place of a token: the order is renounced."""


@dataclass(frozen=True, slots=True)
class OpenedOrder:
    """One entry."""

    fingerprint: bytes
    token: int
    holder: str
    """The WPE's instance."""

    @property
    def rank(self) -> tuple[int, bytes, str]:
        """The greatest wins, at every KME: two under one token were opened by KMEs that could not hear each other."""
        return self.token, self.fingerprint, self.holder


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an order is not opened."""

    final: bool
    """No KME will ever open it; else it is the claim that is stale."""

    reason: str


class Ledger:
    """The memory. For one thread at a time: its owner has the lock."""

    def __init__(self, *, max_orders: int = MAX_ORDERS) -> None:
        self._max_orders = max_orders
        self._orders: OrderedDict[str, OpenedOrder] = OrderedDict()

    def __len__(self) -> int:
        return len(self._orders)

    def admit(self, work_order_id: str, fingerprint: bytes, token: int, holder: str) -> Refusal | None:
        """Note that the order is opened for ``holder``, or say why it is not."""
        known = self._orders.get(work_order_id)
        if known is not None:
            if known.token == FAILED_TOKEN:
                return Refusal(final=True, reason="the pool has signed that this order failed")
            if known.fingerprint != fingerprint:
                return Refusal(final=True, reason="this pool has processed another order under this id")
            if token < known.token or (token == known.token and holder != known.holder):
                return Refusal(final=False, reason="the claim is stale: another processes the order")
        self._put(work_order_id, OpenedOrder(fingerprint, token, holder))
        return None

    def entries(self) -> list[tuple[str, bytes, int, str]]:
        """All, the oldest first: id, fingerprint, token, holder."""
        return [(id_, entry.fingerprint, entry.token, entry.holder) for id_, entry in self._orders.items()]

    def holds(self, work_order_id: str, holder: str) -> bool:
        """Whether the order is opened for this WPE, now."""
        known = self._orders.get(work_order_id)
        return known is not None and known.holder == holder and known.token != FAILED_TOKEN

    def renounce(self, work_order_id: str) -> None:
        """Never open this order again."""
        known = self._orders.get(work_order_id)
        self._put(
            work_order_id,
            OpenedOrder(
                known.fingerprint if known else _NO_FINGERPRINT, FAILED_TOKEN, known.holder if known else ""
            ),
        )

    def told(self, work_order_id: str, fingerprint: bytes, token: int, holder: str) -> bool:
        """A peer opened it for that WPE, or renounced it. Whether it is news that this WPE has it.

        Told again, it is neither news nor younger: a host that has the peers tell each other all again cannot move what
        is still needed out of the memory.
        """
        known = self._orders.get(work_order_id)
        if token == FAILED_TOKEN:
            if known is None or known.token != FAILED_TOKEN:
                self._put(work_order_id, OpenedOrder(fingerprint, FAILED_TOKEN, holder))
            return False
        entry = OpenedOrder(fingerprint, token, holder)
        if known is not None and (known.token == FAILED_TOKEN or known.rank >= entry.rank):
            return False
        self._put(work_order_id, entry)
        return known is None or known.holder != holder

    def _put(self, work_order_id: str, entry: OpenedOrder) -> None:
        self._orders[work_order_id] = entry
        self._orders.move_to_end(work_order_id)
        if len(self._orders) > self._max_orders:
            self._orders.popitem(last=False)
