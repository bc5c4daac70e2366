"""Runs a workload in the thread that processes the order.

For code whose limits bound its work: a thread cannot be stopped. The watchdog answers for one that takes too long.
"""

from collections.abc import Sequence

from avalon_enclave.events import Event, Journal
from avalon_enclave.runtimes.base import Control, workload_failed, workload_overran
from avalon_enclave.runtimes.watchdog import Watchdog
from avalon_enclave.workloads.base import Context, Item, Limits, OutputRefused, Workload, check_outputs


class ThreadRuntime:
    """Satisfies :class:`avalon_enclave.runtimes.base.Runtime`."""

    in_child = False

    def __init__(self, workload: Workload, *, watchdog: Watchdog, journal: Journal) -> None:
        self._workload = workload
        self._watchdog = watchdog
        self._journal = journal
        self.limits: Limits = workload.limits

    def run(self, inputs: Sequence[Item], context: Context, control: Control) -> Sequence[Item]:
        workload, seconds = self._workload, self.limits.seconds

        def on_overrun() -> None:
            control.overran(seconds)
            self._journal.record(Event.WORKLOAD_OVERRAN, workload=workload.name, seconds=seconds)

        watch = self._watchdog.start(seconds, on_overrun)
        try:
            outputs = workload.run(inputs, context)
            check_outputs(outputs, self.limits)
        except OutputRefused as exc:
            self._journal.record(Event.WORKLOAD_FAILED, workload=workload.name, error=type(exc).__name__)
            raise exc.as_failure() from None
        except BaseException as exc:  # noqa: BLE001 whatever a workload raises, SystemExit too, fails its order only
            raise workload_failed(self._journal, workload.name, exc) from None
        finally:
            self._watchdog.end(watch)
        if watch.overrun:
            raise workload_overran(seconds)
        return outputs

    def close(self) -> None: ...
