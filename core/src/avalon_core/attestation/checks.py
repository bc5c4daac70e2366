"""What is said about evidence: single checks, each with its source and its remedy, and the report of all of them.

A check that could not be made has a verdict of its own, and that verdict is a failure.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from avalon_core.attestation.claims import Claims
from avalon_core.errors import PolicyViolation


class Verdict(enum.StrEnum):
    """The outcome of one check, and of all."""

    PASSED = "passed"
    FAILED = "failed"
    COULD_NOT_CHECK = "could not check"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check."""

    name: str
    """A short name that is the same for every kind of evidence: ``signature``, ``chain``, ``root``, ``tcb status``."""

    expected: str
    found: str
    verdict: Verdict
    source: str = ""
    """Which document says so, and of which date: ``TCB info of FMSPC 00606a000000, issued 2025-08-15``."""

    remedy: str = ""
    """What to do about it, in plain words; empty where it passed."""

    def __post_init__(self) -> None:
        if self.verdict is not Verdict.PASSED and not self.remedy:
            raise ValueError(f"the check {self.name!r} did not pass and tells no remedy")


def passed(name: str, *, expected: str, found: str, source: str = "") -> Check:
    """A check that passed."""
    return Check(name=name, expected=expected, found=found, source=source, verdict=Verdict.PASSED)


def failed(name: str, *, expected: str, found: str, remedy: str, source: str = "") -> Check:
    """A check that did not pass."""
    return Check(
        name=name, expected=expected, found=found, source=source, verdict=Verdict.FAILED, remedy=remedy
    )


def could_not_check(name: str, *, expected: str, found: str, remedy: str, source: str = "") -> Check:
    """A check that could not be made, which is a failure."""
    return Check(
        name=name,
        expected=expected,
        found=found,
        source=source,
        verdict=Verdict.COULD_NOT_CHECK,
        remedy=remedy,
    )


def decided(name: str, ok: bool, *, expected: str, found: str, remedy: str, source: str = "") -> Check:
    """A check that passed if ``ok``, else failed."""
    if ok:
        return passed(name, expected=expected, found=found, source=source)
    return failed(name, expected=expected, found=found, remedy=remedy, source=source)


def overall(checks: Iterable[Check]) -> Verdict:
    """Passed only where there was a check and every one passed; failed where one failed; else could not check."""
    verdicts = {check.verdict for check in checks}
    if verdicts == {Verdict.PASSED}:
        return Verdict.PASSED
    if Verdict.FAILED in verdicts:
        return Verdict.FAILED
    return Verdict.COULD_NOT_CHECK


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What verifying evidence brought: signatures and chains, as of a time. Nothing in it is accepted yet.

    ``claims`` is there only where every signature on the way from a known root to the claims held. The caller still
    has to appraise them: which root, which code, which state of the platform is acceptable is the policy's word.
    """

    checks: Sequence[Check]
    claims: Claims | None = None

    def __post_init__(self) -> None:
        if self.claims is not None and overall(self.checks) is not Verdict.PASSED:
            raise ValueError("claims of evidence that did not verify")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppraisalReport:
    """All checks that were made: of the evidence, then of the policy."""

    checks: Sequence[Check]
    claims: Claims | None = None
    as_of: int | None = field(default=None)
    """Unix seconds: the time of which the report speaks."""

    policy_name: str = ""

    @property
    def verdict(self) -> Verdict:
        """Passed only where every check passed and there was one."""
        return overall(self.checks)

    @property
    def problems(self) -> Sequence[Check]:
        """The checks that did not pass, in their order."""
        return tuple(check for check in self.checks if check.verdict is not Verdict.PASSED)

    def raise_for_verdict(self) -> None:
        """Return only where the verdict is passed.

        Raises:
            PolicyViolation: names the first check that did not pass, and the remedy.
        """
        if self.verdict is Verdict.PASSED:
            return
        for check in self.problems:
            raise PolicyViolation(
                f"the worker's evidence is not acceptable: {check.name} {check.verdict}: "
                f"got {check.found}, expected {check.expected}. {check.remedy}".rstrip()
            )
        raise PolicyViolation("the worker's evidence is not acceptable: nothing could be checked")
