"""Statements for many rows.

SQLite gives the interpreter's lock away and takes it back once a statement, so a statement for many rows costs the
event loop, and the committer itself, far less than as many statements.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

_T = TypeVar("_T")

_MAX_ROWS = 64
"""Rows in one statement."""


@functools.cache
def values(width: int, rows: int) -> str:
    """Placeholders: a list of so many rows, or of one for ``IN``."""
    row = f"({', '.join('?' * width)})"
    return ", ".join([row] * rows)


def insert(
    connection: sqlite3.Connection,
    head: str,
    rows: Sequence[tuple[Any, ...]],
    *,
    on_conflict: str = " ON CONFLICT DO NOTHING",
) -> int:
    """Insert rows, many to a statement; return how many went in."""
    inserted = 0
    for piece in pieces(rows):
        statement = f"{head} VALUES {values(len(piece[0]), len(piece))}{on_conflict}"
        inserted += connection.execute(statement, [value for row in piece for value in row]).rowcount
    return inserted


def delete(connection: sqlite3.Connection, head: str, keys: Sequence[Any]) -> None:
    """Delete by key, many to a statement. ``head`` ends with the key's column."""
    for piece in pieces(keys):
        connection.execute(f"{head} IN {values(len(piece), 1)}", piece)


def pieces(rows: Sequence[_T]) -> Iterable[Sequence[_T]]:
    """Pieces whose lengths are powers of two, so that few different statements are compiled, and kept."""
    start = 0
    while left := len(rows) - start:
        length = min(_MAX_ROWS, 1 << (left.bit_length() - 1))
        yield rows[start : start + length]
        start += length
