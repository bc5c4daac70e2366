"""What evidence says, in one vocabulary for every kind of TEE."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What verified evidence says. That it is acceptable is a separate step, the appraisal."""

    platform: str
    """``simulated``; later ``sgx``, ``tdx``, ``snp``, ``nitro``, ``tpm``."""

    simulated: bool
    """No hardware stands behind these claims."""

    measurement: str
    """Hex of SHA-256 over the enclave's code and configuration."""

    report_data: bytes
    """64 bytes that the enclave chose."""

    debug: bool
    """The operator can look into the enclave."""

    issued_at: int
    """Unix seconds, as the platform says."""
