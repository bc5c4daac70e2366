"""Files that a kernel or a LibOS makes up as they are read: each is read whole, and written whole.

A write counts when the file is closed, not before, and a read may give less than was asked for. So a file is opened for
each operation, and nothing is buffered here. Errors stay ``OSError``: what one means depends on the file, and the caller
knows which it is.
"""

import os
from pathlib import Path
from typing import Protocol

_CHUNK_BYTES = 64 * 1024
_READ = os.O_RDONLY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CLOEXEC


class SystemCalls(Protocol):
    """The calls that are used, as the module ``os`` has them."""

    def open(self, path: str, flags: int, /) -> int:
        """A new descriptor."""

    def read(self, descriptor: int, length: int, /) -> bytes:
        """At most ``length`` bytes; none at the end."""

    def write(self, descriptor: int, data: bytes, /) -> int:
        """How many bytes were taken."""

    def close(self, descriptor: int, /) -> None:
        """Close it."""

    def mkdir(self, path: str, mode: int, /) -> None:
        """Make a folder."""

    def rmdir(self, path: str, /) -> None:
        """Remove a folder."""


class FileTooLarge(OSError):
    """A pseudo file holds more than the caller takes."""


class PseudoFiles:
    """The files under one folder, by their name in it."""

    def __init__(self, folder: Path, *, system: SystemCalls | None = None) -> None:
        """``system``: in place of the operating system's, for tests."""
        self.folder = folder
        self._system: SystemCalls = system if system is not None else os

    def read(self, name: str, *, most: int) -> bytes:
        """The whole file.

        Raises:
            OSError: of the system; :class:`FileTooLarge` beyond ``most`` bytes.
        """
        descriptor = self._system.open(self._path(name), _READ)
        try:
            content = bytearray()
            while piece := self._system.read(descriptor, _CHUNK_BYTES):
                content += piece
                if len(content) > most:
                    raise FileTooLarge(0, f"more than {most} bytes")
            return bytes(content)
        finally:
            self._system.close(descriptor)

    def write(self, name: str, data: bytes) -> None:
        """Give the file this content.

        Raises:
            OSError: of the system. That there was none does not say that the content was taken: see the module.
        """
        descriptor = self._system.open(self._path(name), _WRITE)
        try:
            rest = data
            while rest:
                rest = rest[self._system.write(descriptor, rest) :]
        finally:
            self._system.close(descriptor)

    def make_folder(self, name: str) -> None:
        """Make a folder.

        Raises:
            OSError: of the system.
        """
        self._system.mkdir(self._path(name), 0o700)

    def remove_folder(self, name: str) -> None:
        """Remove a folder. One of a kernel goes with the files in it.

        Raises:
            OSError: of the system.
        """
        self._system.rmdir(self._path(name))

    def _path(self, name: str) -> str:
        return str(self.folder / name)
