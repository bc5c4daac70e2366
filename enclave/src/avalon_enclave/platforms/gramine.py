"""Intel SGX under Gramine: evidence and sealing keys from the pseudo files in ``/dev/attestation``.

Gramine makes these files up inside the enclave. What its manifest must say is in docs/attestation/platforms.md; the
first of it is ``sgx.remote_attestation = "dcap"``.

- ``attestation_type``: ``dcap``. Anything else issues no evidence that is accepted here.
- ``my_target_info``: 512 bytes, of which the first 32 are this enclave's MRENCLAVE.
- ``user_report_data``: 64 bytes that are written, then ``quote``, which is made as it is opened. Report data belong to the
  whole process, so one quote is made at a time.
- ``keys/_sgx_mrsigner``, ``keys/_sgx_mrenclave``: 16 bytes that the processor derives (EGETKEY). The first is the same for
  every enclave of this signer, product id and security version on this processor; the second for this very enclave.

Which of the two seals is configured; the signer's is the default, for the reason that is given in
:mod:`avalon_enclave.platforms.simulated`. Both change with the processor's security version (CPUSVN): **after a
microcode or BIOS update that raises it, sealed keys no longer open** and a worker has a new identity.

Source: Gramine documentation, "Attestation and Secret Provisioning" and "Manifest syntax"; Intel SDM volume 3D, EGETKEY
and TARGETINFO.
"""

import errno
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from avalon_core.attestation import proof_data
from avalon_core.attestation.dcap.quotes import Quote, SgxReport, parse_sgx_report
from avalon_core.attestation.evidence import MAX_DOCUMENT_BYTES, Evidence
from avalon_core.attestation.sgx_dcap import SGX_DCAP
from avalon_core.attestation.sgx_dcap.format import parse_sgx_quote
from avalon_core.errors import EvidenceError
from avalon_enclave.errors import SealingFailed, StartRefused
from avalon_enclave.platforms.hardware_sealing import key_name_of, seal_under, unseal_under
from avalon_enclave.platforms.pseudo_files import PseudoFiles

DEVICE = Path("/dev/attestation")
REPORT_DATA_BYTES = 64
TARGET_INFO_BYTES = 512
KEY_BYTES = 16
_MRENCLAVE_BYTES = 32
_MAX_NAME_BYTES = 64
_DEBUG = 0x02
"""ATTRIBUTES.DEBUG, in the lowest byte."""

_KEY_FILES = {"mrsigner": "keys/_sgx_mrsigner", "mrenclave": "keys/_sgx_mrenclave"}


class GramineOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The platform's configuration."""

    sealing: Literal["mrsigner", "mrenclave", "none"] = "mrsigner"
    """Whose key seals: of all enclaves of this signer, of this very enclave, nobody's."""


