"""One run of one enclave process: started, configured, spoken to over its channel, and ended.

The enclave is launched as ``python -m avalon_enclave`` with one end of a socket pair; nothing of it is imported
here. When either side dies the other sees the end of the channel at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, cast

from avalon_core.channel.frames import FrameDecoder
from avalon_core.channel.messages import (
    Configure,
    Done,
    EvidenceRefreshed,
    Failed,
    KeySigned,
    Log,
    Parked,
    Ping,
    Pong,
    ReceiptSigned,
    RefreshEvidence,
    Shutdown,
    SignKey,
    SignReceipt,
    Started,
    ToEnclave,
    ToHost,
    decode_to_host,
)
from avalon_core.channel.pieces import encode_pieces
from avalon_core.channel.pool_messages import (
    CloseLink,
    FromPooledEnclave,
    LinkFrame,
    PoolAnswered,
    PoolCommand,
    PoolSealed,
    RecordChanged,
    Welcomed,
)
from avalon_core.errors import ChannelError
from avalon_service.corking import CorkedTransport

log = logging.getLogger(__name__)

_STDERR_LIMIT = 4096
"""Of what a starting enclave says on stderr, this much is kept for the operator."""

_RECEIVE_BYTES = 64 * 1024
"""Read at a time, but for large results."""

_KILL_GRACE_SECONDS = 5.0
_CALL_SECONDS = 120.0
"""How long a loader may take until its enclave calls: SGX has to load and measure gigabytes."""

_PARENT_CID = 3
"""The host of a Nitro enclave, as seen from inside."""


class EnclaveEnded(Exception):
    """The enclave process ended, or broke the rules of the channel and was ended."""


class EvidenceNotRefreshed(Exception):
    """The enclave's platform could not vouch for it anew; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveCommand:
    """How to launch an enclave. Everything in it may be seen in the process list."""

    role: str
    platform: str
    platform_state: Path
    name: str
    platform_config: Path | None = None
    """The file that configures the platform, where it takes one."""

    quoting_socket: Path | None = None
    """Where the quoting process of a SIMULATED machine listens."""

    simulated_kind: str = "sgx"
    """Which TEE the simulated platform imitates."""

    measured: Mapping[str, str] = field(default_factory=dict)
    """What of the configuration is measured (:func:`avalon_core.channel.launch.measured_settings`): the enclave refuses
    another."""

    launcher: tuple[str, ...] = ()
    """What stands before the enclave's arguments: a loader such as ``gramine-sgx avalon-enclave``. Empty: this Python."""

    channel: str = "fd"
    """How the enclave reaches its host: ``fd`` (inherited), or where the loader passes no descriptors ``unix``, ``tcp`` (on
    loopback), ``vsock:PORT``: the host listens, and the enclave calls."""

    def arguments(self, channel: str) -> Sequence[str]:
        """The command line; it names the role. ``channel``: as the enclave's ``--channel`` has it."""
        # -P: what lies in the directory where the service was started is no part of the enclave.
        arguments = list(self.launcher) or [sys.executable, "-P", "-m", "avalon_enclave"]
        arguments += ["--role", self.role]
        arguments += ["--platform", self.platform, "--platform-state", str(self.platform_state)]
        if self.platform_config is not None:
            arguments += ["--platform-config", str(self.platform_config)]
        if self.quoting_socket is not None:
            arguments += [
                "--quoting-socket",
                str(self.quoting_socket),
                "--simulated-kind",
                self.simulated_kind,
            ]
        for name, value in sorted(self.measured.items()):
            arguments += ["--measured", f"{name}={value}"]
        return (*arguments, "--channel", channel)


Answer = Done | Failed
"""What ends a hand-over."""

Word = Answer | Parked
"""What an enclave says of an order."""


class Handle(Protocol):
    """The process of an enclave, here or elsewhere."""

    @property
    def pid(self) -> int:
        """0: not on this machine."""

    @property
    def returncode(self) -> int | None:
        """None while it runs."""

    def kill(self) -> None:
        """End it at once; raises ProcessLookupError where it is gone."""

    async def wait(self) -> int:
        """Wait for its end; the exit code, negative for a signal."""


