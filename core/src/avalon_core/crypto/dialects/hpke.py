"""``~avalon-hpke-1``: our own suite. The bytes are specified in docs/suite-avalon-hpke-1.md.

One HPKE operation seals a fresh 32-byte secret to the worker, with the digest of the order's header as ``info``.
Every message then has a key of its own:

    prk               = HKDF-Extract(salt = header digest, secret)
    key(label, i, c)  = HKDF-Expand(prk, label || uint32(i) || c, 32)

A key seals one message and no other, so the nonce is zeros. Outputs add the worker's fresh nonce to ``c``: should
an order run twice (a crash between), the two results still share no key. An item under a key of its owner's has
the owner's random iv for the input and a derived key for the output.

The owner seals its key to the worker; the requester encrypts that once more under a key of the order's. Without
the second layer whoever sees an order could put its owned items into an order of its own and read the result.

Every text that is hashed is hashed as it stands on the wire, and every encoding has one spelling, so no changed
byte goes unnoticed.
"""

import hashlib
from collections.abc import Sequence

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from avalon_core.crypto import aead
from avalon_core.crypto.dialects.base import (
    SECRET_BYTES,
    OrderKeys,
    WorkerKeys,
    key_of,
    sorted_by_index,
)
from avalon_core.crypto.sealing import HpkePublicKey
from avalon_core.errors import DecryptionFailed
from avalon_core.protocol.encodings import (
    decode_canonical_base64,
    decode_lower_hex,
    encode_base64,
    encode_fields,
)
from avalon_core.protocol.ids import Base64Str, HexStr
from avalon_core.protocol.orders import (
    FORMAT_HPKE,
    InDataItem,
    OutDataItem,
    WorkOrderRequest,
    WorkOrderResult,
)

_ZERO_NONCE = bytes(aead.NONCE_BYTES)
_SHA256 = hashes.SHA256()

_HEADER = b"avalon-hpke-1 header\0"
_ITEMS = b"avalon-hpke-1 items\0"
_REQUEST = b"avalon-hpke-1 request\0"
_RESULT = b"avalon-hpke-1 result\0"
_OWNER_INFO = b"avalon-hpke-1 owner\0"
_KEY_REQUEST_HASH = b"avalon-hpke-1 request hash\0"
_KEY_INPUT = b"avalon-hpke-1 input\0"
_KEY_OUTPUT = b"avalon-hpke-1 output\0"
_KEY_OWNER_INPUT_KEY = b"avalon-hpke-1 owner input key\0"
_KEY_OWNER_OUTPUT_KEY = b"avalon-hpke-1 owner output key\0"
_KEY_OWNER_INPUT = b"avalon-hpke-1 owner input\0"
_KEY_OWNER_OUTPUT = b"avalon-hpke-1 owner output\0"


def header_digest(request: WorkOrderRequest) -> bytes:
    """SHA-256 over every member of the request but the items, the encrypted key and hash, and the signature.

    It is HPKE's ``info``: the secret opens only under the header that it was sealed with.
    """
    return hashlib.sha256(
        _HEADER
        + encode_fields(
            request.payload_format,
            str(request.response_timeout_msecs),
            request.work_order_id,
            request.worker_id,
            request.workload_id,
            request.requester_id,
            request.requester_nonce,
            request.result_uri,
            request.notify_uri,
            request.worker_encryption_key,
            request.data_encryption_algorithm,
            request.verifying_key,
        )
    ).digest()


def owner_info(worker_id: str, workload_id: str) -> bytes:
    """HPKE's ``info`` for an item's own key: its owner consents to one worker and one workload."""
    return hashlib.sha256(_OWNER_INFO + encode_fields(worker_id, workload_id)).digest()


def seal_owner_key(item_key: bytes, *, worker: HpkePublicKey, worker_id: str, workload_id: str) -> str:
    """Encrypt a key of an owner's to the worker: encryptedDataEncryptionKey of an item or template in a draft.

    ``item_key``: 32 bytes. Sealing the order puts the order's own layer around it.
    """
    return worker.seal(item_key, owner_info(worker_id, workload_id)).hex()


def seal_owned_input(
    item_key: bytes, iv: bytes, plaintext: bytes, *, worker: HpkePublicKey, worker_id: str, workload_id: str
) -> tuple[str, str, str]:
    """Encrypt an item under a key of its owner's: (data, encryptedDataEncryptionKey, iv) for the item's members.

    ``item_key``: 32 bytes, ``iv``: 12 bytes; the owner answers for the pair being fresh. Whoever has these three
    texts can have the worker run the workload on them: they go to the requester over a confidential way.
    """
    message = aead.seal(_expand(_owner_prk(item_key), _KEY_OWNER_INPUT, 0, b""), iv, plaintext)
    wrapped = seal_owner_key(item_key, worker=worker, worker_id=worker_id, workload_id=workload_id)
    return encode_base64(message), wrapped, iv.hex()


