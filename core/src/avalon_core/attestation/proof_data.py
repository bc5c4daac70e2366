"""Evidence in a worker record: the JSON codec between :class:`Evidence` and ``proofData``.

``proofDataType`` names the format (each says its own: ``TEE-SGX-DCAP``); ``proofData`` is

    {"document": "<base64>",
     "signature": "<base64>",                  where it is apart from the document
     "certificates": ["<base64 DER>", ...],    leaf first, where they travel beside the document
     "attachments": {"event_log": "<base64>"},
     "collateral": {"version": 1, ...}}        where the worker brings its vendor's collateral along

All but ``document`` may be absent. Base64 is the standard alphabet with padding. Collateral that the worker brings is
as good as any other: it is signed by the vendor. A format whose proofData has had names of its own since long before
us (IAS reports) reads and writes them itself.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import msgspec

from avalon_core.attestation.bundles import collateral_from_object, collateral_to_object, decode_capped
from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral
from avalon_core.attestation.evidence import (
    MAX_ATTACHMENT_BYTES,
    MAX_ATTACHMENTS,
    MAX_CERTIFICATE_BYTES,
    MAX_CERTIFICATES,
    MAX_DOCUMENT_BYTES,
    Evidence,
)
from avalon_core.attestation.formats import entry_named, entry_of_type, format_named
from avalon_core.errors import EvidenceError
from avalon_core.protocol.encodings import encode_base64


@runtime_checkable
class OwnProofData(Protocol):
    """A format whose proofData has another shape than ours."""

    def to_proof_data(self, evidence: Evidence) -> dict[str, Any]:
        """The proofData of this evidence, as values of JSON."""

    def from_proof_data(self, value: Any) -> Evidence:
        """Read proofData.

        Raises:
            EvidenceError: it is not of this shape.
        """


class _ProofData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    document: str
    signature: str | None = None
    certificates: tuple[str, ...] = ()
    attachments: Mapping[str, str] = {}
    collateral: Any = None


def encode(evidence: Evidence, collateral: Collateral | None = None) -> tuple[str, dict[str, Any]]:
    """The ``proofDataType`` and ``proofData`` of evidence, and of collateral where it is to travel along.

    Raises:
        EvidenceError: the format is not known.
    """
    entry = entry_named(evidence.format)
    if entry.own_proof_data:
        return entry.proof_data_type, _own(entry.name).to_proof_data(evidence)
    value: dict[str, Any] = {"document": encode_base64(evidence.document)}
    if evidence.signature:
        value["signature"] = encode_base64(evidence.signature)
    if evidence.certificates:
        value["certificates"] = [encode_base64(der) for der in evidence.certificates]
    if evidence.attachments:
        value["attachments"] = {name: encode_base64(data) for name, data in evidence.attachments.items()}
    if collateral is not None and collateral != NO_COLLATERAL:
        value["collateral"] = collateral_to_object(collateral)
    return entry.proof_data_type, value


def decode(proof_data_type: str, value: Any) -> tuple[Evidence, Collateral]:
    """Read ``proofData`` (any values of JSON). Nothing is verified.

    Returns:
        The evidence, and the collateral that came along (empty where none did).

    Raises:
        EvidenceError: of an unknown type, not of the shape above, or larger than a cap.
    """
    entry = entry_of_type(proof_data_type)
    if entry.own_proof_data:
        return _own(entry.name).from_proof_data(value), NO_COLLATERAL
    try:
        parsed = msgspec.convert(value, _ProofData, strict=True)
    except (msgspec.ValidationError, RecursionError) as exc:
        raise EvidenceError(
            f"proofData of type {entry.proof_data_type} cannot be read: {exc}. Expected an object with document, "
            "and where they are apart signature, certificates, attachments, collateral"
        ) from None
    return _evidence(entry.name, parsed), (
        NO_COLLATERAL if parsed.collateral is None else collateral_from_object(parsed.collateral)
    )


def _own(name: str) -> OwnProofData:
    known = format_named(name)
    assert isinstance(known, OwnProofData)
    return known


def _evidence(name: str, parsed: _ProofData) -> Evidence:
    # Counts and lengths are judged before anything is decoded.
    if len(parsed.certificates) > MAX_CERTIFICATES:
        raise EvidenceError(
            f"proofData: too many certificates: got {len(parsed.certificates)}, expected at most {MAX_CERTIFICATES}"
        )
    if len(parsed.attachments) > MAX_ATTACHMENTS:
        raise EvidenceError(
            f"proofData: too many attachments: got {len(parsed.attachments)}, expected at most {MAX_ATTACHMENTS}"
        )
    return Evidence(
        format=name,
        document=decode_capped(parsed.document, "proofData.document", MAX_DOCUMENT_BYTES),
        signature=decode_capped(parsed.signature or "", "proofData.signature", MAX_DOCUMENT_BYTES),
        certificates=tuple(
            decode_capped(text, "proofData.certificates", MAX_CERTIFICATE_BYTES)
            for text in parsed.certificates
        ),
        attachments={
            part: decode_capped(text, f"proofData.attachments.{part[:32]!r}", MAX_ATTACHMENT_BYTES)
            for part, text in parsed.attachments.items()
        },
    )
