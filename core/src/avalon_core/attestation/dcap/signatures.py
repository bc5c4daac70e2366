"""The raw ECDSA signatures of quotes and collateral, one at a time: for finding out which of them is wrong."""

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from avalon_core.attestation.dcap.quotes import Quote


def signed_qe_report(quote: Quote, certificate: x509.Certificate) -> bool:
    """Whether the certificate's key signed the report of the quoting enclave."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False
    return isinstance(key, ec.EllipticCurvePublicKey) and verifies(
        key, quote.signature.qe_report_signature, quote.signature.qe_report_bytes
    )


def verifies(key: ec.EllipticCurvePublicKey, raw: bytes, message: bytes) -> bool:
    """ECDSA with SHA-256; the signature is r and s, big-endian, of half its length each."""
    half = len(raw) // 2
    signature = encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
