"""What the KMEs of a pool hold in common: its keys and its manifest. Secret as a whole.

Every KME holds a whole copy. Copies are merged, never overwritten: merging is commutative, associative and idempotent,
so KMEs that were apart agree as soon as they have spoken, in whatever order. The rules:

1. Only copies of one pool merge: same signing key, same first manifest.
2. Manifests: a chain of changes goes on, each change signed by a quorum of the owners before it; the longer of two
   chains wins where it continues the shorter. Two chains that part do not merge, whatever their lengths: owners that a
   change has put out of office could sign another future of the manifest before it, as long as they like, and a KME
   that was rolled back to that manifest would bring it in. (Where owners did sign two changes after one manifest by
   mistake, the KMEs on one side are ended, and join afresh.)
3. Epochs of encryption keys: the union. The current one has the highest number, and of two with the same number (made by
   two KMEs that were apart) the one with the greater key id; both still open orders.
4. An epoch that was replaced opens orders for the manifest's overlap after the next one was made, then is forgotten,
   and is not taken back from a peer that still has it. Forgetting is each KME's own, by its own clock: a host that
   sets a clock forward has one KME forget, not all. At one time, under one manifest, it commutes with merging.
5. Revisions of each KME's seal: the highest that anybody has seen, of the :data:`MAX_INSTANCES` KMEs that have sealed last.
   (A revision is the time of its seal where the clock went on, else one more than the one before.)
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key
from msgspec import Meta

from avalon_core.crypto.dialects import WorkerKeys
from avalon_core.crypto.manifests import (
    MAX_MANIFEST_BYTES,
    Manifest,
    SignedManifest,
    accept_change,
    digest_of,
    follow,
    read_manifest,
)
from avalon_core.crypto.sealing import RSA_BITS, HpkePrivateKey, RsaPrivateKey
from avalon_core.crypto.signing import SECRET_KEY_BYTES, SigningKey
from avalon_core.errors import EvidenceError, KeyFormatError, PolicyViolation
from avalon_enclave.errors import PoolStateRefused

MAX_EPOCHS = 64
"""Keys that are held at a time. A rotation that would make more is refused: shorten the overlap or rotate less often."""

MAX_MERGED_EPOCHS = 16 * MAX_EPOCHS
"""Of a state that is read: KMEs that were apart may each have made as many as they may."""

MAX_CHANGES = 4096
MAX_INSTANCES = 1024
"""KMEs whose revisions are remembered. Every KME that joins with nothing sealed is a new one."""

_MAX_INSTANCE_CHARS = 256


class Epoch(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The encryption keys of one epoch."""

    number: int
    made_at: int
    """Unix seconds, on the clock of the KME that made it."""

    rsa: Annotated[bytes, Meta(max_length=8192)]
    """PKCS#8 DER."""

    hpke: Annotated[bytes, Meta(max_length=96)]
    """96 bytes."""

    def __repr__(self) -> str:
        return f"<Epoch {self.number}>"


class PoolState(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="avalon pool state 1"):
    """A copy of the state. Well formed only; :func:`load` makes sure that it is one."""

    signing: Annotated[bytes, Meta(max_length=SECRET_KEY_BYTES)]
    first_manifest: Annotated[bytes, Meta(max_length=MAX_MANIFEST_BYTES)]
    changes: Annotated[tuple[SignedManifest, ...], Meta(max_length=MAX_CHANGES)] = ()
    epochs: Annotated[tuple[Epoch, ...], Meta(max_length=MAX_MERGED_EPOCHS)] = ()
    revisions: Annotated[
        dict[Annotated[str, Meta(max_length=_MAX_INSTANCE_CHARS)], int], Meta(max_length=MAX_INSTANCES)
    ] = {}
    """By KME instance: the highest revision of its seal that anybody has seen."""

    def __repr__(self) -> str:
        return f"<PoolState of {digest_of(self.first_manifest).hex()[:16]}, {len(self.epochs)} epochs>"


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(PoolState)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochKeys:
    """An epoch whose keys were loaded."""

    epoch: Epoch = field(repr=False)
    keys: WorkerKeys = field(repr=False)

    @property
    def rank(self) -> tuple[int, str]:
        """The greatest is the current one."""
        return self.epoch.number, self.keys.hpke.public_key.key_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A copy of the state, loaded: keys that can be used, the manifest in force."""

    state: PoolState
    pool_id: str
    """Hex of the first manifest's digest: names the pool in handshakes and evidence."""

    manifest: Manifest
    manifest_digest: str
    """Hex, of the manifest in force."""

    signing: SigningKey = field(repr=False)
    epochs: Sequence[EpochKeys] = field(repr=False)
    """The current one first."""

    @property
    def current(self) -> EpochKeys:
        """The epoch whose keys the record publishes."""
        return self.epochs[0]


