"""What happens to a work order between its arrival and its answer, whatever transport it came by.

One path for all modes: a synchronous order is one that is submitted and waited for. The answers that the protocol
dresses as errors (pending) are ordinary values here; the listener dresses them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable

import msgspec

from avalon_core.crypto.cancellation import check_cancellation
from avalon_core.crypto.orders import nonce_reuse
from avalon_core.protocol.cancellation import WorkOrderCancelParams
from avalon_core.protocol.errors import WorkerStatus, WorkOrderCode, WorkOrderError, brief, invalid_order
from avalon_core.protocol.jsonrpc import Id
from avalon_core.protocol.orders import GetResultParams, WorkOrderRequest, decode_request
from avalon_service.deliveries.deliverer import Deliverer
from avalon_service.deliveries.ports import Post
from avalon_service.orders.errors import (
    DuplicateWorkOrder,
    QueueFull,
    RequestTooLarge,
    StoreUnavailable,
    UnknownWorker,
    UnknownWorkOrder,
)
from avalon_service.orders.ports import NewOrder, OrderFailure, OrderStore, OrderView, WorkerDirectory
from avalon_service.registry.requesters import RequesterKeys
from avalon_service.settings import Settings

log = logging.getLogger(__name__)

CHECKED_CHARS = 256 * 1024
"""Base64 of items up to this length is checked before acceptance. A longer one would hold the event loop, and with it
everybody else, for tens of milliseconds; the enclave refuses it with the same code."""

HASHED_APART_BYTES = 256 * 1024
"""Requests from this size on are hashed in another thread."""

BUSY_RETRY_SECONDS = 1
"""The hint that goes with code 8."""

LEGACY_REMEDY = "use fresh ivs (leave out sessionKeyIv) or payloadFormat ~avalon-hpke-1, or have the operator set accept_legacy"

WITHDRAWN = OrderFailure(code=WorkOrderCode.FAILED, message="the order was cancelled by its requester")
CANCELLED_BY_OPERATOR = OrderFailure(
    code=WorkOrderCode.FAILED, message="the order was cancelled by the operator of the service"
)

_get_result_decoder = msgspec.json.Decoder(GetResultParams)


class OrderService:
    """Submits orders and answers for them.

    Errors that a caller sees are :class:`WorkOrderError` with the order's id in their data, and nothing else.
    """

    def __init__(
        self,
        store: OrderStore,
        workers: WorkerDirectory,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        *,
        is_hosted: Callable[[str], bool] = lambda _: True,
        requesters: RequesterKeys | None = None,
        deliverer: Deliverer | None = None,
    ) -> None:
        """``is_hosted``: an enclave of this service is this worker; ``requesters``: whose orders must be signed.

        Without a ``deliverer`` orders that ask for a post are refused.
        """
        self._store = store
        self._workers = workers
        self._settings = settings
        self._clock = clock
        self._is_hosted = is_hosted
        self._requesters = requesters or RequesterKeys()
        self._deliverer = deliverer

    async def submit(
        self,
        params: msgspec.Raw,
        *,
        wait: float = 0.0,
        call_id: Id = None,
        origin: str = "",
        accepted: Callable[[], None] = lambda: None,
    ) -> OrderView:
        """Accept an order; hold the answer while its mode or ``wait`` (seconds) says so.

        Args:
            params: of WorkOrderSubmit.
            wait: seconds.
            call_id: goes with what is posted to resultUri and notifyUri.
            origin: see `NewOrder`.
            accepted: called when the order is durable, before anything is waited for.

        Returns:
            The order: final, or still open where it is asynchronous and the wait ended.

        Raises:
            WorkOrderError: refused; nothing was stored.
        """
        digest = _digesting(params)
        raw = bytes(params)
        del params  # it may keep a whole large body in memory
        try:
            order, timeout = await self._accept(raw, digest, call_id, origin)
        except WorkOrderError as exc:
            raise _naming(exc, raw) from None
        del raw  # while the order is waited for
        accepted()
        if timeout:
            return await self._wait_synchronously(order, timeout)
        return await self.wait(order, wait)

    async def _accept(
        self, raw: bytes, digest: asyncio.Future[bytes] | None, call_id: Id, origin: str
    ) -> tuple[OrderView, float]:
        """The order, durable, and for how many seconds it is to be waited for (0: it is asynchronous)."""
        request = decode_request(raw)
        request.check_encodings(CHECKED_CHARS)
        await self._check_worker(request.worker_id)
        self._check_requester(request)
        self._check_legacy(request)
        now = self._clock()
        timeout = request.response_timeout_msecs / 1000
        new = NewOrder(
            work_order_id=request.work_order_id,
            worker_id=request.worker_id,
            requester_id=request.requester_id,
            request=raw,
            deadline=now + (timeout or self._settings.order_lifetime_seconds),
            origin=origin,
            digest=await digest if digest is not None else b"",
        )
        try:
            posts = self._posts_of(request)
            submission = await self._store.submit(new)
            if posts and self._deliverer is not None:
                # Before the order is acknowledged. Where this fails the requester submits again, and this is made up for.
                await self._deliverer.plan(request.work_order_id, posts, call_id)
        except DuplicateWorkOrder:
            raise invalid_order(
                "workOrderId: already used for another order; submit under a fresh id"
            ) from None
        except RequestTooLarge as exc:
            raise invalid_order(str(exc)) from None
        except QueueFull as exc:
            raise busy(str(exc)) from None
        except StoreUnavailable as exc:
            log.error("order not stored reason=%s", exc)
            raise busy(
                "the order could not be stored; submit it again, the same bytes are safe to repeat"
            ) from None
        return submission.order, timeout

    def _posts_of(self, request: WorkOrderRequest) -> tuple[Post, ...]:
        if self._deliverer is not None:
            return self._deliverer.posts_of(request)
        if request.response_timeout_msecs == 0 and (request.result_uri or request.notify_uri):
            raise invalid_order(
                "resultUri, notifyUri: this service posts nothing; poll with WorkOrderGetResult"
            )
        return ()

    async def wait(self, order: OrderView, seconds: float) -> OrderView:
        """Hold until the order is final, for at most ``seconds`` and the service's own cap."""
        seconds = min(seconds, self._settings.max_wait_seconds)
        if seconds <= 0 or order.state.final:
            return order
        return await self._store.wait(order.work_order_id, seconds)

    async def _wait_synchronously(self, order: OrderView, timeout: float) -> OrderView:
        """Answer with the result within the time that the requester set, else end the order.

        The deadline counts from acceptance, so repeating the request after a lost connection gains no time. A time
        beyond the service's cap is answered as pending; the order goes on until its deadline.
        """
        remaining = order.accepted_at + timeout - self._clock()
        order = await self.wait(order, remaining)
        if order.state.final or remaining > self._settings.max_wait_seconds:
            return order
        return await self._store.cancel(order.work_order_id, _late(timeout), expired=True)

    async def result(self, params: msgspec.Raw, *, wait: float = 0.0) -> OrderView:
        """The order, held until it is final for at most ``wait`` seconds.

        Raises:
            WorkOrderError: code 2, the params are wrong or the order is not known.
        """
        try:
            order_id = _get_result_decoder.decode(params).work_order_id
        except msgspec.ValidationError as exc:
            raise _naming(invalid_order(f"invalid params: {brief(exc)}"), bytes(params)) from None
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise invalid_order("invalid params: expected a JSON object") from None
        try:
            wait = min(wait, self._settings.max_wait_seconds)
            if wait > 0:
                return await self._store.wait(order_id, wait)
            order = await self._store.get(order_id)
        except UnknownWorkOrder:
            order = None
        except StoreUnavailable as exc:
            log.error("order not read reason=%s", exc)
            raise busy("the order cannot be read at the moment; ask again") from None
        if order is None:
            raise _unknown(order_id)
        return order

    async def cancel(self, params: msgspec.Raw, *, by_operator: bool = False) -> OrderView:
        """Cancel an order for its requester, or for the operator, who needs no proof.

        Returns:
            The order, which is final now: cancelled, or what it was already.

        Raises:
            WorkOrderError: code 2, the params are wrong or the order is not known; 3, the caller does not prove to be
                its requester (:mod:`avalon_core.crypto.cancellation`).
        """
        try:
            cancellation = _cancel_decoder.decode(params)
        except msgspec.ValidationError as exc:
            raise _naming(invalid_order(f"invalid params: {brief(exc)}"), bytes(params)) from None
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise invalid_order("invalid params: expected a JSON object") from None
        order_id = cancellation.work_order_id
        try:
            order = await self._store.get(order_id)
            if order is None:
                raise UnknownWorkOrder(order_id)
            if not by_operator:
                await self._check_authority(cancellation, order)
            if order.state.final:
                return order
            return await self._store.cancel(order_id, CANCELLED_BY_OPERATOR if by_operator else WITHDRAWN)
        except WorkOrderError as exc:
            raise WorkOrderError(exc.code, exc.message, {"workOrderId": order_id, **exc.data}) from None
        except UnknownWorkOrder:
            raise _unknown(order_id) from None
        except StoreUnavailable as exc:
            log.error("order not cancelled reason=%s", exc)
            error = busy("the order cannot be cancelled at the moment; ask again")
            raise WorkOrderError(error.code, error.message, {"workOrderId": order_id, **error.data}) from None

    async def _check_authority(self, cancellation: WorkOrderCancelParams, order: OrderView) -> None:
        bound = _Bound()
        if cancellation.requester_id == order.requester_id:  # or it is denied without reading the order
            bound = _bound_decoder.decode(await self._store.request_of(order.work_order_id) or b"{}")
        signed_by = bound.verifying_key if bound.requester_signature else None
        check_cancellation(
            cancellation,
            requester_id=order.requester_id,
            encrypted_request_hash=bound.encrypted_request_hash,
            key=self._requesters.key_of(order.requester_id) or signed_by,
        )

    async def _check_worker(self, worker_id: str) -> None:
        """Accepting an order for a worker that nobody hosts here would only leave it to expire."""
        try:
            worker = await self._workers.retrieve(worker_id)
        except UnknownWorker:
            raise invalid_order(
                "workerId: no such worker is registered here; look workers up first"
            ) from None
        if worker.status == WorkerStatus.OFF_LINE:
            raise busy("the worker is off-line; try again later, or choose another")
        if worker.status != WorkerStatus.ACTIVE:
            raise invalid_order(
                f"workerId: the worker is {WorkerStatus(worker.status).name.lower()}; choose another"
            )
        if not self._is_hosted(worker_id):
            raise invalid_order(
                "workerId: the worker is registered here, but takes no orders here: submit to the address that its "
                "record gives (details.workOrderSyncUri, workOrderAsyncUri), or choose another"
            )

    def _check_requester(self, request: WorkOrderRequest) -> None:
        # The enclave decides; this only spares the requester the way there.
        if not request.requester_signature and self._requesters.key_of(request.requester_id) is not None:
            raise WorkOrderError(
                WorkOrderCode.INVALID_SIGNATURE,
                "requesterSignature: a key is registered for this requester, so every order of it must be signed",
            )

    def _check_legacy(self, request: WorkOrderRequest) -> None:
        # The enclave decides; this only spares the requester the way there.
        if self._settings.accepts_legacy or request.is_hpke:
            return
        reuse = nonce_reuse(request)
        if reuse is not None:
            raise invalid_order(f"the order is insecure and refused here: {reuse}; {LEGACY_REMEDY}")

    async def _purge(self) -> None:
        older_than = self._clock() - self._settings.keep_finished_seconds
        keep = self._settings.keep_finished_orders
        if self._deliverer is None:
            await self._store.purge(older_than=older_than, keep=keep)
            return
        await self._store.purge(older_than=older_than, keep=keep, spare=self._deliverer.orders_to_keep())
        await self._deliverer.purge(older_than=older_than, keep=keep)

    async def keep_house(self) -> None:
        """Put back orders whose leases ended, expire late ones, purge old ones: until cancelled."""
        while True:
            try:
                due = await self._store.expire_due()
                await self._purge()
            except StoreUnavailable as exc:
                log.error("housekeeping failed, will be tried again reason=%s", exc)
                due = None
            pause = (
                PURGE_EVERY_SECONDS if due is None else min(max(due - self._clock(), 0), PURGE_EVERY_SECONDS)
            )
            try:
                async with asyncio.timeout(pause):
                    await self._store.due_earlier(due)
            except TimeoutError:
                continue


