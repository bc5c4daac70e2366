"""Appraisal reports for machines and people: JSON, one line, plain text. Colours are the SDK's.

The JSON form is an object of version 1:

    {"version": 1,
     "verdict": "passed" | "failed" | "could not check",
     "as_of": 1751620224,                      Unix seconds, or null
     "policy": "<the policy's name>",          empty where it has none
     "checks": [{"name", "verdict", "expected", "found", "source", "remedy", "meaning"}, ...],
     "claims": {...} | null}                   null where the evidence did not verify

The members of ``claims`` are those of :class:`~avalon_core.attestation.claims.Claims`: bytes as lower-case hex, sets as
sorted lists, what is not told as null. Within version 1, members are added and never changed.
"""

from collections.abc import Iterator
from typing import Any

from avalon_core.attestation.checks import AppraisalReport, Check, Verdict
from avalon_core.attestation.claims import Claims
from avalon_core.attestation.explain import explain_advisory, explain_check, explain_status
from avalon_core.attestation.policy_checks import describe_code, moment

REPORT_VERSION = 1


def report_to_object(report: AppraisalReport) -> dict[str, Any]:
    """The report as values of JSON, of the form above."""
    return {
        "version": REPORT_VERSION,
        "verdict": str(report.verdict),
        "as_of": report.as_of,
        "policy": report.policy_name,
        "checks": [_check_to_object(check) for check in report.checks],
        "claims": None if report.claims is None else claims_to_object(report.claims),
    }


def _check_to_object(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "verdict": str(check.verdict),
        "expected": check.expected,
        "found": check.found,
        "source": check.source,
        "remedy": check.remedy,
        "meaning": explain_check(check.name),
    }


def claims_to_object(claims: Claims) -> dict[str, Any]:
    """Claims as values of JSON."""
    return {
        "tee": str(claims.tee),
        "format": claims.format,
        "root": claims.root,
        "simulated": claims.simulated,
        "measurement": claims.measurement,
        "report_data": claims.report_data.hex(),
        "debug": claims.debug,
        "registers": dict(claims.registers),
        "signer": claims.signer,
        "product_id": claims.product_id,
        "svn": claims.svn,
        "tcb_status": None if claims.tcb_status is None else str(claims.tcb_status),
        "advisories": sorted(claims.advisories),
        "tcb": dict(claims.tcb),
        "fmspc": claims.fmspc,
        "chip_id": claims.chip_id,
        "config_id": claims.config_id,
        "config_svn": claims.config_svn,
        "family_id": claims.family_id,
        "ext_product_id": claims.ext_product_id,
        "owner": claims.owner,
        "attributes": dict(claims.attributes),
        "issued_at": claims.issued_at,
        "collateral_expires": claims.collateral_expires,
        "tcb_evaluation": claims.tcb_evaluation,
    }


def report_line(report: AppraisalReport) -> str:
    """The report in one line: the verdict, what it is about, and the first thing that stands against it."""
    about = ""
    if report.claims is not None:
        simulated = " SIMULATED" if report.claims.simulated else ""
        about = f" {report.claims.tee}{simulated} {report.claims.measurement}"
    problems = report.problems
    if not problems:
        made = f"{len(report.checks)} checks" if report.checks else "nothing could be checked"
        return f"{report.verdict}:{about} ({made})"
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{report.verdict}:{about} {first.name} {first.verdict}: got {first.found}, expected {first.expected}{more}"


def report_text(report: AppraisalReport, *, explains: bool = False) -> str:
    """The report as plain text, one check after the other; with ``explains``, what each check asks, too."""
    return "\n".join(line for line, _ in report_lines(report, explains=explains)) + "\n"


def report_lines(report: AppraisalReport, *, explains: bool = False) -> Iterator[tuple[str, Verdict | None]]:
    """The lines of the text, each with the verdict that it shows where it shows one (for colours)."""
    yield f"{str(report.verdict).upper()}", report.verdict
    policy = f", by the policy {report.policy_name!r}" if report.policy_name else ""
    if report.as_of is not None:
        yield f"  as of {moment(report.as_of)}{policy}", None
    if report.claims is not None:
        yield from ((line, None) for line in _claims_lines(report.claims))
    yield "", None
    for check in report.checks:
        yield from _check_lines(check, explains=explains)
    if explains and report.claims is not None:
        yield from ((line, None) for line in _platform_lines(report.claims))


def _claims_lines(claims: Claims) -> Iterator[str]:
    simulated = ", SIMULATED: no hardware protects anything here" if claims.simulated else ""
    yield f"  {claims.format} under {claims.root}{simulated}"
    yield f"  {describe_code(claims)}"


def _check_lines(check: Check, *, explains: bool) -> Iterator[tuple[str, Verdict | None]]:
    yield f"  {check.verdict:<16}{check.name}", check.verdict
    if explains and (meaning := explain_check(check.name)):
        yield f"      asks      {meaning}", None
    if check.verdict is Verdict.PASSED and not explains:
        yield f"      found     {check.found}", None
        return
    yield f"      expected  {check.expected}", None
    yield f"      found     {check.found}", None
    if check.source:
        yield f"      source    {check.source}", None
    if check.remedy:
        yield f"      remedy    {check.remedy}", None


def _platform_lines(claims: Claims) -> Iterator[str]:
    """What the vendor says of the platform, in plain words."""
    if claims.tcb_status is not None:
        explained = explain_status(claims.tcb_status)
        yield ""
        yield f"  The platform is {claims.tcb_status}"
        yield f"      means     {explained.meaning}"
        yield f"      mended by {explained.who}"
    for name in sorted(claims.advisories):
        advisory = explain_advisory(name)
        yield f"  {name}" + (f": {advisory.meaning}" if advisory.meaning else "")
        if advisory.address:
            yield f"      see       {advisory.address}"
