"""The enclave's own memory of orders: the same bytes, the same result; other bytes, a refusal."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avalon_core.crypto.receipts import RENOUNCED
from avalon_core.protocol.errors import WorkOrderError
from avalon_enclave.replay import MAX_REFUSALS, ReplayGuard, fingerprint


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


def test_a_renounced_order_is_never_answered() -> None:
    guard = ReplayGuard()
    print_ = fingerprint(b"order")
    guard.admit("aa", print_)
    refusal = guard.renounce("aa", print_)
    assert refusal is not None
    assert (int(refusal.code), refusal.message) == (1, RENOUNCED)
    for ask in (guard.answer_of, guard.admit, lambda id_, of: guard.settle(id_, of, b"late")):
        with pytest.raises(WorkOrderError, match=RENOUNCED):
            ask("aa", print_)


def test_to_renounce_garbage_burns_no_id() -> None:
    guard = ReplayGuard()
    garbage, print_ = fingerprint(b"garbage"), fingerprint(b"order")
    assert guard.renounce("aa", garbage) is not None
    guard.admit("aa", print_)
    assert guard.settle("aa", print_, b"result") == b"result"
    assert guard.renounce("aa", garbage) is not None
    with pytest.raises(WorkOrderError, match=RENOUNCED):
        guard.admit("aa", garbage)


def test_an_order_that_was_answered_is_not_renounced_even_where_its_result_was_too_large_to_keep() -> None:
    guard = ReplayGuard(max_result_bytes=10)
    for name, result in (("aa", b"x" * 11), ("bb", b"x" * 10), ("cc", b"y" * 10)):
        guard.admit(name, fingerprint(b"order"))
        guard.settle(name, fingerprint(b"order"), result)
    assert [guard.renounce(name, fingerprint(b"order")) for name in ("aa", "bb", "cc")] == [None] * 3
    assert guard.answer_of("cc", fingerprint(b"order")) == b"y" * 10


def test_bytes_that_were_refused_for_others_under_their_id_can_be_renounced_and_change_nothing() -> None:
    guard = ReplayGuard()
    guard.admit("aa", fingerprint(b"order"))
    guard.settle("aa", fingerprint(b"order"), b"first")
    assert guard.renounce("aa", fingerprint(b"other")) is not None
    assert guard.answer_of("aa", fingerprint(b"order")) == b"first"


def test_a_refusal_keeps_its_words_as_long_as_they_are_remembered() -> None:
    guard = ReplayGuard()
    first, last = fingerprint(b"0"), fingerprint(b"%d" % MAX_REFUSALS)
    for number in range(MAX_REFUSALS + 1):
        guard.note_refusal("aa", fingerprint(b"%d" % number), WorkOrderError(9, f"refused {number}"))
    assert len(guard._refusals) == MAX_REFUSALS
    found = [guard.renounce("aa", print_) for print_ in (first, last)]
    assert [error and (int(error.code), error.message) for error in found] == [
        (1, RENOUNCED),
        (9, f"refused {MAX_REFUSALS}"),
    ]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2), st.integers(0, 40), st.booleans()), max_size=60)
)
def test_an_order_is_either_answered_or_renounced(steps: list[tuple[int, int, int, bool]]) -> None:
    guard = ReplayGuard(max_orders=1000, max_result_bytes=100)
    answered, renounced = set(), set()
    for order, version, size, renounces in steps:
        name, print_ = f"{order:02x}", fingerprint(b"%d" % version)
        if renounces:
            if guard.renounce(name, print_) is not None:
                renounced.add((order, version))
            continue
        try:
            if guard.answer_of(name, print_) is None:
                guard.admit(name, print_)
                guard.settle(name, print_, b"x" * size)
            answered.add((order, version))
        except WorkOrderError:
            continue
    assert not answered & renounced
    assert len(guard._answered) <= 10


def test_what_is_renounced_is_bounded_too() -> None:
    guard = ReplayGuard(max_orders=5)
    for number in range(20):
        guard.renounce(f"{number:02x}", fingerprint(b"order"))
    assert len(guard._renounced) == 5


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
        assert set(guard._results) <= guard._answered <= set(guard._prints)


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
