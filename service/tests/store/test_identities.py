"""The index of ids at every point of its life, and databases from before it was so."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from avalon_service.orders.errors import DuplicateWorkOrder
from avalon_service.orders.ports import NewOrder, OrderState
from avalon_service.store import database, identities
from avalon_service.store.conformance import ManualClock
from avalon_service.store.identities import Identities, identity_of
from avalon_service.store.limits import Limits
from avalon_service.store.migrations.run import upgrade
from avalon_service.store.sqlite import SqliteStore


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = database.connect(tmp_path / "avalon.db")
    database.migrate(connection, tmp_path / "avalon.db")
    yield connection
    connection.close()


class Ids:
    """The index, used as a committer uses it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.reopen()

    def reopen(self) -> None:
        arrivals = self.connection.execute("SELECT sequence, identity FROM arrivals").fetchall()
        with patch.multiple(identities, _GENERATION=8, _SLICE=3):
            self.index = Identities(arrivals)

    def add(self, *numbers: int, durable: bool = True) -> None:
        self.connection.execute("BEGIN")
        self.index.add(self.connection, [(number, identity_of(f"{number}")) for number in numbers])
        self.end(durable=durable)

    def forget(self, *numbers: int, durable: bool = True) -> None:
        self.connection.execute("BEGIN")
        self.index.forget(self.connection, [identity_of(f"{number}") for number in numbers])
        self.end(durable=durable)

    def end(self, *, durable: bool) -> None:
        self.connection.execute("COMMIT" if durable else "ROLLBACK")
        self.index.ended(durable)

    def known(self, among: range) -> set[int]:
        found = {number for number in among if self.index.find(self.connection, f"{number}") == number}
        taken = self.index.taken(self.connection, [identity_of(f"{number}") for number in among])
        assert set(taken.values()) == found
        return found

    def count(self, table: str) -> int:
        return int(self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


ALL = range(1, 200)


def test_ids_are_known_wherever_they_are_on_their_way_into_the_index(connection: sqlite3.Connection) -> None:
    ids = Ids(connection)
    most = 0
    for number in ALL:
        ids.add(number)
        assert ids.known(ALL) == set(range(1, number + 1))
        most = max(most, ids.count("arrivals"))
    assert ids.count("identities") > 150
    assert most <= 20  # two generations and a slice: what a restart reads stays small


def test_what_was_rolled_back_was_never_there(connection: sqlite3.Connection) -> None:
    ids = Ids(connection)
    there = set()
    for number in ALL:
        durable = number % 3 != 0
        ids.add(number, durable=durable)
        there |= {number} if durable else set()
        assert ids.known(ALL) == there


def test_a_restart_in_the_midst_of_a_generation_loses_and_doubles_nothing(
    connection: sqlite3.Connection,
) -> None:
    ids = Ids(connection)
    for number in ALL:
        ids.add(number)
        if number % 7 == 0:
            ids.reopen()
        assert ids.known(ALL) == set(range(1, number + 1))


def test_forgotten_ids_are_free_wherever_they_were(connection: sqlite3.Connection) -> None:
    ids = Ids(connection)
    there: set[int] = set()
    for number in ALL:
        ids.add(number)
        there.add(number)
        for gone in (number - 30, number - 12, number - 4, number):
            if gone > 0 and gone % 5 == number % 5 == 0:
                ids.forget(gone, durable=False)
                assert ids.known(ALL) == there
                ids.forget(gone)
                there.discard(gone)
        assert ids.known(ALL) == there
    ids.reopen()
    assert ids.known(ALL) == there


def test_a_large_group_is_taken_at_once(connection: sqlite3.Connection) -> None:
    ids = Ids(connection)
    ids.add(*range(1, 120))
    ids.add(*range(120, 200))
    assert ids.known(ALL) == set(ALL)


def test_few_pages_are_written_however_many_ids_there_are(connection: sqlite3.Connection) -> None:
    """The point of it all: an id of a million costs no page of its own."""
    identities_before = [(identity_of(f"old {number}"), number) for number in range(100_000)]
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO identities VALUES (?, ?)", sorted(identities_before))
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    index = Identities([])
    for group in range(40):
        connection.execute("BEGIN")
        index.add(
            connection, [(number, identity_of(f"{number}")) for number in range(group * 32, group * 32 + 32)]
        )
        connection.execute("COMMIT")
        index.ended(True)
    _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    assert pages < 40 * 6  # at random places it would be 1,280 and more


# Databases of earlier versions


def make_old(path: Path) -> None:
    """A database as revision 0003 left it: an open order, a finished one, and a purged one."""
    connection = database.connect(path)
    upgrade(connection, "0003")
    for number, name in enumerate(("open", "done", "purged"), 1):
        purged_at = 900.0 if name == "purged" else None
        digest = NewOrder(work_order_id=name, worker_id="w", requester_id="r", request=name.encode()).digest
        connection.execute("INSERT INTO identities VALUES (?, ?, ?, ?)", (name, digest, number, purged_at))
        if name != "purged":
            connection.execute(
                "INSERT INTO orders VALUES (?, ?, 'w', 'r', 100.0, NULL, ?)", (number, name, name.encode())
            )
    connection.execute("INSERT INTO pending (sequence) VALUES (1)")
    connection.execute(
        "INSERT INTO outcomes VALUES (2, 'completed', 200.0, 1, 0, NULL, NULL, ?)", (b"result",)
    )
    connection.execute("UPDATE tallies SET number = 1 WHERE state = 'completed'")
    connection.close()


def new(name: str, request: bytes | None = None) -> NewOrder:
    return NewOrder(
        work_order_id=name,
        worker_id="w",
        requester_id="r",
        request=name.encode() if request is None else request,
    )


async def test_orders_of_an_older_database_are_what_they_were(tmp_path: Path) -> None:
    path, clock = tmp_path / "avalon.db", ManualClock()
    clock.now = 1000.0
    make_old(path)
    for _ in range(2):  # the second time it is migrated already
        store = await SqliteStore.open(path, clock=clock, limits=Limits(tombstone_horizon=500.0))
        done = await store.orders.get("done")
        assert done is not None
        assert (done.state, done.result) == (OrderState.COMPLETED, b"result")
        assert await store.orders.request_of("done") == b"done"
        for name in ("open", "done"):
            assert not (await store.orders.submit(new(name))).fresh
            with pytest.raises(DuplicateWorkOrder):
                await store.orders.submit(new(name, b"other"))
        with pytest.raises(DuplicateWorkOrder, match="removed"):
            await store.orders.submit(new("purged"))
        (claim,) = await store.orders.claim("w", limit=9, lease=30.0)
        assert (claim.work_order_id, claim.request) == ("open", b"open")
        await store.close()
    clock.now = 1401.0
    store = await SqliteStore.open(path, clock=clock, limits=Limits(tombstone_horizon=500.0))
    assert await store.orders.purge(older_than=0, keep=9) == 0
    assert (await store.orders.submit(new("purged"))).fresh
    await store.close()


def test_several_revisions_are_applied_together_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "avalon.db"
    make_old(path)
    connection = database.connect(path)
    connection.execute("CREATE TABLE bodies (already_there)")
    before = connection.execute("SELECT * FROM sqlite_schema").fetchall()
    with pytest.raises(Exception, match="already exists"):
        database.migrate(connection, path)
    assert connection.execute("SELECT * FROM sqlite_schema").fetchall() == before
    assert connection.execute("SELECT count(*) FROM identities").fetchone() == (3,)
    connection.execute("DROP TABLE bodies")
    database.migrate(connection, path)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(database.HEAD,)]
    connection.close()
