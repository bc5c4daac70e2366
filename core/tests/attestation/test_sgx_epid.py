"""IAS reports: Intel's own, those of an infrastructure of the tests, and everything that must be refused."""

import base64
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from hypothesis import example, given
from hypothesis import strategies as st

from avalon_core.attestation import cbor, proof_data
from avalon_core.attestation.chains import digest_of, load_certificate
from avalon_core.attestation.checks import Verdict, Verification, overall
from avalon_core.attestation.claims import Claims, TcbStatus, Tee
from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.formats import FORMATS
from avalon_core.attestation.known_roots import INTEL_IAS, VENDOR_ROOTS
from avalon_core.attestation.roots import TrustAnchor, TrustAnchors
from avalon_core.attestation.sgx_epid import (
    SGX_EPID,
    from_proof_data,
    parse_quote_body,
    parse_report,
    to_proof_data,
)
from avalon_core.errors import EvidenceError

OASIS = Path("evidence") / "ias-epid" / "oasisprotocol-oasis-core"
AVALON = Path("evidence") / "ias-epid" / "hyperledger-archives-avalon" / "derived"
TODAY = datetime(2026, 12, 1, tzinfo=UTC)
"""After the end of IAS's signing certificate."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A line of INDEX.md."""

    body: Path
    signature: Path
    version: int
    status: TcbStatus
    made: datetime
    measurement: str
    advisories: frozenset[str] = frozenset()
    nonce: str | None = None
    tcb_evaluation: int | None = None
    product_id: int = 0
    svn: int = 0


SAMPLES = [
    Sample(
        body=OASIS / "avr_body_group_out_of_date.json",
        signature=OASIS / "avr_signature_group_out_of_date.sig",
        version=2,
        status=TcbStatus.OUT_OF_DATE,
        made=datetime(2018, 3, 30, 22, 2, 25, tzinfo=UTC),
        measurement="83d1607d933a8f1970fa30ac94cdb6921fd8ffb8414650af06fe63c008a4a9af",
    ),
    Sample(
        body=OASIS / "avr_v4_body_sw_hardening_needed.json",
        signature=OASIS / "avr_v4_body_sw_hardening_needed.sig",
        version=4,
        status=TcbStatus.SW_HARDENING_NEEDED,
        made=datetime(2020, 5, 11, 9, 21, 15, tzinfo=UTC),
        measurement="92143ea742e1628677b5a8e280173b7264470bfb0611d520c2474aab9846168e",
        advisories=frozenset({"INTEL-SA-00334"}),
        nonce="biNMqBAuTPF2hp/0fXa4P3splRkLHJf0",
    ),
    Sample(
        body=OASIS / "avr_v5_body_sw_hardening_needed.json",
        signature=OASIS / "avr_v5_body_sw_hardening_needed.sig",
        version=5,
        status=TcbStatus.SW_HARDENING_NEEDED,
        made=datetime(2023, 9, 27, 15, 51, 58, tzinfo=UTC),
        measurement="d40c35b716c9ef1715d26100bb5e152d5045543017dacfcb492697028985cb7c",
        advisories=frozenset({"INTEL-SA-00334", "INTEL-SA-00615"}),
        tcb_evaluation=16,
    ),
    Sample(
        body=AVALON / "avr_group_out_of_date.json",
        signature=AVALON / "avr_group_out_of_date.sig.b64",
        version=2,
        status=TcbStatus.OUT_OF_DATE,
        made=datetime(2018, 7, 11, 19, 30, 35, tzinfo=UTC),
        measurement="c9cbf94a42e47705e8c0425ec6d8779294c3681cd6d5a034f1cdb4ae20d4d80a",
        nonce="35E8FB64ACFB4A8E",
        product_id=0x90E7,
        svn=1,
    ),
]
every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.body.name)


