"""SEV-SNP reports: AMD's own, the simulator's of every version and product, and everything that must be refused."""

import contextlib
import hashlib
import struct
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from avalon_core.attestation.chains import load_certificate, load_pem_chain, verify_chain
from avalon_core.attestation.checks import Verdict, Verification, overall
from avalon_core.attestation.claims import Claims, Tee
from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral, SnpCollateral
from avalon_core.attestation.evidence import MAX_CERTIFICATE_BYTES, Evidence
from avalon_core.attestation.formats import FORMATS
from avalon_core.attestation.known_roots import AMD_GENOA, AMD_MILAN, AMD_TURIN, VENDOR_ROOTS
from avalon_core.attestation.roots import TrustAnchor, TrustAnchors
from avalon_core.attestation.snp import SNP, Product, SigningKey, parse_report
from avalon_core.attestation.snp.certificates import (
    AMD_OID,
    CSP_ID_OID,
    HWID_OID,
    PRODUCT_NAME_OID,
    SPL_OIDS,
    is_key_certificate,
    parse_certificate_table,
    read_key_certificate,
)
from avalon_core.attestation.snp.products import (
    decode_tcb,
    encode_tcb,
    product_of_cpuid,
    product_of_name,
    tcb_components,
)
from avalon_core.attestation.snp.report import HOST_VMPL, REPORT_BYTES, SIGNED_BYTES
from avalon_core.errors import EvidenceError
from avalon_core.simulator.seeds import Seed
from avalon_core.simulator.snp import IssuedReport, ReportFields, SimulatedAmd, report_body, sign_body

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
TURIN_DAY = datetime(2025, 6, 1, tzinfo=UTC)
GOOGLE = Path("evidence") / "sev-snp" / "google-go-sev-guest"
VIRTEE = Path("evidence") / "sev-snp" / "virtee-sev"
AZURE = Path("evidence") / "azure-vtpm" / "kinvolk-azure-cvm-tooling"

RSA_4096_BYTES = 512

