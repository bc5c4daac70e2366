"""The direct model's calls over anything that takes a JSON-RPC body and gives one back.

The wire's errors become the SDK's here and nowhere else. Codes 5, 6 and 7 of work orders say "not ready": they
travel as error objects and are none.
"""

import abc
import itertools
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import msgspec

from avalon_core.protocol.cancellation import WorkOrderCancelParams
from avalon_core.protocol.errors import (
    EncryptionKeyError,
    GeneralCode,
    GeneralError,
    RpcCode,
    RpcError,
    WireError,
    WorkOrderCode,
    WorkOrderError,
)
from avalon_core.protocol.ids import WorkerId, WorkOrderId
from avalon_core.protocol.jsonrpc import decode_answer, encode_call
from avalon_core.protocol.limits import MAX_FRAME_BYTES
from avalon_core.protocol.pools import MAX_RECOVERY_CHARS, PoolParams, PoolSharesParams
from avalon_core.protocol.receipts import (
    ReceiptCreateParams,
    ReceiptLookUpResult,
    ReceiptResult,
    ReceiptUpdateParams,
    ReceiptUpdateResult,
    decode_receipt,
    decode_receipt_page,
    decode_receipt_update,
)
from avalon_core.protocol.registry import (
    EncryptionKeyGetParams,
    EncryptionKeyGrant,
    EncryptionKeySetParams,
    RequesterKeyGetParams,
    RequesterKeySetParams,
    WorkerRegisterParams,
    WorkerUpdateParams,
)
from avalon_core.protocol.workers import WorkerLookUpResult
from avalon_sdk.errors import (
    AvalonClientError,
    BadAnswer,
    Busy,
    NoSuchReceipt,
    NoSuchWorker,
    NotOffered,
    OrderFailed,
    OrderRefused,
    ServiceError,
)
from avalon_sdk.events import OrderState
from avalon_sdk.transports.base import (
    ANY_WORKER,
    EncodedOrder,
    NotReady,
    ReceiptCriteria,
    RegistryWrite,
    ServerEvent,
    WorkerCriteria,
)

MAX_RESULT_BYTES = MAX_FRAME_BYTES
"""A result is one order of the largest size with its envelope."""

MAX_RECORD_BYTES = 4 * 1024 * 1024
"""Records, pages of ids, status: evidence with its certificates is some tens of kilobytes, event logs are larger."""

_NOT_READY = frozenset({WorkOrderCode.PENDING, WorkOrderCode.SCHEDULED, WorkOrderCode.PROCESSING})
_FAILED = frozenset({WorkOrderCode.FAILED, WorkOrderCode.UNKNOWN})
_MAX_QUOTED_CHARS = 2000
"""Of the service's own words in our messages."""

