"""The desk that brings the worker's word to receipts, and the service's rules that a real service rarely shows."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from avalon_core.channel.messages import Done, Failed, ReceiptSigned
from avalon_core.crypto.dialects import HPKE
from avalon_core.crypto.receipts import create_receipt, sign_update
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.errors import GeneralError, WorkOrderCode
from avalon_core.protocol.ids import Base64Str
from avalon_core.protocol.orders import InDataItem, WorkOrderRequest, encode_request
from avalon_core.protocol.receipts import ReceiptStatus, ReceiptUpdateRetrieveParams, update_digest
from avalon_core.protocol.workers import WorkerDetails, WorkerTypeData
from avalon_service.hosts import receipts as desk_module
from avalon_service.hosts.process import EnclaveEnded
from avalon_service.hosts.receipts import ReceiptDesk
from avalon_service.orders.ports import NewOrder, OrderFailure, WorkerEntry
from avalon_service.orders.receipt_counts import ReceiptCounts
from avalon_service.orders.receipts import ReceiptService
from avalon_service.registry.requesters import RequesterKeys
from avalon_service.settings import Settings
from avalon_service.store.conformance import ManualClock
from avalon_service.store.faulty import FaultyStore
from avalon_service.store.memory import MemoryStore

WORKER = SigningKey.generate()
REQUESTER = SigningKey.generate()
WORKER_ID = "aa" * 32
R = bytes(range(32))


class World:
    """A service without listener and enclave: the tests play the host and the worker."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = FaultyStore(MemoryStore(clock=self.clock))
        self.counts = ReceiptCounts()
        self.desk = ReceiptDesk(
            receipts=self.store.receipts,
            orders=self.store.orders,
            workers=self.store.workers,
            counts=self.counts,
        )
        self.requesters = RequesterKeys()
        self.service = ReceiptService(
            receipts=self.store.receipts,
            orders=self.store.orders,
            workers=self.store.workers,
            desk=self.desk,
            settings=Settings(),
            requesters=self.requesters,
            counts=self.counts,
            clock=self.clock,
        )
        self.asked: list[tuple[bytes, bytes | None]] = []
        self.all_asked = asyncio.Event()
        """As often as there are workers at the desk."""
        self.answers: list[ReceiptSigned | Failed | Exception] = []

    async def open(self) -> None:
        details = WorkerDetails(
            worker_type_data=WorkerTypeData(
                verification_key=WORKER.verification_key.pem, encryption_key="", encryption_key_signature=""
            )
        )
        await self.store.workers.register(
            WorkerEntry(worker_id=WORKER_ID, worker_type=1, details=msgspec.json.encode(details))
        )

    async def sign(self, request: bytes, result: bytes | None) -> ReceiptSigned | Failed:
        self.asked.append((request, result))
        if len(self.asked) >= desk_module.WIDTH:
            self.all_asked.set()
        status = ReceiptStatus.FAILED if result is None else ReceiptStatus.PROCESSED
        answer = self.answers.pop(0) if self.answers else self.signed(request, status)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def signed(self, request: bytes, status: ReceiptStatus) -> ReceiptSigned:
        order_id = msgspec.json.decode(request)["workOrderId"]
        return ReceiptSigned(1, R, word(order_id, status))

    async def order(self, **changes: Any) -> WorkOrderRequest:
        values = {
            "response_timeout_msecs": 0,
            "payload_format": "~avalon-hpke-1",
            "work_order_id": os.urandom(8).hex(),
            "worker_id": WORKER_ID,
            "workload_id": "ef",
            "requester_id": "12",
            "encrypted_session_key": "00",
            "requester_nonce": "34",
            "encrypted_request_hash": "00",
        }
        request = WorkOrderRequest(**(values | changes))
        await self.store.orders.submit(
            NewOrder(
                work_order_id=request.work_order_id,
                worker_id=WORKER_ID,
                requester_id=request.requester_id,
                request=encode_request(request),
            )
        )
        return request

    async def finish(self, request: WorkOrderRequest, failure: OrderFailure | None = None) -> None:
        (claim,) = await self.store.orders.claim(WORKER_ID, limit=1, lease=60.0)
        assert claim.work_order_id == request.work_order_id
        if failure is None:
            await self.store.orders.complete(claim.work_order_id, claim.token, b"{}")
        else:
            await self.store.orders.fail(claim.work_order_id, claim.token, failure)

    async def create(self, request: WorkOrderRequest, key: SigningKey = REQUESTER) -> None:
        params = create_receipt(request, HPKE.request_hash(request), key, worker_service_id="01")
        await self.service.create(params)

    async def status(self, request: WorkOrderRequest) -> int:
        return (await self.store.receipts.retrieve(request.work_order_id)).status


def word(order_id: str, status: ReceiptStatus) -> bytes:
    return WORKER.sign(update_digest(order_id, int(status), encode_base64(R)))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.open()
    yield world
    await world.store.close()


