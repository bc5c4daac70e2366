"""What a policy would do, before it does: dry runs over stored evidence, and the difference that another policy makes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from avalon_core.attestation.appraisal import appraise, appraise_claims, unreadable
from avalon_core.attestation.checks import AppraisalReport, Check, Verdict
from avalon_core.attestation.claims import Claims
from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.policy import TrustPolicy
from avalon_core.attestation.policy_writing import policy_to_object
from avalon_core.errors import EvidenceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Something that a policy may admit: stored evidence, or claims that were verified before."""

    name: str
    """A worker's id, or the name of a file."""

    evidence: Evidence | Claims | EvidenceError
    """The error where it could not be read: such a subject is admitted by nobody."""

    collateral: Collateral = NO_COLLATERAL


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What one policy says about one subject."""

    name: str
    report: AppraisalReport

    @property
    def is_admitted(self) -> bool:
        """The verdict is passed."""
        return self.report.verdict is Verdict.PASSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What two policies say about one subject."""

    name: str
    before: AppraisalReport
    after: AppraisalReport

    @property
    def is_changed(self) -> bool:
        """One policy admits it and the other does not."""
        return (self.before.verdict is Verdict.PASSED) != (self.after.verdict is Verdict.PASSED)

    @property
    def outcome(self) -> str:
        """``admitted by both``, ``admitted by neither``, ``newly admitted``, ``no longer admitted``."""
        before, after = (report.verdict is Verdict.PASSED for report in (self.before, self.after))
        if before == after:
            return "admitted by both" if before else "admitted by neither"
        return "newly admitted" if after else "no longer admitted"

    @property
    def reasons(self) -> Sequence[str]:
        """Why it changed: every check on which the two disagree, one sentence each."""
        return tuple(_reasons(self.before, self.after))


def judge(subject: Subject, policy: TrustPolicy, *, as_of: datetime) -> AppraisalReport:
    """What the policy says about the subject, as of a time (with a zone)."""
    if isinstance(subject.evidence, EvidenceError):
        return AppraisalReport(
            checks=[unreadable(subject.evidence)], as_of=int(as_of.timestamp()), policy_name=policy.name
        )
    if isinstance(subject.evidence, Claims):
        return appraise_claims(subject.evidence, policy, as_of=as_of)
    return appraise(subject.evidence, policy, collateral=subject.collateral, as_of=as_of)


def dry_run(policy: TrustPolicy, subjects: Iterable[Subject], *, as_of: datetime) -> Sequence[DryRun]:
    """What the policy says about each of them, in their order."""
    return tuple(
        DryRun(name=subject.name, report=judge(subject, policy, as_of=as_of)) for subject in subjects
    )


def compare(
    before: TrustPolicy, after: TrustPolicy, subjects: Iterable[Subject], *, as_of: datetime
) -> Sequence[Difference]:
    """Whom either policy admits, and why it differs; in the order of the subjects."""
    return tuple(
        Difference(
            name=subject.name,
            before=judge(subject, before, as_of=as_of),
            after=judge(subject, after, as_of=as_of),
        )
        for subject in subjects
    )


def _reasons(before: AppraisalReport, after: AppraisalReport) -> Iterator[str]:
    earlier = {check.name: check for check in before.checks}
    later = {check.name: check for check in after.checks}
    for name in dict.fromkeys((*earlier, *later)):
        old, new = earlier.get(name), later.get(name)
        if _holds(old) == _holds(new):
            continue
        bad = new if not _holds(new) else old
        if bad is not None:
            now = "no longer passes" if bad is new else "now passes"
            yield f"{name} {now}: the evidence has {bad.found}, {_whose(bad is new)} policy expects {bad.expected}"


def _holds(check: Check | None) -> bool:
    # A policy that does not ask has no such check, and nothing stands against the evidence.
    return check is None or check.verdict is Verdict.PASSED


def _whose(is_second: bool) -> str:
    return "the second" if is_second else "the first"


def policy_changes(before: TrustPolicy, after: TrustPolicy) -> Sequence[str]:
    """How the texts of the two differ, member by member."""
    return tuple(_changes(before, after))


def _changes(before: TrustPolicy, after: TrustPolicy) -> Iterator[str]:
    old, new = policy_to_object(before), policy_to_object(after)
    for name in dict.fromkeys((*old, *new)):
        was, now = old.get(name), new.get(name)
        if was == now:
            continue
        if isinstance(was, list) and isinstance(now, list):
            added = [entry for entry in now if entry not in was]
            removed = [entry for entry in was if entry not in now]
            yield from (f"{name}: adds {_shown(entry)}" for entry in added)
            yield from (f"{name}: removes {_shown(entry)}" for entry in removed)
            if not added and not removed:
                yield f"{name}: in another order"
        else:
            yield f"{name}: {_shown(was)} becomes {_shown(now)}"


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_shown(member)}" for name, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_shown(entry) for entry in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
