"""``avalon workers``, and how a worker is described in text and in JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from avalon_core.attestation import Verdict
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
    if worker.simulated:
        show("  SIMULATED   no hardware protects what is sent to it", "bold yellow")
    show(f"  status      {worker.status}")
    show(f"  evidence    {evidence_of(worker)}", "green" if worker.is_trusted else "red")
    show(f"  formats     {', '.join(sorted(worker.record.details.payload_formats))}")
    for workload in worker.record.details.workloads:
        show(f"  workload    {workload.name}: {workload.title} (input: {workload.input_help})")


def evidence_of(worker: ListedWorker) -> str:
    """The verdict; where it is not passed, with the first check that says why, and what to do."""
    for check in worker.report.checks:
        if check.verdict is not Verdict.PASSED:
            return (
                f"not trusted: {check.name} {check.verdict}: got {check.found}, expected {check.expected}. "
                f"{check.remedy}"
            ).rstrip()
    return f"trusted: {len(worker.report.checks)} checks passed"


def worker_as_json(worker: ListedWorker, names: Mapping[str, str]) -> dict[str, Any]:
    """A worker for tools."""
    claims = worker.report.claims
    return {
        "worker_id": worker.worker_id,
        "name": names.get(worker.worker_id),
        "status": worker.status,
        "simulated": worker.simulated,
        "trusted": worker.is_trusted,
        "measurement": claims.measurement if claims is not None else None,
        "checks": [
            {
                "name": check.name,
                "verdict": str(check.verdict),
                "expected": check.expected,
                "found": check.found,
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
