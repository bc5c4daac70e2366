"""One order from its plan to its verified outcome.

What is sent is sealed once; where an answer is lost, the very same bytes go out again under the same id, which the
service answers as it did before. The service is asked to hold its answer (``Prefer: wait``, RFC 7240), so a quick
order costs one request; a service that does not hold calls is noticed and asked at growing intervals instead. Where
somebody wants to see progress, the service's events are followed meanwhile; they decide nothing.
"""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import anyio
import msgspec

from avalon_core.attestation.checks import AppraisalReport
from avalon_core.crypto import orders
from avalon_core.crypto.cancellation import cancellation_digest
from avalon_core.crypto.orders import SealedOrder, open_result, seal_order
from avalon_core.crypto.signing import SigningKey
from avalon_core.errors import EncodingError, KeyFormatError
from avalon_core.protocol.cancellation import WorkOrderCancelParams
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.errors import WorkOrderCode, WorkOrderError
from avalon_core.protocol.ids import Base64Str, RequesterId, WorkerId, WorkOrderId
from avalon_core.protocol.orders import WorkOrderRequest, decode_result, encode_request
from avalon_sdk.deadline import MAX_TIMEOUT_SECONDS, Deadline, RetryPolicy
from avalon_sdk.errors import (
    AvalonClientError,
    BadAnswer,
    BadRequest,
    Busy,
    CannotConnect,
    OrderFailed,
    OrderRefused,
    ResultRefused,
    ResultTimeout,
    SuiteNotOffered,
)
from avalon_sdk.events import OrderEvent, OrderState, follow
from avalon_sdk.journal import JournalEntry, OrderJournal
from avalon_sdk.planning import DEFAULT_TIMEOUT, OrderOptions, OrderPlan
from avalon_sdk.progress import Progress, Step
from avalon_sdk.saved import SavedOrder, encode_saved
from avalon_sdk.transports.base import EncodedOrder, NotReady, Transport
from avalon_sdk.workers import TrustedWorker, WorkerFinder, mode_of

__all__ = ["DEFAULT_TIMEOUT", "OrderHandle", "OrderOptions", "OrderOutcome", "Sizes"]

MAX_WAIT_SECONDS = 60
"""Services hold a call no longer than this."""

_FIRST_HOLD_SECONDS = 1
"""Where somebody watches the progress: long enough for a quick order, then its states are followed."""

_CALL_MARGIN_SECONDS = 10.0
"""After the time that the service may hold a call, for the way there and back."""

_ANSWER_MARGIN_SECONDS = 0.5
"""Before the caller's deadline, so that a held answer still arrives."""

_FIRST_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 1.0
_ROTATED = "workerEncryptionKey"
"""A refusal that names this member says: sealed to a key that the worker no longer has."""

