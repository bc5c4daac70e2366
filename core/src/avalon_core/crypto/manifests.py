"""A pool's manifest: who may hold its keys, who may process its orders, and who may change that.

The first manifest is given when the pool is made and is the same for all of its KMEs: its digest is part of what their
evidence binds, so an owner or requester sees which policy the keys live under. It is changed only by a manifest that
names the one before it and that a quorum of the owners of that one has signed.

Digest and signatures are over the manifest's canonical bytes (JSON of the members in this order, as msgspec encodes
them); what travels is those bytes, so they are never encoded again to be checked.
"""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from avalon_core.crypto.sealing import load_hpke_public_key
from avalon_core.crypto.signing import SigningKey, load_verification_key
from avalon_core.errors import EvidenceError, KeyFormatError, PolicyViolation, SignatureMismatch

MAX_MANIFEST_BYTES = 256 * 1024
MAX_MEASUREMENTS = 64
MAX_OWNERS = 16

_Measurement = Annotated[str, Meta(pattern=r"^[0-9a-f]{64,96}\Z")]
_Measurements = Annotated[tuple[_Measurement, ...], Meta(max_length=MAX_MEASUREMENTS)]
_DOMAIN = b"avalon pool manifest 1\0"


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """See the module. An empty list of measurements admits nothing."""

    version: Annotated[int, Meta(ge=1)] = 1
    previous: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    """Digest of the manifest before this one, in hex; empty in the first."""

    worker_name: Annotated[str, Meta(min_length=1, max_length=256)]
    kme_measurements: _Measurements = ()
    """Association: the code that may hold the pool's keys, lower-case hex."""

    wpe_measurements: _Measurements = ()
    """Association: the code that may be given the secrets of single orders."""

    roots: Annotated[tuple[Annotated[str, Meta(max_length=128)], ...], Meta(max_length=16)] = ()
    """Names of the roots that evidence may end in. ``simulator`` makes a pool that protects nothing."""

    tcb_statuses: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=16)] = (
        "UpToDate",
    )
    migration: Literal["allowed", "never"] = "allowed"
    """Whether the pool's keys may leave the KME that made them, to other admitted KMEs and into recovery shares."""

    localisation: Literal["anywhere", "same-platform"] = "anywhere"
    """``same-platform``: a WPE's evidence must name the very machine (chip or module id) of the KME that it joins."""

    max_wpes: Annotated[int, Meta(ge=1, le=100_000)] = 64
    """WPEs at a time, over the whole pool."""

    orders_per_wpe: Annotated[int, Meta(ge=0)] = 0
    """Orders that a WPE may process before it starts afresh; 0: any number."""

    kme_signs_results: bool = False
    """PostProcessWorkOrder: only KMEs sign results, WPEs get no one-time key."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=365 * 86400)] = 7 * 86400
    """How long orders sealed to a key that was replaced still open."""

    owners: Annotated[tuple[Annotated[str, Meta(max_length=2048)], ...], Meta(max_length=MAX_OWNERS)] = ()
    """PEM of the secp256k1 keys whose holders may change the manifest. None: it cannot be changed."""

    quorum: Annotated[int, Meta(ge=0, le=MAX_OWNERS)] = 0
    """How many of them must sign a change."""

    recovery_keys: Annotated[
        tuple[Annotated[str, Meta(max_length=2432)], ...], Meta(max_length=MAX_OWNERS)
    ] = ()
    """Hex of the MLKEM768-X25519 keys to which recovery shares are sealed. None: no recovery."""

    recovery_threshold: Annotated[int, Meta(ge=0, le=MAX_OWNERS)] = 0
    """How many shares restore the pool."""

    accept_legacy: bool = False
    """Whether WPEs process orders whose key and iv encrypt more than one message."""

    def __post_init__(self) -> None:
        if (self.version == 1) != (self.previous == ""):
            raise ValueError("previous: expected in every manifest but the first, and in no first one")
        # By the keys and not by their texts: one key has many spellings in PEM, and its holder must count once.
        if len(_distinct("owners", self.owners, load_verification_key)) != len(self.owners):
            raise ValueError("owners: a key is named twice")
        if len(_distinct("recoveryKeys", self.recovery_keys, _hpke_id)) != len(self.recovery_keys):
            raise ValueError("recoveryKeys: a key is named twice")
        if self.owners and not 1 <= self.quorum <= len(self.owners):
            raise ValueError(f"quorum: got {self.quorum}, expected 1 to {len(self.owners)}")
        if self.recovery_keys and not 1 <= self.recovery_threshold <= len(self.recovery_keys):
            raise ValueError(
                f"recoveryThreshold: got {self.recovery_threshold}, expected 1 to {len(self.recovery_keys)}"
            )
        if self.recovery_keys and self.migration == "never":
            raise ValueError(
                "recoveryKeys: keys that may never leave cannot be recovered; allow migration or name none"
            )


class SignedManifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A manifest as it travels."""

    manifest: Annotated[bytes, Meta(max_length=MAX_MANIFEST_BYTES)]
    """Its canonical bytes (base64 where this is JSON)."""

    signatures: Annotated[
        dict[Annotated[str, Meta(max_length=2048)], Annotated[bytes, Meta(max_length=80)]],
        Meta(max_length=MAX_OWNERS),
    ] = {}
    """DER by owner's key in PEM, over :func:`digest_of` of the bytes. None in a first manifest."""


