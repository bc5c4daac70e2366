"""What collateral evidence needs: read off the evidence, with nothing verified and nobody asked.

Whoever made the evidence chooses what is asked for. So only what has the form of an FMSPC, a chip id or a TCB version goes
into a question, and no address is ever taken from evidence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509

from avalon_core.attestation.chains import load_certificate
from avalon_core.attestation.dcap.pck import is_pck_certificate
from avalon_core.attestation.dcap.quotes import (
    TEE_TYPE_TDX,
    CertificationType,
    PlatformIdentifiers,
    Quote,
    parse_quote,
)
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.snp import SigningKey, SnpReport, parse_report
from avalon_core.attestation.snp.certificates import (
    KeyCertificate,
    is_key_certificate,
    parse_certificate_table,
    read_key_certificate,
)
from avalon_core.attestation.snp.products import Product, product_of_cpuid
from avalon_core.attestation.snp.verify import CERTIFICATE_TABLE
from avalon_core.errors import EvidenceError
from avalon_sdk.collateral.amd import KeyKind
from avalon_sdk.collateral.intel import Ca, Tee, ca_and_fmspc
from avalon_sdk.collateral.reading import UNREADABLE, certificates_of

_QE_ID_BYTES = 16
_NOTHING_NEEDED = {
    "nitro": "Nitro documents carry their whole chain, and AWS publishes no revocation lists for it",
    "sgx-epid": "IAS reports carry their chain, and the service that published the rest has ended",
    "tpm": "TPM evidence rests on its owner's certificates and CRLs: give those (--collateral)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DcapNeed:
    """A platform of Intel's."""

    tee: Tee
    fmspc: str | None = None
    """Lower-case hex. It and the CA are None where only the platform's certificate will tell."""

    ca: Ca | None = None
    platform: PlatformIdentifiers | None = None
    """What to ask for that certificate by."""

    kind: CertificationType = CertificationType.PCK_CHAIN
    qe_id: bytes = b""
    """16 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpNeed:
    """A platform of AMD's."""

    products: Sequence[Product]
    """One, or those that it can be of: reports before version 3 do not tell."""

    kind: KeyKind
    chip_id: bytes | None
    """64 bytes; None where the certificate of the signing key is in the evidence, or nobody can ask for it."""

    tcb: bytes
    needs_issuers: bool
    problem: str = ""
    """Why the certificate of the signing key cannot be had, where it cannot."""


Need = DcapNeed | SnpNeed


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """All of it."""

    needs: tuple[Need, ...] = ()
    notes: tuple[str, ...] = ()
    """For people: why nothing is needed."""


def needs_of(evidence: Evidence) -> Needs:
    """What this evidence needs.

    Raises:
        EvidenceError: it cannot be read, or names no platform.
    """
    try:
        return _needs_of(evidence)
    except UNREADABLE as exc:
        raise EvidenceError(f"a certificate in the evidence cannot be read: {exc}") from None


def _needs_of(evidence: Evidence) -> Needs:
    match evidence.format:
        case "sgx-dcap" | "tdx":
            return Needs(needs=(_dcap_need(parse_quote(evidence.document)),))
        case "snp":
            return Needs(needs=(_snp_need(evidence),))
        case "azure":
            return _azure_needs(evidence)
    note = _NOTHING_NEEDED.get(evidence.format)
    return Needs(notes=(note or f"{evidence.format} evidence needs nothing that can be fetched here",))


def _dcap_need(quote: Quote) -> DcapNeed:
    certification = quote.signature.certification
    tee: Tee = "tdx" if quote.header.tee_type == TEE_TYPE_TDX else "sgx"
    if certification.platform is not None:
        return DcapNeed(
            tee=tee,
            platform=certification.platform,
            kind=certification.type,
            qe_id=quote.header.user_data[:_QE_ID_BYTES],
        )
    if certification.type not in (CertificationType.PCK_CHAIN, CertificationType.PCK_LEAF):
        raise EvidenceError(
            f"certification data of type {int(certification.type)} name no platform that can be asked for"
        )
    leaves = {
        ca_and_fmspc(one)
        for one in certificates_of(certification.content.rstrip(b"\0"))
        if is_pck_certificate(one)
    }
    if len(leaves) != 1:
        raise EvidenceError(f"the quote carries PCK certificates of {len(leaves)} platforms, expected one")
    ((ca, fmspc),) = leaves
    return DcapNeed(tee=tee, fmspc=fmspc, ca=ca)


