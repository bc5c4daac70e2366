"""The client: find a worker, check it, seal an order to it, wait, verify."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack

from avalon_core.attestation import TrustPolicy
from avalon_core.protocol.ids import RequesterId
from avalon_sdk.deadline import Deadline, RetryPolicy
from avalon_sdk.orders import (
    DEFAULT_TIMEOUT,
    OrderHandle,
    OrderOptions,
    OrderOutcome,
    OrderPlan,
    plan_order,
    random_id,
    require_requester_id,
)
from avalon_sdk.progress import Progress, Step
from avalon_sdk.transports.base import Transport
from avalon_sdk.transports.direct import DirectTransport
from avalon_sdk.workers import ListedWorker, TrustedWorker, WorkerFinder

DEFAULT_URL = "http://127.0.0.1:1947"
RECORD_LIFETIME_SECONDS = 300.0
"""How long a worker that passed is used without asking for its record again."""


class Worker(TrustedWorker):
    """A trusted worker, bound to the client that found it."""

    __slots__ = ("_client",)
    _client: "AvalonClient"

    @classmethod
    def bind(cls, worker: TrustedWorker, client: "AvalonClient") -> "Worker":
        """The same worker, with the client's verbs."""
        bound = cls(
            worker_id=worker.worker_id, name=worker.name, record=worker.record, appraised=worker.appraised
        )
        object.__setattr__(bound, "_client", client)
        return bound

    async def submit(
        self, workload: str, items: Sequence[str | bytes], **options: Unpack[OrderOptions]
    ) -> OrderHandle:
        """See :meth:`AvalonClient.submit`."""
        return await self._client.submit(workload, items, **(options | {"worker": self}))

    async def run(
        self, workload: str, items: Sequence[str | bytes], **options: Unpack[OrderOptions]
    ) -> OrderOutcome:
        """See :meth:`AvalonClient.run`."""
        return await self._client.run(workload, items, **(options | {"worker": self}))


class AvalonClient:
    """A requester's end of a service. An async context manager; one per service is enough.

    Args:
        service: the address of a service, or a transport to one.
        trust: which workers may see the data. None: on this machine the development policy, which protects nothing
            and says so (:class:`~avalon_sdk.trust.SimulatedWorkerWarning`); elsewhere one that admits nobody.
        requester_id: hex, up to 32 bytes; None: a random one.
        retry: pauses between attempts after a lost connection.

    Raises:
        BadRequest: not an address, or not an id.
    """

    def __init__(
        self,
        service: str | Transport = DEFAULT_URL,
        *,
        trust: TrustPolicy | None = None,
        requester_id: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._transport: Transport = DirectTransport(service) if isinstance(service, str) else service
        self._retry = retry or RetryPolicy()
        self._finder = WorkerFinder(self._transport, trust, self._retry)
        self.requester_id = require_requester_id(requester_id) or RequesterId(random_id())
        self._found: dict[str | None, tuple[float, TrustedWorker]] = {}

    @property
    def address(self) -> str:
        """The service, for messages to people."""
        return self._transport.address

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()

    async def find_worker(
        self, name: str | None = None, *, worker_id: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> Worker:
        """Retrieve a worker's record and appraise it.

        Args:
            name: the worker's name.
            worker_id: its id. Neither: the first active one whose record passes.
            timeout: seconds.

        Raises:
            NoSuchWorker, UntrustedWorker, CannotConnect, BadAnswer, ServiceError, BadRequest
        """
        found = await self._finder.find(name=name, worker_id=worker_id, deadline=Deadline.after(timeout))
        return Worker.bind(found, self)

    async def workers(self, *, timeout: float = DEFAULT_TIMEOUT) -> list[ListedWorker]:
        """Every worker of the service with what its evidence came to, trusted or not.

        Raises:
            CannotConnect, BadAnswer, ServiceError, BadRequest
        """
        deadline = Deadline.after(timeout)
        return [listed async for listed in self._finder.listed(deadline)]

    async def submit(
        self, workload: str, items: Sequence[str | bytes], **options: Unpack[OrderOptions]
    ) -> OrderHandle:
        """Seal an order and hand it to the service; return as soon as the service has it.

        Args:
            workload: its name.
            items: the inputs; texts are sent as UTF-8.
            **options: see :class:`~avalon_sdk.orders.OrderOptions`. In mode ``sync`` the service answers only when
                the order is done.

        Raises:
            BadRequest: nothing was sent.
            NoSuchWorker, UntrustedWorker, SuiteNotOffered: nothing was sent to the worker.
            OrderRefused, OrderFailed, Busy, CannotConnect, BadAnswer, ServiceError, ResultRefused
        """
        handle, _ = await self._start(workload, items, options, hold=False)
        return handle

    async def run(
        self, workload: str, items: Sequence[str | bytes], **options: Unpack[OrderOptions]
    ) -> OrderOutcome:
        """Submit an order and wait for its result, in one request where the order is quick.

        Raises:
            ResultTimeout: the order may still finish; the error names it. And all that :meth:`submit` and
                :meth:`OrderHandle.result` raise.
        """
        handle, deadline = await self._start(workload, items, options, hold=True)
        return await handle.result_by(deadline, options.get("timeout", DEFAULT_TIMEOUT))

    async def _start(
        self, workload: str, items: Sequence[str | bytes], options: OrderOptions, *, hold: bool
    ) -> tuple[OrderHandle, Deadline]:
        deadline = Deadline.after(options.get("timeout", DEFAULT_TIMEOUT))
        plan = plan_order(workload, items, options, requester_id=self.requester_id)
        worker = await self._worker(options.get("worker"), deadline)
        _tell_checked(plan, worker)
        handle = OrderHandle(
            plan,
            worker,
            transport=self._transport,
            finder=self._finder,
            retry=self._retry,
            on_new_record=self._remember,
        )
        await handle.deliver(deadline, hold=hold)
        return handle, deadline

    async def _worker(self, wanted: TrustedWorker | str | None, deadline: Deadline) -> TrustedWorker:
        if isinstance(wanted, TrustedWorker):
            return wanted
        found_at, found = self._found.get(wanted, (0.0, None))
        if found is not None and time.monotonic() - found_at < RECORD_LIFETIME_SECONDS:
            return found
        worker = await self._finder.find(name=wanted, worker_id=None, deadline=deadline)
        self._found[wanted] = (time.monotonic(), worker)
        return worker

    def _remember(self, worker: TrustedWorker) -> None:
        """Take a record that was retrieved anew, because of a rotated key, in place of the one before."""
        for wanted, (_, known) in list(self._found.items()):
            if known.worker_id == worker.worker_id:
                self._found[wanted] = (time.monotonic(), worker)


def _tell_checked(plan: OrderPlan, worker: TrustedWorker) -> None:
    if plan.on_progress is not None:
        who = f"{worker.name} ({worker.worker_id})" if worker.name else worker.worker_id
        detail = f"{who}: {len(worker.report.checks)} checks passed"
        plan.on_progress(Progress(step=Step.WORKER_CHECKED, detail=detail, simulated=worker.simulated))
