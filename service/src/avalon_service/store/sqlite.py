"""The embedded store: one SQLite database, one process, durable before anything is acknowledged.

Writes go through a `Committer` in groups; reads of what is finished use a connection and a thread of their own, so that
nothing here ever keeps the event loop waiting for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import msgspec

from avalon_service.orders.errors import StoreClosed, StoreUnavailable, UnknownWorker
from avalon_service.orders.ports import LookUpPage, WorkerEntry
from avalon_service.orders.state import Order, OrderFailure, OrderState
from avalon_service.store.bodies import Bodies, open_folder
from avalon_service.store.committer import Committer, Work, unavailable
from avalon_service.store.database import DatabaseLock, connect, migrate
from avalon_service.store.directory import Directory
from avalon_service.store.identities import Identities, identity_of
from avalon_service.store.journal import Acceptance, Change, Conflict, Purged
from avalon_service.store.limits import Limits
from avalon_service.store.orders import BookedOrders
from avalon_service.store.sqlite_deliveries import SqliteDeliveries
from avalon_service.store.sqlite_receipts import SqliteReceipts, load_awaiting
from avalon_service.store.statements import delete, insert, pieces, values

_T = TypeVar("_T")
Row = tuple[Any, ...]

_PURGE_ROWS = 500
"""Orders removed in one transaction: longer ones would keep submissions waiting."""


class SqliteStore:
    """Orders and workers in one SQLite database; made by `open`, inside the event loop that will use it."""

    def __init__(
        self, lock: DatabaseLock, opened: _Opened, *, clock: Callable[[], float], limits: Limits
    ) -> None:
        self._lock = lock
        identities = Identities(opened.arrivals)
        self._committer = Committer(opened.writer, functools.partial(_write, identities), identities.ended)
        self._reader = _Reader(opened.reader)
        self._journal = SqliteJournal(
            self._committer, self._reader, identities, opened, Bodies(opened.bodies), stowed=limits.stowed
        )
        self.orders = BookedOrders(self._journal, clock=clock, limits=limits)
        self._committer.crowd = self.orders.open_count
        self.workers = SqliteWorkers(self._committer, opened.workers)
        self.deliveries = SqliteDeliveries(
            write=functools.partial(_put, self._committer), read=self._reader.read
        )
        self._receipts_reader = _Reader(opened.receipts_reader)
        self.receipts = SqliteReceipts(
            write=functools.partial(_put, self._committer),
            read=self._receipts_reader.read,
            awaiting=opened.awaiting,
            clock=clock,
        )
        self._closed = False

    @classmethod
    async def open(
        cls, path: Path | str, *, clock: Callable[[], float] = time.time, limits: Limits | None = None
    ) -> SqliteStore:
        """Open a database, creating it if there is none, and schedule again what was not final.

        Raises:
            StoreInUse: another process (or store) has it open.
            StoreTooNew: a newer version wrote it.
            StoreUnavailable: it cannot be read or written.
        """
        limits = limits or Limits()
        lock, opened = await asyncio.to_thread(_open, Path(path), limits)
        return cls(lock, opened, clock=clock, limits=limits)

    async def close(self) -> None:
        """Write what is on its way, then free the database for another process."""
        if self._closed:
            return
        self._closed = True
        await self.orders.close()
        await self.receipts.close()
        await self._journal.close()
        await self._committer.close()
        await self._reader.close()
        await self._receipts_reader.close()
        self._lock.release()


class SqliteJournal:
    """A `Journal` in SQLite, with large bodies in files."""

    def __init__(
        self,
        committer: Committer,
        reader: _Reader,
        identities: Identities,
        opened: _Opened,
        bodies: Bodies,
        *,
        stowed: int,
    ) -> None:
        """``stowed``: bytes from which on a body is a file."""
        self.epoch = opened.epoch
        self._committer = committer
        self._reader = reader
        self._library = _Library(identities, bodies)
        self._bodies = bodies
        self._stowed = stowed
        self._stowing: set[asyncio.Task[None]] = set()
        self._open_orders = opened.orders
        self._finished_counts = opened.finished

    def open_orders(self) -> list[tuple[Order, bytes | None, int]]:
        """See `Journal.open_orders`; as they were when the database was opened, and given out once."""
        orders, self._open_orders = self._open_orders, []
        return orders

    def finished_counts(self) -> dict[OrderState, int]:
        """See `Journal.finished_counts`; as they were when the database was opened."""
        return self._finished_counts

    def stows(self, request: bytes) -> bool:
        """See `Journal.stows`."""
        return len(request) >= self._stowed

    async def stow(self, request: bytes) -> str:
        """See `Journal.stow`: the name of its file."""
        return await self._bodies.write(request)

    def drop(self, stowed: str) -> None:
        """See `Journal.drop`."""
        self._bodies.remove([stowed])

    def accept(self, acceptance: Acceptance) -> None:
        """See `Journal.accept`."""
        self._committer.put(acceptance)

    def change(self, change: Change) -> None:
        """See `Journal.change`."""
        result = change.order.result
        if result is None or len(result) < self._stowed:
            self._committer.put(change)
            return
        self._committer.check_open()
        task = asyncio.get_running_loop().create_task(self._stow_result(change, result))
        self._stowing.add(task)
        task.add_done_callback(self._stowing.discard)

    async def _stow_result(self, change: Change, result: bytes) -> None:
        try:
            change.stowed = await self._bodies.write(result)
            self._committer.put(change)
        except Exception as error:  # noqa: BLE001 (whoever waits must learn of it)
            change.settle(error if isinstance(error, StoreUnavailable) else unavailable(error))

    async def finished(self, work_order_id: str) -> Order | None:
        """See `Journal.finished`."""
        return await self._reader.read(self._library.finished, work_order_id)

    async def request(self, work_order_id: str) -> bytes | None:
        """See `Journal.request`."""
        return await self._reader.read(self._library.request, work_order_id)

    async def purge(
        self, *, older_than: float, surplus: int, spare: frozenset[str], now: float, forget_before: float
    ) -> Purged:
        """See `Journal.purge`."""
        purge = functools.partial(
            _purge,
            self._library.identities,
            older_than=older_than,
            surplus=surplus,
            spare=spare,
            now=now,
            forget_before=forget_before,
        )
        purged, _ = await _put(self._committer, purge, then=lambda gone: self._bodies.remove(gone[1]))
        return purged

    async def close(self) -> None:
        """Let go of the files, when what is on its way to them is there. The committer is closed after it."""
        while self._stowing:
            await asyncio.wait(self._stowing)
        await self._bodies.close()


class SqliteWorkers:
    """A `WorkerDirectory` in SQLite; read from memory."""

    def __init__(self, committer: Committer, entries: Iterable[tuple[int, WorkerEntry]]) -> None:
        self._committer = committer
        self._directory = Directory()
        for number, entry in entries:
            self._directory.put(number, entry)

    async def register(self, entry: WorkerEntry, *, keep_status: bool = False) -> None:
        """See `WorkerDirectory.register`."""
        await self._change(functools.partial(_register, entry=entry, keep_status=keep_status))

    async def update(self, worker_id: str, details: bytes) -> None:
        """See `WorkerDirectory.update`."""
        await self._change(functools.partial(_update, worker_id=worker_id, column="details", value=details))

    async def set_status(self, worker_id: str, status: int) -> None:
        """See `WorkerDirectory.set_status`."""
        msgspec.structs.replace(
            self._directory.retrieve(worker_id), status=status
        )  # refuses what is no status
        await self._change(functools.partial(_update, worker_id=worker_id, column="status", value=status))

    async def retrieve(self, worker_id: str) -> WorkerEntry:
        """See `WorkerDirectory.retrieve`."""
        self._committer.check_open()
        return self._directory.retrieve(worker_id)

    async def look_up(
        self,
        *,
        worker_type: int = 0,
        organization_id: str | None = None,
        application_type_ids: Sequence[str] | None = None,
        tag: str = "",
        limit: int = 100,
    ) -> LookUpPage:
        """See `WorkerDirectory.look_up`."""
        self._committer.check_open()
        return self._directory.look_up(
            worker_type=worker_type,
            organization_id=organization_id,
            application_type_ids=application_type_ids,
            tag=tag,
            limit=limit,
        )

    async def _change(self, run: Callable[[sqlite3.Connection], tuple[int, WorkerEntry]]) -> None:
        await _put(self._committer, run, then=lambda numbered: self._directory.put(*numbered))


# Reading


class _Reader:
    """A thread and a connection for reads, beside those for writes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="avalon-reader")

    async def read(self, query: Callable[[sqlite3.Connection, str], _T], key: str) -> _T:
        """Run a query in the reader's thread."""
        loop = asyncio.get_running_loop()
        try:
            answer = loop.run_in_executor(self._thread, query, self._connection, key)
        except RuntimeError as error:
            raise StoreClosed from error
        try:
            return await answer
        except (sqlite3.Error, OSError) as error:
            raise unavailable(error) from error

    async def close(self) -> None:
        """Let the last read end, then close the connection."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()


_DIGEST = "COALESCE(o.digest, sha256(o.request))"
"""Orders from before revision 0004 have none."""


class _Library:
    """Reads orders by id, in the reader's thread."""

    def __init__(self, identities: Identities, bodies: Bodies) -> None:
        self.identities = identities
        self._bodies = bodies

    def finished(self, connection: sqlite3.Connection, work_order_id: str) -> Order | None:
        """See `Journal.finished`."""
        row = connection.execute(
            f"SELECT o.work_order_id, o.worker_id, o.requester_id, {_DIGEST}, o.sequence, o.accepted_at,"  # noqa: S608 (constants)
            " o.deadline, f.state, f.attempts, f.crashes, f.finished_at, f.result, f.code, f.message"
            " FROM orders o JOIN outcomes f ON f.sequence = o.sequence"
            " WHERE o.sequence = ? AND o.work_order_id = ?",
            (self.identities.find(connection, work_order_id), work_order_id),
        ).fetchone()
        if row is None:
            return None
        *_, result, code, message = row
        name = _name_of(connection, row[4], "result") if result is None else None
        if name is not None:
            result = self._bodies.read(name)
            if result is None:
                raise StoreUnavailable("the file of this order's result is missing")
        return Order(
            work_order_id=row[0],
            worker_id=row[1],
            requester_id=row[2],
            digest=row[3],
            sequence=row[4],
            accepted_at=row[5],
            deadline=row[6],
            state=OrderState(row[7]),
            attempts=row[8],
            crashes=row[9],
            finished_at=row[10],
            result=result,
            error=None if code is None else OrderFailure(code=code, message=message),
        )

    def request(self, connection: sqlite3.Connection, work_order_id: str) -> bytes | None:
        """See `Journal.request`."""
        row = connection.execute(
            "SELECT sequence, request FROM orders WHERE sequence = ? AND work_order_id = ?",
            (self.identities.find(connection, work_order_id), work_order_id),
        ).fetchone()
        if row is None:
            return None
        sequence, request = row
        if request:
            return cast("bytes", request)
        name = _name_of(connection, sequence, "request")
        return self._bodies.read(name) if name is not None else b""


