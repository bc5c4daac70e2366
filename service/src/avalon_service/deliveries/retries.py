"""When to try a delivery again, by tenacity's own strategies.

Attempts are minutes and hours apart and outlive restarts, so nothing sleeps between them: tenacity says whether and
when, the store remembers, one timer wakes.
"""

from __future__ import annotations

from tenacity import AsyncRetrying, RetryCallState, stop_after_attempt, wait_exponential_jitter


class Retries:
    """A bounded number of attempts, exponentially further apart, with jitter."""

    def __init__(self, *, attempts: int, first: float, longest: float) -> None:
        """``first`` and ``longest``: seconds of the first pause and of the longest."""
        self._policy = AsyncRetrying(
            stop=stop_after_attempt(attempts),
            wait=wait_exponential_jitter(multiplier=first, max=longest, jitter=first),
        )

    def pause_after(self, attempts: int) -> float | None:
        """Seconds until the next attempt after so many failed ones, or None where that was the last."""
        state = RetryCallState(self._policy, None, (), {})
        state.attempt_number = attempts
        return None if self._policy.stop(state) else self._policy.wait(state)
