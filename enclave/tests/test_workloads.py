"""The workloads that ship, and the rules that all have to keep."""

import math
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avalon_core.channel.messages import Log
from avalon_enclave.events import Event, Journal, type_name
from avalon_enclave.measurement import installed_workloads, is_shipped
from avalon_enclave.runtimes.watchdog import Watchdog
from avalon_enclave.workloads import Context, Isolation, Item, Limits
from avalon_enclave.workloads.base import OutputRefused, check_outputs
from avalon_enclave.workloads.echo import EchoResult
from avalon_enclave.workloads.fib import PythonFib
from avalon_enclave.workloads.heart_disease import MAX_REQUESTERS, HeartDiseaseEval
from avalon_enclave.workloads.hello import PythonHello
from avalon_enclave.workloads.registry import load


def context(requester: str = "aa", key: str | None = None) -> Context:
    return Context(work_order_id="01", worker_id="02", requester_id=requester, requester_key=key)


def answer(workload, data: bytes | str, who: Context | None = None) -> str:
    data = data.encode() if isinstance(data, str) else data
    [output] = workload.run([Item(index=7, data=data)], who or context())
    assert output.index == 7
    return output.data.decode("utf-8", "surrogateescape")


def test_those_that_ship_are_installed_under_their_names():
    shipped = [load(entry) for entry in installed_workloads() if is_shipped(entry)]
    assert {workload.name for workload in shipped} >= {
        "echo-result",
        "python-hello",
        "python-fib",
        "heart-disease-eval",
    }
    assert all(workload.limits.isolation is Isolation.THREAD for workload in shipped)


@given(st.binary(max_size=200))
def test_echo_answers_any_bytes(data):
    [output] = EchoResult().run([Item(index=0, data=data)], context())
    assert output.data == b"RESULT: " + data


def test_hello():
    assert answer(PythonHello(), "Wörld") == "Hello Wörld"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", "Fibonacci number at position 0 = 0"),
        ("1", "Fibonacci number at position 1 = 1"),
        ("2", "Fibonacci number at position 2 = 1"),
        ("10", "Fibonacci number at position 10 = 55"),
        (" 50\n", "Fibonacci number at position 50 = 12586269025"),
        ("100", "Fibonacci number at position 100 = 354224848179261915075"),
    ],
)
def test_fibonacci(text, expected):
    assert answer(PythonFib(), text) == expected


def test_fibonacci_at_the_cap():
    now, following = 0, 1
    for _ in range(20_000):
        now, following = following, now + following
    assert answer(PythonFib(), "20000") == f"Fibonacci number at position 20000 = {now}"


@pytest.mark.parametrize("text", ["", "-1", "1.5", "ten", "20001", "1_0", "٣", "9" * 60, b"\xff"])
def test_fibonacci_of_anything_else_is_an_error_as_text(text):
    assert answer(PythonFib(), text).startswith("Error: expected a whole number from 0 to 20000")


