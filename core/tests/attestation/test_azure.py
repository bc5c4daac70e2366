"""Azure's envelope: real HCL reports, and envelopes of our own around simulated SNP reports and TD quotes."""

import base64
import contextlib
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from avalon_core.attestation.azure import (
    AZURE,
    HclEnvelope,
    ReportKind,
    looks_like_envelope,
    parse_envelope,
    parse_statement,
)
from avalon_core.attestation.azure.envelope import HEADER, MAX_STATEMENT_BYTES, RUNTIME_HEADER, SLOT_BYTES
from avalon_core.attestation.azure.tdreport import body_of_quote, quote_body_of, report_data_of
from avalon_core.attestation.azure.vtpm import verify_vtpm
from avalon_core.attestation.chains import load_pem_chain
from avalon_core.attestation.checks import Verdict, Verification, overall
from avalon_core.attestation.claims import Claims, Tee
from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral, SnpCollateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.formats import FORMATS
from avalon_core.attestation.known_roots import VENDOR_ROOTS
from avalon_core.attestation.roots import TrustAnchor, TrustAnchors
from avalon_core.attestation.snp import Product
from avalon_core.attestation.tpm.pcrs import encode_pcrs
from avalon_core.attestation.tpm.structures import BankSelection, encode_selection
from avalon_core.errors import EvidenceError
from avalon_core.simulator.intel import IntelSimulator
from avalon_core.simulator.intel_tcb import validity_at
from avalon_core.simulator.quotes import TdReport
from avalon_core.simulator.snp import ReportFields, SimulatedAmd

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
SAMPLES = Path("evidence") / "azure-vtpm" / "kinvolk-azure-cvm-tooling"
TD_SAMPLES = Path("evidence") / "tdx"
USER_DATA = bytes(range(64))
QUALIFYING = hashlib.sha256(b"keys and nonce").digest()
PCRS = {number: hashlib.sha256(bytes([number])).digest() for number in range(24)}


# Azure's own


@pytest.fixture
def samples(shared_vectors: Path) -> Path:
    return shared_vectors / SAMPLES


def ders(pem: bytes) -> tuple[bytes, ...]:
    return tuple(c.public_bytes(serialization.Encoding.DER) for c in load_pem_chain(pem))


def problems(verification: Verification) -> set[str]:
    """The names of the checks that did not pass; claims only where there are none."""
    assert (verification.claims is not None) == (overall(verification.checks) is Verdict.PASSED)
    return {check.name for check in verification.checks if check.verdict is not Verdict.PASSED}


def verdict_of(verification: Verification, name: str) -> Verdict:
    (check,) = [check for check in verification.checks if check.name == name]
    return check.verdict


def verify(document: bytes, *, anchors: TrustAnchors = VENDOR_ROOTS, **parts: Any) -> Verification:
    collateral = parts.pop("collateral", NO_COLLATERAL)
    evidence = Evidence(format="azure", document=document, **parts)
    return AZURE.verify(evidence, anchors=anchors, collateral=collateral, as_of=NOW)


@pytest.mark.parametrize(
    ("name", "kind"), [("hcl-report-snp.bin", ReportKind.SNP), ("hcl-report-tdx.bin", ReportKind.TDX)]
)
def test_azures_own_reports_cover_their_statements(samples: Path, name: str, kind: ReportKind) -> None:
    document = (samples / name).read_bytes()
    assert [known for known, format_ in FORMATS.items() if format_.detect(document)] == ["azure"]
    envelope = parse_envelope(document)
    assert envelope.kind is kind
    assert envelope.expected_report_data == hashlib.sha256(envelope.statement).digest().ljust(64, b"\0")
    statement = parse_statement(envelope.statement)
    assert statement.attestation_key.key_size == 2048
    assert statement.configuration["tpm_enabled"] == "yes"
    assert statement.configuration["secure_boot"] == ("yes" if kind is ReportKind.SNP else "no")
    assert statement.user_data == (None if kind is ReportKind.SNP else bytes(64))


