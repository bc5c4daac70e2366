"""What a host and an enclave of a pool say to each other besides the messages of every enclave.

    host -> enclave      LinkOpened, LinkFrame, LinkClosed, PoolCommand
    enclave -> host      LinkFrame, CloseLink, PoolSealed, RecordChanged, Welcomed, PoolAnswered

A link joins two enclaves; each host numbers its own end. Frames on a link are opaque: a handshake and records of
:mod:`avalon_core.channel.session`. The host can cut a link, and that is all it can do with it.
"""

import msgspec


class PoolConfigure(msgspec.Struct, frozen=True, array_like=True):
    """The part of Configure that is a pool's. Nothing in it is secret."""

    first_manifest: bytes
    """Canonical bytes (:mod:`avalon_core.crypto.manifests`)."""

    changes: tuple[bytes, ...] = ()
    """JSON of the signed changes since then, in order, as far as the host knows them."""

    start: str = "join"
    """A KME's: ``create`` a new pool; ``join`` one by a peer; ``restore`` from ``sealed``; ``recover`` from the
    owners' shares. A WPE joins."""

    sealed: bytes | None = None
    """What the host kept of PoolSealed."""

    alone: bool = False
    """There is no other KME to ask whether ``sealed`` is the newest. The host says so; it is told in the log."""


class LinkOpened(msgspec.Struct, frozen=True, tag="link_opened", array_like=True):
    """A peer is connected under this number."""

    link: int
    initiate: bool
    """Greet the peer; else wait to be greeted."""

    peer: int = 0
    """The host's number of the KME at the other end, the same when it is connected again."""


class LinkFrame(msgspec.Struct, frozen=True, tag="link_frame", array_like=True):
    """A frame from, or for, the peer. In both directions of the channel."""

    link: int
    frame: bytes


class LinkClosed(msgspec.Struct, frozen=True, tag="link_closed", array_like=True):
    """The peer of this link is gone."""

    link: int


class PoolCommand(msgspec.Struct, frozen=True, tag="pool_command", array_like=True):
    """A command of the operator. Answered with PoolAnswered."""

    handle: int
    verb: str
    """``status``, ``rotate``, ``change``, ``drain``, ``shares``, ``recover`` or ``share``."""

    argument: bytes = b""
    """What the verb takes, in JSON."""


class CloseLink(msgspec.Struct, frozen=True, tag="close_link", array_like=True):
    """End this link: the peer was refused, or broke the rules, or the session is over."""

    link: int
    reason: str


class PoolSealed(msgspec.Struct, frozen=True, tag="pool_sealed", array_like=True):
    """The pool's state, sealed by the KME's platform: to be kept, durably, and given back at the next start."""

    sealed: bytes
    revision: int
    rollbacks: int = 0
    """How often this run of the KME has learned that the host had given it an older seal than its newest."""


class RecordChanged(msgspec.Struct, frozen=True, tag="record_changed", array_like=True):
    """The worker record's details as this KME signs them: to be published instead of what it said before."""

    details: bytes
    """JSON."""

    epoch: int
    """Number of the encryption keys in it. The host publishes no older epoch after a newer one."""

    manifest_version: int


class Welcomed(msgspec.Struct, frozen=True, tag="welcomed", array_like=True):
    """A KME serves this WPE: orders can be handed over. Sent again when what is said here changes."""

    orders_left: int
    """-1: any number. At 0 the host ends this enclave and starts it afresh."""


class PoolAnswered(msgspec.Struct, frozen=True, tag="pool_answered", array_like=True):
    """The answer to a command."""

    handle: int
    ok: bool
    text: bytes
    """JSON of the answer; where not ok, what was wrong and what to do."""


ToPooledEnclave = LinkOpened | LinkFrame | LinkClosed | PoolCommand
FromPooledEnclave = LinkFrame | CloseLink | PoolSealed | RecordChanged | Welcomed | PoolAnswered
