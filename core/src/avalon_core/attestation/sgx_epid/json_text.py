"""JSON of strangers, read strictly: UTF-8, an object, no member twice, no NaN, within a size."""

import json
from typing import Any, NoReturn

from avalon_core.errors import EvidenceError


def parse_object(text: bytes, *, what: str, max_bytes: int) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        EvidenceError: too large, not JSON, not an object, or with a member twice (readers differ on which one holds).
    """
    if len(text) > max_bytes:
        raise EvidenceError(f"{what} is too large: got {len(text)} bytes, expected at most {max_bytes}")
    try:
        value = json.loads(
            text.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as exc:
        # The decoder's own messages tell positions; a UnicodeDecodeError would quote the text.
        detail = exc.msg if isinstance(exc, json.JSONDecodeError) else type(exc).__name__
        raise EvidenceError(f"{what} is not JSON: {detail}") from None
    if not isinstance(value, dict):
        raise EvidenceError(f"{what} is not a JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise EvidenceError("a JSON object has a member twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise EvidenceError(f"{name} is not JSON")
