"""The attestation report of SEV-SNP, versions 2 to 5, as bytes and as fields. Nothing here verifies anything.

Source: SEV Secure Nested Paging Firmware ABI Specification (AMD 56860), 7.3 Attestation, table ATTESTATION_REPORT;
4.3 Guest Policy; chapter 10 for the signature's format. All numbers are little endian. One frame of 1184 bytes serves
all versions, since later ones only named what was reserved before:

    ====  =========================================================================
    2     the frame
    3     CPUID_FAM_ID, CPUID_MOD_ID, CPUID_STEP (188h); Turin's layout of TCB_VERSION
    4     more bits of POLICY and PLATFORM_INFO
    5     LAUNCH_MIT_VECTOR (1F8h), CURRENT_MIT_VECTOR (200h)
    ====  =========================================================================

Reserved bits and bytes are not judged: firmware in the field sets some, and the signature covers them. What is not
known here is told by :attr:`SnpReport.has_unknown_bits`.
"""

import enum
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from avalon_core.errors import EvidenceError

REPORT_BYTES = 0x4A0
SIGNED_BYTES = 0x2A0
"""What the signature covers: from 0h to 29Fh, of every version."""

VERSIONS = range(2, 6)
ECDSA_P384_SHA384 = 1
"""SIGNATURE_ALGO (chapter 10)."""

GUEST_VMPLS = range(4)
HOST_VMPL = 0xFFFF_FFFF
"""VMPL of a report that the hypervisor asked for, not the guest."""

NUMBER_BYTES = 72
"""r and s of the signature, little endian, filled up with zeros."""

BODY = struct.Struct("<IIQ16s16sII8sQII64s48s32s48s48s32s32s8sBBB21s64s8sBBBBBBBB8sQQ152s")
"""The signed part; the builder of reports shares it."""

_FIRST_WITH_CPUID = 3
_FIRST_WITH_VECTORS = 5

POLICY_BITS: Mapping[int, str] = MappingProxyType(
    {
        16: "smt_allowed",
        18: "migration_allowed",
        19: "debug",
        20: "single_socket",
        21: "cxl_allowed",
        22: "aes_256_xts_required",
        23: "rapl_disable_required",
        24: "ciphertext_hiding_required",
        25: "page_swap_disabled",
    }
)
"""Guest policy, 4.3. Bits 0 to 15 are the least ABI version that the guest runs on; bit 17 is always one."""

PLATFORM_BITS: Mapping[int, str] = MappingProxyType(
    {
        0: "smt_enabled",
        1: "tsme_enabled",
        2: "ecc_enabled",
        3: "rapl_disabled",
        4: "ciphertext_hiding_enabled",
        5: "alias_check_complete",
        7: "tio_enabled",
    }
)
"""PLATFORM_INFO of 7.3."""

_POLICY_KNOWN = 0x2FFFF | sum(1 << bit for bit in POLICY_BITS)
_PLATFORM_KNOWN = sum(1 << bit for bit in PLATFORM_BITS)


class SigningKey(enum.IntEnum):
    """Which key signed the report: SIGNING_KEY of 7.3."""

    VCEK = 0
    """Of this very chip."""

    VLEK = 1
    """Loaded by a cloud provider, the same on its machines."""

    NONE = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpReport:
    """A report's fields. TCB versions are 8 raw bytes: their layout is the product's, which a certificate tells."""

    signed: bytes
    """The 672 bytes that the signature covers."""

    signature: tuple[int, int]
    """r and s."""

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: int
    author_key_enabled: bool
    chip_key_masked: bool
    """The chip signs nothing (MASK_CHIP_KEY)."""

    signing_key: int
    """Of :class:`SigningKey`; other values are reserved."""

    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: tuple[int, int, int] | None
    """Family, model, stepping; None before version 3."""

    chip_id: bytes
    """64 bytes; all zero where the platform masks it (MaskChipId)."""

    committed_tcb: bytes
    current_firmware: tuple[int, int, int]
    """Major, minor, build."""

    committed_firmware: tuple[int, int, int]
    launch_tcb: bytes
    mitigation_vectors: tuple[int, int] | None
    """At launch and current; None before version 5."""

    has_unknown_bits: bool
    """A bit is set that this version of the report, as known here, reserves."""

    @property
    def policy_bits(self) -> Mapping[str, bool]:
        """The named bits of POLICY."""
        return {name: bool(self.policy >> bit & 1) for bit, name in POLICY_BITS.items()}

    @property
    def platform_bits(self) -> Mapping[str, bool]:
        """The named bits of PLATFORM_INFO."""
        return {name: bool(self.platform_info >> bit & 1) for bit, name in PLATFORM_BITS.items()}

    @property
    def chip_id_masked(self) -> bool:
        """The platform does not tell its chip's identity."""
        return not any(self.chip_id)


