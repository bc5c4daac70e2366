"""``avalon status``."""

from collections.abc import Mapping, Sequence
from typing import Any

from avalon_sdk.cli.exits import ExitCode
from avalon_sdk.cli.listing import show_worker, worker_as_json
from avalon_sdk.cli.output import remark, show, show_json
from avalon_sdk.cli.pages import names_of, read_readiness, read_status
from avalon_sdk.cli.trusting import open_client
from avalon_sdk.errors import AvalonClientError
from avalon_sdk.transports.direct import DirectTransport
from avalon_sdk.workers import ListedWorker

_SHOWN = ("profile", "version", "uptime_seconds")


async def show_status(
    url: str, policy: str | None, measurements: Sequence[str], *, timeout: float, as_json: bool
) -> ExitCode:
    """Print whether the service is up and ready; the exit code says the latter."""
    transport = DirectTransport(url)
    try:
        healthy = (await transport.get("/healthz", timeout=timeout)).status == 200
        ready, reason = await read_readiness(transport, timeout)
        status = await read_status(transport, timeout)
    finally:
        await transport.close()
    workers, trouble = await _workers(url, policy, measurements, timeout)
    names = names_of(status)
    simulated = status.get("simulated") is True or any(worker.simulated for worker in workers)
    if as_json:
        show_json(
            {
                "url": url,
                "healthy": healthy,
                "ready": ready,
                "reason": reason,
                "simulated": simulated,
                "service": status,
                "workers": [worker_as_json(worker, names) for worker in workers],
                "trouble": trouble,
            }
        )
    else:
        if simulated:
            remark("SIMULATED: no hardware protects what is sent to this service")
        show(f"{url}  {'up' if healthy else 'not healthy'}, {'ready' if ready else 'not ready: ' + reason}")
        _show_numbers(status)
        for worker in workers:
            show_worker(worker, names)
        if trouble:
            show(f"workers: {trouble}", "red")
    return ExitCode.OK if healthy and ready else ExitCode.UNREACHABLE


async def _workers(
    url: str, policy: str | None, measurements: Sequence[str], timeout: float
) -> tuple[list[ListedWorker], str]:
    try:
        async with open_client(url, policy, measurements) as client:
            return await client.workers(timeout=timeout), ""
    except AvalonClientError as exc:
        return [], str(exc)


def _show_numbers(status: Mapping[str, Any]) -> None:
    for member in _SHOWN:
        if member in status:
            show(f"  {member.replace('_', ' '):<16}{status[member]}")
    orders = status.get("orders")
    if isinstance(orders, dict):
        counts = ", ".join(f"{number} {state}" for state, number in orders.items())
        show(f"  {'orders':<16}{counts or 'none'}")
