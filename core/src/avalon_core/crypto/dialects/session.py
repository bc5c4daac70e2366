"""The two dialects of existing clients: one session key by RSA-OAEP, AES-GCM messages under it.

They differ in three things only, so they are two instances of one class:

====================  =======================================  =====================================
\\                     ``avalon``                               ``eea-1.1``
====================  =======================================  =====================================
hashed bytes          UTF-8 of the encoded strings             the bytes that hex and base64 encode
AES-GCM message       ciphertext, tag                          tag, ciphertext
result items hashed   dataHash, data, key, iv                  dataHash, data
====================  =======================================  =====================================

Both are weak where a sessionKeyIv is used: one key and iv then encrypt every message of the order, and since the
request hash is computable from public members, whoever sees the wire learns the first 32 bytes of each. See
:func:`nonce_reuse`, SECURITY.md and ADR 3.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from avalon_core.crypto import aead
from avalon_core.crypto.aead import Layout
from avalon_core.crypto.dialects.base import (
    SECRET_BYTES,
    OrderKeys,
    WorkerKeys,
    iv_of,
    key_of,
    sorted_by_index,
    wrapped_own_keys,
)
from avalon_core.errors import DecryptionFailed, EncodingError
from avalon_core.protocol.encodings import decode_base64, decode_hex, encode_base64
from avalon_core.protocol.ids import Base64Str, HexStr
from avalon_core.protocol.orders import (
    CLEAR_TEXT_KEY,
    InDataItem,
    OutDataItem,
    WorkOrderRequest,
    WorkOrderResult,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionDialect:
    """A dialect of session keys. See :class:`avalon_core.crypto.dialects.base.Dialect` for the methods."""

    name: str
    layout: Layout
    hex_bytes: Callable[[str], bytes]
    """What is hashed of a member in hex."""

    base64_bytes: Callable[[str], bytes]
    """What is hashed of a member in base64."""

    hashes_result_keys: bool
    """Whether a result's hash covers each item's key and iv."""

    needs_explicit_iv: bool
    """Whether an order without sessionKeyIv and item iv is refused (its iv would be zeros)."""

    def request_hash(self, request: WorkOrderRequest) -> bytes:
        hashed = hashlib.sha256(self._ids_hash(self.hex_bytes(request.requester_nonce), request))
        hashed.update(self._items_hash(request.in_data, with_keys=True))
        if request.out_data:
            hashed.update(self._items_hash(request.out_data, with_keys=True))
        return hashed.digest()

    def open_request_hash(self, request: WorkOrderRequest, keys: OrderKeys) -> bytes:
        message = decode_hex(request.encrypted_request_hash, what="encryptedRequestHash")
        iv = iv_of(request.session_key_iv, None)
        if iv is None and self.needs_explicit_iv:
            # Opened only so that the order can be recognised, and refused for what is wrong with it.
            iv = bytes(aead.NONCE_BYTES)
        return self._open(keys.session, iv, message)

    def open_input(self, request: WorkOrderRequest, item: InDataItem, keys: OrderKeys) -> bytes:
        message = decode_base64(item.data, what=f"inData item {item.index}: data")
        return self._open(key_of(item, keys), iv_of(item.iv, request.session_key_iv), message)

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
        if template is None:
            # What the original answers: its clients compare nothing of it, but hash "null".
            template = OutDataItem(index=index, encrypted_data_encryption_key="null", iv=HexStr(""))
        if template.is_clear:
            message = plaintext
        else:
            iv = iv_of(template.iv, request.session_key_iv)
            message = self._seal(key_of(template, keys), iv, plaintext)
        return OutDataItem(
            index=index,
            data=Base64Str(encode_base64(message)),
            encrypted_data_encryption_key=template.encrypted_data_encryption_key,
            iv=template.iv,
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
        message = decode_base64(item.data, what=f"outData item {item.index}: data")
        if item.is_clear:
            return message
        return self._open(key_of(item, keys), iv_of(item.iv, request.session_key_iv), message)

    def result_items_digest(self, result: WorkOrderResult) -> bytes:
        return self._items_hash(result.out_data, with_keys=self.hashes_result_keys)

    def result_hash_of(
        self,
        request: WorkOrderRequest,
        *,
        worker_nonce: str,
        items_digest: bytes,
        request_hash: bytes,
        ext_verification_key: str | None,
    ) -> bytes:
        ids = self._ids_hash(self.base64_bytes(worker_nonce), request)
        return hashlib.sha256(ids + items_digest).digest()

    def result_hash(self, request: WorkOrderRequest, result: WorkOrderResult, request_hash: bytes) -> bytes:
        return self.result_hash_of(
            request,
            worker_nonce=result.worker_nonce,
            items_digest=self.result_items_digest(result),
            request_hash=request_hash,
            ext_verification_key=result.ext_verification_key,
        )

    def seal_message(self, key: bytes, iv: bytes | None, plaintext: bytes) -> bytes:
        """Encrypt as a requester does: under the given iv, or with a fresh one before the message."""
        return self._seal(key, iv, plaintext)

    def seal_wrapped_key(self, session_key: bytes, wrapped: bytes) -> bytes:
        """The requester's layer around an item's own key, which its owner has encrypted to the worker."""
        return self._seal(session_key, None, wrapped)

    def open_wrapped_key(self, session_key: bytes, wrapped: bytes, keys: WorkerKeys) -> bytes:
        """An item's own key: under it RSA by the data's owner, around that AES-GCM with the session key.

        Raises:
            DecryptionFailed
        """
        return _require_secret(keys.rsa.open_(self._open(session_key, None, wrapped)))

    def _ids_hash(self, nonce: bytes, request: WorkOrderRequest) -> bytes:
        hex_bytes = self.hex_bytes
        order = (request.work_order_id, request.worker_id, request.workload_id, request.requester_id)
        return hashlib.sha256(nonce + b"".join(hex_bytes(text) for text in order)).digest()

    def _items_hash(self, items: Sequence[InDataItem], *, with_keys: bool) -> bytes:
        hashed = hashlib.sha256()
        for item in sorted_by_index(items):
            hashed.update(self.hex_bytes(item.data_hash or ""))
            hashed.update(self.base64_bytes(item.data))
            if with_keys:
                hashed.update(self.hex_bytes(item.encrypted_data_encryption_key or ""))
                hashed.update(self.hex_bytes(item.iv or ""))
        return hashed.digest()

    def _open(self, key: bytes, iv: bytes | None, message: bytes) -> bytes:
        if iv is None:
            if len(message) < aead.NONCE_BYTES:
                raise DecryptionFailed("the message is shorter than the iv that must stand before it")
            iv, message = message[: aead.NONCE_BYTES], message[aead.NONCE_BYTES :]
        return aead.open_(key, iv, message, self.layout)

    def _seal(self, key: bytes, iv: bytes | None, plaintext: bytes) -> bytes:
        if iv is None:
            iv = os.urandom(aead.NONCE_BYTES)
            return iv + aead.seal(key, iv, plaintext, self.layout)
        return aead.seal(key, iv, plaintext, self.layout)


def _bytes_of_hex(text: str) -> bytes:
    """Marks such as ``null`` and ``-`` encode nothing, so nothing is hashed of them."""
    if text in ("", "null", CLEAR_TEXT_KEY):
        return b""
    return decode_hex(text.removeprefix("0x"), what="a member in hex")


def _bytes_of_base64(text: str) -> bytes:
    return decode_base64(text, what="a member in base64")


def _require_secret(secret: bytes) -> bytes:
    if len(secret) != SECRET_BYTES:
        raise DecryptionFailed("the encrypted key does not hold 32 bytes")
    return secret


AVALON = SessionDialect(
    name="avalon",
    layout=Layout.CIPHERTEXT_TAG,
    hex_bytes=str.encode,
    base64_bytes=str.encode,
    hashes_result_keys=True,
    needs_explicit_iv=False,
)
"""The original's Python code."""

