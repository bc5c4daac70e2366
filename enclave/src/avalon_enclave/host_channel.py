"""The enclave's end of the channel to its host: the only way in and out.

One thread reads; every thread may send. The messages are avalon_core's; here is only the transport.
"""

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator, Mapping

from avalon_core import allocator
from avalon_core.channel.frames import FrameDecoder
from avalon_core.channel.messages import ToEnclave, ToHost, decode_to_enclave
from avalon_core.channel.pieces import encode_pieces
from avalon_enclave.errors import StartRefused

_RECEIVE_BYTES = 64 * 1024
"""Below malloc's threshold for mapping fresh pages, which would cost more than a second read."""


_REST_SECONDS = 1.0
"""After large orders, when nothing was heard for so long, the pages that they took are given back."""


_CALL_SECONDS = 10.0
"""The host listens before it launches the enclave."""


class HostChannel:
    """A framed channel over a connected stream socket."""

    def __init__(self, connection: socket.socket, *, measured: Mapping[str, str] | None = None) -> None:
        """``measured``: what the host said at launch, which its configuration must not contradict."""
        allocator.reuse_pages()
        self._socket = connection
        self.measured: Mapping[str, str] = measured or {}
        self._send_lock = threading.Lock()
        self.before_waiting: Callable[[], None] | None = None
        """Called by the reading thread when all that came was told, before it waits for more."""

    def messages(self) -> Iterator[ToEnclave]:
        """What the host says, until it closes the channel or dies. For one thread only.

        Raises:
            ChannelError: the host broke the framing, or said something that is no message.
        """
        decoder = FrameDecoder()
        receive, receive_into = self._socket.recv, self._socket.recv_into
        rushed = False
        while True:
            rest = decoder.rest
            if self.before_waiting is not None:
                self.before_waiting()
            try:
                if rest is not None:
                    rushed = True
                elif rushed and not self._hears_within(_REST_SECONDS):
                    allocator.trim()
                    rushed = False
                if rest is None:
                    data = receive(_RECEIVE_BYTES)
                    count = len(data)
                else:
                    count = receive_into(rest)
            except ConnectionError:
                return
            if not count:
                return
            for payload in decoder.feed(data) if rest is None else decoder.filled(count):
                yield decode_to_enclave(payload)

    def _hears_within(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def send(self, message: ToHost) -> None:
        """Say something to the host. Where the host is gone nothing happens: the reading thread notices.

        Raises:
            ChannelError: the message is larger than a frame.
        """
        pieces = encode_pieces(message)
        with self._send_lock, contextlib.suppress(OSError):
            for piece in pieces:
                self._socket.sendall(piece)

    def stop_receiving(self) -> None:
        """End :meth:`messages`, from another thread. What was sent still arrives."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close the channel."""
        self._socket.close()


def open_channel(address: str, *, measured: Mapping[str, str] | None = None) -> HostChannel:
    """Open the channel that the command line names.

    ``fd:N`` is an inherited end of a Unix stream socket pair. Where a loader passes no descriptors, the enclave calls its host
    at ``unix:PATH``, ``tcp:HOST:PORT`` (of this machine) or ``vsock:CID:PORT``. ``measured``: as :class:`HostChannel` takes it.

    Raises:
        StartRefused: no such transport, or it cannot be reached.
    """
    scheme, _, rest = address.partition(":")
    opener = _OPENERS.get(scheme)
    if opener is None:
        raise StartRefused(
            f"--channel: got {address!r}, expected fd:N, where N is an inherited end of a socket pair, or unix:PATH, "
            "tcp:HOST:PORT, vsock:CID:PORT, where the host listens"
        )
    return HostChannel(opener(rest), measured=measured)


def _inherited(rest: str) -> socket.socket:
    if not rest.isdecimal():
        raise StartRefused(
            f"--channel: got fd:{rest}, expected fd:N, where N is an inherited end of a socket pair"
        )
    try:
        connection = socket.socket(fileno=int(rest))
        connection.set_inheritable(False)
    except OSError as exc:
        raise StartRefused(
            f"--channel: descriptor {rest} is not an open socket ({exc.strerror}); "
            "the host must pass one end of a socket pair to the enclave and keep the other"
        ) from exc
    if connection.family != socket.AF_UNIX or connection.type != socket.SOCK_STREAM:
        connection.close()
        raise StartRefused(f"--channel: descriptor {rest} is not a Unix stream socket")
    return connection


def _called(family: int, address: str | tuple[str, int] | tuple[int, int]) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(_CALL_SECONDS)
        connection.connect(address)
        connection.settimeout(None)
        if family == socket.AF_INET:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as exc:
        connection.close()
        raise StartRefused(f"--channel: the host does not answer at {address}: {exc}") from exc
    return connection


def _unix(rest: str) -> socket.socket:
    return _called(socket.AF_UNIX, rest)


def _tcp(rest: str) -> socket.socket:
    host, _, port = rest.rpartition(":")
    if not host or not port.isdecimal():
        raise StartRefused(f"--channel: got tcp:{rest}, expected tcp:HOST:PORT")
    return _called(socket.AF_INET, (host, int(port)))


def _vsock(rest: str) -> socket.socket:
    cid, _, port = rest.partition(":")
    if not cid.isdecimal() or not port.isdecimal():
        raise StartRefused(f"--channel: got vsock:{rest}, expected vsock:CID:PORT")
    return _called(socket.AF_VSOCK, (int(cid), int(port)))


_OPENERS: Mapping[str, Callable[[str], socket.socket]] = {
    "fd": _inherited,
    "unix": _unix,
    "tcp": _tcp,
    "vsock": _vsock,
}
