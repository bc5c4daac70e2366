"""``avalon policy``: a policy in words, what it would do to stored evidence, and what another one would change."""

from collections.abc import Sequence
from pathlib import Path

from avalon_core.attestation.bundles import merged
from avalon_core.attestation.collateral import Collateral
from avalon_core.attestation.policy import empty_parts, production_problems
from avalon_core.attestation.policy_diff import DryRun, Subject, compare, dry_run, policy_changes
from avalon_core.attestation.policy_words import policy_advice, policy_in_words
from avalon_core.attestation.policy_writing import dump_policy_toml, policy_to_object
from avalon_core.attestation.reports import report_to_object
from avalon_core.errors import EvidenceError
from avalon_sdk.cli.attest_output import show_differences, show_dry_runs, show_words
from avalon_sdk.cli.attesting import (
    EvidenceArguments,
    collateral_of,
    evidence_of,
    moment_of,
    read_policy,
)
from avalon_sdk.cli.exits import ExitCode
from avalon_sdk.cli.output import show, show_json
from avalon_sdk.errors import BadRequest


async def check_policy(named: str, *, for_production: bool, dumps: bool, as_json: bool) -> ExitCode:
    """Print a policy in words, what it leaves open, and whether production would take it."""
    policy = read_policy(named)
    problems = production_problems(policy)
    advice = policy_advice(policy)
    is_bad = bool(problems) if for_production else any(True for _ in empty_parts(policy))
    if as_json:
        show_json(
            {
                "version": 1,
                "name": policy.name,
                "words": list(policy_in_words(policy)),
                "advice": list(advice),
                "production_problems": list(problems),
                "policy": policy_to_object(policy),
            }
        )
    elif dumps:
        show(dump_policy_toml(policy).rstrip())
    else:
        show(policy.name or named, "bold")
        show_words(policy_in_words(policy))
        if advice:
            show("Did you mean that?", "bold yellow")
            show_words(advice)
        if problems:
            show("Not fit for production:", "bold red")
            show_words(problems)
        else:
            show("Fit for production.", "green")
    return ExitCode.FAILED if is_bad else ExitCode.OK


async def dry_run_policy(
    named: str, paths: Sequence[Path], *, collateral: Sequence[Path], as_of: str | None, as_json: bool
) -> ExitCode:
    """Print whom the policy would admit, and why not the others."""
    if not paths:
        raise BadRequest("EVIDENCE: expected at least one file")
    policy, moment = read_policy(named), moment_of(as_of)
    runs = dry_run(policy, _subjects(paths, collateral), as_of=moment)
    if as_json:
        show_json({"version": 1, "policy": policy.name, "runs": [_as_json(run) for run in runs]})
    else:
        show_dry_runs(runs)
    return ExitCode.OK if all(run.is_admitted for run in runs) else ExitCode.UNTRUSTED


async def diff_policies(
    before: str,
    after: str,
    paths: Sequence[Path],
    *,
    collateral: Sequence[Path],
    as_of: str | None,
    as_json: bool,
) -> ExitCode:
    """Print how two policies differ, and whom each would admit. Like diff(1), 1 says that it does differ."""
    first, second, moment = read_policy(before), read_policy(after), moment_of(as_of)
    changes = policy_changes(first, second)
    differences = compare(first, second, _subjects(paths, collateral), as_of=moment)
    if as_json:
        show_json(
            {
                "version": 1,
                "changes": list(changes),
                "subjects": [
                    {
                        "name": difference.name,
                        "outcome": difference.outcome,
                        "changed": difference.is_changed,
                        "reasons": list(difference.reasons),
                        "before": str(difference.before.verdict),
                        "after": str(difference.after.verdict),
                    }
                    for difference in differences
                ],
            }
        )
    else:
        show_differences(changes, differences)
    return ExitCode.FAILED if any(difference.is_changed for difference in differences) else ExitCode.OK


def _as_json(run: DryRun) -> dict[str, object]:
    return {"name": run.name, "admitted": run.is_admitted, "report": report_to_object(run.report)}


def _subjects(paths: Sequence[Path], collateral: Sequence[Path]) -> Sequence[Subject]:
    # Read once: every file is judged with all of it.
    known = collateral_of(collateral)
    return [_subject(path, known) for path in paths]


def _subject(path: Path, collateral: Collateral) -> Subject:
    try:
        file = evidence_of(path, EvidenceArguments())
    except EvidenceError as exc:
        # One file that is no evidence does not keep the others from being judged.
        return Subject(name=str(path), evidence=exc)
    return Subject(name=str(path), evidence=file.evidence, collateral=merged((file.collateral, collateral)))
