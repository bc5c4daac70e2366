"""Which ids are taken, and by which orders: an index whose newest part is in memory.

Ids are random, so each new one belongs on a page of its own in an index of a million. Written at once, that page would
double what an order costs the disk. So an acceptance only appends its id to a table of `arrivals`; a generation of
those is held in memory, too, and goes into the index (`identities`) sorted, a slice with every few transactions, when
the next generation has begun. What a restart has to read is the arrivals: a generation and a half at most.

Everything here belongs to the committer's thread and its transactions, but for `find`, which any thread may call. What
a transaction has changed counts from `ended` on.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from avalon_service.store.statements import delete, insert, pieces, values

_IDENTITY_BYTES = 16
"""Of SHA-256. Who finds two ids with the same 16 bytes (2**64 attempts) has the second one refused."""

_GENERATION = 32_768
"""Ids in memory before they go into the index, and half as many again meanwhile: 10 MB at most. The more of them, the
more go onto each page."""

_SLICE = 256
"""Ids that go into the index with one transaction: a millisecond."""

_HASTE = 2
"""Ids that go into the index for each one that arrives meanwhile: so a generation is done before the next is full."""


def identity_of(work_order_id: str) -> bytes:
    """What stands for an id in the index: the first 16 bytes of SHA-256 of its UTF-8."""
    return hashlib.sha256(work_order_id.encode()).digest()[:_IDENTITY_BYTES]


class Identities:
    """The index of ids, over the connection of a committer."""

    def __init__(self, arrivals: Iterable[tuple[int, bytes]]) -> None:
        """``arrivals``: sequence and identity, as read when the database was opened."""
        self._generation = _GENERATION
        self._slice = _SLICE
        self._fresh = {identity: sequence for sequence, identity in arrivals}
        self._moving: dict[bytes, int] = {}
        self._line: list[bytes] = []
        """What is still to go into the index, the last first."""
        self._debt = 0
        self._added: dict[bytes, int] = {}
        self._forgotten: list[bytes] = []
        self._moved = 0

    def find(self, connection: sqlite3.Connection, work_order_id: str) -> int | None:
        """The sequence of the order that has this id, or had it until it was purged."""
        identity = identity_of(work_order_id)
        # Memory first: an id leaves it only after it is durable in the index. And the fresh ones before those that
        # move: that is the way they go.
        sequence = self._fresh.get(identity) or self._moving.get(identity)
        if sequence is not None:
            return sequence
        row = connection.execute("SELECT sequence FROM identities WHERE identity = ?", (identity,)).fetchone()
        return row[0] if row is not None else None

    def taken(self, connection: sqlite3.Connection, identities: Sequence[bytes]) -> Mapping[bytes, int]:
        """Those that are taken, with the sequences of their orders."""
        found: dict[bytes, int] = {}
        unknown = []
        for identity in identities:
            sequence = self._fresh.get(identity) or self._moving.get(identity) or self._added.get(identity)
            if sequence is None:
                unknown.append(identity)
            else:
                found[identity] = sequence
        for piece in pieces(unknown):
            query = f"SELECT identity, sequence FROM identities WHERE identity IN {values(len(piece), 1)}"  # noqa: S608 (constants)
            found.update(connection.execute(query, piece).fetchall())
        return found

    def add(self, connection: sqlite3.Connection, arrivals: list[tuple[int, bytes]]) -> None:
        """Take ids, and move older ones on. Sequences rise from call to call."""
        insert(connection, "INSERT INTO arrivals (sequence, identity)", arrivals)
        self._added.update((identity, sequence) for sequence, identity in arrivals)
        if not self._moving and len(self._fresh) >= self._generation:
            self._line = sorted(self._fresh, reverse=True)
            self._moving = self._fresh
            self._fresh = {}
        if self._moving:
            self._debt += _HASTE * len(arrivals)
            if self._debt >= self._slice:
                self._move(connection)

    def forget(self, connection: sqlite3.Connection, identities: list[bytes]) -> None:
        """Set ids free."""
        arrived = [
            sequence
            for identity in identities
            if (sequence := self._fresh.get(identity) or self._moving.get(identity)) is not None
        ]
        delete(connection, "DELETE FROM arrivals WHERE sequence", arrived)
        delete(connection, "DELETE FROM identities WHERE identity", sorted(identities))
        self._forgotten += identities

    def ended(self, durable: bool) -> None:
        """A transaction has ended."""
        if durable:
            self._fresh.update(self._added)
            for identity in self._forgotten:
                self._fresh.pop(identity, None)
                self._moving.pop(identity, None)
            if self._moved:
                del self._line[-self._moved :]
                self._debt = 0
                if not self._line:
                    self._moving = {}
        if self._added:
            self._added = {}
        if self._forgotten:
            self._forgotten = []
        self._moved = 0

    def _move(self, connection: sqlite3.Connection) -> None:
        ids = self._line[-min(self._debt, len(self._line)) :]
        self._moved = len(ids)
        rows = [
            (identity, sequence)
            for identity in reversed(ids)
            if (sequence := self._moving.get(identity)) is not None  # or it was forgotten meanwhile
        ]
        insert(connection, "INSERT INTO identities (identity, sequence)", rows)
        if self._moved == len(self._line):
            delete_to = max(self._moving.values(), default=0)
            connection.execute("DELETE FROM arrivals WHERE sequence <= ?", (delete_to,))
