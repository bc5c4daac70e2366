"""Work orders and their results, as they travel (specification 1.1, sections on WorkOrderSubmit and its result).

``WorkOrderRequest`` is the ``params`` of WorkOrderSubmit. It exists only well formed: ids are hex, indices are
unique, lengths are within their caps. Whether it opens, and whether its sender is who it says, is decided by
:mod:`avalon_core.crypto.orders` in the enclave and nowhere else.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from avalon_core.errors import EncodingError
from avalon_core.protocol.encodings import decode_base64
from avalon_core.protocol.errors import WorkOrderCode, WorkOrderError, brief, invalid_order
from avalon_core.protocol.ids import HEX_ID, Base64Str, HexStr, RequesterId, WorkerId, WorkloadId, WorkOrderId
from avalon_core.protocol.limits import (
    MAX_DATA_CHARS,
    MAX_ITEM_INDEX,
    MAX_ITEMS,
    MAX_NONCE_CHARS,
    MAX_PEM_CHARS,
    MAX_SIGNATURE_CHARS,
    MAX_TIMEOUT_MSECS,
    MAX_URI_CHARS,
    MAX_WRAPPED_KEY_CHARS,
)

FORMAT_JSON_RPC = "JSON-RPC"
"""payloadFormat of the specification's own orders (any case); the dialect is whichever opens."""

FORMAT_HPKE = "~avalon-hpke-1"
"""payloadFormat of our suite. The specification lets custom formats start with ``~``."""

DATA_ENCRYPTION_ALGORITHM = "AES-GCM-256"
CLEAR_TEXT_KEY = "-"
"""encryptedDataEncryptionKey of an item that is not encrypted at all."""

SESSION_KEY_MARKS = frozenset({None, "", "null"})
"""encryptedDataEncryptionKey values that mean: the session key."""

HEX = r"^[0-9a-fA-F]*\Z"
"""Whole bytes are checked beside it: a group of two in the pattern would cost ten times as much."""

_Index = Annotated[int, Meta(ge=0, le=MAX_ITEM_INDEX)]
_DataHash = Annotated[HexStr, Meta(pattern=r"^([0-9a-fA-F]{64})?\Z")]
_WrappedItemKey = Annotated[str, Meta(pattern=r"^(-|null|[0-9a-fA-F]*)\Z", max_length=MAX_WRAPPED_KEY_CHARS)]
_Iv = Annotated[HexStr, Meta(pattern=r"^([0-9a-fA-F]{24})?\Z")]
_Uri = Annotated[str, Meta(max_length=MAX_URI_CHARS)]


class InDataItem(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True
):
    """One input. Every member is covered by the request hash."""

    index: _Index
    """Position of the item; items are hashed in this order whatever their order in the list."""

    data: Annotated[Base64Str, Meta(max_length=MAX_DATA_CHARS)]
    """Base64 of the encrypted message (of the plaintext where the key is ``-``)."""

    data_hash: _DataHash | None = None
    """Hex of SHA-256 over the plaintext; checked after decryption where present."""

    encrypted_data_encryption_key: _WrappedItemKey | None = None
    """Absent, ``""`` or ``"null"``: the session key. ``"-"``: clear text. Else hex of the item's own key, wrapped."""

    iv: _Iv | None = None
    """Hex of a 12-byte iv of the item's own."""

    def __post_init__(self) -> None:
        if self.has_own_key and len(self.encrypted_data_encryption_key or "") % 2:
            raise ValueError(
                "encryptedDataEncryptionKey: expected whole bytes in hex, got an odd number of digits"
            )

    @property
    def is_clear(self) -> bool:
        """The item travels unencrypted."""
        return self.encrypted_data_encryption_key == CLEAR_TEXT_KEY

    @property
    def has_own_key(self) -> bool:
        """The item is encrypted under a key of its own."""
        return not self.is_clear and self.encrypted_data_encryption_key not in SESSION_KEY_MARKS


