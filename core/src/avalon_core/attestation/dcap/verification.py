"""Verification of DCAP quotes: from Intel's root, or a simulator's, to the body of the quote.

The checks, in this order:

1. *format*: the quote can be read, and is of a kind that can be verified here.
2. *chain*: its PCK certificate has a path of valid signatures to a root certificate.
3. *root*: that root is known here, by the digest of the whole certificate.
4. *validity*: every certificate of the path is valid at the given time.
5. *collateral*: TCB info and QE identity of this TEE and FMSPC are there; Intel's TCB signing certificate, directly below
   the same root, signed their raw texts; they and the CRLs speak of the given time.
6. *revocation*: no certificate of these paths is on its issuer's CRL.
7. *quote signature*: the attestation key signed header and body.
8. *qe binding*: the quoting enclave's report names that attestation key: its report data are the SHA-256 over key and
   authentication data, and zeros.
9. *qe signature*: the PCK key signed the quoting enclave's report.
10. *qe identity*: that enclave is Intel's quoting enclave for this TEE.
11. *tcb*: the platform reaches a TCB level that Intel lists and has not revoked. Which one is a claim.
12. *attributes*: no debug mode, and no attribute that leaves the TEE open in another way.

Source: Intel SGX ECDSA Quote Library API (DCAP), "Quote Verification"; Intel PCS API v4, "Get TCB Info", the steps to
determine the TCB status of a platform.

All of it is dcap-qvl's work, once; on top of it stand here that the root is known, that the collateral is for this
platform and time, and that its signer is none but Intel's TCB signing certificate. Only where something is refused, it is
found out check by check what was wrong: see :mod:`avalon_core.attestation.dcap.diagnosis`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from avalon_core.attestation.checks import Check, Verification, passed
from avalon_core.attestation.claims import Claims, TcbStatus
from avalon_core.attestation.collateral import Collateral
from avalon_core.attestation.dcap import qvl
from avalon_core.attestation.dcap.case import Case
from avalon_core.attestation.dcap.certificates import (
    PckChain,
    chain_of,
    pem_of,
    read_chain,
)
from avalon_core.attestation.dcap.diagnosis import SHA256_BYTES, diagnose
from avalon_core.attestation.dcap.paths import find_path
from avalon_core.attestation.dcap.quotes import CertificationType, Quote
from avalon_core.attestation.dcap.statements import Statements, choose, read_statements
from avalon_core.attestation.roots import TrustAnchor, TrustAnchors
from avalon_core.errors import EvidenceError

_TYPE_AND_SIZE = 6
"""Bytes before certification data: type (2) and size (4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A quote that passed every check."""

    quote: Quote
    chain: PckChain
    anchor: TrustAnchor
    statements: Statements
    outcome: qvl.Outcome
    status: TcbStatus
    collateral_expires: int
    """Unix seconds."""


def verify_quote(
    document: bytes,
    quote: Quote,
    *,
    described: str,
    anchors: TrustAnchors,
    collateral: Collateral,
    as_of: datetime,
    grace: timedelta,
    attribute_problems: Callable[[Quote], Sequence[str]],
    claims: Callable[[Verified], Claims],
) -> Verification:
    """Verify a quote and make its claims.

    Args:
        document: the quote as it came.
        quote: the same, read.
        described: what it is, for people: ``SGX quote v3``.
        anchors: the known roots.
        collateral: one entry of its ``dcap`` has to be for this platform.
        as_of: the time of which the outcome speaks.
        grace: how long after its next update collateral is still taken. Certificates have no grace.
        attribute_problems: says in words which attributes of the body are not acceptable at all.
        claims: makes the claims.
    """
    statements, unreadable = _read(collateral)
    case = Case(
        quote=quote,
        described=described,
        anchors=anchors,
        collateral=collateral,
        as_of=as_of,
        grace=grace,
        attribute_problems=tuple(attribute_problems(quote)),
        statements=statements,
        unreadable=unreadable,
    )
    try:
        verified = _verify(document, case)
    except qvl.LibraryRefusal as exc:
        return Verification(checks=diagnose(case, refusal=exc.message))
    return Verification(checks=_passed_checks(verified, case), claims=claims(verified))


def _read(collateral: Collateral) -> tuple[tuple[Statements, ...], tuple[str, ...]]:
    """What of the collateral can be read, and why the rest cannot."""
    statements, unreadable = [], []
    for entry in collateral.dcap:
        try:
            statements.append(read_statements(entry))
        except EvidenceError as exc:
            unreadable.append(exc.message)
    return tuple(statements), tuple(unreadable)


def _verify(document: bytes, case: Case) -> Verified:
    """Everything in one go.

    Raises:
        LibraryRefusal: something is not as it must be; only the diagnosis says what.
    """
    quote, at = case.quote, int(case.as_of.timestamp())
    if case.attribute_problems:
        raise qvl.LibraryRefusal("the attributes")
    chain, anchor, as_it_came = _chain(case)
    statements = choose(case.statements, tee=case.tee, fmspc=chain.fmspc, at=at)
    if statements is None:
        raise qvl.LibraryRefusal("no collateral")
    if statements.odd_signer or statements.roots != {anchor.sha256}:
        raise qvl.LibraryRefusal("the collateral's signer")
    if not chain.valid_from <= at <= chain.valid_to:
        raise qvl.LibraryRefusal("the certificates' validity")
    inside = case.time_inside(statements)
    if inside is None:
        raise qvl.LibraryRefusal("the collateral's time")
    # Within the grace the library verifies as of another time than the verdict's.
    if inside != at and not case.signers_valid(statements):
        raise qvl.LibraryRefusal("the signers' validity")
    if any(quote.signature.qe_report.report_data[SHA256_BYTES:]):
        raise qvl.LibraryRefusal("the QE report's data")
    given = (
        document[: len(document) - quote.trailing]
        if as_it_came
        else _with_chain(quote, pem_of(chain.certificates))
    )
    outcome = qvl.verify(given, statements.for_library, root=chain.root, at=inside)
    return Verified(
        quote=quote,
        chain=chain,
        anchor=anchor,
        statements=statements,
        outcome=outcome,
        status=_status(outcome.tcb.status),
        collateral_expires=min(
            statements.end, outcome.earliest_expiration_date, outcome.qe_iden_earliest_expiration_date
        ),
    )


def _chain(case: Case) -> tuple[PckChain, TrustAnchor, bool]:
    """The PCK chain to a known root, and whether the quote carries it just so."""
    certification = case.quote.signature.certification
    if certification.type is CertificationType.PCK_CHAIN:
        try:
            chain = read_chain(certification.content)
        except EvidenceError:
            pass  # odd order, perhaps: the search below sees to it
        else:
            anchor = case.anchors.find(chain.root_digest)
            if anchor is not None:
                return chain, anchor, True
    path = find_path(case)
    if path is None or path.anchor is None:
        raise qvl.LibraryRefusal("no chain to a known root")
    try:
        return chain_of(tuple(path.path)), path.anchor, False
    except EvidenceError as exc:
        raise qvl.LibraryRefusal(str(exc)) from None


def _with_chain(quote: Quote, pem: bytes) -> bytes:
    """The quote with another chain as certification data (type 5), which no signature covers."""
    data = quote.signature
    inner = data.qe_report_bytes + data.qe_report_signature
    inner += len(data.qe_auth_data).to_bytes(2, "little") + data.qe_auth_data
    inner += _certification(CertificationType.PCK_CHAIN, pem)
    if quote.header.version > 3:
        inner = _certification(CertificationType.QE_REPORT, inner)
    signature = data.signature + data.attestation_key + inner
    return quote.signed + len(signature).to_bytes(4, "little") + signature


def _certification(kind: CertificationType, content: bytes) -> bytes:
    return kind.to_bytes(2, "little") + len(content).to_bytes(4, "little") + content


def _status(text: str) -> TcbStatus:
    try:
        return TcbStatus(text)
    except ValueError:
        raise qvl.LibraryRefusal(f"a TCB status that is not known here: {text[:60]!r}") from None


def _passed_checks(verified: Verified, case: Case) -> list[Check]:
    """One check a line of the list above. What is said here, the library verified."""
    chain, statements, anchor = verified.chain, verified.statements, verified.anchor
    info, identity, outcome = statements.tcb_info, statements.qe_identity, verified.outcome
    simulated = " (SIMULATED)" if anchor.simulated else ""
    qe = verified.quote.signature.qe_report
    return [
        case.format_passed(),
        passed(
            "chain", expected="a path of valid signatures to a root", found=chain.described, source="quote"
        ),
        passed("root", expected="a known root", found=f"{anchor.name}{simulated}"),
        passed(
            "validity",
            expected="every certificate valid at the time of the verdict",
            found=chain.validity,
            source="certificates",
        ),
        passed(
            "collateral",
            expected="signed TCB info and QE identity of this platform, of date",
            found=statements.time + case.grace_note(statements),
            source=statements.described,
        ),
        passed(
            "revocation",
            expected="no certificate of the chains revoked, by CRLs of date",
            found="none revoked",
            source=statements.described_crls,
        ),
        passed("quote signature", expected="the attestation key's over header and body", found="valid"),
        passed("qe binding", expected="the QE report names the attestation key", found="it does"),
        passed("qe signature", expected="the PCK key's over the QE report", found="valid"),
        passed(
            "qe identity",
            expected=f"{identity.id}, product {identity.isvprodid}, of Intel's signer",
            found=f"ISVSVN {qe.isvsvn}: {outcome.qe.tcb_level.tcb_status}",
            source=identity.source,
        ),
        passed(
            "tcb",
            expected="a TCB level that is not revoked",
            found=f"{verified.status}, level of {outcome.platform.tcb_level.tcb_date[:10]}",
            source=info.source,
        ),
        passed("attributes", expected="no debug mode, nothing that leaves the TEE open", found="none set"),
    ]
