"""TDREPORT, the structure that a TDX module gives to its TD: authenticated for that machine only, by a MAC.

A TD quote repeats its content under a signature. So a TDREPORT proves something to others only together with a quote
whose body says the same. Source: Intel TDX Module Base Architecture Specification, REPORTMACSTRUCT, TEE_TCB_INFO and
TDINFO; Intel TDX DCAP Quote Generation Library, A.3.2 TD Quote Body (versions 4 and 5).
"""

import hashlib

from avalon_core.attestation.azure.envelope import TDREPORT_BYTES
from avalon_core.errors import EvidenceError

REPORT_TYPE_TDX = 0x81
_TCB_INFO_HASH = slice(32, 80)
_TD_INFO_HASH = slice(80, 128)
_REPORT_DATA = slice(128, 192)
_TCB_INFO = slice(256, 495)
_TD_INFO = slice(512, 1024)
_BODY_OF_TCB_INFO = slice(256 + 8, 256 + 8 + 120)
"""TEE_TCB_SVN, MRSEAM, MRSIGNERSEAM, ATTRIBUTES of the SEAM module; before them stands a bit map of what is valid."""

_BODY_OF_TD_INFO = slice(512, 512 + 400)
"""ATTRIBUTES, XFAM, MRTD, MRCONFIGID, MROWNER, MROWNERCONFIG, RTMR0 to RTMR3."""

BODY_BYTES = 584
"""The TD quote body of version 1.0, with which that of 1.5 begins."""

_QUOTE_HEADER_BYTES = 48
_BODY_DESCRIPTOR_BYTES = {4: 0, 5: 6}
"""By quote version: version 5 puts the body's type and size before it."""


def report_data_of(report: bytes) -> bytes:
    """The 64 bytes of report data.

    Raises:
        EvidenceError: see :func:`quote_body_of`.
    """
    _check(report)
    return report[_REPORT_DATA]


def quote_body_of(report: bytes) -> bytes:
    """The first 584 bytes of the body that a quote of this TDREPORT has.

    Raises:
        EvidenceError: another size or type, or its digests do not fit its parts.
    """
    _check(report)
    return report[_BODY_OF_TCB_INFO] + report[_BODY_OF_TD_INFO] + report[_REPORT_DATA]


def body_of_quote(quote: bytes) -> bytes:
    """The first 584 bytes of the body of a TD quote of version 4 or 5. It verifies nothing.

    Raises:
        EvidenceError: another version, or too short.
    """
    version = int.from_bytes(quote[:2], "little")
    descriptor = _BODY_DESCRIPTOR_BYTES.get(version)
    if descriptor is None:
        raise EvidenceError(f"a TD quote of another version: got {version}, expected 4 or 5")
    start = _QUOTE_HEADER_BYTES + descriptor
    if len(quote) < start + BODY_BYTES:
        raise EvidenceError(f"a TD quote is cut: got {len(quote)} bytes")
    return quote[start : start + BODY_BYTES]


def _check(report: bytes) -> None:
    if len(report) != TDREPORT_BYTES:
        raise EvidenceError(f"a TDREPORT of another size: got {len(report)} bytes, expected {TDREPORT_BYTES}")
    if report[0] != REPORT_TYPE_TDX:
        raise EvidenceError(f"not a TDREPORT: got type {report[0]:#04x}, expected {REPORT_TYPE_TDX:#04x}")
    for what, digest, part in (
        ("TEE_TCB_INFO", _TCB_INFO_HASH, _TCB_INFO),
        ("TDINFO", _TD_INFO_HASH, _TD_INFO),
    ):
        if hashlib.sha384(report[part]).digest() != report[digest]:
            raise EvidenceError(f"a TDREPORT whose {what} was changed: its digest is another")
