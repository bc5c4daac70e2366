"""Memory goes back to the system when the load has fallen, at a bounded cost."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys

import pytest

from avalon_core import allocator
from avalon_service.memory import MemoryKeeper

MIB = 1024 * 1024


class World:
    """A process whose memory and clock the test turns, and what was done about them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.resident, self.after, self.now, self.done = 100 * MIB, 100 * MIB, 1000.0, list[str]()
        monkeypatch.setattr(gc, "collect", lambda: self.done.append("collect"))
        monkeypatch.setattr(allocator, "trim", self.trim)
        self.keeper = MemoryKeeper(resident=lambda: self.resident, clock=lambda: self.now)

    def trim(self) -> bool:
        self.done.append("trim")
        self.resident = self.after
        return True

    async def fell(self) -> list[str]:
        self.keeper.load_fell()
        await asyncio.sleep(0.05)
        done, self.done = self.done, []
        return done


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


async def test_what_a_rush_took_is_given_back(world: World) -> None:
    world.resident = 200 * MIB
    assert await world.fell() == ["collect", "trim"]


async def test_nothing_is_done_where_nothing_is_to_be_had(world: World) -> None:
    world.resident += MIB
    assert await world.fell() == []
    world.resident = world.after = 300 * MIB  # in use, not left over
    assert await world.fell() == ["collect", "trim"]
    world.now += 100
    assert await world.fell() == []


async def test_it_costs_little_however_often_the_load_falls(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(world.keeper, "_loop", loop)
    later = loop.call_later
    world.resident = 200 * MIB
    assert await world.fell() == ["collect", "trim"]
    with monkeypatch.context() as patch:
        patch.setattr(
            loop, "call_later", lambda delay, *what: delays.append(delay) or later(0.01, *what), raising=False
        )
        world.resident, world.now = 200 * MIB, world.now + 4
        for _ in range(5):
            world.keeper.load_fell()
    assert delays == [6.0]  # one at a time, when the pause is over
    await asyncio.sleep(0.1)
    assert world.done == ["collect", "trim"]


async def test_a_keeper_that_is_closed_does_nothing_later(world: World) -> None:
    world.resident = 200 * MIB
    await world.fell()
    world.resident = 200 * MIB
    world.keeper.load_fell()
    assert world.keeper._later is not None
    world.keeper.close()
    assert world.keeper._later.cancelled()


RUSH = """
import asyncio
from avalon_core import allocator
from avalon_service.memory import MemoryKeeper, resident_bytes

class Waiting:
    def __init__(self):
        self.itself, self.buffer = self, bytearray(3000)

async def main():
    allocator.reuse_pages()
    keeper = MemoryKeeper()
    before = resident_bytes()
    waiting = [Waiting() for _ in range(30_000)]
    kept = waiting[::1000]
    during = resident_bytes()
    del waiting
    keeper.load_fell()
    await asyncio.sleep(1)
    print(during - before, resident_bytes() - before, len(kept))

asyncio.run(main())
"""


@pytest.mark.skipif(not allocator.reuse_pages(), reason="another C library: nothing is given back there")
def test_a_process_really_shrinks() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", RUSH], check=True, capture_output=True, text=True, timeout=60
    )
    during, after, _ = map(int, ended.stdout.split())
    assert during > 80 * MIB
    assert after < during / 4


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    assert not allocator.reuse_pages()
    assert not allocator.trim()
