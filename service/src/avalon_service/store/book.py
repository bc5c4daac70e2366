"""The book of open orders: who is next, whose lease ends when, whose deadline comes when.

A worker's requesters take turns, one order each; within a requester the order accepted first comes first. So whoever
queues thousands of orders delays somebody else's single one by the rest of a round and no more.

Pure memory, no waiting, no disk and no clock. Finished orders are not in it. An order whose next state is on its way to
the disk is *settling*: it is in the book, but neither claimable nor due until the write is known to have worked (then
it is replaced or removed) or not (then it is restored to where it was in its line).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator

from avalon_service.orders import state
from avalon_service.orders.state import Order, OrderState
from avalon_service.store.timers import Timers

_SCHEDULED = OrderState.SCHEDULED


class Entry:
    """One open order in the book."""

    __slots__ = ("order", "origin", "request", "settled", "settling", "since", "size")

    def __init__(self, order: Order, request: bytes | None, size: int, origin: str = "") -> None:
        self.order = order
        self.origin = origin
        """Whence it was submitted, as in `NewOrder`; forgotten by a restart."""
        self.since = order.accepted_at
        """When the order came into the state that it is in."""
        self.request = request
        """None if it is too large to be kept in memory."""
        self.size = size
        """Of the request, in bytes."""
        self.settling = False
        self.settled: asyncio.Future[None] | None = None
        """Made by whoever waits for the end of the settling."""


class Line:
    """The scheduled orders of one requester for one worker, by sequence.

    New orders join at the end, in order, and leave at the front or (cancelled) anywhere: an OrderedDict does all of
    that in O(1). Orders that come back are few and all older than the new ones: a sorted list in front.
    """

    __slots__ = ("_fresh", "_returned")

    def __init__(self) -> None:
        self._fresh: OrderedDict[int, None] = OrderedDict()
        self._returned: list[int] = []  # negated, so that the first in line is the last in the list

    def __len__(self) -> int:
        return len(self._fresh) + len(self._returned)

    def join(self, sequence: int) -> None:
        """Add a new one at the end."""
        self._fresh[sequence] = None

    def rejoin(self, sequence: int) -> None:
        """Add one that was in the line before at its old place."""
        fresh = self._fresh
        if fresh and sequence > next(iter(fresh)):
            # Rare: cancelled out of the middle, and the cancellation could not be written.
            fresh[sequence] = None
            self._fresh = OrderedDict.fromkeys(sorted(fresh))
        else:
            insort(self._returned, -sequence)

    def leave(self, sequence: int) -> None:
        """Take one out wherever it stands."""
        if sequence in self._fresh:
            del self._fresh[sequence]
            return
        place = bisect_left(self._returned, -sequence)
        if place < len(self._returned) and self._returned[place] == -sequence:
            del self._returned[place]

    def take(self) -> int:
        """Take out the first."""
        if self._returned:
            return -self._returned.pop()
        return self._fresh.popitem(last=False)[0]


class Queue:
    """The scheduled orders of one worker: its requesters in turn, each with a line. All operations are those of a line.

    A requester who has nothing scheduled has no turn; one who has again (a new order, or one that comes back) joins
    behind all others.
    """

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: OrderedDict[str, Line | int] = OrderedDict()
        """Most requesters have one order scheduled: then its sequence alone stands for the line."""

    def __bool__(self) -> bool:
        return bool(self._lines)

    def join(self, order: Order) -> None:
        """Add a new one at the end of its requester's line."""
        there = self._lines.get(order.requester_id)
        if there is None:
            self._lines[order.requester_id] = order.sequence
        else:
            self._line(order.requester_id, there).join(order.sequence)

    def rejoin(self, order: Order) -> None:
        """Add one that was in its requester's line before, at its old place there."""
        there = self._lines.get(order.requester_id)
        if there is None:
            self._lines[order.requester_id] = order.sequence
        else:
            self._line(order.requester_id, there).rejoin(order.sequence)

    def leave(self, order: Order) -> None:
        """Take one out wherever it stands; its requester keeps the turn as long as others are left."""
        there = self._lines.get(order.requester_id)
        if isinstance(there, Line):
            there.leave(order.sequence)
            if not there:
                del self._lines[order.requester_id]
        elif there == order.sequence:
            del self._lines[order.requester_id]

    def take(self) -> int:
        """Take out the first order of the requester whose turn it is, who is last from now on."""
        requester_id, there = self._lines.popitem(last=False)
        if not isinstance(there, Line):
            return there
        sequence = there.take()
        if there:
            self._lines[requester_id] = there
        return sequence

    def _line(self, requester_id: str, there: Line | int) -> Line:
        if isinstance(there, Line):
            return there
        line = self._lines[requester_id] = Line()
        line.join(there)
        return line


