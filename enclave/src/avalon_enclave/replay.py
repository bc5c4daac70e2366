"""What keeps a host from having one order answered twice with different results.

The service's store sees to it that an id is used once. It is untrusted, so the enclave keeps a memory of its own:
an order that comes again, byte for byte, gets the very result of the first time, and its workload does not run
again; other bytes under an id that was processed here are refused. Both hold for as long as the memory reaches: the
ids of the last :data:`MAX_ORDERS` orders, and the last :data:`MAX_RESULT_BYTES` of results. A restart of the enclave
empties it: what an order did is then told by its signed result only, and a requester who must know takes a receipt.
"""

import hashlib
import threading
from collections import OrderedDict

from avalon_core.protocol.errors import invalid_order

MAX_ORDERS = 65_536
"""Ids that are remembered: about 10 MB."""

MAX_RESULT_BYTES = 32 * 1024 * 1024
"""Results that are kept. A repetition within so much traffic is answered from memory."""

_DIGEST_BYTES = 16
"""Half of SHA-256: enough against any collision that is worth finding, in half of the memory."""


def fingerprint(params: bytes) -> bytes:
    """Of an order's bytes, exactly as they came."""
    return hashlib.sha256(params).digest()[:_DIGEST_BYTES]


class ReplayGuard:
    """The memory. For any number of threads."""

    def __init__(self, *, max_orders: int = MAX_ORDERS, max_result_bytes: int = MAX_RESULT_BYTES) -> None:
        self._max_orders = max_orders
        self._max_result_bytes = max_result_bytes
        self._lock = threading.Lock()
        self._prints: OrderedDict[bytes, bytes] = OrderedDict()
        self._results: OrderedDict[bytes, bytes] = OrderedDict()
        self._result_bytes = 0

    def answer_of(self, work_order_id: str, print_: bytes) -> bytes | None:
        """The result that these very bytes were given before, or None."""
        key = _key_of(work_order_id)
        with self._lock:
            return self._results.get(key) if self._prints.get(key) == print_ else None

    def admit(self, work_order_id: str, print_: bytes) -> None:
        """Remember an order that opened, before its workload runs.

        Raises:
            WorkOrderError: code 2, other bytes were admitted under this id.
        """
        key = _key_of(work_order_id)
        with self._lock:
            known = self._prints.setdefault(key, print_)
            if known != print_:
                raise invalid_order("workOrderId: this worker has processed another order under this id")
            if len(self._prints) > self._max_orders:
                forgotten, _ = self._prints.popitem(last=False)
                self._result_bytes -= len(self._results.pop(forgotten, b""))

    def settle(self, work_order_id: str, print_: bytes, result: bytes) -> bytes:
        """Keep the result of an order; what is to be answered: the first result that there was."""
        key = _key_of(work_order_id)
        with self._lock:
            if self._prints.get(key) != print_ or len(result) > self._max_result_bytes:
                return result
            first = self._results.setdefault(key, result)
            if first is result:
                self._result_bytes += len(result)
                while self._result_bytes > self._max_result_bytes:
                    _, dropped = self._results.popitem(last=False)
                    self._result_bytes -= len(dropped)
            return first


def _key_of(work_order_id: str) -> bytes:
    return hashlib.sha256(work_order_id.encode()).digest()[:_DIGEST_BYTES]
