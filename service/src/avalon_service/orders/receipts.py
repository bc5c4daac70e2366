"""Receipts: who may create one and add to it, whatever transport it came by.

Creating a receipt, in this order:

1. The order is stored here, open or finished, and the ids are its own, to the letter (code 2).
2. workOrderRequestHash is the order's H. Nothing public tells the specification's two dialects apart, so either will
   do (code 2).
3. receiptVerificationKey verifies the signature. Where a key is registered for the requester it must be that one, else
   where the order itself was signed it must be the order's verifyingKey; else any key will do, and proves that whoever
   has it knew the order (code 4).
4. The order has no receipt yet (code 2).

Adding an update:

1. There is a receipt (code 2).
2. The signature verifies under the updater's key: of the worker that of its record here, of the requester that of
   the creation; anybody else gives one, which must not be one of those two (codes 2 and 4). The signature covers no
   updater, so an id that is spelled otherwise is still the same one here.
3. Only the worker and the requester set the status (code 3): anybody can make a key.
4. PROCESSED and COMPLETED name the hash of the response that is stored here (code 2). Where the order has been purged
   since, the worker's word is compared if it gave it.
5. The rules of the status (:mod:`avalon_core.protocol.receipts`) allow it, and there is room (code 2).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from avalon_core.crypto.receipts import request_hashes, response_hashes, verify_creation, verify_update
from avalon_core.crypto.signing import VerificationKey, load_verification_key
from avalon_core.errors import KeyFormatError, SignatureMismatch
from avalon_core.protocol.encodings import decode_base64
from avalon_core.protocol.errors import GeneralCode, GeneralError, WorkOrderError
from avalon_core.protocol.orders import WorkOrderRequest, decode_request, decode_result
from avalon_core.protocol.receipts import (
    ReceiptCreateParams,
    ReceiptLookUpParams,
    ReceiptStatus,
    ReceiptUpdateParams,
    ReceiptUpdateRetrieveParams,
    names_response,
    sets_status,
)
from avalon_core.protocol.workers import decode_details
from avalon_service.orders.errors import (
    EndOfLookUp,
    InvalidTag,
    ReceiptError,
    StoreUnavailable,
    UnknownReceipt,
    UnknownReceiptUpdate,
    UnknownWorker,
)
from avalon_service.orders.ports import LookUpPage, OrderStore, WorkerDirectory
from avalon_service.orders.receipt_counts import ReceiptCounts
from avalon_service.orders.receipt_ports import (
    FoundUpdate,
    NewReceipt,
    NewReceiptUpdate,
    Receipt,
    ReceiptStore,
    ReceiptUpdate,
)
from avalon_service.registry.requesters import RequesterKeys
from avalon_service.settings import Settings

log = logging.getLogger(__name__)

LOOK_UP_PAGE = 100
"""Ids on one page of a look-up."""

MAX_UPDATES = 256
"""Updates of one receipt. Honest ones have a handful; the worker's own always finds room."""

MAX_UPDATES_OF_OTHERS = 128
"""Beyond this many only the worker and the requester add any: nobody else can fill a receipt up."""

WORD_SECONDS = 2.0
"""How long a reader is held for the worker's word on an order that has just finished."""

_LARGE_REQUEST = 64 * 1024
"""Bytes of a request beyond which hashing it would keep the event loop from its work."""

PURGE_EVERY_SECONDS = 600.0


class Desk(Protocol):
    """Brings the worker's word to receipts (see :mod:`avalon_service.hosts.receipts`)."""

    def look_at(self, worker_id: str, work_order_id: str) -> None:
        """The order of this receipt may be finished."""
        ...

    async def settled(self, work_order_id: str, seconds: float) -> None:
        """Return when the receipt awaits no more, or after a time."""
        ...


