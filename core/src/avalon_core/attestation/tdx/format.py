"""TDX quotes as a kind of evidence: the claims. How a quote is verified is DCAP's, and told there."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from avalon_core.attestation.checks import Verification, failed
from avalon_core.attestation.claims import Claims, Tee
from avalon_core.attestation.collateral import Collateral
from avalon_core.attestation.dcap.claims import platform_attributes, tcb_claims
from avalon_core.attestation.dcap.quotes import (
    TEE_TYPE_TDX,
    BodyType,
    Quote,
    flags,
    looks_like_quote,
    parse_quote,
)
from avalon_core.attestation.dcap.verification import Verified, verify_quote
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.roots import TrustAnchors
from avalon_core.attestation.tdx.report import (
    ATTRIBUTE_NAMES,
    VERSION_NAMES,
    TdReport,
    attribute_problems,
    is_debug,
    parse_td_report,
)
from avalon_core.errors import EvidenceError


class TdxFormat:
    """TDX quotes. The attachments and certificates of the evidence are not read."""

    name = "tdx"
    proof_data_type = "TEE-TDX"

    def detect(self, document: bytes) -> bool:
        return looks_like_quote(document) == TEE_TYPE_TDX

    def verify(
        self,
        evidence: Evidence,
        *,
        anchors: TrustAnchors,
        collateral: Collateral,
        as_of: datetime,
        grace: timedelta = timedelta(0),
    ) -> Verification:
        try:
            quote = parse_tdx_quote(evidence.document)
        except EvidenceError as exc:
            return Verification(
                checks=[
                    failed(
                        "format",
                        expected="a TDX quote",
                        found=str(exc),
                        remedy="Give the quote itself, in its raw bytes, as the quoting service made it.",
                    )
                ]
            )
        return verify_quote(
            evidence.document,
            quote,
            described=_described(quote),
            anchors=anchors,
            collateral=collateral,
            as_of=as_of,
            grace=grace,
            attribute_problems=_attribute_problems,
            claims=_claims,
        )


def parse_tdx_quote(document: bytes) -> Quote:
    """Read a quote whose body is a TD report (:func:`~avalon_core.attestation.tdx.report.parse_td_report` reads that).

    Raises:
        EvidenceError: no quote, or one of SGX.
    """
    quote = parse_quote(document)
    if quote.body_type is BodyType.SGX_REPORT:
        raise EvidenceError("a quote of SGX: got the report of an enclave, expected a TD report")
    return quote


def _described(quote: Quote) -> str:
    return f"TDX quote v{quote.header.version} (TD report {VERSION_NAMES[quote.body_type]})"


def _attribute_problems(quote: Quote) -> Sequence[str]:
    return attribute_problems(parse_td_report(quote.body, quote.body_type))


def _claims(verified: Verified) -> Claims:
    report = parse_td_report(verified.quote.body, verified.quote.body_type)
    pck = verified.outcome.platform.pck
    mrtd = report.mrtd.hex()
    return Claims(
        tee=Tee.TDX,
        format=_described(verified.quote),
        root=verified.anchor.name,
        simulated=verified.anchor.simulated,
        measurement=mrtd,
        report_data=report.report_data,
        debug=is_debug(report),
        registers={"mrtd": mrtd} | {f"rtmr{n}": value.hex() for n, value in enumerate(report.rtmr)},
        tcb_status=verified.status,
        advisories=frozenset(verified.outcome.tcb.advisory_ids),
        tcb=tcb_claims(verified, report.tee_tcb_svn),
        fmspc=bytes(pck.fmspc).hex(),
        chip_id=bytes(pck.ppid).hex(),
        config_id=report.mrconfigid.hex(),
        owner=report.mrowner.hex(),
        attributes=platform_attributes(verified) | _attributes(report),
        collateral_expires=verified.collateral_expires,
        tcb_evaluation=verified.outcome.tcb.eval_data_number,
    )


def _attributes(report: TdReport) -> dict[str, str]:
    attributes = {
        "mrseam": report.mrseam.hex(),
        "mrsignerseam": report.mrsignerseam.hex(),
        "seamattributes": report.seamattributes.hex(),
        "tdattributes": report.tdattributes.hex(),
        "flags": flags(report.tdattributes, ATTRIBUTE_NAMES),
        "xfam": report.xfam.hex(),
        "mrownerconfig": report.mrownerconfig.hex(),
    }
    for more in (report.more_15, report.more_15ex):
        if more is not None:
            attributes |= {name: _text(value) for name, value in msgspec.structs.asdict(more).items()}
    return attributes


def _text(value: bytes | int) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
