"""What a file holds: evidence or collateral, in any of the spellings in which tools write them. Bytes in, objects out.

Evidence: the raw document; its hex, of either case, with white space or ``0x``; its base64, of either alphabet, padded
or not, with PEM's lines around it or without; or JSON with it inside (:func:`read_evidence` says which).

Collateral: our bundle (:mod:`avalon_core.attestation.bundles`), the usual JSON of a quote's collateral, certificates
and CRLs in PEM or DER.

This is for files that a person names, and is lenient; worker records are read strictly
(:mod:`avalon_core.attestation.proof_data`). Nothing is verified here.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from avalon_core.attestation.bundles import (
    MAX_ENTRIES,
    check_dcap_size,
    collateral_from_object,
    merged,
)
from avalon_core.attestation.chains import load_certificate, load_crl
from avalon_core.attestation.collateral import (
    MAX_COLLATERAL_BYTES,
    NO_COLLATERAL,
    Collateral,
    DcapCollateral,
    SnpCollateral,
)
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.formats import FORMATS, format_named
from avalon_core.attestation.proof_data import decode
from avalon_core.errors import EvidenceError

MAX_FILE_BYTES = 8 * 1024 * 1024
"""The largest evidence with its attachments and collateral, in base64, and air."""

MAX_NODES = 10_000
"""Values of a JSON document that are looked through for a worker's proofData."""

