"""Deliveries in memory: see `memory`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from msgspec.structs import replace

from avalon_service.deliveries.ports import Delivery, DeliveryCounts, DeliveryKind, DeliveryState, Id, Post
from avalon_service.orders.errors import StoreClosed


class MemoryDeliveryJournal:
    """What outlives a `MemoryDeliveries`."""

    def __init__(self) -> None:
        self.deliveries: dict[int, Delivery] = {}
        self.numbers = itertools.count(1)


class MemoryDeliveries:
    """A `DeliveryStore` in memory."""

    def __init__(self, journal: MemoryDeliveryJournal) -> None:
        self._journal = journal
        self._closed = False

    async def plan(
        self, work_order_id: str, posts: Sequence[Post], *, call_id: Id, now: float
    ) -> list[Delivery]:
        """See `DeliveryStore.plan`."""
        self._check_open()
        new: list[Delivery] = []
        for post in posts:
            if self._planned(work_order_id, post.kind):
                continue
            delivery = Delivery(
                number=next(self._journal.numbers),
                work_order_id=work_order_id,
                kind=post.kind,
                uri=post.uri,
                call_id=call_id,
                planned_at=now,
            )
            self._journal.deliveries[delivery.number] = delivery
            new.append(delivery)
        return new

    async def pending(self) -> list[Delivery]:
        """See `DeliveryStore.pending`."""
        self._check_open()
        return self._in_state(DeliveryState.PENDING)

    async def postpone(self, number: int, *, attempts: int, due_at: float, error: str) -> None:
        """See `DeliveryStore.postpone`."""
        self._check_open()
        known = self._journal.deliveries.get(number)
        if known is not None and known.state is DeliveryState.PENDING:
            self._journal.deliveries[number] = replace(
                known, attempts=attempts, due_at=due_at, last_error=error
            )

    async def finish(
        self, number: int, state: DeliveryState, *, attempts: int, now: float, error: str = ""
    ) -> None:
        """See `DeliveryStore.finish`."""
        self._check_open()
        known = self._journal.deliveries.get(number)
        if known is not None and known.state is DeliveryState.PENDING:
            self._journal.deliveries[number] = replace(
                known, state=state, attempts=attempts, due_at=None, finished_at=now, last_error=error
            )

    async def counts(self) -> DeliveryCounts:
        """See `DeliveryStore.counts`."""
        return DeliveryCounts(**{state.value: len(self._in_state(state)) for state in DeliveryState})

    async def page(self, state: DeliveryState, *, limit: int, before: int | None = None) -> list[Delivery]:
        """See `DeliveryStore.page`."""
        self._check_open()
        found = [delivery for delivery in self._in_state(state) if before is None or delivery.number < before]
        return found[::-1][:limit]

    async def purge(self, *, older_than: float, keep: int) -> int:
        """See `DeliveryStore.purge`."""
        self._check_open()
        ends = sorted(
            (delivery.finished_at, number)
            for number, delivery in self._journal.deliveries.items()
            if delivery.finished_at is not None
        )
        surplus = max(0, len(ends) - keep)
        victims = [number for place, (end, number) in enumerate(ends) if place < surplus or end < older_than]
        for number in victims:
            del self._journal.deliveries[number]
        return len(victims)

    async def close(self) -> None:
        """Refuse everything from now on."""
        self._closed = True

    def _planned(self, work_order_id: str, kind: DeliveryKind) -> bool:
        return any(
            delivery.work_order_id == work_order_id and delivery.kind is kind
            for delivery in self._journal.deliveries.values()
        )

    def _in_state(self, state: DeliveryState) -> list[Delivery]:
        return [delivery for delivery in self._journal.deliveries.values() if delivery.state is state]

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed
