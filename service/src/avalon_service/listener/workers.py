"""WorkerLookUp, WorkerLookUpNext and WorkerRetrieve."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from avalon_core.protocol.errors import GeneralCode, GeneralError
from avalon_core.protocol.ids import WorkerId
from avalon_core.protocol.jsonrpc import Call, Id, encode_success
from avalon_core.protocol.workers import (
    WorkerLookUpNextParams,
    WorkerLookUpParams,
    WorkerLookUpResult,
    WorkerRetrieveParams,
)
from avalon_service.listener.methods import Method, decode_params
from avalon_service.orders.errors import EndOfLookUp, InvalidTag, UnknownWorker
from avalon_service.orders.ports import WorkerDirectory

LOOK_UP_PAGE = 100
"""Worker ids on one page of a look-up."""

_LOOK_UP = msgspec.json.Decoder(WorkerLookUpParams)
_LOOK_UP_NEXT = msgspec.json.Decoder(WorkerLookUpNextParams)
_RETRIEVE = msgspec.json.Decoder(WorkerRetrieveParams)


class WorkerMethods:
    """The methods of the worker directory."""

    def __init__(self, workers: WorkerDirectory) -> None:
        self._workers = workers

    def table(self) -> Mapping[str, Method]:
        """By their names on the wire."""
        return {"WorkerLookUp": self._first, "WorkerLookUpNext": self._next, "WorkerRetrieve": self._retrieve}

    async def _first(self, call: Call, wait: float) -> bytes:
        return await self._look_up(call.id, decode_params(_LOOK_UP, call, _invalid), tag="")

    async def _next(self, call: Call, wait: float) -> bytes:
        params = decode_params(_LOOK_UP_NEXT, call, _invalid)
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

    async def _retrieve(self, call: Call, wait: float) -> bytes:
        worker_id = decode_params(_RETRIEVE, call, _invalid).worker_id
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


def _invalid(message: str) -> GeneralError:
    return GeneralError(GeneralCode.INVALID_PARAMETER, message)
