"""Why a quote was refused: every check on its own, with what was expected, what was found and what to do.

This runs only after the verifying library, or what stands on top of it, has refused. Nothing is accepted here: where all
checks pass nevertheless, a last one says so and fails.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from avalon_core.attestation.chains import (
    check_revocation,
    name_of,
    verify_chain,
)
from avalon_core.attestation.checks import Check, Verdict, could_not_check, decided, failed, passed
from avalon_core.attestation.dcap.case import Case
from avalon_core.attestation.dcap.certificates import TIME_FORMAT
from avalon_core.attestation.dcap.levels import check_tcb
from avalon_core.attestation.dcap.paths import FORGED, find_path, needs_platform_certificate
from avalon_core.attestation.dcap.pck import fmspc_of
from avalon_core.attestation.dcap.quotes import (
    QE_VENDOR_INTEL,
    BodyType,
    Quote,
)
from avalon_core.attestation.dcap.signatures import signed_qe_report, verifies
from avalon_core.attestation.dcap.statements import Statements, choose
from avalon_core.attestation.dcap.tcb_info import (
    REVOKED,
    differences_from,
    matching_isvsvn,
)
from avalon_core.attestation.roots import TrustAnchor
from avalon_core.errors import EvidenceError

SHA256_BYTES = 32
QE_AUTH_DATA_BYTES = 32
"""What Intel's quoting enclaves put there, and the only size that the library takes."""

_FETCH = "Fetch the collateral of this platform anew, and check again."


def diagnose(case: Case, *, refusal: str) -> list[Check]:
    """All checks; at least one of them did not pass.

    Args:
        case: the quote.
        refusal: the reason that was given for refusing it.
    """
    checks = [_check_format(case)]
    path = find_path(case)
    if path is None:
        checks.append(needs_platform_certificate(case))
    else:
        checks += path.checks
    leaf = None if path is None or not path.path else path.path[0]
    anchor = None if path is None else path.anchor
    statements = None if leaf is None else _statements_for(case, leaf)
    if leaf is not None:
        checks += _check_collateral(case, leaf, statements, anchor)
    if path is not None and anchor is not None and statements is not None:
        checks.append(_check_revocation(case, path.path, statements))
    checks.append(_check_quote_signature(case.quote))
    checks.append(_check_qe_binding(case.quote))
    if leaf is not None:
        checks.append(_check_qe_signature(case.quote, leaf))
    if statements is not None:
        checks.append(_check_qe_identity(case.quote, statements))
    if leaf is not None and statements is not None:
        checks.append(check_tcb(case.quote, leaf, statements))
    checks.append(_check_attributes(case))
    if all(check.verdict is Verdict.PASSED for check in checks):
        checks.append(
            failed(
                "verification",
                expected="a quote that the verifying library accepts",
                found=f"refused: {refusal}",
                remedy="Do not trust it. If it should be good, report it with the quote and its collateral.",
            )
        )
    return checks


def _check_format(case: Case) -> Check:
    header = case.quote.header
    if header.qe_vendor_id != QE_VENDOR_INTEL:
        return failed(
            "format",
            expected=f"Intel's quoting enclave, vendor {QE_VENDOR_INTEL.hex()}",
            found=f"vendor {header.qe_vendor_id.hex()}",
            remedy="Only quotes of Intel's quoting enclave can be verified: have the platform use that.",
        )
    if case.quote.body_type is BodyType.SGX_REPORT and header.version > 3:
        return could_not_check(
            "format",
            expected="an SGX quote of version 3",
            found=case.described,
            remedy="Have the platform make quotes of version 3, as Intel's quoting enclave for SGX does.",
        )
    return case.format_passed()


def _statements_for(case: Case, leaf: x509.Certificate) -> Statements | None:
    try:
        fmspc = fmspc_of(leaf)
    except EvidenceError:
        return None
    return choose(case.statements, tee=case.tee, fmspc=fmspc, at=int(case.as_of.timestamp()))


def _check_collateral(
    case: Case, leaf: x509.Certificate, statements: Statements | None, anchor: TrustAnchor | None
) -> list[Check]:
    """One check; the first that is wrong with the collateral is told."""
    if statements is None:
        return [_no_collateral(case, leaf)]
    expected = "signed TCB info and QE identity of this platform, of date"
    source = statements.described
    wrong = _wrong_with_signers(case, statements, anchor) or _wrong_with_texts(case, statements)
    if wrong:
        return [
            failed(
                "collateral",
                expected=expected,
                found=wrong,
                source=source,
                remedy="Whoever gave this collateral changed it, or mixed up its parts: fetch it from Intel or a cache of it.",
            )
        ]
    found = statements.time
    if case.time_inside(statements) is None or not case.signers_valid(statements):
        return [
            could_not_check(
                "collateral",
                expected=f"collateral that speaks of {case.as_of.astimezone(UTC):{TIME_FORMAT}}",
                found=f"one {found} (issue and next update), signers {_signers(statements)}",
                source=source,
                remedy=_FETCH
                + " To judge old evidence as of its own day, give that time and the collateral of that day.",
            )
        ]
    return [passed("collateral", expected=expected, found=found + case.grace_note(statements), source=source)]


def _no_collateral(case: Case, leaf: x509.Certificate) -> Check:
    try:
        fmspc = fmspc_of(leaf)
    except EvidenceError as exc:
        return failed("collateral", expected="a platform that Intel knows", found=str(exc), remedy=FORGED)
    known = ", ".join(f"{tee} {fmspc}" for tee, fmspc in (one.key for one in case.statements)) or "none"
    unreadable = "".join(f"; one that cannot be read ({reason[:120]})" for reason in case.unreadable)
    return could_not_check(
        "collateral",
        expected=f"collateral for {case.tee} and FMSPC {fmspc}",
        found=known + unreadable,
        source=f"PCK certificate {name_of(leaf)!r}",
        remedy="Fetch the collateral of this platform, or give it, and check again.",
    )