every_product = pytest.mark.parametrize("product", list(Product))
every_version = pytest.mark.parametrize("version", [2, 3, 4, 5])


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A report of INDEX.md with the certificates beside it."""

    name: str
    report: bytes
    certificates: tuple[bytes, ...]


def ders(pem: bytes) -> tuple[bytes, ...]:
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in load_pem_chain(pem))


def milan_sample(vectors: Path) -> Sample:
    folder = vectors / VIRTEE
    return Sample(
        name="virtee milan",
        report=bytes.fromhex((folder / "report_milan.hex").read_text()),
        certificates=(
            (folder / "vcek_milan.der").read_bytes(),
            *ders((folder / "cert_chain_milan").read_bytes()),
        ),
    )


def google_sample(vectors: Path) -> Sample:
    folder = vectors / GOOGLE
    return Sample(
        name="google milan",
        report=(folder / "attestation.bin").read_bytes(),
        certificates=(
            (folder / "vcek.testcer").read_bytes(),
            *ders((folder / "milan.testcer").read_bytes()),
        ),
    )


@pytest.fixture
def milan(shared_vectors: Path) -> Sample:
    return milan_sample(shared_vectors)


@pytest.fixture
def google(shared_vectors: Path) -> Sample:
    return google_sample(shared_vectors)


@pytest.fixture(scope="module")
def amd() -> SimulatedAmd:
    return SimulatedAmd(Product.GENOA)


def simulated_roots(*vendors: SimulatedAmd) -> TrustAnchors:
    known = vendors or [SimulatedAmd(product) for product in Product]
    return VENDOR_ROOTS.with_more([vendor.anchor for vendor in known])


def verify(
    report: bytes,
    certificates: Sequence[bytes] = (),
    *,
    anchors: TrustAnchors = VENDOR_ROOTS,
    as_of: datetime = NOW,
    grace: timedelta = timedelta(0),
    collateral: Collateral = NO_COLLATERAL,
    attachments: dict[str, bytes] | None = None,
) -> Verification:
    evidence = Evidence(
        format="snp", document=report, certificates=tuple(certificates), attachments=attachments or {}
    )
    return SNP.verify(evidence, anchors=anchors, collateral=collateral, as_of=as_of, grace=grace)


def verify_issued(issued: IssuedReport, **options: Any) -> Verification:
    return verify(issued.report, issued.certificates, **({"anchors": simulated_roots()} | options))


def problems(verification: Verification) -> set[str]:
    """The names of the checks that did not pass; claims only where there are none."""
    assert (verification.claims is not None) == (overall(verification.checks) is Verdict.PASSED)
    return {check.name for check in verification.checks if check.verdict is not Verdict.PASSED}


def verdict_of(verification: Verification, name: str) -> Verdict:
    (check,) = [check for check in verification.checks if check.name == name]
    return check.verdict


def claims_of(verification: Verification) -> Claims:
    assert problems(verification) == set()
    assert verification.claims is not None
    return verification.claims


def flipped(data: bytes, position: int, mask: int) -> bytes:
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


# AMD's own reports


def test_a_report_of_milan_verifies(milan: Sample) -> None:
    claims = claims_of(verify(milan.report, milan.certificates))
    assert (claims.tee, claims.format) == (Tee.SNP, "SNP report v2")
    assert (claims.root, claims.simulated) == ("amd-milan", False)
    assert claims.measurement == (
        "7a1e5c266c0108dbc9bb94fa926951320940915d0aafb42464bd88b579ea158d3e1a0dc39b2c60bd95b9c480cd81841f"
    )
    assert not claims.debug
    assert claims.svn == 0
    assert claims.attributes["policy"] == "0000000000030000"
    assert claims.attributes["vmpl"] == "0"
    assert claims.attributes["product_name"] == "Milan-B0"
    assert claims.attributes["signing_key"] == "vcek"
    assert "cpuid_family" not in claims.attributes
    for prefix in ("", "current_"):
        found = {name: claims.tcb[prefix + name] for name in ("bootloader", "tee", "snp", "microcode")}
        assert found == {"bootloader": "3", "tee": "0", "snp": "8", "microcode": str(0x73)}
    assert claims.tcb_status is None
    assert claims.report_data == milan.report[0x50:0x90]
    assert claims.chip_id == milan.report[0x1A0:0x1E0].hex()
    assert (claims.signer, claims.owner) == (None, None)
    assert claims.collateral_expires == datetime(2030, 4, 3, 19, 23, 43, tzinfo=UTC).timestamp()


def test_a_report_of_a_debug_guest_verifies_and_says_so(google: Sample) -> None:
    claims = claims_of(verify(google.report, google.certificates))
    assert claims.debug
    assert claims.attributes["debug"] == "yes"
    assert claims.attributes["policy"] == "00000000000b0000"
    assert claims.measurement == (
        "b07af9620f3b839b47996422ddec6058338951d984e312115131ea82705eaf5b6bdf8a9ece31a5a608eb0cf2e4872b01"
    )
    assert claims.report_data == bytes([1, 2, 3, 4, 5]).ljust(64, b"\0")
    assert claims.tcb["microcode"] == str(0x44)


@pytest.mark.parametrize("sample", [milan_sample, google_sample])
def test_reports_are_detected(shared_vectors: Path, sample: Callable[[Path], Sample]) -> None:
    report = sample(shared_vectors).report
    assert SNP.detect(report)
    assert [name for name, known in FORMATS.items() if known.detect(report)] == ["snp"]
    for other in (
        report[:-1],
        report + b"\0",
        b"\6" + report[1:],
        report[:0x34] + b"\2" + report[0x35:],
        b"",
    ):
        assert not SNP.detect(other)


@pytest.mark.parametrize(
    ("as_of", "expected"),
    [
        (datetime(2023, 4, 3, 19, 23, 42, tzinfo=UTC), {"validity"}),
        (datetime(2023, 4, 3, 19, 23, 43, tzinfo=UTC), set()),
        (datetime(2030, 4, 3, 19, 23, 43, tzinfo=UTC), set()),
        (datetime(2030, 4, 3, 19, 23, 44, tzinfo=UTC), {"validity"}),
    ],
)
def test_certificates_are_judged_as_of_the_time(milan: Sample, as_of: datetime, expected: set[str]) -> None:
    assert problems(verify(milan.report, milan.certificates, as_of=as_of)) == expected


def test_certificates_may_come_in_any_order_and_from_any_place(shared_vectors: Path, milan: Sample) -> None:
    vcek, ask, ark = milan.certificates
    surplus = ders((shared_vectors / GOOGLE / "ask_ark_genoa.pem").read_bytes())
    given = Collateral(snp=(SnpCollateral(certificates=(ark, vcek, *surplus, ask)),))
    assert problems(verify(milan.report, collateral=given)) == set()
    assert problems(verify(milan.report, (*surplus, ark, ask, vcek))) == set()
    assert problems(verify(milan.report, (vcek,), collateral=given)) == set()


def test_the_signing_certificate_is_found_among_others(milan: Sample, google: Sample) -> None:
    everything = (*google.certificates, *milan.certificates)
    for sample in (milan, google):
        assert claims_of(verify(sample.report, everything)).measurement == sample.report[0x90:0xC0].hex()


def test_the_reports_of_azure_do_not_match_the_certificates_beside_them(shared_vectors: Path) -> None:
    envelope = (shared_vectors / AZURE / "hcl-report-snp.bin").read_bytes()
    certificates = ders((shared_vectors / AZURE / "certs.pem").read_bytes())
    verification = verify(envelope[32 : 32 + REPORT_BYTES], certificates)
    assert problems(verification) == {"chip", "signature"}
    assert verdict_of(verification, "signature") is Verdict.FAILED


# Chains of AMD's own


CHAINS = {
    "ask_ark_milan.pem": (GOOGLE, AMD_MILAN, ["SEV-Milan", "ARK-Milan"]),
    "milan.testcer": (GOOGLE, AMD_MILAN, ["SEV-Milan", "ARK-Milan"]),
    "ask_ark_milan_vlek.pem": (GOOGLE, AMD_MILAN, ["SEV-VLEK-Milan", "ARK-Milan"]),
    "milanvlek.testcer": (GOOGLE, AMD_MILAN, ["SEV-VLEK-Milan", "ARK-Milan"]),
    "ask_ark_genoa.pem": (GOOGLE, AMD_GENOA, ["SEV-Genoa", "ARK-Genoa"]),
    "ask_ark_genoa_vlek.pem": (GOOGLE, AMD_GENOA, ["SEV-VLEK-Genoa", "ARK-Genoa"]),
    "ask_ark_turin_vcek.pem": (GOOGLE, AMD_TURIN, ["SEV-Turin", "ARK-Turin"]),
    "ask_ark_turin_vlek.pem": (GOOGLE, AMD_TURIN, ["SEV-VLEK-Turin", "ARK-Turin"]),
    "cert_chain_milan": (VIRTEE, AMD_MILAN, ["SEV-Milan", "ARK-Milan"]),
    "cert_chain_turin": (VIRTEE, AMD_TURIN, ["SEV-Turin", "ARK-Turin"]),
}
SINGLE = {
    "ark.pem": (AMD_GENOA, "ask.pem"),
    "milan__ark.pem": (AMD_MILAN, "milan__ask.pem"),
    "turin__ark.pem": (AMD_TURIN, "turin__ask.pem"),
}


@pytest.mark.parametrize("name", CHAINS)
def test_amd_chains_end_in_known_roots(shared_vectors: Path, name: str) -> None:
    folder, anchor, names = CHAINS[name]
    issuer, root = load_pem_chain((shared_vectors / folder / name).read_bytes())
    chain = verify_chain(issuer, [root], anchors=VENDOR_ROOTS, as_of=NOW)
    assert overall(chain.checks) is Verdict.PASSED
    assert chain.anchor == anchor
    assert [c.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value for c in chain.path] == names


@pytest.mark.parametrize("name", SINGLE)
def test_amd_roots_and_their_issuers_apart(shared_vectors: Path, name: str) -> None:
    anchor, issuer_name = SINGLE[name]
    (root,) = load_pem_chain((shared_vectors / VIRTEE / name).read_bytes())
    (issuer,) = load_pem_chain((shared_vectors / VIRTEE / issuer_name).read_bytes())
    assert hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest() == anchor.sha256
    assert verify_chain(issuer, [root], anchors=VENDOR_ROOTS, as_of=NOW).anchor == anchor


def test_a_vcek_of_turin_chains_to_turin(shared_vectors: Path) -> None:
    vcek = load_certificate((shared_vectors / VIRTEE / "vcek_turin.der").read_bytes())
    others = load_pem_chain((shared_vectors / VIRTEE / "cert_chain_turin").read_bytes())
    chain = verify_chain(vcek, others, anchors=VENDOR_ROOTS, as_of=TURIN_DAY)
    assert overall(chain.checks) is Verdict.PASSED
    assert chain.anchor == AMD_TURIN
    early = verify_chain(vcek, others, anchors=VENDOR_ROOTS, as_of=datetime(2024, 11, 6, tzinfo=UTC))
    assert overall(early.checks) is Verdict.FAILED
    key = read_key_certificate(vcek)
    assert (key.kind, key.product, key.product_name) == (SigningKey.VCEK, Product.TURIN, "Turin")
    assert key.chip_id == bytes.fromhex("1e550a8ee5cf9f4d").ljust(64, b"\0")
    assert decode_tcb(key.tcb, key.product) == {
        "fmc": 0, "bootloader": 0, "tee": 0, "snp": 0, "microcode": 9,
    }  # fmt: skip


def test_a_certificate_of_turin_does_not_serve_milan(shared_vectors: Path, milan: Sample) -> None:
    turin = (shared_vectors / VIRTEE / "vcek_turin.der").read_bytes()
    chain = ders((shared_vectors / VIRTEE / "cert_chain_turin").read_bytes())
    found = problems(verify(milan.report, (turin, *chain), as_of=TURIN_DAY))
    assert found == {"product", "chip", "platform tcb", "signature"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ask_ark_genoa.pem", {"chain"}),
        ("ask_ark_milan_vlek.pem", {"chain"}),
        ("ask_ark_turin_vcek.pem", {"chain"}),
    ],
)
def test_another_chain_is_refused(shared_vectors: Path, milan: Sample, name: str, expected: set[str]) -> None:
    other = ders((shared_vectors / GOOGLE / name).read_bytes())
    verification = verify(milan.report, (milan.certificates[0], *other))
    assert problems(verification) == expected


@pytest.mark.parametrize("kept", [(0,), (0, 1), (0, 2)])
def test_a_cut_chain_cannot_be_checked(milan: Sample, kept: tuple[int, ...]) -> None:
    verification = verify(milan.report, [milan.certificates[i] for i in kept])
    assert problems(verification) == {"chain"}
    assert verdict_of(verification, "chain") is Verdict.COULD_NOT_CHECK


def test_without_certificates_it_cannot_be_checked(milan: Sample) -> None:
    for certificates in ((), milan.certificates[1:]):
        verification = verify(milan.report, certificates)
        assert problems(verification) == {"key certificate"}
        assert verdict_of(verification, "key certificate") is Verdict.COULD_NOT_CHECK


def test_a_root_that_is_not_known_is_refused(milan: Sample) -> None:
    only_genoa = TrustAnchors((AMD_GENOA,))
    assert problems(verify(milan.report, milan.certificates, anchors=only_genoa)) == {"root"}


# Every byte counts


def test_no_byte_of_a_report_can_be_changed(milan: Sample) -> None:
    accepted = [
        position
        for position in range(REPORT_BYTES)
        if verify(flipped(milan.report, position, 1 << position % 8), milan.certificates).claims is not None
    ]
    assert accepted == []


@pytest.mark.parametrize("which", [0, 1, 2], ids=["VCEK", "ASK", "ARK"])
@pytest.mark.parametrize("mask", [None, 1])
def test_no_byte_of_a_certificate_can_be_changed(milan: Sample, which: int, mask: int | None) -> None:
    """But the count of unused bits in a signature, which no signature covers: where the last bits are zero anyway, it may
    say so. Whatever is signed, and the signature's own bytes, stay the same."""
    der = milan.certificates[which]
    accepted = []
    for position in range(len(der)):
        changed = list(milan.certificates)
        changed[which] = flipped(der, position, mask or 1 << position % 8)
        if verify(milan.report, changed).claims is not None:
            accepted.append(position)
            assert content_of(changed[which]) == content_of(der)
    unused_bits = len(der) - RSA_4096_BYTES - 1
    assert accepted in ([], [unused_bits])
    assert not accepted or which != 2


