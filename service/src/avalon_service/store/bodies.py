"""Large bodies (requests, results) as files of their own beside the database.

A body of megabytes in a row would be written twice, journal and database, and keep every other commit waiting
meanwhile. So it goes to a file first, durably, and a row names it in the ordinary transaction:

    write the file -> make file and folder durable -> commit the row that names it

A crash in between leaves a file that no row names: it is removed when the store is opened. A row is removed before its
file is, so that no row ever names a file that is gone. Names are never used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from avalon_service.orders.errors import StoreClosed, StoreUnavailable

_log = logging.getLogger(__name__)

_NAME = re.compile(r"[0-9a-f]{32}\Z")
_THREADS = 2
"""Bodies written at the same time: the disk is the bottleneck, and each one on its way is in memory."""


_PIECE_BYTES = 256 * 1024
"""Written at a time. Larger pieces make the kernel look for large pages, which on a busy machine costs ten times what
the copying does."""


class Bodies:
    """A folder of large bodies. `read` may be called from any thread, all else belongs to the event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="avalon-bodies")

    async def write(self, body: bytes) -> str:
        """Make a body durable in a file that no row names yet; return its name.

        If the caller is cancelled meanwhile, the file goes again.

        Raises:
            StoreUnavailable: it could not be written; nothing is left of it.
            StoreClosed: after `close`.
        """
        name = secrets.token_hex(16)
        try:
            writing = asyncio.get_running_loop().run_in_executor(self._threads, self._write, name, body)
        except RuntimeError as error:
            raise StoreClosed from error
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            writing.add_done_callback(lambda _: self.remove([name]))
            raise
        except OSError as error:
            raise StoreUnavailable(
                f"a large body could not be written: {error}; nothing was changed, try again"
            ) from error
        return name

    def read(self, name: str) -> bytes | None:
        """The body, or None if its file is missing.

        Raises:
            OSError: it cannot be read.
        """
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            _log.error("a file of the store is missing: %s", self._folder / name)
            return None

    def remove(self, names: Collection[str]) -> None:
        """Remove files that no row names (any more). What cannot be removed now goes when the store is opened."""
        if names:
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                self._threads.submit(self._remove, names)

    async def close(self) -> None:
        """Finish what was begun."""
        await asyncio.to_thread(self._threads.shutdown)

    def _write(self, name: str, body: bytes) -> None:
        path = self._folder / name
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                rest = memoryview(body)
                while rest:
                    rest = rest[os.write(descriptor, rest[:_PIECE_BYTES]) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            _sync_folder(self._folder)
        except OSError:
            self._remove([name])
            raise

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError as error:
                _log.warning("a file of the store could not be removed: %s", error)


def open_folder(folder: Path, named: Collection[str]) -> int:
    """Make the folder if there is none, and remove what no row names; return how many files that were.

    Raises:
        OSError: it cannot be made, read or changed.
    """
    if not folder.is_dir():
        folder.mkdir(mode=0o700)
        _sync_folder(folder.parent)
    orphans = [path for path in folder.iterdir() if _NAME.match(path.name) and path.name not in named]
    for orphan in orphans:
        orphan.unlink()
    return len(orphans)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
