"""What a KME does for WPEs: opens the secrets of orders, vouches for one-time keys, signs what only the pool may sign.

Opening one order is these steps:

1. *Form.* The header is a request of this pool's worker; its items carry no data (code 2).
2. *Epoch.* The keys that the order names, or where it names none every epoch that is still good, newest first.
3. *Unlock.* Exactly the secrets that this order needs, and nothing else of the pool's keys (code 1).
4. *Lease.* The WPE may have it: the :class:`Ledger`'s rules. (After the third step, so that nobody can use up an id with
   bytes that do not open.)
5. *Voucher.* A fresh one-time signing key, vouched for with the requester's nonce, unless KMEs sign results here.

For any number of threads: cryptography runs outside of the lock.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from avalon_core.channel.pool import OpenOrder, OrderOpened, SignReceipt, SignResult
from avalon_core.crypto.dialects import HPKE, SESSION_DIALECTS, Dialect, OrderKeys
from avalon_core.crypto.orders import unlock, voucher_digest
from avalon_core.crypto.receipts import RENOUNCED
from avalon_core.crypto.signing import SigningKey
from avalon_core.errors import EncodingError
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.errors import WorkOrderCode, WorkOrderError, failed_order, invalid_order
from avalon_core.protocol.ids import WorkerId, worker_id_of
from avalon_core.protocol.orders import WorkOrderRequest, decode_request
from avalon_core.protocol.receipts import ReceiptStatus, update_digest
from avalon_enclave.pool.ledger import FAILED_TOKEN, Ledger
from avalon_enclave.pool.state import EpochKeys, Pool
from avalon_enclave.receipts import SignedUpdate, sign_failed, sign_finished

_MAX_MESSAGE_CHARS = 256


MAX_HEADERS = 8192
"""Orders whose results are still to be signed here: some kilobytes each."""

_DIALECTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in (HPKE, *SESSION_DIALECTS)}

MAX_REGISTRATIONS = 16_384
"""Runs of WPEs that are remembered, for how many orders each has processed."""


@dataclass(slots=True)
class Registration:
    """One run of a WPE whose evidence was admitted."""

    instance: str
    """Its random name, the same to every KME."""

    orders: set[str] = field(default_factory=set)
    """What was opened for it here and is not finished, while it has a session here."""

    opened: int = 0
    """How many different ones there were, over the whole pool."""


class Office:
    """The KME's desk. See the module."""

    def __init__(self, *, on_opened: Callable[[str, bytes, int, str], None] = lambda *_: None) -> None:
        """``on_opened``: told of each order that was opened or renounced (id, fingerprint, token, instance of the WPE),
        for the peers."""
        self._lock = threading.Lock()
        self._ledger = Ledger()
        self._headers: OrderedDict[tuple[str, str], WorkOrderRequest] = OrderedDict()
        self._registrations: OrderedDict[str, Registration] = OrderedDict()
        self._pool: Pool | None = None
        self._worker_id: WorkerId | None = None
        self._on_opened = on_opened
        self.step_aside: Callable[[], None] = lambda: None
        """Called before a millisecond of RSA, which leaves the interpreter to other threads."""

        self.is_open = False
        """Whether the keys are known to be the newest, and may be used. Its KME says so."""

    def register(self, instance: str) -> Registration:
        """The registration of a run of a WPE: the one that there is, or a new one."""
        with self._lock:
            return self._register(instance)

    def orders_left(self, registration: Registration) -> int:
        """How many more orders the WPE may process; -1: any number."""
        limit = self.pool.manifest.orders_per_wpe
        return max(0, limit - registration.opened) if limit else -1

    def told(self, work_order_id: str, fingerprint: bytes, token: int, instance: str) -> None:
        """A peer opened an order for a WPE, or renounced it."""
        with self._lock:
            if self._ledger.told(work_order_id, fingerprint, token, instance):
                self._register(instance).opened += 1

    def remembered(self) -> Sequence[tuple[str, bytes, int, str]]:
        """All that is remembered, for a peer that joins: id, fingerprint, token, instance of the WPE."""
        with self._lock:
            return self._ledger.entries()

    def gone(self, registration: Registration) -> None:
        """The WPE has no session here any more. What it holds it may still finish by another KME."""
        with self._lock:
            registration.orders.clear()

    def _register(self, instance: str) -> Registration:
        registration = self._registrations.setdefault(instance, Registration(instance))
        self._registrations.move_to_end(instance)
        if len(self._registrations) > MAX_REGISTRATIONS:
            self._registrations.popitem(last=False)
        return registration

    def take_pool(self, pool: Pool) -> None:
        """Use these keys and this manifest from now on."""
        with self._lock:
            self._pool = pool
            self._worker_id = worker_id_of(pool.manifest.worker_name)

    @property
    def pool(self) -> Pool:
        """The keys and the manifest in force."""
        assert self._pool is not None, "the office is open only with a pool"
        return self._pool

    def open(self, registration: Registration, order: OpenOrder) -> OrderOpened:
        """Open one order for a WPE: the module's steps. It raises nothing: a refusal is an answer."""
        try:
            return self._open(registration, order)
        except WorkOrderError as exc:
            return OrderOpened(order.number, code=int(exc.code), message=exc.message[:_MAX_MESSAGE_CHARS])

    def sign_result(self, registration: Registration, asked: SignResult) -> bytes:
        """R under the pool's key, or nothing: results are signed here only where the manifest says so, and only of orders
        that were opened here for this WPE. R is made of that order's own ids, so nothing else can be had signed.
        """
        with self._lock:
            pool = self.pool
            request = self._headers.get((registration.instance, asked.work_order_id))
            holds = self._ledger.holds(asked.work_order_id, registration.instance)
        dialect = _DIALECTS.get(asked.dialect)
        if not pool.manifest.kme_signs_results or request is None or not holds or dialect is None:
            return b""
        try:
            result_hash = dialect.result_hash_of(
                request,
                worker_nonce=asked.worker_nonce,
                items_digest=asked.items_digest,
                request_hash=asked.request_hash,
                ext_verification_key=None,
            )
        except EncodingError:
            return b""
        return pool.signing.sign(result_hash)

    def sign_receipt(self, registration: Registration, asked: SignReceipt) -> bytes:
        """The worker's update of a receipt under the pool's key, or nothing: only of an order that is opened for this WPE.

        An order for which FAILED is signed is never opened again, here or (as soon as they hear of it) at the peers.
        """
        with self._lock:
            pool = self.pool
            if not self._ledger.holds(asked.work_order_id, registration.instance):
                return b""
            if asked.failed:
                self._ledger.renounce(asked.work_order_id)
        if asked.failed:
            self._on_opened(asked.work_order_id, bytes(16), FAILED_TOKEN, registration.instance)
        status = ReceiptStatus.FAILED if asked.failed else ReceiptStatus.PROCESSED
        return pool.signing.sign(
            update_digest(asked.work_order_id, int(status), encode_base64(asked.response_hash))
        )

    def sign_late_receipt(self, params: bytes, result: bytes | None) -> SignedUpdate:
        """The worker's update of a receipt that was created after its order had ended, or was ended by the service.

        With a result: PROCESSED, where the result carries the pool's signature. Without: FAILED, and the order is never
        opened again.

        Raises:
            WorkOrderError: the result is not one of this order; or busy: a WPE has the order in hand, or this KME does not
                serve.
        """
        request = decode_request(params)
        if not self.is_open:
            raise WorkOrderError(WorkOrderCode.BUSY, "this KME does not serve: ask another, or later")
        pool = self.pool
        if request.worker_id != self._worker_id:
            raise invalid_order("workerId: the order is for another worker")
        if result is not None:
            return sign_finished(pool.signing, request, result)
        with self._lock:
            if any(request.work_order_id in one.orders for one in self._registrations.values()):
                # For the moment: a WPE whose order was cancelled is about to let go of it.
                raise WorkOrderError(WorkOrderCode.BUSY, "a WPE processes this order: ask again")
            self._ledger.renounce(request.work_order_id)
        self._on_opened(request.work_order_id, bytes(16), FAILED_TOKEN, "")
        signed = sign_failed(pool.signing, request, failed_order(RENOUNCED))
        if signed is None:
            raise invalid_order("the request cannot be hashed")
        return signed

    def finish(self, registration: Registration, work_order_ids: Sequence[str]) -> None:
        """The WPE is done with these."""
        with self._lock:
            registration.orders.difference_update(work_order_ids)
            for work_order_id in work_order_ids:
                self._headers.pop((registration.instance, work_order_id), None)

    def _open(self, registration: Registration, order: OpenOrder) -> OrderOpened:
        if not self.is_open:
            return _again(order.number, "this KME does not serve any more")
        request = decode_request(order.request)
        pool = self.pool
        if request.worker_id != self._worker_id:  # 1
            raise invalid_order(
                "workerId: the order is for another worker; retrieve the list of workers again"
            )
        if any(item.data for item in (*request.in_data, *request.out_data)):
            raise invalid_order("a WPE sent an order's data to its KME: expected the header alone")
        if not request.is_hpke:
            self.step_aside()
        keys = _unlock(request, pool)  # 2, 3
        with self._lock:  # 4
            known = self._ledger.holds(request.work_order_id, registration.instance)
            limit = pool.manifest.orders_per_wpe
            if not known and limit and registration.opened >= limit:
                return _again(
                    order.number, "this WPE has processed as many orders as it may: start it afresh"
                )
            refusal = self._ledger.admit(
                request.work_order_id, order.fingerprint, order.token, registration.instance
            )
            if refusal is None:
                registration.orders.add(request.work_order_id)
                registration.opened += not known
        if refusal is not None:
            if refusal.final:
                raise invalid_order(f"workOrderId: {refusal.reason}")
            return _again(order.number, refusal.reason)
        self._on_opened(request.work_order_id, order.fingerprint, order.token, registration.instance)
        if pool.manifest.kme_signs_results:
            with self._lock:
                self._headers[registration.instance, request.work_order_id] = request
                if len(self._headers) > MAX_HEADERS:
                    self._headers.popitem(last=False)
            return OrderOpened(order.number, session=keys.session, own=dict(keys.own))
        one_time = SigningKey.generate()  # 5
        digest = voucher_digest(one_time.verification_key.pem, request.requester_nonce)
        return OrderOpened(
            order.number,
            session=keys.session,
            own=dict(keys.own),
            signing_key=one_time.to_bytes(),
            voucher=pool.signing.sign(digest),
            verification_key=one_time.verification_key.pem,
        )