def content_of(der: bytes) -> tuple[bytes, bytes]:
    certificate = load_certificate(der)
    return certificate.tbs_certificate_bytes, certificate.signature


def test_nothing_can_be_put_behind_a_signature(milan: Sample) -> None:
    for position in (SIGNED_BYTES + 144, REPORT_BYTES - 1):
        assert problems(verify(flipped(milan.report, position, 1), milan.certificates)) == {"document"}


def test_numbers_of_a_signature_have_to_be_in_range(milan: Sample) -> None:
    order = ec.SECP384R1().group_order
    r, s = parse_report(milan.report).signature
    for other_r, other_s in ((0, s), (r, 0), (r + order, s), (r, s + order), (r, 2**576 - 1)):
        numbers = other_r.to_bytes(72, "little") + other_s.to_bytes(72, "little")
        report = milan.report[:SIGNED_BYTES] + numbers.ljust(512, b"\0")
        assert problems(verify(report, milan.certificates)) == {"signature"}


# The simulator's reports: versions, products and keys that no sample at hand has


@every_product
@every_version
def test_every_version_of_every_product_verifies(product: Product, version: int) -> None:
    vendor = SimulatedAmd(product)
    fields = ReportFields(
        version=version,
        measurement=bytes(range(48)),
        report_data=bytes(range(64)),
        host_data=b"h" * 32,
        family_id=b"f" * 16,
        image_id=b"i" * 16,
        guest_svn=7,
    )
    verification = verify_issued(vendor.issue(fields))
    if product is Product.TURIN and version == 2:
        assert problems(verification) == {"product"}
        return
    claims = claims_of(verification)
    assert claims.format == f"SNP report v{version}"
    assert (claims.root, claims.simulated) == (f"simulator-amd-{product.lower()}", True)
    assert claims.measurement == bytes(range(48)).hex()
    assert claims.report_data == bytes(range(64))
    assert claims.config_id == (b"h" * 32).hex()
    assert claims.family_id == (b"f" * 16).hex()
    assert claims.ext_product_id == (b"i" * 16).hex()
    assert claims.svn == 7
    assert claims.chip_id == vendor.default_chip.ljust(64, b"\0").hex()
    assert {name: int(claims.tcb[name]) for name in vendor.default_tcb} == vendor.default_tcb
    assert ("cpuid_family" in claims.attributes) is (version >= 3)
    assert ("launch_mit_vector" in claims.attributes) is (version >= 5)
    assert claims.attributes["unknown_bits"] == "no"


