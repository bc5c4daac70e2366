"""What verified evidence says, in one vocabulary for every kind of TEE."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

REPORT_DATA_BYTES = 64
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Tee(enum.StrEnum):
    """What protects the code."""

    SGX = "sgx"
    TDX = "tdx"
    SNP = "snp"
    NITRO = "nitro"
    TPM = "tpm"
    """Measured boot of a machine with a TPM: integrity of what was started, no protection of memory."""


class TcbStatus(enum.StrEnum):
    """How the vendor judges the platform's state, in Intel's words (PCS v4 TCB info); others map onto them."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"
    REVOKED = "Revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What verified evidence says. That it is acceptable is a separate step, the appraisal.

    All hexadecimal texts are lower case.
    """

    tee: Tee

    format: str
    """The name of the format and its version, for people: ``SGX quote v3``."""

    root: str
    """The name of the known root that the chain ends in: see :mod:`avalon_core.attestation.roots`."""

    simulated: bool
    """No hardware stands behind these claims: the root is a simulator's."""

    measurement: str
    """Hex of the identity of the code: MRENCLAVE, MRTD, the SNP launch measurement, PCR0 of a Nitro image.

    For a TPM: the policy digest (SHA-256) of TPM2_PolicyPCR over the quoted PCRs. A digest over the values alone would
    not tell which PCRs have them, and an operator can bring others to the same values.
    """

    report_data: bytes
    """64 bytes that the attested code chose; a shorter value is padded with zeros at its end."""

    debug: bool
    """The operator can look into the TEE."""

    registers: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """Further measured registers by lower-case name: ``rtmr0``, ``pcr8``; with ``mrtd``/``pcr0`` repeated."""

    signer: str | None = None
    """Hex of who signed the code: MRSIGNER, MRSIGNERSEAM does not count, SNP's author key digest, Nitro's PCR8."""

    product_id: int | None = None
    """ISVPRODID."""

    svn: int | None = None
    """The security version of the code: ISVSVN, the SNP guest SVN."""

    tcb_status: TcbStatus | None = None
    """The vendor's judgement as of the collateral; None where the vendor gives none for this kind of evidence."""

    advisories: frozenset[str] = frozenset()
    """The advisories that the vendor lists for the platform's state: ``INTEL-SA-00615``."""

    tcb: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """The platform's security versions in detail, for people and for minimums: ``microcode``, ``pcesvn``, ``seam``."""

    fmspc: str | None = None
    """Hex, 6 bytes: Intel's platform family, model and stepping."""

    chip_id: str | None = None
    """Hex: which very machine, where the evidence tells (SNP CHIP_ID, Intel's PPID, Nitro's module id as text)."""

    config_id: str | None = None
    """Hex: what was configured at launch and measured apart: SGX CONFIGID (64 bytes), TDX MRCONFIGID (48), SNP HOST_DATA."""

    config_svn: int | None = None
    """SGX CONFIGSVN."""

    family_id: str | None = None
    """Hex, 16 bytes: SGX ISVFAMILYID, SNP FAMILY_ID."""

    ext_product_id: str | None = None
    """Hex, 16 bytes: SGX ISVEXTPRODID, SNP IMAGE_ID."""

    owner: str | None = None
    """Hex: TDX MROWNER, SNP ID key digest."""

    attributes: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """All other fields that a policy or a person may ask for, by lower-case name."""

    issued_at: int | None = None
    """Unix seconds of the evidence's own signed time; None where it carries none (SGX, TDX, SNP and TPM quotes)."""

    collateral_expires: int | None = None
    """Unix seconds: the earliest end of what the verdict rests on (TCB info, CRLs, certificates)."""

    tcb_evaluation: int | None = None
    """Intel's tcbEvaluationDataNumber."""

    def __post_init__(self) -> None:
        if len(self.report_data) != REPORT_DATA_BYTES:
            raise ValueError(f"report data of {len(self.report_data)} bytes, expected {REPORT_DATA_BYTES}")
