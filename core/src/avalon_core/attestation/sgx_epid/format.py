"""Verification of an IAS report. The steps, each a check of its own name, in this order:

1. *document*: JSON of the published shape, with a quote body in it.
2. *signature*: RSA with SHA-256 over the body as it came, by the signing certificate's key.
3. *chain*, *root*, *validity*: that certificate ends in a known root, and all of it was valid **at the report's own
   time**: the report is a statement of that moment, and the service is no more.
4. *leaf*: the certificate is one for signatures, and no authority.
5. *time*: the report was not made after the given time.
6. *quote status*: IAS vouches for the quote (isvEnclaveQuoteStatus).

The caller still has to decide about the root, the code, debug mode, the platform's state, the age and the report data.
"""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from avalon_core.attestation.chains import MIN_RSA_BITS, load_certificate, name_of, verify_chain
from avalon_core.attestation.checks import Check, Verdict, Verification, decided, failed, overall, passed
from avalon_core.attestation.claims import Claims, TcbStatus, Tee
from avalon_core.attestation.collateral import Collateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.leaves import check_signing_leaf
from avalon_core.attestation.roots import TrustAnchor, TrustAnchors
from avalon_core.attestation.sgx_epid import proof_data
from avalon_core.attestation.sgx_epid.quote_body import QuoteBody
from avalon_core.attestation.sgx_epid.report import (
    REFUSED_STATUSES,
    TCB_STATUSES,
    Report,
    parse_report,
)
from avalon_core.errors import EvidenceError

SKEW = timedelta(minutes=5)
"""How far IAS's clock may have been ahead of the verifier's."""

_SOURCE = "Intel Attestation Service (EPID), attestation verification report"


class SgxEpidFormat:
    """IAS reports. Satisfies :class:`avalon_core.attestation.evidence.EvidenceFormat`, with proofData of its own.

    The evidence's document is the report's body and its signature the raw RSA signature; or the document is a whole
    file, a JSON object of the forms of :mod:`avalon_core.attestation.sgx_epid.proof_data`.
    """

    name = proof_data.FORMAT
    proof_data_type = "TEE-SGX-IAS"

    def detect(self, document: bytes) -> bool:
        if proof_data.is_bundle(document):
            return True
        return document.lstrip().startswith(b"{") and b'"isvEnclaveQuoteStatus"' in document

    def from_proof_data(self, value: object) -> Evidence:
        """See :func:`avalon_core.attestation.sgx_epid.proof_data.from_proof_data`."""
        return proof_data.from_proof_data(value)

    def to_proof_data(self, evidence: Evidence) -> dict[str, str]:
        """See :func:`avalon_core.attestation.sgx_epid.proof_data.to_proof_data`."""
        return proof_data.to_proof_data(evidence)

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
            evidence = proof_data.unpacked(evidence)
            report = parse_report(evidence.document)
            if not evidence.certificates:
                raise EvidenceError("the report comes without its signing certificate")
            leaf, *others = (
                load_certificate(der) for der in (*evidence.certificates, *collateral.certificates)
            )
        except EvidenceError as exc:
            return Verification(
                checks=[
                    failed(
                        "document",
                        expected="an attestation verification report of IAS, with its signature and certificates",
                        found=exc.message,
                        source=_SOURCE,
                        remedy="Give the report's body byte for byte as IAS sent it, its signature and its chain.",
                    )
                ]
            )
        chain = verify_chain(leaf, others, anchors=anchors, as_of=report.timestamp)
        checks: list[Check] = [
            passed(
                "document",
                expected="an attestation verification report",
                found=f"version {report.version}, made {report.timestamp:%Y-%m-%d %H:%M:%S} UTC",
                source=_SOURCE,
            ),
            _check_signature(evidence, leaf),
            *chain.checks,
            check_signing_leaf(leaf, source=_SOURCE),
            _check_time(report, as_of),
            _check_status(report),
        ]
        tcb_status = TCB_STATUSES.get(report.quote_status)
        if chain.anchor is None or tcb_status is None or overall(checks) is not Verdict.PASSED:
            return Verification(checks=checks)
        return Verification(checks=checks, claims=_claims(report, tcb_status, chain.anchor))


SGX_EPID = SgxEpidFormat()