@every_product
def test_a_cloud_providers_key_signs_too(product: Product) -> None:
    vendor = SimulatedAmd(product)
    issued = vendor.issue(
        ReportFields(version=3, signing_key=SigningKey.VLEK, chip_id=bytes(64)), csp_id="cloud.invalid"
    )
    claims = claims_of(verify_issued(issued))
    assert claims.attributes["signing_key"] == "vlek"
    assert claims.attributes["csp_id"] == "cloud.invalid"
    assert claims.attributes["product_name"] == product
    assert claims.chip_id is None
    told = vendor.issue(ReportFields(version=3, signing_key=SigningKey.VLEK))
    assert claims_of(verify_issued(told)).chip_id == vendor.default_chip.ljust(64, b"\0").hex()


def test_every_field_is_told(amd: SimulatedAmd) -> None:
    tcbs = [{"bootloader": n, "tee": n + 1, "snp": n + 2, "microcode": n + 3} for n in (1, 10, 20, 30)]
    fields = ReportFields(
        policy=1 << 24 | 1 << 20 | 1 << 17 | 1 << 16 | 0x0137,
        vmpl=2,
        platform_info=1 << 5 | 1 << 2 | 1,
        author_key_enabled=True,
        id_key_digest=b"\1" * 48,
        author_key_digest=b"\2" * 48,
        report_id=b"\3" * 32,
        report_id_ma=b"\4" * 32,
        reported_tcb=tcbs[0],
        current_tcb=tcbs[1],
        committed_tcb=tcbs[2],
        launch_tcb=tcbs[3],
        cpuid=(0x19, 0xA0, 2),
        current_firmware=(1, 58, 7),
        committed_firmware=(1, 57, 6),
        mitigation_vectors=(0b101, 0b111),
    )
    claims = claims_of(verify_issued(amd.issue(fields)))
    prefixed = zip(("", "current_", "committed_", "launch_"), tcbs, strict=True)
    assert claims.tcb == {
        prefix + name: str(level) for prefix, tcb in prefixed for name, level in tcb.items()
    }
    assert claims.owner == (b"\1" * 48).hex()
    assert claims.signer == (b"\2" * 48).hex()
    assert not claims.debug
    assert claims.attributes == {
        "product": "Genoa",
        "product_name": "Genoa-B0",
        "signing_key": "vcek",
        "vmpl": "2",
        "policy": "0000000001130137",
        "policy_abi": "1.55",
        "platform_info": "0000000000000025",
        "unknown_bits": "no",
        "chip_id_masked": "no",
        "firmware": "1.58.7",
        "committed_firmware": "1.57.6",
        "report_id": (b"\3" * 32).hex(),
        "report_id_ma": (b"\4" * 32).hex(),
        "smt_allowed": "yes",
        "migration_allowed": "no",
        "debug": "no",
        "single_socket": "yes",
        "cxl_allowed": "no",
        "aes_256_xts_required": "no",
        "rapl_disable_required": "no",
        "ciphertext_hiding_required": "yes",
        "page_swap_disabled": "no",
        "smt_enabled": "yes",
        "tsme_enabled": "no",
        "ecc_enabled": "yes",
        "rapl_disabled": "no",
        "ciphertext_hiding_enabled": "no",
        "alias_check_complete": "yes",
        "tio_enabled": "no",
        "cpuid_family": "19",
        "cpuid_model": "a0",
        "cpuid_stepping": "02",
        "launch_mit_vector": "0000000000000005",
        "current_mit_vector": "0000000000000007",
        "revocation": "not checked: no CRL given",
    }


def test_an_author_key_that_was_not_used_signs_nothing(amd: SimulatedAmd) -> None:
    claims = claims_of(verify_issued(amd.issue(ReportFields(author_key_digest=b"\2" * 48))))
    assert claims.signer is None


