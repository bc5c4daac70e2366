"""TPM quotes: made with software keys here and changed in every way, and the event logs and quote of real machines."""

import base64
import functools
import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from avalon_core.attestation import proof_data
from avalon_core.attestation.chains import digest_of, load_certificate, verify_chain
from avalon_core.attestation.checks import Verdict, Verification
from avalon_core.attestation.claims import Tee
from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.formats import FORMATS
from avalon_core.attestation.known_roots import GOOGLE_EK_AK, VENDOR_ROOTS
from avalon_core.attestation.roots import TrustAnchor, TrustAnchors
from avalon_core.attestation.tpm import (
    TPM,
    BankSelection,
    decode_pcrs,
    encode_pcrs,
    encode_selection,
    parse_event_log,
    parse_quote,
    parse_signature,
    pcr_policy_digest,
    replay,
)
from avalon_core.attestation.tpm import event_log as event_log_module
from avalon_core.attestation.tpm.boot_state import BootState, boot_state
from avalon_core.attestation.tpm.signatures import verify_signature
from avalon_core.errors import EvidenceError, SignatureMismatch

NOW = datetime(2026, 7, 1, tzinfo=UTC)
HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
NUMBERS = {"sha1": 4, "sha256": 11, "sha384": 12, "sha512": 13}
REPORT_DATA = hashlib.sha256(b"keys").digest()

NO_ACTION, SEPARATOR, IPL, VARIABLE, ACTION = 3, 4, 13, 0x80000001, 0x80000007


# --- An authority, a TPM in software, and a firmware -----------------------------------------------------------------


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _certificate(
    subject: str, key: Any, issuer: str, signer: Any, *, ca: bool, **options: Any
) -> x509.Certificate:
    usage = dict.fromkeys(
        (
            *(
                "digital_signature",
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
            ),
            *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    usage |= (
        {"key_cert_sign": True, "crl_sign": True} if ca else {"digital_signature": options.get("signs", True)}
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key)
        .serial_number(options.get("serial", 7))
        .not_valid_before(NOW - timedelta(days=30))
        .not_valid_after(NOW + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
    )
    if options.get("crl_named"):
        point = x509.DistributionPoint([x509.UniformResourceIdentifier("http://x/crl")], None, None, None)
        builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True)
class Authority:
    root: x509.Certificate
    intermediate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def anchors(self) -> TrustAnchors:
        return TrustAnchors((TrustAnchor(name="test-ca", sha256=digest_of(self.root)),))

    def certify(self, key: Any, **options: Any) -> tuple[bytes, ...]:
        leaf = _certificate("ak", key, "intermediate", self.key, ca=options.pop("ca", False), **options)
        return _der(leaf), _der(self.intermediate), _der(self.root)

    def crl(self, *revoked: int) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name("intermediate"))
            .last_update(NOW - timedelta(days=1))
            .next_update(NOW + timedelta(days=1))
        )
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@functools.cache
def authority(name: str = "root") -> Authority:
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _certificate(name, root_key.public_key(), name, root_key, ca=True)
    intermediate = _certificate("intermediate", key.public_key(), name, root_key, ca=True)
    return Authority(root=root, intermediate=intermediate, key=key)


@functools.cache
def ak(kind: str) -> Any:
    if kind.startswith("rsa"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(kind[3:]))
    return ec.generate_private_key(
        {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "k1": ec.SECP256K1()}[kind]
    )


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def sign(key: Any, document: bytes, scheme: str = "ecdsa", hash_name: str = "sha256") -> bytes:
    """A TPMT_SIGNATURE."""
    head = {"rsassa": 0x14, "rsapss": 0x16, "ecdsa": 0x18}[scheme].to_bytes(2, "big")
    head += NUMBERS[hash_name].to_bytes(2, "big")
    hash_ = HASHES.get(hash_name, hashes.SHA1())
    if scheme == "ecdsa":
        r, s = decode_dss_signature(key.sign(document, ec.ECDSA(hash_)))
        width = (key.curve.key_size + 7) // 8
        return head + _sized(r.to_bytes(width, "big")) + _sized(s.to_bytes(width, "big"))
    pad = (
        padding.PKCS1v15() if scheme == "rsassa" else padding.PSS(padding.MGF1(hash_), padding.PSS.MAX_LENGTH)
    )
    return head + _sized(key.sign(document, pad, hash_))


def attest(selection: bytes, digest: bytes, extra: bytes = REPORT_DATA) -> bytes:
    """A TPMS_ATTEST."""
    return (
        b"\xffTCG\x80\x18"
        + _sized(b"\0\x0b" + bytes(32))
        + _sized(extra)
        + struct.pack(">QIIBQ", 1_000, 2, 3, 1, 0x20200312_00120003)
        + selection
        + _sized(digest)
    )


def variable(name: str, value: bytes) -> bytes:
    vendor = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
    return vendor + struct.pack("<QQ", len(name), len(value)) + name.encode("utf-16-le") + value


