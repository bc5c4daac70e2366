"""Orders in flight: queues, the threads that process them, and exactly one answer for each.

    submit -> queue -> a thread opens the order, runs its workload, seals       (workloads in threads)
                       a thread opens the order -> child queue -> a thread of another kind waits for
                       the child, then seals                                    (workloads in processes)

So an order whose workload runs in a process holds a thread of the first kind only while it is opened, and however slow
or many such orders are, others are processed beside them. Who gets a child is decided in
:mod:`avalon_enclave.runtimes.turns`.

Whoever comes first answers: the thread that processed the order, the watchdog at a deadline, or a cancellation.
Later answers of the same order are dropped.
"""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec

from avalon_core.channel.messages import Done, Failed, Parked, Process, ReceiptSigned, SignReceipt
from avalon_core.errors import ChannelError
from avalon_core.protocol.errors import WorkOrderCode, WorkOrderError
from avalon_enclave.events import Event, Journal, type_name
from avalon_enclave.processor import CANCELLED, Opened, Processed, Processor, Secrets
from avalon_enclave.relay import Relay
from avalon_enclave.runtimes.base import Runtime, workload_overran
from avalon_enclave.runtimes.turns import ChildQueue

MAX_IN_FLIGHT = 4096
"""Orders that are held at a time. The host sets its own, lower limit; this one bounds what a broken host can do."""

MAX_IN_FLIGHT_BYTES = 512 * 1024 * 1024
"""Their requests together."""

MAX_PARKED = 1024
"""Orders that wait for a child, or run in one, beyond those that the host would hand over otherwise."""

MAX_PARKED_BYTES = 128 * 1024 * 1024
"""Their requests together: most of what the enclave may hold is left for others."""

FetchSecrets = Callable[[Process, Callable[[Secrets | WorkOrderError], None]], None]
"""Ask for the secrets of an order; the second is called once with them, in any thread."""

_Given = TypeVar("_Given")

_UNEXPECTED = "the order could not be processed"


class Job:
    """One hand-over of one order. Satisfies :class:`avalon_enclave.runtimes.base.Control`."""

    __slots__ = (
        "_executor",
        "_stop",
        "answered",
        "cancelled",
        "handle",
        "message",
        "opened",
        "parked",
        "refused_request",
        "secrets",
        "size",
    )

    def __init__(self, executor: "Executor", message: Process | SignReceipt) -> None:
        self._executor = executor
        self._stop: Callable[[], None] | None = None
        self.handle = message.handle
        self.message: Process | SignReceipt | None = message
        self.size = len(message.request)
        self.refused_request: bytes | None = None
        """The request of an order with a receipt: a refusal is signed, too."""

        self.opened: Opened | None = None
        """While it waits for a child."""

        self.secrets: Secrets | WorkOrderError | None = None
        """In a pool: what the key management enclave gave, or why it gave nothing."""

        if isinstance(message, SignReceipt):
            self.size += len(message.result or b"")
        elif message.receipt:
            self.refused_request = message.request
        self.parked = False
        """The host was told so."""

        self.answered = False
        self.cancelled = False

    def overran(self, seconds: float) -> None:
        self._executor.fail(self, workload_overran(seconds))

    def stop_with(self, stop: Callable[[], None] | None) -> None:
        with self._executor.lock:
            self._stop = stop
            if stop is not None and self.cancelled:
                stop()

    def cancel(self) -> None:
        """Nobody wants the result: stop what can be stopped. With the executor's lock held."""
        self.cancelled = True
        self.message = self.opened = self.secrets = self.refused_request = None
        if self._stop is not None:
            self._stop()


