"""Calls whose clients are gone are cancelled; others are left alone."""

from __future__ import annotations

import asyncio
from typing import Any

from avalon_service.listener.departures import Departures
from avalon_service.listener.origins import origin, set_client


class Call:
    """A call that waits, and its client."""

    def __init__(self, departures: Departures) -> None:
        self.gone, self.done = asyncio.Event(), asyncio.Event()
        self.asked = 0
        self._departures = departures
        self.task = asyncio.ensure_future(self._run())

    async def _receive(self) -> dict[str, Any]:
        self.asked += 1
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _run(self) -> str:
        task = asyncio.current_task()
        assert task is not None
        self._departures.enter(task, self._receive)
        try:
            await self.done.wait()
        except asyncio.CancelledError:
            return "gone" if self._departures.is_gone(task) else "cancelled"
        finally:
            self._departures.leave(task)
        return "answered"


async def met_twice() -> None:
    await asyncio.sleep(0.05)


async def test_a_call_whose_client_is_gone_is_cancelled() -> None:
    departures = Departures(patience=0.01)
    stays, leaves = Call(departures), Call(departures)
    await met_twice()
    leaves.gone.set()
    assert await leaves.task == "gone"
    assert len(departures) == 1
    stays.done.set()
    assert await stays.task == "answered"
    assert len(departures) == 0


async def test_a_short_call_is_not_watched() -> None:
    departures = Departures(patience=1000)
    calls = [Call(departures) for _ in range(10)]
    await asyncio.sleep(0)
    for call in calls:
        call.done.set()
    assert {await call.task for call in calls} == {"answered"}
    assert not any(call.asked for call in calls)
    assert len(departures) == 0


async def test_the_end_of_the_service_is_told_apart() -> None:
    departures = Departures(patience=0.01)
    call = Call(departures)
    await met_twice()
    call.task.cancel()
    assert await call.task == "cancelled"
    assert len(departures) == 0


async def test_it_rests_while_nothing_is_under_way() -> None:
    departures = Departures(patience=0.01)
    call = Call(departures)
    await met_twice()
    call.done.set()
    await call.task
    await met_twice()
    assert not departures._looking


async def test_an_address_counts_for_its_network() -> None:
    assert origin() == ""
    for address, counted in (
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("not:an:address", "not:an:address"),
    ):
        set_client(address)
        assert origin() == counted
    set_client("")


async def test_it_is_told_when_far_fewer_calls_are_under_way_than_were() -> None:
    fell: list[int] = []
    departures = Departures(patience=0.01, load_fell=lambda: fell.append(len(departures)))
    calls = [Call(departures) for _ in range(100)]
    await met_twice()
    assert fell == []
    for call in calls[:50]:
        call.done.set()
    await met_twice()
    assert fell == []
    for call in calls[50:80]:
        call.gone.set()
    await met_twice()
    assert fell == [20]
    for call in calls[80:]:
        call.done.set()
    await met_twice()
    assert fell == [20, 0]
    await asyncio.gather(*(call.task for call in calls))
    await met_twice()
    assert fell == [20, 0]  # nothing runs where nobody calls
