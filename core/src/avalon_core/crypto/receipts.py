"""Signing and verifying receipts of work orders: the requester's creation, and updates by whoever has a key.

The signatures are ECDSA over the digests in :mod:`avalon_core.protocol.receipts`, on the wire in base64 of DER. None
of the digests says who signed: whose key it is, the verifier must know (the worker's from its appraised record, the
requester's from the work order or the creation).

What the worker puts into its own update is here, too: the hash of its response (:func:`response_hashes` computes it
from public members), or where there is none, of its refusal (:func:`failure_hash`), which may say no more than that the
order will not be answered (:data:`RENOUNCED`).
"""

import hashlib
import os

import msgspec

from avalon_core.crypto.dialects import AVALON, HPKE, SESSION_DIALECTS, Dialect
from avalon_core.crypto.orders import result_signer
from avalon_core.crypto.signing import SigningKey, VerificationKey, load_verification_key
from avalon_core.errors import EncodingError, KeyFormatError, SignatureMismatch
from avalon_core.protocol.encodings import (
    decode_base64,
    decode_canonical_base64,
    encode_base64,
    encode_fields,
)
from avalon_core.protocol.ids import Base64Str, HexStr, RequesterId, WorkerId, WorkOrderId
from avalon_core.protocol.orders import WorkOrderRequest, WorkOrderResult
from avalon_core.protocol.receipts import (
    SIGNATURE_RULES,
    ReceiptCreateParams,
    ReceiptResult,
    ReceiptStatus,
    ReceiptUpdateParams,
    ReceiptUpdateResult,
    creation_digest,
    update_digest,
)

RENOUNCED = "the worker has not answered this order and will not answer it"
"""The message, with code 1, that a worker's update FAILED names where it can vouch for no more: the service ended the
order, or the worker remembers no refusal of it."""

_FAILURE = b"avalon receipt failure 1\0"
_NONCE_BYTES = 32


def create_receipt(
    request: WorkOrderRequest,
    request_hash: bytes,
    signer: SigningKey,
    *,
    worker_service_id: str,
    status: int = ReceiptStatus.PENDING,
    nonce: str | None = None,
) -> ReceiptCreateParams:
    """The params of WorkOrderReceiptCreate, signed by the requester.

    Args:
        request: the order as it was submitted.
        request_hash: its H (``SealedOrder.request_hash``).
        signer: where the order itself was signed, the key that signed it.
        worker_service_id: hex.
        status: the first status.
        nonce: hex; a fresh one unless given.
    """
    return sign_creation(
        signer,
        work_order_id=request.work_order_id,
        worker_service_id=worker_service_id,
        worker_id=request.worker_id,
        requester_id=request.requester_id,
        status=status,
        request_hash=request_hash,
        nonce=nonce,
    )


def sign_creation(
    signer: SigningKey,
    *,
    work_order_id: str,
    worker_service_id: str,
    worker_id: str,
    requester_id: str,
    request_hash: bytes,
    status: int = ReceiptStatus.PENDING,
    nonce: str | None = None,
) -> ReceiptCreateParams:
    """The same from the members one by one."""
    unsigned = ReceiptCreateParams(
        work_order_id=WorkOrderId(work_order_id),
        worker_service_id=worker_service_id,
        worker_id=WorkerId(worker_id),
        requester_id=RequesterId(requester_id),
        receipt_create_status=int(status),
        work_order_request_hash=Base64Str(encode_base64(request_hash)),
        requester_generated_nonce=HexStr(nonce if nonce is not None else os.urandom(_NONCE_BYTES).hex()),
        requester_signature=Base64Str(""),
        signature_rules=SIGNATURE_RULES,
        receipt_verification_key=signer.verification_key.pem,
    )
    signature = encode_base64(signer.sign(creation_digest(unsigned)))
    return msgspec.structs.replace(unsigned, requester_signature=Base64Str(signature))


def sign_update(
    signer: SigningKey,
    *,
    work_order_id: str,
    updater_id: str,
    update_type: int,
    update_data: str,
    names_key: bool = True,
) -> ReceiptUpdateParams:
    """The params of WorkOrderReceiptUpdate, signed.

    ``names_key``: put receiptVerificationKey in. The order's own worker and requester may leave it out.
    """
    signature = signer.sign(update_digest(work_order_id, update_type, update_data))
    return ReceiptUpdateParams(
        work_order_id=WorkOrderId(work_order_id),
        updater_id=updater_id,
        update_type=int(update_type),
        update_data=update_data,
        update_signature=Base64Str(encode_base64(signature)),
        signature_rules=SIGNATURE_RULES,
        receipt_verification_key=signer.verification_key.pem if names_key else None,
    )


