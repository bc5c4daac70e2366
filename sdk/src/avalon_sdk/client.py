"""The client: find a worker, check it, seal an order to it, wait, verify; and what belongs to orders besides."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from avalon_core.attestation.policy import TrustPolicy
from avalon_core.crypto.manifests import SignedManifest
from avalon_core.crypto.recovery import Recovery, Share
from avalon_core.crypto.signing import SigningKey, VerificationKey
from avalon_core.protocol.cancellation import WorkOrderCancelParams
from avalon_core.protocol.errors import WorkerStatus, WorkerType
from avalon_core.protocol.ids import RequesterId, WorkerId, WorkOrderId, worker_id_of
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
from avalon_core.protocol.workers import WorkerDetails
from avalon_sdk.authority import TokenSource
from avalon_sdk.deadline import Deadline, RetryPolicy
from avalon_sdk.directory import DirectoryWriter, granted_key
from avalon_sdk.errors import BadRequest
from avalon_sdk.events import OrderState
from avalon_sdk.orders import OrderHandle, OrderOutcome
from avalon_sdk.planning import (
    DEFAULT_TIMEOUT,
    OrderItem,
    OrderOptions,
    OrderPlan,
    plan_order,
    random_id,
    require_hex_id,
    require_requester_id,
)
from avalon_sdk.pools import PoolOperator
from avalon_sdk.progress import Observer, Progress, Step
from avalon_sdk.receipts import Receipt, ReceiptDesk, ReceiptUpdate
from avalon_sdk.saved import decode_saved
from avalon_sdk.transports.base import ReceiptCriteria, Transport, WorkerCriteria
from avalon_sdk.transports.direct import DirectTransport
from avalon_sdk.workers import Clock, ListedWorker, TrustedWorker, WorkerFinder, utc_now

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
        self, workload: str, items: Sequence[OrderItem], **options: Unpack[OrderOptions]
    ) -> OrderHandle:
        """See :meth:`AvalonClient.submit`."""
        return await self._client.submit(workload, items, **(options | {"worker": self}))

    async def run(
        self, workload: str, items: Sequence[OrderItem], **options: Unpack[OrderOptions]
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
        operator_token: for who runs the service: the path of its operator's token, or a callable that returns it.
            Never the token itself. Only with an address; it travels with the operator's calls alone (writes to the worker
            directory, requesters' keys, orders that the operator cancels, the pool).
        clock: the time as of which evidence is judged; None: this machine's.

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
        operator_token: TokenSource | Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        if isinstance(service, str):
            self._transport: Transport = DirectTransport(service, operator_token=operator_token)
        elif operator_token is not None:
            raise BadRequest("operator_token: expected an address with it; else give it to the transport")
        else:
            self._transport = service
        self._retry = retry or RetryPolicy()
        self._receipts = ReceiptDesk(self._transport, self._retry)
        self._directory = DirectoryWriter(self._transport, self._retry)
        self._pool = PoolOperator(self._transport, self._retry)
        self._finder = WorkerFinder(self._transport, trust, self._retry, clock or utc_now)
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
        self, workload: str, items: Sequence[OrderItem], **options: Unpack[OrderOptions]
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
        self, workload: str, items: Sequence[OrderItem], **options: Unpack[OrderOptions]
    ) -> OrderOutcome:
        """Submit an order and wait for its result, in one request where the order is quick.

        Raises:
            ResultTimeout: the order may still finish; the error names it. And all that :meth:`submit` and
                :meth:`OrderHandle.result` raise.
        """
        handle, deadline = await self._start(workload, items, options, hold=True)
        return await handle.result_by(deadline, options.get("timeout", DEFAULT_TIMEOUT))

    def resume(self, saved: bytes, *, on_progress: Observer | None = None) -> OrderHandle:
        """Take up an order that another process sealed and saved: wait for it, verify and open its result.

        The worker that it was sealed to is appraised again, under this client's policy, as of the time when the order
        was sealed (a week ago at most). The order cannot be sealed anew.

        Args:
            saved: what :meth:`OrderHandle.save` made, or the ``saved`` of a journal's entry. Secret.
            on_progress: is told each step.

        Raises:
            SavedOrderRefused: the bytes are none, or were changed.
            UntrustedWorker: the worker does not pass now.
        """
        order, sealed = decode_saved(saved)
        worker = self._finder.readmit(
            sealed.request.worker_id, order.worker_name, order.record, sealed_at=order.sealed_at
        )
        plan = OrderPlan(
            workload=order.workload,
            inputs=(),
            suite=order.suite,
            mode="poll" if order.polls else "wait",
            requester_id=sealed.request.requester_id,
            on_progress=on_progress,
        )
        return OrderHandle(
            plan,
            worker,
            transport=self._transport,
            finder=self._finder,
            retry=self._retry,
            on_new_record=self._remember,
            resumed=(order, sealed),
        )

    async def create_receipt(
        self,
        handle: OrderHandle,
        signer: SigningKey,
        *,
        status: int = ReceiptStatus.PENDING,
        worker_service_id: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Receipt:
        """Create the receipt of an order, signed, before or after the order is done. The worker then adds its word.

        Args:
            handle: the order.
            signer: where the order itself was signed, the same key.
            status: the first status.
            worker_service_id: hex: names the service for look-ups. None: the worker's id.
            timeout: seconds.

        Raises:
            ReceiptRefused: what the service stored is something else.
            BadRequest, ServiceError, NotOffered, CannotConnect, BadAnswer
        """
        return await self._receipts.create(
            handle, signer, Deadline.after(timeout), status=status, worker_service_id=worker_service_id
        )

    async def retrieve_receipt(
        self,
        order: OrderHandle | str,
        *,
        requester_key: VerificationKey | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Receipt:
        """A receipt with every update, each signature verified: see :mod:`avalon_sdk.receipts` for the steps.

        Args:
            order: its handle; or its id, then without comparing the receipt with the order and its result.
            requester_key: must have signed the creation. None: whichever key did, see ``Receipt.requester_key``;
                where the handle's order is signed, its key.
            timeout: seconds.

        Raises:
            NoSuchReceipt: there is none.
            ReceiptRefused: it is not acceptable.
            NoSuchWorker, UntrustedWorker: (where only the id is given) of the worker that the receipt names.
            ServiceError, NotOffered, CannotConnect, BadAnswer, BadRequest
        """
        deadline = Deadline.after(timeout)
        work_order_id, handle = _order_of(order)
        worker = await self._receipt_worker(work_order_id, handle, deadline)
        return await self._receipts.verify(work_order_id, worker, handle, deadline, requester_key)

    async def receipt_updates(
        self,
        order: OrderHandle | str,
        *,
        requester_key: VerificationKey | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> AsyncGenerator[ReceiptUpdate, None]:
        """The updates of a receipt one by one, each verified as in :meth:`retrieve_receipt`."""
        deadline = Deadline.after(timeout)
        work_order_id, handle = _order_of(order)
        worker = await self._receipt_worker(work_order_id, handle, deadline)
        receipt, _ = await self._receipts.read(work_order_id, handle, deadline, requester_key)
        async with aclosing(self._receipts.updates(receipt, worker, handle, deadline)) as updates:
            async for update in updates:
                yield update

    async def update_receipt(
        self,
        order: OrderHandle | str,
        signer: SigningKey,
        update_type: int,
        data: str | None = None,
        *,
        updater_id: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """Add a signed update to a receipt, for example that the result is accepted: ``ReceiptStatus.COMPLETED``.

        Args:
            order: its handle, or its id.
            signer: the requester's key, with which the receipt was created; or anybody else's.
            update_type: up to 255 the status that it sets; above, the application's own.
            data: of the update. None: the hash of the response, where the type names one (await ``result()`` first).
            updater_id: hex. None: the requester of the handle.
            timeout: seconds.

        Raises:
            BadRequest, ServiceError, NotOffered, CannotConnect, BadAnswer
        """
        work_order_id, handle = _order_of(order)
        await self._receipts.update(
            work_order_id, signer, update_type, data, updater_id, handle, Deadline.after(timeout)
        )

    async def look_up_receipts(
        self,
        *,
        worker_service_id: str | None = None,
        worker_id: str | None = None,
        requester_id: str | None = None,
        status: int | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> AsyncGenerator[WorkOrderId, None]:
        """The orders that have a matching receipt; every criterion is optional. The service's word.

        Raises:
            BadRequest, ServiceError, NotOffered, CannotConnect, BadAnswer
        """
        ids = {"worker_service_id": worker_service_id, "worker_id": worker_id, "requester_id": requester_id}
        for name, text in ids.items():
            if text is not None:
                require_hex_id(text, name)
        criteria = ReceiptCriteria(**ids, status=status)
        async with aclosing(self._receipts.look_up(criteria, Deadline.after(timeout))) as found:
            async for work_order_id in found:
                yield work_order_id

    async def look_up_workers(
        self,
        *,
        worker_type: int = 0,
        organization_id: str | None = None,
        application_type_ids: Sequence[str] = (),
        timeout: float = DEFAULT_TIMEOUT,
    ) -> AsyncGenerator[ListedWorker, None]:
        """The workers that match, each with what its evidence came to, trusted or not.

        Args:
            worker_type: 1 TEE, 2 MPC, 3 ZK; 0: any.
            organization_id: hex; None: any.
            application_type_ids: hex; a worker matches that is for all of them. None: any worker.
            timeout: seconds for all of it.

        Raises:
            BadRequest, ServiceError, CannotConnect, BadAnswer
        """
        criteria = WorkerCriteria(
            worker_type=worker_type,
            organization_id=organization_id and require_hex_id(organization_id, "organization_id"),
            application_type_ids=[
                require_hex_id(text, "application_type_ids") for text in application_type_ids
            ],
        )
        async with aclosing(self._finder.listed(Deadline.after(timeout), criteria)) as found:
            async for listed in found:
                yield listed

    async def inspect_worker(
        self,
        name: str | None = None,
        *,
        worker_id: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> ListedWorker:
        """One worker with what its evidence came to, trusted or not.

        Raises:
            NoSuchWorker, BadRequest, ServiceError, CannotConnect, BadAnswer
        """
        if (name is None) == (worker_id is None):
            raise BadRequest("expected a name or a worker_id")
        wanted = (
            worker_id_of(name) if name is not None else WorkerId(require_hex_id(worker_id or "", "worker_id"))
        )
        return await self._finder.retrieve(wanted, Deadline.after(timeout))

    async def register_worker(
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
        """Add a worker to the directory: as the operator, or signed by the worker's own key where the service allows it.

        Args:
            worker_id: hex.
            details: with keys and evidence; as JSON they travel to the byte.
            worker_type: 1 TEE, 2 MPC, 3 ZK.
            organization_id: hex, or empty.
            application_type_ids: hex.
            signer: the worker's key. None: the operator's token is sent.
            timeout: seconds.

        Raises:
            BadRequest, ServiceError, NotOffered, CannotConnect, BadAnswer
        """
        await self._directory.register(
            worker_id,
            details,
            Deadline.after(timeout),
            worker_type=worker_type,
            organization_id=organization_id,
            application_type_ids=application_type_ids,
            signer=signer,
        )

    async def update_worker(
        self,
        worker_id: str,
        details: WorkerDetails | bytes,
        *,
        signer: SigningKey | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """Replace a worker's details. Arguments and errors as for :meth:`register_worker`."""
        await self._directory.update(worker_id, details, Deadline.after(timeout), signer=signer)

    async def set_worker_status(
        self,
        worker_id: str,
        status: WorkerStatus,
        *,
        signer: SigningKey | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """Change a worker's status. Arguments and errors as for :meth:`register_worker`."""
        await self._directory.set_status(worker_id, status, Deadline.after(timeout), signer=signer)

    async def encryption_key(
        self,
        worker: TrustedWorker,
        *,
        last_used_key_nonce: str | None = None,
        signer: SigningKey | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> EncryptionKeyGrant:
        """The worker's present RSA key for this client's requester, vouched for by the worker itself.

        Args:
            worker: as it was checked.
            last_used_key_nonce: of the key at hand: a newer one is wanted.
            signer: the key that is registered for the requester, where one is.
            timeout: seconds.

        Raises:
            KeyRefused: it is not the worker's, or not for this requester.
            ServiceError: there is none, or none that is newer.
            NotOffered, CannotConnect, BadAnswer, BadRequest
        """
        return await granted_key(
            self._transport,
            self._retry,
            worker,
            self.requester_id,
            Deadline.after(timeout),
            last_used_key_nonce=last_used_key_nonce,
            signer=signer,
        )

    async def push_encryption_key(
        self,
        worker_id: str,
        encryption_key: str,
        signer: SigningKey,
        *,
        encryption_key_nonce: str | None = None,
        tag: str = "",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """Have the service give out an RSA key of a worker that is registered there and runs elsewhere.

        Args:
            worker_id: hex.
            encryption_key: PEM of the public key.
            signer: the worker's own key.
            encryption_key_nonce: hex; names this key and no other. None: one that follows from the key.
            tag: hex: of the requester whom it is for. Empty: for all.
            timeout: seconds.

        Raises:
            BadRequest, ServiceError, NotOffered, CannotConnect, BadAnswer
        """
        await self._directory.push_encryption_key(
            worker_id,
            encryption_key,
            signer,
            Deadline.after(timeout),
            encryption_key_nonce=encryption_key_nonce,
            tag=tag,
        )

    async def set_requester_key(
        self, requester_id: str, key: VerificationKey | None, *, timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        """As the operator: from now on every order of this requester must be signed with this key. None: no longer.

        Raises:
            BadRequest, ServiceError, NotOffered, CannotConnect, BadAnswer
        """
        await self._directory.set_requester_key(requester_id, key, Deadline.after(timeout))

    async def requester_key(
        self, requester_id: str, *, timeout: float = DEFAULT_TIMEOUT
    ) -> VerificationKey | None:
        """As the operator: the key with which this requester's orders must be signed; None: there is none.

        Raises:
            BadRequest, ServiceError, NotOffered, CannotConnect, BadAnswer
        """
        return await self._directory.requester_key(requester_id, Deadline.after(timeout))

    async def cancel_order(self, order: str, *, timeout: float = DEFAULT_TIMEOUT) -> OrderState:
        """As the operator: end anybody's order, if it is not finished. Requesters use :meth:`OrderHandle.cancel`.

        Args:
            order: its id.
            timeout: seconds.

        Returns:
            The state that it is in now: CANCELLED, or how it had ended before.

        Raises:
            OrderRefused: there is no such order, or the caller is not the operator.
            BadRequest, NotOffered, CannotConnect, BadAnswer, ServiceError
        """
        deadline = Deadline.after(timeout)
        # The operator need not know whose order it is, but the form asks for an id.
        params = WorkOrderCancelParams(
            work_order_id=WorkOrderId(require_hex_id(order, "order")), requester_id=self.requester_id
        )
        return await self._retry.persist(
            lambda: self._transport.cancel(params, timeout=deadline.left, as_operator=True), deadline
        )

    async def pool_status(
        self, *, worker_id: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> PoolStatusResult:
        """As the operator: what there is to know of the service's pool. The service's word.

        Args:
            worker_id: which pool; None: the service's only one. So in the methods below.
            timeout: seconds.

        Raises:
            ServiceError: code 6 where the service runs no pool. And BadRequest, NotOffered, CannotConnect, BadAnswer.
        """
        return await self._pool.status(worker_id, Deadline.after(timeout))

    async def rotate_pool(
        self, *, worker_id: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> PoolRotateResult:
        """As the operator: have the pool make new encryption keys, with which its record is published anew.

        Orders sealed to the keys before still open for as long as the manifest says. Not tried again where an answer is lost:
        look at :meth:`pool_status` then.

        Raises:
            ServiceError, BadRequest, NotOffered, CannotConnect, BadAnswer
        """
        return await self._pool.rotate(worker_id, Deadline.after(timeout))

    async def drain_pool(
        self, *, worker_id: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> PoolDrainResult:
        """As the operator: have the pool finish what it has in hand and claim no more orders.

        Raises:
            ServiceError, BadRequest, NotOffered, CannotConnect, BadAnswer
        """
        return await self._pool.drain(worker_id, Deadline.after(timeout))

    async def change_pool(
        self, change: SignedManifest, *, worker_id: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> PoolChangeResult:
        """As the operator: change the pool's manifest. The owners decide about it; the operator carries it.

        Args:
            change: signed by a quorum of the owners of the manifest in force.
            worker_id: which pool; None: the service's only one.
            timeout: seconds.

        Raises:
            ServiceError: code 2 where a rule of the manifest in force does not admit it; the message says which.
            BadRequest, NotOffered, CannotConnect, BadAnswer
        """
        return await self._pool.change(change, worker_id, Deadline.after(timeout))

    async def pool_shares(
        self, *, worker_id: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> Recovery:
        """As the operator: a recovery file of the pool's present state. It is not secret: it opens for the owners alone.

        Raises:
            ServiceError: code 2 where the manifest names no recovery keys.
            BadRequest, NotOffered, CannotConnect, BadAnswer
        """
        return await self._pool.shares(worker_id, Deadline.after(timeout))

    async def recover_pool(
        self, recovery: Recovery, *, worker_id: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> PoolRecoverResult:
        """As the operator: begin the recovery of a pool whose keys are gone, with a KME that was started for it.

        Args:
            recovery: as :meth:`pool_shares` gave it.
            worker_id: which pool; None: the service's only one.
            timeout: seconds.

        Returns:
            The KME's key for the shares, and evidence that it is its own: for the owners to judge.

        Raises:
            ServiceError: code 2 where the file is another pool's, or the KME was not started to recover.
            BadRequest, NotOffered, CannotConnect, BadAnswer
        """
        return await self._pool.recover(recovery, worker_id, Deadline.after(timeout))

    async def return_share(
        self, share: Share, *, worker_id: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> PoolShareResult:
        """As the operator: hand an owner's share to the KME for which the owner has sealed it.

        Not tried again where an answer is lost: look at :meth:`pool_status` then.

        Args:
            share: as its owner gave it back.
            worker_id: which pool; None: the service's only one.
            timeout: seconds.

        Raises:
            ServiceError: code 2 where the share is not for this KME, or does not fit the others.
            BadRequest, NotOffered, CannotConnect, BadAnswer
        """
        return await self._pool.give_back(share, worker_id, Deadline.after(timeout))

    async def _receipt_worker(
        self, work_order_id: WorkOrderId, handle: OrderHandle | None, deadline: Deadline
    ) -> VerificationKey:
        """The verification key of the order's worker, from a record that passed."""
        if handle is not None:
            return handle.worker.appraised.verification_key
        receipt, _ = await self._receipts.read(work_order_id, None, deadline)
        worker_id = WorkerId(require_hex_id(receipt.worker_id, "the receipt's worker id"))
        listed = await self._finder.retrieve(worker_id, deadline)
        return self._finder.readmit(worker_id, None, listed.record).appraised.verification_key

    async def _start(
        self, workload: str, items: Sequence[OrderItem], options: OrderOptions, *, hold: bool
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
            return await self._finder.renewed(wanted, deadline)
        found_at, found = self._found.get(wanted, (0.0, None))
        if found is not None and time.monotonic() - found_at < RECORD_LIFETIME_SECONDS:
            return await self._finder.renewed(found, deadline)
        worker = await self._finder.find(name=wanted, worker_id=None, deadline=deadline)
        self._found[wanted] = (time.monotonic(), worker)
        return worker

    def _remember(self, worker: TrustedWorker) -> None:
        """Take a record that was retrieved anew, because of a rotated key, in place of the one before."""
        for wanted, (_, known) in list(self._found.items()):
            if known.worker_id == worker.worker_id:
                self._found[wanted] = (time.monotonic(), worker)


def _order_of(order: OrderHandle | str) -> tuple[WorkOrderId, OrderHandle | None]:
    if isinstance(order, OrderHandle):
        return order.work_order_id, order
    return WorkOrderId(require_hex_id(order, "order")), None


def _tell_checked(plan: OrderPlan, worker: TrustedWorker) -> None:
    if plan.on_progress is not None:
        who = f"{worker.name} ({worker.worker_id})" if worker.name else worker.worker_id
        detail = f"{who}: {worker.mode}, {len(worker.report.checks)} checks passed"
        plan.on_progress(Progress(step=Step.WORKER_CHECKED, detail=detail, simulated=worker.simulated))
