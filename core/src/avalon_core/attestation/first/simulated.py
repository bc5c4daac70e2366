"""Evidence of the simulated platform: SIMULATED, no hardware, no protection from the operator.

It exists so that the whole path from evidence to verdict runs everywhere. The default root is published in this
very file: anyone can forge such evidence, which is why a policy has to accept the root by name, and production
does not.
"""

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from avalon_core.attestation.first.claims import Claims
from avalon_core.crypto.signing import SigningKey, VerificationKey
from avalon_core.errors import EvidenceError, SignatureMismatch
from avalon_core.protocol.encodings import encode_fields

PROOF_DATA_TYPE = "TEE-SIMULATED"

_DOMAIN = b"avalon simulated evidence 1\0"
_ROOT_SECRET = hashlib.sha256(b"avalon simulator root: published, protects nothing").digest()


def simulator_root() -> SigningKey:
    """The published root of the simulator. Whoever has this package can sign with it."""
    return SigningKey(_ROOT_SECRET)


SIMULATOR_ROOT_PEM = simulator_root().verification_key.pem


class SimulatedEvidence(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The proofData of a simulated worker."""

    platform: Literal["SIMULATED"]
    measurement: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    report_data: Annotated[str, Meta(pattern=r"^[0-9a-f]{128}\Z")]
    issued_at: Annotated[int, Meta(ge=0)]
    signature: Annotated[str, Meta(pattern=r"^([0-9a-f]{2}){8,72}\Z")]
    """Hex DER by the simulator's root."""


def issue(root: SigningKey, *, measurement: str, report_data: bytes, issued_at: int) -> SimulatedEvidence:
    """Make evidence: the simulated platform's part."""
    digest = _digest(measurement, report_data.hex(), issued_at)
    return SimulatedEvidence(
        platform="SIMULATED",
        measurement=measurement,
        report_data=report_data.hex(),
        issued_at=issued_at,
        signature=root.sign(digest).hex(),
    )


def parse(proof_data: Any) -> SimulatedEvidence:
    """Read the proofData of a worker record (any JSON value).

    Raises:
        EvidenceError: not evidence of this kind.
    """
    try:
        return msgspec.convert(proof_data, SimulatedEvidence)
    except msgspec.ValidationError as exc:
        raise EvidenceError(f"not simulated evidence: {exc}") from None


def verify(evidence: SimulatedEvidence, root: VerificationKey) -> Claims:
    """Check the signature under one root.

    Raises:
        SignatureMismatch: signed by another root, or changed.
    """
    digest = _digest(evidence.measurement, evidence.report_data, evidence.issued_at)
    try:
        root.verify(digest, bytes.fromhex(evidence.signature), strict=True)
    except SignatureMismatch:
        raise SignatureMismatch("the evidence is not signed by this root, or was changed") from None
    return Claims(
        platform="simulated",
        simulated=True,
        measurement=evidence.measurement,
        report_data=bytes.fromhex(evidence.report_data),
        debug=False,
        issued_at=evidence.issued_at,
    )


def _digest(measurement: str, report_data: str, issued_at: int) -> bytes:
    return hashlib.sha256(_DOMAIN + encode_fields(measurement, report_data, str(issued_at))).digest()