@pytest.mark.parametrize(
    "fields",
    [
        ReportFields(policy=1 << 40 | 0x30000),
        ReportFields(platform_info=1 << 6),
        ReportFields(version=2, reserved={0x188: b"\x19"}),
        ReportFields(version=4, mitigation_vectors=(1, 0)),
        ReportFields(reserved={0x4C: b"\1"}),
        ReportFields(reserved={0x18B: b"\1"}),
        ReportFields(reserved={0x1EB: b"\1"}),
        ReportFields(reserved={0x1EF: b"\1"}),
        ReportFields(reserved={0x29F: b"\1"}),
        ReportFields(reserved={0x48: b"\x20"}),
    ],
    ids=str,
)
def test_unknown_bits_are_told(amd: SimulatedAmd, fields: ReportFields) -> None:
    assert claims_of(verify_issued(amd.issue(fields))).attributes["unknown_bits"] == "yes"


def test_a_masked_chip_id_is_told_by_its_certificate(amd: SimulatedAmd) -> None:
    claims = claims_of(verify_issued(amd.issue(ReportFields(chip_id=bytes(64)))))
    assert claims.attributes["chip_id_masked"] == "yes"
    assert claims.chip_id == amd.default_chip.hex()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (ReportFields(version=1), {"document"}),
        (ReportFields(version=6), {"document"}),
        (ReportFields(signature_algorithm=2), {"document"}),
        (ReportFields(vmpl=HOST_VMPL), {"requester"}),
        (ReportFields(vmpl=4), {"requester"}),
        (ReportFields(signing_key=SigningKey.NONE), {"key certificate"}),
        (ReportFields(signing_key=2), {"key certificate"}),
        (ReportFields(chip_id=b"\1" * 64), {"chip"}),
        (ReportFields(cpuid=(0x19, 0x01, 1)), {"product"}),
        (ReportFields(cpuid=(0x1A, 0x02, 1)), {"product"}),
        (ReportFields(cpuid=(0x1B, 0x11, 1)), {"product"}),
    ],
    ids=str,
)
def test_what_the_firmware_signed_is_judged_too(
    amd: SimulatedAmd, fields: ReportFields, expected: set[str]
) -> None:
    assert problems(verify_issued(amd.issue(fields))) == expected


def test_a_chip_that_signs_nothing_is_said_to(amd: SimulatedAmd) -> None:
    verification = verify_issued(amd.issue(ReportFields(signing_key=SigningKey.NONE)))
    assert verdict_of(verification, "key certificate") is Verdict.FAILED


def test_the_certificate_of_another_tcb_version_is_refused(amd: SimulatedAmd) -> None:
    issued = amd.issue(ReportFields())
    for component in ("bootloader", "tee", "snp", "microcode", "spl4", "spl7"):
        levels = dict(amd.default_tcb)
        levels[component] = levels.get(component, 0) + 1
        found = problems(
            verify_issued(replace(issued, certificates=(amd.vcek(tcb=levels), amd.ask, amd.ark)))
        )
        assert found == {"platform tcb", "signature"}


def test_the_certificate_of_another_chip_is_refused(amd: SimulatedAmd) -> None:
    issued = amd.issue(ReportFields())
    other = amd.vcek(chip=b"\1" * 64)
    found = problems(verify_issued(replace(issued, certificates=(other, amd.ask, amd.ark))))
    assert found == {"chip", "signature"}


def test_a_masked_chip_id_does_not_let_another_chips_certificate_pass(amd: SimulatedAmd) -> None:
    issued = amd.issue(ReportFields(chip_id=bytes(64)))
    other = amd.vcek(chip=b"\1" * 64)
    found = problems(verify_issued(replace(issued, certificates=(other, amd.ask, amd.ark))))
    assert found == {"signature"}


@pytest.mark.parametrize("signing_key", [SigningKey.VCEK, SigningKey.VLEK])
def test_keys_of_the_other_kind_do_not_serve(amd: SimulatedAmd, signing_key: SigningKey) -> None:
    issued = amd.issue(ReportFields(signing_key=signing_key))
    other = SigningKey.VLEK if signing_key is SigningKey.VCEK else SigningKey.VCEK
    certificates = amd.issue(ReportFields(signing_key=other)).certificates
    found = problems(verify_issued(replace(issued, certificates=certificates)))
    assert found == {"key certificate"}


def test_a_vlek_under_the_issuer_of_vceks_is_cut_off(amd: SimulatedAmd) -> None:
    issued = amd.issue(ReportFields(signing_key=SigningKey.VLEK))
    found = problems(verify_issued(replace(issued, certificates=(issued.certificates[0], amd.ask, amd.ark))))
    assert found == {"chain"}


def test_a_foreign_vendor_of_the_same_names_is_refused(amd: SimulatedAmd) -> None:
    foreign = SimulatedAmd(Product.GENOA, Seed(bytes(32)))
    issued = foreign.issue(ReportFields())
    assert problems(verify_issued(issued)) == {"root"}
    mixed = replace(issued, certificates=(issued.certificates[0], amd.ask, amd.ark))
    assert problems(verify_issued(mixed)) == {"chain"}
    assert problems(verify_issued(issued, anchors=simulated_roots(foreign))) == set()


def test_a_simulator_is_no_vendor(amd: SimulatedAmd) -> None:
    assert problems(verify_issued(amd.issue(ReportFields()), anchors=VENDOR_ROOTS)) == {"root"}


@given(st.integers(0, SIGNED_BYTES - 1), st.integers(1, 255))
def test_no_byte_of_a_simulated_report_can_be_changed(position: int, mask: int) -> None:
    issued = SimulatedAmd(Product.MILAN).issue(ReportFields())
    assert verify_issued(replace(issued, report=flipped(issued.report, position, mask))).claims is None


