"""Who may cancel a work order, and what is signed to do so.

An order is its requester's to cancel. What a caller must show depends on what the order itself shows of its requester:

1. ``requesterId`` must be that of the order, always.
2. An order that is bound to a key can be cancelled with a signature by that key, and by nothing else. The key is the
   one that is registered for the requester, else the order's ``verifyingKey`` where the order is signed.
3. Any other order can be cancelled by whoever shows its ``encryptedRequestHash``: a value that nobody can compute
   without the order's session key, that no answer, receipt or event of a service repeats, and that only the sender of
   the order and the service have seen (with TLS in between). Whoever sends orders over a public way, such as a ledger,
   must sign them.

The signature covers the order's own ``encryptedRequestHash``, so it is worth nothing for another order, not even for a
later one under the same id, and needs no nonce: to cancel twice is to cancel once.

    digest = SHA-256( "avalon work order cancel 1" || 00 || fields(workOrderId, requesterId, encryptedRequestHash) )
"""

import hashlib
import hmac

from avalon_core.crypto.signing import load_verification_key
from avalon_core.errors import AvalonError
from avalon_core.protocol.cancellation import WorkOrderCancelParams
from avalon_core.protocol.encodings import decode_base64, encode_fields
from avalon_core.protocol.errors import WorkOrderCode, WorkOrderError

_PURPOSE = b"avalon work order cancel 1\0"


def cancellation_digest(*, work_order_id: str, requester_id: str, encrypted_request_hash: str) -> bytes:
    """What a requester signs to cancel an order: 32 bytes over the texts as they stand in the order."""
    fields = encode_fields(work_order_id, requester_id, encrypted_request_hash)
    return hashlib.sha256(_PURPOSE + fields).digest()


def check_cancellation(
    cancellation: WorkOrderCancelParams,
    *,
    requester_id: str,
    encrypted_request_hash: str,
    key: str | None,
) -> None:
    """Check that a cancellation is the requester's own, by the rules of this module.

    Args:
        cancellation: what the caller shows.
        requester_id: of the order.
        encrypted_request_hash: of the order.
        key: PEM of the key that the order is bound to, or None.

    Raises:
        WorkOrderError: code 3. The message says which proof the order needs, and nothing of the order.
    """
    if cancellation.requester_id != requester_id:
        raise _denied("requesterId is not that of the order")
    if key is not None:
        digest = cancellation_digest(
            work_order_id=cancellation.work_order_id,
            requester_id=requester_id,
            encrypted_request_hash=encrypted_request_hash,
        )
        if not cancellation.signature:
            raise _denied("the order is signed: cancel it with a signature by the same key")
        try:
            signature = decode_base64(cancellation.signature, what="signature")
            load_verification_key(key).verify(digest, signature)
        except AvalonError:
            raise _denied("the signature is not one by the order's key over the cancellation") from None
        return
    shown = cancellation.encrypted_request_hash or ""
    if not shown or not hmac.compare_digest(shown, encrypted_request_hash):
        raise _denied("the order is not signed: cancel it by its encryptedRequestHash, as it was sent")


def _denied(message: str) -> WorkOrderError:
    return WorkOrderError(WorkOrderCode.ACCESS_DENIED, f"access denied: {message}")
