"""The signature over a quote, under the public key of an attestation key's certificate.

Source: TCG, TPM Library, Part 1, revision 1.59, annex B (RSA) and C (ECC); the primitives are pyca/cryptography's.
"""

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from avalon_core.attestation.tpm.structures import QuoteSignature
from avalon_core.errors import EvidenceError, SignatureMismatch

MIN_RSA_BITS = 2048
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


def verify_signature(key: CertificatePublicKeyTypes, signature: QuoteSignature, signed: bytes) -> None:
    """Verify the signature over ``signed``, the raw TPMS_ATTEST.

    Raises:
        EvidenceError: the key does not fit the scheme, or is weaker than we take: RSA of 2048 bits, NIST's curves.
        SignatureMismatch: the signature does not verify.
    """
    hash_ = _HASHES[signature.hash_name]
    try:
        if isinstance(key, rsa.RSAPublicKey) and signature.scheme != "ecdsa":
            if key.key_size < MIN_RSA_BITS:
                raise EvidenceError(
                    f"the attestation key is too weak: got RSA of {key.key_size} bits, expected {MIN_RSA_BITS} or more"
                )
            key.verify(signature.rsa, signed, _rsa_padding(signature.scheme, hash_), hash_)
        elif isinstance(key, ec.EllipticCurvePublicKey) and signature.scheme == "ecdsa":
            if not isinstance(key.curve, _CURVES):
                raise EvidenceError(
                    f"the attestation key's curve: got {key.curve.name}, expected P-256, P-384 or P-521"
                )
            key.verify(encode_dss_signature(signature.r, signature.s), signed, ec.ECDSA(hash_))
        else:
            raise EvidenceError(
                f"the attestation key does not fit its signature: got a {type(key).__name__} and {signature.scheme}"
            )
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        raise SignatureMismatch from None


def _rsa_padding(scheme: str, hash_: hashes.HashAlgorithm) -> padding.PKCS1v15 | padding.PSS:
    if scheme == "rsassa":
        return padding.PKCS1v15()
    # TPMs use the longest salt that fits, and in a FIPS mode one as long as the digest (annex B.7): both are taken.
    return padding.PSS(mgf=padding.MGF1(hash_), salt_length=padding.PSS.AUTO)