def _name_of(connection: sqlite3.Connection, sequence: int, kind: str) -> str | None:
    row = connection.execute(
        "SELECT name FROM bodies WHERE sequence = ? AND kind = ?", (sequence, kind)
    ).fetchone()
    return row[0] if row is not None else None


# Opening


class _Opened(msgspec.Struct, frozen=True, kw_only=True):
    writer: sqlite3.Connection
    reader: sqlite3.Connection
    receipts_reader: sqlite3.Connection
    epoch: int
    orders: list[tuple[Order, bytes | None, int]]
    finished: dict[OrderState, int]
    arrivals: list[tuple[int, bytes]]
    bodies: Path
    """The folder of large bodies."""
    workers: list[tuple[int, WorkerEntry]]
    awaiting: list[str]
    """Work orders whose receipts await their worker's word."""


def _open(path: Path, limits: Limits) -> tuple[DatabaseLock, _Opened]:
    try:
        lock = DatabaseLock(path)
    except OSError as error:
        raise StoreUnavailable(f"the database {path} cannot be opened: {error}") from error
    with contextlib.ExitStack() as undo:
        undo.callback(lock.release)
        try:
            writer = connect(path)
            undo.callback(writer.close)
            migrate(writer, path)
            epoch = writer.execute("UPDATE store SET epoch = epoch + 1 RETURNING epoch").fetchone()[0]
            reader = connect(path, read_only=True)
            undo.callback(reader.close)
            bodies = path.with_name(f"{path.name}.bodies")
            open_folder(bodies, {row[0] for row in reader.execute("SELECT name FROM bodies")})
            receipts_reader = connect(path, read_only=True)
            undo.callback(receipts_reader.close)
            opened = _Opened(
                writer=writer,
                reader=reader,
                receipts_reader=receipts_reader,
                epoch=epoch,
                orders=_load_orders(reader, limits),
                finished=_load_finished(reader),
                arrivals=reader.execute("SELECT sequence, identity FROM arrivals").fetchall(),
                bodies=bodies,
                workers=_load_workers(reader),
                awaiting=load_awaiting(reader),
            )
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"the database {path} cannot be opened: {error}") from error
        undo.pop_all()
    return lock, opened