_STEPS = {OrderState.SCHEDULED: Step.SCHEDULED, OrderState.PROCESSING: Step.PROCESSING}
_OF_STATES = {
    Step.SCHEDULED: "in the queue; at which place the service does not tell",
    Step.PROCESSING: "an enclave has it",
    Step.PUT_BACK: "an enclave did not finish it; it is in the queue again",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes."""

    inputs: int
    """Plaintext, of this requester's own items."""

    request: int
    """As sent: the params of WorkOrderSubmit."""

    result: int
    """As received."""

    outputs: int
    """Plaintext."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderOutcome:
    """A result that was verified: this order's, by this worker, unchanged."""

    items: Sequence[bytes] = field(repr=False)
    """The outputs in the order of their indices. Those under a third party's key are left out."""

    work_order_id: WorkOrderId
    worker_id: WorkerId
    suite: str
    sizes: Sizes
    report: AppraisalReport = field(repr=False)
    """Every check of the worker's evidence that was made before the order was sealed."""

    raw: bytes = field(default=b"", repr=False)
    """The result as it came, sealed and signed: for whoever else has a key to it (:mod:`avalon_sdk.owners`)."""

    @property
    def simulated(self) -> bool:
        """No hardware protected this order."""
        return self.report.claims is None or self.report.claims.simulated

    @property
    def mode(self) -> str:
        """What protected this order, in a word: ``sgx``, ``tdx``, ..., or ``SIMULATED sgx``."""
        return mode_of(self.report)

    def texts(self) -> list[str]:
        """The outputs as text.

        Raises:
            BadRequest: one of them is not UTF-8; take ``items``.
        """
        try:
            return [item.decode() for item in self.items]
        except UnicodeDecodeError as exc:
            raise BadRequest("an output is not text in UTF-8: take items instead of texts()") from exc


class OrderHandle:
    """An order that was sealed. Await :meth:`result`, as often as needed."""

    def __init__(
        self,
        plan: OrderPlan,
        worker: TrustedWorker,
        *,
        transport: Transport,
        finder: WorkerFinder,
        retry: RetryPolicy,
        on_new_record: Callable[[TrustedWorker], None],
        resumed: tuple[SavedOrder, SealedOrder] | None = None,
    ) -> None:
        self._plan = plan
        self._worker = worker
        self._transport = transport
        self._finder = finder
        self._retry = retry
        self._on_new_record = on_new_record
        self._outcome: OrderOutcome | None = None
        self._failure: OrderFailed | OrderRefused | None = None
        self._response_hash: bytes | None = None
        self._sealed: SealedOrder
        self._encoded: EncodedOrder
        self._sealed_at = 0.0
        self._input_bytes = plan.input_bytes
        self._may_reseal = resumed is None
        if resumed is not None:
            saved, sealed = resumed
            self._sealed_at, self._input_bytes = saved.sealed_at, saved.input_bytes
            self._hold(sealed)

    @property
    def work_order_id(self) -> WorkOrderId:
        """Chosen here. It changes where the worker had rotated its key and the order was sealed anew."""
        return self._encoded.work_order_id

    @property
    def worker(self) -> TrustedWorker:
        """Whom it was sealed to."""
        return self._worker

    @property
    def suite(self) -> str:
        """How it was sealed."""
        return self._plan.suite

    @property
    def workload(self) -> str:
        """Its name."""
        return self._plan.workload

    @property
    def requester_id(self) -> RequesterId:
        """Whose order it is."""
        return self._encoded.requester_id

    @property
    def request(self) -> bytes:
        """The sealed order as it is sent: the JSON of WorkOrderSubmit's params. Nothing in it is secret."""
        return self._encoded.params

    @property
    def parsed_request(self) -> WorkOrderRequest:
        """The same, read."""
        return self._sealed.request

    @property
    def request_hash(self) -> bytes:
        """H: 32 bytes that commit to the order; what a receipt of it names."""
        return self._sealed.request_hash

    @property
    def response_hash(self) -> bytes | None:
        """R: 32 bytes that the worker signed, of a result that was verified; None before."""
        return self._response_hash

    @property
    def outcome(self) -> OrderOutcome | None:
        """What :meth:`result` returned; None before."""
        return self._outcome

    @property
    def failure(self) -> OrderFailed | OrderRefused | None:
        """What :meth:`result` raised, where the service said that the order came to nothing; None before."""
        return self._failure

    def save(self) -> bytes:
        """Everything that another process needs to wait for the order, verify its result and open it.

        SECRET: whoever has the bytes can read the result. They hold no inputs and no signing key. Give them to
        :meth:`avalon_sdk.AvalonClient.resume`, or let an :class:`OrderJournal` keep them.
        """
        saved = SavedOrder(
            address=self._transport.address,
            workload=self.workload,
            suite=self.suite,
            session_key=self._sealed.keys.session.hex(),
            request=self._sealed.request,
            request_size=len(self._encoded.params),
            input_bytes=self._input_bytes,
            worker_name=self._worker.name,
            record=self._worker.record,
            sealed_at=self._sealed_at,
            polls=self._plan.mode == "poll",
        )
        return encode_saved(saved)

    def keep_in(self, journal: OrderJournal, *, state: str = "") -> None:
        """Write the order into a journal. ``state``: how it ended, where that is known.

        Raises:
            JournalUnusable
        """
        entry = JournalEntry(
            work_order_id=self.work_order_id,
            address=self._transport.address,
            workload=self.workload,
            worker_id=self._worker.worker_id,
            sealed_at=self._sealed_at,
            state=state,
            saved=self.save(),
        )
        journal.keep(entry)

    async def cancel(
        self, *, signer: SigningKey | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> OrderState:
        """Withdraw the order, if it is not finished.

        Args:
            signer: the key that signed the order; needed where it was signed and the handle was resumed.
            timeout: seconds.

        Returns:
            The state that it is in now, as the service says: CANCELLED, or how it had ended before.

        Raises:
            BadRequest: the order is signed, and there is no key to sign the cancellation.
            OrderRefused: the service does not take it from this requester.
            NotOffered, CannotConnect, BadAnswer, ServiceError
        """
        params = self._cancellation(signer or self._plan.signer)
        deadline = Deadline.after(timeout)
        return await self._retry.persist(
            lambda: self._transport.cancel(params, timeout=deadline.left), deadline
        )

    async def events(self, *, timeout: float = MAX_TIMEOUT_SECONDS) -> AsyncGenerator[OrderEvent, None]:
        """The state that the order is in, then each that it comes into; ends after the final one.

        The service's word: what came of the order only :meth:`result` says. A lost connection is made anew.

        Raises:
            ResultTimeout: time is up.
            NoSuchOrder, NotOffered, CannotConnect, Busy, BadAnswer, BadRequest
        """
        deadline = Deadline.after(timeout)
        async with aclosing(follow(self._transport, self.work_order_id, deadline, timeout)) as events:
            async for event in events:
                yield event

    async def resend(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Hand the very same bytes over again: for an order that was saved and perhaps never arrived. Always safe.

        Raises:
            OrderRefused, OrderFailed, Busy, CannotConnect, BadAnswer, ResultRefused, ServiceError
        """
        await self._submit(Deadline.after(timeout), hold=False)

    async def deliver(self, deadline: Deadline, *, hold: bool) -> None:
        """Seal the order and hand it to the service; ``hold``: let the service hold the call for the result.

        Raises:
            SuiteNotOffered, OrderRefused, OrderFailed, Busy, CannotConnect, BadAnswer, ResultRefused
        """
        self._seal(deadline)
        try:
            await self._submit(deadline, hold=hold)
        except OrderRefused as exc:
            await self._reseal(exc, deadline)
            await self._submit(deadline, hold=hold)

    async def result(self, timeout: float = DEFAULT_TIMEOUT) -> OrderOutcome:
        """Wait for the result, verify it, open it.

        Args:
            timeout: seconds from now.

        Raises:
            ResultTimeout: not ready yet; await this again to go on waiting.
            OrderFailed, OrderRefused: the order came to nothing.
            ResultRefused: what came back is not acceptable.
            BadAnswer, ServiceError, BadRequest
        """
        return await self.result_by(Deadline.after(timeout), timeout)

    async def result_by(self, deadline: Deadline, timeout: float) -> OrderOutcome:
        """As :meth:`result`, by a deadline that began ``timeout`` seconds earlier."""
        if self._outcome is not None:
            return self._outcome
        try:
            return await self._wait_watched(deadline, timeout)
        except OrderRefused as exc:
            await self._reseal(exc, deadline)
            await self._submit(deadline, hold=True)
            return self._outcome or await self._wait_watched(deadline, timeout)

    def _seal(self, deadline: Deadline, *, replaces: WorkOrderId | None = None) -> None:
        plan, worker = self._plan, self._worker
        worker.require_suite(plan.suite)
        msecs = max(1, int((deadline.left - _ANSWER_MARGIN_SECONDS) * 1000)) if plan.mode == "sync" else 0
        draft = plan.draft(worker.worker_id, response_timeout_msecs=msecs)
        try:
            sealed = seal_order(draft, worker.appraised.public_keys, suite=plan.suite)
        except KeyFormatError as exc:
            raise SuiteNotOffered(f"worker {worker.worker_id}: {exc.message}. Nothing was sent.") from exc
        except EncodingError as exc:
            raise BadRequest(f"what an owner sealed cannot be passed on: {exc.message}") from exc
        self._sealed_at = time.time()
        self._hold(sealed)
        if plan.journal is not None:
            self.keep_in(plan.journal)
            if replaces is not None:
                plan.journal.forget(replaces)
        self._tell(Step.SEALED, f"{len(self._encoded.params)} bytes in {plan.suite}")

    def _hold(self, sealed: SealedOrder) -> None:
        self._sealed = sealed
        self._encoded = EncodedOrder(
            work_order_id=sealed.request.work_order_id,
            worker_id=sealed.request.worker_id,
            requester_id=sealed.request.requester_id,
            params=encode_request(sealed.request),
        )

    def _cancellation(self, signer: SigningKey | None) -> WorkOrderCancelParams:
        request = self._sealed.request
        params = WorkOrderCancelParams(work_order_id=request.work_order_id, requester_id=request.requester_id)
        if not request.requester_signature:
            return msgspec.structs.replace(params, encrypted_request_hash=request.encrypted_request_hash)
        if signer is None:
            raise BadRequest("signer: the order is signed: expected the same key, to sign its cancellation")
        digest = cancellation_digest(
            work_order_id=request.work_order_id,
            requester_id=request.requester_id,
            encrypted_request_hash=request.encrypted_request_hash,
        )
        return msgspec.structs.replace(params, signature=Base64Str(encode_base64(signer.sign(digest))))

    async def _reseal(self, refusal: OrderRefused, deadline: Deadline) -> None:
        """Once: where the worker says that its key was rotated, retrieve and appraise its record and seal anew.

        Under a fresh id: the old one may be taken, and its bytes must not change.
        """
        is_rotation = refusal.code == WorkOrderCode.INVALID_PARAMETER and _ROTATED in refusal.message
        if not is_rotation or not self._may_reseal:
            self._failure = refusal
            raise refusal
        self._may_reseal = False
        worker = self._worker
        self._worker = await self._finder.find(
            name=worker.name, worker_id=worker.worker_id, deadline=deadline
        )
        self._on_new_record(self._worker)
        self._seal(deadline, replaces=self.work_order_id)

    async def _submit(self, deadline: Deadline, *, hold: bool) -> None:
        encoded, mode = self._encoded, self._plan.mode
        wait = _whole_seconds(deadline.left) if hold and mode == "wait" else 0
        if self._plan.on_progress is not None:
            wait = min(wait, _FIRST_HOLD_SECONDS)

        async def call() -> bytes | NotReady:
            timeout = deadline.left if mode == "sync" else _call_timeout(wait, deadline)
            return await self._transport.submit(encoded, wait=wait, timeout=timeout)

        try:
            reply = await self._retry.persist(call, deadline)
        except OrderFailed as exc:
            self._failure = exc
            raise
        self._tell(Step.SUBMITTED, f"work order {encoded.work_order_id}")
        if isinstance(reply, bytes):
            self._verify(reply)

    async def _wait_watched(self, deadline: Deadline, timeout: float) -> OrderOutcome:
        """Wait; where somebody wants to know, tell meanwhile what the service says of the order."""
        if self._plan.on_progress is None:
            return await self._wait(deadline, timeout)
        outcome: OrderOutcome | None = None
        failure: AvalonClientError | None = None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch, deadline)
                try:
                    outcome = await self._wait(deadline, timeout)
                except AvalonClientError as exc:
                    failure = exc  # raised in here it would come out as a group of one
                group.cancel_scope.cancel()
        except ExceptionGroup as exc:
            raise exc.exceptions[0] from exc  # the caller's own observer raised it
        if outcome is None:
            raise failure or ResultTimeout(self.work_order_id, timeout)
        return outcome

    async def _watch(self, deadline: Deadline) -> None:
        try:
            async for event in self.events(timeout=max(deadline.left, 0.001)):
                step = Step.PUT_BACK if event.was_put_back else _STEPS.get(event.state)
                if step is not None:
                    self._tell(step, _OF_STATES[step])
        except AvalonClientError:
            return  # nobody waits for this: a service without events is none the worse

    async def _wait(self, deadline: Deadline, timeout: float) -> OrderOutcome:
        pause = _FIRST_POLL_SECONDS
        while deadline.left > 0:
            wait = _whole_seconds(deadline.left) if self._plan.mode != "poll" else 0
            reply = await self._ask(wait, deadline, timeout)
            if isinstance(reply, bytes):
                return self._verify(reply)
            if reply.held_seconds < min(1.0, wait / 2) or wait == 0:
                await anyio.sleep(min(pause, deadline.left))
                pause = min(2 * pause, _LONGEST_POLL_SECONDS)
        raise ResultTimeout(self.work_order_id, timeout)

    async def _ask(self, wait: int, deadline: Deadline, timeout: float) -> bytes | NotReady:
        async def call() -> bytes | NotReady:
            return await self._transport.get_result(
                self.work_order_id, wait=wait, timeout=_call_timeout(wait, deadline)
            )

        try:
            return await self._retry.persist(call, deadline)
        except (CannotConnect, Busy) as exc:
            raise ResultTimeout(self.work_order_id, timeout, exc.message) from exc
        except OrderFailed as exc:
            self._failure = exc
            raise

    def _verify(self, raw: bytes) -> OrderOutcome:
        self._tell(Step.EXECUTED, f"{len(raw)} bytes of result")
        try:
            result = decode_result(raw)
            outputs = open_result(self._sealed, result, self._worker.appraised.verification_key)
            response_hash = self._sealed.dialect.result_hash(
                self._sealed.request, result, self._sealed.request_hash
            )
        except WorkOrderError as exc:
            raise BadAnswer(exc.message) from exc
        except orders.ResultRefused as exc:
            raise ResultRefused(
                f"{exc.message}. Nothing of it was returned: do not rely on this service's answers, and tell its "
                "operator."
            ) from exc
        items = tuple(output.data for output in outputs)
        self._response_hash = response_hash
        self._outcome = OrderOutcome(
            items=items,
            work_order_id=self.work_order_id,
            worker_id=self._worker.worker_id,
            suite=self.suite,
            sizes=Sizes(
                inputs=self._input_bytes,
                request=len(self._encoded.params),
                result=len(raw),
                outputs=sum(map(len, items)),
            ),
            report=self._worker.report,
            raw=raw,
        )
        self._tell(Step.VERIFIED, "this order's, by this worker, unchanged")
        return self._outcome

    def _tell(self, step: Step, detail: str) -> None:
        if self._plan.on_progress is not None:
            self._plan.on_progress(Progress(step=step, detail=detail, simulated=self._worker.simulated))


def _whole_seconds(left: float) -> int:
    """How long to ask the service to hold a call: whole seconds (RFC 7240), answered before the deadline."""
    return max(0, min(MAX_WAIT_SECONDS, int(left - _ANSWER_MARGIN_SECONDS)))


def _call_timeout(wait: int, deadline: Deadline) -> float:
    return min(deadline.left, wait + _CALL_MARGIN_SECONDS)
