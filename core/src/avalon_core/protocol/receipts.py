"""Receipts of work orders, as they travel (specification 1.1, section on work order receipts).

A receipt is a requester's signed word that it ordered something, and after it a list of signed updates: the worker's,
that it answered (PROCESSED, with the hash of its response) or could not (FAILED); the requester's, that it accepts the
answer (COMPLETED) or not (REJECTED); and whatever else anybody wants to add.

Records exist only well formed. What is signed is a digest of texts as they stand on the wire (:func:`creation_digest`,
:func:`update_digest`); making and verifying the signatures is in :mod:`avalon_core.crypto.receipts`.

The rules of a receipt's status (:func:`status_after`), in the order in which they are checked:

1. An update's type up to 255 is the status that it sets. 5 to 254 are reserved and 255 is for look-ups: refused.
2. A type above 255 is the application's own and leaves the status as it is.
3. After COMPLETED there is no update of any type.
4. After PROCESSED the status does not go back to PENDING, FAILED or REJECTED.
"""

import enum
import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta

from avalon_core.errors import EncodingError
from avalon_core.protocol.encodings import decode_base64, decode_canonical_base64
from avalon_core.protocol.errors import GeneralCode, GeneralError
from avalon_core.protocol.ids import HEX_ID, Base64Str, HexStr, RequesterId, WorkerId, WorkOrderId
from avalon_core.protocol.limits import (
    MAX_NONCE_CHARS,
    MAX_PEM_CHARS,
    MAX_RECEIPT_CODE,
    MAX_SIGNATURE_CHARS,
    MAX_UPDATE_DATA_CHARS,
)

SIGNATURE_RULES = "SHA-256/SECP256K1"
"""The one value of signatureRules that there is."""

LAST_UPDATE = 0xFFFFFFFF
"""updateIndex that means the last update."""

LAST_UPDATE_OF_THE_ORIGINAL = 1 << 32
"""What the original's clients send for the same."""

HASH_CHARS = 44
"""Base64 of 32 bytes."""


class ReceiptStatus(enum.IntEnum):
    """Status of a receipt. Numbers above 255 are the application's own."""

    PENDING = 0
    """Waits to be processed."""

    COMPLETED = 1
    """Processed, and the response was accepted: the end."""

    PROCESSED = 2
    """The worker answered; nobody has accepted the answer yet."""

    FAILED = 3
    """The worker could not process the order."""

    REJECTED = 4
    """Refused."""

    ANY = 255
    """Of look-ups only."""


_SETTABLE = frozenset(ReceiptStatus) - {ReceiptStatus.ANY}
_ENDS_WITH_A_RESPONSE = frozenset({ReceiptStatus.COMPLETED, ReceiptStatus.PROCESSED})
_NOT_AFTER_PROCESSED = frozenset({ReceiptStatus.PENDING, ReceiptStatus.FAILED, ReceiptStatus.REJECTED})


def sets_status(update_type: int) -> bool:
    """Whether an update of this type sets the receipt's status (the others only add to it)."""
    return update_type <= ReceiptStatus.ANY


def names_response(update_type: int) -> bool:
    """Whether the data of an update of this type is the hash of the order's response."""
    return update_type in _ENDS_WITH_A_RESPONSE


def status_fault(code: int, member: str) -> str | None:
    """Say why a number is not one that a receipt's status or an update's type can have, or None."""
    if code in _SETTABLE or code > ReceiptStatus.ANY:
        return None
    return f"{member}: got {code}, expected 0 to 4, or above 255 for an application's own"


def status_after(status: int, update_type: int) -> int:
    """The status of a receipt after an update, by the rules above.

    Raises:
        GeneralError: code 2; the rules forbid this update.
    """
    fault = status_fault(update_type, "updateType")
    if fault is None and status == ReceiptStatus.COMPLETED:
        fault = "updateType: the receipt is completed, which is final; nothing can be added to it"
    if fault is None and status == ReceiptStatus.PROCESSED and update_type in _NOT_AFTER_PROCESSED:
        name = ReceiptStatus(update_type).name.lower()
        fault = (
            f"updateType: the receipt is processed and cannot become {name}; only completed comes after it"
        )
    if fault is not None:
        raise GeneralError(GeneralCode.INVALID_PARAMETER, fault)
    return update_type if sets_status(update_type) else status


_Status = Annotated[int, Meta(ge=0, le=MAX_RECEIPT_CODE)]
_Signature = Annotated[Base64Str, Meta(min_length=1, max_length=MAX_SIGNATURE_CHARS)]
_Pem = Annotated[str, Meta(min_length=1, max_length=MAX_PEM_CHARS)]
_OptionalPem = Annotated[str, Meta(max_length=MAX_PEM_CHARS)]
_OptionalId = Annotated[str, Meta(pattern=r"^((0x)?[0-9a-fA-F]{1,64})?\Z")]