def _load_orders(connection: sqlite3.Connection, limits: Limits) -> list[tuple[Order, bytes | None, int]]:
    rows = connection.execute(
        f"SELECT o.work_order_id, o.worker_id, o.requester_id, {_DIGEST}, o.sequence, o.accepted_at, o.deadline,"  # noqa: S608 (constants)
        " p.attempts, p.crashes, COALESCE(b.size, length(o.request)), b.name"
        " FROM pending p JOIN orders o ON o.sequence = p.sequence"
        " LEFT JOIN bodies b ON b.sequence = p.sequence AND b.kind = 'request' ORDER BY p.sequence"
    )
    orders: list[tuple[Order, bytes | None, int]] = []
    room = limits.kept_requests
    for row in rows:
        order = Order(
            work_order_id=row[0],
            worker_id=row[1],
            requester_id=row[2],
            digest=row[3],
            sequence=row[4],
            accepted_at=row[5],
            deadline=row[6],
            attempts=row[7],
            crashes=row[8],
        )
        size, name = row[9:]
        kept = name is None and size <= limits.kept_request and room > 0
        request = _load_request(connection, order.sequence) if kept else None
        room -= len(request or b"")
        orders.append((order, request, size))
    return orders


def _load_request(connection: sqlite3.Connection, sequence: int) -> bytes:
    row = connection.execute("SELECT request FROM orders WHERE sequence = ?", (sequence,)).fetchone()
    return cast("bytes", row[0])