_page_decoder = msgspec.json.Decoder(WorkerLookUpResult)
_grant_decoder = msgspec.json.Decoder(EncryptionKeyGrant)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back."""

    body: bytes
    retry_after: float | None = None
    """Seconds, where the service said when to come again."""

    status_text: str = ""
    """What else the carrier said, for messages: ``HTTP 500``."""


class _RequesterKey(msgspec.Struct, frozen=True, rename="camel"):
    requester_id: str
    verifying_key: str | None


_requester_key_decoder = msgspec.json.Decoder(_RequesterKey)


class JsonRpcTransport(abc.ABC):
    """See :class:`~avalon_sdk.transports.base.Transport`. Subclasses carry one body there and one back."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)

    @property
    @abc.abstractmethod
    def address(self) -> str:
        """For messages to people."""

    @property
    @abc.abstractmethod
    def is_loopback(self) -> bool:
        """The service runs on this very machine."""

    @abc.abstractmethod
    async def exchange(
        self, body: bytes, *, wait: int, timeout: float, max_bytes: int, as_operator: bool = False
    ) -> Reply:
        """Send one body and return the answer's. ``as_operator``: with the operator's token, where there is one.

        Raises:
            CannotConnect, BadAnswer, Busy, BadRequest
        """

    @abc.abstractmethod
    def events(
        self, work_order_id: WorkOrderId, *, last_event_id: str, timeout: float
    ) -> AsyncGenerator[ServerEvent, None]:
        """See :class:`~avalon_sdk.transports.base.Transport`."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Give connections back."""

    async def look_up_workers(
        self, lookup_tag: str | None, *, timeout: float, criteria: WorkerCriteria = ANY_WORKER
    ) -> WorkerLookUpResult:
        method, params = (
            "WorkerLookUp",
            _given(
                workerType=criteria.worker_type or None,
                organizationId=criteria.organization_id,
                applicationTypeId=list(criteria.application_type_ids) or None,
            ),
        )
        if lookup_tag is not None:
            method, params = "WorkerLookUpNext", params | {"lookUpTag": lookup_tag}
        raw = await self._call(
            method, params, GeneralError, wait=0, timeout=timeout, max_bytes=MAX_RECORD_BYTES
        )
        try:
            return _page_decoder.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
            raise BadAnswer(
                f"{self.address} answered {method} with something that is not a page of workers: {exc}"
            ) from exc

    async def retrieve_worker(self, worker_id: WorkerId, *, timeout: float) -> bytes:
        try:
            return await self._call(
                "WorkerRetrieve",
                {"workerId": worker_id},
                GeneralError,
                wait=0,
                timeout=timeout,
                max_bytes=MAX_RECORD_BYTES,
            )
        except ServiceError as exc:
            if exc.code == GeneralCode.INVALID_PARAMETER:
                raise NoSuchWorker(
                    f"{self.address} has no worker {worker_id}: {exc.message}. 'avalon workers' lists those it has."
                ) from exc
            raise

    async def submit(self, order: EncodedOrder, *, wait: int, timeout: float) -> bytes | NotReady:
        return await self._order_call(
            "WorkOrderSubmit", msgspec.Raw(order.params), wait=wait, timeout=timeout
        )

    async def get_result(self, work_order_id: WorkOrderId, *, wait: int, timeout: float) -> bytes | NotReady:
        return await self._order_call(
            "WorkOrderGetResult", {"workOrderId": work_order_id}, wait=wait, timeout=timeout
        )

    async def cancel(
        self, cancellation: WorkOrderCancelParams, *, timeout: float, as_operator: bool = False
    ) -> OrderState:
        try:
            await self._write(
                "WorkOrderCancel", cancellation, WorkOrderError, timeout=timeout, as_operator=as_operator
            )
        except OrderFailed as exc:
            # It had ended already: the service says how.
            try:
                return OrderState(exc.data.get("state", ""))
            except ValueError:
                raise exc from None
        return OrderState.CANCELLED

    async def create_receipt(self, receipt: ReceiptCreateParams, *, timeout: float) -> None:
        await self._write("WorkOrderReceiptCreate", receipt, GeneralError, timeout=timeout)

    async def update_receipt(self, update: ReceiptUpdateParams, *, timeout: float) -> None:
        await self._write("WorkOrderReceiptUpdate", update, GeneralError, timeout=timeout)

    async def retrieve_receipt(self, work_order_id: WorkOrderId, *, timeout: float) -> ReceiptResult:
        try:
            raw = await self._ask("WorkOrderReceiptRetrieve", {"workOrderId": work_order_id}, timeout)
        except ServiceError as exc:
            if exc.code == GeneralCode.INVALID_PARAMETER:
                raise NoSuchReceipt(
                    f"work order {work_order_id} has no receipt here: {exc.message}",
                    code=exc.code,
                    code_name=exc.code_name,
                    data=exc.data,
                ) from exc
            raise
        try:
            return decode_receipt(raw)
        except GeneralError as exc:
            raise BadAnswer(f"{self.address}: {exc.message}") from exc

    async def retrieve_receipt_update(
        self, work_order_id: WorkOrderId, index: int, *, timeout: float
    ) -> ReceiptUpdateResult | None:
        params = {"workOrderId": work_order_id, "updateIndex": index}
        try:
            raw = await self._ask("WorkOrderReceiptUpdateRetrieve", params, timeout)
        except ServiceError as exc:
            if exc.code == GeneralCode.INVALID_PARAMETER:
                return None
            raise
        try:
            return decode_receipt_update(raw)
        except GeneralError as exc:
            raise BadAnswer(f"{self.address}: {exc.message}") from exc

    async def look_up_receipts(
        self, criteria: ReceiptCriteria, lookup_tag: str | None, *, timeout: float
    ) -> ReceiptLookUpResult:
        method, params = (
            "WorkOrderReceiptLookUp",
            _given(
                workerServiceId=criteria.worker_service_id,
                workerId=criteria.worker_id,
                requesterId=criteria.requester_id,
                receiptStatus=criteria.status,
            ),
        )
        if lookup_tag is not None:
            method, params = "WorkOrderReceiptLookUpNext", params | {"lookUpTag": lookup_tag}
        raw = await self._ask(method, params, timeout)
        try:
            return decode_receipt_page(raw)
        except GeneralError as exc:
            raise BadAnswer(f"{self.address}: {exc.message}") from exc

    async def write_worker(self, write: RegistryWrite, *, timeout: float) -> None:
        match write:
            case WorkerRegisterParams():
                method = "WorkerRegister"
            case WorkerUpdateParams():
                method = "WorkerUpdate"
            case _:
                method = "WorkerSetStatus"
        await self._write(
            method, _members(write), GeneralError, timeout=timeout, as_operator=write.signature is None
        )

    async def encryption_key(self, request: EncryptionKeyGetParams, *, timeout: float) -> EncryptionKeyGrant:
        raw = await self._ask("EncryptionKeyGet", _members(request), timeout, EncryptionKeyError)
        try:
            return _grant_decoder.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
            raise BadAnswer(f"{self.address} answered EncryptionKeyGet with no key: {exc}") from exc

    async def push_encryption_key(self, key: EncryptionKeySetParams, *, timeout: float) -> None:
        await self._write("EncryptionKeySet", key, EncryptionKeyError, timeout=timeout)

    async def set_requester_key(self, key: RequesterKeySetParams, *, timeout: float) -> None:
        await self._write("RequesterKeySet", key, GeneralError, timeout=timeout, as_operator=True)

    async def requester_key(self, request: RequesterKeyGetParams, *, timeout: float) -> str | None:
        raw = await self._ask("RequesterKeyGet", request, timeout, as_operator=True)
        try:
            found = _requester_key_decoder.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
            raise BadAnswer(f"{self.address} answered RequesterKeyGet with no entry: {exc}") from exc
        if found.requester_id != request.requester_id:
            raise BadAnswer(f"{self.address} answered RequesterKeyGet with another requester's entry")
        return found.verifying_key

    async def command_pool(self, command: PoolParams, *, timeout: float) -> bytes:
        # A recovery file holds the whole state of a pool.
        max_bytes = 2 * MAX_RECOVERY_CHARS if isinstance(command, PoolSharesParams) else MAX_RECORD_BYTES
        return await self._call(
            type(command).__name__.removesuffix("Params"),
            _members(command),
            GeneralError,
            wait=0,
            timeout=timeout,
            max_bytes=max_bytes,
            as_operator=True,
        )

    async def _ask(
        self,
        method: str,
        params: Any,
        timeout: float,
        space: type[WireError] = GeneralError,
        *,
        as_operator: bool = False,
    ) -> bytes:
        return await self._call(
            method,
            params,
            space,
            wait=0,
            timeout=timeout,
            max_bytes=MAX_RECORD_BYTES,
            as_operator=as_operator,
        )

    async def _write(
        self,
        method: str,
        params: Any,
        space: type[WireError],
        *,
        timeout: float,
        as_operator: bool = False,
    ) -> None:
        """Returns where the service said that it is done: as existing services do, with an error of code 0."""
        try:
            await self._call(
                method,
                params,
                space,
                wait=0,
                timeout=timeout,
                max_bytes=MAX_RECORD_BYTES,
                as_operator=as_operator,
            )
        except _Succeeded:
            return

    async def _order_call(self, method: str, params: Any, *, wait: int, timeout: float) -> bytes | NotReady:
        started = time.monotonic()
        try:
            return await self._call(
                method, params, WorkOrderError, wait=wait, timeout=timeout, max_bytes=MAX_RESULT_BYTES
            )
        except _StillPending:
            return NotReady(held_seconds=time.monotonic() - started)

    async def _call(
        self,
        method: str,
        params: Any,
        space: type[WireError],
        *,
        wait: int,
        timeout: float,
        max_bytes: int,
        as_operator: bool = False,
    ) -> bytes:
        call_id = next(self._ids)
        body = encode_call(method, params, call_id)
        reply = await self.exchange(
            body, wait=wait, timeout=timeout, max_bytes=max_bytes, as_operator=as_operator
        )
        try:
            answer = decode_answer(reply.body)
        except RpcError as exc:
            where = f" ({reply.status_text})" if reply.status_text else ""
            raise BadAnswer(
                f"{self.address} answered {method} with something that is not JSON-RPC 2.0{where}. Expected an "
                "Avalon service there: check the address."
            ) from exc
        is_mute_error = answer.error is not None and answer.id is None
        if answer.id != call_id and not is_mute_error:
            raise BadAnswer(
                f"{self.address} answered another call: got id {answer.id!r:.80}, expected {call_id}"
            )
        try:
            return bytes(answer.result_or_raise(space))
        except WireError as exc:
            error = _client_error(exc, reply.retry_after)
            if isinstance(error, ServiceError):
                error.said = exc.message
            raise error from exc


