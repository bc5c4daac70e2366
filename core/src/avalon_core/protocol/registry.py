"""Writes to the registry: workers, their encryption keys, requesters' keys (specification 1.1, worker registry).

``signatureNonce`` and ``signature`` on the registry writes are ours: they let a worker write its own entry without
the operator. What they cover is in :mod:`avalon_core.crypto.registry`.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from avalon_core.protocol.errors import WorkerStatus, WorkerType
from avalon_core.protocol.ids import HEX_ID, Base64Str, HexStr, RequesterId, WorkerId
from avalon_core.protocol.limits import MAX_NONCE_CHARS, MAX_PEM_CHARS, MAX_SIGNATURE_CHARS

MAX_DETAILS_BYTES = 256 * 1024
"""JSON of a worker's details: a quote with its collateral is some 20 KB, and every worker's details stay in memory."""

MAX_APPLICATION_TYPES = 64
"""Application types of one worker; look-ups accept as many."""

_OptionalId = Annotated[str, Meta(pattern=r"^((0x)?[0-9a-fA-F]{1,64})?\Z")]
_Signature = Annotated[Base64Str, Meta(max_length=MAX_SIGNATURE_CHARS)]
_KeyNonce = Annotated[HexStr, Meta(pattern=r"^[0-9a-fA-F]+\Z", max_length=MAX_NONCE_CHARS)]
_OptionalNonce = Annotated[HexStr, Meta(pattern=r"^[0-9a-fA-F]*\Z", max_length=MAX_NONCE_CHARS)]
_Pem = Annotated[str, Meta(min_length=1, max_length=MAX_PEM_CHARS)]

Tag = Annotated[str, Meta(pattern=r"^(0x)?[0-9a-fA-F]{0,64}\Z")]
"""What a worker's encryption key is meant for: hex of up to 32 bytes, usually a requester's id; empty is for all."""

SequenceNonce = Annotated[HexStr, Meta(pattern=r"^[0-9a-fA-F]{1,16}\Z")]
"""Hex of a number up to 64 bits that is larger at each signed write. Milliseconds since the epoch will do."""


class SignedWrite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """What the writes have in common."""

    worker_id: Annotated[WorkerId, HEX_ID]
    signature_nonce: SequenceNonce | None = None
    """Against replay: larger than that of every earlier signed write of this worker."""

    signature: _Signature | None = None
    """Base64 of ECDSA in DER, by the worker's verification key."""

    def __post_init__(self) -> None:
        if (self.signature is None) != (self.signature_nonce is None):
            raise ValueError("signature and signatureNonce go together: give both or neither")


class WorkerRegisterParams(
    SignedWrite, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """The params of WorkerRegister."""

    worker_type: Annotated[int, Meta(ge=int(WorkerType.TEE_SGX), le=int(WorkerType.ZK))]
    details: msgspec.Raw
    """JSON of the worker's details, as sent; see :func:`avalon_core.crypto.registry.check_details`."""

    organization_id: _OptionalId = ""
    application_type_id: (
        _OptionalId | Annotated[tuple[Annotated[str, HEX_ID], ...], Meta(max_length=MAX_APPLICATION_TYPES)]
    ) = ()
    """One or several."""

    @property
    def application_type_ids(self) -> tuple[str, ...]:
        """As a list without repetitions, in the order given."""
        given = self.application_type_id
        if isinstance(given, str):
            return (given,) if given else ()
        return tuple(dict.fromkeys(given))


class WorkerUpdateParams(SignedWrite, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The params of WorkerUpdate."""

    details: msgspec.Raw
    """Replaces the whole of the worker's details."""


class WorkerSetStatusParams(
    SignedWrite, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """The params of WorkerSetStatus."""

    status: Annotated[int, Meta(ge=int(WorkerStatus.ACTIVE), le=int(WorkerStatus.COMPROMISED))]


class EncryptionKeyGetParams(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """The params of EncryptionKeyGet."""

    worker_id: Annotated[WorkerId, HEX_ID]
    requester_id: Annotated[RequesterId, HEX_ID]
    last_used_key_nonce: _OptionalNonce | None = None
    """encryptionKeyNonce of the key that the requester has: it wants a newer one."""

    tag: Tag | None = None
    """Comes back with the key, under its signature. None or empty: the requester's id."""

    signature_nonce: _OptionalNonce | None = None
    signature: _Signature | None = None
    """Base64 of ECDSA in DER, by the key that is registered for the requester. None or empty: not signed."""


class EncryptionKeySetParams(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """The params of EncryptionKeySet."""

    worker_id: Annotated[WorkerId, HEX_ID]
    encryption_key: _Pem
    encryption_key_nonce: _KeyNonce
    """Names this key; another than that of every key before it."""

    signature_nonce: SequenceNonce
    signature: _Signature
    tag: Tag = ""


class EncryptionKeyGrant(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The result of EncryptionKeyGet: a key, vouched for by the worker itself."""

    worker_id: WorkerId
    encryption_key: str
    """PEM."""

    encryption_key_nonce: HexStr
    tag: str
    signature: Base64Str
    """Base64 of ECDSA in DER over :func:`avalon_core.crypto.registry.key_digest`."""

    signature_nonce: str | None = None
    """Ours: the nonce with which the worker pushed this key, part of what it signed. Absent in an enclave's own answer."""


class RequesterKeySetParams(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """The params of RequesterKeySet, ours: for operators."""

    requester_id: Annotated[RequesterId, HEX_ID]
    verifying_key: Annotated[str, Meta(max_length=MAX_PEM_CHARS)] | None
    """PEM of the secp256k1 key that signs this requester's orders; null or empty takes the entry away."""


class RequesterKeyGetParams(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """The params of RequesterKeyGet, ours: for operators."""

    requester_id: Annotated[RequesterId, HEX_ID]
