"""What a runtime is, and what it is told about the one run at hand."""

from collections.abc import Callable, Sequence
from typing import Protocol

from avalon_core.protocol.errors import WorkOrderError, failed_order
from avalon_enclave.events import Event, Journal, type_name
from avalon_enclave.workloads.base import Context, Item, Limits


class Control(Protocol):
    """The run of one order, as its runtime sees it. Safe to use from every thread."""

    @property
    def cancelled(self) -> bool:
        """Nobody wants the result any more."""

    def overran(self, seconds: float) -> None:
        """The workload exceeded its limit: answer now, whatever becomes of the thread."""

    def stop_with(self, stop: Callable[[], None] | None) -> None:
        """From now on (None: no longer) the run can be stopped by calling this, should the order be cancelled."""


class Uncontrolled:
    """A :class:`Control` for runs that nobody watches."""

    cancelled = False

    def overran(self, seconds: float) -> None: ...

    def stop_with(self, stop: Callable[[], None] | None) -> None: ...


class Runtime(Protocol):
    """Runs one workload."""

    @property
    def limits(self) -> Limits:
        """The workload's limits. The caller has checked the inputs against them."""

    @property
    def in_child(self) -> bool:
        """A run only waits for a child process: it is not to hold up a thread that could process orders."""

    def run(self, inputs: Sequence[Item], context: Context, control: Control) -> Sequence[Item]:
        """Run it on one order. Called from several threads at a time.

        Returns:
            Outputs that were checked: within the limits, with distinct indices.

        Raises:
            WorkOrderError: code 1; the workload failed or exceeded a limit. Nothing of its own words is in it.
        """

    def close(self) -> None:
        """Free what it holds."""


def workload_failed(journal: Journal, name: str, error: BaseException | str) -> WorkOrderError:
    """Report a failure by the name of its type, and make the answer."""
    journal.record(Event.WORKLOAD_FAILED, workload=name, error=type_name(error))
    return failed_order("the workload failed")


def workload_overran(seconds: float) -> WorkOrderError:
    """The answer where a limit of time was exceeded."""
    return failed_order(f"the workload exceeded its limit of {seconds:g} s")
