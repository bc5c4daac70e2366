"""Attestation verification reports (AVR) of Intel's Attestation Service for EPID (IAS), API versions 2 to 5.

IAS checked an enclave's EPID quote and signed its verdict, with the quote's body inside. Sources: Intel, *Attestation
Service for Intel SGX: API Documentation*, revisions 3.0 (API v2, v3) to 7.1 (API v5), cited as **IAS** with the
titles of its clauses, whose numbers changed; Intel SDM vol. 3D for the report body; EEA Off-Chain Trusted Compute
Specification 1.1, 8.2.1, for proofData.

What a caller must know:

- The service ended in April 2025 and its signing certificate on 2026-11-20. A report is judged as of its own signed
  time; how old a report may be is the policy's word (:attr:`Claims.issued_at`).
- The verdict on the platform is of that time too. Nobody can say today what has become of that platform's TCB.
- The certificate chain has no revocation here: Intel's CRL for it is no longer served.
"""

from avalon_core.attestation.sgx_epid.format import SGX_EPID, SgxEpidFormat
from avalon_core.attestation.sgx_epid.proof_data import from_proof_data, to_proof_data
from avalon_core.attestation.sgx_epid.quote_body import QuoteBody, parse_quote_body
from avalon_core.attestation.sgx_epid.report import Report, parse_report

__all__ = [
    "SGX_EPID",
    "QuoteBody",
    "Report",
    "SgxEpidFormat",
    "from_proof_data",
    "parse_quote_body",
    "parse_report",
    "to_proof_data",
]
