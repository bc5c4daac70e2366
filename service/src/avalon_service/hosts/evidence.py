"""Keeps the evidence of a worker's record fresh: while its enclave serves, it is asked for new evidence every so often.

Evidence does not change, but what it is judged by does: collateral ends, and policies bound the age of evidence. A
record that is registered anew in time never makes a requester wait or a policy fail. The keys in it stay the same, so
orders that were sealed meanwhile open as before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from avalon_service.hosts.process import EnclaveEnded, EnclaveProcess, EvidenceNotRefreshed
from avalon_service.orders.errors import StoreUnavailable

log = logging.getLogger(__name__)

REFRESH_SECONDS = 30.0
"""A quoting process gives an answer or none within ten."""

_LONGEST_STEP_SECONDS = 60.0
"""The wall clock is looked at so often: it goes on while a machine sleeps, and the loop's clock does not."""

_SHORTEST_RETRY_SECONDS = 1.0


class CollateralSource(Protocol):
    """Adds to a record what the vendor publishes about the worker's machine, where the enclave could not."""

    async def add_to(self, details: bytes) -> bytes:
        """The details of a worker record (JSON), with the collateral of today; unchanged where there is none.

        It may be slow, and must not fail: a record without collateral is better than none.
        """


class NoCollateral:
    """Records are published as the enclave made them: those of the simulator carry their collateral."""

    async def add_to(self, details: bytes) -> bytes:
        return details


async def keep_fresh(
    enclave: EnclaveProcess,
    every: float,
    publish: Callable[[bytes], Awaitable[None]],
    *,
    clock: Callable[[], float] = time.time,
) -> None:
    """Have an enclave's evidence issued anew until it ends or this is cancelled.

    What fails is tried again after a tenth of the time, for there are nine more until anybody could notice.

    Args:
        enclave: that serves.
        every: seconds between two issues.
        publish: takes the new details of the record.
        clock: Unix seconds.
    """
    wait = every
    while True:
        await _sleep_until(clock() + wait, clock)
        try:
            await publish(await enclave.refresh_evidence(REFRESH_SECONDS))
        except EnclaveEnded:
            return
        except (TimeoutError, EvidenceNotRefreshed, StoreUnavailable) as exc:
            wait = max(every / 10, _SHORTEST_RETRY_SECONDS)
            log.warning("evidence is not refreshed, next try in %g s reason=%s", wait, exc or "no answer")
        else:
            wait = every
            log.info("evidence refreshed pid=%d", enclave.pid)


async def _sleep_until(due: float, clock: Callable[[], float]) -> None:
    while (left := due - clock()) > 0:  # noqa: ASYNC110 no event tells that wall time has passed
        await asyncio.sleep(min(left, _LONGEST_STEP_SECONDS))
