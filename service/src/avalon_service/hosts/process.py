"""One run of one enclave process: started, configured, spoken to over its channel, and ended.

The enclave is launched as ``python -m avalon_enclave`` with one end of a socket pair; nothing of it is imported
here. When either side dies the other sees the end of the channel at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from avalon_core.channel.frames import FrameDecoder, encode_frame
from avalon_core.channel.messages import (
    Configure,
    Done,
    Failed,
    KeySigned,
    Log,
    Ping,
    Pong,
    ReceiptSigned,
    Shutdown,
    SignKey,
    SignReceipt,
    Started,
    ToEnclave,
    ToHost,
    decode_to_host,
    encode_message,
)
from avalon_core.errors import ChannelError
from avalon_service.corking import CorkedTransport

log = logging.getLogger(__name__)

_STDERR_LIMIT = 4096
"""Of what a starting enclave says on stderr, this much is kept for the operator."""

_KILL_GRACE_SECONDS = 5.0


class EnclaveEnded(Exception):
    """The enclave process ended, or broke the rules of the channel and was ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveCommand:
    """How to launch an enclave. Everything in it may be seen in the process list."""

    role: str
    platform: str
    platform_state: Path
    name: str

    def arguments(self, channel_fd: int) -> Sequence[str]:
        """The command line; it names the role."""
        return (
            sys.executable,
            "-m",
            "avalon_enclave",
            "--role",
            self.role,
            "--platform",
            self.platform,
            "--platform-state",
            str(self.platform_state),
            "--channel",
            f"fd:{channel_fd}",
        )


Answer = Done | Failed


class EnclaveProcess(asyncio.Protocol):
    """A running enclave. Made by :func:`start`."""

    def __init__(self, process: asyncio.subprocess.Process, on_answer: Callable[[Answer], None]) -> None:
        self._process = process
        self._on_answer = on_answer
        self._decoder = FrameDecoder()
        self._transport: CorkedTransport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._started: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        self._pong: asyncio.Future[None] | None = None
        self._sequence = 0
        self._signings = 0
        self._signing: dict[int, asyncio.Future[KeySigned]] = {}
        self._receipts = 0
        self._signing_receipts: dict[int, asyncio.Future[ReceiptSigned | Failed]] = {}
        self._closed = asyncio.Event()
        self._fault: str | None = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods without the base class.
        beneath = cast("asyncio.Transport", transport)
        self._transport = CorkedTransport(beneath, asyncio.get_running_loop())

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._decoder.feed(data):
                self._received(decode_to_host(payload))
        except ChannelError as exc:
            self._fault = f"the enclave broke the rules of the channel: {exc.message}"
            self.kill()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()
        self._writable.set()
        if not self._started.done():
            self._started.set_exception(EnclaveEnded("the enclave ended before it had started"))
        if self._pong is not None and not self._pong.done():
            self._pong.cancel()
        for signing in self._signing.values():
            if not signing.done():
                signing.set_exception(EnclaveEnded("the enclave ended"))
        for asked in self._signing_receipts.values():
            if not asked.done():
                asked.set_exception(EnclaveEnded("the enclave ended"))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # -- the host's side

    @property
    def pid(self) -> int:
        """Of the enclave process."""
        return self._process.pid

    def send(self, message: ToEnclave) -> None:
        """Send a message; a message to an enclave that has ended is dropped (its end is reported by :meth:`ended`).

        Raises:
            ChannelError: the message is too large for a frame.
        """
        if self._transport is not None and not self._closed.is_set():
            self._transport.write(encode_frame(encode_message(message)))

    async def writable(self) -> None:
        """Return when the channel takes more: what limits the memory that waits for a slow enclave."""
        await self._writable.wait()

    async def ping(self, timeout: float) -> None:
        """Ask for a sign of life.

        Raises:
            TimeoutError: none came.
            EnclaveEnded: the enclave ended meanwhile.
        """
        self._sequence += 1
        self._pong = asyncio.get_running_loop().create_future()
        self.send(Ping(self._sequence))
        try:
            async with asyncio.timeout(timeout):
                await self._pong
        except asyncio.CancelledError:
            if self._closed.is_set():
                raise EnclaveEnded("the enclave ended") from None
            raise

    async def sign_key(self, tag: str, timeout: float) -> KeySigned:
        """Have the enclave vouch for its encryption key.

        Raises:
            TimeoutError: no answer came.
            EnclaveEnded: the enclave ended first.
        """
        if self._closed.is_set():
            raise EnclaveEnded("the enclave ended")
        self._signings += 1
        handle = self._signings
        self._signing[handle] = asyncio.get_running_loop().create_future()
        try:
            self.send(SignKey(handle, tag))
            async with asyncio.timeout(timeout):
                return await self._signing[handle]
        finally:
            del self._signing[handle]

    async def sign_receipt(self, request: bytes, result: bytes) -> ReceiptSigned | Failed:
        """Have the enclave sign its update of the receipt of an order that it completed.

        Raises:
            ChannelError: the order and its result are too large for a frame.
            EnclaveEnded: the enclave ended first.
        """
        if self._closed.is_set():
            raise EnclaveEnded("the enclave ended")
        self._receipts += 1
        handle = -self._receipts  # orders have positive ones
        self._signing_receipts[handle] = asyncio.get_running_loop().create_future()
        try:
            await self.writable()
            self.send(SignReceipt(handle, request, result))
            return await self._signing_receipts[handle]
        finally:
            del self._signing_receipts[handle]

    async def ended(self) -> str:
        """Wait for the end of the process; how it ended, in words."""
        await self._closed.wait()
        try:
            async with asyncio.timeout(_KILL_GRACE_SECONDS):
                code = await self._process.wait()
        except TimeoutError:
            self.kill()
            code = await self._process.wait()
        if self._fault:
            return self._fault
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"

    def kill(self) -> None:
        """End it at once."""
        if self._process.returncode is None:
            try:
                self._process.kill()
            except ProcessLookupError:
                log.debug("enclave already gone pid=%d", self.pid)
        if self._transport is not None:
            self._transport.abort()

    async def shut_down(self, timeout: float) -> None:
        """Let it finish what it processes, then end it; kill it after ``timeout`` seconds."""
        self.send(Shutdown())
        try:
            async with asyncio.timeout(timeout):
                await self._process.wait()
        except TimeoutError:
            log.warning("enclave did not shut down in time and is killed pid=%d", self.pid)
        self.kill()
        await self._process.wait()

    async def started(self) -> Started:
        """Wait for the enclave's own word that it is ready.

        Raises:
            EnclaveEnded: it ended first.
        """
        return await self._started

    def _received(self, message: ToHost) -> None:
        match message:
            case Done():
                self._on_answer(message)
            case Failed(handle=handle) | ReceiptSigned(handle=handle):
                asked = self._signing_receipts.get(handle)
                if asked is not None:
                    if not asked.done():
                        asked.set_result(message)
                elif isinstance(message, Failed):
                    self._on_answer(message)
            case Pong(sequence=sequence):
                if sequence == self._sequence and self._pong is not None and not self._pong.done():
                    self._pong.set_result(None)
            case KeySigned(handle=handle):
                signing = self._signing.get(handle)
                if signing is not None and not signing.done():
                    signing.set_result(message)
            case Started():
                if not self._started.done():
                    self._started.set_result(message)
            case Log(level=level, event=event, fields=fields):
                words = " ".join(f"{name}={value}" for name, value in fields.items())
                log.log(_LEVELS.get(level, logging.INFO), "enclave: %s %s", event, words)


