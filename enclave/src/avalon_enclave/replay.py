"""What keeps a host from having one order answered twice with different results, or both refused and answered.

The service's store sees to it that an id is used once. It is untrusted, so the enclave keeps a memory of its own:
an order that comes again, byte for byte, gets the very result of the first time, and its workload does not run
again; other bytes under an id that was processed here are refused. Both hold for as long as the memory reaches: the
ids of the last :data:`MAX_ORDERS` orders, and the last :data:`MAX_RESULT_BYTES` of results. A restart of the enclave
empties it: what an order did is then told by its signed result only, and a requester who must know takes a receipt.

A worker that signs that it has *not* answered an order must mean it: the order is *renounced*. None that was answered
can be, and one that was is never answered afterwards, not even where its workload is running at the time. Other bytes
under its id are another order: else anybody could burn an id with garbage.
"""

import hashlib
import threading
from collections import OrderedDict

from avalon_core.crypto.receipts import RENOUNCED
from avalon_core.protocol.errors import WorkOrderCode, WorkOrderError, failed_order, invalid_order

MAX_ORDERS = 65_536
"""Ids that are remembered: about 10 MB."""

MAX_RESULT_BYTES = 32 * 1024 * 1024
"""Results that are kept. A repetition within so much traffic is answered from memory."""

MAX_REFUSALS = 4096
"""Refusals whose words are remembered, for receipts that are created soon after: about 2 MB."""

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
        self._answered: set[bytes] = set()
        """Of these, the ones that have a result, kept or not."""

        self._results: OrderedDict[bytes, bytes] = OrderedDict()
        self._result_bytes = 0
        self._refusals: OrderedDict[bytes, tuple[WorkOrderCode, str]] = OrderedDict()
        """By id and fingerprint, as those below."""

        self._renounced: OrderedDict[bytes, None] = OrderedDict()

    def answer_of(self, work_order_id: str, print_: bytes) -> bytes | None:
        """The result that these very bytes were given before, or None.

        Raises:
            WorkOrderError: the order was renounced.
        """
        key = _key_of(work_order_id)
        with self._lock:
            self._refuse_renounced(key, print_)
            return self._results.get(key) if self._prints.get(key) == print_ else None

    def admit(self, work_order_id: str, print_: bytes) -> None:
        """Remember an order that opened, before its workload runs.

        Raises:
            WorkOrderError: code 2, other bytes were admitted under this id; or it was renounced.
        """
        key = _key_of(work_order_id)
        with self._lock:
            self._refuse_renounced(key, print_)
            if self._prints.setdefault(key, print_) != print_:
                raise invalid_order("workOrderId: this worker has processed another order under this id")
            if len(self._prints) > self._max_orders:
                forgotten, _ = self._prints.popitem(last=False)
                self._answered.discard(forgotten)
                self._result_bytes -= len(self._results.pop(forgotten, b""))

    def settle(self, work_order_id: str, print_: bytes, result: bytes) -> bytes:
        """Keep the result of an order; what is to be answered: the first result that there was.

        Raises:
            WorkOrderError: the order was renounced while its workload ran.
        """
        key = _key_of(work_order_id)
        with self._lock:
            self._refuse_renounced(key, print_)
            if self._prints.get(key) != print_:
                return result
            self._answered.add(key)
            if len(result) > self._max_result_bytes:
                return result
            first = self._results.setdefault(key, result)
            if first is result:
                self._result_bytes += len(result)
                while self._result_bytes > self._max_result_bytes:
                    _, dropped = self._results.popitem(last=False)
                    self._result_bytes -= len(dropped)
            return first

    def note_refusal(self, work_order_id: str, print_: bytes, refusal: WorkOrderError) -> None:
        """Remember the words in which an order was refused, or its failure told."""
        key = _key_of(work_order_id)
        with self._lock:
            self._refusals[key + print_] = WorkOrderCode(refusal.code), refusal.message
            if len(self._refusals) > MAX_REFUSALS:
                self._refusals.popitem(last=False)

    def renounce(self, work_order_id: str, print_: bytes) -> WorkOrderError | None:
        """Do not answer an order from now on.

        Returns:
            The refusal that stands: in its words where it was noted, else in those of
            :data:`avalon_core.crypto.receipts.RENOUNCED`. None: the order was answered, and is not renounced.
        """
        key = _key_of(work_order_id)
        with self._lock:
            if self._prints.get(key) == print_ and key in self._answered:
                return None
            self._renounced[key + print_] = None
            if len(self._renounced) > self._max_orders:
                self._renounced.popitem(last=False)
            return self._refusal(key, print_)

    def _refuse_renounced(self, key: bytes, print_: bytes) -> None:
        if key + print_ in self._renounced:
            raise self._refusal(key, print_)

    def _refusal(self, key: bytes, print_: bytes) -> WorkOrderError:
        noted = self._refusals.get(key + print_)
        return WorkOrderError(*noted) if noted is not None else failed_order(RENOUNCED)


def _key_of(work_order_id: str) -> bytes:
    return hashlib.sha256(work_order_id.encode()).digest()[:_DIGEST_BYTES]
