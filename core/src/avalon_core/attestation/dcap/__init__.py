"""What Intel's quotes of SGX and TDX share: header, certification data, collateral, verification.

A quote is read by :mod:`~avalon_core.attestation.dcap.quotes`, then verified by
:mod:`~avalon_core.attestation.dcap.verification`, whose docstring lists the checks. The kinds of evidence themselves
are in :mod:`~avalon_core.attestation.sgx_dcap` and :mod:`~avalon_core.attestation.tdx`.
"""
