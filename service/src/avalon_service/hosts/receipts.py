"""The worker's own word in receipts: it gets there once, whatever crashes in between.

    order with a receipt finishes    the enclave's answer brings the signed update along: stored after the result
    receipt of a finished order      the enclave is asked to sign (SignReceipt), then as above
    crash between the two            `awaiting` still names the receipt: found at the next start, or by the sweep

A refusal's update is stored before the order is finished as failed: asked for later, it may be in other words. Of an
order that has no result the enclave is asked for its word, too, whoever ended it. It signs the refusal that it
remembers; else that it has not answered the order and never will; or nothing, where it had answered too late: then the
receipt stays as it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from avalon_core.channel.messages import Done, Failed, ReceiptSigned
from avalon_core.crypto.signing import load_verification_key
from avalon_core.errors import ChannelError, KeyFormatError, SignatureMismatch
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.errors import GeneralError, WorkOrderCode
from avalon_core.protocol.receipts import SIGNATURE_RULES, ReceiptStatus, update_digest
from avalon_core.protocol.workers import decode_details
from avalon_service.hosts.process import EnclaveEnded
from avalon_service.orders.errors import ReceiptError, StoreUnavailable, UnknownWorker
from avalon_service.orders.ports import OrderStore, WorkerDirectory
from avalon_service.orders.receipt_counts import ReceiptCounts
from avalon_service.orders.receipt_ports import NewReceiptUpdate, ReceiptStore
from avalon_service.orders.state import OrderView

log = logging.getLogger(__name__)

SWEEP_EVERY_SECONDS = 30.0
"""How often receipts are looked for whose orders ended without their host's help, or whose update was not stored."""

WIDTH = 4
"""Updates that are under way at a time: enough for them to share the store's group commits."""

_PAGE = 200

Sign = Callable[[bytes, bytes | None], Awaitable[ReceiptSigned | Failed]]
"""Has the enclave sign for a request and its result, or for there being none."""


