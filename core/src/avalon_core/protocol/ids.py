"""Identifiers: hex strings of up to 32 bytes that are opaque to hashing, so case and ``0x`` matter."""

import hashlib
from typing import NewType

import msgspec

from avalon_core.errors import EncodingError
from avalon_core.protocol.encodings import decode_hex
from avalon_core.protocol.limits import MAX_ID_HEX_DIGITS

WorkOrderId = NewType("WorkOrderId", str)
"""Chosen by the requester, unique per service."""

WorkerId = NewType("WorkerId", str)
"""hex(SHA-256(UTF-8 of the worker's name))."""

WorkloadId = NewType("WorkloadId", str)
"""hex(UTF-8 of the workload's name)."""

RequesterId = NewType("RequesterId", str)
"""Chosen by the requester."""

HexStr = NewType("HexStr", str)
"""Hex of either case, whole bytes."""

Base64Str = NewType("Base64Str", str)
"""Standard base64 with padding."""

HEX_ID = msgspec.Meta(
    pattern=rf"^(0x)?[0-9a-fA-F]{{1,{MAX_ID_HEX_DIGITS}}}\Z",
    description="hex, up to 32 bytes",
)
"""The constraint that every id on the wire meets."""


def worker_id_of(worker_name: str) -> WorkerId:
    """The id under which a worker of this name is registered."""
    return WorkerId(hashlib.sha256(worker_name.encode()).hexdigest())


def workload_id_of(workload_name: str) -> WorkloadId:
    """The id that a work order gives to name this workload."""
    return WorkloadId(workload_name.encode().hex())


def workload_name_of(workload_id: str) -> str | None:
    """The workload's name, or None where the id is not hex of UTF-8 (such ids name no workload of ours)."""
    try:
        return decode_hex(workload_id.removeprefix("0x"), what="workloadId").decode()
    except (EncodingError, UnicodeDecodeError):
        return None
