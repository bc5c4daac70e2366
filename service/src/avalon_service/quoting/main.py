"""The command line of the quoting process."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from avalon_core.simulator.seeds import DEFAULT_SEED, SEED_BYTES, read_seed
from avalon_service.quoting.desk import QuotingDesk
from avalon_service.quoting.server import QuotingServer

EXIT_ENDED = 0
EXIT_CANNOT_START = 2

_BACKLOG = 64


class CannotStart(Exception):
    """A wrong argument; the message says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM, SIGINT or the end of the lifeline; returns the exit code (0, or 2: cannot start)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    try:
        desk = QuotingDesk(_read_seed(options.seed_file), lambda: datetime.now(UTC))
        listening = _listen(options)
        lifeline = None if options.lifeline is None else _descriptor(options.lifeline, "--lifeline")
    except CannotStart as exc:
        sys.stderr.write(f"avalon quoting process (SIMULATED): {exc}\n")
        return EXIT_CANNOT_START
    seed = "the published seed: anybody can forge it" if desk.vendor.published_seed else "a seed of its own"
    logging.getLogger(__name__).info(
        "SIMULATED quoting process ready, protects nothing, root SHA-256 %s (%s)",
        desk.vendor.root_sha256,
        seed,
    )
    try:
        asyncio.run(_serve(desk, listening, lifeline))
    finally:
        listening.close()
        if options.socket is not None:
            options.socket.unlink(missing_ok=True)
    return EXIT_ENDED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="avalon_service.quoting",
        description="The quoting process of a SIMULATED machine: it vouches for anything, and protects nothing.",
        allow_abbrev=False,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        help="listen on a Unix socket that it makes, and removes at its end",
    )
    where.add_argument(
        "--listen", metavar="fd:N", help="serve an inherited Unix socket that is bound and listens"
    )
    parser.add_argument(
        "--seed-file",
        type=Path,
        metavar="PATH",
        help=f"the vendor's seed, {SEED_BYTES} bytes raw or in hex; without, the published one",
    )
    parser.add_argument(
        "--lifeline", metavar="fd:N", help="end when this inherited pipe does: when whoever holds it has died"
    )
    return parser


async def _serve(desk: QuotingDesk, listening: socket.socket, lifeline: int | None) -> None:
    loop = asyncio.get_running_loop()
    server = QuotingServer(desk)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    if lifeline is not None:
        # Nobody writes into it: readable means that the other end is closed.
        loop.add_reader(lifeline, server.stop)
    await server.serve(listening)


def _read_seed(path: Path | None) -> bytes:
    if path is None:
        return DEFAULT_SEED
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise CannotStart(f"--seed-file: {path} cannot be read ({exc.strerror})") from exc
    try:
        return read_seed(content)
    except ValueError as exc:
        raise CannotStart(f"--seed-file: {path} {exc}") from exc


def _listen(options: argparse.Namespace) -> socket.socket:
    if options.listen is not None:
        try:
            listening = socket.socket(fileno=_descriptor(options.listen, "--listen"))
        except OSError as exc:
            raise CannotStart(f"--listen: {options.listen} is no open socket ({exc.strerror})") from exc
        if listening.family != socket.AF_UNIX or not listening.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            raise CannotStart(f"--listen: {options.listen} is no Unix socket that listens")
    else:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        previous = os.umask(0o177)  # its owner's alone, from the start
        try:
            listening.bind(str(options.socket))
        except OSError as exc:
            raise CannotStart(
                f"--socket: cannot listen on {options.socket} ({exc.strerror or exc}); a path has at most 107 bytes, "
                "and must not exist: remove it if no quoting process uses it"
            ) from exc
        finally:
            os.umask(previous)
        listening.listen(_BACKLOG)
    listening.setblocking(False)
    return listening


def _descriptor(address: str, option: str) -> int:
    scheme, _, number = address.partition(":")
    if scheme != "fd" or not number.isdecimal():
        raise CannotStart(f"{option}: got {address!r}, expected fd:N with an inherited descriptor N")
    return int(number)
