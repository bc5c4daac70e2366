"""The direct model's calls over anything that takes a JSON-RPC body and gives one back.

The wire's errors become the SDK's here and nowhere else. Codes 5, 6 and 7 of work orders say "not ready": they
travel as error objects and are none.
"""

import abc
import itertools
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from avalon_core.protocol.errors import (
    GeneralCode,
    GeneralError,
    RpcError,
    WireError,
    WorkOrderCode,
    WorkOrderError,
)
from avalon_core.protocol.ids import WorkerId, WorkOrderId
from avalon_core.protocol.jsonrpc import decode_answer, encode_call
from avalon_core.protocol.limits import MAX_FRAME_BYTES
from avalon_core.protocol.workers import WorkerLookUpResult
from avalon_sdk.errors import (
    AvalonClientError,
    BadAnswer,
    Busy,
    NoSuchWorker,
    OrderFailed,
    OrderRefused,
    ServiceError,
)
from avalon_sdk.transports.base import EncodedOrder, NotReady

MAX_RESULT_BYTES = MAX_FRAME_BYTES
"""A result is one order of the largest size with its envelope."""

MAX_RECORD_BYTES = 4 * 1024 * 1024
"""Records, pages of ids, status: evidence with its certificates is some tens of kilobytes, event logs are larger."""

_NOT_READY = frozenset({WorkOrderCode.PENDING, WorkOrderCode.SCHEDULED, WorkOrderCode.PROCESSING})
_FAILED = frozenset({WorkOrderCode.FAILED, WorkOrderCode.UNKNOWN})
_MAX_QUOTED_CHARS = 2000
"""Of the service's own words in our messages."""

_page_decoder = msgspec.json.Decoder(WorkerLookUpResult)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back."""

    body: bytes
    retry_after: float | None = None
    """Seconds, where the service said when to come again."""

    status_text: str = ""
    """What else the carrier said, for messages: ``HTTP 500``."""


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
    async def exchange(self, body: bytes, *, wait: int, timeout: float, max_bytes: int) -> Reply:
        """Send one body and return the answer's.

        Raises:
            CannotConnect, BadAnswer, Busy
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Give connections back."""

    async def look_up_workers(self, lookup_tag: str | None, *, timeout: float) -> WorkerLookUpResult:
        method, params = "WorkerLookUp", {}
        if lookup_tag is not None:
            method, params = "WorkerLookUpNext", {"lookUpTag": lookup_tag}
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
    ) -> bytes:
        call_id = next(self._ids)
        body = encode_call(method, params, call_id)
        reply = await self.exchange(body, wait=wait, timeout=timeout, max_bytes=max_bytes)
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
            raise _client_error(exc, reply.retry_after) from exc


class _StillPending(AvalonClientError):
    """Internal: the order is not ready."""


def _client_error(error: WireError, retry_after: float | None) -> AvalonClientError:
    message = f"the service answered: {error.message[:_MAX_QUOTED_CHARS] or 'nothing more than a code'}"
    code, name = error.code, error.code_name
    if not isinstance(error, WorkOrderError):
        return ServiceError(message, code=code, code_name=name, data=error.data)
    if code in _NOT_READY:
        return _StillPending()
    if code == WorkOrderCode.BUSY:
        return Busy(message, code=code, data=error.data, retry_after=retry_after)
    if code in _FAILED:
        return OrderFailed(message, code=code, code_name=name, data=error.data)
    return OrderRefused(message, code=code, code_name=name, data=error.data)