def _load_finished(connection: sqlite3.Connection) -> dict[OrderState, int]:
    return {
        OrderState(name): number for name, number in connection.execute("SELECT state, number FROM tallies")
    }


_WORKER_COLUMNS = "number, worker_id, worker_type, organization_id, application_type_ids, details, status"


def _load_workers(connection: sqlite3.Connection) -> list[tuple[int, WorkerEntry]]:
    rows = connection.execute(f"SELECT {_WORKER_COLUMNS} FROM workers ORDER BY number")  # noqa: S608 (constant)
    return [_worker(row) for row in rows]


def _worker(row: Row) -> tuple[int, WorkerEntry]:
    return row[0], WorkerEntry(
        worker_id=row[1],
        worker_type=row[2],
        organization_id=row[3],
        application_type_ids=msgspec.json.decode(row[4], type=tuple[str, ...]),
        details=row[5],
        status=row[6],
    )


# Writing: everything below runs in the committer's thread, inside a transaction


class _Call(Generic[_T]):
    """A write with an answer."""

    def __init__(self, run: Callable[[sqlite3.Connection], _T], then: Callable[[_T], None] | None) -> None:
        self.run = run
        self.then = then
        self.answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self.value: _T | None = None

    def settle(self, trouble: Exception | None) -> None:
        if trouble is None and self.then is not None:
            self.then(cast("_T", self.value))
        if self.answer.done():
            return
        if trouble is None:
            self.answer.set_result(cast("_T", self.value))
        else:
            self.answer.set_exception(trouble)


