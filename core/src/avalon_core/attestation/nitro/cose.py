"""COSE_Sign1 (RFC 9052, 4.2) in the one shape that the Nitro device makes: ES384, nothing else in the headers.

18([ << {1: -35} >>, {}, payload, signature ])       with or without the tag 18
"""

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from avalon_core.attestation import cbor
from avalon_core.errors import EvidenceError, SignatureMismatch

TAGGED = b"\xd2"
"""The tag 18 in its shortest spelling, the only one that is taken."""

MAX_SIGN1_BYTES = 20 * 1024
"""A payload of at most 16384 bytes (AP 3.1), a signature and headers."""

MAX_PROTECTED_BYTES = 16
SIGNATURE_BYTES = 96
"""r and s of ES384, 48 bytes each (RFC 9053, 2.1)."""

_ALGORITHM, _ES384 = 1, -35
PROTECTED = cbor.encode({_ALGORITHM: _ES384})
_PARTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign1:
    """A signed message. That it has been read says nothing about its signature."""

    protected: bytes
    """The protected header as it came: the signature covers these bytes."""

    payload: bytes
    signature: bytes
    """96 bytes."""

    def verify(self, key: ec.EllipticCurvePublicKey) -> None:
        """Check the signature under a P-384 key.

        Raises:
            SignatureMismatch: it does not hold, or the key is on another curve.
        """
        if not isinstance(key.curve, ec.SECP384R1):
            raise SignatureMismatch(f"ES384 needs a key on P-384, got one on {key.curve.name}")
        half = SIGNATURE_BYTES // 2
        r, s = (int.from_bytes(part, "big") for part in (self.signature[:half], self.signature[half:]))
        try:
            key.verify(
                encode_dss_signature(r, s),
                to_be_signed(self.protected, self.payload),
                ec.ECDSA(hashes.SHA384()),
            )
        except InvalidSignature:
            raise SignatureMismatch from None


def to_be_signed(protected: bytes, payload: bytes) -> bytes:
    """The Sig_structure (RFC 9052, 4.4), without external data."""
    return cbor.encode(["Signature1", protected, b"", payload])


def parse_sign1(data: bytes) -> Sign1:
    """Read a COSE_Sign1, tagged or not.

    The unprotected header must be empty: nobody signs it, so nothing in it could be believed.

    Raises:
        EvidenceError: of another shape, another algorithm, or with other headers.
    """
    parts = cbor.decode(data.removeprefix(TAGGED), what="the COSE_Sign1", max_bytes=MAX_SIGN1_BYTES)
    if not isinstance(parts, list) or len(parts) != _PARTS:
        raise EvidenceError("not a COSE_Sign1: expected an array of 4, with or without the tag 18")
    protected, unprotected, payload, signature = parts
    if not isinstance(protected, bytes) or not isinstance(payload, bytes) or not isinstance(signature, bytes):
        raise EvidenceError("not a COSE_Sign1: protected header, payload and signature must be byte strings")
    if unprotected != {}:
        raise EvidenceError("the unprotected header of the COSE_Sign1 must be an empty map")
    headers = cbor.decode(protected, what="the protected header", max_bytes=MAX_PROTECTED_BYTES)
    if not isinstance(headers, dict) or headers != {_ALGORITHM: _ES384}:
        raise EvidenceError(
            "the protected header of the COSE_Sign1 must be {1: -35} (algorithm ES384) and nothing else"
        )
    if len(signature) != SIGNATURE_BYTES:
        raise EvidenceError(
            f"an ES384 signature of {len(signature)} bytes, expected {SIGNATURE_BYTES}: r and s"
        )
    return Sign1(protected=protected, payload=payload, signature=signature)
