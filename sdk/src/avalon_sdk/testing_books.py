"""The books of the simulated service (:mod:`avalon_sdk.testing`): receipts and worker directory.

SIMULATED, and simpler than a real service: the worker's word is added when a receipt is read, and only what the SDK's own
behaviour depends on is checked.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from avalon_core.crypto.receipts import (
    failure_hash,
    response_hashes,
    sign_update,
    verify_creation,
    verify_update,
)
from avalon_core.crypto.registry import key_digest, write_digest
from avalon_core.crypto.signing import SigningKey, load_verification_key
from avalon_core.errors import AvalonError
from avalon_core.protocol.encodings import decode_base64, encode_base64
from avalon_core.protocol.errors import (
    EncryptionKeyCode,
    EncryptionKeyError,
    GeneralCode,
    GeneralError,
    WorkerStatus,
    WorkOrderError,
)
from avalon_core.protocol.orders import decode_request, decode_result
from avalon_core.protocol.receipts import (
    LAST_UPDATE,
    ReceiptCreateParams,
    ReceiptStatus,
    ReceiptUpdateParams,
    status_after,
)
from avalon_core.protocol.registry import (
    EncryptionKeySetParams,
    WorkerRegisterParams,
    WorkerSetStatusParams,
    WorkerUpdateParams,
)

Forge = Callable[[dict[str, Any]], object]
Run = Callable[[str], tuple[bytes, bytes | WorkOrderError | None] | None]
"""From an order's id to its request and what came of it."""

PAGE = 2
"""Small, so that turning pages is tested."""


class SimulatedReceipts:
    """Receipts by the id of their order."""

    def __init__(self, worker: SigningKey, run_of: Run) -> None:
        self._worker = worker
        self._run_of = run_of
        self.created: dict[str, ReceiptCreateParams] = {}
        self.updates: dict[str, list[ReceiptUpdateParams]] = {}

    def answer(self, method: str, params: bytes, forge_receipt: Forge, forge_update: Forge) -> Any:
        """Carry out one of the six methods."""
        if method == "WorkOrderReceiptCreate":
            return self._create(msgspec.json.decode(params, type=ReceiptCreateParams))
        if method == "WorkOrderReceiptUpdate":
            return self._update(msgspec.json.decode(params, type=ReceiptUpdateParams))
        named: dict[str, Any] = msgspec.json.decode(params)
        if method.startswith("WorkOrderReceiptLookUp"):
            return self._look_up(named)
        receipt = self.created.get(named["workOrderId"])
        if receipt is None:
            raise _invalid("no receipt of this order is kept here")
        self._add_worker_s_word(receipt)
        if method == "WorkOrderReceiptRetrieve":
            found = msgspec.to_builtins(receipt) | {"receiptCurrentStatus": self._status(receipt)}
            forge_receipt(found)
            return found
        return self._one_update(receipt, named["updateIndex"], forge_update)

    def _create(self, receipt: ReceiptCreateParams) -> None:
        if self._run_of(receipt.work_order_id) is None:
            raise _invalid("no such order here")
        if receipt.work_order_id in self.created:
            raise _invalid("the work order has a receipt already")
        verify_creation(receipt)
        self.created[receipt.work_order_id] = receipt
        self.updates[receipt.work_order_id] = []
        raise GeneralError(GeneralCode.SUCCESS, "receipt created")

    def _update(self, update: ReceiptUpdateParams) -> None:
        receipt = self.created.get(update.work_order_id)
        if receipt is None:
            raise _invalid("no receipt of this order is kept here")
        self._add_worker_s_word(receipt)
        status_after(self._status(receipt), update.update_type)
        try:
            verify_update(update, load_verification_key(update.receipt_verification_key or ""))
        except AvalonError as exc:
            raise GeneralError(GeneralCode.INVALID_SIGNATURE, exc.message) from exc
        self.updates[update.work_order_id].append(update)
        raise GeneralError(GeneralCode.SUCCESS, "receipt updated")

    def _add_worker_s_word(self, receipt: ReceiptCreateParams) -> None:
        run, updates = self._run_of(receipt.work_order_id), self.updates[receipt.work_order_id]
        if run is None or run[1] is None or any(u.updater_id == receipt.worker_id for u in updates):
            return
        request, answer = decode_request(run[0]), run[1]
        if isinstance(answer, WorkOrderError):
            status, word = ReceiptStatus.FAILED, failure_hash(request, answer.code, answer.message)
        else:
            status = ReceiptStatus.PROCESSED
            result = decode_result(answer)
            signature = decode_base64(result.worker_signature, what="workerSignature")
            word = next(h for h in response_hashes(request, result) if self._signed(h, signature))
        updates.append(
            sign_update(
                self._worker,
                work_order_id=receipt.work_order_id,
                updater_id=receipt.worker_id,
                update_type=status,
                update_data=encode_base64(word),
            )
        )

    def _signed(self, digest: bytes, signature: bytes) -> bool:
        try:
            self._worker.verification_key.verify(digest, signature)
        except AvalonError:
            return False
        return True

    def _status(self, receipt: ReceiptCreateParams) -> int:
        status = receipt.receipt_create_status
        for update in self.updates[receipt.work_order_id]:
            status = status_after(status, update.update_type)
        return status

    def _one_update(self, receipt: ReceiptCreateParams, index: int, forge: Forge) -> dict[str, Any]:
        updates = self.updates[receipt.work_order_id]
        index = len(updates) if index >= LAST_UPDATE else index
        if not 1 <= index <= len(updates):
            raise _invalid(f"there are {len(updates)} such updates, numbered from 1")
        found: dict[str, Any] = msgspec.to_builtins(updates[index - 1]) | {"updateCount": len(updates)}
        forge(found)
        return found

    def _look_up(self, named: dict[str, Any]) -> dict[str, Any]:
        ids = [receipt.work_order_id for receipt in self.created.values() if self._matches(receipt, named)]
        begin = int(named.get("lookUpTag", "0"))
        rest = len(ids) > begin + PAGE
        return {
            "totalCount": len(ids),
            "lookupTag": str(begin + PAGE) if rest else "",
            "ids": ids[begin : begin + PAGE],
        }

    def _matches(self, receipt: ReceiptCreateParams, named: dict[str, Any]) -> bool:
        found = msgspec.to_builtins(receipt) | {"receiptStatus": self._status(receipt)}
        return all(found[name] == value for name, value in named.items() if name != "lookUpTag")