def _check_signature(evidence: Evidence, leaf: x509.Certificate) -> Check:
    found, ok = f"it is by {name_of(leaf)!r}", True
    try:
        key = leaf.public_key()
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size < MIN_RSA_BITS:
            found, ok = f"the certificate's key is not RSA of at least {MIN_RSA_BITS} bits", False
        else:
            key.verify(evidence.signature, evidence.document, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        found, ok = "it does not hold" if evidence.signature else "there is none", False
    except (UnsupportedAlgorithm, ValueError) as exc:
        found, ok = f"the certificate's key cannot be read: {exc}", False
    return decided(
        "signature",
        ok,
        expected="RSA with SHA-256 over the report's body, by the key of the signing certificate",
        found=found,
        source=_SOURCE,
        remedy="The report was changed, if only in white space, or is forged: do not trust it.",
    )


def _check_time(report: Report, as_of: datetime) -> Check:
    return decided(
        "time",
        report.timestamp <= as_of + SKEW,
        expected=f"made by {as_of:%Y-%m-%d %H:%M:%S} UTC, {SKEW.seconds // 60} minutes of skew allowed",
        found=f"made {report.timestamp:%Y-%m-%d %H:%M:%S} UTC",
        source=_SOURCE,
        remedy="The report is of a time after the one that it is judged at: set the clock, or give a later time.",
    )


def _check_status(report: Report) -> Check:
    why = REFUSED_STATUSES.get(report.quote_status, "IAS knows no such status")
    vouched = report.quote_status in TCB_STATUSES
    return decided(
        "quote status",
        vouched,
        expected=f"one of {', '.join(TCB_STATUSES)}",
        found=report.quote_status[:64] if vouched else f"{report.quote_status[:64]!r}: {why}",
        source=f"{_SOURCE}, {report.timestamp:%Y-%m-%d}",
        remedy="IAS does not vouch for this quote: do not trust the worker. Its operator has to attest anew.",
    )


def _claims(report: Report, tcb_status: TcbStatus, anchor: TrustAnchor) -> Claims:
    quote = report.quote
    return Claims(
        tee=Tee.SGX,
        format=f"IAS attestation verification report v{report.version}",
        root=anchor.name,
        simulated=anchor.simulated,
        measurement=quote.mrenclave.hex(),
        report_data=quote.report_data,
        debug=quote.debug,
        signer=quote.mrsigner.hex(),
        product_id=quote.product_id,
        svn=quote.svn,
        tcb_status=tcb_status,
        advisories=report.advisories,
        tcb={
            "cpusvn": quote.cpu_svn.hex(),
            "qesvn": str(quote.qe_svn),
            "pcesvn": str(quote.pce_svn),
        },
        config_id=quote.config_id.hex(),
        config_svn=quote.config_svn,
        family_id=quote.family_id.hex(),
        ext_product_id=quote.ext_product_id.hex(),
        attributes=_attributes(report, quote),
        issued_at=int(report.timestamp.astimezone(UTC).timestamp()),
        tcb_evaluation=report.tcb_evaluation,
    )


def _attributes(report: Report, quote: QuoteBody) -> dict[str, str]:
    texts = {
        "report_id": report.id,
        "report_version": str(report.version),
        "quote_status": report.quote_status,
        "nonce": report.nonce,
        "epid_pseudonym": report.epid_pseudonym,
        "advisory_url": report.advisory_url,
        "platform_info_blob": report.platform_info_blob,
        "quote_version": str(quote.version),
        "quote_linkable": _yes(quote.linkable),
        "epid_group_id": quote.group_id[::-1].hex(),
        "extended_group_id": str(quote.extended_group_id),
        "basename": quote.basename.hex(),
        "attributes": f"{quote.flags:016x}",
        "xfrm": quote.xfrm.hex(),
        "miscselect": quote.misc_select.hex(),
        "initialized": _yes(quote.initialized),
        "mode64": _yes(quote.mode64),
        "provision_key": _yes(quote.provision_key),
        "einittoken_key": _yes(quote.einittoken_key),
        "kss": _yes(quote.kss),
    }
    return {name: value for name, value in texts.items() if value is not None}


def _yes(flag: bool) -> str:
    return "true" if flag else "false"