class Executor:
    """Processes orders in a fixed number of threads, and in as many children as may work at a time."""

    def __init__(
        self,
        processor: Processor,
        *,
        send: Callable[[Done | Failed | Parked | ReceiptSigned], None],
        journal: Journal,
        threads: int,
        children: int,
        relay: "Relay[Job] | None" = None,
        fetch: FetchSecrets | None = None,
    ) -> None:
        """``threads``, ``children``: how many orders are processed at a time; ``relay``: the one that the processor steps
        aside in; ``fetch``: in a pool, asks for an order's secrets before it stands in line."""
        self.lock = threading.Lock()
        """Guards what is in flight, and every job."""

        self._processor = processor
        self._send = send
        self._journal = journal
        self._relay: Relay[Job] = relay or Relay()
        self._fetch = fetch
        self._open: dict[int, Job] = {}
        self._open_bytes = 0
        self._parked = 0
        self._parked_bytes = 0
        self._closing = False
        in_children = [runtime for runtime in processor.runtimes.values() if runtime.in_child]
        self._children: ChildQueue[Runtime, Job] = ChildQueue(children, in_children)
        self._threads = _started("orders", threads, self._work)
        self._waiters = _started("children", self._children.places, self._wait_for_children)

    def submit(self, message: Process | SignReceipt) -> None:
        """Take an order; it is answered sooner or later.

        Raises:
            ChannelError: its handle is that of another order in flight.
        """
        job = Job(self, message)
        with self.lock:
            if message.handle in self._open:
                raise ChannelError(f"the host gave the handle {message.handle} to two orders at a time")
            self._open[message.handle] = job
            self._open_bytes += job.size
            refused = (
                self._closing or len(self._open) > MAX_IN_FLIGHT or self._open_bytes > MAX_IN_FLIGHT_BYTES
            )
        if not refused:
            if self._fetch is not None and isinstance(message, Process):
                self._fetch(message, partial(self._fetched, job))
            else:
                self._relay.put(job)
            return
        self._journal.record(Event.QUEUE_FULL, in_flight=len(self._open))
        self.fail(
            job, WorkOrderError(WorkOrderCode.BUSY, "the enclave is full or ends; submit the order again")
        )

    def _fetched(self, job: Job, secrets: Secrets | WorkOrderError) -> None:
        with self.lock:
            if job.answered:
                return
            job.secrets = secrets
        self._relay.put(job)

    def cancel(self, handle: int) -> None:
        """Drop an order. Nothing happens where it was answered already."""
        with self.lock:
            job = self._open.get(handle)
            if job is not None:
                job.cancel()
                self._children.remove(job)
        if job is not None:
            self.fail(job, WorkOrderError(WorkOrderCode.FAILED, CANCELLED))

    def fail(self, job: Job, error: WorkOrderError) -> None:
        """Answer that an order failed, unless it was answered already."""
        if self._claim(job):
            self._send(self._failed(job, error))

    def drain(self, seconds: float) -> bool:
        """Take no more orders, finish those that were taken; True where all were finished in time (seconds)."""
        deadline = time.monotonic() + seconds
        with self.lock:
            self._closing = True
        self._relay.end(len(self._threads))
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._children.close()
        for thread in self._waiters:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in (*self._threads, *self._waiters))

    def _work(self) -> None:
        while (job := self._relay.take()) is not None:
            message, job.message = job.message, None
            if message is not None:
                self._attempt(job, self._process, message)
            # Hold no plaintext and no request while waiting for the next.
            del job, message

    def _wait_for_children(self) -> None:
        while (taken := self._children.take()) is not None:
            runtime, job = taken
            opened, job.opened = job.opened, None
            if opened is not None:
                self._attempt(job, self._finish, opened)
            self._children.release(runtime)
            del taken, job, opened

    def _attempt(self, job: Job, step: Callable[[Job, _Given], None], given: _Given) -> None:
        try:
            step(job, given)
        except WorkOrderError as exc:
            self.fail(job, exc)
        except BaseException as exc:  # noqa: BLE001 one order must not end the thread; its text may hold plaintext
            self._journal.record(Event.ORDER_NOT_PROCESSED, error=type_name(exc))
            self.fail(job, WorkOrderError(WorkOrderCode.FAILED, _UNEXPECTED))

    def _process(self, job: Job, message: Process | SignReceipt) -> None:
        if isinstance(message, SignReceipt):
            self._sign_receipt(job, message)
            return
        secrets, job.secrets = job.secrets, None
        if isinstance(secrets, WorkOrderError):
            raise secrets
        opened = self._processor.open(
            message.request, message.registered_key, receipt=message.receipt, secrets=secrets
        )
        if isinstance(opened, Processed):
            self._done(job, opened)
        elif opened.runtime.in_child:
            self._park(job, opened)
        else:
            self._finish(job, opened)

    def _park(self, job: Job, opened: Opened) -> None:
        """Let an order wait for a child, and the host hand over another in its place."""
        with self.lock:
            if (
                not job.answered
                and self._parked < MAX_PARKED
                and self._parked_bytes + job.size <= MAX_PARKED_BYTES
            ):
                job.parked = True
                self._parked += 1
                self._parked_bytes += job.size
        if job.parked:
            self._send(Parked(job.handle))
        with self.lock:
            if not job.answered:
                job.opened = opened
                self._children.put(job, workload=opened.runtime, requester=opened.context.requester_id)

    def _finish(self, job: Job, opened: Opened) -> None:
        self._done(job, self._processor.finish(opened, job))

    def _done(self, job: Job, processed: Processed) -> None:
        if self._claim(job):
            self._send(_done(job, processed))
        if processed.legacy:
            self._journal.record(Event.LEGACY_ORDER_ACCEPTED)

    def _sign_receipt(self, job: Job, message: SignReceipt) -> None:
        if message.result is None:
            signed = self._processor.sign_unanswered(message.request)
        else:
            signed = self._processor.sign_receipt(message.request, message.result)
        if self._claim(job):
            self._send(ReceiptSigned(job.handle, signed.response_hash, signed.signature))

    def _failed(self, job: Job, error: WorkOrderError) -> Failed:
        failed = Failed(handle=job.handle, code=int(error.code), message=error.message)
        request, job.refused_request = job.refused_request, None
        # An enclave that is busy has not looked at the order: the host hands it over again.
        if request is None or error.code == WorkOrderCode.BUSY:
            return failed
        signed = self._processor.sign_refusal(request, error)
        if signed is None:
            return failed
        return msgspec.structs.replace(
            failed, response_hash=signed.response_hash, receipt_signature=signed.signature
        )

    def _claim(self, job: Job) -> bool:
        with self.lock:
            if job.answered:
                return False
            job.answered = True
            del self._open[job.handle]
            self._open_bytes -= job.size
            if job.parked:
                self._parked -= 1
                self._parked_bytes -= job.size
            return True


def _started(name: str, count: int, work: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, name=f"{name}-{number}", daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def _done(job: Job, processed: Processed) -> Done:
    receipt = processed.receipt
    return Done(
        handle=job.handle,
        result=processed.result,
        legacy=processed.legacy,
        response_hash=receipt.response_hash if receipt is not None else None,
        receipt_signature=receipt.signature if receipt is not None else None,
    )
