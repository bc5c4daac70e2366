"""Quotes of SGX enclaves that DCAP's quoting enclave made (ECDSA), of version 3."""

from avalon_core.attestation.sgx_dcap.format import SgxDcapFormat

SGX_DCAP = SgxDcapFormat()

__all__ = ["SGX_DCAP", "SgxDcapFormat"]
