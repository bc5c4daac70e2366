"""Appraisal reports, policies and their effects on the terminal, in colour where it takes colour."""

from collections.abc import Sequence

from avalon_core.attestation.checks import AppraisalReport, Check, Verdict
from avalon_core.attestation.policy_diff import Difference, DryRun
from avalon_core.attestation.reports import report_lines
from avalon_sdk.cli.output import show

VERDICT_STYLES = {
    Verdict.PASSED: "green",
    Verdict.FAILED: "bold red",
    Verdict.COULD_NOT_CHECK: "bold yellow",
}
_OUTCOME_STYLES = {
    "admitted by both": "green",
    "admitted by neither": "",
    "newly admitted": "bold green",
    "no longer admitted": "bold red",
}


def show_report(report: AppraisalReport, *, explains: bool = False) -> None:
    """The report, one check after the other; with ``explains``, what each of them asks, too."""
    for line, verdict in report_lines(report, explains=explains):
        show(line, VERDICT_STYLES[verdict] if verdict is not None else "")


def show_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Names and values, in two columns."""
    width = min(max((len(name) for name, _ in fields), default=0), 40)
    for name, value in fields:
        show(f"  {name:<{width}}  {value}")


def show_words(sentences: Sequence[str]) -> None:
    """A policy in words."""
    for sentence in sentences:
        # Alternatives of a rule are indented already.
        show(f"  {sentence}" if sentence.startswith(" ") else f"- {sentence}")


def show_dry_runs(runs: Sequence[DryRun]) -> None:
    """Who would be admitted; of the others, everything that stands against them."""
    for run in runs:
        admitted = "admitted" if run.is_admitted else "refused"
        show(f"{admitted:<10}{run.name}", VERDICT_STYLES[run.report.verdict])
        for check in run.report.problems:
            show(f"          {_problem(check)}")
    count = sum(run.is_admitted for run in runs)
    show(f"{count} of {len(runs)} admitted", "bold")


def _problem(check: Check) -> str:
    return f"{check.name} {check.verdict}: got {check.found}, expected {check.expected}"


def show_differences(changes: Sequence[str], differences: Sequence[Difference]) -> None:
    """How two policies differ, and what that does to everybody."""
    show("In the text:", "bold")
    for change in changes or ("nothing differs",):
        show(f"  {change}")
    if not differences:
        return
    show("In effect:", "bold")
    for difference in differences:
        show(f"  {difference.outcome:<20}{difference.name}", _OUTCOME_STYLES[difference.outcome])
        if difference.is_changed:
            for reason in difference.reasons:
                show(f"      {reason}")
    changed = sum(difference.is_changed for difference in differences)
    show(f"{changed} of {len(differences)} changed", "bold")