class GraminePlatform:
    """See the module. Satisfies :class:`avalon_enclave.platforms.base.Platform` and ``Reporting``."""

    name = "gramine"
    simulated = False

    def __init__(
        self, options: GramineOptions | None = None, *, role: str, files: PseudoFiles | None = None
    ) -> None:
        """Look at what Gramine offers, and have a first quote made.

        Raises:
            StartRefused: not under Gramine on SGX, no DCAP attestation, or the quoting service does not answer.
        """
        self._options = options or GramineOptions()
        self._role = role
        self._files = files or PseudoFiles(DEVICE)
        self._lock = threading.Lock()
        self._require_dcap()
        target_info = self._read("my_target_info", TARGET_INFO_BYTES)
        if len(target_info) != TARGET_INFO_BYTES:
            raise _unexpected("my_target_info", len(target_info), TARGET_INFO_BYTES)
        # Whether the quoting service works is to be known now, not when the first requester asks.
        _, quote, report = self._quote(bytes(REPORT_DATA_BYTES))
        self._mrenclave = report.mrenclave
        if self._mrenclave != target_info[:_MRENCLAVE_BYTES]:
            raise StartRefused("the quote is of another enclave than this one: do not run on this machine")
        self._findings = {
            "attestation_type": "dcap",
            "quote": f"SGX v{quote.header.version}",
            "mrsigner": report.mrsigner.hex(),
            "product_id": str(report.isvprodid),
            "svn": str(report.isvsvn),
            "debug": str(bool(report.attributes[0] & _DEBUG)).lower(),
            "certification_data": quote.signature.certification.type.name.lower(),
            "sealing": self._options.sealing,
        }

    @property
    def findings(self) -> Mapping[str, str]:
        """What was found at the start, for the operator."""
        return self._findings

    def measurement(self) -> str:
        """Hex of MRENCLAVE, from the quote's report."""
        return self._mrenclave.hex()

    def issue_evidence(self, report_data: bytes) -> tuple[str, Any]:
        """See :meth:`avalon_enclave.platforms.base.Platform.issue_evidence`.

        Raises:
            StartRefused: no quote was made, or it is of other data or of another enclave.
        """
        if len(report_data) != REPORT_DATA_BYTES:
            raise ValueError(f"report data of {len(report_data)} bytes, expected {REPORT_DATA_BYTES}")
        document, _, report = self._quote(report_data)
        if report.mrenclave != self._mrenclave:
            raise StartRefused("the quote is of another enclave than this one: do not run on this machine")
        return proof_data.encode(Evidence(format=SGX_DCAP.name, document=document))

    def seal(self, secret: bytes) -> bytes:
        return seal_under(self._key(self._key_name()), self._key_name(), self._role, secret)

    def unseal(self, sealed: bytes) -> bytes:
        named = key_name_of(sealed)
        if named != self._key_name():
            raise SealingFailed(
                f"the blob was sealed under the key {named!r}, and {self._key_name()!r} is configured: give the "
                "configuration that it was sealed with, or make fresh keys"
            )
        return unseal_under(self._key(named), self._role, sealed)

    def _key_name(self) -> str:
        if self._options.sealing == "none":
            raise StartRefused(
                'sealing is switched off (sealing = "none"): configure fresh keys, or sealing = "mrsigner"'
            )
        return self._options.sealing

    def _key(self, name: str) -> bytes:
        key = self._read(_KEY_FILES[name], KEY_BYTES)
        if len(key) != KEY_BYTES:
            raise _unexpected(_KEY_FILES[name], len(key), KEY_BYTES)
        if not any(key):
            raise StartRefused(f"{self._at(_KEY_FILES[name])} is all zeros, which is no key of a processor")
        return key

    def _require_dcap(self) -> None:
        kind = self._read("attestation_type", _MAX_NAME_BYTES).rstrip(b"\0\n").decode("ascii", "replace")
        if kind != "dcap":
            raise StartRefused(
                f"Gramine's attestation type: got {kind!r}, expected 'dcap'. Say sgx.remote_attestation = \"dcap\" in "
                "the manifest, and sign it anew"
            )

    def _quote(self, report_data: bytes) -> tuple[bytes, Quote, SgxReport]:
        with self._lock:
            self._write("user_report_data", report_data)
            document = self._read("quote", MAX_DOCUMENT_BYTES)
        try:
            quote = parse_sgx_quote(document)
            report = parse_sgx_report(quote.body)
        except EvidenceError as exc:
            raise StartRefused(f"Gramine made a quote that cannot be read: {exc.message}") from None
        if report.report_data != report_data:
            raise StartRefused(
                "the quote vouches for other data than was written: does another part of this process write "
                f"{self._at('user_report_data')}?"
            )
        return document, quote, report

    def _read(self, name: str, most: int) -> bytes:
        try:
            return self._files.read(name, most=most)
        except OSError as exc:
            raise self._refused(name, exc) from exc

    def _write(self, name: str, data: bytes) -> None:
        try:
            self._files.write(name, data)
        except OSError as exc:
            raise self._refused(name, exc) from exc

    def _refused(self, name: str, exc: OSError) -> StartRefused:
        return StartRefused(
            f"--platform gramine: {self._at(name)}: {exc.strerror or 'unknown error'}. {_remedy(name, exc)}"
        )

    def _at(self, name: str) -> str:
        return str(self._files.folder / name)


def _remedy(name: str, exc: OSError) -> str:
    if exc.errno in (errno.ENOENT, errno.ENOTDIR):
        return (
            "It is there only under Gramine on SGX (gramine-sgx, not gramine-direct), from a manifest with "
            'sgx.remote_attestation = "dcap"; elsewhere choose another platform'
        )
    if name == "quote":
        return (
            "Gramine asks the machine's AESM service for quotes: is aesmd running, is its socket visible, and is a "
            "quote provider library with a PCCS configured?"
        )
    return "Is this a version of Gramine that docs/attestation/platforms.md names?"


def _unexpected(name: str, got: int, expected: int) -> StartRefused:
    return StartRefused(
        f"--platform gramine: {name} has {got} bytes, expected {expected}: this is not the interface of Gramine that is "
        "known here"
    )