_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


async def start(
    command: EnclaveCommand, configure: Configure, on_answer: Callable[[Answer], None], timeout: float
) -> tuple[EnclaveProcess, Started]:
    """Launch an enclave and wait until it is ready.

    Args:
        command: what to launch.
        configure: sent first.
        on_answer: called for every Done and Failed.
        timeout: seconds until it must be ready.

    Raises:
        EnclaveEnded: it did not start; the message holds what it said on stderr.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            *command.arguments(theirs.fileno()),
            pass_fds=(theirs.fileno(),),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # Only what Python itself needs: an operator's secrets in the environment are none of the enclave's
            # business, and the environment would be part of what an attacker controls.
            env={
                name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "TZ") if name in os.environ
            },
        )
    loop = asyncio.get_running_loop()
    _, enclave = await loop.create_connection(lambda: EnclaveProcess(process, on_answer), sock=ours)
    said = asyncio.create_task(_first_words(process))
    try:
        async with asyncio.timeout(timeout):
            enclave.send(configure)
            return enclave, await enclave.started()
    except (TimeoutError, EnclaveEnded) as exc:
        enclave.kill()
        await process.wait()
        words = (await said).strip()
        reason = f"not ready within {timeout:g} s" if isinstance(exc, TimeoutError) else await enclave.ended()
        raise EnclaveEnded(f"the enclave did not start ({reason}){': ' + words if words else ''}") from exc
    except BaseException:
        enclave.kill()
        raise


async def _first_words(process: asyncio.subprocess.Process) -> str:
    """What a starting enclave says on stderr. It closes stderr when it is ready, before it sees any order."""
    assert process.stderr is not None
    kept = b""
    while chunk := await process.stderr.read(_STDERR_LIMIT):
        kept = (kept + chunk)[-_STDERR_LIMIT:]
    return kept.decode(errors="replace")
