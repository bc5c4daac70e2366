"""How the host of an enclave on another machine joins a pool's service, before the enclave's own channel begins.

    service -> remote host    Knock       a nonce
    remote host -> service    Enter       role, name, worker; HMAC-SHA256(token, nonce, all of it)
    service -> remote host    Entered     what the enclave is to be launched with; or Turned away

From then on the connection carries the frames of the enclave's channel (:mod:`avalon_core.channel.messages`) as if it were
local. Hosts are not trusted: the token keeps strangers from using up places, and nothing else rests on it. What the
enclaves say to each other is protected by their own sessions.
"""

import hashlib
import hmac
from typing import Annotated

import msgspec
from msgspec import Meta

from avalon_core.channel.frames import FrameDecoder, encode_frame
from avalon_core.errors import ChannelError
from avalon_core.protocol.encodings import encode_fields

NONCE_BYTES = 32
MAX_JOIN_BYTES = 16 * 1024
_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]


class Knock(msgspec.Struct, frozen=True, tag="knock", array_like=True, forbid_unknown_fields=True):
    """The service's first word."""

    nonce: Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]


class Enter(msgspec.Struct, frozen=True, tag="enter", array_like=True, forbid_unknown_fields=True):
    """Who wants to join."""

    role: _Name
    name: _Name
    """Of the enclave, the same at every start: a KME's sealed state is kept under it."""

    worker_name: Annotated[str, Meta(max_length=256)]
    """Of the pool."""

    mac: Annotated[bytes, Meta(min_length=32, max_length=32)]


class Entered(msgspec.Struct, frozen=True, tag="entered", array_like=True, forbid_unknown_fields=True):
    """It may: launch the enclave with these settings."""

    measured: dict[str, str]


class TurnedAway(msgspec.Struct, frozen=True, tag="turned_away", array_like=True, forbid_unknown_fields=True):
    """It may not."""

    reason: Annotated[str, Meta(max_length=256)]
    final: bool = True
    """Trying again is of no use."""


Joining = Knock | Enter | Entered | TurnedAway

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Joining] = msgspec.msgpack.Decoder(Joining)


def mac_of(token: bytes, nonce: bytes, *, role: str, name: str, worker_name: str) -> bytes:
    """What shows that the joining host has the token: 32 bytes."""
    return hmac.digest(
        token, b"avalon joining 1\0" + encode_fields(nonce.hex(), role, name, worker_name), hashlib.sha256
    )


def encode_joining(message: Joining) -> bytes:
    """One frame."""
    return encode_frame(_encoder.encode(message))


class JoiningReader:
    """Reads one message after the other; what comes after the last one belongs to the enclave's channel."""

    def __init__(self) -> None:
        self._decoder = FrameDecoder()
        self._seen = 0

    def feed(self, data: bytes) -> Joining | None:
        """The message, once it is whole.

        Raises:
            ChannelError: too much, or no message of these.
        """
        self._seen += len(data)
        if self._seen > MAX_JOIN_BYTES:
            raise ChannelError(f"more than {MAX_JOIN_BYTES} bytes before the peer has joined")
        for payload in self._decoder.feed(data):
            try:
                return _decoder.decode(payload)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
                raise ChannelError(f"not a message of a joining host: {exc}") from None
        return None