async def _put(
    committer: Committer, run: Callable[[sqlite3.Connection], _T], then: Callable[[_T], None] | None = None
) -> _T:
    call = _Call(run, then)
    committer.put(call)
    return await call.answer


def _write(
    identities: Identities, connection: sqlite3.Connection, batch: Sequence[Work]
) -> Mapping[Work, object]:
    troubles: dict[Work, object] = {}
    acceptances = [work for work in batch if isinstance(work, Acceptance)]
    changes = [work for work in batch if isinstance(work, Change)]
    if acceptances:
        _write_acceptances(identities, connection, acceptances, troubles)
    if changes:
        _write_changes(connection, changes)
    if len(acceptances) + len(changes) < len(batch):
        for work in batch:
            if isinstance(work, _Call):
                try:
                    work.value = work.run(connection)
                except UnknownWorker as error:
                    troubles[work] = error
    return troubles


def _write_acceptances(
    identities: Identities,
    connection: sqlite3.Connection,
    acceptances: list[Acceptance],
    troubles: dict[Work, object],
) -> None:
    new: dict[bytes, Acceptance] = {}
    for acceptance in acceptances:
        first = new.setdefault(identity_of(acceptance.order.work_order_id), acceptance)
        if first is not acceptance:
            troubles[cast("Work", acceptance)] = Conflict(digest=first.order.digest, purged=False)
    for identity, sequence in identities.taken(connection, list(new)).items():
        troubles[cast("Work", new.pop(identity))] = _conflict(connection, sequence)
    orders = [
        (
            o.sequence, o.work_order_id, o.worker_id, o.requester_id, o.accepted_at, o.deadline,
            a.request if a.stowed is None else b"", o.digest
        )
        for a in new.values()
        for o in (a.order,)
    ]  # fmt: skip
    insert(
        connection,
        "INSERT INTO orders"
        " (sequence, work_order_id, worker_id, requester_id, accepted_at, deadline, request, digest)",
        orders,
        on_conflict="",
    )
    insert(connection, "INSERT INTO pending (sequence)", [(row[0],) for row in orders], on_conflict="")
    _name_bodies(connection, "request", new.values())
    identities.add(connection, [(row[0], identity) for row, identity in zip(orders, new, strict=True)])


def _name_bodies(connection: sqlite3.Connection, kind: str, written: Iterable[Acceptance | Change]) -> None:
    names = [
        (work.order.sequence, kind, work.stowed, len(work.body))
        for work in written
        if work.stowed is not None
    ]
    if names:
        insert(connection, "INSERT INTO bodies (sequence, kind, name, size)", names, on_conflict="")


def _conflict(connection: sqlite3.Connection, sequence: int) -> Conflict:
    row = connection.execute(f"SELECT {_DIGEST} FROM orders o WHERE sequence = ?", (sequence,)).fetchone()  # noqa: S608 (constants)
    return Conflict(digest=row[0] if row is not None else b"", purged=row is None)


def _write_changes(connection: sqlite3.Connection, changes: list[Change]) -> None:
    finals = []
    for change in changes:
        order = change.order
        if order.finished_at is not None:
            finals.append(change)
            continue
        connection.execute(
            "UPDATE pending SET attempts = ?, crashes = ? WHERE sequence = ?",
            (order.attempts, order.crashes, order.sequence),
        )
    insert(
        connection,
        "INSERT INTO outcomes (sequence, state, finished_at, attempts, crashes, code, message, result)",
        [_outcome(final) for final in finals],
        on_conflict="",
    )
    _name_bodies(connection, "result", finals)
    delete(connection, "DELETE FROM pending WHERE sequence", [final.order.sequence for final in finals])
    _tally(connection, Counter(final.order.state for final in finals), 1)


