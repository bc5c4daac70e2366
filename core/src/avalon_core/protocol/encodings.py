"""Hex and base64 as the wire uses them, read strictly; and the canonical encoding of what we sign and hash.

Python's own decoders skip white space and accept several spellings of one value. Here a text either is exactly
an encoding or is refused, so that what was hashed and what was decoded can never differ.
"""

import msgspec

from avalon_core.errors import EncodingError


def decode_hex(text: str, *, what: str) -> bytes:
    """Decode hex of either case, whole bytes, without ``0x``.

    Raises:
        EncodingError: naming ``what``, never quoting the text.
    """
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    # bytes.fromhex skips white space: then the length tells.
    if 2 * len(data) != len(text):
        raise EncodingError(f"{what} is not hex: expected an even number of digits 0-9, a-f")
    return data


def decode_lower_hex(text: str, *, what: str) -> bytes:
    """Decode hex in its one canonical spelling (lower case). Used where a changed byte must never go unnoticed.

    Raises:
        EncodingError: naming ``what``.
    """
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if data.hex() != text:
        raise EncodingError(f"{what} is not canonical hex: expected an even number of lower-case digits")
    return data


def decode_base64(text: str, *, what: str) -> bytes:
    """Decode standard base64 with padding; no white space, no other alphabet.

    Raises:
        EncodingError: naming ``what``.
    """
    try:
        # As strict as binascii's strict mode, surplus padding included, in a quarter of the time.
        data = msgspec.convert(text, bytes)
    except (msgspec.ValidationError, ValueError):
        raise EncodingError(f"{what} is not base64: expected the standard alphabet with padding") from None
    return data


def encode_base64(data: bytes) -> str:
    """Standard base64 with padding."""
    text: str = msgspec.to_builtins(data)
    return text


def decode_canonical_base64(text: str, *, what: str) -> bytes:
    """Decode base64 whose unused trailing bits are zero, so that one value has one spelling.

    Raises:
        EncodingError: naming ``what``.
    """
    data = decode_base64(text, what=what)
    # Only the last quantum can be spelled in more than one way.
    if text[-4:] != encode_base64(data[len(data) - (len(data) % 3 or 3) :])[-4:]:
        raise EncodingError(f"{what} is not canonical base64: unused trailing bits must be zero")
    return data


def encode_fields(*fields: str | None) -> bytes:
    """The canonical encoding of a list of texts: absent is 00; present is 01, uint32 length, UTF-8.

    It is injective: a field can neither run into its neighbour nor be mistaken for an absent one.
    """
    encoded = bytearray()
    for field in fields:
        if field is None:
            encoded += b"\0"
        else:
            raw = field.encode()
            encoded += b"\1" + len(raw).to_bytes(4, "big") + raw
    return bytes(encoded)
