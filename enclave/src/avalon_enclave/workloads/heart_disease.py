"""heart-disease-eval: a score from fourteen numbers. A demonstration, not medicine.

An input is ``text: numbers``; the text before the colon is ignored, and may be missing with the colon. Without
numbers the answer is the average over what this enclave has seen from the same requester since it started.

Every factor is a percentage of health with a weight in percent. They are exact fractions, so that the score does
not depend on the order in which floating point rounds.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from avalon_enclave.workloads.base import Context, Isolation, ItemByItem, Limits

MAX_REQUESTERS = 10_000
"""Requesters whose history is kept: some 3 MB. The one that was silent for longest is forgotten first."""

_NUMBER = re.compile(r"[+-]?[0-9]{1,9}\Z", re.ASCII)

Factor = Callable[[int], Fraction]


def falling(maximum: int, optimum: int) -> Factor:
    """100 below the optimum, 0 from the maximum on, a straight line between."""

    def percentage(value: int) -> Fraction:
        if value < optimum:
            return Fraction(100)
        if value >= maximum:
            return Fraction(0)
        return Fraction(100 * (maximum - value), maximum - optimum)

    return percentage


def peaked(maximum: int, optimum: int) -> Factor:
    """100 at the optimum, falling on both sides to 0 at the maximum and as far below."""

    def percentage(value: int) -> Fraction:
        distance = abs(value - optimum)
        if distance >= maximum - optimum:
            return Fraction(0)
        return 100 - Fraction(100 * distance, maximum - optimum)

    return percentage


def chosen(percentages: Mapping[int, int], otherwise: int) -> Factor:
    """A percentage for each of some values."""

    def percentage(value: int) -> Fraction:
        return Fraction(percentages.get(value, otherwise))

    return percentage


def _thallium(value: int) -> Fraction:
    return Fraction(0 if value < 3 else 45 if value < 6 else 79 if value < 8 else 100)


FACTORS: Sequence[tuple[str, int, Factor]] = (
    ("age", 3, falling(100, 18)),
    ("sex", 1, chosen({0: 100}, 0)),
    ("chest pain type", 21, chosen({1: 0, 2: 12, 3: 35}, 100)),
    ("resting blood pressure", 5, falling(218, 108)),
    ("cholesterol", 5, falling(309, 126)),
    ("fasting blood sugar", 4, falling(248, 98)),
    ("resting ECG", 19, chosen({0: 100, 1: 9, 2: 7}, 100)),
    ("maximum heart rate", 6, peaked(198, 61)),
    ("exercise induced angina", 18, chosen({1: 0}, 100)),
    ("ST depression", 5, falling(100, 0)),
    ("slope of ST", 3, chosen({0: 49, 1: 100}, 63)),
    ("vessels", 4, chosen({0: 0, 1: 35, 2: 70}, 100)),
    ("thallium", 2, _thallium),
    ("diagnosis", 4, chosen({0: 100}, 0)),
)
"""Name, weight in percent, factor; in the order of the input."""


def risk_of(numbers: Sequence[int]) -> int:
    """The risk in percent: what is missing to full health, whose fraction is cut off."""
    health = sum(
        weight * factor(number) for (_, weight, factor), number in zip(FACTORS, numbers, strict=True)
    )
    return 100 - int(health / 100)


class HeartDiseaseEval(ItemByItem):
    """``You have a N% risk of heart disease``."""

    name = "heart-disease-eval"
    title = "Heart disease risk (a demonstration, not medicine)"
    input_help = "text: fourteen whole numbers, or text: for the average of what you sent before"
    limits = Limits(
        max_items=1024,
        max_item_bytes=4096,
        isolation=Isolation.THREAD,  # fourteen small sums an item
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._history: OrderedDict[tuple[str, str | None], tuple[int, int]] = OrderedDict()

    def answer(self, data: bytes, context: Context) -> bytes:
        _, colon, after = data.decode("utf-8", "replace").partition(":")
        words = (after if colon else data.decode("utf-8", "replace")).split()
        if not words:
            return self._average(context).encode()
        if not all(_NUMBER.match(word) for word in words):
            return b"Invalid data found in input data"
        if len(words) != len(FACTORS):
            return b"Error with missing or incorrect input format"
        risk = risk_of([int(word) for word in words])
        self._remember(context, risk)
        return f"You have a {risk}% risk of heart disease".encode()

    def _remember(self, context: Context, risk: int) -> None:
        with self._lock:
            total, people = self._history.pop(context.requester, (0, 0))
            self._history[context.requester] = (total + risk, people + 1)
            if len(self._history) > MAX_REQUESTERS:
                self._history.popitem(last=False)

    def _average(self, context: Context) -> str:
        with self._lock:
            total, people = self._history.get(context.requester, (0, 0))
        if not people:
            return "No accumulated heart disease history"
        return f"Heart disease risk is {total // people}% for {people} people"
