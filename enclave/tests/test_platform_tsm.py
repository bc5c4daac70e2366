"""The tsm platform against a stand-in for the kernel's configfs-tsm, with the simulator's quotes and reports in it."""

import ctypes
import errno
import hashlib
import os
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from avalon_core.attestation import proof_data
from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral
from avalon_core.attestation.snp import SNP, Product
from avalon_core.attestation.tdx import TDX
from avalon_core.simulator.intel import IntelSimulator
from avalon_core.simulator.intel_tcb import validity_at
from avalon_core.simulator.quotes import TdReport
from avalon_core.simulator.roots import SIMULATOR_ROOTS
from avalon_core.simulator.snp import ReportFields, SimulatedAmd
from avalon_enclave.errors import SealingFailed, StartRefused
from avalon_enclave.platforms import PlatformOptions, open_platform
from avalon_enclave.platforms.pseudo_files import PseudoFiles
from avalon_enclave.platforms.snp_key import SNP_GET_DERIVED_KEY, SnpKeyDevice
from avalon_enclave.platforms.tsm import ATTEMPTS, REPORT_FOLDER, TsmOptions, TsmPlatform

NOW = datetime(2025, 6, 1, 12, 0, 0, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
INTEL = IntelSimulator()
AMD = SimulatedAmd(Product.GENOA)
TD = TdReport(mrtd=b"\x11" * 48, mrconfigid=b"\x22" * 48)
GUEST = ReportFields(version=3, measurement=b"\x33" * 48, host_data=b"\x44" * 32)
MAX_GENERATION = 1 << 32
_GUIDS = {
    "VCEK": "63da758d-e664-4564-adc5-f4b93be8accd",
    "ASK": "4ab7b379-bbac-4fe4-a02f-05aef327c782",
    "ARK": "c0b406a4-a803-4952-9743-3fb6014cd0ae",
}


def failing(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def table_of(*certificates: bytes) -> bytes:
    """The host's table (AMD 56421, 4.1.8.1), with the padding to pages that real hosts have."""
    entries, parts = b"", b""
    start = 24 * (len(certificates) + 1)
    for guid, der in zip(_GUIDS.values(), certificates, strict=True):
        entries += uuid.UUID(guid).bytes_le + struct.pack("<II", start + len(parts), len(der))
        parts += der
    return (entries + bytes(24) + parts).ljust(8192, b"\0")


@dataclass
class Entry:
    """A report entry (struct tsm_report_state)."""

    write_generation: int = 0
    read_generation: int = 0
    inblob: bytes = b""
    privlevel: int = 0
    outblob: bytes | None = None
    auxblob: bytes = b""


@dataclass
class Opened:
    entry: Entry
    attribute: str
    is_write: bool
    content: bytearray | None = None
    """Of a file that is read: filled by the first read. Of one that is written: what was written so far."""


@dataclass
class Kernel:
    """configfs with tsm: ``SystemCalls``. After drivers/virt/coco/guest/report.c and fs/configfs/file.c.

    A binary attribute that is written is committed when it is closed, and the outcome is lost. A report is made by the
    first read after a write, and kept until the next write.
    """

    provider: str = "tdx_guest"
    td: TdReport = TD
    guest: ReportFields = GUEST
    table: bytes = b""
    privlevel_floor: int = 0
    piece: int = 1 << 20
    module: bool = True
    """The driver's module is loaded; without it the folder is not there."""

    driver: bool = True
    """A driver has registered."""

    root: bool = True
    change: Callable[[bytes], bytes] = bytes
    read_errors: list[int] = field(default_factory=list)
    """What the next reports fail with: EBUSY is the TDX driver's while the host is at work on a quote."""

    lost_writes: int = 0
    """So many writes of an inblob are refused, and nobody is told."""

    intruder: Callable[[Entry], None] | None = None
    """Another process, at work on the entry just before a report is made."""

    entries: dict[str, Entry] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    opened: dict[int, Opened] = field(default_factory=dict)
    descriptors: int = 1000

    def mkdir(self, path: str, mode: int, /) -> None:
        name = str(Path(path).relative_to(REPORT_FOLDER))
        if not self.module:
            raise failing(errno.ENOENT)
        if not self.root:
            raise failing(errno.EACCES)
        if not self.driver:
            raise failing(errno.ENXIO)
        if name in self.entries:
            raise failing(errno.EEXIST)
        self.made.append(name)
        self.entries[name] = Entry(privlevel=self.privlevel_floor)

    def rmdir(self, path: str, /) -> None:
        del self.entries[str(Path(path).relative_to(REPORT_FOLDER))]

    def open(self, path: str, flags: int, /) -> int:
        name, attribute = Path(path).relative_to(REPORT_FOLDER).parts
        readable = {"provider", "generation", "outblob"}
        writable = {"inblob"}
        if self.provider == "sev_guest":
            readable |= {"auxblob", "privlevel_floor"}
            writable |= {"privlevel"}
        if name not in self.entries or attribute not in readable | writable:
            raise failing(errno.ENOENT)
        is_write = flags & os.O_ACCMODE == os.O_WRONLY
        if attribute not in (writable if is_write else readable):
            raise failing(errno.EACCES)
        self.descriptors += 1
        self.opened[self.descriptors] = Opened(self.entries[name], attribute, is_write)
        return self.descriptors

    def read(self, descriptor: int, length: int, /) -> bytes:
        opened = self.opened[descriptor]
        if opened.content is None:
            opened.content = bytearray(self.content(opened.entry, opened.attribute))
        taken = bytes(opened.content[: min(length, self.piece)])
        del opened.content[: len(taken)]
        return taken

    def write(self, descriptor: int, data: bytes, /) -> int:
        opened = self.opened[descriptor]
        if opened.attribute == "privlevel":
            level = int(data.decode())
            if not self.privlevel_floor <= level <= 3:
                raise failing(errno.EINVAL)
            self.advance(opened.entry)
            opened.entry.privlevel = level
            return len(data)
        taken = data[: self.piece]
        opened.content = (opened.content or bytearray()) + taken
        if len(opened.content) > 64:
            raise failing(errno.EFBIG)
        return len(taken)

    def close(self, descriptor: int, /) -> None:
        opened = self.opened.pop(descriptor)
        if opened.attribute != "inblob" or opened.content is None:
            return
        if self.lost_writes:
            self.lost_writes -= 1
            return
        try:
            self.advance(opened.entry)
        except OSError:
            return
        opened.entry.inblob = bytes(opened.content)

    def advance(self, entry: Entry) -> None:
        """As try_advance_write_generation(): it must not come around to what was read."""
        if entry.write_generation == (entry.read_generation - 1) % MAX_GENERATION:
            raise failing(errno.EBUSY)
        entry.write_generation = (entry.write_generation + 1) % MAX_GENERATION

    def content(self, entry: Entry, attribute: str) -> bytes:
        if attribute == "provider":
            return f"{self.provider}\n".encode()
        if attribute == "generation":
            return f"{entry.write_generation}\n".encode()
        if attribute == "privlevel_floor":
            return f"{self.privlevel_floor}\n".encode()
        if not entry.inblob:
            raise failing(errno.EINVAL)
        if entry.outblob is None or entry.read_generation != entry.write_generation:
            self.make_report(entry)
        assert entry.outblob is not None
        return entry.outblob if attribute == "outblob" else entry.auxblob

    def make_report(self, entry: Entry) -> None:
        if self.intruder is not None:
            self.intruder(entry)
        if self.read_errors:
            raise failing(self.read_errors.pop(0))
        if len(entry.inblob) != 64:
            raise failing(errno.EINVAL)
        if self.provider == "sev_guest":
            fields = replace(self.guest, report_data=entry.inblob, vmpl=entry.privlevel)
            entry.outblob, entry.auxblob = self.change(AMD.issue(fields).report), self.table
        else:
            entry.outblob = self.change(INTEL.tdx_quote(replace(self.td, report_data=entry.inblob)))
        entry.read_generation = entry.write_generation


@dataclass
class Pauses:
    taken: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


def platform(
    kernel: Kernel,
    options: TsmOptions | None = None,
    *,
    role: str = "singleton",
    key_device: SnpKeyDevice | None = None,
    pause: Callable[[float], None] | None = None,
) -> TsmPlatform:
    return TsmPlatform(
        options,
        role=role,
        files=PseudoFiles(REPORT_FOLDER, system=kernel),
        key_device=key_device,
        pause=pause or Pauses(),
    )


@pytest.mark.parametrize("piece", [1, 100, 1 << 20])
def test_td_evidence_goes_from_the_kernel_to_claims(piece: int) -> None:
    kernel = Kernel(piece=piece)
    machine = platform(kernel)
    kind, value = machine.issue_evidence(REPORT_DATA)
    assert kind == "TEE-TDX"
    evidence, along = proof_data.decode(kind, value)
    assert (along, evidence.attachments) == (NO_COLLATERAL, {})
    collateral = Collateral(dcap=(INTEL.collateral("tdx", validity_at(NOW)),))
    verification = TDX.verify(evidence, anchors=SIMULATOR_ROOTS, collateral=collateral, as_of=NOW)
    claims = verification.claims
    assert claims is not None, verification.checks
    assert claims.measurement == machine.measurement() == TD.mrtd.hex()
    assert claims.report_data == REPORT_DATA
    assert claims.config_id == TD.mrconfigid.hex()
    assert (kernel.entries, kernel.opened) == ({}, {})


@pytest.mark.parametrize("piece", [1, 100, 1 << 20])
def test_snp_evidence_goes_from_the_kernel_to_claims(piece: int) -> None:
    kernel = Kernel(provider="sev_guest", table=table_of(AMD.vcek(), AMD.ask, AMD.ark), piece=piece)
    machine = platform(kernel)
    kind, value = machine.issue_evidence(REPORT_DATA)
    assert kind == "TEE-SNP"
    evidence, along = proof_data.decode(kind, value)
    assert along == NO_COLLATERAL
    assert set(evidence.attachments) == {"certificate_table"}
    verification = SNP.verify(evidence, anchors=SIMULATOR_ROOTS, collateral=NO_COLLATERAL, as_of=NOW)
    claims = verification.claims
    assert claims is not None, verification.checks
    assert claims.measurement == machine.measurement() == GUEST.measurement.hex()
    assert claims.report_data == REPORT_DATA
    assert (kernel.entries, kernel.opened) == ({}, {})


@pytest.mark.parametrize("table", [b"", bytes(4096)])
def test_a_host_without_certificates_leaves_them_to_the_collateral(table: bytes) -> None:
    machine = platform(Kernel(provider="sev_guest", table=table))
    evidence, _ = proof_data.decode(*machine.issue_evidence(REPORT_DATA))
    assert evidence.attachments == {}
    assert machine.findings["host_certificates"] == "0"


def test_what_was_found_is_told() -> None:
    assert platform(Kernel()).findings == {
        "provider": "tdx_guest",
        "quote": "TDX v4",
        "debug": "false",
        "mrconfigid": TD.mrconfigid.hex(),
        **{f"rtmr{n}": "00" * 48 for n in range(4)},
        "sealing": "none",
    }
    assert platform(Kernel(provider="sev_guest"), TsmOptions(privlevel=2)).findings == {
        "provider": "sev_guest",
        "report": "SNP v3",
        "debug": "false",
        "vmpl": "2",
        "signing_key": "vcek",
        "host_certificates": "0",
        "host_data": GUEST.host_data.hex(),
        "sealing": "none",
    }
    assert platform(Kernel(td=TD.with_debug())).findings["debug"] == "true"


def test_each_report_has_an_entry_of_its_own() -> None:
    kernel = Kernel()
    machine = platform(kernel)
    machine.issue_evidence(REPORT_DATA)
    assert len(set(kernel.made)) == len(kernel.made) == 2


def test_a_quote_in_a_larger_buffer_is_cut_to_its_length() -> None:
    kernel = Kernel(change=lambda quote: quote + bytes(500))
    machine = platform(kernel)
    evidence, _ = proof_data.decode(*machine.issue_evidence(REPORT_DATA))
    assert evidence.document == INTEL.tdx_quote(replace(TD, report_data=REPORT_DATA))


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EAGAIN, errno.EINTR])
def test_a_busy_host_is_asked_again(number: int) -> None:
    kernel, pauses = Kernel(), Pauses()
    machine = platform(kernel, pause=pauses)
    kernel.read_errors = [number, number]
    machine.issue_evidence(REPORT_DATA)
    assert len(pauses.taken) == 2
    assert kernel.entries == {}


