"""Certificate chains of evidence: from a leaf to a known root, as of a time, with revocation.

The steps, each a check of its own name, in this order:

1. *chain*: a path of at most :data:`MAX_PATH` certificates exists in which each is signed by the next, every issuer
   is a certification authority that may sign certificates, and path lengths hold. The order and surplus of the given
   certificates does not matter.
2. *root*: the path ends in a root that is known here, by the digest of the whole certificate.
3. *validity*: every certificate of the path is valid at the given time.
4. *revocation*: where the caller asks for it, the CRL of every issuer is there, signed by it, of date, and lists no
   certificate of the path.

Why not the path validation of pyca/cryptography: it implements the profile of the web, and refuses what vendors really
issue (RSA-PSS in AMD's chains, GeneralizedTime before 2050 in Intel's for IAS). Parsing and every signature are its work.
"""

import hashlib
import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from avalon_core.attestation.checks import Check, could_not_check, decided, failed, passed
from avalon_core.attestation.collateral import MAX_CRL_BYTES
from avalon_core.attestation.roots import TrustAnchor, TrustAnchors
from avalon_core.errors import EvidenceError

MAX_PATH = 6
"""Leaf and root included. AWS Nitro has the longest, five."""

MAX_PEM_BYTES = 256 * 1024
MIN_RSA_BITS = 2048
MAX_SIGNATURES = 64
"""Signatures that a search for a path checks at most: certificates that all sign one another must not cost minutes."""
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)

