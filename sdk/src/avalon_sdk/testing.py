"""A whole service with its enclave, in memory: for tests of what uses the SDK, and for attacks on the SDK itself.

SIMULATED: it plays the worker with avalon_core's own code, so orders are really sealed, opened, signed and
verified, but nothing is protected. Every part of it can be made to misbehave::

    service = SimulatedService()
    service.forge_result = lambda result: replace(result, worker_nonce="AAAA")
    async with service.client() as client:
        with pytest.raises(ResultRefused):
            await client.run("echo-result", ["hello"])
"""

import functools
import hashlib
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec

from avalon_core.attestation.binding import report_data
from avalon_core.attestation.policy import TrustPolicy
from avalon_core.attestation.proof_data import encode
from avalon_core.crypto.cancellation import check_cancellation
from avalon_core.crypto.dialects import WorkerKeys
from avalon_core.crypto.orders import Item, open_order, seal_result, unlock
from avalon_core.crypto.registry import key_digest, key_nonce
from avalon_core.crypto.sealing import HpkePrivateKey, RsaPrivateKey
from avalon_core.crypto.signing import SigningKey, VerificationKey, digest_of_text
from avalon_core.protocol.cancellation import WorkOrderCancelParams
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.errors import (
    GeneralCode,
    GeneralError,
    RpcCode,
    RpcError,
    WireError,
    WorkOrderCode,
    WorkOrderError,
)
from avalon_core.protocol.ids import Base64Str, HexStr, WorkOrderId, worker_id_of, workload_name_of
from avalon_core.protocol.jsonrpc import Call, decode_envelope, encode_error, encode_success
from avalon_core.protocol.orders import WorkOrderResult, decode_request, encode_result
from avalon_core.protocol.registry import EncryptionKeyGrant
from avalon_core.protocol.workers import KeyBinding, WorkerDetails, WorkerRecord, WorkerTypeData, WorkloadInfo
from avalon_core.simulator.vendors import EvidenceRequest, SimulatedVendors
from avalon_sdk.authority import TokenSource
from avalon_sdk.client import AvalonClient
from avalon_sdk.deadline import Deadline, RetryPolicy
from avalon_sdk.errors import Busy, CannotConnect, NoSuchOrder, NotOffered
from avalon_sdk.events import EventParser
from avalon_sdk.testing_books import SimulatedDirectory, SimulatedReceipts
from avalon_sdk.transports.base import ServerEvent
from avalon_sdk.transports.jsonrpc import JsonRpcTransport, Reply
from avalon_sdk.workers import Clock, utc_now

__all__ = ["ReceivedCall", "SimulatedService", "SimulatedTransport"]

Workload = Callable[[Sequence[bytes]], Sequence[bytes]]
"""Inputs to outputs, both in the order of their indices."""

MEASUREMENT = hashlib.sha256(b"avalon_sdk.testing: SIMULATED").hexdigest()
_POOL_METHODS = frozenset(
    {"PoolStatus", "PoolRotate", "PoolDrain", "PoolChange", "PoolShares", "PoolRecover", "PoolShare"}
)
_EVENTS_AT = 1_700_000_000


def echo_result(inputs: Sequence[bytes]) -> list[bytes]:
    """The workload that services ship: "RESULT: " before each input."""
    return [b"RESULT: " + data for data in inputs]


@functools.cache
def _rsa_key() -> RsaPrivateKey:
    """An RSA key takes a third of a second to make, so the services of one process share it."""
    return RsaPrivateKey.generate()


@functools.cache
def _vendors() -> SimulatedVendors:
    """Vendors make their certificates once, so the services of one process share them, too."""
    return SimulatedVendors()


def _leave_record(_record: dict[str, Any]) -> None:
    """The record is answered as it is."""