def intel_members(folder: Path, sample: Sample) -> dict[str, str]:
    return {
        "verification_report": (folder / sample.body).read_bytes().decode(),
        "ias_report_signature": (folder / sample.signature).read_text().strip(),
        "ias_report_signing_certificate": (folder / OASIS / "avr_certificates_urlencoded.pem").read_text(),
    }


def verify(
    evidence: Evidence,
    *,
    as_of: datetime = TODAY,
    anchors: TrustAnchors = VENDOR_ROOTS,
    collateral: Collateral = NO_COLLATERAL,
) -> Verification:
    return SGX_EPID.verify(evidence, anchors=anchors, collateral=collateral, as_of=as_of)


def problems(verification: Verification) -> set[str]:
    """The names of the checks that did not pass; claims only where there are none."""
    assert (verification.claims is not None) == (overall(verification.checks) is Verdict.PASSED)
    return {check.name for check in verification.checks if check.verdict is not Verdict.PASSED}


def replaced(evidence: Evidence, **parts: Any) -> Evidence:
    given = {
        "document": evidence.document,
        "signature": evidence.signature,
        "certificates": evidence.certificates,
    }
    return Evidence(format="sgx-epid", **given | parts)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :]


# Intel's own reports


@every_sample
@pytest.mark.parametrize("as_of", ["at once", "later", "after the certificate's end"])
def test_intel_own_reports_verify_at_any_later_time(shared_vectors: Path, sample: Sample, as_of: str) -> None:
    evidence = from_proof_data(intel_members(shared_vectors, sample))
    times = {
        "at once": sample.made,
        "later": sample.made + timedelta(days=400),
        "after the certificate's end": TODAY,
    }
    verification = verify(evidence, as_of=times[as_of])
    assert problems(verification) == set()
    claims = verification.claims
    assert claims is not None
    assert (claims.tee, claims.root, claims.simulated) == (Tee.SGX, "intel-ias", False)
    assert claims.format == f"IAS attestation verification report v{sample.version}"
    assert claims.debug
    assert claims.measurement == sample.measurement
    assert claims.tcb_status is sample.status
    assert claims.advisories == sample.advisories
    assert claims.tcb_evaluation == sample.tcb_evaluation
    assert claims.issued_at == sample.made.timestamp()
    assert claims.attributes.get("nonce") == sample.nonce
    assert claims.attributes["kss"] == "false"
    assert claims.attributes["initialized"] == "true"
    assert (claims.product_id, claims.svn) == (sample.product_id, sample.svn)
    assert len(claims.signer or "") == 64
    assert ("platform_info_blob" in claims.attributes) is (sample.status is TcbStatus.OUT_OF_DATE)


@every_sample
def test_a_report_is_not_believed_before_it_was_made(shared_vectors: Path, sample: Sample) -> None:
    evidence = from_proof_data(intel_members(shared_vectors, sample))
    assert problems(verify(evidence, as_of=sample.made - timedelta(minutes=4))) == set()
    assert problems(verify(evidence, as_of=sample.made - timedelta(minutes=6))) == {"time"}
    assert problems(verify(evidence, as_of=sample.made - timedelta(days=4000))) == {"time"}


def test_the_root_of_ias_is_known_by_its_digest(shared_vectors: Path) -> None:
    evidence = from_proof_data(intel_members(shared_vectors, SAMPLES[0]))
    assert digest_of(load_certificate(evidence.certificates[1])) == INTEL_IAS.sha256
    assert problems(verify(evidence, anchors=TrustAnchors(()))) == {"root"}


@pytest.mark.parametrize("part", ["document", "signature"])
def test_no_byte_of_intel_own_report_can_be_changed(shared_vectors: Path, part: str) -> None:
    evidence = from_proof_data(intel_members(shared_vectors, SAMPLES[2]))
    data: bytes = getattr(evidence, part)
    accepted = [
        position
        for position in range(len(data))
        if verify(replaced(evidence, **{part: flipped(data, position)})).claims is not None
    ]
    assert accepted == []


