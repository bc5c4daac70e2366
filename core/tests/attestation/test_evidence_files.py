"""Evidence and collateral in files and in proofData: every spelling is read, and what is none of them is refused."""

import base64
import contextlib
import json
import textwrap
import urllib.parse
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from avalon_core.attestation.bundles import (
    collateral_from_object,
    collateral_to_object,
    merged,
)
from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral, SnpCollateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.files import (
    MAX_FILE_BYTES,
    read_certificates,
    read_collateral,
    read_evidence,
    read_signature,
)
from avalon_core.attestation.formats import FORMATS
from avalon_core.attestation.inspection import inspect
from avalon_core.attestation.proof_data import decode, encode
from avalon_core.errors import AvalonError, EvidenceError
from avalon_core.simulator.vendors import MEASUREMENT_BYTES, EvidenceRequest, SimulatedVendors

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
VENDORS = SimulatedVendors()
KINDS = tuple(MEASUREMENT_BYTES)


def issue(kind):
    return VENDORS.issue(
        EvidenceRequest(kind=kind, measurement=b"\x5a" * MEASUREMENT_BYTES[kind], report_data=b"\x09"), NOW
    )


ISSUED = {kind: issue(kind) for kind in KINDS}
QUOTE = ISSUED["sgx"].evidence
SNP = ISSUED["snp"]
DER = VENDORS.root("sgx")
AMD_DER = VENDORS.root("snp")
PEM = x509.load_der_x509_certificate(DER).public_bytes(Encoding.PEM)
AMD_PEM = x509.load_der_x509_certificate(AMD_DER).public_bytes(Encoding.PEM)
CRL = SNP.collateral.snp[0].crl or b""
CRL_PEM = x509.load_der_x509_crl(CRL).public_bytes(Encoding.PEM)


def b64(raw):
    return base64.b64encode(raw).decode()


