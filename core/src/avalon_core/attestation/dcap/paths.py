"""Finding the path of a platform's certificate, where a quote does not carry it in the usual order, or not at all."""

from collections.abc import Iterator, Sequence

from cryptography import x509

from avalon_core.attestation.chains import ChainVerification, load_certificate, name_of, verify_chain
from avalon_core.attestation.checks import Check, could_not_check, failed
from avalon_core.attestation.dcap.case import Case
from avalon_core.attestation.dcap.certificates import read_certificates
from avalon_core.attestation.dcap.pck import is_pck_certificate
from avalon_core.attestation.dcap.quotes import CertificationType
from avalon_core.attestation.dcap.signatures import signed_qe_report
from avalon_core.errors import EvidenceError

FORGED = "The quote was changed or forged: do not trust it, and ask the worker for another."
"""The remedy where something in the quote itself is wrong."""


def find_path(case: Case) -> ChainVerification | None:
    """The path of the platform's certificate, from wherever certificates are; None where there is no such certificate."""
    carried = _carried(case)
    others = (*carried, *_from_collateral(case))
    leaf = _leaf(case, others)
    if leaf is None:
        return None
    chain = verify_chain(leaf, others, anchors=case.anchors, as_of=case.as_of)
    foreign = [name_of(one) for one in carried if chain.path and one not in chain.path]
    return chain if not foreign else ChainVerification(checks=[_foreign(foreign)], path=chain.path)


def _foreign(names: Sequence[str]) -> Check:
    return failed(
        "chain",
        expected="the certificates of one path to a root, in any order, and no other",
        found="others among them: " + ", ".join(repr(name) for name in names),
        source="quote",
        remedy=FORGED,
    )


def _leaf(case: Case, others: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """The platform's certificate: what signed the QE report, else the first that looks like one."""
    candidates = [certificate for certificate in others if is_pck_certificate(certificate)]
    for certificate in candidates:
        if signed_qe_report(case.quote, certificate):
            return certificate
    # A chain in the quote is the quote's word, whatever signed the report; one from elsewhere may be another platform's.
    return next(iter(candidates), None) if case.quote.signature.certification.platform is None else None


def _carried(case: Case) -> tuple[x509.Certificate, ...]:
    """The certificates in the quote."""
    certification = case.quote.signature.certification
    if certification.type in (CertificationType.PCK_CHAIN, CertificationType.PCK_LEAF):
        return _readable(certification.content)
    return ()


def _from_collateral(case: Case) -> Iterator[x509.Certificate]:
    """Certificates that the quote may lack."""
    certification = case.quote.signature.certification
    for entry in case.collateral.dcap:
        if certification.platform is not None and entry.pck_certificate_chain is not None:
            yield from _readable(entry.pck_certificate_chain.encode())
    for statements in case.statements:
        yield from statements.crl_chain


def _readable(content: bytes) -> tuple[x509.Certificate, ...]:
    try:
        return read_certificates(content)
    except EvidenceError:
        pass
    try:
        return (load_certificate(content),)
    except EvidenceError:
        return ()


def needs_platform_certificate(case: Case) -> Check:
    """The check *chain* of a quote without a PCK certificate that could be found."""
    certification = case.quote.signature.certification
    expected = "the platform's PCK certificate and its path to a root"
    if certification.platform is not None:
        given = sum(entry.pck_certificate_chain is not None for entry in case.collateral.dcap)
        return could_not_check(
            "chain",
            expected=expected,
            found=f"only the platform's identifiers in the quote (certification data of type {int(certification.type)}); "
            + (
                f"{given} chains in the collateral, none of this platform"
                if given
                else "no chain in the collateral"
            ),
            remedy="Fetch the collateral of this platform with its PCK certificate chain, and check again.",
        )
    if certification.type is CertificationType.PLATFORM_MANIFEST:
        return could_not_check(
            "chain",
            expected=expected,
            found="a platform manifest (certification data of type 7)",
            remedy="Register the platform with Intel, and have it make quotes that carry its PCK chain.",
        )
    return failed(
        "chain",
        expected=expected,
        found="no certificate in the quote that can be read and is a PCK certificate",
        remedy=FORGED,
    )
