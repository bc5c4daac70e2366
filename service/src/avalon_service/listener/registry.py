"""WorkerRegister, WorkerUpdate, WorkerSetStatus, EncryptionKeyGet and -Set, RequesterKeySet and -Get.

The writes answer success as existing clients know it: with an *error object* of code 0.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from avalon_core.errors import KeyFormatError
from avalon_core.protocol.errors import (
    EncryptionKeyCode,
    EncryptionKeyError,
    GeneralCode,
    GeneralError,
    WorkerStatus,
)
from avalon_core.protocol.jsonrpc import Call, encode_error, encode_success
from avalon_core.protocol.registry import (
    EncryptionKeyGetParams,
    EncryptionKeySetParams,
    RequesterKeyGetParams,
    RequesterKeySetParams,
    WorkerRegisterParams,
    WorkerSetStatusParams,
    WorkerUpdateParams,
)
from avalon_service.listener.methods import GuardedMethod, Method, decode_params
from avalon_service.registry.keys import EncryptionKeys
from avalon_service.registry.operator import Headers, Operator, WrongToken
from avalon_service.registry.requesters import MAX_REQUESTERS, RequesterKeys, TooManyRequesters
from avalon_service.registry.workers import NO_AUTHORITY, WRONG_TOKEN, WorkerRegistry

log = logging.getLogger(__name__)

_REGISTER = msgspec.json.Decoder(WorkerRegisterParams)
_UPDATE = msgspec.json.Decoder(WorkerUpdateParams)
_SET_STATUS = msgspec.json.Decoder(WorkerSetStatusParams)
_KEY_GET = msgspec.json.Decoder(EncryptionKeyGetParams)
_KEY_SET = msgspec.json.Decoder(EncryptionKeySetParams)
_REQUESTER_GET = msgspec.json.Decoder(RequesterKeyGetParams)
_REQUESTER_SET = msgspec.json.Decoder(RequesterKeySetParams)


class RegistryMethods:
    """The methods that write to the registry, and those about keys."""

    def __init__(
        self,
        *,
        operator: Operator,
        registry: WorkerRegistry,
        keys: EncryptionKeys,
        requesters: RequesterKeys,
    ) -> None:
        self._operator = operator
        self._registry = registry
        self._keys = keys
        self._requesters = requesters

    def table(self) -> Mapping[str, Method]:
        """Those for which it does not matter who asks, by their names on the wire."""
        return {"EncryptionKeyGet": self._key_get, "EncryptionKeySet": self._key_set}

    def guarded(self) -> Mapping[str, GuardedMethod]:
        """Those that the operator may call, by their names on the wire."""
        return {
            "WorkerRegister": self._register,
            "WorkerUpdate": self._update,
            "WorkerSetStatus": self._set_status,
            "RequesterKeySet": self._requester_set,
            "RequesterKeyGet": self._requester_get,
        }

    async def _register(self, call: Call, headers: Headers) -> bytes:
        params = decode_params(_REGISTER, call, _invalid)
        by_operator = self._is_operator(headers)
        await self._registry.register(params, by_operator=by_operator)
        log.info("worker registered id=%s by=%s", params.worker_id, _name(by_operator))
        return _success(call, "the worker is registered")

    async def _update(self, call: Call, headers: Headers) -> bytes:
        params = decode_params(_UPDATE, call, _invalid)
        by_operator = self._is_operator(headers)
        await self._registry.update(params, by_operator=by_operator)
        log.info("worker updated id=%s by=%s", params.worker_id, _name(by_operator))
        return _success(call, "the worker is updated")

    async def _set_status(self, call: Call, headers: Headers) -> bytes:
        params = decode_params(_SET_STATUS, call, _invalid)
        by_operator = self._is_operator(headers)
        await self._registry.set_status(params, by_operator=by_operator)
        status = WorkerStatus(params.status).name.lower()
        log.info("worker's status set id=%s status=%s by=%s", params.worker_id, status, _name(by_operator))
        return _success(call, f"the worker is {status.replace('_', '-')}")

    async def _key_get(self, call: Call, wait: float) -> bytes:
        return encode_success(call.id, await self._keys.get(decode_params(_KEY_GET, call, _invalid_key)))

    async def _key_set(self, call: Call, wait: float) -> bytes:
        params = decode_params(_KEY_SET, call, _invalid_key)
        await self._keys.set(params)
        log.info("worker pushed a key id=%s", params.worker_id)
        return _success(call, "the key is kept")

    async def _requester_set(self, call: Call, headers: Headers) -> bytes:
        params = decode_params(_REQUESTER_SET, call, _invalid)
        self._require_operator(headers)
        try:
            await self._requesters.set(params.requester_id, params.verifying_key or None)
        except KeyFormatError as exc:
            raise _invalid(f"verifyingKey: {exc.message}") from None
        except TooManyRequesters:
            raise GeneralError(
                GeneralCode.UNKNOWN_ERROR, f"keys are kept for {MAX_REQUESTERS} requesters at most"
            ) from None
        except OSError as exc:
            log.error("requester's key not stored reason=%s", exc)
            raise GeneralError(
                GeneralCode.UNKNOWN_ERROR, "the key could not be stored; send it again"
            ) from None
        log.info(
            "requester's key %s id=%s", "set" if params.verifying_key else "removed", params.requester_id
        )
        return _success(
            call, "the requester's key is kept" if params.verifying_key else "there is no key now"
        )

    async def _requester_get(self, call: Call, headers: Headers) -> bytes:
        params = decode_params(_REQUESTER_GET, call, _invalid)
        self._require_operator(headers)
        key = self._requesters.key_of(params.requester_id)
        return encode_success(call.id, {"requesterId": params.requester_id, "verifyingKey": key})

    def _is_operator(self, headers: Headers) -> bool:
        try:
            return self._operator.sent(headers)
        except WrongToken:
            raise GeneralError(GeneralCode.ACCESS_DENIED, WRONG_TOKEN) from None

    def _require_operator(self, headers: Headers) -> None:
        if not self._is_operator(headers):
            message = NO_AUTHORITY.partition(", or sign")[0]
            raise GeneralError(GeneralCode.ACCESS_DENIED, message)


def _success(call: Call, message: str) -> bytes:
    return encode_error(call.id, GeneralCode.SUCCESS, message)


def _name(by_operator: bool) -> str:
    return "operator" if by_operator else "worker"


def _invalid(message: str) -> GeneralError:
    return GeneralError(GeneralCode.INVALID_PARAMETER, message)


def _invalid_key(message: str) -> EncryptionKeyError:
    return EncryptionKeyError(EncryptionKeyCode.INVALID_PARAMETER, message)