def test_a_host_that_stays_busy_refuses_the_start() -> None:
    pauses = Pauses()
    with pytest.raises(StartRefused, match=r"no report of our data in 5 attempts"):
        platform(Kernel(read_errors=[errno.EBUSY] * ATTEMPTS), pause=pauses)
    assert len(pauses.taken) == ATTEMPTS - 1


@pytest.mark.parametrize("lost", [1, 2, ATTEMPTS])
def test_a_write_that_was_lost_in_silence_is_noticed_and_made_again(lost: int) -> None:
    kernel, pauses = Kernel(), Pauses()
    machine = platform(kernel, pause=pauses)
    kernel.lost_writes = lost
    if lost < ATTEMPTS:
        evidence, _ = proof_data.decode(*machine.issue_evidence(REPORT_DATA))
        assert evidence.document == INTEL.tdx_quote(replace(TD, report_data=REPORT_DATA))
        assert len(pauses.taken) == lost
    else:
        with pytest.raises(StartRefused, match="made no report of our data"):
            machine.issue_evidence(REPORT_DATA)
    assert kernel.entries == {}


def test_somebody_who_writes_to_our_entry_is_noticed() -> None:
    kernel = Kernel()
    machine = platform(kernel)

    def once(entry: Entry) -> None:
        kernel.intruder = None
        kernel.advance(entry)
        entry.inblob = b"\xff" * 64

    kernel.intruder = once
    evidence, _ = proof_data.decode(*machine.issue_evidence(REPORT_DATA))
    assert evidence.document == INTEL.tdx_quote(replace(TD, report_data=REPORT_DATA))

    def always(entry: Entry) -> None:
        kernel.advance(entry)

    kernel.intruder = always
    with pytest.raises(StartRefused, match="another process writes to it"):
        machine.issue_evidence(REPORT_DATA)


