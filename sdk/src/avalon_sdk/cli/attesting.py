"""``avalon attest``: what evidence in a file is, whether it holds, and what a policy says about it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from avalon_core.attestation.appraisal import appraise, unreadable, verify_only
from avalon_core.attestation.bundles import merged
from avalon_core.attestation.checks import AppraisalReport, Verdict
from avalon_core.attestation.claims import REPORT_DATA_BYTES
from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral
from avalon_core.attestation.files import (
    MAX_FILE_BYTES,
    EvidenceFile,
    read_certificates,
    read_collateral,
    read_evidence,
    read_signature,
)
from avalon_core.attestation.inspection import inspect
from avalon_core.attestation.policy import TrustPolicy
from avalon_core.attestation.policy_text import MAX_POLICY_BYTES, load_policy, load_policy_json
from avalon_core.attestation.reports import report_line, report_to_object
from avalon_core.attestation.rules import PolicyFormatError
from avalon_core.errors import EvidenceError
from avalon_sdk.cli.attest_output import show_fields, show_report
from avalon_sdk.cli.exits import ExitCode
from avalon_sdk.cli.output import remark, show, show_json
from avalon_sdk.cli.trusting import DEVELOPMENT
from avalon_sdk.errors import BadRequest

T = TypeVar("T")

NOTHING_VERIFIED = (
    "NOTHING VERIFIED: these are the document's own words, and anybody can write such a document"
)
_CODES = {
    Verdict.PASSED: ExitCode.OK,
    Verdict.FAILED: ExitCode.UNTRUSTED,
    Verdict.COULD_NOT_CHECK: ExitCode.COULD_NOT_CHECK,
}
_ATTACHMENT = re.compile(r"[a-z][a-z0-9_]{0,31}=.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceArguments:
    """The options that say where evidence is and what belongs to it."""

    format_name: str | None = None
    signature: Path | None = None
    certificates: Sequence[Path] = ()
    attachments: Sequence[str] = ()
    """``name=path``."""

    collateral: Sequence[Path] = ()
    fetch: bool = False
    """Ask the vendors' services for what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyArguments:
    """The options that say by what evidence is judged."""

    policy: str | None = None
    as_of: str | None = None
    report_data: str | None = None


async def inspect_file(path: Path, arguments: EvidenceArguments, *, as_json: bool) -> ExitCode:
    """Print what a document says of itself, with nothing verified."""
    file = evidence_of(path, arguments)
    fields = inspect(file.evidence)
    if as_json:
        show_json(
            {
                "version": 1,
                "verified": False,
                "format": file.evidence.format,
                "spelling": file.spelling,
                "fields": dict(fields),
            }
        )
        return ExitCode.OK
    show(f"{file.evidence.format} evidence of {len(file.evidence.document)} bytes ({file.spelling})", "bold")
    remark(NOTHING_VERIFIED)
    show_fields(fields)
    return ExitCode.OK


async def verify_file(
    path: Path,
    evidence: EvidenceArguments,
    arguments: VerifyArguments,
    *,
    as_json: bool,
    as_line: bool,
) -> ExitCode:
    """Verify evidence and judge it: passed, failed, or could not check."""
    if as_json and as_line:
        raise BadRequest("--json and --line: expected one of them")
    report = _report(path, evidence, arguments, await _fetched(path, evidence, arguments))
    if as_json:
        show_json(report_to_object(report))
    elif as_line:
        show(report_line(report))
    else:
        show_report(report)
    return code_of(report)


async def explain_files(
    paths: Sequence[Path], evidence: EvidenceArguments, arguments: VerifyArguments
) -> ExitCode:
    """Verify each file and explain every check. The code is the worst of all."""
    reports = []
    for path in paths:
        report = _report(path, evidence, arguments, await _fetched(path, evidence, arguments))
        show(str(path), "bold")
        show_report(report, explains=True)
        show()
        reports.append(report)
    codes = {code_of(report) for report in reports}
    return next(
        (code for code in (ExitCode.UNTRUSTED, ExitCode.COULD_NOT_CHECK) if code in codes), ExitCode.OK
    )


def code_of(report: AppraisalReport) -> ExitCode:
    """0 only for passed; a code each for failed and for could not check."""
    return _CODES[report.verdict]


async def _fetched(path: Path, evidence: EvidenceArguments, arguments: VerifyArguments) -> Collateral:
    if not evidence.fetch:
        return NO_COLLATERAL
    # Imported here: it imports this module.
    from avalon_sdk.cli.collecting import collateral_for_file

    if arguments.as_of is not None:
        remark("what is fetched now speaks of now: for another day give the collateral of that day")
    return await collateral_for_file(path, evidence)