# A healthy person, whose every factor is 100 %: a case changes one factor, and its loss follows from the weight.
HEALTHY = [17, 0, 4, 100, 100, 90, 0, 61, 0, 0, 1, 3, 8, 0]
CASES = [
    # (position, value, percentage of health of that factor, weight)
    ("age at the optimum", 0, 18, 100, 3),
    ("age in the middle", 0, 59, 50, 3),
    ("age at the maximum", 0, 100, 0, 3),
    ("age above it", 0, 120, 0, 3),
    ("sex", 1, 1, 0, 1),
    ("chest pain 1", 2, 1, 0, 21),
    ("chest pain 2", 2, 2, 12, 21),
    ("chest pain 3", 2, 3, 35, 21),
    ("chest pain 0", 2, 0, 100, 21),
    ("pressure in the middle", 3, 163, 50, 5),
    ("pressure at the maximum", 3, 218, 0, 5),
    ("cholesterol a third down", 4, 187, 100 * 122 / 183, 5),
    ("cholesterol at the maximum", 4, 309, 0, 5),
    ("sugar in the middle", 5, 173, 50, 4),
    ("sugar at the maximum", 5, 248, 0, 4),
    ("ECG 1", 6, 1, 9, 19),
    ("ECG 2", 6, 2, 7, 19),
    ("ECG 3", 6, 3, 100, 19),
    ("heart rate at its maximum", 7, 198, 0, 6),
    ("heart rate as far below", 7, -76, 0, 6),
    ("heart rate above the optimum", 7, 61 + 100, 100 - 100 * 100 / 137, 6),
    ("heart rate below the optimum", 7, 61 - 50, 100 - 100 * 50 / 137, 6),
    ("angina", 8, 1, 0, 18),
    ("angina 2", 8, 2, 100, 18),
    ("ST depression 40", 9, 40, 60, 5),
    ("ST depression 100", 9, 100, 0, 5),
    ("slope 0", 10, 0, 49, 3),
    ("slope 2", 10, 2, 63, 3),
    ("no vessels", 11, 0, 0, 4),
    ("one vessel", 11, 1, 35, 4),
    ("two vessels", 11, 2, 70, 4),
    ("thallium 2", 12, 2, 0, 2),
    ("thallium 3", 12, 3, 45, 2),
    ("thallium 5", 12, 5, 45, 2),
    ("thallium 6", 12, 6, 79, 2),
    ("thallium 7", 12, 7, 79, 2),
    ("diagnosis", 13, 1, 0, 4),
]


@pytest.mark.parametrize(
    ("position", "value", "percentage", "weight"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_one_factor_of_heart_disease(position, value, percentage, weight):
    numbers = list(HEALTHY)
    numbers[position] = value
    lost = (100 - percentage) * weight / 100
    expected = math.ceil(round(lost, 9))
    text = "Data: " + " ".join(map(str, numbers))
    assert answer(HeartDiseaseEval(), text) == f"You have a {expected}% risk of heart disease"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Data: 25 10 1 67 102 125 1 95 5 10 1 11 36 1", "You have a 47% risk of heart disease"),
        ("25 10 1 67 102 125 1 95 5 10 1 11 36 1", "You have a 47% risk of heart disease"),
        ("Data:25  10 1 67 102 125 1 95 5\t10 1 11 36 1 ", "You have a 47% risk of heart disease"),
        ("x: 100 1 1 218 309 248 2 198 1 100 0 0 0 1", "You have a 98% risk of heart disease"),
        ("Data: " + "1 " * 13, "Error with missing or incorrect input format"),
        ("Data: " + "1 " * 15, "Error with missing or incorrect input format"),
        ("Data: 1", "Error with missing or incorrect input format"),
        ("Data: " + "1 " * 13 + "x", "Invalid data found in input data"),
        ("Data: " + "1 " * 13 + "1.5", "Invalid data found in input data"),
        ("Data: " + "1 " * 13 + "9" * 30, "Invalid data found in input data"),
        (b"Data: \xff", "Invalid data found in input data"),
        ("Data:", "No accumulated heart disease history"),
        ("", "No accumulated heart disease history"),
    ],
)
def test_heart_disease(text, expected):
    assert answer(HeartDiseaseEval(), text) == expected


def test_heart_disease_averages_what_one_requester_sent():
    workload = HeartDiseaseEval()
    healthy, ill = "a: " + " ".join(map(str, HEALTHY)), "b: 25 10 1 67 102 125 1 95 5 10 1 11 36 1"
    outputs = workload.run(
        [Item(index=i, data=t.encode()) for i, t in enumerate((healthy, ill, ""))], context()
    )
    assert outputs[2].data == b"Heart disease risk is 23% for 2 people"
    assert answer(workload, "", context("bb")) == "No accumulated heart disease history"
    # Anybody can claim an id: what a signer sent is for that signer only.
    assert answer(workload, ill, context("cc", key="PEM")) == "You have a 47% risk of heart disease"
    assert answer(workload, "", context("cc")) == "No accumulated heart disease history"
    assert answer(workload, "", context("cc", key="PEM")) == "Heart disease risk is 47% for 1 people"


