"""The TPM platform against a real TPM 2.0 in software: swtpm, started here, with an authority of our own."""

import contextlib
import hashlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from avalon_core.attestation import proof_data
from avalon_core.attestation.chains import digest_of
from avalon_core.attestation.checks import Verdict, Verification
from avalon_core.attestation.collateral import NO_COLLATERAL
from avalon_core.attestation.formats import FORMATS
from avalon_core.attestation.roots import TrustAnchor, TrustAnchors
from avalon_enclave.errors import SealingFailed, StartRefused
from avalon_enclave.platforms import PlatformOptions, open_platform, tpm_device
from avalon_enclave.platforms.tpm import TpmPlatform, describe_key
from avalon_enclave.platforms.tpm_config import read_config

REPORT_DATA = hashlib.sha256(b"keys").digest().ljust(64, b"\0")
PCR = 14
"""The one that the tests extend; it is selected, as in the log."""

START_SECONDS = 20.0
SECRET = b"the keys of a worker" * 100


def _unavailable(reason: str) -> None:
    """Skip for want of something; in CI everything must be there."""
    if os.environ.get("AVALON_REQUIRE_ALL") == "1":
        pytest.fail(f"AVALON_REQUIRE_ALL=1, but {reason}")
    pytest.skip(reason)


def _require_tools() -> None:
    if shutil.which("swtpm") is None:
        _unavailable("swtpm is not installed (on Debian: apt-get install swtpm)")
    try:
        tpm_device.load_library()
    except StartRefused as exc:
        _unavailable(
            f"{exc.message}; here: scripts/test_tools.sh as root, then rm .venv/.stamp-dev and make setup"
        )


# --- A TPM, an authority, a firmware ---------------------------------------------------------------------------------


@dataclass
class SoftwareTpm:
    """A running swtpm."""

    tcti: str
    log: bytearray = field(default_factory=bytearray)

    @contextlib.contextmanager
    def connected(self) -> Iterator[Any]:
        import tpm2_pytss

        with contextlib.closing(tpm2_pytss.ESAPI(self.tcti)) as esapi:
            yield esapi

    def measure(self, pcr: int, kind: int, data: bytes, *, logged: bool = True) -> None:
        """Extend a PCR as firmware does, and log it."""
        digest = hashlib.sha256(data).digest()
        if not self.log:
            spec = b"Spec ID Event03\0" + struct.pack("<IBBBBIHH", 0, 0, 2, 0, 2, 1, 11, 32) + b"\0"
            self.log += struct.pack("<II20sI", 0, 3, bytes(20), len(spec)) + spec
        if logged:
            self.log += struct.pack("<IIIH", pcr, kind, 1, 11) + digest + struct.pack("<I", len(data)) + data
        from tpm2_pytss.constants import ESYS_TR, TPM2_ALG
        from tpm2_pytss.types import TPML_DIGEST_VALUES, TPMT_HA, TPMU_HA

        with self.connected() as esapi:
            value = TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=digest))
            esapi.pcr_extend(ESYS_TR(pcr), TPML_DIGEST_VALUES([value]))

    def policy_digest(self, pcrs: str) -> bytes:
        """What the TPM itself says that the policy digest of these PCRs is."""
        from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_SE

        with self.connected() as esapi:
            session = esapi.start_auth_session(
                ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.TRIAL, None, TPM2_ALG.SHA256
            )
            esapi.policy_pcr(session, b"", pcrs)
            digest = bytes(esapi.policy_get_digest(session))
            esapi.flush_context(session)
        return digest

    def store(self, index: int, data: bytes, attributes: str = "authread|authwrite|ownerwrite") -> None:
        """Define an NV index and write it."""
        from tpm2_pytss.constants import TPM2_ALG, TPMA_NV
        from tpm2_pytss.types import TPM2B_NV_PUBLIC, TPMS_NV_PUBLIC

        area = TPMS_NV_PUBLIC(
            nvIndex=index, nameAlg=TPM2_ALG.SHA256, attributes=TPMA_NV.parse(attributes), dataSize=len(data)
        )
        with self.connected() as esapi:
            handle = esapi.nv_define_space(None, TPM2B_NV_PUBLIC(nvPublic=area))
            for start in range(0, len(data), 512):
                esapi.nv_write(handle, data[start : start + 512], start)

    def left_over(self) -> int:
        """Transient objects and sessions that somebody forgot in the TPM."""
        from tpm2_pytss.constants import TPM2_CAP

        count = 0
        with self.connected() as esapi:
            for first in (0x80000000, 0x02000000, 0x03000000):
                _, found = esapi.get_capability(TPM2_CAP.HANDLES, first, 64)
                count += int(found.data.handles.count)
        return count


