"""Public-key encryption of short secrets: RSA-OAEP as existing clients send it, and hybrid post-quantum HPKE.

Keys are objects that were parsed once. RSA-OAEP is with SHA-1 and MGF1-SHA-1, which is what every client of the
original uses; OAEP's security does not rest on the collision resistance that SHA-1 lost. HPKE (RFC 9180) is with
MLKEM768-X25519, HKDF-SHA256 and AES-256-GCM, from pyca/cryptography.
"""

import functools
import hashlib

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, hpke, serialization
from cryptography.hazmat.primitives.asymmetric import mlkem, padding, rsa, x25519

from avalon_core.errors import DecryptionFailed, EncodingError, KeyFormatError
from avalon_core.protocol.encodings import decode_lower_hex

RSA_BITS = 3072
_MIN_RSA_BITS = 2048
_OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)  # noqa: S303 what clients send

_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_MLKEM_PUBLIC_BYTES = 1184
_MLKEM_SEED_BYTES = 64
_X25519_BYTES = 32
HPKE_PUBLIC_BYTES = _MLKEM_PUBLIC_BYTES + _X25519_BYTES
HPKE_OVERHEAD_BYTES = 1120 + 16
"""What sealing adds: the encapsulated key and the tag."""


class RsaPublicKey:
    """The worker's RSA encryption key, as a requester uses it."""

    __slots__ = ("_key", "pem")

    def __init__(self, key: rsa.RSAPublicKey, pem: str) -> None:
        self._key = key
        self.pem = pem

    def seal(self, secret: bytes) -> bytes:
        """RSA-OAEP of a short secret."""
        return self._key.encrypt(secret, _OAEP)


class RsaPrivateKey:
    """The worker's RSA encryption key, in the enclave."""

    __slots__ = ("_key", "public_key")

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._key = key
        public = key.public_key()
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.public_key = RsaPublicKey(public, pem.decode("ascii"))

    @classmethod
    def generate(cls) -> "RsaPrivateKey":
        """A fresh key of 3,072 bits."""
        return cls(rsa.generate_private_key(65537, RSA_BITS))

    @classmethod
    def from_der(cls, der: bytes) -> "RsaPrivateKey":
        """Read unencrypted PKCS#8.

        Raises:
            KeyFormatError: not an RSA key, or one too short.
        """
        try:
            key = serialization.load_der_private_key(der, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
            raise KeyFormatError("not a private key in DER") from exc
        return cls(_require_rsa_private(key))

    @classmethod
    def from_pem(cls, pem: str) -> "RsaPrivateKey":
        """Read unencrypted PKCS#8 in PEM.

        Raises:
            KeyFormatError: not an RSA key, or one too short.
        """
        try:
            key = serialization.load_pem_private_key(pem.encode(), None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
            raise KeyFormatError("not a private key in PEM") from exc
        return cls(_require_rsa_private(key))

    def open_(self, sealed: bytes) -> bytes:
        """Undo :meth:`RsaPublicKey.seal`.

        Raises:
            DecryptionFailed: sealed to another key, or changed.
        """
        try:
            return self._key.decrypt(sealed, _OAEP)
        except ValueError:
            raise DecryptionFailed from None

    def to_bytes(self) -> bytes:
        """PKCS#8 DER. Only for sealing."""
        return self._key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def _require_rsa_private(key: object) -> rsa.RSAPrivateKey:
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < _MIN_RSA_BITS:
        raise KeyFormatError(f"expected an RSA private key of at least {_MIN_RSA_BITS} bits")
    return key


@functools.lru_cache(maxsize=1024)
def load_rsa_public_key(pem: str) -> RsaPublicKey:
    """Read a PEM SubjectPublicKeyInfo. Cached: parsed once, not once an order.

    Raises:
        KeyFormatError: not an RSA key, or one too short.
    """
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise KeyFormatError("not a public key in PEM") from exc
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < _MIN_RSA_BITS:
        raise KeyFormatError(f"expected an RSA public key of at least {_MIN_RSA_BITS} bits")
    return RsaPublicKey(key, pem)


class HpkePublicKey:
    """The worker's MLKEM768-X25519 key, as a requester uses it."""

    __slots__ = ("_key", "hex", "key_id")

    def __init__(self, key: hpke.MLKEM768X25519PublicKey, raw: bytes) -> None:
        self._key = key
        self.hex = raw.hex()
        """1,216 bytes: the ML-KEM-768 key, then the X25519 key."""

        self.key_id = hashlib.sha256(raw).hexdigest()
        """Hex of SHA-256 over those bytes: how an order names the key it was sealed to."""

    def seal(self, secret: bytes, info: bytes) -> bytes:
        """HPKE base mode, single shot: encapsulated key, then ciphertext and tag."""
        return _SUITE.encrypt(secret, self._key, info)


class HpkePrivateKey:
    """The worker's MLKEM768-X25519 key, in the enclave."""

    __slots__ = ("_key", "_secret", "public_key")

    def __init__(self, secret: bytes) -> None:
        """``secret``: 96 bytes, the ML-KEM-768 seed (64), then the X25519 key (32).

        Raises:
            KeyFormatError: another length.
        """
        if len(secret) != _MLKEM_SEED_BYTES + _X25519_BYTES:
            raise KeyFormatError(
                f"expected {_MLKEM_SEED_BYTES + _X25519_BYTES} bytes of MLKEM768-X25519 key, got {len(secret)}"
            )
        kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(secret[:_MLKEM_SEED_BYTES])
        curve = x25519.X25519PrivateKey.from_private_bytes(secret[_MLKEM_SEED_BYTES:])
        self._secret = secret
        self._key = hpke.MLKEM768X25519PrivateKey(kem, curve)
        raw = kem.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
        self.public_key = HpkePublicKey(self._key.public_key(), raw)

    @classmethod
    def generate(cls) -> "HpkePrivateKey":
        """A fresh key."""
        kem = mlkem.MLKEM768PrivateKey.generate()
        curve = x25519.X25519PrivateKey.generate()
        return cls(kem.private_bytes_raw() + curve.private_bytes_raw())

    def open_(self, sealed: bytes, info: bytes) -> bytes:
        """Undo :meth:`HpkePublicKey.seal`.

        Raises:
            DecryptionFailed: sealed to another key or under another ``info``, or changed.
        """
        try:
            return _SUITE.decrypt(sealed, self._key, info)
        except (InvalidTag, ValueError):
            # A wrong key and a malformed encapsulation must look alike to the sender of a forged message.
            raise DecryptionFailed from None

    def to_bytes(self) -> bytes:
        """The 96 secret bytes. Only for sealing."""
        return self._secret


@functools.lru_cache(maxsize=1024)
def load_hpke_public_key(hex_: str) -> HpkePublicKey:
    """Read the lower-case hex of a worker record. Cached: parsed once, not once an order.

    Raises:
        KeyFormatError: another length, or no such key.
    """
    try:
        raw = decode_lower_hex(hex_, what="the MLKEM768-X25519 public key")
        if len(raw) != HPKE_PUBLIC_BYTES:
            raise KeyFormatError(
                f"expected {HPKE_PUBLIC_BYTES} bytes of MLKEM768-X25519 public key, got {len(raw)}"
            )
        kem = mlkem.MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_PUBLIC_BYTES])
        curve = x25519.X25519PublicKey.from_public_bytes(raw[_MLKEM_PUBLIC_BYTES:])
    except (EncodingError, ValueError) as exc:
        raise KeyFormatError("not a MLKEM768-X25519 public key") from exc
    return HpkePublicKey(hpke.MLKEM768X25519PublicKey(kem, curve), raw)
