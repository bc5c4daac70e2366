"""An order as bytes, so that another process can wait for it, verify its result and open it.

SECRET: the bytes hold the order's session key. They hold neither the inputs nor the requester's signing key, so an order that
was resumed cannot be sealed anew. Taking them up again is these steps; each failure is a typed error:

1. *Whole.* The digest over the bytes is right: they were not cut off or damaged (SavedOrderRefused).
2. *Form.* They are an order, a record and a key (SavedOrderRefused).
3. *Coherent.* The order's encrypted request hash opens under the key and is the hash of the order (SavedOrderRefused).
4. *Worker.* The record that the order was sealed to is appraised again, under the policy of whoever resumes: nothing that
   the bytes say of a key is believed (UntrustedWorker).

    "avalon saved order 1" LF, hex SHA-256 of all that follows, LF, JSON
"""

import hashlib
import hmac

import msgspec

from avalon_core.crypto.dialects import DIALECTS, OrderKeys
from avalon_core.crypto.dialects.base import SECRET_BYTES
from avalon_core.crypto.orders import SealedOrder
from avalon_core.errors import DecryptionFailed, EncodingError
from avalon_core.protocol.encodings import decode_lower_hex
from avalon_core.protocol.orders import WorkOrderRequest
from avalon_core.protocol.workers import WorkerRecord
from avalon_sdk.errors import SavedOrderRefused

_MAGIC = b"avalon saved order 1\n"
_DIGEST_CHARS = 64


class SavedOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is in the bytes. Its repr is not shown anywhere: it holds the key."""

    address: str
    """Of the service, for people."""

    workload: str
    suite: str
    session_key: str
    """Hex."""

    request: WorkOrderRequest
    request_size: int
    """Bytes that were sent."""

    input_bytes: int
    """Of plaintext."""

    worker_name: str | None
    record: WorkerRecord
    """As it was when the order was sealed."""

    sealed_at: float
    """Seconds since the epoch."""

    polls: bool = False
    """The service is asked now and again, and not to hold calls."""


_decoder = msgspec.json.Decoder(SavedOrder)


def encode_saved(order: SavedOrder) -> bytes:
    """The bytes. Secret."""
    body = msgspec.json.encode(order)
    return _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decode_saved(raw: bytes) -> tuple[SavedOrder, SealedOrder]:
    """Steps 1 to 3.

    Raises:
        SavedOrderRefused
    """
    head = len(_MAGIC) + _DIGEST_CHARS + 1
    body = raw[head:]
    expected = _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n"
    if not hmac.compare_digest(raw[:head], expected):
        raise SavedOrderRefused("the bytes are not a saved order of this version, or were damaged")
    try:
        saved = _decoder.decode(body)
        dialect = DIALECTS[saved.suite]
        session = decode_lower_hex(saved.session_key, what="session_key")
        if len(session) != SECRET_BYTES:
            raise SavedOrderRefused("the saved order's key has not 32 bytes")
        keys = OrderKeys(session=session)
        request_hash = dialect.request_hash(saved.request)
        opened = dialect.open_request_hash(saved.request, keys)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, KeyError) as exc:
        raise SavedOrderRefused("the saved order cannot be read") from exc
    except (EncodingError, DecryptionFailed) as exc:
        raise SavedOrderRefused(f"the saved order and its key do not belong together: {exc.message}") from exc
    if not hmac.compare_digest(request_hash, opened):
        raise SavedOrderRefused("the saved order was changed: its request hash is another one")
    return saved, SealedOrder(request=saved.request, dialect=dialect, keys=keys, request_hash=request_hash)
