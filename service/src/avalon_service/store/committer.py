"""Group commit: one thread that writes whatever has gathered while the disk was busy, and waits for the disk once.

Work is put in from the event loop and settled there, in order, once per batch. A batch is one transaction: all of it is
durable or none. When SQLite itself is unable to write (disk full, I/O error) the whole batch fails, nothing has changed,
and the next batch is tried afresh. When one piece of work is at fault, it fails alone.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from avalon_service.orders.errors import StoreClosed, StoreUnavailable

_log = logging.getLogger(__name__)

_MAX_BATCH = 1024
"""Pieces of work in one transaction: bounds how long the first of them waits for the last."""


_CROWD = 32
_GATHER_SECONDS = 0.001
"""With so many orders open, a transaction waits a little for more to write: each costs as much as writing dozens of
orders, and an order among many waits longer for its turn than for this."""


class Work(Protocol):
    """Something to write."""

    def settle(self, trouble: Any) -> None:
        """Learn, in the event loop, that it is durable (None) or why it is not."""
        ...


Write = Callable[[sqlite3.Connection, Sequence[Work]], Mapping[Work, object]]
"""Writes a batch inside a transaction, in the committer's thread; returns what trouble single pieces of work met."""


class Committer:
    """Owns the writing connection of a database."""

    def __init__(
        self, connection: sqlite3.Connection, write: Write, ended: Callable[[bool], None] = lambda _: None
    ) -> None:
        """``ended``: told of each transaction, in the committer's thread, whether it is durable."""
        self._connection = connection
        self._write = write
        self._ended_transaction = ended
        self._loop = asyncio.get_running_loop()
        self._gathered: list[Work] = []
        self._queue: queue.SimpleQueue[list[Work] | None] = queue.SimpleQueue()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._closing = False
        self.crowd: Callable[[], int] = lambda: 0
        """How many orders are open. Set by the store."""

        self._thread = threading.Thread(target=self._run, name="avalon-committer", daemon=True)
        self._thread.start()

    def put(self, work: Work) -> None:
        """Have something written; it is settled later."""
        self.check_open()
        # Handing over once per turn of the loop costs one wake-up of the thread however much is put in.
        if not self._gathered:
            if self.crowd() >= _CROWD:
                self._loop.call_later(_GATHER_SECONDS, self._hand_over)
            else:
                self._loop.call_soon(self._hand_over)
        self._gathered.append(work)

    def check_open(self) -> None:
        """Raise `StoreClosed` once `close` was called."""
        if self._closing:
            raise StoreClosed

    async def close(self) -> None:
        """Write and settle what was put in, then end the thread and close the connection."""
        if not self._closing:
            self._closing = True
            self._hand_over()
            self._queue.put(None)
        await asyncio.shield(self._ended)
        self._thread.join()

    def _hand_over(self) -> None:
        if self._gathered:
            self._queue.put(self._gathered)
            self._gathered = []

    def _run(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._loop.call_soon_threadsafe(_settle, batch, self._commit(batch))
                del batch  # or the last bodies would stay in memory until there are others
            self._connection.close()
            self._loop.call_soon_threadsafe(self._ended.set_result, None)
        except RuntimeError:  # the loop was closed without closing the store: nobody is left to tell
            self._connection.close()

    def _next_batch(self) -> list[Work] | None:
        batch = self._queue.get()
        while batch is not None and len(batch) < _MAX_BATCH:
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._queue.put(None)
                break
            batch.extend(more)
        return batch

    def _commit(self, batch: list[Work]) -> Mapping[Work, object]:
        try:
            return self._transact(batch)
        except sqlite3.OperationalError as error:
            return dict.fromkeys(batch, unavailable(error))
        except Exception as error:  # noqa: BLE001 (whatever is wrong with one piece of work must not stop the others)
            if len(batch) == 1:
                return {batch[0]: unavailable(error)}
        troubles: dict[Work, object] = {}
        for work in batch:
            troubles.update(self._commit([work]))
        return troubles

    def _transact(self, batch: Sequence[Work]) -> Mapping[Work, object]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            troubles = self._write(connection, batch)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._ended_transaction(False)
            raise
        self._ended_transaction(True)
        return troubles


def unavailable(error: Exception) -> StoreUnavailable:
    """Translate what SQLite says into the store's own words."""
    trouble = StoreUnavailable(f"the database could not do this: {error}; nothing was changed, try again")
    trouble.__cause__ = error
    return trouble


def _settle(batch: list[Work], troubles: Mapping[Work, object]) -> None:
    for work in batch:
        try:
            work.settle(troubles.get(work))
        except Exception:  # noqa: BLE001 # one caller's fault must not keep the others waiting
            _log.exception("settling a write failed")
