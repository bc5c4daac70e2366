"""Reading a DCAP quote: header, body, signature data with certification data. Every length is exact.

    version 3     header (48) | SGX report (384)                              | length (4) | signature data
    version 4     header (48) | SGX report (384) or TD report 1.0 (584)       | length (4) | signature data
    version 5     header (48) | body type (2), body size (4), body            | length (4) | signature data

    signature data, version 3:      signature (64) | attestation key (64) | QE data
    signature data, versions 4, 5:  signature (64) | attestation key (64) | type 6 (2), size (4), QE data
    QE data: QE report (384) | its signature (64) | size (2), authentication data | type (2), size (4), certification data

All numbers are little-endian. Bytes after the signature data are counted and otherwise ignored: clouds hand quotes out
in buffers of a fixed size, and nothing that is signed or read lies there.

Source: Intel SGX ECDSA Quote Library API (DCAP), "Quote Format"; Intel TDX DCAP Quoting Library API, "Version 4 Quote
Format" and "Version 5 Quote Format".
"""

import enum
import struct

import msgspec

from avalon_core.errors import EvidenceError

HEADER_BYTES = 48
SGX_REPORT_BYTES = 384
TD_REPORT_10_BYTES = 584
TD_REPORT_15_BYTES = 648
TD_REPORT_15EX_BYTES = 885

ECDSA_P256 = 2
"""The attestation key type of every quote in use; 3 (P-384) is defined, and no quoting enclave makes it."""

TEE_TYPE_SGX = 0x00
TEE_TYPE_TDX = 0x81

QE_VENDOR_INTEL = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

MAX_AUTH_DATA_BYTES = 1024
"""QE authentication data: Intel's quoting enclaves put 32 bytes there."""

MAX_CERTIFICATION_BYTES = 32 * 1024
"""A PCK chain in PEM has less than 4 KiB; platform manifests some KiB more."""

_HEADER = struct.Struct("<HHIHH16s20s")
_BODY_DESCRIPTOR = struct.Struct("<HI")
_SGX_REPORT = struct.Struct("<16sI12s16s16s32s32s32s32s64sHHH42s16s64s")
_PLATFORM_TAIL = struct.Struct("<16sHH")
_ECDSA_BYTES = 64
_ENCRYPTED_PPID_BYTES = {1: 16, 2: 256, 3: 384}
"""By type of certification data: plain; RSA-2048-OAEP; RSA-3072-OAEP."""


class BodyType(enum.IntEnum):
    """What a quote speaks of: the body types of version 5, which the older versions imply."""

    SGX_REPORT = 1
    TD_REPORT_10 = 2
    TD_REPORT_15 = 3
    TD_REPORT_15EX = 4


_BODY_BYTES = {
    BodyType.SGX_REPORT: SGX_REPORT_BYTES,
    BodyType.TD_REPORT_10: TD_REPORT_10_BYTES,
    BodyType.TD_REPORT_15: TD_REPORT_15_BYTES,
    BodyType.TD_REPORT_15EX: TD_REPORT_15EX_BYTES,
}


class CertificationType(enum.IntEnum):
    """How the platform's certificate is named or carried: "QE Certification Data Type"."""

    PPID = 1
    PPID_RSA_2048 = 2
    PPID_RSA_3072 = 3
    PCK_LEAF = 4
    PCK_CHAIN = 5
    QE_REPORT = 6
    PLATFORM_MANIFEST = 7


class QuoteHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The header. The quote's signature covers it."""

    version: int
    attestation_key_type: int
    tee_type: int
    """0 for SGX, 0x81 for TDX; reserved and 0 in version 3."""

    qe_svn: int
    """Version 3 only, like the next; reserved since."""

    pce_svn: int
    qe_vendor_id: bytes
    """16 bytes."""

    user_data: bytes
    """20 bytes that the quoting enclave chose; the first 16 name the platform's QE instance."""


class SgxReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report of an enclave, 384 bytes: "Enclave Report Body" with the KSS fields of REPORT (Intel SDM, volume 3D)."""

    cpusvn: bytes
    """16 bytes, raw: comparable between platforms only by way of the PCK certificate."""

    miscselect: int
    reserved1: bytes
    isvextprodid: bytes
    """16 bytes, KSS."""

    attributes: bytes
    """16 bytes: flags (8) and XFRM (8)."""

    mrenclave: bytes
    reserved2: bytes
    mrsigner: bytes
    reserved3: bytes
    configid: bytes
    """64 bytes, KSS."""

    isvprodid: int
    isvsvn: int
    configsvn: int
    reserved4: bytes
    isvfamilyid: bytes
    """16 bytes, KSS."""

    report_data: bytes
    """64 bytes."""


class PlatformIdentifiers(msgspec.Struct, frozen=True, kw_only=True):
    """Certification data of types 1 to 3: which platform's certificate to ask Intel for."""

    ppid: bytes
    """16 bytes plain (type 1), or encrypted for Intel: 256 bytes (type 2), 384 bytes (type 3)."""

    cpusvn: bytes
    pcesvn: int
    pceid: int