def verify_creation(
    receipt: ReceiptCreateParams | ReceiptResult, key: VerificationKey | None = None
) -> VerificationKey:
    """Check the requester's signature under the key that the receipt names; returns that key.

    What the caller still must do: know that the key is the requester's (or pass the ``key`` that it must be).

    Raises:
        SignatureMismatch: it does not verify, the key cannot be read, or it is not ``key``.
    """
    named = _load(receipt.receipt_verification_key)
    if key is not None and named != key:
        raise SignatureMismatch("receiptVerificationKey is not the requester's key")
    named.verify(creation_digest(receipt), _signature(receipt.requester_signature, "requesterSignature"))
    return named


def verify_update(update: ReceiptUpdateParams | ReceiptUpdateResult, key: VerificationKey) -> None:
    """Check an update's signature under the updater's key.

    Raises:
        SignatureMismatch: it does not verify.
    """
    digest = update_digest(update.work_order_id, update.update_type, update.update_data)
    key.verify(digest, _signature(update.update_signature, "updateSignature"))


def request_hashes(request: WorkOrderRequest) -> frozenset[bytes]:
    """Every H that this request can have. It follows from public members; for the formats of the specification
    nothing public says which of the two dialects its sender hashed in, so there are two."""
    found = set()
    for dialect in _dialects(request):
        try:
            found.add(dialect.request_hash(request))
        except EncodingError:
            continue
    return frozenset(found)


def response_hashes(request: WorkOrderRequest, result: WorkOrderResult) -> frozenset[bytes]:
    """Every R that this result can have: as for :func:`request_hashes`. The one that was signed is the right one."""
    found = set()
    for dialect in _dialects(request):
        try:
            found.add(dialect.result_hash(request, result, dialect.request_hash(request)))
        except EncodingError:
            continue
    return frozenset(found)


def signed_response_hash(
    request: WorkOrderRequest, result: WorkOrderResult, worker: VerificationKey
) -> bytes:
    """The R of a result that this very worker signed for this very order. Only public members are needed.

    Raises:
        SignatureMismatch: the result is not this order's, or not signed by this key in any dialect, nor by a pool's
            one-time key that this key vouches for.
    """
    for name in ("work_order_id", "worker_id", "workload_id", "requester_id"):
        if getattr(result, name) != getattr(request, name):
            raise SignatureMismatch(
                f"the result belongs to another order: its {name.replace('_', ' ')} differs"
            )
    strict = request.is_hpke
    try:
        decode = decode_canonical_base64 if strict else decode_base64
        signature = decode(result.worker_signature, what="workerSignature")
        signer = result_signer(request, result, worker)
    except (EncodingError, KeyFormatError) as exc:
        raise SignatureMismatch(exc.message) from None
    for response_hash in response_hashes(request, result):
        try:
            signer.verify(response_hash, signature, strict=strict)
        except SignatureMismatch:
            continue
        return response_hash
    raise SignatureMismatch("the result was not signed by this worker for this order")


def failure_hash(request: WorkOrderRequest, code: int, message: str) -> bytes:
    """What stands in for R where the worker refused an order or failed: 32 bytes.

    SHA-256 over a purpose and the canonical encoding of workOrderId, hex of the request hash (in ``~avalon-hpke-1``
    or else in ``avalon``, which is defined for every request), code and message. Since the request is in it, a
    refusal of a request that somebody changed on the way cannot pass for one of the original's.
    """
    dialect: Dialect = HPKE if request.is_hpke else AVALON
    fields = encode_fields(
        request.work_order_id, dialect.request_hash(request).hex(), str(int(code)), message
    )
    return hashlib.sha256(_FAILURE + fields).digest()


def _dialects(request: WorkOrderRequest) -> tuple[Dialect, ...]:
    return (HPKE,) if request.is_hpke else tuple(SESSION_DIALECTS)


def _load(pem: str) -> VerificationKey:
    try:
        return load_verification_key(pem)
    except KeyFormatError as exc:
        raise SignatureMismatch(f"receiptVerificationKey: {exc.message}") from None


def _signature(text: str, what: str) -> bytes:
    try:
        return decode_base64(text, what=what)
    except EncodingError as exc:
        raise SignatureMismatch(exc.message) from None
