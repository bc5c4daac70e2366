"""Keeps the promise of resultUri and notifyUri: what is planned is posted at least once, or kept as dead.

    plan (before the order is acknowledged) -> the order is final -> post -> delivered
                                                        ^             | failed
                                                        └── pause <───┴──> dead, after the last attempt or a refusal

A post may be made more than once: after a crash between the receiver's answer and the note of it, or where the answer
was lost. Each carries the same ``Idempotency-Key`` every time. Nothing polls: an order's end wakes its deliveries, and
one timer the next that is due.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable

from msgspec.structs import replace
from yarl import URL

from avalon_core.protocol.errors import invalid_order
from avalon_core.protocol.orders import WorkOrderRequest
from avalon_service.deliveries.addresses import AddressRefused, AddressRules
from avalon_service.deliveries.lanes import Lanes
from avalon_service.deliveries.ports import Delivery, DeliveryKind, DeliveryState, DeliveryStore, Id, Post
from avalon_service.deliveries.poster import Poster, PostFailed, PostRefused
from avalon_service.deliveries.retries import Retries
from avalon_service.orders.answers import encode_notification, encode_order
from avalon_service.orders.errors import QueueFull, StoreUnavailable, UnknownWorkOrder
from avalon_service.orders.ports import OrderEvent, OrderStore
from avalon_service.store.timers import Timers

log = logging.getLogger(__name__)

_LARGE_BYTES = 1024 * 1024
_LARGE_POSTS = 8
"""Posts beyond that size under way at the same time: what bounds the memory that slow receivers hold."""

_STORE_PAUSE = 5.0
"""Seconds until a delivery is tried again whose outcome could not be stored."""


class Deliverer:
    """Plans and makes deliveries. `load` first, then `run`."""

    def __init__(
        self,
        *,
        store: DeliveryStore,
        orders: OrderStore,
        poster: Poster,
        rules: AddressRules,
        retries: Retries,
        max_pending: int,
        concurrency: int,
        per_host: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._orders = orders
        self._poster = poster
        self._rules = rules
        self._retries = retries
        self._max_pending = max_pending
        self._clock = clock
        self._pending: dict[int, Delivery] = {}
        self._loaded: list[Delivery] = []
        self._following: dict[int, Callable[[], None]] = {}
        self._due = Timers()
        self._lanes = Lanes(limit=concurrency, per_receiver=per_host)
        self._large = asyncio.Semaphore(_LARGE_POSTS)
        self._posting: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    # Submitters

    def posts_of(self, request: WorkOrderRequest) -> tuple[Post, ...]:
        """The posts that an order asks for. A synchronous order is answered, so it asks for none.

        Raises:
            WorkOrderError: code 2, an address is refused.
            QueueFull: as many posts are pending as the service promises.
        """
        if request.response_timeout_msecs or not (request.result_uri or request.notify_uri):
            return ()
        posts = []
        for name, kind, uri in (
            ("resultUri", DeliveryKind.RESULT, request.result_uri),
            ("notifyUri", DeliveryKind.NOTIFY, request.notify_uri),
        ):
            if uri:
                try:
                    self._rules.check_uri(uri)
                except AddressRefused as exc:
                    raise invalid_order(f"{name}: {exc}") from None
                posts.append(Post(kind=kind, uri=uri))
        if len(self._pending) + len(posts) > self._max_pending:
            raise QueueFull(
                "as many results are waiting to be posted as the service takes on; try again later"
            )
        return tuple(posts)

    async def plan(self, work_order_id: str, posts: tuple[Post, ...], call_id: Id) -> None:
        """Promise posts for an order that is stored. To plan the same again changes nothing.

        Raises:
            StoreUnavailable: nothing is promised.
        """
        for delivery in await self._store.plan(work_order_id, posts, call_id=call_id, now=self._clock()):
            self._pending[delivery.number] = delivery
            await self._track(delivery)

    # Housekeepers

    def orders_to_keep(self) -> frozenset[str]:
        """The orders that must not be purged yet."""
        return frozenset(delivery.work_order_id for delivery in self._pending.values())

    async def purge(self, *, older_than: float, keep: int) -> int:
        """See `DeliveryStore.purge`."""
        return await self._store.purge(older_than=older_than, keep=keep)

    # The service

    async def load(self) -> None:
        """Take up what was promised before a restart.

        Raises:
            StoreUnavailable
        """
        self._loaded = await self._store.pending()
        self._pending = {delivery.number: delivery for delivery in self._loaded}
        if self._loaded:
            log.info("deliveries taken up count=%d", len(self._loaded))

    async def run(self) -> None:
        """Make deliveries until cancelled; posts under way are then broken off, and made again after a restart."""
        try:
            loaded, self._loaded = self._loaded, []
            for delivery in loaded:
                await self._track(delivery)
            while True:
                self._wake.clear()
                self._start()
                due = self._due.next()
                try:
                    async with asyncio.timeout(None if due is None else max(0.0, due - self._clock())):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            for end in self._following.values():
                end()
            for task in self._posting:
                task.cancel()
            await asyncio.gather(*self._posting, return_exceptions=True)

    async def _track(self, delivery: Delivery) -> None:
        number = delivery.number
        if delivery.due_at is not None:
            self._set_due(number, delivery.due_at)
            return
        self._following[number] = self._orders.follow(
            delivery.work_order_id, functools.partial(self._changed, number)
        )
        try:
            latest = await self._orders.latest(delivery.work_order_id)
        except UnknownWorkOrder:
            self._ready(number)
        except StoreUnavailable:
            self._set_due(number, self._clock() + _STORE_PAUSE)
        else:
            self._changed(number, latest)

    def _changed(self, number: int, event: OrderEvent) -> None:
        if event.state.final:
            self._ready(number)

    def _ready(self, number: int) -> None:
        """The order is final: post, unless that is under way."""
        end = self._following.pop(number, None)
        if end is not None:
            end()
            self._put(number)

    def _put(self, number: int) -> None:
        self._lanes.put(_receiver(self._pending[number].uri), number)
        self._wake.set()

    def _set_due(self, number: int, due_at: float) -> None:
        self._due.set(number, due_at)
        self._wake.set()

    def _start(self) -> None:
        for number in self._due.due(self._clock()):
            end = self._following.pop(number, None)
            if end is not None:
                end()
            self._put(number)
        while (taken := self._lanes.take()) is not None:
            receiver, number = taken
            task = asyncio.create_task(self._deliver(self._pending[number], receiver))
            self._posting.add(task)
            task.add_done_callback(self._posting.discard)

    async def _deliver(self, delivery: Delivery, receiver: str) -> None:
        failed = True
        try:
            failed = await self._attempt(delivery)
        except StoreUnavailable as exc:
            log.error(
                "delivery not noted, it will be repeated order=%s reason=%s", delivery.work_order_id, exc
            )
            self._set_due(delivery.number, self._clock() + _STORE_PAUSE)
        except Exception:
            log.exception("delivery broke off, it will be repeated order=%s", delivery.work_order_id)
            self._set_due(delivery.number, self._clock() + _STORE_PAUSE)
        finally:
            self._lanes.done(receiver, failed=failed)
            self._wake.set()

    async def _attempt(self, delivery: Delivery) -> bool:
        """Post once and note the outcome; return whether it failed."""
        attempts = delivery.attempts + 1
        try:
            await self._post(delivery)
        except PostFailed as exc:
            pause = self._retries.pause_after(attempts)
            if pause is None:
                await self._finish(delivery, DeliveryState.DEAD, attempts, f"tried {attempts} times: {exc}")
            else:
                await self._postpone(delivery, attempts, self._clock() + pause, str(exc))
            return True
        except PostRefused as exc:
            await self._finish(delivery, DeliveryState.DEAD, attempts, str(exc))
            return True
        await self._finish(delivery, DeliveryState.DELIVERED, attempts)
        return False

    async def _post(self, delivery: Delivery) -> None:
        key = f"{delivery.kind.value}-{delivery.work_order_id}"
        body = await self._body(delivery)
        if len(body) < _LARGE_BYTES:
            await self._poster.post(delivery.uri, body, key=key)
            return
        del body
        async with self._large:
            await self._poster.post(delivery.uri, await self._body(delivery), key=key)

    async def _body(self, delivery: Delivery) -> bytes:
        order = await self._orders.get(delivery.work_order_id)
        if order is None:
            raise PostRefused("the order is not stored any more")
        if not order.state.final:
            raise PostFailed("the order is not finished")
        if delivery.kind is DeliveryKind.NOTIFY:
            return encode_notification(delivery.call_id, order.work_order_id)
        return encode_order(delivery.call_id, order)

    async def _postpone(self, delivery: Delivery, attempts: int, due_at: float, error: str) -> None:
        number = delivery.number
        await self._store.postpone(number, attempts=attempts, due_at=due_at, error=error)
        self._pending[number] = replace(delivery, attempts=attempts, due_at=due_at, last_error=error)
        self._set_due(number, due_at)

    async def _finish(self, delivery: Delivery, state: DeliveryState, attempts: int, error: str = "") -> None:
        await self._store.finish(delivery.number, state, attempts=attempts, now=self._clock(), error=error)
        del self._pending[delivery.number]
        if state is DeliveryState.DEAD:
            log.warning(
                "delivery dead order=%s kind=%s receiver=%s reason=%s",
                delivery.work_order_id,
                delivery.kind.value,
                _receiver(delivery.uri),
                error,
            )


def _receiver(uri: str) -> str:
    """Scheme, host and port: the rest may be a secret between requester and receiver."""
    try:
        return str(URL(uri).origin())
    except ValueError:
        return "?"
