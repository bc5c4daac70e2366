"""Sealing under a key that hardware derives: AES-256-GCM, keyed by HKDF-SHA256 over the hardware's key.

    blob = magic | name of the hardware's key (1-byte length, ASCII) | nonce (12) | ciphertext and tag

The role and the name of the hardware's key go into the derivation, so that a blob opens only as what it was sealed as.
The nonce is random: one key seals a handful of blobs in its life, far from where that would matter.
"""

import os

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from avalon_core.crypto import aead
from avalon_core.errors import DecryptionFailed
from avalon_core.protocol.encodings import encode_fields
from avalon_enclave.errors import SealingFailed

_MAGIC = b"avalon hardware seal 1\0"


def seal_under(hardware_key: bytes, key_name: str, role: str, secret: bytes) -> bytes:
    """Seal. ``hardware_key``: 16 bytes or more, secret and uniform; ``key_name``: ASCII, which key that is."""
    nonce = os.urandom(aead.NONCE_BYTES)
    sealed = aead.seal(_derive(hardware_key, key_name, role), nonce, secret)
    return _MAGIC + bytes((len(key_name),)) + key_name.encode("ascii") + nonce + sealed


def key_name_of(sealed: bytes) -> str:
    """The name of the hardware's key under which a blob was sealed.

    Raises:
        SealingFailed: it is not a blob of this form.
    """
    return _split(sealed)[0]


def unseal_under(hardware_key: bytes, role: str, sealed: bytes) -> bytes:
    """Undo :func:`seal_under`.

    Raises:
        SealingFailed: not such a blob, sealed under another key or for another role, or changed.
    """
    key_name, nonce, ciphertext = _split(sealed)
    try:
        return aead.open_(_derive(hardware_key, key_name, role), nonce, ciphertext)
    except (DecryptionFailed, ValueError):
        raise SealingFailed(
            f"the blob does not open under the hardware's key {key_name!r}: it was sealed on another machine, by other "
            "code, under another version of the platform's firmware or for another role, or it was changed"
        ) from None


def _split(sealed: bytes) -> tuple[str, bytes, bytes]:
    start = len(_MAGIC) + 1
    if not sealed.startswith(_MAGIC) or len(sealed) <= start:
        raise SealingFailed("the blob is not one that was sealed under a hardware's key")
    end = start + sealed[start - 1]
    name, rest = sealed[start:end], sealed[end:]
    if not name.isascii() or len(rest) < aead.NONCE_BYTES + aead.TAG_BYTES:
        raise SealingFailed("the blob is cut off")
    return name.decode("ascii"), rest[: aead.NONCE_BYTES], rest[aead.NONCE_BYTES :]


def _derive(hardware_key: bytes, key_name: str, role: str) -> bytes:
    info = _MAGIC + encode_fields(key_name, role)
    return HKDF(algorithm=hashes.SHA256(), length=aead.KEY_BYTES, salt=None, info=info).derive(hardware_key)
