"""``avalon up``: run the service in the foreground."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

_EXIT_CANNOT_START = 3


def command(
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on; 0 takes any that is free and prints it. [default: 1947]"),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Where orders and sealed keys are kept. [default: ~/.local/share/avalon]"),
    ] = None,
    worker_name: Annotated[
        str | None, typer.Option(help="Name of the worker. [default: singleton-worker-1]")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="development or production. [default: development]")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="sqlite, or memory to forget everything at the end. [default: sqlite]")
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(
            help="sealed: the enclave's keys outlive restarts; fresh: new at every start. [default: sealed]"
        ),
    ] = None,
    pool: Annotated[
        bool | None,
        typer.Option(
            "--pool/--singleton",
            help="Run the worker as a pool of enclaves: see docs/pool.md. [default: --singleton]",
        ),
    ] = None,
    kme: Annotated[int | None, typer.Option(help="Key management enclaves of the pool. [default: 2]")] = None,
    wpe: Annotated[
        int | None, typer.Option(help="Work order processing enclaves of the pool. [default: 2]")
    ] = None,
    recover: Annotated[
        bool | None,
        typer.Option("--recover", help="Start the pool without keys, to take the owners' recovery shares."),
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json. [default: text]")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file of settings; the environment (AVALON_PORT and so on) and options override it."
        ),
    ] = None,
) -> None:
    """Run an Avalon service in the foreground until a signal.

    It starts the listener and one worker in an enclave process (SIMULATED: no hardware protects it), prints a line
    when it is ready and one that names a trust policy for trying it out, and ends in order on Ctrl-C or SIGTERM. Exit codes: 0 ended in order, 2 usage, 3 cannot start.

    Examples:

        avalon up

        avalon up --port 0 --data-dir ./state
    """
    # Imported here: `avalon --help` lists this command and must not load a server for it.
    import uvloop

    from avalon_service.logs import set_up_logging
    from avalon_service.settings import SettingsError, load_settings
    from avalon_service.wiring import CannotStart, Ready, serve

    def announce(ready: Ready) -> None:
        mark = " (SIMULATED: protects nothing)" if ready.worker.simulated else ""
        typer.echo(f"avalon ready {ready.url} worker {ready.worker.worker_name}{mark}")
        if ready.policy is not None:
            typer.echo(f"             policy {ready.policy}: admits this service's code and no other")
        sys.stdout.flush()

    given = {
        "port": port,
        "host": host,
        "data_dir": str(data_dir) if data_dir else None,
        "worker_name": worker_name,
        "profile": profile,
        "store": store,
        "keys": keys,
        "pool": pool,
        "pool_kmes": kme,
        "pool_wpes": wpe,
        "pool_recover": recover,
        "log_format": log_format,
    }
    try:
        loaded = load_settings(command_line=given, environment=os.environ, file=config)
    except SettingsError as exc:
        typer.echo(f"avalon up: {exc}", err=True)
        raise typer.Exit(2) from None
    # Everything the service writes (database, sealed keys) is its owner's alone.
    os.umask(0o077)
    set_up_logging(loaded.settings.log_format)
    try:
        uvloop.run(serve(loaded.settings, announce))
    except CannotStart as exc:
        typer.echo(f"avalon up: {exc}", err=True)
        raise typer.Exit(_EXIT_CANNOT_START) from None