def create(first_manifest: bytes, *, now: int) -> PoolState:
    """A new pool: fresh keys under this manifest.

    Raises:
        PoolStateRefused: it is no first manifest.
    """
    try:
        manifest = read_manifest(first_manifest)
    except EvidenceError as exc:
        raise PoolStateRefused(exc.message) from None
    if manifest.version != 1:
        raise PoolStateRefused(
            f"a pool is made with its first manifest: got version {manifest.version}, expected 1"
        )
    return PoolState(
        signing=SigningKey.generate().to_bytes(),
        first_manifest=first_manifest,
        epochs=(_new_epoch(1, now),),
    )


def rotate(state: PoolState, *, expected: int, now: int) -> PoolState:
    """A state whose current epoch is newer than ``expected``; the same state where it is already.

    Raises:
        PoolStateRefused: there are too many epochs.
    """
    newest = max(epoch.number for epoch in state.epochs)
    if newest > expected:
        return state
    if len(state.epochs) >= MAX_EPOCHS:
        raise PoolStateRefused(
            f"{MAX_EPOCHS} epochs of keys are held already: wait until old ones have run out"
        )
    return msgspec.structs.replace(state, epochs=(*state.epochs, _new_epoch(newest + 1, now)))


def change_manifest(state: PoolState, change: SignedManifest) -> PoolState:
    """A state under a changed manifest; the same state where the change is in it already.

    Raises:
        PolicyViolation, EvidenceError: the change is not admitted.
        PoolStateRefused: there were too many changes.
    """
    if any(known.manifest == change.manifest for known in state.changes):
        return state
    accept_change(_in_force(state), change)
    if len(state.changes) >= MAX_CHANGES:
        raise PoolStateRefused(f"the manifest was changed {MAX_CHANGES} times: make a new pool")
    return msgspec.structs.replace(state, changes=(*state.changes, change))


def note_revision(state: PoolState, instance: str, revision: int) -> PoolState:
    """A state that has seen this revision of a KME's seal."""
    if state.revisions.get(instance, 0) >= revision:
        return state
    return msgspec.structs.replace(state, revisions=_latest({**state.revisions, instance: revision}))


def merge(ours: PoolState, theirs: PoolState, *, now: int) -> PoolState:
    """Both copies in one: the module has the rules.

    Raises:
        PoolStateRefused: they are not of one pool, or theirs breaks a rule.
    """
    if ours.signing != theirs.signing or ours.first_manifest != theirs.first_manifest:
        raise PoolStateRefused("the state is another pool's: its signing key or first manifest differs")
    changes = _longer(ours, theirs)
    epochs: dict[tuple[int, bytes], Epoch] = {}
    for epoch in (*ours.epochs, *theirs.epochs):
        # No honest KME makes two epochs of one key; should there be such, every KME takes the same one.
        known = epochs.setdefault((epoch.number, epoch.hpke), epoch)
        epochs[epoch.number, epoch.hpke] = min(known, epoch, key=lambda one: (one.made_at, one.rsa))
    revisions = dict(ours.revisions)
    for instance, revision in theirs.revisions.items():
        revisions[instance] = max(revision, revisions.get(instance, 0))
    merged = PoolState(
        signing=ours.signing,
        first_manifest=ours.first_manifest,
        changes=changes,
        epochs=tuple(epochs[key] for key in sorted(epochs)),
        revisions=_latest(revisions),
    )
    if len(merged.epochs) > MAX_MERGED_EPOCHS:
        raise PoolStateRefused(f"more than {MAX_MERGED_EPOCHS} epochs of keys come together")
    return forget_old(merged, now=now)


def forget_old(state: PoolState, *, now: int) -> PoolState:
    """The state without epochs whose overlap has run out. The manifests are those of a state that was checked.

    Raises:
        PoolStateRefused: it is no state of a pool.
    """
    try:
        overlap = read_manifest(_in_force(state)).overlap_seconds
    except EvidenceError as exc:
        raise PoolStateRefused(exc.message) from None
    if not state.epochs:
        raise PoolStateRefused("the state holds no encryption keys")
    newest = max(epoch.number for epoch in state.epochs)
    kept = tuple(
        epoch
        for epoch in state.epochs
        if epoch.number == newest or _replaced_at(epoch, state.epochs) + overlap > now
    )
    return state if len(kept) == len(state.epochs) else msgspec.structs.replace(state, epochs=kept)


