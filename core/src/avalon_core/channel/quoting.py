"""What an enclave of the simulated platform and the quoting process of its machine say to each other. SIMULATED.

    enclave -> quoting process      QuoteRequest, CollateralRequest, WhoAreYou
    quoting process -> enclave      Quote, CollateralAnswer, Vendor, Refused

The quoting process takes the part of a machine's quoting enclave and of the vendor behind it. It is outside of the
trusted zone, as the real ones are outside of our code. Frames are those of :mod:`avalon_core.channel.frames`; each
request on a connection is answered by one message, in their order.
"""

from typing import TypeVar

import msgspec

from avalon_core.channel.frames import encode_frame
from avalon_core.errors import ChannelError

LENGTH_BYTES = 4
"""Of the length before each frame."""

MAX_REQUEST_BYTES = 4096
"""The longest request has below 400 bytes."""

MAX_ANSWER_BYTES = 1024 * 1024
"""The longest answer, a TDX quote with its collateral, has below 40 KB."""


class QuoteRequest(msgspec.Struct, frozen=True, tag="quote", array_like=True):
    """Vouch for an enclave. Answered with Quote or Refused.

    A real quoting enclave would have the processor's word for all of this; this one believes what it is told.
    """

    kind: str
    """``sgx``, ``tdx``, ``snp`` or ``nitro``."""

    measurement: bytes
    """MRENCLAVE (32 bytes), MRTD, the launch measurement or PCR0 (48)."""

    report_data: bytes
    """Up to 64 bytes."""

    state: str = "up-to-date"
    """See :class:`avalon_core.simulator.states.State`."""

    debug: bool = False
    product_id: int = 0
    svn: int = 0
    config_id: bytes = b""


class CollateralRequest(msgspec.Struct, frozen=True, tag="collateral", array_like=True):
    """What does the vendor publish about this machine today? Answered with CollateralAnswer or Refused."""

    kind: str
    state: str = "up-to-date"


class WhoAreYou(msgspec.Struct, frozen=True, tag="who", array_like=True):
    """Whose machine is this? Answered with Vendor."""


class Quote(msgspec.Struct, frozen=True, tag="quoted", array_like=True):
    """Evidence."""

    format: str
    """As in :attr:`avalon_core.attestation.evidence.Evidence.format`."""

    document: bytes
    certificates: tuple[bytes, ...]
    """DER, leaf first, where they travel beside the document."""

    collateral: bytes
    """JSON of the bundle (:mod:`avalon_core.attestation.bundles`) that the evidence is judged by today."""


class CollateralAnswer(msgspec.Struct, frozen=True, tag="collated", array_like=True):
    """The vendor's collateral."""

    collateral: bytes
    """As in Quote."""


class Vendor(msgspec.Struct, frozen=True, tag="vendor", array_like=True):
    """Who answers here."""

    root_sha256: str
    """Lower-case hex: the root that its SGX and TDX evidence ends in."""

    published_seed: bool
    """Anybody can forge its evidence."""


class Refused(msgspec.Struct, frozen=True, tag="refused", array_like=True):
    """The request cannot be met; the message says why."""

    message: str


Request = QuoteRequest | CollateralRequest | WhoAreYou
Answer = Quote | CollateralAnswer | Vendor | Refused

_Message = TypeVar("_Message")

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """One frame.

    Raises:
        ChannelError: over the cap of frames.
    """
    return encode_frame(_encoder.encode(message))


def frame_length(header: bytes, most: int) -> int:
    """The length of the frame that these :data:`LENGTH_BYTES` bytes announce.

    Raises:
        ChannelError: more than ``most``.
    """
    length = int.from_bytes(header, "big")
    if length > most:
        raise ChannelError(f"the peer announces a frame of {length} bytes; the cap is {most}")
    return length


def decode_request(payload: bytes) -> Request:
    """Read what is asked.

    Raises:
        ChannelError: not a request.
    """
    return _decode(_requests, payload, "a request to a quoting process")


def decode_answer(payload: bytes) -> Answer:
    """Read what is answered.

    Raises:
        ChannelError: not an answer.
    """
    return _decode(_answers, payload, "an answer of a quoting process")


def _decode(decoder: "msgspec.msgpack.Decoder[_Message]", payload: bytes, what: str) -> _Message:
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise ChannelError(f"not {what}: {exc}") from None
