"""CBOR (RFC 8949) as attestation documents use it, read with care: bytes of strangers must not run the decoder away.

Before the decoder sees anything, the structure is walked over, without recursion and without building a value. Refused
are, beside what is not well formed:

- more bytes, nesting or data items than the caller's caps; a length that runs past the end; bytes after the end;
- indefinite lengths (RFC 8949, 3.2): no format here uses them, and they make sizes unknowable in advance;
- tags (3.4): decoders build dates, big numbers, regular expressions and cycles from them. A format that has one knows
  where it stands and takes it off before;
- floating-point numbers, ``undefined`` and simple values other than false, true and null;
- map keys other than integers and texts, and duplicate keys (5.6): which one holds is anybody's guess.

Lengths that are not the shortest are taken: signatures cover the bytes as they came, or are computed over a fresh
encoding of what was read, so nothing rests on there being a single spelling.
"""

from typing import Any

import cbor2

from avalon_core.errors import EvidenceError

MAX_ITEMS = 1024
"""Data items of one value, all levels together. A real Nitro document has 72, an answer of its device below 100."""

MAX_DEPTH = 8
"""Containers within containers. Real documents have 3."""

_UINT, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_ONE_BYTE_ARGUMENT, _EIGHT_BYTES_ARGUMENT = 24, 27
_FALSE, _TRUE, _NULL = 20, 21, 22


def decode(data: bytes, *, what: str, max_bytes: int) -> Any:
    """Read one value that fills ``data``: dict, list, str, bytes, int, bool or None.

    Args:
        data: the encoding.
        what: names the value in messages: ``the attestation document``.
        max_bytes: the cap of its size.

    Raises:
        EvidenceError: anything of what the module lists.
    """
    if len(data) > max_bytes:
        raise EvidenceError(f"{what} is too large: got {len(data)} bytes, expected at most {max_bytes}")
    end = _walk(data, what)
    if end != len(data):
        raise EvidenceError(f"{what}: {len(data) - end} bytes follow its end, expected none")
    try:
        return cbor2.loads(data, max_depth=MAX_DEPTH, allow_indefinite=False, allow_duplicate_keys=False)
    except (cbor2.CBORError, ValueError) as exc:
        raise EvidenceError(f"{what} is not CBOR: {exc}") from None


def encode(value: Any) -> bytes:
    """The encoding of a value of the types that :func:`decode` returns; maps keep their order."""
    return cbor2.dumps(value)


def _walk(data: bytes, what: str) -> int:
    """Where the first value ends."""
    position = 0
    open_containers: list[_Container] = []
    for _ in range(MAX_ITEMS):
        is_key = bool(open_containers) and open_containers[-1].next_is_key()
        major, argument, position = _head(data, position, what)
        if is_key and major not in (_UINT, _NEGATIVE, _TEXT):
            raise EvidenceError(f"{what}: a key of a map must be an integer or a text")
        if major in (_BYTES, _TEXT):
            position += argument
        if position > len(data):
            raise EvidenceError(f"{what} is cut off")
        if major in (_ARRAY, _MAP):
            open_containers.append(_Container(argument * (2 if major == _MAP else 1), major == _MAP))
            if len(open_containers) > MAX_DEPTH:
                raise EvidenceError(f"{what} is nested too deep: expected at most {MAX_DEPTH} levels")
        while open_containers and open_containers[-1].left == 0:
            open_containers.pop()
        if not open_containers:
            return position
        open_containers[-1].left -= 1
    raise EvidenceError(f"{what} has too many data items: expected at most {MAX_ITEMS}")


class _Container:
    """An array or a map, and how many of its items have not been announced yet."""

    def __init__(self, left: int, is_map: bool) -> None:
        self.left = left
        self._is_map = is_map

    def next_is_key(self) -> bool:
        # The count was taken down before the item is read: after an odd rest comes a key.
        return self._is_map and self.left % 2 == 1


def _head(data: bytes, position: int, what: str) -> tuple[int, int, int]:
    """Major type, argument, and the position after them (RFC 8949, 3)."""
    if position >= len(data):
        raise EvidenceError(f"{what} is cut off")
    major, argument = divmod(data[position], 32)
    position += 1
    if major == _TAG:
        raise EvidenceError(f"{what}: a tag, expected none")
    if major == _SIMPLE:
        if argument not in (_FALSE, _TRUE, _NULL):
            raise EvidenceError(f"{what}: a float, undefined or simple value, expected none")
        return major, argument, position
    if argument < _ONE_BYTE_ARGUMENT:
        return major, argument, position
    if argument > _EIGHT_BYTES_ARGUMENT:
        raise EvidenceError(f"{what}: an indefinite or reserved length, expected a definite one")
    size = 1 << (argument - _ONE_BYTE_ARGUMENT)
    if position + size > len(data):
        raise EvidenceError(f"{what} is cut off")
    return major, int.from_bytes(data[position : position + size], "big"), position + size