class _StillPending(AvalonClientError):
    """Internal: the order is not ready."""


class _Succeeded(ServiceError):
    """Internal: an error object of code 0, which is none."""


def _members(params: msgspec.Struct) -> dict[str, Any]:
    """As they travel; what is None is left out, and raw JSON stays as it is, to the byte."""
    names = zip(params.__struct_encode_fields__, params.__struct_fields__, strict=True)
    return {encoded: value for encoded, name in names if (value := getattr(params, name)) is not None}


def _given(**criteria: Any) -> dict[str, Any]:
    return {name: value for name, value in criteria.items() if value is not None}


def _client_error(error: WireError, retry_after: float | None) -> AvalonClientError:
    message = f"the service answered: {error.message[:_MAX_QUOTED_CHARS] or 'nothing more than a code'}"
    code, name = error.code, error.code_name
    if code == GeneralCode.SUCCESS:
        return _Succeeded(message, code=code, data=error.data)
    if isinstance(error, RpcError) and code == RpcCode.METHOD_NOT_FOUND:
        return NotOffered(message, code=code, code_name=name, data=error.data)
    if not isinstance(error, WorkOrderError):
        return ServiceError(message, code=code, code_name=name, data=error.data)
    if code in _NOT_READY:
        return _StillPending()
    if code == WorkOrderCode.BUSY:
        return Busy(message, code=code, data=error.data, retry_after=retry_after)
    if code in _FAILED:
        return OrderFailed(message, code=code, code_name=name, data=error.data)
    return OrderRefused(message, code=code, code_name=name, data=error.data)