@pytest.mark.parametrize("which", [0, 1], ids=["leaf", "root"])
def test_no_byte_of_intel_certificates_can_be_changed(shared_vectors: Path, which: int) -> None:
    evidence = from_proof_data(intel_members(shared_vectors, SAMPLES[2]))
    chain = list(evidence.certificates)
    accepted = []
    for position in range(len(chain[which])):
        changed = chain.copy()
        changed[which] = flipped(chain[which], position)
        if verify(replaced(evidence, certificates=tuple(changed))).claims is not None:
            accepted.append(position)
    assert accepted == []


def test_the_single_certificate_of_the_original_needs_the_root_from_elsewhere(shared_vectors: Path) -> None:
    members = intel_members(shared_vectors, SAMPLES[3])
    root = from_proof_data(members).certificates[1]
    alone = members | {
        "ias_report_signing_certificate": (
            shared_vectors / AVALON / "ias_report_signing_cert.pem"
        ).read_text()
    }
    evidence = from_proof_data(alone)
    assert len(evidence.certificates) == 1
    assert problems(verify(evidence)) == {"chain"}
    assert problems(verify(evidence, collateral=Collateral(certificates=(root,)))) == set()


def test_the_bundle_of_another_project_is_one_report_like_any_other(shared_vectors: Path) -> None:
    """Oasis keeps body, base64 signature and url-encoded chain in a CBOR map."""
    bundle = cbor.decode(
        (shared_vectors / OASIS / "sgx_attestation_v0.bin").read_bytes(), what="bundle", max_bytes=8192
    )
    evidence = from_proof_data(
        {
            "verification_report": bundle["body"].decode(),
            "ias_report_signature": bundle["signature"].decode(),
            "ias_report_signing_certificate": bundle["certificate_chain"].decode(),
        }
    )
    verification = verify(evidence)
    assert problems(verification) == set()
    assert verification.claims is not None
    assert verification.claims.attributes["nonce"] == "TkP4nBe69ytepcPfLigI6Qr1ikebRPyD"
    assert verification.claims.issued_at == datetime.fromisoformat("2022-07-29T08:53:30Z").timestamp()


# An infrastructure of the tests


class Ias:
    """Signs reports like IAS, under a root of its own."""

    def __init__(
        self,
        *,
        valid: tuple[datetime, datetime] = (
            datetime(2016, 1, 1, tzinfo=UTC),
            datetime(2026, 1, 1, tzinfo=UTC),
        ),
        leaf_key: CertificateIssuerPrivateKeyTypes | None = None,
        leaf_is_authority: bool = False,
    ) -> None:
        root_key = _rsa_key(0)
        self.leaf_key = leaf_key or _rsa_key(1)
        self.root = _certificate("test root", root_key, "test root", root_key, valid, authority=True)
        self.leaf = _certificate(
            "test signing", self.leaf_key, "test root", root_key, valid, authority=leaf_is_authority
        )

    @property
    def anchors(self) -> TrustAnchors:
        digest = digest_of(load_certificate(self.root))
        return TrustAnchors((TrustAnchor(name="test-ias", sha256=digest, simulated=True),))

    def issue(self, body: bytes) -> Evidence:
        if isinstance(self.leaf_key, rsa.RSAPrivateKey):
            signature = self.leaf_key.sign(body, padding.PKCS1v15(), hashes.SHA256())
        else:
            assert isinstance(self.leaf_key, ec.EllipticCurvePrivateKey)
            signature = self.leaf_key.sign(body, ec.ECDSA(hashes.SHA256()))
        return Evidence(
            format="sgx-epid", document=body, signature=signature, certificates=(self.leaf, self.root)
        )

    def judge(self, body: bytes, *, as_of: datetime = TODAY) -> Verification:
        return verify(self.issue(body), anchors=self.anchors, as_of=as_of)


