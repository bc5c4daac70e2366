"""Orders that outlive the process which sent them: a directory with a file for each.

An entry is SECRET: it holds the order's session key, by which whoever has it reads the result. The directory is its owner's
alone (0700), so are the files (0600), and a journal that others can reach is refused. Entries appear whole or not at all.

A file is one line of JSON (:class:`JournalEntry` without its bytes), then what ``OrderHandle.save()`` made. What the line says
is for lists; nothing is decided by it.
"""

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from avalon_core.protocol.limits import MAX_FRAME_BYTES
from avalon_sdk.errors import BadRequest, JournalUnusable

MAX_ENTRY_BYTES = MAX_FRAME_BYTES + 1024 * 1024
"""An order of the largest size, with the worker's record."""

MAX_ENTRIES = 100_000
"""A directory with more is no journal that a person keeps."""

_MAX_LINE_BYTES = 64 * 1024
_SUFFIX = ".order"
_ID = re.compile(r"(0x)?[0-9a-fA-F]{1,64}\Z")
_OTHERS = 0o077


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    work_order_id: str
    address: str
    workload: str
    worker_id: str
    sealed_at: float
    state: str = ""


_line_decoder = msgspec.json.Decoder(_Line)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """An order in the journal."""

    work_order_id: str
    address: str
    """Of the service that has it."""

    workload: str
    worker_id: str
    sealed_at: float
    """Seconds since the epoch, by this machine's clock."""

    state: str = ""
    """How it ended, where that was seen: it need not be asked for again. Empty: not known to have ended."""

    saved: bytes = field(default=b"", repr=False)
    """For ``client.resume()``. Secret. Empty in lists."""


class OrderJournal:
    """A directory of saved orders.

    Args:
        directory: made, with those above it, when the first order is kept. None: :func:`default_directory`.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory if directory is not None else default_directory()

    def keep(self, entry: JournalEntry) -> None:
        """Write an entry, durably, in the place of an earlier one of the same order.

        Raises:
            JournalUnusable
        """
        line = _Line(**{name: getattr(entry, name) for name in _Line.__struct_fields__})
        path = self._path(entry.work_order_id)
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._require_private()
            _write(path, msgspec.json.encode(line) + b"\n" + entry.saved)
        except OSError as exc:
            raise self._unusable(f"cannot be written: {exc.strerror}") from exc

    def entry(self, work_order_id: str) -> JournalEntry:
        """The entry of an order, with its secret. The beginning of an id will do where it says which.

        Raises:
            BadRequest: not an id, or the beginning of several.
            JournalUnusable: there is no such entry, or it cannot be read.
        """
        path = self._path(work_order_id)
        self._require_private()
        if not path.is_file():
            path = self._only(work_order_id)
        return self._read(path, whole=True)

    def entries(self) -> list[JournalEntry]:
        """All entries, the newest first, without their secrets. What is not an entry is left out.

        Raises:
            JournalUnusable
        """
        if not self.directory.exists():
            return []
        self._require_private()
        entries = []
        for path in self._files():
            with suppress(JournalUnusable):
                entries.append(self._read(path, whole=False))
        return sorted(entries, key=lambda entry: entry.sealed_at, reverse=True)

    def forget(self, work_order_id: str) -> None:
        """Remove an entry; nothing where there is none.

        Raises:
            JournalUnusable
        """
        try:
            self._path(work_order_id).unlink(missing_ok=True)
        except OSError as exc:
            raise self._unusable(f"cannot be written: {exc.strerror}") from exc

    def _files(self) -> Iterator[Path]:
        try:
            found = sorted(self.directory.glob(f"*{_SUFFIX}"))
        except OSError as exc:
            raise self._unusable(f"cannot be read: {exc.strerror}") from exc
        if len(found) > MAX_ENTRIES:
            raise self._unusable(f"has {len(found)} entries, expected at most {MAX_ENTRIES}: remove old ones")
        return iter(found)

    def _only(self, prefix: str) -> Path:
        found = [path for path in self._files() if path.name.startswith(prefix)]
        if len(found) > 1:
            raise BadRequest(f"{prefix} is the beginning of {len(found)} orders: give more of the id")
        if not found:
            raise JournalUnusable(
                f"the journal {self.directory} has no order {prefix}: 'avalon orders' lists those it has, and "
                "'avalon submit --keep' or '--no-wait' puts one there"
            )
        return found[0]

    def _path(self, work_order_id: str) -> Path:
        if not _ID.match(work_order_id):
            raise BadRequest(f"not a work order id: got {work_order_id!r:.80}, expected hex, up to 32 bytes")
        return self.directory / f"{work_order_id}{_SUFFIX}"

    def _require_private(self) -> None:
        """Nobody else may read the directory, or put entries into it."""
        try:
            found = self.directory.lstat()
        except FileNotFoundError:
            return
        except OSError as exc:
            raise self._unusable(f"cannot be read: {exc.strerror}") from exc
        if not stat.S_ISDIR(found.st_mode):
            raise self._unusable("is not a directory")
        if found.st_uid != os.geteuid():
            raise self._unusable("belongs to somebody else: name one of your own with AVALON_ORDERS_DIR")
        if found.st_mode & _OTHERS:
            raise self._unusable(
                f"can be reached by others, and it holds secrets: chmod 700 {self.directory}"
            )

    def _read(self, path: Path, *, whole: bool) -> JournalEntry:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                first = file.readline(_MAX_LINE_BYTES)
                saved = file.read(MAX_ENTRY_BYTES + 1) if whole else b""
        except OSError as exc:
            raise JournalUnusable(f"the journal's entry {path} cannot be read: {exc.strerror}") from exc
        try:
            line = _line_decoder.decode(first)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
            raise JournalUnusable(f"the journal's entry {path} cannot be read: it is damaged") from exc
        if f"{line.work_order_id}{_SUFFIX}" != path.name or len(saved) > MAX_ENTRY_BYTES:
            raise JournalUnusable(f"the journal's entry {path} cannot be read: it is not what its name says")
        return JournalEntry(**msgspec.structs.asdict(line), saved=saved)

    def _unusable(self, why: str) -> JournalUnusable:
        return JournalUnusable(f"the journal {self.directory} {why}")


def default_directory() -> Path:
    """AVALON_ORDERS_DIR, else avalon/orders among the user's data."""
    named = os.environ.get("AVALON_ORDERS_DIR")
    if named:
        return Path(named)
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "avalon" / "orders"


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, and never readable by others, whatever the umask."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