@dataclass
class Firmware:
    """Writes a crypto-agile log, and PCRs."""

    banks: Sequence[str] = ("sha1", "sha256")
    log: bytearray = field(default_factory=bytearray)
    pcrs: dict[str, dict[int, bytes]] = field(default_factory=dict)
    labels: set[int] = field(default_factory=set)
    """Where in the log types of events stand."""

    def __post_init__(self) -> None:
        spec = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(self.banks))
        for bank in self.banks:
            spec += struct.pack("<HH", NUMBERS[bank], hashlib.new(bank).digest_size)
        spec += b"\0"
        self.log += struct.pack("<II20sI", 0, NO_ACTION, bytes(20), len(spec)) + spec
        self.pcrs = {bank: {} for bank in self.banks}

    def event(self, pcr: int, kind: int, data: bytes, *, digested: bytes | None = None) -> None:
        self.labels |= set(range(len(self.log) + 4, len(self.log) + 8))
        self.log += struct.pack("<III", pcr, kind, len(self.banks))
        for bank in self.banks:
            size = hashlib.new(bank).digest_size
            digest = hashlib.new(bank, data if digested is None else digested).digest()
            if kind == NO_ACTION:
                digest = bytes(size)
            else:
                old = self.pcrs[bank].get(pcr, bytes(size))
                self.pcrs[bank][pcr] = hashlib.new(bank, old + digest).digest()
            self.log += struct.pack("<H", NUMBERS[bank]) + digest
        self.log += struct.pack("<I", len(data)) + data

    def locality(self, value: int) -> None:
        self.event(0, NO_ACTION, b"StartupLocality\0" + bytes([value]))
        for bank, pcrs in self.pcrs.items():
            pcrs[0] = value.to_bytes(hashlib.new(bank).digest_size, "big")

    def boot(self, secure_boot: bytes = b"\1") -> "Firmware":
        self.event(0, 8, b"firmware 1\0")
        self.event(7, VARIABLE, variable("SecureBoot", secure_boot))
        self.event(7, VARIABLE, variable("PK", b"key"))
        for pcr in range(8):
            self.event(pcr, SEPARATOR, bytes(4))
        self.event(4, 0x80000003, b"path of the boot loader", digested=b"the boot loader")
        self.grub(b"grub_cmd: ", b"set x=1")
        self.grub(b"kernel_cmdline: ", b"/vmlinuz root=/dev/sda1 ro")
        self.event(5, ACTION, b"Exit Boot Services Returned with Success")
        return self

    def grub(self, prefix: bytes, text: bytes) -> None:
        self.event(8, IPL, prefix + text + b"\0", digested=text)

    def value(self, bank: str, pcr: int) -> bytes:
        size = hashlib.new(bank).digest_size
        return self.pcrs[bank].get(pcr, (b"\xff" if 17 <= pcr <= 22 else b"\0") * size)


DEFAULT_SELECTION = (BankSelection(bank="sha256", pcrs=(0, 4, 5, 7, 8)),)


def quote(
    firmware: Firmware | None = None,
    *,
    selection: Sequence[BankSelection] = DEFAULT_SELECTION,
    kind: str = "p256",
    scheme: str = "ecdsa",
    hash_name: str = "sha256",
    extra: bytes = REPORT_DATA,
    log: bool = True,
    **certificate: Any,
) -> Evidence:
    """Good evidence, from a TPM in software."""
    firmware = firmware or Firmware().boot()
    values = {entry.bank: {pcr: firmware.value(entry.bank, pcr) for pcr in entry.pcrs} for entry in selection}
    concatenated = b"".join(values[entry.bank][pcr] for entry in selection for pcr in entry.pcrs)
    document = attest(encode_selection(selection), hashlib.new(hash_name, concatenated).digest(), extra)
    attachments = {"pcrs": encode_pcrs(values)} | ({"event_log": bytes(firmware.log)} if log else {})
    return Evidence(
        format="tpm",
        document=document,
        signature=sign(ak(kind), document, scheme, hash_name),
        certificates=authority().certify(ak(kind).public_key(), **certificate),
        attachments=attachments,
    )


def verify(
    evidence: Evidence,
    *,
    anchors: TrustAnchors | None = None,
    collateral: Collateral = NO_COLLATERAL,
    as_of: datetime = NOW,
) -> Verification:
    anchors = authority().anchors if anchors is None else anchors
    return TPM.verify(evidence, anchors=anchors, collateral=collateral, as_of=as_of)


def attached(evidence: Evidence, **parts: bytes | None) -> Evidence:
    attachments: Mapping[str, bytes | None] = {**evidence.attachments, **parts}
    return replace(
        evidence, attachments={name: part for name, part in attachments.items() if part is not None}
    )


def refused_by(verification: Verification) -> set[str]:
    assert verification.claims is None
    names = {check.name for check in verification.checks if check.verdict is not Verdict.PASSED}
    assert names
    return names


# --- Good quotes -----------------------------------------------------------------------------------------------------


def test_a_good_quote_verifies_and_tells_what_it_says() -> None:
    evidence = quote()

    verification = verify(evidence)

    assert [check.name for check in verification.checks] == [
        *("evidence", "chain", "root", "validity", "leaf", "signature"),
        *("pcr selection", "pcr values", "event log", "event data"),
    ]
    claims = verification.claims
    assert claims is not None
    assert (claims.tee, claims.root, claims.simulated, claims.debug) == (Tee.TPM, "test-ca", False, False)
    assert claims.report_data == REPORT_DATA.ljust(64, b"\0")
    values = decode_pcrs(evidence.attachments["pcrs"])["sha256"]
    assert claims.registers == {f"pcr{pcr}": value.hex() for pcr, value in values.items()}
    attributes = claims.attributes
    assert attributes["pcr_digest"] == parse_quote(evidence.document).pcr_digest.hex()
    assert attributes["pcr_selection"] == "sha256:0,4,5,7,8"
    assert attributes["secure_boot"] == "on"
    assert attributes["separators"] == "0,4,5,7"
    assert attributes["logged_kernel_command_line"] == "/vmlinuz root=/dev/sda1 ro"
    assert attributes["logged_efi_actions"] == "Exit Boot Services Returned with Success"
    assert attributes["reset_count"] == "2"
    assert attributes["event_log"] == "crypto-agile"


