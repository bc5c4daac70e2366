"""Confidential VMs (Intel TDX, AMD SEV-SNP) on Linux 6.7 or later: evidence from configfs-tsm.

One folder of the kernel's serves both, and says which of them it is in ``provider``:

    mkdir REPORT/NAME           an entry of one's own
    generation                  how often this entry was written to
    privlevel                   SEV-SNP: the VMPL that the report is to speak of (where it is configured)
    inblob                      written: the 64 bytes of report data
    outblob                     read: the quote (tdx_guest) or the report (sev_guest), made as it is read
    auxblob                     read: sev_guest: the host's table of certificates, where the host gives one

**The kernel ignores what becomes of ``inblob`` when it is closed**, so that a write that it refused looks like one that it
took. Only ``generation`` tells: it must have grown by exactly the writes that were made here, before the report is read and
after it. Each report has an entry of its own and is checked for the data that were asked for, all the same.

What is measured is the virtual machine's first image (MRTD, or SNP's launch measurement): **not this program**, unless that
image pins what it starts. See docs/attestation/platforms.md.

Sealing: TDX has none. SEV-SNP has keys that its firmware derives, which is configured; see
:mod:`avalon_enclave.platforms.snp_key`.

Source: the kernel's Documentation/ABI/testing/configfs-tsm-report and drivers/virt/coco/guest/report.c; fs/configfs/file.c.
"""

import errno
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from avalon_core.attestation import proof_data
from avalon_core.attestation.evidence import MAX_ATTACHMENT_BYTES, MAX_DOCUMENT_BYTES, Evidence
from avalon_core.errors import EvidenceError
from avalon_enclave.errors import SealingFailed, StartRefused
from avalon_enclave.platforms.hardware_sealing import key_name_of, seal_under, unseal_under
from avalon_enclave.platforms.pseudo_files import PseudoFiles
from avalon_enclave.platforms.snp_key import SnpKeyDevice

REPORT_FOLDER = Path("/sys/kernel/config/tsm/report")
REPORT_DATA_BYTES = 64
ATTEMPTS = 5
"""To have one report made: the host may be at work on an earlier quote, and takes a second or so."""

PAUSE_SECONDS = 1.0
_MAX_TEXT_BYTES = 64
_PASSING = frozenset({errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ETXTBSY})
_KEY_NAME = "snp-derived-key"

Provider = Literal["tdx_guest", "sev_guest"]
PROVIDERS: tuple[Provider, ...] = ("tdx_guest", "sev_guest")


class TsmOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The platform's configuration."""

    provider: Provider | None = None
    """Which kind of machine this has to be. Without it either is taken, and the log tells which."""

    privlevel: Annotated[int, msgspec.Meta(ge=0, le=3)] | None = None
    """SEV-SNP: the VMPL that reports speak of. Without it the kernel's default."""

    sealing: Literal["none", "snp-derived-key"] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    """One answer of the kernel, and what it says of itself."""

    evidence: Evidence
    provider: Provider
    measurement: bytes
    report_data: bytes
    described: Mapping[str, str]


