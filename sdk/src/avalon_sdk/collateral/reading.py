"""Reading what vendors' services send: certificates and CRLs in every spelling that services use, and when they end."""

from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from avalon_core.attestation.chains import load_certificate, load_crl
from avalon_core.attestation.files import read_certificates, read_collateral
from avalon_core.errors import EvidenceError

MAX_CERTIFICATES_BYTES = 64 * 1024
"""Chains have two or three certificates of one or two kilobytes."""


UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What reading a part of a hostile certificate or CRL can raise: the library reads them part by part, when asked."""


def certificates_of(raw: bytes) -> tuple[x509.Certificate, ...]:
    """Certificates in PEM (percent-encoded too) or DER, in their order.

    Raises:
        EvidenceError: there is none, or one cannot be read.
    """
    return tuple(load_certificate(der) for der in read_certificates(raw))


def crl_of(raw: bytes) -> x509.CertificateRevocationList:
    """One CRL, in DER, PEM, or DER as hex or base64: services differ.

    Raises:
        EvidenceError: no CRL, several, or more than a CRL.
    """
    found = read_collateral(raw)
    if len(found.crls) != 1 or found.certificates or found.snp or found.dcap:
        raise EvidenceError("expected one CRL and nothing else")
    return load_crl(found.crls[0])


def require_issuer(
    crl: x509.CertificateRevocationList, issuers: Iterable[x509.Certificate]
) -> x509.CertificateRevocationList:
    """The CRL, where one of these issued it by its name. (Whether it signed it is for the verdict.)

    Raises:
        EvidenceError: none of them did.
    """
    if not any(crl.issuer == issuer.subject for issuer in issuers):
        raise EvidenceError(f"a CRL of somebody else: {crl.issuer.rfc4514_string()[:200]}")
    return crl


def end_of(*parts: x509.Certificate | x509.CertificateRevocationList) -> int:
    """Unix seconds: the first end of any of them.

    Raises:
        EvidenceError: a CRL names no next update.
    """
    ends = []
    for part in parts:
        end = part.not_valid_after_utc if isinstance(part, x509.Certificate) else part.next_update_utc
        if end is None:
            raise EvidenceError("a CRL that names no next update")
        ends.append(int(end.timestamp()))
    return min(ends)


def pem_text(certificates: Iterable[x509.Certificate]) -> str:
    """The certificates in PEM, in their order."""
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates).decode("ascii")


def der_of(part: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """The part in DER."""
    return part.public_bytes(Encoding.DER)