def _wrong_with_signers(case: Case, statements: Statements, anchor: TrustAnchor | None) -> str:
    if statements.odd_signer:
        return f"signed by {statements.odd_signer}, where Intel's TCB signing certificate is expected"
    if anchor is not None and statements.roots != {anchor.sha256}:
        return "its certificate chains end in another root than the quote's"
    chains = {statements.tcb_chain: "TCB info", statements.qe_chain: "QE identity"}
    for chain, what in chains.items():
        verified = verify_chain(chain[0], chain[1:], anchors=case.anchors, as_of=case.as_of)
        for check in verified.checks:
            if check.verdict is not Verdict.PASSED and check.name != "validity":
                return f"{check.name} of the signer of the {what}: {check.found}"
    return ""


def _wrong_with_texts(case: Case, statements: Statements) -> str:
    source = statements.source
    for what, chain, text, signature in (
        ("TCB info", statements.tcb_chain, source.tcb_info, source.tcb_info_signature),
        ("QE identity", statements.qe_chain, source.qe_identity, source.qe_identity_signature),
    ):
        key = chain[0].public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not verifies(
            key, bytes.fromhex(signature), text.encode()
        ):
            return f"the signature of the {what} does not verify"
    wanted = "QE" if case.tee == "SGX" else "TD_QE"
    if statements.qe_identity.id != wanted:
        return f"the identity of {statements.qe_identity.id[:20]!r}, where {wanted} is expected"
    return ""


def _check_revocation(case: Case, path: Sequence[x509.Certificate], statements: Statements) -> Check:
    check = check_revocation(path, statements.crls, as_of=case.as_of, grace=case.grace)
    if check.verdict is not Verdict.PASSED:
        return check
    for chain in dict.fromkeys((statements.tcb_chain, statements.qe_chain)):
        # The root issued the signer: what stands between them in the text does not matter.
        of_signer = check_revocation(
            (chain[0], path[-1]), statements.crls, as_of=case.as_of, grace=case.grace
        )
        if of_signer.verdict is not Verdict.PASSED:
            return of_signer
    return check


def _check_quote_signature(quote: Quote) -> Check:
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(
            ec.SECP256R1(), b"\x04" + quote.signature.attestation_key
        )
        valid = verifies(key, quote.signature.signature, quote.signed)
    except ValueError:
        valid = False
    return decided(
        "quote signature",
        valid,
        expected="the attestation key's over header and body",
        found="valid" if valid else "not valid",
        remedy=FORGED,
    )


def _check_qe_binding(quote: Quote) -> Check:
    data = quote.signature
    named = hashlib.sha256(data.attestation_key + data.qe_auth_data).digest() + bytes(SHA256_BYTES)
    if len(data.qe_auth_data) != QE_AUTH_DATA_BYTES:
        return could_not_check(
            "qe binding",
            expected=f"{QE_AUTH_DATA_BYTES} bytes of QE authentication data",
            found=f"{len(data.qe_auth_data)} bytes",
            remedy="Have the platform use Intel's quoting enclave.",
        )
    bound = data.qe_report.report_data == named
    return decided(
        "qe binding",
        bound,
        expected="the QE report names the attestation key",
        found="it does" if bound else "it names another key or other authentication data",
        remedy=FORGED,
    )


def _check_qe_signature(quote: Quote, leaf: x509.Certificate) -> Check:
    valid = signed_qe_report(quote, leaf)
    return decided(
        "qe signature",
        valid,
        expected="the PCK key's over the QE report",
        found="valid" if valid else f"not valid under the key of {name_of(leaf)!r}",
        remedy=FORGED,
    )


def _check_qe_identity(quote: Quote, statements: Statements) -> Check:
    identity, report = statements.qe_identity, quote.signature.qe_report
    try:
        differences = list(differences_from(report, identity))
    except EvidenceError as exc:
        differences = [str(exc)]
    level = matching_isvsvn(identity.tcb_levels, report.isvsvn)
    if level is None:
        differences.append(f"ISVSVN {report.isvsvn}, below every level that Intel lists")
    elif level.tcb_status == REVOKED:
        differences.append(f"ISVSVN {report.isvsvn}, which Intel has revoked")
    if report.attributes[0] & 0x02:
        differences.append("debug mode")
    return decided(
        "qe identity",
        not differences,
        expected=f"{identity.id}, product {identity.isvprodid}, of Intel's signer",
        found="; ".join(differences) or f"ISVSVN {report.isvsvn}: {level.tcb_status if level else ''}",
        source=identity.source,
        remedy="The quote comes from no quoting enclave that Intel stands for: do not trust it. On a genuine platform, the "
        "operator has to update its DCAP software.",
    )


def _check_attributes(case: Case) -> Check:
    return decided(
        "attributes",
        not case.attribute_problems,
        expected="no debug mode, nothing that leaves the TEE open",
        found="; ".join(case.attribute_problems) or "none set",
        remedy="The operator of such a TEE can look into it: have the worker started in production mode.",
    )


def _signers(statements: Statements) -> str:
    signers = (statements.tcb_chain[0], statements.qe_chain[0])
    first = max(signer.not_valid_before_utc for signer in signers)
    last = min(signer.not_valid_after_utc for signer in signers)
    return f"valid {first:{TIME_FORMAT}} to {last:{TIME_FORMAT}}"
