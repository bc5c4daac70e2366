"""Receipts of work orders: signed words about an order, which stay when the order is long purged.

Nothing that a service says of a receipt is believed. A receipt is accepted in these steps; each failure is a
:class:`ReceiptRefused`:

1. *Order.* It names the order that was asked for; where the order's handle is at hand, also its worker, its requester and
   its request hash.
2. *Creation.* The requester's signature verifies under the key that the receipt names; where the order itself was signed,
   or the requester's key is known, that must be the same key. (Of an unsigned order anybody who saw it can make a receipt,
   under a key of his own: who has a key should say so.)

Each update of it:

3. *Order.* It names the order that was asked for.
4. *Signature.* It verifies under its updater's key: of the worker that of its appraised record, of the requester that of the
   creation, of anybody else the one that it names. (Whose that is, is for the reader to know.) What was signed says one
   thing: the digest joins type and data without a length, so type 2 with data 560... could be shown as type 2560.
5. *Right.* Only the worker and the requester set the status.
6. *Response.* Where a verified result is at hand, an update that names a response names that very one.

And all of them together:

7. *Status.* The updates, taken one after the other by the rules, come to the status that the service tells.

What a service can still do is to leave out the latest updates: it then shows an older receipt, never a false one.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from avalon_core.crypto.receipts import (
    RENOUNCED,
    create_receipt,
    failure_hash,
    sign_update,
    verify_creation,
    verify_update,
)
from avalon_core.crypto.signing import SigningKey, VerificationKey, load_verification_key
from avalon_core.errors import AvalonError, EncodingError, KeyFormatError, SignatureMismatch
from avalon_core.protocol.encodings import decode_base64, encode_base64
from avalon_core.protocol.errors import GeneralCode, GeneralError, WorkOrderCode
from avalon_core.protocol.ids import WorkOrderId
from avalon_core.protocol.receipts import (
    HASH_CHARS,
    ReceiptLookUpResult,
    ReceiptResult,
    ReceiptStatus,
    ReceiptUpdateResult,
    names_response,
    sets_status,
    status_after,
)
from avalon_sdk.deadline import Deadline, RetryPolicy
from avalon_sdk.errors import BadAnswer, BadRequest, ReceiptRefused, ServiceError
from avalon_sdk.orders import OrderHandle
from avalon_sdk.planning import require_hex_id
from avalon_sdk.transports.base import ReceiptCriteria, Transport

Agreement = Literal["", "result", "failure", "unanswered"]

MAX_UPDATES = 1000
"""Of one receipt. Services keep some hundred; each costs a call and a signature's check."""

MAX_LISTED_RECEIPTS = 100_000
"""A service that lists more in one look-up is not asked for more."""

_ATTEMPTS = 3
"""How often a receipt is read anew because an update came in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptUpdate:
    """An update whose signature was verified."""

    index: int
    """From 1."""

    by: Literal["worker", "requester", "other"]
    """Whose key signed it; ``other``: that of anybody else, ``key`` says which."""

    updater_id: str
    """As the service tells it: no signature covers it."""

    type: int
    """Up to 255 the status that it sets; above, the application's own."""

    data: str
    key: VerificationKey = field(repr=False)
    agrees_with: Agreement = ""
    """What is at hand and this update names: the verified ``result``; the very ``failure`` that the service told of; or
    ``unanswered``, of an order without a result: the worker vouches that it has not answered it and never will, and not
    for why (of one that was cancelled, for example). Empty: nothing is at hand, or it names nothing."""

    @property
    def type_name(self) -> str:
        """In words."""
        return status_name(self.type)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A receipt whose creation was verified, with the updates that were verified with it."""

    work_order_id: WorkOrderId
    worker_id: str
    requester_id: str
    worker_service_id: str
    create_status: int
    status: int
    """The current one: the updates come to it."""

    request_hash: bytes
    """Of the order: H, 32 bytes."""

    requester_key: VerificationKey = field(repr=False)
    """Signed the creation. Whose it is, is for the reader to know, unless the order was signed by it, too."""

    updates: Sequence[ReceiptUpdate] = ()

    @property
    def status_name(self) -> str:
        """In words."""
        return status_name(self.status)

    @property
    def worker_says(self) -> ReceiptUpdate | None:
        """The worker's own last word that sets the status."""
        found = [update for update in self.updates if update.by == "worker" and sets_status(update.type)]
        return found[-1] if found else None


