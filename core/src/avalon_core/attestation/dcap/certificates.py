"""The certificates of quotes and of their collateral: read once, and kept for a while.

A platform's PCK chain is the same in all of its quotes, and collateral the same for weeks; reading them again costs more
than all else that is done here beside the library. What is kept depends on the bytes alone.
"""

import itertools
from collections.abc import Sequence
from functools import lru_cache

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from avalon_core.attestation.chains import MAX_PATH, digest_of, extensions_of, load_pem_chain, name_of
from avalon_core.attestation.dcap.pck import fmspc_of, is_pck_certificate
from avalon_core.errors import EvidenceError

TIME_FORMAT = "%Y-%m-%d %H:%M:%S UTC"

MAX_CERTIFICATES = 2 * MAX_PATH
"""In one text. Intel's chains have three."""


class PckChain(msgspec.Struct, frozen=True, kw_only=True):
    """A platform's certificates, leaf first and root last. That each signed the one before is not yet verified."""

    certificates: tuple[x509.Certificate, ...]
    fmspc: str
    """Lower-case hex, of the leaf."""

    root: bytes
    """DER."""

    root_digest: str
    described: str
    """For people: the names, leaf first."""

    valid_from: int
    """Unix seconds: when the last of them began to be valid."""

    valid_to: int
    """Unix seconds: when the first of them ends."""

    validity: str
    """The same, for people."""

    @property
    def leaf(self) -> x509.Certificate:
        """The PCK certificate."""
        return self.certificates[0]


@lru_cache(maxsize=64)
def read_certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Read certificates in PEM, in the order of the text; zero bytes at its end are dropped.

    Raises:
        EvidenceError: too large, not PEM, none in it, or too many.
    """
    return load_pem_chain(pem.rstrip(b"\0"), most=MAX_CERTIFICATES)


def pem_of(certificates: Sequence[x509.Certificate]) -> bytes:
    """The text of certificates, in their order."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def chain_of(certificates: tuple[x509.Certificate, ...]) -> PckChain:
    """What there is to know of certificates that are in order.

    Raises:
        EvidenceError: the first is no PCK certificate.
    """
    valid_from = max(certificate.not_valid_before_utc for certificate in certificates)
    valid_to = min(certificate.not_valid_after_utc for certificate in certificates)
    return PckChain(
        certificates=certificates,
        fmspc=fmspc_of(certificates[0]),
        root=certificates[-1].public_bytes(Encoding.DER),
        root_digest=digest_of(certificates[-1]),
        described=" < ".join(name_of(certificate) for certificate in certificates),
        valid_from=int(valid_from.timestamp()),
        valid_to=int(valid_to.timestamp()),
        validity=f"valid {valid_from:{TIME_FORMAT}} to {valid_to:{TIME_FORMAT}}",
    )


@lru_cache(maxsize=64)
def read_chain(pem: bytes) -> PckChain:
    """Read a PCK chain that is in the usual order.

    Raises:
        EvidenceError: it cannot be read, its first certificate is not the only PCK certificate, or the names do not lead
            from each to the next.
    """
    certificates = read_certificates(pem)
    if any(is_pck_certificate(certificate) for certificate in certificates[1:]):
        raise EvidenceError(
            "several PCK certificates: only the signature of the QE report tells which is meant"
        )
    if not all(below.issuer == above.subject for below, above in itertools.pairwise(certificates)):
        raise EvidenceError("the certificates are not in the order of a path")
    return chain_of(certificates)


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may issue certificates, by its basic constraints."""
    try:
        return extensions_of(certificate).get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, EvidenceError):
        return False
