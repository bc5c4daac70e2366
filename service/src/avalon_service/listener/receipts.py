"""The six methods of work order receipts.

The two writes answer success as existing clients know it: with an *error object* of code 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from avalon_core.protocol.errors import GeneralCode, GeneralError
from avalon_core.protocol.ids import Base64Str, HexStr, RequesterId, WorkerId, WorkOrderId
from avalon_core.protocol.jsonrpc import Call, Id, encode_error, encode_success
from avalon_core.protocol.receipts import (
    ReceiptCreateParams,
    ReceiptLookUpNextParams,
    ReceiptLookUpParams,
    ReceiptLookUpResult,
    ReceiptResult,
    ReceiptRetrieveParams,
    ReceiptUpdateParams,
    ReceiptUpdateResult,
    ReceiptUpdateRetrieveParams,
)
from avalon_service.listener.methods import Method, decode_params
from avalon_service.orders.receipt_ports import FoundUpdate, Receipt
from avalon_service.orders.receipts import ReceiptService

_CREATE = msgspec.json.Decoder(ReceiptCreateParams)
_UPDATE = msgspec.json.Decoder(ReceiptUpdateParams)
_RETRIEVE = msgspec.json.Decoder(ReceiptRetrieveParams)
_UPDATE_RETRIEVE = msgspec.json.Decoder(ReceiptUpdateRetrieveParams)
_LOOK_UP = msgspec.json.Decoder(ReceiptLookUpParams)
_LOOK_UP_NEXT = msgspec.json.Decoder(ReceiptLookUpNextParams)


class ReceiptMethods:
    """The methods of receipts."""

    def __init__(self, receipts: ReceiptService) -> None:
        self._receipts = receipts

    def table(self) -> Mapping[str, Method]:
        """By their names on the wire."""
        return {
            "WorkOrderReceiptCreate": self._create,
            "WorkOrderReceiptUpdate": self._update,
            "WorkOrderReceiptRetrieve": self._retrieve,
            "WorkOrderReceiptUpdateRetrieve": self._retrieve_update,
            "WorkOrderReceiptLookUp": self._look_up,
            "WorkOrderReceiptLookUpNext": self._look_up_next,
        }

    async def _create(self, call: Call, wait: float) -> bytes:
        receipt = await self._receipts.create(decode_params(_CREATE, call, _invalid))
        return _succeeded(call.id, "receipt created", receipt.work_order_id)

    async def _update(self, call: Call, wait: float) -> bytes:
        update = await self._receipts.update(decode_params(_UPDATE, call, _invalid))
        return _succeeded(call.id, "receipt updated", update.work_order_id)

    async def _retrieve(self, call: Call, wait: float) -> bytes:
        params = decode_params(_RETRIEVE, call, _invalid)
        return encode_success(call.id, receipt_result(await self._receipts.retrieve(params.work_order_id)))

    async def _retrieve_update(self, call: Call, wait: float) -> bytes:
        params = decode_params(_UPDATE_RETRIEVE, call, _invalid)
        return encode_success(call.id, update_result(await self._receipts.retrieve_update(params)))

    async def _look_up(self, call: Call, wait: float) -> bytes:
        return await self._page(call.id, decode_params(_LOOK_UP, call, _invalid), "")

    async def _look_up_next(self, call: Call, wait: float) -> bytes:
        params = decode_params(_LOOK_UP_NEXT, call, _invalid)
        return await self._page(call.id, params, params.tag or "")

    async def _page(self, id_: Id, params: ReceiptLookUpParams, tag: str) -> bytes:
        page = await self._receipts.look_up(params, tag)
        ids = tuple(WorkOrderId(work_order_id) for work_order_id in page.ids)
        return encode_success(id_, ReceiptLookUpResult(total_count=page.total, lookup_tag=page.tag, ids=ids))


def receipt_result(receipt: Receipt) -> ReceiptResult:
    """A stored receipt as it travels."""
    return ReceiptResult(
        work_order_id=WorkOrderId(receipt.work_order_id),
        worker_service_id=receipt.worker_service_id,
        worker_id=WorkerId(receipt.worker_id),
        requester_id=RequesterId(receipt.requester_id),
        receipt_create_status=receipt.create_status,
        work_order_request_hash=Base64Str(receipt.request_hash),
        requester_generated_nonce=HexStr(receipt.nonce),
        requester_signature=Base64Str(receipt.signature),
        signature_rules=receipt.signature_rules,
        receipt_verification_key=receipt.verification_key,
        receipt_current_status=receipt.status,
    )


def update_result(found: FoundUpdate) -> ReceiptUpdateResult:
    """A stored update as it travels."""
    update = found.update
    return ReceiptUpdateResult(
        work_order_id=WorkOrderId(update.work_order_id),
        updater_id=update.updater_id,
        update_type=update.update_type,
        update_data=update.update_data,
        update_signature=Base64Str(update.signature),
        signature_rules=update.signature_rules,
        receipt_verification_key=update.verification_key,
        update_count=found.count,
    )


def _succeeded(id_: Id, message: str, work_order_id: str) -> bytes:
    return encode_error(id_, GeneralCode.SUCCESS, message, {"workOrderId": work_order_id})


def _invalid(message: str) -> GeneralError:
    return GeneralError(GeneralCode.INVALID_PARAMETER, message)
