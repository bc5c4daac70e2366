"""Verification of evidence of Azure confidential VMs.

The steps, each a check of its own name, in this order:

1. *envelope*: the HCL report and the statement in it can be read.
2. The hardware's evidence, by its own format, with its checks. For SNP that is the report in the envelope. For TDX it is
   the quote in the attachment ``td_quote``: what the envelope holds is only authenticated within its machine.
   *td report*: the quote's body is the one of the envelope.
3. *statement*: the hardware's report data covers the statement, and nothing else.
4. *tpm quote*, *tpm signature*, *pcrs*: where a quote of the virtual TPM is attached, the key in the statement signed it.

The claims are the hardware's (``measurement`` is that of Azure's paravisor and firmware, the same for every customer),
with these differences:

- ``report_data`` is what the guest chose, since the hardware's own covers the statement. With a TPM quote it is the
  quote's qualifying data. Without one it is the statement's ``user-data`` (zeros where there is none). It is never
  ``user-data`` where there is a quote: the TPM keeps its key over reboots, and a quote of a good start beside a report
  of a later, bad one would else lend its PCRs to what the bad one chose. ``attributes["report_data_from"]`` tells.
- ``registers`` also has the quoted PCRs. What the guest runs stands there alone, and a policy has to pin them.
- ``attributes`` also has ``user_data``, ``tee_report_data``, the statement's configuration (``vm_secure_boot``) and
  the TPM's counters (``tpm_reset_count``).

Source: Microsoft, Azure Confidential VM Guest Attestation Design Detail (2025).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from avalon_core.attestation.azure.envelope import (
    HclEnvelope,
    ReportKind,
    looks_like_envelope,
    parse_envelope,
)
from avalon_core.attestation.azure.statement import RuntimeStatement, parse_statement
from avalon_core.attestation.azure.tdreport import body_of_quote, quote_body_of, report_data_of
from avalon_core.attestation.azure.vtpm import VerifiedQuote, verify_vtpm
from avalon_core.attestation.checks import (
    Check,
    Verdict,
    Verification,
    could_not_check,
    decided,
    failed,
    overall,
    passed,
)
from avalon_core.attestation.claims import REPORT_DATA_BYTES, Claims
from avalon_core.attestation.collateral import Collateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.roots import TrustAnchors
from avalon_core.attestation.snp.report import parse_report
from avalon_core.attestation.snp.verify import CERTIFICATE_TABLE, SNP
from avalon_core.errors import EvidenceError

TD_QUOTE = "td_quote"
"""The attachment with the TD quote, without which a TDREPORT proves nothing."""

_SOURCE = "Azure Confidential VM Guest Attestation Design Detail"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    """What :meth:`EvidenceFormat.verify` was called with beside the evidence."""

    anchors: TrustAnchors
    collateral: Collateral
    as_of: datetime
    grace: timedelta


class AzureFormat:
    """SNP and TDX evidence in Azure's envelope."""

    name = "azure"
    proof_data_type = "TEE-AZURE"

    def detect(self, document: bytes) -> bool:
        return looks_like_envelope(document)

    def verify(
        self,
        evidence: Evidence,
        *,
        anchors: TrustAnchors,
        collateral: Collateral,
        as_of: datetime,
        grace: timedelta = timedelta(0),
    ) -> Verification:
        context = _Context(anchors=anchors, collateral=collateral, as_of=as_of, grace=grace)
        try:
            envelope = parse_envelope(evidence.document)
            statement = parse_statement(envelope.statement)
            tee_report_data = _report_data_of(envelope)
        except EvidenceError as exc:
            return Verification(checks=[_unreadable(exc)])
        inner = _VERIFY_TEE[envelope.kind](envelope, evidence, context)
        tpm_checks, quote = verify_vtpm(evidence.attachments, statement.attestation_key)
        checks = [
            passed(
                "envelope",
                expected="an HCL report",
                found=f"one with a report of {envelope.kind.name}",
                source=_SOURCE,
            ),
            *inner.checks,
            _check_statement(envelope, tee_report_data),
            *tpm_checks,
        ]
        if inner.claims is None or overall(checks) is not Verdict.PASSED:
            return Verification(checks=checks)
        return Verification(checks=checks, claims=_claims(inner.claims, statement, quote))


AZURE = AzureFormat()


def _report_data_of(envelope: HclEnvelope) -> bytes:
    if envelope.kind is ReportKind.TDX:
        return report_data_of(envelope.report)
    return parse_report(envelope.report).report_data


