"""Verification of a Nitro document. The steps, each a check of its own name, in this order:

1. *document*: a COSE_Sign1 whose payload is of the published shape (AP 3.2.1, 3.2.2).
2. *signature*: the key of the document's own certificate signed it (AP 3.2.1).
3. *chain*, *root*, *validity*: that certificate, through ``cabundle``, ends in a known root, and all of it is valid at
   the given time (AP 3.2.3, 3.2.3.1, 3.2.3.2). AWS orders the bundle root first; any order is taken, since nothing
   depends on it. Revocation is not checked, as AP 3.2.4 says.
4. *leaf*: the signing certificate is one for signatures, and no authority (AP 3.2.3.3).
5. *time*: the document was not issued after the given time.

The caller still has to decide about the root, the code, debug mode, the age and the freshness (nonce or report data).
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from avalon_core.attestation.chains import ChainVerification, load_certificate, name_of, verify_chain
from avalon_core.attestation.checks import Check, Verdict, Verification, decided, failed, overall, passed
from avalon_core.attestation.claims import REPORT_DATA_BYTES, Claims, Tee
from avalon_core.attestation.collateral import Collateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.leaves import check_signing_leaf
from avalon_core.attestation.nitro.cose import PROTECTED, TAGGED, Sign1, parse_sign1
from avalon_core.attestation.nitro.document import AttestationDocument, parse_document
from avalon_core.attestation.roots import TrustAnchor, TrustAnchors
from avalon_core.errors import EvidenceError, SignatureMismatch

SKEW = timedelta(minutes=5)
"""How far AWS's clock may be ahead of the verifier's."""

_SOURCE = "AWS Nitro Enclaves, attestation document"
_SIGNER_REGISTER = 8
_START = b"\x84" + bytes([0x40 + len(PROTECTED)]) + PROTECTED
"""How every document begins: an array of four, and the protected header."""


class NitroFormat:
    """AWS Nitro Enclaves. Satisfies :class:`avalon_core.attestation.evidence.EvidenceFormat`."""

    name = "nitro"
    proof_data_type = "TEE-NITRO"

    def detect(self, document: bytes) -> bool:
        return document.removeprefix(TAGGED).startswith(_START)

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
            message = parse_sign1(evidence.document)
            document = parse_document(message.payload)
            leaf = load_certificate(document.certificate)
            others = [
                load_certificate(der)
                for der in (*document.cabundle, *evidence.certificates, *collateral.certificates)
            ]
        except EvidenceError as exc:
            return Verification(
                checks=[
                    failed(
                        "document",
                        expected="a COSE_Sign1 with an attestation document of the shape that AWS publishes",
                        found=exc.message,
                        source=_SOURCE,
                        remedy="Give the document as the Nitro device returned it, whole and in binary.",
                    )
                ]
            )
        chain = verify_chain(leaf, others, anchors=anchors, as_of=as_of)
        checks: list[Check] = [
            passed("document", expected="an attestation document", found=document.module_id, source=_SOURCE),
            _check_signature(message, leaf),
            *chain.checks,
            check_signing_leaf(leaf, source=_SOURCE),
            _check_time(document, as_of),
        ]
        if chain.anchor is None or overall(checks) is not Verdict.PASSED:
            return Verification(checks=checks)
        return Verification(checks=checks, claims=_claims(document, chain, chain.anchor))


NITRO = NitroFormat()


def _check_signature(message: Sign1, leaf: x509.Certificate) -> Check:
    expected = "an ES384 signature by the key of the document's certificate"
    found, ok = f"it is by {name_of(leaf)!r}", True
    try:
        key = leaf.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise SignatureMismatch("the certificate's key is not one for ECDSA")
        message.verify(key)
    except (SignatureMismatch, UnsupportedAlgorithm, ValueError) as exc:
        found, ok = str(exc), False
    return decided(
        "signature",
        ok,
        expected=expected,
        found=found,
        source=_SOURCE,
        remedy="The document was changed after it was signed, or is forged: do not trust it.",
    )


def _check_time(document: AttestationDocument, as_of: datetime) -> Check:
    issued = datetime.fromtimestamp(document.timestamp // 1000, UTC)
    return decided(
        "time",
        issued <= as_of + SKEW,
        expected=f"issued by {as_of:%Y-%m-%d %H:%M:%S} UTC, {SKEW.seconds // 60} minutes of skew allowed",
        found=f"issued {issued:%Y-%m-%d %H:%M:%S} UTC",
        source=_SOURCE,
        remedy="The document is of a time after the one that it is judged at: set the clock, or give a later time.",
    )


def _claims(document: AttestationDocument, chain: ChainVerification, anchor: TrustAnchor) -> Claims:
    signer = document.pcrs.get(_SIGNER_REGISTER, b"")
    return Claims(
        tee=Tee.NITRO,
        format="AWS Nitro Enclaves attestation document",
        root=anchor.name,
        simulated=anchor.simulated,
        measurement=document.pcrs[0].hex(),
        report_data=report_data_of(document.user_data or b""),
        # AWS Nitro Enclaves User Guide, --debug-mode: such an enclave's document has PCRs of zeros.
        debug=not any(document.pcrs[0]),
        registers={f"pcr{index}": register.hex() for index, register in document.pcrs.items()},
        signer=signer.hex() if any(signer) else None,
        chip_id=document.module_id,
        attributes=_attributes(document),
        issued_at=document.timestamp // 1000,
        collateral_expires=_earliest_end(chain.path),
    )


def report_data_of(user_data: bytes) -> bytes:
    """``user_data`` as 64 bytes: up to 64 padded with zeros at its end, longer ones as their SHA-512.

    Nothing of it is lost that way, and two different long values never look alike. Avalon's own workers give exactly
    64 bytes. The raw value is the attribute ``user_data``.
    """
    if len(user_data) > REPORT_DATA_BYTES:
        return hashlib.sha512(user_data).digest()
    return user_data.ljust(REPORT_DATA_BYTES, b"\0")


def _attributes(document: AttestationDocument) -> dict[str, str]:
    attributes = {"module_id": document.module_id, "timestamp_ms": str(document.timestamp)}
    for name, value in (
        ("user_data", document.user_data),
        ("public_key", document.public_key),
        ("nonce", document.nonce),
    ):
        if value is not None:
            attributes[name] = value.hex()
    return attributes


def _earliest_end(path: Sequence[x509.Certificate]) -> int:
    return int(min(certificate.not_valid_after_utc for certificate in path).timestamp())