def test_azures_own_snp_report_is_refused_with_the_certificates_beside_it(samples: Path) -> None:
    document = (samples / "hcl-report-snp.bin").read_bytes()
    certificates = ders((samples / "certs.pem").read_bytes())
    verification = verify(document, certificates=certificates)
    assert problems(verification) == {"chip", "signature"}
    assert verdict_of(verification, "statement") is Verdict.PASSED
    as_collateral = Collateral(snp=(SnpCollateral(certificates=certificates),))
    assert problems(verify(document, collateral=as_collateral)) == {"chip", "signature"}


def test_azures_own_snp_report_cannot_be_checked_without_certificates(samples: Path) -> None:
    verification = verify((samples / "hcl-report-snp.bin").read_bytes())
    assert problems(verification) == {"key certificate"}
    assert verdict_of(verification, "key certificate") is Verdict.COULD_NOT_CHECK
    assert verdict_of(verification, "statement") is Verdict.PASSED


def test_azures_own_tdreport_cannot_be_checked_without_a_quote(samples: Path) -> None:
    verification = verify((samples / "hcl-report-tdx.bin").read_bytes())
    assert problems(verification) == {"td report"}
    assert verdict_of(verification, "td report") is Verdict.COULD_NOT_CHECK
    assert verdict_of(verification, "statement") is Verdict.PASSED


def test_azures_own_tdreport_is_not_the_quote_of_another_domain(samples: Path, shared_vectors: Path) -> None:
    document = (samples / "hcl-report-tdx.bin").read_bytes()
    quote = (shared_vectors / TD_SAMPLES / "phala-network-dcap-qvl" / "tdx_quote").read_bytes()
    verification = verify(document, attachments={"td_quote": quote})
    assert "td report" in problems(verification)
    assert verdict_of(verification, "td report") is Verdict.FAILED


def test_azures_own_statement_apart_is_read(samples: Path) -> None:
    statement = parse_statement((samples / "var-data.bin").read_bytes())
    assert statement.user_data == bytes(64)
    assert statement.configuration["vm_unique_id"] == "3404EF27-32A2-4A07-A4C7-1A1171624C5D"


def bincode_quote(data: bytes) -> tuple[bytes, bytes, list[bytes]]:
    """Signature, message and PCR values of the sample: lengths of 8 bytes, little endian, before each."""
    position = 0

    def number() -> int:
        nonlocal position
        position += 8
        return int.from_bytes(data[position - 8 : position], "little")

    def take(size: int) -> bytes:
        nonlocal position
        position += size
        return data[position - size : position]

    signature, message = take(number()), take(number())
    values = [take(32) for _ in range(number())]
    assert position == len(data)
    return signature, message, values


def as_tpmt(signature: bytes) -> bytes:
    return struct.pack(">HHH", 0x0014, 0x000B, len(signature)) + signature


def test_azures_own_tpm_quote_verifies_under_its_key(samples: Path) -> None:
    signature, message, values = bincode_quote((samples / "quote.bin").read_bytes())
    key = serialization.load_pem_public_key((samples / "akpub.pem").read_bytes())
    assert isinstance(key, rsa.RSAPublicKey)
    pcrs = {"sha256": dict(enumerate(values))}
    attachments = {
        "tpm_quote": message,
        "tpm_signature": as_tpmt(signature),
        "pcrs": encode_pcrs(pcrs),
    }
    checks, quote = verify_vtpm(attachments, key)
    assert [(check.name, check.verdict) for check in checks] == [
        ("tpm quote", Verdict.PASSED),
        ("tpm signature", Verdict.PASSED),
        ("pcrs", Verdict.PASSED),
    ]
    assert quote is not None
    assert quote.qualifying_data == b"challenge"
    assert quote.registers == {f"pcr{number}": value.hex() for number, value in enumerate(values)}
    other = parse_statement((samples / "var-data.bin").read_bytes()).attestation_key
    checks, quote = verify_vtpm(attachments, other)
    assert quote is None
    assert [check.name for check in checks if check.verdict is Verdict.FAILED] == ["tpm signature"]