def _verify_snp(envelope: HclEnvelope, evidence: Evidence, context: _Context) -> Verification:
    table = {name: part for name, part in evidence.attachments.items() if name == CERTIFICATE_TABLE}
    inner = Evidence(
        format=SNP.name, document=envelope.report, certificates=evidence.certificates, attachments=table
    )
    return SNP.verify(
        inner,
        anchors=context.anchors,
        collateral=context.collateral,
        as_of=context.as_of,
        grace=context.grace,
    )


def _verify_tdx(envelope: HclEnvelope, evidence: Evidence, context: _Context) -> Verification:
    # The list of formats names this one, so it cannot be there yet when this module is read.
    from avalon_core.attestation.formats import format_named

    document = evidence.attachments.get(TD_QUOTE)
    if document is None:
        return Verification(checks=[_no_td_quote()])
    try:
        tdx = format_named("tdx")
        quote = Evidence(format="tdx", document=document, certificates=evidence.certificates)
    except EvidenceError as exc:
        return Verification(checks=[_bad_td_quote(exc.message)])
    inner = tdx.verify(
        quote,
        anchors=context.anchors,
        collateral=context.collateral,
        as_of=context.as_of,
        grace=context.grace,
    )
    check = _check_td_report(envelope, document)
    if check.verdict is not Verdict.PASSED:
        return Verification(checks=[*inner.checks, check])
    return Verification(checks=[*inner.checks, check], claims=inner.claims)


_VERIFY_TEE = {ReportKind.SNP: _verify_snp, ReportKind.TDX: _verify_tdx}


def _claims(claims: Claims, statement: RuntimeStatement, quote: VerifiedQuote | None) -> Claims:
    """The hardware's claims, with what the guest chose and booted."""
    chosen, chosen_by = statement.user_data or b"", "user-data"
    if quote is not None:
        chosen, chosen_by = quote.qualifying_data, "tpm quote"
    attributes = {
        "report_data_from": chosen_by,
        "tee_report_data": claims.report_data.hex(),
        **{f"vm_{name.removeprefix('vm_')}": value for name, value in statement.configuration.items()},
    }
    if statement.user_data is not None:
        attributes["user_data"] = statement.user_data.hex()
    registers: Mapping[str, str] = {}
    if quote is not None:
        attributes |= quote.attributes
        registers = quote.registers
    return replace(
        claims,
        format=f"Azure HCL report with {claims.format}",
        report_data=chosen.ljust(REPORT_DATA_BYTES, b"\0"),
        registers={**claims.registers, **registers},
        # The hardware's word stands where a name of the statement's is the same.
        attributes={**attributes, **claims.attributes},
    )


def _unreadable(exc: EvidenceError) -> Check:
    return failed(
        "envelope",
        expected="an HCL report",
        found=exc.message,
        source=_SOURCE,
        remedy="This is no evidence of an Azure confidential VM, or it was cut or changed on the way: ask for it again.",
    )


def _check_statement(envelope: HclEnvelope, tee_report_data: bytes) -> Check:
    return decided(
        "statement",
        tee_report_data == envelope.expected_report_data,
        expected=f"hardware report data of {envelope.expected_report_data.hex()}",
        found=tee_report_data.hex(),
        source=_SOURCE,
        remedy="The statement with the TPM's key was changed, or belongs to another report: do not trust it.",
    )


def _no_td_quote() -> Check:
    return could_not_check(
        "td report",
        expected="a TD quote of the TDREPORT in the envelope",
        found="none: a TDREPORT is authenticated within its own machine only",
        source=_SOURCE,
        remedy=f"Let the worker have its TDREPORT quoted by the host, and attach the quote as {TD_QUOTE!r}.",
    )


def _bad_td_quote(found: str) -> Check:
    return failed(
        "td report",
        expected="a TD quote of the TDREPORT in the envelope",
        found=found,
        source=_SOURCE,
        remedy="The quote is of another TD or of another time, or it is none: ask for both again.",
    )


def _check_td_report(envelope: HclEnvelope, quote: bytes) -> Check:
    try:
        fits = body_of_quote(quote) == quote_body_of(envelope.report)
    except EvidenceError as exc:
        return _bad_td_quote(exc.message)
    if not fits:
        return _bad_td_quote("a quote with another body")
    return passed(
        "td report", expected="a TD quote of the TDREPORT in the envelope", found="one", source=_SOURCE
    )