class SimulatedDirectory:
    """Workers that were registered, beside the service's own."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, dict[str, Any]] = {}
        """What EncryptionKeyGet answers for workers that pushed a key."""

        self.requester_keys: dict[str, str] = {}
        """PEM by requester id. They are kept, and orders are not held to them."""

    def write(self, method: str, params: bytes, *, is_operator: bool) -> None:
        """Carry out one of the three writes."""
        write: WorkerRegisterParams | WorkerUpdateParams | WorkerSetStatusParams
        if method == "WorkerRegister":
            write = register = msgspec.json.decode(params, type=WorkerRegisterParams)
            entry = {
                "workerType": register.worker_type,
                "organizationId": register.organization_id,
                "applicationTypeId": list(register.application_type_ids),
                "details": msgspec.json.decode(register.details),
                "status": int(WorkerStatus.ACTIVE),
            }
        else:
            if method == "WorkerUpdate":
                write = msgspec.json.decode(params, type=WorkerUpdateParams)
            else:
                write = msgspec.json.decode(params, type=WorkerSetStatusParams)
            entry = dict(self.entries.get(write.worker_id) or {})
            if not entry:
                raise _invalid("no such worker is registered here")
        if not is_operator:
            _authorise(write, entry["details"]["workerTypeData"]["verificationKey"])
        if isinstance(write, WorkerUpdateParams):
            entry["details"] = msgspec.json.decode(write.details)
        if isinstance(write, WorkerSetStatusParams):
            entry["status"] = write.status
        self.entries[write.worker_id] = entry
        raise GeneralError(GeneralCode.SUCCESS, "done")

    def requester_key(self, named: dict[str, Any], *, is_operator: bool) -> dict[str, Any]:
        """RequesterKeySet, or where no key is named RequesterKeyGet."""
        if not is_operator:
            raise GeneralError(GeneralCode.ACCESS_DENIED, "this needs authority")
        requester_id = named["requesterId"]
        if "verifyingKey" not in named:
            return {"requesterId": requester_id, "verifyingKey": self.requester_keys.get(requester_id)}
        self.requester_keys.pop(requester_id, None)
        if named["verifyingKey"]:
            self.requester_keys[requester_id] = named["verifyingKey"]
        raise GeneralError(GeneralCode.SUCCESS, "done")

    def push_key(self, params: bytes) -> None:
        """EncryptionKeySet."""
        key = msgspec.json.decode(params, type=EncryptionKeySetParams)
        if key.worker_id not in self.entries:
            raise EncryptionKeyError(EncryptionKeyCode.INVALID_PARAMETER, "no such worker is registered here")
        digest = key_digest(
            worker_id=key.worker_id,
            encryption_key=key.encryption_key,
            encryption_key_nonce=key.encryption_key_nonce,
            tag=key.tag,
            signature_nonce=key.signature_nonce,
        )
        pem = self.entries[key.worker_id]["details"]["workerTypeData"]["verificationKey"]
        try:
            load_verification_key(pem).verify(digest, decode_base64(key.signature, what="signature"))
        except AvalonError as exc:
            raise EncryptionKeyError(EncryptionKeyCode.ACCESS_DENIED, exc.message) from exc
        self.keys[key.worker_id] = msgspec.to_builtins(key)
        raise EncryptionKeyError(EncryptionKeyCode.SUCCESS, "the key is kept")


def _authorise(write: WorkerRegisterParams | WorkerUpdateParams | WorkerSetStatusParams, pem: str) -> None:
    if write.signature is None:
        raise GeneralError(GeneralCode.ACCESS_DENIED, "this needs authority")
    try:
        signature = decode_base64(write.signature, what="signature")
        load_verification_key(pem).verify(write_digest(write), signature)
    except AvalonError as exc:
        raise GeneralError(GeneralCode.INVALID_SIGNATURE, exc.message) from exc


def _invalid(message: str) -> GeneralError:
    return GeneralError(GeneralCode.INVALID_PARAMETER, message)