_UNREADABLE = (ValueError, TypeError, x509.InvalidVersion)
UNREADABLE_EXTENSIONS = (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What the library raises where a certificate, or what it carries, is not well formed (TypeError: a name of a wrong type)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainVerification:
    """The checks of a chain; the path (leaf first) and its root where there is a whole one."""

    checks: Sequence[Check]
    path: Sequence[x509.Certificate] = ()
    anchor: TrustAnchor | None = None


def load_certificate(der: bytes) -> x509.Certificate:
    """Read one certificate in DER.

    Raises:
        EvidenceError: it is none.
    """
    try:
        with warnings.catch_warnings():
            # The library warns of AMD's serial number 0, and of names as long as those of Google's older TPM roots.
            warnings.simplefilter("ignore", UserWarning)
            return _readable(x509.load_der_x509_certificate(der))
    except _UNREADABLE as exc:
        raise EvidenceError(f"a certificate cannot be read: {exc}") from None


def _readable(certificate: x509.Certificate) -> x509.Certificate:
    """Read the parts that every later step asks for, so that they fail here or never."""
    _ = certificate.subject, certificate.issuer
    _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return certificate


def extensions_of(certificate: x509.Certificate) -> x509.Extensions:
    """Read the extensions, without the library's warnings of numbers in them.

    Raises:
        EvidenceError: one is malformed, or is there twice.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return certificate.extensions
    except UNREADABLE_EXTENSIONS as exc:
        raise EvidenceError(f"a certificate with extensions that cannot be read: {exc}") from None


def load_pem_chain(pem: bytes, *, most: int = 16) -> tuple[x509.Certificate, ...]:
    """Read certificates in PEM, in the order of the text.

    Raises:
        EvidenceError: not PEM, none in it, or more than ``most``.
    """
    if len(pem) > MAX_PEM_BYTES:
        raise EvidenceError(
            f"a chain in PEM is too large: got {len(pem)} bytes, expected at most {MAX_PEM_BYTES}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            certificates = [_readable(certificate) for certificate in x509.load_pem_x509_certificates(pem)]
    except _UNREADABLE as exc:
        raise EvidenceError(f"a certificate chain in PEM cannot be read: {exc}") from None
    if len(certificates) > most:
        raise EvidenceError(f"too many certificates: got {len(certificates)}, expected at most {most}")
    return tuple(certificates)


def load_crl(der: bytes) -> x509.CertificateRevocationList:
    """Read a CRL in DER.

    Raises:
        EvidenceError: it is none.
    """
    if len(der) > MAX_CRL_BYTES:
        raise EvidenceError(f"a CRL is too large: got {len(der)} bytes, expected at most {MAX_CRL_BYTES}")
    try:
        return x509.load_der_x509_crl(der)
    except ValueError as exc:
        raise EvidenceError(f"a CRL cannot be read: {exc}") from None


def digest_of(certificate: x509.Certificate) -> str:
    """Lower-case hex of the SHA-256 over the certificate's DER: how roots are known."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def name_of(certificate: x509.Certificate) -> str:
    """The common name, or the whole subject, for people."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()


def verify_chain(
    leaf: x509.Certificate,
    others: Iterable[x509.Certificate],
    *,
    anchors: TrustAnchors,
    as_of: datetime,
    crls: Sequence[x509.CertificateRevocationList] | None = None,
    grace: timedelta = timedelta(0),
) -> ChainVerification:
    """Verify the chain of a leaf certificate: the module says how.

    Args:
        leaf: the certificate whose key signed the evidence.
        others: intermediates and roots, in any order; what does not belong to the path is ignored.
        anchors: the known roots.
        as_of: the time at which certificates and CRLs must be valid.
        crls: None where revocation is not to be checked here; else the CRLs at hand, and one of each issuer is needed.
        grace: how long after its next update a CRL is still taken.
    """
    checks: list[Check] = []
    path = _find_path(leaf, tuple(others), anchors)
    described = " < ".join(name_of(certificate) for certificate in path)
    if not _is_self_issued(path[-1]):
        checks.append(
            could_not_check(
                "chain",
                expected="a path of valid signatures from the leaf to a root certificate",
                found=f"no issuer of {name_of(path[-1])!r} that signed it and may sign certificates",
                source=described,
                remedy="Give the missing intermediate and root certificates; if all are there, the chain is forged.",
            )
        )
        return ChainVerification(checks=checks)
    checks.append(
        passed(
            "chain", expected="a path of valid signatures to a root", found=described, source="certificates"
        )
    )
    anchor = anchors.find(digest_of(path[-1]))
    if anchor is None:
        checks.append(
            failed(
                "root",
                expected="one of the known roots: " + ", ".join(sorted(known.name for known in anchors)),
                found=f"{name_of(path[-1])!r}, SHA-256 {digest_of(path[-1])}",
                source=described,
                remedy="Nobody known vouches for this evidence: do not trust it. A root of your own is added by its "
                "digest in the policy.",
            )
        )
        return ChainVerification(checks=checks, path=path)
    simulated = " (SIMULATED)" if anchor.simulated else ""
    checks.append(
        passed("root", expected="a known root", found=f"{anchor.name}{simulated}", source=name_of(path[-1]))
    )
    checks.append(_check_validity(path, as_of))
    if crls is not None:
        checks.append(check_revocation(path, crls, as_of=as_of, grace=grace))
    return ChainVerification(checks=checks, path=path, anchor=anchor)


def _find_path(
    leaf: x509.Certificate, others: tuple[x509.Certificate, ...], anchors: TrustAnchors
) -> tuple[x509.Certificate, ...]:
    """The first whole path that ends in a known root, else the longest one (at least the leaf)."""
    best: tuple[x509.Certificate, ...] = (leaf,)
    for path in _paths((leaf,), others, iter(range(MAX_SIGNATURES))):
        if _is_self_issued(path[-1]) and anchors.find(digest_of(path[-1])) is not None:
            return path
        if (_is_self_issued(path[-1]), len(path)) > (_is_self_issued(best[-1]), len(best)):
            best = path
    return best


def _paths(
    path: tuple[x509.Certificate, ...], others: tuple[x509.Certificate, ...], budget: Iterator[int]
) -> Iterator[tuple[x509.Certificate, ...]]:
    yield path
    if len(path) == MAX_PATH or _is_self_issued(path[-1]):
        return
    for candidate in others:
        if candidate in path or candidate.subject != path[-1].issuer:
            continue
        if next(budget, None) is None:
            return
        if _issued(candidate, path[-1], below=len(path) - 1):
            yield from _paths((*path, candidate), others, budget)


def _is_self_issued(certificate: x509.Certificate) -> bool:
    """Whether it is a root: issued by itself, and signed so."""
    return certificate.issuer == certificate.subject and _signed(certificate, certificate)


def _issued(issuer: x509.Certificate, subject: x509.Certificate, *, below: int) -> bool:
    """Whether ``issuer`` may sign certificates above ``below`` further authorities, and signed ``subject``."""
    try:
        extensions = extensions_of(issuer)
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, EvidenceError):
        return False
    if not constraints.ca or (constraints.path_length is not None and constraints.path_length < below):
        return False
    try:
        if not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
            return False
    except x509.ExtensionNotFound:
        pass
    return _signed(issuer, subject)


def _signed(issuer: x509.Certificate, subject: x509.Certificate) -> bool:
    try:
        if not isinstance(subject.signature_hash_algorithm, _HASHES) or not _is_strong(issuer):
            return False
        subject.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.UnsupportedGeneralNameType):
        return False
    return True


def _is_strong(issuer: x509.Certificate) -> bool:
    key = issuer.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= MIN_RSA_BITS
    return isinstance(key, ec.EllipticCurvePublicKey)


def _check_validity(path: Sequence[x509.Certificate], as_of: datetime) -> Check:
    outside = [
        certificate
        for certificate in path
        if not certificate.not_valid_before_utc <= as_of <= certificate.not_valid_after_utc
    ]
    first = max(certificate.not_valid_before_utc for certificate in path)
    last = min(certificate.not_valid_after_utc for certificate in path)
    found = f"valid {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC"
    if outside:
        found = "; ".join(
            f"{name_of(c)!r} is valid {c.not_valid_before_utc:%Y-%m-%d %H:%M:%S} to "
            f"{c.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC"
            for c in outside
        )
    return decided(
        "validity",
        not outside,
        expected=f"every certificate valid at {as_of:%Y-%m-%d %H:%M:%S} UTC",
        found=found,
        source="certificates",
        remedy="Ask for fresh evidence; to judge old evidence as of its own day, give that time.",
    )


def check_revocation(
    path: Sequence[x509.Certificate],
    crls: Sequence[x509.CertificateRevocationList],
    *,
    as_of: datetime,
    grace: timedelta = timedelta(0),
) -> Check:
    """Check every certificate of a path (leaf first, root last) but the root against its issuer's CRL."""
    expected = "no certificate of the chain revoked, by CRLs of date"
    sources = []
    for subject, issuer in itertools.pairwise(path):
        crl = _find_crl(issuer, crls)
        if crl is None:
            return could_not_check(
                "revocation",
                expected=expected,
                found=f"no CRL signed by {name_of(issuer)!r}",
                remedy="Fetch the collateral of this platform, or give it, and check again.",
            )
        source = f"CRL of {name_of(issuer)!r}, {crl.last_update_utc:%Y-%m-%d}"
        sources.append(source)
        # A CRL object is falsy when it lists nothing: never ask for its truth.
        if crl.next_update_utc is None or not crl.last_update_utc <= as_of <= crl.next_update_utc + grace:
            return could_not_check(
                "revocation",
                expected=f"a CRL that speaks of {as_of:%Y-%m-%d %H:%M:%S} UTC",
                found=f"one of {crl.last_update_utc:%Y-%m-%d} to {crl.next_update_utc or 'no end'}",
                source=source,
                remedy="Fetch the collateral of this platform anew, and check again.",
            )
        if crl.get_revoked_certificate_by_serial_number(subject.serial_number) is not None:
            return failed(
                "revocation",
                expected=expected,
                found=f"{name_of(subject)!r} (serial {subject.serial_number:x}) is revoked",
                source=source,
                remedy="The vendor has withdrawn this platform's key: do not trust it. The operator has to renew it.",
            )
    return passed("revocation", expected=expected, found="none revoked", source=", ".join(sources))


def _find_crl(
    issuer: x509.Certificate, crls: Sequence[x509.CertificateRevocationList]
) -> x509.CertificateRevocationList | None:
    """The newest CRL that the issuer signed."""
    key = issuer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        return None
    signed = [crl for crl in crls if crl.issuer == issuer.subject and _crl_signed(crl, key)]
    return max(signed, key=lambda crl: crl.last_update_utc, default=None)


def _crl_signed(
    crl: x509.CertificateRevocationList, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
) -> bool:
    try:
        return isinstance(crl.signature_hash_algorithm, _HASHES) and crl.is_signature_valid(key)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
