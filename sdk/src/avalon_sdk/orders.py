"""One order from its items to its verified outcome.

What is sent is sealed once; where an answer is lost, the very same bytes go out again under the same id, which the
service answers as it did before. The service is asked to hold its answer (``Prefer: wait``, RFC 7240), so a quick
order costs one request; a service that does not hold calls is noticed and asked at growing intervals instead.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypedDict

import anyio

from avalon_core.attestation import AppraisalReport
from avalon_core.crypto import orders
from avalon_core.crypto.dialects import AVALON, DIALECTS, EEA
from avalon_core.crypto.orders import Item, OrderDraft, SealedOrder, open_result, seal_order
from avalon_core.crypto.signing import SigningKey
from avalon_core.errors import KeyFormatError
from avalon_core.protocol.errors import WorkOrderCode, WorkOrderError
from avalon_core.protocol.ids import HexStr, RequesterId, WorkerId, WorkOrderId, workload_id_of
from avalon_core.protocol.limits import MAX_DATA_CHARS, MAX_ID_HEX_DIGITS, MAX_ITEMS
from avalon_core.protocol.orders import FORMAT_HPKE, decode_result, encode_request
from avalon_sdk.deadline import Deadline, RetryPolicy
from avalon_sdk.errors import (
    BadAnswer,
    BadRequest,
    Busy,
    CannotConnect,
    OrderRefused,
    ResultRefused,
    ResultTimeout,
    SuiteNotOffered,
)
from avalon_sdk.progress import Observer, Progress, Step
from avalon_sdk.transports.base import EncodedOrder, NotReady, Transport
from avalon_sdk.workers import TrustedWorker, WorkerFinder

Mode = Literal["wait", "poll", "sync"]
"""``wait``: asynchronous, the service holds each call while it can. ``poll``: asynchronous, asked now and again.
``sync``: the service answers with the result within the time, or cancels the order."""

SUITES = (FORMAT_HPKE, AVALON.name, EEA.name)
"""Ours first. The other two exist for workers that speak nothing else."""

MAX_ITEM_BYTES = MAX_DATA_CHARS // 4 * 3 - 64
"""An item's plaintext: what fits with iv and tag."""

DEFAULT_TIMEOUT = 30.0
MAX_WAIT_SECONDS = 60
"""Services hold a call no longer than this."""

_CALL_MARGIN_SECONDS = 10.0
"""After the time that the service may hold a call, for the way there and back."""

_ANSWER_MARGIN_SECONDS = 0.5
"""Before the caller's deadline, so that a held answer still arrives."""

_FIRST_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 1.0
_ID_BYTES = 32
_ROTATED = "workerEncryptionKey"
"""A refusal that names this member says: sealed to a key that the worker no longer has."""


class OrderOptions(TypedDict, total=False):
    """What may be said about an order besides its workload and items."""

    worker: TrustedWorker | str | None
    """The worker, or its name. None: the first active one whose record passes."""

    suite: str
    """``~avalon-hpke-1`` (default), ``avalon`` or ``eea-1.1``. Never anything else than what was asked for."""

    timeout: float
    """Seconds for the whole of it; 30 by default."""

    mode: Mode
    """How to wait; ``wait`` by default."""

    requester_id: str | None
    """Hex, up to 32 bytes. None: the client's own, random for each client."""

    signer: SigningKey | None
    """Signs the order, where the service knows this requester by a key."""

    on_progress: Observer | None
    """Is told each step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes."""

    inputs: int
    """Plaintext."""

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
    """The outputs by index. Outputs under a third party's key are left out."""

    work_order_id: WorkOrderId
    worker_id: WorkerId
    suite: str
    sizes: Sizes
    report: AppraisalReport = field(repr=False)
    """Every check of the worker's evidence that was made before the order was sealed."""

    @property
    def simulated(self) -> bool:
        """No hardware protected this order."""
        return self.report.claims is None or self.report.claims.simulated

    def texts(self) -> list[str]:
        """The outputs as text.

        Raises:
            BadRequest: one of them is not UTF-8; take ``items``.
        """
        try:
            return [item.decode() for item in self.items]
        except UnicodeDecodeError as exc:
            raise BadRequest("an output is not text in UTF-8: take items instead of texts()") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderPlan:
    """What is wanted, before it has an id and is sealed: enough to seal it anew."""

    workload: str
    inputs: Sequence[bytes] = field(repr=False)
    suite: str
    mode: Mode
    requester_id: RequesterId
    signer: SigningKey | None = field(repr=False)
    on_progress: Observer | None = field(repr=False)


def plan_order(
    workload: str, items: Sequence[str | bytes], options: OrderOptions, *, requester_id: RequesterId
) -> OrderPlan:
    """Check the caller's arguments.

    Raises:
        BadRequest: naming what is wrong with them.
    """
    suite = options.get("suite", FORMAT_HPKE)
    if suite not in DIALECTS:
        raise BadRequest(f"suite: got {suite!r}, expected one of {', '.join(SUITES)}")
    mode = options.get("mode", "wait")
    if mode not in ("wait", "poll", "sync"):
        raise BadRequest(f"mode: got {mode!r}, expected 'wait', 'poll' or 'sync'")
    if not workload or len(workload_id_of(workload)) > MAX_ID_HEX_DIGITS:
        raise BadRequest(
            f"workload: got {workload!r}, expected a name of 1 to {MAX_ID_HEX_DIGITS // 2} bytes"
        )
    return OrderPlan(
        workload=workload,
        inputs=_inputs(items),
        suite=suite,
        mode=mode,
        requester_id=require_requester_id(options.get("requester_id")) or requester_id,
        signer=options.get("signer"),
        on_progress=options.get("on_progress"),
    )


