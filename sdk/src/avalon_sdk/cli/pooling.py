"""``avalon pool status``, ``rotate``, ``drain`` and ``change``: an operator and a running pool."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from avalon_core.protocol.pools import KmeStatus, PoolStatusResult, WpeStatus
from avalon_sdk.cli.directory import worker_id
from avalon_sdk.cli.exits import ExitCode
from avalon_sdk.cli.manifest_files import read_change_file
from avalon_sdk.cli.output import remark, show, show_json
from avalon_sdk.cli.trusting import open_client

_STYLES = {
    "serving": "green",
    "spare": "green",
    "draining": "yellow",
    "stopped": "bold red",
    "restarting": "bold red",
}
_AT_WORK = frozenset({"serving", "draining"})
_NONE = "-"


async def show_status(
    url: str, *, token_file: Path, worker: str | None, timeout: float, as_json: bool
) -> ExitCode:
    """Print the state of every enclave; the exit code says whether the pool is at work."""
    async with open_client(url, None, (), operator_token=token_file) as client:
        status = await client.pool_status(worker_id=_id(worker), timeout=timeout)
    if as_json:
        show_json(msgspec.to_builtins(status))
    else:
        _show(status)
    return ExitCode.OK if status.state in _AT_WORK else ExitCode.UNREACHABLE


async def rotate(
    url: str, *, token_file: Path, worker: str | None, timeout: float, as_json: bool
) -> ExitCode:
    """Have the pool make new encryption keys."""
    async with open_client(url, None, (), operator_token=token_file) as client:
        result = await client.rotate_pool(worker_id=_id(worker), timeout=timeout)
    if as_json:
        show_json({"epoch": result.epoch})
    else:
        show(
            f"epoch {result.epoch} is the current one; orders sealed to the one before still open for a while"
        )
        show("The recovery file does not hold it: make a new one with 'avalon pool shares'.")
    return ExitCode.OK


async def drain(url: str, *, token_file: Path, worker: str | None, timeout: float, as_json: bool) -> ExitCode:
    """Have the pool finish what it has."""
    async with open_client(url, None, (), operator_token=token_file) as client:
        result = await client.drain_pool(worker_id=_id(worker), timeout=timeout)
    if as_json:
        show_json({"draining": result.draining})
    else:
        show(
            "no more orders are claimed; watch 'avalon pool status' until nothing is in flight, then stop the service"
        )
    return ExitCode.OK


async def change(
    url: str, path: Path, *, token_file: Path, worker: str | None, timeout: float, as_json: bool
) -> ExitCode:
    """Carry a signed change to the pool, which judges it."""
    signed = read_change_file(path, "FILE")
    async with open_client(url, None, (), operator_token=token_file) as client:
        result = await client.change_pool(signed, worker_id=_id(worker), timeout=timeout)
    if as_json:
        show_json({"version": result.version})
    else:
        show(f"version {result.version} of the manifest is in force; every WPE is judged anew by it")
    return ExitCode.OK


def _id(worker: str | None) -> str | None:
    return worker_id(worker) if worker is not None else None


def _show(status: PoolStatusResult) -> None:
    if status.simulated:
        remark("SIMULATED: no hardware protects this pool; the operator of its machine can read all of it")
    if status.rollbacks:
        remark(
            f"ROLLBACK: {status.rollbacks} time{'s' if status.rollbacks != 1 else ''} a KME was started with an older state than its peers had seen. Somebody "
            "brought back an old disk or a copy: find out who, and why. See docs/pool-operations.md."
        )
    show(f"{status.worker}  {status.state}", f"bold {_STYLES.get(status.state, '')}".strip())
    show(f"  pool      {status.pool}")
    show(f"  worker    {status.worker_id}")
    show(f"  epoch     {status.epoch or 'none is published yet'}")
    show(f"  manifest  {f'version {status.manifest_version}' if status.manifest_version else _NONE}")
    show(f"  links     {status.links}")
    for reason, count in sorted(status.links_ended.items()):
        show(f"            {count} ended: {reason}")
    heading = (
        "KME",
        "STATE",
        "PID",
        "RESTARTS",
        "EPOCHS",
        "MANIFEST",
        "REVISION",
        "WPES",
        "OPENED",
        "REFUSED",
    )
    _table([heading, *(_kme_row(kme) for kme in status.kmes)])
    for kme in status.kmes:
        _show_more(kme)
    _table([("WPE", "STATE", "PID", "RESTARTS", "IN FLIGHT", "MEASUREMENT"), *map(_wpe_row, status.wpes)])
    for wpe in status.wpes:
        if wpe.last_end:
            show(f"  {wpe.name} ended before: {wpe.last_end}", "yellow")


def _kme_row(kme: KmeStatus) -> Sequence[str]:
    told = kme.enclave
    row = (kme.name, kme.state, str(kme.pid or _NONE), str(kme.restarts))
    if told is None:
        return (*row, *[_NONE] * 6)
    return (
        *row,
        ", ".join(str(epoch.number) for epoch in told.epochs) or _NONE,
        str(told.manifest.version) if told.manifest is not None else _NONE,
        str(told.revision),
        str(told.wpes),
        str(told.counters.opened),
        str(told.counters.refused),
    )


def _wpe_row(wpe: WpeStatus) -> Sequence[str]:
    return (
        wpe.name,
        wpe.state,
        str(wpe.pid or _NONE),
        str(wpe.restarts),
        str(wpe.in_flight),
        wpe.measurement or _NONE,
    )


def _show_more(kme: KmeStatus) -> None:
    if kme.measurement:
        show(f"  {kme.name} measurement {kme.measurement}")
    if kme.enclave is not None:
        for epoch in kme.enclave.epochs[:1]:
            made = datetime.fromtimestamp(epoch.made_at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
            show(f"  {kme.name} current key {epoch.key[:16]}, made {made}")
        for reason, count in sorted(kme.enclave.counters.refused_peers.items()):
            show(f"  {kme.name} ended {count} links: {reason}", "yellow")
    if kme.last_end:
        show(f"  {kme.name} ended before: {kme.last_end}", "yellow")


def _table(rows: Sequence[Sequence[str]]) -> None:
    """Rows under a heading, the second column of which is a state."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        show(f"  {cells}".rstrip(), "bold" if number == 0 else _STYLES.get(row[1], ""))
