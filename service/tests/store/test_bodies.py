"""Large bodies in files: crashes at every point between file and row, full disks, lost files."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from avalon_service.orders.errors import DuplicateWorkOrder, StoreUnavailable
from avalon_service.orders.ports import NewOrder, OrderFailure, OrderState
from avalon_service.store import bodies
from avalon_service.store.conformance import ManualClock
from avalon_service.store.limits import MIB, Limits
from avalon_service.store.sqlite import SqliteStore

LIMITS = Limits(stowed=1000, kept_request=100, recent_bytes=1)
LARGE, OTHER = b"x" * 5000, b"y" * 5000
WITHDRAWN = OrderFailure(code=1, message="withdrawn")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "avalon.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, clock=ManualClock(), limits=LIMITS)
    yield store
    await store.close()


def order(name: str, request: bytes = LARGE) -> NewOrder:
    return NewOrder(work_order_id=name, worker_id="w", requester_id="r", request=request)


def files(path: Path) -> list[Path]:
    return sorted(path.with_name(f"{path.name}.bodies").iterdir())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def emptied(path: Path, left: int = 0) -> None:
    """Files are removed behind the caller's back."""
    await asyncio.to_thread(wait_until, lambda: len(files(path)) == left)


async def finish(store: SqliteStore, result: bytes = OTHER) -> None:
    (claim,) = await store.orders.claim("w", limit=1, lease=30.0)
    await store.orders.complete(claim.work_order_id, claim.token, result)


async def test_large_bodies_are_files_that_only_their_owner_can_read(store: SqliteStore, path: Path) -> None:
    await store.orders.submit(order("a"))
    (request,) = files(path)
    assert (request.read_bytes(), request.stat().st_mode & 0o777) == (LARGE, 0o600)
    assert request.parent.stat().st_mode & 0o777 == 0o700
    await finish(store)
    assert {file.read_bytes() for file in files(path)} == {LARGE, OTHER}
    assert (await store.orders.wait("a", 0)).result == OTHER
    assert not (await store.orders.submit(order("a"))).fresh


async def test_files_go_with_their_orders(store: SqliteStore, path: Path) -> None:
    await store.orders.submit(order("a"))
    await finish(store)
    await store.orders.submit(order("b", b"small"))
    await finish(store)
    assert len(files(path)) == 3
    assert await store.orders.purge(older_than=0, keep=0) == 2
    await emptied(path)


async def test_what_is_refused_leaves_no_file(store: SqliteStore, path: Path) -> None:
    await store.orders.submit(order("a", b"small"))
    await finish(store, b"small")
    for attempt in (order("a"), order("a", OTHER)):
        with pytest.raises(DuplicateWorkOrder):
            await store.orders.submit(attempt)
    await emptied(path)


async def test_the_same_large_order_twice_at_a_time_is_one_order(store: SqliteStore, path: Path) -> None:
    answers = await asyncio.gather(*(store.orders.submit(order("a")) for _ in range(4)))
    assert sorted(answer.fresh for answer in answers) == [False, False, False, True]
    await emptied(path, left=1)


async def test_a_row_that_cannot_be_written_takes_its_file_along(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store._committer, "_write", lambda *_: 1 / 0)
        with pytest.raises(StoreUnavailable):
            await store.orders.submit(order("a"))
    await emptied(path)
    assert (await store.orders.submit(order("a"))).fresh
    (claim,) = await store.orders.claim("w", limit=1, lease=30.0)
    with monkeypatch.context() as patch:
        patch.setattr(store._committer, "_write", lambda *_: 1 / 0)
        with pytest.raises(StoreUnavailable):
            await store.orders.complete("a", claim.token, OTHER)
    await emptied(path, left=1)
    await store.orders.complete("a", claim.token, OTHER)
    assert (await store.orders.wait("a", 0)).result == OTHER


async def test_a_file_that_cannot_be_written_refuses_the_order_and_may_be_repeated(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreUnavailable, match="No space"):
            await store.orders.submit(order("a"))
        assert files(path) == []
    assert await store.orders.get("a") is None
    await store.orders.submit(order("a"))
    (claim,) = await store.orders.claim("w", limit=1, lease=30.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreUnavailable, match="No space"):
            await store.orders.complete("a", claim.token, OTHER)
    assert await store.orders.extend([("a", claim.token)], 30.0) == []
    await store.orders.complete("a", claim.token, OTHER)


async def test_an_order_whose_file_is_lost_fails_instead_of_going_round(
    store: SqliteStore, path: Path
) -> None:
    await store.orders.submit(order("a"))
    await store.orders.submit(order("b", OTHER))
    files(path)[[file.read_bytes() for file in files(path)].index(LARGE)].unlink()
    claims = await store.orders.claim("w", limit=5, lease=30.0)
    assert [(claim.work_order_id, claim.request) for claim in claims] == [("b", OTHER)]
    lost = await store.orders.wait("a", 20.0)
    assert lost.state is OrderState.FAILED
    assert lost.error is not None
    assert "lost the request" in lost.error.message


async def test_a_lost_result_is_told_as_such(store: SqliteStore, path: Path) -> None:
    await store.orders.submit(order("a", b"small"))
    await finish(store)
    (result,) = files(path)
    result.unlink()
    with pytest.raises(StoreUnavailable, match="result is missing"):
        await store.orders.get("a")