class CertificationData(msgspec.Struct, frozen=True, kw_only=True):
    """How the certificate of the platform's key is named or carried."""

    type: CertificationType
    content: bytes
    """Raw. PEM for types 4 and 5, some end in a zero byte."""

    platform: PlatformIdentifiers | None = None
    """Types 1 to 3."""


class SignatureData(msgspec.Struct, frozen=True, kw_only=True):
    """The structure "ECDSA 256-bit Quote Signature Data". Signatures are r and s, 32 bytes each, big-endian."""

    signature: bytes
    """By the attestation key, over header and body."""

    attestation_key: bytes
    """The point's x and y, 32 bytes each, big-endian."""

    qe_report: SgxReport
    qe_report_bytes: bytes
    qe_report_signature: bytes
    """By the PCK key, over the 384 bytes of the QE report."""

    qe_auth_data: bytes
    certification: CertificationData


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """A quote. Nothing in it has been verified."""

    header: QuoteHeader
    body_type: BodyType
    body: bytes
    """Raw: see :func:`parse_sgx_report` and :mod:`avalon_core.attestation.tdx.report`."""

    signed: bytes
    """What the signature covers: header and body as they came, with the descriptor of version 5."""

    signature: SignatureData
    trailing: int
    """How many bytes follow the signature data."""


class _Reader:
    """Takes exact pieces off bytes, and says which piece was missing."""

    __slots__ = ("_data", "_what", "position")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self.position = 0

    def take(self, size: int, piece: str) -> bytes:
        taken = self._data[self.position : self.position + size]
        if len(taken) != size:
            raise EvidenceError(f"{self._what} ends within {piece}: got {len(taken)} of {size} bytes")
        self.position += size
        return taken

    def number(self, size: int, piece: str) -> int:
        return int.from_bytes(self.take(size, piece), "little")

    def capped(self, size_bytes: int, most: int, piece: str) -> bytes:
        """A piece that its own size stands before."""
        size = self.number(size_bytes, f"the size of {piece}")
        if size > most:
            raise EvidenceError(f"{piece} is too large: got {size} bytes, expected at most {most}")
        return self.take(size, piece)

    def end(self) -> None:
        surplus = len(self._data) - self.position
        if surplus:
            raise EvidenceError(f"{self._what} has {surplus} bytes more than its parts, expected none")


def looks_like_quote(document: bytes) -> int | None:
    """The TEE type of what looks like a quote, else None. Cheap, and no promise."""
    if len(document) < HEADER_BYTES + SGX_REPORT_BYTES:
        return None
    version, key_type, tee_type, _, _, vendor, _ = _HEADER.unpack_from(document)
    if version not in (3, 4, 5) or key_type not in (2, 3) or tee_type not in (TEE_TYPE_SGX, TEE_TYPE_TDX):
        return None
    # Version 3 exists for EPID as well, with other fields where DCAP names its vendor.
    return tee_type if vendor == QE_VENDOR_INTEL or version > 3 else None


def parse_quote(document: bytes) -> Quote:
    """Read a quote of version 3, 4 or 5.

    Raises:
        EvidenceError: unknown version, key type, TEE type or body type; a length that does not fit; certification data
            of an unknown type; a part larger than its cap.
    """
    reader = _Reader(document, "the quote")
    header = _parse_header(reader.take(HEADER_BYTES, "its header"))
    body_type = _body_type(header, reader)
    body = reader.take(_BODY_BYTES[body_type], "its body")
    signed = document[: reader.position]
    signature = reader.take(reader.number(4, "the length of its signature data"), "its signature data")
    return Quote(
        header=header,
        body_type=body_type,
        body=body,
        signed=signed,
        signature=_parse_signature_data(signature, header.version),
        trailing=len(document) - reader.position,
    )


def parse_sgx_report(body: bytes) -> SgxReport:
    """Read the report of an enclave.

    Raises:
        EvidenceError: not 384 bytes.
    """
    if len(body) != SGX_REPORT_BYTES:
        raise EvidenceError(f"the report of an enclave: got {len(body)} bytes, expected {SGX_REPORT_BYTES}")
    fields = _SGX_REPORT.unpack(body)
    return SgxReport(
        cpusvn=fields[0],
        miscselect=fields[1],
        reserved1=fields[2],
        isvextprodid=fields[3],
        attributes=fields[4],
        mrenclave=fields[5],
        reserved2=fields[6],
        mrsigner=fields[7],
        reserved3=fields[8],
        configid=fields[9],
        isvprodid=fields[10],
        isvsvn=fields[11],
        configsvn=fields[12],
        reserved4=fields[13],
        isvfamilyid=fields[14],
        report_data=fields[15],
    )