@pytest.fixture
async def serving(world: World) -> AsyncIterator[World]:
    serving = asyncio.create_task(world.desk.serve(WORKER_ID, world.sign))
    yield world
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def settled(world: World, request: WorkOrderRequest) -> None:
    await world.desk.settled(request.work_order_id, 10.0)
    assert not world.store.receipts.awaits(request.work_order_id)


async def test_the_word_that_comes_with_the_answer_is_stored(world: World) -> None:
    request = await world.order()
    await world.create(request)
    assert world.desk.awaits(request.work_order_id)
    await world.finish(request)
    signature = word(request.work_order_id, ReceiptStatus.PROCESSED)
    await world.desk.finished(WORKER_ID, request.work_order_id, Done(1, b"{}", False, R, signature))
    assert await world.status(request) == ReceiptStatus.PROCESSED
    assert not world.desk.awaits(request.work_order_id)


async def test_an_answer_without_a_word_has_the_enclave_asked(serving: World) -> None:
    request = await serving.order()
    await serving.create(request)
    await serving.finish(request)
    await serving.desk.finished(WORKER_ID, request.work_order_id, Done(1, b"{}"))
    await settled(serving, request)
    assert serving.asked == [(encode_request(request), b"{}")]
    assert await serving.status(request) == ReceiptStatus.PROCESSED


async def test_a_crash_between_the_result_and_the_update_is_made_good_at_the_start(world: World) -> None:
    request = await world.order()
    await world.create(request)
    await world.finish(request)  # and here the service died
    serving = asyncio.create_task(world.desk.serve(WORKER_ID, world.sign))
    await settled(world, request)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert await world.status(request) == ReceiptStatus.PROCESSED


async def test_a_word_that_could_not_be_stored_is_stored_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "SWEEP_EVERY_SECONDS", 0.01)
    request = await world.order()
    await world.create(request)
    await world.finish(request)
    world.store.faults.fail("receipts.update", times=2)
    signature = word(request.work_order_id, ReceiptStatus.PROCESSED)
    await world.desk.finished(WORKER_ID, request.work_order_id, Done(1, b"{}", False, R, signature))
    assert world.desk.awaits(request.work_order_id)
    serving = asyncio.create_task(world.desk.serve(WORKER_ID, world.sign))
    await settled(world, request)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert await world.status(request) == ReceiptStatus.PROCESSED
    assert world.store.faults.calls["receipts.update"] == 3


async def test_a_refusal_is_noted_before_the_order_fails(world: World) -> None:
    request = await world.order()
    await world.create(request)
    failed = Failed(1, 9, "no", R, word(request.work_order_id, ReceiptStatus.FAILED))
    await world.desk.refused(WORKER_ID, request.work_order_id, failed)
    assert world.desk.awaits(request.work_order_id)  # had the service died now, the order would run again
    await world.finish(request, OrderFailure(code=9, message="no"))
    await world.desk.finished(WORKER_ID, request.work_order_id, failed)
    assert not world.desk.awaits(request.work_order_id)
    assert await world.status(request) == ReceiptStatus.FAILED
    signature = word(request.work_order_id, ReceiptStatus.PROCESSED)
    await world.desk.finished(WORKER_ID, request.work_order_id, Done(1, b"{}", False, R, signature))
    assert await world.status(request) == ReceiptStatus.PROCESSED  # as when it did run again


@pytest.mark.parametrize("ended_by", ["cancellation", "failure"])
async def test_of_an_order_without_a_result_the_enclave_is_asked_for_its_word(
    serving: World, ended_by: str
) -> None:
    request = await serving.order()
    if ended_by == "failure":
        await serving.finish(request, OrderFailure(code=9, message="no"))
    await serving.create(request)
    if ended_by == "cancellation":
        await serving.store.orders.cancel(request.work_order_id, OrderFailure(code=1, message="withdrawn"))
    assert (await serving.service.retrieve(request.work_order_id)).status == ReceiptStatus.FAILED
    assert serving.asked == [(encode_request(request), None)]
    assert not serving.desk.awaits(request.work_order_id)


async def test_a_receipt_that_came_while_its_order_failed_gets_the_word_too(serving: World) -> None:
    request = await serving.order()
    await serving.create(request)
    await serving.finish(request, OrderFailure(code=9, message="no"))
    # The receipt was not there yet when the order was handed over.
    await serving.desk.finished(WORKER_ID, request.work_order_id, Failed(1, 9, "no"))
    await settled(serving, request)
    assert await serving.status(request) == ReceiptStatus.FAILED
    assert serving.asked == [(encode_request(request), None)]


async def test_of_an_order_that_was_answered_too_late_nothing_is_said(serving: World) -> None:
    serving.answers = [Failed(1, int(WorkOrderCode.INVALID_PARAMETER), "has answered the order")]
    request = await serving.order()
    await serving.create(request)
    await serving.store.orders.cancel(request.work_order_id, OrderFailure(code=1, message="withdrawn"))
    assert (await serving.service.retrieve(request.work_order_id)).status == ReceiptStatus.PENDING
    await settled(serving, request)
    assert ("worker", "unsigned", 1) in serving.counts.items()