_KEYS: dict[int, rsa.RSAPrivateKey] = {}


def _rsa_key(number: int) -> rsa.RSAPrivateKey:
    """Making one is slow; nothing here depends on its value."""
    if number not in _KEYS:
        _KEYS[number] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return _KEYS[number]


def _certificate(
    name: str,
    key: CertificateIssuerPrivateKeyTypes,
    issuer: str,
    issuer_key: rsa.RSAPrivateKey,
    valid: tuple[datetime, datetime],
    *,
    authority: bool,
) -> bytes:
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **usage
            ),
            critical=True,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.DER)


@pytest.fixture(scope="module")
def ias() -> Ias:
    return Ias()


def quote_body(**fields: Any) -> bytes:
    given: dict[str, Any] = {
        "version": 2,
        "sign_type": 0,
        "gid": b"\x01\x02\x03\x04",
        "qe_svn": 11,
        "pce_svn": 10,
        "xeid": 0,
        "basename": bytes(32),
        "cpu_svn": bytes(range(16)),
        "misc": bytes(4),
        "ext_product_id": bytes([1]) * 16,
        "flags": 0x85,
        "xfrm": 7,
        "mrenclave": bytes([2]) * 32,
        "mrsigner": bytes([3]) * 32,
        "config_id": bytes([4]) * 64,
        "product_id": 0x0102,
        "svn": 0x0304,
        "config_svn": 0x0506,
        "family_id": bytes([5]) * 16,
        "report_data": bytes([6]) * 64,
    }
    return struct.pack("<HH4sHHI32s16s4s12x16sQQ32s32x32s32x64sHHH42x16s64s", *(given | fields).values())


def report(*, without: str = "", quote: bytes | None = None, **members: Any) -> bytes:
    given = {
        "id": "1",
        "timestamp": "2020-01-02T03:04:05.678901",
        "version": 4,
        "advisoryURL": "https://security-center.intel.com",
        "advisoryIDs": ["INTEL-SA-00334"],
        "isvEnclaveQuoteStatus": "OK",
        "isvEnclaveQuoteBody": base64.b64encode(quote if quote is not None else quote_body()).decode(),
    } | members
    given.pop(without, None)
    return json.dumps(given).encode()


def claims_of(verification: Verification) -> Claims:
    assert verification.claims is not None, verification.checks
    return verification.claims


def test_every_field_of_the_quote_is_claimed(ias: Ias) -> None:
    claims = claims_of(ias.judge(report()))
    assert claims.simulated
    assert not claims.debug
    assert claims.measurement == "02" * 32
    assert claims.signer == "03" * 32
    assert (claims.product_id, claims.svn, claims.config_svn) == (0x0102, 0x0304, 0x0506)
    assert claims.config_id == "04" * 64
    assert claims.family_id == "05" * 16
    assert claims.ext_product_id == "01" * 16
    assert claims.report_data == b"\x06" * 64
    assert claims.tcb == {"cpusvn": bytes(range(16)).hex(), "qesvn": "11", "pcesvn": "10"}
    assert claims.attributes["attributes"] == "0000000000000085"
    assert claims.attributes["kss"] == "true"
    assert claims.attributes["epid_group_id"] == "04030201"
    assert claims.attributes["quote_linkable"] == "false"


