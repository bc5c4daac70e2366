"""Opening the SQLite database of a store: one process at a time, at the right schema, with the right promises."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sqlite3
from pathlib import Path

from avalon_service.orders.errors import StoreInUse, StoreTooNew, StoreUnavailable

REVISIONS = ("0001", "0002", "0003", "0004", "0005")
"""The schema revisions that this version knows, oldest first. A test compares them with the migration scripts."""

HEAD = REVISIONS[-1]

_PRIVATE = 0o600
_MAX_WAL_BYTES = 64 * 1024 * 1024
_CACHE_KIB = 32 * 1024
"""Pages kept by a connection: those of the index of ids are read at random places."""
_CHECKPOINT_PAGES = 4000
"""16 MiB: pages written again and again meanwhile are copied into the database once."""
_STATEMENTS = 256


class DatabaseLock:
    """Held as long as a process uses a database; the operating system frees it when the process dies."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._file, 32).strip()
            os.close(self._file)
            raise StoreInUse(str(path), int(holder) if holder.isdigit() else None) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process in."""
        os.close(self._file)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Connect to a database: durable at every commit, and readable while it is written."""
    # Only a file that does not exist is opened here: closing one that SQLite has open would drop SQLite's locks on it.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE))
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=_STATEMENTS, timeout=10
    )
    try:
        connection.create_function("sha256", 1, _sha256, deterministic=True)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_MAX_WAL_BYTES}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema to `HEAD`, all or nothing. Does not even import the migration tool if it is there already.

    Raises:
        StoreTooNew: the schema is from a newer version.
    """
    found = _revision(connection)
    if found == HEAD:
        return
    if found is not None and found not in REVISIONS:
        raise StoreTooNew(str(path), found, HEAD)
    from avalon_service.store.migrations.run import upgrade

    upgrade(connection, HEAD)


def _revision(connection: sqlite3.Connection) -> str | None:
    query = "SELECT count(*) FROM sqlite_schema WHERE name = 'alembic_version'"
    if not connection.execute(query).fetchone()[0]:
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise StoreUnavailable(
                "the database belongs to another program: name a file of the service's own"
            )
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row is not None else None
