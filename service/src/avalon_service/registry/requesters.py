"""The keys that an operator registered for requesters: their orders must be signed by these.

Few and seldom written, so they are a file beside the database, which is read at the start and written whole.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from avalon_core.crypto.signing import load_verification_key
from avalon_core.errors import KeyFormatError

FILE_NAME = "requesters.json"
MAX_REQUESTERS = 10_000
"""The file is written whole at each change: 3 MB at this number."""


class RequestersUnusable(Exception):
    """The file of requesters' keys cannot be used; the message says why and what to do."""


class TooManyRequesters(Exception):
    """As many requesters have keys as the service keeps."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    requesters: dict[str, str] = {}
    """PEM by requester id."""


class RequesterKeys:
    """Keys by requester. An id in upper case or with ``0x`` is the same requester here: no spelling avoids the key."""

    def __init__(self, path: Path | None = None, keys: Mapping[str, str] | None = None) -> None:
        """``path``: where changes are kept; None: nowhere."""
        self._path = path
        self._keys = dict(keys or {})
        self._writing = asyncio.Lock()

    @classmethod
    def open(cls, path: Path) -> RequesterKeys:
        """Read the file; where there is none no requester has a key.

        Raises:
            RequestersUnusable: it cannot be read. Starting without it would accept unsigned orders.
        """
        try:
            file = msgspec.json.decode(path.read_bytes(), type=_File)
            for pem in file.requesters.values():
                load_verification_key(pem)
        except FileNotFoundError:
            return cls(path)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, KeyFormatError) as exc:
            raise RequestersUnusable(
                f"the requesters' keys {path} cannot be read: {exc}; bring back a copy, or remove the file "
                "(their orders are then accepted without signature)"
            ) from exc
        return cls(path, {_plain(requester_id): pem for requester_id, pem in file.requesters.items()})

    def key_of(self, requester_id: str) -> str | None:
        """PEM of the key that is registered for a requester."""
        return self._keys.get(_plain(requester_id)) if self._keys else None

    async def set(self, requester_id: str, pem: str | None) -> None:
        """Register a requester's key, or (None) take it away; durable when this returns.

        Raises:
            KeyFormatError: not a secp256k1 public key in PEM.
            TooManyRequesters: there is no room.
            OSError: it could not be written; nothing changed.
        """
        if pem is not None:
            load_verification_key(pem)
        async with self._writing:
            keys = dict(self._keys)
            keys.pop(_plain(requester_id), None)
            if pem is not None:
                if len(keys) >= MAX_REQUESTERS:
                    raise TooManyRequesters
                keys[_plain(requester_id)] = pem
            if self._path is not None:
                await asyncio.to_thread(_write, self._path, msgspec.json.encode(_File(keys)))
            self._keys = keys


def _plain(requester_id: str) -> str:
    return requester_id.removeprefix("0x").lower()


def _write(path: Path, data: bytes) -> None:
    part = path.with_suffix(".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
