"""The same client for code that is not asynchronous: each call runs in one event loop in a thread of its own.

Nothing is decided here; every method is the asynchronous one's, and a test compares their signatures.
"""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

from anyio.from_thread import BlockingPortal, start_blocking_portal

from avalon_core.attestation.checks import AppraisalReport
from avalon_core.attestation.policy import TrustPolicy
from avalon_core.crypto.manifests import SignedManifest
from avalon_core.crypto.recovery import Recovery, Share
from avalon_core.crypto.signing import SigningKey, VerificationKey
from avalon_core.protocol.errors import WorkerStatus, WorkerType
from avalon_core.protocol.ids import RequesterId, WorkerId, WorkOrderId
from avalon_core.protocol.orders import WorkOrderRequest
from avalon_core.protocol.pools import (
    PoolChangeResult,
    PoolDrainResult,
    PoolRecoverResult,
    PoolRotateResult,
    PoolShareResult,
    PoolStatusResult,
)
from avalon_core.protocol.receipts import ReceiptStatus
from avalon_core.protocol.registry import EncryptionKeyGrant
from avalon_core.protocol.workers import WorkerDetails, WorkerRecord, WorkloadInfo
from avalon_sdk import client, orders
from avalon_sdk.authority import TokenSource
from avalon_sdk.deadline import MAX_TIMEOUT_SECONDS, RetryPolicy
from avalon_sdk.errors import OrderFailed, OrderRefused
from avalon_sdk.events import OrderEvent, OrderState
from avalon_sdk.journal import OrderJournal
from avalon_sdk.orders import OrderOutcome
from avalon_sdk.planning import DEFAULT_TIMEOUT, OrderItem, OrderOptions
from avalon_sdk.progress import Observer
from avalon_sdk.receipts import Receipt, ReceiptUpdate
from avalon_sdk.transports.base import Transport
from avalon_sdk.workers import Clock, ListedWorker, TrustedWorker

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["Client", "OrderHandle", "Worker"]

T = TypeVar("T")


