"""The quoting process of a SIMULATED machine: ``python -m avalon_service.quoting``.

It takes the part of a machine's quoting enclave (as aesmd and its enclaves do for SGX) and of the vendor behind it: it
owns the vendor's seed and answers enclaves on a Unix socket. It is no part of the trusted zone, and protects nothing.
"""
