"""AWS Nitro documents: AWS's own, the simulator's, and everything that must be refused."""

import hashlib
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given
from hypothesis import strategies as st

from avalon_core.attestation import cbor
from avalon_core.attestation.chains import load_certificate
from avalon_core.attestation.checks import Verdict, Verification, overall
from avalon_core.attestation.claims import Tee
from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.formats import FORMATS
from avalon_core.attestation.known_roots import AWS_NITRO, VENDOR_ROOTS
from avalon_core.attestation.nitro import NITRO, parse_document
from avalon_core.attestation.nitro.cose import PROTECTED, parse_sign1
from avalon_core.attestation.roots import TrustAnchors
from avalon_core.errors import EvidenceError, SignatureMismatch
from avalon_core.simulator.nitro import ROOT_NAME, ZEROS, NitroPki, NitroRequest, enclave_pcrs
from avalon_core.simulator.seeds import Seed

NOW = datetime(2025, 6, 1, 12, 0, 0, tzinfo=UTC)
NOW_MS = int(NOW.timestamp()) * 1000
FOLDER = Path("evidence") / "nitro" / "anjuna-security-go-nitro-attestation"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A line of INDEX.md."""

    name: str
    module_id: str
    timestamp: str
    pcr0: str
    valid: tuple[str, str]
    debug: bool = False
    public_key: bool = False
    user_data: bytes | None = None
    nonce: bytes | None = None


SAMPLES = [
    Sample(
        name="sample_prod_doc.bin",
        module_id="i-078824548edcf6519-enc01784234ec227b58",
        timestamp="2021-03-17T22:01:55Z",
        pcr0="2d151586641b790f3b1b92b8",
        valid=("2021-03-17T22:01:55Z", "2021-03-18T01:01:55Z"),
    ),
    Sample(
        name="sample_prod_doc_with_publickey.bin",
        module_id="i-0a6d65e7122308898-enc017846bcd2f820da",
        timestamp="2021-03-24T16:10:41Z",
        pcr0="672cd3c91b7ac756037d2600",
        valid=("2021-03-24T16:06:22Z", "2021-03-24T19:06:22Z"),
        public_key=True,
    ),
    Sample(
        name="sample_attestation_doc_full.bin",
        module_id="i-0e4fe5de7ee5abe78-enc018d3cadd7d66279",
        timestamp="2024-01-24T18:14:25Z",
        pcr0="00" * 12,
        valid=("2024-01-24T18:14:14Z", "2024-01-24T21:14:17Z"),
        debug=True,
        public_key=True,
        user_data=b"Hello World!\n",
        nonce=b"Nonce\n",
    ),
    Sample(
        name="testdata__sample_prod_doc.bin",
        module_id="i-07ceff4b3ab54305f-enc018aba0189375080",
        timestamp="2023-09-21T23:09:57Z",
        pcr0="0f0b6b3e05d75450ab3cc91e",
        valid=("2023-09-21T23:09:48Z", "2023-09-22T02:09:51Z"),
        user_data=b"Hello World!\n",
    ),
]
every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)


@pytest.fixture(scope="module")
def pki() -> NitroPki:
    return NitroPki()


@pytest.fixture(scope="module")
def foreign() -> NitroPki:
    """Another infrastructure of the same shape, which nobody knows."""
    return NitroPki(Seed(bytes(32)))


def request(**members: Any) -> NitroRequest:
    given: dict[str, Any] = {
        "timestamp_ms": NOW_MS,
        "pcrs": enclave_pcrs(image="image", signer="signer"),
        "user_data": bytes(range(64)),
    }
    return NitroRequest(**given | members)


def verify(
    document: bytes,
    *,
    anchors: TrustAnchors | None = None,
    as_of: datetime = NOW,
    collateral: Collateral = NO_COLLATERAL,
) -> Verification:
    return NITRO.verify(
        Evidence(format="nitro", document=document),
        anchors=anchors or VENDOR_ROOTS.with_more([NitroPki().anchor]),
        collateral=collateral,
        as_of=as_of,
    )


def problems(verification: Verification) -> set[str]:
    """The names of the checks that did not pass; claims only where there are none."""
    assert (verification.claims is not None) == (overall(verification.checks) is Verdict.PASSED)
    return {check.name for check in verification.checks if check.verdict is not Verdict.PASSED}


def when(text: str) -> datetime:
    return datetime.fromisoformat(text)


# AWS's own documents


@every_sample
def test_aws_own_documents_verify_as_of_their_day(shared_vectors: Path, sample: Sample) -> None:
    document = (shared_vectors / FOLDER / sample.name).read_bytes()
    assert NITRO.detect(document)
    claims = verify(document, as_of=when(sample.timestamp)).claims
    assert claims is not None
    assert verify(document, as_of=when(sample.valid[0])).claims == claims
    assert verify(document, as_of=when(sample.valid[1])).claims == claims
    assert claims.tee is Tee.NITRO
    assert (claims.root, claims.simulated) == ("aws-nitro", False)
    assert claims.measurement.startswith(sample.pcr0)
    assert claims.registers["pcr0"] == claims.measurement
    assert sorted(claims.registers) == sorted(f"pcr{index}" for index in range(16))
    assert claims.debug is sample.debug
    assert claims.signer is None
    assert claims.chip_id == sample.module_id
    assert claims.issued_at == when(sample.timestamp).timestamp()
    assert claims.collateral_expires == when(sample.valid[1]).timestamp()
    assert claims.report_data == (sample.user_data or b"").ljust(64, b"\0")
    assert claims.attributes.get("nonce") == (sample.nonce and sample.nonce.hex())
    assert ("public_key" in claims.attributes) is sample.public_key
    assert ("user_data" in claims.attributes) is (sample.user_data is not None)


@every_sample
@pytest.mark.parametrize("side", ["before", "after", "long after"])
def test_aws_own_documents_are_refused_outside_of_their_hours(
    shared_vectors: Path, sample: Sample, side: str
) -> None:
    document = (shared_vectors / FOLDER / sample.name).read_bytes()
    first, last = (when(text) for text in sample.valid)
    as_of = {
        "before": first - timedelta(seconds=1),
        "after": last + timedelta(seconds=1),
        "long after": NOW,
    }[side]
    assert problems(verify(document, as_of=as_of)) == {"validity"}


def test_the_root_of_aws_is_known_by_its_digest_and_by_nothing_else(shared_vectors: Path) -> None:
    document = (shared_vectors / FOLDER / SAMPLES[0].name).read_bytes()
    root = parse_document(parse_sign1(document).payload).cabundle[0]
    assert hashlib.sha256(root).hexdigest() == AWS_NITRO.sha256
    only_simulated = TrustAnchors((NitroPki().anchor,))
    verification = verify(document, as_of=when(SAMPLES[0].timestamp), anchors=only_simulated)
    assert problems(verification) == {"root"}


def test_no_byte_of_aws_own_document_can_be_changed(shared_vectors: Path) -> None:
    document = (shared_vectors / FOLDER / SAMPLES[0].name).read_bytes()
    assert _is_signed(document)
    accepted = [at for at in range(len(document)) if _is_signed(_flipped(document, at))]
    assert accepted == []


def test_no_change_of_a_byte_gets_through_the_whole_verification(shared_vectors: Path) -> None:
    document = (shared_vectors / FOLDER / SAMPLES[0].name).read_bytes()
    # Whole verifications are slow: all of the framing and the signature, and a sample of the rest.
    positions = {*range(40), *range(len(document) - 110, len(document)), *range(40, len(document), 7)}
    as_of = when(SAMPLES[0].timestamp)
    accepted = [at for at in positions if verify(_flipped(document, at), as_of=as_of).claims is not None]
    assert accepted == []


def _is_signed(document: bytes) -> bool:
    """The steps before the chain: what the signature covers."""
    try:
        message = parse_sign1(document)
        key = load_certificate(parse_document(message.payload).certificate).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        message.verify(key)
    except (EvidenceError, SignatureMismatch, UnsupportedAlgorithm, ValueError, AssertionError):
        return False
    return True


def _flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :]


# The simulator's documents


def test_simulated_evidence_goes_the_same_way_and_says_that_it_is_simulated(pki: NitroPki) -> None:
    document = pki.issue(request(nonce=b"n", public_key=b"k"))
    assert NITRO.detect(document)
    claims = verify(document).claims
    assert claims is not None
    pcrs = enclave_pcrs(image="image", signer="signer")
    assert (claims.root, claims.simulated, claims.debug) == (ROOT_NAME, True, False)
    assert claims.measurement == pcrs[0].hex()
    assert claims.signer == pcrs[8].hex()
    assert claims.registers == {f"pcr{index}": pcr.hex() for index, pcr in pcrs.items()}
    assert claims.report_data == bytes(range(64))
    assert claims.attributes["nonce"] == b"n".hex()
    assert claims.attributes["public_key"] == b"k".hex()
    assert verify(document, anchors=VENDOR_ROOTS).claims is None


def test_the_simulator_is_deterministic_and_its_root_is_published(pki: NitroPki) -> None:
    assert NitroPki().issue(request()) == pki.issue(request())
    assert pki.anchor.sha256 == "f8ad4f20eb28c9e4216a52db4fce8a858a0b236b225622d74389b903bc838d20"
    assert "SIMULATED" in pki.anchor.description
    assert NitroPki(Seed(bytes(32))).anchor != pki.anchor


def test_a_tagged_document_is_the_same_document(pki: NitroPki) -> None:
    tagged = pki.issue(request(tagged=True))
    assert tagged == b"\xd2" + pki.issue(request())
    assert NITRO.detect(tagged)
    assert verify(tagged).claims == verify(tagged[1:]).claims
    assert problems(verify(b"\xd2" + tagged)) == {"document"}


def test_debug_mode_is_claimed(pki: NitroPki) -> None:
    claims = verify(pki.issue(request(pcrs=enclave_pcrs(image="image", debug=True, signer="s")))).claims
    assert claims is not None
    assert claims.debug
    assert claims.measurement == ZEROS.hex()
    assert claims.signer is None


@pytest.mark.parametrize(
    ("user_data", "report_data"),
    [
        (None, bytes(64)),
        (b"", bytes(64)),
        (b"short", b"short".ljust(64, b"\0")),
        (b"\xff" * 64, b"\xff" * 64),
        (b"\xff" * 65, hashlib.sha512(b"\xff" * 65).digest()),
        (b"\xff" * 512, hashlib.sha512(b"\xff" * 512).digest()),
    ],
    ids=["none", "empty", "short is padded", "64 as it is", "65 is hashed", "512 is hashed"],
)
def test_user_data_becomes_report_data(pki: NitroPki, user_data: bytes | None, report_data: bytes) -> None:
    claims = verify(pki.issue(request(user_data=user_data))).claims
    assert claims is not None
    assert claims.report_data == report_data
    assert claims.attributes.get("user_data") == (None if user_data is None else user_data.hex())


GOOD_MEMBERS: dict[str, dict[str, Any]] = {
    "one register alone": {"pcrs": {0: b"\x01" * 48}},
    "all 32 registers": {"pcrs": dict.fromkeys(range(32), b"\x01" * 48)},
    "registers of 32 and 64 bytes": {"pcrs": {0: b"\x01" * 32, 1: b"\x02" * 64}},
    "largest optional members": {"public_key": bytes(1024), "nonce": bytes(512), "user_data": bytes(512)},
    "smallest optional members": {"public_key": b"\0", "nonce": b"", "user_data": b""},
}

BAD_MEMBERS: dict[str, dict[str, Any]] = {
    "module_id is missing": {"module_id": None},
    "module_id is empty": {"module_id": ""},
    "module_id is bytes": {"module_id": b"i-0"},
    "module_id is too long": {"module_id": "i" * 129},
    "module_id has a line break": {"module_id": "i-0\nroot: aws-nitro"},
    "digest is missing": {"digest": None},
    "digest is another": {"digest": "SHA256"},
    "timestamp is missing": {"timestamp": None},
    "timestamp is zero": {"timestamp": 0},
    "timestamp is negative": {"timestamp": -1},
    "timestamp is true": {"timestamp": True},
    "timestamp is a text": {"timestamp": str(NOW_MS)},
    "timestamp is beyond all calendars": {"timestamp": 2**64 - 1},
    "pcrs is missing": {"pcrs": None},
    "pcrs is empty": {"pcrs": {}},
    "pcrs is an array": {"pcrs": [ZEROS]},
    "pcrs has 33 registers": {"pcrs": dict.fromkeys(range(33), ZEROS)},
    "pcrs has an index of 32": {"pcrs": {0: ZEROS, 32: ZEROS}},
    "pcrs has a negative index": {"pcrs": {0: ZEROS, -1: ZEROS}},
    "pcrs has a text for an index": {"pcrs": {0: ZEROS, "1": ZEROS}},
    "pcrs has no PCR0": {"pcrs": {1: ZEROS}},
    "a register has 47 bytes": {"pcrs": {0: bytes(47)}},
    "a register is empty": {"pcrs": {0: b""}},
    "a register is a text": {"pcrs": {0: "0" * 48}},
    "certificate is missing": {"certificate": None},
    "certificate is empty": {"certificate": b""},
    "certificate is none": {"certificate": b"no certificate"},
    "certificate is too large": {"certificate": bytes(1025)},
    "cabundle is missing": {"cabundle": None},
    "cabundle is empty": {"cabundle": []},
    "cabundle is bytes": {"cabundle": b"root"},
    "cabundle has an empty entry": {"cabundle": [b""]},
    "cabundle has an entry that is none": {"cabundle": [b"no certificate"]},
    "cabundle has too large an entry": {"cabundle": [bytes(1025)]},
    "cabundle has 17 entries": {"cabundle": [b"\0"] * 17},
    "public_key is empty": {"public_key": b""},
    "public_key is too long": {"public_key": bytes(1025)},
    "user_data is too long": {"user_data": bytes(513)},
    "user_data is a text": {"user_data": "text"},
    "nonce is too long": {"nonce": bytes(513)},
    "a member that AWS does not list": {"nitrotpm_pcrs": {0: ZEROS}},
}


@pytest.mark.parametrize("members", GOOD_MEMBERS.values(), ids=GOOD_MEMBERS)
def test_every_published_shape_is_taken(pki: NitroPki, members: dict[str, Any]) -> None:
    assert verify(pki.issue(request(members=members))).claims is not None


@pytest.mark.parametrize("members", BAD_MEMBERS.values(), ids=BAD_MEMBERS)
def test_every_other_shape_is_refused(pki: NitroPki, members: dict[str, Any]) -> None:
    assert problems(verify(pki.issue(request(members=members)))) == {"document"}


@pytest.mark.parametrize("name", ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"])
def test_a_mandatory_member_cannot_be_left_out(pki: NitroPki, name: str) -> None:
    members = cbor2.loads(parse_sign1(pki.issue(request())).payload)
    del members[name]
    assert problems(verify(pki.sign(cbor.encode(members)))) == {"document"}


def test_optional_members_can_be_left_out(pki: NitroPki) -> None:
    members = cbor2.loads(parse_sign1(pki.issue(request())).payload)
    for name in ("public_key", "user_data", "nonce"):
        del members[name]
    assert verify(pki.sign(cbor.encode(members))).claims is not None


def test_a_payload_that_is_no_map_is_refused(pki: NitroPki) -> None:
    for payload in (b"", b"\x80", b"\xf6", b"\xa0", b"not cbor at all"):
        assert problems(verify(pki.sign(payload))) == {"document"}


def test_a_payload_beyond_the_published_size_is_refused(pki: NitroPki) -> None:
    payload = cbor.encode({"module_id": "i", "filler": bytes(16384)})
    assert problems(verify(pki.sign(payload))) == {"document"}


# COSE


def _repacked(document: bytes, **parts: Any) -> bytes:
    names = ("protected", "unprotected", "payload", "signature")
    given = dict(zip(names, cbor2.loads(document), strict=True)) | parts
    return cbor2.dumps([given[name] for name in names])


@pytest.mark.parametrize(
    "parts",
    [
        {"unprotected": {4: b"key id"}},
        {"unprotected": []},
        {"protected": b""},
        {"protected": b"\xa0"},
        {"protected": cbor2.dumps({1: -7})},
        {"protected": cbor2.dumps({1: -35, 4: b"k"})},
        {"protected": cbor2.dumps({1: -35, 2: [4], 4: b""})},
        {"protected": cbor2.dumps([1, -35])},
        {"protected": {1: -35}},
        {"payload": None},
        {"payload": "text"},
        {"signature": b""},
        {"signature": bytes(95)},
        {"signature": bytes(97)},
        {"signature": None},
    ],
    ids=repr,
)
def test_another_cose_message_is_refused(pki: NitroPki, parts: dict[str, Any]) -> None:
    assert problems(verify(_repacked(pki.issue(request()), **parts))) == {"document"}


@pytest.mark.parametrize(
    "signature", [bytes(96), b"\xff" * 96, bytes(47) + b"\x01" + bytes(47) + b"\x01"], ids=["0", "max", "1"]
)
def test_degenerate_signatures_are_refused(pki: NitroPki, signature: bytes) -> None:
    assert problems(verify(_repacked(pki.issue(request()), signature=signature))) == {"signature"}


def test_a_signature_of_other_fields_is_refused(pki: NitroPki) -> None:
    other = cbor2.loads(pki.issue(request(user_data=b"other")))[3]
    assert problems(verify(_repacked(pki.issue(request()), signature=other))) == {"signature"}


def test_lengths_that_are_not_the_shortest_change_nothing(pki: NitroPki) -> None:
    document = pki.issue(request())
    longer = b"\x98\x04" + document[1:]
    assert verify(longer).claims == verify(document).claims


# Chains


def test_a_foreign_infrastructure_ends_in_an_unknown_root(foreign: NitroPki) -> None:
    assert problems(verify(foreign.issue(request()))) == {"root"}


def test_a_leaf_with_the_bundle_of_another_has_no_chain(pki: NitroPki, foreign: NitroPki) -> None:
    assert problems(verify(foreign.issue(request(cabundle=pki.cabundle)))) == {"chain"}


def test_a_leaf_of_another_infrastructure_did_not_sign(pki: NitroPki, foreign: NitroPki) -> None:
    leaf = pki.leaf(NOW)
    forged = foreign.issue(request(members={"certificate": leaf}, cabundle=pki.cabundle))
    assert problems(verify(forged)) == {"signature"}


def test_the_order_and_surplus_of_the_bundle_does_not_matter(pki: NitroPki, foreign: NitroPki) -> None:
    for bundle in (
        pki.cabundle[::-1],
        (*pki.cabundle[2:], *pki.cabundle[:2]),
        (*foreign.cabundle, *pki.cabundle),
    ):
        assert verify(pki.issue(request(cabundle=bundle))).claims is not None


@pytest.mark.parametrize("lost", range(4), ids=["root", "region", "zone", "instance"])
def test_a_chain_that_is_cut_is_refused_unless_the_collateral_has_the_rest(pki: NitroPki, lost: int) -> None:
    bundle = tuple(der for depth, der in enumerate(pki.cabundle) if depth != lost)
    document = pki.issue(request(cabundle=bundle))
    assert problems(verify(document)) == {"chain"}
    whole = Collateral(certificates=(pki.cabundle[lost],))
    assert verify(document, collateral=whole).claims is not None


def test_a_chain_valid_under_another_known_root_says_which(pki: NitroPki, foreign: NitroPki) -> None:
    anchors = TrustAnchors((foreign.anchor,))
    assert problems(verify(pki.issue(request()), anchors=anchors)) == {"root"}


def test_a_certificate_that_may_not_sign_documents_is_refused(pki: NitroPki) -> None:
    leaf = pki.leaf(NOW, digital_signature=False)
    assert problems(verify(pki.issue(request(members={"certificate": leaf})))) == {"leaf"}


def test_an_authority_cannot_stand_in_for_a_leaf(pki: NitroPki) -> None:
    forged = pki.issue(request(members={"certificate": pki.cabundle[3]}, cabundle=pki.cabundle[:3]))
    assert problems(verify(forged)) == {"signature", "leaf"}


def test_documents_are_judged_at_the_given_time(pki: NitroPki) -> None:
    document = pki.issue(request())
    assert verify(document, as_of=NOW + timedelta(hours=3)).claims is not None
    assert problems(verify(document, as_of=NOW + timedelta(hours=3, seconds=1))) == {"validity"}
    assert problems(verify(document, as_of=NOW - timedelta(seconds=1))) == {"validity"}


def test_a_document_of_the_future_is_refused_beyond_a_small_skew(pki: NitroPki) -> None:
    leaf = pki.leaf(NOW - timedelta(hours=1))
    for seconds, expected in ((299, set()), (301, {"time"})):
        later = request(timestamp_ms=NOW_MS + seconds * 1000, members={"certificate": leaf})
        assert problems(verify(pki.issue(later))) == expected


# Bytes of strangers


def _bombs() -> dict[str, bytes]:
    real = NitroPki().issue(request())
    return {
        "nothing": b"",
        "a byte too few": real[:-1],
        "a byte too many": real + b"\0",
        "twice": real + real,
        "16000 levels of arrays": b"\x81" * 16000 + b"\x00",
        "16000 levels of tags": b"\xc1" * 16000 + b"\x00",
        "16000 levels of maps": b"\xa1\x00" * 8000 + b"\x00",
        "an array that claims 2**62 items": b"\x9b" + (1 << 62).to_bytes(8, "big"),
        "a map that claims 2**63 items": b"\xbb" + (1 << 63).to_bytes(8, "big"),
        "a byte string that claims 2**63 bytes": b"\x5b" + (1 << 63).to_bytes(8, "big"),
        "a text that claims 4 GiB": b"\x7a\xff\xff\xff\xff",
        "10000 empty arrays": b"\x99\x27\x10" + b"\x80" * 10000,
        "10000 pairs": b"\xb9\x27\x10"
        + b"".join(b"\x19" + i.to_bytes(2, "big") + b"\0" for i in range(10000)),
        "indefinite array": b"\x9f\x44\xa1\x01\x38\x22\xff",
        "indefinite byte string": b"\x84\x5f\x44\xa1\x01\x38\x22\xff\xa0\x40\x40",
        "indefinite map": b"\xbf\x01\x02\xff",
        "reserved length": b"\x9c",
        "a break alone": b"\xff",
        "another tag": b"\xd1" + real,
        "tag 18 in another spelling": b"\xd8\x12" + real,
        "a big number": b"\x84\xc2\x49" + b"\xff" * 9 + b"\xa0\x40\x40",
        "a regular expression": b"\xd8\x23\x78\x20" + b"(" * 32,
        "a date": b"\xc0\x74" + b"2013-03-21T20:04:00Z",
        "a decimal with a giant exponent": b"\xc4\x82\x1b" + b"\x7f" * 8 + b"\x01",
        "a fraction by zero": b"\xd8\x1e\x82\x01\x00",
        "a cycle of shared values": b"\xd8\x1c\x81\xd8\x1d\x00",
        "string references": b"\xd9\x01\x00\x82\x64aaaa\xd8\x19\x00",
        "not a number": b"\x84\xf9\x7e\x00\xa0\x40\x40",
        "undefined": b"\x84\xf7\xa0\x40\x40",
        "a simple value": b"\x84\xf8\xff\xa0\x40\x40",
        "an integer key twice": b"\x84\x44\xa1\x01\x38\x22\xa2\x01\x02\x01\x03\x40\x40",
        "an integer key twice, spelled differently": b"\x84\x40\xa2\x01\x02\x18\x01\x03\x40\x40",
        "an array as a key": b"\xa1\x80\x00",
        "a map as a key": b"\xa1\xa0\x00",
        "a byte string as a key": b"\xa1\x40\x00",
        "a float as a key": b"\xa1\xf9\x3c\x00\x00",
        "true as a key": b"\xa1\xf5\x00",
        "text that is no UTF-8": b"\x84\x62\xff\xfe\xa0\x40\x40",
        "larger than any document": real + bytes(20 * 1024),
    }


@pytest.mark.parametrize("bomb", _bombs().values(), ids=_bombs())
def test_cbor_bombs_are_refused_cheaply(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(EvidenceError):
            parse_sign1(bomb)
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()
    with pytest.raises(EvidenceError):
        parse_document(bomb)
    assert problems(verify(bomb)) == {"document"}


def test_a_duplicate_member_within_the_signed_document_is_refused(pki: NitroPki) -> None:
    payload = parse_sign1(pki.issue(request())).payload
    twice = bytes([payload[0] + 1]) + payload[1:] + cbor.encode("user_data") + cbor.encode(bytes(64))
    assert problems(verify(pki.sign(twice))) == {"document"}


@given(st.binary(max_size=400))
@example(b"\x84" + PROTECTED)
def test_arbitrary_bytes_raise_nothing_but_evidence_errors(data: bytes) -> None:
    for parse in (parse_sign1, parse_document):
        _only_evidence_errors(parse, data)
    assert problems(verify(data)) == {"document"}
    NITRO.detect(data)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.binary(max_size=70) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.integers(-9, 40) | st.text(), inner, max_size=5)
    ),
    max_leaves=12,
)
_NAMES = st.sampled_from(sorted(cbor2.loads(parse_sign1(NitroPki().issue(request())).payload)))


@given(st.dictionaries(_NAMES, _VALUES, min_size=1, max_size=3))
def test_signed_documents_with_arbitrary_members_raise_nothing(members: dict[str, Any]) -> None:
    verification = verify(NitroPki().issue(request(members=members)))
    problems(verification)
    if verification.claims is None:
        assert problems(verification)


@given(st.lists(st.tuples(st.integers(0, 3499), st.binary(min_size=1, max_size=4)), min_size=1, max_size=3))
def test_documents_with_bytes_overwritten_are_refused(edits: list[tuple[int, bytes]]) -> None:
    original = NitroPki().issue(request())
    changed = bytearray(original)
    for position, data in edits:
        changed[position : position + len(data)] = data
    if bytes(changed) != original:
        assert problems(verify(bytes(changed)))


@given(st.integers(0, 700), st.integers(0, 255))
def test_a_signed_document_with_a_damaged_certificate_raises_nothing(position: int, value: int) -> None:
    pki = NitroPki()
    for leaf, bundle in (
        (_overwritten(pki.leaf(NOW), position, value), pki.cabundle),
        (pki.leaf(NOW), (*pki.cabundle[:3], _overwritten(pki.cabundle[3], position, value))),
    ):
        members = {"certificate": leaf, "cabundle": list(bundle)}
        intact = leaf == pki.leaf(NOW) and bundle == pki.cabundle
        assert bool(problems(verify(pki.issue(request(members=members))))) is not intact


def _overwritten(data: bytes, position: int, value: int) -> bytes:
    position %= len(data)
    return data[:position] + bytes([value]) + data[position + 1 :]


def _only_evidence_errors(parse: Callable[[bytes], object], data: bytes) -> None:
    try:
        parse(data)
    except EvidenceError:
        return


def test_the_format_is_registered() -> None:
    assert FORMATS["nitro"] is NITRO
    assert NITRO.proof_data_type == "TEE-NITRO"