@pytest.mark.parametrize(
    ("kind", "scheme", "hash_name"),
    [
        ("p256", "ecdsa", "sha256"),
        ("p384", "ecdsa", "sha384"),
        ("p256", "ecdsa", "sha512"),
        ("rsa2048", "rsassa", "sha256"),
        ("rsa2048", "rsapss", "sha256"),
        ("rsa2048", "rsassa", "sha384"),
        ("rsa2048", "rsapss", "sha512"),
    ],
)
def test_every_scheme_verifies(kind: str, scheme: str, hash_name: str) -> None:
    plain, other = verify(quote()).claims, verify(quote(kind=kind, scheme=scheme, hash_name=hash_name)).claims
    assert plain is not None
    assert other is not None
    assert other.attributes["signature_scheme"] == f"{scheme}-{hash_name}"
    # The identity of what was started does not hang on the hash that one TPM signs with.
    assert other.measurement == plain.measurement


def test_banks_beside_that_of_sha256_are_named_in_the_registers() -> None:
    firmware = Firmware(banks=("sha256", "sha384")).boot()
    selection = (BankSelection(bank="sha256", pcrs=(0,)), BankSelection(bank="sha384", pcrs=(7,)))
    claims = verify(quote(firmware, selection=selection)).claims
    assert claims is not None
    assert set(claims.registers) == {"pcr0", "pcr7_sha384"}
    assert claims.attributes["secure_boot"] == "on"
    assert claims.attributes["pcr_selection"] == "sha256:0+sha384:7"


def test_without_a_log_the_values_still_count_and_secure_boot_is_unknown() -> None:
    claims = verify(quote(log=False)).claims
    assert claims is not None
    assert claims.attributes["secure_boot"] == "unknown"
    assert claims.attributes["event_log"] == "none"
    assert "logged_kernel_command_line" not in claims.attributes


def test_pcrs_that_nobody_extended_have_their_first_values() -> None:
    selection = (BankSelection(bank="sha256", pcrs=(7, 10, 16, 17, 22, 23)),)
    assert verify(quote(selection=selection)).claims is not None


def test_report_data_may_fill_all_64_bytes_and_no_more() -> None:
    claims = verify(quote(extra=bytes(range(64)))).claims
    assert claims is not None
    assert claims.report_data == bytes(range(64))
    assert refused_by(verify(quote(extra=bytes(65)))) == {"evidence"}


def test_equal_values_of_other_pcrs_are_another_measurement() -> None:
    """An operator repeats the firmware's events in PCRs that are free to him: the digest over the values is the same."""
    firmware = Firmware().boot()
    for bank in firmware.banks:
        firmware.pcrs[bank] |= {14: firmware.value(bank, 0), 15: firmware.value(bank, 7)}
    honest = verify(quote(firmware, selection=(BankSelection(bank="sha256", pcrs=(0, 7)),), log=False)).claims
    forged = verify(
        quote(firmware, selection=(BankSelection(bank="sha256", pcrs=(14, 15)),), log=False)
    ).claims
    assert honest is not None
    assert forged is not None
    assert honest.attributes["pcr_digest"] == forged.attributes["pcr_digest"]
    assert honest.measurement != forged.measurement


def test_the_measurement_is_the_policy_digest_of_the_tpm() -> None:
    """The digest of TPM2_PolicyPCR as its formula stands in Part 3, clause 23.7, spelled out once more."""
    selection = bytes.fromhex("00000001 000b 03 810000")
    expected = hashlib.sha256(
        bytes(32) + bytes.fromhex("0000017f") + selection + hashlib.sha256(b"v" * 64).digest()
    )
    assert encode_selection((BankSelection(bank="sha256", pcrs=(0, 7)),)) == selection
    assert pcr_policy_digest(selection, b"v" * 64) == expected.digest()


def test_it_is_registered_and_travels_in_a_worker_record() -> None:
    assert FORMATS["tpm"] is TPM
    evidence = quote()
    kind, value = proof_data.encode(evidence)
    assert kind == "TEE-TPM"
    assert proof_data.decode(kind, json.loads(json.dumps(value))) == (evidence, NO_COLLATERAL)
    assert TPM.detect(evidence.document)
    assert not TPM.detect(b"\xffTCG\x80\x17")


# --- Changed, cut and swapped ----------------------------------------------------------------------------------------


def _changes(data: bytes) -> list[bytes]:
    return [data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :] for i in range(len(data))]


def test_each_byte_of_the_quote_counts() -> None:
    evidence = quote()
    for changed in _changes(evidence.document):
        assert refused_by(verify(replace(evidence, document=changed))) & {"evidence", "signature"}


@pytest.mark.parametrize(
    ("kind", "scheme"), [("p256", "ecdsa"), ("rsa2048", "rsassa"), ("rsa2048", "rsapss")]
)
def test_each_byte_of_the_signature_counts(kind: str, scheme: str) -> None:
    evidence = quote(kind=kind, scheme=scheme)
    for changed in _changes(evidence.signature):
        assert refused_by(verify(replace(evidence, signature=changed))) <= {"evidence", "signature"}


def test_each_digit_of_the_pcr_values_counts() -> None:
    evidence = quote()
    for changed in _changes(evidence.attachments["pcrs"]):
        assert refused_by(verify(attached(evidence, pcrs=changed))) <= {"evidence", "pcr values"}


def test_each_byte_of_each_certificate_counts() -> None:
    evidence = quote(log=False)
    for place, der in enumerate(evidence.certificates):
        for changed in _changes(der)[::3]:
            certificates = (*evidence.certificates[:place], changed, *evidence.certificates[place + 1 :])
            refused_by(verify(replace(evidence, certificates=certificates)))


