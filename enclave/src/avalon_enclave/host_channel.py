"""The enclave's end of the channel to its host: the only way in and out.

One thread reads; every thread may send. The messages are avalon_core's; here is only the transport.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator

from avalon_core.channel.frames import FrameDecoder, encode_frame
from avalon_core.channel.messages import ToEnclave, ToHost, decode_to_enclave, encode_message
from avalon_enclave.errors import StartRefused

_RECEIVE_BYTES = 64 * 1024
"""Below malloc's threshold for mapping fresh pages, which would cost more than a second read."""


class HostChannel:
    """A framed channel over a connected stream socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._send_lock = threading.Lock()

    def messages(self) -> Iterator[ToEnclave]:
        """What the host says, until it closes the channel or dies. For one thread only.

        Raises:
            ChannelError: the host broke the framing, or said something that is no message.
        """
        decoder = FrameDecoder()
        receive = self._socket.recv
        while True:
            try:
                data = receive(_RECEIVE_BYTES)
            except ConnectionError:
                return
            if not data:
                return
            for payload in decoder.feed(data):
                yield decode_to_enclave(payload)

    def send(self, message: ToHost) -> None:
        """Say something to the host. Where the host is gone nothing happens: the reading thread notices.

        Raises:
            ChannelError: the message is larger than a frame.
        """
        frame = encode_frame(encode_message(message))
        with self._send_lock, contextlib.suppress(OSError):
            self._socket.sendall(frame)

    def stop_receiving(self) -> None:
        """End :meth:`messages`, from another thread. What was sent still arrives."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close the channel."""
        self._socket.close()


def open_channel(address: str) -> HostChannel:
    """Open the channel that the command line names: ``fd:N``, an inherited end of a Unix stream socket pair.

    Other transports (``unix:PATH``, ``vsock:CID:PORT``) have their place here.

    Raises:
        StartRefused: no such transport, or not such a descriptor.
    """
    scheme, _, rest = address.partition(":")
    if scheme != "fd" or not rest.isdecimal():
        raise StartRefused(
            f"--channel: got {address!r}, expected fd:N, where N is an inherited end of a socket pair"
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
    return HostChannel(connection)