class EnclaveProcess(asyncio.BufferedProtocol):
    """A running enclave. Made by :func:`start`."""

    def __init__(self, process: Handle, on_word: Callable[[Word], None]) -> None:
        self._process = process
        self._on_word = on_word
        self._decoder = FrameDecoder()
        self._received_bytes = memoryview(bytearray(_RECEIVE_BYTES))
        self._rest: memoryview | None = None
        self._transport: CorkedTransport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._started: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        self._pongs: dict[int, asyncio.Future[None]] = {}
        self._sequence = 0
        self._signings = 0
        self._signing: dict[int, asyncio.Future[KeySigned]] = {}
        self._refreshes = 0
        self._refreshing: dict[int, asyncio.Future[EvidenceRefreshed]] = {}
        self._receipts = 0
        self._signing_receipts: dict[int, asyncio.Future[ReceiptSigned | Failed]] = {}
        self._commands = 0
        self._commanded: dict[int, asyncio.Future[PoolAnswered]] = {}
        self.on_pool: Callable[[FromPooledEnclave], None] = _unheard
        """Called for what an enclave of a pool says, but for the answers to commands."""

        self._closed = asyncio.Event()
        self._fault: str | None = None

    # -- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods without the base class.
        beneath = cast("asyncio.Transport", transport)
        self._transport = CorkedTransport(beneath, asyncio.get_running_loop())

    def get_buffer(self, sizehint: int) -> memoryview:
        # A large result is received where it will be read, without a copy.
        self._rest = self._decoder.rest
        return self._rest if self._rest is not None else self._received_bytes

    def buffer_updated(self, nbytes: int) -> None:
        rest, self._rest = self._rest, None
        try:
            for payload in (
                self._decoder.feed(bytes(self._received_bytes[:nbytes]))
                if rest is None
                else self._decoder.filled(nbytes)
            ):
                self._received(decode_to_host(payload))
        except ChannelError as exc:
            self._fault = f"the enclave broke the rules of the channel: {exc.message}"
            self.kill()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()
        if self._process.pid == 0:
            self._process.kill()  # an enclave elsewhere is gone with its channel
        self._writable.set()
        if not self._started.done():
            self._started.set_exception(EnclaveEnded("the enclave ended before it had started"))
        for pong in self._pongs.values():
            if not pong.done():
                pong.set_exception(EnclaveEnded("the enclave ended"))
        for signing in self._signing.values():
            if not signing.done():
                signing.set_exception(EnclaveEnded("the enclave ended"))
        for refreshing in self._refreshing.values():
            if not refreshing.done():
                refreshing.set_exception(EnclaveEnded("the enclave ended"))
        for commanded in self._commanded.values():
            if not commanded.done():
                commanded.set_exception(EnclaveEnded("the enclave ended"))
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
            for piece in encode_pieces(message):
                self._transport.write(piece)

    async def writable(self) -> None:
        """Return when the channel takes more: what limits the memory that waits for a slow enclave."""
        await self._writable.wait()

    async def ping(self, timeout: float) -> None:
        """Ask for a sign of life.

        Raises:
            TimeoutError: none came.
            EnclaveEnded: the enclave ended meanwhile.
        """
        if self._closed.is_set():
            raise EnclaveEnded("the enclave ended")
        self._sequence += 1
        sequence = self._sequence
        # One for each that asks: whoever waits must not lose the answer to whoever asks next.
        self._pongs[sequence] = asyncio.get_running_loop().create_future()
        try:
            self.send(Ping(sequence))
            async with asyncio.timeout(timeout):
                await self._pongs[sequence]
        finally:
            del self._pongs[sequence]

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

    async def refresh_evidence(self, timeout: float) -> bytes:
        """Have the enclave's platform vouch for it anew; the details of its record with the new evidence.

        Raises:
            TimeoutError: no answer came.
            EvidenceNotRefreshed: it cannot, at the moment.
            EnclaveEnded: the enclave ended first.
        """
        if self._closed.is_set():
            raise EnclaveEnded("the enclave ended")
        self._refreshes += 1
        handle = self._refreshes
        self._refreshing[handle] = asyncio.get_running_loop().create_future()
        try:
            self.send(RefreshEvidence(handle))
            async with asyncio.timeout(timeout):
                answer = await self._refreshing[handle]
        finally:
            del self._refreshing[handle]
        if answer.details is None:
            raise EvidenceNotRefreshed(answer.reason)
        return answer.details

    async def sign_receipt(self, request: bytes, result: bytes | None) -> ReceiptSigned | Failed:
        """Have the enclave sign its update of the receipt of an order that has ended; without a result, where it is None.

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

    async def command(self, verb: str, argument: bytes, timeout: float) -> PoolAnswered:
        """Have an enclave of a pool do something for the operator.

        Raises:
            TimeoutError: no answer came.
            EnclaveEnded: the enclave ended first.
        """
        if self._closed.is_set():
            raise EnclaveEnded("the enclave ended")
        self._commands += 1
        handle = self._commands
        self._commanded[handle] = asyncio.get_running_loop().create_future()
        try:
            self.send(PoolCommand(handle, verb, argument))
            async with asyncio.timeout(timeout):
                return await self._commanded[handle]
        finally:
            del self._commanded[handle]

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
            case Done() | Parked():
                self._on_word(message)
            case Failed(handle=handle) | ReceiptSigned(handle=handle):
                asked = self._signing_receipts.get(handle)
                if asked is not None:
                    if not asked.done():
                        asked.set_result(message)
                elif isinstance(message, Failed):
                    self._on_word(message)
            case Pong(sequence=sequence):
                pong = self._pongs.get(sequence)
                if pong is not None and not pong.done():
                    pong.set_result(None)
            case KeySigned(handle=handle):
                signing = self._signing.get(handle)
                if signing is not None and not signing.done():
                    signing.set_result(message)
            case EvidenceRefreshed(handle=handle):
                refreshing = self._refreshing.get(handle)
                if refreshing is not None and not refreshing.done():
                    refreshing.set_result(message)
            case LinkFrame() | CloseLink() | PoolSealed() | RecordChanged() | Welcomed():
                self.on_pool(message)
            case PoolAnswered(handle=handle):
                commanded = self._commanded.get(handle)
                if commanded is not None and not commanded.done():
                    commanded.set_result(message)
            case Started():
                if not self._started.done():
                    self._started.set_result(message)
            case Log(level=level, event=event, fields=fields):
                words = " ".join(f"{name}={value}" for name, value in fields.items())
                log.log(_LEVELS.get(level, logging.INFO), "enclave: %s %s", event, words)


def _unheard(message: FromPooledEnclave) -> None:
    log.warning("an enclave that is in no pool said %s", type(message).__name__)


_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


async def start(
    command: EnclaveCommand,
    configure: Configure,
    on_word: Callable[[Word], None],
    timeout: float,
    *,
    on_pool: Callable[[EnclaveProcess, FromPooledEnclave], None] | None = None,
) -> tuple[EnclaveProcess, Started]:
    """Launch an enclave and wait until it is ready.

    Args:
        command: what to launch.
        configure: sent first.
        on_word: called for every Done, Failed and Parked.
        timeout: seconds until it must be ready.
        on_pool: called for what an enclave of a pool says besides, and with the enclave that says it.

    Raises:
        EnclaveEnded: it did not start; the message holds what it said on stderr.
    """
    process, ours = await launch_on(command)
    said = asyncio.create_task(_first_words(process))
    try:
        return await adopt(process, ours, configure, on_word, timeout, on_pool=on_pool)
    except EnclaveEnded as exc:
        words = (await said).strip()
        raise EnclaveEnded(f"the enclave did not start ({exc}){': ' + words if words else ''}") from exc


async def launch_on(command: EnclaveCommand) -> tuple[asyncio.subprocess.Process, socket.socket]:
    """Launch an enclave; the process, and the host's end of its channel. Its stderr is a pipe."""
    if command.channel == "fd":
        ours, theirs = socket.socketpair()
        with theirs:
            return await _launch(command, f"fd:{theirs.fileno()}", (theirs.fileno(),)), ours
    with listen_for_enclave(command.channel) as (listening, address):
        process = await _launch(command, address, ())
        accepting = asyncio.ensure_future(asyncio.get_running_loop().sock_accept(listening))
        ending = asyncio.ensure_future(process.wait())
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                await asyncio.wait({accepting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not accepting.done():
                raise EnclaveEnded("the enclave ended before it had called")
            return process, accepting.result()[0]
        except (TimeoutError, EnclaveEnded) as exc:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            words = (await _first_words(process)).strip()
            raise EnclaveEnded(
                f"the enclave did not call at {address}{': ' + words if words else ''}"
            ) from exc
        finally:
            accepting.cancel()
            ending.cancel()


async def _launch(
    command: EnclaveCommand, channel: str, descriptors: tuple[int, ...]
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command.arguments(channel),
        pass_fds=descriptors,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        # Only what Python itself needs: an operator's secrets in the environment are none of the enclave's
        # business, and the environment would be part of what an attacker controls.
        env={name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "TZ") if name in os.environ},
    )


@contextlib.contextmanager
def listen_for_enclave(channel: str) -> Iterator[tuple[socket.socket, str]]:
    """Listen where one enclave is to call: the socket, and what the enclave is given as its ``--channel``.

    Whoever calls first is taken for the enclave. That is no risk to anybody but the service's availability: what an enclave
    is, its evidence says.

    Raises:
        EnclaveEnded: no such channel, or it cannot be listened on.
    """
    kind, _, rest = channel.partition(":")
    folder = tempfile.mkdtemp(prefix="avalon-channel-") if kind == "unix" else None
    try:
        if kind == "tcp":
            listening = socket.create_server(("127.0.0.1", int(rest or 0)), backlog=1)
            address = f"tcp:127.0.0.1:{listening.getsockname()[1]}"
        elif kind == "unix" and folder is not None:
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listening.bind(f"{folder}/enclave")
            listening.listen(1)
            address = f"unix:{folder}/enclave"
        elif kind == "vsock":
            listening = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            listening.bind((socket.VMADDR_CID_ANY, int(rest)))
            listening.listen(1)
            address = f"vsock:{_PARENT_CID}:{rest}"
        else:
            raise EnclaveEnded(f"no such channel: got {channel!r}, expected fd, unix, tcp or vsock:PORT")
    except (OSError, ValueError) as exc:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise EnclaveEnded(f"the channel {channel!r} cannot be listened on: {exc}") from exc
    try:
        listening.setblocking(False)
        yield listening, address
    finally:
        listening.close()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


async def adopt(
    process: Handle,
    channel: socket.socket,
    configure: Configure,
    on_word: Callable[[Word], None],
    timeout: float,
    *,
    on_pool: Callable[[EnclaveProcess, FromPooledEnclave], None] | None = None,
) -> tuple[EnclaveProcess, Started]:
    """Take over the channel of an enclave that was launched, and wait until it is ready. Arguments as of :func:`start`.

    Raises:
        EnclaveEnded: it ended first, or was not ready in time and was ended.
    """
    loop = asyncio.get_running_loop()
    _, enclave = await loop.create_connection(lambda: EnclaveProcess(process, on_word), sock=channel)
    if on_pool is not None:
        enclave.on_pool = partial(on_pool, enclave)
    try:
        async with asyncio.timeout(timeout):
            enclave.send(configure)
            return enclave, await enclave.started()
    except (TimeoutError, EnclaveEnded) as exc:
        enclave.kill()
        await process.wait()
        reason = f"not ready within {timeout:g} s" if isinstance(exc, TimeoutError) else await enclave.ended()
        raise EnclaveEnded(reason) from exc
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
