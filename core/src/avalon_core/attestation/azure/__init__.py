"""Azure confidential VMs: the envelope that Azure's paravisor (HCL) puts around an SNP report or a TDX report.

The guest does not speak to the hardware. A paravisor in the guest's own TEE does, and gives the guest a virtual TPM. The
hardware's report covers the paravisor's statement, a JSON text with the TPM's public attestation key; that key signs
quotes over what the guest booted and over data of the guest's choice. So the way of trust is: vendor's root, hardware
report, statement, TPM key, quote.

Parse (:mod:`.envelope`, :mod:`.statement`, :mod:`.tdreport`), verify (:mod:`.vtpm`, :mod:`.verify`).
"""

from avalon_core.attestation.azure.envelope import (
    HclEnvelope,
    ReportKind,
    looks_like_envelope,
    parse_envelope,
)
from avalon_core.attestation.azure.statement import RuntimeStatement, parse_statement
from avalon_core.attestation.azure.verify import AZURE, AzureFormat

__all__ = [
    "AZURE",
    "AzureFormat",
    "HclEnvelope",
    "ReportKind",
    "RuntimeStatement",
    "looks_like_envelope",
    "parse_envelope",
    "parse_statement",
]
