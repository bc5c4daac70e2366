"""The order store of one process: a book in memory over a journal that outlives it.

What the book shows is what the journal holds: a new order enters the book, and a finished one leaves it, when the write
is durable and not before. Claims live in the book only. Everything runs in one event loop; between two awaits nothing
else happens, which is what the checks below rely on.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from avalon_service.orders import state
from avalon_service.orders.errors import (
    DuplicateWorkOrder,
    QueueFull,
    RequestTooLarge,
    StaleClaim,
    StoreClosed,
    StoreUnavailable,
    UnknownWorkOrder,
)
from avalon_service.orders.ports import (
    Claim,
    Followed,
    NewOrder,
    OrderCounts,
    OrderEvent,
    Revoked,
    Submission,
)
from avalon_service.orders.state import Order, OrderFailure, OrderState, OrderView
from avalon_service.store.book import Book, Entry
from avalon_service.store.journal import Acceptance, Change, Conflict, Journal
from avalon_service.store.limits import Limits
from avalon_service.store.recent import RecentOrders
from avalon_service.store.shares import Shares

_log = logging.getLogger(__name__)

_EPOCH_BITS = 40
"""Tokens are epoch and counter: 2**40 claims between two restarts (34 years at a thousand a second), 2**23 restarts."""

_RETRY_AFTER = 1.0
"""Seconds before an expiry that could not be written is tried again."""

_LOST = OrderFailure(
    code=1, message="the service has lost the request of this order; submit it again under a fresh id"
)
"""Of an order whose file is gone from beside the database: removed by hand, or left out of a backup."""

_PROCESSING = OrderState.PROCESSING
_SCHEDULED = OrderState.SCHEDULED

_T = TypeVar("_T")


class BookedOrders:
    """An `OrderStore` over a journal."""

    def __init__(self, journal: Journal, *, clock: Callable[[], float], limits: Limits) -> None:
        self._journal = journal
        self._clock = clock
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._book = Book()
        self._kept_bytes = 0
        self._arriving: dict[str, _Arrival] = {}
        self._of_requesters = Shares(limits.max_queued_per_requester)
        self._of_origins = Shares(limits.max_queued_per_origin)
        self._recent = RecentOrders(limits.recent_bytes)
        self._numbers = itertools.count((journal.epoch << _EPOCH_BITS) + 1)
        self._tokens = itertools.count((journal.epoch << _EPOCH_BITS) + 1)
        self._finished = dict.fromkeys(state.FINAL_STATES, 0) | journal.finished_counts()
        self._put_back = 0
        self._purged = 0
        self._waiting: dict[str, set[asyncio.Future[Order | None]]] = {}
        self._asking: dict[str, int] = {}
        self._idle: dict[str, set[asyncio.Future[bool]]] = {}
        self._watchers: dict[str, list[Revoked]] = {}
        self._followers: dict[str, list[Followed]] = {}
        self._sleepers: dict[asyncio.Future[None], float | None] = {}
        self._closed = False
        for order, request, size in journal.open_orders():
            self._of_requesters.take(order.requester_id)
            self._book.add(Entry(order, self._keep(request), size))

    # Submitters

    async def submit(self, new: NewOrder) -> Submission:
        """See `OrderStore.submit`."""
        known = await self._known(new)
        if known is not None:
            return known
        self._check_room(new)
        stowed = None
        if self._journal.stows(new.request):
            stowed = await self._journal.stow(new.request)
            try:
                known = await self._known(new)
                if known is None:
                    self._check_room(new)
            except BaseException:
                self._journal.drop(stowed)
                raise
            if known is not None:
                self._journal.drop(stowed)
                return known
        order = Order(
            work_order_id=new.work_order_id,
            worker_id=new.worker_id,
            requester_id=new.requester_id,
            digest=new.digest,
            sequence=next(self._numbers),
            accepted_at=self._clock(),
            deadline=new.deadline,
        )
        arrival = _Arrival(self, order, new, stowed)
        self._journal.accept(self._announce(arrival))
        conflict = await arrival.answer
        if conflict is None:
            return Submission(fresh=True, order=order.view())
        return await self._used_before(new, conflict)

    async def cancel(self, work_order_id: str, failure: OrderFailure, *, expired: bool = False) -> OrderView:
        """See `OrderStore.cancel`."""
        entry = await self._settled(work_order_id)
        if entry is None:
            return (await self._final(work_order_id)).view()
        now = self._clock()
        if expired:
            final = state.expire(entry.order, now=now, failure=failure)
        else:
            final = state.cancel(entry.order, failure=failure, now=now)
        await self._write(entry, final)
        return final.view()

    async def get(self, work_order_id: str) -> OrderView | None:
        """See `OrderStore.get`."""
        try:
            return (await self._present(work_order_id)).view()
        except UnknownWorkOrder:
            return None

    async def wait(self, work_order_id: str, timeout: float | None) -> OrderView:
        """See `OrderStore.wait`."""
        self._check_open()
        self._asking[work_order_id] = self._asking.get(work_order_id, 0) + 1
        try:
            if (timeout is None or timeout > 0) and self._book.find(work_order_id) is not None:
                future: asyncio.Future[Order | None] = self._loop.create_future()
                self._waiting.setdefault(work_order_id, set()).add(future)
                try:
                    final = await _within(self._loop, future, timeout, None)
                finally:
                    _discard(self._waiting, work_order_id, future)
                if final is not None:
                    return final.view()
            return (await self._present(work_order_id)).view()
        finally:
            self._asking[work_order_id] -= 1
            if not self._asking[work_order_id]:
                del self._asking[work_order_id]

    async def latest(self, work_order_id: str) -> OrderEvent:
        """See `OrderStore.latest`."""
        self._check_open()
        entry = self._book.find(work_order_id)
        if entry is not None:
            return _event(entry.order, entry.since)
        order = await self._final(work_order_id)
        assert order.finished_at is not None
        return _event(order, order.finished_at)

    def follow(self, work_order_id: str, followed: Followed) -> Callable[[], None]:
        """See `OrderStore.follow`."""
        self._followers.setdefault(work_order_id, []).append(followed)

        def end() -> None:
            followers = self._followers.get(work_order_id, [])
            if followed in followers:
                followers.remove(followed)
            if not followers:
                self._followers.pop(work_order_id, None)

        return end

    async def request_of(self, work_order_id: str) -> bytes | None:
        """See `OrderStore.request_of`."""
        self._check_open()
        entry = self._book.find(work_order_id)
        if entry is not None and entry.request is not None:
            return entry.request
        return await self._journal.request(work_order_id)

    # Hosts

    async def claimable(self, worker_id: str, timeout: float | None) -> bool:
        """See `OrderStore.claimable`."""
        self._check_open()
        if self._book.claimable(worker_id):
            return True
        if timeout is not None and timeout <= 0:
            return False
        future: asyncio.Future[bool] = self._loop.create_future()
        self._idle.setdefault(worker_id, set()).add(future)
        try:
            return await _within(self._loop, future, timeout, False)
        finally:
            _discard(self._idle, worker_id, future)

    async def claim(self, worker_id: str, *, limit: int, lease: float) -> list[Claim]:
        """See `OrderStore.claim`."""
        self._check_open()
        book, now = self._book, self._clock()
        until = now + lease
        taken: list[Entry] = []
        room = self._limits.claimed_bytes
        while len(taken) < limit and room > 0:
            entry = book.next_in_line(worker_id)
            if entry is None:
                break
            order = entry.order
            if order.deadline is not None and state.overdue(order, now=now):
                self._expire(entry, now)
                continue
            book.claim(entry, state.claim(order, token=next(self._tokens), until=until, now=now))
            self._changed(entry, now)
            taken.append(entry)
            room -= entry.size
        if not taken:
            return []
        self._wake_sleepers(until)
        claims = []
        for entry in taken:
            if entry.request is None:
                return await self._claims_read(taken)
            claims.append(_claim(entry.order, entry.request))
        return claims

    async def extend(self, claims: Sequence[tuple[str, int]], lease: float) -> list[str]:
        """See `OrderStore.extend`."""
        self._check_open()
        until = self._clock() + lease
        lost = []
        for work_order_id, token in claims:
            entry = self._book.find(work_order_id)
            if entry is None:
                lost.append(work_order_id)
                continue
            try:
                self._book.extend(entry, state.extend(entry.order, token=token, until=until))
            except StaleClaim:
                lost.append(work_order_id)
        self._wake_sleepers(until)
        return lost

    async def release(self, work_order_id: str, token: int, *, crashed: bool = False) -> None:
        """See `OrderStore.release`."""
        entry = await self._held(work_order_id)
        if crashed:
            limit = self._limits.max_crashes
            crash = state.crash(entry.order, token=token, max_crashes=limit, now=self._clock())
            await self._write(entry, crash)
        else:
            self._return(entry, state.release(entry.order, token=token))

    async def complete(self, work_order_id: str, token: int, result: bytes) -> None:
        """See `OrderStore.complete`."""
        entry = self._book.find(work_order_id)
        if entry is None or entry.settling or self._closed:
            entry = await self._held(work_order_id)
        now = self._clock()
        try:
            final = state.complete(entry.order, token=token, result=result, now=now)
        except StaleClaim:
            if entry.order.token == token and state.overdue(entry.order, now=now):
                self._expire(entry, now)
            raise
        await self._write(entry, final)

    async def fail(self, work_order_id: str, token: int, failure: OrderFailure) -> None:
        """See `OrderStore.fail`."""
        entry = await self._held(work_order_id)
        await self._write(entry, state.fail(entry.order, token=token, failure=failure, now=self._clock()))

    def watch_revoked(self, worker_id: str, revoked: Revoked) -> Callable[[], None]:
        """See `OrderStore.watch_revoked`."""
        self._watchers.setdefault(worker_id, []).append(revoked)

        def end() -> None:
            watchers = self._watchers.get(worker_id, [])
            if revoked in watchers:
                watchers.remove(revoked)
            if not watchers:
                self._watchers.pop(worker_id, None)

        return end

    # Housekeepers

    async def expire_due(self) -> float | None:
        """See `OrderStore.expire_due`."""
        self._check_open()
        now = self._clock()
        expiring = [self._expire(entry, now) for entry in self._book.overdue(now)]
        for entry in self._book.lapsed(now):
            token = entry.order.token
            self._return(entry, state.lapse(entry.order))
            self._revoke(entry.order, token)
        if expiring:
            for outcome in await asyncio.gather(*expiring, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome
        return self._book.next_due()

    async def due_earlier(self, than: float | None) -> None:
        """See `OrderStore.due_earlier`."""
        self._check_open()
        due = self._book.next_due()
        if due is not None and (than is None or due < than):
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._sleepers[future] = than
        try:
            await future
        finally:
            self._sleepers.pop(future, None)

    async def purge(self, *, older_than: float, keep: int, spare: Collection[str] = ()) -> int:
        """See `OrderStore.purge`."""
        self._check_open()
        number = 0
        while True:
            now = self._clock()
            purged = await self._journal.purge(
                older_than=older_than,
                surplus=max(0, sum(self._finished.values()) - keep),
                spare=frozenset(spare).union(self._asking),
                now=now,
                forget_before=now - self._limits.tombstone_horizon,
            )
            for work_order_id, final in purged.states.items():
                self._finished[final] -= 1
                self._recent.drop(work_order_id)
            number += len(purged.states)
            self._purged += len(purged.states)
            if not purged.more:
                return number

    def open_count(self) -> int:
        """How many orders are open."""
        return len(self._book)

    async def counts(self) -> OrderCounts:
        """See `OrderStore.counts`."""
        finished = self._finished
        return OrderCounts(
            scheduled=len(self._book) - self._book.processing,
            processing=self._book.processing,
            completed=finished[OrderState.COMPLETED],
            failed=finished[OrderState.FAILED],
            cancelled=finished[OrderState.CANCELLED],
            expired=finished[OrderState.EXPIRED],
            put_back=self._put_back,
            purged=self._purged,
        )

    async def close(self) -> None:
        """Refuse everything from now on and wake whoever waits; the journal is closed by whoever opened it."""
        self._closed = True
        futures: list[asyncio.Future[Order | None] | asyncio.Future[bool] | asyncio.Future[None]] = []
        futures.extend(future for waiting in self._waiting.values() for future in waiting)
        futures.extend(future for idle in self._idle.values() for future in idle)
        futures.extend(self._sleepers)
        for future in futures:
            if not future.done():
                future.set_exception(StoreClosed())

    # What the journal says

    def accepted(self, arrival: _Arrival) -> None:
        """Show an order that is durable now."""
        order = arrival.order
        request = arrival.request
        entry = Entry(order, self._keep(request), len(request), arrival.origin)
        self._book.add(entry)
        self._changed(entry, order.accepted_at)
        self._wake_idle(order.worker_id)
        if order.deadline is not None:
            self._wake_sleepers(order.deadline)

    def arrived(self, arrival: _Arrival, *, refused: bool) -> None:
        """Forget an order that is on its way to the disk no more."""
        del self._arriving[arrival.order.work_order_id]
        if refused:
            self._make_room(arrival.order, arrival.origin)
            if arrival.stowed is not None:
                self._journal.drop(arrival.stowed)

    def written(self, writing: _Writing) -> None:
        """Show the new state of an order that is durable now."""
        entry, order = writing.entry, writing.order
        if order.state is _SCHEDULED:
            self._put_back += 1
            self._book.replace(entry, order)
            self._changed(entry, self._clock())
            self._wake_idle(order.worker_id)
            return
        before = entry.order
        self._book.remove(entry)
        self._make_room(order, entry.origin)
        if entry.request is not None:
            self._kept_bytes -= len(entry.request)
        self._finished[order.state] += 1
        self._recent.put(order)
        for waiting in self._waiting.pop(order.work_order_id, ()):
            if not waiting.done():
                waiting.set_result(order)
        if order.work_order_id in self._followers:
            assert order.finished_at is not None
            self._tell(_event(order, order.finished_at))
        if before.state is _PROCESSING and order.state in {OrderState.CANCELLED, OrderState.EXPIRED}:
            self._revoke(order, before.token)

    def unwritten(self, writing: _Writing) -> None:
        """Restore an order whose new state could not be written."""
        if writing.stowed is not None:
            self._journal.drop(writing.stowed)
        again = self._clock() + _RETRY_AFTER
        self._book.restore(writing.entry, not_due_before=again)
        order = writing.entry.order
        if order.state is _SCHEDULED:
            self._wake_idle(order.worker_id)
        due = self._book.next_due()
        if due is not None:
            self._wake_sleepers(due)

    # Inside

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed

    async def _known(self, new: NewOrder) -> Submission | None:
        """What becomes of an order whose id is in memory; None if it is not, and is not just arriving either."""
        work_order_id = new.work_order_id
        while True:
            self._check_open()
            entry = self._book.find(work_order_id)
            if entry is not None:
                return _repeated(new, entry.order)
            arriving = self._arriving.get(work_order_id)
            if arriving is None:
                break
            await arriving.end()
        recent = self._recent.get(work_order_id)
        return _repeated(new, recent) if recent is not None else None

    def _check_room(self, new: NewOrder) -> None:
        limits = self._limits
        if len(new.request) > limits.max_request:
            size = len(new.request)
            raise RequestTooLarge(
                new.work_order_id, f"got {size} bytes, expected at most {limits.max_request}"
            )
        if len(self._book) + len(self._arriving) >= limits.max_queued:
            raise QueueFull(
                f"{limits.max_queued} orders are open, which is as many as are accepted; try again later"
            )
        if self._of_requesters.full(new.requester_id):
            raise QueueFull(
                f"{limits.max_queued_per_requester} orders of this requester are open, which is as many as one "
                "may have; try again when some are finished"
            )
        if self._of_origins.full(new.origin):
            raise QueueFull(
                f"{limits.max_queued_per_origin} orders from this address are open, which is as many as one "
                "may have; try again when some are finished"
            )

    def _announce(self, arrival: _Arrival) -> _Arrival:
        self._arriving[arrival.order.work_order_id] = arrival
        self._of_requesters.take(arrival.order.requester_id)
        self._of_origins.take(arrival.origin)
        return arrival

    def _make_room(self, order: Order, origin: str) -> None:
        self._of_requesters.give_back(order.requester_id)
        self._of_origins.give_back(origin)

    def _changed(self, entry: Entry, at: float) -> None:
        entry.since = at
        if self._followers and entry.order.work_order_id in self._followers:
            self._tell(_event(entry.order, at))

    def _tell(self, event: OrderEvent) -> None:
        for followed in tuple(self._followers.get(event.work_order_id, ())):
            try:
                followed(event)
            except Exception:  # noqa: BLE001 # a follower's fault must not reach whoever changed the order
                _log.exception("a follower failed on work order %s", event.work_order_id)

    def _keep(self, request: bytes | None) -> bytes | None:
        if request is None or len(request) > self._limits.kept_request:
            return None
        if self._kept_bytes + len(request) > self._limits.kept_requests:
            return None
        self._kept_bytes += len(request)
        return request

    def _write(self, entry: Entry, order: Order) -> asyncio.Future[None]:
        self._book.settle(entry)
        writing = _Writing(self, entry, order)
        self._journal.change(writing)
        return writing.answer

    def _expire(self, entry: Entry, now: float) -> asyncio.Future[None]:
        expiring = self._write(entry, state.expire(entry.order, now=now))
        expiring.add_done_callback(_note_unexpired)
        return expiring

    def _return(self, entry: Entry, scheduled: Order) -> None:
        self._put_back += 1
        self._book.put_back(entry, scheduled)
        self._changed(entry, self._clock())
        self._wake_idle(scheduled.worker_id)

    async def _settled(self, work_order_id: str) -> Entry | None:
        while True:
            self._check_open()
            entry = self._book.find(work_order_id)
            if entry is None or not entry.settling:
                return entry
            if entry.settled is None:
                entry.settled = self._loop.create_future()
            await asyncio.shield(entry.settled)

    async def _held(self, work_order_id: str) -> Entry:
        entry = await self._settled(work_order_id)
        if entry is None:
            raise StaleClaim(work_order_id)
        return entry

    async def _present(self, work_order_id: str) -> Order:
        self._check_open()
        entry = self._book.find(work_order_id)
        return entry.order if entry is not None else await self._final(work_order_id)

    async def _final(self, work_order_id: str) -> Order:
        order = self._recent.get(work_order_id)
        if order is None:
            order = await self._journal.finished(work_order_id)
            if order is None:
                raise UnknownWorkOrder(work_order_id)
            self._recent.put(order)
        return order

    async def _used_before(self, new: NewOrder, conflict: Conflict) -> Submission:
        if conflict.digest == new.digest and not conflict.purged:
            try:
                return _repeated(new, await self._present(new.work_order_id))
            except UnknownWorkOrder:
                conflict = Conflict(digest=conflict.digest, purged=True)
        if conflict.purged:
            raise DuplicateWorkOrder(
                new.work_order_id, "was finished and has been removed since; submit under a fresh id"
            )
        raise DuplicateWorkOrder(new.work_order_id)

    async def _claims_read(self, taken: list[Entry]) -> list[Claim]:
        tokens = [entry.order.token for entry in taken]
        requests: list[bytes | None] = []
        try:
            for entry in taken:
                request = entry.request
                requests.append(
                    request if request is not None else await self._journal.request(entry.order.work_order_id)
                )
        except BaseException:
            for entry, token in zip(taken, tokens, strict=True):
                if self._still_held(entry, token):
                    self._return(entry, state.release(entry.order, token=token))
            raise
        claims = []
        for entry, token, request in zip(taken, tokens, requests, strict=True):
            if not self._still_held(entry, token):
                continue
            if request is not None:
                claims.append(_claim(entry.order, request))
            else:
                # Else it would be claimed again and again until its deadline.
                self._write(entry, state.fail(entry.order, token=token, failure=_LOST, now=self._clock()))
        return claims

    def _still_held(self, entry: Entry, token: int) -> bool:
        present = self._book.find(entry.order.work_order_id)
        order = entry.order
        return present is entry and not entry.settling and order.token == token and order.state is _PROCESSING

    def _revoke(self, order: Order, token: int) -> None:
        for revoked in tuple(self._watchers.get(order.worker_id, ())):
            try:
                revoked(order.work_order_id, token)
            except Exception:  # noqa: BLE001 # a watcher's fault must not reach whoever cancelled the order
                _log.exception("a watcher of revoked claims failed on work order %s", order.work_order_id)

    def _wake_idle(self, worker_id: str) -> None:
        if self._idle:
            for future in self._idle.pop(worker_id, ()):
                if not future.done():
                    future.set_result(True)

    def _wake_sleepers(self, due: float) -> None:
        for future, than in self._sleepers.items():
            if (than is None or due < than) and not future.done():
                future.set_result(None)


class _Arrival(Acceptance):
    __slots__ = ("_end", "_orders", "answer", "origin")

    def __init__(self, orders: BookedOrders, order: Order, new: NewOrder, stowed: str | None) -> None:
        super().__init__(order, new.request, stowed)
        self._orders = orders
        self.origin = new.origin
        self._end: asyncio.Future[None] | None = None
        self.answer: asyncio.Future[Conflict | None] = asyncio.get_running_loop().create_future()

    async def end(self) -> None:
        """Wait until it is known what became of the order."""
        if self._end is None:
            self._end = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._end)

    def settle(self, trouble: StoreUnavailable | Conflict | None) -> None:
        self._orders.arrived(self, refused=trouble is not None)
        if trouble is None:
            self._orders.accepted(self)
        answer = self.answer
        if not answer.done():
            if isinstance(trouble, StoreUnavailable):
                answer.set_exception(trouble)
            else:
                answer.set_result(trouble)
        if self._end is not None:
            self._end.set_result(None)


class _Writing(Change):
    __slots__ = ("_orders", "answer", "entry")

    def __init__(self, orders: BookedOrders, entry: Entry, order: Order) -> None:
        super().__init__(order)
        self._orders = orders
        self.entry = entry
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self, trouble: StoreUnavailable | None) -> None:
        answer = self.answer
        if trouble is None:
            self._orders.written(self)
            if not answer.done():
                answer.set_result(None)
        else:
            self._orders.unwritten(self)
            if not answer.done():
                answer.set_exception(trouble)


def _claim(order: Order, request: bytes) -> Claim:
    return Claim(
        work_order_id=order.work_order_id,
        token=order.token,
        request=request,
        deadline=order.deadline,
        attempt=order.attempts,
        requester_id=order.requester_id,
    )


def _event(order: Order, at: float) -> OrderEvent:
    return OrderEvent(work_order_id=order.work_order_id, state=order.state, at=at, attempts=order.attempts)


def _repeated(new: NewOrder, known: Order) -> Submission:
    if known.digest != new.digest:
        raise DuplicateWorkOrder(new.work_order_id)
    return Submission(fresh=False, order=known.view())


def _note_unexpired(expiring: asyncio.Future[None]) -> None:
    if not expiring.cancelled() and (trouble := expiring.exception()) is not None:
        _log.warning("an order past its deadline could not be expired yet: %s", trouble)


async def _within(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[_T],
    timeout: float | None,
    late: _T,
) -> _T:
    """The future's result, or `late` when the time-out ends first."""
    if timeout is None:
        return await future
    timer = loop.call_later(timeout, _settle_late, future, late)
    try:
        return await future
    finally:
        timer.cancel()


def _settle_late(future: asyncio.Future[_T], late: _T) -> None:
    if not future.done():
        future.set_result(late)


def _discard(futures: dict[str, set[asyncio.Future[_T]]], key: str, future: asyncio.Future[_T]) -> None:
    there = futures.get(key)
    if there is not None:
        there.discard(future)
        if not there:
            del futures[key]
