"""``avalon kme`` and ``avalon wpe``: an enclave of this machine in a pool of another."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer

_EXIT_CANNOT_START = 3
_EXIT_USAGE = 2

_Join = Annotated[
    str, typer.Option("--join", metavar="HOST:PORT", help="Where the pool takes enclaves (its pool_listen).")
]
_Token = Annotated[
    Path, typer.Option("--pool-token", metavar="FILE", help="A copy of the pool's file pool-token.")
]
_Name = Annotated[
    str | None,
    typer.Option(help="Of this enclave, the same at every start. [default: the host's name and role]"),
]
_Worker = Annotated[str, typer.Option(help="Name of the pool's worker.")]
_Data = Annotated[
    Path | None, typer.Option(help="Where the platform's state is kept. [default: ~/.local/share/avalon]")
]
_Platform = Annotated[str, typer.Option(help="The kind of TEE; 'simulated' protects nothing.")]
_Config = Annotated[
    Path | None, typer.Option(help="The file that configures the platform, where it takes one.")
]


def kme(
    join: _Join,
    pool_token: _Token,
    name: _Name = None,
    worker_name: _Worker = "singleton-worker-1",
    data_dir: _Data = None,
    platform: _Platform = "simulated",
    platform_config: _Config = None,
) -> None:
    """Run a key management enclave of a pool on another machine, until a signal.

    It joins by its evidence, which the pool's other KMEs judge by the manifest; this command only carries bytes. It goes
    on when the connection breaks. Exit codes: 0 ended in order, 2 usage, 3 the pool does not take it.

    Examples:

        avalon kme --join pool.example.org:1948 --pool-token ./pool-token
    """
    _run("kme", join, pool_token, name, worker_name, data_dir, platform, platform_config)


def wpe(
    join: _Join,
    pool_token: _Token,
    name: _Name = None,
    worker_name: _Worker = "singleton-worker-1",
    data_dir: _Data = None,
    platform: _Platform = "simulated",
    platform_config: _Config = None,
) -> None:
    """Run a work order processing enclave of a pool on another machine, until a signal.

    It joins by its evidence, which the pool's KMEs judge by the manifest; this command only carries bytes. It goes on when
    the connection breaks. Exit codes: 0 ended in order, 2 usage, 3 the pool does not take it.

    Examples:

        avalon wpe --join pool.example.org:1948 --pool-token ./pool-token
    """
    _run("wpe", join, pool_token, name, worker_name, data_dir, platform, platform_config)


def _run(
    role: str,
    join: str,
    pool_token: Path,
    name: str | None,
    worker_name: str,
    data_dir: Path | None,
    platform: str,
    platform_config: Path | None,
) -> None:
    # Imported here: `avalon --help` lists these commands and must not load a server for them.
    from avalon_service.hosts.process import EnclaveCommand
    from avalon_service.hosts.quoting import QuotingManager, QuotingUnavailable
    from avalon_service.logs import set_up_logging
    from avalon_service.pool.remote import JoinRefused, RemoteHost, read_pool_token
    from avalon_service.settings import Settings
    from avalon_service.wiring import SIMULATED_PLATFORMS, CannotStart, data_directory

    host, _, port = join.rpartition(":")
    if not host or not port.isdecimal():
        typer.echo(f"avalon {role}: --join: got {join!r}, expected HOST:PORT", err=True)
        raise typer.Exit(_EXIT_USAGE)
    named = name or f"{socket.gethostname()[:50]}-{role}"

    async def serve() -> None:
        token = read_pool_token(pool_token)
        directory = data_directory(Settings(data_dir=str(data_dir) if data_dir else ""))
        async with AsyncExitStack() as stack:
            quoting: Path | None = None
            if platform in SIMULATED_PLATFORMS:
                manager = QuotingManager()
                stack.push_async_callback(manager.stop)
                await manager.start()
                quoting = manager.socket_path

            def command(measured: Mapping[str, str]) -> EnclaveCommand:
                return EnclaveCommand(
                    role=role,
                    platform=platform,
                    platform_state=directory / "simulated-platform",
                    platform_config=platform_config,
                    quoting_socket=quoting,
                    measured=measured,
                    name=named,
                )

            remote = RemoteHost(
                address=(host.strip("[]"), int(port)),
                token=token,
                role=role,
                name=named,
                worker_name=worker_name,
                command=command,
            )
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, remote.stop)
            await remote.run(announce)

    def announce(pid: int) -> None:
        mark = " (SIMULATED: protects nothing)" if platform in SIMULATED_PLATFORMS else ""
        typer.echo(f"avalon {role} ready {named} pid {pid} pool {worker_name}{mark}")
        sys.stdout.flush()

    os.umask(0o077)
    set_up_logging("text")
    try:
        asyncio.run(serve())
    except (JoinRefused, QuotingUnavailable, CannotStart) as exc:
        typer.echo(f"avalon {role}: {exc}", err=True)
        raise typer.Exit(_EXIT_CANNOT_START) from None