def flags(value: bytes, names: dict[int, str]) -> str:
    """The set bits of little-endian flags by name, comma-separated; unnamed ones as ``bit17``."""
    number = int.from_bytes(value, "little")
    return ",".join(names.get(bit, f"bit{bit}") for bit in range(8 * len(value)) if number >> bit & 1)


def _parse_header(raw: bytes) -> QuoteHeader:
    version, key_type, tee_type, qe_svn, pce_svn, vendor, user_data = _HEADER.unpack(raw)
    if version not in (3, 4, 5):
        raise EvidenceError(f"a quote of an unknown version: got {version}, expected 3, 4 or 5")
    if key_type != ECDSA_P256:
        raise EvidenceError(
            f"a quote with an unknown kind of key: got type {key_type}, expected {ECDSA_P256}"
        )
    if tee_type not in ((TEE_TYPE_SGX,) if version == 3 else (TEE_TYPE_SGX, TEE_TYPE_TDX)):
        raise EvidenceError(
            f"a quote of version {version} with an unknown TEE type: got {tee_type:#x}, expected "
            + ("0x0" if version == 3 else "0x0 or 0x81")
        )
    return QuoteHeader(
        version=version,
        attestation_key_type=key_type,
        tee_type=tee_type,
        qe_svn=qe_svn,
        pce_svn=pce_svn,
        qe_vendor_id=vendor,
        user_data=user_data,
    )


def _body_type(header: QuoteHeader, reader: _Reader) -> BodyType:
    is_sgx = header.tee_type == TEE_TYPE_SGX
    if header.version < 5:
        return BodyType.SGX_REPORT if is_sgx else BodyType.TD_REPORT_10
    number, size = _BODY_DESCRIPTOR.unpack(reader.take(_BODY_DESCRIPTOR.size, "the descriptor of its body"))
    try:
        body_type = BodyType(number)
    except ValueError:
        raise EvidenceError(f"a quote with an unknown type of body: got {number}, expected 1 to 4") from None
    if size != _BODY_BYTES[body_type]:
        raise EvidenceError(
            f"a body of type {number} of the wrong size: got {size} bytes, expected {_BODY_BYTES[body_type]}"
        )
    if is_sgx is not (body_type is BodyType.SGX_REPORT):
        raise EvidenceError(
            f"header and body of the quote disagree: got body type {number} under TEE type {header.tee_type:#x}"
        )
    return body_type


def _parse_signature_data(raw: bytes, version: int) -> SignatureData:
    reader = _Reader(raw, "the signature data")
    signature = reader.take(_ECDSA_BYTES, "the signature")
    key = reader.take(_ECDSA_BYTES, "the attestation key")
    if version == 3:
        return _parse_qe_data(reader, signature, key)
    outer = reader.number(2, "the type of certification data")
    if outer != CertificationType.QE_REPORT:
        raise EvidenceError(
            f"the outer certification data of a quote of version {version}: got type {outer}, expected 6"
        )
    inner = reader.capped(4, MAX_CERTIFICATION_BYTES, "the outer certification data")
    reader.end()
    return _parse_qe_data(_Reader(inner, "the QE report certification data"), signature, key)


def _parse_qe_data(reader: _Reader, signature: bytes, key: bytes) -> SignatureData:
    report = reader.take(SGX_REPORT_BYTES, "the QE report")
    report_signature = reader.take(_ECDSA_BYTES, "the signature of the QE report")
    auth_data = reader.capped(2, MAX_AUTH_DATA_BYTES, "the QE authentication data")
    number = reader.number(2, "the type of certification data")
    content = reader.capped(4, MAX_CERTIFICATION_BYTES, "the certification data")
    reader.end()
    return SignatureData(
        signature=signature,
        attestation_key=key,
        qe_report=parse_sgx_report(report),
        qe_report_bytes=report,
        qe_report_signature=report_signature,
        qe_auth_data=auth_data,
        certification=_parse_certification(number, content),
    )


def _parse_certification(number: int, content: bytes) -> CertificationData:
    try:
        kind = CertificationType(number)
    except ValueError:
        raise EvidenceError(f"certification data of an unknown type: got {number}, expected 1 to 7") from None
    if kind is CertificationType.QE_REPORT:
        raise EvidenceError(
            "certification data of type 6 within certification data: expected types 1 to 5 or 7"
        )
    if kind > CertificationType.PPID_RSA_3072:
        return CertificationData(type=kind, content=content)
    ppid_bytes = _ENCRYPTED_PPID_BYTES[kind]
    if len(content) != ppid_bytes + _PLATFORM_TAIL.size:
        raise EvidenceError(
            f"certification data of type {number}: got {len(content)} bytes, "
            f"expected {ppid_bytes + _PLATFORM_TAIL.size}"
        )
    cpusvn, pcesvn, pceid = _PLATFORM_TAIL.unpack_from(content, ppid_bytes)
    platform = PlatformIdentifiers(ppid=content[:ppid_bytes], cpusvn=cpusvn, pcesvn=pcesvn, pceid=pceid)
    return CertificationData(type=kind, content=content, platform=platform)
