"""Random histories against a model of a few dozen lines, on every store, with crashes and lost answers."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from avalon_service.orders.errors import DuplicateWorkOrder, QueueFull, StaleClaim, UnknownWorkOrder
from avalon_service.orders.ports import NewOrder, OrderState, OrderView, Store
from avalon_service.store import identities
from avalon_service.store.conformance import FAILURE, WITHDRAWN, ManualClock
from avalon_service.store.faulty import Faults, FaultyStore, InjectedFault
from avalon_service.store.limits import Limits
from avalon_service.store.memory import MemoryJournal, MemoryStore
from avalon_service.store.sqlite import SqliteStore

T = TypeVar("T")

LIMITS = Limits(
    max_queued=8,
    max_queued_per_requester=4,
    max_queued_per_origin=5,
    max_crashes=2,
    kept_request=8,
    tombstone_horizon=500.0,
    recent_bytes=4096,
)
SQLITE_LIMITS = msgspec.structs.replace(LIMITS, stowed=6)
"""Some bodies are files of their own."""
WORKERS = ("w1", "w2")
REQUESTERS = ("r1", "r2", "r3")
ORIGINS = ("", "here", "there")
NAMES = st.sampled_from([f"order-{i}" for i in range(12)])
REQUESTS = st.sampled_from([b"small", b"larger than is kept"])


class Model:
    """What is known of one accepted order."""

    def __init__(self, place: int, new: NewOrder) -> None:
        self.place = place
        self.worker_id = new.worker_id
        self.requester_id = new.requester_id
        self.origin = new.origin
        self.request = new.request
        self.deadline = new.deadline
        self.token: int | None = None
        self.lease_until = 0.0
        self.crashes = 0
        self.final: OrderView | None = None

    @property
    def scheduled(self) -> bool:
        return self.final is None and self.token is None

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
        self.turns: dict[str, list[str]] = {worker_id: [] for worker_id in WORKERS}
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

    def queue(self, order: Model) -> None:
        """The order is scheduled (again): its requester has a turn, behind the others unless it had one."""
        turns = self.turns[order.worker_id]
        if order.requester_id not in turns:
            turns.append(order.requester_id)

    def forgo_turns(self) -> None:
        """Requesters with nothing scheduled have no turn."""
        for worker_id, turns in self.turns.items():
            waiting = {
                order.requester_id
                for order in self.model.values()
                if order.scheduled and order.worker_id == worker_id
            }
            turns[:] = [requester_id for requester_id in turns if requester_id in waiting]

    def put_back(self, order: Model) -> None:
        order.token = None
        self.queue(order)

    def full(self, new: NewOrder) -> bool:
        open_orders = self.open_orders().values()
        return (
            len(open_orders) == LIMITS.max_queued
            or sum(order.requester_id == new.requester_id for order in open_orders)
            == LIMITS.max_queued_per_requester
            or (
                bool(new.origin)
                and sum(order.origin == new.origin for order in open_orders) == LIMITS.max_queued_per_origin
            )
        )

    def finish(self, name: str, state: OrderState) -> None:
        view = self.run(self.store.orders.wait(name, 5.0))
        assert view.state is state
        self.model[name].final = self.finals[name] = view
        self.model[name].token = None
        self.forgo_turns()

    @rule(
        name=NAMES,
        worker_id=st.sampled_from(WORKERS),
        requester_id=st.sampled_from(REQUESTERS),
        origin=st.sampled_from(ORIGINS),
        request=REQUESTS,
        patience=st.none() | st.integers(1, 60),
        fault=st.sampled_from(["", "", "", "fail", "lose"]),
    )
    def submit(
        self,
        name: str,
        worker_id: str,
        requester_id: str,
        origin: str,
        request: bytes,
        patience: int | None,
        fault: str,
    ) -> None:
        deadline = None if patience is None else self.clock.now + patience
        new = NewOrder(
            work_order_id=name,
            worker_id=worker_id,
            requester_id=requester_id,
            origin=origin,
            request=request,
            deadline=deadline,
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
            assert self.full(new)
            assert known is None or known.final is not None
            return
        finally:
            self.faults.clear()
        assert buried is None
        assert answer is (known is None)
        if known is None:
            assert not self.full(new)
            self.places += 1
            self.model[name] = Model(self.places, new)
            self.queue(self.model[name])
        else:
            assert known.request == request

    @rule(
        target=claims, worker_id=st.sampled_from(WORKERS), limit=st.integers(1, 4), lease=st.integers(5, 40)
    )
    def claim(self, worker_id: str, limit: int, lease: int) -> list[tuple[str, int]]:
        taken, expired = self.next_in_turn(worker_id, limit)
        claims = self.run(self.store.orders.claim(worker_id, limit=limit, lease=lease))
        for name in expired:
            self.finish(name, OrderState.EXPIRED)
        assert [claim.work_order_id for claim in claims] == taken
        for claim in claims:
            assert claim.token > self.last_token
            self.last_token = claim.token
            order = self.model[claim.work_order_id]
            assert claim.request == order.request
            order.token, order.lease_until = claim.token, self.clock.now + lease
        self.forgo_turns()
        return [(claim.work_order_id, claim.token) for claim in claims]

    def next_in_turn(self, worker_id: str, limit: int) -> tuple[list[str], list[str]]:
        """What a claim takes, and what it expires on the way."""
        lines: dict[str, list[str]] = {}
        for name, order in sorted(self.model.items(), key=lambda item: item[1].place):
            if order.scheduled and order.worker_id == worker_id:
                lines.setdefault(order.requester_id, []).append(name)
        turns = self.turns[worker_id]
        assert sorted(turns) == sorted(lines)
        taken: list[str] = []
        expired: list[str] = []
        while turns and len(taken) < limit:
            requester_id = turns.pop(0)
            name = lines[requester_id].pop(0)
            (expired if self.model[name].overdue(self.clock.now) else taken).append(name)
            if lines[requester_id]:
                turns.append(requester_id)
        return taken, expired

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
                order.crashes += how == "crash"
                if order.crashes == LIMITS.max_crashes:
                    self.finish(name, OrderState.FAILED)
                else:
                    self.put_back(order)
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
            lapsed = order.token is not None and order.lease_until <= self.clock.now
            moments += [order.deadline] if order.deadline is not None else []
            moments += [order.lease_until] if order.token is not None and not lapsed else []
        for _, _, name in sorted(
            (order.lease_until, order.place, name)
            for name, order in self.open_orders().items()
            if order.token is not None and order.lease_until <= self.clock.now
        ):
            self.put_back(self.model[name])
        assert due == min(moments, default=None)

    @rule(abruptly=st.booleans())
    def restart(self, abruptly: bool) -> None:
        if abruptly:
            self.inner = self.run(self.crash())
        else:
            self.run(self.inner.close())
            self.inner = self.run(self.open())
        self.store = FaultyStore(self.inner, self.faults)
        self.turns = {worker_id: [] for worker_id in WORKERS}
        for order in sorted(self.model.values(), key=lambda order: order.place):
            order.token, order.origin = None, ""
            if order.final is None:
                self.queue(order)

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
        with patch.multiple(identities, _GENERATION=3, _SLICE=2):
            return await SqliteStore.open(self.path, clock=self.clock, limits=SQLITE_LIMITS)

    async def crash(self) -> Store:
        """Continue on what is in the files now, as after a power cut."""
        before = self.path
        self.crashes += 1
        for suffix in ("", "-wal"):
            if (source := Path(f"{before}{suffix}")).exists():
                shutil.copy(source, f"{self.path}{suffix}")
        shutil.copytree(f"{before}.bodies", f"{self.path}.bodies")
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
