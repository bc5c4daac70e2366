"""A transport that gathers writes, so that what is written within one turn of the event loop is one system call.

uvicorn writes the head and the body of a response apart, and a host hands over several orders at a time.
"""

from __future__ import annotations

import asyncio
from typing import Any

_LARGE_BYTES = 128 * 1024
"""From here on, another system call costs less than to copy what is written."""


class CorkedTransport:
    """A transport that gathers writes. Whatever else is asked of it goes to the transport beneath."""

    __slots__ = ("_beneath", "_call_soon", "_held")

    def __init__(self, beneath: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._beneath = beneath
        self._call_soon = loop.call_soon
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Write in the loop's next turn, with whatever else is written until then."""
        if not self._held:
            self._call_soon(self._flush)
        self._held.append(data)

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, []
            if self._beneath.is_closing():
                return  # the other end went away meanwhile: asyncio would drop this, but uvloop raises
            if len(held) == 1:
                self._beneath.write(held[0])
            elif max(map(len, held)) < _LARGE_BYTES:
                self._beneath.write(b"".join(held))
            else:
                self._beneath.writelines(held)

    def close(self) -> None:
        """Write what is held, then close."""
        self._flush()
        self._beneath.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._beneath, name)
