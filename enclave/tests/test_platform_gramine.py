"""The Gramine platform against a stand-in for the files that Gramine makes up, with the simulator's quotes in them."""

import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from avalon_core.attestation import proof_data
from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral
from avalon_core.attestation.sgx_dcap import SGX_DCAP
from avalon_core.simulator.intel import IntelSimulator
from avalon_core.simulator.intel_tcb import validity_at
from avalon_core.simulator.quotes import SgxReport
from avalon_core.simulator.roots import SIMULATOR_ROOTS
from avalon_enclave.errors import SealingFailed, StartRefused
from avalon_enclave.platforms import PlatformOptions, open_platform
from avalon_enclave.platforms.gramine import DEVICE, GramineOptions, GraminePlatform
from avalon_enclave.platforms.pseudo_files import PseudoFiles

NOW = datetime(2025, 6, 1, 12, 0, 0, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
REPORT = SgxReport(
    mrenclave=hashlib.sha256(b"code").digest(),
    mrsigner=hashlib.sha256(b"signer").digest(),
    isv_prod_id=7,
    isv_svn=3,
)
INTEL = IntelSimulator()


def key_of(*parts: object) -> bytes:
    """EGETKEY's part: equal inputs, equal 16 bytes."""
    return hashlib.sha256(repr(parts).encode()).digest()[:16]


@dataclass
class Gramine:
    """An enclave as Gramine shows itself: ``SystemCalls`` over ``/dev/attestation`` (libos/src/fs/dev/attestation.c).

    A file's content is made when it is opened; what is written counts when it is closed, cut or padded to its length.
    """

    report: SgxReport = REPORT
    cpu: str = "cpu 1"
    cpusvn: int = 1
    attestation_type: bytes | None = b"dcap"
    quote_error: int = 0
    piece: int = 1 << 20
    """At most so many bytes a call are read or written."""

    change: Callable[[bytes], bytes] = bytes
    """What is done to a quote on its way."""

    report_data: bytes = bytes(64)
    opened: dict[int, tuple[str, bool, bytearray]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def content(self, name: str) -> bytes:
        match name:
            case "attestation_type" if self.attestation_type is not None:
                return self.attestation_type
            case "my_target_info":
                return (self.report.mrenclave + self.report.attributes).ljust(512, b"\0")
            case "keys/_sgx_mrsigner":
                signer = (self.report.mrsigner, self.report.isv_prod_id, self.report.isv_svn)
                return key_of("mrsigner", self.cpu, self.cpusvn, *signer)
            case "keys/_sgx_mrenclave":
                return key_of("mrenclave", self.cpu, self.cpusvn, self.report.mrenclave)
            case "quote":
                if self.quote_error:
                    raise OSError(self.quote_error, os.strerror(self.quote_error))
                return self.change(INTEL.sgx_quote(replace(self.report, report_data=self.report_data)))
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)

    def open(self, path: str, flags: int, /) -> int:
        name = str(Path(path).relative_to(DEVICE))
        is_write = flags & os.O_ACCMODE == os.O_WRONLY
        if is_write and name not in ("user_report_data", "target_info"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        self.calls.append(f"{'write' if is_write else 'read'} {name}")
        descriptor = 1000 + len(self.calls)
        self.opened[descriptor] = (name, is_write, bytearray(b"" if is_write else self.content(name)))
        return descriptor

    def read(self, descriptor: int, length: int, /) -> bytes:
        content = self.opened[descriptor][2]
        taken = bytes(content[: min(length, self.piece)])
        del content[: len(taken)]
        return taken

    def write(self, descriptor: int, data: bytes, /) -> int:
        taken = data[: self.piece]
        self.opened[descriptor][2].extend(taken)
        return len(taken)

    def close(self, descriptor: int, /) -> None:
        name, is_write, content = self.opened.pop(descriptor)
        if is_write and name == "user_report_data":
            self.report_data = bytes(content[:64].ljust(64, b"\0"))

    def mkdir(self, path: str, mode: int, /) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def rmdir(self, path: str, /) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def platform(
    gramine: Gramine, *, role: str = "singleton", options: GramineOptions | None = None
) -> GraminePlatform:
    return GraminePlatform(options, role=role, files=PseudoFiles(DEVICE, system=gramine))


def test_the_measurement_is_mrenclave() -> None:
    gramine = platform(Gramine())
    assert gramine.measurement() == REPORT.mrenclave.hex()
    assert (gramine.name, gramine.simulated) == ("gramine", False)


@pytest.mark.parametrize("piece", [1, 7, 4096, 1 << 20])
def test_evidence_goes_from_the_files_to_claims(piece: int) -> None:
    gramine = Gramine(piece=piece)
    enclave = platform(gramine)
    kind, value = enclave.issue_evidence(REPORT_DATA)
    assert kind == "TEE-SGX-DCAP"
    evidence, along = proof_data.decode(kind, value)
    assert along == NO_COLLATERAL
    collateral = Collateral(dcap=(INTEL.collateral("sgx", validity_at(NOW)),))
    verification = SGX_DCAP.verify(evidence, anchors=SIMULATOR_ROOTS, collateral=collateral, as_of=NOW)
    claims = verification.claims
    assert claims is not None, verification.checks
    assert claims.measurement == enclave.measurement()
    assert claims.report_data == REPORT_DATA
    assert (claims.signer, claims.product_id, claims.svn) == (REPORT.mrsigner.hex(), 7, 3)
    assert gramine.opened == {}


def test_report_data_are_written_before_the_quote_is_opened() -> None:
    gramine = Gramine()
    enclave = platform(gramine)
    gramine.calls.clear()
    enclave.issue_evidence(REPORT_DATA)
    assert gramine.calls == ["write user_report_data", "read quote"]


def test_what_was_found_is_told() -> None:
    assert platform(Gramine()).findings == {
        "attestation_type": "dcap",
        "quote": "SGX v3",
        "mrsigner": REPORT.mrsigner.hex(),
        "product_id": "7",
        "svn": "3",
        "debug": "false",
        "certification_data": "pck_chain",
        "sealing": "mrsigner",
    }
    assert platform(Gramine(report=REPORT.with_debug())).findings["debug"] == "true"


@pytest.mark.parametrize("kind", [b"none", b"epid", b"", b"none\n"])
def test_other_attestation_types_are_refused(kind: bytes) -> None:
    with pytest.raises(StartRefused, match=r"expected 'dcap'. Say sgx\.remote_attestation"):
        platform(Gramine(attestation_type=kind))


def test_without_gramine_the_start_is_refused_with_what_to_do() -> None:
    with pytest.raises(StartRefused, match=r"gramine-sgx, not gramine-direct"):
        platform(Gramine(attestation_type=None))
    if not DEVICE.exists():
        with pytest.raises(StartRefused, match=r"/dev/attestation/attestation_type: No such file"):
            open_platform("gramine", PlatformOptions(role="singleton"))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.EIO])
