"""A KME's side of recovery: it makes the owners' shares, and comes back from them (:mod:`avalon_core.crypto.recovery`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from avalon_core.crypto.manifests import digest_of
from avalon_core.crypto.recovery import (
    Recovery,
    combine_words,
    open_share,
    read_recovery,
    read_share,
    recovery_report_data,
    split,
)
from avalon_core.crypto.sealing import HpkePrivateKey
from avalon_enclave.errors import PoolStateRefused
from avalon_enclave.platforms import Platform
from avalon_enclave.pool.state import PoolState, decode_state, encode_state, load


def make_shares(state: PoolState) -> Recovery:
    """Shares of the state for the owners that the manifest names.

    Raises:
        PoolStateRefused: it names none, or forbids that keys leave.
    """
    pool = load(state)
    manifest = pool.manifest
    if not manifest.recovery_keys or manifest.migration == "never":
        raise PoolStateRefused("the manifest names no recovery keys: this pool cannot be recovered")
    return split(
        encode_state(state),
        pool=pool.pool_id,
        owners=manifest.recovery_keys,
        threshold=manifest.recovery_threshold,
    )


@dataclass(slots=True)
class Recoverer:
    """A KME that waits for shares. For one thread at a time."""

    first_manifest: bytes
    platform: Platform
    _key: HpkePrivateKey = field(default_factory=HpkePrivateKey.generate, repr=False)
    _recovery: Recovery | None = None
    _words: set[str] = field(default_factory=set, repr=False)
    """Of different shares: one that an owner hands back twice counts once."""

    def begin(self, recovery: bytes) -> Mapping[str, Any]:
        """Take the recovery file; answer with the key to which owners are to seal, and evidence that it is this KME's.

        Raises:
            PoolStateRefused: the file is of another pool.
            EvidenceError: it is none.
        """
        read = read_recovery(recovery)
        pool = digest_of(self.first_manifest).hex()
        if read.pool != pool:
            raise PoolStateRefused("the recovery file is of another pool")
        self._recovery, self._words = read, set()
        key = self._key.public_key.hex
        proof_data_type, proof_data = self.platform.issue_evidence(recovery_report_data(key, pool))
        return {"pool": pool, "key": key, "proofDataType": proof_data_type, "proofData": proof_data}

    def take(self, share: bytes) -> tuple[PoolState | None, Mapping[str, Any]]:
        """Take a share that was handed back; the state as soon as there are enough.

        Raises:
            PoolStateRefused: nothing was begun, or what comes of the shares is no state of this pool.
            DecryptionFailed, EvidenceError: the share is not of this state, or not sealed to this KME.
        """
        if self._recovery is None:
            raise PoolStateRefused("begin with the recovery file")
        read = read_share(share)
        if read.key != self._key.public_key.key_id:
            raise PoolStateRefused("the share is sealed to another KME's recovery key: hand it back anew")
        # Opened now, so that a share that does not open spoils none that does.
        words = self._words | {open_share(self._recovery, read, self._key)}
        needed = read.threshold
        if len(words) < needed:
            self._words = words
            return None, {"shares": len(words), "needed": needed}
        state = decode_state(combine_words(self._recovery, sorted(words)))
        if load(state).pool_id != self._recovery.pool:
            raise PoolStateRefused("what the shares hold is another pool's state")
        self._words, self._recovery = set(), None
        return state, {"shares": len(words), "needed": needed, "recovered": True}


def encode_recovery(recovery: Recovery) -> bytes:
    """As JSON."""
    return msgspec.json.encode(recovery)
