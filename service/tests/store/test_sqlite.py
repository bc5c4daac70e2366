"""What only the SQLite store promises: durability, one process, migrations, and life after a full disk."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from avalon_service.orders.errors import DuplicateWorkOrder, StoreInUse, StoreTooNew, StoreUnavailable
from avalon_service.orders.ports import NewOrder, OrderFailure, OrderState
from avalon_service.store import database
from avalon_service.store.conformance import ManualClock
from avalon_service.store.limits import Limits
from avalon_service.store.migrations.run import config
from avalon_service.store.sqlite import SqliteStore

LIMITS = Limits(kept_request=64, recent_bytes=8192, max_crashes=2)
WITHDRAWN = OrderFailure(code=1, message="withdrawn")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "avalon.db"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(path: Path, clock: ManualClock) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, clock=clock, limits=LIMITS)
    yield store
    await store.close()


def order(name: str, request: bytes = b"{}", deadline: float | None = None) -> NewOrder:
    return NewOrder(work_order_id=name, worker_id="w", requester_id="r", request=request, deadline=deadline)


class FullDisk:
    """No page can be added to the database while this lasts."""

    def __init__(self, store: SqliteStore) -> None:
        self.connection = store._committer._connection

    def __enter__(self) -> None:
        # Free pages would let small writes succeed: there are none in a database to which only ever was added.
        pages = self.connection.execute("PRAGMA page_count").fetchone()[0]
        self.connection.execute(f"PRAGMA max_page_count = {pages}")

    def __exit__(self, *_: object) -> None:
        self.connection.execute("PRAGMA max_page_count = 1073741823")


BIG = bytes(200_000)


async def test_a_submission_that_finds_the_disk_full_is_refused_and_may_be_repeated(
    store: SqliteStore,
) -> None:
    with FullDisk(store), pytest.raises(StoreUnavailable, match="full"):
        await store.orders.submit(order("a", BIG))
    assert await store.orders.get("a") is None
    assert (await store.orders.counts()).open == 0
    assert (await store.orders.submit(order("a", BIG))).fresh
    assert (await store.orders.claim("w", limit=1, lease=1.0))[0].request == BIG


async def test_a_completion_that_finds_the_disk_full_leaves_the_claim_as_it_was(store: SqliteStore) -> None:
    await store.orders.submit(order("a"))
    (claim,) = await store.orders.claim("w", limit=1, lease=30.0)
    with FullDisk(store), pytest.raises(StoreUnavailable):
        await store.orders.complete("a", claim.token, BIG)
    assert await store.orders.extend([("a", claim.token)], 30.0) == []
    assert (await store.orders.counts()).processing == 1
    await store.orders.complete("a", claim.token, BIG)
    assert (await store.orders.wait("a", 0)).result == BIG


async def test_a_cancellation_that_finds_the_disk_full_leaves_the_order_in_its_place(
    store: SqliteStore,
) -> None:
    for name in "abc":
        await store.orders.submit(order(name))
    with FullDisk(store), pytest.raises(StoreUnavailable):
        await store.orders.cancel("b", OrderFailure(code=1, message="m" * 200_000))
    claims = await store.orders.claim("w", limit=5, lease=1.0)
    assert [claim.work_order_id for claim in claims] == ["a", "b", "c"]


async def test_an_expiry_that_cannot_be_written_is_tried_again_a_little_later(
    store: SqliteStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.orders.submit(order("a", deadline=clock.now + 1))
    clock.now += 1
    write = store._committer._write

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(store._committer, "_write", fail)
    with pytest.raises(StoreUnavailable, match="I/O"):
        await store.orders.expire_due()
    assert (await store.orders.counts()).scheduled == 1
    assert await store.orders.expire_due() == clock.now + 1  # nothing is due until then: no busy loop
    monkeypatch.setattr(store._committer, "_write", write)
    clock.now += 1
    assert await store.orders.expire_due() is None
    assert (await store.orders.wait("a", 0)).state is OrderState.EXPIRED


async def test_a_crash_that_cannot_be_counted_leaves_the_claim_as_it_was(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.orders.submit(order("a"))
    (claim,) = await store.orders.claim("w", limit=1, lease=30.0)
    with monkeypatch.context() as patch:
        patch.setattr(store._committer, "_write", lambda *_: 1 / 0)
        with pytest.raises(StoreUnavailable):
            await store.orders.release("a", claim.token, crashed=True)
    assert await store.orders.extend([("a", claim.token)], 30.0) == []
    await store.orders.release("a", claim.token, crashed=True)
    assert (await store.orders.counts()).scheduled == 1


async def test_a_failed_commit_fails_the_group_and_the_next_one_succeeds(store: SqliteStore) -> None:
    with FullDisk(store):
        answers = await asyncio.gather(
            *(store.orders.submit(order(f"{i}", BIG)) for i in range(20)), return_exceptions=True
        )
    assert {type(answer) for answer in answers} == {StoreUnavailable}
    again = await asyncio.gather(*(store.orders.submit(order(f"{i}", BIG)) for i in range(20)))
    assert all(answer.fresh for answer in again)


async def test_what_cannot_be_stored_fails_alone(store: SqliteStore) -> None:
    answers = await asyncio.gather(
        store.orders.submit(order("a")),
        store.orders.submit(order("\ud800")),
        store.orders.submit(order("b")),
        return_exceptions=True,
    )
    assert [isinstance(answer, StoreUnavailable) for answer in answers] == [False, True, False]
    assert (await store.orders.counts()).scheduled == 2


async def test_a_conflict_in_a_group_harms_nobody_else(path: Path, clock: ManualClock) -> None:
    store = await SqliteStore.open(path, clock=clock, limits=Limits(recent_bytes=1))
    for name in "ab":
        await store.orders.submit(order(name))
        await store.orders.cancel(name, WITHDRAWN)
    a, b, *others = await asyncio.gather(
        store.orders.submit(order("a")),
        store.orders.submit(order("b", b"other")),
        *(store.orders.submit(order(f"{i}")) for i in range(9)),
        return_exceptions=True,
    )
    assert not isinstance(a, BaseException)
    assert (a.fresh, a.order.state) == (False, OrderState.CANCELLED)
    assert isinstance(b, DuplicateWorkOrder)
    assert all(not isinstance(other, BaseException) and other.fresh for other in others)
    assert len(await store.orders.claim("w", limit=99, lease=1.0)) == 9
    await store.close()


async def test_requests_cancelled_while_they_are_read_back_are_not_handed_out(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        await store.orders.submit(order(name, BIG))
    cancelled = asyncio.Event()

    async def slow(_: str) -> bytes | None:
        await cancelled.wait()
        return BIG

    monkeypatch.setattr(store.orders._journal, "request", slow)
    claiming = asyncio.ensure_future(store.orders.claim("w", limit=2, lease=30.0))
    await asyncio.sleep(0)
    await store.orders.cancel("a", WITHDRAWN)
    cancelled.set()
    assert [claim.work_order_id for claim in await claiming] == ["b"]


async def test_a_finished_order_that_somebody_asks_for_is_not_purged_meanwhile(
    path: Path, clock: ManualClock
) -> None:
    store = await SqliteStore.open(path, clock=clock, limits=Limits(recent_bytes=1))
    await store.orders.submit(order("a"))
    await store.orders.cancel("a", WITHDRAWN)
    view, purged = await asyncio.gather(
        store.orders.wait("a", None), store.orders.purge(older_than=clock.now + 1, keep=0)
    )
    assert (view.state, purged) == (OrderState.CANCELLED, 0)
    assert await store.orders.purge(older_than=clock.now + 1, keep=0) == 1
    await store.close()


async def test_claims_that_cannot_be_read_back_are_released(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.orders.submit(order("a", BIG))

    async def broken(_: str) -> bytes | None:
        raise StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(store.orders._journal, "request", broken)
        with pytest.raises(StoreUnavailable):
            await store.orders.claim("w", limit=1, lease=30.0)
    assert (await store.orders.counts()).scheduled == 1
    assert (await store.orders.claim("w", limit=1, lease=30.0))[0].request == BIG


async def test_a_second_opener_learns_who_has_the_database(store: SqliteStore, path: Path) -> None:
    with pytest.raises(StoreInUse, match=f"process {os.getpid()}") as caught:
        await SqliteStore.open(path)
    assert caught.value.pid == os.getpid()
    await store.close()
    await (await SqliteStore.open(path)).close()


async def test_a_database_from_a_newer_version_is_refused_and_left_alone(
    store: SqliteStore, path: Path
) -> None:
    await store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreTooNew, match="newer version"):
        await SqliteStore.open(path)
    with pytest.raises(StoreTooNew):  # and not StoreInUse: the refusal let go of the lock
        await SqliteStore.open(path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"no database" * 999, id="not a database"),
        pytest.param(None, id="another program's database"),
    ],
)
def test_a_file_that_is_not_ours_is_refused(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    else:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE theirs (a)")
        connection.close()
    with pytest.raises(StoreUnavailable):
        asyncio.run(SqliteStore.open(path))


async def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="No such file"):
        await SqliteStore.open(tmp_path / "missing" / "avalon.db")


def test_the_known_revisions_are_the_migration_scripts() -> None:
    scripts = ScriptDirectory.from_config(config())
    assert tuple(reversed([script.revision for script in scripts.walk_revisions()])) == database.REVISIONS
    assert scripts.get_current_head() == database.HEAD


def test_a_migration_that_fails_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = database.connect(path)
    connection.execute("CREATE TABLE workers (already_there)")
    with monkeypatch.context() as patch:
        patch.setattr(database, "_revision", lambda _: None)
        with pytest.raises(Exception, match="already exists"):
            database.migrate(connection, path)
    assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("workers",)]
    connection.close()


def test_a_normal_start_does_not_import_the_migration_tool(path: Path) -> None:
    script = (
        "import asyncio, sys; from avalon_service.store.sqlite import SqliteStore\n"
        "async def main(): await (await SqliteStore.open(sys.argv[1])).close()\n"
        "asyncio.run(main()); print('alembic' in sys.modules, 'sqlalchemy' in sys.modules)"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script, str(path)], check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    ]
    assert outputs == ["True True\n", "False False\n"]


def test_the_database_is_private(path: Path) -> None:
    database.connect(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_another_program_that_looks_in_does_not_take_the_journal_away(
    store: SqliteStore, path: Path
) -> None:
    await store.orders.submit(order("a"))
    look = f"import sqlite3; c = sqlite3.connect({str(path)!r}); print(*c.execute('SELECT count(*) FROM orders').fetchone())"
    seen = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", look + "; c.close()"], check=True, capture_output=True
    )
    assert seen.stdout == b"1\n"
    assert await asyncio.to_thread(Path(f"{path}-wal").exists)
    await store.orders.submit(order("b"))
    assert len(await store.orders.claim("w", limit=5, lease=1.0)) == 2


async def test_every_commit_waits_for_the_disk(store: SqliteStore) -> None:
    connection = store._committer._connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


LOAD = """
import asyncio, sys
from avalon_service.orders.ports import NewOrder
from avalon_service.store.sqlite import SqliteStore

