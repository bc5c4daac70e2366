"""Which TCB level a platform reaches: for saying why none, or a revoked one.

Source: Intel PCS API v4, "Get TCB Info" and "Get TDX TCB Info", the steps to determine the TCB status of a platform.
"""

from collections.abc import Iterator

from cryptography import x509

from avalon_core.attestation.checks import Check, decided
from avalon_core.attestation.dcap.pck import platform_of
from avalon_core.attestation.dcap.quotes import TD_REPORT_10_BYTES, BodyType, Quote
from avalon_core.attestation.dcap.statements import Statements
from avalon_core.attestation.dcap.tcb_info import (
    REVOKED,
    TcbInfo,
    TdxModule,
    masked,
    matching_isvsvn,
    matching_level,
)
from avalon_core.errors import EvidenceError

_SVN_BYTES = 16
_MODULE_VERSION_1 = 1
"""TEE_TCB_SVN[1] of TDX modules that have an identity of their own; 0 is the first module."""


def check_tcb(quote: Quote, leaf: x509.Certificate, statements: Statements) -> Check:
    """The check *tcb*."""
    info = statements.tcb_info
    found, ok = _judge_tcb(quote, leaf, info)
    return decided(
        "tcb",
        ok,
        expected="a TCB level that is not revoked",
        found=found,
        source=info.source,
        remedy="The platform is older than anything Intel still judges, or is revoked: the operator has to update firmware, "
        "microcode and TDX module. Newer collateral helps only where the platform is newer than this one.",
    )


def _judge_tcb(quote: Quote, leaf: x509.Certificate, info: TcbInfo) -> tuple[str, bool]:
    """What the platform's level is, in words, and whether it is one to speak of."""
    try:
        platform = platform_of(leaf)
    except EvidenceError as exc:
        return str(exc), False
    versions = f"CPUSVN {platform.cpusvn.hex()}, PCESVN {platform.pcesvn}"
    status = ""
    for name, svn in _tee_svns(quote):
        at = versions + (f", {name} {svn.hex()}" if svn is not None else "")
        level = matching_level(info, cpusvn=platform.cpusvn, pcesvn=platform.pcesvn, tee_tcb_svn=svn)
        if level is None:
            return f"no level that {at} reaches", False
        if level.tcb_status == REVOKED:
            return f"{REVOKED}, at {at}", False
        wrong = "" if svn is None else _wrong_with_module(quote, svn, info)
        if wrong:
            return f"{wrong} ({name})", False
        status = status or f"{level.tcb_status}, at {at}"
    return status, True


def _tee_svns(quote: Quote) -> Iterator[tuple[str, bytes | None]]:
    """The versions of the TDX module to judge the platform with: at launch, and since TD report 1.5 now. SGX has none."""
    if quote.body_type is BodyType.SGX_REPORT:
        yield "", None
        return
    yield "TEE_TCB_SVN", quote.body[:_SVN_BYTES]
    if quote.body_type > BodyType.TD_REPORT_10:
        yield "TEE_TCB_SVN_2", quote.body[TD_REPORT_10_BYTES : TD_REPORT_10_BYTES + _SVN_BYTES]


def _wrong_with_module(quote: Quote, svn: bytes, info: TcbInfo) -> str:
    """Why the TDX module is none that Intel lists: PCS API v4, "Get TDX TCB Info", the steps on the module's identity."""
    minor, version = svn[0], svn[1]
    module: TdxModule | None = info.tdx_module
    if version >= _MODULE_VERSION_1:
        name = f"TDX_{version:02X}"
        module = next((one for one in info.tdx_module_identities if one.id == name), None)
    if module is None:
        return f"a TDX module of version {version}, which Intel does not list"
    signer, attributes = quote.body[64:112], quote.body[112:120]
    try:
        mask = bytes.fromhex(module.attributes_mask)
        if signer != bytes.fromhex(module.mrsigner):
            return f"a TDX module of another signer: MRSIGNERSEAM {signer.hex()}"
        if masked(attributes, mask) != masked(bytes.fromhex(module.attributes), mask):
            return f"a TDX module with SEAMATTRIBUTES {attributes.hex()}"
    except ValueError:
        return "a TDX module identity that is not hex"
    if version >= _MODULE_VERSION_1:
        level = matching_isvsvn(module.tcb_levels, minor)
        if level is None:
            return f"TDX module {version} of security version {minor}, below every level that Intel lists"
        if level.tcb_status == REVOKED:
            return f"TDX module {version} of security version {minor}, which Intel has revoked"
    return ""
