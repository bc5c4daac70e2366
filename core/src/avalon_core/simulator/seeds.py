"""All keys and identities of a simulated vendor, from one seed of 32 bytes. SIMULATED: whoever has the seed can forge.

The default seed is published here. A seed of one's own makes a simulator that others cannot imitate; it still
protects nothing, since whoever runs the machine has it.
"""

import contextlib
import hashlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SEED_BYTES = 32

DEFAULT_SEED = hashlib.sha256(b"avalon simulator vendor: published, protects nothing").digest()
"""The published seed, of which :mod:`avalon_core.simulator.roots` lists the roots."""

_DOMAIN = b"avalon simulator 1\0"
_SCALAR_BYTES = 48
"""16 bytes more than the order has, so that the remainder is as good as uniform (FIPS 186-5, A.2.1)."""

Curve = ec.SECP256R1 | ec.SECP384R1


def read_seed(content: bytes) -> bytes:
    """The seed that a file holds: 32 bytes raw, or as hex digits.

    Raises:
        ValueError: neither.
    """
    if len(content) == SEED_BYTES:
        return content
    with contextlib.suppress(ValueError):
        seed = bytes.fromhex(content.decode("ascii"))
        if len(seed) == SEED_BYTES:
            return seed
    raise ValueError(f"holds no seed: expected {SEED_BYTES} bytes, or {2 * SEED_BYTES} hex digits")


class Seed:
    """A seed, and what is derived from it by a label: equal seed and label, equal bytes."""

    def __init__(self, secret: bytes = DEFAULT_SEED) -> None:
        """``secret``: 32 bytes.

        Raises:
            ValueError: another length.
        """
        if len(secret) != SEED_BYTES:
            raise ValueError(f"a simulator's seed has {SEED_BYTES} bytes: got {len(secret)}")
        self._secret = secret

    def derive(self, label: str, length: int) -> bytes:
        """``length`` bytes under a label (HKDF-SHA256)."""
        info = _DOMAIN + label.encode()
        return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info).derive(self._secret)

    def key(self, label: str, curve: Curve | None = None) -> ec.EllipticCurvePrivateKey:
        """A signing key under a label; P-256 unless told."""
        curve = curve or ec.SECP256R1()
        length = _SCALAR_BYTES if isinstance(curve, ec.SECP256R1) else _SCALAR_BYTES + 16
        number = int.from_bytes(self.derive(f"key {curve.name} {label}", length), "big")
        return ec.derive_private_key(number % (curve.group_order - 1) + 1, curve)
