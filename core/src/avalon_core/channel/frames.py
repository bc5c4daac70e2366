"""Frames: uint32 length (big endian), then that many bytes. No I/O here."""

from collections.abc import Iterator

from avalon_core.errors import ChannelError
from avalon_core.protocol.limits import MAX_FRAME_BYTES

_LENGTH_BYTES = 4

_APART_BYTES = 128 * 1024
"""A frame from this size on is received into a buffer of its own. Smaller ones come many to a read."""


def frame_header(length: int) -> bytes:
    """What goes before a payload of so many bytes.

    Raises:
        ChannelError: over the cap.
    """
    if length > MAX_FRAME_BYTES:
        raise ChannelError(f"a frame of {length} bytes is over the cap of {MAX_FRAME_BYTES}")
    return length.to_bytes(_LENGTH_BYTES, "big")


def encode_frame(payload: bytes) -> bytes:
    """One frame.

    Raises:
        ChannelError: over the cap.
    """
    return frame_header(len(payload)) + payload


class FrameDecoder:
    """Cuts a byte stream into payloads.

    Whoever reads gives it what arrived (`feed`). While `rest` is not None, it may instead read straight into that and
    say how much came (`filled`): this spares a large frame its copies.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._apart: bytearray | None = None
        self._have = 0
        """Bytes of the frame that is received apart."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what arrived, at once; then yield every payload that is complete, each exactly once.

        Raises:
            ChannelError: the peer announces a frame over the cap; the stream is lost.
        """
        apart = self._apart
        if apart is not None:
            take = min(len(data), len(apart) - self._have)
            apart[self._have : self._have + take] = data[:take]
            self._have += take
            if take < len(data):
                self._buffer += data[take:]
        else:
            self._buffer += data
        return self._cut()

    @property
    def rest(self) -> memoryview | None:
        """The room for what is still to come of a large frame; None where no large frame is under way."""
        if self._apart is None or self._have == len(self._apart):
            return None
        return memoryview(self._apart)[self._have :]

    def filled(self, count: int) -> Iterator[bytes]:
        """So many bytes were read into `rest`; then as `feed`."""
        self._have += count
        return self._cut()

    def _cut(self) -> Iterator[bytes]:
        apart = self._apart
        if apart is not None:
            if self._have < len(apart):
                return
            self._apart = None
            # Handed out as it is: nobody else has it.
            yield apart  # type: ignore[misc]
        buffer = self._buffer
        while len(buffer) >= _LENGTH_BYTES:
            length = int.from_bytes(buffer[:_LENGTH_BYTES], "big")
            if length > MAX_FRAME_BYTES:
                raise ChannelError(
                    f"the peer announces a frame of {length} bytes; the cap is {MAX_FRAME_BYTES}"
                )
            end = _LENGTH_BYTES + length
            if len(buffer) < end:
                if length >= _APART_BYTES:
                    self._set_apart(length)
                return
            with memoryview(buffer) as view:
                payload = bytes(view[_LENGTH_BYTES:end])
            # Cheap: a bytearray gives up its front by moving its start, and shrinks by halves.
            del buffer[:end]
            yield payload

    def _set_apart(self, length: int) -> None:
        self._apart = bytearray(length)
        self._have = len(self._buffer) - _LENGTH_BYTES
        self._apart[: self._have] = self._buffer[_LENGTH_BYTES:]
        self._buffer.clear()

    @property
    def is_empty(self) -> bool:
        """Nothing is left over: an end of the stream here is a clean one."""
        return not self._buffer and self._apart is None
