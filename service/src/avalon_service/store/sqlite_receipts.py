"""Receipts in SQLite: written through the store's committer in groups, read in a thread and connection of their own, so
that a look-up over very many of them keeps nobody else waiting."""

from __future__ import annotations

import functools
import hashlib
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from msgspec.structs import asdict

from avalon_core.protocol.encodings import encode_fields
from avalon_core.protocol.errors import GeneralError
from avalon_core.protocol.receipts import status_after
from avalon_service.orders.errors import (
    EndOfLookUp,
    ReceiptError,
    ReceiptExists,
    ReceiptFull,
    ReceiptUpdateRefused,
    StoreClosed,
    UnknownReceipt,
    UnknownReceiptUpdate,
)
from avalon_service.orders.ports import LookUpPage
from avalon_service.orders.receipt_ports import (
    Awaiting,
    FoundUpdate,
    NewReceipt,
    NewReceiptUpdate,
    Receipt,
    ReceiptUpdate,
)
from avalon_service.store.receipt_tags import ReceiptTag, read_tag

_T = TypeVar("_T")

_PURGE_ROWS = 500
"""Receipts removed in one transaction: longer ones would keep submissions waiting."""

_CREATED = (
    "work_order_id, worker_service_id, worker_id, requester_id, create_status, request_hash, nonce, signature,"
    " signature_rules, verification_key"
)
_RECEIPT = f"{_CREATED}, status, update_count, created_at, updated_at"
_UPDATE = "updater_id, update_type, update_data, signature, signature_rules, verification_key, position, at"
_RECEIPT_NAMES = tuple(_RECEIPT.split(", "))
_UPDATE_NAMES = tuple(_UPDATE.split(", "))

_INDICES = (
    ("requester_id", "receipts_by_requester"),
    ("status", "receipts_by_status"),
    ("worker_service_id", "receipts_by_service"),
    ("worker_id", "receipts_by_worker"),
)
"""Which index a look-up goes by, the most selective criterion first. Left to itself SQLite would guess."""


class Write(Protocol):
    """Runs a write in the committer's thread; returns once it is durable."""

    async def __call__(
        self, run: Callable[[sqlite3.Connection], _T], then: Callable[[_T], None] | None = None
    ) -> _T:
        """``then`` gets the answer in the event loop before anybody else does anything there."""
        ...


class Read(Protocol):
    """Runs a query in a thread for reads."""

    async def __call__(self, query: Callable[[sqlite3.Connection, str], _T], key: str) -> _T:
        """Gives the query its key."""
        ...


