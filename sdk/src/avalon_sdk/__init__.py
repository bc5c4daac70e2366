"""What a requester uses: a client that checks a worker before anything is sealed to it, and every result before
anything of it is returned.

    async with AvalonClient("http://127.0.0.1:1947") as client:
        outcome = await client.run("echo-result", ["hello"])
        print(outcome.texts())

:mod:`avalon_sdk.sync` has the same client for code that is not asynchronous; :mod:`avalon_sdk.testing` a whole
service in memory. Names are loaded when they are first used, so that the command line starts quickly.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avalon_core.attestation import AppraisalReport, Check, Measurements, TrustPolicy, Verdict
    from avalon_core.crypto.signing import SigningKey, VerificationKey
    from avalon_core.protocol.errors import WorkerStatus
    from avalon_core.protocol.receipts import ReceiptStatus
    from avalon_sdk.authority import TokenFile
    from avalon_sdk.client import AvalonClient, Worker
    from avalon_sdk.deadline import RetryPolicy
    from avalon_sdk.errors import (
        AvalonClientError,
        BadAnswer,
        BadRequest,
        Busy,
        CannotConnect,
        JournalUnusable,
        KeyRefused,
        NoSuchOrder,
        NoSuchReceipt,
        NoSuchWorker,
        NotOffered,
        OrderFailed,
        OrderRefused,
        ReceiptRefused,
        ResultRefused,
        ResultTimeout,
        SavedOrderRefused,
        ServiceError,
        SuiteNotOffered,
        UntrustedWorker,
    )
    from avalon_sdk.events import OrderEvent, OrderState
    from avalon_sdk.journal import JournalEntry, OrderJournal
    from avalon_sdk.orders import OrderHandle, OrderOutcome, Sizes
    from avalon_sdk.owners import OutputKey, OwnedInput, OwnedOutput, seal_owned_input
    from avalon_sdk.planning import OrderOptions
    from avalon_sdk.progress import Progress, Step
    from avalon_sdk.receipts import Receipt, ReceiptUpdate
    from avalon_sdk.transports import DirectTransport, Transport
    from avalon_sdk.trust import SimulatedWorkerWarning, load_policy
    from avalon_sdk.workers import ListedWorker, TrustedWorker

_HOMES = {
    "avalon_core.attestation": (
        "AppraisalReport",
        "Check",
        "Measurements",
        "TrustPolicy",
        "Verdict",
    ),
    "avalon_core.crypto.signing": (
        "SigningKey",
        "VerificationKey",
    ),
    "avalon_core.protocol.errors": ("WorkerStatus",),
    "avalon_core.protocol.receipts": ("ReceiptStatus",),
    "avalon_sdk.authority": ("TokenFile",),
    "avalon_sdk.client": (
        "AvalonClient",
        "Worker",
    ),
    "avalon_sdk.deadline": ("RetryPolicy",),
    "avalon_sdk.errors": (
        "AvalonClientError",
        "BadAnswer",
        "BadRequest",
        "Busy",
        "CannotConnect",
        "JournalUnusable",
        "KeyRefused",
        "NoSuchOrder",
        "NoSuchReceipt",
        "NoSuchWorker",
        "NotOffered",
        "OrderFailed",
        "OrderRefused",
        "ReceiptRefused",
        "ResultRefused",
        "ResultTimeout",
        "SavedOrderRefused",
        "ServiceError",
        "SuiteNotOffered",
        "UntrustedWorker",
    ),
    "avalon_sdk.events": (
        "OrderEvent",
        "OrderState",
    ),
    "avalon_sdk.journal": (
        "JournalEntry",
        "OrderJournal",
    ),
    "avalon_sdk.orders": (
        "OrderHandle",
        "OrderOutcome",
        "Sizes",
    ),
    "avalon_sdk.owners": (
        "OutputKey",
        "OwnedInput",
        "OwnedOutput",
        "seal_owned_input",
    ),
    "avalon_sdk.planning": ("OrderOptions",),
    "avalon_sdk.progress": (
        "Progress",
        "Step",
    ),
    "avalon_sdk.receipts": (
        "Receipt",
        "ReceiptUpdate",
    ),
    "avalon_sdk.transports": (
        "DirectTransport",
        "Transport",
    ),
    "avalon_sdk.trust": (
        "SimulatedWorkerWarning",
        "load_policy",
    ),
    "avalon_sdk.workers": (
        "ListedWorker",
        "TrustedWorker",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AppraisalReport",
    "AvalonClient",
    "AvalonClientError",
    "BadAnswer",
    "BadRequest",
    "Busy",
    "CannotConnect",
    "Check",
    "DirectTransport",
    "JournalEntry",
    "JournalUnusable",
    "KeyRefused",
    "ListedWorker",
    "Measurements",
    "NoSuchOrder",
    "NoSuchReceipt",
    "NoSuchWorker",
    "NotOffered",
    "OrderEvent",
    "OrderFailed",
    "OrderHandle",
    "OrderJournal",
    "OrderOptions",
    "OrderOutcome",
    "OrderRefused",
    "OrderState",
    "OutputKey",
    "OwnedInput",
    "OwnedOutput",
    "Progress",
    "Receipt",
    "ReceiptRefused",
    "ReceiptStatus",
    "ReceiptUpdate",
    "ResultRefused",
    "ResultTimeout",
    "RetryPolicy",
    "SavedOrderRefused",
    "ServiceError",
    "SigningKey",
    "SimulatedWorkerWarning",
    "Sizes",
    "Step",
    "SuiteNotOffered",
    "TokenFile",
    "Transport",
    "TrustPolicy",
    "TrustedWorker",
    "UntrustedWorker",
    "Verdict",
    "VerificationKey",
    "Worker",
    "WorkerStatus",
    "load_policy",
    "seal_owned_input",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return __all__
