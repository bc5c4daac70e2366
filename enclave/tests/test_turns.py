"""Whose turn it is to have a child process."""

import threading
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avalon_enclave.runtimes.turns import ChildQueue


def test_a_workload_alone_has_every_place() -> None:
    queue: ChildQueue[str, int] = ChildQueue(4, ["a"])
    for number in range(6):
        queue.put(number, workload="a", requester="r")
    assert [queue.take() for _ in range(4)] == [("a", number) for number in range(4)]
    assert len(queue) == 2


def test_a_place_is_kept_for_each_workload_without_a_child() -> None:
    queue: ChildQueue[str, str] = ChildQueue(4, ["slow", "other", "third"])
    for number in range(9):
        queue.put(f"slow {number}", workload="slow", requester="r")
    assert [queue.take() for _ in range(2)] == [("slow", "slow 0"), ("slow", "slow 1")]
    queue.put("other 0", workload="other", requester="r")
    assert queue.take() == ("other", "other 0")
    queue.put("third 0", workload="third", requester="r")
    assert queue.take() == ("third", "third 0")
    queue.release("other")
    queue.put("other 1", workload="other", requester="r")
    assert queue.take() == ("other", "other 1"), "not the slow one's next"


def test_there_are_as_many_places_as_workloads() -> None:
    queue: ChildQueue[str, str] = ChildQueue(1, ["a", "b", "c"])
    assert queue.places == 3
    assert ChildQueue(8, []).places == 0, "nothing to wait for, no thread to do so"


def test_requesters_take_turns() -> None:
    queue: ChildQueue[str, str] = ChildQueue(1, ["w"])
    for requester, orders in {"a": ["a1", "a2", "a3"], "b": ["b1"], "c": ["c1", "c2"]}.items():
        for order in orders:
            queue.put(order, workload="w", requester=requester)
    taken = []
    for _ in range(6):
        found = queue.take()
        assert found is not None
        taken.append(found[1])
        queue.release("w")
    assert taken == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_what_was_removed_is_not_taken_and_leaves_nothing() -> None:
    queue: ChildQueue[str, int] = ChildQueue(1, ["w"])
    for number in range(1000):
        queue.put(number, workload="w", requester=f"{number}")
        queue.remove(number)
    queue.remove(5)
    assert len(queue) == 0
    assert not queue._lines["w"]


def test_the_end_comes_when_no_child_is_at_work_any_more() -> None:
    queue: ChildQueue[str, int] = ChildQueue(2, ["w"])
    queue.put(1, workload="w", requester="r")
    assert queue.take() == ("w", 1)
    ended = threading.Event()

    def idle() -> None:
        assert queue.take() is None
        ended.set()

    thread = threading.Thread(target=idle, daemon=True)
    thread.start()
    queue.close()
    assert not ended.wait(0.1), "its children would die with it, and one may be at work"
    queue.release("w")
    assert queue.take() is None
    assert ended.wait(5)


@given(
    st.integers(1, 6),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=60),
)
def test_places_are_never_exceeded_and_the_first_of_each_workload_never_waits(
    places: int, workloads: int, steps: list[tuple[int, int, bool]]
) -> None:
    names = [str(number) for number in range(workloads)]
    queue: ChildQueue[str, int] = ChildQueue(places, names)
    at_work: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    for number, (workload, requester, puts) in enumerate(steps):
        name = names[workload % workloads]
        if puts:
            queue.put(number, workload=name, requester=str(requester))
            waiting[name] += 1
        elif at_work[name]:
            queue.release(name)
            at_work[name] -= 1
        while (following := queue._next()) is not None:
            found = queue.take()
            assert found is not None
            assert found[0] == following
            at_work[following] += 1
            waiting[following] -= 1
        assert at_work.total() <= queue.places
        for name in names:
            assert at_work[name] or not waiting[name]


@pytest.mark.parametrize("threads", [4])
def test_every_order_is_taken_once_by_threads_that_race(threads: int) -> None:
    queue: ChildQueue[str, int] = ChildQueue(threads, ["a", "b"])
    taken: list[int] = []

    def work() -> None:
        while (found := queue.take()) is not None:
            taken.append(found[1])
            time.sleep(0)
            queue.release(found[0])

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for number in range(500):
        queue.put(number, workload="ab"[number % 2], requester=f"{number % 7}")
    queue.close()
    for thread in running:
        thread.join(10)
        assert not thread.is_alive()
    assert sorted(taken) == list(range(500))