class HpkeDialect:
    """Our suite. See :class:`avalon_core.crypto.dialects.base.Dialect` for the methods."""

    name = FORMAT_HPKE

    def request_hash(self, request: WorkOrderRequest) -> bytes:
        return hashlib.sha256(
            _REQUEST
            + header_digest(request)
            + _items_digest(request.in_data)
            + _items_digest(request.out_data)
        ).digest()

    def open_request_hash(self, request: WorkOrderRequest, keys: OrderKeys) -> bytes:
        message = decode_lower_hex(request.encrypted_request_hash, what="encryptedRequestHash")
        return aead.open_(_expand(keys.session, _KEY_REQUEST_HASH, 0, b""), _ZERO_NONCE, message)

    def seal_request_hash(self, keys: OrderKeys, request_hash: bytes) -> bytes:
        """H as the requester sends it."""
        return aead.seal(_expand(keys.session, _KEY_REQUEST_HASH, 0, b""), _ZERO_NONCE, request_hash)

    def open_input(self, request: WorkOrderRequest, item: InDataItem, keys: OrderKeys) -> bytes:
        message = decode_canonical_base64(item.data, what=f"inData item {item.index}: data")
        if item.has_own_key:
            iv = decode_lower_hex(item.iv or "", what=f"inData item {item.index}: iv")
            return aead.open_(_expand(_owner_prk(key_of(item, keys)), _KEY_OWNER_INPUT, 0, b""), iv, message)
        return aead.open_(_expand(keys.session, _KEY_INPUT, item.index, b""), _ZERO_NONCE, message)

    def seal_input(self, keys: OrderKeys, index: int, plaintext: bytes) -> bytes:
        """One input, as the requester sends it."""
        return aead.seal(_expand(keys.session, _KEY_INPUT, index, b""), _ZERO_NONCE, plaintext)

    def seal_own_key(self, keys: OrderKeys, item: InDataItem) -> HexStr:
        """The order's layer around the key that an item's owner sealed to the worker.

        Raises:
            EncodingError: the owner's part is not lower-case hex.
        """
        wrapped = decode_lower_hex(
            item.encrypted_data_encryption_key or "", what="encryptedDataEncryptionKey"
        )
        return HexStr(aead.seal(_own_key_key(keys.session, item), _ZERO_NONCE, wrapped).hex())

    def seal_output(
        self,
        request: WorkOrderRequest,
        keys: OrderKeys,
        *,
        index: int,
        plaintext: bytes,
        template: OutDataItem | None,
        request_hash: bytes,
        worker_nonce: bytes,
    ) -> OutDataItem:
        wrapped = template.encrypted_data_encryption_key if template is not None else None
        item = OutDataItem(index=index, encrypted_data_encryption_key=wrapped)
        if item.is_clear:
            message = plaintext
        else:
            message = aead.seal(_output_key(keys, item, request_hash, worker_nonce), _ZERO_NONCE, plaintext)
        return OutDataItem(
            index=index,
            data=Base64Str(encode_base64(message)),
            encrypted_data_encryption_key=wrapped or "",
            iv=HexStr(""),
        )

    def open_output(
        self,
        request: WorkOrderRequest,
        keys: OrderKeys,
        item: OutDataItem,
        *,
        request_hash: bytes,
        worker_nonce: bytes,
    ) -> bytes:
        message = decode_canonical_base64(item.data, what=f"outData item {item.index}: data")
        if item.is_clear:
            return message
        return aead.open_(_output_key(keys, item, request_hash, worker_nonce), _ZERO_NONCE, message)

    def result_items_digest(self, result: WorkOrderResult) -> bytes:
        return _items_digest(result.out_data)

    def result_hash_of(
        self,
        request: WorkOrderRequest,
        *,
        worker_nonce: str,
        items_digest: bytes,
        request_hash: bytes,
        ext_verification_key: str | None,
    ) -> bytes:
        fields = encode_fields(
            worker_nonce,
            request.work_order_id,
            request.worker_id,
            request.workload_id,
            request.requester_id,
            ext_verification_key,
        )
        return hashlib.sha256(_RESULT + request_hash + fields + items_digest).digest()

    def result_hash(self, request: WorkOrderRequest, result: WorkOrderResult, request_hash: bytes) -> bytes:
        fields = encode_fields(
            result.worker_nonce,
            result.work_order_id,
            result.worker_id,
            result.workload_id,
            result.requester_id,
            result.ext_verification_key,
        )
        return hashlib.sha256(_RESULT + request_hash + fields + _items_digest(result.out_data)).digest()