def test_each_byte_of_the_log_that_is_in_a_quoted_pcr_counts() -> None:
    """All but the versions in the header, and labels of events: claims do not rest on them."""
    firmware = Firmware(banks=("sha256",))
    firmware.event(7, VARIABLE, variable("SecureBoot", b"\1"))
    firmware.event(7, SEPARATOR, bytes(4))
    firmware.event(7, ACTION, b"something")
    evidence = quote(firmware, selection=(BankSelection(bank="sha256", pcrs=(7,)),))
    good = verify(evidence).claims
    header = 32 + 28 + 4 + 1
    for place, changed in enumerate(_changes(bytes(firmware.log))):
        verification = verify(attached(evidence, event_log=changed))
        if verification.claims is not None:
            assert place < header or place in firmware.labels
            assert verification.claims.attributes["secure_boot"] == "on"
            assert good is not None
            assert verification.claims.measurement == good.measurement


@pytest.mark.parametrize(
    "target", [b"SecureBoot".decode().encode("utf-16-le"), b"Exit Boot", b"/vmlinuz", b"firmware 1"]
)
def test_changed_data_of_the_log_is_refused_or_no_claim_rests_on_it(target: bytes) -> None:
    evidence = quote()
    good = verify(evidence).claims
    assert good is not None
    log = evidence.attachments["event_log"]
    assert target in log
    found = verify(attached(evidence, event_log=log.replace(target, bytes([target[0] ^ 1]) + target[1:])))
    if found.claims is None:
        assert refused_by(found) == {"event data"}
    else:
        assert found.claims.attributes.get("logged_kernel_command_line") in (
            None,
            good.attributes["logged_kernel_command_line"],
        )


def test_a_digest_of_the_log_counts() -> None:
    evidence = quote()
    log = evidence.attachments["event_log"]
    digest = hashlib.sha256(variable("SecureBoot", b"\1")).digest()
    assert refused_by(verify(attached(evidence, event_log=log.replace(digest, bytes(32))))) == {"event log"}


def _refusals() -> dict[str, tuple[Callable[[], Verification], set[str]]]:
    def other_ca() -> Verification:
        return verify(replace(quote(), certificates=authority("other").certify(ak("p256").public_key())))

    def swapped_key() -> Verification:
        return verify(replace(quote(), certificates=authority().certify(ak("p384").public_key())))

    def cut(*kept: int) -> Verification:
        evidence = quote()
        return verify(replace(evidence, certificates=tuple(evidence.certificates[i] for i in kept)))

    def resigned(document: bytes) -> Verification:
        return verify(replace(quote(), document=document, signature=sign(ak("p256"), document)))

    def dropped(name: str) -> Verification:
        return verify(attached(quote(), **{name: None}))

    def values(change: Callable[[dict[str, dict[str, str]]], object]) -> Verification:
        evidence = quote()
        decoded = json.loads(evidence.attachments["pcrs"])
        change(decoded)
        return verify(attached(evidence, pcrs=json.dumps(decoded).encode()))

    empty = hashlib.sha256(b"").digest()
    sha1 = (BankSelection(bank="sha1", pcrs=(0, 7)),)
    twice = struct.pack(">IHB3sHB3s", 2, 11, 3, b"\1\0\0", 11, 3, b"\2\0\0")
    log = quote().attachments["event_log"]
    return {
        "a chain to another root": (other_ca, {"root"}),
        "no known root at all": (lambda: verify(quote(), anchors=TrustAnchors(())), {"root"}),
        "the certificate of another key": (swapped_key, {"signature"}),
        "no intermediate": (lambda: cut(0, 2), {"chain"}),
        "no root": (lambda: cut(0, 1), {"chain"}),
        "no certificate": (cut, {"evidence"}),
        "the intermediate first": (lambda: cut(1, 0, 2), {"leaf", "signature"}),
        "before its time": (lambda: verify(quote(), as_of=NOW - timedelta(days=31)), {"validity"}),
        "after its time": (lambda: verify(quote(), as_of=NOW + timedelta(days=31)), {"validity"}),
        "an authority's key": (lambda: verify(quote(ca=True)), {"leaf"}),
        "a key that may not sign": (lambda: verify(quote(signs=False)), {"leaf"}),
        "a CRL is named and missing": (lambda: verify(quote(crl_named=True)), {"revocation"}),
        "revoked": (
            lambda: verify(quote(), collateral=Collateral(crls=(authority().crl(7),))),
            {"revocation"},
        ),
        "a signature of another kind of key": (
            lambda: verify(replace(quote(), signature=quote(kind="rsa2048", scheme="rsassa").signature)),
            {"signature"},
        ),
        "a weak RSA key": (lambda: verify(quote(kind="rsa1024", scheme="rsassa")), {"signature"}),
        "a curve that TPMs do not have": (lambda: verify(quote(kind="k1")), {"signature"}),
        "no PCR quoted": (lambda: resigned(attest(encode_selection(()), empty)), {"pcr selection"}),
        "an empty bank quoted": (
            lambda: resigned(attest(encode_selection((BankSelection(bank="sha256", pcrs=()),)), empty)),
            {"pcr selection"},
        ),
        "the bank of SHA-1": (lambda: verify(quote(selection=sha1)), {"pcr selection"}),
        "a bank twice": (lambda: resigned(attest(twice, empty)), {"evidence"}),
        "another digest, signed": (
            lambda: resigned(attest(encode_selection(DEFAULT_SELECTION), bytes(32))),
            {"pcr values"},
        ),
        "no PCR values": (lambda: dropped("pcrs"), {"evidence"}),
        "a value too few": (lambda: values(lambda banks: banks["sha256"].pop("7")), {"pcr values"}),
        "a value too many": (
            lambda: values(lambda banks: banks["sha256"].update({"9": "00" * 32})),
            {"pcr values"},
        ),
        "a bank too many": (
            lambda: values(lambda banks: banks.update({"sha1": {"0": "00" * 20}})),
            {"pcr values"},
        ),
        "a log without its last event": (
            lambda: verify(attached(quote(), event_log=log[: log.rindex(struct.pack("<II", 5, ACTION))])),
            {"event log"},
        ),
        "a log that goes on": (lambda: verify(attached(quote(), event_log=log + b"\0")), {"evidence"}),
        "a log of other banks": (
            lambda: verify(attached(quote(), event_log=bytes(Firmware(banks=("sha1",)).boot().log))),
            {"event log"},
        ),
    }