def test_reports_in_the_kernels_own_order_only() -> None:
    """The stand-in itself: a generation that would come around to what was read takes no more writes."""
    kernel = Kernel()
    entry = Entry(write_generation=4, read_generation=5)
    with pytest.raises(OSError, match="busy"):
        kernel.advance(entry)


def test_the_privilege_level_is_written_and_counts() -> None:
    kernel = Kernel(provider="sev_guest", table=table_of(AMD.vcek(), AMD.ask, AMD.ark))
    machine = platform(kernel, TsmOptions(privlevel=3))
    assert machine.findings["vmpl"] == "3"
    machine.issue_evidence(REPORT_DATA)


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (Kernel(provider="sev_guest", privlevel_floor=2), "privlevel_floor"),
        (Kernel(provider="tdx_guest"), "Linux 6.7"),
    ],
)
def test_a_privilege_level_that_cannot_be_is_refused(kernel: Kernel, words: str) -> None:
    with pytest.raises(StartRefused, match=words):
        platform(kernel, TsmOptions(privlevel=1))
    assert kernel.entries == {}


REFUSALS = {
    "no module": (Kernel(module=False), r"Linux 6\.7 or later, configfs .* module tdx_guest or sev-guest"),
    "no driver": (Kernel(driver=False), "Is this a confidential VM"),
    "not root": (Kernel(root=False), "Only root"),
    "another vendor": (Kernel(provider="arm_cca_guest"), "expected one of tdx_guest, sev_guest"),
    "no quoting service": (Kernel(read_errors=[errno.ETIMEDOUT]), "its quoting service"),
    "an error of another kind": (Kernel(read_errors=[errno.EIO]), "dmesg"),
    "no quote": (Kernel(change=lambda quote: b""), "cannot be read"),
    "a quote that is cut": (Kernel(change=lambda quote: quote[:700]), "cannot be read"),
    "a report where a quote should be": (Kernel(change=lambda quote: AMD.issue(GUEST).report), "cannot be read"),
    "more than fits": (Kernel(change=lambda quote: quote + bytes(1 << 20)), "more than 131072"),
    "a quote of other data": (
        Kernel(change=lambda quote: INTEL.tdx_quote(replace(TD, report_data=b"\1" * 64))),
        "other data",
    ),
    "a report that is cut": (Kernel(provider="sev_guest", change=lambda report: report[:-1]), "cannot be read"),
    "a table without an end": (Kernel(provider="sev_guest", table=b"\1" * 24), "no end"),
}  # fmt: skip


