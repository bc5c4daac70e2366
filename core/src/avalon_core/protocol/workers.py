"""Worker records: what WorkerRetrieve answers (specification 1.1, "Common data for all worker types").

A record is a claim by the service. What makes it true is the evidence in it, which binds the keys (see
:mod:`avalon_core.attestation`); nothing here has been verified.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from avalon_core.protocol.errors import GeneralCode, GeneralError, WorkerStatus, WorkerType
from avalon_core.protocol.ids import HEX_ID, HexStr, WorkerId
from avalon_core.protocol.limits import MAX_PEM_CHARS

HASHING_ALGORITHM = "SHA-256"
SIGNING_ALGORITHM = "SECP256K1"
KEY_ENCRYPTION_ALGORITHM = "RSA-OAEP-3072"


class KeyBinding(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the evidence's report data commits to besides the keys (see :func:`avalon_core.attestation.binding.report_data`)."""

    worker_id: str
    """The worker that these keys are of: a record cannot be given out as another worker's."""

    role: str
    """``singleton``, ``kme`` or ``wpe``."""

    nonce: HexStr
    """Hex, 32 bytes, fresh for each issue of evidence."""

    tenant: str | None = None
    """The tenant to whom the worker is dedicated."""

    issued_at: Annotated[int, Meta(ge=0)] = 0
    """Unix seconds when the evidence was asked for, by the enclave's clock."""

    pool: str | None = None
    """Of a pool: hex of its first manifest's digest (:mod:`avalon_core.crypto.manifests`)."""

    manifest: str | None = None
    """Of a pool: hex of the digest of the manifest in force."""


class WorkerTypeData(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Keys and evidence of a TEE worker. Members of other services that we do not know are tolerated."""

    verification_key: Annotated[str, Meta(max_length=MAX_PEM_CHARS)]
    """PEM of the secp256k1 key that signs results."""

    encryption_key: Annotated[str, Meta(max_length=MAX_PEM_CHARS)]
    """PEM of the RSA key for session keys."""

    encryption_key_signature: HexStr
    """Hex DER of ECDSA over SHA-256(UTF-8 of ``encryption_key``) by the verification key."""

    proof_data_type: str = ""
    """Which evidence; starts with ``TEE-``."""

    proof_data: Any = None
    """The evidence, in the form that ``proof_data_type`` says."""

    extended_measurements: Any = None
    encryption_key_nonce: str | None = None
    hpke_encryption_key: HexStr | None = None
    """Hex of the MLKEM768-X25519 public key (1,216 bytes: ML-KEM-768 then X25519): ours, for ``~avalon-hpke-1``."""

    hpke_encryption_key_signature: HexStr | None = None
    """Hex DER of ECDSA over SHA-256(UTF-8 of ``hpke_encryption_key``) by the verification key."""

    key_binding: KeyBinding | None = None
    """Ours: how the evidence's report data was made."""

    simulated: bool = False
    """Ours: True says that no hardware protects this worker. (False proves nothing: the evidence decides.)"""


class WorkloadInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What a worker tells of one workload that it offers."""

    workload_id: str
    name: str
    title: str
    input_help: str
    max_items: int
    max_item_bytes: int
    time_limit_seconds: float


class WorkerDetails(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The ``details`` of a worker."""

    worker_type_data: WorkerTypeData
    work_order_sync_uri: str = ""
    work_order_async_uri: str = ""
    work_order_pull_uri: str = ""
    work_order_notify_uri: str = ""
    receipt_invocation_uri: str = ""
    work_order_invocation_address: str = ""
    receipt_invocation_address: str = ""
    from_address: str = ""
    hashing_algorithm: str = HASHING_ALGORITHM
    signing_algorithm: str = SIGNING_ALGORITHM
    key_encryption_algorithm: str = KEY_ENCRYPTION_ALGORITHM
    data_encryption_algorithm: str = "AES-GCM-256"
    work_order_payload_formats: str = "JSON-RPC"
    """Comma list. The original emits the one string; its clients tolerate more."""

    workloads: tuple[WorkloadInfo, ...] = ()
    """Ours: what the worker offers, for people and tools. The enclave, not this list, decides what runs."""

    @property
    def payload_formats(self) -> frozenset[str]:
        """The list as a set."""
        return frozenset(part.strip() for part in self.work_order_payload_formats.split(","))


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The result of WorkerRetrieve."""

    worker_type: int
    organization_id: str
    application_type_id: str | tuple[str, ...]
    details: WorkerDetails
    status: int

    @property
    def is_active(self) -> bool:
        """The directory says that orders are taken."""
        return self.status == WorkerStatus.ACTIVE


class WorkerLookUpParams(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """The params of WorkerLookUp: every criterion is optional, all that are given must match."""

    worker_type: Annotated[int, Meta(ge=0, le=int(WorkerType.ZK))] | None = None
    """0 or absent: any."""

    organization_id: Annotated[str, Meta(max_length=66)] | None = None
    application_type_id: (
        Annotated[str, Meta(max_length=66)] | Annotated[tuple[str, ...], Meta(max_length=64)] | None
    ) = None
    """One or several; a worker matches that is for all of them."""


_Tag = Annotated[str, Meta(max_length=256)]


class WorkerLookUpNextParams(
    WorkerLookUpParams, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """The params of WorkerLookUpNext: the same criteria and the tag, under any of the names that clients use."""

    look_up_tag: _Tag | None = None
    lookup_tag: _Tag | None = msgspec.field(name="lookupTag", default=None)
    last_look_up_tag: _Tag | None = None

    def __post_init__(self) -> None:
        if self.tag is None:
            raise ValueError("lookUpTag is missing: pass the lookupTag of the page before")

    @property
    def tag(self) -> str | None:
        """The tag, however it was named."""
        return next(
            (t for t in (self.look_up_tag, self.lookup_tag, self.last_look_up_tag) if t is not None), None
        )


class WorkerLookUpResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One page of worker ids."""

    total_count: int
    """Every match, not only this page's."""

    lookup_tag: str
    """Not empty only where more remain."""

    ids: tuple[WorkerId, ...]


class WorkerRetrieveParams(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """The params of WorkerRetrieve."""

    worker_id: Annotated[WorkerId, HEX_ID]


_record_decoder = msgspec.json.Decoder(WorkerRecord)
_details_decoder = msgspec.json.Decoder(WorkerDetails)


def decode_record(result: bytes | msgspec.Raw) -> WorkerRecord:
    """Read the result of WorkerRetrieve.

    Raises:
        GeneralError: code 1; the answer is not a worker record.
    """
    try:
        return _record_decoder.decode(result)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise GeneralError(
            GeneralCode.UNKNOWN_ERROR, f"the service's worker record cannot be read: {exc}"
        ) from None


def decode_details(details: bytes) -> WorkerDetails:
    """Read the ``details`` member alone.

    Raises:
        GeneralError: code 1.
    """
    try:
        return _details_decoder.decode(details)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise GeneralError(GeneralCode.UNKNOWN_ERROR, f"the worker's details cannot be read: {exc}") from None
