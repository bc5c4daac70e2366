"""Avalon's shared words: the wire, its cryptography, and the verification of evidence.

Everything here is pure. Nothing opens a socket, reads a file or looks at a clock: bytes, keys and times are
arguments, so the same code serves the requester's SDK, the enclave and the untrusted host, and can be tested
without any of them.
"""

from avalon_core.errors import AvalonError

__all__ = ["AvalonError"]