def status_name(code: int) -> str:
    """A receipt's status or an update's type in words."""
    try:
        return ReceiptStatus(code).name.lower()
    except ValueError:
        return f"application's {code}"


class ReceiptDesk:
    """Creates, reads and verifies receipts for a client."""

    def __init__(self, transport: Transport, retry: RetryPolicy) -> None:
        self._transport = transport
        self._retry = retry

    async def create(
        self,
        handle: OrderHandle,
        signer: SigningKey,
        deadline: Deadline,
        *,
        status: int = ReceiptStatus.PENDING,
        worker_service_id: str | None = None,
    ) -> Receipt:
        """Create the receipt of an order and read it back, verified."""
        service_id = require_hex_id(worker_service_id or handle.worker.worker_id, "worker_service_id")
        try:
            params = create_receipt(
                handle.parsed_request,
                handle.request_hash,
                signer,
                worker_service_id=service_id,
                status=status,
            )
        except ValueError as exc:
            raise BadRequest(str(exc)) from exc
        try:
            await self._retry.persist(
                lambda: self._transport.create_receipt(params, timeout=deadline.left), deadline
            )
        except ServiceError as exc:
            # Perhaps it is ours, and an earlier answer was lost.
            if exc.code != GeneralCode.INVALID_PARAMETER or not await self._is_stored(
                handle, params.requester_signature, deadline
            ):
                raise
        receipt, _ = await self.read(handle.work_order_id, handle, deadline, signer.verification_key)
        return receipt

    async def _is_stored(self, handle: OrderHandle, signature: str, deadline: Deadline) -> bool:
        try:
            _, found = await self.read(handle.work_order_id, handle, deadline)
        except ServiceError:
            return False
        return found.requester_signature == signature

    async def read(
        self,
        work_order_id: WorkOrderId,
        handle: OrderHandle | None,
        deadline: Deadline,
        requester_key: VerificationKey | None = None,
    ) -> tuple[Receipt, ReceiptResult]:
        """Steps 1 and 2. The status is the service's word; the updates are not in it."""
        found = await self._retry.persist(
            lambda: self._transport.retrieve_receipt(work_order_id, timeout=deadline.left), deadline
        )
        return verified_creation(found, work_order_id, handle, requester_key), found

    async def updates(
        self,
        receipt: Receipt,
        worker: VerificationKey,
        handle: OrderHandle | None,
        deadline: Deadline,
    ) -> AsyncGenerator[ReceiptUpdate, None]:
        """Each update, verified by steps 3 to 6."""
        for index in range(1, MAX_UPDATES + 1):
            found = await self._update(receipt.work_order_id, index, deadline)
            if found is None:
                return
            yield verified_update(found, index, receipt, worker, handle)
            if index >= found.update_count:
                return
        raise BadAnswer(
            f"{self._transport.address} has more than {MAX_UPDATES} updates of one receipt: refused"
        )

    async def _update(
        self, work_order_id: WorkOrderId, index: int, deadline: Deadline
    ) -> ReceiptUpdateResult | None:
        return await self._retry.persist(
            lambda: self._transport.retrieve_receipt_update(work_order_id, index, timeout=deadline.left),
            deadline,
        )

    async def verify(
        self,
        work_order_id: WorkOrderId,
        worker: VerificationKey,
        handle: OrderHandle | None,
        deadline: Deadline,
        requester_key: VerificationKey | None = None,
    ) -> Receipt:
        """All steps."""
        told = 0
        for _attempt in range(_ATTEMPTS):
            receipt, _ = await self.read(work_order_id, handle, deadline, requester_key)
            updates = [update async for update in self.updates(receipt, worker, handle, deadline)]
            told, comes_to = receipt.status, _replayed(receipt, updates)
            if told == comes_to:
                return replace(receipt, updates=tuple(updates))
        raise ReceiptRefused(
            f"the receipt of work order {work_order_id} does not add up: the service says {status_name(told)}, its "
            f"signed updates come to {status_name(comes_to)}. Do not rely on it, and tell the operator."
        )

    async def update(
        self,
        work_order_id: WorkOrderId,
        signer: SigningKey,
        update_type: int,
        data: str | None,
        updater_id: str | None,
        handle: OrderHandle | None,
        deadline: Deadline,
    ) -> None:
        """Sign an update and add it."""
        if data is None:
            data = _own_data(update_type, handle)
        if updater_id is None and handle is None:
            raise BadRequest("updater_id: expected one where no handle is given")
        try:
            params = sign_update(
                signer,
                work_order_id=work_order_id,
                updater_id=require_hex_id(
                    updater_id or (handle.requester_id if handle else ""), "updater_id"
                ),
                update_type=update_type,
                update_data=data,
            )
        except ValueError as exc:
            raise BadRequest(str(exc)) from exc
        await self._retry.persist(
            lambda: self._transport.update_receipt(params, timeout=deadline.left), deadline
        )

    async def look_up(
        self, criteria: ReceiptCriteria, deadline: Deadline
    ) -> AsyncGenerator[WorkOrderId, None]:
        """The orders that have a matching receipt, page after page. The service's word: verify what matters."""
        tag: str | None = None
        count = 0
        while True:
            page = await self._page(criteria, tag, deadline)
            for work_order_id in page.ids:
                yield work_order_id
                count += 1
                if count >= MAX_LISTED_RECEIPTS:
                    return
            tag = page.lookup_tag
            if not tag or not page.ids:
                return

    async def _page(
        self, criteria: ReceiptCriteria, tag: str | None, deadline: Deadline
    ) -> ReceiptLookUpResult:
        return await self._retry.persist(
            lambda: self._transport.look_up_receipts(criteria, tag, timeout=deadline.left), deadline
        )


