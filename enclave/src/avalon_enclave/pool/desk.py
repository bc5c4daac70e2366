"""Where a WPE gets what it has not itself: the secrets of an order, and signatures that only the pool may give.

Secrets are fetched before an order stands in line, so no thread waits for them, and those of many orders travel together.
A signature of the pool's key (receipts; results, where KMEs sign them) is waited for in the thread that needs it: it is rare, or
chosen for being strict and not for being fast.
"""

import threading
from collections.abc import Callable

from avalon_core.channel.messages import Process
from avalon_core.channel.pool import OpenOrder, OrderOpened, Signed, SignReceipt, SignResult
from avalon_core.crypto.dialects import Dialect, OrderKeys
from avalon_core.crypto.orders import PoolVoucher
from avalon_core.crypto.receipts import failure_hash, signed_response_hash
from avalon_core.crypto.signing import SigningKey, load_verification_key
from avalon_core.errors import ChannelError, EncodingError, KeyFormatError, SignatureMismatch
from avalon_core.protocol.errors import WorkOrderCode, WorkOrderError
from avalon_core.protocol.orders import WorkOrderRequest, decode_request, decode_result, header_of
from avalon_enclave.pool.wpe import Answer, Request, WpeNode
from avalon_enclave.processor import Secrets
from avalon_enclave.receipts import SignedUpdate
from avalon_enclave.replay import fingerprint

_SIGN_SECONDS = 25.0
"""Longer than the node's patience, which answers first."""

_BUSY = "no key management enclave could be asked; the order is handed over again"


class Desk:
    """One WPE's. For any number of threads."""

    def __init__(self, node: WpeNode, *, step_aside: Callable[[], None] = lambda: None) -> None:
        """``step_aside``: called before a thread waits for a signature."""
        self._node = node
        self._step_aside = step_aside
        self._lock = threading.Lock()
        self._in_hand: dict[int, str] = {}
        """Ids of orders by handle, from the asking for their secrets to their answers."""

        self._finished: list[str] = []
        """Orders of which the KMEs are still to be told that they are done with."""

    def fetch(self, message: Process, then: Callable[[Secrets | WorkOrderError], None]) -> None:
        """Ask for the secrets of an order; ``then`` is called once, in any thread."""
        try:
            request = decode_request(message.request)
        except WorkOrderError as exc:
            then(exc)
            return
        header, print_ = header_of(request), fingerprint(message.request)
        with self._lock:
            self._in_hand[message.handle] = request.work_order_id

        def answered(answer: Answer | None) -> None:
            then(self._secrets(request, print_, answer))

        try:
            self._node.ask(lambda number: OpenOrder(number, message.handle, header, print_), answered)
        except ChannelError:
            then(WorkOrderError(WorkOrderCode.BUSY, _BUSY))

    def let_go(self, handle: int, *, failed: bool) -> None:
        """An order is answered. To be called before the host hears of it: where it has failed, a KME is asked at once to
        sign that, and does so only for orders that no WPE has in hand. Of others KMEs are told in batches."""
        with self._lock:
            work_order_id = self._in_hand.pop(handle, None)
            if work_order_id is not None:
                self._finished.append(work_order_id)
        if failed:
            self.tell_finished()

    def tell_finished(self) -> None:
        """Tell the KMEs which orders are done with. To be called every second or so, and soon where it matters."""
        with self._lock:
            finished, self._finished = tuple(self._finished), []
        if finished:
            self._node.finished(finished)

    def _secrets(
        self, request: WorkOrderRequest, print_: bytes, answer: Answer | None
    ) -> Secrets | WorkOrderError:
        if not isinstance(answer, OrderOpened):
            return WorkOrderError(WorkOrderCode.BUSY, _BUSY)
        if answer.code:
            return WorkOrderError(WorkOrderCode(answer.code), answer.message)
        keys = OrderKeys(session=answer.session, own=answer.own)
        if not answer.signing_key:
            signs = _KmeSigner(self, request.work_order_id)
            return Secrets(keys=keys, signer=signs, request=request, print_=print_)
        try:
            signer = SigningKey(answer.signing_key)
        except KeyFormatError:
            return WorkOrderError(WorkOrderCode.BUSY, _BUSY)
        voucher = PoolVoucher(verification_key_pem=answer.verification_key, signature=answer.voucher)
        return Secrets(keys=keys, signer=signer, voucher=voucher, request=request, print_=print_)

    # -- words of receipts: satisfies avalon_enclave.processor.Words

    def processed(self, work_order_id: str, response_hash: bytes) -> SignedUpdate:
        signature = self.sign(lambda number: SignReceipt(number, work_order_id, False, response_hash))
        return SignedUpdate(response_hash=response_hash, signature=signature)

    def finished(self, request: WorkOrderRequest, result: bytes) -> SignedUpdate:
        key = self._node.verification_key
        if key is None:
            raise WorkOrderError(WorkOrderCode.BUSY, _BUSY)
        try:
            response_hash = signed_response_hash(request, decode_result(result), load_verification_key(key))
        except SignatureMismatch as exc:
            raise WorkOrderError(WorkOrderCode.INVALID_SIGNATURE, exc.message) from None
        return self.processed(request.work_order_id, response_hash)

    def failed(self, request: WorkOrderRequest, refusal: WorkOrderError) -> SignedUpdate | None:
        try:
            response_hash = failure_hash(request, int(refusal.code), refusal.message)
            signature = self.sign(
                lambda number: SignReceipt(number, request.work_order_id, True, response_hash)
            )
        except (EncodingError, WorkOrderError):
            # An order that no KME opened for this WPE: the pool says nothing of it, and its receipt goes without.
            return None
        return SignedUpdate(response_hash=response_hash, signature=signature)

    def sign(self, request: Callable[[int], Request]) -> bytes:
        """Have a KME sign.

        Raises:
            WorkOrderError: busy; no KME could be asked, or it did not open this order for this WPE.
        """
        done = threading.Event()
        heard: list[Answer | None] = []

        def answered(answer: Answer | None) -> None:
            heard.append(answer)
            done.set()

        self._step_aside()
        try:
            self._node.ask(request, answered)
        except ChannelError:
            raise WorkOrderError(WorkOrderCode.BUSY, _BUSY) from None
        if not done.wait(_SIGN_SECONDS):
            raise WorkOrderError(WorkOrderCode.BUSY, _BUSY)
        answer = heard[0]
        if not isinstance(answer, Signed) or not answer.signature:
            raise WorkOrderError(WorkOrderCode.BUSY, _BUSY)
        return answer.signature


class _KmeSigner:
    """Has results signed with the pool's key, which a KME holds."""

    def __init__(self, desk: Desk, work_order_id: str) -> None:
        self._desk = desk
        self._work_order_id = work_order_id

    def sign_result(
        self, dialect: Dialect, *, worker_nonce: str, items_digest: bytes, request_hash: bytes
    ) -> bytes:
        return self._desk.sign(
            lambda number: SignResult(
                number, self._work_order_id, dialect.name, worker_nonce, items_digest, request_hash
            )
        )