PURGE_EVERY_SECONDS = 60.0


def busy(message: str) -> WorkOrderError:
    """Code 8, with the hint when to come back."""
    return WorkOrderError(WorkOrderCode.BUSY, message, {"retryAfterSeconds": BUSY_RETRY_SECONDS})


def _late(timeout: float) -> OrderFailure:
    return OrderFailure(
        code=WorkOrderCode.FAILED,
        message=f"not finished within responseTimeoutMSecs ({timeout * 1000:.0f}); the order was cancelled, "
        "submit it anew with more time or asynchronously",
    )


def _unknown(order_id: str) -> WorkOrderError:
    return WorkOrderError(
        WorkOrderCode.INVALID_PARAMETER,
        "workOrderId: no such order here (never submitted, or purged)",
        {"workOrderId": order_id},
    )


class _Bound(msgspec.Struct, frozen=True, rename="camel"):
    """What binds an order to its requester."""

    encrypted_request_hash: str = ""
    requester_signature: str | None = None
    verifying_key: str | None = None


_cancel_decoder = msgspec.json.Decoder(WorkOrderCancelParams)
_bound_decoder = msgspec.json.Decoder(_Bound)


class _JustTheId(msgspec.Struct, frozen=True, rename="camel"):
    work_order_id: str = ""


_id_decoder = msgspec.json.Decoder(_JustTheId)


def _digesting(params: msgspec.Raw) -> asyncio.Future[bytes] | None:
    """Begin to hash a large request in another thread, while it is decoded in this one; None for a small one."""
    view = memoryview(params)
    if len(view) < HASHED_APART_BYTES:
        return None
    return asyncio.get_running_loop().run_in_executor(None, lambda: hashlib.sha256(view).digest())


def _naming(error: WorkOrderError, params: bytes) -> WorkOrderError:
    """The same error with the order's id in its data, where the params tell one."""
    try:
        order_id = _id_decoder.decode(params).work_order_id[:128]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        order_id = ""
    return WorkOrderError(error.code, error.message, {"workOrderId": order_id, **error.data})
