"""What happens to an order on the requester's side, step by step, for whoever wants to show it."""

import enum
from collections.abc import Callable
from dataclasses import dataclass


class Step(enum.StrEnum):
    """The steps in their order. One that is taken anew (a rotated key) is told anew."""

    WORKER_CHECKED = "worker checked"
    SEALED = "sealed"
    SUBMITTED = "submitted"
    EXECUTED = "executed"
    VERIFIED = "verified"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A step was taken."""

    step: Step
    detail: str
    """In words, without any of the data."""

    simulated: bool = False
    """No hardware protects this order."""


Observer = Callable[[Progress], None]
"""Called for each step; must not block."""