def require_requester_id(text: str | None) -> RequesterId | None:
    """The id, where it is one.

    Raises:
        BadRequest: not hex of up to 32 bytes.
    """
    if text is None:
        return None
    digits = text.removeprefix("0x")
    if not digits or len(digits) > MAX_ID_HEX_DIGITS or set(digits) - set("0123456789abcdefABCDEF"):
        raise BadRequest("requester_id: expected hex, up to 32 bytes")
    return RequesterId(text)


def random_id() -> str:
    """A fresh id of 32 bytes."""
    return os.urandom(_ID_BYTES).hex()


def _inputs(items: Sequence[str | bytes]) -> list[bytes]:
    if isinstance(items, str | bytes):
        raise BadRequest("items: got one text, expected a list of them: items=['text']")
    if len(items) > MAX_ITEMS:
        raise BadRequest(f"items: got {len(items)}, expected at most {MAX_ITEMS}")
    inputs = []
    for index, item in enumerate(items):
        if not isinstance(item, str | bytes):
            raise BadRequest(f"items: item {index} is {type(item).__name__}, expected str or bytes")
        data = item.encode() if isinstance(item, str) else item
        if len(data) > MAX_ITEM_BYTES:
            raise BadRequest(
                f"items: item {index} has {len(data)} bytes, expected at most {MAX_ITEM_BYTES}: split it"
            )
        inputs.append(data)
    return inputs


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
    ) -> None:
        self._plan = plan
        self._worker = worker
        self._transport = transport
        self._finder = finder
        self._retry = retry
        self._on_new_record = on_new_record
        self._outcome: OrderOutcome | None = None
        self._sealed: SealedOrder
        self._encoded: EncodedOrder
        self._may_reseal = True

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
            return await self._wait(deadline, timeout)
        except OrderRefused as exc:
            await self._reseal(exc, deadline)
            await self._submit(deadline, hold=True)
            return self._outcome or await self._wait(deadline, timeout)

    def _seal(self, deadline: Deadline) -> None:
        plan, worker = self._plan, self._worker
        worker.require_suite(plan.suite)
        draft = OrderDraft(
            work_order_id=WorkOrderId(random_id()),
            worker_id=worker.worker_id,
            workload_id=workload_id_of(plan.workload),
            requester_id=plan.requester_id,
            requester_nonce=HexStr(random_id()),
            inputs=[Item(index=index, data=data) for index, data in enumerate(plan.inputs)],
            signer=plan.signer,
        )
        if plan.mode == "sync":
            msecs = max(1, int((deadline.left - _ANSWER_MARGIN_SECONDS) * 1000))
            draft = replace(draft, response_timeout_msecs=msecs)
        try:
            self._sealed = seal_order(draft, worker.appraised.public_keys, suite=plan.suite)
        except KeyFormatError as exc:
            raise SuiteNotOffered(f"worker {worker.worker_id}: {exc.message}. Nothing was sent.") from exc
        self._encoded = EncodedOrder(
            work_order_id=draft.work_order_id,
            worker_id=draft.worker_id,
            requester_id=draft.requester_id,
            params=encode_request(self._sealed.request),
        )
        self._tell(Step.SEALED, f"{len(self._encoded.params)} bytes in {plan.suite}")

    async def _reseal(self, refusal: OrderRefused, deadline: Deadline) -> None:
        """Once: where the worker says that its key was rotated, retrieve and appraise its record and seal anew.

        Under a fresh id: the old one may be taken, and its bytes must not change.
        """
        is_rotation = refusal.code == WorkOrderCode.INVALID_PARAMETER and _ROTATED in refusal.message
        if not is_rotation or not self._may_reseal:
            raise refusal
        self._may_reseal = False
        worker = self._worker
        self._worker = await self._finder.find(
            name=worker.name, worker_id=worker.worker_id, deadline=deadline
        )
        self._on_new_record(self._worker)
        self._seal(deadline)

    async def _submit(self, deadline: Deadline, *, hold: bool) -> None:
        encoded, mode = self._encoded, self._plan.mode
        wait = _whole_seconds(deadline.left) if hold and mode == "wait" else 0

        async def call() -> bytes | NotReady:
            timeout = deadline.left if mode == "sync" else _call_timeout(wait, deadline)
            return await self._transport.submit(encoded, wait=wait, timeout=timeout)

        reply = await self._retry.persist(call, deadline)
        self._tell(Step.SUBMITTED, f"work order {encoded.work_order_id}")
        if isinstance(reply, bytes):
            self._verify(reply)

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

    def _verify(self, raw: bytes) -> OrderOutcome:
        self._tell(Step.EXECUTED, f"{len(raw)} bytes of result")
        try:
            result = decode_result(raw)
            outputs = open_result(self._sealed, result, self._worker.appraised.verification_key)
        except WorkOrderError as exc:
            raise BadAnswer(exc.message) from exc
        except orders.ResultRefused as exc:
            raise ResultRefused(
                f"{exc.message}. Nothing of it was returned: do not rely on this service's answers, and tell its "
                "operator."
            ) from exc
        items = tuple(output.data for output in outputs)
        self._outcome = OrderOutcome(
            items=items,
            work_order_id=self.work_order_id,
            worker_id=self._worker.worker_id,
            suite=self.suite,
            sizes=Sizes(
                inputs=sum(map(len, self._plan.inputs)),
                request=len(self._encoded.params),
                result=len(raw),
                outputs=sum(map(len, items)),
            ),
            report=self._worker.report,
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