def load(state: PoolState, *, known: Sequence[EpochKeys] = ()) -> Pool:
    """Load the keys and follow the manifests.

    Args:
        state: a copy of the state.
        known: epochs that were loaded before: loading an RSA key takes a while.

    Raises:
        PoolStateRefused: a key or the chain of manifests is broken.
    """
    try:
        manifest = follow(state.first_manifest, state.changes)
        epochs = [
            next((keys for keys in known if keys.epoch == epoch), None) or _load_epoch(epoch)
            for epoch in state.epochs
        ]
        if not epochs:
            raise PoolStateRefused("the state holds no encryption keys")
        return Pool(
            state=state,
            pool_id=digest_of(state.first_manifest).hex(),
            manifest=read_manifest(manifest),
            manifest_digest=digest_of(manifest).hex(),
            signing=SigningKey(state.signing),
            epochs=sorted(epochs, key=lambda keys: keys.rank, reverse=True),
        )
    except (EvidenceError, PolicyViolation, KeyFormatError) as exc:
        raise PoolStateRefused(f"the pool's state cannot be used: {exc.message}") from None


def encode_state(state: PoolState) -> bytes:
    """The state as bytes, the same for equal states. Secret."""
    return _encoder.encode(state)


def decode_state(encoded: bytes) -> PoolState:
    """Undo :func:`encode_state`.

    Raises:
        PoolStateRefused: it is none.
    """
    try:
        return _decoder.decode(encoded)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise PoolStateRefused("not a pool's state") from None


def digest_of_state(state: PoolState) -> bytes:
    """32 bytes that are equal where two copies agree on keys and manifest. Revisions, which lag, do not count."""
    return hashlib.sha256(encode_state(msgspec.structs.replace(state, revisions={}))).digest()


def _new_epoch(number: int, now: int) -> Epoch:
    return Epoch(
        number=number,
        made_at=now,
        rsa=RsaPrivateKey.generate().to_bytes(),
        hpke=HpkePrivateKey.generate().to_bytes(),
    )


def _load_epoch(epoch: Epoch) -> EpochKeys:
    """Raises KeyFormatError."""
    try:
        # Made by a KME's library, and come by a seal or by an attested session: testing the primes again takes a quarter
        # of a second for each epoch, during which no order is opened.
        rsa = load_der_private_key(epoch.rsa, None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFormatError("not a private key in DER") from None
    if not isinstance(rsa, RSAPrivateKey) or rsa.key_size != RSA_BITS:
        raise KeyFormatError(f"expected an RSA private key of {RSA_BITS} bits")
    return EpochKeys(epoch=epoch, keys=WorkerKeys(rsa=RsaPrivateKey(rsa), hpke=HpkePrivateKey(epoch.hpke)))


def _replaced_at(epoch: Epoch, epochs: Sequence[Epoch]) -> int:
    return min(later.made_at for later in epochs if later.number > epoch.number)


def _in_force(state: PoolState) -> bytes:
    """The manifest in force, in a state whose chain of changes was checked when it came."""
    return state.changes[-1].manifest if state.changes else state.first_manifest


def _latest(revisions: dict[str, int]) -> dict[str, int]:
    """Of the KMEs that have sealed last. Which those are does not depend on the order in which copies are merged."""
    kept = sorted(revisions.items(), key=lambda one: (one[1], one[0]))[-MAX_INSTANCES:]
    return dict(sorted(kept))


def _longer(ours: PoolState, theirs: PoolState) -> tuple[SignedManifest, ...]:
    if ours.changes == theirs.changes:
        return ours.changes
    try:
        follow(theirs.first_manifest, theirs.changes)
    except (EvidenceError, PolicyViolation) as exc:
        raise PoolStateRefused(f"the manifests of the state are not admitted: {exc.message}") from None
    shared: list[SignedManifest] = []
    for our, their in zip(ours.changes, theirs.changes, strict=False):
        if our.manifest != their.manifest:
            raise PoolStateRefused(
                f"the manifests part after version {len(shared) + 1}: the owners have signed two changes of it. End the "
                "KMEs on one side, and let them join afresh"
            )
        # The same manifest under other signatures: take one of both, the same everywhere.
        shared.append(min(our, their, key=_signatures))
    longer = max(ours.changes, theirs.changes, key=len)
    return (*shared, *longer[len(shared) :])


def _signatures(change: SignedManifest) -> list[tuple[str, bytes]]:
    return sorted(change.signatures.items())
