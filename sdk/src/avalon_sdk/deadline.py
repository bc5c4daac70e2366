"""One point in time by which everything must be done, and how to keep trying until then."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception
from tenacity.wait import wait_exponential, wait_random

from avalon_sdk.errors import BadRequest, Busy, CannotConnect

T = TypeVar("T")

MAX_TIMEOUT_SECONDS = 7 * 24 * 3600.0
"""Longer than any order is kept; also keeps the synchronous mode's milliseconds within 32 bits."""

CONNECT_ATTEMPTS = 3
"""For the first contact: whoever starts with a wrong address should learn it soon, not at the deadline."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in monotonic time."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """The deadline this many seconds from now.

        Raises:
            BadRequest: not a positive, finite number within the cap.
        """
        if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
            raise BadRequest(
                f"timeout: got {seconds!r}, expected seconds above 0, at most {MAX_TIMEOUT_SECONDS:.0f}"
            )
        return cls(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds left; 0 where it has passed."""
        return max(0.0, self.at - time.monotonic())


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How to try again after a lost connection or a busy service: exponential pauses with jitter."""

    first_pause: float = 0.1
    longest_pause: float = 2.0

    async def persist(
        self, call: Callable[[], Awaitable[T]], deadline: Deadline, *, connect_attempts: int | None = None
    ) -> T:
        """Call until it answers, or until the next pause would go past the deadline.

        A service's own Retry-After is honoured where it is longer than our pause.

        Raises:
            CannotConnect, Busy: the last one. Any other error ends it at once.
        """

        async def attempt() -> T:
            return await call()

        return await AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            wait=_Pause(self),
            stop=lambda state: _is_over(state, deadline, connect_attempts),
            sleep=anyio.sleep,
            reraise=True,
        )(attempt)


class _Pause:
    def __init__(self, policy: RetryPolicy) -> None:
        self._exponential = wait_exponential(multiplier=policy.first_pause, max=policy.longest_pause)
        self._jitter = wait_random(0, policy.first_pause)

    def __call__(self, state: RetryCallState) -> float:
        pause = self._exponential(state) + self._jitter(state)
        error = _error_of(state)
        asked = error.retry_after if isinstance(error, Busy) else None
        return max(pause, asked or 0.0)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, Busy) or (isinstance(error, CannotConnect) and error.may_pass)


def _is_over(state: RetryCallState, deadline: Deadline, connect_attempts: int | None) -> bool:
    if state.upcoming_sleep >= deadline.left:
        return True
    return (
        connect_attempts is not None
        and state.attempt_number >= connect_attempts
        and isinstance(_error_of(state), CannotConnect)
    )


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None
