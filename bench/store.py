"""What the store costs: CPU and wall-clock time of an order's whole way (submit, claim, complete), without any enclave.

    python bench/store.py [--orders N] [--size BYTES] [--stored N]

Beside each other in one run: the memory store, the SQLite store, and the same rows written by bare `executemany` calls in
transactions as large as the number of submitters. CPU is that of the whole process, all threads included.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from avalon_service.orders.ports import NewOrder, OrderStore
from avalon_service.store.limits import Limits
from avalon_service.store.memory import MemoryStore
from avalon_service.store.sqlite import SqliteStore

WORKER = "worker"
LIMITS = Limits(max_queued=1_000_000, max_queued_per_requester=1_000_000)


async def host(store: OrderStore, number: int) -> None:
    """Claim and complete orders until all are done."""
    done = 0
    running: set[asyncio.Task[None]] = set()
    while done < number:
        await store.claimable(WORKER, None)
        claims = await store.claim(WORKER, limit=64, lease=30.0)
        done += len(claims)
        for claim in claims:
            task = asyncio.ensure_future(store.complete(claim.work_order_id, claim.token, claim.request))
            running.add(task)
            task.add_done_callback(running.discard)
    while running:
        await asyncio.wait(running)


async def submitter(store: OrderStore, orders: list[NewOrder]) -> None:
    """Submit one order after another, waiting for each result."""
    for order in orders:
        await store.submit(order)
        await store.wait(order.work_order_id, 60.0)


async def drive(store: OrderStore, orders: list[NewOrder], submitters: int) -> None:
    """Take all orders through the store."""
    shares = [orders[start::submitters] for start in range(submitters)]
    await asyncio.gather(host(store, len(orders)), *(submitter(store, share) for share in shares))


def new_orders(prefix: str, number: int, size: int) -> list[NewOrder]:
    request = b"x" * size
    return [
        NewOrder(
            work_order_id=hashlib.sha256(f"{prefix}{i}".encode()).hexdigest(),
            worker_id=WORKER,
            requester_id="requester",
            request=request,
        )
        for i in range(number)
    ]


async def measure(label: str, run: Callable[[], Awaitable[None]], number: int) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    await run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(
        f"{label:<44}{cpu / number * 1e6:>9.1f}{wall / number * 1e6:>9.1f}{number / wall:>10.0f}", flush=True
    )


def bare(folder: Path, orders: list[NewOrder], group: int) -> None:
    """The floor: the same rows in the same tables' shape, nothing else."""
    connection = sqlite3.connect(folder / f"bare{group}.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "CREATE TABLE orders (sequence INTEGER PRIMARY KEY, id TEXT UNIQUE, digest BLOB, request BLOB)"
    )
    connection.execute("CREATE TABLE outcomes (sequence INTEGER PRIMARY KEY, state TEXT, result BLOB)")
    for start in range(0, len(orders), group):
        chunk = list(enumerate(orders[start : start + group], start))
        connection.execute("BEGIN")
        rows = [(i, o.work_order_id, o.digest, o.request) for i, o in chunk]
        connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", rows)
        connection.execute("COMMIT")
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO outcomes VALUES (?, ?, ?)", [(i, "completed", o.request) for i, o in chunk]
        )
        connection.execute("COMMIT")
    connection.close()


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--orders", type=int, default=20_000)
    arguments.add_argument("--size", type=int, default=1024, help="bytes of a request and of a result")
    arguments.add_argument("--stored", type=int, default=0, help="finished orders in the database beforehand")
    options = arguments.parse_args()
    print(f"{'per order, ' + str(options.size) + ' bytes':<44}{'CPU us':>9}{'wall us':>9}{'orders/s':>10}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for submitters in (1, 64, 1024):
            number = options.orders if submitters > 1 else options.orders // 10
            said = f"{submitters} submitter{'s' * (submitters > 1)}"

            async def bare_run(number: int = number, submitters: int = submitters) -> None:
                bare(folder, new_orders("bare", number, options.size), submitters)

            await measure(f"bare executemany, groups of {submitters}", bare_run, number)

            memory = MemoryStore(limits=LIMITS)
            orders = new_orders(f"memory{submitters}", number, options.size)
            await measure(f"memory, {said}", lambda: drive(memory.orders, orders, submitters), number)  # noqa: B023
            await memory.close()

            sqlite = await SqliteStore.open(folder / "store.db", limits=LIMITS)
            if options.stored and submitters == 1:
                await drive(sqlite.orders, new_orders("stored", options.stored, options.size), 4096)
                await sqlite.close()
                began = time.perf_counter()
                sqlite = await SqliteStore.open(folder / "store.db", limits=LIMITS)
                print(
                    f"opening with {options.stored} stored orders: {(time.perf_counter() - began) * 1e3:.1f} ms"
                )
            orders = new_orders(f"sqlite{submitters}", number, options.size)
            await measure(f"sqlite, {said}", lambda: drive(sqlite.orders, orders, submitters), number)  # noqa: B023
            await sqlite.close()


if __name__ == "__main__":
    asyncio.run(main())