_decoder = msgspec.json.Decoder(Manifest)
_signed_decoder = msgspec.json.Decoder(SignedManifest)


def encode_manifest(manifest: Manifest) -> bytes:
    """The canonical bytes."""
    return msgspec.json.encode(manifest)


def digest_of(manifest: bytes) -> bytes:
    """What names a manifest, and what owners sign: SHA-256 over a domain and the canonical bytes."""
    return hashlib.sha256(_DOMAIN + manifest).digest()


def read_manifest(manifest: bytes) -> Manifest:
    """Read the bytes of a manifest.

    Raises:
        EvidenceError: they are none, too many, or not as they are canonically encoded.
    """
    if len(manifest) > MAX_MANIFEST_BYTES:
        raise EvidenceError(
            f"a pool's manifest of {len(manifest)} bytes: expected at most {MAX_MANIFEST_BYTES}"
        )
    try:
        read = _decoder.decode(manifest)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise EvidenceError(f"not a pool's manifest: {exc}") from None
    if encode_manifest(read) != manifest:
        raise EvidenceError("not a pool's manifest: its members are not in their canonical encoding")
    return read


def read_signed_manifest(text: bytes) -> SignedManifest:
    """Read a signed manifest from JSON.

    Raises:
        EvidenceError: it is none.
    """
    if len(text) > 2 * MAX_MANIFEST_BYTES:
        raise EvidenceError(
            f"a signed manifest of {len(text)} bytes: expected at most {2 * MAX_MANIFEST_BYTES}"
        )
    try:
        return _signed_decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise EvidenceError(f"not a signed manifest: {exc}") from None


def sign_manifest(manifest: bytes, owner: SigningKey) -> tuple[str, bytes]:
    """An owner's signature: PEM of the owner's key, DER."""
    return owner.verification_key.pem, owner.sign(digest_of(manifest))


def accept_change(current: bytes, change: SignedManifest) -> Manifest:
    """Check a change against the manifest in force.

    1. It names the manifest in force as the one before it, and has the next version.
    2. It is of the same worker.
    3. A quorum of the owners of the manifest in force has signed it; signatures of others count nothing.

    Raises:
        EvidenceError: it cannot be read.
        PolicyViolation: it is not admitted; the message says which rule.
    """
    now, then = read_manifest(current), read_manifest(change.manifest)
    if then.previous != digest_of(current).hex():
        raise PolicyViolation(
            "the change does not follow the manifest in force: it names another one before it"
        )
    if then.version != now.version + 1:
        raise PolicyViolation(f"the change has version {then.version}, expected {now.version + 1}")
    if then.worker_name != now.worker_name:
        raise PolicyViolation("the change is of another worker's pool")
    if not now.owners:
        raise PolicyViolation("the manifest in force has no owners: nobody can change it")
    signed = sum(_has_signed(owner, change) for owner in now.owners)
    if signed < now.quorum:
        raise PolicyViolation(f"{signed} owners have signed the change, expected {now.quorum}")
    return then


def follow(first: bytes, changes: Sequence[SignedManifest]) -> bytes:
    """The manifest in force after all changes; its bytes.

    Raises:
        EvidenceError, PolicyViolation: as :func:`accept_change`.
    """
    current = first
    for change in changes:
        accept_change(current, change)
        current = change.manifest
    return current


def _distinct(name: str, keys: Sequence[str], load: Callable[[str], Hashable]) -> set[Hashable]:
    try:
        return {load(key) for key in keys}
    except KeyFormatError as exc:
        raise ValueError(f"{name}: {exc.message}") from None


def _hpke_id(key: str) -> str:
    return load_hpke_public_key(key).key_id


def _has_signed(owner: str, change: SignedManifest) -> bool:
    signature = change.signatures.get(owner)
    if signature is None:
        return False
    try:
        load_verification_key(owner).verify(digest_of(change.manifest), signature, strict=True)
    except (KeyFormatError, SignatureMismatch):
        return False
    return True
