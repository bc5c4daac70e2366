"""The table of methods: from a call to the bytes of its answer. What the methods do is in the modules beside this one.

Each group of methods (:mod:`~avalon_service.listener.work_orders`, :mod:`~avalon_service.listener.workers`) gives a
table of its own; they are put together in one place, the wiring.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import msgspec

from avalon_core.protocol.errors import RpcCode, RpcError, WireError, brief
from avalon_core.protocol.jsonrpc import Call, Id, encode_error
from avalon_service.registry.operator import Headers

Method = Callable[[Call, float], Awaitable[bytes]]
"""Takes the call and how long (seconds) the client is ready to wait; returns the whole answer.

What the caller brought about is raised as a :class:`WireError`, and becomes an error object here."""

GuardedMethod = Callable[[Call, Headers], Awaitable[bytes]]
"""A method for which it matters who asks: takes the headers of the HTTP request in the place of the wait."""

_P = TypeVar("_P")
_TAKEN = msgspec.Raw(b"{}")


class Methods:
    """All methods that the service answers."""

    def __init__(
        self, *tables: Mapping[str, Method], guarded: Mapping[str, GuardedMethod] | None = None
    ) -> None:
        self._table = {name: method for table in tables for name, method in table.items()}
        self._guarded = dict(guarded or {})

    @property
    def names(self) -> frozenset[str]:
        """The methods there are."""
        return frozenset(self._table) | frozenset(self._guarded)

    async def answer(self, call: Call, wait: float, headers: Headers = ()) -> bytes:
        """Answer a call. Never raises what the caller brought about: that becomes an error object."""
        method = self._table.get(call.method)
        guarded = self._guarded.get(call.method) if method is None else None
        try:
            if method is not None:
                return await method(call, wait)
            if guarded is not None:
                return await guarded(call, headers)
            known = ", ".join(sorted(self.names))
            raise RpcError(RpcCode.METHOD_NOT_FOUND, f"no such method; there are {known}")
        except WireError as exc:
            return encode_wire_error(call.id, exc)


def decode_params(decoder: msgspec.json.Decoder[_P], call: Call, refuse: Callable[[str], WireError]) -> _P:
    """Decode and validate a call's params in one pass.

    Raises:
        WireError: what ``refuse`` makes of the reason.
    """
    try:
        return decoder.decode(call.params)
    except msgspec.ValidationError as exc:
        raise refuse(f"invalid params: {brief(exc)}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise refuse("invalid params: expected a JSON object") from None


def take_params(call: Call) -> msgspec.Raw:
    """A call's params, which it does not keep: a large body must not stay in memory while its answer is waited for."""
    params = call.params
    msgspec.structs.force_setattr(call, "params", _TAKEN)
    return params


def encode_wire_error(id_: Id, error: WireError) -> bytes:
    """An error as its object."""
    return encode_error(id_, error.code, error.message, error.data)
