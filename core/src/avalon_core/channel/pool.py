"""What the enclaves of a pool say to each other inside of an attested session.

    WPE -> KME     Introduce, OpenOrders, SignResults, SignReceipts, Finished, Leave
    KME -> WPE     Welcome, OrdersOpened, ResultsSigned, ReceiptsSigned
    KME -> KME     Join, State, StateTaken, Opened, Wpes

A session's payload is one message. A WPE gathers what waits into one message, so a batch of orders shares a round trip;
each entry is answered by itself, in any order, under the number that the WPE gave it.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from avalon_core.crypto.manifests import SignedManifest
from avalon_core.errors import ChannelError

MAX_BATCH = 256
"""Entries of one message. A WPE has fewer orders open than that."""

MAX_BATCH_BYTES = 8 * 1024 * 1024
"""Headers of one message. The answer repeats parts of them, and must fit into a record as well."""

MAX_HEADER_BYTES = 1024 * 1024
"""A request without its items' data. A WPE refuses a longer one by itself: a KME would take it for a broken peer."""

MAX_TOLD_ORDERS = 4096
MAX_WPES = 100_000
"""As many as a manifest can admit."""

MAX_FINISHED = 4096
MAX_TOLD_CHANGES = 64
"""Changes of the manifest that one Welcome brings; who is further behind is told the rest when it comes again."""

_Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Fingerprint = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Text = Annotated[str, Meta(max_length=256)]


class Introduce(msgspec.Struct, frozen=True, tag="introduce", array_like=True, forbid_unknown_fields=True):
    """The WPE's first word, answered with Welcome."""

    instance: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    """A random name of this run of the WPE, the same to every KME: its orders are counted and leased under it."""

    manifest_version: Annotated[int, Meta(ge=1)] = 1
    """Of the manifest by which the WPE has judged the KME: it is told of the changes since."""