async def test_a_submitter_who_leaves_takes_the_file_along_or_has_submitted(
    store: SqliteStore, path: Path
) -> None:
    for turns in range(12):
        submitting = asyncio.ensure_future(store.orders.submit(order(f"{turns}")))
        for _ in range(turns):
            await asyncio.sleep(0.001)
        submitting.cancel()
        await asyncio.gather(submitting, return_exceptions=True)
    await asyncio.sleep(0.5)  # what is on its way to the disk
    await emptied(path, left=(await store.orders.counts()).open)


async def test_a_claim_takes_few_large_orders_at_a_time(path: Path) -> None:
    store = await SqliteStore.open(path, limits=Limits(claimed_bytes=12_000, kept_request=100))
    for name in "abcde":
        await store.orders.submit(order(name))
    assert [len(await store.orders.claim("w", limit=9, lease=30.0)) for _ in range(3)] == [3, 2, 0]
    await store.close()
    store = await SqliteStore.open(path, limits=Limits(claimed_bytes=12_000, kept_request=100))
    assert [len(await store.orders.claim("w", limit=9, lease=30.0)) for _ in range(3)] == [3, 2, 0]
    await store.close()


def test_only_files_of_the_stores_own_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "bodies"
    assert bodies.open_folder(folder, ()) == 0
    mine, named, others = folder / ("0" * 32), folder / ("1" * 32), folder / "README"
    for file in (mine, named, others):
        file.write_bytes(b"")
    assert bodies.open_folder(folder, {named.name}) == 1
    assert sorted(folder.iterdir()) == [named, others]


# Crashes

CRASH = """
import asyncio, os, sys
from pathlib import Path
from avalon_service.orders.ports import NewOrder
from avalon_service.store import bodies, sqlite
from avalon_service.store.limits import Limits

where, path = sys.argv[1], Path(sys.argv[2])
armed = False

def crash_before(owner, name):
    whole = getattr(owner, name)
    def crash(*arguments, **named):
        if armed:
            os._exit(9)
        return whole(*arguments, **named)
    setattr(owner, name, crash)

def crash_after(owner, name):
    whole = getattr(owner, name)
    def crash(*arguments, **named):
        answer = whole(*arguments, **named)
        if armed:
            os._exit(9)
        return answer
    setattr(owner, name, crash)

{"in the file": lambda: crash_before(os, "fsync"),
 "after the file": lambda: crash_after(bodies.Bodies, "_write"),
 "in the row": lambda: crash_after(sqlite, "insert"),
 "after the row": lambda: crash_after(sqlite.Committer, "_transact"),
 "before the file goes": lambda: crash_before(bodies.Bodies, "_remove")}[where]()

async def main(step):
    global armed
    orders = (await sqlite.SqliteStore.open(path, limits=Limits(stowed=1000))).orders
    armed = step == "submit"
    await orders.submit(NewOrder(work_order_id="a", worker_id="w", requester_id="r", request=b"x" * 5000))
    (claim,) = await orders.claim("w", limit=1, lease=30.0)
    armed = step == "complete"
    await orders.complete("a", claim.token, b"y" * 5000)
    armed = step == "purge"
    await orders.purge(older_than=0, keep=0)
    await asyncio.sleep(5)

asyncio.run(main(sys.argv[3]))
"""


@pytest.mark.parametrize(
    ("step", "where", "state", "left"),
    [
        ("submit", "in the file", None, 0),
        ("submit", "after the file", None, 0),
        ("submit", "in the row", None, 0),
        ("submit", "after the row", OrderState.SCHEDULED, 1),
        ("complete", "in the file", OrderState.SCHEDULED, 1),
        ("complete", "after the file", OrderState.SCHEDULED, 1),
        ("complete", "in the row", OrderState.SCHEDULED, 1),
        ("complete", "after the row", OrderState.COMPLETED, 2),
        ("purge", "before the file goes", None, 0),
    ],
)
async def test_a_crash_leaves_an_order_with_its_files_or_neither(
    path: Path, step: str, where: str, state: OrderState | None, left: int
) -> None:
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", CRASH, where, str(path), step], check=False, timeout=60
    )
    assert ended.returncode == 9
    store = await SqliteStore.open(path, limits=LIMITS)
    view = await store.orders.get("a")
    assert (view.state if view is not None else None) is state
    assert len(files(path)) == left
    if state is OrderState.COMPLETED:
        assert view is not None
        assert view.result == OTHER
    elif step == "purge":
        with pytest.raises(DuplicateWorkOrder):
            await store.orders.submit(order("a"))
    else:
        await store.orders.submit(order("a"))  # as its requester does, who heard nothing
        await finish(store)
        assert (await store.orders.wait("a", 0)).result == OTHER
    await store.close()


async def test_a_large_body_does_not_keep_small_orders_waiting(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = asyncio.Event()
    write: Callable[[bodies.Bodies, bytes], object] = bodies.Bodies.write

    async def slow(self: bodies.Bodies, body: bytes) -> object:
        await written.wait()
        return await write(self, body)  # type: ignore[misc]

    monkeypatch.setattr(bodies.Bodies, "write", slow)
    large = asyncio.ensure_future(store.orders.submit(order("large", bytes(MIB))))
    await asyncio.sleep(0)
    assert (await store.orders.submit(order("small", b"small"))).fresh
    assert not large.done()
    written.set()
    assert (await large).fresh
