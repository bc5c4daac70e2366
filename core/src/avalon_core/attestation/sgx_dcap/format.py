"""SGX quotes of DCAP as a kind of evidence: the claims. How a quote is verified is DCAP's, and told there.

Attributes of an enclave: Intel SDM, volume 3D, "ATTRIBUTES".
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from avalon_core.attestation.checks import Verification, failed
from avalon_core.attestation.claims import Claims, Tee
from avalon_core.attestation.collateral import Collateral
from avalon_core.attestation.dcap.claims import platform_attributes, tcb_claims
from avalon_core.attestation.dcap.quotes import (
    TEE_TYPE_SGX,
    BodyType,
    Quote,
    SgxReport,
    flags,
    looks_like_quote,
    parse_quote,
    parse_sgx_report,
)
from avalon_core.attestation.dcap.verification import Verified, verify_quote
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.roots import TrustAnchors
from avalon_core.errors import EvidenceError

_DEBUG = 0x02
_FLAGS = {
    0: "init",
    1: "debug",
    2: "mode64bit",
    4: "provision_key",
    5: "einittoken_key",
    6: "cet",
    7: "kss",
    10: "aex_notify",
}


class SgxDcapFormat:
    """SGX quotes of DCAP. The attachments and certificates of the evidence are not read."""

    name = "sgx-dcap"
    proof_data_type = "TEE-SGX-DCAP"

    def detect(self, document: bytes) -> bool:
        return looks_like_quote(document) == TEE_TYPE_SGX

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
            quote = parse_sgx_quote(evidence.document)
        except EvidenceError as exc:
            return Verification(
                checks=[
                    failed(
                        "format",
                        expected="an SGX quote",
                        found=str(exc),
                        remedy="Give the quote itself, in its raw bytes, as the quoting enclave made it.",
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


def parse_sgx_quote(document: bytes) -> Quote:
    """Read a quote whose body is the report of an enclave (:func:`parse_sgx_report` reads that).

    Raises:
        EvidenceError: no quote, or one of TDX.
    """
    quote = parse_quote(document)
    if quote.body_type is not BodyType.SGX_REPORT:
        raise EvidenceError("a quote of TDX: got a TD report, expected the report of an enclave")
    return quote


def _described(quote: Quote) -> str:
    return f"SGX quote v{quote.header.version}"


def _is_debug(report: SgxReport) -> bool:
    return bool(report.attributes[0] & _DEBUG)


def _attribute_problems(quote: Quote) -> Sequence[str]:
    return ["debug mode"] if _is_debug(parse_sgx_report(quote.body)) else []


def _claims(verified: Verified) -> Claims:
    report = parse_sgx_report(verified.quote.body)
    pck = verified.outcome.platform.pck
    return Claims(
        tee=Tee.SGX,
        format=_described(verified.quote),
        root=verified.anchor.name,
        simulated=verified.anchor.simulated,
        measurement=report.mrenclave.hex(),
        report_data=report.report_data,
        debug=_is_debug(report),
        signer=report.mrsigner.hex(),
        product_id=report.isvprodid,
        svn=report.isvsvn,
        tcb_status=verified.status,
        advisories=frozenset(verified.outcome.tcb.advisory_ids),
        tcb=tcb_claims(verified),
        fmspc=bytes(pck.fmspc).hex(),
        chip_id=bytes(pck.ppid).hex(),
        config_id=report.configid.hex(),
        config_svn=report.configsvn,
        family_id=report.isvfamilyid.hex(),
        ext_product_id=report.isvextprodid.hex(),
        attributes=platform_attributes(verified)
        | {
            "attributes": report.attributes.hex(),
            "flags": flags(report.attributes[:8], _FLAGS),
            "xfrm": report.attributes[8:].hex(),
            "miscselect": report.miscselect.to_bytes(4, "little").hex(),
            "report_cpusvn": report.cpusvn.hex(),
        },
        collateral_expires=verified.collateral_expires,
        tcb_evaluation=verified.outcome.tcb.eval_data_number,
    )
