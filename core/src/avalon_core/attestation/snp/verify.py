"""Verification of SNP evidence: from AMD's root to the report's signature.

The steps, each a check of its own name, in this order:

1. *document*: the report can be read, and so can the certificates.
2. *requester*: the guest asked for the report. One that the hypervisor asked for speaks for nobody's keys.
3. *key certificate*: there is a certificate of the kind of key that the report names as its signer (VCEK or VLEK).
4. *chain*, *root*, *validity*: from that certificate to a known ARK, as of the time.
5. *revocation*: only where a CRL of that ARK is given: it lists neither ASK nor ASVK. AMD issues CRLs of its ARKs alone,
   and its VCEKs bear no serial number of their own, so no CRL could name one. Where none is given, the claims say so
   (``attributes["revocation"]``), and a policy can refuse that.
6. *product*: the certificate's product, the names in its chain and the report's CPUID all are of one product line.
7. *chip*: the VCEK is that chip's (CHIP_ID is HWID). A VLEK belongs to no chip, and a platform may mask CHIP_ID: then
   the signature alone ties report and certificate.
8. *platform tcb*: the key was derived for the REPORTED_TCB of the report.
9. *signature*: ECDSA P-384 with SHA-384 over bytes 0h to 29Fh.

Source: SEV Secure Nested Paging Firmware ABI Specification (AMD 56860), 7.3; Versioned Chip Endorsement Key
Certificate and KDS Interface Specification (AMD 57230), 2 and 3.

Certificates come with the evidence (:attr:`Evidence.certificates`; the attachment ``certificate_table``, which is the
table of an extended guest request) or with the collateral. The caller still has to appraise the claims.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from avalon_core.attestation.chains import (
    ChainVerification,
    check_revocation,
    load_certificate,
    load_crl,
    name_of,
    verify_chain,
)
from avalon_core.attestation.checks import (
    Check,
    Verdict,
    Verification,
    could_not_check,
    decided,
    failed,
    overall,
    passed,
)
from avalon_core.attestation.collateral import Collateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.roots import TrustAnchors
from avalon_core.attestation.snp.certificates import (
    KeyCertificate,
    is_key_certificate,
    parse_certificate_table,
    read_key_certificate,
)
from avalon_core.attestation.snp.claims import REVOCATION_CHECKED, REVOCATION_NOT_CHECKED, claims_of
from avalon_core.attestation.snp.products import Product, decode_tcb, product_of_cpuid
from avalon_core.attestation.snp.report import (
    GUEST_VMPLS,
    HOST_VMPL,
    SigningKey,
    SnpReport,
    looks_like_report,
    parse_report,
)
from avalon_core.errors import EvidenceError

CERTIFICATE_TABLE = "certificate_table"
"""The attachment with the host's table of certificates."""

_ABI = "AMD 56860, 7.3"
_KDS = "AMD 57230, 3"
_PATH = 3
"""VCEK or VLEK, ASK or ASVK, ARK."""


@dataclass(frozen=True, slots=True)
class _Material:
    """The certificates and CRLs at hand."""

    certificates: tuple[x509.Certificate, ...]
    crls: tuple[x509.CertificateRevocationList, ...]