class SqliteReceipts:
    """A `ReceiptStore` in SQLite. Its connections are opened and closed by whoever makes it."""

    def __init__(
        self, *, write: Write, read: Read, awaiting: Iterable[str], clock: Callable[[], float]
    ) -> None:
        self._write = write
        self._read = read
        self._awaiting = set(awaiting)
        self._clock = clock
        self._closed = False

    async def create(self, new: NewReceipt) -> Receipt:
        """See `ReceiptStore.create`."""
        self._check_open()

        def note(receipt: Receipt | None) -> None:
            if receipt is not None:
                self._awaiting.add(receipt.work_order_id)

        receipt = await self._write(functools.partial(_create, new=new, now=self._clock()), note)
        if receipt is None:
            raise ReceiptExists(new.work_order_id)
        return receipt

    async def update(
        self, new: NewReceiptUpdate, *, room: int | None = None, settles: bool = False
    ) -> ReceiptUpdate:
        """See `ReceiptStore.update`."""
        self._check_open()

        def note(_: object) -> None:
            if settles:
                self._awaiting.discard(new.work_order_id)

        run = functools.partial(_update, new=new, room=room, settles=settles, now=self._clock())
        answer = await self._write(run, note)
        if isinstance(answer, ReceiptError):
            raise answer
        return answer

    async def settle(self, work_order_id: str) -> None:
        """See `ReceiptStore.settle`."""
        self._check_open()

        def note(_: object) -> None:
            self._awaiting.discard(work_order_id)

        await self._write(functools.partial(_settle, work_order_id=work_order_id), note)

    def awaits(self, work_order_id: str) -> bool:
        """See `ReceiptStore.awaits`."""
        return work_order_id in self._awaiting

    async def awaiting(self, worker_id: str, *, tag: str = "", limit: int = 100) -> Awaiting:
        """See `ReceiptStore.awaiting`."""
        return await self._ask(
            functools.partial(_read_awaiting, worker_id=worker_id, after=int(tag or 0), limit=limit)
        )

    async def retrieve(self, work_order_id: str) -> Receipt:
        """See `ReceiptStore.retrieve`."""
        receipt = await self._ask(functools.partial(_read_receipt, work_order_id=work_order_id))
        if receipt is None:
            raise UnknownReceipt(work_order_id)
        return receipt

    async def retrieve_update(
        self, work_order_id: str, index: int | None, *, updater_id: str | None = None
    ) -> FoundUpdate:
        """See `ReceiptStore.retrieve_update`."""
        query = functools.partial(
            _read_update, work_order_id=work_order_id, index=index, updater_id=updater_id
        )
        answer = await self._ask(query)
        if isinstance(answer, ReceiptError):
            raise answer
        return answer

    async def look_up(
        self,
        *,
        worker_service_id: str | None = None,
        worker_id: str | None = None,
        requester_id: str | None = None,
        status: int | None = None,
        tag: str = "",
        limit: int = 100,
    ) -> LookUpPage:
        """See `ReceiptStore.look_up`."""
        start = read_tag(tag)
        criteria = {
            "worker_service_id": worker_service_id,
            "worker_id": worker_id,
            "requester_id": requester_id,
            "status": status,
        }
        page = await self._ask(
            functools.partial(_look_up, criteria=criteria, start=start, limit=max(1, limit))
        )
        if start is not None and not page.ids:
            raise EndOfLookUp
        return page

    async def purge(self, *, older_than: float) -> int:
        """See `ReceiptStore.purge`."""
        self._check_open()
        number = 0
        while True:
            purged = await self._write(
                functools.partial(_purge, older_than=older_than), self._awaiting.difference_update
            )
            number += len(purged)
            if len(purged) < _PURGE_ROWS:
                return number

    async def close(self) -> None:
        """See `ReceiptStore.close`."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed

    async def _ask(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        self._check_open()
        return await self._read(lambda connection, _: query(connection), "")


def load_awaiting(connection: sqlite3.Connection) -> list[str]:
    """The work orders whose receipts await their worker's word, when the store is opened."""
    return [row[0] for row in connection.execute("SELECT work_order_id FROM receipts WHERE awaits")]


# Writing: in the committer's thread, inside a transaction. What is refused is returned: raised, it would undo the batch.


def _create(connection: sqlite3.Connection, *, new: NewReceipt, now: float) -> Receipt | None:
    receipt = Receipt(**asdict(new), status=new.create_status, created_at=now, updated_at=now)
    inserted = connection.execute(
        f"INSERT INTO receipts ({_RECEIPT}) VALUES ({', '.join('?' * len(_RECEIPT_NAMES))})"  # noqa: S608 (constants)
        " ON CONFLICT (work_order_id) DO NOTHING",
        [getattr(receipt, name) for name in _RECEIPT_NAMES],
    ).rowcount
    return receipt if inserted else None


def _update(
    connection: sqlite3.Connection, *, new: NewReceiptUpdate, room: int | None, settles: bool, now: float
) -> ReceiptUpdate | ReceiptError:
    if settles:
        _settle(connection, work_order_id=new.work_order_id)
    row = connection.execute(
        "SELECT number, status, update_count, updated_at FROM receipts WHERE work_order_id = ?",
        (new.work_order_id,),
    ).fetchone()
    if row is None:
        return UnknownReceipt(new.work_order_id)
    number, status, count, updated_at = row
    digest = _digest(new)
    known = connection.execute(
        f"SELECT {_UPDATE} FROM receipt_updates WHERE receipt = ? AND digest = ?",  # noqa: S608 (constants)
        (number, digest),
    ).fetchone()
    if known is not None:
        return _to_update(new.work_order_id, known)
    try:
        status = status_after(status, new.update_type)
    except GeneralError as exc:
        return ReceiptUpdateRefused(new.work_order_id, exc.message)
    if room is not None and count >= room:
        return ReceiptFull(new.work_order_id)
    update = ReceiptUpdate(**asdict(new), position=count + 1, at=max(now, updated_at))
    connection.execute(
        f"INSERT INTO receipt_updates (receipt, digest, {_UPDATE})"  # noqa: S608 (constants)
        f" VALUES ({', '.join('?' * (len(_UPDATE_NAMES) + 2))})",
        [number, digest, *(getattr(update, name) for name in _UPDATE_NAMES)],
    )
    connection.execute(
        "UPDATE receipts SET status = ?, update_count = ?, updated_at = ? WHERE number = ?",
        (status, update.position, update.at, number),
    )
    return update


