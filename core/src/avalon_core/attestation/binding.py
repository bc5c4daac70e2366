"""How evidence commits to a worker's keys: the 64 bytes of report data."""

import hashlib

from avalon_core.protocol.encodings import encode_fields
from avalon_core.protocol.workers import KeyBinding

_DOMAIN = b"avalon worker keys 2\0"
REPORT_DATA_BYTES = 64


def report_data(
    binding: KeyBinding, *, verification_key: str, encryption_key: str, hpke_encryption_key: str
) -> bytes:
    """The report data of a worker with these keys: SHA-256 over their canonical encoding, then 32 zero bytes.

    Keys are hashed as the texts that the worker record carries (PEM, PEM and hex), with worker id, role, tenant, time of
    issue, pool and nonce. That leaves nothing of the record's keys to the host.
    """
    fields = encode_fields(
        binding.worker_id,
        binding.role,
        binding.tenant,
        str(binding.issued_at),
        binding.pool,
        binding.manifest,
        binding.nonce,
        verification_key,
        encryption_key,
        hpke_encryption_key,
    )
    return hashlib.sha256(_DOMAIN + fields).digest().ljust(REPORT_DATA_BYTES, b"\0")