@pytest.mark.parametrize("case", sorted(_refusals()))
def test_refused(case: str) -> None:
    attempt, names = _refusals()[case]
    assert refused_by(attempt()) == names


def test_a_crl_that_does_not_list_the_key_is_fine() -> None:
    verification = verify(quote(crl_named=True), collateral=Collateral(crls=(authority().crl(8),)))
    assert verification.claims is not None
    assert "revocation" in {check.name for check in verification.checks}


def test_root_and_intermediate_may_come_with_the_collateral() -> None:
    evidence = quote()
    leaf, *others = evidence.certificates
    verification = verify(
        replace(evidence, certificates=(leaf,)), collateral=Collateral(certificates=tuple(others))
    )
    assert verification.claims is not None


def test_a_log_of_the_operating_system_goes_on_where_the_firmware_ended() -> None:
    firmware = Firmware(banks=("sha256",)).boot()
    content = b"\x50" + struct.pack(">I", 3) + b"abc"
    digest = hashlib.sha256(content).digest()
    cel = b"\0" + struct.pack(">IQ", 8, 0) + b"\1" + struct.pack(">IB", 1, 13)
    cel += b"\3" + struct.pack(">I", 37) + b"\x0b" + struct.pack(">I", 32) + digest + content
    firmware.pcrs["sha256"][13] = hashlib.sha256(bytes(32) + digest).digest()
    selection = (BankSelection(bank="sha256", pcrs=(7, 13)),)
    evidence = quote(firmware, selection=selection)
    assert refused_by(verify(evidence)) == {"event log"}
    both = verify(attached(evidence, os_event_log=cel)).claims
    assert both is not None
    assert both.attributes["event_log"] == "crypto-agile+cel-tlv"
    changed = attached(evidence, os_event_log=cel.replace(b"abc", b"abd"))
    assert refused_by(verify(changed)) == {"event data"}


# --- What a log proves of the start ----------------------------------------------------------------------------------


def _state(firmware: Firmware, *, pcrs: Sequence[int] = tuple(range(24))) -> BootState:
    log = parse_event_log(bytes(firmware.log))
    return boot_state([log], [BankSelection(bank="sha256", pcrs=tuple(pcrs))])


def _separated(*events: tuple[int, int, bytes]) -> Firmware:
    firmware = Firmware()
    for pcr, kind, data in events:
        firmware.event(pcr, kind, data)
    return firmware


ON, OFF = variable("SecureBoot", b"\1"), variable("SecureBoot", b"\0")


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([(7, VARIABLE, ON), (7, SEPARATOR, bytes(4))], "on", id="on"),
        pytest.param([(7, VARIABLE, OFF), (7, SEPARATOR, bytes(4))], "off", id="off"),
        pytest.param(
            [(7, VARIABLE, variable("SecureBoot", b"")), (7, SEPARATOR, bytes(4))], "off", id="not there"
        ),
        pytest.param([(7, SEPARATOR, bytes(4))], "unknown", id="not measured"),
        pytest.param([(7, VARIABLE, ON)], "unknown", id="no separator: anybody may have added it"),
        pytest.param([(7, SEPARATOR, bytes(4)), (7, VARIABLE, ON)], "unknown", id="after the separator"),
        pytest.param(
            [(7, 0x80000002, bytes(4)), (7, VARIABLE, ON), (7, SEPARATOR, bytes(4))],
            "unknown",
            id="after a separator with another label",
        ),
        pytest.param(
            [(11, VARIABLE, ON), (11, SEPARATOR, bytes(4)), (7, SEPARATOR, bytes(4))],
            "unknown",
            id="in another PCR",
        ),
        pytest.param(
            [(7, 1, OFF), (7, SEPARATOR, bytes(4)), (7, VARIABLE, ON)], "off", id="hidden behind a label"
        ),
        pytest.param([(7, 1, OFF), (7, VARIABLE, ON), (7, SEPARATOR, bytes(4))], "unknown", id="both"),
    ],
)
def test_secure_boot(events: Sequence[tuple[int, int, bytes]], expected: str) -> None:
    assert _state(_separated(*events)).secure_boot == expected


def test_secure_boot_is_unknown_where_pcr_7_was_not_quoted() -> None:
    assert _state(Firmware().boot(), pcrs=(0, 1, 2)).secure_boot == "unknown"
    assert _state(Firmware().boot()).secure_boot == "on"


@pytest.mark.parametrize("label", [ACTION, 1])
def test_a_debugger_of_the_firmware_is_told_whatever_its_label(label: int) -> None:
    firmware = Firmware()
    firmware.event(7, label, b"UEFI Debug Mode")
    firmware.event(7, SEPARATOR, bytes(4))
    claims = verify(quote(firmware, selection=(BankSelection(bank="sha256", pcrs=(7,)),))).claims
    assert claims is not None
    assert claims.debug


def test_a_command_line_beside_events_that_cannot_be_read_is_not_told() -> None:
    firmware = Firmware().boot()
    assert _state(firmware).kernel_command_line == "/vmlinuz root=/dev/sda1 ro"
    firmware.event(8, IPL, b"grub_cmd: harmless\0", digested=b"something else")
    assert _state(firmware).kernel_command_line is None


