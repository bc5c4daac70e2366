"""Attestation documents of AWS Nitro Enclaves.

Sources: AWS Nitro Enclaves User Guide, *Verifying the root of trust*, and its fuller twin *Nitro Enclaves Attestation
Process* (github.com/aws/aws-nitro-enclaves-nsm-api, docs/attestation_process.md), cited below as **AP** with its
clauses; RFC 9052 (COSE).

What a caller must know:

- A document is valid for three hours, as long as the certificate that signed it. A worker that is to be accepted
  later has to issue a new one.
- AWS publishes no state of the platform: there is no TCB status, and no revocation is checked (AP 3.2.4 forbids it:
  what AWS withdraws ends by itself within days).
- The root is AWS's for all its commercial regions. Which account and instance ran the enclave is for the policy (PCR3,
  PCR4), and so is which code (PCR0) or who signed it (PCR8).
- NitroTPM documents of EC2 instances end in the same root, and are another thing: their registers are in
  ``nitrotpm_pcrs``, and they are refused here.
"""

from avalon_core.attestation.nitro.document import AttestationDocument, parse_document
from avalon_core.attestation.nitro.format import NITRO, NitroFormat

__all__ = ["NITRO", "AttestationDocument", "NitroFormat", "parse_document"]
