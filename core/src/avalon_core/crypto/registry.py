"""What is signed outside of orders: registry writes, encryption keys, and requests for them.

Every digest is SHA-256 over a purpose, a zero byte, and the canonical encoding of a list of texts
(:func:`avalon_core.protocol.encodings.encode_fields`). Purposes differ, and lists have lengths in them, so that no
signature can be shown for anything else. (The digests of the specification join members without lengths.)

    registry write          method, workerId, what the method writes, signatureNonce
        WorkerRegister      workerType in decimal, organizationId, hex SHA-256 of the details, applicationTypeIds
        WorkerUpdate        hex SHA-256 of the details
        WorkerSetStatus     status in decimal
    encryption key          workerId, encryptionKey, encryptionKeyNonce, tag, signatureNonce or absent
    encryption key request  workerId, requesterId, lastUsedKeyNonce, tag, signatureNonce, each absent where it is
"""

import hashlib

import msgspec

from avalon_core.crypto.signing import load_verification_key
from avalon_core.errors import KeyFormatError
from avalon_core.protocol.encodings import encode_fields
from avalon_core.protocol.ids import HexStr
from avalon_core.protocol.registry import (
    MAX_DETAILS_BYTES,
    EncryptionKeyGetParams,
    WorkerRegisterParams,
    WorkerSetStatusParams,
    WorkerUpdateParams,
)
from avalon_core.protocol.workers import WorkerDetails

_details_decoder = msgspec.json.Decoder(WorkerDetails)

_WRITE = b"avalon registry write 1\0"
_KEY = b"avalon encryption key 1\0"
_KEY_REQUEST = b"avalon encryption key request 1\0"
_KEY_NONCE = b"avalon encryption key nonce 1\0"


def write_digest(write: WorkerRegisterParams | WorkerUpdateParams | WorkerSetStatusParams) -> bytes:
    """What a worker signs to write its own entry: 32 bytes. Details are hashed as the bytes that travel."""
    match write:
        case WorkerRegisterParams():
            method = "WorkerRegister"
            written: tuple[str, ...] = (
                str(write.worker_type),
                write.organization_id,
                _hash_of(write.details),
                *write.application_type_ids,
            )
        case WorkerUpdateParams():
            method, written = "WorkerUpdate", (_hash_of(write.details),)
        case WorkerSetStatusParams():
            method, written = "WorkerSetStatus", (str(write.status),)
    fields = encode_fields(method, write.worker_id, *written, write.signature_nonce)
    return hashlib.sha256(_WRITE + fields).digest()


def key_digest(
    *,
    worker_id: str,
    encryption_key: str,
    encryption_key_nonce: str,
    tag: str,
    signature_nonce: str | None = None,
) -> bytes:
    """What a worker signs to vouch for an encryption key of its own: 32 bytes.

    The same for the key that it pushes (EncryptionKeySet) and the one that it answers with (EncryptionKeyGet): a
    pushed key keeps its ``signature_nonce``, so that requesters verify the worker's own signature.
    """
    fields = encode_fields(worker_id, encryption_key, encryption_key_nonce, tag, signature_nonce)
    return hashlib.sha256(_KEY + fields).digest()


def key_request_digest(request: EncryptionKeyGetParams) -> bytes:
    """What a requester signs to ask for a key: 32 bytes."""
    fields = encode_fields(
        request.worker_id,
        request.requester_id,
        request.last_used_key_nonce,
        request.tag,
        request.signature_nonce,
    )
    return hashlib.sha256(_KEY_REQUEST + fields).digest()


def key_nonce(encryption_key: str) -> HexStr:
    """The encryptionKeyNonce of our own workers: it follows from the key, so it changes exactly with it. 64 digits."""
    return HexStr(hashlib.sha256(_KEY_NONCE + encryption_key.encode()).hexdigest())


def check_details(details: bytes | msgspec.Raw) -> WorkerDetails:
    """Read the details that somebody wants to register. Whether they are true is for requesters to appraise.

    Raises:
        ValueError: they are not a worker's details, or too large; the message says what was expected.
    """
    raw = bytes(details)
    if len(raw) > MAX_DETAILS_BYTES:
        raise ValueError(f"details: got {len(raw)} bytes, expected at most {MAX_DETAILS_BYTES}")
    try:
        read = _details_decoder.decode(raw)
    except msgspec.ValidationError as exc:
        raise ValueError(f"details: {str(exc)[:300]}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise ValueError("details: expected a JSON object") from None
    try:
        load_verification_key(read.worker_type_data.verification_key)
    except KeyFormatError as exc:
        raise ValueError(f"details: workerTypeData.verificationKey: {exc.message}") from None
    return read


def _hash_of(details: bytes) -> str:
    return hashlib.sha256(details).hexdigest()