@pytest.mark.parametrize(
    ("flags", "attribute"),
    [
        (0x04, "mode64"),
        (0x10, "provision_key"),
        (0x20, "einittoken_key"),
        (0x80, "kss"),
        (0x01, "initialized"),
    ],
)
def test_each_flag_is_its_own_bit(ias: Ias, flags: int, attribute: str) -> None:
    claims = claims_of(ias.judge(report(quote=quote_body(flags=flags))))
    names = ("mode64", "provision_key", "einittoken_key", "kss", "initialized")
    assert [name for name in names if claims.attributes[name] == "true"] == [attribute]
    assert not claims.debug
    assert claims_of(ias.judge(report(quote=quote_body(flags=flags | 2)))).debug


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("OK", TcbStatus.UP_TO_DATE),
        ("GROUP_OUT_OF_DATE", TcbStatus.OUT_OF_DATE),
        ("SW_HARDENING_NEEDED", TcbStatus.SW_HARDENING_NEEDED),
        ("CONFIGURATION_NEEDED", TcbStatus.CONFIGURATION_NEEDED),
        ("CONFIGURATION_AND_SW_HARDENING_NEEDED", TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED),
    ],
)
def test_a_status_with_which_ias_vouches_becomes_the_tcb_status(
    ias: Ias, status: str, expected: TcbStatus
) -> None:
    assert claims_of(ias.judge(report(isvEnclaveQuoteStatus=status))).tcb_status is expected


@pytest.mark.parametrize(
    "status",
    [
        "SIGNATURE_INVALID",
        "GROUP_REVOKED",
        "SIGNATURE_REVOKED",
        "KEY_REVOKED",
        "SIGRL_VERSION_MISMATCH",
        "ok",
        "OK ",
        "",
        "SOMETHING_NEW",
    ],
)
def test_any_other_status_yields_no_claims(ias: Ias, status: str) -> None:
    assert problems(ias.judge(report(isvEnclaveQuoteStatus=status))) == {"quote status"}


def test_every_version_is_read_and_a_report_without_one_is_of_version_2(ias: Ias) -> None:
    for version in (2, 3, 4, 5):
        assert claims_of(ias.judge(report(version=version))).attributes["report_version"] == str(version)
    assert claims_of(ias.judge(report(without="version"))).attributes["report_version"] == "2"


def test_members_that_are_not_known_are_let_be(ias: Ias) -> None:
    assert problems(ias.judge(report(pseManifestStatus="OK", new={"of": ["IAS"]}))) == set()


BAD_REPORTS: Mapping[str, bytes] = {
    "no id": report(without="id"),
    "no timestamp": report(without="timestamp"),
    "no status": report(without="isvEnclaveQuoteStatus"),
    "no quote": report(without="isvEnclaveQuoteBody"),
    "a version before the first": report(version=1),
    "a version after the last": report(version=6),
    "a version that is a text": report(version="4"),
    "a version that is true": report(version=True),
    "a timestamp with a zone": report(timestamp="2020-01-02T03:04:05Z"),
    "a timestamp with a space": report(timestamp="2020-01-02 03:04:05"),
    "a timestamp of no day": report(timestamp="2020-02-30T03:04:05"),
    "a timestamp in other digits": report(timestamp="\uff12\uff10\uff12\uff10-01-02T03:04:05"),
    "a timestamp as a number": report(timestamp=1577934245),
    "a status that is no text": report(isvEnclaveQuoteStatus=["OK"]),
    "a quote that is a byte short": report(quote=quote_body()[:-1]),
    "a quote with its signature": report(quote=quote_body() + bytes(680)),
    "a quote of version 3": report(quote=quote_body(version=3)),
    "a quote in another alphabet": report(isvEnclaveQuoteBody="_" * 576),
    "a quote with white space": report(
        isvEnclaveQuoteBody=base64.encodebytes(quote_body()).decode(),
    ),
    "advisories as a text": report(advisoryIDs="INTEL-SA-00334"),
    "an advisory that is a number": report(advisoryIDs=[334]),
    "an advisory with a line break": report(advisoryIDs=["INTEL-SA-00334\nINTEL-SA-00335"]),
    "too many advisories": report(advisoryIDs=["INTEL-SA-00334"] * 257),
    "a nonce without end": report(nonce="0" * 1025),
    "a negative evaluation number": report(tcbEvaluationDataNumber=-1),
    "a status twice": report()[:-1] + b', "isvEnclaveQuoteStatus": "OK"}',
    "a member twice, deep within": report()[:-1] + b', "new": [{"a": 1, "a": 2}]}',
    "not a number": report()[:-1] + b', "new": NaN}',
    "an array": b"[]",
    "a text": b'"OK"',
    "nothing": b"",
    "an empty object": b"{}",
    "two objects": report() + report(),
    "a byte order mark": b"\xef\xbb\xbf" + report(),
    "not UTF-8": report().replace(b"INTEL", b"\xff\xfe"),
    "UTF-16": report().decode().encode("utf-16"),
    "8000 levels": b'{"id":' * 2000 + b"1" + b"}" * 2000,
    "10000 digits": report()[:-1] + b', "new": ' + b"9" * 10000 + b"}",
    "16 KiB and more": report() + b" " * 16384,
}


