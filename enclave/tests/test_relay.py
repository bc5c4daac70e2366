"""One thread at a time, and nobody held up by it."""

import itertools
import threading
import time

import pytest

from avalon_enclave.relay import PATIENCE_SECONDS, Relay


class Team:
    """Takers that note who took what."""

    def __init__(self, relay: Relay[object], size: int) -> None:
        self.relay = relay
        self.took: list[tuple[int, object]] = []
        self.threads = [threading.Thread(target=self._work, args=(number,)) for number in range(size)]
        for thread in self.threads:
            thread.start()

    def _work(self, number: int) -> None:
        while (entry := self.relay.take()) is not None:
            self.took.append((number, entry))
            if callable(entry):
                entry()

    def end(self) -> None:
        self.relay.end(len(self.threads))
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()


def test_quick_entries_stay_with_one_thread() -> None:
    team = Team(Relay(), 4)
    for number in range(200):
        team.relay.put(number)
    deadline = time.monotonic() + 10
    while len(team.took) < 200 and time.monotonic() < deadline:
        time.sleep(0.01)
    team.end()
    assert [entry for _, entry in team.took] == list(range(200))
    # A machine that stops us for a moment brings in another thread; but not one for each entry.
    takers = [number for number, _ in team.took]
    assert sum(one != following for one, following in itertools.pairwise(takers)) < 50


def test_an_entry_that_holds_its_thread_up_delays_the_next_for_a_moment_only() -> None:
    team = Team(Relay(), 3)
    release, reached = threading.Event(), threading.Event()
    team.relay.put(lambda: release.wait(10))
    team.relay.put(lambda: release.wait(10))
    time.sleep(10 * PATIENCE_SECONDS)
    began = time.monotonic()
    team.relay.put(reached.set)
    assert reached.wait(5)
    assert time.monotonic() - began < 1
    release.set()
    team.end()


@pytest.mark.parametrize("announced", [True, False])
def test_work_that_waits_outside_goes_on_side_by_side(announced: bool) -> None:
    relay: Relay[object] = Relay()
    team = Team(relay, 4)
    together = threading.Barrier(4, timeout=10)

    def meet() -> None:
        if announced:
            relay.step_aside()
            relay.step_aside()  # it is not the first any more
        together.wait()

    for _ in range(4):
        relay.put(meet)
    team.end()
    assert not together.broken
    assert {number for number, _ in team.took} == {0, 1, 2, 3}


def test_where_all_are_held_up_the_first_to_come_back_goes_on() -> None:
    team = Team(Relay(), 2)
    release, done = threading.Event(), threading.Event()
    for _ in range(2):
        team.relay.put(lambda: release.wait(10))
    team.relay.put(done.set)
    assert not done.wait(0.1)
    release.set()
    assert done.wait(5)
    team.end()


def test_nobody_looks_at_the_time_where_nothing_waits() -> None:
    relay: Relay[object] = Relay()
    team = Team(relay, 2)
    release = threading.Event()
    relay.put(lambda: release.wait(10))
    time.sleep(0.1)
    assert not relay._watching
    release.set()
    team.end()


def test_every_entry_is_taken_once_however_long_each_takes() -> None:
    relay: Relay[object] = Relay()
    team = Team(relay, 5)
    done: list[int] = []

    def work(number: int) -> None:
        if number % 3 == 0:
            relay.step_aside()
        if number % 7 == 0:
            time.sleep(2 * PATIENCE_SECONDS)
        done.append(number)

    def feed(first: int) -> None:
        for number in range(first, 400, 4):
            relay.put(lambda number=number: work(number))

    feeders = [threading.Thread(target=feed, args=(first,)) for first in range(4)]
    for feeder in feeders:
        feeder.start()
    for feeder in feeders:
        feeder.join()
    team.end()
    assert sorted(done) == list(range(400))
