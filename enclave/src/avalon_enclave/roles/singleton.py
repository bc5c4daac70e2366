"""The singleton: one worker, one enclave, which holds the keys and runs the workloads itself."""

import gc
import os
from functools import partial

from avalon_core.protocol.ids import worker_id_of
from avalon_enclave.errors import EXIT_ENDED, EXIT_WEDGED
from avalon_enclave.events import Event, Journal
from avalon_enclave.executor import Executor, Job
from avalon_enclave.hardening import silence
from avalon_enclave.host_channel import HostChannel
from avalon_enclave.key_signing import KeySigner
from avalon_enclave.lifecycle import announce, await_configure, describe, obtain_keys, serve
from avalon_enclave.platforms import Platform
from avalon_enclave.platforms.base import Reporting
from avalon_enclave.processor import Processor
from avalon_enclave.relay import Relay
from avalon_enclave.runtimes.assembly import assemble
from avalon_enclave.runtimes.process import WarmChildren
from avalon_enclave.runtimes.watchdog import Watchdog

ROLE = "singleton"


def run_singleton(channel: HostChannel, platform: Platform) -> int:
    """Run to the end; returns the exit code.

    Raises:
        StartRefused: before Started was sent.
        ChannelError: the same, where the host's first message is none.
    """
    messages = channel.messages()
    journal = Journal(channel.send)

    def on_wedged() -> None:
        journal.record(Event.WORKLOAD_WEDGED)
        os._exit(EXIT_WEDGED)

    configure = await_configure(messages, channel.measured)
    if configure is None:
        return EXIT_ENDED
    keys = obtain_keys(configure, ROLE, platform, journal)
    offers = assemble(
        watchdog=Watchdog(on_wedged), journal=journal, warm=WarmChildren(room=configure.children)
    )
    workloads = tuple(offer.description.info() for offer in offers)
    started = announce(configure, keys, platform, workloads)
    relay: Relay[Job] = Relay()
    processor = Processor(
        worker_id=worker_id_of(configure.worker_name),
        keys=keys.encryption,
        signer=keys.signing,
        runtimes={offer.description.info().workload_id: offer.runtime for offer in offers},
        accept_legacy=configure.accept_legacy,
        step_aside=relay.step_aside,
    )
    channel.send(started)
    silence(0, 1, 2)
    if platform.simulated:
        journal.record(Event.SIMULATED_PLATFORM, platform=platform.name)
    if isinstance(platform, Reporting):
        journal.record(Event.PLATFORM_FOUND, **platform.findings)
    # What is here now stays to the end: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    executor = Executor(
        processor,
        send=channel.send,
        journal=journal,
        threads=configure.threads,
        children=configure.children,
        relay=relay,
    )
    try:
        return serve(
            channel,
            messages,
            executor,
            journal,
            KeySigner(processor.worker_id, keys),
            partial(describe, keys, platform, workloads),
        )
    finally:
        for offer in offers:
            offer.runtime.close()
