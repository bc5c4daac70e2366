"""The same client for code that is not asynchronous: each call runs in one event loop in a thread of its own.

Nothing is decided here; every method is the asynchronous one's, and a test compares their signatures.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from anyio.from_thread import BlockingPortal, start_blocking_portal

from avalon_core.attestation import AppraisalReport, TrustPolicy
from avalon_core.protocol.ids import WorkerId, WorkOrderId
from avalon_core.protocol.workers import WorkerRecord, WorkloadInfo
from avalon_sdk import client, orders
from avalon_sdk.deadline import RetryPolicy
from avalon_sdk.orders import DEFAULT_TIMEOUT, OrderOptions, OrderOutcome
from avalon_sdk.transports.base import Transport
from avalon_sdk.workers import ListedWorker, TrustedWorker

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["Client", "OrderHandle", "Worker"]


class Client:
    """:class:`avalon_sdk.AvalonClient` as a context manager. Its arguments are the same."""

    def __init__(
        self,
        service: str | Transport = client.DEFAULT_URL,
        *,
        trust: TrustPolicy | None = None,
        requester_id: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._client = client.AvalonClient(service, trust=trust, requester_id=requester_id, retry=retry)
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
        self, workload: str, items: Sequence[str | bytes], **options: Unpack[OrderOptions]
    ) -> "OrderHandle":
        """See :meth:`avalon_sdk.AvalonClient.submit`."""
        portal = self._portal
        return OrderHandle(portal.call(lambda: self._client.submit(workload, items, **options)), portal)

    def run(
        self, workload: str, items: Sequence[str | bytes], **options: Unpack[OrderOptions]
    ) -> OrderOutcome:
        """See :meth:`avalon_sdk.AvalonClient.run`."""
        return self._portal.call(lambda: self._client.run(workload, items, **options))

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
    def payload_formats(self) -> frozenset[str]:
        """What it says that it reads."""
        return self._worker.payload_formats

    @property
    def workloads(self) -> tuple[WorkloadInfo, ...]:
        """What it says that it offers."""
        return self._worker.workloads

    def submit(
        self, workload: str, items: Sequence[str | bytes], **options: Unpack[OrderOptions]
    ) -> "OrderHandle":
        """See :meth:`avalon_sdk.Worker.submit`."""
        handle = self._portal.call(lambda: self._worker.submit(workload, items, **options))
        return OrderHandle(handle, self._portal)

    def run(
        self, workload: str, items: Sequence[str | bytes], **options: Unpack[OrderOptions]
    ) -> OrderOutcome:
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