def _digest(new: NewReceiptUpdate) -> bytes:
    return hashlib.sha256(encode_fields(new.updater_id, str(new.update_type), new.update_data)).digest()


def _settle(connection: sqlite3.Connection, *, work_order_id: str) -> None:
    connection.execute("UPDATE receipts SET awaits = 0 WHERE work_order_id = ? AND awaits", (work_order_id,))


def _purge(connection: sqlite3.Connection, *, older_than: float) -> list[str]:
    victims = connection.execute(
        "SELECT number, work_order_id FROM receipts WHERE updated_at < ? ORDER BY updated_at LIMIT ?",
        (older_than, _PURGE_ROWS),
    ).fetchall()
    for number, _ in victims:
        connection.execute("DELETE FROM receipt_updates WHERE receipt = ?", (number,))
        connection.execute("DELETE FROM receipts WHERE number = ?", (number,))
    return [work_order_id for _, work_order_id in victims]


# Reading


def _read_receipt(connection: sqlite3.Connection, *, work_order_id: str) -> Receipt | None:
    row = connection.execute(
        f"SELECT {_RECEIPT} FROM receipts WHERE work_order_id = ?",  # noqa: S608 (constants)
        (work_order_id,),
    ).fetchone()
    return Receipt(**dict(zip(_RECEIPT_NAMES, row, strict=True))) if row is not None else None


def _read_update(
    connection: sqlite3.Connection, *, work_order_id: str, index: int | None, updater_id: str | None
) -> FoundUpdate | ReceiptError:
    found = connection.execute(
        "SELECT number FROM receipts WHERE work_order_id = ?", (work_order_id,)
    ).fetchone()
    if found is None:
        return UnknownReceipt(work_order_id)
    where, values = "receipt = ?", [found[0]]
    if updater_id is not None:
        where, values = f"{where} AND updater_id = ?", [*values, updater_id]
    count = connection.execute(
        f"SELECT count(*) FROM receipt_updates WHERE {where}",  # noqa: S608 (constants)
        values,
    ).fetchone()[0]
    place = count if index is None else index
    if not 1 <= place <= count:
        return UnknownReceiptUpdate(work_order_id, count)
    row = connection.execute(
        f"SELECT {_UPDATE} FROM receipt_updates WHERE {where} ORDER BY position LIMIT 1 OFFSET ?",  # noqa: S608 (constants)
        [*values, place - 1],
    ).fetchone()
    return FoundUpdate(update=_to_update(work_order_id, row), count=count)


def _read_awaiting(connection: sqlite3.Connection, *, worker_id: str, after: int, limit: int) -> Awaiting:
    rows = connection.execute(
        "SELECT number, work_order_id FROM receipts WHERE awaits AND worker_id = ? AND number > ?"
        " ORDER BY number LIMIT ?",
        (worker_id, after, limit + 1),
    ).fetchall()
    page = rows[:limit]
    return Awaiting(
        work_order_ids=tuple(row[1] for row in page), tag=str(page[-1][0]) if len(rows) > limit else ""
    )


def _look_up(
    connection: sqlite3.Connection,
    *,
    criteria: dict[str, str | int | None],
    start: ReceiptTag | None,
    limit: int,
) -> LookUpPage:
    given = {column: value for column, value in criteria.items() if value is not None}
    index = next((f" INDEXED BY {name}" for column, name in _INDICES if column in given), "")
    matches = " AND ".join(f"{column} = ?" for column in given) or "TRUE"
    total = start.total if start is not None else _count(connection, index, matches, given)
    after = start.after if start is not None else 0
    rows = connection.execute(
        f"SELECT number, work_order_id FROM receipts{index} WHERE {matches} AND number > ?"  # noqa: S608 (constants)
        " ORDER BY number LIMIT ?",
        [*given.values(), after, limit + 1],
    ).fetchall()
    page = rows[:limit]
    return LookUpPage(
        total=total,
        tag=str(ReceiptTag(page[-1][0], total)) if len(rows) > limit else "",
        ids=tuple(row[1] for row in page),
    )


def _count(connection: sqlite3.Connection, index: str, matches: str, given: dict[str, str | int]) -> int:
    query = f"SELECT count(*) FROM receipts{index} WHERE {matches}"  # noqa: S608 (constants)
    found: int = connection.execute(query, [*given.values()]).fetchone()[0]
    return found


def _to_update(work_order_id: str, row: tuple[Any, ...]) -> ReceiptUpdate:
    return ReceiptUpdate(work_order_id=work_order_id, **dict(zip(_UPDATE_NAMES, row, strict=True)))
