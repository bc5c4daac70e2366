"""One order from ciphertext to signed ciphertext, and nothing else: no thread, no channel, no clock.

1. *Form.* The request is well formed, and it is this worker's (code 2).
2. *Workload.* It names a workload that is offered here (code 9).
3. *Legacy.* Where one key and iv would encrypt several messages, the configuration must allow it (code 2).
4. *Unlock.* The worker's private keys open the order's secrets (code 1).
5. *Open.* Request hash, requester's signature and every input (codes 1, 2 and 4).
6. *Owners' keys.* As 3, for keys that only show to be equal once they are open (code 2). In our own suite the
   fourth step has seen to it.
7. *Limits.* The inputs are within what the workload takes (code 2).
8. *Replay.* No other bytes were processed under the order's id (code 2).
9. *Run.* The workload, in its runtime (code 1).
10. *Seal and sign.* In the suite in which the order came.

An order that comes again byte for byte is answered with the result that it was given, and one for which the worker has
signed that it failed is refused for ever (:mod:`avalon_enclave.replay`).

Every refusal is a :class:`WorkOrderError`, whose message quotes nothing of the order.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from avalon_core.crypto.dialects import OrderKeys, WorkerKeys
from avalon_core.crypto.orders import (
    OpenedOrder,
    PoolVoucher,
    ResultSigner,
    nonce_reuse,
    open_order,
    seal_result,
    unlock,
)
from avalon_core.crypto.signing import SigningKey, VerificationKey, load_verification_key
from avalon_core.errors import KeyFormatError
from avalon_core.protocol.errors import WorkOrderCode, WorkOrderError, failed_order, invalid_order
from avalon_core.protocol.ids import WorkerId, workload_id_of, workload_name_of
from avalon_core.protocol.orders import WorkOrderRequest, decode_request, encode_result
from avalon_enclave.receipts import SignedUpdate, sign_failed, sign_finished, sign_processed
from avalon_enclave.replay import ReplayGuard, fingerprint
from avalon_enclave.runtimes.base import Control, Runtime
from avalon_enclave.workloads.base import Context, Limits

CANCELLED = "the order was cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Processed:
    """What comes of an order that succeeds."""

    result: bytes
    """JSON of the result."""

    legacy: bool
    """The order repeats a key and iv, and was accepted."""

    receipt: SignedUpdate | None = None
    """The worker's update of the order's receipt, where it was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What one order is opened and answered with."""

    keys: OrderKeys = field(repr=False)
    signer: SigningKey | ResultSigner = field(repr=False)
    voucher: PoolVoucher | None = None
    """In a pool: the pool's word for the key of ``signer``; None where the pool's own key signs."""

    request: WorkOrderRequest | None = field(default=None, repr=False)
    """The very order that the keys are of, read; None: it is read once more."""

    print_: bytes | None = None
    """Its fingerprint."""


class Words(Protocol):
    """Who signs the worker's updates of receipts (:mod:`avalon_enclave.receipts`)."""

    def processed(self, work_order_id: str, response_hash: bytes) -> SignedUpdate:
        """As :func:`avalon_enclave.receipts.sign_processed`."""

    def finished(self, request: WorkOrderRequest, result: bytes) -> SignedUpdate:
        """As :func:`avalon_enclave.receipts.sign_finished`."""

    def failed(self, request: WorkOrderRequest, refusal: WorkOrderError) -> SignedUpdate | None:
        """As :func:`avalon_enclave.receipts.sign_failed`."""


