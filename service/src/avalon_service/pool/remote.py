"""Enclaves of a pool on other machines: the gate where they come in, and the host that brings them.

A connection carries an enclave's channel as it is, so an enclave elsewhere is to the pool what one here is, but that nobody
here can start or kill it: when the connection ends, it is gone, and its host brings it back.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from avalon_core.channel.joining import (
    NONCE_BYTES,
    Enter,
    Entered,
    Joining,
    JoiningReader,
    Knock,
    TurnedAway,
    encode_joining,
    mac_of,
)
from avalon_core.errors import ChannelError
from avalon_service.hosts.process import EnclaveCommand, launch_on

log = logging.getLogger(__name__)

_JOIN_SECONDS = 10.0
_BACKLOG = 64
_MAX_JOINING = 64
"""Connections that have not joined yet; more are closed at once."""

_PUMP_BYTES = 256 * 1024
TOKEN_FILE = "pool-token"  # noqa: S105 a file's name
_TOKEN_BYTES = 32


class JoinRefused(Exception):
    """The pool does not take this enclave; the message says why."""

    def __init__(self, message: str, *, final: bool = True) -> None:
        """``final``: trying again is of no use."""
        super().__init__(message)
        self.final = final


OnJoined = Callable[[Enter, socket.socket], None]
Places = Callable[[Enter], Mapping[str, str]]
"""What an enclave is launched with that may join; raises JoinRefused."""


def open_pool_token(directory: Path) -> bytes:
    """The token that lets hosts of other machines join; made where it is missing, readable by its owner only."""
    path = directory / TOKEN_FILE
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(_TOKEN_BYTES) + "\n")
    return read_pool_token(path)


def read_pool_token(path: Path) -> bytes:
    """Read a token's file.

    Raises:
        JoinRefused: it is none.
    """
    try:
        return bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as exc:
        raise JoinRefused(
            f"{path} is no pool token: copy the file {TOKEN_FILE} of the pool's data directory"
        ) from exc


class Gate:
    """Listens for hosts of other machines."""

    def __init__(self, *, token: bytes, places: Places, on_joined: OnJoined) -> None:
        """
        Args:
            token: whoever has it may join.
            places: asked of each enclave that wants to; raises JoinRefused.
            on_joined: given the connection of each that was taken; its next bytes are the enclave's.
        """
        self._token = token
        self._places = places
        self._on_joined = on_joined
        self._listening: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None

    def open(self, host: str, port: int) -> tuple[str, int]:
        """Listen; where.

        Raises:
            OSError
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._listening.setblocking(False)
        self._accepting = asyncio.create_task(self._accept(self._listening), name="pool gate")
        address = self._listening.getsockname()
        return str(address[0]), int(address[1])

    async def close(self) -> None:
        """Take nobody any more."""
        for task in (self._accepting, *self._tasks):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        if self._listening is not None:
            self._listening.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listening)
            connection.setblocking(False)
            if len(self._tasks) >= _MAX_JOINING:
                connection.close()
                continue
            task = asyncio.create_task(self._let_in(connection), name="pool gate: joining")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _let_in(self, connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(_JOIN_SECONDS):
                enter = await self._judge(connection)
        except (JoinRefused, ChannelError, OSError, TimeoutError) as exc:
            log.warning("an enclave of another machine was turned away reason=%s", exc)
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await asyncio.get_running_loop().sock_sendall(
                        connection,
                        encode_joining(TurnedAway(str(exc)[:256], final=getattr(exc, "final", False))),
                    )
            connection.close()
            return
        except BaseException:
            connection.close()
            raise
        self._on_joined(enter, connection)

    async def _judge(self, connection: socket.socket) -> Enter:
        loop = asyncio.get_running_loop()
        nonce = secrets.token_bytes(NONCE_BYTES)
        await loop.sock_sendall(connection, encode_joining(Knock(nonce)))
        enter = await _read(connection)
        if not isinstance(enter, Enter):
            raise JoinRefused("expected who wants to join")
        expected = mac_of(self._token, nonce, role=enter.role, name=enter.name, worker_name=enter.worker_name)
        if not hmac.compare_digest(expected, enter.mac):
            raise JoinRefused("wrong pool token")
        measured = self._places(enter)
        await loop.sock_sendall(connection, encode_joining(Entered(dict(measured))))
        return enter


async def _read(connection: socket.socket) -> Joining:
    """One message. Byte by byte at its end, so that nothing of what follows is taken."""
    loop = asyncio.get_running_loop()
    reader = JoiningReader()
    length = await _exactly(loop, connection, 4)
    reader.feed(length)
    size = int.from_bytes(length, "big")
    message = reader.feed(await _exactly(loop, connection, size) if size <= 16 * 1024 else bytes(17 * 1024))
    if message is None:
        raise ChannelError("an empty message")
    return message


async def _exactly(loop: asyncio.AbstractEventLoop, connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await loop.sock_recv(connection, count - len(data))
        if not more:
            raise ChannelError("the connection ended before the peer had joined")
        data += more
    return data


class RemoteHandle:
    """The process of an enclave on another machine, as far as it concerns anybody here: it ends with its connection.

    Satisfies :class:`avalon_service.hosts.process.Handle`.
    """

    pid = 0

    def __init__(self) -> None:
        self._ended = asyncio.Event()
        self.returncode: int | None = None

    def kill(self) -> None:
        """The channel is cut with it: the enclave's host ends it then."""
        self.returncode = 0
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        return 0


class _Ended(Exception):
    """The connection or the enclave ended: begin anew, after a while."""


class RemoteHost:
    """Brings one enclave of this machine to a pool of another."""

    def __init__(
        self,
        *,
        address: tuple[str, int],
        token: bytes,
        role: str,
        name: str,
        worker_name: str,
        command: Callable[[Mapping[str, str]], EnclaveCommand],
    ) -> None:
        """
        Args:
            address: of the pool's gate.
            token: the pool's.
            role: ``kme`` or ``wpe``.
            name: of the enclave.
            worker_name: of the pool.
            command: (measured settings) to how the enclave is launched here.
        """
        self._address = address
        self._token = token
        self._role = role
        self._name = name
        self._worker_name = worker_name
        self._command = command
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ask for the end."""
        self._stopping.set()

    async def run(self, on_joined: Callable[[int], None]) -> None:
        """Keep the enclave in the pool until :meth:`stop`.

        Args:
            on_joined: called with the enclave's pid each time it was taken.

        Raises:
            JoinRefused: the pool does not take it, and will not.
        """
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(_Ended),
            wait=wait_exponential_jitter(multiplier=0.2, max=15.0, jitter=0.2),
            sleep=self._pause,
        ):
            with attempt:
                if self._stopping.is_set():
                    return
                await self._bring(on_joined)
                if not self._stopping.is_set():
                    raise _Ended

    async def _bring(self, on_joined: Callable[[int], None]) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_JOIN_SECONDS):
                reader, writer = await asyncio.open_connection(*self._address)
        except (OSError, TimeoutError) as exc:
            log.warning("the pool is not reached address=%s:%d reason=%s", *self._address, exc)
            raise _Ended from exc
        try:
            measured = await self._join(reader, writer)
            process, ours = await launch_on(self._command(measured))
            on_joined(process.pid)
            enclave_reader, enclave_writer = await asyncio.open_unix_connection(sock=ours)
            pumps = {
                loop.create_task(_pump(reader, enclave_writer)),
                loop.create_task(_pump(enclave_reader, writer)),
                loop.create_task(self._stopping.wait()),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in pumps:
                    task.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                enclave_writer.close()
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                log.info("enclave has left the pool name=%s", self._name)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Mapping[str, str]:
        try:
            async with asyncio.timeout(_JOIN_SECONDS):
                knock = await _read_stream(reader)
                if not isinstance(knock, Knock):
                    raise _Ended
                mac = mac_of(
                    self._token, knock.nonce, role=self._role, name=self._name, worker_name=self._worker_name
                )
                writer.write(encode_joining(Enter(self._role, self._name, self._worker_name, mac)))
                answer = await _read_stream(reader)
        except (OSError, EOFError, ChannelError, TimeoutError) as exc:
            raise _Ended from exc
        if isinstance(answer, TurnedAway) and not answer.final:
            log.warning("the pool does not take this enclave now reason=%s", answer.reason)
            raise _Ended
        if isinstance(answer, TurnedAway):
            raise JoinRefused(f"the pool does not take this enclave: {answer.reason}")
        if not isinstance(answer, Entered):
            raise _Ended
        return answer.measured

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


async def _read_stream(reader: asyncio.StreamReader) -> Joining:
    joining = JoiningReader()
    length = await reader.readexactly(4)
    joining.feed(length)
    size = int.from_bytes(length, "big")
    message = joining.feed(await reader.readexactly(min(size, 17 * 1024)))
    if message is None:
        raise ChannelError("an empty message")
    return message


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(_PUMP_BYTES):
            writer.write(data)
            await writer.drain()
