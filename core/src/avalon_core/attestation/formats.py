"""The kinds of evidence that can be verified here, filled in one place.

What is not in the list cannot be checked, and what cannot be checked is refused. A verifier is loaded when evidence of
its kind is first met: an enclave that only issues evidence, and a requester who meets one kind, do without the others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from avalon_core.attestation.evidence import EvidenceFormat
from avalon_core.errors import EvidenceError


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatEntry:
    """What is known of a format before its verifier is loaded."""

    name: str
    """As in :attr:`avalon_core.attestation.evidence.Evidence.format`."""

    proof_data_type: str
    """As in worker records."""

    home: str
    """``package:ATTRIBUTE`` of the verifier, below :mod:`avalon_core.attestation`."""

    own_proof_data: bool = False
    """Its proofData has a shape of its own (:class:`avalon_core.attestation.proof_data.OwnProofData`)."""


ENTRIES = (
    FormatEntry(name="nitro", proof_data_type="TEE-NITRO", home="nitro:NITRO"),
    FormatEntry(
        name="sgx-epid", proof_data_type="TEE-SGX-IAS", home="sgx_epid:SGX_EPID", own_proof_data=True
    ),
    FormatEntry(name="tpm", proof_data_type="TEE-TPM", home="tpm:TPM"),
    FormatEntry(name="snp", proof_data_type="TEE-SNP", home="snp:SNP"),
    FormatEntry(name="sgx-dcap", proof_data_type="TEE-SGX-DCAP", home="sgx_dcap:SGX_DCAP"),
    FormatEntry(name="tdx", proof_data_type="TEE-TDX", home="tdx:TDX"),
    FormatEntry(name="azure", proof_data_type="TEE-AZURE", home="azure:AZURE"),
)
"""All of them, in the order in which evidence of unknown kind is held against them."""

_BY_NAME: Mapping[str, FormatEntry] = {entry.name: entry for entry in ENTRIES}
_BY_TYPE: Mapping[str, FormatEntry] = {entry.proof_data_type: entry for entry in ENTRIES}


class _Formats(Mapping[str, EvidenceFormat]):
    """Verifiers by name; each is loaded when it is asked for."""

    def __getitem__(self, name: str) -> EvidenceFormat:
        return _load(_BY_NAME[name].home)

    def __iter__(self) -> Iterator[str]:
        return iter(_BY_NAME)

    def __len__(self) -> int:
        return len(_BY_NAME)

    def __contains__(self, name: object) -> bool:
        return name in _BY_NAME


FORMATS: Mapping[str, EvidenceFormat] = _Formats()
"""By name."""


def format_named(name: str) -> EvidenceFormat:
    """The format of that name.

    Raises:
        EvidenceError: none is known.
    """
    return _load(entry_named(name).home)


def entry_named(name: str) -> FormatEntry:
    """What is known of the format of that name, without its verifier.

    Raises:
        EvidenceError: none is known.
    """
    entry = _BY_NAME.get(name)
    if entry is None:
        raise EvidenceError(
            f"unknown kind of evidence: got {name[:40]!r}, expected one of {', '.join(_BY_NAME)}"
        )
    return entry


def entry_of_type(proof_data_type: str) -> FormatEntry:
    """What is known of the format whose evidence has this type in worker records.

    Raises:
        EvidenceError: none is known.
    """
    entry = _BY_TYPE.get(proof_data_type)
    if entry is None:
        raise EvidenceError(
            f"unknown kind of evidence: got proofDataType {proof_data_type[:40]!r}, expected one of "
            f"{', '.join(sorted(_BY_TYPE))}"
        )
    return entry


@cache
def _load(home: str) -> EvidenceFormat:
    package, _, attribute = home.partition(":")
    known: EvidenceFormat = getattr(import_module(f"avalon_core.attestation.{package}"), attribute)
    return known