def test_the_command_line_of_a_unified_kernel_image_is_told() -> None:
    firmware = Firmware()
    firmware.event(12, IPL, "quiet\x1b[2J\0".encode("utf-16-le"))
    assert _state(firmware).kernel_command_line == "quiet\N{REPLACEMENT CHARACTER}[2J"


def test_a_command_line_in_a_pcr_with_anything_else_is_not_told() -> None:
    firmware = Firmware()
    firmware.event(12, IPL, "quiet\0".encode("utf-16-le"))
    firmware.event(12, 6, b"credentials", digested=b"something")
    firmware.event(8, 6, b"kernel_cmdline: x\0", digested=b"x")
    assert _state(firmware).kernel_command_line is None


def test_an_error_separator_has_data_of_its_own() -> None:
    firmware = Firmware()
    firmware.event(3, SEPARATOR, b"what went wrong", digested=b"\1\0\0\0")
    firmware.event(2, SEPARATOR, b"what went wrong", digested=b"elsewhere")
    state = _state(firmware)
    assert state.separated == (3,)
    assert state.untrue == ("EV_SEPARATOR in PCR 2",)


@pytest.mark.parametrize("locality", [0, 3, 4])
def test_the_startup_locality_is_the_first_value_of_pcr_0(locality: int) -> None:
    firmware = Firmware()
    firmware.locality(locality)
    firmware.boot()
    assert verify(quote(firmware)).claims is not None
    only = Firmware()
    only.locality(locality)
    assert verify(quote(only, selection=(BankSelection(bank="sha256", pcrs=(0,)),))).claims is not None


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(lambda firmware: firmware.locality(2), id="no such locality"),
        pytest.param(lambda firmware: (firmware.locality(3), firmware.locality(3)), id="twice"),
        pytest.param(lambda firmware: (firmware.event(0, 8, b"x"), firmware.locality(3)), id="too late"),
        pytest.param(lambda firmware: firmware.event(0, NO_ACTION, b"StartupLocality\0\0\0"), id="two bytes"),
    ],
)
def test_a_startup_locality_that_cannot_be_is_refused(break_it: Callable[[Firmware], object]) -> None:
    firmware = Firmware()
    break_it(firmware)
    with pytest.raises(EvidenceError, match="locality"):
        parse_event_log(bytes(firmware.log))


# --- Parsers: nothing but EvidenceError, and no more than their caps -------------------------------------------------


def _agile(**changes: Any) -> bytes:
    count, algorithms = changes.get("count", 1), changes.get("algorithms", ((11, 32),))
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, count)
    spec += b"".join(struct.pack("<HH", *pair) for pair in algorithms) + b"\0"
    return struct.pack("<II20sI", 0, NO_ACTION, bytes(20), len(spec)) + spec + changes.get("events", b"")


CEL = b"\0" + struct.pack(">IQ", 8, 0)


@pytest.mark.parametrize(
    "log",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(31), id="cut off"),
        pytest.param(bytes(2 * 1024 * 1024 + 1), id="too large"),
        pytest.param(_agile(count=0, algorithms=()), id="no bank"),
        pytest.param(_agile(count=9, algorithms=[(i, 32) for i in range(9)]), id="nine banks"),
        pytest.param(_agile(count=2, algorithms=((11, 32), (11, 32))), id="a bank twice"),
        pytest.param(_agile(algorithms=((11, 20),)), id="a bank of a wrong length"),
        pytest.param(_agile(algorithms=((99, 65),)), id="a bank that is too long"),
        pytest.param(_agile(events=struct.pack("<III", 32, 1, 1)), id="PCR 32"),
        pytest.param(_agile(events=struct.pack("<III", 0, 1, 2)), id="two digests"),
        pytest.param(_agile(events=struct.pack("<IIIH", 0, 1, 1, 12)), id="a digest of another bank"),
        pytest.param(
            _agile(events=struct.pack("<IIIH32sI", 0, 1, 1, 11, bytes(32), 1 << 31)), id="2 GiB of data"
        ),
        pytest.param(CEL, id="a record number and no record"),
        pytest.param(CEL[:5] + struct.pack(">Q", 0) + b"\7", id="a record of no PCR"),
        pytest.param(CEL + b"\1" + struct.pack(">II", 4, 99), id="a canonical log with PCR 99"),
        pytest.param(CEL + b"\1" + struct.pack(">IB", 1, 9) + b"\5", id="no digests"),
        pytest.param(
            CEL + b"\1" + struct.pack(">IB", 1, 9) + b"\3" + struct.pack(">IBI", 5, 11, 0) + bytes(9),
            id="a digest of no bytes",
        ),
        pytest.param(
            CEL
            + b"\1"
            + struct.pack(">IB", 1, 9)
            + b"\3"
            + struct.pack(">I", 0)
            + b"\5"
            + struct.pack(">I", 1)
            + b"\0",
            id="a firmware event of nothing",
        ),
    ],
)
def test_a_log_that_is_none_is_refused(log: bytes) -> None:
    with pytest.raises(EvidenceError):
        parse_event_log(log)


def test_a_canonical_log_counts_its_records() -> None:
    record = b"\1" + struct.pack(">IB", 1, 9) + b"\3" + struct.pack(">I", 0) + b"\x50" + struct.pack(">I", 0)
    good = CEL + record + b"\0" + struct.pack(">IQ", 8, 1) + record
    assert [event.pcr for event in parse_event_log(good).events] == [9, 9]
    with pytest.raises(EvidenceError, match="record number 1"):
        parse_event_log(CEL + record + CEL + record)


