"""The work order processing enclave: the threads and the channel around :class:`avalon_enclave.pool.wpe.WpeNode`.

It holds no key of the pool. Each order's secrets come from a KME, over an attested session, as the order comes from the host.
"""

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import msgspec

from avalon_core.channel.messages import (
    Cancel,
    Done,
    Failed,
    Parked,
    Ping,
    Pong,
    Process,
    ReceiptSigned,
    Shutdown,
    SignReceipt,
    Started,
    ToEnclave,
)
from avalon_core.channel.pool import Welcome
from avalon_core.channel.pool_messages import (
    CloseLink,
    LinkClosed,
    LinkFrame,
    LinkOpened,
    PoolAnswered,
    PoolCommand,
    Welcomed,
)
from avalon_core.crypto.manifests import Manifest
from avalon_core.errors import ChannelError
from avalon_core.protocol.ids import worker_id_of
from avalon_enclave.errors import EXIT_CHANNEL_BROKEN, EXIT_ENDED, EXIT_WEDGED
from avalon_enclave.events import Event, Journal
from avalon_enclave.executor import Executor, Job
from avalon_enclave.hardening import silence
from avalon_enclave.host_channel import HostChannel
from avalon_enclave.lifecycle import SHUTDOWN_SECONDS, await_configure
from avalon_enclave.platforms import Platform
from avalon_enclave.pool.desk import Desk
from avalon_enclave.pool.judging import Judge, issue
from avalon_enclave.pool.wpe import WpeNode
from avalon_enclave.processor import Processor
from avalon_enclave.relay import Relay
from avalon_enclave.roles.kme import pool_of
from avalon_enclave.runtimes.assembly import assemble
from avalon_enclave.runtimes.process import WarmChildren
from avalon_enclave.runtimes.watchdog import Watchdog

_TICK_SECONDS = 1.0


def run_wpe(channel: HostChannel, platform: Platform) -> int:
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
    pool, manifest = pool_of(configure)
    offers = assemble(
        watchdog=Watchdog(on_wedged), journal=journal, warm=WarmChildren(room=configure.children)
    )
    relay: Relay[Job] = Relay()
    wpe = WpeProcess(
        channel,
        platform,
        journal,
        first_manifest=pool.first_manifest,
        manifest=manifest,
        step_aside=relay.step_aside,
    )
    desk = wpe.desk
    processor = Processor(
        worker_id=worker_id_of(configure.worker_name),
        words=desk,
        runtimes={offer.description.info().workload_id: offer.runtime for offer in offers},
        accept_legacy=configure.accept_legacy and manifest.accept_legacy,
        step_aside=relay.step_aside,
    )
    infos = tuple(offer.description.info() for offer in offers)
    channel.send(
        Started(
            details=msgspec.json.encode(infos),
            measurement=platform.measurement(),
            platform=platform.name,
            simulated=platform.simulated,
        )
    )
    silence(0, 1, 2)
    if platform.simulated:
        journal.record(Event.SIMULATED_PLATFORM, platform=platform.name)
    gc.collect()
    gc.freeze()
    executor = Executor(
        processor,
        send=wpe.answer,
        journal=journal,
        threads=configure.threads,
        children=configure.children,
        relay=relay,
        fetch=desk.fetch,
    )
    try:
        return wpe.serve(messages, executor)
    finally:
        for offer in offers:
            offer.runtime.close()


class WpeProcess:
    """The world around a node. Satisfies :class:`avalon_enclave.pool.wpe.Outside`."""

    def __init__(
        self,
        channel: HostChannel,
        platform: Platform,
        journal: Journal,
        *,
        first_manifest: bytes,
        manifest: Manifest,
        step_aside: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._platform = platform
        self._journal = journal
        self._judge = Judge(simulated=platform.simulated)
        self._pending: Callable[[], None] | None = None
        self._reader: int | None = None
        self.node = WpeNode(self, first_manifest=first_manifest, manifest=manifest)
        self.desk = Desk(self.node, step_aside=step_aside)
        self._ended = threading.Event()

    def serve(self, messages: Iterator[ToEnclave], executor: Executor) -> int:
        """Do what the host says until it says Shutdown or closes the channel."""
        node = self.node
        self._reader = threading.get_ident()
        threading.Thread(target=self._tick, name="wpe-tick", daemon=True).start()
        self._channel.before_waiting = self._flush
        try:
            for message in messages:
                match message:
                    case Process():
                        executor.submit(message)
                    case Cancel(handle=handle):
                        executor.cancel(handle)
                    case LinkFrame(link=link, frame=frame):
                        node.link_frame(link, frame)
                    case LinkOpened(link=link, peer=peer):
                        node.link_opened(link, kme=peer)
                    case LinkClosed(link=link):
                        node.link_closed(link)
                    case Ping(sequence=sequence):
                        self._channel.send(Pong(sequence))
                    case SignReceipt(handle=handle):
                        self._channel.send(Failed(handle, 3, "a WPE signs no receipts: ask a KME"))
                    case PoolCommand(handle=handle):
                        self._channel.send(
                            PoolAnswered(handle, False, b'{"error":"a WPE takes no commands"}')
                        )
                    case Shutdown():
                        # In a thread, so that this one goes on carrying frames to the KMEs meanwhile.
                        threading.Thread(target=self._drain, args=(executor,), daemon=True).start()
                    case _:
                        raise ChannelError(f"the host sent {type(message).__name__} to a WPE")
        except ChannelError:
            self._journal.record(Event.CHANNEL_BROKEN)
            return EXIT_CHANNEL_BROKEN
        finally:
            self._ended.set()
        return EXIT_ENDED

    def answer(self, message: Done | Failed | Parked | ReceiptSigned) -> None:
        """Say what became of an order."""
        if isinstance(message, Done | Failed):
            self.desk.let_go(message.handle, failed=isinstance(message, Failed))
        self._channel.send(message)

    # -- Outside

    def send(self, link: int, frame: bytes) -> None:
        self._channel.send(LinkFrame(link, frame))

    def close(self, link: int, reason: str) -> None:
        self._channel.send(CloseLink(link, reason))

    def event(self, name: str, fields: Mapping[str, str | int]) -> None:
        self._journal.record(_EVENTS[name], **fields)

    def soon(self, work: Callable[[], None]) -> None:
        # What the host said in one breath is asked in one breath: the reading thread flushes before it waits for more.
        if threading.get_ident() == self._reader:
            self._pending = work
        else:
            threading.Thread(target=work, daemon=True).start()

    def issue_evidence(self, report_data: bytes) -> bytes:
        return issue(self._platform, report_data)

    def judge(self, evidence: bytes, report_data: bytes, role: str, manifest: Manifest) -> None:
        self._judge(evidence, report_data, role, manifest)

    def welcomed(self, welcome: Welcome) -> None:
        self._channel.send(Welcomed(welcome.orders_left))

    def monotonic(self) -> float:
        return time.monotonic()

    # -- inside

    def _flush(self) -> None:
        work, self._pending = self._pending, None
        if work is not None:
            work()

    def _tick(self) -> None:
        while not self._ended.wait(_TICK_SECONDS):
            self.node.tick()
            self.desk.tell_finished()

    def _drain(self, executor: Executor) -> None:
        executor.drain(SHUTDOWN_SECONDS)
        self.node.leave()
        self._channel.stop_receiving()


_EVENTS = {"kme_joined": Event.KME_JOINED, "link_closed": Event.LINK_CLOSED}
