"""What host and enclave say to each other.

    host -> enclave      Configure, Process, Cancel, SignReceipt, SignKey, RefreshEvidence, Ping, Shutdown
    enclave -> host      Started, Parked, Done, Failed, ReceiptSigned, KeySigned, EvidenceRefreshed, Pong, Log

The host sends Configure first and waits for Started (or for the enclave to end). A handle is the host's number for
one hand-over of one order; the enclave answers each Process with exactly one Done or Failed, and each SignReceipt
with exactly one ReceiptSigned or Failed, in any order, unless it dies. Parked may come before the answer to a
Process. After Cancel the answer may still be either; nobody waits for it.
"""

from typing import Any

import msgspec

from avalon_core.channel.pool_messages import FromPooledEnclave, PoolConfigure, ToPooledEnclave
from avalon_core.errors import ChannelError


class Configure(msgspec.Struct, frozen=True, tag="configure", array_like=True):
    """The enclave's configuration. Nothing in it is secret."""

    worker_name: str
    keys: str
    """``fresh``: new keys at every start. ``sealed``: those of ``sealed_keys``, or new ones where it is None."""

    sealed_keys: bytes | None = None
    """What an earlier start returned in Started.sealed_keys."""

    accept_legacy: bool = False
    """Accept orders whose key and iv encrypt more than one message."""

    tenant: str | None = None
    organization_id: str = ""
    application_type_id: str = ""
    threads: int = 2
    """Orders that are processed at the same time, except those that wait for a child process."""

    children: int = 8
    """Child processes that work at the same time, for workloads that run in such."""

    pool: PoolConfigure | None = None
    """For the enclaves of a pool."""


class Process(msgspec.Struct, frozen=True, tag="process", array_like=True):
    """Process an order."""

    handle: int
    """The fencing token of the host's claim: it grows, and no other hand-over ever has it."""

    request: bytes
    """The params of WorkOrderSubmit, the JSON exactly as the requester sent it."""

    registered_key: str | None = None
    """PEM of the key that is registered for the requester: the order must then be signed by it."""

    receipt: bool = False
    """The order has a receipt: sign the worker's update of it along with the answer."""


class Cancel(msgspec.Struct, frozen=True, tag="cancel", array_like=True):
    """Nobody wants this result any more."""

    handle: int


class SignReceipt(msgspec.Struct, frozen=True, tag="sign_receipt", array_like=True):
    """Sign the worker's update of a receipt that was created after its order had ended.

    Nothing is signed but the hash of a result that carries the signature of this very worker; or where there is no
    result, that the worker has not answered the order, which it then never does.
    """

    handle: int
    """Other than that of any order in flight."""

    request: bytes
    """As in Process."""

    result: bytes | None
    """As in Done; None where the order failed, or was ended by the service."""


class SignKey(msgspec.Struct, frozen=True, tag="sign_key", array_like=True):
    """Vouch for the worker's RSA encryption key. Answered with KeySigned."""

    handle: int
    """Of a numbering of its own."""

    tag: str
    """Goes under the signature; hex of up to 32 bytes."""


class RefreshEvidence(msgspec.Struct, frozen=True, tag="refresh_evidence", array_like=True):
    """Have the platform vouch for the same keys anew, with the collateral of today. Answered with EvidenceRefreshed."""

    handle: int
    """Of a numbering of its own."""


class Ping(msgspec.Struct, frozen=True, tag="ping", array_like=True):
    """Is the enclave alive? Answered at once with Pong, whatever is being processed."""

    sequence: int


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown", array_like=True):
    """Finish what is being processed, answer it, and end."""


class Started(msgspec.Struct, frozen=True, tag="started", array_like=True):
    """The enclave is ready."""

    details: bytes
    """JSON of the worker record's details: keys, evidence, workloads."""

    measurement: str
    """Hex."""

    platform: str
    simulated: bool
    sealed_keys: bytes | None = None
    """To be kept by the host and given back at the next start; opaque, and worthless elsewhere."""

    keys_restored: bool = False
    """The keys are those that were sealed, so orders sealed to them before still open."""


