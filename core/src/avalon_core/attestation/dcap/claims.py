"""Claims that quotes of SGX and TDX make alike: what the platform is, and how Intel judges it."""

from collections.abc import Sequence

from avalon_core.attestation.dcap.tcb_info import Component
from avalon_core.attestation.dcap.verification import Verified


def tcb_claims(verified: Verified, tee_tcb_svn: bytes | None = None) -> dict[str, str]:
    """Security versions: ``pcesvn``, ``cpusvn``, ``qe_svn``, and by Intel's own names: ``sgx_late_microcode_update``.

    The values are decimal, but for ``cpusvn`` and ``tee_tcb_svn`` (hex) and dates.
    """
    pck, levels = verified.outcome.platform.pck, verified.statements.tcb_info.tcb_levels
    tcb = {
        "cpusvn": bytes(pck.cpu_svn).hex(),
        "pcesvn": str(pck.pce_svn),
        "qe_svn": str(verified.quote.signature.qe_report.isvsvn),
        "qe_status": verified.outcome.qe.tcb_level.tcb_status,
        "tcb_date": verified.outcome.platform.tcb_level.tcb_date,
    }
    tcb |= _named(levels[0].tcb.sgxtcbcomponents, pck.cpu_svn)
    if tee_tcb_svn is not None:
        tcb |= _named(levels[0].tcb.tdxtcbcomponents[2:], tee_tcb_svn[2:])
        # The first two are of the module: its minor security version, and which major version it is.
        tcb |= {
            "tee_tcb_svn": tee_tcb_svn.hex(),
            "seam": str(tee_tcb_svn[0]),
            "seam_version": str(tee_tcb_svn[1]),
        }
    return tcb


def platform_attributes(verified: Verified) -> dict[str, str]:
    """Everything else that the quote and the PCK certificate tell, by lower-case name."""
    pck, header = verified.outcome.platform.pck, verified.quote.header
    attributes = {
        "quote_version": str(header.version),
        "qe_vendor_id": header.qe_vendor_id.hex(),
        "user_data": header.user_data.hex(),
        "certification_type": str(int(verified.quote.signature.certification.type)),
        "trailing_bytes": str(verified.quote.trailing),
        "pceid": bytes(pck.pce_id).hex(),
        "sgx_type": str(pck.sgx_type),
        "dynamic_platform": pck.dynamic_platform.lower(),
        "cached_keys": pck.cached_keys.lower(),
        "smt_enabled": pck.smt_enabled.lower(),
    }
    if pck.platform_instance_id is not None:
        attributes["platform_instance_id"] = bytes(pck.platform_instance_id).hex()
    return attributes


def _named(components: Sequence[Component], svns: Sequence[int]) -> dict[str, str]:
    return {
        component.type.lower().replace(" ", "_"): str(svn)
        for component, svn in zip(components, svns, strict=False)
        if component.type
    }