def _free_pair() -> int:
    """A port of which the next one is free too: the TCTI expects the control channel there."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port
    raise AssertionError("no two free ports side by side")


def _start_swtpm(folder: Path, port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}"),
            *("--server", f"type=tcp,port={port},bindaddr=127.0.0.1"),
            *("--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1"),
            *("--flags", "not-need-init,startup-clear"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _is_listening(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until this very process holds both ports; False where it ended, because somebody else took one."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            held = {entry.laddr.port for entry in psutil.Process(process.pid).net_connections("tcp")}
        except psutil.Error:
            held = set()
        if held >= {port, port + 1}:
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    return False


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[SoftwareTpm]:
    _require_tools()
    folder = tmp_path / "swtpm"
    folder.mkdir()
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(5):
            port = _free_pair()
            started.append(_start_swtpm(folder, port))
            if _is_listening(started[-1], port):
                break
        else:
            pytest.fail("swtpm does not start")
        running = SoftwareTpm(tcti=f"swtpm:host=127.0.0.1,port={port}")
        yield running
        assert running.left_over() == 0
    finally:
        for process in started:
            process.terminate()
            process.wait(timeout=10)


@dataclass(frozen=True)
class Authority:
    """Certifies attestation keys. How a real one makes sure that a key is in a TPM is not its matter here."""

    key: ec.EllipticCurvePrivateKey
    root: x509.Certificate

    @classmethod
    def make(cls) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(key=key, root=_certificate("root", key.public_key(), key, ca=True))

    def certify(self, public: bytes) -> x509.Certificate:
        return _certificate("attestation key", serialization.load_pem_public_key(public), self.key, ca=False)

    def verify(self, platform: TpmPlatform, report_data: bytes = REPORT_DATA) -> Verification:
        """Issue evidence, and verify it as a requester does from the worker record."""
        kind, value = platform.issue_evidence(report_data)
        evidence, collateral = proof_data.decode(kind, value)
        anchors = TrustAnchors((TrustAnchor(name="test", sha256=digest_of(self.root)),))
        return FORMATS[evidence.format].verify(
            evidence, anchors=anchors, collateral=collateral, as_of=datetime.now(UTC)
        )


def _certificate(subject: str, key: Any, signer: Any, *, ca: bool) -> x509.Certificate:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    return (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name("root"))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )


@dataclass
class Machine:
    """A TPM with what was started on it, and its configuration."""

    tpm: SoftwareTpm
    folder: Path
    authority: Authority

    def configure(self, **changes: object) -> Path:
        """Write the configuration; a member that is None is left out."""
        (self.folder / "log").write_bytes(bytes(self.tpm.log))
        members = {
            "tcti": self.tpm.tcti,
            "attestation_key": "ecc",
            "certificates": ["ak.pem", "root.der"],
            "event_log": "log",
        } | changes
        lines = [f"{name} = {value!r}" for name, value in members.items() if value is not None]
        pcrs = changes.get("pcrs", f"{{sha256 = [0, 7, {PCR}]}}")
        path = self.folder / "tpm.toml"
        path.write_text(
            "\n".join([line for line in lines if not line.startswith("pcrs")] + [f"pcrs = {pcrs}", ""])
        )
        return path

    def certify(self, **changes: object) -> None:
        public = describe_key(read_config(self.configure(**changes))).encode()
        leaf = self.authority.certify(public[: public.index(b"name ")])
        (self.folder / "ak.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        (self.folder / "root.der").write_bytes(self.authority.root.public_bytes(serialization.Encoding.DER))

    def platform(self, *, role: str = "singleton", **changes: object) -> TpmPlatform:
        opened = open_platform("tpm", PlatformOptions(role=role, config_path=self.configure(**changes)))
        assert isinstance(opened, TpmPlatform)
        return opened


@pytest.fixture
def machine(tpm: SoftwareTpm, tmp_path: Path) -> Machine:
    variable = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c") + struct.pack("<QQ", 10, 1)
    tpm.measure(0, 8, b"firmware 1")
    tpm.measure(7, 0x80000001, variable + "SecureBoot".encode("utf-16-le") + b"\1")
    for pcr in (0, 7):
        tpm.measure(pcr, 4, bytes(4))
    tpm.measure(PCR, 13, b"MokList")
    machine = Machine(tpm=tpm, folder=tmp_path, authority=Authority.make())
    machine.certify()
    return machine


# --- Evidence --------------------------------------------------------------------------------------------------------


def test_its_evidence_verifies_under_the_authority_of_its_key(machine: Machine) -> None:
    platform = machine.platform()

    verification = machine.authority.verify(platform)

    assert all(check.verdict is Verdict.PASSED for check in verification.checks)
    claims = verification.claims
    assert claims is not None
    assert claims.report_data == REPORT_DATA
    assert (
        claims.measurement == platform.measurement() == machine.tpm.policy_digest(f"sha256:0,7,{PCR}").hex()
    )
    assert set(claims.registers) == {"pcr0", "pcr7", f"pcr{PCR}"}
    assert claims.attributes["secure_boot"] == "on"
    assert not platform.simulated
    findings = platform.findings
    assert findings["manufacturer"] == "IBM"
    assert findings["pcrs"] == f"sha256:0,7,{PCR}"
    assert findings["measurement"] == claims.measurement
    assert findings["certificate"] == "attestation key"


def test_the_attestation_key_is_the_same_every_time_and_of_either_kind(machine: Machine) -> None:
    for kind in ("rsa", "ecc"):
        machine.certify(attestation_key=kind)
        for _ in range(2):
            claims = machine.authority.verify(machine.platform(attestation_key=kind)).claims
            assert claims is not None
            assert (
                claims.attributes["signature_scheme"] == {"rsa": "rsassa", "ecc": "ecdsa"}[kind] + "-sha256"
            )


def test_report_data_of_64_bytes_is_quoted_where_the_tpm_takes_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = bytes(range(64))
    platform = machine.platform()
    claims = machine.authority.verify(platform, long).claims
    assert claims is not None
    assert claims.report_data == long
    # Most hardware knows SHA-384 at most.
    known = tpm_device.Tpm.properties
    monkeypatch.setattr(
        tpm_device.Tpm, "properties", lambda self: known(self) | {tpm_device.PT_MAX_DIGEST: 48}
    )
    assert machine.authority.verify(platform).claims is not None
    with pytest.raises(StartRefused, match="at most 50 bytes"):
        platform.issue_evidence(long)
    with pytest.raises(ValueError, match="expected 64"):
        platform.issue_evidence(b"short")


def test_the_certificate_and_the_template_may_be_in_the_tpm(machine: Machine) -> None:
    import tpm2_pytss

    template = tpm2_pytss.types.TPMT_PUBLIC.parse(
        alg="ecc_nist_p256:ecdsa-sha256:null",
        objectAttributes="fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign|stclear",
    )
    machine.tpm.store(0x01C10003, bytes(template.marshal()))
    kind = "template:0x01c10003"
    machine.certify(attestation_key=kind)
    pem = (machine.folder / "ak.pem").read_bytes()
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    machine.tpm.store(0x01C10002, der + bytes(1400 - len(der)))

    platform = machine.platform(attestation_key=kind, certificate_nv="0x01c10002", certificates=["root.der"])

    assert machine.authority.verify(platform).claims is not None


def test_a_persistent_key_is_found_by_its_handle(machine: Machine) -> None:
    from tpm2_pytss.constants import ESYS_TR
    from tpm2_pytss.types import TPM2B_PUBLIC

    template = TPM2B_PUBLIC.parse(
        alg="rsa2048:rsapss-sha256:null",
        objectAttributes="fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign",
    )
    with machine.tpm.connected() as esapi:
        handle, *_ = esapi.create_primary(None, template, ESYS_TR.ENDORSEMENT)
        esapi.evict_control(ESYS_TR.OWNER, handle, 0x81000003)
        esapi.flush_context(handle)
    machine.certify(attestation_key="handle:0x81000003")
    claims = machine.authority.verify(machine.platform(attestation_key="handle:0x81000003")).claims
    assert claims is not None
    assert claims.attributes["signature_scheme"] == "rsapss-sha256"


def test_a_key_that_signs_anything_is_refused(machine: Machine) -> None:
    from tpm2_pytss.constants import ESYS_TR
    from tpm2_pytss.types import TPM2B_PUBLIC

    template = TPM2B_PUBLIC.parse(
        alg="ecc_nist_p256:ecdsa-sha256",
        objectAttributes="fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign",
    )
    with machine.tpm.connected() as esapi:
        handle, *_ = esapi.create_primary(None, template, ESYS_TR.ENDORSEMENT)
        esapi.evict_control(ESYS_TR.OWNER, handle, 0x81000004)
        esapi.flush_context(handle)
    with pytest.raises(StartRefused, match="no restricted signing key"):
        machine.platform(attestation_key="handle:0x81000004")


def test_evidence_that_requesters_would_refuse_is_not_given_out(machine: Machine) -> None:
    platform = machine.platform()
    machine.tpm.measure(PCR, 13, b"what the log does not tell", logged=False)
    with pytest.raises(StartRefused, match="event log failed"):
        platform.issue_evidence(REPORT_DATA)
    unlogged = machine.platform(event_log="")
    claims = machine.authority.verify(unlogged).claims
    assert claims is not None
    assert claims.attributes["event_log"] == "none"
    assert unlogged.findings["event_logs"] == "none"


# --- Sealing ---------------------------------------------------------------------------------------------------------


def test_what_was_sealed_opens_on_the_same_tpm_while_the_same_was_started(machine: Machine) -> None:
    sealed = machine.platform().seal(SECRET)
    assert SECRET not in sealed
    assert machine.platform().unseal(sealed) == SECRET


def test_an_extended_pcr_changes_the_measurement_and_keeps_the_blob_shut(machine: Machine) -> None:
    platform = machine.platform()
    before, sealed = platform.measurement(), platform.seal(SECRET)

    machine.tpm.measure(PCR, 13, b"MokListX")

    assert platform.measurement() != before
    with pytest.raises(SealingFailed, match="while other software was started"):
        platform.unseal(sealed)
    claims = machine.authority.verify(machine.platform()).claims
    assert claims is not None
    assert claims.measurement == platform.measurement()


def test_a_blob_opens_for_its_role_only(machine: Machine) -> None:
    sealed = machine.platform(role="kme").seal(SECRET)
    with pytest.raises(SealingFailed, match="another role"):
        machine.platform(role="wpe").unseal(sealed)


def test_a_blob_of_another_selection_or_a_changed_one_does_not_open(machine: Machine) -> None:
    platform = machine.platform()
    sealed = platform.seal(SECRET)
    with pytest.raises(SealingFailed):
        machine.platform(pcrs="{sha256 = [0, 7]}").unseal(sealed)
    for place in (0, 20, 40, 100, 200, len(sealed) - 1):
        changed = sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
        with pytest.raises(SealingFailed):
            platform.unseal(changed)
    for cut in (0, 10, 30, 100, len(sealed) - 1):
        with pytest.raises(SealingFailed):
            platform.unseal(sealed[:cut])


def test_a_blob_of_another_tpm_does_not_open(machine: Machine) -> None:
    platform = machine.platform()
    sealed = platform.seal(SECRET)
    from tpm2_pytss.constants import ESYS_TR

    with machine.tpm.connected() as esapi:
        esapi.clear(ESYS_TR.LOCKOUT)  # a new seed of the owner's hierarchy: for sealed blobs, another TPM
    with pytest.raises(SealingFailed, match="another TPM"):
        platform.unseal(sealed)


def test_hierarchies_with_an_authorisation_value(machine: Machine) -> None:
    from tpm2_pytss.constants import ESYS_TR

    with machine.tpm.connected() as esapi:
        esapi.hierarchy_change_auth(ESYS_TR.OWNER, b"owner")
        esapi.hierarchy_change_auth(ESYS_TR.ENDORSEMENT, b"endorsement")
    (machine.folder / "owner").write_bytes(b"owner")
    (machine.folder / "endorsement").write_bytes(b"endorsement")
    platform = machine.platform(owner_auth_file="owner", endorsement_auth_file="endorsement")
    assert machine.authority.verify(platform).claims is not None
    assert platform.unseal(platform.seal(SECRET)) == SECRET
    with pytest.raises(StartRefused, match="loading the attestation key"):
        machine.platform()


# --- Configuration, and what is not there ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tcti": "swtpm:host=127.0.0.1,port=1"}, "no TPM answers"),
        ({"tcti": "nothing"}, "no TPM answers"),
        ({"attestation_key": "handle:0x81999999"}, "loading the attestation key"),
        ({"attestation_key": "rsa"}, "is not that of the attestation key rsa"),
        ({"certificates": ["root.der", "ak.pem"]}, "is not that of the attestation key ecc"),
        ({"certificates": ["missing.pem"]}, "cannot be read"),
        ({"certificates": ["log"]}, "a certificate cannot be read"),
        ({"certificate_nv": "0x01c10099", "certificates": []}, "NV index 0x01c10099"),
        ({"crls": ["missing.crl"]}, "crls: .* cannot be read"),
        ({"pcrs": "{sha512 = [0, 7]}"}, "no digests for bank sha512"),
        ({"event_log": "missing"}, "event_log: .* cannot be read"),
        ({"certificates": ["ak.pem"]}, "chain could not check"),
    ],
)
def test_what_does_not_fit_keeps_it_from_starting(
    machine: Machine, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(StartRefused, match=said):
        machine.platform(**changes).issue_evidence(REPORT_DATA)


GOOD = [
    'tcti = "device:/dev/tpmrm0"',
    'attestation_key = "ecc"',
    'certificates = ["ak.pem"]',
    "pcrs = {sha256 = [7, 0, 7]}",
]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (GOOD[1:], "tcti"),
        (GOOD[:3], "pcrs"),
        ([*GOOD, "hunch = 1"], "hunch"),
        ([*GOOD[:3], "pcrs = {sha1 = [0]}"], "sha1"),
        ([*GOOD[:3], "pcrs = {sha256 = [24]}"], "24|23"),
        ([*GOOD[:3], "pcrs = {sha256 = []}"], "length"),
        ([*GOOD[:3], "pcrs = {}"], "length"),
        ([GOOD[0], 'attestation_key = "any"', *GOOD[2:]], "regex"),
        ([GOOD[0], GOOD[1], "certificates = []", GOOD[3]], "certificates is empty"),
        (["="], "Invalid"),
        (["x" * 70_000], "too large"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(tmp_path: Path, lines: Sequence[str], said: str) -> None:
    path = tmp_path / "tpm.toml"
    path.write_text("\n".join(lines))
    with pytest.raises(StartRefused, match=said):
        read_config(path)


def test_a_configuration_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tpm.toml"
    path.write_text("\n".join([*GOOD, 'certificate_nv = "0x01C10002"', 'os_event_log = "cel"']))
    config = read_config(path)
    assert config.selection[0].pcrs == (0, 7)
    assert config.certificates == (tmp_path / "ak.pem",)
    assert config.certificate_nv == 0x01C10002
    assert dict(config.event_logs) == {
        "event_log": Path("/sys/kernel/security/tpm0/binary_bios_measurements"),
        "os_event_log": tmp_path / "cel",
    }


def test_the_platform_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StartRefused, match="--platform-config"):
        open_platform("tpm", PlatformOptions(role="singleton"))
    with pytest.raises(StartRefused, match="cannot be read"):
        open_platform("tpm", PlatformOptions(role="singleton", config_path=tmp_path / "missing"))
    path = tmp_path / "tpm.toml"
    path.write_text("\n".join(GOOD))
    monkeypatch.setitem(sys.modules, "tpm2_pytss", None)
    with pytest.raises(StartRefused, match=r"install avalon-enclave\[tpm\].*libtss2-dev"):
        open_platform("tpm", PlatformOptions(role="singleton", config_path=path))


# --- As a process ----------------------------------------------------------------------------------------------------


def test_a_hardened_enclave_process_starts_on_it_and_finds_its_keys_again(
    machine: Machine, start_enclave: Callable[..., Any]
) -> None:
    arguments = ("--platform-config", str(machine.configure()))
    enclave = start_enclave(*arguments, platform="tpm")
    started = enclave.configure(keys="sealed")
    assert (started.platform, started.simulated) == ("tpm", False)
    assert started.measurement == machine.platform().measurement()
    data = enclave.details.worker_type_data
    evidence, collateral = proof_data.decode(data.proof_data_type, data.proof_data)
    assert collateral == NO_COLLATERAL
    anchors = TrustAnchors((TrustAnchor(name="test", sha256=digest_of(machine.authority.root)),))
    verification = FORMATS["tpm"].verify(
        evidence, anchors=anchors, collateral=collateral, as_of=datetime.now(UTC)
    )
    assert verification.claims is not None
    assert enclave.quiet(0.5)
    found = next(entry for entry in enclave.logs if entry.event == "platform_found")
    assert (found.level, found.fields["measurement"]) == ("info", started.measurement)
    enclave.end()

    again = start_enclave(*arguments, platform="tpm")
    restored = again.configure(keys="sealed", sealed_keys=started.sealed_keys)
    assert restored.keys_restored
    assert again.details.worker_type_data.verification_key == data.verification_key
    again.end()

    machine.tpm.measure(PCR, 13, b"MokListX")
    changed = start_enclave("--platform-config", str(machine.configure()), platform="tpm")
    with pytest.raises(EOFError):
        changed.configure(keys="sealed", sealed_keys=started.sealed_keys)
    assert changed.wait() == 3


def test_the_key_to_certify_is_printed(machine: Machine) -> None:
    path = machine.configure()
    command = [sys.executable, "-m", "avalon_enclave.platforms.tpm"]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == describe_key(read_config(path))
    assert done.stdout.startswith("-----BEGIN PUBLIC KEY-----")
    failed = subprocess.run([*command, "missing"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "cannot be read" in failed.stderr
