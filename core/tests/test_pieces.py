"""Large messages in pieces on one side, into a buffer of their own on the other: the same frames as ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avalon_core.channel.frames import FrameDecoder, encode_frame
from avalon_core.channel.messages import (
    Done,
    Ping,
    Process,
    decode_to_enclave,
    decode_to_host,
    encode_message,
)
from avalon_core.channel.pieces import encode_pieces
from avalon_core.errors import ChannelError
from avalon_core.protocol.limits import MAX_FRAME_BYTES

LARGE = bytes(range(256)) * 1024
HANDLES = st.integers(0, 2**63 - 1)


@pytest.mark.parametrize("size", [0, 127, 128 * 1024 - 1, 128 * 1024, len(LARGE)])
@given(handle=HANDLES, key=st.none() | st.text(max_size=40), flag=st.booleans())
def test_pieces_say_what_the_message_says(size: int, handle: int, key: str | None, flag: bool) -> None:
    order = Process(handle, LARGE[:size], key, flag)
    done = Done(handle, LARGE[:size], flag, b"hash" if flag else None, key.encode() if key else None)
    for message, decode in ((order, decode_to_enclave), (done, decode_to_host)):
        pieces = encode_pieces(message)
        (payload,) = FrameDecoder().feed(b"".join(pieces))
        assert decode(payload) == message
        assert len(pieces) == (3 if size >= 128 * 1024 else 1)


def test_a_large_body_is_sent_from_where_it_lies() -> None:
    assert encode_pieces(Process(1, LARGE))[1] is LARGE
    assert encode_pieces(Done(1, LARGE))[1] is LARGE


def test_small_messages_are_ordinary_frames() -> None:
    assert encode_pieces(Ping(7)) == [encode_frame(encode_message(Ping(7)))]


def test_a_message_over_the_cap_is_refused() -> None:
    with pytest.raises(ChannelError, match="cap"):
        encode_pieces(Process(1, bytes(MAX_FRAME_BYTES)))


@given(
    sizes=st.lists(st.sampled_from([0, 5, 131_071, 131_072, 200_000]), min_size=1, max_size=5),
    reads=st.lists(st.sampled_from([1, 3, 1000, 65_536, 131_073, 10**6]), min_size=1, max_size=5),
    straight=st.booleans(),
)
def test_large_frames_survive_any_way_of_reading(sizes: list[int], reads: list[int], straight: bool) -> None:
    payloads = [LARGE[:size] for size in sizes]
    stream = memoryview(b"".join(map(encode_frame, payloads)))
    decoder, got, turn = FrameDecoder(), [], 0
    while stream:
        # Single bytes at the edges of frames, but not through all of a large one.
        size = reads[turn % len(reads)] if turn % 64 < 32 else 10**6
        rest = decoder.rest if straight else None
        if rest is None:
            got += decoder.feed(bytes(stream[:size]))
        else:
            size = min(size, len(rest), len(stream))
            rest[:size] = stream[:size]
            rest.release()
            got += decoder.filled(size)
        stream, turn = stream[size:], turn + 1
    assert got == payloads
    assert decoder.is_empty


def test_the_rest_of_a_large_frame_is_its_own() -> None:
    decoder = FrameDecoder()
    frame = encode_frame(LARGE)
    assert decoder.rest is None
    assert list(decoder.feed(frame[:10])) == []
    assert decoder.rest is not None
    assert len(decoder.rest) == len(frame) - 10
    assert not decoder.is_empty
    got = list(decoder.feed(frame[10:] + encode_frame(b"next")))
    assert got == [LARGE, b"next"]
    assert decoder.rest is None
    assert decoder.is_empty
