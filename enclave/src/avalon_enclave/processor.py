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

An order that comes again byte for byte is answered with the result that it was given (:mod:`avalon_enclave.replay`).

Every refusal is a :class:`WorkOrderError`, whose message quotes nothing of the order.
"""

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from avalon_core.crypto.dialects import WorkerKeys
from avalon_core.crypto.orders import OpenedOrder, nonce_reuse, open_order, seal_result, unlock
from avalon_core.crypto.signing import SigningKey, VerificationKey, load_verification_key
from avalon_core.errors import KeyFormatError
from avalon_core.protocol.errors import WorkOrderCode, WorkOrderError, invalid_order
from avalon_core.protocol.ids import WorkerId, workload_id_of, workload_name_of
from avalon_core.protocol.orders import WorkOrderRequest, decode_request, encode_result
from avalon_enclave.receipts import SignedUpdate, sign_failed, sign_finished, sign_processed
from avalon_enclave.replay import ReplayGuard, fingerprint
from avalon_enclave.runtimes.base import Control, Runtime
from avalon_enclave.workloads.base import Context, Limits


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
class Processor:
    """Processes orders of one worker. Immutable, so that any number of threads can use it."""

    worker_id: WorkerId
    keys: WorkerKeys = field(repr=False)
    signer: SigningKey = field(repr=False)
    runtimes: Mapping[str, Runtime]
    """By workload id in lower-case hex."""

    accept_legacy: bool = False
    replay: ReplayGuard = field(default_factory=ReplayGuard, repr=False)
    turn: AbstractContextManager[object] = field(default_factory=threading.Lock, repr=False)
    """Orders of our suite are opened and sealed one at a time: their cryptography is a handful of calls of some
    microseconds that each let go of the interpreter, and many threads doing so spend more on taking turns than they
    win. RSA's millisecond runs beside it, and so does every workload."""

    def process(
        self, params: bytes, registered_key: str | None, control: Control, *, receipt: bool = False
    ) -> Processed:
        """Process an order.

        Args:
            params: of WorkOrderSubmit, JSON.
            registered_key: PEM of the requester's registered key. The host says so: it is as true as the host.
            control: of this one run.
            receipt: sign the update of the order's receipt, too.

        Raises:
            WorkOrderError: as the module says.
        """
        request = decode_request(params)  # 1
        if request.worker_id != self.worker_id:
            raise invalid_order(
                "workerId: the order is for another worker; retrieve the list of workers again"
            )
        print_ = fingerprint(params)
        again = self.replay.answer_of(request.work_order_id, print_)
        if again is not None:
            update = self.sign_receipt(params, again) if receipt else None
            return Processed(result=again, legacy=False, receipt=update)
        turn = self.turn if request.is_hpke else nullcontext()
        with turn:
            runtime = self._runtime_of(request)  # 2
            legacy = self._check_legacy(request)  # 3
            keys = unlock(request, self.keys)  # 4
            opened = open_order(request, keys, registered_key=_load_registered(registered_key))  # 5
            if keys.own and not request.is_hpke and not self.accept_legacy:  # 6
                _check_owned(opened)
            _check_inputs(opened, runtime.limits)  # 7
            self.replay.admit(request.work_order_id, print_)  # 8
        outputs = runtime.run(opened.inputs, self._context_of(request, registered_key), control)  # 9
        with turn:
            sealed = seal_result(opened, outputs, self.signer)  # 10
            encoded = encode_result(sealed)
        result = self.replay.settle(request.work_order_id, print_, encoded)
        if not receipt:
            return Processed(result=result, legacy=legacy)
        if result is not encoded:
            return Processed(result=result, legacy=legacy, receipt=self.sign_receipt(params, result))
        response_hash = opened.dialect.result_hash(request, sealed, opened.request_hash)
        update = sign_processed(self.signer, request.work_order_id, response_hash)
        return Processed(result=result, legacy=legacy, receipt=update)

    def sign_receipt(self, params: bytes, result: bytes) -> SignedUpdate:
        """Sign the update of a receipt that was created after its order was completed.

        Raises:
            WorkOrderError: the result is not one that this worker signed for this order.
        """
        return sign_finished(self.signer, self.worker_id, params, result)

    def sign_refusal(self, params: bytes, refusal: WorkOrderError) -> SignedUpdate | None:
        """Sign the update of a receipt whose order failed, or None where there can be no receipt."""
        return sign_failed(self.signer, self.worker_id, params, refusal)

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
