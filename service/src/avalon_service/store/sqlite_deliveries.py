"""Deliveries in SQLite, written in groups with the orders: see `sqlite`."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from avalon_service.deliveries.ports import Delivery, DeliveryCounts, DeliveryKind, DeliveryState, Id, Post

_T = TypeVar("_T")
Row = tuple[Any, ...]

_COLUMNS = (
    "number, work_order_id, kind, uri, call_id, state, planned_at, attempts, due_at, finished_at, last_error"
)
_PLAN = """
    INSERT INTO deliveries (work_order_id, kind, uri, call_id, planned_at, state, attempts, last_error)
    VALUES (?, ?, ?, ?, ?, 'pending', 0, '') ON CONFLICT DO NOTHING
    RETURNING number, work_order_id, kind, uri, call_id, state, planned_at, attempts, due_at, finished_at, last_error
"""
_PURGE_ROWS = 500
"""Deliveries removed in one transaction: longer ones would keep submissions waiting."""

_call_id_decoder = msgspec.json.Decoder(str | int | None)


class Write(Protocol):
    """Runs something in the committer's thread, inside a transaction; returns when it is durable."""

    def __call__(self, run: Callable[[sqlite3.Connection], _T], /) -> Awaitable[_T]:
        """Run it."""
        ...


class Read(Protocol):
    """Runs a query, with a text, in the reader's thread."""

    def __call__(self, query: Callable[[sqlite3.Connection, str], _T], key: str, /) -> Awaitable[_T]:
        """Run it."""
        ...


class SqliteDeliveries:
    """A `DeliveryStore` in SQLite."""

    def __init__(self, *, write: Write, read: Read) -> None:
        self._write = write
        self._read = read

    async def plan(
        self, work_order_id: str, posts: Sequence[Post], *, call_id: Id, now: float
    ) -> list[Delivery]:
        """See `DeliveryStore.plan`."""
        rows = [
            (work_order_id, post.kind.value, post.uri, msgspec.json.encode(call_id).decode(), now)
            for post in posts
        ]
        return [_delivery(row) for row in await self._write(functools.partial(_plan, rows=rows))]

    async def pending(self) -> list[Delivery]:
        """See `DeliveryStore.pending`."""
        return [_delivery(row) for row in await self._read(_read_pending, DeliveryState.PENDING.value)]

    async def postpone(self, number: int, *, attempts: int, due_at: float, error: str) -> None:
        """See `DeliveryStore.postpone`."""
        await self._write(functools.partial(_postpone, values=(attempts, due_at, error, number)))

    async def finish(
        self, number: int, state: DeliveryState, *, attempts: int, now: float, error: str = ""
    ) -> None:
        """See `DeliveryStore.finish`."""
        values = (state.value, attempts, now, error, number)
        await self._write(functools.partial(_finish, values=values))

    async def counts(self) -> DeliveryCounts:
        """See `DeliveryStore.counts`."""
        return DeliveryCounts(**await self._read(_read_counts, ""))

    async def page(self, state: DeliveryState, *, limit: int, before: int | None = None) -> list[Delivery]:
        """See `DeliveryStore.page`."""
        query = functools.partial(_read_page, limit=limit, before=before)
        return [_delivery(row) for row in await self._read(query, state.value)]

    async def purge(self, *, older_than: float, keep: int) -> int:
        """See `DeliveryStore.purge`."""
        number = 0
        while True:
            purged = await self._write(functools.partial(_purge, older_than=older_than, keep=keep))
            number += purged
            if purged < _PURGE_ROWS:
                return number


def _delivery(row: Row) -> Delivery:
    return Delivery(
        number=row[0],
        work_order_id=row[1],
        kind=DeliveryKind(row[2]),
        uri=row[3],
        call_id=_call_id_decoder.decode(row[4]),
        state=DeliveryState(row[5]),
        planned_at=row[6],
        attempts=row[7],
        due_at=row[8],
        finished_at=row[9],
        last_error=row[10],
    )


def _read_pending(connection: sqlite3.Connection, state: str) -> list[Row]:
    return connection.execute(
        f"SELECT {_COLUMNS} FROM deliveries WHERE state = ? ORDER BY number",  # noqa: S608 (constant)
        (state,),
    ).fetchall()


def _read_counts(connection: sqlite3.Connection, _: str) -> dict[str, int]:
    return dict(connection.execute("SELECT state, number FROM delivery_tallies").fetchall())


def _read_page(connection: sqlite3.Connection, state: str, *, limit: int, before: int | None) -> list[Row]:
    return connection.execute(
        f"SELECT {_COLUMNS} FROM deliveries WHERE state = ? AND (? IS NULL OR number < ?)"  # noqa: S608 (constant)
        " ORDER BY number DESC LIMIT ?",
        (state, before, before, limit),
    ).fetchall()


def _plan(connection: sqlite3.Connection, *, rows: Sequence[Row]) -> list[Row]:
    planned = []
    for row in rows:
        # RETURNING tells nothing of a row that was there before.
        planned += connection.execute(_PLAN, row).fetchall()
    _tally(connection, DeliveryState.PENDING, len(planned))
    return planned


def _postpone(connection: sqlite3.Connection, *, values: Row) -> None:
    connection.execute(
        "UPDATE deliveries SET attempts = ?, due_at = ?, last_error = ? WHERE number = ? AND state = 'pending'",
        values,
    )


def _finish(connection: sqlite3.Connection, *, values: Row) -> None:
    changed = connection.execute(
        "UPDATE deliveries SET state = ?, attempts = ?, due_at = NULL, finished_at = ?, last_error = ?"
        " WHERE number = ? AND state = 'pending'",
        values,
    ).rowcount
    _tally(connection, DeliveryState.PENDING, -changed)
    _tally(connection, DeliveryState(values[0]), changed)


def _purge(connection: sqlite3.Connection, *, older_than: float, keep: int) -> int:
    finished = connection.execute(
        "SELECT sum(number) FROM delivery_tallies WHERE state <> 'pending'"
    ).fetchone()[0]
    oldest = connection.execute(
        "SELECT number, finished_at, state FROM deliveries WHERE finished_at IS NOT NULL"
        " ORDER BY finished_at, number LIMIT ?",
        (_PURGE_ROWS,),
    ).fetchall()
    surplus = finished - keep
    purged = 0
    for place, (number, finished_at, state) in enumerate(oldest):
        if place < surplus or finished_at < older_than:
            connection.execute("DELETE FROM deliveries WHERE number = ?", (number,))
            _tally(connection, DeliveryState(state), -1)
            purged += 1
    return purged


def _tally(connection: sqlite3.Connection, state: DeliveryState, change: int) -> None:
    if change:
        connection.execute(
            "UPDATE delivery_tallies SET number = number + ? WHERE state = ?", (change, state.value)
        )
