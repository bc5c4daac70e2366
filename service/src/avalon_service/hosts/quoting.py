"""Keeps the quoting process of a SIMULATED machine running: started before the enclaves, restarted, ended after them.

The listening socket is ours and outlives the process: an enclave that asks while it is being restarted waits instead
of being refused. The process ends with us, however we end: it watches a pipe whose other end only we hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from avalon_core.channel.quoting import (
    LENGTH_BYTES,
    MAX_ANSWER_BYTES,
    Vendor,
    WhoAreYou,
    decode_answer,
    encode,
    frame_length,
)
from avalon_core.errors import ChannelError

log = logging.getLogger(__name__)

READY_SECONDS = 10.0
"""Usually a third of a second; a machine under load may take longer."""

FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 5.0
HEALTHY_SECONDS = 30.0
"""A process that ran so long is restarted without delay."""

_STOP_SECONDS = 5.0
_BACKLOG = 64
_SOCKET_NAME = "quoting.sock"
_STDERR_LINE = 4096


class QuotingUnavailable(Exception):
    """The quoting process does not start; the message holds what it said."""


class QuotingManager:
    """One quoting process, kept running between :meth:`start` (or :meth:`launch`) and :meth:`stop`."""

    def __init__(self, *, seed_file: Path | None = None) -> None:
        """``seed_file``: the vendor's seed; without, the published one."""
        self._seed_file = seed_file
        # A directory of its own: the paths of Unix sockets must be short, and those of data directories need not be.
        self._directory: Path | None = None
        self._listening: socket.socket | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._last_words = ""
        self._lifeline: int | None = None
        self.restarts = 0

    @property
    def socket_path(self) -> Path:
        """Where enclaves ask.

        Raises:
            RuntimeError: not started.
        """
        if self._directory is None:
            raise RuntimeError("the quoting process was not started")
        return self._directory / _SOCKET_NAME

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> Vendor:
        """Start it, and return when it answers: :meth:`launch` and :meth:`ready`.

        Raises:
            QuotingUnavailable: it does not start.
        """
        await self.launch()
        return await self.ready()

    async def launch(self) -> Path:
        """Start it and return at once: the socket takes questions from now on, and answers come when it is ready.

        So enclaves can be started beside it, and nobody waits for both in turn.

        Returns:
            :attr:`socket_path`.

        Raises:
            OSError: no socket or no process can be made.
        """
        if self._directory is not None:
            raise RuntimeError("the quoting process was started already")
        self._directory = Path(tempfile.mkdtemp(prefix="avalon-quoting-"))
        try:
            self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listening.bind(str(self.socket_path))
            self.socket_path.chmod(0o600)
            self._listening.listen(_BACKLOG)
            await self._launch()
            self._keeping = asyncio.create_task(self._keep(), name="quoting process")
        except BaseException:
            await self.stop()
            raise
        return self.socket_path

    async def ready(self) -> Vendor:
        """Return when it answers. Where it does not, it is stopped.

        Raises:
            QuotingUnavailable: it does not start.
        """
        try:
            vendor = await self._wait_until_ready()
        except BaseException:
            await self.stop()
            raise
        log.warning(
            "SIMULATED quoting process started, protects nothing pid=%s root=%s%s",
            self.pid,
            vendor.root_sha256,
            " (published seed)" if vendor.published_seed else "",
        )
        return vendor

    async def stop(self) -> None:
        """End it, and remove its socket. May be called at any time, and twice."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
            self._keeping = None
        if self._process is not None:
            await self._end(self._process)
            self._process = None
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    async def _wait_until_ready(self) -> Vendor:
        asking = asyncio.create_task(ask_who(self.socket_path))
        assert self._process is not None
        ending = asyncio.create_task(self._process.wait())
        try:
            done, _ = await asyncio.wait(
                {asking, ending}, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if asking in done:
                return asking.result()
            reason = "it ended" if ending in done else f"not ready within {READY_SECONDS:g} s"
            # What it said on its way out comes over another pipe than the news of its end.
            await asyncio.sleep(0.05)
            said = f": {self._last_words}" if self._last_words else ""
            raise QuotingUnavailable(f"the SIMULATED quoting process did not start ({reason}){said}")
        except (ChannelError, OSError, asyncio.IncompleteReadError) as exc:
            raise QuotingUnavailable(f"the SIMULATED quoting process does not answer: {exc}") from exc
        finally:
            asking.cancel()
            ending.cancel()
            await asyncio.gather(asking, ending, return_exceptions=True)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            assert self._process is not None
            began = loop.time()
            code = await self._process.wait()
            if loop.time() - began >= HEALTHY_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            self.restarts += 1
            log.warning(
                "SIMULATED quoting process ended (%s), it is restarted in %g s: %s",
                f"exit code {code}" if code >= 0 else f"signal {-code}",
                backoff,
                self._last_words,
            )
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)
            await self._launch()

    async def _launch(self) -> None:
        assert self._listening is not None
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        theirs, self._lifeline = os.pipe()
        listening = self._listening.fileno()
        arguments = [
            sys.executable,
            "-m",
            "avalon_service.quoting",
            "--listen",
            f"fd:{listening}",
            "--lifeline",
            f"fd:{theirs}",
        ]
        if self._seed_file is not None:
            arguments += ["--seed-file", str(self._seed_file)]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *arguments,
                pass_fds=(listening, theirs),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                # A Ctrl-C at the terminal is for us: enclaves that finish may still ask for evidence.
                start_new_session=True,
                env={
                    name: os.environ[name]
                    for name in ("PATH", "PYTHONPATH", "LANG", "TZ")
                    if name in os.environ
                },
            )
        finally:
            os.close(theirs)
        assert self._process.stderr is not None
        asyncio.create_task(self._listen_to(self._process.stderr)).add_done_callback(_retrieved)

    async def _listen_to(self, stderr: asyncio.StreamReader) -> None:
        while chunk := await stderr.read(_STDERR_LINE):
            for line in chunk.decode(errors="replace").splitlines():
                self._last_words = line.strip()[:_STDERR_LINE]
                log.debug("%s", self._last_words)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        for end in (process.terminate, process.kill):
            with contextlib.suppress(ProcessLookupError):
                end()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
                    return


async def ask_who(path: Path) -> Vendor:
    """Ask a quoting process who it is.

    Raises:
        OSError: nobody listens there.
        ChannelError: what answers is no quoting process.
        asyncio.IncompleteReadError: it hung up.
    """
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(encode(WhoAreYou()))
        await writer.drain()
        header = await reader.readexactly(LENGTH_BYTES)
        answer = decode_answer(await reader.readexactly(frame_length(header, MAX_ANSWER_BYTES)))
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    if not isinstance(answer, Vendor):
        raise ChannelError(f"asked who it is, the quoting process answered {type(answer).__name__}")
    return answer


def _retrieved(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.debug("what the quoting process says is not heard any more: %s", task.exception())
