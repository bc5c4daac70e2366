"""The worker's private keys: made, sealed, restored. They leave this process sealed, or not at all."""

from dataclasses import dataclass, field

import msgspec

from avalon_core.crypto.dialects import WorkerKeys
from avalon_core.crypto.sealing import HpkePrivateKey, RsaPrivateKey
from avalon_core.crypto.signing import SigningKey
from avalon_core.errors import KeyFormatError
from avalon_enclave.errors import KeysRefused, SealingFailed
from avalon_enclave.platforms.base import Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose keys they are. Sealed with them: a host cannot start one worker with another's keys."""

    role: str
    worker_name: str
    tenant: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStore:
    """The keys of one worker."""

    owner: Owner
    signing: SigningKey = field(repr=False)
    encryption: WorkerKeys = field(repr=False)
    restored: bool = False
    """They were unsealed, not made."""


class _SealedKeys(msgspec.Struct, frozen=True, kw_only=True, tag="avalon keys 1"):
    role: str
    worker_name: str
    tenant: str | None
    signing: bytes
    rsa: bytes
    hpke: bytes


_decoder = msgspec.msgpack.Decoder(_SealedKeys)


def make_keys(owner: Owner) -> KeyStore:
    """Fresh keys. Takes a good tenth of a second, nearly all of it for RSA."""
    return KeyStore(
        owner=owner,
        signing=SigningKey.generate(),
        encryption=WorkerKeys(rsa=RsaPrivateKey.generate(), hpke=HpkePrivateKey.generate()),
    )


def seal_keys(keys: KeyStore, platform: Platform) -> bytes:
    """The keys as a blob that the host may keep."""
    plain = _SealedKeys(
        role=keys.owner.role,
        worker_name=keys.owner.worker_name,
        tenant=keys.owner.tenant,
        signing=keys.signing.to_bytes(),
        rsa=keys.encryption.rsa.to_bytes(),
        hpke=keys.encryption.hpke.to_bytes(),
    )
    return platform.seal(msgspec.msgpack.encode(plain))


def restore_keys(sealed: bytes, owner: Owner, platform: Platform) -> KeyStore:
    """Undo :func:`seal_keys`.

    Raises:
        KeysRefused: the blob does not open, or holds the keys of another worker. Keys are never made instead:
            orders sealed to the old ones would be lost without anybody having decided so.
    """
    try:
        plain = _decoder.decode(platform.unseal(sealed))
        found = Owner(role=plain.role, worker_name=plain.worker_name, tenant=plain.tenant)
        if found != owner:
            raise KeysRefused(
                "the sealed keys belong to another worker (its role, name or tenant differs); "
                "give this worker its own, or none to start with new keys"
            )
        return KeyStore(
            owner=owner,
            signing=SigningKey(plain.signing),
            encryption=WorkerKeys(rsa=RsaPrivateKey.from_der(plain.rsa), hpke=HpkePrivateKey(plain.hpke)),
            restored=True,
        )
    except (SealingFailed, KeyFormatError, msgspec.DecodeError) as exc:
        reason = exc.message if isinstance(exc, SealingFailed) else "what it holds are not keys"
        raise KeysRefused(
            f"the sealed keys do not open: {reason}. Bring back the platform state with which they were sealed, "
            "or remove them to start with new keys (orders sealed to the old ones are then lost)"
        ) from None