def _again(number: int, reason: str) -> OrderOpened:
    return OrderOpened(number, code=int(WorkOrderCode.BUSY), message=reason, retry=True)


def _unlock(request: WorkOrderRequest, pool: Pool) -> OrderKeys:
    """Under the epoch that the order names; where it names none, under each that is still good.

    Raises:
        WorkOrderError
    """
    refusal: WorkOrderError | None = None
    for epoch in _candidates(request, pool):
        try:
            return unlock(request, epoch.keys)
        except WorkOrderError as exc:
            if exc.code != WorkOrderCode.FAILED:
                raise
            refusal = refusal or exc
    raise refusal or failed_order("the order's keys do not open")


def _candidates(request: WorkOrderRequest, pool: Pool) -> Sequence[EpochKeys]:
    named = request.worker_encryption_key
    if not named:
        return pool.epochs
    if request.is_hpke:
        exact = [epoch for epoch in pool.epochs if epoch.keys.hpke.public_key.key_id == named]
        # Where none has it, the current one says so in the words of a singleton.
        return exact or pool.epochs[:1]
    try:
        pem = bytes.fromhex(named).decode()
    except ValueError:
        return pool.epochs
    return [
        epoch for epoch in pool.epochs if epoch.keys.rsa.public_key.pem.strip() == pem.strip()
    ] or pool.epochs
