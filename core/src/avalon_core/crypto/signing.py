"""ECDSA over secp256k1, on 32-byte digests as they are: DER, RFC 6979 nonces, low S in what we make.

libsecp256k1 (coincurve) does the arithmetic: OpenSSL needs some fifteen times as long on this curve.
"""

import base64
import functools
import hashlib
import os

import coincurve
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from avalon_core.errors import KeyFormatError, SignatureMismatch

_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141

SECRET_KEY_BYTES = 32

_SPKI_PREFIX = bytes.fromhex("3056301006072a8648ce3d020106052b8104000a034200")
"""DER of a SubjectPublicKeyInfo of this curve, up to the uncompressed point. All of them begin so (RFC 5480): writing it
down saves OpenSSL's reading of a point that libsecp256k1 has just made."""

_PEM_LINE = 64


class _SecretKey(coincurve.PrivateKey):
    """The private key alone: in a pool every order has a fresh one, and what signs needs no public key, much less two."""

    def __init__(self, secret: bytes) -> None:
        self.secret = coincurve.utils.validate_secret(secret)
        self.context = coincurve.GLOBAL_CONTEXT


class SigningKey:
    """A private secp256k1 key. Its bytes leave it only through :meth:`to_bytes`, for sealing."""

    __slots__ = ("_key", "_verification_key")

    def __init__(self, secret: bytes) -> None:
        try:
            if len(secret) != SECRET_KEY_BYTES:  # libsecp256k1's binding pads what is short
                raise ValueError
            self._key = _SecretKey(secret)
        except ValueError as exc:
            raise KeyFormatError(
                "not a secp256k1 private key: expected 32 bytes between 1 and the group order"
            ) from exc
        self._verification_key: VerificationKey | None = None

    @property
    def verification_key(self) -> "VerificationKey":
        """Its public part. Computed when it is asked for: who is given a one-time key is told its public part, too."""
        if self._verification_key is None:
            self._verification_key = VerificationKey(coincurve.PublicKey.from_valid_secret(self._key.secret))
        return self._verification_key

    @classmethod
    def generate(cls) -> "SigningKey":
        """A fresh key from the operating system's randomness."""
        while True:
            secret = os.urandom(SECRET_KEY_BYTES)
            if 0 < int.from_bytes(secret, "big") < _ORDER:
                return cls(secret)

    @classmethod
    def from_pem(cls, pem: str) -> "SigningKey":
        """Read a PKCS#8 PEM.

        Raises:
            KeyFormatError: not such a key, or on another curve.
        """
        try:
            key = load_pem_private_key(pem.encode(), None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
            raise KeyFormatError("not a private key in PEM") from exc
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256K1):
            raise KeyFormatError("expected a secp256k1 private key")
        return cls(key.private_numbers().private_value.to_bytes(32, "big"))

    def sign(self, digest: bytes) -> bytes:
        """DER signature over a 32-byte digest."""
        return self._key.sign(digest, hasher=None)

    def to_bytes(self) -> bytes:
        """The 32 secret bytes. Only for sealing."""
        return self._key.secret


class VerificationKey:
    """A public secp256k1 key."""

    __slots__ = ("_key", "pem")

    def __init__(self, key: coincurve.PublicKey, pem: str | None = None) -> None:
        self._key = key
        self.pem = pem if pem is not None else _to_pem(key)
        """PEM SubjectPublicKeyInfo, exactly as received where it was received."""

    def verify(self, digest: bytes, signature: bytes, *, strict: bool = False) -> None:
        """Check a DER signature over a 32-byte digest.

        The original signs with S as it falls, so high S is normalised first. ``strict`` refuses it instead: then
        a valid signature has one spelling.

        Raises:
            SignatureMismatch: it does not verify, or is not DER.
        """
        if not strict:
            signature = _normalise(signature)
        try:
            valid = self._key.verify(signature, digest, hasher=None)
        except ValueError:
            raise SignatureMismatch("the signature is not an ECDSA signature in DER") from None
        if not valid:
            raise SignatureMismatch

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerificationKey) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key.format())


@functools.lru_cache(maxsize=4096)
def load_verification_key(pem: str) -> VerificationKey:
    """Read a PEM SubjectPublicKeyInfo. Cached: a key is parsed once, not once an order.

    Raises:
        KeyFormatError: not a secp256k1 public key.
    """
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise KeyFormatError("not a public key in PEM") from exc
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256K1):
        raise KeyFormatError("expected a secp256k1 public key")
    return VerificationKey(
        coincurve.PublicKey(key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)), pem
    )


def digest_of_text(text: str) -> bytes:
    """SHA-256 of the UTF-8 text: what signatures over PEM and hex members cover."""
    return hashlib.sha256(text.encode()).digest()


def _to_pem(key: coincurve.PublicKey) -> str:
    text = base64.b64encode(_SPKI_PREFIX + key.format(compressed=False)).decode("ascii")
    return f"-----BEGIN PUBLIC KEY-----\n{text[:_PEM_LINE]}\n{text[_PEM_LINE:]}\n-----END PUBLIC KEY-----\n"


def _normalise(signature: bytes) -> bytes:
    try:
        r, s = decode_dss_signature(signature)
    except ValueError:
        raise SignatureMismatch("the signature is not an ECDSA signature in DER") from None
    if not (0 < r < _ORDER and 0 < s < _ORDER):
        raise SignatureMismatch(
            "the signature is not an ECDSA signature on secp256k1: r or s is out of range"
        )
    return encode_dss_signature(r, _ORDER - s) if s > _ORDER // 2 else signature