class ReceiptCreateParams(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """The params of WorkOrderReceiptCreate. All but the last three members are covered by ``requester_signature``."""

    work_order_id: Annotated[WorkOrderId, HEX_ID]
    worker_service_id: Annotated[str, HEX_ID]
    """The service that runs the worker. Opaque: nothing is checked of it."""

    worker_id: Annotated[WorkerId, HEX_ID]
    requester_id: Annotated[RequesterId, HEX_ID]
    receipt_create_status: _Status
    """The first status, usually 0 (pending)."""

    work_order_request_hash: Annotated[Base64Str, Meta(min_length=HASH_CHARS, max_length=HASH_CHARS)]
    """Base64 of the request hash H of the work order (32 bytes)."""

    requester_generated_nonce: Annotated[
        HexStr, Meta(pattern=r"^(0x)?[0-9a-fA-F]+\Z", max_length=MAX_NONCE_CHARS)
    ]
    requester_signature: _Signature
    """Base64 of ECDSA(:func:`creation_digest`) in DER."""

    signature_rules: str
    """``SHA-256/SECP256K1``."""

    receipt_verification_key: _Pem
    """PEM of the key that verifies ``requester_signature``."""

    def __post_init__(self) -> None:
        _require(status_fault(self.receipt_create_status, "receiptCreateStatus"))
        _require_rules(self.signature_rules)
        _require_base64(self.requester_signature, "requesterSignature")
        _require_hash(self.work_order_request_hash, "workOrderRequestHash")


class ReceiptUpdateParams(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """The params of WorkOrderReceiptUpdate. ``update_signature`` covers workOrderId, updateType and updateData."""

    work_order_id: Annotated[WorkOrderId, HEX_ID]
    updater_id: Annotated[str, HEX_ID]
    """The worker's id, the requester's, or anybody else's. No signature covers it: the key decides whose word it is."""

    update_type: _Status
    """Up to 255: the new status. Above: the application's own."""

    update_data: Annotated[str, Meta(max_length=MAX_UPDATE_DATA_CHARS)]
    """For types 1 and 2 base64 of the response hash R (32 bytes); else anything."""

    update_signature: _Signature
    """Base64 of ECDSA(:func:`update_digest`) in DER."""

    signature_rules: str
    """``SHA-256/SECP256K1``."""

    receipt_verification_key: _OptionalPem | None = None
    """PEM of the key that verifies ``update_signature``. May be left out by the order's worker and requester, whose
    keys are known."""

    def __post_init__(self) -> None:
        _require(status_fault(self.update_type, "updateType"))
        _require_rules(self.signature_rules)
        _require_base64(self.update_signature, "updateSignature")
        if names_response(self.update_type):
            _require_hash(self.update_data, "updateData")


class ReceiptRetrieveParams(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """The params of WorkOrderReceiptRetrieve."""

    work_order_id: Annotated[WorkOrderId, HEX_ID]


class ReceiptUpdateRetrieveParams(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """The params of WorkOrderReceiptUpdateRetrieve."""

    work_order_id: Annotated[WorkOrderId, HEX_ID]
    update_index: Annotated[int, Meta(ge=1, le=LAST_UPDATE_OF_THE_ORIGINAL)]
    """From 1, among the updates of ``updater_id`` where that is given. 0xFFFFFFFF (or 1<<32): the last."""

    updater_id: _OptionalId | None = None
    """Only updates of this updater count. None or empty: all do."""

    @property
    def wants_last(self) -> bool:
        """The index means the last update."""
        return self.update_index >= LAST_UPDATE


class ReceiptLookUpParams(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """The params of WorkOrderReceiptLookUp: every criterion is optional, all that are given must match."""

    worker_service_id: _OptionalId | None = None
    worker_id: _OptionalId | None = None
    requester_id: _OptionalId | None = None
    receipt_status: _Status | None = None
    """The current status; 255 or None: any."""

    request_create_status: _Status | None = None
    """The same, by the name that the original's clients use."""

    def __post_init__(self) -> None:
        if None not in (self.receipt_status, self.request_create_status) and (
            self.receipt_status != self.request_create_status
        ):
            raise ValueError("receiptStatus and requestCreateStatus are two names of one criterion: give one")

    @property
    def status(self) -> int | None:
        """The criterion, however it was named; None for any."""
        given = self.receipt_status if self.receipt_status is not None else self.request_create_status
        return None if given == ReceiptStatus.ANY else given


_Tag = Annotated[str, Meta(max_length=256)]


class ReceiptLookUpNextParams(
    ReceiptLookUpParams, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """The params of WorkOrderReceiptLookUpNext: the same criteria and the tag, under any of the names in use."""

    look_up_tag: _Tag | None = None
    lookup_tag: _Tag | None = msgspec.field(name="lookupTag", default=None)
    last_look_up_tag: _Tag | None = None

    def __post_init__(self) -> None:
        ReceiptLookUpParams.__post_init__(self)
        if not self.tag:
            raise ValueError("lookUpTag is missing: pass the lookupTag of the page before")

    @property
    def tag(self) -> str | None:
        """The tag, however it was named."""
        return next((t for t in (self.look_up_tag, self.lookup_tag, self.last_look_up_tag) if t), None)


class ReceiptResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The result of WorkOrderReceiptRetrieve: what was created, and how it stands now."""

    work_order_id: WorkOrderId
    worker_service_id: str
    worker_id: WorkerId
    requester_id: RequesterId
    receipt_create_status: int
    work_order_request_hash: Base64Str
    requester_generated_nonce: HexStr
    requester_signature: Base64Str
    signature_rules: str
    receipt_verification_key: str
    """PEM of the requester's key."""

    receipt_current_status: int
    """What the service says of the updates; each can be retrieved and its signature verified."""


class ReceiptUpdateResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The result of WorkOrderReceiptUpdateRetrieve."""

    work_order_id: WorkOrderId
    updater_id: str
    update_type: int
    update_data: str
    update_signature: Base64Str
    signature_rules: str
    receipt_verification_key: str
    """PEM of the key under which the service verified the signature. Whose it is, is for the reader to know."""

    update_count: int
    """How many updates there are (of the updater, where one was asked for)."""


class ReceiptLookUpResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One page of ids of work orders that have a matching receipt."""

    total_count: int
    """Every match, not only this page's, as it was when the first page was read."""

    lookup_tag: str
    """Not empty only where more remain."""

    ids: tuple[WorkOrderId, ...]


def creation_digest(receipt: ReceiptCreateParams | ReceiptResult) -> bytes:
    """What the requester signs to create a receipt: SHA-256 over the members' texts, one after the other.

    No length stands between them, as the specification has it; that the ids have the length that the reader expects
    is what keeps one list of members from being read as another.
    """
    texts = (
        receipt.work_order_id,
        receipt.worker_service_id,
        receipt.worker_id,
        receipt.requester_id,
        str(receipt.receipt_create_status),
        receipt.work_order_request_hash,
        receipt.requester_generated_nonce,
    )
    return hashlib.sha256("".join(texts).encode()).digest()


def update_digest(work_order_id: str, update_type: int, update_data: str) -> bytes:
    """What an updater signs: SHA-256 over workOrderId, updateType in decimal and updateData, one after the other."""
    return hashlib.sha256(f"{work_order_id}{update_type}{update_data}".encode()).digest()


_result_decoder = msgspec.json.Decoder(ReceiptResult)
_update_decoder = msgspec.json.Decoder(ReceiptUpdateResult)
_look_up_decoder = msgspec.json.Decoder(ReceiptLookUpResult)


def decode_receipt(result: bytes | msgspec.Raw) -> ReceiptResult:
    """Read the result of WorkOrderReceiptRetrieve.

    Raises:
        GeneralError: code 1; the answer is not a receipt.
    """
    try:
        return _result_decoder.decode(result)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise _unreadable("receipt", exc) from None


def decode_receipt_update(result: bytes | msgspec.Raw) -> ReceiptUpdateResult:
    """Read the result of WorkOrderReceiptUpdateRetrieve.

    Raises:
        GeneralError: code 1; the answer is not a receipt's update.
    """
    try:
        return _update_decoder.decode(result)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise _unreadable("update of a receipt", exc) from None


def decode_receipt_page(result: bytes | msgspec.Raw) -> ReceiptLookUpResult:
    """Read the result of WorkOrderReceiptLookUp and WorkOrderReceiptLookUpNext.

    Raises:
        GeneralError: code 1; the answer is not a page of a look-up.
    """
    try:
        return _look_up_decoder.decode(result)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise _unreadable("page of receipts", exc) from None


def _unreadable(what: str, exc: Exception) -> GeneralError:
    return GeneralError(GeneralCode.UNKNOWN_ERROR, f"the service's {what} cannot be read: {exc}")


def _require(fault: str | None) -> None:
    if fault is not None:
        raise ValueError(fault)


def _require_rules(rules: str) -> None:
    if rules != SIGNATURE_RULES:
        raise ValueError(f"signatureRules: expected {SIGNATURE_RULES!r}")


def _require_base64(text: str, what: str) -> None:
    try:
        decode_base64(text, what=what)
    except EncodingError as exc:
        raise ValueError(exc.message) from None


def _require_hash(text: str, what: str) -> None:
    try:
        digest = decode_canonical_base64(text, what=what)
    except EncodingError as exc:
        raise ValueError(exc.message) from None
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError(f"{what}: got {len(digest)} bytes, expected base64 of the 32 of a hash")
