"""What only the SQLite store of receipts promises: quick look-ups over many, numbers that are never used again, and an
upgrade of a database that had none."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from avalon_service.orders.errors import StoreUnavailable
from avalon_service.orders.ports import NewOrder
from avalon_service.store import database
from avalon_service.store.conformance import ManualClock
from avalon_service.store.migrations.run import upgrade
from avalon_service.store.receipt_conformance import receipt, update
from avalon_service.store.sqlite import SqliteStore
from avalon_service.store.sqlite_receipts import _INDICES

MANY = 100_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "avalon.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, clock=ManualClock())
    yield store
    await store.close()


def fill(path: Path, number: int) -> None:
    """Receipts of one worker and service, half of them of one requester, one in a thousand pending."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO receipts (work_order_id, worker_service_id, worker_id, requester_id, create_status,"
            " request_hash, nonce, signature, signature_rules, verification_key, status, created_at, updated_at,"
            " awaits) SELECT printf('%064x', i), printf('%064x', 1), printf('%064x', 2),"
            " printf('%064x', CASE WHEN i % 2 THEN 3 ELSE i END), 0, hex(zeroblob(22)), hex(zeroblob(16)),"
            " hex(zeroblob(48)), 'SHA-256/SECP256K1', hex(zeroblob(90)), CASE WHEN i % 1000 THEN 2 ELSE 0 END,"
            " 1, 1, 0 FROM n",
            (number,),
        )
    connection.close()


QUICK = {
    "everything": ({}, MANY),
    "one worker": ({"worker_id": f"{2:064x}"}, MANY),
    "one service": ({"worker_service_id": f"{1:064x}"}, MANY),
    "a busy requester": ({"requester_id": f"{3:064x}"}, MANY // 2),
    "a rare requester": ({"requester_id": f"{4:064x}"}, 1),
    "what is pending": ({"status": 0}, MANY // 1000),
    "what is pending of one worker": ({"status": 0, "worker_id": f"{2:064x}"}, MANY // 1000),
    "what is processed of one worker": ({"status": 2, "worker_id": f"{2:064x}"}, MANY - MANY // 1000),
}


async def test_look_ups_among_many_receipts_are_exact(store: SqliteStore, path: Path) -> None:
    """That they are quick as well is told by their plan, below; a clock would tell how busy the machine is."""
    fill(path, MANY)
    for sentence, (criteria, total) in QUICK.items():
        page = await store.receipts.look_up(**criteria)  # type: ignore[arg-type]
        assert (page.total, len(page.ids)) == (total, min(total, 100)), sentence
        if page.tag:
            following = await store.receipts.look_up(tag=page.tag, **criteria)  # type: ignore[arg-type]
            assert not set(following.ids) & set(page.ids), sentence


@pytest.mark.parametrize("column", [column for column, _ in _INDICES])
async def test_counting_and_paging_read_an_index_in_its_order(
    store: SqliteStore, path: Path, column: str
) -> None:
    index = dict(_INDICES)[column]
    connection = sqlite3.connect(path)
    for query in ("count(*)", "number, work_order_id"):
        plan = connection.execute(
            f"EXPLAIN QUERY PLAN SELECT {query} FROM receipts INDEXED BY {index} WHERE number > 5 AND {column} = 1"
            " ORDER BY number LIMIT 100"
        ).fetchall()
        text = " ".join(row[3] for row in plan)
        assert f"INDEX {index} ({column}=? AND number>?)" in text
        assert "TEMP B-TREE" not in text
    connection.close()


async def test_a_look_up_goes_on_after_a_purge_of_the_last_receipts(store: SqliteStore) -> None:
    for name in "abc":
        await store.receipts.create(receipt(name))
    page = await store.receipts.look_up(limit=2)
    assert await store.receipts.purge(older_than=2_000_000) == 3
    for name in "de":
        await store.receipts.create(receipt(name))
    assert (await store.receipts.look_up(limit=2, tag=page.tag)).ids == ("d", "e")


async def test_a_database_without_receipts_is_upgraded(path: Path) -> None:
    connection = database.connect(path)
    upgrade(connection, "0001")
    connection.close()
    store = await SqliteStore.open(path)
    await store.orders.submit(NewOrder(work_order_id="a", worker_id="w", requester_id="r", request=b"{}"))
    await store.receipts.create(receipt("a"))
    await store.receipts.update(update("a", 2))
    await store.close()
    store = await SqliteStore.open(path)
    assert (await store.receipts.retrieve("a")).status == 2
    await store.close()


async def test_a_full_disk_refuses_and_changes_nothing(store: SqliteStore) -> None:
    await store.receipts.create(receipt("a"))
    connection = store._committer._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailable):
        await store.receipts.update(update("a", data="x" * 100_000), settles=True)
    assert store.receipts.awaits("a")
    connection.execute("PRAGMA max_page_count = 1073741823")
    await store.receipts.update(update("a", data="x" * 100_000), settles=True)
    assert not store.receipts.awaits("a")