# Revocation


def revocation_list(vendor: SimulatedAmd, *, revoked: Sequence[bytes] = (), days: int = 30) -> Collateral:
    crl = vendor.crl(
        last_update=NOW - timedelta(days=1), next_update=NOW + timedelta(days=days), revoked=revoked
    )
    return Collateral(snp=(SnpCollateral(certificates=(), crl=crl),))


def test_a_crl_is_checked_where_there_is_one(amd: SimulatedAmd) -> None:
    issued = amd.issue(ReportFields())
    without = verify_issued(issued)
    assert "revocation" not in {check.name for check in without.checks}
    checked = verify_issued(issued, collateral=revocation_list(amd))
    claims = claims_of(checked)
    assert verdict_of(checked, "revocation") is Verdict.PASSED
    assert claims.attributes["revocation"] == "checked"
    assert claims.collateral_expires == (NOW + timedelta(days=30)).timestamp()


@pytest.mark.parametrize("signing_key", [SigningKey.VCEK, SigningKey.VLEK])
def test_a_revoked_issuer_is_refused(amd: SimulatedAmd, signing_key: SigningKey) -> None:
    issued = amd.issue(ReportFields(signing_key=signing_key))
    other = amd.asvk if signing_key is SigningKey.VCEK else amd.ask
    revoked = verify_issued(issued, collateral=revocation_list(amd, revoked=issued.certificates[1:2]))
    assert problems(revoked) == {"revocation"}
    assert problems(verify_issued(issued, collateral=revocation_list(amd, revoked=(other,)))) == set()


def test_an_old_crl_does_not_speak_of_today(amd: SimulatedAmd) -> None:
    issued = amd.issue(ReportFields())
    old = revocation_list(amd, days=0)
    later = NOW + timedelta(hours=1)
    verification = verify_issued(issued, collateral=old, as_of=later)
    assert verdict_of(verification, "revocation") is Verdict.COULD_NOT_CHECK
    assert problems(verify_issued(issued, collateral=old, as_of=later, grace=timedelta(hours=2))) == set()


def test_a_crl_that_the_root_did_not_sign_is_none(amd: SimulatedAmd) -> None:
    forged = revocation_list(SimulatedAmd(Product.GENOA, Seed(bytes(32))))
    verification = verify_issued(amd.issue(ReportFields()), collateral=forged)
    assert verdict_of(verification, "revocation") is Verdict.COULD_NOT_CHECK


def test_the_crl_of_another_product_says_nothing(amd: SimulatedAmd) -> None:
    other = revocation_list(SimulatedAmd(Product.MILAN))
    claims = claims_of(verify_issued(amd.issue(ReportFields()), collateral=other))
    assert claims.attributes["revocation"] == "not checked: no CRL given"


def test_a_crl_may_stand_among_the_further_ones_or_in_the_table(amd: SimulatedAmd) -> None:
    issued = amd.issue(ReportFields())
    (entry,) = revocation_list(amd, revoked=(amd.ask,)).snp
    assert entry.crl is not None
    assert problems(verify_issued(issued, collateral=Collateral(crls=(entry.crl,)))) == {"revocation"}
    attached = table([(GUIDS["CRL"], entry.crl)])
    found = verify_issued(issued, attachments={"certificate_table": attached})
    assert problems(found) == {"revocation"}


def test_a_crl_that_cannot_be_read_is_refused(amd: SimulatedAmd) -> None:
    broken = Collateral(snp=(SnpCollateral(certificates=(), crl=b"none"),))
    assert problems(verify_issued(amd.issue(ReportFields()), collateral=broken)) == {"document"}


# The table of certificates that hosts hand on


GUIDS = {
    "VCEK": "63da758d-e664-4564-adc5-f4b93be8accd",
    "VLEK": "a8074bc2-a25a-483e-aae6-39c045a0b8a1",
    "ASK": "4ab7b379-bbac-4fe4-a02f-05aef327c782",
    "ARK": "c0b406a4-a803-4952-9743-3fb6014cd0ae",
    "CRL": "92f81bc3-5811-4d3d-97ff-d19f88dc67ea",
}
OWN_GUID = "00000000-1111-2222-3333-444444444444"


def table(parts: Sequence[tuple[str, bytes]], *, little_endian: bool = False, end: bool = True) -> bytes:
    offset = 24 * (len(parts) + end)
    header, body = b"", b""
    for guid, part in parts:
        known = uuid.UUID(guid)
        header += (known.bytes_le if little_endian else known.bytes) + struct.pack("<II", offset, len(part))
        offset += len(part)
        body += part
    return header + (bytes(24) if end else b"") + body


@pytest.mark.parametrize("little_endian", [False, True])
def test_certificates_may_come_in_the_hosts_table(milan: Sample, little_endian: bool) -> None:
    vcek, ask, ark = milan.certificates
    blob = table(
        [(OWN_GUID, b"?"), (GUIDS["VCEK"], vcek), (GUIDS["ASK"], ask), (GUIDS["ARK"], ark)],
        little_endian=little_endian,
    )
    assert problems(verify(milan.report, attachments={"certificate_table": blob + bytes(4096)})) == set()


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        bytes(23),
        table([(GUIDS["VCEK"], b"x")], end=False),
        table([(GUIDS["VCEK"], b"x")])[:-1],
        uuid.UUID(GUIDS["ARK"]).bytes + struct.pack("<II", 2**32 - 1, 2**32 - 1) + bytes(24),
        table([(GUIDS["ARK"], bytes(MAX_CERTIFICATE_BYTES + 1))]),
        table([(GUIDS["ARK"], b"x")] * 17),
        table([(OWN_GUID, b"x")] * 40),
    ],
)
def test_a_malformed_table_is_refused(milan: Sample, blob: bytes) -> None:
    with pytest.raises(EvidenceError):
        parse_certificate_table(blob)
    found = verify(milan.report, milan.certificates, attachments={"certificate_table": blob})
    assert problems(found) == {"document"}


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_an_evidence_error(blob: bytes) -> None:
    with contextlib.suppress(EvidenceError):
        parse_certificate_table(blob)


