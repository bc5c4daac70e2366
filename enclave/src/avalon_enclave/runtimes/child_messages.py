"""What the enclave and a child of its say to each other: plaintext of one order at a time, never a key.

enclave -> child     Run
child -> enclave     Ready or Broken, once; then Ran or Raised for each Run
"""

import msgspec

from avalon_core.channel.frames import encode_frame
from avalon_core.errors import ChannelError
from avalon_enclave.workloads.base import Description


class Run(msgspec.Struct, frozen=True, tag="run", array_like=True):
    """Process an order."""

    inputs: tuple[tuple[int, bytes], ...]
    work_order_id: str
    worker_id: str
    requester_id: str
    requester_key: str | None


class Ready(msgspec.Struct, frozen=True, tag="ready", array_like=True):
    """The workload is loaded; this is what it says of itself."""

    description: Description


class Broken(msgspec.Struct, frozen=True, tag="broken", array_like=True):
    """The workload cannot be loaded."""

    error: str
    """The name of the error's type, or what is wrong in words of our own."""


class Ran(msgspec.Struct, frozen=True, tag="ran", array_like=True):
    """The outputs. The child has checked them; the enclave checks them again."""

    outputs: tuple[tuple[int, bytes], ...]


class Raised(msgspec.Struct, frozen=True, tag="raised", array_like=True):
    """The workload raised an error, or its outputs are refused."""

    error: str
    """The name of the error's type."""

    refused: str | None = None
    """Where the outputs are refused: why."""


ToChild = Run
FromChild = Ready | Broken | Ran | Raised

_encoder = msgspec.msgpack.Encoder()
_to_child: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
_from_child: msgspec.msgpack.Decoder[FromChild] = msgspec.msgpack.Decoder(FromChild)


def encode(message: ToChild | FromChild) -> bytes:
    """One frame.

    Raises:
        ChannelError: larger than a frame.
    """
    return encode_frame(_encoder.encode(message))


def decode_to_child(payload: bytes) -> ToChild:
    """Read what the enclave says."""
    return _to_child.decode(payload)


def decode_from_child(payload: bytes) -> FromChild:
    """Read what the child says.

    Raises:
        ChannelError: not one of its messages.
    """
    try:
        return _from_child.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise ChannelError("not a message of a child") from None