def test_firmware_events_in_a_canonical_log_are_read_by_their_types() -> None:
    inner = b"\0" + struct.pack(">II", 4, NO_ACTION) + b"\1" + struct.pack(">I", 3) + b"abc"
    record = (
        b"\1"
        + struct.pack(">IB", 1, 0)
        + b"\3"
        + struct.pack(">I", 0)
        + b"\5"
        + struct.pack(">I", len(inner))
        + inner
    )
    log = parse_event_log(CEL + record)
    assert [(event.type, event.data, event.is_firmware) for event in log.events] == [
        (NO_ACTION, b"abc", True)
    ]
    assert replay([log], "sha256") == {}


def test_a_log_has_no_more_events_than_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    log = bytes(Firmware().boot().log)
    monkeypatch.setattr(event_log_module, "MAX_EVENTS", 5)
    with pytest.raises(EvidenceError, match="too many events"):
        parse_event_log(log)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"sha256": {"0": 1}}', id="a number"),
        pytest.param(b'{"md5": {}}', id="another bank"),
        pytest.param(b'{"sha256": {"00": ""}}', id="a number with a zero before it"),
        pytest.param(b'{"sha256": {"32": "' + b"0" * 64 + b'"}}', id="PCR 32"),
        pytest.param('{"sha256": {"²": ""}}'.encode(), id="a digit that is none"),
        pytest.param(b'{"sha256": {"0": "' + b"A" * 64 + b'"}}', id="upper case"),
        pytest.param(b'{"sha256": {"0": "00"}}', id="too short"),
        pytest.param(b"[" * 60_000, id="nested"),
        pytest.param(b" " * 70_000, id="too large"),
        pytest.param(json.dumps({f"sha{number}": {} for number in range(9)}).encode(), id="nine banks"),
        pytest.param(b'{"' + b"\xff" + b'": {}}', id="no UTF-8"),
    ],
)
def test_pcr_values_that_cannot_be_are_refused(text: bytes) -> None:
    with pytest.raises(EvidenceError):
        decode_pcrs(text)


def test_parsers_name_what_they_got() -> None:
    with pytest.raises(EvidenceError, match="magic"):
        parse_quote(bytes(100))
    with pytest.raises(EvidenceError, match="no quote"):
        parse_quote(b"\xffTCG\x80\x17" + bytes(100))
    with pytest.raises(EvidenceError, match="scheme"):
        parse_signature(bytes(100))
    with pytest.raises(EvidenceError, match="hash"):
        parse_signature(
            sign(ak("rsa2048"), b"", "rsassa", "sha256").replace(b"\0\x14\0\x0b", b"\0\x14\0\x04")
        )
    with pytest.raises(ValueError, match="no such selection"):
        encode_selection((BankSelection(bank="sha256", pcrs=(24,)),))


def _spoiled(good: bytes) -> st.SearchStrategy[bytes]:
    """Bytes at random, and good ones with a few bytes changed, cut or repeated."""
    change = st.tuples(st.integers(0, max(0, len(good) - 1)), st.binary(max_size=8))
    return st.one_of(
        st.binary(max_size=200),
        st.lists(change, min_size=1, max_size=4).map(
            lambda changes: functools.reduce(
                lambda data, c: data[: c[0]] + c[1] + data[c[0] + len(c[1]) :], changes, good
            )
        ),
        st.tuples(st.integers(0, len(good)), st.integers(0, len(good))).map(
            lambda c: good[: c[0]] + good[c[1] :]
        ),
    )


PARSERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "quote": (parse_quote, quote().document),
    "signature": (parse_signature, quote().signature),
    "pcrs": (decode_pcrs, quote().attachments["pcrs"]),
    "agile log": (parse_event_log, bytes(Firmware().boot().log)),
    "sha1 log": (parse_event_log, struct.pack("<II20sI", 0, 8, bytes(20), 3) + b"abc"),
    "cel": (
        parse_event_log,
        CEL + b"\1" + struct.pack(">IB", 1, 9) + b"\3" + struct.pack(">I", 0) + b"\5" + struct.pack(">I", 0),
    ),
}


@pytest.mark.parametrize("name", PARSERS)
def test_parsers_raise_nothing_but_evidence_error(name: str) -> None:
    parse, good = PARSERS[name]

    @settings(max_examples=200)
    @given(_spoiled(good))
    def check(data: bytes) -> None:
        try:
            parse(data)
        except EvidenceError:
            return

    check()


@given(_spoiled(bytes(Firmware().boot().log)))
def test_any_log_is_judged_without_an_error(log: bytes) -> None:
    try:
        parsed = parse_event_log(log)
    except EvidenceError:
        return
    boot_state([parsed], [BankSelection(bank="sha256", pcrs=tuple(range(24)))])
    verify(attached(quote_once(), event_log=log))


@functools.cache
def quote_once() -> Evidence:
    return quote()


# --- Real machines ---------------------------------------------------------------------------------------------------

GOOGLE = Path("evidence", "tpm-eventlog", "google-go-tpm-tools")
AZURE = Path("evidence", "azure-vtpm", "kinvolk-azure-cvm-tooling")

# PCR 0 of Compute Engine's firmware, as Google's own tools have it in their tests, and the separator alone.
SEV_FIRMWARE = "0f35c214608d93c7a6e68ae7359b4a8be5a0e99eea9107ece427c4dea4e439cf"
PLAIN_FIRMWARE = "24af52a4f429b71a3184a6d64cddad17e54ea030e2aa6576bf3a5a3d8bd3328f"
ONLY_SEPARATOR = "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"
ONLY_SEPARATOR_SHA1 = "b2a83b0ebf2f8374299a5b2bdfc31ea955ad7236"