class TsmPlatform:
    """See the module. Satisfies :class:`avalon_enclave.platforms.base.Platform` and ``Reporting``."""

    name = "tsm"
    simulated = False

    def __init__(
        self,
        options: TsmOptions | None = None,
        *,
        role: str,
        files: PseudoFiles | None = None,
        key_device: SnpKeyDevice | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Have a first report made, and look at it.

        Raises:
            StartRefused: no such interface, not the machine that is configured, or no report is made.
        """
        self._options = options or TsmOptions()
        self._role = role
        self._files = files or PseudoFiles(REPORT_FOLDER)
        self._key_device = key_device or SnpKeyDevice()
        self._pause = pause
        self._lock = threading.Lock()
        # Whether the host makes quotes is to be known now, not when the first requester asks.
        first = self._report(bytes(REPORT_DATA_BYTES))
        self._provider = first.provider
        self._measurement = first.measurement
        if self._options.sealing != "none" and self._provider != "sev_guest":
            raise StartRefused(
                f'sealing = "snp-derived-key" on a machine of {self._provider}: only SEV-SNP derives keys. '
                "TDX cannot seal: take sealing out of the configuration"
            )
        self._findings = {
            "provider": first.provider,
            **first.described,
            "sealing": self._options.sealing,
        }

    @property
    def findings(self) -> Mapping[str, str]:
        """What was found at the start, for the operator."""
        return self._findings

    def measurement(self) -> str:
        """Hex of MRTD, or of SNP's launch measurement: 48 bytes."""
        return self._measurement.hex()

    def issue_evidence(self, report_data: bytes) -> tuple[str, Any]:
        """See :meth:`avalon_enclave.platforms.base.Platform.issue_evidence`.

        Raises:
            StartRefused: no report was made, or it is of other data or of another machine.
        """
        if len(report_data) != REPORT_DATA_BYTES:
            raise ValueError(f"report data of {len(report_data)} bytes, expected {REPORT_DATA_BYTES}")
        report = self._report(report_data)
        if (report.provider, report.measurement) != (self._provider, self._measurement):
            raise StartRefused("the report is of another machine than at the start: do not run on this one")
        return proof_data.encode(report.evidence)

    def seal(self, secret: bytes) -> bytes:
        return seal_under(self._key(), _KEY_NAME, self._role, secret)

    def unseal(self, sealed: bytes) -> bytes:
        key = self._key()
        named = key_name_of(sealed)
        if named != _KEY_NAME:
            raise SealingFailed(
                f"the blob was sealed under the key {named!r}, which this platform does not have"
            )
        return unseal_under(key, self._role, sealed)

    def _key(self) -> bytes:
        if self._provider == "tdx_guest":
            raise StartRefused(
                "TDX cannot seal: a trust domain has no key that outlives it. Configure fresh keys (the worker has a new "
                "identity with each start), or keep keys in a pool, whose KMEs give them to those they appraise"
            )
        if self._options.sealing == "none":
            raise StartRefused(
                'keys are to be sealed, and sealing is not configured: say sealing = "snp-derived-key" in '
                "--platform-config (it needs /dev/sev-guest), or configure fresh keys"
            )
        return self._key_device.derive(vmpl=self._options.privlevel or 0)

    def _report(self, report_data: bytes) -> _Report:
        """Have a report made and read it, several times where the kernel or the host is busy.

        Raises:
            StartRefused: see :meth:`issue_evidence`.
        """
        with self._lock:
            for attempt in range(1, ATTEMPTS + 1):
                provider, document, table = self._attempt(report_data)
                if document is not None:
                    break
                if attempt < ATTEMPTS:
                    self._pause(PAUSE_SECONDS)
            else:
                raise StartRefused(
                    f"--platform tsm: {self._files.folder} made no report of our data in {ATTEMPTS} attempts: another "
                    "process writes to it, or the host is at work on an earlier quote and does not finish. Look at the "
                    "host's quoting service, and start again"
                )
        report = _READERS[provider](document, table)
        if report.report_data != report_data:
            raise StartRefused(
                "the report vouches for other data than was asked for: do not run on this machine"
            )
        return report

    def _attempt(self, report_data: bytes) -> tuple[Provider, bytes | None, bytes]:
        """Provider, report and table; no report where it has to be tried again."""
        with self._entry() as entry:
            provider = self._provider_of(entry)
            writes = [("inblob", report_data)]
            if self._options.privlevel is not None:
                writes.insert(0, ("privlevel", str(self._options.privlevel).encode()))
            try:
                expected = self._generation(entry) + len(writes)
                for attribute, value in writes:
                    self._files.write(f"{entry}/{attribute}", value)
                if self._generation(entry) != expected:
                    return provider, None, b""
                document = self._files.read(f"{entry}/outblob", most=MAX_DOCUMENT_BYTES)
                table = self._table(entry, provider)
                # The table may be of another report than the document only where somebody wrote between.
                is_ours = self._generation(entry) == expected
            except OSError as exc:
                if exc.errno in _PASSING:
                    return provider, None, b""
                raise self._refused("its report", exc) from exc
            return provider, document if is_ours else None, table

    @contextmanager
    def _entry(self) -> Iterator[str]:
        """An entry of our own, for one report."""
        name = f"avalon-{secrets.token_hex(8)}"
        try:
            self._files.make_folder(name)
        except OSError as exc:
            raise self._refused("an entry", exc) from exc
        try:
            yield name
        finally:
            # What is left of it does nobody harm: its name is never used again.
            with suppress(OSError):
                self._files.remove_folder(name)

    def _provider_of(self, entry: str) -> Provider:
        found = self._text(entry, "provider")
        wanted = self._options.provider
        if wanted is not None and found != wanted:
            raise StartRefused(
                f"--platform tsm: this machine's provider: got {found!r}, expected {wanted!r}, as is configured"
            )
        if found not in PROVIDERS:
            raise StartRefused(
                f"--platform tsm: this machine's provider: got {found!r}, expected one of {', '.join(PROVIDERS)}: evidence "
                "of others cannot be verified here"
            )
        return found

    def _generation(self, entry: str) -> int:
        text = self._text(entry, "generation")
        if not text.isdecimal():
            raise StartRefused(f"--platform tsm: the entry's generation: got {text!r}, expected a number")
        return int(text)

    def _text(self, entry: str, attribute: str) -> str:
        try:
            raw = self._files.read(f"{entry}/{attribute}", most=_MAX_TEXT_BYTES)
        except OSError as exc:
            raise self._refused(attribute, exc) from exc
        return raw.decode("ascii", "replace").strip()

    def _table(self, entry: str, provider: Provider) -> bytes:
        """The host's certificates. That there are none is usual: not every host gives any."""
        if provider != "sev_guest":
            return b""
        try:
            return self._files.read(f"{entry}/auxblob", most=MAX_ATTACHMENT_BYTES)
        except FileNotFoundError:
            return b""

    def _refused(self, what: str, exc: OSError) -> StartRefused:
        return StartRefused(
            f"--platform tsm: {what} in {self._files.folder}: {exc.strerror or 'unknown error'}. {_remedy(exc)}"
        )


def _remedy(exc: OSError) -> str:
    known = {
        errno.ENOENT: "It takes Linux 6.7 or later, configfs (mount -t configfs none /sys/kernel/config) and the module "
        "tdx_guest or sev-guest; elsewhere choose another platform",
        errno.ENXIO: "No driver has registered: load the module tdx_guest or sev-guest. Is this a confidential VM?",
        errno.ENOTTY: "The driver was removed: load the module tdx_guest or sev-guest again",
        errno.EACCES: "Only root may make entries: start the enclave as root, or give it the folder",
        errno.EPERM: "Only root may make entries: start the enclave as root, or give it the folder",
        errno.EINVAL: "The driver refuses the request: is privlevel below privlevel_floor, or not for this kind of machine?",
        errno.ETIMEDOUT: "The host made no quote in time: look at its quoting service",
    }
    return known.get(exc.errno or 0, "Look at the kernel's log (dmesg)")


def _read_td_quote(document: bytes, _table: bytes) -> _Report:
    # What is not this machine's does not get loaded in it.
    from avalon_core.attestation.tdx import TDX
    from avalon_core.attestation.tdx.format import parse_tdx_quote
    from avalon_core.attestation.tdx.report import is_debug, parse_td_report

    with _reading():
        quote = parse_tdx_quote(document)
        report = parse_td_report(quote.body, quote.body_type)
    described = {
        "quote": f"TDX v{quote.header.version}",
        "debug": str(is_debug(report)).lower(),
        "mrconfigid": report.mrconfigid.hex(),
        **{f"rtmr{n}": value.hex() for n, value in enumerate(report.rtmr)},
    }
    # The driver hands out its whole buffer on some hosts; zeros after the quote belong to nothing.
    whole = document[: len(document) - quote.trailing]
    return _Report(
        evidence=Evidence(format=TDX.name, document=whole),
        provider="tdx_guest",
        measurement=report.mrtd,
        report_data=report.report_data,
        described=described,
    )


def _read_snp_report(document: bytes, table: bytes) -> _Report:
    from avalon_core.attestation.snp import SNP, SigningKey, parse_report
    from avalon_core.attestation.snp.certificates import parse_certificate_table
    from avalon_core.attestation.snp.verify import CERTIFICATE_TABLE

    with _reading():
        report = parse_report(document)
        parts = parse_certificate_table(table) if table.strip(b"\0") else None
    known = report.signing_key in list(SigningKey)
    described = {
        "report": f"SNP v{report.version}",
        "debug": str(report.policy_bits["debug"]).lower(),
        "vmpl": str(report.vmpl),
        "signing_key": SigningKey(report.signing_key).name.lower() if known else str(report.signing_key),
        "host_certificates": str(len(parts.certificates) if parts is not None else 0),
        "host_data": report.host_data.hex(),
    }
    attachments = {CERTIFICATE_TABLE: table} if parts is not None else {}
    return _Report(
        evidence=Evidence(format=SNP.name, document=document, attachments=attachments),
        provider="sev_guest",
        measurement=report.measurement,
        report_data=report.report_data,
        described=described,
    )


@contextmanager
def _reading() -> Iterator[None]:
    """Evidence that nobody can read must fail here, where the cause is known, and not at every requester."""
    try:
        yield
    except EvidenceError as exc:
        raise StartRefused(f"the kernel gave a report that cannot be read: {exc.message}") from None


_READERS: Mapping[Provider, Callable[[bytes, bytes], _Report]] = {
    "tdx_guest": _read_td_quote,
    "sev_guest": _read_snp_report,
}
