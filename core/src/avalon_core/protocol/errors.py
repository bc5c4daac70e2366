"""Codes that travel to the requester, as (space, code) pairs.

The spaces overlap (5 is "no more results" in one and "pending" in another), so there is one enumeration a space
and they are never mixed. A pair is registered once, beside its class, and :func:`wire_error` rebuilds the same
class at the other end.

    WireError
    ├── RpcError             the call never reached a method (JSON-RPC 2.0 standard codes)
    ├── GeneralError         registry and look-ups
    ├── WorkOrderError       work orders; always carries workOrderId in its data when it is known
    └── EncryptionKeyError   EncryptionKeyGet and EncryptionKeySet
"""

import enum
from collections.abc import Mapping
from typing import Any, ClassVar

from avalon_core.errors import AvalonError

MAX_FAULT_CHARS = 300
"""An answer about a bad request must not be as large as the request."""


class RpcCode(enum.IntEnum):
    """JSON-RPC 2.0, section 5.1."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INTERNAL_ERROR = -32603


class GeneralCode(enum.IntEnum):
    """Codes of registry and look-up methods (specification 1.1, general error codes)."""

    SUCCESS = 0
    UNKNOWN_ERROR = 1
    INVALID_PARAMETER = 2
    ACCESS_DENIED = 3
    INVALID_SIGNATURE = 4
    NO_MORE_RESULTS = 5
    UNSUPPORTED_MODE = 6


class WorkOrderCode(enum.IntEnum):
    """Codes of work-order methods. 6 to 10 are the original's; the specification's processing is 6 there."""

    SUCCESS = 0
    FAILED = 1
    INVALID_PARAMETER = 2
    ACCESS_DENIED = 3
    INVALID_SIGNATURE = 4
    PENDING = 5
    SCHEDULED = 6
    PROCESSING = 7
    BUSY = 8
    INVALID_WORKLOAD = 9
    UNKNOWN = 10


class EncryptionKeyCode(enum.IntEnum):
    """Codes of the encryption key methods."""

    SUCCESS = 0
    FAILED = 1
    NOT_SUPPORTED = 2
    INVALID_PARAMETER = 3
    ACCESS_DENIED = 4
    NOT_READY = 5


class WorkerStatus(enum.IntEnum):
    """Status of a worker in the directory."""

    ACTIVE = 1
    OFF_LINE = 2
    DECOMMISSIONED = 3
    COMPROMISED = 4


class WorkerType(enum.IntEnum):
    """How a worker earns trust. 0 is "any" in look-ups."""

    TEE_SGX = 1
    """A trusted execution environment; the specification names SGX and clients send 1 for every TEE."""

    MPC = 2
    ZK = 3


class WireError(AvalonError):
    """The service refused the call."""

    codes: ClassVar[type[enum.IntEnum]]

    def __init__(self, code: int, message: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = dict(data or {})

    def __str__(self) -> str:
        return f"{self.message} (code {self.code}, {self.code_name})"

    @property
    def code_name(self) -> str:
        """The code's name in its space, or ``other`` for a code that is not ours."""
        try:
            return self.codes(self.code).name.lower().replace("_", " ")
        except ValueError:
            return "other"


class RpcError(WireError):
    """The call never reached a method."""

    codes = RpcCode


class GeneralError(WireError):
    """The registry refused the call."""

    codes = GeneralCode


class WorkOrderError(WireError):
    """The work order was refused or failed."""

    codes = WorkOrderCode


class EncryptionKeyError(WireError):
    """The encryption key method was refused."""

    codes = EncryptionKeyCode


def invalid_order(message: str) -> WorkOrderError:
    """Code 2: the order's form is wrong, and says how."""
    return WorkOrderError(WorkOrderCode.INVALID_PARAMETER, message)


def failed_order(message: str) -> WorkOrderError:
    """Code 1: the order could not be processed."""
    return WorkOrderError(WorkOrderCode.FAILED, message)


def brief(fault: Exception) -> str:
    """What a decoder found wrong with what came from outside, for an answer.

    Decoders name an unknown member in full, and a name can be as long as the body.
    """
    text = str(fault)
    return text if len(text) <= MAX_FAULT_CHARS else f"{text[:MAX_FAULT_CHARS]}..."


def wire_error(
    space: type[WireError], code: int, message: str, data: Mapping[str, Any] | None = None
) -> WireError:
    """Rebuild the error that the other end raised: a negative code is always JSON-RPC's own."""
    return (RpcError if code < 0 else space)(code, message, data)
