"""The port: what the client asks of a transport, in the domain's verbs.

A transport carries bytes and understands none of the cryptography. It makes one attempt a call; trying again is
the client's part. Everything that it raises is an :class:`~avalon_sdk.errors.AvalonClientError`.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from avalon_core.protocol.cancellation import WorkOrderCancelParams
from avalon_core.protocol.ids import RequesterId, WorkerId, WorkOrderId
from avalon_core.protocol.pools import PoolParams
from avalon_core.protocol.receipts import (
    ReceiptCreateParams,
    ReceiptLookUpResult,
    ReceiptResult,
    ReceiptUpdateParams,
    ReceiptUpdateResult,
)
from avalon_core.protocol.registry import (
    EncryptionKeyGetParams,
    EncryptionKeyGrant,
    EncryptionKeySetParams,
    RequesterKeyGetParams,
    RequesterKeySetParams,
    WorkerRegisterParams,
    WorkerSetStatusParams,
    WorkerUpdateParams,
)
from avalon_core.protocol.workers import WorkerLookUpResult

if TYPE_CHECKING:
    from avalon_sdk.events import OrderState


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent:
    """A server-sent event as it came."""

    id: str
    kind: str
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCriteria:
    """Which workers are looked for: all that are given must match."""

    worker_type: int = 0
    """1 TEE, 2 MPC, 3 ZK; 0: any."""

    organization_id: str | None = None
    application_type_ids: Sequence[str] = ()
    """A worker matches that is for any of them."""


ANY_WORKER = WorkerCriteria()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptCriteria:
    """Which receipts are looked for: all that are given must match."""

    worker_service_id: str | None = None
    worker_id: str | None = None
    requester_id: str | None = None
    status: int | None = None
    """The current one. None: any."""


RegistryWrite = WorkerRegisterParams | WorkerUpdateParams | WorkerSetStatusParams


@runtime_checkable
class Transport(Protocol):
    """A way to a service. Each call ends within ``timeout`` seconds, one way or the other."""

    @property
    def address(self) -> str:
        """For messages to people."""

    @property
    def is_loopback(self) -> bool:
        """The service runs on this very machine."""

    async def look_up_workers(
        self, lookup_tag: str | None, *, timeout: float, criteria: WorkerCriteria = ANY_WORKER
    ) -> WorkerLookUpResult:
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

    async def cancel(
        self, cancellation: WorkOrderCancelParams, *, timeout: float, as_operator: bool = False
    ) -> "OrderState":
        """Withdraw an order. The state that it is in then. ``as_operator``: carry the operator's token.

        Raises:
            OrderRefused, NotOffered, Busy, CannotConnect, BadAnswer, ServiceError, BadRequest
        """

    def events(
        self, work_order_id: WorkOrderId, *, last_event_id: str, timeout: float
    ) -> AsyncGenerator[ServerEvent, None]:
        """What the service sends of an order, over one connection; ends where that ends.

        Args:
            work_order_id: of the order.
            last_event_id: the last that came over an earlier connection; empty: all from the present state on.
            timeout: seconds for the whole of it.

        Raises:
            NoSuchOrder, NotOffered, CannotConnect, Busy, BadAnswer
        """

    async def create_receipt(self, receipt: ReceiptCreateParams, *, timeout: float) -> None:
        """Create a receipt.

        Raises:
            ServiceError, NotOffered, CannotConnect, BadAnswer
        """

    async def update_receipt(self, update: ReceiptUpdateParams, *, timeout: float) -> None:
        """Add to a receipt. Sending the same update again is safe.

        Raises:
            ServiceError, NotOffered, CannotConnect, BadAnswer
        """

    async def retrieve_receipt(self, work_order_id: WorkOrderId, *, timeout: float) -> ReceiptResult:
        """A receipt as it stands.

        Raises:
            NoSuchReceipt, ServiceError, NotOffered, CannotConnect, BadAnswer
        """

    async def retrieve_receipt_update(
        self, work_order_id: WorkOrderId, index: int, *, timeout: float
    ) -> ReceiptUpdateResult | None:
        """An update of a receipt, from 1; None where there are not so many.

        Raises:
            ServiceError, NotOffered, CannotConnect, BadAnswer
        """

    async def look_up_receipts(
        self, criteria: ReceiptCriteria, lookup_tag: str | None, *, timeout: float
    ) -> ReceiptLookUpResult:
        """One page of orders that have a matching receipt; the next one where a tag is given.

        Raises:
            ServiceError, NotOffered, CannotConnect, BadAnswer
        """

    async def write_worker(self, write: RegistryWrite, *, timeout: float) -> None:
        """Change the worker directory. Carries the operator's token where the write is not signed.

        Raises:
            BadRequest, ServiceError, NotOffered, CannotConnect, BadAnswer
        """

    async def encryption_key(self, request: EncryptionKeyGetParams, *, timeout: float) -> EncryptionKeyGrant:
        """A worker's key, as the service gives it.

        Raises:
            ServiceError, NotOffered, CannotConnect, BadAnswer
        """

    async def push_encryption_key(self, key: EncryptionKeySetParams, *, timeout: float) -> None:
        """Have the service give out a worker's key, which the worker signed.

        Raises:
            ServiceError, NotOffered, CannotConnect, BadAnswer
        """

    async def set_requester_key(self, key: RequesterKeySetParams, *, timeout: float) -> None:
        """Register the key of a requester, or take it away. Carries the operator's token.

        Raises:
            BadRequest, ServiceError, NotOffered, CannotConnect, BadAnswer
        """

    async def requester_key(self, request: RequesterKeyGetParams, *, timeout: float) -> str | None:
        """PEM of the key that is registered for a requester. Carries the operator's token.

        Raises:
            BadRequest, ServiceError, NotOffered, CannotConnect, BadAnswer
        """

    async def command_pool(self, command: PoolParams, *, timeout: float) -> bytes:
        """Have the service's pool do something, or tell of itself. Carries the operator's token.

        Returns:
            The JSON of the answer.

        Raises:
            BadRequest, ServiceError, NotOffered, CannotConnect, BadAnswer
        """

    async def close(self) -> None:
        """Give connections back."""
