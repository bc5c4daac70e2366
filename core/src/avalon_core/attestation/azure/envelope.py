"""The HCL report, as it stands in NV index 0x01400001 of an Azure confidential VM's TPM.

    header          32 bytes   signature "HCLA", version, report size, request type, status, 12 reserved
    hardware report 1184 bytes an SNP report, or a TDREPORT of 1024 bytes and zeros
    runtime header  20 bytes   data size, version, report type, hash type, size of the statement
    statement                  JSON in UTF-8
    zeros

All numbers are little endian, 32 bits. Source: Microsoft, Azure Confidential VM Guest Attestation Design Detail (2025),
Hardware Report and Runtime Data; sizes as in real reports. Nothing but the hardware report is signed, so every other
number has to be what the format says.
"""

import enum
import hashlib
import struct
from dataclasses import dataclass

from avalon_core.errors import EvidenceError

MAGIC = b"HCLA"
VERSIONS = (1, 2)
REQUEST_TYPE = 2
RUNTIME_VERSION = 1
SLOT_BYTES = 1184
TDREPORT_BYTES = 1024
MAX_STATEMENT_BYTES = 16 * 1024
"""Real ones have 600 to 1300 bytes."""

REPORT_DATA_BYTES = 64
HEADER = struct.Struct("<4sIIII12s")
RUNTIME_HEADER = struct.Struct("<IIIII")
_BEFORE_RUNTIME = HEADER.size + SLOT_BYTES


class ReportKind(enum.IntEnum):
    """Which hardware made the report."""

    SNP = 2
    TDX = 4


class HashKind(enum.IntEnum):
    """How the report data covers the statement."""

    SHA256 = 1
    SHA384 = 2
    SHA512 = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class HclEnvelope:
    """The parts of an HCL report. Nothing in it has been verified."""

    kind: ReportKind
    report: bytes
    """The SNP report (1184 bytes) or the TDREPORT (1024 bytes)."""

    hash_kind: HashKind
    statement: bytes
    """The JSON text, as it was hashed."""

    @property
    def expected_report_data(self) -> bytes:
        """The 64 bytes of report data that cover the statement: its digest, then zeros."""
        name = self.hash_kind.name.lower()
        return hashlib.new(name, self.statement).digest().ljust(REPORT_DATA_BYTES, b"\0")


def looks_like_envelope(document: bytes) -> bool:
    """Whether the magic number is there."""
    return document.startswith(MAGIC)


def parse_envelope(document: bytes) -> HclEnvelope:
    """Read an HCL report.

    Raises:
        EvidenceError: not one of the known form, or a number in it is another than the format says.
    """
    start = _BEFORE_RUNTIME + RUNTIME_HEADER.size
    if len(document) < start:
        raise EvidenceError(
            f"an HCL report is too short: got {len(document)} bytes, expected at least {start}"
        )
    magic, version, report_size, request_type, status, reserved = HEADER.unpack_from(document)
    if magic != MAGIC:
        raise EvidenceError(f"not an HCL report: got {magic!r} at its start, expected {MAGIC!r}")
    _one_of("version", version, VERSIONS)
    _one_of("request type", request_type, (REQUEST_TYPE,))
    _one_of("status", status, (0,))
    data_size, runtime_version, kind, hash_kind, size = RUNTIME_HEADER.unpack_from(document, _BEFORE_RUNTIME)
    _one_of("runtime data version", runtime_version, (RUNTIME_VERSION,))
    _one_of("report type", kind, tuple(ReportKind))
    _one_of("hash type", hash_kind, tuple(HashKind))
    if size > MAX_STATEMENT_BYTES:
        raise EvidenceError(
            f"the statement in an HCL report is too large: got {size} bytes, expected at most {MAX_STATEMENT_BYTES}"
        )
    end = start + size
    _one_of("data size", data_size, (RUNTIME_HEADER.size + size,))
    _one_of("report size", report_size, (end,))
    if len(document) < end:
        raise EvidenceError(f"an HCL report is cut: got {len(document)} bytes, expected at least {end}")
    report_bytes = TDREPORT_BYTES if kind == ReportKind.TDX else SLOT_BYTES
    report_end = HEADER.size + report_bytes
    if any(reserved) or any(document[report_end:_BEFORE_RUNTIME]) or any(document[end:]):
        raise EvidenceError("an HCL report with bytes set that have to be zero")
    return HclEnvelope(
        kind=ReportKind(kind),
        report=document[HEADER.size : report_end],
        hash_kind=HashKind(hash_kind),
        statement=document[start:end],
    )


def _one_of(what: str, got: int, expected: tuple[int, ...]) -> None:
    if got not in expected:
        raise EvidenceError(
            f"an HCL report with another {what}: got {got}, expected {' or '.join(map(str, map(int, expected)))}"
        )
