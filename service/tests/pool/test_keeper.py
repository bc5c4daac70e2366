"""An enclave is kept running: started again when it ends, with pauses that grow for one that dies at its start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from avalon_core.channel.messages import Started
from avalon_service.hosts.process import EnclaveEnded, EnclaveProcess
from avalon_service.pool.keeper import Keeper, until_first


class Process:
    """Stands for a process."""

    pid = 4711

    def __init__(self) -> None:
        self.ended: list[str] = []

    def kill(self) -> None:
        self.ended.append("kill")

    async def shut_down(self, timeout: float) -> None:
        self.ended.append("shut down")


class Place(Keeper):
    """Runs what the test says; one after the other, and then until it is stopped."""

    role = "test"

    def __init__(self, *runs: Callable[[Place], object]) -> None:
        super().__init__("test-1", start_timeout=1.0)
        self.runs = list(runs)
        self.processes: list[Process] = []
        self.pauses: list[float] = []
        self.tidied = 0
        self.enough = asyncio.Event()

    async def launch(self) -> tuple[EnclaveProcess, Started]:
        self.processes.append(Process())
        if self.runs and self.runs[0] is no_start:
            self.runs.pop(0)
            raise EnclaveEnded("it did not start")
        started = Started(details=b"", measurement="ab" * 32, platform="test", simulated=True)
        return self.processes[-1], started  # type: ignore[return-value]

    async def attend(self, enclave: EnclaveProcess, started: Started, stopping: asyncio.Event) -> None:
        if self.runs:
            self.runs.pop(0)(self)
            return
        self.state = "serving"
        self.enough.set()
        await stopping.wait()

    async def tidy(self) -> None:
        self.tidied += 1
        assert self.enclave is None

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


def no_start(_: Place) -> None:
    raise AssertionError


def dies(_: Place) -> None:
    raise EnclaveEnded("killed by SIGKILL")


def returns(_: Place) -> None:
    """It has done what it may."""


async def kept(place: Place) -> None:
    """Run until all has happened, and end in order."""
    task = asyncio.create_task(place.run())
    async with asyncio.timeout(10):
        await asyncio.wait({task, asyncio.create_task(place.enough.wait())}, return_when="FIRST_COMPLETED")
        place.stop()
        await task


async def test_it_runs_until_it_is_stopped_and_is_ended_in_order() -> None:
    place = Place()
    await kept(place)
    assert [process.ended for process in place.processes] == [["shut down", "kill"]]
    assert (place.state, place.restarts, place.tidied, place.pid) == ("stopped", 0, 1, None)
    assert (place.measurement, place.simulated) == ("ab" * 32, True)


async def test_one_that_dies_is_started_again_after_pauses_that_grow() -> None:
    place = Place(*[dies] * 6)
    await kept(place)
    assert (place.restarts, place.tidied, place.last_end) == (6, 7, "killed by SIGKILL")
    assert len(place.pauses) == 6
    assert place.pauses[-1] > 4 * place.pauses[0]
    assert place.pauses[0] < 0.2
    assert [process.ended for process in place.processes[:6]] == [["kill"]] * 6


async def test_one_that_has_done_what_it_may_is_replaced_at_once() -> None:
    """Nothing has failed: no pause, and it does not count as a restart."""
    place = Place(*[returns] * 5)
    await kept(place)
    assert (len(place.processes), place.restarts, place.pauses) == (6, 0, [])


async def test_pauses_begin_anew_after_a_run_that_lasted(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(dies, dies, dies, dies)
    await kept(place)
    grown = place.pauses[-1]
    monkeypatch.setattr("avalon_service.pool.keeper._STABLE_SECONDS", 0.0)
    place = Place(dies, dies, dies, dies)
    await kept(place)
    assert place.pauses == []
    assert grown > 0.2


async def test_one_that_does_not_even_start_at_first_is_told() -> None:
    """The configuration must be wrong. Later it is a restart like any other."""
    with pytest.raises(EnclaveEnded, match="did not start"):
        await Place(no_start).run()
    place = Place(dies, no_start)
    await kept(place)
    assert place.restarts == 2


async def test_a_keeper_that_is_stopped_while_its_enclave_dies_starts_none_again() -> None:
    place = Place(lambda place: (place.stop(), dies(place)))
    await asyncio.wait_for(place.run(), 5)
    assert (len(place.processes), place.restarts, place.state) == (1, 0, "stopped")


async def test_until_first_cancels_the_others_and_tells_the_cause() -> None:
    cancelled = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def fails(message: str) -> None:
        raise EnclaveEnded(message)

    await until_first(waits(), asyncio.sleep(0))
    assert cancelled == [True]
    for _ in range(20):
        with pytest.raises(EnclaveEnded, match=r"^cause$"):
            await until_first(waits(), fails("cause"), fails("consequence"))