@pytest.mark.parametrize("body", BAD_REPORTS.values(), ids=BAD_REPORTS)
def test_a_signed_body_of_another_shape_is_refused(ias: Ias, body: bytes) -> None:
    assert problems(ias.judge(body)) == {"document"}
    with pytest.raises(EvidenceError):
        parse_report(body)


def test_white_space_is_signed_too(ias: Ias) -> None:
    evidence = ias.issue(report())
    spaced = replaced(evidence, document=evidence.document + b" ")
    assert problems(verify(spaced, anchors=ias.anchors)) == {"signature"}


# Signatures and chains


def test_the_signing_certificate_must_be_valid_at_the_report_own_time() -> None:
    for year, expected in ((2019, {"validity"}), (2020, set()), (2022, set()), (2023, {"validity"})):
        ended = Ias(valid=(datetime(2020, 1, 1, tzinfo=UTC), datetime(2023, 1, 1, tzinfo=UTC)))
        assert problems(ended.judge(report(timestamp=f"{year}-06-01T00:00:00"))) == expected


def test_evidence_without_its_parts_is_refused(ias: Ias) -> None:
    evidence = ias.issue(report())
    assert problems(verify(replaced(evidence, signature=b""), anchors=ias.anchors)) == {"signature"}
    assert problems(verify(replaced(evidence, certificates=()), anchors=ias.anchors)) == {"document"}
    cut = replaced(evidence, certificates=(ias.leaf,))
    assert problems(verify(cut, anchors=ias.anchors)) == {"chain"}
    assert problems(verify(replaced(evidence, certificates=(b"none",)), anchors=ias.anchors)) == {"document"}


def test_a_chain_the_wrong_way_round_is_refused(ias: Ias) -> None:
    turned = replaced(ias.issue(report()), certificates=(ias.root, ias.leaf))
    assert problems(verify(turned, anchors=ias.anchors)) == {"signature", "leaf"}


def test_surplus_certificates_change_nothing(ias: Ias, shared_vectors: Path) -> None:
    intel = from_proof_data(intel_members(shared_vectors, SAMPLES[0]))
    more = replaced(ias.issue(report()), certificates=(ias.leaf, *intel.certificates, ias.root))
    assert problems(verify(more, anchors=ias.anchors)) == set()


def test_parts_of_two_reports_cannot_be_combined(ias: Ias, shared_vectors: Path) -> None:
    one, two = (from_proof_data(intel_members(shared_vectors, sample)) for sample in SAMPLES[:2])
    assert problems(verify(replaced(one, signature=two.signature))) == {"signature"}
    assert problems(verify(replaced(one, document=two.document))) == {"signature"}
    own = ias.issue(report())
    assert problems(verify(replaced(own, certificates=one.certificates))) == {"signature"}
    assert problems(verify(own)) == {"root"}
    mixed = replaced(own, certificates=(ias.leaf, one.certificates[1]))
    assert problems(verify(mixed)) == {"chain"}


