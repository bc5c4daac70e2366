"""The certificates of SNP: what AMD certifies of a signing key, and the table in which a host hands certificates on.

Source: Versioned Chip Endorsement Key Certificate and KDS Interface Specification (AMD 57230), 3.1, table of custom
extensions (OIDs under 1.3.6.1.4.1.3704.1), for VCEK and VLEK; Guest-Hypervisor Communication Block Standardization
(AMD 56421), 4.1.8.1 SNP Extended Guest Request, for the table.
"""

import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat import asn1

from avalon_core.attestation.chains import extensions_of
from avalon_core.attestation.evidence import MAX_CERTIFICATE_BYTES, MAX_CERTIFICATES
from avalon_core.attestation.snp.products import Product, encode_tcb, product_of_name
from avalon_core.attestation.snp.report import SigningKey
from avalon_core.errors import EvidenceError

AMD_OID = "1.3.6.1.4.1.3704.1"
PRODUCT_NAME_OID = f"{AMD_OID}.2"
HWID_OID = f"{AMD_OID}.4"
CSP_ID_OID = f"{AMD_OID}.5"
SPL_OIDS: Mapping[str, str] = {
    "bootloader": f"{AMD_OID}.3.1",
    "tee": f"{AMD_OID}.3.2",
    "snp": f"{AMD_OID}.3.3",
    "spl4": f"{AMD_OID}.3.4",
    "spl5": f"{AMD_OID}.3.5",
    "spl6": f"{AMD_OID}.3.6",
    "spl7": f"{AMD_OID}.3.7",
    "microcode": f"{AMD_OID}.3.8",
    "fmc": f"{AMD_OID}.3.9",
}
"""blSPL, teeSPL, snpSPL, the reserved spl4 to spl7, ucodeSPL and fmcSPL, by the names of TCB components."""

CHIP_ID_BYTES = 64
_HWID_BYTES = {Product.MILAN: CHIP_ID_BYTES, Product.GENOA: CHIP_ID_BYTES, Product.TURIN: 8}
_REQUIRED = {
    Product.MILAN: ("bootloader", "tee", "snp", "microcode"),
    Product.GENOA: ("bootloader", "tee", "snp", "microcode"),
    Product.TURIN: ("fmc", "bootloader", "tee", "snp", "microcode"),
}
_MAX_SPL = 255
_MAX_NAME_CHARS = 64
"""Real names have at most 8; the table of the specification says nothing."""

_ENTRY = struct.Struct("<16sII")
_TABLE_GUIDS = {
    "63da758d-e664-4564-adc5-f4b93be8accd": "VCEK",
    "a8074bc2-a25a-483e-aae6-39c045a0b8a1": "VLEK",
    "4ab7b379-bbac-4fe4-a02f-05aef327c782": "ASK",
    "c0b406a4-a803-4952-9743-3fb6014cd0ae": "ARK",
    "92f81bc3-5811-4d3d-97ff-d19f88dc67ea": "CRL",
}
_MAX_TABLE_ENTRIES = 32
"""Five kinds are defined; hosts may add entries of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCertificate:
    """A VCEK's or VLEK's certificate and what AMD certifies in it."""

    certificate: x509.Certificate
    kind: SigningKey
    product: Product
    product_name: str
    """``Milan-B0``, ``Turin``."""

    tcb: bytes
    """TCB_VERSION that the key was derived for, 8 bytes in the product's layout."""

    chip_id: bytes | None
    """64 bytes, as CHIP_ID is: HWID, from Turin on 8 bytes and filled up with zeros. None for a VLEK."""

    csp_id: str | None
    """Whom the VLEK was given to. None for a VCEK."""


@dataclass(frozen=True, slots=True)
class CertificateTable:
    """What a host hands to its guests with a report."""

    certificates: tuple[bytes, ...]
    """DER."""

    crls: tuple[bytes, ...]
    """DER."""


def is_key_certificate(certificate: x509.Certificate) -> bool:
    """Whether it has AMD's extensions for a VCEK or a VLEK, of whatever content."""
    return bool(_amd_extensions(certificate).keys() & {HWID_OID, CSP_ID_OID})


