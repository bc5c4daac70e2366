"""Gives every installed workload its runtime.

A workload that ships is part of the enclave's own code and is loaded here. Every other is first loaded in a child
process, which tells what it is: a workload that breaks, or hangs, while it is imported breaks nothing else, and one
that runs in processes is never loaded where the keys are.

A workload of a third party that is broken is reported and not offered; the others are, for one bad extension must
not stop a worker. One of our own that is broken stops the start: the installation is damaged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from avalon_core.errors import ChannelError
from avalon_enclave.errors import StartRefused
from avalon_enclave.events import Event, Journal
from avalon_enclave.measurement import is_shipped
from avalon_enclave.runtimes.base import Runtime
from avalon_enclave.runtimes.process import Child, ProcessRuntime, WarmChildren
from avalon_enclave.runtimes.thread import ThreadRuntime
from avalon_enclave.runtimes.watchdog import Watchdog
from avalon_enclave.workloads.base import Description, Isolation, Workload
from avalon_enclave.workloads.registry import WorkloadBroken, distinct_workloads, load


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A workload that orders can name."""

    description: Description
    runtime: Runtime


def assemble(*, watchdog: Watchdog, journal: Journal, warm: WarmChildren) -> Sequence[Offer]:
    """Find, load and check every installed workload.

    Args:
        watchdog: over workloads that run in threads.
        journal: tells of workloads that are not offered.
        warm: where children are kept between orders.

    Raises:
        StartRefused: one that ships is broken, or two have one name.
    """
    entries = distinct_workloads()
    # The children import their workloads side by side, while we load our own.
    children = {entry.name: Child(entry.name) for entry in entries if not is_shipped(entry)}
    offers = []
    for entry in entries:
        try:
            if entry.name in children:
                offers.append(_third_party(entry, children[entry.name], watchdog, journal, warm))
            else:
                offers.append(_in_thread_or_process(load(entry), watchdog, journal, warm))
        except (WorkloadBroken, ChannelError, TimeoutError) as exc:
            reason = (
                exc.message
                if isinstance(exc, WorkloadBroken | ChannelError)
                else "it takes too long to start"
            )
            if is_shipped(entry):
                raise StartRefused(
                    f"the workload {entry.name!r}, which ships, cannot be loaded: {reason}; reinstall avalon-enclave"
                ) from None
            journal.record(Event.WORKLOAD_SKIPPED, workload=entry.name, error=reason)
    return offers


def _third_party(
    entry: metadata.EntryPoint, child: Child, watchdog: Watchdog, journal: Journal, warm: WarmChildren
) -> Offer:
    try:
        description = child.wait_ready()
    except (ChannelError, TimeoutError):
        child.reap()
        raise
    if description.limits.isolation is Isolation.THREAD:
        child.reap()
        return _in_thread_or_process(load(entry), watchdog, journal, warm)
    warm.give(description.name, child)
    return Offer(description=description, runtime=ProcessRuntime(description, journal=journal, warm=warm))


def _in_thread_or_process(
    workload: Workload, watchdog: Watchdog, journal: Journal, warm: WarmChildren
) -> Offer:
    description = Description.of(workload)
    if description.limits.isolation is Isolation.PROCESS:
        return Offer(description=description, runtime=ProcessRuntime(description, journal=journal, warm=warm))
    return Offer(description=description, runtime=ThreadRuntime(workload, watchdog=watchdog, journal=journal))
