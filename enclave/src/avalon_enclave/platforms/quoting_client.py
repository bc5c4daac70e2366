"""Asks the quoting process of a SIMULATED machine for evidence, as code in a real TEE asks its machine's.

One connection for each question: evidence is asked for at the start and seldom after, and a quoting process that was
restarted meanwhile makes no difference.
"""

import contextlib
import socket
import time
from pathlib import Path

from avalon_core.channel.quoting import (
    LENGTH_BYTES,
    MAX_ANSWER_BYTES,
    Answer,
    Quote,
    QuoteRequest,
    Refused,
    Request,
    decode_answer,
    encode,
    frame_length,
)
from avalon_core.errors import ChannelError
from avalon_enclave.errors import StartRefused

ANSWER_SECONDS = 10.0
"""For everything, from the first try to connect to the last byte."""


def ask_for_quote(path: Path, request: QuoteRequest, *, seconds: float = ANSWER_SECONDS) -> Quote:
    """Have the quoting process at a socket vouch for us.

    Raises:
        StartRefused: nobody answers there, or it refuses; the message says what to do.
    """
    try:
        answer = _ask(path, request, time.monotonic() + seconds)
    except (OSError, ChannelError) as exc:
        raise StartRefused(
            f"--quoting-socket: the SIMULATED quoting process at {path} gave no answer within {seconds:g} s ({exc}); "
            "start one: python -m avalon_service.quoting --socket PATH"
        ) from exc
    if isinstance(answer, Refused):
        raise StartRefused(
            f"the SIMULATED quoting process refuses to vouch for this enclave: {answer.message}"
        )
    if not isinstance(answer, Quote):
        raise StartRefused(
            f"--quoting-socket: got {type(answer).__name__} from {path}, expected Quote: it is no quoting process"
        )
    return answer


def _ask(path: Path, request: Request, deadline: float) -> Answer:
    with contextlib.closing(_connect(path, deadline)) as connection:
        _send(connection, encode(request), deadline)
        header = _receive(connection, LENGTH_BYTES, deadline)
        return decode_answer(_receive(connection, frame_length(header, MAX_ANSWER_BYTES), deadline))


def _connect(path: Path, deadline: float) -> socket.socket:
    """Connect. Whoever launches the quoting process listens before it does, so a process that is still starting is waited
    for in the socket's queue."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_left(deadline))
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def _send(connection: socket.socket, data: bytes, deadline: float) -> None:
    connection.settimeout(_left(deadline))
    connection.sendall(data)


def _receive(connection: socket.socket, count: int, deadline: float) -> bytes:
    received = bytearray()
    while len(received) < count:
        connection.settimeout(_left(deadline))
        data = connection.recv(count - len(received))
        if not data:
            raise ChannelError("it hung up in the middle of its answer")
        received += data
    return bytes(received)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("too slow")
    return left