def verified_creation(
    found: ReceiptResult,
    work_order_id: WorkOrderId,
    handle: OrderHandle | None,
    requester_key: VerificationKey | None = None,
) -> Receipt:
    """Steps 1 and 2.

    Raises:
        ReceiptRefused
    """
    expected = {"work_order_id": str(work_order_id)}
    if handle is not None:
        expected |= {"worker_id": handle.worker.worker_id, "requester_id": handle.requester_id}
        expected["work_order_request_hash"] = encode_base64(handle.request_hash)
    for name, value in expected.items():
        if getattr(found, name) != value:
            raise _refused(
                work_order_id, f"it belongs to another order: its {name.replace('_', ' ')} differs"
            )
    try:
        key = verify_creation(found, requester_key or _order_key(handle))
        request_hash = decode_base64(found.work_order_request_hash, what="workOrderRequestHash")
    except (SignatureMismatch, EncodingError) as exc:
        raise _refused(work_order_id, f"the requester's signature does not verify: {exc.message}") from exc
    return Receipt(
        work_order_id=work_order_id,
        worker_id=found.worker_id,
        requester_id=found.requester_id,
        worker_service_id=found.worker_service_id,
        create_status=found.receipt_create_status,
        status=found.receipt_current_status,
        request_hash=request_hash,
        requester_key=key,
    )


def verified_update(
    found: ReceiptUpdateResult,
    index: int,
    receipt: Receipt,
    worker: VerificationKey,
    handle: OrderHandle | None,
) -> ReceiptUpdate:
    """Steps 3 to 6.

    Raises:
        ReceiptRefused
    """
    which = f"its update {index}"
    if found.work_order_id != receipt.work_order_id:
        raise _refused(receipt.work_order_id, f"{which} belongs to another order")
    by, key = _updater(found, receipt, worker, which)
    try:
        verify_update(found, key)
    except SignatureMismatch as exc:
        raise _refused(
            receipt.work_order_id, f"{which} was not signed by the {by}'s key: {exc.message}"
        ) from exc
    if _reads_as_a_status(found):
        raise _refused(
            receipt.work_order_id, f"{which} can be read in two ways, one of which sets the status"
        )
    if by == "other" and sets_status(found.update_type):
        raise _refused(
            receipt.work_order_id, f"{which} sets the status, and is by neither worker nor requester"
        )
    return ReceiptUpdate(
        index=index,
        by=by,
        updater_id=found.updater_id,
        type=found.update_type,
        data=found.update_data,
        key=key,
        agrees_with=_agreement(found, receipt, by, handle, which),
    )