# Certificates of keys: real shapes have RSA above them, and every extension can be wrong


@pytest.fixture(scope="module")
def workshop() -> "Workshop":
    return Workshop()


class Workshop:
    """An AMD with RSA keys that signs with PSS as AMD does, and whatever certificate of a key is asked for."""

    def __init__(self) -> None:
        self.ark_key, self.ask_key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.ark = self._authority("ARK-Milan", self.ark_key, "ARK-Milan", None)
        self.ask = self._authority("SEV-Milan", self.ask_key, "ARK-Milan", 0)
        self.amd = SimulatedAmd(Product.MILAN)
        real = x509.load_der_x509_certificate(self.amd.vcek())
        self.extensions = {
            extension.oid.dotted_string: extension.value.value
            for extension in real.extensions
            if isinstance(extension.value, x509.UnrecognizedExtension)
        }
        digest = hashlib.sha256(self.ark).hexdigest()
        self.anchors = TrustAnchors((TrustAnchor(name="workshop", sha256=digest, simulated=True),))

    def _sign(self, builder: x509.CertificateBuilder, key: Any) -> bytes:
        pss = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
        return builder.sign(key, hashes.SHA384(), rsa_padding=pss).public_bytes(Encoding.DER)

    def _builder(self, subject: str, issuer: str, key: Any) -> x509.CertificateBuilder:
        def name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(issuer))
            .serial_number(1)
            .not_valid_before(NOW - timedelta(days=1))
            .not_valid_after(NOW + timedelta(days=1))
            .public_key(key)
        )

    def _authority(self, subject: str, key: rsa.RSAPrivateKey, issuer: str, length: int | None) -> bytes:
        builder = self._builder(subject, issuer, key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=length), critical=True)
        return self._sign(builder, self.ark_key)

    def vcek(self, key: Any = None, **changed: bytes | None) -> bytes:
        """``changed``: by the last numbers of the OID, ``e3_1``; None leaves one out."""
        changes = {f"{AMD_OID}.{name[1:].replace('_', '.')}": value for name, value in changed.items()}
        builder = self._builder("SEV-VCEK", "SEV-Milan", (key or self.key).public_key())
        for oid, value in (self.extensions | changes).items():
            if value is not None:
                extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
                builder = builder.add_extension(extension, critical=False)
        return self._sign(builder, self.ask_key)

    def verify(self, vcek: bytes, *more: bytes, key: Any = None, **fields: Any) -> Verification:
        body = report_body(
            ReportFields(**fields),
            product=Product.MILAN,
            chip=self.amd.default_chip,
            tcb=self.amd.default_tcb,
        )
        report = body + sign_body(body, key or self.key)
        return verify(report, (vcek, *more, self.ask, self.ark), anchors=self.anchors)


def test_the_workshops_certificates_verify(workshop: Workshop) -> None:
    assert problems(workshop.verify(workshop.vcek())) == set()


@pytest.mark.parametrize(
    "changed",
    [
        {"e2": None},
        {"e2": b"\x16\x05Milan"[:-1]},
        {"e2": b"\x16\x00"},
        {"e2": b"\x16\x06Venice"},
        {"e2": b"\x16\x05Turin"},
        {"e3_1": None},
        {"e3_2": None},
        {"e3_3": None},
        {"e3_8": None},
        {"e3_1": b"\x02\x01\x80"},
        {"e3_1": b"\x02\x02\x01\x00"},
        {"e3_1": b"\x02\x02\x00\x04"},
        {"e3_1": b"\x02\x09" + b"\x7f" * 9},
        {"e3_1": b"\x04\x01\x04"},
        {"e3_1": b""},
        {"e3_9": b"\x02\x01\x00"},
        {"e4": bytes(63)},
        {"e4": bytes(8)},
        {"e4": b""},
        {"e5": b"\x16\x01x"},
    ],
    ids=str,
)
def test_a_malformed_key_certificate_is_refused(workshop: Workshop, changed: dict[str, Any]) -> None:
    vcek = workshop.vcek(**changed)
    assert is_key_certificate(load_certificate(vcek))
    with pytest.raises(EvidenceError):
        read_key_certificate(load_certificate(vcek))
    assert problems(workshop.verify(vcek)) == {"key certificate"}


def test_a_malformed_certificate_beside_a_good_one_does_no_harm(workshop: Workshop) -> None:
    assert problems(workshop.verify(workshop.vcek(e2=None), workshop.vcek())) == set()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"e2": b"\x16\x08Genoa-B1"}, {"product"}),
        ({"e3_1": b"\x02\x01\x05"}, {"platform tcb"}),
        ({"e3_4": b"\x02\x01\x01"}, {"platform tcb"}),
        ({"e4": b"\1" * 64}, {"chip"}),
        ({"e4": None, "e5": b"\x16\x01x"}, {"key certificate"}),
    ],
    ids=str,
)
def test_a_certificate_of_something_else_is_refused(
    workshop: Workshop, changed: dict[str, Any], expected: set[str]
) -> None:
    assert problems(workshop.verify(workshop.vcek(**changed))) == expected


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP521R1())]
)
def test_keys_of_another_curve_are_refused(workshop: Workshop, key: ec.EllipticCurvePrivateKey) -> None:
    assert problems(workshop.verify(workshop.vcek(key=key))) == {"signature"}


def test_a_key_that_is_no_curves_is_refused(workshop: Workshop) -> None:
    assert problems(workshop.verify(workshop.vcek(key=workshop.ask_key))) == {"signature"}