class OutDataItem(
    InDataItem, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True
):
    """An output; in a request, a template that says under which key and iv the output of that index is to travel."""

    data: Annotated[Base64Str, Meta(max_length=MAX_DATA_CHARS)] = Base64Str("")
    """Empty in a template."""


DataItem = InDataItem
"""What the hashing of either direction takes."""


class WorkOrderRequest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True
):
    """The params of WorkOrderSubmit."""

    response_timeout_msecs: Annotated[int, Meta(ge=0, le=MAX_TIMEOUT_MSECS)] = msgspec.field(
        name="responseTimeoutMSecs"
    )
    """Above 0: answer with the result within that time. 0: asynchronous."""

    payload_format: Annotated[str, Meta(max_length=32)]
    """``JSON-RPC`` in any case, or ``~avalon-hpke-1``."""

    work_order_id: Annotated[WorkOrderId, HEX_ID]
    """Covered by the request hash, like the three ids below."""

    worker_id: Annotated[WorkerId, HEX_ID]
    workload_id: Annotated[WorkloadId, HEX_ID]
    requester_id: Annotated[RequesterId, HEX_ID]

    encrypted_session_key: Annotated[
        HexStr, Meta(min_length=2, max_length=MAX_WRAPPED_KEY_CHARS, pattern=HEX)
    ]
    """RSA-OAEP of the 32-byte session key; in our suite HPKE of the 32-byte order secret. Hex."""

    requester_nonce: Annotated[
        HexStr, Meta(min_length=1, max_length=MAX_NONCE_CHARS, pattern=r"^(0x)?[0-9a-fA-F]+\Z")
    ]
    """Covered by the request hash."""

    encrypted_request_hash: Annotated[HexStr, Meta(min_length=2, max_length=256, pattern=HEX)]
    """The request hash H under the session key. Hex."""

    result_uri: _Uri | None = None
    notify_uri: _Uri | None = None

    worker_encryption_key: Annotated[HexStr, Meta(max_length=2 * MAX_PEM_CHARS, pattern=HEX)] | None = None
    """Which of the worker's keys was used: hex of its PEM; in our suite hex of SHA-256 over the HPKE public key."""

    data_encryption_algorithm: str | None = None
    session_key_iv: _Iv | None = None
    """Hex of the 12-byte iv that goes with the session key; its use makes an order legacy. Refused in our suite."""

    requester_signature: Annotated[Base64Str, Meta(max_length=MAX_SIGNATURE_CHARS)] | None = None
    """Base64 of ECDSA(H) in DER; ``""`` and null mean none."""

    verifying_key: Annotated[str, Meta(max_length=MAX_PEM_CHARS)] | None = None
    """PEM. Proves possession only, unless it is the key registered for the requester."""

    in_data: Annotated[tuple[InDataItem, ...], Meta(max_length=MAX_ITEMS)] = ()
    out_data: Annotated[tuple[OutDataItem, ...], Meta(max_length=MAX_ITEMS)] = ()

    def __post_init__(self) -> None:
        # str.upper alone would let the long s through.
        is_json_rpc = self.payload_format.isascii() and self.payload_format.upper() == FORMAT_JSON_RPC
        if self.payload_format != FORMAT_HPKE and not is_json_rpc:
            raise ValueError(f"payloadFormat: expected {FORMAT_JSON_RPC!r} or {FORMAT_HPKE!r}")
        if self.data_encryption_algorithm not in (None, "", DATA_ENCRYPTION_ALGORITHM):
            raise ValueError(f"dataEncryptionAlgorithm: expected {DATA_ENCRYPTION_ALGORITHM!r}")
        for name, items in (("inData", self.in_data), ("outData", self.out_data)):
            if len({item.index for item in items}) != len(items):
                raise ValueError(f"{name}: two items have the same index; indices must be unique")
        for name, text in (
            ("encryptedSessionKey", self.encrypted_session_key),
            ("encryptedRequestHash", self.encrypted_request_hash),
            ("workerEncryptionKey", self.worker_encryption_key or ""),
        ):
            if len(text) % 2:
                raise ValueError(f"{name}: expected whole bytes in hex, got an odd number of digits")
        if self.requester_signature:
            _require_base64(self.requester_signature, "requesterSignature")

    @property
    def is_hpke(self) -> bool:
        """The order is of our own suite."""
        return self.payload_format == FORMAT_HPKE

    def check_encodings(self, max_chars: int = MAX_DATA_CHARS) -> None:
        """Read items' base64 once, so that a malformed order is refused before it is accepted.

        Args:
            max_chars: items longer than this are left to the enclave, which reads every item anyway.

        Raises:
            WorkOrderError: code 2, naming the item.
        """
        for item in self.in_data:
            if len(item.data) > max_chars:
                continue
            try:
                decode_base64(item.data, what=f"inData item {item.index}: data")
            except EncodingError as exc:
                raise invalid_order(exc.message) from None


class WorkOrderResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The result of a work order. Unknown members are tolerated: other services may add some, none is trusted."""

    work_order_id: WorkOrderId
    workload_id: WorkloadId
    worker_id: WorkerId
    requester_id: RequesterId
    worker_nonce: Base64Str
    """Fresh for every execution; covered by the signature."""

    worker_signature: Base64Str
    """Base64 of ECDSA(R) in DER, by the worker's verification key or by ``ext_verification_key``."""

    out_data: Annotated[tuple[OutDataItem, ...], Meta(max_length=MAX_ITEMS)]
    ext_verification_key: Annotated[str, Meta(max_length=MAX_PEM_CHARS)] | None = None
    """PEM of a pool's one-time key that signed the result."""

    ext_verification_key_signature: Annotated[Base64Str, Meta(max_length=MAX_SIGNATURE_CHARS)] | None = None
    """Base64 of the pool's signature over SHA-256(PEM followed by the requester's nonce)."""


class GetResultParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The params of WorkOrderGetResult."""

    work_order_id: Annotated[WorkOrderId, HEX_ID]


_request_decoder = msgspec.json.Decoder(WorkOrderRequest)
_result_decoder = msgspec.json.Decoder(WorkOrderResult)
_encoder = msgspec.json.Encoder()


def decode_request(params: bytes | msgspec.Raw) -> WorkOrderRequest:
    """Decode and validate the params of WorkOrderSubmit in one pass.

    Raises:
        WorkOrderError: code 2; the message says which member and what was expected.
    """
    try:
        return _request_decoder.decode(params)
    except msgspec.ValidationError as exc:
        raise invalid_order(f"invalid params: {brief(exc)}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise invalid_order("invalid params: expected a JSON object") from None


def encode_request(request: WorkOrderRequest) -> bytes:
    """The params as JSON."""
    return _encoder.encode(request)


def decode_result(result: bytes | msgspec.Raw) -> WorkOrderResult:
    """Decode a result.

    Raises:
        WorkOrderError: code 10; what came back is not a work order result.
    """
    try:
        return _result_decoder.decode(result)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise WorkOrderError(
            WorkOrderCode.UNKNOWN, f"the service answered something that is not a result: {brief(exc)}"
        ) from None


def encode_result(result: WorkOrderResult) -> bytes:
    """The result as JSON."""
    return _encoder.encode(result)


def _require_base64(text: str, what: str) -> None:
    try:
        decode_base64(text, what=what)
    except EncodingError as exc:
        raise ValueError(exc.message) from None


def header_of(request: WorkOrderRequest) -> bytes:
    """The request in JSON without its items' data: all that the secrets of an order depend on.

    In a pool it is what the key management enclave is shown of an order.
    """
    return msgspec.json.encode(
        msgspec.structs.replace(
            request,
            in_data=tuple(msgspec.structs.replace(item, data=Base64Str("")) for item in request.in_data),
            out_data=tuple(msgspec.structs.replace(item, data=Base64Str("")) for item in request.out_data),
        )
    )