def looks_like_report(document: bytes) -> bool:
    """Whether size, version and algorithm are those of a report."""
    return (
        len(document) == REPORT_BYTES
        and int.from_bytes(document[:4], "little") in VERSIONS
        and int.from_bytes(document[0x34:0x38], "little") == ECDSA_P384_SHA384
    )


def parse_report(document: bytes) -> SnpReport:
    """Read a report.

    Raises:
        EvidenceError: another size, version or signature algorithm, or bytes in the signature that are none.
    """
    if len(document) != REPORT_BYTES:
        raise EvidenceError(
            f"an SNP report of another size: got {len(document)} bytes, expected {REPORT_BYTES}"
        )
    (
        version, guest_svn, policy, family_id, image_id, vmpl, algorithm, current_tcb, platform_info, keys, reserved_1,
        report_data, measurement, host_data, id_key_digest, author_key_digest, report_id, report_id_ma, reported_tcb,
        family, model, stepping, reserved_2, chip_id, committed_tcb,
        current_build, current_minor, current_major, reserved_3,
        committed_build, committed_minor, committed_major, reserved_4,
        launch_tcb, launch_vector, current_vector, reserved_5,
    ) = BODY.unpack_from(document)  # fmt: skip
    if version not in VERSIONS:
        raise EvidenceError(
            f"an SNP report of an unknown version: got {version}, expected {VERSIONS[0]} to {VERSIONS[-1]}"
        )
    if algorithm != ECDSA_P384_SHA384:
        raise EvidenceError(
            f"an SNP report with an unknown signature algorithm: got {algorithm}, expected {ECDSA_P384_SHA384}"
        )
    has_cpuid = version >= _FIRST_WITH_CPUID
    has_vectors = version >= _FIRST_WITH_VECTORS
    unknown = (
        policy & ~_POLICY_KNOWN
        | platform_info & ~_PLATFORM_KNOWN
        | keys >> 5
        | reserved_1
        | reserved_3
        | reserved_4,
        0 if has_cpuid else family | model | stepping,
        0 if has_vectors else launch_vector | current_vector,
        *reserved_2,
        *reserved_5,
    )
    return SnpReport(
        signed=document[:SIGNED_BYTES],
        signature=_parse_signature(document[SIGNED_BYTES:]),
        version=version,
        guest_svn=guest_svn,
        policy=policy,
        family_id=family_id,
        image_id=image_id,
        vmpl=vmpl,
        current_tcb=current_tcb,
        platform_info=platform_info,
        author_key_enabled=bool(keys & 1),
        chip_key_masked=bool(keys >> 1 & 1),
        signing_key=keys >> 2 & 7,
        report_data=report_data,
        measurement=measurement,
        host_data=host_data,
        id_key_digest=id_key_digest,
        author_key_digest=author_key_digest,
        report_id=report_id,
        report_id_ma=report_id_ma,
        reported_tcb=reported_tcb,
        cpuid=(family, model, stepping) if has_cpuid else None,
        chip_id=chip_id,
        committed_tcb=committed_tcb,
        current_firmware=(current_major, current_minor, current_build),
        committed_firmware=(committed_major, committed_minor, committed_build),
        launch_tcb=launch_tcb,
        mitigation_vectors=(launch_vector, current_vector) if has_vectors else None,
        has_unknown_bits=any(unknown),
    )


def _parse_signature(raw: bytes) -> tuple[int, int]:
    """r and s. What follows them is not covered by anything, so nothing may be there."""
    if any(raw[2 * NUMBER_BYTES :]):
        raise EvidenceError("an SNP report with a malformed signature: the bytes after r and s are not zero")
    r, s = raw[:NUMBER_BYTES], raw[NUMBER_BYTES : 2 * NUMBER_BYTES]
    return int.from_bytes(r, "little"), int.from_bytes(s, "little")