_ARMOUR = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----(.*?)-----END \1-----", re.DOTALL)
_SPACE = re.compile(rb"\s+")
_HEX = re.compile(rb"([0-9A-Fa-f]{2})+\Z")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceFile:
    """What was in a file. Nothing of it has been verified."""

    evidence: Evidence
    collateral: Collateral
    """What came along in the same file; empty where nothing did."""

    spelling: str
    """How the document was written, for people: ``hex``, ``JSON: a worker record``."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    document: bytes
    spelling: str


def read_evidence(raw: bytes, *, format_name: str | None = None) -> EvidenceFile:
    """Find out what a file with evidence holds.

    JSON may be a worker record, or an answer that has one inside (``proofDataType`` and ``proofData``), a proofData
    object alone, an IAS report with its signature, or ``{"quote": "<hex or base64>", "collateral": {...}}``.

    Args:
        raw: the whole file.
        format_name: which kind it is, where that is known; else the bytes tell.

    Raises:
        EvidenceError: nothing that is known here; the message lists what was tried.
    """
    _cap(raw, MAX_FILE_BYTES)
    names = [format_named(format_name).name] if format_name is not None else list(FORMATS)
    # A record is taken apart first: inside it may be what looks like a document.
    value = _json(raw) if _looks_like_json(raw) else None
    if (recorded := _record_in(value)) is not None:
        return recorded
    candidates = list(_spellings(raw))
    for candidate in candidates:
        for name in names:
            if FORMATS[name].detect(candidate.document):
                return EvidenceFile(
                    evidence=Evidence(format=name, document=candidate.document),
                    collateral=NO_COLLATERAL,
                    spelling=candidate.spelling,
                )
    if value is not None:
        return _read_json(value, format_name)
    if format_name is not None:
        # Whoever says what it is gets the format's own word on what is wrong with it.
        best = candidates[-1]
        return EvidenceFile(
            evidence=Evidence(format=format_name, document=best.document),
            collateral=NO_COLLATERAL,
            spelling=best.spelling,
        )
    tried = ", ".join(f"{candidate.spelling} ({len(candidate.document)} bytes)" for candidate in candidates)
    raise EvidenceError(
        f"no evidence of a kind that is known here: tried {tried}, and it is no JSON object. Expected one of "
        f"{', '.join(names)}"
    )


def _cap(raw: bytes, most: int) -> None:
    if len(raw) > most:
        raise EvidenceError(f"the file is too large: got {len(raw)} bytes, expected at most {most}")
    if not raw.strip():
        raise EvidenceError("the file is empty")


def _spellings(raw: bytes) -> Iterator[_Candidate]:
    """The document under every spelling that the bytes can have, the likeliest last."""
    yield _Candidate(raw, "raw bytes")
    if not raw.isascii():
        return
    text = raw.strip()
    if (armour := _ARMOUR.search(text)) is not None:
        text = armour[2]
    text = _SPACE.sub(b"", text).strip(b"\"'")
    unpadded = text.translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    if _BASE64.match(unpadded) and len(unpadded) % 4 != 1:
        decoded = base64.b64decode(unpadded + b"=" * (-len(unpadded) % 4))
        yield _Candidate(decoded, "base64 in PEM's lines" if armour is not None else "base64")
    digits = text.removeprefix(b"0x").removeprefix(b"0X")
    if _HEX.match(digits):
        yield _Candidate(binascii.unhexlify(digits), "hex")


def _looks_like_json(raw: bytes) -> bool:
    return raw.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise EvidenceError(f"the file begins like JSON and is none: {exc}") from None


def _record_in(value: Any) -> EvidenceFile | None:
    """The evidence of the first object that has a proofDataType and proofData."""
    for node in _nodes(value):
        kind, data = node.get("proofDataType"), node.get("proofData")
        if isinstance(kind, str) and data is not None:
            evidence, collateral = decode(kind, data)
            return EvidenceFile(evidence=evidence, collateral=collateral, spelling="JSON: a worker record")
    return None


def _read_json(value: Any, format_name: str | None) -> EvidenceFile:
    if isinstance(value, dict) and isinstance(value.get("document"), str):
        return _read_proof_data(value, format_name)
    if isinstance(value, dict) and isinstance(value.get("quote"), str):
        inner = read_evidence(_encoded(value["quote"]), format_name=format_name)
        along = value.get("collateral")
        return EvidenceFile(
            evidence=inner.evidence,
            collateral=NO_COLLATERAL if along is None else _collateral_of_json(along),
            spelling=f"JSON: a quote as {inner.spelling}",
        )
    found = f"members {', '.join(sorted(map(str, value))[:8])}" if isinstance(value, dict) else "no object"
    raise EvidenceError(
        f"JSON without evidence: got {found[:200]!r}, tried a worker record (proofDataType, proofData), proofData alone "
        "(document), an IAS report (verification_report, ias_report_signature, ias_report_signing_certificate), a "
        "quote (quote, collateral)"
    )


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise EvidenceError("a text in the file is not valid Unicode") from None


def _read_proof_data(value: dict[str, Any], format_name: str | None) -> EvidenceFile:
    document = read_evidence(_encoded(value["document"]), format_name=format_name)
    known = format_named(document.evidence.format)
    evidence, collateral = decode(known.proof_data_type, value)
    return EvidenceFile(evidence=evidence, collateral=collateral, spelling="JSON: proofData")


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """All objects in the value, outermost first."""
    waiting = [value]
    for count, node in enumerate(waiting):
        if count >= MAX_NODES:
            return
        if isinstance(node, dict):
            yield node
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        waiting.extend(child for child in children if isinstance(child, dict | list))


def read_collateral(raw: bytes) -> Collateral:
    """Find out what a file with collateral holds.

    Raises:
        EvidenceError: nothing that is known here; the message lists what was tried.
    """
    _cap(raw, MAX_COLLATERAL_BYTES)
    if _looks_like_json(raw):
        return _collateral_of_json(_json(raw))
    parts = [_part_of_der(der) for der in _ders(raw)]
    if not parts:
        raise EvidenceError(
            "no collateral: tried JSON (a bundle with version, or one platform's with tcb_info), certificates and CRLs "
            "in PEM, in DER, and in DER as hex or base64"
        )
    return merged(parts)


def read_certificates(raw: bytes) -> tuple[bytes, ...]:
    """The certificates of a file in PEM (url-encoded too, as IAS gives them) or DER, in its order, as DER.

    Raises:
        EvidenceError: there is none.
    """
    _cap(raw, MAX_COLLATERAL_BYTES)
    ders = tuple(der for der in _ders(raw) if _is_certificate(der))
    if not ders:
        raise EvidenceError("no certificate: tried PEM, DER, and DER as hex or base64")
    return ders


def read_signature(raw: bytes) -> bytes:
    """A detached signature: base64 or hex where the file is such a text, else its raw bytes.

    Raises:
        EvidenceError: the file is empty, or too large.
    """
    _cap(raw, MAX_COLLATERAL_BYTES)
    return list(_spellings(raw))[-1].document


def _collateral_of_json(value: Any) -> Collateral:
    if isinstance(value, list):
        if len(value) > MAX_ENTRIES:
            raise EvidenceError(
                f"too much collateral: got {len(value)} entries, expected at most {MAX_ENTRIES}"
            )
        return merged(_one_of_json(entry) for entry in value)
    return _one_of_json(value)


def _one_of_json(value: Any) -> Collateral:
    if isinstance(value, dict) and "version" in value:
        return collateral_from_object(value)
    if isinstance(value, dict) and "tcb_info" in value:
        try:
            dcap = msgspec.convert(value, DcapCollateral, strict=True)
        except (msgspec.ValidationError, RecursionError) as exc:
            raise EvidenceError(f"the collateral of a quote cannot be read: {exc}") from None
        check_dcap_size(dcap)
        return Collateral(dcap=(dcap,))
    if isinstance(value, dict) and isinstance(value.get("collateral"), dict):
        return _one_of_json(
            {name: member for name, member in value["collateral"].items() if name != "collateral"}
        )
    raise EvidenceError(
        "JSON without collateral: expected a bundle (version, dcap, snp, certificates, crls) or one platform's "
        "(tcb_info, qe_identity, pck_crl, ...)"
    )


def _ders(raw: bytes) -> Sequence[bytes]:
    """The DER of every certificate and CRL in the file; of DER that is neither, nothing."""
    text = unquote_to_bytes(raw) if b"-----BEGIN%20" in raw else raw
    # Quotes have PEM inside, and are no files of certificates.
    if text.isascii() and b"-----BEGIN" in text:
        blocks = [_unarmoured(match) for match in _ARMOUR.finditer(text)]
        if len(blocks) > MAX_ENTRIES:
            raise EvidenceError(f"too many PEM blocks: got {len(blocks)}, expected at most {MAX_ENTRIES}")
        return [der for der in blocks if der is not None]
    return [
        candidate.document
        for candidate in _spellings(raw)
        if _is_certificate(candidate.document) or _is_crl(candidate.document)
    ]


def _unarmoured(match: re.Match[bytes]) -> bytes | None:
    if match[1] not in (b"CERTIFICATE", b"X509 CRL", b"TRUSTED CERTIFICATE"):
        return None
    try:
        return base64.b64decode(_SPACE.sub(b"", match[2]), validate=True)
    except binascii.Error:
        raise EvidenceError(f"a PEM block ({match[1].decode()}) is not base64") from None


def _is_certificate(der: bytes) -> bool:
    try:
        load_certificate(der)
    except EvidenceError:
        return False
    return True


def _is_crl(der: bytes) -> bool:
    try:
        load_crl(der)
    except EvidenceError:
        return False
    return True


def _part_of_der(der: bytes) -> Collateral:
    if _is_crl(der):
        return Collateral(crls=(load_crl(der).public_bytes(Encoding.DER),))
    load_certificate(der)
    # Whose it is does not matter: each format takes what fits its evidence, and SNP looks in its own place.
    return Collateral(certificates=(der,), snp=(SnpCollateral(certificates=(der,)),))
