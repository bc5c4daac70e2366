"""Shifts of one worker share its orders; an enclave that gave an order back unseen has not answered it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from avalon_core.channel.messages import Done, Failed, Process, ToEnclave
from avalon_core.protocol.errors import WorkOrderCode
from avalon_service.hosts import shift as shifts
from avalon_service.hosts.shift import HostState, Line, Shift
from avalon_service.orders.ports import NewOrder
from avalon_service.orders.state import OrderState
from avalon_service.registry.requesters import RequesterKeys
from avalon_service.settings import Settings
from avalon_service.store.memory import MemoryStore

WORKER = "aa"


class Enclave:
    """Stands for an enclave: keeps what it is given until the test answers."""

    def __init__(self) -> None:
        self.given: list[Process] = []

    def send(self, message: ToEnclave) -> None:
        if isinstance(message, Process):
            self.given.append(message)

    async def writable(self) -> None: ...

    async def ping(self, timeout: float) -> None: ...

    async def ended(self) -> str:
        await asyncio.Event().wait()
        return ""

    async def shut_down(self, timeout: float) -> None: ...

    def kill(self) -> None: ...


class World:
    """A store and shifts in one line."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.line = Line()
        self.stopping = asyncio.Event()
        self._submitted = 0

    async def submit(self, count: int) -> None:
        for _ in range(count):
            self._submitted += 1
            await self.store.orders.submit(
                NewOrder(
                    work_order_id=f"{self._submitted:04x}",
                    worker_id=WORKER,
                    requester_id=f"{self._submitted:04x}",
                    request=b"{}",
                    deadline=None,
                )
            )

    @asynccontextmanager
    async def serving(
        self, *, in_flight: int = 64, limit: int | None = None
    ) -> AsyncIterator[tuple[Shift, Enclave]]:
        """A shift that takes orders."""
        state = HostState(worker_name="w", worker_id=WORKER)
        settings = Settings(in_flight=in_flight)
        shift = Shift(settings, self.store.orders, RequesterKeys(), None, state, line=self.line)
        enclave = Enclave()
        task = asyncio.create_task(shift.serve(enclave, self.stopping, limit=limit))  # type: ignore[arg-type]
        try:
            yield shift, enclave
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.store.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (tasks that tell nobody)
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("count", [4, 6, 10, 60])
async def test_two_that_are_idle_share_what_comes(world: World, count: int) -> None:
    async with world.serving() as (_, one), world.serving() as (_, two):
        await world.submit(count)
        await until(lambda: len(one.given) + len(two.given) == count)
        assert abs(len(one.given) - len(two.given)) <= 2


async def test_one_alone_takes_all_that_it_may(world: World) -> None:
    async with world.serving(in_flight=50) as (_, alone):
        await world.submit(60)
        await until(lambda: len(alone.given) == 50)
        await asyncio.sleep(0.05)
        assert len(alone.given) == 50


async def test_who_answers_faster_gets_more(world: World) -> None:
    async with world.serving() as (fast, quick), world.serving() as (_, slow):
        answered = 0
        for number in range(30):
            await world.submit(1)
            await until(lambda count=number: len(quick.given) + len(slow.given) > count)  # type: ignore[misc]
            for given in quick.given[answered:]:
                fast.heard(Done(handle=given.handle, result=b"{}", legacy=False))
                answered += 1
        assert len(slow.given) <= 2
        assert len(quick.given) >= 28


async def test_when_one_goes_the_other_takes_over(world: World) -> None:
    async with world.serving() as (_, stays):
        async with world.serving() as (goes, leaves):
            await world.submit(40)
            await until(lambda: len(stays.given) + len(leaves.given) == 40)
        await goes.put_back(crashed=False)
        await until(lambda: len(stays.given) == 40)


async def test_one_that_may_take_no_more_holds_nobody_up(world: World) -> None:
    async with world.serving(limit=1) as (_, last), world.serving() as (_, other):
        await world.submit(20)
        await until(lambda: len(last.given) + len(other.given) == 20)
        assert len(last.given) == 1


async def test_an_order_that_was_given_back_unseen_is_handed_over_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Busy is no answer: it was accepted, so it is processed. After a pause, or a full enclave would be asked in a loop."""
    monkeypatch.setattr(shifts, "_BUSY_SECONDS", 0.05)
    async with world.serving() as (shift, enclave):
        await world.submit(1)
        await until(lambda: len(enclave.given) == 1)
        began = asyncio.get_running_loop().time()
        shift.heard(Failed(enclave.given[0].handle, int(WorkOrderCode.BUSY), "no KME answers"))
        await until(lambda: len(enclave.given) == 2)
        assert asyncio.get_running_loop().time() - began >= 0.04
        assert enclave.given[1].handle > enclave.given[0].handle, "a new claim has a new token"
        shift.heard(Done(handle=enclave.given[1].handle, result=b"{}", legacy=False))
        found = await world.store.orders.wait("0001", 5)
        assert found is not None
        assert found.state is OrderState.COMPLETED
