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
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec

from avalon_core.attestation import TrustPolicy, report_data, simulated
from avalon_core.crypto.dialects import WorkerKeys
from avalon_core.crypto.orders import Item, open_order, seal_result, unlock
from avalon_core.crypto.sealing import HpkePrivateKey, RsaPrivateKey
from avalon_core.crypto.signing import SigningKey, digest_of_text
from avalon_core.protocol.errors import GeneralCode, GeneralError, WireError, WorkOrderCode, WorkOrderError
from avalon_core.protocol.ids import HexStr, worker_id_of, workload_name_of
from avalon_core.protocol.jsonrpc import Call, decode_envelope, encode_error, encode_success
from avalon_core.protocol.orders import WorkOrderResult, decode_request, encode_result
from avalon_core.protocol.workers import KeyBinding, WorkerDetails, WorkerRecord, WorkerTypeData, WorkloadInfo
from avalon_sdk.client import AvalonClient
from avalon_sdk.deadline import RetryPolicy
from avalon_sdk.errors import Busy, CannotConnect
from avalon_sdk.transports.jsonrpc import JsonRpcTransport, Reply

__all__ = ["ReceivedCall", "SimulatedService", "SimulatedTransport"]

Workload = Callable[[Sequence[bytes]], Sequence[bytes]]
"""Inputs to outputs, both in the order of their indices."""

MEASUREMENT = hashlib.sha256(b"avalon_sdk.testing: SIMULATED").hexdigest()
_ISSUED_AT = 1_700_000_000


def echo_result(inputs: Sequence[bytes]) -> list[bytes]:
    """The workload that services ship: "RESULT: " before each input."""
    return [b"RESULT: " + data for data in inputs]


@functools.cache
def _rsa_key() -> RsaPrivateKey:
    """An RSA key takes a third of a second to make, so the services of one process share it."""
    return RsaPrivateKey.generate()


def _leave_record(_record: dict[str, Any]) -> None:
    """The record is answered as it is."""


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


@dataclass
class SimulatedService:
    """A service with one worker. Change its members to make it misbehave."""

    name: str = "simulated-worker"
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
        self.rotate_keys()

    def rotate_keys(self) -> None:
        """A new HPKE key; orders sealed to the one before no longer open."""
        self._keys = WorkerKeys(rsa=_rsa_key(), hpke=HpkePrivateKey.generate())

    def pause(self) -> None:
        """Take orders and process none, until :meth:`resume`."""
        self._paused = True

    def resume(self) -> None:
        """Process what was taken, and wake who waits."""
        self._paused = False
        for order in self._orders.values():
            self._process(order)
        self._done.set()
        self._done = anyio.Event()

    @property
    def trust(self) -> TrustPolicy:
        """A policy that admits this very worker."""
        return TrustPolicy.development({MEASUREMENT})

    def transport(self) -> "SimulatedTransport":
        """A way to this service without a network."""
        return SimulatedTransport(self)

    def client(self, *, trust: TrustPolicy | None = None) -> AvalonClient:
        """A client of this service, in no need of waiting between attempts."""
        retry = RetryPolicy(first_pause=0.001, longest_pause=0.01)
        return AvalonClient(self.transport(), trust=trust or self.trust, retry=retry)

    def record(self) -> dict[str, Any]:
        """The worker's record as JSON, as the service gives it."""
        verification_key = self._signing_key.verification_key.pem
        rsa, hpke = self._keys.rsa.public_key.pem, self._keys.hpke.public_key.hex
        binding = KeyBinding(worker_id=self.worker_id, role="singleton", nonce=HexStr("00" * 32))
        bound = report_data(
            binding, verification_key=verification_key, encryption_key=rsa, hpke_encryption_key=hpke
        )
        evidence = simulated.issue(
            simulated.simulator_root(), measurement=MEASUREMENT, report_data=bound, issued_at=_ISSUED_AT
        )
        data = WorkerTypeData(
            verification_key=verification_key,
            encryption_key=rsa,
            encryption_key_signature=self._sign(rsa),
            proof_data_type=simulated.PROOF_DATA_TYPE,
            proof_data=msgspec.to_builtins(evidence),
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

    async def answer(self, body: bytes, *, wait: int) -> bytes:
        """One HTTP body in, one out."""
        call = decode_envelope(body).calls[0]
        if not isinstance(call, Call):
            return encode_error(call.id, call.error.code, call.error.message)
        params = bytes(call.params)
        received = ReceivedCall(method=call.method, params=params, wait=wait)
        self.calls.append(received)
        self.on_call(received)
        try:
            return encode_success(call.id, await self._carry_out(call.method, params, wait))
        except WireError as exc:
            return encode_error(call.id, exc.code, exc.message, exc.data)

    async def _carry_out(self, method: str, params: bytes, wait: int) -> Any:
        if method in ("WorkerLookUp", "WorkerLookUpNext"):
            return {"totalCount": 1, "lookupTag": "", "ids": [self.worker_id]}
        named: dict[str, Any] = msgspec.json.decode(params)
        if method == "WorkerRetrieve":
            if named["workerId"] != self.worker_id:
                raise GeneralError(GeneralCode.INVALID_PARAMETER, "unknown worker")
            return self.record()
        if method == "WorkOrderSubmit":
            self._take(params, named["workOrderId"])
            synchronous = named["responseTimeoutMSecs"] / 1000
            return await self._result(named["workOrderId"], synchronous or (wait if self.holds_calls else 0))
        if named["workOrderId"] not in self._orders:
            raise WorkOrderError(WorkOrderCode.INVALID_PARAMETER, "unknown work order")
        return await self._result(named["workOrderId"], wait if self.holds_calls else 0)

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
        if order.answer is None:
            with anyio.move_on_after(wait):
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
        try:
            order.answer = self._run(order.params)
        except WorkOrderError as exc:
            order.answer = exc

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

    def __init__(self, service: SimulatedService) -> None:
        super().__init__()
        self._service = service

    @property
    def address(self) -> str:
        return "the simulated service"

    @property
    def is_loopback(self) -> bool:
        return True

    async def exchange(self, body: bytes, *, wait: int, timeout: float, max_bytes: int) -> Reply:
        service = self._service
        if service.busy:
            raise Busy("the simulated service is busy", code=8, retry_after=service.busy.popleft())
        if service.refuse_connections > 0:
            service.refuse_connections -= 1
            raise CannotConnect(self.address, "the connection was refused")
        try:
            with anyio.fail_after(timeout):
                answer = await service.answer(body, wait=wait)
        except TimeoutError as exc:
            raise CannotConnect(self.address, f"nothing within {timeout:.1f} s") from exc
        if service.lose_answers > 0:
            service.lose_answers -= 1
            raise CannotConnect(self.address, "the connection was lost")
        return Reply(body=answer)

    async def close(self) -> None:
        """Nothing to give back."""


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