@dataclass(frozen=True, slots=True)
class OwnWords:
    """The words of an enclave that has the worker's signing key."""

    signer: SigningKey = field(repr=False)

    def processed(self, work_order_id: str, response_hash: bytes) -> SignedUpdate:
        return sign_processed(self.signer, work_order_id, response_hash)

    def finished(self, request: WorkOrderRequest, result: bytes) -> SignedUpdate:
        return sign_finished(self.signer, request, result)

    def failed(self, request: WorkOrderRequest, refusal: WorkOrderError) -> SignedUpdate | None:
        return sign_failed(self.signer, request, refusal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An order that has passed the first eight steps. Plaintext: to be let go of as soon as it is finished."""

    order: OpenedOrder = field(repr=False)
    secrets: Secrets = field(repr=False)
    runtime: Runtime
    context: Context
    print_: bytes
    legacy: bool
    receipt: bool
    """Sign the update of the order's receipt, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """Processes orders of one worker. Immutable, so that any number of threads can use it."""

    worker_id: WorkerId
    keys: WorkerKeys | None = field(default=None, repr=False)
    """None in a pool's WPE: each order comes with its secrets."""

    runtimes: Mapping[str, Runtime]
    """By workload id in lower-case hex."""

    signer: SigningKey | None = field(default=None, repr=False)
    """Of results and receipts; None as ``keys``."""

    words: Words | None = field(default=None, repr=False)
    """Of receipts, where ``signer`` does not sign them."""

    accept_legacy: bool = False
    replay: ReplayGuard = field(default_factory=ReplayGuard, repr=False)
    step_aside: Callable[[], None] = field(default=lambda: None, repr=False)
    """Called before a millisecond of RSA, which leaves the interpreter to other threads."""

    def process(
        self, params: bytes, registered_key: str | None, control: Control, *, receipt: bool = False
    ) -> Processed:
        """Process an order from the first step to the last, in this thread.

        Args:
            params: of WorkOrderSubmit, JSON.
            registered_key: PEM of the requester's registered key. The host says so: it is as true as the host.
            control: of this one run.
            receipt: sign the update of the order's receipt, too.

        Raises:
            WorkOrderError: as the module says.
        """
        opened = self.open(params, registered_key, receipt=receipt)
        return opened if isinstance(opened, Processed) else self.finish(opened, control)

    def open(
        self,
        params: bytes,
        registered_key: str | None,
        *,
        receipt: bool = False,
        secrets: Secrets | None = None,
    ) -> "Opened | Processed":
        """Steps 1 to 8, or at once the result that these very bytes were given before.

        ``secrets``: where another enclave has taken the fourth step.

        Raises:
            WorkOrderError: as the module says.
        """
        read = secrets.request if secrets is not None else None
        request = self._own(params, read)  # 1
        print_ = (secrets.print_ if secrets is not None else None) or fingerprint(params)
        again = self.replay.answer_of(request.work_order_id, print_)
        if again is not None:
            update = self._words().finished(request, again) if receipt else None
            return Processed(result=again, legacy=False, receipt=update)
        try:
            runtime = self._runtime_of(request)  # 2
            legacy = self._check_legacy(request)  # 3
            if secrets is None:
                if not request.is_hpke:
                    self.step_aside()
                secrets = self._unlock(request)  # 4
            keys = secrets.keys
            order = open_order(request, keys, registered_key=_load_registered(registered_key))  # 5
            if keys.own and not request.is_hpke and not self.accept_legacy:  # 6
                _check_owned(order)
            _check_inputs(order, runtime.limits)  # 7
            self.replay.admit(request.work_order_id, print_)  # 8
        except WorkOrderError as exc:
            self.replay.note_refusal(request.work_order_id, print_, exc)
            raise
        context = self._context_of(request, registered_key)
        return Opened(
            order=order,
            secrets=secrets,
            runtime=runtime,
            context=context,
            print_=print_,
            legacy=legacy,
            receipt=receipt,
        )

    def finish(self, opened: "Opened", control: Control) -> Processed:
        """Steps 9 and 10. In any thread; not necessarily the one that opened the order.

        Raises:
            WorkOrderError: as the module says.
        """
        order, request = opened.order, opened.order.request
        try:
            outputs = opened.runtime.run(order.inputs, opened.context, control)  # 9
            if control.cancelled:
                # What nobody was given must not count as an answer.
                raise failed_order(CANCELLED)
            sealed = seal_result(order, outputs, opened.secrets.signer, voucher=opened.secrets.voucher)  # 10
            encoded = encode_result(sealed)
        except WorkOrderError as exc:
            if not control.cancelled:
                self.replay.note_refusal(request.work_order_id, opened.print_, exc)
            raise
        result = self.replay.settle(request.work_order_id, opened.print_, encoded)
        if not opened.receipt:
            return Processed(result=result, legacy=opened.legacy)
        if result is not encoded:
            update = self._words().finished(request, result)
        else:
            response_hash = order.dialect.result_hash(request, sealed, order.request_hash)
            update = self._words().processed(request.work_order_id, response_hash)
        return Processed(result=result, legacy=opened.legacy, receipt=update)

    def sign_receipt(self, params: bytes, result: bytes) -> SignedUpdate:
        """Sign the update of a receipt that was created after its order was completed.

        Raises:
            WorkOrderError: the result is not one that this worker signed for this order.
        """
        return self._words().finished(self._own(params), result)

    def sign_unanswered(self, params: bytes) -> SignedUpdate:
        """Sign the update of a receipt whose order ended without a result; from now on it is not answered.

        Raises:
            WorkOrderError: code 2, this worker has answered the order, or there can be no receipt.
        """
        request = self._own(params)
        refusal = self.replay.renounce(request.work_order_id, fingerprint(params))
        if refusal is None:
            raise invalid_order("workOrderId: this worker has answered the order")
        signed = self._words().failed(request, refusal)
        if signed is None:
            raise invalid_order("the request cannot be hashed")
        return signed

    def sign_refusal(self, params: bytes, refusal: WorkOrderError) -> SignedUpdate | None:
        """Sign the update of a receipt whose order fails now, or None where there can be no receipt."""
        try:
            request = self._own(params)
        except WorkOrderError:
            return None
        print_ = fingerprint(params)
        self.replay.note_refusal(request.work_order_id, print_, refusal)
        if self.replay.renounce(request.work_order_id, print_) is None:
            return None
        return self._words().failed(request, refusal)

    def _words(self) -> Words:
        if self.words is not None:
            return self.words
        assert self.signer is not None, "a processor has a signer, or somebody who signs in its place"
        return OwnWords(self.signer)

    def _unlock(self, request: WorkOrderRequest) -> Secrets:
        if self.keys is None or self.signer is None:
            raise WorkOrderError(WorkOrderCode.BUSY, "the order came without its secrets; submit it again")
        return Secrets(keys=unlock(request, self.keys), signer=self.signer)

    def _own(self, params: bytes, read: WorkOrderRequest | None = None) -> WorkOrderRequest:
        request = read if read is not None else decode_request(params)
        if request.worker_id != self.worker_id:
            raise invalid_order(
                "workerId: the order is for another worker; retrieve the list of workers again"
            )
        return request

    def _runtime_of(self, request: WorkOrderRequest) -> Runtime:
        runtime = self.runtimes.get(request.workload_id)
        if runtime is None:
            # The id may be spelled in upper case or with 0x.
            runtime = self.runtimes.get(workload_id_of(workload_name_of(request.workload_id) or ""))
        if runtime is None:
            raise WorkOrderError(
                WorkOrderCode.INVALID_WORKLOAD,
                "workloadId: this worker offers no such workload; its record lists those that it offers",
            )
        return runtime

    def _check_legacy(self, request: WorkOrderRequest) -> bool:
        if request.is_hpke:
            return False
        reuse = nonce_reuse(request)
        if reuse is not None and not self.accept_legacy:
            raise invalid_order(
                f"insecure order: {reuse}, so its plaintext can be read without any key. "
                "Leave sessionKeyIv out (each message then carries an iv of its own), or use ~avalon-hpke-1; "
                "to accept such orders all the same, the operator must allow legacy orders"
            )
        return reuse is not None

    def _context_of(self, request: WorkOrderRequest, registered_key: str | None) -> Context:
        signed = bool(request.requester_signature)
        return Context(
            work_order_id=request.work_order_id,
            worker_id=self.worker_id,
            requester_id=request.requester_id,
            requester_key=(registered_key or request.verifying_key) if signed else None,
        )


def _load_registered(pem: str | None) -> VerificationKey | None:
    if pem is None:
        return None
    try:
        return load_verification_key(pem)
    except KeyFormatError as exc:
        raise WorkOrderError(
            WorkOrderCode.INVALID_SIGNATURE,
            f"the key that is registered for the requester cannot be used: {exc.message}",
        ) from None


def _check_owned(opened: OpenedOrder) -> None:
    """One key can hide in two wrappings: that is seen only here, where they are open."""
    request = opened.request
    used: set[tuple[bytes, str]] = set()
    for item in (*request.in_data, *request.out_data):
        iv = (item.iv or request.session_key_iv or "").lower()
        if not item.has_own_key or not iv:
            continue  # the message has a fresh iv of its own
        pair = (opened.keys.own[item.encrypted_data_encryption_key or ""], iv)
        if pair in used:
            raise invalid_order(
                f"item {item.index}: another item has the same key of its own and the same iv"
            )
        used.add(pair)


def _check_inputs(opened: OpenedOrder, limits: Limits) -> None:
    if len(opened.inputs) > limits.max_items:
        raise invalid_order(f"inData: got {len(opened.inputs)} items, expected at most {limits.max_items}")
    for item in opened.inputs:
        if len(item.data) > limits.max_item_bytes:
            raise invalid_order(
                f"inData item {item.index}: got {len(item.data)} bytes, expected at most {limits.max_item_bytes}"
            )