class SnpFormat:
    """SEV-SNP attestation reports."""

    name = "snp"
    proof_data_type = "TEE-SNP"

    def detect(self, document: bytes) -> bool:
        return looks_like_report(document)

    def verify(
        self,
        evidence: Evidence,
        *,
        anchors: TrustAnchors,
        collateral: Collateral,
        as_of: datetime,
        grace: timedelta = timedelta(0),
    ) -> Verification:
        try:
            report = parse_report(evidence.document)
            material = _material(evidence, collateral)
        except EvidenceError as exc:
            return Verification(checks=[_unreadable(exc)])
        checks = [
            passed(
                "document",
                expected="an SNP report and its certificates",
                found=f"SNP report v{report.version}, {len(material.certificates)} certificates",
                source=_ABI,
            ),
            _check_requester(report),
        ]
        try:
            key = _find_key(report, material.certificates)
        except EvidenceError as exc:
            return Verification(checks=[*checks, _bad_key_certificate(report, str(exc))])
        if key is None:
            return Verification(checks=[*checks, _no_key_certificate(report)])
        checks.append(
            passed(
                "key certificate",
                expected=f"a certificate of a {_kind(report)}",
                found=f"{name_of(key.certificate)!r} of {key.product_name}",
                source=_ABI,
            )
        )
        chain = verify_chain(key.certificate, material.certificates, anchors=anchors, as_of=as_of)
        checks += chain.checks
        crls = _crls_of_root(chain, material.crls)
        if crls:
            checks.append(check_revocation(chain.path[1:], crls, as_of=as_of, grace=grace))
        checks += [
            _check_product(report, key, chain),
            _check_chip(report, key),
            _check_platform_tcb(report, key),
            _check_signature(report, key.certificate),
        ]
        if chain.anchor is None or overall(checks) is not Verdict.PASSED:
            return Verification(checks=checks)
        claims = claims_of(
            report,
            key,
            chain.anchor,
            expires=_expires(chain.path, crls),
            revocation=REVOCATION_CHECKED if crls else REVOCATION_NOT_CHECKED,
        )
        return Verification(checks=checks, claims=claims)


SNP = SnpFormat()


def _material(evidence: Evidence, collateral: Collateral) -> _Material:
    """All certificates and CRLs; those of the evidence first."""
    certificates = list(evidence.certificates)
    crls = list(collateral.crls)
    table = evidence.attachments.get(CERTIFICATE_TABLE)
    if table is not None:
        parts = parse_certificate_table(table)
        certificates += parts.certificates
        crls += parts.crls
    for platform in collateral.snp:
        certificates += platform.certificates
        if platform.crl is not None:
            crls.append(platform.crl)
    return _Material(
        certificates=tuple(load_certificate(der) for der in dict.fromkeys(certificates)),
        crls=tuple(load_crl(der) for der in dict.fromkeys(crls)),
    )


def _find_key(report: SnpReport, certificates: Sequence[x509.Certificate]) -> KeyCertificate | None:
    """The certificate of the report's signer: the one whose key made the signature, else the first of its kind.

    Raises:
        EvidenceError: there are certificates of signing keys, and none of them can be read.
    """
    found: list[KeyCertificate] = []
    problems: list[EvidenceError] = []
    for certificate in certificates:
        try:
            if is_key_certificate(certificate):
                found.append(read_key_certificate(certificate))
        except EvidenceError as exc:
            problems.append(exc)
    fitting = [key for key in found if key.kind == report.signing_key]
    if problems and not fitting:
        raise problems[0]
    signers = (key for key in fitting if _is_signed_by(report, key.certificate))
    return next(itertools.chain(signers, fitting), None)