class Done(msgspec.Struct, frozen=True, tag="done", array_like=True):
    """The order was processed: JSON of its result."""

    handle: int
    result: bytes
    legacy: bool = False
    """The order repeats a (key, iv) pair and was accepted all the same."""

    response_hash: bytes | None = None
    """R of the result, where a receipt was asked for."""

    receipt_signature: bytes | None = None
    """DER, by the worker: its update PROCESSED of the order's receipt, whose data is base64 of ``response_hash``."""


class Parked(msgspec.Struct, frozen=True, tag="parked", array_like=True):
    """The order waits for a child process or runs in one; it is answered later. Another can be handed over meanwhile.

    Told of no more orders at a time than the enclave wants to hold besides.
    """

    handle: int


class ReceiptSigned(msgspec.Struct, frozen=True, tag="receipt_signed", array_like=True):
    """The answer to SignReceipt."""

    handle: int
    response_hash: bytes
    receipt_signature: bytes
    """As in Done, or where there was no result, as in Failed."""


class KeySigned(msgspec.Struct, frozen=True, tag="key_signed", array_like=True):
    """The answer to SignKey."""

    handle: int
    encryption_key: str
    """PEM."""

    encryption_key_nonce: str
    """Hex; changes with the key."""

    signature: bytes
    """DER, over :func:`avalon_core.crypto.registry.key_digest`."""


class EvidenceRefreshed(msgspec.Struct, frozen=True, tag="evidence_refreshed", array_like=True):
    """The answer to RefreshEvidence."""

    handle: int
    details: bytes | None
    """As in Started; None where the platform could not vouch at the moment."""

    reason: str = ""
    """Why not."""


class Pong(msgspec.Struct, frozen=True, tag="pong", array_like=True):
    """The answer to Ping."""

    sequence: int


class Failed(msgspec.Struct, frozen=True, tag="failed", array_like=True):
    """The order was refused or its workload failed. The message names what is wrong and quotes nothing."""

    handle: int
    code: int
    message: str
    response_hash: bytes | None = None
    """What stands in for R (:func:`avalon_core.crypto.receipts.failure_hash`), where a receipt was asked for and the
    request could be read."""

    receipt_signature: bytes | None = None
    """DER, by the worker: its update FAILED of the order's receipt, whose data is base64 of ``response_hash``."""


class Log(msgspec.Struct, frozen=True, tag="log", array_like=True):
    """Something an operator should know. Events and fields come from a fixed list, never from orders."""

    level: str
    event: str
    fields: dict[str, Any] = {}


ToEnclave = (
    Configure | Process | Cancel | SignReceipt | SignKey | RefreshEvidence | Ping | Shutdown | ToPooledEnclave
)
ToHost = (
    Started
    | Done
    | Failed
    | Parked
    | ReceiptSigned
    | KeySigned
    | EvidenceRefreshed
    | Pong
    | Log
    | FromPooledEnclave
)

_encoder = msgspec.msgpack.Encoder()
_to_enclave: msgspec.msgpack.Decoder[ToEnclave] = msgspec.msgpack.Decoder(ToEnclave)
_to_host: msgspec.msgpack.Decoder[ToHost] = msgspec.msgpack.Decoder(ToHost)


def encode_message(message: ToEnclave | ToHost) -> bytes:
    """The payload of one frame."""
    return _encoder.encode(message)


def decode_to_enclave(payload: bytes) -> ToEnclave:
    """Read what the host says.

    Raises:
        ChannelError: not one of its messages.
    """
    try:
        return _to_enclave.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise ChannelError(f"not a message to an enclave: {exc}") from None


def decode_to_host(payload: bytes) -> ToHost:
    """Read what the enclave says.

    Raises:
        ChannelError: not one of its messages.
    """
    try:
        return _to_host.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise ChannelError(f"not a message to a host: {exc}") from None