def _report(
    path: Path, evidence: EvidenceArguments, arguments: VerifyArguments, fetched: Collateral
) -> AppraisalReport:
    policy = read_policy(arguments.policy) if arguments.policy is not None else None
    as_of = moment_of(arguments.as_of)
    report_data = _report_data(arguments.report_data)
    try:
        file = evidence_of(path, evidence)
    except EvidenceError as exc:
        # What cannot be read cannot be checked, which is an outcome like another.
        return AppraisalReport(
            checks=[unreadable(exc)],
            as_of=int(as_of.timestamp()),
            policy_name=policy.name if policy is not None else "",
        )
    collateral = merged((file.collateral, fetched))
    if policy is None:
        return verify_only(file.evidence, collateral=collateral, as_of=as_of, report_data=report_data)
    return appraise(file.evidence, policy, collateral=collateral, as_of=as_of, report_data=report_data)


def evidence_of(path: Path, arguments: EvidenceArguments) -> EvidenceFile:
    """The evidence of a file with all that the options add to it.

    Raises:
        EvidenceError: the file holds no evidence.
        BadRequest: a file cannot be read, or an option's file is not what it should be.
    """
    certificates = tuple(
        der for extra in arguments.certificates for der in _parsed("--certificate", extra, read_certificates)
    )
    attachments = dict(_attachment(text) for text in arguments.attachments)
    collateral = collateral_of(arguments.collateral)
    file = read_evidence(read_bytes("FILE", path), format_name=arguments.format_name)
    evidence = file.evidence
    if arguments.signature is not None:
        evidence = replace(evidence, signature=_parsed("--signature", arguments.signature, read_signature))
    if certificates:
        evidence = replace(evidence, certificates=(*evidence.certificates, *certificates))
    if attachments:
        evidence = replace(evidence, attachments={**evidence.attachments, **attachments})
    return replace(file, evidence=evidence, collateral=merged((file.collateral, collateral)))


def collateral_of(paths: Sequence[Path]) -> Collateral:
    """The collateral of all files together.

    Raises:
        BadRequest: a file cannot be read, or holds none.
    """
    return merged(_parsed("--collateral", path, read_collateral) for path in paths)


def _attachment(text: str) -> tuple[str, bytes]:
    if not _ATTACHMENT.match(text):
        raise BadRequest(f"--attach: got {text[:60]!r}, expected NAME=FILE such as event_log=log.bin")
    name, _, path = text.partition("=")
    return name, read_bytes("--attach", Path(path))


def read_bytes(what: str, path: Path) -> bytes:
    """A whole file.

    Raises:
        BadRequest: not there, or too large.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise BadRequest(f"{what}: {path} cannot be read: {exc.strerror}") from exc
    if len(raw) > MAX_FILE_BYTES:
        raise BadRequest(f"{what}: {path} is too large: expected at most {MAX_FILE_BYTES} bytes")
    return raw


def _parsed(what: str, path: Path, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(read_bytes(what, path))
    except EvidenceError as exc:
        raise BadRequest(f"{what}: {path}: {exc.message}") from exc


def read_policy(named: str) -> TrustPolicy:
    """The policy of a file, or the development policy by its name.

    Raises:
        BadRequest: not there, too large, or not a policy.
    """
    if named == DEVELOPMENT:
        return TrustPolicy.development()
    path = Path(named)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_POLICY_BYTES + 1)
        return load_policy_json(raw) if path.suffix == ".json" else load_policy(raw)
    except OSError as exc:
        raise BadRequest(
            f"the policy file {path} cannot be read: {exc.strerror}. Give the path of a TOML or JSON file."
        ) from exc
    except PolicyFormatError as exc:
        raise BadRequest(f"the policy file {path} is not a trust policy: {exc.message}") from exc


def moment_of(text: str | None) -> datetime:
    """The time that an option names: Unix seconds, or ISO 8601 (UTC where no zone is told); None is now.

    Raises:
        BadRequest: no such time.
    """
    if text is None:
        return datetime.now(UTC)
    try:
        if text.isascii() and text.isdigit():
            return datetime.fromtimestamp(int(text), UTC)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError) as exc:
        raise BadRequest(
            f"--as-of: got {text[:40]!r}, expected a time such as 2025-07-04T09:10:24Z, 2025-07-04 or 1751620224"
        ) from exc
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _report_data(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        data = b""
    if not data or len(data) > REPORT_DATA_BYTES:
        raise BadRequest(f"--report-data: expected hex of at most {REPORT_DATA_BYTES} bytes")
    return data