def _outcome(change: Change) -> Row:
    order = change.order
    error = order.error
    code, message = (None, None) if error is None else (error.code, error.message)
    state = order.state._value_
    return (
        order.sequence, state, order.finished_at, order.attempts, order.crashes, code, message,
        order.result if change.stowed is None else None,
    )  # fmt: skip


def _tally(connection: sqlite3.Connection, states: Mapping[OrderState, int], sign: int) -> None:
    for state, number in states.items():
        connection.execute(
            "UPDATE tallies SET number = number + ? WHERE state = ?", (sign * number, state.value)
        )


def _purge(
    identities: Identities,
    connection: sqlite3.Connection,
    *,
    older_than: float,
    surplus: int,
    spare: frozenset[str],
    now: float,
    forget_before: float,
) -> tuple[Purged, list[str]]:
    """What was purged, and the files to remove once that is durable."""
    oldest = connection.execute(
        "SELECT f.sequence, o.work_order_id, f.state, f.finished_at FROM outcomes f"
        " JOIN orders o ON o.sequence = f.sequence ORDER BY f.finished_at, f.sequence LIMIT ?",
        (_PURGE_ROWS + len(spare),),
    ).fetchall()
    victims = [
        (sequence, work_order_id, OrderState(state))
        for place, (sequence, work_order_id, state, finished_at) in enumerate(oldest)
        if (place < surplus or finished_at < older_than) and work_order_id not in spare
    ]
    sequences = [sequence for sequence, _, _ in victims]
    delete(connection, "DELETE FROM orders WHERE sequence", sequences)
    delete(connection, "DELETE FROM outcomes WHERE sequence", sequences)
    files = [
        name
        for piece in pieces(sequences)
        for (name,) in connection.execute(
            f"DELETE FROM bodies WHERE sequence IN {values(len(piece), 1)} RETURNING name",  # noqa: S608 (constants)
            piece,
        ).fetchall()
    ]
    insert(
        connection,
        "INSERT INTO tombstones (purged_at, identity)",
        [(now, identity) for identity in sorted(identity_of(name) for _, name, _ in victims)],
    )
    _tally(connection, Counter(state for _, _, state in victims), -1)
    forgotten = connection.execute(
        "SELECT purged_at, identity FROM tombstones WHERE purged_at < ? ORDER BY purged_at, identity LIMIT ?",
        (forget_before, _PURGE_ROWS),
    ).fetchall()
    if forgotten:
        identities.forget(connection, [identity for _, identity in forgotten])
        connection.execute("DELETE FROM tombstones WHERE (purged_at, identity) <= (?, ?)", forgotten[-1])
    purged = Purged(
        states={work_order_id: state for _, work_order_id, state in victims},
        more=len(victims) >= _PURGE_ROWS or len(forgotten) >= _PURGE_ROWS,
    )
    return purged, files


def _register(
    connection: sqlite3.Connection, *, entry: WorkerEntry, keep_status: bool
) -> tuple[int, WorkerEntry]:
    row = connection.execute(
        "INSERT INTO workers (worker_id, worker_type, organization_id, application_type_ids, details, status)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (worker_id) DO UPDATE SET worker_type = excluded.worker_type,"
        " organization_id = excluded.organization_id, application_type_ids = excluded.application_type_ids,"
        " details = excluded.details, status = CASE WHEN ? THEN status ELSE excluded.status END"
        " RETURNING number, worker_id, worker_type, organization_id, application_type_ids, details, status",
        (
            entry.worker_id,
            entry.worker_type,
            entry.organization_id,
            msgspec.json.encode(entry.application_type_ids).decode(),
            entry.details,
            entry.status,
            keep_status,
        ),
    ).fetchone()
    return _worker(row)


def _update(
    connection: sqlite3.Connection, *, worker_id: str, column: str, value: bytes | int
) -> tuple[int, WorkerEntry]:
    row = connection.execute(
        f"UPDATE workers SET {column} = ? WHERE worker_id = ? RETURNING {_WORKER_COLUMNS}",  # noqa: S608 (constants)
        (value, worker_id),
    ).fetchone()
    if row is None:
        raise UnknownWorker(worker_id)
    return _worker(row)