def _reads_as_a_status(found: ReceiptUpdateResult) -> bool:
    """An application's own update whose signature would serve for one that names a response, too."""
    signed = f"{found.update_type}{found.update_data}"
    return (
        not sets_status(found.update_type)
        and names_response(int(signed[0]))
        and len(signed) == 1 + HASH_CHARS
    )


def _updater(
    found: ReceiptUpdateResult, receipt: Receipt, worker: VerificationKey, which: str
) -> tuple[Literal["worker", "requester", "other"], VerificationKey]:
    """The key decides whose word it is. The service's word about the updater may say less, never something else."""
    try:
        named = load_verification_key(found.receipt_verification_key)
    except KeyFormatError as exc:
        raise _refused(receipt.work_order_id, f"{which} names a key that is none: {exc.message}") from exc
    claimed: Literal["worker", "requester", "other"] = "other"
    if _same_id(found.updater_id, receipt.worker_id):
        claimed = "worker"
    elif _same_id(found.updater_id, receipt.requester_id):
        claimed = "requester"
    if claimed == "worker":
        return claimed, worker
    if claimed == "requester":
        return claimed, receipt.requester_key
    if named == worker or named == receipt.requester_key:
        raise _refused(receipt.work_order_id, f"{which} is shown as somebody else's than its key's owner")
    return claimed, named


def _agreement(
    found: ReceiptUpdateResult,
    receipt: Receipt,
    by: str,
    handle: OrderHandle | None,
    which: str,
) -> Agreement:
    if handle is None:
        return ""
    if names_response(found.update_type) and handle.response_hash is not None:
        if found.update_data != encode_base64(handle.response_hash):
            raise _refused(
                receipt.work_order_id, f"{which} names another response than the result that was verified"
            )
        return "result"
    if by != "worker" or found.update_type != ReceiptStatus.FAILED or handle.response_hash is not None:
        return ""
    failure = handle.failure
    if failure is not None and _names_failure(found, handle, failure.code, failure.said):
        return "failure"
    return "unanswered" if _names_failure(found, handle, WorkOrderCode.FAILED, RENOUNCED) else ""


def _names_failure(found: ReceiptUpdateResult, handle: OrderHandle, code: int, message: str) -> bool:
    try:
        return found.update_data == encode_base64(failure_hash(handle.parsed_request, code, message))
    except AvalonError:
        return False


def _replayed(receipt: Receipt, updates: Sequence[ReceiptUpdate]) -> int:
    """Step 7."""
    status = receipt.create_status
    for update in updates:
        try:
            status = status_after(status, update.type)
        except GeneralError as exc:
            raise _refused(
                receipt.work_order_id, f"its update {update.index} breaks the rules: {exc.message}"
            ) from exc
    return status


def _order_key(handle: OrderHandle | None) -> VerificationKey | None:
    if handle is None or not handle.parsed_request.requester_signature:
        return None
    return load_verification_key(handle.parsed_request.verifying_key or "")


def _own_data(update_type: int, handle: OrderHandle | None) -> str:
    if not names_response(update_type):
        return ""
    if handle is None or handle.response_hash is None:
        raise BadRequest(
            f"data: an update to {status_name(update_type)} names the response: await result() of the order's handle "
            "first, or give base64 of the response hash"
        )
    return encode_base64(handle.response_hash)


def _same_id(one: str, other: str) -> bool:
    return one.lower().removeprefix("0x") == other.lower().removeprefix("0x")


def _refused(work_order_id: str, why: str) -> ReceiptRefused:
    return ReceiptRefused(
        f"the receipt of work order {work_order_id} is not acceptable: {why}. Do not rely on it, and tell the operator."
    )
