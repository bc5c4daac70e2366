"""The operator's methods for a pool: ours, for whoever has the operator's token. What they carry is signed or sealed by
others, and is passed on to a key management enclave as the text that it is."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from avalon_core.protocol.ids import HEX_ID, WorkerId

MAX_CHANGE_CHARS = 512 * 1024
MAX_RECOVERY_CHARS = 8 * 1024 * 1024
MAX_SHARE_CHARS = 64 * 1024


class OfPool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """What the params of all of these methods have."""

    worker_id: Annotated[WorkerId, HEX_ID] | None = None
    """Which pool; may be left out where the service has one."""


class PoolStatusParams(OfPool, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The params of PoolStatus."""


class PoolRotateParams(OfPool, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The params of PoolRotate. New encryption keys are made, and the record is published with them."""


class PoolDrainParams(OfPool, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The params of PoolDrain. No more orders are claimed; what is in hand is finished."""


class PoolChangeParams(OfPool, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The params of PoolChange."""

    change: Annotated[str, Meta(max_length=MAX_CHANGE_CHARS)]
    """JSON of a signed manifest (:class:`avalon_core.crypto.manifests.SignedManifest`)."""


class PoolSharesParams(OfPool, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The params of PoolShares. The answer is a recovery file (:mod:`avalon_core.crypto.recovery`)."""


class PoolRecoverParams(OfPool, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The params of PoolRecover: begin the recovery of a pool whose keys are gone."""

    recovery: Annotated[str, Meta(max_length=MAX_RECOVERY_CHARS)]
    """JSON of the recovery file."""


class PoolShareParams(OfPool, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The params of PoolShare: hand back one owner's share, sealed to the key management enclave."""

    share: Annotated[str, Meta(max_length=MAX_SHARE_CHARS)]
    """JSON of the share."""


PoolParams = (
    PoolStatusParams
    | PoolRotateParams
    | PoolDrainParams
    | PoolChangeParams
    | PoolSharesParams
    | PoolRecoverParams
    | PoolShareParams
)


class EpochStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Encryption keys that a KME holds."""

    number: int
    made_at: int
    """Unix seconds."""

    key: str
    """Id of the MLKEM768-X25519 key, as orders name it: hex of SHA-256."""


class ManifestStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest by which a KME judges its peers."""

    version: int
    digest: str
    """Hex."""


class KmeCounters(msgspec.Struct, frozen=True, kw_only=True):
    """What a KME has counted since its start."""

    opened: int = 0
    """Orders."""

    refused: int = 0
    """Orders."""

    registered: int = 0
    """WPEs that joined with evidence."""

    resumed: int = 0
    """WPEs that resumed a session."""

    refused_peers: dict[str, int] = {}
    """By reason."""

    rollbacks: int = 0
    """How often a peer knew a newer state of this KME than its host gave it: anything but 0 is an alarm."""


class KmeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a KME says of itself."""

    instance: str
    """Hex, drawn when it first started: names it to its peers."""

    serving: bool
    revision: int
    """Of its sealed state."""

    wpes: int
    """WPEs that have a session with it."""

    counters: KmeCounters = KmeCounters()
    pool: str | None = None
    """Hex of the pool's id. None, like what follows: it has no keys yet."""

    manifest: ManifestStatus | None = None
    epochs: tuple[EpochStatus, ...] = ()
    """The current one first."""


class KmeStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A place for a KME, as its host sees it."""

    name: str
    state: str
    """``starting``, ``joining``, ``serving``, ``restarting`` or ``stopped``; a later version may know more."""

    pid: int | None = None
    restarts: int = 0
    measurement: str = ""
    simulated: bool | None = None
    last_end: str = ""
    """Why the enclave before this one ended; empty: there was none."""

    enclave: KmeReport | None = None
    """None: it does not answer."""


class WpeStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A place for a WPE, as its host sees it."""

    name: str
    state: str
    """``starting``, ``joining``, ``spare``, ``serving``, ``restarting`` or ``stopped``; a later version may know more."""

    pid: int | None = None
    restarts: int = 0
    in_flight: int = 0
    """Orders that it has in hand."""

    availability: str = "unavailable"
    """In the words of the original's pools: ``available`` (it takes orders, or would at once), ``busy`` (it processes some),
    ``unavailable``."""

    measurement: str = ""
    simulated: bool | None = None
    last_end: str = ""


class PoolStatusResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The result of PoolStatus: the service's word, which nobody signed."""

    worker: str
    worker_id: str
    pool: str
    """Hex of the pool's id: the digest of its first manifest."""

    simulated: bool | None = None
    """No hardware protects it. None: no KME has started yet."""

    state: str
    """``starting``, ``serving``, ``draining`` or ``stopped``; a later version may know more."""

    epoch: int = 0
    """Number of the encryption keys in the published record; 0: none is published yet."""

    manifest_version: int = 0
    """Of the manifest under which the record was published."""

    links: int = 0
    """Sessions between enclaves that this host carries."""

    links_ended: dict[str, int] = {}
    """By reason, since the service started."""

    rollbacks: int = 0
    """How often a KME was told by a peer that its host gave it an old state: anything but 0 is an alarm."""

    kmes: tuple[KmeStatus, ...] = ()
    wpes: tuple[WpeStatus, ...] = ()


class PoolRotateResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of PoolRotate."""

    epoch: int
    """The number of the encryption keys that are current now."""


class PoolDrainResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of PoolDrain."""

    draining: bool


class PoolChangeResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of PoolChange."""

    version: int
    """Of the manifest that is in force now."""


class PoolRecoverResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The result of PoolRecover: to whom owners are to seal their shares, if its evidence convinces them."""

    pool: str
    """Hex of the pool's id."""

    key: str
    """Hex of the MLKEM768-X25519 key that the KME made for this recovery."""

    proof_data_type: str
    proof_data: Any
    """Evidence over key and pool (:func:`avalon_core.crypto.recovery.recovery_report_data`), as worker records carry
    theirs."""


class PoolShareResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of PoolShare."""

    shares: int
    """That the KME has."""

    needed: int
    recovered: bool = False
    """There were enough: the KME has the pool's keys and serves."""
