"""The checks that a policy demands of verified claims, one function each. :mod:`avalon_core.attestation.appraisal` lists
them and says what they are.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from avalon_core.attestation.checks import Check, could_not_check, decided, failed, passed
from avalon_core.attestation.claims import Claims, TcbStatus, Tee
from avalon_core.attestation.explain import explain_status
from avalon_core.attestation.policy import INTEL_TEES, SIMULATORS, VENDORS, TrustPolicy
from avalon_core.attestation.roots import TrustAnchors
from avalon_core.attestation.rules import AnyOf, Outcome

MAX_SHOWN = 8
"""Alternatives, advisories and other lists that a check tells of; what is beyond is counted."""

CLOCK_SKEW = timedelta(minutes=5)
"""How far the clock that signed the evidence may be ahead of ours."""

NOT_CHECKED = "not checked"
"""How ``attributes["revocation"]`` begins where a format could have checked and had no list."""


def policy_checks(
    claims: Claims,
    policy: TrustPolicy,
    as_of: datetime,
    report_data: bytes | None,
    anchors: TrustAnchors,
) -> Iterator[Check]:
    """One check for every demand of the policy, in the order of :mod:`avalon_core.attestation.appraisal`.

    Args:
        claims: of evidence that verified.
        policy: what is accepted.
        as_of: the time (with a zone) at which ages are judged.
        report_data: the 64 bytes that are expected; None asks nothing.
        anchors: the roots that are known.
    """
    yield _check_root(claims, policy, anchors)
    yield _check_tee(claims, policy)
    yield _check_debug(claims, policy)
    yield _check_code(claims, policy)
    yield _check_status(claims, policy)
    yield from _check_advisories(claims, policy)
    yield from _check_minimums(claims, policy)
    yield from _check_fmspc(claims, policy)
    yield from _check_evaluation(claims, policy)
    yield from _check_config(claims, policy)
    yield from _check_age(claims, policy, as_of)
    yield from _check_collateral_age(claims, policy, as_of)
    yield from _check_revocation(claims, policy)
    if report_data is not None:
        yield check_report_data(claims, report_data)


def admits_nobody(problem: str) -> Check:
    """The check of a policy that is empty in this part."""
    return failed(
        "policy",
        expected="a policy that somebody can satisfy",
        found=problem,
        source="policy",
        remedy="An empty list admits nothing. Say what you accept: 'avalon policy check' tells what is missing.",
    )


def _check_root(claims: Claims, policy: TrustPolicy, anchors: TrustAnchors) -> Check:
    anchor = anchors.named(claims.root)
    words = {VENDORS: "any vendor's", SIMULATORS: "any simulator's (SIMULATED)"}
    named = sorted(words.get(name, name) for name in policy.roots | {root.name for root in policy.own_roots})
    simulated = " (SIMULATED)" if claims.simulated else ""
    accepted = anchor is not None and policy.accepts_root(anchor)
    # Whoever writes a simulator's root into a policy has to say that it is one.
    honest = anchor is not None and anchor.simulated == claims.simulated
    remedy = "Nobody whom the policy accepts vouches for this evidence: do not trust it."
    if claims.simulated:
        remedy = "A simulated worker protects nothing. To try it all the same, use the development policy."
    elif anchor is not None:
        remedy = f"The evidence is {claims.root}'s, and the policy does not accept that root. If it should, add it to roots."
    return decided(
        "accepted root",
        accepted and honest,
        expected=_one_of(named, nothing="no root (the policy accepts none)"),
        found=f"{claims.root}{simulated}",
        source="policy",
        remedy=remedy,
    )


def _check_tee(claims: Claims, policy: TrustPolicy) -> Check:
    return decided(
        "tee",
        claims.tee in policy.tees,
        expected=_one_of(sorted(policy.tees), nothing="no kind of TEE (an empty list admits nothing)"),
        found=f"{claims.tee} ({claims.format})",
        source="policy",
        remedy=(
            "A TPM measures what was started; it does not keep the operator from reading memory. Name it in tees only "
            "if integrity is enough."
            if claims.tee is Tee.TPM
            else "Use a worker of an accepted kind, or add this kind to tees."
        ),
    )


def _check_debug(claims: Claims, policy: TrustPolicy) -> Check:
    return decided(
        "debug",
        not claims.debug or policy.allow_debug_UNSAFE,
        expected="off, or on (UNSAFE)" if policy.allow_debug_UNSAFE else "off",
        found="on" if claims.debug else "off",
        source="evidence",
        remedy="Do not use this worker: its operator can read its memory. The operator has to build and launch it "
        "without debug mode.",
    )


def _check_code(claims: Claims, policy: TrustPolicy) -> Check:
    outcome = policy.code.judge(claims)
    if outcome.matched:
        matched = next((part for part in outcome.parts if part.matched), outcome)
        chosen = matched if isinstance(policy.code, AnyOf) else outcome
        return passed("code identity", expected=chosen.rule, found=describe_code(claims), source="evidence")
    if policy.code.is_empty:
        return failed(
            "code identity",
            expected="nothing: the policy names no code, and an empty policy admits nobody",
            found=describe_code(claims),
            source="policy",
            remedy="Add to the policy the measurement that you built or were told. Never copy it from here unless you "
            "know this code.",
        )
    alternatives = outcome.parts if isinstance(policy.code, AnyOf) else (outcome,)
    return failed(
        "code identity",
        expected=str(policy.code) if len(alternatives) == 1 else f"one of {len(alternatives)} alternatives",
        found=f"{describe_code(claims)}. " + "; ".join(_why_not(alternatives)),
        source="evidence",
        remedy="Compare with the measurement that you built or were told; add it to the policy if it is right. "
        "Otherwise other code runs there: do not use this worker.",
    )


def describe_code(claims: Claims) -> str:
    """The identity of the code in words: measurement, and signer, product and version where they are told."""
    words = [f"measurement {claims.measurement}"]
    if claims.signer is not None:
        words.append(f"signer {claims.signer}")
    if claims.product_id is not None:
        words.append(f"product {claims.product_id}")
    if claims.svn is not None:
        words.append(f"security version {claims.svn}")
    return ", ".join(words)


def _why_not(outcomes: Sequence[Outcome]) -> Iterator[str]:
    for number, outcome in enumerate(outcomes[:MAX_SHOWN], start=1):
        yield f"{number}. not {outcome.rule}: {outcome.because}"
    if len(outcomes) > MAX_SHOWN:
        yield f"and {len(outcomes) - MAX_SHOWN} more that did not match"


def _check_status(claims: Claims, policy: TrustPolicy) -> Check:
    name, source = "tcb status", _tcb_source(claims)
    expected = _one_of(sorted(policy.tcb_statuses), nothing="no status (an empty list admits nothing)")
    if claims.tcb_status is None and policy.tcb_statuses:
        if claims.tee in INTEL_TEES:
            return could_not_check(
                name,
                expected=expected,
                found="no status",
                source=source,
                remedy="Give the collateral of this platform (--collateral), without which nobody can tell its state.",
            )
        return passed(
            name,
            expected=expected,
            found="none: the vendor publishes no status for this kind; minimum_tcb can ask for versions",
            source=source,
        )
    found = "none" if claims.tcb_status is None else str(claims.tcb_status)
    return decided(
        name,
        claims.tcb_status in policy.tcb_statuses,
        expected=expected,
        found=found,
        source=source,
        remedy=_status_remedy(claims.tcb_status),
    )


def _status_remedy(status: TcbStatus | None) -> str:
    if status is None:
        return "Name the statuses that you accept in tcb_statuses."
    return explain_status(status).remedy


def _tcb_source(claims: Claims) -> str:
    if claims.tcb_evaluation is not None:
        return f"TCB info, evaluation {claims.tcb_evaluation}"
    return "evidence" if claims.tcb_status is None else "the vendor's judgement"


def _check_advisories(claims: Claims, policy: TrustPolicy) -> Iterator[Check]:
    # Beside UpToDate an advisory is for information: the platform has what the vendor gives against it.
    if not claims.advisories or claims.tcb_status is TcbStatus.UP_TO_DATE:
        return
    open_ones = sorted(claims.advisories - policy.advisories)
    yield decided(
        "advisories",
        not open_ones,
        expected=_one_of(sorted(policy.advisories), nothing="none open"),
        found=_listed(sorted(claims.advisories))
        + (f"; not accepted: {_listed(open_ones)}" if open_ones else ""),
        source=_tcb_source(claims),
        remedy="The operator has to update the platform's firmware and BIOS settings. Those that you have understood "
        "and do not mind can be named in advisories.",
    )


def _check_minimums(claims: Claims, policy: TrustPolicy) -> Iterator[Check]:
    minimums = policy.minimum_tcb.get(claims.tee)
    if not minimums:
        return
    below, untold = [], []
    for part, least in minimums.items():
        version = _version(claims.tcb.get(part))
        if version is None:
            untold.append(part)
        elif version < least:
            below.append(part)
    expected = ", ".join(f"{part} {least} or later" for part, least in minimums.items())
    found = ", ".join(f"{part} {claims.tcb.get(part, 'not told')}" for part in minimums)
    if untold and not below:
        yield could_not_check(
            "minimum tcb",
            expected=expected,
            found=found,
            source="evidence",
            remedy=f"The evidence does not tell {', '.join(untold)}: it tells "
            f"{', '.join(sorted(claims.tcb)) or 'no versions'}. Correct minimum_tcb.{claims.tee}.",
        )
        return
    yield decided(
        "minimum tcb",
        not below,
        expected=expected,
        found=found,
        source="evidence",
        remedy=f"The operator has to update the platform's firmware ({', '.join(below)} too old).",
    )


def _version(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 20 else None


def _check_fmspc(claims: Claims, policy: TrustPolicy) -> Iterator[Check]:
    if policy.fmspcs is None and not policy.denied_fmspcs:
        return
    # Only an allow-list that is empty speaks of those who have no FMSPC: it admits nothing.
    if claims.tee not in INTEL_TEES and (policy.fmspcs is None or policy.fmspcs):
        return
    expected = "any" if policy.fmspcs is None else _one_of(sorted(policy.fmspcs), nothing="none")
    if policy.denied_fmspcs:
        expected += f", but not {_listed(sorted(policy.denied_fmspcs))}"
    if claims.fmspc is None and (policy.fmspcs is None or policy.fmspcs):
        yield could_not_check(
            "fmspc",
            expected=expected,
            found="not told by this evidence",
            source="evidence",
            remedy="This kind of evidence does not tell the platform's family: the policy cannot admit it.",
        )
        return
    allowed = policy.fmspcs is None or claims.fmspc in policy.fmspcs
    yield decided(
        "fmspc",
        allowed and claims.fmspc not in policy.denied_fmspcs,
        expected=expected,
        found=claims.fmspc or "none",
        source="PCK certificate",
        remedy="The worker runs on a platform that the policy does not admit: use another, or change fmspcs.",
    )


def _check_evaluation(claims: Claims, policy: TrustPolicy) -> Iterator[Check]:
    least = policy.minimum_tcb_evaluation
    if least is None or claims.tee not in INTEL_TEES:
        return
    name, expected = "tcb evaluation", f"{least} or later"
    if claims.tcb_evaluation is None:
        yield could_not_check(
            name,
            expected=expected,
            found="not told by this evidence",
            remedy="The evidence does not tell by which state of knowledge it was judged: the policy cannot admit it.",
        )
        return
    yield decided(
        name,
        claims.tcb_evaluation >= least,
        expected=expected,
        found=str(claims.tcb_evaluation),
        source="TCB info",
        remedy="Fetch the collateral of this platform anew (ask for 'early' updates of the TCB where it is offered).",
    )


def _check_config(claims: Claims, policy: TrustPolicy) -> Iterator[Check]:
    if policy.config_ids is not None:
        found = claims.config_id
        yield decided(
            "config id",
            found is not None
            and any(allowed.ljust(len(found), "0") == found for allowed in policy.config_ids),
            expected=_one_of(sorted(policy.config_ids), nothing="none (an empty list admits nothing)"),
            found=found or "not told by this evidence",
            source="evidence",
            remedy="The worker was launched for another tenant or deployment, or for none: do not use it. The operator "
            "launches it with the right configuration.",
        )
    if policy.minimum_config_svn is not None:
        svn = claims.config_svn
        yield decided(
            "config svn",
            svn is not None and svn >= policy.minimum_config_svn,
            expected=f"{policy.minimum_config_svn} or later",
            found="not told by this evidence" if svn is None else str(svn),
            source="evidence",
            remedy="The worker was launched with an older configuration: the operator has to launch it with the "
            "current one.",
        )


def _check_age(claims: Claims, policy: TrustPolicy, as_of: datetime) -> Iterator[Check]:
    if policy.maximum_age is None:
        return
    expected = f"at most {duration(policy.maximum_age)} old"
    if claims.issued_at is None:
        yield could_not_check(
            "evidence age",
            expected=expected,
            found="no signed time",
            source="evidence",
            remedy="Quotes of this kind carry no time. Have a nonce of your own in the report data instead, and leave "
            "maximum_age to a policy for kinds that carry one.",
        )
        return
    age = int(as_of.timestamp()) - claims.issued_at
    found = f"{duration(age)} old" if age >= 0 else f"{duration(-age)} ahead of the clock"
    yield decided(
        "evidence age",
        -CLOCK_SKEW.total_seconds() <= age <= policy.maximum_age,
        expected=expected,
        found=f"{found}, of {moment(claims.issued_at)}",
        source="evidence",
        remedy="Ask the worker for fresh evidence; where it is ahead of the clock, set the clock.",
    )


def _check_collateral_age(claims: Claims, policy: TrustPolicy, as_of: datetime) -> Iterator[Check]:
    if claims.collateral_expires is None:
        return
    grace = f", and {duration(policy.collateral_grace)} of grace" if policy.collateral_grace else ""
    yield decided(
        "collateral age",
        int(as_of.timestamp()) <= claims.collateral_expires + policy.collateral_grace,
        expected=f"of date at {moment(int(as_of.timestamp()))}{grace}",
        found=f"good until {moment(claims.collateral_expires)}",
        source="TCB info, CRLs and certificates",
        remedy="Fetch the collateral of this platform anew, and check again.",
    )


def _check_revocation(claims: Claims, policy: TrustPolicy) -> Iterator[Check]:
    said = claims.attributes.get("revocation", "")
    if not policy.demand_revocation or not said:
        return
    name, expected = "revocation demanded", "certificates checked against revocation lists"
    if said.startswith(NOT_CHECKED):
        yield could_not_check(
            name,
            expected=expected,
            found=said,
            source="evidence",
            remedy="Give the vendor's CRL with the collateral (--collateral), or accept the risk with "
            "demand_revocation = false.",
        )
        return
    yield passed(name, expected=expected, found=said, source="evidence")


def check_report_data(claims: Claims, expected: bytes) -> Check:
    """Whether the evidence was made for these 64 bytes."""
    return decided(
        "report data",
        claims.report_data == expected,
        expected=expected.hex(),
        found=claims.report_data.hex(),
        source="evidence",
        remedy="The evidence was made for other keys or another request: it says nothing about this one.",
    )


def moment(seconds: int) -> str:
    """Unix seconds for people: ``2025-07-04 09:10:24 UTC``."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s since 1970"


def duration(seconds: int) -> str:
    """Seconds for people: ``90 minutes``, ``30 days``; to the unit that shows it without loss, else rounded down."""
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size and (seconds % size == 0 or seconds >= 3 * size):
            count = seconds // size
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return f"{seconds} second{'s' if seconds != 1 else ''}"


def _one_of(values: Sequence[str], *, nothing: str) -> str:
    return _listed(values) if values else nothing


def _listed(values: Sequence[str]) -> str:
    more = f" and {len(values) - MAX_SHOWN} more" if len(values) > MAX_SHOWN else ""
    return ", ".join(values[:MAX_SHOWN]) + more