def _is_signed_by(report: SnpReport, certificate: x509.Certificate) -> bool:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return False
    try:
        key.verify(encode_dss_signature(*report.signature), report.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


def _crls_of_root(
    chain: ChainVerification, crls: Sequence[x509.CertificateRevocationList]
) -> Sequence[x509.CertificateRevocationList]:
    """The CRLs in the name of the chain's root: others speak of other platforms and ask for no check here."""
    if not chain.path:
        return ()
    return [crl for crl in crls if crl.issuer == chain.path[-1].subject]


def _expires(path: Sequence[x509.Certificate], crls: Sequence[x509.CertificateRevocationList]) -> int:
    ends = [certificate.not_valid_after_utc for certificate in path]
    ends += [crl.next_update_utc for crl in crls if crl.next_update_utc is not None]
    return int(min(ends).timestamp())


def _kind(report: SnpReport) -> str:
    return SigningKey(report.signing_key).name if report.signing_key in list(SigningKey) else "reserved key"


def _unreadable(exc: EvidenceError) -> Check:
    return failed(
        "document",
        expected="an SNP report and its certificates",
        found=exc.message,
        source=_ABI,
        remedy="This is no SNP evidence, or it was cut or changed on the way: ask for it again.",
    )


def _bad_key_certificate(report: SnpReport, problem: str) -> Check:
    return failed(
        "key certificate",
        expected=f"a certificate of a {_kind(report)}",
        found=problem,
        source=_KDS,
        remedy="Fetch the certificate of this chip and TCB version from AMD's key distribution service.",
    )


def _no_key_certificate(report: SnpReport) -> Check:
    if report.signing_key not in (SigningKey.VCEK, SigningKey.VLEK) or report.chip_key_masked:
        return failed(
            "key certificate",
            expected="a report signed by a VCEK or a VLEK",
            found="a report of a platform whose chip signs nothing",
            source=_ABI,
            remedy="The operator has to let the platform sign its reports (MaskChipKey, or load a VLEK).",
        )
    return could_not_check(
        "key certificate",
        expected=f"a certificate of a {_kind(report)}",
        found="none",
        source=_ABI,
        remedy="Fetch the collateral of this chip and TCB version from AMD's key distribution service, or from the "
        "cloud's cache of it, and check again.",
    )


def _check_requester(report: SnpReport) -> Check:
    asked = "the hypervisor" if report.vmpl == HOST_VMPL else f"VMPL {report.vmpl}"
    return decided(
        "requester",
        report.vmpl in GUEST_VMPLS,
        expected="a report that the guest asked for, VMPL 0 to 3",
        found=f"asked for by {asked}",
        source=_ABI,
        remedy="Let the guest ask for its report itself.",
    )


def _check_product(report: SnpReport, key: KeyCertificate, chain: ChainVerification) -> Check:
    """One product line in all. The names are signed by a known root; a simulator puts its mark before them."""
    product = key.product
    found = [f"certificate of {key.product_name}"]
    fits = True
    if report.cpuid is not None:
        family, model, _ = report.cpuid
        found.append(f"CPU family {family:02x}h model {model:02x}h")
        fits = product_of_cpuid(family, model) is product
    elif product is Product.TURIN:
        found.append(f"report v{report.version}, which is older than Turin")
        fits = False
    if chain.path:
        names = [name_of(certificate) for certificate in chain.path[1:]]
        found.append("issued by " + " < ".join(names))
        infix = "VLEK-" if key.kind is SigningKey.VLEK else ""
        expected_names = (f"SEV-{infix}{product}", f"ARK-{product}")
        fits = fits and len(chain.path) == _PATH and all(map(_is_named, names, expected_names))
    return decided(
        "product",
        fits,
        expected=f"report, certificate and chain of one product line, {product}",
        found=", ".join(found),
        source=_KDS,
        remedy="The certificates belong to another processor: fetch those of this one. If the product line is new, a "
        "newer version of Avalon may know it.",
    )


def _is_named(name: str, expected: str) -> bool:
    return name.rpartition(" ")[2] == expected


def _check_chip(report: SnpReport, key: KeyCertificate) -> Check:
    expected = "the certificate of this very chip (CHIP_ID is HWID)"
    if key.chip_id is None:
        return passed(
            "chip", expected="a VLEK, which belongs to no chip", found=f"given to {key.csp_id}", source=_KDS
        )
    if report.chip_id_masked:
        return passed("chip", expected=expected, found="CHIP_ID is masked by the platform", source=_ABI)
    return decided(
        "chip",
        report.chip_id == key.chip_id,
        expected=expected,
        found=f"report of chip {report.chip_id.hex()[:16]}.., certificate of {key.chip_id.hex()[:16]}..",
        source=_KDS,
        remedy="The certificate is another machine's: fetch the VCEK of this one.",
    )


def _check_platform_tcb(report: SnpReport, key: KeyCertificate) -> Check:
    def described(raw: bytes) -> str:
        return " ".join(f"{name} {level}" for name, level in decode_tcb(raw, key.product).items())

    return decided(
        "platform tcb",
        report.reported_tcb == key.tcb,
        expected=f"a key derived for REPORTED_TCB: {described(report.reported_tcb)}",
        found=described(key.tcb),
        source=_KDS,
        remedy="The platform's firmware changed since the certificate was fetched: fetch the one of this TCB version.",
    )


def _check_signature(report: SnpReport, certificate: x509.Certificate) -> Check:
    holds = _is_signed_by(report, certificate)
    return decided(
        "signature",
        holds,
        expected="an ECDSA P-384 signature of the report by the certified key",
        found="it holds" if holds else "it does not hold",
        source=_ABI,
        remedy="The report was changed, or another chip signed it: do not trust it.",
    )