SPELLINGS = {
    "raw bytes": lambda raw: raw,
    "hex": lambda raw: raw.hex().encode(),
    "hex in capitals": lambda raw: raw.hex().upper().encode() + b"\n",
    "hex with 0x": lambda raw: b"0x" + raw.hex().encode(),
    "hex in lines": lambda raw: "\n".join(textwrap.wrap(raw.hex(), 60)).encode() + b"\r\n",
    "hex in quotes": lambda raw: f'"{raw.hex()}"'.encode(),
    "base64": lambda raw: base64.b64encode(raw),
    "base64 in lines": base64.encodebytes,
    "base64 without padding": lambda raw: base64.b64encode(raw).rstrip(b"="),
    "base64 for URLs": lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"="),
    "PEM's lines": lambda raw: (
        b"-----BEGIN QUOTE-----\n" + base64.encodebytes(raw) + b"-----END QUOTE-----\n"
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_kind_is_found_in_every_spelling(kind, spelling):
    evidence = ISSUED[kind].evidence
    file = read_evidence(SPELLINGS[spelling](evidence.document))
    assert file.evidence == Evidence(format=evidence.format, document=evidence.document)
    assert file.collateral == NO_COLLATERAL
    assert file.spelling.split()[0] in (spelling.split()[0], "base64")


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_record_and_an_answer_with_one_inside_are_read(kind):
    issued = ISSUED[kind]
    proof_data_type, proof_data = encode(issued.evidence, issued.collateral)
    record = {"details": {"workerTypeData": {"proofDataType": proof_data_type, "proofData": proof_data}}}
    for value in (record, {"jsonrpc": "2.0", "result": record}, [{"workers": [record]}]):
        file = read_evidence(json.dumps(value).encode())
        assert file.evidence == issued.evidence
        assert file.collateral == issued.collateral
    alone = read_evidence(json.dumps(proof_data).encode())
    assert (alone.evidence, alone.collateral) == (issued.evidence, issued.collateral)
    assert alone.spelling == "JSON: proofData"


def test_a_quote_in_json_is_read_with_its_collateral():
    issued = ISSUED["tdx"]
    for quote in (issued.evidence.document.hex(), b64(issued.evidence.document)):
        bundle = collateral_to_object(issued.collateral)
        for collateral in (bundle, bundle["dcap"][0]):
            file = read_evidence(json.dumps({"quote": quote, "collateral": collateral}).encode())
            assert file.evidence == issued.evidence
            assert file.collateral == issued.collateral
    assert read_evidence(json.dumps({"quote": quote}).encode()).collateral == NO_COLLATERAL


NO_EVIDENCE = {
    "nothing": (b"", "the file is empty"),
    "white space": (b" \n", "the file is empty"),
    "nonsense": (b"\x00\x01\x02\xff", r"tried raw bytes \(4 bytes\), and it is no JSON object"),
    "a text": (b"hello", "tried raw bytes .*expected one of|Expected one of"),
    "hex of something else": (b"00112233", r"raw bytes \(8 bytes\), base64 \(6 bytes\), hex \(4 bytes\)"),
    "broken JSON": (b'{"a": ', "begins like JSON and is none"),
    "other JSON": (b'{"a": 1}', r"got 'members a', tried a worker record"),
    "a list": (b"[1, 2]", "got 'no object'"),
    "an unknown type": (
        b'{"proofDataType": "TEE-SXG", "proofData": {}}',
        "unknown kind of evidence: got proofDataType 'TEE-SXG', expected one of TEE-AZURE",
    ),
    "a quote that is none": (b'{"quote": "0011"}', "no evidence of a kind"),
    "deep JSON": (b"[" * 100_000, "none"),
}


@pytest.mark.parametrize("what", NO_EVIDENCE)
def test_what_holds_no_evidence_is_refused_with_what_was_tried(what):
    raw, expected = NO_EVIDENCE[what]
    with pytest.raises(EvidenceError, match=expected):
        read_evidence(raw)


def test_a_file_that_is_too_large_is_refused():
    with pytest.raises(EvidenceError, match="too large"):
        read_evidence(bytes(MAX_FILE_BYTES + 1))
    with pytest.raises(EvidenceError, match="too large"):
        read_evidence(QUOTE.document + bytes(200_000))


def test_who_says_what_it_is_gets_that():
    assert read_evidence(b"0011", format_name="snp").evidence == Evidence(format="snp", document=b"\x00\x11")
    with pytest.raises(EvidenceError, match="unknown kind of evidence: got 'sxg'"):
        read_evidence(b"0011", format_name="sxg")


# Collateral ---------------------------------------------------------------------------------------------------------


def of(der):
    """A certificate alone: for every format that may want it."""
    return Collateral(certificates=(der,), snp=(SnpCollateral(certificates=(der,)),))


COLLATERALS = {
    "a bundle": (
        json.dumps(collateral_to_object(ISSUED["sgx"].collateral)).encode(),
        ISSUED["sgx"].collateral,
    ),
    "one platform's": (
        json.dumps(collateral_to_object(ISSUED["sgx"].collateral)["dcap"][0] | {"more": 1}).encode(),
        ISSUED["sgx"].collateral,
    ),
    "a list of them": (
        json.dumps([collateral_to_object(ISSUED[kind].collateral) for kind in ("sgx", "snp")]).encode(),
        merged((ISSUED["sgx"].collateral, SNP.collateral)),
    ),
    "a certificate in PEM": (PEM, of(DER)),
    "a certificate in DER": (DER, of(DER)),
    "a certificate in base64": (base64.encodebytes(DER), of(DER)),
    "a certificate in hex": (DER.hex().encode(), of(DER)),
    "a certificate, url-encoded": (urllib.parse.quote(PEM).encode(), of(DER)),
    "a certificate of AMD's": (AMD_PEM, of(AMD_DER)),
    "a CRL in DER": (CRL, Collateral(crls=(CRL,))),
    "a CRL in PEM and a certificate": (CRL_PEM + PEM, merged((of(DER), Collateral(crls=(CRL,))))),
    "the same twice": (PEM + PEM, of(DER)),
}


@pytest.mark.parametrize("what", COLLATERALS)
def test_collateral_is_read_from(what):
    raw, expected = COLLATERALS[what]
    assert read_collateral(raw) == expected


NO_COLLATERALS = {
    "nothing": (b"", "empty"),
    "nonsense": (b"nonsense", "no collateral: tried JSON"),
    "other JSON": (b'{"a": 1}', "JSON without collateral"),
    "a bundle of tomorrow": (b'{"version": 2}', "unknown version: got 2, expected 1"),
    "a bundle with a slip of the pen": (b'{"version": 1, "crl": []}', "unknown field"),
    "a bundle whose base64 is none": (b'{"version": 1, "crls": ["*"]}', "crls is not base64"),
    "half of a platform's": (b'{"tcb_info": "x"}', "cannot be read"),
    "too many": (json.dumps({"version": 1, "crls": [""] * 33}).encode(), "too many crls"),
    "too many certificates": (PEM * 33, "too many PEM blocks"),
    "PEM with a broken middle": (b"-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----", "not base64"),
    "PEM of another thing": (PEM.replace(b"CERTIFICATE", b"PUBLIC KEY"), "no collateral"),
    "a quote, which has PEM inside": (QUOTE.document, "no collateral"),
    "too large a CRL": (
        json.dumps({"version": 1, "crls": ["A" * (3 * 1024 * 1024)]}).encode(),
        "crls: too large",
    ),
    "too large a file": (bytes(4 * 1024 * 1024 + 1), "too large"),
}


@pytest.mark.parametrize("what", NO_COLLATERALS)
def test_what_holds_no_collateral_is_refused(what):
    raw, expected = NO_COLLATERALS[what]
    with pytest.raises(EvidenceError, match=expected):
        read_collateral(raw)


def test_certificates_and_signatures_that_belong_to_evidence():
    assert read_certificates(PEM + AMD_PEM + CRL_PEM) == (DER, AMD_DER)
    with pytest.raises(EvidenceError, match="no certificate"):
        read_certificates(CRL_PEM)
    assert read_signature(base64.encodebytes(b"\x01\x02\xff")) == b"\x01\x02\xff"
    assert read_signature(b"0102ff") == b"\x01\x02\xff"
    assert read_signature(b"\x01\x02\xff") == b"\x01\x02\xff"


DERS = st.lists(st.binary(max_size=20), max_size=3).map(tuple)


@given(
    st.builds(
        Collateral,
        dcap=st.sampled_from([(), ISSUED["sgx"].collateral.dcap]),
        snp=st.lists(
            st.builds(SnpCollateral, certificates=DERS, crl=st.none() | st.binary(max_size=9)), max_size=2
        ).map(tuple),
        certificates=DERS,
        crls=DERS,
    )
)
def test_bundles_survive_json(collateral):
    value = json.loads(json.dumps(collateral_to_object(collateral)))
    assert collateral_from_object(value) == collateral
    assert merged((collateral, collateral)) == merged((collateral,))


# proofData ----------------------------------------------------------------------------------------------------------


@given(
    st.builds(
        Evidence,
        format=st.sampled_from(sorted(set(FORMATS) - {"sgx-epid"})),
        document=st.binary(max_size=30),
        signature=st.binary(max_size=9),
        certificates=DERS,
        attachments=st.dictionaries(st.text(max_size=5), st.binary(max_size=9), max_size=3),
    ),
    st.none() | st.just(ISSUED["sgx"].collateral),
)
def test_proof_data_survives_json(evidence, collateral):
    proof_data_type, value = encode(evidence, collateral)
    assert proof_data_type.startswith("TEE-")
    assert decode(proof_data_type, json.loads(json.dumps(value))) == (evidence, collateral or NO_COLLATERAL)


BAD_PROOF_DATA = {
    "nothing": (None, "cannot be read"),
    "no document": ({}, "document"),
    "another member": ({"document": "", "quote": ""}, "quote"),
    "a document that is no base64": ({"document": "*"}, "proofData.document is not base64"),
    "base64 with a line break": ({"document": "AAAA\n"}, "proofData.document is not base64"),
    "too large a document": ({"document": "A" * 200_000}, "proofData.document: too large"),
    "too many certificates": ({"document": "", "certificates": [""] * 17}, "too many certificates: got 17"),
    "too large a certificate": ({"document": "", "certificates": ["A" * 30_000]}, "too large"),
    "too many attachments": ({"document": "", "attachments": dict.fromkeys("123456789", "")}, "got 9"),
    "collateral of no version": ({"document": "", "collateral": {}}, "version"),
}


@pytest.mark.parametrize("what", BAD_PROOF_DATA)
def test_proof_data_that_is_none_is_refused(what):
    value, expected = BAD_PROOF_DATA[what]
    with pytest.raises(EvidenceError, match=expected):
        decode("TEE-SNP", value)


def test_the_names_of_ias_are_its_own(shared_vectors):
    folder = shared_vectors / "evidence" / "ias-epid" / "oasisprotocol-oasis-core"
    evidence = Evidence(
        format="sgx-epid",
        document=(folder / "avr_v5_body_sw_hardening_needed.json").read_bytes(),
        signature=read_signature((folder / "avr_v5_body_sw_hardening_needed.sig").read_bytes()),
        certificates=read_certificates((folder / "avr_certificates_urlencoded.pem").read_bytes()),
    )
    proof_data_type, value = encode(evidence)
    assert sorted(value) == ["ias_report_signature", "ias_report_signing_certificate", "verification_report"]
    assert decode(proof_data_type, value) == (evidence, NO_COLLATERAL)
    record = {"proofDataType": proof_data_type, "proofData": value}
    assert read_evidence(json.dumps({"a": record}).encode()).evidence == evidence


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["TEE-SNP", "AAAA", "0x00"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["document", "proofData", "proofDataType", "quote", "collateral", "version", "snp", "dcap", "tcb_info",
                 "certificates", "attachments", "verification_report"]
            ) | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip


@given(JSON | st.binary(max_size=200) | st.text(max_size=100))
def test_whatever_is_in_a_file_raises_package_errors_only(value):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    for read in (read_evidence, read_collateral, read_certificates, read_signature):
        with contextlib.suppress(AvalonError):
            read(raw)
    for known in FORMATS.values():
        with contextlib.suppress(AvalonError):
            decode(known.proof_data_type, value)


# Inspection ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_looked_at(kind):
    fields = dict(inspect(ISSUED[kind].evidence))
    assert any("5a5a5a5a" in value for value in fields.values())
    assert all(name for name in fields)


@given(st.sampled_from(sorted(FORMATS)), st.binary(max_size=300))
def test_looking_at_nonsense_raises_package_errors_only(name, document):
    with contextlib.suppress(AvalonError):
        inspect(Evidence(format=name, document=document))


@given(st.data())
def test_looking_at_damaged_evidence_raises_package_errors_only(data):
    evidence = ISSUED[data.draw(st.sampled_from(KINDS))].evidence
    document = bytearray(evidence.document)
    for _ in range(data.draw(st.integers(1, 3))):
        document[data.draw(st.integers(0, len(document) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(document)))
    for damaged in (bytes(document), bytes(document[:cut])):
        with contextlib.suppress(AvalonError):
            inspect(Evidence(format=evidence.format, document=damaged))


def test_all_stored_evidence_can_be_read_and_looked_at(shared_vectors):
    found = set()
    for path in sorted((shared_vectors / "evidence").rglob("*")):
        if not path.is_file() or path.name == "INDEX.md":
            continue
        raw = path.read_bytes()
        with contextlib.suppress(AvalonError):
            file = read_evidence(raw)
            assert inspect(file.evidence), path
            found.add(file.evidence.format)
        with contextlib.suppress(AvalonError):
            read_collateral(raw)
    assert {"sgx-dcap", "tdx", "snp", "azure", "nitro", "sgx-epid"} <= found