def test_a_quoting_service_that_does_not_answer_refuses_the_start(number: int) -> None:
    with pytest.raises(StartRefused, match=r"/dev/attestation/quote: .* is aesmd running"):
        platform(Gramine(quote_error=number))


CHANGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no quote": (lambda quote: b"", "cannot be read"),
    "a quote that is cut": (lambda quote: quote[:-100], "cannot be read"),
    "more than fits": (lambda quote: quote + bytes(1 << 20), "more than 131072 bytes"),
    "a quote of something else": (
        lambda quote: INTEL.sgx_quote(replace(REPORT, report_data=b"\1" * 64)),
        "other data",
    ),
    "a quote of another enclave": (lambda quote: INTEL.sgx_quote(SgxReport()), "another enclave"),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_a_quote_that_nobody_would_accept_fails_at_its_source(
    change: Callable[[bytes], bytes], words: str
) -> None:
    with pytest.raises(StartRefused, match=words):
        platform(Gramine(change=change))


def test_a_quote_of_another_enclave_is_refused_later_too() -> None:
    gramine = Gramine()
    enclave = platform(gramine)
    gramine.change = lambda quote: INTEL.sgx_quote(SgxReport(report_data=REPORT_DATA))
    with pytest.raises(StartRefused, match="another enclave"):
        enclave.issue_evidence(REPORT_DATA)


