"""The methods that the service answers, each from the JSON of its params to the bytes of its answer.

Here, at the outermost edge, results become what existing clients expect: a pending order is an *error object* of
code 5, and so on. Nothing further in knows of that habit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import msgspec

from avalon_core.protocol.errors import GeneralCode, GeneralError, RpcCode, RpcError, WireError, WorkOrderCode
from avalon_core.protocol.ids import WorkerId
from avalon_core.protocol.jsonrpc import Call, Id, encode_error, encode_success
from avalon_core.protocol.workers import (
    WorkerLookUpNextParams,
    WorkerLookUpParams,
    WorkerLookUpResult,
    WorkerRetrieveParams,
)
from avalon_service.orders.errors import EndOfLookUp, InvalidTag, UnknownWorker
from avalon_service.orders.ports import OrderView, WorkerDirectory
from avalon_service.orders.service import OrderService
from avalon_service.orders.state import OrderState

LOOK_UP_PAGE = 100
"""Worker ids on one page of a look-up."""

Method = Callable[[Call, float], Awaitable[bytes]]
"""Takes the call and how long (seconds) the client is ready to wait; returns the whole answer."""

_P = TypeVar("_P")


class Methods:
    """The table of methods."""

    def __init__(self, orders: OrderService, workers: WorkerDirectory) -> None:
        self._orders = orders
        self._workers = workers
        self._table: Mapping[str, Method] = {
            "WorkOrderSubmit": self._work_order_submit,
            "WorkOrderGetResult": self._work_order_get_result,
            "WorkerLookUp": self._worker_look_up,
            "WorkerLookUpNext": self._worker_look_up_next,
            "WorkerRetrieve": self._worker_retrieve,
        }

    @property
    def names(self) -> frozenset[str]:
        """The methods there are."""
        return frozenset(self._table)

    async def answer(self, call: Call, wait: float) -> bytes:
        """Answer a call. Never raises what the caller brought about: that becomes an error object."""
        method = self._table.get(call.method)
        if method is None:
            known = ", ".join(sorted(self._table))
            error = RpcError(RpcCode.METHOD_NOT_FOUND, f"no such method; there are {known}")
            return encode_wire_error(call.id, error)
        try:
            return await method(call, wait)
        except WireError as exc:
            return encode_wire_error(call.id, exc)

    async def _work_order_submit(self, call: Call, wait: float) -> bytes:
        return encode_order(call.id, await self._orders.submit(call.params, wait=wait))

    async def _work_order_get_result(self, call: Call, wait: float) -> bytes:
        return encode_order(call.id, await self._orders.result(call.params, wait=wait))

    async def _worker_look_up(self, call: Call, wait: float) -> bytes:
        return await self._look_up(call.id, _decode(_LOOK_UP, call), tag="")

    async def _worker_look_up_next(self, call: Call, wait: float) -> bytes:
        params = _decode(_LOOK_UP_NEXT, call)
        return await self._look_up(call.id, params, tag=params.tag or "")

    async def _look_up(self, id_: Id, params: WorkerLookUpParams, tag: str) -> bytes:
        types = params.application_type_id
        try:
            page = await self._workers.look_up(
                worker_type=params.worker_type or 0,
                organization_id=params.organization_id,
                application_type_ids=(types,) if isinstance(types, str) else types,
                tag=tag,
                limit=LOOK_UP_PAGE,
            )
        except EndOfLookUp:
            raise GeneralError(GeneralCode.NO_MORE_RESULTS, "no more results") from None
        except InvalidTag:
            message = "lookUpTag: not a tag that this service gave out; start again with WorkerLookUp"
            raise GeneralError(GeneralCode.INVALID_PARAMETER, message) from None
        ids = tuple(WorkerId(worker_id) for worker_id in page.ids)
        return encode_success(id_, WorkerLookUpResult(total_count=page.total, lookup_tag=page.tag, ids=ids))

    async def _worker_retrieve(self, call: Call, wait: float) -> bytes:
        worker_id = _decode(_RETRIEVE, call).worker_id
        try:
            entry = await self._workers.retrieve(worker_id)
        except UnknownWorker:
            message = "workerId: no such worker is registered here; look workers up first"
            raise GeneralError(GeneralCode.INVALID_PARAMETER, message, {"workerId": worker_id}) from None
        types = entry.application_type_ids
        result = {
            "workerType": entry.worker_type,
            "organizationId": entry.organization_id,
            "applicationTypeId": types if len(types) > 1 else "".join(types),
            "details": msgspec.Raw(entry.details),
            "status": entry.status,
        }
        return encode_success(call.id, result)


_LOOK_UP = msgspec.json.Decoder(WorkerLookUpParams)
_LOOK_UP_NEXT = msgspec.json.Decoder(WorkerLookUpNextParams)
_RETRIEVE = msgspec.json.Decoder(WorkerRetrieveParams)


def _decode(decoder: msgspec.json.Decoder[_P], call: Call) -> _P:
    try:
        return decoder.decode(call.params)
    except msgspec.ValidationError as exc:
        raise GeneralError(GeneralCode.INVALID_PARAMETER, f"invalid params: {exc}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise GeneralError(GeneralCode.INVALID_PARAMETER, "invalid params: expected a JSON object") from None


def encode_order(id_: Id, order: OrderView) -> bytes:
    """What a work order method answers of an order."""
    if order.state is OrderState.COMPLETED and order.result is not None:
        return encode_success(id_, msgspec.Raw(order.result))
    data = {"workOrderId": order.work_order_id}
    if order.error is not None:
        return encode_error(id_, order.error.code, order.error.message, data)
    # Existing clients poll on while they read code 5 and stop at any other, so "processing" is 5, too.
    return encode_error(id_, WorkOrderCode.PENDING, "pending: ask again with WorkOrderGetResult", data)


def encode_wire_error(id_: Id, error: WireError) -> bytes:
    """An error as its object."""
    return encode_error(id_, error.code, error.message, error.data)
