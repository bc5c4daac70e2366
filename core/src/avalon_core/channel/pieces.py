"""A message as the pieces of its frame, so that a large order or result is sent from where it lies and never copied."""

import msgspec

from avalon_core.channel.frames import frame_header
from avalon_core.channel.messages import Done, Process, ToEnclave, ToHost, encode_message

_APART_BYTES = 128 * 1024
"""Below it a copy costs less than a piece more."""

_encode = msgspec.msgpack.Encoder().encode


def encode_pieces(message: ToEnclave | ToHost) -> list[bytes]:
    """One frame in one piece, or in three where the message carries a large order or result.

    Raises:
        ChannelError: over the cap.
    """
    if isinstance(message, Process) and len(message.request) >= _APART_BYTES:
        return _around(message.request, msgspec.structs.replace(message, request=b""), "process")
    if isinstance(message, Done) and len(message.result) >= _APART_BYTES:
        return _around(message.result, msgspec.structs.replace(message, result=b""), "done")
    payload = encode_message(message)
    return [frame_header(len(payload)) + payload]


def _around(body: bytes, hollow: Process | Done, tag: str) -> list[bytes]:
    """Put the body into the place of the empty one: an array of the tag, the handle, the body and the rest."""
    payload = encode_message(hollow)
    place = 1 + len(_encode(tag)) + len(_encode(hollow.handle))
    # bin 32 in the place of bin 8 of length 0
    before = payload[:place] + b"\xc6" + len(body).to_bytes(4, "big")
    after = payload[place + 2 :]
    return [frame_header(len(before) + len(body) + len(after)) + before, body, after]
