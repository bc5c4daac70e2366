"""PoolStatus, PoolRotate, PoolDrain, PoolChange, PoolShares, PoolRecover and PoolShare: for the operator."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from avalon_core.protocol.errors import GeneralCode, GeneralError
from avalon_core.protocol.jsonrpc import Call, encode_success
from avalon_core.protocol.pools import (
    OfPool,
    PoolChangeParams,
    PoolDrainParams,
    PoolRecoverParams,
    PoolRotateParams,
    PoolShareParams,
    PoolSharesParams,
    PoolStatusParams,
)
from avalon_service.listener.methods import GuardedMethod, decode_params
from avalon_service.pool.host import PoolCommandFailed, PoolHost
from avalon_service.registry.keys import NotServing
from avalon_service.registry.operator import Headers, Operator, WrongToken
from avalon_service.registry.workers import NO_AUTHORITY, WRONG_TOKEN

log = logging.getLogger(__name__)

_Do = Callable[[PoolHost, Any], Awaitable[Mapping[str, Any]]]

_TABLE: Mapping[str, tuple[type[OfPool], _Do]] = {
    "PoolStatus": (PoolStatusParams, lambda pool, _: pool.status()),
    "PoolRotate": (PoolRotateParams, lambda pool, _: pool.rotate()),
    "PoolDrain": (PoolDrainParams, lambda pool, _: pool.drain()),
    "PoolChange": (PoolChangeParams, lambda pool, params: pool.change(params.change.encode())),
    "PoolShares": (PoolSharesParams, lambda pool, _: pool.ask("shares")),
    "PoolRecover": (PoolRecoverParams, lambda pool, params: pool.ask("recover", params.recovery.encode())),
    "PoolShare": (PoolShareParams, lambda pool, params: pool.ask("share", params.share.encode())),
}


class PoolMethods:
    """The methods. A service without a pool answers each with code 6."""

    def __init__(self, operator: Operator, pools: Mapping[str, PoolHost]) -> None:
        """``pools``: by worker id."""
        self._operator = operator
        self._pools = pools
        self._decoders = {name: msgspec.json.Decoder(params) for name, (params, _) in _TABLE.items()}

    def guarded(self) -> Mapping[str, GuardedMethod]:
        """By their names on the wire."""
        return {name: self._method(name, do) for name, (_, do) in _TABLE.items()}

    def _method(self, name: str, do: _Do) -> GuardedMethod:
        async def answer(call: Call, headers: Headers) -> bytes:
            params = decode_params(self._decoders[name], call, _invalid)
            self._require_operator(headers)
            pool = self._find(params.worker_id)
            try:
                result = await do(pool, params)
            except PoolCommandFailed as exc:
                raise _invalid(str(exc)) from None
            except NotServing:
                raise GeneralError(
                    GeneralCode.UNKNOWN_ERROR,
                    "no key management enclave answers; look at PoolStatus and try again",
                ) from None
            if name != "PoolStatus":
                log.info("pool command done method=%s", name)
            return encode_success(call.id, result)

        return answer

    def _find(self, worker_id: str | None) -> PoolHost:
        if not self._pools:
            raise GeneralError(
                GeneralCode.UNSUPPORTED_MODE, "this service runs no pool: start it with 'avalon up --pool'"
            )
        if worker_id is None:
            if len(self._pools) > 1:
                raise _invalid(f"workerId: this service runs {len(self._pools)} pools: say which")
            return next(iter(self._pools.values()))
        pool = self._pools.get(worker_id)
        if pool is None:
            raise _invalid("workerId: this service runs no pool of this worker")
        return pool

    def _require_operator(self, headers: Headers) -> None:
        try:
            if self._operator.sent(headers):
                return
        except WrongToken:
            raise GeneralError(GeneralCode.ACCESS_DENIED, WRONG_TOKEN) from None
        raise GeneralError(GeneralCode.ACCESS_DENIED, NO_AUTHORITY.partition(", or sign")[0])


def _invalid(message: str) -> GeneralError:
    return GeneralError(GeneralCode.INVALID_PARAMETER, message)