class Book:
    """All open orders of a store."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._by_sequence: dict[int, Entry] = {}
        self._queues: dict[str, Queue] = {}
        self._leases = Timers()
        self._deadlines = Timers()
        self.processing = 0
        """How many orders are claimed."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def find(self, work_order_id: str) -> Entry | None:
        """The entry of an order, if it is open."""
        return self._entries.get(work_order_id)

    def claimable(self, worker_id: str) -> bool:
        """Whether an order of this worker is scheduled."""
        return worker_id in self._queues

    def next_due(self) -> float | None:
        """When the next lease or deadline ends."""
        lease, deadline = self._leases.next(), self._deadlines.next()
        if lease is None or deadline is None:
            return deadline if lease is None else lease
        return min(lease, deadline)

    def add(self, entry: Entry) -> None:
        """Open an order that is durable now; orders are added by rising sequence."""
        order = entry.order
        self._entries[order.work_order_id] = entry
        self._by_sequence[order.sequence] = entry
        self._queue(order.worker_id).join(order)
        if order.deadline is not None:
            self._deadlines.set(order.sequence, order.deadline)

    def remove(self, entry: Entry) -> None:
        """Close a settling order that is final now."""
        self._unsettle(entry)
        order = entry.order
        del self._entries[order.work_order_id]
        del self._by_sequence[order.sequence]
        if order.state is not _SCHEDULED:
            self.processing -= 1

    def next_in_line(self, worker_id: str) -> Entry | None:
        """Take the scheduled order of a worker whose turn it is out of its line: the caller claims or settles it."""
        queue = self._queues.get(worker_id)
        if queue is None:
            return None
        sequence = queue.take()
        if not queue:
            del self._queues[worker_id]
        return self._by_sequence[sequence]

    def claim(self, entry: Entry, claimed: Order) -> None:
        """Record the claim of an order that was taken out of its line."""
        entry.order = claimed
        self.processing += 1
        assert claimed.lease_until is not None
        self._leases.set(claimed.sequence, claimed.lease_until)

    def extend(self, entry: Entry, extended: Order) -> None:
        """Record that a claim lasts until another moment."""
        entry.order = extended
        if not entry.settling:
            assert extended.lease_until is not None
            self._leases.set(extended.sequence, extended.lease_until)

    def put_back(self, entry: Entry, scheduled: Order) -> None:
        """Record that a claimed order is scheduled again, at its old place in its requester's line."""
        self._leases.drop(scheduled.sequence)
        self.processing -= 1
        entry.order = scheduled
        self._queue(scheduled.worker_id).rejoin(scheduled)

    def settle(self, entry: Entry) -> None:
        """Take an order out of the line and off the timers while its next state is written."""
        order = entry.order
        sequence = order.sequence
        entry.settling = True
        if order.state is _SCHEDULED:
            queue = self._queues.get(order.worker_id)
            if queue is not None:
                queue.leave(order)
                if not queue:
                    del self._queues[order.worker_id]
        else:
            self._leases.drop(sequence)
        if order.deadline is not None:
            self._deadlines.drop(sequence)

    def restore(self, entry: Entry, *, not_due_before: float) -> None:
        """Put a settling order back as it was, because its next state could not be written.

        Its deadline is not tried again before the moment given: a full disk must not keep the processor busy.
        """
        self._unsettle(entry)
        self._arm(entry, not_due_before=not_due_before)

    def replace(self, entry: Entry, scheduled: Order) -> None:
        """End the settling of a claimed order with its scheduled state."""
        self._unsettle(entry)
        self.processing -= 1
        entry.order = scheduled
        self._arm(entry)

    def lapsed(self, now: float) -> list[Entry]:
        """The claimed orders whose leases have ended; each must now be put back."""
        return [self._by_sequence[sequence] for sequence in self._leases.due(now)]

    def overdue(self, now: float) -> list[Entry]:
        """The orders whose deadlines have passed; each must now be settled."""
        return [self._by_sequence[sequence] for sequence in self._deadlines.due(now)]

    def _arm(self, entry: Entry, *, not_due_before: float | None = None) -> None:
        order = entry.order
        if order.state is _SCHEDULED:
            self._queue(order.worker_id).rejoin(order)
        else:
            assert order.lease_until is not None
            self._leases.set(order.sequence, order.lease_until)
        deadline = order.deadline
        if deadline is not None:
            if not_due_before is not None and state.overdue(order, now=not_due_before):
                deadline = not_due_before
            self._deadlines.set(order.sequence, deadline)

    def _queue(self, worker_id: str) -> Queue:
        queue = self._queues.get(worker_id)
        if queue is None:
            queue = self._queues[worker_id] = Queue()
        return queue

    @staticmethod
    def _unsettle(entry: Entry) -> None:
        entry.settling = False
        settled, entry.settled = entry.settled, None
        if settled is not None and not settled.done():
            settled.set_result(None)
