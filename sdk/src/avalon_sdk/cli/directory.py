"""``avalon worker``: one worker's evidence check by check, and writes to the directory."""

import re
from collections.abc import Sequence
from pathlib import Path

from avalon_core.attestation.checks import Verdict
from avalon_core.protocol.errors import WorkerStatus
from avalon_core.protocol.ids import WorkerId, worker_id_of
from avalon_core.protocol.registry import MAX_DETAILS_BYTES
from avalon_sdk.cli.exits import ExitCode
from avalon_sdk.cli.listing import show_mode, verdict_of, worker_as_json
from avalon_sdk.cli.output import show, show_json
from avalon_sdk.cli.trusting import open_client, read_key
from avalon_sdk.errors import BadRequest, NoSuchWorker
from avalon_sdk.workers import ListedWorker

_ID = re.compile(r"(0x)?[0-9a-fA-F]{64}\Z")
_STYLES = {Verdict.PASSED: "green", Verdict.FAILED: "bold red", Verdict.COULD_NOT_CHECK: "bold red"}


def worker_id(named: str) -> WorkerId:
    """The id, where 64 hex digits were given; else the id of the worker of this name."""
    return WorkerId(named) if _ID.match(named) else worker_id_of(named)


async def show_one(
    url: str,
    named: str | None,
    policy: str | None,
    measurements: Sequence[str],
    *,
    timeout: float,
    as_json: bool,
) -> ExitCode:
    """Print a worker with every check of its evidence: what was expected, found, and what to do."""
    async with open_client(url, policy, measurements) as client:
        if named is None:
            listed = await client.workers(timeout=timeout)
            if not listed:
                raise NoSuchWorker(f"{url} has no workers. Look at 'avalon status'.")
            worker = listed[0]
        else:
            worker = await client.inspect_worker(worker_id=worker_id(named), timeout=timeout)
    names: dict[str, str] = {worker.worker_id: named} if named is not None and not _ID.match(named) else {}
    if as_json:
        show_json(worker_as_json(worker, names))
    else:
        _show(worker)
    return ExitCode.OK if worker.is_trusted else ExitCode.UNTRUSTED


def _show(worker: ListedWorker) -> None:
    show(worker.worker_id, "bold")
    show_mode(worker)
    show(f"  status      {worker.status}")
    show(f"  formats     {', '.join(sorted(worker.record.details.payload_formats))}")
    for workload in worker.record.details.workloads:
        show(f"  workload    {workload.name}: {workload.title} (input: {workload.input_help})")
    advice = "" if worker.is_trusted else "; send nothing to it"
    show(f"  evidence    {verdict_of(worker)}{advice}", "bold")
    for check in worker.report.checks:
        show(f"    {check.verdict:<16}{check.name}", _STYLES[check.verdict])
        show(f"      expected  {check.expected}")
        show(f"      found     {check.found}")
        if check.remedy:
            show(f"      remedy    {check.remedy}")


async def register(
    url: str,
    named: str,
    *,
    details: Path,
    worker_type: int,
    organization_id: str,
    application_type_ids: Sequence[str],
    token_file: Path | None,
    key: Path | None,
    replace: bool,
    timeout: float,
    as_json: bool,
) -> ExitCode:
    """Add a worker to the directory, or replace its details."""
    raw = _read(details)
    signer = read_key(key) if key is not None else None
    _require_authority(token_file, key)
    async with open_client(url, None, (), operator_token=token_file) as client:
        if replace:
            await client.update_worker(worker_id(named), raw, signer=signer, timeout=timeout)
        else:
            await client.register_worker(
                worker_id(named),
                raw,
                worker_type=worker_type,
                organization_id=organization_id,
                application_type_ids=application_type_ids,
                signer=signer,
                timeout=timeout,
            )
    _done(named, "updated" if replace else "registered", as_json=as_json)
    return ExitCode.OK


async def set_status(
    url: str,
    named: str,
    status: str,
    *,
    token_file: Path | None,
    key: Path | None,
    timeout: float,
    as_json: bool,
) -> ExitCode:
    """Change a worker's status."""
    try:
        wanted = WorkerStatus[status.upper().replace("-", "_")]
    except KeyError:
        names = ", ".join(known.name.lower().replace("_", "-") for known in WorkerStatus)
        raise BadRequest(f"STATUS: got {status!r}, expected {names}") from None
    signer = read_key(key) if key is not None else None
    _require_authority(token_file, key)
    async with open_client(url, None, (), operator_token=token_file) as client:
        await client.set_worker_status(worker_id(named), wanted, signer=signer, timeout=timeout)
    _done(named, status, as_json=as_json)
    return ExitCode.OK


def _require_authority(token_file: Path | None, key: Path | None) -> None:
    if (token_file is None) == (key is None):
        raise BadRequest(
            "expected --token-file (the operator's: operator-token in the service's data directory) or --key (the "
            "worker's own)"
        )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_DETAILS_BYTES + 1)
    except OSError as exc:
        raise BadRequest(f"--details: {path} cannot be read: {exc.strerror}") from exc
    return raw


def _done(named: str, what: str, *, as_json: bool) -> None:
    if as_json:
        show_json({"worker_id": worker_id(named), "done": what})
    else:
        show(f"{worker_id(named)}  {what}")