def read_key_certificate(certificate: x509.Certificate) -> KeyCertificate:
    """Read AMD's extensions of a VCEK or VLEK.

    Raises:
        EvidenceError: an extension is missing, malformed, or of a product that is not known here.
    """
    found = _amd_extensions(certificate)
    name = _text(found, PRODUCT_NAME_OID, "product name")
    product = product_of_name(name)
    if product is None:
        raise EvidenceError(
            f"a certificate of an unknown AMD product: got {name!r}, expected {', '.join(Product)}"
        )
    levels = {component: _level(found, oid, component) for component, oid in SPL_OIDS.items() if oid in found}
    missing = [component for component in _REQUIRED[product] if component not in levels]
    if missing:
        raise EvidenceError(
            f"a certificate of {product} without the security versions of {', '.join(missing)}"
        )
    try:
        tcb = encode_tcb(levels, product)
    except ValueError as exc:
        raise EvidenceError(
            f"a certificate with security versions that do not belong together: {exc}"
        ) from None
    if (HWID_OID in found) == (CSP_ID_OID in found):
        raise EvidenceError("a certificate of neither VCEK nor VLEK: it needs one of HWID and CSP_ID")
    is_vcek = HWID_OID in found
    return KeyCertificate(
        certificate=certificate,
        kind=SigningKey.VCEK if is_vcek else SigningKey.VLEK,
        product=product,
        product_name=name,
        tcb=tcb,
        chip_id=_chip_id(found[HWID_OID], product) if is_vcek else None,
        csp_id=None if is_vcek else _text(found, CSP_ID_OID, "CSP_ID"),
    )


def _amd_extensions(certificate: x509.Certificate) -> dict[str, bytes]:
    return {
        extension.oid.dotted_string: extension.value.value
        for extension in extensions_of(certificate)
        if isinstance(extension.value, x509.UnrecognizedExtension)
    }


def _text(found: Mapping[str, bytes], oid: str, what: str) -> str:
    raw = found.get(oid)
    if raw is None:
        raise EvidenceError(f"a certificate without {what}")
    try:
        text = asn1.decode_der(asn1.IA5String, raw).as_str()
    except ValueError:
        raise EvidenceError(f"a certificate with a malformed {what}") from None
    if not 0 < len(text) <= _MAX_NAME_CHARS or not text.isprintable():
        raise EvidenceError(f"a certificate with a {what} that is empty, too long or not printable")
    return text


def _level(found: Mapping[str, bytes], oid: str, what: str) -> int:
    try:
        level = asn1.decode_der(int, found[oid])
    except (ValueError, OverflowError):
        raise EvidenceError(f"a certificate with a malformed security version of {what}") from None
    if not 0 <= level <= _MAX_SPL:
        raise EvidenceError(f"a certificate with a security version of {what} beyond 0 to {_MAX_SPL}")
    return level


def _chip_id(raw: bytes, product: Product) -> bytes:
    """HWID is bare in the extension, against the rule that extensions hold DER."""
    if len(raw) != _HWID_BYTES[product]:
        raise EvidenceError(
            f"a certificate of {product} with an HWID of {len(raw)} bytes, expected {_HWID_BYTES[product]}"
        )
    return raw.ljust(CHIP_ID_BYTES, b"\0")


def parse_certificate_table(blob: bytes) -> CertificateTable:
    """Read the table of an extended report: entries of GUID, offset and length, a zero entry, then the parts.

    Hosts' own entries are passed over. GUIDs are taken in either order of bytes: specification and hosts differ.

    Raises:
        EvidenceError: no end of the table, a part outside of it, or one too large or too many.
    """
    certificates: list[bytes] = []
    crls: list[bytes] = []
    for i in range(_MAX_TABLE_ENTRIES + 1):
        if (i + 1) * _ENTRY.size > len(blob):
            break
        guid, offset, length = _ENTRY.unpack_from(blob, i * _ENTRY.size)
        if not any(guid):
            return CertificateTable(tuple(certificates), tuple(crls))
        kind = _TABLE_GUIDS.get(str(uuid.UUID(bytes=guid))) or _TABLE_GUIDS.get(str(uuid.UUID(bytes_le=guid)))
        if kind is None:
            continue
        if offset + length > len(blob):
            raise EvidenceError(f"the certificate table has its {kind} outside of it")
        part = blob[offset : offset + length]
        if kind == "CRL":
            crls.append(part)
            continue
        if len(part) > MAX_CERTIFICATE_BYTES or len(certificates) == MAX_CERTIFICATES:
            raise EvidenceError(f"the certificate table has too many or too large certificates ({kind})")
        certificates.append(part)
    raise EvidenceError(f"the certificate table has no end within {_MAX_TABLE_ENTRIES} entries")
