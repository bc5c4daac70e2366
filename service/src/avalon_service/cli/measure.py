"""``avalon measure``: the measurement that an enclave has here, and what goes into it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

_EXIT_USAGE = 2
_EXIT_CANNOT = 1
_SECONDS = 60.0
"""Hashing some hundred small files takes a fraction of a second."""

_ENVIRONMENT = ("PATH", "PYTHONPATH", "LANG", "TZ")
"""What enclaves get of ours: what is measured must be what they would find."""


def command(
    role: Annotated[str, typer.Option(help="What the enclave is to be.")] = "singleton",
    tenant: Annotated[
        str | None, typer.Option(help="The tenant that it is to serve alone. [default: none]")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The TOML file of settings that `avalon up --config` would be given.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="What else it is told at launch. May be repeated."),
    ] = None,
    manifest: Annotated[
        bool, typer.Option("--manifest", help="Print every entry, as sha256sum does.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with every entry.")] = False,
) -> None:
    """Print the measurement of an enclave that is started from this installation, and what went into it.

    It is that of the enclave that `avalon up` would start here with the same file and environment: what the evidence
    of a SIMULATED worker carries, and what a policy pins. It is a hash over the installed code, the workloads, the
    versions of libraries, and what the enclave is told at launch; equal installations have equal values, on any
    machine. On real hardware the loader of the TEE measures instead. Exit codes: 0, 1 it cannot be measured, 2 usage.

    Examples:

        avalon measure

        avalon measure --tenant acme --json

        avalon measure --manifest > here.txt && diff here.txt there.txt
    """
    measured = _measure(role, [*_told_at_launch(config, tenant), *(set_ or ())])
    if as_json:
        typer.echo(json.dumps({"simulated": True, **measured}))
        return
    if manifest:
        for entry in measured["manifest"]:
            typer.echo(f"{entry['sha256']}  {entry['name']}")
        return
    typer.echo(f"measurement {measured['measurement']}")
    typer.echo(f"in 48 bytes {measured['measurement_sha384']}")
    typer.echo(
        "            (SIMULATED platform: MRENCLAVE of 32 bytes, MRTD of 48; on hardware the TEE measures)"
    )
    typer.echo("what went in:")
    files = Counter(
        "/".join(entry["name"].split("/")[:2]) for entry in measured["manifest"] if "value" not in entry
    )
    for group, count in sorted(files.items()):
        typer.echo(f"  {group}: {count} files")
    for entry in measured["manifest"]:
        if "value" in entry:
            typer.echo(f"  {entry['name']} = {entry['value']}")


def _told_at_launch(config: Path | None, tenant: str | None) -> list[str]:
    from avalon_core.channel.launch import measured_settings
    from avalon_core.channel.messages import Configure
    from avalon_service.settings import SettingsError, load_settings

    try:
        settings = load_settings(command_line={}, environment=os.environ, file=config).settings
    except SettingsError as exc:
        typer.echo(f"avalon measure: {exc}", err=True)
        raise typer.Exit(_EXIT_USAGE) from None
    configure = Configure(
        worker_name=settings.worker_name,
        keys=settings.keys,
        accept_legacy=settings.accepts_legacy,
        tenant=tenant,
    )
    return [f"{name}={value}" for name, value in measured_settings(configure).items()]


def _measure(role: str, settings: list[str]) -> dict[str, Any]:
    """Ask the enclave's own module, as a process: nothing of the enclave is imported into the service."""
    arguments = [sys.executable, "-P", "-m", "avalon_enclave.measurement", "--role", role, "--json"]
    for setting in settings:
        arguments += ["--config", setting]
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    try:
        done = subprocess.run(
            arguments, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        typer.echo(f"avalon measure: the enclave's code cannot be measured: {exc}", err=True)
        raise typer.Exit(_EXIT_CANNOT) from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        typer.echo(f"avalon measure: {lines[-1]}", err=True)
        raise typer.Exit(_EXIT_USAGE if done.returncode == _EXIT_USAGE else _EXIT_CANNOT)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
