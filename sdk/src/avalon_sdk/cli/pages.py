"""What the command reads of a service besides JSON-RPC, all of it optional but the first:

=============  ==========================================================================================
GET /healthz   200: the process is up
GET /readyz    200: it takes orders; 503: not (the body's text says why)
GET /status    200: JSON {profile, version, simulated, uptime_seconds, workers: [{worker_id, name, state,
               simulated}], orders: {state: number}}; unknown members are tolerated, any may be missing
=============  ==========================================================================================
"""

import json
from collections.abc import Mapping
from typing import Any

from avalon_sdk.transports.direct import DirectTransport

_MAX_REASON_CHARS = 300


async def read_status(transport: DirectTransport, timeout: float) -> dict[str, Any]:
    """The service's status; empty where it has no such page.

    Raises:
        CannotConnect, BadAnswer
    """
    page = await transport.get("/status", timeout=timeout)
    try:
        status = json.loads(page.body) if page.status == 200 else {}
    except (ValueError, RecursionError):
        return {}
    return status if isinstance(status, dict) else {}


async def read_readiness(transport: DirectTransport, timeout: float) -> tuple[bool, str]:
    """Whether the service takes orders, and what it says about that.

    Raises:
        CannotConnect, BadAnswer
    """
    page = await transport.get("/readyz", timeout=timeout)
    reason = page.body[:_MAX_REASON_CHARS].decode(errors="replace").strip()
    return page.status == 200, reason or f"HTTP {page.status}"


def names_of(status: Mapping[str, Any]) -> dict[str, str]:
    """Names by worker id, as far as the status tells."""
    workers = status.get("workers")
    if not isinstance(workers, list):
        return {}
    return {
        worker["worker_id"]: worker["name"]
        for worker in workers
        if isinstance(worker, dict)
        and isinstance(worker.get("worker_id"), str)
        and isinstance(worker.get("name"), str)
    }
