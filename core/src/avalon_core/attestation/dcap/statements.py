"""Collateral of one platform, read: Intel's two statements, their signers, the CRLs, and the time they speak of."""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from cryptography import x509

from avalon_core.attestation.chains import digest_of, load_crl
from avalon_core.attestation.collateral import DcapCollateral
from avalon_core.attestation.dcap import qvl
from avalon_core.attestation.dcap.certificates import TIME_FORMAT, is_authority, pem_of, read_certificates
from avalon_core.attestation.dcap.pck import is_pck_certificate
from avalon_core.attestation.dcap.tcb_info import QeIdentity, TcbInfo, parse_qe_identity, parse_tcb_info
from avalon_core.errors import EvidenceError


class Issuers(msgspec.Struct, frozen=True, kw_only=True):
    """One of the issuer chains. All platforms share a few of them."""

    certificates: tuple[x509.Certificate, ...]
    """What may not issue certificates, a signer, comes first."""

    pem: str
    """The same, in this order."""

    roots: frozenset[str]
    """Digests of the self-issued ones."""

    odd_signer: str
    """Why the first cannot be Intel's TCB signing certificate, or empty."""


class Statements(msgspec.Struct, frozen=True, kw_only=True):
    """One platform's collateral. That its signatures hold is not yet verified."""

    source: DcapCollateral
    tcb_info: TcbInfo
    qe_identity: QeIdentity
    tcb_chain: tuple[x509.Certificate, ...]
    """Signer first."""

    qe_chain: tuple[x509.Certificate, ...]
    """Signer first."""

    crl_chain: tuple[x509.Certificate, ...]
    crls: tuple[x509.CertificateRevocationList, ...]
    """Of the root, then of the PCK CA."""

    described_crls: str
    roots: frozenset[str]
    """Digests of all self-issued certificates in the three chains."""

    odd_signer: str
    """Why a signer cannot be Intel's TCB signing certificate, or empty."""

    start: int
    """Unix seconds: from when all of it speaks."""

    end: int
    """Unix seconds: the first next update; at that second it no longer speaks."""

    time: str
    """The same, for people."""

    described: str
    """Both statements, as a report names its source."""

    for_library: Any

    @property
    def key(self) -> tuple[str, str]:
        """TEE and FMSPC (lower-case hex) that it is about."""
        return self.tcb_info.id, self.tcb_info.fmspc.lower()


@lru_cache(maxsize=32)
def read_statements(collateral: DcapCollateral) -> Statements:
    """Read one platform's collateral.

    Raises:
        EvidenceError: a part cannot be read.
    """
    try:
        return _read_statements(collateral)
    except (ValueError, TypeError, x509.InvalidVersion) as exc:
        # Names and dates of a CRL are read when they are asked for.
        raise EvidenceError(f"the collateral cannot be read: {exc}") from None


def _read_statements(collateral: DcapCollateral) -> Statements:
    tcb_info = parse_tcb_info(collateral.tcb_info)
    qe_identity = parse_qe_identity(collateral.qe_identity)
    tcb_issuers = _read_issuers(collateral.tcb_info_issuer_chain)
    qe_issuers = _read_issuers(collateral.qe_identity_issuer_chain)
    crl_issuers = _read_issuers(collateral.pck_crl_issuer_chain)
    crls = load_crl(_unhex(collateral.root_ca_crl)), load_crl(_unhex(collateral.pck_crl))
    start = max(tcb_info.issue_date, qe_identity.issue_date, *(crl.last_update_utc for crl in crls))
    end = min(tcb_info.next_update, qe_identity.next_update, *(_next_update(crl) for crl in crls))
    return Statements(
        source=collateral,
        tcb_info=tcb_info,
        qe_identity=qe_identity,
        tcb_chain=tcb_issuers.certificates,
        qe_chain=qe_issuers.certificates,
        crl_chain=crl_issuers.certificates,
        crls=crls,
        described_crls=", ".join(f"CRL of {_issuer(crl)!r}, {crl.last_update_utc:%Y-%m-%d}" for crl in crls),
        roots=tcb_issuers.roots | qe_issuers.roots | crl_issuers.roots,
        odd_signer=tcb_issuers.odd_signer or qe_issuers.odd_signer,
        start=int(start.timestamp()),
        end=int(end.timestamp()),
        time=f"of {start.astimezone(UTC):{TIME_FORMAT}} to {end.astimezone(UTC):{TIME_FORMAT}}",
        described=f"{tcb_info.source}; {qe_identity.source}",
        for_library=qvl.prepare(collateral, tcb_issuers.pem, qe_issuers.pem),
    )


def choose(known: Iterable[Statements], *, tee: str, fmspc: str, at: int) -> Statements | None:
    """What is about this TEE (``SGX``, ``TDX``) and FMSPC (lower-case hex): what speaks of the time, else the newest."""
    fitting = [statements for statements in known if statements.key == (tee, fmspc)]
    return max(fitting, key=lambda one: (one.start <= at < one.end, one.end), default=None)


@lru_cache(maxsize=32)
def _read_issuers(pem: str) -> Issuers:
    # The library takes the first for the signer; whoever wrote the text may have begun at the root.
    certificates = tuple(sorted(read_certificates(pem.encode()), key=is_authority))
    return Issuers(
        certificates=certificates,
        pem=pem_of(certificates).decode(),
        roots=frozenset(digest_of(one) for one in certificates if one.issuer == one.subject),
        odd_signer=_odd_signer(certificates),
    )


def _odd_signer(chain: tuple[x509.Certificate, ...]) -> str:
    """Why the first certificate cannot be Intel's TCB signing certificate.

    The root issues that one and CAs, and nothing else ("Intel SGX PCK Certificate and CRL Profile Specification", the
    certificate hierarchy). Any platform's PCK certificate has a path to the same root: a platform whose key leaked must not
    be able to write its own TCB info.
    """
    signer = chain[0]
    if is_authority(signer):
        return "a certification authority"
    if is_pck_certificate(signer):
        return "a platform's PCK certificate"
    if not any(above.subject == above.issuer == signer.issuer for above in chain[1:]):
        return "a certificate that its chain's root did not issue"
    return ""


def _next_update(crl: x509.CertificateRevocationList) -> datetime:
    if crl.next_update_utc is None:
        raise EvidenceError("a CRL of the collateral names no next update")
    return crl.next_update_utc


def _issuer(crl: x509.CertificateRevocationList) -> str:
    names = crl.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else crl.issuer.rfc4514_string()


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise EvidenceError("a CRL of the collateral is not hex") from None