HPKE = HpkeDialect()


def order_prk(secret: bytes, digest: bytes) -> bytes:
    """The order's pseudo-random key: from it every message key of the order is expanded."""
    return HKDF.extract(_SHA256, digest, secret)


def unlock_hpke(request: WorkOrderRequest, keys: WorkerKeys) -> OrderKeys:
    """Open the order's secret and the items' own keys.

    Raises:
        DecryptionFailed, EncodingError
    """
    sealed = decode_lower_hex(request.encrypted_session_key, what="encryptedSessionKey")
    digest = header_digest(request)
    prk = order_prk(_require_secret(keys.hpke.open_(sealed, digest)), digest)
    opened: dict[bytes, bytes] = {}
    own: dict[str, bytes] = {}
    for item in (*request.in_data, *request.out_data):
        text = item.encrypted_data_encryption_key
        if not item.has_own_key or text is None:
            continue
        message = decode_lower_hex(text, what="encryptedDataEncryptionKey")
        wrapped = aead.open_(_own_key_key(prk, item), _ZERO_NONCE, message)
        if wrapped not in opened:
            info = owner_info(request.worker_id, request.workload_id)
            opened[wrapped] = _require_secret(keys.hpke.open_(wrapped, info))
        own[text] = opened[wrapped]
    return OrderKeys(session=prk, own=own)


def owned_fault(request: WorkOrderRequest, keys: OrderKeys) -> str | None:
    """Say which inputs share an owner's key and iv, or None. Two wrappings may hold one key, so keys are compared."""
    used: set[tuple[bytes, str | None]] = set()
    for item in request.in_data:
        if item.has_own_key:
            pair = (key_of(item, keys), item.iv)
            if pair in used:
                return f"inData item {item.index}: another item has the same key and iv"
            used.add(pair)
    return None


def form_fault(request: WorkOrderRequest) -> str | None:
    """Say what in the form of an order our suite refuses, or None.

    Everything that could make two spellings of one order is refused here; owners' keys and ivs that repeat are
    found by :func:`owned_fault` once the keys are open.
    """
    if request.session_key_iv is not None:
        return "sessionKeyIv: not used by this suite; leave it out"
    if bool(request.verifying_key) != bool(request.requester_signature):
        return "requesterSignature and verifyingKey: send both or neither"
    if request.requester_signature == "":
        return "requesterSignature: leave it out where there is none"
    for item in request.in_data:
        if not item.has_own_key:
            if item.iv:
                return f"inData item {item.index}: iv belongs to items with a key of their own; leave it out"
        elif not item.iv:
            return f"inData item {item.index}: an item with a key of its own needs an iv of 12 bytes"
    if any(template.iv for template in request.out_data):
        return "outData: iv is not used by this suite; leave it out"
    return None


def _output_key(keys: OrderKeys, item: OutDataItem, request_hash: bytes, worker_nonce: bytes) -> bytes:
    context = request_hash + worker_nonce
    if item.has_own_key:
        return _expand(_owner_prk(key_of(item, keys)), _KEY_OWNER_OUTPUT, item.index, context)
    return _expand(keys.session, _KEY_OUTPUT, item.index, context)


def _own_key_key(prk: bytes, item: InDataItem) -> bytes:
    label = _KEY_OWNER_OUTPUT_KEY if isinstance(item, OutDataItem) else _KEY_OWNER_INPUT_KEY
    return _expand(prk, label, item.index, b"")


def _owner_prk(item_key: bytes) -> bytes:
    return HKDF.extract(_SHA256, _OWNER_INFO, item_key)


def _expand(prk: bytes, label: bytes, index: int, context: bytes) -> bytes:
    return HKDFExpand(_SHA256, aead.KEY_BYTES, label + index.to_bytes(4, "big") + context).derive(prk)


def _items_digest(items: Sequence[InDataItem]) -> bytes:
    hashed = hashlib.sha256(_ITEMS)
    for item in sorted_by_index(items):
        hashed.update(
            encode_fields(str(item.index), item.data_hash, item.encrypted_data_encryption_key, item.iv)
        )
        data = item.data.encode()
        hashed.update(len(data).to_bytes(4, "big"))
        hashed.update(data)
    return hashed.digest()


def _require_secret(secret: bytes) -> bytes:
    if len(secret) != SECRET_BYTES:
        raise DecryptionFailed("the encrypted key does not hold 32 bytes")
    return secret
