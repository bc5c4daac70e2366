import inspect
import subprocess
import sys

import avalon_sdk
from avalon_sdk import client, orders, sync


def test_public_surface_is_exactly_this():
    assert avalon_sdk.__all__ == [
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


def test_every_public_name_can_be_had():
    assert all(getattr(avalon_sdk, name) is not None for name in avalon_sdk.__all__)
    assert sorted(avalon_sdk._HOME_OF) == avalon_sdk.__all__


def test_the_command_starts_without_loading_http_or_cryptography():
    code = (
        "import sys, avalon_sdk.cli.app; "
        "print([m for m in ('aiohttp', 'cryptography', 'coincurve', 'tenacity', 'anyio', 'msgspec') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def _members(cls: type) -> dict[str, object]:
    return {
        name: member
        for base in reversed(cls.__mro__)
        for name, member in vars(base).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    }


def _parameters(function: object) -> list[tuple[str, object, object]]:
    assert inspect.isfunction(function)
    return [
        (p.name, p.default, p.kind)
        for p in inspect.signature(function).parameters.values()
        if p.name != "self"
    ]


def test_sync_classes_have_the_same_methods_with_the_same_parameters():
    asynchronous_only = {"deliver", "result_by", "require_suite", "bind"}
    for theirs, ours in (
        (client.AvalonClient, sync.Client),
        (client.Worker, sync.Worker),
        (orders.OrderHandle, sync.OrderHandle),
    ):
        for name, member in _members(theirs).items():
            if name in asynchronous_only:
                continue
            mirrored = _members(ours)[name]
            if inspect.isfunction(member):
                assert _parameters(member) == _parameters(mirrored), name
                assert not inspect.iscoroutinefunction(mirrored), name
        if theirs is client.AvalonClient:
            assert _parameters(theirs.__init__) == _parameters(ours.__init__)


def test_sync_mirrors_the_fields_of_a_worker():
    assert {f for f in client.Worker.__dataclass_fields__ if f != "appraised"} <= set(_members(sync.Worker))
