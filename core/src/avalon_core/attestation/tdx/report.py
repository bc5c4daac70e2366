"""Reading the report of a trust domain out of a TDX quote: versions 1.0, 1.5 and 1.5 extended, each the last and more.

Source: Intel TDX DCAP Quoting Library API, "TD Quote Body" (584 bytes) and "TD Quote Body for TDX 1.5"
(648 bytes); of the extended one (885 bytes), which no machine was seen to make yet, the layout that dcap-qvl reads.
Attributes: Intel TDX Module ABI Specification, "ATTRIBUTES".
"""

import struct
from collections.abc import Sequence

import msgspec

from avalon_core.attestation.dcap.quotes import (
    TD_REPORT_10_BYTES,
    TD_REPORT_15_BYTES,
    TD_REPORT_15EX_BYTES,
    BodyType,
    flags,
)
from avalon_core.errors import EvidenceError

_REPORT_10 = struct.Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")
_MORE_IN_15 = struct.Struct("<16s48s")
_MORE_IN_15EX = struct.Struct("<B32s48s48s8s16s16s12s48s8s")

_SIZES = {
    BodyType.TD_REPORT_10: TD_REPORT_10_BYTES,
    BodyType.TD_REPORT_15: TD_REPORT_15_BYTES,
    BodyType.TD_REPORT_15EX: TD_REPORT_15EX_BYTES,
}
VERSION_NAMES = {
    BodyType.TD_REPORT_10: "1.0",
    BodyType.TD_REPORT_15: "1.5",
    BodyType.TD_REPORT_15EX: "1.5ex",
}

ATTRIBUTE_NAMES = {
    0: "debug",
    4: "hgs_plus_prof",
    5: "perf_prof",
    6: "pmt_prof",
    16: "icssd",
    17: "servtd_ext",
    27: "lass",
    28: "sept_ve_disable",
    29: "migratable",
    30: "pks",
    31: "kl",
    62: "tpa",
    63: "perfmon",
}
_UNDER_DEBUG = 0xFF
"""Bits 0 to 7: if any is set, the host can look into the domain (TUD)."""

_SEPT_VE_DISABLE = 1 << 28
_HARMLESS = sum(1 << bit for bit in (16, 18, 19, 20, 21, 22, 27, 28, 30, 31, 62, 63))
"""What the verifying library lets pass: none of them opens a domain to its host. Migration (29) and service domains (17)
may, depending on another domain, of which the quote does not say enough."""


class MoreIn15(msgspec.Struct, frozen=True, kw_only=True):
    """What TD report 1.5 adds."""

    tee_tcb_svn_2: bytes
    """16 bytes: of the TDX module that runs now; TEE_TCB_SVN is of the one that launched the domain."""

    mrservicetd: bytes
    """48 bytes: the service domain that is bound to this one, for its migration; zeros where none."""


class MoreIn15Ex(msgspec.Struct, frozen=True, kw_only=True):
    """What TD report 1.5 extended adds."""

    vmid: int
    td_id: bytes
    """32 bytes."""

    dev_info: bytes
    """48 bytes."""

    init_servtd_hash: bytes
    """48 bytes."""

    init_servtd_attributes: bytes
    """8 bytes."""

    init_cpusvn: bytes
    """16 bytes."""

    init_tee_tcb_svn: bytes
    """16 bytes."""

    init_tee_fmspc: bytes
    """12 bytes."""

    cur_servtd_hash: bytes
    """48 bytes."""

    cur_servtd_attributes: bytes
    """8 bytes."""


class TdReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report of a trust domain. Measurements are SHA-384."""

    tee_tcb_svn: bytes
    """16 bytes: minor and major version of the TDX module, then components as in TCB info."""

    mrseam: bytes
    mrsignerseam: bytes
    """48 bytes; zeros for Intel's module."""

    seamattributes: bytes
    """8 bytes."""

    tdattributes: bytes
    """8 bytes, little-endian."""

    xfam: bytes
    """8 bytes, little-endian."""

    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmr: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    """64 bytes."""

    more_15: MoreIn15 | None = None
    more_15ex: MoreIn15Ex | None = None


def parse_td_report(body: bytes, body_type: BodyType) -> TdReport:
    """Read the body of a TDX quote.

    Raises:
        EvidenceError: the body of an SGX quote, or not of the size of its type.
    """
    if len(body) != _SIZES.get(body_type, -1):
        raise EvidenceError(
            f"the report of a trust domain: got {len(body)} bytes of body type {int(body_type)}, "
            f"expected {', '.join(f'{size} of type {int(kind)}' for kind, size in _SIZES.items())}"
        )
    fields = _REPORT_10.unpack_from(body)
    return TdReport(
        tee_tcb_svn=fields[0],
        mrseam=fields[1],
        mrsignerseam=fields[2],
        seamattributes=fields[3],
        tdattributes=fields[4],
        xfam=fields[5],
        mrtd=fields[6],
        mrconfigid=fields[7],
        mrowner=fields[8],
        mrownerconfig=fields[9],
        rtmr=(fields[10], fields[11], fields[12], fields[13]),
        report_data=fields[14],
        more_15=_more_in_15(body) if body_type >= BodyType.TD_REPORT_15 else None,
        more_15ex=_more_in_15ex(body) if body_type is BodyType.TD_REPORT_15EX else None,
    )


def is_debug(report: TdReport) -> bool:
    """Whether the host can look into the domain."""
    return bool(int.from_bytes(report.tdattributes, "little") & _UNDER_DEBUG)


def attribute_problems(report: TdReport) -> Sequence[str]:
    """What leaves a domain open, in words."""
    attributes = int.from_bytes(report.tdattributes, "little")
    problems = []
    if attributes & _UNDER_DEBUG:
        problems.append("debug or profiling mode")
    if not attributes & _SEPT_VE_DISABLE:
        problems.append("SEPT_VE_DISABLE is not set: the host can raise exceptions in the domain at will")
    open_bits = attributes & ~(_UNDER_DEBUG | _HARMLESS)
    if open_bits:
        named = flags(open_bits.to_bytes(8, "little"), ATTRIBUTE_NAMES)
        problems.append(f"TDATTRIBUTES that cannot be judged here: {named}")
    if report.more_15 is not None and any(report.more_15.mrservicetd):
        problems.append("a service domain is bound to it (MRSERVICETD), which cannot be judged here")
    return problems


def _more_in_15(body: bytes) -> MoreIn15:
    svn, service = _MORE_IN_15.unpack_from(body, TD_REPORT_10_BYTES)
    return MoreIn15(tee_tcb_svn_2=svn, mrservicetd=service)


def _more_in_15ex(body: bytes) -> MoreIn15Ex:
    fields = _MORE_IN_15EX.unpack_from(body, TD_REPORT_15_BYTES)
    return MoreIn15Ex(
        vmid=fields[0],
        td_id=fields[1],
        dev_info=fields[2],
        init_servtd_hash=fields[3],
        init_servtd_attributes=fields[4],
        init_cpusvn=fields[5],
        init_tee_tcb_svn=fields[6],
        init_tee_fmspc=fields[7],
        cur_servtd_hash=fields[8],
        cur_servtd_attributes=fields[9],
    )
