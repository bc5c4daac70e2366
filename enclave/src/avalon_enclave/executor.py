"""Orders in flight: a queue, the threads that process them, and exactly one answer for each.

Whoever comes first answers: the thread that processed the order, the watchdog at a deadline, or a cancellation.
Later answers of the same order are dropped.
"""

import queue
import threading
import time
from collections.abc import Callable

import msgspec

from avalon_core.channel.messages import Done, Failed, Process, ReceiptSigned, SignReceipt
from avalon_core.errors import ChannelError
from avalon_core.protocol.errors import WorkOrderCode, WorkOrderError
from avalon_enclave.events import Event, Journal, type_name
from avalon_enclave.processor import Processed, Processor
from avalon_enclave.runtimes.base import workload_overran

MAX_IN_FLIGHT = 4096
"""Orders that are held at a time. The host sets its own, lower limit; this one bounds what a broken host can do."""

MAX_IN_FLIGHT_BYTES = 512 * 1024 * 1024
"""Their requests together."""

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
        "refused_request",
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

        if isinstance(message, SignReceipt):
            self.size += len(message.result)
        elif message.receipt:
            self.refused_request = message.request
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
        self.message = self.refused_request = None
        if self._stop is not None:
            self._stop()


class Executor:
    """Processes orders in a fixed number of threads."""

    def __init__(
        self,
        processor: Processor,
        *,
        send: Callable[[Done | Failed | ReceiptSigned], None],
        journal: Journal,
        threads: int,
    ) -> None:
        self.lock = threading.Lock()
        """Guards what is in flight, and every job."""

        self._processor = processor
        self._send = send
        self._journal = journal
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._open: dict[int, Job] = {}
        self._open_bytes = 0
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=f"orders-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

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
            self._queue.put(job)
            return
        self._journal.record(Event.QUEUE_FULL, in_flight=len(self._open))
        self.fail(
            job, WorkOrderError(WorkOrderCode.BUSY, "the enclave is full or ends; submit the order again")
        )

    def cancel(self, handle: int) -> None:
        """Drop an order. Nothing happens where it was answered already."""
        with self.lock:
            job = self._open.get(handle)
            if job is not None:
                job.cancel()
        if job is not None:
            self.fail(job, WorkOrderError(WorkOrderCode.FAILED, "the order was cancelled"))

    def fail(self, job: Job, error: WorkOrderError) -> None:
        """Answer that an order failed, unless it was answered already."""
        if self._claim(job):
            self._send(self._failed(job, error))

    def drain(self, seconds: float) -> bool:
        """Take no more orders, finish those that were taken; True where all were finished in time."""
        deadline = time.monotonic() + seconds
        with self.lock:
            self._closing = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while True:
            job = self._queue.get()
            if job is None:
                return
            message, job.message = job.message, None
            if message is not None:
                self._process(job, message)
            # Hold no plaintext and no request while waiting for the next.
            del job, message

    def _process(self, job: Job, message: Process | SignReceipt) -> None:
        try:
            if isinstance(message, SignReceipt):
                self._sign_receipt(job, message)
                return
            processed = self._processor.process(
                message.request, message.registered_key, job, receipt=message.receipt
            )
            if self._claim(job):
                self._send(_done(job, processed))
            if processed.legacy:
                self._journal.record(Event.LEGACY_ORDER_ACCEPTED)
        except WorkOrderError as exc:
            self.fail(job, exc)
        except BaseException as exc:  # noqa: BLE001 one order must not end the thread; its text may hold plaintext
            self._journal.record(Event.ORDER_NOT_PROCESSED, error=type_name(exc))
            self.fail(job, WorkOrderError(WorkOrderCode.FAILED, _UNEXPECTED))

    def _sign_receipt(self, job: Job, message: SignReceipt) -> None:
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
            return True


def _done(job: Job, processed: Processed) -> Done:
    receipt = processed.receipt
    return Done(
        handle=job.handle,
        result=processed.result,
        legacy=processed.legacy,
        response_hash=receipt.response_hash if receipt is not None else None,
        receipt_signature=receipt.signature if receipt is not None else None,
    )
