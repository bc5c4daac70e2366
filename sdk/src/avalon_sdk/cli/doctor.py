"""``avalon doctor``: each thing that an order needs, checked for itself, with what to do where it is wrong."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from avalon_sdk.cli.exits import ExitCode
from avalon_sdk.cli.listing import evidence_of
from avalon_sdk.cli.output import show, show_json
from avalon_sdk.cli.pages import read_readiness
from avalon_sdk.cli.trusting import open_client
from avalon_sdk.errors import AvalonClientError, BadAnswer, CannotConnect
from avalon_sdk.transports.direct import DirectTransport

MAX_CLOCK_SECONDS = 60.0
"""Evidence, certificates and receipts carry times; a clock that is further off misjudges them."""

_OLDEST_PYTHON = (3, 11)
_STYLES = {"ok": "green", "failed": "bold red", "skipped": "yellow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check."""

    name: str
    verdict: Literal["ok", "failed", "skipped"]
    found: str
    remedy: str = ""


async def examine(
    url: str,
    policy: str | None,
    measurements: Sequence[str],
    *,
    data_dir: Path | None,
    timeout: float,
    as_json: bool,
) -> ExitCode:
    """Make every check and print what it found; the exit code says whether one failed."""
    findings = [check_python(), check_hpke(), check_curve(), check_data_dir(data_dir or default_data_dir())]
    findings += await _check_service(url, timeout)
    is_reachable = all(finding.verdict == "ok" for finding in findings if finding.name == "service")
    findings += await _check_workers(url, policy, measurements, timeout, is_reachable=is_reachable)
    failed = any(finding.verdict == "failed" for finding in findings)
    if as_json:
        show_json({"ok": not failed, "checks": [asdict(finding) for finding in findings]})
    for finding in () if as_json else findings:
        show(f"{finding.verdict:<8} {finding.name}: {finding.found}", _STYLES[finding.verdict])
        if finding.remedy:
            show(f"         {finding.remedy}")
    return ExitCode.FAILED if failed else ExitCode.OK


def check_python(found: tuple[int, int] | None = None) -> Finding:
    """The interpreter is one that Avalon is made for."""
    major, minor = found or sys.version_info[:2]
    is_good = (major, minor) >= _OLDEST_PYTHON
    return Finding(
        name="python",
        verdict="ok" if is_good else "failed",
        found=f"{major}.{minor}",
        remedy="" if is_good else "Install Python 3.11 or later, and Avalon with it.",
    )


def check_hpke() -> Finding:
    """The library does what the default suite needs, ML-KEM included."""

    def work() -> bool:
        from avalon_core.crypto.sealing import HpkePrivateKey

        key = HpkePrivateKey.generate()
        return key.open_(key.public_key.seal(b"secret", b"info"), b"info") == b"secret"

    return _check_library(
        "cryptography", "MLKEM768-X25519 works", "Install cryptography 50 or later, built with ML-KEM.", work
    )


def check_curve() -> Finding:
    """The library of the signatures works."""

    def work() -> bool:
        from avalon_core.crypto.signing import SigningKey

        key, digest = SigningKey.generate(), bytes(32)
        key.verification_key.verify(digest, key.sign(digest), strict=True)
        return True

    return _check_library("coincurve", "secp256k1 signs and verifies", "Install coincurve again.", work)


def _check_library(name: str, found: str, remedy: str, work: Callable[[], bool]) -> Finding:
    try:
        installed = version(name)
    except PackageNotFoundError:
        return Finding(name=name, verdict="failed", found="not installed", remedy=remedy)
    try:
        is_good = work()
    except Exception as exc:  # noqa: BLE001 a broken library may raise anything; to find that out is the point
        return Finding(name=name, verdict="failed", found=f"{installed}: {exc}", remedy=remedy)
    if not is_good:
        return Finding(name=name, verdict="failed", found=f"{installed}: wrong answer", remedy=remedy)
    return Finding(name=name, verdict="ok", found=f"{installed}, {found}")


def default_data_dir() -> Path:
    """Where a service on this machine keeps its data unless told otherwise."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "avalon"


def check_data_dir(path: Path) -> Finding:
    """A service started here could write its data."""
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    is_good = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    return Finding(
        name="data directory",
        verdict="ok" if is_good else "failed",
        found=f"{path} is {'writable' if is_good else 'not writable'}",
        remedy=""
        if is_good
        else "Give yourself the right to write there, or name another with AVALON_DATA_DIR.",
    )


async def _check_service(url: str, timeout: float) -> list[Finding]:
    transport = DirectTransport(url)
    try:
        page = await transport.get("/healthz", timeout=timeout)
        ready, reason = await read_readiness(transport, timeout)
    except (CannotConnect, BadAnswer) as exc:
        return [
            Finding(
                name="service",
                verdict="failed",
                found=f"no answer from {url}: {exc.reason}"
                if isinstance(exc, CannotConnect)
                else exc.message,
                remedy="Start one with 'avalon up', or give its address with --url or AVALON_URL.",
            ),
            Finding(name="clock", verdict="skipped", found="no service to compare with"),
        ]
    finally:
        await transport.close()
    is_good = page.status == 200 and ready
    service = Finding(
        name="service",
        verdict="ok" if is_good else "failed",
        found=f"{url} is ready" if is_good else f"{url} is not ready: {reason}",
        remedy="" if is_good else "Look at the service's log; it is ready when its workers are.",
    )
    return [service, check_clock(page.date, datetime.now(UTC))]


def check_clock(theirs: datetime | None, ours: datetime) -> Finding:
    """Our clock and the service's agree."""
    if theirs is None:
        return Finding(name="clock", verdict="skipped", found="the service does not tell its time")
    apart = abs((theirs - ours).total_seconds())
    is_good = apart <= MAX_CLOCK_SECONDS
    return Finding(
        name="clock",
        verdict="ok" if is_good else "failed",
        found=f"{apart:.0f} s from the service's",
        remedy="" if is_good else "Let a time service (NTP) set the clocks of both machines.",
    )


async def _check_workers(
    url: str, policy: str | None, measurements: Sequence[str], timeout: float, *, is_reachable: bool
) -> list[Finding]:
    if not is_reachable:
        return [Finding(name="workers", verdict="skipped", found="no service that is ready")]
    try:
        async with open_client(url, policy, measurements) as client:
            workers = await client.workers(timeout=timeout)
    except AvalonClientError as exc:
        return [Finding(name="workers", verdict="failed", found=str(exc), remedy="Look at 'avalon status'.")]
    if not workers:
        return [Finding(name="workers", verdict="failed", found="none", remedy="Look at the service's log.")]
    return [
        Finding(
            name=f"worker {worker.worker_id[:16]}",
            verdict="ok" if worker.is_trusted else "failed",
            found=("SIMULATED, protects nothing; " if worker.simulated else "") + evidence_of(worker),
            remedy=""
            if worker.is_trusted
            else "Give the measurement that you trust: --measurement or --policy.",
        )
        for worker in workers
    ]
