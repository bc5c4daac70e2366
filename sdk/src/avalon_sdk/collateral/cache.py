"""Answers of vendors' services on disk: one directory, one file for each thing that was asked.

An entry appears whole or not at all, and carries a digest: one that is damaged, of another version or of another question is
as if it were not there. Any number of processes may use a directory at once; whoever writes last is kept. Nothing waits for
the disk: what a power cut damages is asked for again.

What is in it is public and signed by vendors, and is verified each time that it is used. It is its owner's alone (0700) all the
same: it tells which platforms were looked at, and who could write there could bring back statements of yesterday.
"""

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from avalon_sdk.collateral.errors import CacheUnusable

DEFAULT_MAX_BYTES = 64 * 1024 * 1024
"""An answer has some kilobytes, a CRL at most some more: thousands of platforms."""

MAX_ENTRY_BYTES = 4 * 1024 * 1024
_MAGIC = b"avalon collateral 1\n"
_DIGEST_BYTES = 32
_SUFFIX = ".answer"
_DRAFT = ".draft-"
_DRAFT_SECONDS = 3600
"""A draft that is older belongs to nobody who still lives."""

_OTHERS_WRITE = 0o022


class CachedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, and how long it is good for. Times are Unix seconds by this machine's clock."""

    url: str
    """What was asked: the whole address with its query."""

    what: str
    """For people: ``SGX TCB info of FMSPC 00606a000000``."""

    found: bool = True
    """False: the vendor said that there is none."""

    headers: Mapping[str, str] = {}
    """Those that belong to the answer, by lower-case name."""

    body: bytes = b""
    stored_at: int
    fresh_until: int
    """Until then it is not asked for again."""

    ends: int | None = None
    """When the vendor's word ends: next update of a statement or CRL, the end of a certificate."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(CachedAnswer)


class CollateralCache:
    """A directory of answers.

    Args:
        directory: made when the first answer is kept. None: :func:`default_directory`.
        max_bytes: of all entries together; the ones that were stored first go first.
    """

    def __init__(self, directory: Path | None = None, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.directory = directory if directory is not None else default_directory()
        self._max_bytes = max_bytes

    def get(self, url: str) -> CachedAnswer | None:
        """The answer to what was asked; None where there is none that can be read.

        Raises:
            CacheUnusable: others can write to the directory.
        """
        if not self._is_there():
            return None
        answer = _read(self._path(url))
        return answer if answer is not None and answer.url == url else None

    def put(self, answer: CachedAnswer) -> None:
        """Keep an answer, in the place of an earlier one, and make room for it.

        Raises:
            CacheUnusable: the directory cannot be written, or others can write to it.
        """
        payload = _encoder.encode(answer)
        if len(payload) > MAX_ENTRY_BYTES:
            raise CacheUnusable(
                f"an answer of {len(payload)} bytes is not cached: expected at most {MAX_ENTRY_BYTES}"
            )
        path = self._path(answer.url)
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._is_there()
            _write(path, _MAGIC + hashlib.sha256(payload).digest() + payload)
            self._make_room(path)
        except OSError as exc:
            raise CacheUnusable(
                f"the cache {self.directory} cannot be written: {exc.strerror}. Name another (--cache, "
                "AVALON_COLLATERAL_CACHE)"
            ) from exc

    def answers(self) -> list[CachedAnswer]:
        """All entries that can be read, those that were stored last first.

        Raises:
            CacheUnusable: others can write to the directory.
        """
        if not self._is_there():
            return []
        found = (_read(path) for path in self._entries())
        return sorted((one for one in found if one is not None), key=lambda one: one.stored_at, reverse=True)

    def _is_there(self) -> bool:
        try:
            found = self.directory.lstat()
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise CacheUnusable(f"the cache {self.directory} cannot be read: {exc.strerror}") from exc
        if not stat.S_ISDIR(found.st_mode):
            raise CacheUnusable(f"the cache {self.directory} is no directory: name another")
        if found.st_uid != os.geteuid() or found.st_mode & _OTHERS_WRITE:
            raise CacheUnusable(
                f"others can write to the cache {self.directory}, and so bring back statements of yesterday: "
                "chmod 700 it, or name another"
            )
        return True

    def _entries(self) -> Iterator[Path]:
        with suppress(OSError):
            yield from self.directory.glob(f"*{_SUFFIX}")

    def _path(self, url: str) -> Path:
        return self.directory / f"{hashlib.sha256(url.encode()).hexdigest()}{_SUFFIX}"

    def _make_room(self, kept: Path) -> None:
        """Remove what was stored first until the rest fits. Others may do the same at the same time."""
        self._remove_drafts()
        sizes: list[tuple[float, int, Path]] = []
        for path in self._entries():
            with suppress(OSError):
                found = path.stat()
                sizes.append((found.st_mtime, found.st_size, path))
        total = sum(size for _, size, _ in sizes)
        for _, size, path in sorted(sizes, key=lambda entry: entry[0]):
            if total <= self._max_bytes:
                return
            if path != kept:
                path.unlink(missing_ok=True)
                total -= size

    def _remove_drafts(self) -> None:
        for path in self.directory.glob(f"{_DRAFT}*"):
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - _DRAFT_SECONDS:
                    path.unlink(missing_ok=True)


def default_directory() -> Path:
    """``$XDG_CACHE_HOME/avalon/collateral``, or ``~/.cache/avalon/collateral``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "avalon" / "collateral"


def _write(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=_DRAFT, dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _read(path: Path) -> CachedAnswer | None:
    try:
        with path.open("rb") as file:
            raw = file.read(len(_MAGIC) + _DIGEST_BYTES + MAX_ENTRY_BYTES + 1)
    except OSError:
        return None
    digest, payload = raw[len(_MAGIC) :][:_DIGEST_BYTES], raw[len(_MAGIC) + _DIGEST_BYTES :]
    if not raw.startswith(_MAGIC) or hashlib.sha256(payload).digest() != digest:
        return None
    try:
        return _decoder.decode(payload)
    except msgspec.MsgspecError:
        return None
