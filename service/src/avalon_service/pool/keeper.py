"""Keeps one enclave process of a pool running: started, restarted with a growing pause, ended in order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from contextlib import suppress

from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from avalon_core.channel.messages import Configure, Started
from avalon_core.channel.pool_messages import FromPooledEnclave
from avalon_service.hosts.process import EnclaveCommand, EnclaveEnded, EnclaveProcess, Word, start

log = logging.getLogger(__name__)

_SHUTDOWN_SECONDS = 10.0
_STABLE_SECONDS = 10.0
"""An enclave that ran this long is restarted at once; the back-off is for those that die at the start."""


_LONGEST_PAUSE_SECONDS = 1.5
"""Short: another enclave of the pool may wait for this one, a restored KME for a peer that can say that its seal is the
newest. One that dies at every start costs half a second of CPU in two."""


class _EndedSoon(Exception):
    """The enclave ended soon after its start: restart it, but not at once."""


class Keeper:
    """One place for one enclave. Subclasses say what to start and what to do with it."""

    role = ""

    def __init__(self, name: str, *, start_timeout: float) -> None:
        """``name``: for the log and status pages: ``kme-1``."""
        self.name = name
        self.enclave: EnclaveProcess | None = None
        self.measurement = ""
        self.simulated: bool | None = None
        self.platform = ""
        self.restarts = 0
        self.last_end = ""
        self.state = "starting"
        self._start_timeout = start_timeout
        self._stopping = asyncio.Event()

    # -- what differs

    def command(self) -> EnclaveCommand:
        """How to launch it."""
        raise NotImplementedError

    def configuration(self) -> Configure:
        """What it is told first."""
        raise NotImplementedError

    async def attend(self, enclave: EnclaveProcess, started: Started, stopping: asyncio.Event) -> None:
        """See to a running enclave until it ends, is to be replaced (return), or ``stopping`` is set.

        Raises:
            EnclaveEnded: it ended by itself, or gave no sign of life.
        """
        raise NotImplementedError

    def heard(self, word: Word) -> None:
        """What the enclave says of orders."""

    async def tidy(self) -> None:
        """After every end of the enclave."""

    # -- what is the same

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self.enclave.pid if self.enclave is not None else None

    def stop(self) -> None:
        """Ask for an orderly end."""
        self._stopping.set()

    async def run(self) -> None:
        """Keep an enclave running until :meth:`stop`.

        Raises:
            EnclaveEnded: the first enclave did not even start.
        """
        while not self._stopping.is_set():
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(_EndedSoon),
                wait=wait_exponential_jitter(multiplier=0.05, max=_LONGEST_PAUSE_SECONDS, jitter=0.05),
                sleep=self._pause,
            ):
                with attempt:
                    if not self._stopping.is_set():
                        await self._run_and_report()
        self.state = "stopped"

    async def _run_and_report(self) -> None:
        began = time.monotonic()
        try:
            await self.run_once()
            return
        except EnclaveEnded as exc:
            self.last_end = str(exc)
            if self.measurement == "":
                raise
        if self._stopping.is_set():
            return
        self.restarts += 1
        self.state = "restarting"
        log.error("enclave is restarted enclave=%s reason=%s", self.name, self.last_end)
        if time.monotonic() - began < _STABLE_SECONDS:
            raise _EndedSoon

    async def run_once(self) -> None:
        """One run of one enclave.

        Raises:
            EnclaveEnded: it ended by itself, or did not start.
        """
        self.state = "starting"
        enclave, started = await self.launch()
        self.enclave = enclave
        self.measurement, self.simulated, self.platform = (
            started.measurement,
            started.simulated,
            started.platform,
        )
        log.info(
            "enclave of a pool runs%s enclave=%s pid=%d platform=%s measurement=%s",
            " (SIMULATED: protects nothing)" if started.simulated else "",
            self.name,
            enclave.pid,
            started.platform,
            started.measurement,
        )
        try:
            await self.attend(enclave, started, self._stopping)
            await enclave.shut_down(_SHUTDOWN_SECONDS)
        finally:
            self.enclave = None
            self.state = "restarting"
            enclave.kill()
            await self.tidy()

    async def launch(self) -> tuple[EnclaveProcess, Started]:
        """Start the enclave here.

        Raises:
            EnclaveEnded: it did not start.
        """
        return await start(
            self.command(), self.configuration(), self.heard, self._start_timeout, on_pool=self.said
        )

    def said(self, enclave: EnclaveProcess, message: FromPooledEnclave) -> None:
        """What the enclave says besides, from its first word on."""

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


async def until_first(*awaited: Awaitable[object]) -> None:
    """Wait until one of them is done; the others are cancelled. Its exception, if it has one, is raised.

    Of several that end at one moment, as cause and consequence do, the first here is told.
    """
    tasks = [asyncio.ensure_future(one) for one in awaited]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