def test_an_issuer_of_the_other_name_is_refused(workshop: Workshop) -> None:
    vlek = workshop.vcek(e4=None, e5=b"\x16\x01x")
    found = problems(workshop.verify(vlek, signing_key=SigningKey.VLEK))
    assert found == {"product"}


def test_oids_are_those_of_real_certificates(shared_vectors: Path) -> None:
    for name, fmc in (("vcek_milan.der", False), ("vcek_turin.der", True)):
        real = load_certificate((shared_vectors / VIRTEE / name).read_bytes())
        oids = {extension.oid.dotted_string for extension in real.extensions}
        assert {PRODUCT_NAME_OID, HWID_OID, SPL_OIDS["bootloader"], SPL_OIDS["microcode"]} <= oids
        assert (SPL_OIDS["fmc"] in oids) is fmc
        assert CSP_ID_OID not in oids


# Products


def test_cpus_and_names_of_products() -> None:
    assert product_of_cpuid(0x19, 0x01) is Product.MILAN
    assert product_of_cpuid(0x19, 0x11) is product_of_cpuid(0x19, 0xA0) is Product.GENOA
    assert product_of_cpuid(0x1A, 0x02) is product_of_cpuid(0x1A, 0x11) is Product.TURIN
    assert product_of_cpuid(0x19, 0x20) is product_of_cpuid(0x17, 0x01) is None
    assert product_of_name("Milan-B1") is Product.MILAN
    assert product_of_name("Turin") is Product.TURIN
    assert product_of_name("Milano") is product_of_name("") is None


@every_product
@given(raw=st.binary(min_size=8, max_size=8))
def test_tcb_versions_come_back(product: Product, raw: bytes) -> None:
    levels = dict(zip(tcb_components(product), raw, strict=True))
    assert encode_tcb(levels, product) == raw
    told = decode_tcb(raw, product)
    assert {name: levels[name] for name in told} == told


def test_tcb_layouts() -> None:
    """As in real reports: 0300000000000873 of Milan; Turin starts with the FMC."""
    milan = decode_tcb(bytes.fromhex("0300000000000873"), Product.MILAN)
    assert milan == {"bootloader": 3, "tee": 0, "snp": 8, "microcode": 0x73}
    turin = decode_tcb(bytes.fromhex("0102030400000051"), Product.TURIN)
    assert turin == {"fmc": 1, "bootloader": 2, "tee": 3, "snp": 4, "microcode": 0x51}
    with pytest.raises(ValueError, match="no TCB components"):
        encode_tcb({"fmc": 1}, Product.GENOA)


# The simulator itself


@every_product
def test_the_simulator_makes_equal_bytes_of_equal_seeds(product: Product) -> None:
    made = [SimulatedAmd(product, Seed(b"\7" * 32)) for _ in range(2)]
    for signing_key in (SigningKey.VCEK, SigningKey.VLEK):
        first, second = (vendor.issue(ReportFields(signing_key=signing_key)) for vendor in made)
        assert first == second
    assert made[0].anchor == made[1].anchor
    assert made[0].anchor.simulated
    assert made[0].ark != SimulatedAmd(product).ark
    crls = [vendor.crl(last_update=NOW, next_update=NOW + timedelta(days=1)) for vendor in made]
    assert crls[0] == crls[1]


@every_product
def test_every_name_of_the_simulator_says_so(product: Product) -> None:
    vendor = SimulatedAmd(product)
    for der in (vendor.vcek(), vendor.vlek(), vendor.ask, vendor.asvk, vendor.ark):
        certificate = load_certificate(der)
        for name in (certificate.subject, certificate.issuer):
            text = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
            assert isinstance(text, str)
            assert text.startswith("SIMULATED ")


def test_published_roots_of_the_simulator() -> None:
    assert {product: SimulatedAmd(product).anchor.sha256 for product in Product} == {
        "Milan": "9641a721317c3f0c09693d2fbd63f7e082626dd4288bcaf35cc49ae34a90c422",
        "Genoa": "7ad28b4de875d2c5243058c504584b64a8837416df7ed3ff8730d9980610a9b3",
        "Turin": "3228b1d4894255deca0873350a206166ff53d1cd57167ce20ead604fba9c7b7f",
    }


# Anything at all


def test_reports_of_another_size_are_refused(milan: Sample) -> None:
    for report in (b"", milan.report[:-1], milan.report + b"\0", bytes(REPORT_BYTES)):
        assert problems(verify(report, milan.certificates)) == {"document"}


def test_certificates_that_are_none_are_refused(milan: Sample) -> None:
    assert problems(verify(milan.report, (*milan.certificates, b"none"))) == {"document"}


@given(st.binary(max_size=64) | st.binary(min_size=REPORT_BYTES, max_size=REPORT_BYTES))
def test_any_bytes_are_a_report_or_an_evidence_error(document: bytes) -> None:
    for candidate in (document, b"\3\0\0\0" + document[4:0x34] + b"\1\0\0\0" + document[0x38:]):
        with contextlib.suppress(EvidenceError):
            parse_report(candidate)
        assert verify(candidate).claims is None


@given(st.data())
def test_damaged_certificates_raise_nothing(data: st.DataObject) -> None:
    issued = SimulatedAmd(Product.TURIN).issue(ReportFields())
    certificates = [bytearray(der) for der in issued.certificates]
    for _ in range(data.draw(st.integers(1, 4))):
        certificate = data.draw(st.sampled_from(certificates))
        certificate[data.draw(st.integers(0, len(certificate) - 1))] = data.draw(st.integers(0, 255))
    damaged = tuple(bytes(der) for der in certificates)
    found = verify_issued(replace(issued, certificates=damaged))
    assert found.claims is None or damaged == issued.certificates