async def test_a_refusal_that_was_noted_before_a_crash_is_not_asked_for_again(world: World) -> None:
    request = await world.order()
    await world.create(request)
    failed = Failed(1, 9, "no", R, word(request.work_order_id, ReceiptStatus.FAILED))
    await world.desk.refused(WORKER_ID, request.work_order_id, failed)
    await world.finish(request, OrderFailure(code=9, message="no"))
    again = asyncio.create_task(world.desk.serve(WORKER_ID, world.sign))
    await settled(world, request)
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)
    assert await world.status(request) == ReceiptStatus.FAILED
    assert world.asked == []


async def test_what_becomes_of_receipts_is_counted(serving: World) -> None:
    request = await serving.order()
    await serving.create(request)
    with pytest.raises(GeneralError):
        await serving.create(request)
    serving.store.faults.fail("receipts.create")
    with pytest.raises(GeneralError):
        await serving.create(await serving.order())
    counts = {(kind, outcome): count for kind, outcome, count in serving.counts.items()}
    assert {name: count for name, count in counts.items() if count} == {
        ("creation", "accepted"): 1,
        ("creation", "refused"): 1,
        ("creation", "error"): 1,
    }


async def test_an_enclave_that_cannot_sign_leaves_the_receipt_as_it_was(serving: World) -> None:
    serving.answers = [Failed(1, int(WorkOrderCode.INVALID_SIGNATURE), "other keys")]
    request = await serving.order()
    await serving.finish(request)
    await serving.create(request)
    await settled(serving, request)
    assert await serving.status(request) == ReceiptStatus.PENDING


async def test_a_word_that_does_not_verify_is_not_stored(serving: World) -> None:
    serving.answers = [ReceiptSigned(1, R, SigningKey.generate().sign(bytes(32)))]
    request = await serving.order()
    await serving.finish(request)
    await serving.create(request)
    await settled(serving, request)
    assert await serving.status(request) == ReceiptStatus.PENDING


async def test_what_an_enclave_owed_when_it_died_the_next_one_gives(world: World) -> None:
    request = await world.order()
    await world.finish(request)
    await world.create(request)
    world.answers = [EnclaveEnded("killed") for _ in range(desk_module.WIDTH)]
    dying = asyncio.create_task(world.desk.serve(WORKER_ID, world.sign))
    await world.all_asked.wait()
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    assert world.desk.awaits(request.work_order_id)
    again = asyncio.create_task(world.desk.serve(WORKER_ID, world.sign))
    await settled(world, request)
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)
    assert await world.status(request) == ReceiptStatus.PROCESSED


async def test_a_registered_key_is_the_only_one_for_receipts_of_its_requester(world: World) -> None:
    registered = SigningKey.generate()
    await world.requesters.set("12", registered.verification_key.pem)
    request = await world.order()
    with pytest.raises(GeneralError, match="registered") as caught:
        await world.create(request)
    assert caught.value.code == 4
    await world.create(request, registered)


async def test_a_completion_after_the_order_was_purged_is_held_against_the_worker_s_word(
    serving: World,
) -> None:
    request = await serving.order()
    await serving.finish(request)
    await serving.create(request)
    await settled(serving, request)
    serving.clock.now += 10
    assert await serving.store.orders.purge(older_than=serving.clock.now, keep=0) == 1

    def completed(data: bytes) -> Any:
        return sign_update(
            REQUESTER,
            work_order_id=request.work_order_id,
            updater_id="12",
            update_type=ReceiptStatus.COMPLETED,
            update_data=encode_base64(data),
            names_key=False,
        )

    with pytest.raises(GeneralError, match="not the hash"):
        await serving.service.update(completed(bytes(32)))
    await serving.service.update(completed(R))
    found = await serving.service.retrieve_update(
        ReceiptUpdateRetrieveParams(work_order_id=request.work_order_id, update_index=0xFFFFFFFF)
    )
    assert (found.update.verification_key, found.count) == (REQUESTER.verification_key.pem, 2)


async def test_a_store_that_is_away_is_an_error_of_code_1(world: World) -> None:
    request = await world.order()
    world.store.faults.fail("receipts.create")
    with pytest.raises(GeneralError, match="try again") as caught:
        await world.create(request)
    assert (caught.value.code, caught.value.data) == (1, {"workOrderId": request.work_order_id})
    await world.create(request)


async def test_old_receipts_are_purged(world: World) -> None:
    request = await world.order()
    await world.create(request)
    world.clock.now += Settings().keep_receipts_seconds + 1
    housekeeping = asyncio.create_task(world.service.keep_house())
    await asyncio.sleep(0.01)
    housekeeping.cancel()
    with pytest.raises(GeneralError, match="purged"):
        await world.service.retrieve(request.work_order_id)


async def test_a_large_order_s_hash_is_computed_off_the_event_loop(world: World) -> None:
    item = InDataItem(index=0, data=Base64Str(encode_base64(bytes(300_000))))
    await world.create(await world.order(in_data=(item,)))