EEA = SessionDialect(
    name="eea-1.1",
    layout=Layout.TAG_CIPHERTEXT,
    hex_bytes=_bytes_of_hex,
    base64_bytes=_bytes_of_base64,
    hashes_result_keys=False,
    needs_explicit_iv=True,
)
"""The text of the specification."""


def unlock_session(request: WorkOrderRequest, keys: WorkerKeys) -> OrderKeys:
    """Open the session key and the items' own keys of an order in either dialect.

    The outer layer of an own key is laid out as its dialect says, which is not known yet: both are tried.

    Raises:
        DecryptionFailed
    """
    sealed = decode_hex(request.encrypted_session_key, what="encryptedSessionKey")
    session = _require_secret(keys.rsa.open_(sealed))
    own: dict[str, bytes] = {}
    for wrapped in wrapped_own_keys(request):
        message = decode_hex(wrapped, what="encryptedDataEncryptionKey")
        try:
            own[wrapped] = AVALON.open_wrapped_key(session, message, keys)
        except DecryptionFailed:
            own[wrapped] = EEA.open_wrapped_key(session, message, keys)
    return OrderKeys(session=session, own=own)


def nonce_reuse(request: WorkOrderRequest) -> str | None:
    """Say why an order of existing clients repeats a (key, iv) pair, or None where it does not.

    It is judged by public members alone, so listener and enclave agree. Outputs without a template of their own
    fall back on the session key and iv. How many there will be is not known beforehand; one is expected for each
    input, and ``seal_result`` refuses any other where this judgement would turn out wrong.
    """
    if request.is_hpke:
        return None  # our suite derives a key for every message, and its form leaves no room for a repetition
    session_iv = (request.session_key_iv or "").lower()
    hash_iv = session_iv or request.encrypted_request_hash[: 2 * aead.NONCE_BYTES].lower()
    used: set[tuple[str, str]] = {("", hash_iv)}
    for wrapped in wrapped_own_keys(request):
        pair = ("", wrapped[: 2 * aead.NONCE_BYTES].lower())
        if pair in used:
            return "an item's own key is encrypted under a key and iv that another message has used"
        used.add(pair)
    if session_iv:
        templated = {template.index for template in request.out_data}
        if not request.in_data or any(item.index not in templated for item in request.in_data):
            return "the request hash and every output travel under one key and iv (sessionKeyIv)"
    for direction, items in (("input", request.in_data), ("output", request.out_data)):
        for item in items:
            iv = (item.iv or "").lower() or session_iv or _iv_before(item)
            if item.is_clear or not iv:
                continue
            own_key = (item.encrypted_data_encryption_key or "").lower() if item.has_own_key else ""
            pair = (own_key, iv)
            if pair in used:
                return f"{direction} {item.index} travels under a key and iv that another message has used"
            used.add(pair)
    return None


def _iv_before(item: InDataItem) -> str:
    """Hex of the iv that stands before a message without an explicit one; nothing for a template."""
    try:
        return decode_base64(item.data[: 4 * aead.NONCE_BYTES // 3], what="data").hex()
    except EncodingError:
        return ""