def _leave_events(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return events


def _ignore_call(_call: "ReceivedCall") -> None:
    """Nobody wants to know."""


def _leave_result(result: WorkOrderResult) -> WorkOrderResult:
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedCall:
    """A call that reached the service."""

    method: str
    params: bytes
    wait: int
    """What the requester's Prefer header said; 0: it had none."""


@dataclass(slots=True)
class _Order:
    params: bytes
    answer: bytes | WorkOrderError | None = None
    states: list[tuple[str, int]] = field(default_factory=lambda: [("scheduled", 0)])
    """Each with the attempts until then."""

    def enter(self, state: str) -> None:
        self.states.append((state, self.states[-1][1] + (state == "processing")))

    @property
    def is_final(self) -> bool:
        return self.states[-1][0] not in ("scheduled", "processing")


@dataclass
class SimulatedService:
    """A service with one worker. Change its members to make it misbehave."""

    name: str = "simulated-worker"

    clock: Clock = utc_now
    """The time at which evidence is issued, and as of which :meth:`client` judges it."""

    workloads: dict[str, Workload] = field(default_factory=lambda: {"echo-result": echo_result})

    forge_record: Callable[[dict[str, Any]], object] = _leave_record
    """Changes the worker's record, as JSON, in place, before it is answered."""

    forge_result: Callable[[WorkOrderResult], WorkOrderResult] = _leave_result
    """Changes a result after it was signed."""

    result_signer: SigningKey | None = None
    """Signs results in place of the worker's own key."""

    failure: WorkOrderError | None = None
    """Every order comes to this."""

    refuse_connections: int = 0
    """The next so many calls do not reach the service."""

    lose_answers: int = 0
    """The next so many calls are carried out, and their answers lost."""

    busy: deque[float | None] = field(default_factory=deque)
    """The next calls are answered as busy, with these Retry-After seconds."""

    holds_calls: bool = True
    """Whether it knows ``Prefer: wait``."""

    forge_receipt: Callable[[dict[str, Any]], object] = _leave_record
    """Changes a receipt, as JSON, in place, before it is answered."""

    forge_update: Callable[[dict[str, Any]], object] = _leave_record
    """Changes an update of a receipt, as JSON, in place, before it is answered."""

    forge_events: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = _leave_events
    """Changes what a stream of events begins with."""

    lose_events: int = 0
    """The next so many streams end after their first event."""

    sends_events: bool = True
    """Whether it knows of events at all."""

    operator_token: str = "operator's token of the SIMULATED service"  # noqa: S105 it protects nothing
    """Allows writes to the worker directory."""

    pool: Callable[[str, dict[str, Any]], Any] | None = None
    """Answers the operator's methods for a pool: the method's name and its params to the result. None: there is no pool."""

    calls: list[ReceivedCall] = field(default_factory=list)
    """What reached it."""

    on_call: Callable[[ReceivedCall], object] = _ignore_call
    """Is told each call as it arrives."""

    def __post_init__(self) -> None:
        self.worker_id = worker_id_of(self.name)
        self._signing_key = SigningKey.generate()
        self._orders: dict[str, _Order] = {}
        self._paused = False
        self._done = anyio.Event()
        self.receipts = SimulatedReceipts(self._signing_key, self._run_of)
        self.directory = SimulatedDirectory()
        self.event_streams: list[str] = []
        """The Last-Event-ID of each stream that was asked for."""
        self.rotate_keys()

    def rotate_keys(self) -> None:
        """A new HPKE key; orders sealed to the one before no longer open."""
        self._keys = WorkerKeys(rsa=_rsa_key(), hpke=HpkePrivateKey.generate())
        self.refresh_evidence()

    def refresh_evidence(self) -> None:
        """Have the simulated machine vouch for the same keys anew, with the collateral of the day."""
        binding = KeyBinding(
            worker_id=self.worker_id,
            role="singleton",
            nonce=HexStr(os.urandom(32).hex()),
            issued_at=int(self.clock().timestamp()),
        )
        bound = report_data(
            binding,
            verification_key=self._signing_key.verification_key.pem,
            encryption_key=self._keys.rsa.public_key.pem,
            hpke_encryption_key=self._keys.hpke.public_key.hex,
        )
        issued = _vendors().issue(
            EvidenceRequest(kind="sgx", measurement=bytes.fromhex(MEASUREMENT), report_data=bound),
            self.clock(),
        )
        self._evidence = binding, *encode(issued.evidence, issued.collateral)

    def pause(self) -> None:
        """Take orders and process none, until :meth:`resume`."""
        self._paused = True

    def resume(self) -> None:
        """Process what was taken, and wake who waits."""
        self._paused = False
        for order in self._orders.values():
            self._process(order)
        self._wake()

    def move(self, state: str) -> None:
        """Say of every order that is not finished that it came into this state: ``processing``, or ``scheduled`` again."""
        for order in self._orders.values():
            if not order.is_final:
                order.enter(state)
        self._wake()

    def _wake(self) -> None:
        self._done.set()
        self._done = anyio.Event()

    @property
    def trust(self) -> TrustPolicy:
        """A policy that admits this very worker."""
        return TrustPolicy.development({MEASUREMENT})

    def transport(self, *, operator_token: TokenSource | None = None) -> "SimulatedTransport":
        """A way to this service without a network."""
        return SimulatedTransport(self, operator_token)

    def client(
        self,
        *,
        trust: TrustPolicy | None = None,
        requester_id: str | None = None,
        operator_token: TokenSource | None = None,
    ) -> AvalonClient:
        """A client of this service, in no need of waiting between attempts."""
        retry = RetryPolicy(first_pause=0.001, longest_pause=0.01)
        transport = self.transport(operator_token=operator_token)
        return AvalonClient(
            transport,
            trust=trust or self.trust,
            requester_id=requester_id,
            retry=retry,
            # Not self.clock: what a test sets later holds for clients that are there already.
            clock=lambda: self.clock(),  # noqa: PLW0108
        )

    def has_order(self, work_order_id: str) -> bool:
        """It was submitted."""
        return work_order_id in self._orders

    @property
    def verification_key(self) -> VerificationKey:
        """Verifies what the worker signs."""
        return self._signing_key.verification_key

    def record(self) -> dict[str, Any]:
        """The worker's record as JSON, as the service gives it."""
        rsa, hpke = self._keys.rsa.public_key.pem, self._keys.hpke.public_key.hex
        binding, proof_data_type, proof_data = self._evidence
        data = WorkerTypeData(
            verification_key=self._signing_key.verification_key.pem,
            encryption_key=rsa,
            encryption_key_signature=self._sign(rsa),
            proof_data_type=proof_data_type,
            proof_data=proof_data,
            hpke_encryption_key=HexStr(hpke),
            hpke_encryption_key_signature=self._sign(hpke),
            key_binding=binding,
            simulated=True,
        )
        details = WorkerDetails(
            worker_type_data=data,
            work_order_payload_formats="JSON-RPC,~avalon-hpke-1",
            workloads=tuple(_describe(name) for name in self.workloads),
        )
        record = WorkerRecord(
            worker_type=1, organization_id="", application_type_id="", details=details, status=1
        )
        built: dict[str, Any] = msgspec.to_builtins(record)
        self.forge_record(built)
        return built

    async def events(self, work_order_id: str, last_event_id: str) -> AsyncGenerator[bytes, None]:
        """What GET /orders/<id>/events streams.

        Raises:
            KeyError: there is no such order.
        """
        self.event_streams.append(last_event_id)
        order = self._orders[work_order_id]
        sent = 0
        for event in self.forge_events([_event(work_order_id, *order.states[-1])]):
            if _event_id(event) != last_event_id:
                yield _encode_event(event)
                sent += 1
        known = len(order.states)
        while not order.is_final:
            if self.lose_events > 0 and sent:
                self.lose_events -= 1
                return
            if known == len(order.states):
                await self._done.wait()
            for state in order.states[known:]:
                known += 1
                sent += 1
                yield _encode_event(_event(work_order_id, *state))

    async def answer(self, body: bytes, *, wait: int, token: str | None = None) -> bytes:
        """One HTTP body in, one out. ``token``: the operator's, where the caller sent one."""
        call = decode_envelope(body).calls[0]
        if not isinstance(call, Call):
            return encode_error(call.id, call.error.code, call.error.message)
        params = bytes(call.params)
        received = ReceivedCall(method=call.method, params=params, wait=wait)
        self.calls.append(received)
        self.on_call(received)
        try:
            return encode_success(call.id, await self._carry_out(call.method, params, wait, token))
        except WireError as exc:
            return encode_error(call.id, exc.code, exc.message, exc.data)

    async def _carry_out(self, method: str, params: bytes, wait: int, token: str | None) -> Any:
        if method.startswith("WorkOrderReceipt"):
            return self.receipts.answer(method, params, self.forge_receipt, self.forge_update)
        if method in ("WorkerRegister", "WorkerUpdate", "WorkerSetStatus"):
            self.directory.write(method, params, is_operator=token == self.operator_token)
        if method in ("WorkerLookUp", "WorkerLookUpNext"):
            ids = [self.worker_id, *self.directory.entries]
            return {"totalCount": len(ids), "lookupTag": "", "ids": ids}
        named: dict[str, Any] = msgspec.json.decode(params)
        if method == "WorkerRetrieve":
            if named["workerId"] in self.directory.entries:
                return self.directory.entries[named["workerId"]]
            if named["workerId"] != self.worker_id:
                raise GeneralError(GeneralCode.INVALID_PARAMETER, "unknown worker")
            return self.record()
        if method in ("RequesterKeySet", "RequesterKeyGet"):
            return self.directory.requester_key(named, is_operator=token == self.operator_token)
        if method in _POOL_METHODS:
            return self._command_pool(method, named, is_operator=token == self.operator_token)
        if method == "EncryptionKeySet":
            self.directory.push_key(params)
        if method == "EncryptionKeyGet":
            pushed = self.directory.keys.get(named["workerId"])
            return pushed if pushed is not None else self._grant(named["requesterId"])
        if method == "WorkOrderSubmit":
            self._take(params, named["workOrderId"])
            synchronous = named["responseTimeoutMSecs"] / 1000
            return await self._result(named["workOrderId"], synchronous or (wait if self.holds_calls else 0))
        if method not in ("WorkOrderGetResult", "WorkOrderCancel"):
            raise RpcError(RpcCode.METHOD_NOT_FOUND, f"no such method: {method}")
        if named["workOrderId"] not in self._orders:
            raise WorkOrderError(WorkOrderCode.INVALID_PARAMETER, "unknown work order")
        if method == "WorkOrderCancel":
            return self._cancel(
                self._orders[named["workOrderId"]],
                msgspec.json.decode(params, type=WorkOrderCancelParams),
                is_operator=token is not None and token == self.operator_token,
            )
        return await self._result(named["workOrderId"], wait if self.holds_calls else 0)

    def _command_pool(self, method: str, named: dict[str, Any], *, is_operator: bool) -> Any:
        if not is_operator:
            raise GeneralError(GeneralCode.ACCESS_DENIED, "this needs authority")
        if self.pool is None:
            raise GeneralError(
                GeneralCode.UNSUPPORTED_MODE, "this service runs no pool: start it with 'avalon up --pool'"
            )
        return self.pool(method, named)

    def _cancel(self, order: _Order, cancellation: WorkOrderCancelParams, *, is_operator: bool) -> None:
        request = decode_request(order.params)
        if not is_operator:
            check_cancellation(
                cancellation,
                requester_id=request.requester_id,
                encrypted_request_hash=request.encrypted_request_hash,
                key=request.verifying_key if request.requester_signature else None,
            )
        if not order.is_final:
            order.answer = WorkOrderError(WorkOrderCode.FAILED, "the order was cancelled by its requester")
            order.enter("cancelled")
            self._wake()
        state = order.states[-1][0]
        code = WorkOrderCode.SUCCESS if state == "cancelled" else WorkOrderCode.FAILED
        raise WorkOrderError(code, f"the order is {state}", {"state": state})

    def _grant(self, requester_id: str) -> dict[str, Any]:
        pem = self._keys.rsa.public_key.pem
        grant = EncryptionKeyGrant(
            worker_id=self.worker_id,
            encryption_key=pem,
            encryption_key_nonce=key_nonce(pem),
            tag=requester_id,
            signature=Base64Str(""),
        )
        digest = key_digest(
            worker_id=grant.worker_id,
            encryption_key=pem,
            encryption_key_nonce=grant.encryption_key_nonce,
            tag=requester_id,
        )
        answer: dict[str, Any] = msgspec.to_builtins(grant)
        answer["signature"] = encode_base64(self._signing_key.sign(digest))
        self.forge_record(answer)
        return answer

    def _run_of(self, work_order_id: str) -> tuple[bytes, bytes | WorkOrderError | None] | None:
        order = self._orders.get(work_order_id)
        return None if order is None else (order.params, order.answer)

    def _take(self, params: bytes, work_order_id: str) -> None:
        known = self._orders.get(work_order_id)
        if known is None:
            order = self._orders[work_order_id] = _Order(params=params)
            if not self._paused:
                self._process(order)
        elif known.params != params:
            raise WorkOrderError(WorkOrderCode.INVALID_PARAMETER, "workOrderId: duplicate")

    async def _result(self, work_order_id: str, wait: float) -> msgspec.Raw:
        order = self._orders[work_order_id]
        with anyio.move_on_after(wait):
            while order.answer is None:
                await self._done.wait()
        if order.answer is None:
            data = {"workOrderId": work_order_id}
            raise WorkOrderError(WorkOrderCode.PENDING, "the order is pending", data)
        if isinstance(order.answer, WorkOrderError):
            raise order.answer
        return msgspec.Raw(order.answer)

    def _process(self, order: _Order) -> None:
        """The enclave's part."""
        if order.answer is not None:
            return
        order.enter("processing")
        try:
            order.answer = self._run(order.params)
            order.enter("completed")
        except WorkOrderError as exc:
            order.answer = exc
            order.enter("failed")

    def _run(self, params: bytes) -> bytes:
        if self.failure is not None:
            raise self.failure
        request = decode_request(params)
        opened = open_order(request, unlock(request, self._keys))
        workload = self.workloads.get(workload_name_of(request.workload_id) or "")
        if workload is None:
            raise WorkOrderError(WorkOrderCode.INVALID_WORKLOAD, "no such workload")
        outputs = workload([item.data for item in opened.inputs])
        items = [Item(index=index, data=data) for index, data in enumerate(outputs)]
        result = seal_result(opened, items, self.result_signer or self._signing_key)
        return encode_result(self.forge_result(result))

    def _sign(self, text: str) -> HexStr:
        return HexStr(self._signing_key.sign(digest_of_text(text)).hex())


class SimulatedTransport(JsonRpcTransport):
    """The way to a :class:`SimulatedService`: the same envelope as over HTTP, without the HTTP."""

    def __init__(self, service: SimulatedService, operator_token: TokenSource | None = None) -> None:
        super().__init__()
        self._service = service
        self._operator_token = operator_token

    @property
    def address(self) -> str:
        return "the simulated service"

    @property
    def is_loopback(self) -> bool:
        return True

    async def events(
        self, work_order_id: WorkOrderId, *, last_event_id: str, timeout: float
    ) -> AsyncGenerator[ServerEvent, None]:
        service = self._service
        if not service.sends_events:
            raise NotOffered("the simulated service sends no events", code=-32601)
        if service.refuse_connections > 0:
            service.refuse_connections -= 1
            raise CannotConnect(self.address, "the connection was refused")
        if not service.has_order(work_order_id):
            raise NoSuchOrder(f"{self.address} has no work order {work_order_id}")
        parser, deadline = EventParser(), Deadline.after(timeout)
        async with aclosing(service.events(work_order_id, last_event_id)) as stream:
            while True:
                try:
                    with anyio.fail_after(deadline.left):
                        chunk = await anext(stream)
                except StopAsyncIteration:
                    return
                except TimeoutError as exc:
                    raise CannotConnect(self.address, f"nothing within {timeout:.1f} s") from exc
                for event in parser.feed(chunk):
                    yield event

    async def exchange(
        self, body: bytes, *, wait: int, timeout: float, max_bytes: int, as_operator: bool = False
    ) -> Reply:
        service = self._service
        token = self._operator_token() if as_operator and self._operator_token is not None else None
        if service.busy:
            raise Busy("the simulated service is busy", code=8, retry_after=service.busy.popleft())
        if service.refuse_connections > 0:
            service.refuse_connections -= 1
            raise CannotConnect(self.address, "the connection was refused")
        try:
            with anyio.fail_after(timeout):
                answer = await service.answer(body, wait=wait, token=token)
        except TimeoutError as exc:
            raise CannotConnect(self.address, f"nothing within {timeout:.1f} s") from exc
        if service.lose_answers > 0:
            service.lose_answers -= 1
            raise CannotConnect(self.address, "the connection was lost")
        return Reply(body=answer)

    async def close(self) -> None:
        """Nothing to give back."""


def _event(work_order_id: str, state: str, attempts: int) -> dict[str, Any]:
    return {"workOrderId": work_order_id, "state": state, "at": _EVENTS_AT, "attempts": attempts}


def _event_id(event: dict[str, Any]) -> str:
    return f"{event['state']}-{event['attempts']}"


def _encode_event(event: dict[str, Any]) -> bytes:
    return b"id: %b\nevent: state\ndata: %b\n\n: \n\n" % (
        _event_id(event).encode(),
        msgspec.json.encode(event),
    )


def _describe(name: str) -> WorkloadInfo:
    return WorkloadInfo(
        workload_id=name.encode().hex(),
        name=name,
        title=f"{name} (SIMULATED)",
        input_help="any items",
        max_items=1024,
        max_item_bytes=1024 * 1024,
        time_limit_seconds=10.0,
    )