class Client:
    """:class:`avalon_sdk.AvalonClient` as a context manager. Its arguments are the same."""

    def __init__(
        self,
        service: str | Transport = client.DEFAULT_URL,
        *,
        trust: TrustPolicy | None = None,
        requester_id: str | None = None,
        retry: RetryPolicy | None = None,
        operator_token: TokenSource | Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._client = client.AvalonClient(
            service,
            trust=trust,
            requester_id=requester_id,
            retry=retry,
            operator_token=operator_token,
            clock=clock,
        )
        self.requester_id = self._client.requester_id
        self._stack = ExitStack()
        self._portal_: BlockingPortal | None = None

    @property
    def address(self) -> str:
        """The service, for messages to people."""
        return self._client.address

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal_ = stack.enter_context(start_blocking_portal())
            running: AbstractContextManager[client.AvalonClient] = self._portal.wrap_async_context_manager(
                self._client
            )
            stack.enter_context(running)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stack.__exit__(kind, error, trace)
        finally:
            self._portal_ = None

    def find_worker(
        self, name: str | None = None, *, worker_id: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> "Worker":
        """See :meth:`avalon_sdk.AvalonClient.find_worker`."""
        portal = self._portal
        found = portal.call(lambda: self._client.find_worker(name, worker_id=worker_id, timeout=timeout))
        return Worker(found, portal)

    def workers(self, *, timeout: float = DEFAULT_TIMEOUT) -> list[ListedWorker]:
        """See :meth:`avalon_sdk.AvalonClient.workers`."""
        return self._portal.call(lambda: self._client.workers(timeout=timeout))

    def submit(
        self, workload: str, items: Sequence[OrderItem], **options: Unpack[OrderOptions]
    ) -> "OrderHandle":
        """See :meth:`avalon_sdk.AvalonClient.submit`."""
        portal = self._portal
        return OrderHandle(portal.call(lambda: self._client.submit(workload, items, **options)), portal)

    def run(self, workload: str, items: Sequence[OrderItem], **options: Unpack[OrderOptions]) -> OrderOutcome:
        """See :meth:`avalon_sdk.AvalonClient.run`."""
        return self._portal.call(lambda: self._client.run(workload, items, **options))

    def resume(self, saved: bytes, *, on_progress: Observer | None = None) -> "OrderHandle":
        """See :meth:`avalon_sdk.AvalonClient.resume`."""
        return OrderHandle(self._client.resume(saved, on_progress=on_progress), self._portal)

    def create_receipt(
        self,
        handle: "OrderHandle",
        signer: SigningKey,
        *,
        status: int = ReceiptStatus.PENDING,
        worker_service_id: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Receipt:
        """See :meth:`avalon_sdk.AvalonClient.create_receipt`."""
        return self._portal.call(
            lambda: self._client.create_receipt(
                handle.asynchronous,
                signer,
                status=status,
                worker_service_id=worker_service_id,
                timeout=timeout,
            )
        )

    def retrieve_receipt(
        self,
        order: "OrderHandle | str",
        *,
        requester_key: VerificationKey | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Receipt:
        """See :meth:`avalon_sdk.AvalonClient.retrieve_receipt`."""
        wanted = _asynchronous(order)
        return self._portal.call(
            lambda: self._client.retrieve_receipt(wanted, requester_key=requester_key, timeout=timeout)
        )

    def receipt_updates(
        self,
        order: "OrderHandle | str",
        *,
        requester_key: VerificationKey | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Iterator[ReceiptUpdate]:
        """See :meth:`avalon_sdk.AvalonClient.receipt_updates`."""
        return _iterate(
            self._portal,
            self._client.receipt_updates(_asynchronous(order), requester_key=requester_key, timeout=timeout),
        )

    def update_receipt(
        self,
        order: "OrderHandle | str",
        signer: SigningKey,
        update_type: int,
        data: str | None = None,
        *,
        updater_id: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """See :meth:`avalon_sdk.AvalonClient.update_receipt`."""
        wanted = _asynchronous(order)
        self._portal.call(
            lambda: self._client.update_receipt(
                wanted, signer, update_type, data, updater_id=updater_id, timeout=timeout
            )
        )

    def look_up_receipts(
        self,
        *,
        worker_service_id: str | None = None,
        worker_id: str | None = None,
        requester_id: str | None = None,
        status: int | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Iterator[WorkOrderId]:
        """See :meth:`avalon_sdk.AvalonClient.look_up_receipts`."""
        found = self._client.look_up_receipts(
            worker_service_id=worker_service_id,
            worker_id=worker_id,
            requester_id=requester_id,
            status=status,
            timeout=timeout,
        )
        return _iterate(self._portal, found)

    def look_up_workers(
        self,
        *,
        worker_type: int = 0,
        organization_id: str | None = None,
        application_type_ids: Sequence[str] = (),
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Iterator[ListedWorker]:
        """See :meth:`avalon_sdk.AvalonClient.look_up_workers`."""
        found = self._client.look_up_workers(
            worker_type=worker_type,
            organization_id=organization_id,
            application_type_ids=application_type_ids,
            timeout=timeout,
        )
        return _iterate(self._portal, found)

    def inspect_worker(
        self,
        name: str | None = None,
        *,
        worker_id: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> ListedWorker:
        """See :meth:`avalon_sdk.AvalonClient.inspect_worker`."""
        return self._portal.call(
            lambda: self._client.inspect_worker(name, worker_id=worker_id, timeout=timeout)
        )

    def register_worker(
        self,
        worker_id: str,
        details: WorkerDetails | bytes,
        *,
        worker_type: int = WorkerType.TEE_SGX,
        organization_id: str = "",
        application_type_ids: Sequence[str] = (),
        signer: SigningKey | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """See :meth:`avalon_sdk.AvalonClient.register_worker`."""
        self._portal.call(
            lambda: self._client.register_worker(
                worker_id,
                details,
                worker_type=worker_type,
                organization_id=organization_id,
                application_type_ids=application_type_ids,
                signer=signer,
                timeout=timeout,
            )
        )

    def update_worker(
        self,
        worker_id: str,
        details: WorkerDetails | bytes,
        *,
        signer: SigningKey | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """See :meth:`avalon_sdk.AvalonClient.update_worker`."""
        self._portal.call(
            lambda: self._client.update_worker(worker_id, details, signer=signer, timeout=timeout)
        )

    def set_worker_status(
        self,
        worker_id: str,
        status: WorkerStatus,
        *,
        signer: SigningKey | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """See :meth:`avalon_sdk.AvalonClient.set_worker_status`."""
        self._portal.call(
            lambda: self._client.set_worker_status(worker_id, status, signer=signer, timeout=timeout)
        )

    def encryption_key(
        self,
        worker: TrustedWorker,
        *,
        last_used_key_nonce: str | None = None,
        signer: SigningKey | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> EncryptionKeyGrant:
        """See :meth:`avalon_sdk.AvalonClient.encryption_key`."""
        return self._portal.call(
            lambda: self._client.encryption_key(
                worker, last_used_key_nonce=last_used_key_nonce, signer=signer, timeout=timeout
            )
        )

    def push_encryption_key(
        self,
        worker_id: str,
        encryption_key: str,
        signer: SigningKey,
        *,
        encryption_key_nonce: str | None = None,
        tag: str = "",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """See :meth:`avalon_sdk.AvalonClient.push_encryption_key`."""
        self._portal.call(
            lambda: self._client.push_encryption_key(
                worker_id,
                encryption_key,
                signer,
                encryption_key_nonce=encryption_key_nonce,
                tag=tag,
                timeout=timeout,
            )
        )

    def set_requester_key(
        self, requester_id: str, key: VerificationKey | None, *, timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        """See :meth:`avalon_sdk.AvalonClient.set_requester_key`."""
        self._portal.call(lambda: self._client.set_requester_key(requester_id, key, timeout=timeout))

    def requester_key(self, requester_id: str, *, timeout: float = DEFAULT_TIMEOUT) -> VerificationKey | None:
        """See :meth:`avalon_sdk.AvalonClient.requester_key`."""
        return self._portal.call(lambda: self._client.requester_key(requester_id, timeout=timeout))

    def cancel_order(self, order: str, *, timeout: float = DEFAULT_TIMEOUT) -> OrderState:
        """See :meth:`avalon_sdk.AvalonClient.cancel_order`."""
        return self._portal.call(lambda: self._client.cancel_order(order, timeout=timeout))

    def pool_status(
        self, *, worker_id: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> PoolStatusResult:
        """See :meth:`avalon_sdk.AvalonClient.pool_status`."""
        return self._portal.call(lambda: self._client.pool_status(worker_id=worker_id, timeout=timeout))

    def rotate_pool(
        self, *, worker_id: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> PoolRotateResult:
        """See :meth:`avalon_sdk.AvalonClient.rotate_pool`."""
        return self._portal.call(lambda: self._client.rotate_pool(worker_id=worker_id, timeout=timeout))

    def drain_pool(
        self, *, worker_id: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> PoolDrainResult:
        """See :meth:`avalon_sdk.AvalonClient.drain_pool`."""
        return self._portal.call(lambda: self._client.drain_pool(worker_id=worker_id, timeout=timeout))

    def change_pool(
        self, change: SignedManifest, *, worker_id: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> PoolChangeResult:
        """See :meth:`avalon_sdk.AvalonClient.change_pool`."""
        return self._portal.call(
            lambda: self._client.change_pool(change, worker_id=worker_id, timeout=timeout)
        )

    def pool_shares(self, *, worker_id: str | None = None, timeout: float = DEFAULT_TIMEOUT) -> Recovery:
        """See :meth:`avalon_sdk.AvalonClient.pool_shares`."""
        return self._portal.call(lambda: self._client.pool_shares(worker_id=worker_id, timeout=timeout))

    def recover_pool(
        self, recovery: Recovery, *, worker_id: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> PoolRecoverResult:
        """See :meth:`avalon_sdk.AvalonClient.recover_pool`."""
        return self._portal.call(
            lambda: self._client.recover_pool(recovery, worker_id=worker_id, timeout=timeout)
        )

    def return_share(
        self, share: Share, *, worker_id: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> PoolShareResult:
        """See :meth:`avalon_sdk.AvalonClient.return_share`."""
        return self._portal.call(
            lambda: self._client.return_share(share, worker_id=worker_id, timeout=timeout)
        )

    @property
    def _portal(self) -> BlockingPortal:
        if self._portal_ is None:
            raise RuntimeError("the client is not open: use it as 'with Client(...) as client:'")
        return self._portal_


class Worker:
    """:class:`avalon_sdk.Worker`, blocking."""

    def __init__(self, worker: client.Worker, portal: BlockingPortal) -> None:
        self._worker = worker
        self._portal = portal

    @property
    def trusted(self) -> TrustedWorker:
        """To be given as the option ``worker``."""
        return self._worker

    @property
    def worker_id(self) -> WorkerId:
        """See :class:`avalon_sdk.TrustedWorker`, like the members below."""
        return self._worker.worker_id

    @property
    def name(self) -> str | None:
        """Where it was asked for by name."""
        return self._worker.name

    @property
    def record(self) -> WorkerRecord:
        """As the service gave it."""
        return self._worker.record

    @property
    def report(self) -> AppraisalReport:
        """Every check that was made."""
        return self._worker.report

    @property
    def simulated(self) -> bool:
        """No hardware protects what is sent to it."""
        return self._worker.simulated

    @property
    def mode(self) -> str:
        """See :attr:`avalon_sdk.TrustedWorker.mode`."""
        return self._worker.mode

    @property
    def payload_formats(self) -> frozenset[str]:
        """What it says that it reads."""
        return self._worker.payload_formats

    @property
    def workloads(self) -> tuple[WorkloadInfo, ...]:
        """What it says that it offers."""
        return self._worker.workloads

    def submit(
        self, workload: str, items: Sequence[OrderItem], **options: Unpack[OrderOptions]
    ) -> "OrderHandle":
        """See :meth:`avalon_sdk.Worker.submit`."""
        handle = self._portal.call(lambda: self._worker.submit(workload, items, **options))
        return OrderHandle(handle, self._portal)

    def run(self, workload: str, items: Sequence[OrderItem], **options: Unpack[OrderOptions]) -> OrderOutcome:
        """See :meth:`avalon_sdk.Worker.run`."""
        return self._portal.call(lambda: self._worker.run(workload, items, **options))


class OrderHandle:
    """:class:`avalon_sdk.OrderHandle`, blocking."""

    def __init__(self, handle: orders.OrderHandle, portal: BlockingPortal) -> None:
        self._handle = handle
        self._portal = portal

    @property
    def work_order_id(self) -> WorkOrderId:
        """See :class:`avalon_sdk.OrderHandle`."""
        return self._handle.work_order_id

    @property
    def suite(self) -> str:
        """How it was sealed."""
        return self._handle.suite

    @property
    def worker(self) -> TrustedWorker:
        """Whom it was sealed to."""
        return self._handle.worker

    def result(self, timeout: float = DEFAULT_TIMEOUT) -> OrderOutcome:
        """See :meth:`avalon_sdk.OrderHandle.result`."""
        return self._portal.call(lambda: self._handle.result(timeout))

    @property
    def asynchronous(self) -> orders.OrderHandle:
        """The handle behind this one; its coroutines belong to the client's event loop."""
        return self._handle

    @property
    def workload(self) -> str:
        """Its name."""
        return self._handle.workload

    @property
    def requester_id(self) -> RequesterId:
        """Whose order it is."""
        return self._handle.requester_id

    @property
    def request(self) -> bytes:
        """The sealed order as it is sent."""
        return self._handle.request

    @property
    def parsed_request(self) -> WorkOrderRequest:
        """The same, read."""
        return self._handle.parsed_request

    @property
    def request_hash(self) -> bytes:
        """H: 32 bytes that commit to the order."""
        return self._handle.request_hash

    @property
    def response_hash(self) -> bytes | None:
        """R of a result that was verified; None before."""
        return self._handle.response_hash

    @property
    def outcome(self) -> OrderOutcome | None:
        """What :meth:`result` returned; None before."""
        return self._handle.outcome

    @property
    def failure(self) -> OrderFailed | OrderRefused | None:
        """What :meth:`result` raised of the order itself; None before."""
        return self._handle.failure

    def save(self) -> bytes:
        """See :meth:`avalon_sdk.OrderHandle.save`. Secret."""
        return self._handle.save()

    def keep_in(self, journal: OrderJournal, *, state: str = "") -> None:
        """See :meth:`avalon_sdk.OrderHandle.keep_in`."""
        self._handle.keep_in(journal, state=state)

    def cancel(self, *, signer: SigningKey | None = None, timeout: float = DEFAULT_TIMEOUT) -> OrderState:
        """See :meth:`avalon_sdk.OrderHandle.cancel`."""
        return self._portal.call(lambda: self._handle.cancel(signer=signer, timeout=timeout))

    def events(self, *, timeout: float = MAX_TIMEOUT_SECONDS) -> Iterator[OrderEvent]:
        """See :meth:`avalon_sdk.OrderHandle.events`."""
        return _iterate(self._portal, self._handle.events(timeout=timeout))

    def resend(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """See :meth:`avalon_sdk.OrderHandle.resend`."""
        self._portal.call(lambda: self._handle.resend(timeout))


def _asynchronous(order: OrderHandle | str) -> orders.OrderHandle | str:
    return order.asynchronous if isinstance(order, OrderHandle) else order


def _iterate(portal: BlockingPortal, generator: AsyncGenerator[T, None]) -> Iterator[T]:
    """Each step runs in the client's event loop; leaving early ends the generator there."""

    async def step() -> tuple[T] | None:
        try:
            return (await anext(generator),)
        except StopAsyncIteration:
            return None

    try:
        while (found := portal.call(step)) is not None:
            yield found[0]
    finally:
        portal.call(generator.aclose)
