"""Appraisal: verified claims against a policy, one named check for every demand of the policy.

:func:`appraise` verifies evidence by its format and then judges the claims; :func:`appraise_claims` judges claims that
were verified before. The checks of the policy, in this order, after those of the format:

1. *accepted root*: the policy accepts the root that the evidence ends in, and takes it for what it is.
2. *tee*: this kind of TEE is accepted.
3. *debug*: the operator cannot look into it.
4. *code identity*: a rule of the policy matches the code; for every alternative that did not, the reason is told.
5. *tcb status*, *advisories*: the vendor's judgement of the platform is accepted, and what it leaves open.
6. *minimum tcb*, *fmspc*, *tcb evaluation*: the platform's parts, its family, how recent the knowledge of it is.
7. *config id*, *config svn*: what the TEE was configured for at its launch.
8. *evidence age*, *collateral age*, *revocation demanded*: as of the time that was given.
9. *report data*: the evidence was made for this caller and this key, where the caller says what it must be.

A demand that the evidence cannot answer is a check that could not be made, and that is no pass. The caller still has to
see that the keys it uses are those to which the report data commits.
"""

from datetime import datetime, timedelta

from avalon_core.attestation.checks import (
    AppraisalReport,
    Check,
    could_not_check,
)
from avalon_core.attestation.claims import REPORT_DATA_BYTES, Claims
from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.formats import format_named
from avalon_core.attestation.known_roots import VENDOR_ROOTS
from avalon_core.attestation.policy import TrustPolicy, empty_parts
from avalon_core.attestation.policy_checks import admits_nobody, check_report_data, policy_checks
from avalon_core.attestation.roots import TrustAnchors
from avalon_core.errors import AvalonError


def appraise(
    evidence: Evidence,
    policy: TrustPolicy,
    *,
    collateral: Collateral = NO_COLLATERAL,
    as_of: datetime,
    report_data: bytes | None = None,
    anchors: TrustAnchors | None = None,
) -> AppraisalReport:
    """Verify evidence, and judge what it says.

    Args:
        evidence: of any format that is known here.
        policy: what is accepted.
        collateral: what vendors publish about the platform.
        as_of: the time (with a zone) of which the report speaks.
        report_data: what the evidence must have been made for, at most 64 bytes, padded with zeros; None asks nothing.
        anchors: the roots that are known; default: the vendors', the simulator's and the policy's own. An anchor is
            still accepted only where the policy does.

    Returns:
        Every check. Bad evidence raises nothing.

    Raises:
        ValueError: ``report_data`` is too long, or ``as_of`` has no zone.
    """
    expected_data = _padded(report_data)
    known = policy.anchors() if anchors is None else anchors
    speaks_of = _seconds(as_of)
    try:
        verification = format_named(evidence.format).verify(
            evidence,
            anchors=known,
            collateral=collateral,
            as_of=as_of,
            grace=timedelta(seconds=policy.collateral_grace),
        )
    except AvalonError as exc:
        return AppraisalReport(checks=[unreadable(exc)], as_of=speaks_of, policy_name=policy.name)
    checks = list(verification.checks)
    if verification.claims is not None:
        checks += policy_checks(verification.claims, policy, as_of, expected_data, known)
    else:
        # Evidence that does not verify says nothing; but that the policy admits nobody is worth telling at once.
        checks += [admits_nobody(problem) for problem in empty_parts(policy)]
    return AppraisalReport(
        checks=checks, claims=verification.claims, as_of=speaks_of, policy_name=policy.name
    )


def verify_only(
    evidence: Evidence,
    *,
    collateral: Collateral = NO_COLLATERAL,
    as_of: datetime,
    report_data: bytes | None = None,
    anchors: TrustAnchors = VENDOR_ROOTS,
) -> AppraisalReport:
    """Verify evidence where there is no policy to judge it by. The verdict is never "passed".

    That signatures hold says who made the evidence, and not that its code is any good: the last check is *policy*, and
    it could not be made. Arguments and errors are those of :func:`appraise`; ``anchors`` are the vendors' roots alone.
    """
    expected_data = _padded(report_data)
    speaks_of = _seconds(as_of)
    checks: list[Check] = []
    claims = None
    try:
        verification = format_named(evidence.format).verify(
            evidence, anchors=anchors, collateral=collateral, as_of=as_of
        )
    except AvalonError as exc:
        checks.append(unreadable(exc))
    else:
        checks += verification.checks
        claims = verification.claims
        if claims is not None and expected_data is not None:
            checks.append(check_report_data(claims, expected_data))
    checks.append(
        could_not_check(
            "policy",
            expected="a policy that says which code, roots and platforms are acceptable",
            found="none was given: nothing that the evidence says was judged",
            source="caller",
            remedy="Give a policy (--policy FILE). Signatures that hold do not make code trustworthy.",
        )
    )
    return AppraisalReport(checks=checks, claims=claims, as_of=speaks_of)


def appraise_claims(
    claims: Claims,
    policy: TrustPolicy,
    *,
    as_of: datetime,
    report_data: bytes | None = None,
    anchors: TrustAnchors | None = None,
) -> AppraisalReport:
    """Judge claims that were verified before. Arguments, result and errors as of :func:`appraise`."""
    known = policy.anchors() if anchors is None else anchors
    checks = policy_checks(claims, policy, as_of, _padded(report_data), known)
    return AppraisalReport(
        checks=tuple(checks), claims=claims, as_of=_seconds(as_of), policy_name=policy.name
    )


def unreadable(exc: AvalonError) -> Check:
    """The check of evidence that cannot even be read."""
    return could_not_check(
        "evidence",
        expected="evidence of a kind that can be verified here",
        found=exc.message,
        remedy="This version cannot verify it: do not send secrets to this worker.",
    )


def _seconds(as_of: datetime) -> int:
    if as_of.tzinfo is None:
        raise ValueError("as_of needs a time zone")
    return int(as_of.timestamp())


def _padded(report_data: bytes | None) -> bytes | None:
    if report_data is None:
        return None
    if len(report_data) > REPORT_DATA_BYTES:
        raise ValueError(f"report data: got {len(report_data)} bytes, expected at most {REPORT_DATA_BYTES}")
    return report_data.ljust(REPORT_DATA_BYTES, b"\0")