class ReceiptService:
    """Creates receipts and answers for them. What a caller did wrong is a :class:`GeneralError`, and nothing else."""

    def __init__(
        self,
        *,
        receipts: ReceiptStore,
        orders: OrderStore,
        workers: WorkerDirectory,
        desk: Desk,
        settings: Settings,
        requesters: RequesterKeys | None = None,
        counts: ReceiptCounts | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``requesters``: the keys that are registered for requesters; ``counts``: where creations and updates are counted."""
        self._counts = counts or ReceiptCounts()
        self._receipts = receipts
        self._orders = orders
        self._workers = workers
        self._desk = desk
        self._settings = settings
        self._requesters = requesters or RequesterKeys()
        self._clock = clock

    async def create(self, params: ReceiptCreateParams) -> Receipt:
        """Create a receipt, durably. See the module for the checks.

        Raises:
            GeneralError: codes 2 and 4.
        """
        order_id = params.work_order_id
        async with _translated(order_id):
            with self._counts.counting("creation"):
                receipt = await self._create(params)
        await self._see_to(order_id)
        return receipt

    async def update(self, params: ReceiptUpdateParams) -> ReceiptUpdate:
        """Add an update, durably. See the module for the checks. The very same one again changes nothing.

        Raises:
            GeneralError: codes 2, 3 and 4.
        """
        async with _translated(params.work_order_id):
            with self._counts.counting("update"):
                return await self._update(params)

    async def retrieve(self, work_order_id: str) -> Receipt:
        """A receipt as it is now; where its order has just finished, with the worker's word in it.

        Raises:
            GeneralError: code 2, there is no receipt.
        """
        async with _translated(work_order_id):
            await self._bring_up_to_date(work_order_id)
            return await self._receipts.retrieve(work_order_id)

    async def retrieve_update(self, params: ReceiptUpdateRetrieveParams) -> FoundUpdate:
        """One update of a receipt.

        Raises:
            GeneralError: code 2, there is no receipt or no such update.
        """
        async with _translated(params.work_order_id):
            await self._bring_up_to_date(params.work_order_id)
            return await self._receipts.retrieve_update(
                params.work_order_id,
                None if params.wants_last else params.update_index,
                updater_id=params.updater_id or None,
            )

    async def look_up(self, params: ReceiptLookUpParams, tag: str = "") -> LookUpPage:
        """The orders that have a matching receipt, oldest receipt first.

        Raises:
            GeneralError: code 5 past the end, code 2 for a tag that is none.
        """
        async with _translated(""):
            return await self._receipts.look_up(
                worker_service_id=params.worker_service_id or None,
                worker_id=params.worker_id or None,
                requester_id=params.requester_id or None,
                status=params.status,
                tag=tag,
                limit=LOOK_UP_PAGE,
            )

    async def keep_house(self) -> None:
        """Purge receipts that nobody has touched for long: until cancelled."""
        while True:
            try:
                before = self._clock() - self._settings.keep_receipts_seconds
                purged = await self._receipts.purge(older_than=before)
                if purged:
                    log.info("receipts purged count=%d", purged)
            except StoreUnavailable as exc:
                log.error("receipts not purged, will be tried again reason=%s", exc)
            await asyncio.sleep(PURGE_EVERY_SECONDS)

    # Inside

    async def _create(self, params: ReceiptCreateParams) -> Receipt:
        order_id = params.work_order_id
        raw = await self._orders.request_of(order_id)
        if raw is None:
            raise _invalid("workOrderId: no such order here (never submitted, or purged)", order_id)
        request, hashes = await _hashed(raw)
        _check_ids(params, request)
        if decode_base64(params.work_order_request_hash, what="workOrderRequestHash") not in hashes:
            raise _invalid("workOrderRequestHash: is not the hash of the order that is stored here", order_id)
        self._check_creation(params, request)
        return await self._receipts.create(
            NewReceipt(
                work_order_id=order_id,
                worker_service_id=params.worker_service_id,
                worker_id=params.worker_id,
                requester_id=params.requester_id,
                create_status=params.receipt_create_status,
                request_hash=params.work_order_request_hash,
                nonce=params.requester_generated_nonce,
                signature=params.requester_signature,
                signature_rules=params.signature_rules,
                verification_key=params.receipt_verification_key,
            )
        )

    async def _update(self, params: ReceiptUpdateParams) -> ReceiptUpdate:
        order_id = params.work_order_id
        receipt = await self._receipts.retrieve(order_id)
        is_party = any(_same_id(params.updater_id, own) for own in (receipt.worker_id, receipt.requester_id))
        key = await self._updater_key(params, receipt)
        try:
            verify_update(params, key)
        except SignatureMismatch as exc:
            raise _forged(f"updateSignature does not verify: {exc.message}", order_id) from None
        if not is_party and sets_status(params.update_type):
            raise GeneralError(
                GeneralCode.ACCESS_DENIED,
                "updateType: only the order's worker and requester set the status; use a type above 255",
                {"workOrderId": order_id},
            )
        if names_response(params.update_type):
            await self._check_response(params, receipt)
        return await self._receipts.update(
            NewReceiptUpdate(
                work_order_id=order_id,
                updater_id=params.updater_id,
                update_type=params.update_type,
                update_data=params.update_data,
                signature=params.update_signature,
                signature_rules=params.signature_rules,
                verification_key=key.pem,
            ),
            room=MAX_UPDATES if is_party else MAX_UPDATES_OF_OTHERS,
        )

    def _check_creation(self, params: ReceiptCreateParams, request: WorkOrderRequest) -> None:
        expected, whose = self._requesters.key_of(request.requester_id), "registered for the requester"
        if expected is None and request.requester_signature and request.verifying_key:
            expected, whose = request.verifying_key, "that signed the order"
        try:
            verify_creation(params, load_verification_key(expected) if expected is not None else None)
        except KeyFormatError as exc:
            raise _forged(f"the key {whose} cannot be used: {exc.message}", params.work_order_id) from None
        except SignatureMismatch as exc:
            hint = f" (it must be the key {whose})" if expected is not None else ""
            message = f"requesterSignature does not verify: {exc.message}{hint}"
            raise _forged(message, params.work_order_id) from None

    async def _updater_key(self, params: ReceiptUpdateParams, receipt: Receipt) -> VerificationKey:
        order_id = params.work_order_id
        try:
            named = (
                load_verification_key(params.receipt_verification_key)
                if params.receipt_verification_key
                else None
            )
        except KeyFormatError as exc:
            raise _forged(f"receiptVerificationKey: {exc.message}", order_id) from None
        worker = await self._worker_key(receipt.worker_id)
        requester = load_verification_key(receipt.verification_key)
        if _same_id(params.updater_id, receipt.worker_id):
            known, whose = worker, "worker's"
        elif _same_id(params.updater_id, receipt.requester_id):
            known, whose = requester, "requester's"
        elif named is None:
            raise _invalid(
                "receiptVerificationKey: missing; only the order's worker and requester may leave it out",
                order_id,
            )
        elif named in (worker, requester):
            raise _forged(
                "receiptVerificationKey: this key is the worker's or the requester's; give its owner's updaterId",
                order_id,
            )
        else:
            return named
        if known is None or (named is not None and named != known):
            raise _forged(f"receiptVerificationKey: is not the {whose} key", order_id)
        return known

    async def _worker_key(self, worker_id: str) -> VerificationKey | None:
        try:
            entry = await self._workers.retrieve(worker_id)
            return load_verification_key(decode_details(entry.details).worker_type_data.verification_key)
        except (UnknownWorker, GeneralError, KeyFormatError):
            return None

    async def _check_response(self, params: ReceiptUpdateParams, receipt: Receipt) -> None:
        order_id = params.work_order_id
        order = await self._orders.get(order_id)
        if order is None:
            expected = await self._worker_s_word(receipt)
        elif order.result is None:
            raise _invalid("updateType: the order has no response (yet)", order_id)
        else:
            raw = await self._orders.request_of(order_id)
            expected = await _response_hashes(raw, order.result) if raw is not None else None
        if expected is not None and decode_base64(params.update_data, what="updateData") not in expected:
            raise _invalid("updateData: is not the hash of the order's response", order_id)

    async def _worker_s_word(self, receipt: Receipt) -> frozenset[bytes] | None:
        try:
            found = await self._receipts.retrieve_update(
                receipt.work_order_id, None, updater_id=receipt.worker_id
            )
        except UnknownReceiptUpdate:
            return None
        if found.update.update_type != ReceiptStatus.PROCESSED:
            return None
        return frozenset({decode_base64(found.update.update_data, what="updateData")})

    async def _see_to(self, work_order_id: str) -> bool:
        """Have the worker's word brought to the receipt if its order has finished; whether it has."""
        try:
            order = await self._orders.get(work_order_id)
        except StoreUnavailable:
            return False  # the desk looks through all receipts now and then
        if order is None or not order.state.final:
            return False
        self._desk.look_at(order.worker_id, work_order_id)
        return True

    async def _bring_up_to_date(self, work_order_id: str) -> None:
        """Wait for the worker's word where it can come at any moment. To be called before the receipt is read."""
        if self._receipts.awaits(work_order_id) and await self._see_to(work_order_id):
            await self._desk.settled(work_order_id, WORD_SECONDS)


async def _hashed(raw: bytes) -> tuple[WorkOrderRequest, frozenset[bytes]]:
    def run() -> tuple[WorkOrderRequest, frozenset[bytes]]:
        request = decode_request(raw)
        return request, request_hashes(request)

    return run() if len(raw) <= _LARGE_REQUEST else await asyncio.to_thread(run)


async def _response_hashes(raw: bytes, result: bytes) -> frozenset[bytes]:
    def run() -> frozenset[bytes]:
        return response_hashes(decode_request(raw), decode_result(result))

    return run() if len(raw) + len(result) <= _LARGE_REQUEST else await asyncio.to_thread(run)


def _check_ids(params: ReceiptCreateParams, request: WorkOrderRequest) -> None:
    for member, given, stored in (
        ("workerId", params.worker_id, request.worker_id),
        ("requesterId", params.requester_id, request.requester_id),
    ):
        if given != stored:
            raise _invalid(f"{member}: is not the one in the order that is stored here", params.work_order_id)


def _same_id(one: str, other: str) -> bool:
    return one.lower().removeprefix("0x") == other.lower().removeprefix("0x")


@asynccontextmanager
async def _translated(work_order_id: str) -> AsyncIterator[None]:
    """The store's errors in the protocol's words."""
    data = {"workOrderId": work_order_id} if work_order_id else {}
    try:
        yield
    except UnknownReceipt:
        message = "workOrderId: no receipt of this order is kept here (never created, or purged)"
        raise GeneralError(GeneralCode.INVALID_PARAMETER, message, data) from None
    except UnknownReceiptUpdate as exc:
        message = f"updateIndex: no such update; {exc.reason}"
        raise GeneralError(
            GeneralCode.INVALID_PARAMETER, message, {**data, "updateCount": exc.count}
        ) from None
    except ReceiptError as exc:
        raise GeneralError(GeneralCode.INVALID_PARAMETER, exc.reason, data) from None
    except EndOfLookUp:
        raise GeneralError(GeneralCode.NO_MORE_RESULTS, "no more results") from None
    except InvalidTag:
        message = "lookUpTag: not a tag that this service gave out; start again with WorkOrderReceiptLookUp"
        raise GeneralError(GeneralCode.INVALID_PARAMETER, message) from None
    except WorkOrderError as exc:
        raise GeneralError(
            GeneralCode.UNKNOWN_ERROR, f"the stored order cannot be read: {exc.message}", data
        ) from None
    except StoreUnavailable as exc:
        log.error("receipt not read or written reason=%s", exc)
        message = "the store is not available at the moment; nothing was changed, try again"
        raise GeneralError(GeneralCode.UNKNOWN_ERROR, message, data) from None


def _invalid(message: str, work_order_id: str) -> GeneralError:
    return GeneralError(GeneralCode.INVALID_PARAMETER, message, {"workOrderId": work_order_id})


def _forged(message: str, work_order_id: str) -> GeneralError:
    return GeneralError(GeneralCode.INVALID_SIGNATURE, message, {"workOrderId": work_order_id})
