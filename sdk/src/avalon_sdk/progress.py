"""What happens to an order on the requester's side, step by step, for whoever wants to show it."""

import enum
from collections.abc import Callable
from dataclasses import dataclass


class Step(enum.StrEnum):
    """The steps in their order. One that is taken anew (a rotated key) is told anew.

    The three that tell where a long order stands are the service's word: nothing vouches for them, and they may be
    missing or come several times.
    """

    WORKER_CHECKED = "worker checked"
    SEALED = "sealed"
    SUBMITTED = "submitted"
    SCHEDULED = "scheduled"
    """The service's word: in the queue. At which place is not told."""

    PROCESSING = "processing"
    """The service's word: an enclave has it."""

    PUT_BACK = "put back"
    """The service's word: an enclave had it and did not finish it; it is in the queue again."""

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
