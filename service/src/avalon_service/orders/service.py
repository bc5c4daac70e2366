"""What happens to a work order between its arrival and its answer, whatever transport it came by.

One path for all modes: a synchronous order is one that is submitted and waited for. The answers that the protocol
dresses as errors (pending) are ordinary values here; the listener dresses them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from avalon_core.crypto.orders import nonce_reuse
from avalon_core.protocol.errors import WorkerStatus, WorkOrderCode, WorkOrderError, invalid_order
from avalon_core.protocol.orders import GetResultParams, WorkOrderRequest, decode_request
from avalon_service.orders.errors import (
    DuplicateWorkOrder,
    QueueFull,
    RequestTooLarge,
    StoreUnavailable,
    UnknownWorker,
    UnknownWorkOrder,
)
from avalon_service.orders.ports import NewOrder, OrderFailure, OrderStore, OrderView, WorkerDirectory
from avalon_service.settings import Settings

log = logging.getLogger(__name__)

BUSY_RETRY_SECONDS = 1
"""The hint that goes with code 8."""

LEGACY_REMEDY = "use fresh ivs (leave out sessionKeyIv) or payloadFormat ~avalon-hpke-1, or have the operator set accept_legacy"

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
    ) -> None:
        self._store = store
        self._workers = workers
        self._settings = settings
        self._clock = clock

    async def submit(self, params: msgspec.Raw, *, wait: float = 0.0) -> OrderView:
        """Accept an order; hold the answer while its mode or ``wait`` (seconds) says so.

        Returns:
            The order: final, or still open where it is asynchronous and the wait ended.

        Raises:
            WorkOrderError: refused; nothing was stored.
        """
        raw = bytes(params)
        try:
            request = decode_request(raw)
            request.check_encodings()
            return await self._submit(request, raw, wait)
        except WorkOrderError as exc:
            raise _naming(exc, raw) from None

    async def _submit(self, request: WorkOrderRequest, raw: bytes, wait: float) -> OrderView:
        await self._check_worker(request.worker_id)
        self._check_legacy(request)
        now = self._clock()
        timeout = request.response_timeout_msecs / 1000
        new = NewOrder(
            work_order_id=request.work_order_id,
            worker_id=request.worker_id,
            requester_id=request.requester_id,
            request=raw,
            deadline=now + (timeout or self._settings.order_lifetime_seconds),
        )
        try:
            submission = await self._store.submit(new)
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
        if timeout:
            return await self._wait_synchronously(submission.order, timeout)
        return await self.wait(submission.order, wait)

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
            raise _naming(invalid_order(f"invalid params: {exc}"), bytes(params)) from None
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
            raise WorkOrderError(
                WorkOrderCode.INVALID_PARAMETER,
                "workOrderId: no such order here (never submitted, or purged)",
                {"workOrderId": order_id},
            )
        return order

    async def _check_worker(self, worker_id: str) -> None:
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

    def _check_legacy(self, request: WorkOrderRequest) -> None:
        # The enclave decides; this only spares the requester the way there.
        if self._settings.accepts_legacy or request.is_hpke:
            return
        reuse = nonce_reuse(request)
        if reuse is not None:
            raise invalid_order(f"the order is insecure and refused here: {reuse}; {LEGACY_REMEDY}")

    async def keep_house(self) -> None:
        """Put back orders whose leases ended, expire late ones, purge old ones: until cancelled."""
        while True:
            try:
                due = await self._store.expire_due()
                await self._store.purge(
                    older_than=self._clock() - self._settings.keep_finished_seconds,
                    keep=self._settings.keep_finished_orders,
                )
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


class _JustTheId(msgspec.Struct, frozen=True, rename="camel"):
    work_order_id: str = ""


_id_decoder = msgspec.json.Decoder(_JustTheId)


def _naming(error: WorkOrderError, params: bytes) -> WorkOrderError:
    """The same error with the order's id in its data, where the params tell one."""
    try:
        order_id = _id_decoder.decode(params).work_order_id[:128]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        order_id = ""
    return WorkOrderError(error.code, error.message, {"workOrderId": order_id, **error.data})