def test_another_kind_of_key_or_padding_is_refused(ias: Ias) -> None:
    elliptic = Ias(leaf_key=ec.generate_private_key(ec.SECP256R1()))
    assert problems(elliptic.judge(report())) == {"signature"}
    small = Ias(leaf_key=rsa.generate_private_key(public_exponent=65537, key_size=1024))
    assert problems(small.judge(report())) == {"signature"}
    assert isinstance(ias.leaf_key, rsa.RSAPrivateKey)
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    signature = ias.leaf_key.sign(report(), pss, hashes.SHA256())
    evidence = replaced(ias.issue(report()), signature=signature)
    assert problems(verify(evidence, anchors=ias.anchors)) == {"signature"}


def test_an_authority_cannot_stand_in_for_the_signing_certificate() -> None:
    assert problems(Ias(leaf_is_authority=True).judge(report())) == {"leaf"}


# proofData and files


def pem_of(*certificates: bytes) -> str:
    return "".join(
        load_certificate(der).public_bytes(serialization.Encoding.PEM).decode() for der in certificates
    )


def original_form(evidence: Evidence) -> dict[str, str]:
    return {
        "verification_report": evidence.document.decode(),
        "ias_report_signature": base64.b64encode(evidence.signature).decode(),
        "ias_report_signing_certificate": pem_of(*evidence.certificates),
    }


def header_form(evidence: Evidence) -> dict[str, str]:
    report_text, signature, chain = original_form(evidence).values()
    return {
        "Verification-report": report_text,
        "X-IASReport-Signature": signature,
        "X-IASReport-Signing-Certificate": quote(chain),
        "Advisory-URL": "https://security-center.intel.com",
        "Advisory-IDs": "INTEL-SA-00334",
    }


def test_both_sets_of_names_are_read_as_objects_and_as_text(ias: Ias) -> None:
    evidence = ias.issue(report())
    for form in (original_form(evidence), header_form(evidence)):
        assert from_proof_data(form) == evidence
        assert from_proof_data(json.dumps(form)) == evidence
    lower = {name.lower(): value for name, value in header_form(evidence).items()}
    assert from_proof_data(lower) == evidence


def test_proof_data_is_written_as_the_original_wrote_it(ias: Ias) -> None:
    evidence = ias.issue(report())
    assert to_proof_data(evidence) == original_form(evidence)
    kind, value = proof_data.encode(evidence)
    assert (kind, value) == ("TEE-SGX-IAS", original_form(evidence))
    assert proof_data.decode(kind, value) == (evidence, NO_COLLATERAL)


def test_one_file_holds_it_all(ias: Ias) -> None:
    evidence = ias.issue(report())
    for form in (original_form(evidence), header_form(evidence)):
        document = json.dumps(form, indent=2).encode()
        file = Evidence(format="sgx-epid", document=document)
        assert SGX_EPID.detect(document)
        assert problems(verify(file, anchors=ias.anchors)) == set()
        assert to_proof_data(file) == original_form(evidence)
    twice = json.dumps(original_form(evidence)).encode()[:-1] + b', "verification_report": "{}"}'
    assert problems(verify(Evidence(format="sgx-epid", document=twice), anchors=ias.anchors)) == {"document"}


def test_a_body_is_detected(ias: Ias) -> None:
    assert SGX_EPID.detect(report())
    assert SGX_EPID.detect(b"\n" + report())
    for other in (b"", b"{}", b"\x84\x44\xa1\x01\x38\x22", b"\x03\x00\x02\x00", b'{"tcbInfo": 1}'):
        assert not SGX_EPID.detect(other)


def _form(**changes: Any) -> dict[str, Any]:
    evidence = Ias().issue(report())
    return {name: value for name, value in (original_form(evidence) | changes).items() if value is not None}