@pytest.mark.parametrize(
    ("name", "count", "pcr0", "secure_boot", "kernel"),
    [
        (
            "cos-101-amd-sev.bin",
            49,
            SEV_FIRMWARE,
            "on",
            "/syslinux/vmlinuz.A init=/usr/lib/systemd/systemd boot=local",
        ),
        ("ubuntu-2104-no-secure-boot.bin", 106, PLAIN_FIRMWARE, "off", "/boot/vmlinuz-5.11.0-1006-gcp root="),
        ("ubuntu-2404-amd-sevsnp.bin", 117, None, "off", "/vmlinuz-6.8.0-1010-gcp root="),
    ],
)
def test_real_logs_replay_and_tell_the_start(
    shared_vectors: Path, name: str, count: int, pcr0: str | None, secure_boot: str, kernel: str
) -> None:
    data = (shared_vectors / GOOGLE / name).read_bytes()
    log = parse_event_log(data)
    assert (log.encoding, len(log.events)) == ("crypto-agile", count)
    for bank in ("sha1", "sha256", "sha384"):
        values = replay([log], bank)
        assert set(values) == {*range(10), 14}
        assert values[2] == values[3] == values[6]
        state = boot_state([log], [BankSelection(bank=bank, pcrs=tuple(range(24)))])
        assert (state.secure_boot, state.untrue, state.debug_mode) == (secure_boot, (), False)
        assert state.separated == tuple(range(8))
        assert state.kernel_command_line is not None
        assert state.kernel_command_line.startswith(kernel)
    values = replay([log], "sha256")
    assert values[2].hex() == ONLY_SEPARATOR
    assert pcr0 in (None, values[0].hex())
    # Quoted by a TPM in software, the whole log verifies.
    firmware = Firmware(pcrs={})
    firmware.log, firmware.pcrs = bytearray(data), {"sha256": dict(values)}
    claims = verify(quote(firmware, selection=(BankSelection(bank="sha256", pcrs=tuple(range(16))),))).claims
    assert claims is not None
    assert claims.attributes["secure_boot"] == secure_boot


def test_a_real_log_of_sha1_replays_but_is_no_evidence(shared_vectors: Path) -> None:
    data = (shared_vectors / GOOGLE / "debian-10.bin").read_bytes()
    log = parse_event_log(data)
    assert (log.encoding, len(log.events)) == ("sha1", 25)
    values = replay([log], "sha1")
    assert {values[pcr].hex() for pcr in (2, 3, 6)} == {ONLY_SEPARATOR_SHA1}
    assert boot_state([log], [BankSelection(bank="sha1", pcrs=tuple(range(8)))]).secure_boot == "on"
    with pytest.raises(EvidenceError, match="no digests for bank sha256"):
        replay([log], "sha256")
    assert refused_by(verify(attached(quote(), event_log=data))) == {"event log"}


def test_a_real_canonical_log_is_of_a_register_of_a_confidential_vm(shared_vectors: Path) -> None:
    data = base64.b64decode((shared_vectors / GOOGLE / "cel.b64").read_bytes())
    log = parse_event_log(data)
    assert (log.encoding, len(log.events)) == ("cel-tlv", 18)
    for event in log.events:
        assert (event.register, event.pcr, event.type) == ("cc4", None, 80)
        content = b"\x50" + struct.pack(">I", len(event.data)) + event.data
        assert event.digests == {"sha384": hashlib.sha384(content).digest()}
    assert replay([log], "sha384") == {}
    # For PCRs it proves nothing, and takes nothing away.
    claims = verify(attached(quote(), os_event_log=data)).claims
    assert claims is not None


def test_the_authority_of_googles_attestation_keys_is_known(shared_vectors: Path) -> None:
    folder = shared_vectors / GOOGLE
    root = load_certificate((folder / "gcp_ek_ak_ca_root.crt").read_bytes())
    intermediate = load_certificate((folder / "gcp_ek_ak_ca_intermediate_v3.crt").read_bytes())
    chain = verify_chain(intermediate, [root], anchors=VENDOR_ROOTS, as_of=NOW)
    assert chain.anchor == GOOGLE_EK_AK
    assert all(check.verdict is Verdict.PASSED for check in chain.checks)
    old = load_certificate((folder / "tpm_ek_root_1.cer").read_bytes())
    # The root of endorsement keys of before, which certifies no attestation key: not among the known ones.
    assert VENDOR_ROOTS.find(digest_of(old)) is None


def test_a_real_quote_of_azure_parses_verifies_under_its_key_and_fits_its_values(
    shared_vectors: Path,
) -> None:
    data = (shared_vectors / AZURE / "quote.bin").read_bytes()
    size = int.from_bytes(data[:8], "little")
    signature, data = data[8 : 8 + size], data[8 + size :]
    size = int.from_bytes(data[:8], "little")
    document, data = data[8 : 8 + size], data[8 + size :]
    count, values = int.from_bytes(data[:8], "little"), data[8:]
    key = serialization.load_pem_public_key((shared_vectors / AZURE / "akpub.pem").read_bytes())

    parsed = parse_quote(document)

    assert TPM.detect(document)
    assert parsed.extra_data == b"challenge"
    assert parsed.selection == (BankSelection(bank="sha256", pcrs=tuple(range(24))),)
    assert (count, len(values)) == (24, 24 * 32)
    assert parsed.pcr_digest == hashlib.sha256(values).digest()
    assert values[2 * 32 : 3 * 32].hex() == ONLY_SEPARATOR
    signed = parse_signature(bytes.fromhex("0014000b") + _sized(signature))
    verify_signature(key, signed, document)
    for changed in _changes(document):
        with pytest.raises(SignatureMismatch):
            verify_signature(key, signed, changed)