def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

async def submit(orders, prefix, who):
    for number in range(100_000):
        name = f"{prefix}-{who}-{number}"
        await orders.submit(NewOrder(work_order_id=name, worker_id="w", requester_id="r", request=name.encode()))
        say("accepted", name)

async def finish(orders, claim):
    await orders.complete(claim.work_order_id, claim.token, claim.request)
    say("completed", claim.work_order_id)

async def main(path, prefix):
    orders = (await SqliteStore.open(path)).orders
    tasks = [asyncio.ensure_future(submit(orders, prefix, who)) for who in range(8)]
    while True:
        await orders.claimable("w", None)
        for claim in await orders.claim("w", limit=4, lease=30.0):
            say("claimed", claim.token)
            tasks.append(asyncio.ensure_future(finish(orders, claim)))

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


def kill_in_mid_load(path: Path, prefix: str, after: int) -> list[list[str]]:
    """What a process under load had said until it was killed."""
    with subprocess.Popen([sys.executable, "-c", LOAD, str(path), prefix], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    return [line.decode().split() for line in lines if line.endswith(b"\n")]


@pytest.mark.acceptance
async def test_what_was_acknowledged_survives_kill_9(path: Path) -> None:
    said: dict[str, list[str]] = {"accepted": [], "completed": [], "claimed": []}
    for life in range(3):
        for word, name in await asyncio.to_thread(kill_in_mid_load, path, f"{life}", 900 + life * 37):
            said[word].append(name)
    tokens = [int(token) for token in said["claimed"]]
    assert tokens == sorted(set(tokens))
    store = await SqliteStore.open(path, limits=Limits(max_queued=1_000_000))
    for name in said["completed"]:
        view = await store.orders.get(name)
        assert view is not None
        assert (view.state, view.result) == (OrderState.COMPLETED, name.encode())
    for name in said["accepted"]:
        assert await store.orders.get(name) is not None
        assert await store.orders.request_of(name) == name.encode()
    counts = await store.orders.counts()
    assert counts.finished >= len(set(said["completed"])) > 100
    assert counts.open + counts.finished >= len(said["accepted"]) > 300
    await store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