def test_heart_disease_forgets_who_was_silent_for_longest():
    workload = HeartDiseaseEval()
    text = "a: " + " ".join(map(str, HEALTHY))
    for number in range(MAX_REQUESTERS + 1):
        answer(workload, text, context(f"{number:06x}"))
    assert answer(workload, "", context("000000")).startswith("No accumulated")
    assert answer(workload, "", context("000001")).startswith("Heart disease risk is 0% for 1")


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([b"bytes"], "not items"),
        ([Item(index=0, data="text")], "not items"),
        ([Item(index="0", data=b"")], "not items"),
        ([Item(index=-1, data=b"")], "out of range"),
        ([Item(index=2**31, data=b"")], "out of range"),
        ([Item(index=0, data=b""), Item(index=0, data=b"")], "one index"),
        ([Item(index=i, data=b"") for i in range(1025)], "more than 1024"),
        ([Item(index=i, data=b"x" * 6) for i in range(2)], "over its limit of 10 bytes"),
    ],
)
def test_outputs_that_cannot_be_sealed_are_refused(outputs, message):
    with pytest.raises(OutputRefused, match=message):
        check_outputs(outputs, Limits(max_output_bytes=10))


@pytest.mark.parametrize(
    "changes", [{"max_items": 0}, {"seconds": 0}, {"seconds": math.nan}, {"max_item_bytes": 2**40}]
)
def test_limits_are_within_those_of_the_wire(changes):
    with pytest.raises(ValueError, match="expected"):
        Limits(**changes)


# --- events ------------------------------------------------------------------------------------------------------


def test_the_journal_holds_back_what_comes_too_often_and_counts_it():
    sent: list[Log] = []
    now = [0.0]
    journal = Journal(sent.append, clock=lambda: now[0])
    for _ in range(5):
        journal.record(Event.LEGACY_ORDER_ACCEPTED)
    journal.record(Event.WORKLOAD_FAILED, workload="w")
    now[0] = 61.0
    journal.record(Event.LEGACY_ORDER_ACCEPTED)
    assert [(log.event, log.fields) for log in sent] == [
        ("legacy_order_accepted", {}),
        ("workload_failed", {"workload": "w"}),
        ("legacy_order_accepted", {"suppressed": 4}),
    ]


def test_a_type_name_that_is_none_is_not_repeated():
    assert type_name(type("my diagnosis: ...", (Exception,), {})()) == "Exception"
    assert type_name(type("A" * 65, (Exception,), {})()) == "Exception"
    assert type_name(type("diabetes", (Exception,), {})()) == "Exception", "a name can be made of plaintext"
    assert type_name("diabetes") == "Exception", "and a child can say any"
    assert type_name(KeyError("secret")) == "KeyError"


# --- the watchdog ------------------------------------------------------------------------------------------------


def test_the_watchdog_reports_an_overrun_once_and_a_wedged_thread_after():
    wedged, overrun = threading.Event(), []
    watchdog = Watchdog(wedged.set)
    fast = watchdog.start(10.0, lambda: overrun.append("fast"))
    watchdog.end(fast)
    began = time.monotonic()
    slow = watchdog.start(0.1, lambda: overrun.append("slow"))
    assert wedged.wait(5)
    assert 0.15 < time.monotonic() - began < 2
    watchdog.end(slow)
    assert set(overrun) == {"slow"}


def test_the_watchdog_is_not_woken_for_work_that_is_done_before_it_would_look():
    watchdog = Watchdog(lambda: None)
    first = watchdog.start(10.0, lambda: None)
    watchdog.end(first)
    time.sleep(0.05)  # it looks
    for _ in range(100):
        watchdog.end(watchdog.start(10.0, lambda: None))
        assert watchdog._wake_at == first.deadline
    overrun = threading.Event()
    watchdog.end(watchdog.start(0.05, lambda: None))
    late = watchdog.start(0.1, overrun.set)
    assert overrun.wait(5), "where the earlier work is done the later is watched all the same"
    watchdog.end(late)


def test_the_watchdog_sleeps_where_there_is_nothing_to_watch():
    watchdog = Watchdog(lambda: None)
    watchdog.end(watchdog.start(0.05, lambda: None))
    deadline = time.monotonic() + 5
    while watchdog._wake_at != math.inf:
        assert time.monotonic() < deadline
        time.sleep(0.01)