def _snp_need(evidence: Evidence) -> SnpNeed:
    report = parse_report(evidence.document)
    carried = _carried(evidence)
    key = _key_of(report, carried)
    kind: KeyKind = "vlek" if report.signing_key == SigningKey.VLEK else "vcek"
    chip_id, problem = None, ""
    if key is None:
        if kind == "vlek":
            problem = (
                "the report is signed by a VLEK, whose certificate AMD gives to the cloud provider alone: it has to come with "
                "the evidence"
            )
        elif report.signing_key != SigningKey.VCEK:
            problem = "the platform's chip signs no reports"
        elif report.chip_id_masked:
            problem = (
                "the platform masks its chip's id (MaskChipId), so nobody can ask for its certificate: it has to come with the "
                "evidence"
            )
        else:
            chip_id = report.chip_id
    return SnpNeed(
        products=_products_of(report, key),
        kind=kind,
        chip_id=chip_id,
        tcb=report.reported_tcb,
        needs_issuers=key is None or not _has_issuers(key.certificate, carried),
        problem=problem,
    )


def _carried(evidence: Evidence) -> tuple[x509.Certificate, ...]:
    table = evidence.attachments.get(CERTIFICATE_TABLE)
    ders = (*evidence.certificates, *(parse_certificate_table(table).certificates if table else ()))
    return tuple(load_certificate(der) for der in dict.fromkeys(ders))


def _key_of(report: SnpReport, carried: Sequence[x509.Certificate]) -> KeyCertificate | None:
    """The certificate of the key that signed, where it is there. One of another chip or TCB is of no use."""
    for certificate in carried:
        try:
            key = read_key_certificate(certificate) if is_key_certificate(certificate) else None
        except EvidenceError:
            continue
        if key is None or key.kind != report.signing_key or key.tcb != report.reported_tcb:
            continue
        if key.chip_id is None or report.chip_id_masked or key.chip_id == report.chip_id:
            return key
    return None


def _has_issuers(certificate: x509.Certificate, carried: Sequence[x509.Certificate]) -> bool:
    by_name = {one.subject: one for one in carried}
    issuer = by_name.get(certificate.issuer)
    return issuer is not None and issuer.issuer in by_name


def _products_of(report: SnpReport, key: KeyCertificate | None) -> Sequence[Product]:
    if key is not None:
        return (key.product,)
    if report.cpuid is None:
        return (Product.MILAN, Product.GENOA)
    family, model, _ = report.cpuid
    product = product_of_cpuid(family, model)
    if product is None:
        raise EvidenceError(
            f"a report of an unknown processor: got family {family:02x}h, model {model:02x}h; a newer version of Avalon may "
            "know it"
        )
    return (product,)


def _azure_needs(evidence: Evidence) -> Needs:
    from avalon_core.attestation.azure import ReportKind, parse_envelope
    from avalon_core.attestation.azure.verify import TD_QUOTE

    envelope = parse_envelope(evidence.document)
    if envelope.kind is ReportKind.SNP:
        table = evidence.attachments.get(CERTIFICATE_TABLE)
        inner = Evidence(
            format="snp",
            document=envelope.report,
            certificates=evidence.certificates,
            attachments={} if table is None else {CERTIFICATE_TABLE: table},
        )
        return Needs(needs=(_snp_need(inner),))
    quote = evidence.attachments.get(TD_QUOTE)
    if quote is None:
        raise EvidenceError(
            f"evidence of a TDX machine without a quote: expected the attachment {TD_QUOTE}, which the machine gets from Azure"
        )
    return Needs(needs=(_dcap_need(parse_quote(quote)),))