# Envelopes of our own


@cache
def tpm_key(number: int = 0) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def jwk(key: rsa.RSAPublicKey, **changed: Any) -> dict[str, Any]:
    def base64url(value: int) -> str:
        raw = value.to_bytes((value.bit_length() + 7) // 8, "big")
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    numbers = key.public_numbers()
    return {
        "kid": "HCLAkPub",
        "key_ops": ["sign"],
        "kty": "RSA",
        "e": base64url(numbers.e),
        "n": base64url(numbers.n),
        **changed,
    }


def statement_text(**changed: Any) -> bytes:
    members = {
        "keys": [jwk(tpm_key().public_key()), {"kid": "HCLEkPub", "kty": "RSA", "e": "AQAB", "n": "x"}],
        "vm-configuration": {
            "console-enabled": True,
            "secure-boot": True,
            "tpm-enabled": True,
            "vmUniqueId": "D270E56B",
            "nested": {"not": "told"},
        },
        "user-data": USER_DATA.hex(),
    }
    return json.dumps(
        {name: value for name, value in (members | changed).items() if value is not None}
    ).encode()


def hcl(kind: int, report: bytes, statement: bytes, *, hash_kind: int = 1) -> bytes:
    size = HEADER.size + SLOT_BYTES + RUNTIME_HEADER.size + len(statement)
    header = HEADER.pack(b"HCLA", 2, size, 2, 0, b"")
    runtime = RUNTIME_HEADER.pack(RUNTIME_HEADER.size + len(statement), 1, kind, hash_kind, len(statement))
    return header + report.ljust(SLOT_BYTES, b"\0") + runtime + statement


def report_data_for(statement: bytes, hash_name: str = "sha256") -> bytes:
    return hashlib.new(hash_name, statement).digest().ljust(64, b"\0")


def sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def tpm_attachments(
    extra: bytes = QUALIFYING,
    *,
    key: rsa.RSAPrivateKey | None = None,
    banks: Mapping[str, Mapping[int, bytes]] | None = None,
) -> dict[str, bytes]:
    values = banks if banks is not None else {"sha256": PCRS}
    selection = [BankSelection(bank=bank, pcrs=tuple(sorted(pcrs))) for bank, pcrs in values.items()]
    concatenated = b"".join(values[entry.bank][pcr] for entry in selection for pcr in entry.pcrs)
    quote = b"".join(
        (
            b"\xffTCG\x80\x18",
            sized(b"\x00\x0b" + bytes(32)),
            sized(extra),
            struct.pack(">QIIBQ", 1000, 7, 3, 1, 0),
            encode_selection(selection),
            sized(hashlib.sha256(concatenated).digest()),
        )
    )
    signature = (key or tpm_key()).sign(quote, padding.PKCS1v15(), hashes.SHA256())
    return {"tpm_quote": quote, "tpm_signature": as_tpmt(signature), "pcrs": encode_pcrs(values)}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A simulated confidential VM of Azure."""

    statement: bytes = field(default_factory=statement_text)
    covered: bytes | None = None
    """What the hardware covers; the statement unless told."""

    hash_kind: int = 1
    attachments: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def report_data(self) -> bytes:
        name = {1: "sha256", 2: "sha384", 3: "sha512"}[self.hash_kind]
        return report_data_for(self.statement if self.covered is None else self.covered, name)

    def snp(self) -> "Parts":
        amd = SimulatedAmd(Product.MILAN)
        issued = amd.issue(ReportFields(version=2, measurement=b"\5" * 48, report_data=self.report_data))
        return Parts(
            document=hcl(ReportKind.SNP, issued.report, self.statement, hash_kind=self.hash_kind),
            anchors=VENDOR_ROOTS.with_more([amd.anchor]),
            certificates=issued.certificates,
            attachments=dict(self.attachments),
        )

    def tdx(self, *, version: int = 4) -> "Parts":
        intel = IntelSimulator()
        report = TdReport(mrtd=b"\5" * 48, rtmr0=b"\6" * 48, report_data=self.report_data)
        quote = intel.tdx_quote(report, version=5 if version == 5 else 4)
        document = hcl(
            ReportKind.TDX, tdreport(body_of_quote(quote)), self.statement, hash_kind=self.hash_kind
        )
        anchor = TrustAnchor(name="simulator", sha256=intel.root_sha256, simulated=True)
        return Parts(
            document=document,
            anchors=VENDOR_ROOTS.with_more([anchor]),
            collateral=Collateral(dcap=(intel.collateral("tdx", validity_at(NOW)),)),
            attachments={"td_quote": quote, **self.attachments},
        )


def tdreport(body: bytes) -> bytes:
    """The TDREPORT that a quote's body of 584 bytes comes from; its MAC nobody can check elsewhere."""
    tcb_info = (b"\xff\1" + bytes(6) + body[:120]).ljust(239, b"\0")
    td_info = body[120:520].ljust(512, b"\0")
    mac_part = (
        b"\x81".ljust(32, b"\0")
        + hashlib.sha384(tcb_info).digest()
        + hashlib.sha384(td_info).digest()
        + body[520:]
    )
    return mac_part.ljust(256, b"\0") + tcb_info + bytes(17) + td_info


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Evidence and what it is judged by."""

    document: bytes
    anchors: TrustAnchors
    certificates: tuple[bytes, ...] = ()
    collateral: Collateral = NO_COLLATERAL
    attachments: Mapping[str, bytes] = field(default_factory=dict)

    def verify(self) -> Verification:
        return verify(
            self.document,
            anchors=self.anchors,
            certificates=self.certificates,
            collateral=self.collateral,
            attachments=self.attachments,
        )

    @property
    def claims(self) -> Claims:
        verification = self.verify()
        assert problems(verification) == set()
        assert verification.claims is not None
        return verification.claims

    @property
    def problems(self) -> set[str]:
        return problems(self.verify())


def test_an_snp_machine_verifies() -> None:
    claims = Machine().snp().claims
    assert claims.tee is Tee.SNP
    assert claims.format == "Azure HCL report with SNP report v2"
    assert (claims.root, claims.simulated) == ("simulator-amd-milan", True)
    assert claims.measurement == (b"\5" * 48).hex()
    assert claims.report_data == USER_DATA
    assert claims.registers == {}
    told = {name: value for name, value in claims.attributes.items() if name.startswith("vm_")}
    assert told == {
        "vm_console_enabled": "yes",
        "vm_secure_boot": "yes",
        "vm_tpm_enabled": "yes",
        "vm_unique_id": "D270E56B",
    }
    assert claims.attributes["report_data_from"] == "user-data"
    assert claims.attributes["user_data"] == USER_DATA.hex()
    assert claims.attributes["tee_report_data"] == report_data_for(statement_text()).hex()
    assert claims.attributes["vmpl"] == "0"


@pytest.mark.parametrize("version", [4, 5])
def test_a_tdx_machine_verifies_with_a_quote(version: int) -> None:
    claims = Machine(attachments=tpm_attachments()).tdx(version=version).claims
    assert claims.tee is Tee.TDX
    assert claims.format.startswith("Azure HCL report with TDX quote")
    assert (claims.root, claims.simulated) == ("simulator", True)
    assert claims.measurement == (b"\5" * 48).hex()
    assert claims.report_data == QUALIFYING.ljust(64, b"\0")
    assert claims.registers["rtmr0"] == (b"\6" * 48).hex()
    assert claims.registers["pcr0"] == PCRS[0].hex()


def test_a_tdreport_without_its_quote_proves_nothing() -> None:
    parts = replace(Machine().tdx(), attachments={})
    assert verdict_of(parts.verify(), "td report") is Verdict.COULD_NOT_CHECK
    assert parts.problems == {"td report"}


def test_a_tdreport_with_the_quote_of_another_domain_is_refused() -> None:
    parts = Machine().tdx()
    quote = IntelSimulator().tdx_quote(TdReport(mrtd=b"\7" * 48, report_data=Machine().report_data))
    assert replace(parts, attachments={"td_quote": quote}).problems == {"td report"}


@pytest.mark.parametrize("quote", [b"", b"\4\0", b"\3\0" + bytes(1000), bytes(200_000)])
def test_a_td_quote_that_is_none_is_refused(quote: bytes) -> None:
    assert "td report" in replace(Machine().tdx(), attachments={"td_quote": quote}).problems


def test_a_td_quote_that_does_not_verify_is_refused() -> None:
    parts = Machine().tdx()
    quote = parts.attachments["td_quote"]
    signature_starts = 48 + 584 + 4
    changed = flipped(quote, signature_starts, 1)
    found = replace(parts, attachments={"td_quote": changed}).problems
    assert found
    assert "td report" not in found
    assert replace(parts, anchors=VENDOR_ROOTS).problems
    assert replace(parts, collateral=NO_COLLATERAL).problems


@pytest.mark.parametrize("hash_kind", [1, 2, 3])
def test_each_hash_covers_the_statement(hash_kind: int) -> None:
    assert Machine(hash_kind=hash_kind).snp().claims.report_data == USER_DATA


@pytest.mark.parametrize("kind", ["snp", "tdx"])
def test_a_statement_that_the_hardware_does_not_cover_is_refused(kind: str) -> None:
    forged = statement_text(keys=[jwk(tpm_key(1).public_key())])
    machine = Machine(statement=forged, covered=statement_text(), attachments=tpm_attachments(key=tpm_key(1)))
    parts = machine.snp() if kind == "snp" else machine.tdx()
    assert parts.problems == {"statement"}


def test_what_the_snp_format_refuses_is_refused_here() -> None:
    parts = Machine().snp()
    assert replace(parts, anchors=VENDOR_ROOTS).problems == {"root"}
    assert replace(parts, certificates=()).problems == {"key certificate"}
    assert replace(parts, certificates=parts.certificates[:2]).problems == {"chain"}


# What the guest chose


def test_a_tpm_quote_says_what_the_guest_booted_and_chose() -> None:
    claims = Machine(attachments=tpm_attachments()).snp().claims
    assert claims.report_data == QUALIFYING.ljust(64, b"\0")
    assert claims.attributes["report_data_from"] == "tpm quote"
    assert claims.attributes["user_data"] == USER_DATA.hex()
    assert claims.attributes["tpm_reset_count"] == "7"
    assert claims.registers == {f"pcr{number}": value.hex() for number, value in PCRS.items()}


def test_user_data_does_not_count_beside_a_quote() -> None:
    """Else a good start's quote would lend its PCRs to what a bad one wrote there later."""
    claims = Machine(attachments=tpm_attachments(b"")).snp().claims
    assert claims.report_data == bytes(64)


def test_a_platform_without_user_data_tells_zeros() -> None:
    claims = Machine(statement=statement_text(**{"user-data": None})).snp().claims
    assert claims.report_data == bytes(64)
    assert "user_data" not in claims.attributes


def test_pcr_values_may_be_left_out() -> None:
    attachments = {name: part for name, part in tpm_attachments().items() if name != "pcrs"}
    claims = Machine(attachments=attachments).snp().claims
    assert claims.registers == {}
    assert claims.report_data == QUALIFYING.ljust(64, b"\0")


def test_banks_are_told_apart() -> None:
    banks = {"sha256": {0: PCRS[0]}, "sha384": {0: b"\1" * 48}}
    claims = Machine(attachments=tpm_attachments(banks=banks)).snp().claims
    assert claims.registers == {"pcr0": PCRS[0].hex(), "pcr0_sha384": (b"\1" * 48).hex()}


def with_part(name: str, value: bytes | None) -> dict[str, bytes]:
    parts: dict[str, bytes | None] = {**tpm_attachments(), name: value}
    return {key: part for key, part in parts.items() if part is not None}


@pytest.mark.parametrize(
    ("attachments", "expected", "verdict"),
    [
        (with_part("tpm_quote", None), "tpm quote", Verdict.COULD_NOT_CHECK),
        (with_part("tpm_signature", None), "tpm quote", Verdict.COULD_NOT_CHECK),
        ({"pcrs": tpm_attachments()["pcrs"]}, "tpm quote", Verdict.COULD_NOT_CHECK),
        (with_part("tpm_quote", b""), "tpm quote", Verdict.FAILED),
        (with_part("tpm_signature", b""), "tpm quote", Verdict.FAILED),
        (with_part("pcrs", b"{"), "tpm quote", Verdict.FAILED),
        (tpm_attachments(bytes(65)), "tpm quote", Verdict.FAILED),
        (tpm_attachments(key=tpm_key(1)), "tpm signature", Verdict.FAILED),
        (with_part("pcrs", encode_pcrs({"sha256": PCRS | {4: bytes(32)}})), "pcrs", Verdict.FAILED),
        (with_part("pcrs", encode_pcrs({"sha256": {0: PCRS[0]}})), "pcrs", Verdict.FAILED),
        (with_part("pcrs", b"{}"), "pcrs", Verdict.FAILED),
    ],
)
def test_a_bad_tpm_quote_is_refused(
    attachments: Mapping[str, bytes], expected: str, verdict: Verdict
) -> None:
    parts = Machine(attachments=attachments).snp()
    assert parts.problems == {expected}
    assert verdict_of(parts.verify(), expected) is verdict


def test_each_byte_of_a_tpm_quote_and_its_signature_counts() -> None:
    parts = Machine(attachments=tpm_attachments()).snp()
    key = tpm_key().public_key()
    for name in ("tpm_quote", "tpm_signature"):
        part = parts.attachments[name]
        accepted = [
            position
            for position in range(len(part))
            if verify_vtpm({**parts.attachments, name: flipped(part, position, 1 << position % 8)}, key)[1]
        ]
        assert accepted == []


# Every byte of the envelope counts


def flipped(data: bytes, position: int, mask: int) -> bytes:
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


def test_no_byte_of_an_envelope_can_be_changed() -> None:
    parts = Machine().snp()
    document = parts.document + bytes(8)
    assert replace(parts, document=document).problems == set()
    accepted = [
        position
        for position in range(len(document))
        if replace(parts, document=flipped(document, position, 1 << position % 8)).verify().claims is not None
    ]
    assert accepted == []


def test_no_byte_of_a_tdreport_but_its_mac_can_be_changed() -> None:
    """The MAC, CPUSVN and the valid bits mean nothing elsewhere; everything else is in the quote too."""
    parts = Machine().tdx()
    envelope = parse_envelope(parts.document)
    body = quote_body_of(envelope.report)
    accepted = set()
    for position in range(len(envelope.report)):
        with contextlib.suppress(EvidenceError):
            if quote_body_of(flipped(envelope.report, position, 1 << position % 8)) == body:
                accepted.add(position)
    assert accepted == {*range(1, 32), *range(192, 256), *range(495, 512)}


def test_the_layout_of_a_tdreport_is_that_of_real_ones(samples: Path) -> None:
    """The digests in a real one fit the parts where they are expected."""
    report = parse_envelope((samples / "hcl-report-tdx.bin").read_bytes()).report
    assert quote_body_of(report)[-64:] == report_data_of(report)
    assert quote_body_of(tdreport(quote_body_of(report))) == quote_body_of(report)


@pytest.mark.parametrize(
    "changed",
    [
        b"",
        b"HCLA",
        b"HCLB" + bytes(3000),
        bytes(3000),
        Machine().snp().document[:-1],
        Machine().snp().document + b"\1",
        hcl(ReportKind.SNP, bytes(SLOT_BYTES), b"{}"),
        hcl(1, bytes(SLOT_BYTES), statement_text()),
        hcl(3, bytes(SLOT_BYTES), statement_text()),
        hcl(ReportKind.TDX, bytes(SLOT_BYTES), statement_text()),
        hcl(ReportKind.TDX, b"\x81" + bytes(1023), statement_text()),
        hcl(ReportKind.TDX, bytes(1024) + b"\1", statement_text()),
        hcl(ReportKind.SNP, bytes(SLOT_BYTES), statement_text(), hash_kind=0),
        hcl(ReportKind.SNP, bytes(SLOT_BYTES), statement_text(), hash_kind=4),
        hcl(ReportKind.SNP, bytes(SLOT_BYTES), b" " * (MAX_STATEMENT_BYTES + 1)),
    ],
)
def test_what_is_no_envelope_is_refused(changed: bytes) -> None:
    assert replace(Machine().snp(), document=changed).problems == {"envelope"}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 5000,
        statement_text(keys=[]),
        statement_text(keys={}),
        statement_text(keys=[jwk(tpm_key().public_key())] * 2),
        statement_text(keys=[jwk(tpm_key().public_key())] + [{"kid": "x", "kty": "RSA"}] * 16),
        statement_text(keys=[jwk(tpm_key().public_key(), kid="other")]),
        statement_text(keys=[jwk(tpm_key().public_key(), kty="EC")]),
        statement_text(keys=[jwk(tpm_key().public_key(), n="")]),
        statement_text(keys=[jwk(tpm_key().public_key(), n="AQAB")]),
        statement_text(keys=[jwk(tpm_key().public_key(), n="_" * 2000)]),
        statement_text(keys=[jwk(tpm_key().public_key(), n="\u00e9")]),
        statement_text(keys=[jwk(tpm_key().public_key(), n="a+/=")]),
        statement_text(keys=[jwk(tpm_key().public_key(), e="")]),
        statement_text(keys=[jwk(tpm_key().public_key(), e="AQ")]),
        statement_text(keys=[jwk(tpm_key().public_key(), e="AA")]),
        statement_text(**{"user-data": "00"}),
        statement_text(**{"user-data": "zz"}),
        statement_text(**{"user-data": 1}),
        statement_text(**{"vm-configuration": {"secure-boot": True, "secure_boot": False}}),
        statement_text(**{"vm-configuration": {str(number): 1 for number in range(65)}}),
    ],
    ids=lambda text: text[:40].decode(errors="replace"),
)
def test_a_malformed_statement_is_refused(text: bytes) -> None:
    with pytest.raises(EvidenceError):
        parse_statement(text)
    assert Machine(statement=text).snp().problems == {"envelope"}


@given(st.binary(max_size=64), st.integers(0, 1300), st.binary(max_size=8))
def test_any_bytes_are_an_envelope_or_an_evidence_error(noise: bytes, position: int, patch: bytes) -> None:
    document = bytearray(Machine().snp().document)
    document[position : position + len(patch)] = patch
    for candidate in (noise, b"HCLA" + noise, bytes(document)):
        with contextlib.suppress(EvidenceError):
            assert isinstance(parse_envelope(candidate), HclEnvelope)
            assert looks_like_envelope(candidate)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["keys", "vm-configuration", "user-data", "kid", "n", "e", "kty"]), _json)
def test_any_statement_is_read_or_an_evidence_error(name: str, value: Any) -> None:
    changed = (
        {name: value}
        if "-" in name or name == "keys"
        else {"keys": [jwk(tpm_key().public_key(), **{name: value})]}
    )
    with contextlib.suppress(EvidenceError):
        parse_statement(statement_text(**changed))


@given(st.binary(max_size=300))
def test_any_statement_bytes_are_read_or_an_evidence_error(text: bytes) -> None:
    with contextlib.suppress(EvidenceError):
        parse_statement(text)