@pytest.mark.parametrize(("kernel", "words"), REFUSALS.values(), ids=REFUSALS)
def test_what_keeps_the_enclave_from_starting(kernel: Kernel, words: str) -> None:
    with pytest.raises(StartRefused, match=words):
        platform(kernel)
    assert (kernel.entries, kernel.opened) == ({}, {})


def test_another_machine_than_at_the_start_is_refused() -> None:
    kernel = Kernel()
    machine = platform(kernel)
    kernel.td = replace(TD, mrtd=b"\x99" * 48)
    with pytest.raises(StartRefused, match="another machine"):
        machine.issue_evidence(REPORT_DATA)
    kernel.provider = "sev_guest"
    with pytest.raises(StartRefused, match="another machine"):
        machine.issue_evidence(REPORT_DATA)


def test_the_configured_provider_has_to_be_there() -> None:
    with pytest.raises(StartRefused, match=r"got 'tdx_guest', expected 'sev_guest'"):
        platform(Kernel(), TsmOptions(provider="sev_guest"))
    assert platform(Kernel(), TsmOptions(provider="tdx_guest")).findings["provider"] == "tdx_guest"


def test_report_data_of_another_length_are_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="expected 64"):
        platform(Kernel()).issue_evidence(bytes(32))


def test_it_is_chosen_by_name_and_needs_the_kernels_folder(tmp_path: Path) -> None:
    if not REPORT_FOLDER.exists():
        with pytest.raises(StartRefused, match=r"/sys/kernel/config/tsm/report: .* choose another platform"):
            open_platform("tsm", PlatformOptions(role="singleton"))
    path = tmp_path / "tsm.toml"
    path.write_text("privlevel = 4")
    with pytest.raises(StartRefused, match=r"`privlevel`|\$\.privlevel"):
        open_platform("tsm", PlatformOptions(role="singleton", config_path=path))


