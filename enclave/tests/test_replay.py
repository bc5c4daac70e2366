"""The enclave's own memory of orders: the same bytes, the same result; other bytes, a refusal."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avalon_core.protocol.errors import WorkOrderError
from avalon_enclave.replay import ReplayGuard, fingerprint


def test_the_same_bytes_get_the_first_result_and_run_once() -> None:
    guard = ReplayGuard()
    print_ = fingerprint(b"order")
    assert guard.answer_of("aa", print_) is None
    guard.admit("aa", print_)
    assert guard.settle("aa", print_, b"first") == b"first"
    assert guard.answer_of("aa", print_) == b"first"
    guard.admit("aa", print_)
    assert guard.settle("aa", print_, b"second") == b"first", "two runs at once still give one result"


def test_other_bytes_under_a_used_id_are_refused_and_told_nothing() -> None:
    guard = ReplayGuard()
    guard.admit("aa", fingerprint(b"order"))
    guard.settle("aa", fingerprint(b"order"), b"first")
    assert guard.answer_of("aa", fingerprint(b"other")) is None
    with pytest.raises(WorkOrderError, match="another order under this id") as refused:
        guard.admit("aa", fingerprint(b"other"))
    assert refused.value.code == 2


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2), st.integers(0, 40)), max_size=60))
def test_memory_is_bounded_and_what_is_answered_was_the_first_result(
    steps: list[tuple[int, int, int]],
) -> None:
    guard = ReplayGuard(max_orders=5, max_result_bytes=100)
    first: dict[tuple[int, int], bytes] = {}
    for number, (order, version, size) in enumerate(steps):
        name, print_ = f"{order:02x}", fingerprint(b"%d" % version)
        known = guard.answer_of(name, print_)
        if known is not None:
            assert known == first[order, version]
            continue
        try:
            guard.admit(name, print_)
        except WorkOrderError:
            continue
        result = guard.settle(name, print_, b"%d:" % number + b"x" * size)
        first[order, version] = result
        assert len(guard._prints) <= 5
        assert guard._result_bytes == sum(map(len, guard._results.values())) <= 100
        assert set(guard._results) <= set(guard._prints)


def test_threads_that_race_agree_on_one_result() -> None:
    guard = ReplayGuard()
    print_ = fingerprint(b"order")
    start = threading.Barrier(8)
    answers: list[bytes] = []

    def run(number: int) -> None:
        start.wait()
        guard.admit("aa", print_)
        answers.append(guard.settle("aa", print_, b"%d" % number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 1