BAD_FORMS: Mapping[str, Any] = {
    "nothing": None,
    "a number": 7,
    "an array": [],
    "an empty object": {},
    "an empty text": "",
    "text that is no JSON": "{",
    "text of an array": "[]",
    "text of a text": json.dumps(json.dumps({})),
    "text with a member twice": json.dumps(_form())[:-1] + ', "verification_report": ""}',
    "text too large": " " * (128 * 1024) + "{}",
    "no report": _form(verification_report=None),
    "no signature": _form(ias_report_signature=None),
    "no certificate": _form(ias_report_signing_certificate=None),
    "the report as an object": _form(verification_report={"id": "1"}),
    "the report as bytes": _form(verification_report=b"{}"),
    "half of a character": _form(verification_report="\ud800"),
    "both spellings": _form(**{"X-IASReport-Signature": "AAAA"}),
    "a header in two cases": {
        **header_form(Ias().issue(report())),
        "x-iasreport-signature": "AAAA",
    },
    "a signature with white space": _form(ias_report_signature="AAAA\n"),
    "a signature with loose bits": _form(ias_report_signature="AB=="),
    "a signature without end": _form(ias_report_signature="AAAA" * 300),
    "a certificate that is none": _form(ias_report_signing_certificate="none"),
    "an empty chain": _form(ias_report_signing_certificate=""),
    "a chain of five": _form(ias_report_signing_certificate=pem_of(*[Ias().root] * 5)),
    "a chain in other letters": _form(ias_report_signing_certificate="ä"),
    "a chain url-encoded badly": _form(ias_report_signing_certificate="%ff%fe"),
    "a chain without end": _form(ias_report_signing_certificate="A" * (256 * 1024 + 1)),
    "a report without end": _form(verification_report="{" * (128 * 1024 + 1)),
}


@pytest.mark.parametrize("form", BAD_FORMS.values(), ids=BAD_FORMS)
def test_proof_data_of_another_shape_is_refused(form: Any) -> None:
    with pytest.raises(EvidenceError):
        from_proof_data(form)


def test_a_report_that_is_no_text_cannot_become_proof_data(ias: Ias) -> None:
    evidence = replaced(ias.issue(report()), document=b"\xff")
    with pytest.raises(EvidenceError):
        to_proof_data(evidence)


# Bytes of strangers


@given(st.binary(max_size=600))
@example(b"{" * 16384)
@example(b"[" * 16384)
@example(b'{"a":' * 3000)
def test_arbitrary_bytes_raise_nothing_but_evidence_errors(data: bytes) -> None:
    for parse in (parse_report, parse_quote_body, lambda data: from_proof_data(data.decode("latin-1"))):
        try:
            parse(data)
        except EvidenceError:
            continue
    SGX_EPID.detect(data)
    assert problems(verify(Evidence(format="sgx-epid", document=data))) == {"document"}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=10,
)
_MEMBERS = st.sampled_from(
    [*json.loads(report()), "nonce", "platformInfoBlob", "tcbEvaluationDataNumber", "x"]
)


@given(st.dictionaries(_MEMBERS, _JSON, min_size=1, max_size=3))
def test_signed_reports_with_arbitrary_members_raise_nothing(members: dict[str, Any]) -> None:
    problems(Ias().judge(report(**members)))


@given(st.binary(min_size=432, max_size=432))
def test_any_quote_of_the_right_length_has_fields_or_is_refused(data: bytes) -> None:
    try:
        body = parse_quote_body(data)
    except EvidenceError:
        assert data[:2] not in (b"\x01\x00", b"\x02\x00")
    else:
        assert body.report_data == data[-64:]


def test_the_url_encoding_of_intel_is_undone(shared_vectors: Path) -> None:
    encoded = (shared_vectors / OASIS / "avr_certificates_urlencoded.pem").read_text()
    members = intel_members(shared_vectors, SAMPLES[0])
    plain = members | {"ias_report_signing_certificate": unquote(encoded)}
    assert from_proof_data(members) == from_proof_data(plain)


def test_the_format_is_registered() -> None:
    assert FORMATS["sgx-epid"] is SGX_EPID
    assert SGX_EPID.proof_data_type == "TEE-SGX-IAS"
