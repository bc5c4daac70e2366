"""The JSON-RPC 2.0 envelope: bytes to calls, outcomes to bytes. No method is known here.

We follow the standard where the original departs from it (batches, notifications, string and null ids, complete
error envelopes); everything the original accepts is still accepted.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from avalon_core.protocol.errors import RpcCode, RpcError, WireError
from avalon_core.protocol.limits import MAX_BATCH_CALLS

Id = str | int | None

MAX_ID_CHARS = 256
"""A caller's id is echoed, so it is bounded."""

_MAX_ID_BITS = 1024


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    jsonrpc: Literal["2.0"]
    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")
    id: str | int | msgspec.UnsetType | None = msgspec.UNSET


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call as it arrived."""

    method: str
    params: msgspec.Raw
    """The JSON of the params, exactly as sent."""

    id: Id
    is_notification: bool
    """No id member: the caller wants no answer."""


class BadCall(msgspec.Struct, frozen=True, kw_only=True):
    """Something in the place of a call that is none; it is answered with ``error``."""

    error: RpcError
    id: Id = None


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What one HTTP body held."""

    calls: tuple[Call | BadCall, ...]
    is_batch: bool


_envelope = msgspec.json.Decoder(_Envelope)
_batch = msgspec.json.Decoder(list[msgspec.Raw])
_anything = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()

_INVALID_REQUEST = (
    'not a JSON-RPC 2.0 request: expected {"jsonrpc": "2.0", "id": string or integer, '
    '"method": string, "params": object}'
)


def decode_envelope(body: bytes) -> Envelope:
    """Read one HTTP body. Never raises: what is wrong becomes a :class:`BadCall` to be answered."""
    if body[:256].lstrip(b" \t\r\n")[:1] != b"[":
        return Envelope(calls=(_decode_call(body),), is_batch=False)
    try:
        members = _batch.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return Envelope(calls=(_parse_error(),), is_batch=False)
    if not members or len(members) > MAX_BATCH_CALLS:
        message = f"a batch holds 1 to {MAX_BATCH_CALLS} calls: got {len(members)}"
        return Envelope(calls=(BadCall(error=RpcError(RpcCode.INVALID_REQUEST, message)),), is_batch=False)
    return Envelope(calls=tuple(_decode_call(member) for member in members), is_batch=True)


def _decode_call(raw: bytes | msgspec.Raw) -> Call | BadCall:
    try:
        got = _envelope.decode(raw)
    except msgspec.ValidationError:
        return BadCall(error=RpcError(RpcCode.INVALID_REQUEST, _INVALID_REQUEST), id=_id_of(raw))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _parse_error()
    if got.id is msgspec.UNSET:
        return Call(method=got.method, params=got.params, id=None, is_notification=True)
    if not _is_echoable(got.id):
        message = f"id is too long: at most {MAX_ID_CHARS} characters"
        return BadCall(error=RpcError(RpcCode.INVALID_REQUEST, message))
    return Call(method=got.method, params=got.params, id=got.id, is_notification=False)


def _parse_error() -> BadCall:
    return BadCall(error=RpcError(RpcCode.PARSE_ERROR, "the body is not JSON in UTF-8"))


def _id_of(raw: bytes | msgspec.Raw) -> Id:
    """The id of something malformed, where it can be told (the standard wants it echoed then)."""
    try:
        value = _anything.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    found = value.get("id") if isinstance(value, dict) else None
    return (
        found
        if isinstance(found, str | int) and not isinstance(found, bool) and _is_echoable(found)
        else None
    )


def _is_echoable(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_ID_CHARS
    return value is None or (isinstance(value, int) and value.bit_length() <= _MAX_ID_BITS)


def encode_success(id_: Id, result: Any) -> bytes:
    """The answer with a result: any JSON value, or ``msgspec.Raw`` of one that is encoded already."""
    return _encoder.encode({"jsonrpc": "2.0", "id": id_, "result": result})


def encode_error(id_: Id, code: int, message: str, data: Mapping[str, Any] | None = None) -> bytes:
    """The answer with an error object; ``data`` is left out where there is none."""
    error: dict[str, Any] = {"code": int(code), "message": message}
    if data:
        error["data"] = data
    return _encoder.encode({"jsonrpc": "2.0", "id": id_, "error": error})


def encode_batch(answers: Sequence[bytes]) -> bytes:
    """The answers of a batch as one array."""
    return b"[" + b",".join(answers) + b"]"


def encode_call(method: str, params: Any, id_: Id) -> bytes:
    """A call, as a client sends it. ``params``: any JSON object, or ``msgspec.Raw`` of one."""
    return _encoder.encode({"jsonrpc": "2.0", "method": method, "params": params, "id": id_})


class _ErrorObject(msgspec.Struct, frozen=True):
    code: int
    message: str = ""
    data: Any = None


class Answer(msgspec.Struct, frozen=True):
    """An answer, as a client receives it: exactly one of ``result`` and ``error`` is there."""

    id: Id = None
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: _ErrorObject | None = None

    def result_or_raise(self, space: type[WireError]) -> msgspec.Raw:
        """The JSON of the result.

        Raises:
            WireError: of class ``space`` (or RpcError for standard codes), as the service meant it.
        """
        if self.error is not None:
            data = self.error.data if isinstance(self.error.data, dict) else {}
            cls = RpcError if self.error.code < 0 else space
            raise cls(self.error.code, self.error.message, data)
        if self.result is msgspec.UNSET:
            raise RpcError(RpcCode.INVALID_REQUEST, "the service's answer has neither result nor error")
        return self.result


_answer = msgspec.json.Decoder(Answer)


def decode_answer(body: bytes) -> Answer:
    """Read the answer to one call.

    Raises:
        RpcError: the body is not a JSON-RPC answer.
    """
    try:
        return _answer.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise RpcError(RpcCode.PARSE_ERROR, f"the service's answer is not JSON-RPC 2.0: {exc}") from None
