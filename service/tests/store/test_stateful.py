"""Random histories against a model of a few dozen lines, on every store, with crashes and lost answers."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from avalon_service.orders.errors import DuplicateWorkOrder, QueueFull, StaleClaim, UnknownWorkOrder
from avalon_service.orders.ports import NewOrder, OrderState, OrderView, Store
from avalon_service.store.conformance import FAILURE, WITHDRAWN, ManualClock
from avalon_service.store.faulty import Faults, FaultyStore, InjectedFault
from avalon_service.store.limits import Limits
from avalon_service.store.memory import MemoryJournal, MemoryStore
from avalon_service.store.sqlite import SqliteStore

T = TypeVar("T")

LIMITS = Limits(max_queued=6, max_crashes=2, kept_request=8, tombstone_horizon=500.0, recent_bytes=4096)
WORKERS = ("w1", "w2")
NAMES = st.sampled_from([f"order-{i}" for i in range(12)])
REQUESTS = st.sampled_from([b"small", b"larger than is kept"])


class Model:
    """What is known of one accepted order."""

    def __init__(self, place: int, worker_id: str, request: bytes, deadline: float | None) -> None:
        self.place = place
        self.worker_id = worker_id
        self.request = request
        self.deadline = deadline
        self.token: int | None = None
        self.lease_until = 0.0
        self.crashes = 0
        self.final: OrderView | None = None

    def overdue(self, now: float) -> bool:
        return self.deadline is not None and self.deadline <= now


class OrdersMachine(RuleBasedStateMachine):
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.faults = Faults()
        self.model: dict[str, Model] = {}
        self.tombstones: dict[str, tuple[bytes, float]] = {}
        self.finals: dict[str, OrderView] = {}
        self.places = 0
        self.last_token = 0

    async def open(self) -> Store:
        raise NotImplementedError

    async def crash(self) -> Store:
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.inner = self.run(self.open())
        self.store = FaultyStore(self.inner, self.faults)

    def teardown(self) -> None:
        self.run(self.inner.close())
        self.runner.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def open_orders(self) -> dict[str, Model]:
        return {name: order for name, order in self.model.items() if order.final is None}

    def finish(self, name: str, state: OrderState) -> None:
        view = self.run(self.store.orders.wait(name, 5.0))
        assert view.state is state
        self.model[name].final = self.finals[name] = view
        self.model[name].token = None

    @rule(
        name=NAMES,
        worker_id=st.sampled_from(WORKERS),
        request=REQUESTS,
        patience=st.none() | st.integers(1, 60),
        fault=st.sampled_from(["", "", "", "fail", "lose"]),
    )
    def submit(self, name: str, worker_id: str, request: bytes, patience: int | None, fault: str) -> None:
        deadline = None if patience is None else self.clock.now + patience
        new = NewOrder(
            work_order_id=name, worker_id=worker_id, requester_id="r", request=request, deadline=deadline
        )
        known, buried = self.model.get(name), self.tombstones.get(name)
        if fault:
            plan = self.faults.fail if fault == "fail" else self.faults.lose_answer
            plan("submit")
        answer: bool | None = None
        try:
            answer = self.run(self.store.orders.submit(new)).fresh
        except InjectedFault:
            if fault == "fail":
                return
            answer = known is None
        except DuplicateWorkOrder:
            assert buried is not None or (known is not None and known.request != request)
            return
        except QueueFull:
            assert len(self.open_orders()) == LIMITS.max_queued
            assert known is None or known.final is not None
            return
        finally:
            self.faults.clear()
        assert buried is None
        assert answer is (known is None)
        if known is None:
            self.places += 1
            self.model[name] = Model(self.places, worker_id, request, deadline)
        else:
            assert known.request == request

    @rule(
        target=claims, worker_id=st.sampled_from(WORKERS), limit=st.integers(1, 4), lease=st.integers(5, 40)
    )
    def claim(self, worker_id: str, limit: int, lease: int) -> list[tuple[str, int]]:
        line = sorted(
            (order.place, name)
            for name, order in self.open_orders().items()
            if order.worker_id == worker_id and order.token is None
        )
        claims = self.run(self.store.orders.claim(worker_id, limit=limit, lease=lease))
        taken = []
        for _, name in line:
            if len(taken) == limit:
                break
            if self.model[name].overdue(self.clock.now):
                self.finish(name, OrderState.EXPIRED)
            else:
                taken.append(name)
        assert [claim.work_order_id for claim in claims] == taken
        for claim in claims:
            assert claim.token > self.last_token
            self.last_token = claim.token
            order = self.model[claim.work_order_id]
            assert claim.request == order.request
            order.token, order.lease_until = claim.token, self.clock.now + lease
        return [(claim.work_order_id, claim.token) for claim in claims]

    @rule(
        claims=claims,
        how=st.sampled_from(["complete", "fail", "release", "crash", "extend", "lost complete"]),
    )
    def act(self, claims: list[tuple[str, int]], how: str) -> None:
        for name, token in claims[:2]:
            known = self.model.get(name)
            held = known is not None and known.final is None and known.token == token
            try:
                self.act_once(name, token, how, held)
            except StaleClaim:
                late = (
                    held and how.endswith("complete") and known is not None and known.overdue(self.clock.now)
                )
                assert late or not held
                if late:
                    self.finish(name, OrderState.EXPIRED)
            finally:
                self.faults.clear()

    def act_once(self, name: str, token: int, how: str, held: bool) -> None:
        orders = self.store.orders
        match how:
            case "extend":
                lost = self.run(orders.extend([(name, token)], 50.0))
                assert lost == ([] if held else [name])
                if held:
                    self.model[name].lease_until = self.clock.now + 50.0
            case "complete":
                self.run(orders.complete(name, token, b"result"))
                self.finish(name, OrderState.COMPLETED)
            case "lost complete":
                self.faults.lose_answer("complete")
                with pytest.raises(InjectedFault):
                    self.run(orders.complete(name, token, b"result"))
                self.finish(name, OrderState.COMPLETED)
            case "fail":
                self.run(orders.fail(name, token, FAILURE))
                self.finish(name, OrderState.FAILED)
            case _:
                self.run(orders.release(name, token, crashed=how == "crash"))
                order = self.model[name]
                order.token = None
                order.crashes += how == "crash"
                if order.crashes == LIMITS.max_crashes:
                    self.finish(name, OrderState.FAILED)
        if how != "extend":
            assert held

    @rule(name=NAMES, expired=st.booleans())
    def cancel(self, name: str, expired: bool) -> None:
        known = self.model.get(name)
        try:
            view = self.run(self.store.orders.cancel(name, WITHDRAWN, expired=expired))
        except UnknownWorkOrder:
            assert known is None
            return
        assert known is not None
        if known.final is None:
            self.finish(name, OrderState.EXPIRED if expired else OrderState.CANCELLED)
        assert view == self.model[name].final

    @rule(seconds=st.integers(-10, 45))
    def time_passes(self, seconds: int) -> None:
        self.clock.now += seconds
        due = self.run(self.store.orders.expire_due())
        moments = []
        for name, order in self.open_orders().items():
            if order.overdue(self.clock.now):
                self.finish(name, OrderState.EXPIRED)
                continue
            if order.token is not None and order.lease_until <= self.clock.now:
                order.token = None
            moments += [order.deadline] if order.deadline is not None else []
            moments += [order.lease_until] if order.token is not None else []
        assert due == min(moments, default=None)

    @rule(abruptly=st.booleans())
    def restart(self, abruptly: bool) -> None:
        if abruptly:
            self.inner = self.run(self.crash())
        else:
            self.run(self.inner.close())
            self.inner = self.run(self.open())
        self.store = FaultyStore(self.inner, self.faults)
        for order in self.model.values():
            order.token = None

    @rule(age=st.integers(0, 60), keep=st.integers(0, 6))
    def purge(self, age: int, keep: int) -> None:
        older_than = self.clock.now - age
        finished = [
            (order.final.finished_at, order.place, name) for name, order in self.model.items() if order.final
        ]
        finished.sort()
        surplus = max(0, len(finished) - keep)
        victims = [
            name for i, (when, _, name) in enumerate(finished) if i < surplus or (when or 0) < older_than
        ]
        assert self.run(self.store.orders.purge(older_than=older_than, keep=keep)) == len(victims)
        for name in victims:
            self.tombstones[name] = (self.model.pop(name).request, self.clock.now)
            del self.finals[name]
        forget = self.clock.now - LIMITS.tombstone_horizon
        self.tombstones = {name: buried for name, buried in self.tombstones.items() if buried[1] >= forget}

    @invariant()
    def every_order_is_there_and_no_outcome_changes(self) -> None:
        if not hasattr(self, "store"):
            return
        for name, order in self.model.items():
            view = self.run(self.store.orders.get(name))
            assert view is not None
            if order.final is not None:
                assert view == self.finals[name]
            else:
                held = order.token is not None
                assert view.state is (OrderState.PROCESSING if held else OrderState.SCHEDULED)

    @invariant()
    def counts_match(self) -> None:
        if not hasattr(self, "store"):
            return
        counts = self.run(self.store.orders.counts())
        states: dict[str, int] = {}
        for order in self.model.values():
            state = order.final.state if order.final else ("processing" if order.token else "scheduled")
            states[state] = states.get(state, 0) + 1
        for state in OrderState:
            assert getattr(counts, state.value) == states.get(state.value, 0)


class MemoryMachine(OrdersMachine):
    def __init__(self) -> None:
        super().__init__()
        self.journal = MemoryJournal()

    async def open(self) -> Store:
        return MemoryStore(clock=self.clock, limits=LIMITS, journal=self.journal)

    async def crash(self) -> Store:
        return await self.open()


class SqliteMachine(OrdersMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.crashes = 0

    @property
    def path(self) -> Path:
        return self.folder / f"{self.crashes}.db"

    async def open(self) -> Store:
        return await SqliteStore.open(self.path, clock=self.clock, limits=LIMITS)

    async def crash(self) -> Store:
        """Continue on what is in the files now, as after a power cut."""
        before = self.path
        self.crashes += 1
        for suffix in ("", "-wal"):
            if (source := Path(f"{before}{suffix}")).exists():
                shutil.copy(source, f"{self.path}{suffix}")
        await self.inner.close()
        return await self.open()

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=120, stateful_step_count=40, deadline=None, derandomize=False)
TestSqlite = SqliteMachine.TestCase
TestSqlite.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