# -- Sealing


@dataclass
class SevGuest:
    """The driver of /dev/sev-guest and the firmware behind it, as far as MSG_KEY_REQ goes."""

    chip: str = "chip 1"
    firmware: int = 1
    guest: ReportFields = GUEST
    status: int = 0
    fails: int = 0
    errors: int = 0
    asked: list[tuple[int, ...]] = field(default_factory=list)

    def ioctl(self, descriptor: int, request: int, argument: bytearray) -> int:
        os.fstat(descriptor)
        if self.fails or request != SNP_GET_DERIVED_KEY or len(argument) != 32:
            raise failing(self.fails or errno.ENOTTY)
        version, asked_at, answer_at, _ = struct.unpack("=BxxxxxxxQQQ", argument)
        assert version == 1
        root, reserved, fields, vmpl, svn, tcb = struct.unpack("=IIQIIQ", ctypes.string_at(asked_at, 32))
        assert reserved == 0
        self.asked.append((root, fields, vmpl, svn, tcb))
        mixed = [self.chip, self.firmware, root, fields, vmpl, svn, tcb]
        mixed += [self.guest.policy] if fields & 1 else []
        mixed += [self.guest.measurement] if fields & 8 else []
        key = hashlib.sha256(repr(mixed).encode()).digest()
        answer = self.status.to_bytes(4, "little").ljust(32, b"\0") + (bytes(32) if self.status else key)
        ctypes.memmove(answer_at, answer, 64)
        argument[:] = struct.pack("=BxxxxxxxQQQ", version, asked_at, answer_at, self.errors)
        return 0


SEALING = TsmOptions(sealing="snp-derived-key")


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """Some file in the device's place: it has to be there and to open."""
    path = tmp_path / "sev-guest"
    path.touch()
    return path


def sealer(device: Path, driver: SevGuest, *, role: str = "singleton") -> TsmPlatform:
    key_device = SnpKeyDevice(device, ioctl=driver.ioctl)
    return platform(Kernel(provider="sev_guest"), SEALING, role=role, key_device=key_device)


def test_keys_that_the_firmware_derives_seal(device: Path) -> None:
    driver = SevGuest()
    blob = sealer(device, driver).seal(b"secret")
    assert b"secret" not in blob
    assert sealer(device, SevGuest()).unseal(blob) == b"secret"
    # The chip's key, policy and measurement mixed in, VMPL 0.
    assert driver.asked == [(0, 0b1001, 0, 0, 0)]


CLOSED = {
    "another chip": SevGuest(chip="chip 2"),
    "other firmware": SevGuest(firmware=2),
    "another image": SevGuest(guest=replace(GUEST, measurement=b"\x55" * 48)),
    "the same image, open to debugging": SevGuest(guest=replace(GUEST, policy=GUEST.policy | 1 << 19)),
}


@pytest.mark.parametrize("driver", CLOSED.values(), ids=CLOSED)
def test_where_sealed_keys_do_not_open(device: Path, driver: SevGuest) -> None:
    blob = sealer(device, SevGuest()).seal(b"secret")
    with pytest.raises(SealingFailed, match="does not open"):
        sealer(device, driver).unseal(blob)


def test_another_role_or_another_blob_does_not_open(device: Path) -> None:
    blob = sealer(device, SevGuest()).seal(b"secret")
    with pytest.raises(SealingFailed):
        sealer(device, SevGuest(), role="kme").unseal(blob)
    for other in (b"", b"nothing", blob[:40], blob.replace(b"snp-derived-key", b"tdx-derived-key")):
        with pytest.raises(SealingFailed):
            sealer(device, SevGuest()).unseal(other)


def test_tdx_cannot_seal_and_says_what_stands_in_its_place() -> None:
    machine = platform(Kernel())
    for refuse in (machine.seal, machine.unseal):
        with pytest.raises(StartRefused, match=r"TDX cannot seal.*fresh keys.*pool"):
            refuse(b"secret")
    with pytest.raises(StartRefused, match="only SEV-SNP derives keys"):
        platform(Kernel(), SEALING)


def test_sealing_is_nobodys_guess_on_snp() -> None:
    machine = platform(Kernel(provider="sev_guest"))
    with pytest.raises(StartRefused, match='say sealing = "snp-derived-key"'):
        machine.seal(b"secret")


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (SevGuest(fails=errno.ENOTTY), "no derived keys"),
        (SevGuest(fails=errno.EIO), "the firmware or the host refuses"),
        (SevGuest(status=0x16), "status 0x16"),
        (SevGuest(errors=1), "errors 0x1"),
    ],
)
def test_a_firmware_that_derives_no_key_is_refused(device: Path, driver: SevGuest, words: str) -> None:
    with pytest.raises(StartRefused, match=words):
        sealer(device, driver).seal(b"secret")


def test_without_the_device_sealing_is_refused_clearly(tmp_path: Path) -> None:
    missing = SnpKeyDevice(tmp_path / "nothing")
    machine = platform(Kernel(provider="sev_guest"), SEALING, key_device=missing)
    with pytest.raises(StartRefused, match=r"kernel module sev-guest.*fresh keys"):
        machine.seal(b"secret")


def test_a_file_that_is_no_device_is_refused_by_the_kernel_itself(device: Path) -> None:
    machine = platform(Kernel(provider="sev_guest"), SEALING, key_device=SnpKeyDevice(device))
    with pytest.raises(StartRefused, match="not the device of SEV guests"):
        machine.seal(b"secret")
