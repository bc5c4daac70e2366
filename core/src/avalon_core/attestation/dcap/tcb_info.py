"""Intel's statements about platforms and quoting enclaves: TCB info and QE identity, read from their signed JSON.

The signatures cover the raw text; what is decoded here is only ever read, never encoded again.

Source: Intel PCS API v4, "Get TCB Info" (TCB info V3) and "Get QE Identity" (enclave identity V2); Intel SGX PCK Certificate Profile Specification for the order of components.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from avalon_core.attestation.dcap.quotes import SgxReport
from avalon_core.errors import EvidenceError

_T = TypeVar("_T")

REVOKED = "Revoked"
"""The status of what nobody may trust any more. The verifying library refuses it by itself."""

MAX_STATEMENT_CHARS = 512 * 1024
"""TCB info of a family has about 10 KB."""


class Component(msgspec.Struct, frozen=True):
    """One security version, with its name where Intel gives one."""

    svn: int
    type: str = ""


class Tcb(msgspec.Struct, frozen=True):
    """The least versions of a level."""

    sgxtcbcomponents: tuple[Component, ...]
    pcesvn: int
    tdxtcbcomponents: tuple[Component, ...] = ()


class TcbLevel(msgspec.Struct, frozen=True, rename="camel"):
    """A level and how Intel judges it."""

    tcb: Tcb
    tcb_status: str
    tcb_date: str = ""
    advisory_ids: tuple[str, ...] = msgspec.field(default=(), name="advisoryIDs")


class Isvsvn(msgspec.Struct, frozen=True):
    """The least version of an enclave or module."""

    isvsvn: int


class IsvsvnLevel(msgspec.Struct, frozen=True, rename="camel"):
    """A level of a quoting enclave or of the TDX module."""

    tcb: Isvsvn
    tcb_status: str
    tcb_date: str = ""


class TdxModule(msgspec.Struct, frozen=True, rename="camel"):
    """Who may have signed the TDX module: hex, 48 and 8 bytes."""

    mrsigner: str
    attributes: str
    attributes_mask: str
    id: str = ""
    tcb_levels: tuple[IsvsvnLevel, ...] = ()


class TcbInfo(msgspec.Struct, frozen=True, rename="camel"):
    """What Intel says of a family of platforms, from its issue until its next update."""

    version: int
    issue_date: datetime
    next_update: datetime
    fmspc: str
    tcb_evaluation_data_number: int
    tcb_levels: tuple[TcbLevel, ...]
    id: str = "SGX"
    """``SGX`` or ``TDX``. Version 2 had none, and knew SGX only."""

    tdx_module: TdxModule | None = None
    tdx_module_identities: tuple[TdxModule, ...] = ()

    @property
    def source(self) -> str:
        """As reports name it."""
        return (
            f"TCB info of FMSPC {self.fmspc.lower()}, issued {self.issue_date:%Y-%m-%d}, "
            f"evaluation {self.tcb_evaluation_data_number}"
        )


class QeIdentity(msgspec.Struct, frozen=True, rename="camel"):
    """What a genuine quoting enclave looks like. Hex throughout; the masks say which bits count."""

    id: str
    """``QE`` for SGX, ``TD_QE`` for TDX."""

    version: int
    issue_date: datetime
    next_update: datetime
    tcb_evaluation_data_number: int
    miscselect: str
    miscselect_mask: str
    attributes: str
    attributes_mask: str
    mrsigner: str
    isvprodid: int
    tcb_levels: tuple[IsvsvnLevel, ...]

    @property
    def source(self) -> str:
        """As reports name it."""
        return f"QE identity {self.id}, issued {self.issue_date:%Y-%m-%d}"


def parse_tcb_info(text: str) -> TcbInfo:
    """Read the raw text of TCB info.

    Raises:
        EvidenceError: too large, not JSON, or a member is missing or of another type.
    """
    info = _decode(text, TcbInfo, "TCB info")
    _need_zone("TCB info", info.issue_date, info.next_update)
    return info


def parse_qe_identity(text: str) -> QeIdentity:
    """Read the raw text of a QE identity.

    Raises:
        EvidenceError: too large, not JSON, or a member is missing or of another type.
    """
    identity = _decode(text, QeIdentity, "QE identity")
    _need_zone("QE identity", identity.issue_date, identity.next_update)
    return identity


def matching_level(
    info: TcbInfo, *, cpusvn: bytes, pcesvn: int, tee_tcb_svn: bytes | None = None
) -> TcbLevel | None:
    """The first level that the platform reaches in every component, or None. TDX also has to reach the TDX components."""
    for level in info.tcb_levels:
        if pcesvn < level.tcb.pcesvn or _below(cpusvn, level.tcb.sgxtcbcomponents):
            continue
        if tee_tcb_svn is not None and _below(tee_tcb_svn, level.tcb.tdxtcbcomponents):
            continue
        return level
    return None


def matching_isvsvn(levels: Sequence[IsvsvnLevel], isvsvn: int) -> IsvsvnLevel | None:
    """The first level that the version reaches, or None."""
    return next((level for level in levels if isvsvn >= level.tcb.isvsvn), None)


def differences_from(report: SgxReport, identity: QeIdentity) -> Iterator[str]:
    """In what a quoting enclave's report differs from its identity, in words; nothing where it fits.

    Raises:
        EvidenceError: the identity has a member that is not hex.
    """
    signer = _unhex(identity.mrsigner)
    if report.mrsigner != signer:
        yield f"MRSIGNER {report.mrsigner.hex()} where {signer.hex()} is expected"
    if report.isvprodid != identity.isvprodid:
        yield f"ISVPRODID {report.isvprodid} where {identity.isvprodid} is expected"
    # Hex of a number as it lies in memory: little-endian, like the report's.
    miscselect = report.miscselect.to_bytes(4, "little")
    for name, found, wanted, mask in (
        ("MISCSELECT", miscselect, identity.miscselect, identity.miscselect_mask),
        ("ATTRIBUTES", report.attributes, identity.attributes, identity.attributes_mask),
    ):
        if masked(found, _unhex(mask)) != masked(_unhex(wanted), _unhex(mask)):
            yield f"{name} {found.hex()} where {wanted.lower()} under the mask {mask.lower()} is expected"


def masked(value: bytes, mask: bytes) -> bytes:
    """The bits of a value that its mask lets through."""
    return bytes(one & other for one, other in zip(value, mask, strict=False))


def _below(svns: bytes, components: Sequence[Component]) -> bool:
    return any(svn < component.svn for svn, component in zip(svns, components, strict=False))


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise EvidenceError("a member of Intel's statement is not hex") from None


def _decode(text: str, kind: type[_T], what: str) -> _T:
    if len(text) > MAX_STATEMENT_CHARS:
        raise EvidenceError(
            f"{what} is too large: got {len(text)} characters, expected at most {MAX_STATEMENT_CHARS}"
        )
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as exc:
        raise EvidenceError(f"{what} cannot be read: {exc}") from None


def _need_zone(what: str, *times: datetime) -> None:
    if any(time.tzinfo is None for time in times):
        raise EvidenceError(f"the dates of {what} have no zone")