class ReceiptDesk:
    """Brings the workers' updates to their receipts. One for a service; each host serves its own worker."""

    def __init__(
        self,
        *,
        receipts: ReceiptStore,
        orders: OrderStore,
        workers: WorkerDirectory,
        counts: ReceiptCounts | None = None,
    ) -> None:
        """``counts``: where the words are counted."""
        self._counts = counts or ReceiptCounts()
        self._receipts = receipts
        self._orders = orders
        self._workers = workers
        self._due: dict[str, asyncio.Queue[str]] = {}
        self._queued: set[str] = set()
        self._under_way: dict[str, bool] = {}
        """Orders whose receipts are seen to at this moment, and whether to look at them again."""

        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._keys: dict[bytes, str] = {}

    # Hosts

    def awaits(self, work_order_id: str) -> bool:
        """Whether the order has a receipt that awaits the worker's word. Costs next to nothing."""
        return self._receipts.awaits(work_order_id)

    async def refused(self, worker_id: str, work_order_id: str, answer: Failed) -> None:
        """The enclave refused an order, which is going to be stored as failed: keep its word first."""
        if answer.response_hash is None or answer.receipt_signature is None:
            return
        try:
            await self._record(
                worker_id, work_order_id, ReceiptStatus.FAILED, answer.response_hash, answer.receipt_signature
            )
        except StoreUnavailable as exc:
            log.error("refusal not noted in its receipt order=%s reason=%s", work_order_id, exc)

    async def finished(self, worker_id: str, work_order_id: str, answer: Done | Failed) -> None:
        """An answer of the enclave was stored, and the order has a receipt."""
        try:
            if isinstance(answer, Failed) and answer.receipt_signature is not None:
                await self._settle(work_order_id)  # it is noted already
            elif (
                isinstance(answer, Done)
                and answer.response_hash is not None
                and answer.receipt_signature is not None
            ):
                await self._say_last(
                    worker_id,
                    work_order_id,
                    ReceiptStatus.PROCESSED,
                    answer.response_hash,
                    answer.receipt_signature,
                )
            else:
                self.look_at(worker_id, work_order_id)
        except StoreUnavailable as exc:
            log.error("receipt not updated yet order=%s reason=%s", work_order_id, exc)

    async def serve(self, worker_id: str, sign: Sign) -> None:
        """Bring the worker's word to the receipts that await it, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sweep(worker_id))
            for _ in range(WIDTH):
                group.create_task(self._work(worker_id, sign))

    # Whoever creates and reads receipts

    def look_at(self, worker_id: str, work_order_id: str) -> None:
        """The order of this receipt may be finished: see to it soon."""
        if work_order_id in self._under_way:
            self._under_way[work_order_id] = True
        elif work_order_id not in self._queued:
            self._queued.add(work_order_id)
            self._queue(worker_id).put_nowait(work_order_id)

    async def settled(self, work_order_id: str, seconds: float) -> None:
        """Return when the receipt awaits no more, or after a time."""
        if not self._receipts.awaits(work_order_id):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(work_order_id, set()).add(future)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return
        finally:
            waiting = self._waiting.get(work_order_id)
            if waiting is not None:
                waiting.discard(future)
                if not waiting:
                    del self._waiting[work_order_id]

    # Inside

    def _queue(self, worker_id: str) -> asyncio.Queue[str]:
        queue = self._due.get(worker_id)
        if queue is None:
            queue = self._due[worker_id] = asyncio.Queue()
        return queue

    async def _sweep(self, worker_id: str) -> None:
        while True:
            try:
                await self._look_through(worker_id)
            except StoreUnavailable as exc:
                log.error("receipts not looked through, will be tried again reason=%s", exc)
            await asyncio.sleep(SWEEP_EVERY_SECONDS)

    async def _look_through(self, worker_id: str) -> None:
        tag = ""
        while True:
            page = await self._receipts.awaiting(worker_id, tag=tag, limit=_PAGE)
            for work_order_id in page.work_order_ids:
                order = await self._orders.get(work_order_id)
                if order is None or order.state.final:
                    self.look_at(worker_id, work_order_id)
            tag = page.tag
            if not tag:
                return

    async def _work(self, worker_id: str, sign: Sign) -> None:
        queue = self._queue(worker_id)
        while True:
            work_order_id = await queue.get()
            self._queued.discard(work_order_id)
            self._under_way[work_order_id] = False
            again = False
            try:
                await self._see_to(worker_id, work_order_id, sign)
            except StoreUnavailable as exc:
                log.error("receipt not updated yet order=%s reason=%s", work_order_id, exc)
            except EnclaveEnded:
                again = True  # for the next enclave
                return
            except asyncio.CancelledError:
                again = True
                raise
            except Exception:
                log.exception("receipt not updated order=%s", work_order_id)
            finally:
                asked = self._under_way.pop(work_order_id)
                if again or (asked and self._receipts.awaits(work_order_id)):
                    self.look_at(worker_id, work_order_id)

    async def _see_to(self, worker_id: str, work_order_id: str, sign: Sign) -> None:
        order = await self._orders.get(work_order_id)
        if order is not None and not order.state.final:
            return  # its host sees to it when it is finished
        if order is None or await self._has_refusal(order):
            await self._settle(work_order_id)
            return
        signed = await self._signed(order, sign)
        if isinstance(signed, str):
            log.warning("the worker does not sign this receipt order=%s reason=%s", work_order_id, signed)
            self._counts.add("worker", "unsigned")
            await self._settle(work_order_id)
            return
        status = ReceiptStatus.PROCESSED if order.result is not None else ReceiptStatus.FAILED
        await self._say_last(worker_id, work_order_id, status, signed.response_hash, signed.receipt_signature)

    async def _has_refusal(self, order: OrderView) -> bool:
        """The service died between storing the refusal and the failure: do not have it said again in other words."""
        if order.result is not None:
            return False
        try:
            found = await self._receipts.retrieve_update(
                order.work_order_id, None, updater_id=order.worker_id
            )
        except ReceiptError:
            return False
        return found.update.update_type == ReceiptStatus.FAILED

    async def _signed(self, order: OrderView, sign: Sign) -> ReceiptSigned | str:
        request = await self._orders.request_of(order.work_order_id)
        if request is None:
            return "the order has been purged"
        try:
            answer = await sign(request, order.result)
        except ChannelError as exc:
            return exc.message
        if isinstance(answer, ReceiptSigned):
            return answer
        if answer.code == WorkOrderCode.BUSY:
            raise StoreUnavailable(f"the enclave cannot sign now: {answer.message}")
        return answer.message

    async def _say_last(
        self,
        worker_id: str,
        work_order_id: str,
        status: ReceiptStatus,
        response_hash: bytes,
        signature: bytes,
    ) -> None:
        """The worker's last word: the receipt awaits no more."""
        await self._record(worker_id, work_order_id, status, response_hash, signature, settles=True)
        self._wake(work_order_id)

    async def _record(
        self,
        worker_id: str,
        work_order_id: str,
        status: ReceiptStatus,
        response_hash: bytes,
        signature: bytes,
        *,
        settles: bool = False,
    ) -> None:
        update = NewReceiptUpdate(
            work_order_id=work_order_id,
            updater_id=worker_id,
            update_type=int(status),
            update_data=encode_base64(response_hash),
            signature=encode_base64(signature),
            signature_rules=SIGNATURE_RULES,
            verification_key=await self._key_of(worker_id),
        )
        digest = update_digest(work_order_id, update.update_type, update.update_data)
        try:
            load_verification_key(update.verification_key).verify(digest, signature)
        except (KeyFormatError, SignatureMismatch) as exc:
            # The enclave was started anew with other keys in this very moment.
            log.error("the worker's update does not verify order=%s reason=%s", work_order_id, exc.message)
            self._counts.add("worker", "unverified")
            if settles:
                await self._receipts.settle(work_order_id)
            return
        try:
            await self._receipts.update(update, settles=settles)
        except ReceiptError as exc:
            # Its requester has closed it, or it was purged: there is nothing to say any more.
            log.info("the worker's update is not wanted order=%s reason=%s", work_order_id, exc.reason)
            self._counts.add("worker", "unwanted")
        else:
            self._counts.add("worker", status.name.lower())

    async def _key_of(self, worker_id: str) -> str:
        try:
            details = (await self._workers.retrieve(worker_id)).details
            if details not in self._keys:
                self._keys = {details: decode_details(details).worker_type_data.verification_key}
            return self._keys[details]
        except (UnknownWorker, GeneralError) as exc:
            raise StoreUnavailable(f"the worker's record cannot be read: {exc}") from exc

    async def _settle(self, work_order_id: str) -> None:
        await self._receipts.settle(work_order_id)
        self._wake(work_order_id)

    def _wake(self, work_order_id: str) -> None:
        for future in self._waiting.pop(work_order_id, ()):
            if not future.done():
                future.set_result(None)
