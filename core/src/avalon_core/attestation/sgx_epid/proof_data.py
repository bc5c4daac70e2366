"""IAS reports in worker records, and in files of their own. Two sets of names are read:

    {"verification_report": "<the body's text>",            as the original Avalon writes it; written here, too
     "ias_report_signature": "<base64>",
     "ias_report_signing_certificate": "<PEM chain>"}

    {"Verification-report": "<the body's text>",            EEA specification 1.1, 8.2.1: the headers of IAS's answer
     "X-IASReport-Signature": "<base64>",
     "X-IASReport-Signing-Certificate": "<PEM chain, url-encoded as in the header>",
     "Advisory-URL": "...", "Advisory-IDs": "..."}

Names of the second set are of any case, as headers are. The chain may be url-encoded or not in both. Other members
are let be: nobody signs them (the advisories of API version 3 and later are in the signed body). The original has the
object as a JSON text within the record; both are taken.

The body must be a text: as an object, its signed bytes would be lost.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from cryptography.hazmat.primitives import serialization

from avalon_core.attestation.chains import MAX_PEM_BYTES, load_certificate, load_pem_chain
from avalon_core.attestation.evidence import MAX_DOCUMENT_BYTES, Evidence
from avalon_core.attestation.sgx_epid.json_text import parse_object
from avalon_core.errors import EncodingError, EvidenceError
from avalon_core.protocol.encodings import decode_canonical_base64, encode_base64

FORMAT = "sgx-epid"

MAX_CHAIN = 4
"""IAS gives two: the signing certificate and the root."""

MAX_SIGNATURE_CHARS = 1024
"""Base64 of RSA of up to 6144 bits; IAS has 2048."""

_ORIGINAL = ("verification_report", "ias_report_signature", "ias_report_signing_certificate")
_HEADERS = ("verification-report", "x-iasreport-signature", "x-iasreport-signing-certificate")


def from_proof_data(value: Any) -> Evidence:
    """Read ``proofData`` in any of the forms above: a mapping, or the JSON text of one. Nothing is verified.

    Raises:
        EvidenceError: of no such form, or a part cannot be decoded.
    """
    if isinstance(value, str):
        value = from_text(value)
    if not isinstance(value, Mapping):
        raise EvidenceError("proofData of IAS must be an object, or the JSON text of one")
    names = _names(value)
    body, signature, chain = (_text(value, name) for name in names)
    try:
        return Evidence(
            format=FORMAT,
            document=body.encode("utf-8"),
            signature=_signature(signature, names[1]),
            certificates=_certificates(chain, names[2]),
        )
    except UnicodeEncodeError:
        raise EvidenceError(f"{names[0]} cannot be encoded in UTF-8") from None


def from_text(text: str) -> dict[str, Any]:
    """Read the JSON text of proofData.

    Raises:
        EvidenceError: not a JSON object, or a member is there twice.
    """
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:
        raise EvidenceError("proofData cannot be encoded in UTF-8") from None
    return parse_object(encoded, what="proofData of IAS", max_bytes=MAX_DOCUMENT_BYTES)


def to_proof_data(evidence: Evidence) -> dict[str, str]:
    """The ``proofData`` of a report, with the names of the original.

    Raises:
        EvidenceError: the body is no UTF-8, or a certificate cannot be read.
    """
    evidence = unpacked(evidence)
    try:
        body = evidence.document.decode("utf-8")
    except UnicodeDecodeError:
        raise EvidenceError("the report is not a text in UTF-8") from None
    pem = b"".join(
        load_certificate(der).public_bytes(serialization.Encoding.PEM) for der in evidence.certificates
    )
    return dict(zip(_ORIGINAL, (body, encode_base64(evidence.signature), pem.decode("ascii")), strict=True))


def unpacked(evidence: Evidence) -> Evidence:
    """Evidence whose document is a whole file of one of the forms above, taken apart; any other as it is.

    Raises:
        EvidenceError: such a file, of which a part cannot be decoded.
    """
    if evidence.signature or evidence.certificates or not is_bundle(evidence.document):
        return evidence
    members = parse_object(evidence.document, what="the file of the report", max_bytes=MAX_DOCUMENT_BYTES)
    return from_proof_data(members)


def is_bundle(document: bytes) -> bool:
    """Whether the bytes look like one of the forms above in a file (cheap; no promise)."""
    names = document[:MAX_DOCUMENT_BYTES].lower()
    return names.lstrip().startswith(b"{") and any(
        f'"{report}"'.encode() in names and f'"{signature}"'.encode() in names
        for report, signature, _ in (_ORIGINAL, _HEADERS)
    )


def _names(value: Mapping[Any, Any]) -> tuple[str, str, str]:
    """The member names as this object spells them, in the order report, signature, certificates."""
    texts = [name for name in value if isinstance(name, str)]
    headers = {name.lower(): name for name in texts if name.lower() in _HEADERS}
    original = [name for name in _ORIGINAL if name in texts]
    if len(headers) != sum(name.lower() in _HEADERS for name in texts) or (headers and original):
        raise EvidenceError("proofData of IAS has a member twice, or in both of its spellings")
    found = tuple(original) if original else tuple(headers[name] for name in _HEADERS if name in headers)
    if len(found) != len(_ORIGINAL):
        raise EvidenceError(
            f"proofData of IAS: expected the members {', '.join(_ORIGINAL)} "
            "(or Verification-report, X-IASReport-Signature, X-IASReport-Signing-Certificate)"
        )
    report, signature, chain = found
    return report, signature, chain


def _text(value: Mapping[Any, Any], name: str) -> str:
    text = value[name]
    if isinstance(text, Mapping):
        raise EvidenceError(f"{name} must be the report's text, not an object: its signed bytes are lost")
    if not isinstance(text, str):
        raise EvidenceError(f"{name} must be a text")
    return text


def _signature(text: str, name: str) -> bytes:
    if len(text) > MAX_SIGNATURE_CHARS:
        raise EvidenceError(f"{name} is too long: expected at most {MAX_SIGNATURE_CHARS} characters")
    try:
        return decode_canonical_base64(text, what=name)
    except EncodingError as exc:
        raise EvidenceError(exc.message) from None


def _certificates(text: str, name: str) -> tuple[bytes, ...]:
    if len(text) > MAX_PEM_BYTES:
        raise EvidenceError(f"{name} is too long: expected at most {MAX_PEM_BYTES} characters")
    try:
        # PEM has no percent sign, and its plus signs must stay.
        pem = (unquote(text, errors="strict") if "%" in text else text).encode("ascii")
    except (UnicodeDecodeError, UnicodeEncodeError):
        raise EvidenceError(f"{name} must be a chain in PEM, url-encoded or not") from None
    return tuple(
        certificate.public_bytes(serialization.Encoding.DER)
        for certificate in load_pem_chain(pem, most=MAX_CHAIN)
    )