class OpenOrder(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Ask for the secrets of one order."""

    number: int
    token: Annotated[int, Meta(ge=0)]
    """The fencing token of the claim under which the WPE's host has the order. A KME opens an order for a WPE only
    where no higher token, and no other WPE with the same one, has asked for it."""

    request: Annotated[bytes, Meta(max_length=MAX_HEADER_BYTES)]
    """JSON of the params with every item's data empty: all that the order's secrets depend on."""

    fingerprint: _Fingerprint
    """Half of SHA-256 over the params as they came, data included: one id, one order."""


class OpenOrders(msgspec.Struct, frozen=True, tag="open_orders", array_like=True, forbid_unknown_fields=True):
    """A batch of them."""

    orders: Annotated[tuple[OpenOrder, ...], Meta(min_length=1, max_length=MAX_BATCH)]


class OrderOpened(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The secrets of one order, or why there are none."""

    number: int
    code: int = 0
    """0, or the work order code of the refusal."""

    message: _Text = ""
    retry: bool = False
    """Another KME, or this one later, may open it: not the order's fault."""

    session: bytes = b""
    """:class:`avalon_core.crypto.dialects.OrderKeys`.session."""

    own: dict[str, bytes] = {}
    """Its ``own``."""

    signing_key: bytes = b""
    """The one-time key, 32 bytes; empty where the pool's policy is that a KME signs results."""

    voucher: bytes = b""
    """DER by the pool's key, as protocol section 5.5 has it."""

    verification_key: _Text = ""
    """PEM of the one-time key's public part, to which the voucher is. (The WPE could derive it, at the price of a tenth of
    what it does for an order.)"""

    def __repr__(self) -> str:
        return f"<OrderOpened {self.number}, code {self.code}>"


class OrdersOpened(
    msgspec.Struct, frozen=True, tag="orders_opened", array_like=True, forbid_unknown_fields=True
):
    """Answers to entries of OpenOrders."""

    orders: Annotated[tuple[OrderOpened, ...], Meta(min_length=1, max_length=MAX_BATCH)]


class SignResult(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """PostProcessWorkOrder: have the KME sign the result of an order that it opened for this WPE.

    The KME makes R itself, from the ids of the order that it opened: a WPE cannot have it sign anything but a result of that
    order.
    """

    number: int
    work_order_id: _Text
    dialect: _Text
    worker_nonce: _Text
    """Base64."""

    items_digest: _Digest
    request_hash: _Digest


class SignResults(
    msgspec.Struct, frozen=True, tag="sign_results", array_like=True, forbid_unknown_fields=True
):
    """A batch of them."""

    results: Annotated[tuple[SignResult, ...], Meta(min_length=1, max_length=MAX_BATCH)]


class SignReceipt(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Have the KME sign the worker's update of the receipt of an order that it opened for this WPE.

    The KME makes the signed text itself: a WPE cannot have it sign anything but an update of that order's receipt.
    """

    number: int
    work_order_id: _Text
    failed: bool
    response_hash: _Digest


class SignReceipts(
    msgspec.Struct, frozen=True, tag="sign_receipts", array_like=True, forbid_unknown_fields=True
):
    """A batch of them."""

    receipts: Annotated[tuple[SignReceipt, ...], Meta(min_length=1, max_length=MAX_BATCH)]


class Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signature of the pool's key, or none where the KME refused: it did not open the order for this WPE."""

    number: int
    signature: bytes = b""


class ResultsSigned(
    msgspec.Struct, frozen=True, tag="results_signed", array_like=True, forbid_unknown_fields=True
):
    """Answers to entries of SignResults."""

    signatures: Annotated[tuple[Signed, ...], Meta(max_length=MAX_BATCH)]


class ReceiptsSigned(
    msgspec.Struct, frozen=True, tag="receipts_signed", array_like=True, forbid_unknown_fields=True
):
    """Answers to entries of SignReceipts."""

    signatures: Annotated[tuple[Signed, ...], Meta(max_length=MAX_BATCH)]


class Finished(msgspec.Struct, frozen=True, tag="finished", array_like=True, forbid_unknown_fields=True):
    """The WPE is done with these orders, one way or the other: the KME may forget that it opened them for it."""

    work_order_ids: Annotated[tuple[_Text, ...], Meta(max_length=MAX_FINISHED)]


class Leave(msgspec.Struct, frozen=True, tag="leave", array_like=True, forbid_unknown_fields=True):
    """The WPE drains and asks for no more."""


class Welcome(msgspec.Struct, frozen=True, tag="welcome", array_like=True, forbid_unknown_fields=True):
    """The KME's first word to a WPE, whose evidence the pool's policy admits."""

    worker_name: _Text
    verification_key: Annotated[str, Meta(max_length=2048)]
    """PEM of the pool's signing key."""

    orders_left: int
    """How many orders this WPE may still process before it must start afresh; -1: any number."""

    kme_signs_results: bool
    accept_legacy: bool = False
    changes: Annotated[tuple[SignedManifest, ...], Meta(max_length=MAX_TOLD_CHANGES)] = ()
    """Changes of the manifest after the version that the WPE told, in order. It checks the owners' signatures itself."""


class Join(msgspec.Struct, frozen=True, tag="join", array_like=True, forbid_unknown_fields=True):
    """A KME's first word to a peer, from either side. Who has the pool's state answers with it, where it may leave."""

    instance: _Text
    """Which KME it is: a random name that is sealed with its state."""

    sealed_revision: Annotated[int, Meta(ge=0)] = 0
    """The revision of its own seal; 0: it has no state. Peers remember the highest that they have seen of it, so an older
    one is a rollback."""


class State(msgspec.Struct, frozen=True, tag="state", array_like=True, forbid_unknown_fields=True):
    """The pool's state, for a KME that the policy admits. Secret: it travels inside attested sessions only."""

    instance: _Text
    state: bytes
    """msgpack of :class:`avalon_enclave.pool.state.PoolState`."""

    seen_revision: Annotated[int, Meta(ge=0)] = 0
    """The highest revision of the receiver's own seal that the sender knows of."""

    def __repr__(self) -> str:
        return f"<State from {self.instance}>"


class StateTaken(msgspec.Struct, frozen=True, tag="state_taken", array_like=True, forbid_unknown_fields=True):
    """The receiver has merged it."""

    instance: _Text
    sealed_revision: Annotated[int, Meta(ge=0)]
    """Of its own seal, which holds what it merged."""

    digest: _Digest
    """Of the merged state: equal at both ends when they agree. Nothing is sent again upon it: each end tells every change
    of its state by itself, and two clocks may differ for a while about which old keys are to be forgotten."""


class Opened(msgspec.Struct, frozen=True, tag="opened", array_like=True, forbid_unknown_fields=True):
    """Gossip between KMEs: which orders were opened, so that no other opens other bytes under their ids."""

    orders: Annotated[
        tuple[tuple[_Text, _Fingerprint, Annotated[int, Meta(ge=-1)], _Text], ...],
        Meta(max_length=MAX_TOLD_ORDERS),
    ]
    """Work order id, fingerprint, token, instance of the WPE; the token -1 tells that the pool has signed that the order
    failed."""


class Wpes(msgspec.Struct, frozen=True, tag="wpes", array_like=True, forbid_unknown_fields=True):
    """Gossip between KMEs: which WPEs have a session with the sender, all of them. Sent when that changes.

    By name and not by number, as a WPE has a session with every KME that its host connects, and is one WPE all the same.
    """

    instances: Annotated[tuple[_Text, ...], Meta(max_length=MAX_WPES)]


ToKme = Introduce | OpenOrders | SignResults | SignReceipts | Finished | Leave
ToWpe = Welcome | OrdersOpened | ResultsSigned | ReceiptsSigned
BetweenKmes = Join | State | StateTaken | Opened | Wpes

_encoder = msgspec.msgpack.Encoder()
_to_kme: msgspec.msgpack.Decoder[ToKme] = msgspec.msgpack.Decoder(ToKme)
_to_wpe: msgspec.msgpack.Decoder[ToWpe] = msgspec.msgpack.Decoder(ToWpe)
_between: msgspec.msgpack.Decoder[BetweenKmes] = msgspec.msgpack.Decoder(BetweenKmes)


def encode(message: ToKme | ToWpe | BetweenKmes) -> bytes:
    """The payload of a session."""
    return _encoder.encode(message)


def decode_to_kme(payload: bytes) -> ToKme:
    """Read what a WPE says.

    Raises:
        ChannelError: not one of its messages.
    """
    try:
        return _to_kme.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise ChannelError(f"not a message to a key management enclave: {exc}") from None


def decode_to_wpe(payload: bytes) -> ToWpe:
    """Read what a KME says to a WPE.

    Raises:
        ChannelError: not one of its messages.
    """
    try:
        return _to_wpe.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise ChannelError(f"not a message to a work order processing enclave: {exc}") from None


def decode_between_kmes(payload: bytes) -> BetweenKmes:
    """Read what a KME says to another.

    Raises:
        ChannelError: not one of its messages.
    """
    try:
        return _between.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise ChannelError(f"not a message between key management enclaves: {exc}") from None