def test_report_data_of_another_length_are_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="expected 64"):
        platform(Gramine()).issue_evidence(bytes(32))


@pytest.mark.parametrize("sealing", ["mrsigner", "mrenclave"])
def test_sealed_keys_open_again(sealing: str) -> None:
    options = GramineOptions(sealing=sealing)  # type: ignore[arg-type]
    blob = platform(Gramine(), options=options).seal(b"secret")
    assert b"secret" not in blob
    assert platform(Gramine(), options=options).unseal(blob) == b"secret"


UPGRADED = replace(REPORT, mrenclave=hashlib.sha256(b"more code").digest())
FOREIGN = replace(REPORT, mrsigner=hashlib.sha256(b"somebody").digest())
ELSEWHERE: dict[str, tuple[str, Gramine, bool]] = {
    "an upgrade opens what the signer's key sealed": ("mrsigner", Gramine(report=UPGRADED), True),
    "an upgrade does not open what the enclave's key sealed": ("mrenclave", Gramine(report=UPGRADED), False),
    "another signer opens nothing": ("mrsigner", Gramine(report=FOREIGN), False),
    "another machine opens nothing": ("mrsigner", Gramine(cpu="cpu 2"), False),
    "a microcode update closes everything": ("mrsigner", Gramine(cpusvn=2), False),
}


@pytest.mark.parametrize(("sealing", "gramine", "opens"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_where_sealed_keys_open(sealing: str, gramine: Gramine, opens: bool) -> None:
    options = GramineOptions(sealing=sealing)  # type: ignore[arg-type]
    blob = platform(Gramine(), options=options).seal(b"secret")
    other = platform(gramine, options=options)
    if opens:
        assert other.unseal(blob) == b"secret"
    else:
        with pytest.raises(SealingFailed, match="does not open"):
            other.unseal(blob)


def test_another_role_or_a_changed_blob_opens_nothing() -> None:
    blob = platform(Gramine()).seal(b"secret")
    with pytest.raises(SealingFailed):
        platform(Gramine(), role="kme").unseal(blob)
    enclave = platform(Gramine())
    for place in range(len(blob)):
        changed = blob[:place] + bytes((blob[place] ^ 1,)) + blob[place + 1 :]
        with pytest.raises(SealingFailed):
            enclave.unseal(changed)
        with pytest.raises(SealingFailed):
            enclave.unseal(blob[:place])


def test_a_blob_of_the_other_key_says_so() -> None:
    blob = platform(Gramine(), options=GramineOptions(sealing="mrenclave")).seal(b"secret")
    with pytest.raises(SealingFailed, match=r"under the key 'mrenclave', and 'mrsigner' is configured"):
        platform(Gramine()).unseal(blob)


def test_sealing_can_be_switched_off() -> None:
    enclave = platform(Gramine(), options=GramineOptions(sealing="none"))
    with pytest.raises(StartRefused, match="fresh keys"):
        enclave.seal(b"secret")


def test_a_key_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, words in ((bytes(16), "all zeros"), (b"k" * 32, "has"), (b"", "has 0 bytes")):
        gramine = Gramine()
        enclave = platform(gramine)
        monkeypatch.setattr(gramine, "content", lambda name, key=key: key)
        with pytest.raises(StartRefused, match=words if len(key) < 17 else "more than 16"):
            enclave.seal(b"secret")


def test_the_configuration_is_a_file_with_nothing_unknown_in_it(tmp_path: Path) -> None:
    path = tmp_path / "gramine.toml"
    options = PlatformOptions(role="singleton", config_path=path)
    for text, words in (
        ('sealing = "cpu"', "Invalid enum value 'cpu'"),
        ('seal = "mrsigner"', "unknown field `seal`"),
        ("sealing", "Expected '='"),
    ):
        path.write_text(text)
        with pytest.raises(StartRefused, match=words):
            open_platform("gramine", options)
    path.unlink()
    with pytest.raises(StartRefused, match="cannot be read"):
        open_platform("gramine", options)
