"""The worker's own word in a receipt: that it answered an order, or that it did not.

The signing key signs two kinds of statement here and nothing else. PROCESSED names the hash of a result: one that was
sealed a moment ago, or one that already carries this worker's signature. FAILED names a hash over the request and
the refusal (see :func:`avalon_core.crypto.receipts.failure_hash`). The host chooses which requests it hands over, and
which it has given up, so it can always have *some* request refused; it cannot have that pass for the refusal of
another. An order for which FAILED was signed is not answered any more (:mod:`avalon_enclave.replay`).
"""

from dataclasses import dataclass

from avalon_core.crypto.receipts import failure_hash, signed_response_hash
from avalon_core.crypto.signing import SigningKey
from avalon_core.errors import EncodingError, SignatureMismatch
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.errors import WorkOrderCode, WorkOrderError
from avalon_core.protocol.orders import WorkOrderRequest, decode_result
from avalon_core.protocol.receipts import ReceiptStatus, update_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedUpdate:
    """An update of a receipt, as far as it is the worker's to say."""

    response_hash: bytes
    """32 bytes; the update's data is base64 of it."""

    signature: bytes
    """DER."""


def sign_processed(signer: SigningKey, work_order_id: str, response_hash: bytes) -> SignedUpdate:
    """The update PROCESSED for a result that this enclave sealed."""
    return _sign(signer, work_order_id, ReceiptStatus.PROCESSED, response_hash)


def sign_finished(signer: SigningKey, request: WorkOrderRequest, result: bytes) -> SignedUpdate:
    """The update PROCESSED for a result that was sealed earlier. No private key but the signing key is used.

    1. The result is one (code 10).
    2. It names this order, and carries this worker's signature over its hash (code 4).

    Raises:
        WorkOrderError: a step failed; nothing was signed.
    """
    try:
        response_hash = signed_response_hash(request, decode_result(result), signer.verification_key)
    except SignatureMismatch as exc:
        raise WorkOrderError(WorkOrderCode.INVALID_SIGNATURE, exc.message) from None
    return sign_processed(signer, request.work_order_id, response_hash)


def sign_failed(
    signer: SigningKey, request: WorkOrderRequest, refusal: WorkOrderError
) -> SignedUpdate | None:
    """The update FAILED, or None where the request cannot be hashed: then there is no receipt."""
    try:
        failed = failure_hash(request, int(refusal.code), refusal.message)
    except EncodingError:
        return None
    return _sign(signer, request.work_order_id, ReceiptStatus.FAILED, failed)


def _sign(
    signer: SigningKey, work_order_id: str, status: ReceiptStatus, response_hash: bytes
) -> SignedUpdate:
    digest = update_digest(work_order_id, int(status), encode_base64(response_hash))
    return SignedUpdate(response_hash=response_hash, signature=signer.sign(digest))
