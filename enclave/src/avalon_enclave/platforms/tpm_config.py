"""The configuration of the TPM platform: one TOML file, named on the command line. Nothing in it is guessed.

    tcti = "device:/dev/tpmrm0"            how the TPM is reached, as tpm2-tss writes it
    pcrs = {sha256 = [0, 1, 2, 3, 4, 5, 7, 8, 9, 14]}    what is quoted, and what keys are sealed under
    attestation_key = "ecc"                ecc or rsa: made from our template; handle:0x81000003: persistent;
                                           template:0x01c10003: made from the template in that NV index
    certificates = ["ak.pem", "ca.pem"]    PEM or DER: the key's certificate first, up to the root
    certificate_nv = "0x01c10002"          where the key's certificate is in the TPM: then it is not in the list
    crls = ["ca.crl"]                      DER: given along with the evidence
    event_log = "/sys/kernel/security/tpm0/binary_bios_measurements"    "" for none
    os_event_log = ""                      a second log, of what the operating system measured after it
    endorsement_auth_file = "..."          the authorisation values of the hierarchies, where they have one;
    owner_auth_file = "..."                the whole file counts, also a line feed at its end

Only ``tcti``, ``pcrs``, ``attestation_key`` and ``certificates`` are required. Paths are relative to the file's folder.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from avalon_core.attestation.tpm import BankSelection
from avalon_enclave.errors import StartRefused

DEFAULT_EVENT_LOG = "/sys/kernel/security/tpm0/binary_bios_measurements"
MAX_CONFIG_BYTES = 64 * 1024
MAX_AUTH_BYTES = 64
"""An authorisation value is at most as long as the longest digest."""

_NvIndex = Annotated[str, msgspec.Meta(pattern=r"^0x01[0-9a-fA-F]{6}$")]
_Key = Annotated[
    str, msgspec.Meta(pattern=r"^(ecc|rsa|handle:0x81[0-9a-fA-F]{6}|template:0x01[0-9a-fA-F]{6})$")
]
_Pcr = Annotated[int, msgspec.Meta(ge=0, le=23)]
_Pcrs = Annotated[tuple[_Pcr, ...], msgspec.Meta(min_length=1, max_length=24)]
Bank = Literal["sha256", "sha384", "sha512"]
"""Not SHA-1: requesters refuse it."""


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tcti: Annotated[str, msgspec.Meta(min_length=1)]
    pcrs: Annotated[Mapping[Bank, _Pcrs], msgspec.Meta(min_length=1)]
    attestation_key: _Key
    certificates: tuple[str, ...]
    certificate_nv: _NvIndex | None = None
    crls: tuple[str, ...] = ()
    event_log: str = DEFAULT_EVENT_LOG
    os_event_log: str = ""
    endorsement_auth_file: str | None = None
    owner_auth_file: str | None = None


class TpmConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What :mod:`avalon_enclave.platforms.tpm` needs to know. Paths are absolute, or relative to the working folder."""

    tcti: str
    selection: Sequence[BankSelection]
    """One entry a bank, PCRs ascending and each once."""

    attestation_key: str
    certificates: tuple[Path, ...]
    certificate_nv: int | None = None
    crls: tuple[Path, ...] = ()
    event_logs: Mapping[str, Path] = {}
    """By the name of the evidence's attachment."""

    endorsement_auth_file: Path | None = None
    owner_auth_file: Path | None = None


def read_config(path: Path) -> TpmConfig:
    """Read the file.

    Raises:
        StartRefused: it cannot be read, or a member is missing, unknown or of another form.
    """
    raw = read_file(path, "--platform-config", most=MAX_CONFIG_BYTES)
    try:
        file = msgspec.convert(tomllib.loads(raw.decode()), _File)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as exc:
        raise StartRefused(
            f"--platform-config: {path}: {exc}; see docs/attestation/tpm.md for what it holds"
        ) from exc
    if not file.certificates and file.certificate_nv is None:
        raise StartRefused(
            f"--platform-config: {path}: certificates is empty: name the attestation key's certificate and its chain"
        )
    folder = path.parent
    logs = {"event_log": file.event_log, "os_event_log": file.os_event_log}
    return TpmConfig(
        tcti=file.tcti,
        selection=tuple(
            BankSelection(bank=bank, pcrs=tuple(sorted(set(pcrs)))) for bank, pcrs in file.pcrs.items()
        ),
        attestation_key=file.attestation_key,
        certificates=tuple(folder / name for name in file.certificates),
        certificate_nv=None if file.certificate_nv is None else int(file.certificate_nv, 16),
        crls=tuple(folder / name for name in file.crls),
        event_logs={name: folder / text for name, text in logs.items() if text},
        endorsement_auth_file=_under(folder, file.endorsement_auth_file),
        owner_auth_file=_under(folder, file.owner_auth_file),
    )


def read_file(path: Path, what: str, *, most: int) -> bytes:
    """Read a file of at most so many bytes.

    Raises:
        StartRefused: it cannot be read, or is larger; the message starts with ``what``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as exc:
        raise StartRefused(f"{what}: {path} cannot be read ({exc.strerror})") from exc
    if len(data) > most:
        raise StartRefused(f"{what}: {path} is too large: expected at most {most} bytes")
    return data


def read_auth(path: Path | None) -> bytes:
    """An authorisation value; empty where no file is named."""
    return b"" if path is None else read_file(path, "the authorisation file", most=MAX_AUTH_BYTES)


def _under(folder: Path, name: str | None) -> Path | None:
    return None if name is None else folder / name
