"""The bytes of SGX and TDX quotes: reports, headers and signature data. Layouts only; nothing is decided here.

Sources: Intel SGX ECDSA QuoteLibReference DCAP API (SGX quote 3), Intel TDX DCAP Quoting Library API (quotes 4 and
5), Intel SDM volume 3D (REPORT). All numbers are little-endian.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
"""Names the format of the quoting enclave's statements; verifiers compare it, so the simulator has to use it too."""

SGX_ATTRIBUTES_DEBUG = 0x02
TD_ATTRIBUTES_DEBUG = 0x01
REPORT_BYTES = 384
TD_REPORT_10_BYTES = 584
TD_REPORT_15_BYTES = 648
HEADER_BYTES = 48

SGX = 0x00
TDX = 0x81
"""TEE types in headers."""

BODY_TD_10 = 2
BODY_TD_15 = 3
"""Body types in quote 5."""

PCK_CHAIN: Final = 5
QE_REPORT_CERTIFICATION = 6
"""Certification data types."""

_ECDSA_P256 = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxReport:
    """The report of an SGX enclave: 384 bytes."""

    mrenclave: bytes = bytes(32)
    mrsigner: bytes = bytes(32)
    isv_prod_id: int = 0
    isv_svn: int = 0
    report_data: bytes = bytes(64)
    cpusvn: bytes = bytes(16)
    miscselect: int = 0
    attributes: bytes = bytes.fromhex("0500000000000000e700000000000000")
    """16 bytes: flags (INIT, MODE64BIT, and DEBUG as bit 1), then XFRM."""

    isv_ext_prod_id: bytes = bytes(16)
    config_id: bytes = bytes(64)
    config_svn: int = 0
    isv_family_id: bytes = bytes(16)

    def with_debug(self) -> "SgxReport":
        """The report of an enclave that the operator can look into."""
        return replace(
            self, attributes=bytes((self.attributes[0] | SGX_ATTRIBUTES_DEBUG,)) + self.attributes[1:]
        )

    def encode(self) -> bytes:
        """The bytes.

        Raises:
            ValueError: a field has another length than its place.
        """
        return b"".join(
            (
                _fixed("cpusvn", self.cpusvn, 16),
                self.miscselect.to_bytes(4, "little"),
                bytes(12),
                _fixed("isv_ext_prod_id", self.isv_ext_prod_id, 16),
                _fixed("attributes", self.attributes, 16),
                _fixed("mrenclave", self.mrenclave, 32),
                bytes(32),
                _fixed("mrsigner", self.mrsigner, 32),
                bytes(32),
                _fixed("config_id", self.config_id, 64),
                self.isv_prod_id.to_bytes(2, "little"),
                self.isv_svn.to_bytes(2, "little"),
                self.config_svn.to_bytes(2, "little"),
                bytes(42),
                _fixed("isv_family_id", self.isv_family_id, 16),
                _fixed("report_data", self.report_data, 64),
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReport:
    """The report of a trust domain: 584 bytes, or 648 with what TDX 1.5 added."""

    mrtd: bytes = bytes(48)
    rtmr0: bytes = bytes(48)
    rtmr1: bytes = bytes(48)
    rtmr2: bytes = bytes(48)
    rtmr3: bytes = bytes(48)
    report_data: bytes = bytes(64)
    mrconfigid: bytes = bytes(48)
    mrowner: bytes = bytes(48)
    mrownerconfig: bytes = bytes(48)
    td_attributes: bytes = bytes.fromhex("0000001000000000")
    """8 bytes: SEPT_VE_DISABLE, as every careful guest sets it; DEBUG is bit 0."""

    xfam: bytes = bytes.fromhex("e702060000000000")
    tee_tcb_svn: bytes = bytes(16)
    """Module version (minor, major), microcode, zeros."""

    mrseam: bytes = bytes(48)
    mrsignerseam: bytes = bytes(48)
    seam_attributes: bytes = bytes(8)
    tee_tcb_svn2: bytes = bytes(16)
    """Of the module that runs now, where it was updated under a running domain (1.5)."""

    mrservicetd: bytes = bytes(48)
    """1.5."""

    def with_debug(self) -> "TdReport":
        """The report of a domain that the operator can look into."""
        return replace(
            self, td_attributes=bytes((self.td_attributes[0] | TD_ATTRIBUTES_DEBUG,)) + self.td_attributes[1:]
        )

    def encode(self, body: int) -> bytes:
        """The bytes as of a body type.

        Raises:
            ValueError: a field has another length than its place.
        """
        registers = ("mrtd", "mrconfigid", "mrowner", "mrownerconfig", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
        encoded = b"".join(
            (
                _fixed("tee_tcb_svn", self.tee_tcb_svn, 16),
                _fixed("mrseam", self.mrseam, 48),
                _fixed("mrsignerseam", self.mrsignerseam, 48),
                _fixed("seam_attributes", self.seam_attributes, 8),
                _fixed("td_attributes", self.td_attributes, 8),
                _fixed("xfam", self.xfam, 8),
                *(_fixed(name, getattr(self, name), 48) for name in registers),
                _fixed("report_data", self.report_data, 64),
            )
        )
        if body == BODY_TD_15:
            encoded += _fixed("tee_tcb_svn2", self.tee_tcb_svn2, 16)
            encoded += _fixed("mrservicetd", self.mrservicetd, 48)
        return encoded


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteSigning:
    """What a quoting enclave adds to a report."""

    attestation_key: bytes
    """64 bytes: x and y."""

    sign: Callable[[bytes], bytes]
    """Signs with the attestation key: 64 bytes."""

    qe_report: bytes
    """384 bytes."""

    qe_report_signature: bytes
    """64 bytes, by the PCK key."""

    qe_auth_data: bytes
    certification_type: int
    certification: bytes


def encode_sgx_quote(
    report: bytes, signing: QuoteSigning, *, qe_svn: int, pce_svn: int, user_data: bytes
) -> bytes:
    """An SGX quote of version 3."""
    header = b"".join(
        (
            (3).to_bytes(2, "little"),
            _ECDSA_P256.to_bytes(2, "little"),
            SGX.to_bytes(4, "little"),
            qe_svn.to_bytes(2, "little"),
            pce_svn.to_bytes(2, "little"),
            INTEL_QE_VENDOR,
            _fixed("user_data", user_data, 20),
        )
    )
    signed = header + report
    return signed + _sized(signing.sign(signed) + signing.attestation_key + _qe_statement(signing))


def encode_tdx_quote(
    report: bytes, signing: QuoteSigning, *, version: int, body: int, user_data: bytes
) -> bytes:
    """A TDX quote of version 4 or 5.

    Raises:
        ValueError: another version, or a body that it cannot have.
    """
    if version not in (4, 5) or (version == 4 and body != BODY_TD_10):
        raise ValueError(f"no TDX quote of version {version} with body type {body}")
    header = b"".join(
        (
            version.to_bytes(2, "little"),
            _ECDSA_P256.to_bytes(2, "little"),
            TDX.to_bytes(4, "little"),
            bytes(4),  # reserved; version 3 has the SVNs of QE and PCE here
            INTEL_QE_VENDOR,
            _fixed("user_data", user_data, 20),
        )
    )
    described = body.to_bytes(2, "little") + len(report).to_bytes(4, "little") if version == 5 else b""
    signed = header + described + report
    certification = _certification(QE_REPORT_CERTIFICATION, _qe_statement(signing))
    return signed + _sized(signing.sign(signed) + signing.attestation_key + certification)


def _qe_statement(signing: QuoteSigning) -> bytes:
    return b"".join(
        (
            _fixed("qe_report", signing.qe_report, REPORT_BYTES),
            _fixed("qe_report_signature", signing.qe_report_signature, 64),
            len(signing.qe_auth_data).to_bytes(2, "little"),
            signing.qe_auth_data,
            _certification(signing.certification_type, signing.certification),
        )
    )


def _certification(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2, "little") + _sized(data)


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def _fixed(name: str, value: bytes, length: int) -> bytes:
    if len(value) != length:
        raise ValueError(f"{name}: got {len(value)} bytes, expected {length}")
    return value
