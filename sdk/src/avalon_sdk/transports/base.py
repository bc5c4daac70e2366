"""The port: what the client asks of a transport, in the domain's verbs.

A transport carries bytes and understands none of the cryptography. It makes one attempt a call; trying again is
the client's part. Everything that it raises is an :class:`~avalon_sdk.errors.AvalonClientError`.
"""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from avalon_core.protocol.ids import RequesterId, WorkerId, WorkOrderId
from avalon_core.protocol.workers import WorkerLookUpResult


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedOrder:
    """A sealed order as it travels. The same object is sent again where an answer was lost."""

    work_order_id: WorkOrderId
    worker_id: WorkerId
    requester_id: RequesterId
    params: bytes = field(repr=False)
    """The JSON of WorkOrderSubmit's params (on a ledger: the contract's request)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotReady:
    """The service has the order, and it is not done."""

    held_seconds: float
    """How long the service held the call before it said so: next to nothing where it does not hold calls."""


@runtime_checkable
class Transport(Protocol):
    """A way to a service. Each call ends within ``timeout`` seconds, one way or the other."""

    @property
    def address(self) -> str:
        """For messages to people."""

    @property
    def is_loopback(self) -> bool:
        """The service runs on this very machine."""

    async def look_up_workers(self, lookup_tag: str | None, *, timeout: float) -> WorkerLookUpResult:
        """One page of worker ids; the next one where the tag of the page before is given.

        Raises:
            CannotConnect, BadAnswer, ServiceError
        """

    async def retrieve_worker(self, worker_id: WorkerId, *, timeout: float) -> bytes:
        """The JSON of a worker's record.

        Raises:
            NoSuchWorker, CannotConnect, BadAnswer, ServiceError
        """

    async def submit(self, order: EncodedOrder, *, wait: int, timeout: float) -> bytes | NotReady:
        """Hand an order over. Sending the same order again is safe.

        Args:
            order: what to send.
            wait: seconds that the service may hold the call for the result; 0: answer at once.
            timeout: of the call; longer than ``wait``.

        Returns:
            The JSON of the result, or that the order was accepted.

        Raises:
            OrderRefused, OrderFailed, Busy, CannotConnect, BadAnswer, ServiceError
        """

    async def get_result(self, work_order_id: WorkOrderId, *, wait: int, timeout: float) -> bytes | NotReady:
        """Ask for a result; see :meth:`submit`."""

    async def close(self) -> None:
        """Give connections back."""
