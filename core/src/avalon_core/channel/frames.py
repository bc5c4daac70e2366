"""Frames: uint32 length (big endian), then that many bytes. No I/O here."""

from collections.abc import Iterator

from avalon_core.errors import ChannelError
from avalon_core.protocol.limits import MAX_FRAME_BYTES

_LENGTH_BYTES = 4


def encode_frame(payload: bytes) -> bytes:
    """One frame.

    Raises:
        ChannelError: over the cap.
    """
    if len(payload) > MAX_FRAME_BYTES:
        raise ChannelError(f"a frame of {len(payload)} bytes is over the cap of {MAX_FRAME_BYTES}")
    return len(payload).to_bytes(_LENGTH_BYTES, "big") + payload


class FrameDecoder:
    """Cuts a byte stream into payloads."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what arrived, at once; then yield every payload that is complete, each exactly once.

        Raises:
            ChannelError: the peer announces a frame over the cap; the stream is lost.
        """
        self._buffer += data
        return self._cut()

    def _cut(self) -> Iterator[bytes]:
        buffer = self._buffer
        while len(buffer) >= _LENGTH_BYTES:
            length = int.from_bytes(buffer[:_LENGTH_BYTES], "big")
            if length > MAX_FRAME_BYTES:
                raise ChannelError(
                    f"the peer announces a frame of {length} bytes; the cap is {MAX_FRAME_BYTES}"
                )
            end = _LENGTH_BYTES + length
            if len(buffer) < end:
                return
            with memoryview(buffer) as view:
                payload = bytes(view[_LENGTH_BYTES:end])
            # Cheap: a bytearray gives up its front by moving its start, and shrinks by halves.
            del buffer[:end]
            yield payload

    @property
    def is_empty(self) -> bool:
        """Nothing is left over: an end of the stream here is a clean one."""
        return not self._buffer
