"""``avalon workers``, and how a worker is described in text and in JSON."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from avalon_core.attestation.checks import AppraisalReport, Check
from avalon_sdk.cli.exits import ExitCode
from avalon_sdk.cli.output import show, show_json
from avalon_sdk.cli.pages import names_of, read_status
from avalon_sdk.cli.trusting import open_client
from avalon_sdk.errors import AvalonClientError
from avalon_sdk.transports.direct import DirectTransport
from avalon_sdk.workers import ListedWorker


async def list_workers(
    url: str, policy: str | None, measurements: Sequence[str], *, timeout: float, as_json: bool
) -> ExitCode:
    """Print every worker with what its evidence came to."""
    async with open_client(url, policy, measurements) as client:
        workers = await client.workers(timeout=timeout)
    names = await _names(url, timeout)
    if as_json:
        show_json({"workers": [worker_as_json(worker, names) for worker in workers]})
    elif not workers:
        show("The service has no workers. Look at 'avalon status'.")
    for worker in () if as_json else workers:
        show_worker(worker, names)
    return ExitCode.OK


async def _names(url: str, timeout: float) -> Mapping[str, str]:
    """Names are known where the service has a status page; listing works without."""
    transport = DirectTransport(url)
    try:
        return names_of(await read_status(transport, timeout))
    except AvalonClientError:
        return {}
    finally:
        await transport.close()


def show_worker(worker: ListedWorker, names: Mapping[str, str]) -> None:
    """A worker in some lines of text."""
    name = names.get(worker.worker_id)
    show(f"{name}  {worker.worker_id}" if name else worker.worker_id, "bold")
    show_mode(worker)
    show(f"  status      {worker.status}")
    show(f"  evidence    {verdict_of(worker)}", "green" if worker.is_trusted else "red")
    for problem in problems_of(worker.report):
        show(f"    {problem}", "red")
    show(f"  formats     {', '.join(sorted(worker.record.details.payload_formats))}")
    for workload in worker.record.details.workloads:
        show(f"  workload    {workload.name}: {workload.title} (input: {workload.input_help})")


def show_mode(worker: ListedWorker) -> None:
    """What protects the worker, in one line."""
    if worker.simulated:
        show(f"  mode        {worker.mode}: no hardware protects what is sent to it", "bold yellow")
    else:
        show(f"  mode        {worker.mode}")


def verdict_of(worker: ListedWorker) -> str:
    """The verdict in a few words."""
    checks = len(worker.report.checks)
    if worker.is_trusted:
        return f"trusted: {checks} checks passed"
    return f"NOT trusted: {len(worker.report.problems)} of {checks} checks did not pass"


def problems_of(report: AppraisalReport) -> Iterator[str]:
    """One line for each check that did not pass: what was found, what was expected, what to do."""
    return (_problem(check) for check in report.problems)


def _problem(check: Check) -> str:
    return (
        f"{check.name} {check.verdict}: got {check.found}, expected {check.expected}. {check.remedy}".rstrip()
    )


def evidence_of(worker: ListedWorker) -> str:
    """The verdict in one line; where it is not passed, with the first check that says why, and what to do."""
    if worker.report.problems:
        return f"not trusted: {_problem(worker.report.problems[0])}"
    return verdict_of(worker)


def worker_as_json(worker: ListedWorker, names: Mapping[str, str]) -> dict[str, Any]:
    """A worker for tools."""
    claims = worker.report.claims
    return {
        "worker_id": worker.worker_id,
        "name": names.get(worker.worker_id),
        "status": worker.status,
        "simulated": worker.simulated,
        "mode": worker.mode,
        "trusted": worker.is_trusted,
        "verdict": str(worker.report.verdict),
        "problems": list(problems_of(worker.report)),
        "tee": str(claims.tee) if claims is not None else None,
        "measurement": claims.measurement if claims is not None else None,
        "checks": [
            {
                "name": check.name,
                "verdict": str(check.verdict),
                "expected": check.expected,
                "found": check.found,
                "source": check.source,
                "remedy": check.remedy,
            }
            for check in worker.report.checks
        ],
        "payload_formats": sorted(worker.record.details.payload_formats),
        "workloads": [
            {"name": workload.name, "title": workload.title, "input_help": workload.input_help}
            for workload in worker.record.details.workloads
        ],
    }
