"""The whole JSON-RPC surface against a plain model in memory, which says what each call must answer.

Hypothesis makes up histories; a real service process answers them; every answer is also held against the OpenRPC
document. One process serves all histories, each of which uses fresh ids and so knows nothing of the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from foreign_worker import ForeignWorker
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    multiple,
    rule,
    run_state_machine_as_test,
)
from plain_caller import Caller
from service_process import SUITES, WORKER_ID, Requester, ServiceProcess

from avalon_core.attestation import TrustPolicy, appraise_worker
from avalon_core.crypto.cancellation import cancellation_digest
from avalon_core.crypto.orders import SealedOrder
from avalon_core.crypto.receipts import (
    RENOUNCED,
    create_receipt,
    failure_hash,
    sign_update,
    signed_response_hash,
)
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.orders import decode_result
from avalon_core.protocol.receipts import update_digest
from avalon_core.protocol.workers import decode_record

EXAMPLES = int(os.environ.get("AVALON_MODEL_EXAMPLES", "200"))
STEPS = 60

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120 + EXAMPLES)]

PENDING, COMPLETED, PROCESSED, FAILED, REJECTED = range(5)
ANY_STATUS, LAST = 255, 0xFFFFFFFF
KEYS = [SigningKey.generate() for _ in range(3)]
"""The first two sign orders and receipts; the third is a stranger's."""

PAGE = 100
MANY = 120
"""Receipts and workers that are there from the beginning, so that look-ups have a second page."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, slow_workload: Path) -> Iterator[ServiceProcess]:
    """With a workload that sleeps, and a thread that no sleeper occupies."""
    running = ServiceProcess(
        tmp_path_factory.mktemp("service") / "data",
        environment={"PYTHONPATH": str(slow_workload), "AVALON_ENCLAVE_THREADS": "3"},
    )
    try:
        yield running.wait_ready()
        assert running.stop() == 0, running.log
        assert "Traceback" not in running.log
    finally:
        running.kill()


@dataclass
class Order:
    """What is known of an order that was accepted."""

    sealed: SealedOrder
    input: bytes
    workload: str
    key: SigningKey | None
    state: str
    """``accepted`` (it may end at any moment), ``sleeps`` (only a cancellation ends it), ``done``, ``failed``, ``cancelled``."""

    answer: Any = None
    """Of an order that has ended: what every further question is answered with."""

    @property
    def id(self) -> str:
        return self.sealed.request.work_order_id

    @property
    def requester_id(self) -> str:
        return self.sealed.request.requester_id


@dataclass
class Receipt:
    """What is known of a receipt."""

    order: Order
    params: dict[str, Any]
    key: SigningKey
    status: int
    word_may_come: bool
    """The worker has not said its word, and will when the order ends."""

    updates: list[tuple[str, int, str]] = field(default_factory=list)
    """Updater, type and data."""


@dataclass
class Worker:
    """What is known of a worker that runs elsewhere."""

    foreign: ForeignWorker
    details: dict[str, Any]
    types: list[str]
    organization: str
    status: int = 1
    nonce: str = ""
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)


def code_of(answer: Any) -> int:
    assert "error" in answer, answer
    code: int = answer["error"]["code"]
    return code


class Surface(RuleBasedStateMachine):
    """The machine. The class is told the service before it runs."""

    caller: ClassVar[Caller]
    sealer: ClassVar[Requester]
    many_requester: ClassVar[str]
    many_organization: ClassVar[str]
    many_receipts: ClassVar[list[str]]
    many_workers: ClassVar[list[str]]

    orders = Bundle("orders")
    receipts = Bundle("receipts")
    workers = Bundle("workers")
    tags = Bundle("tags")

    def __init__(self) -> None:
        super().__init__()
        self.organization = os.urandom(16).hex()
        self.requesters = [os.urandom(32).hex() for _ in range(3)]
        self.registered: dict[str, SigningKey] = {}
        """Keys that the operator registered, by requester."""

        self.known_receipts: dict[str, Receipt] = {}
        self.known_workers: dict[str, Worker] = {}
        self.known_orders: list[Order] = []
        self.sleepers: list[Order] = []

    def teardown(self) -> None:
        for order in self.sleepers:
            self.call_cancel(order, as_operator=True)

    def call(self, method: str, params: Any, **options: Any) -> Any:
        return self.caller.call(method, params, **options)

    # Orders

    @rule(
        target=orders,
        suite=st.sampled_from(SUITES),
        workload=st.sampled_from(
            ["echo-result", "echo-result", "python-hello", "no-such-workload", "test-raise", "test-sleep"]
        ),
        mode=st.sampled_from(["poll", "wait", "sync"]),
        who=st.integers(0, 2),
        key=st.sampled_from([None, None, *KEYS]),
        size=st.sampled_from([1, 1, 20, 60]),
    )
    def submit(
        self, suite: str, workload: str, mode: str, who: int, key: SigningKey | None, size: int
    ) -> Any:
        sleeps = workload == "test-sleep"
        if sleeps and self.sleepers:
            workload, sleeps = "echo-result", False
        data = b"25" if sleeps else os.urandom(size // 2 + 1).hex()[:size].encode()
        sealed = self.sealer.seal(
            [data],
            workload=workload,
            suite=suite,
            requester_id=self.requesters[who],
            signer=key,
            timeout_msecs=8000 if mode == "sync" and not sleeps else 0,
        )
        order = Order(sealed, data, workload, key, "sleeps" if sleeps else "accepted")
        expected = self.registered.get(order.requester_id)
        self.known_orders.append(order)
        answer = self.send(order, wait=20 if mode == "wait" and not sleeps else 0)
        if expected is not None and key is None:
            assert code_of(answer) == 4, answer
            unknown = self.call("WorkOrderGetResult", {"workOrderId": order.id})
            assert code_of(unknown) == 2
            self.known_orders.remove(order)
            return multiple()
        if sleeps:
            assert code_of(answer) == 5, answer
            if expected not in (None, key):
                order.state = "accepted"  # the enclave refuses it
                order.workload = "refused"
            else:
                self.sleepers.append(order)
            return order
        if expected not in (None, key) and workload != "no-such-workload":
            order.workload = "refused"
        if mode == "poll":
            assert code_of(answer) == 5, answer
        else:
            self.ended(order, answer)
        return order

    def send(self, order: Order, *, wait: int = 0, **changes: Any) -> Any:
        params = msgspec.to_builtins(order.sealed.request) | changes
        answer = self.call("WorkOrderSubmit", params, wait=wait)
        if "error" in answer:
            assert answer["error"]["data"]["workOrderId"] == order.id
        return answer

    def ended(self, order: Order, answer: Any) -> None:
        """The order's end as it must be, given its workload; the same as before, if it ended before."""
        if order.state in ("done", "failed", "cancelled"):
            assert answer.get("result") == order.answer.get("result"), "answered twice differently"
            assert answer.get("error") == order.answer.get("error"), "answered twice differently"
            return
        match order.workload:
            case "echo-result":
                assert self.sealer.open(order.sealed, answer) == [b"RESULT: " + order.input]
            case "python-hello":
                assert self.sealer.open(order.sealed, answer) == [b"Hello " + order.input]
            case other:
                assert code_of(answer) == {"no-such-workload": 9, "test-raise": 1, "refused": 4}[other], (
                    answer
                )
        order.state = "done" if "result" in answer else "failed"
        order.answer = answer

    def settle(self, order: Order) -> None:
        """Wait for the end of an order that may end at any moment."""
        if order.state == "accepted":
            self.ended(order, self.call("WorkOrderGetResult", {"workOrderId": order.id}, wait=20))

    @rule(order=orders, wait=st.sampled_from([0, 20]))
    def get_result(self, order: Order, wait: int) -> None:
        self.see(
            order,
            self.call(
                "WorkOrderGetResult", {"workOrderId": order.id}, wait=0 if order.state == "sleeps" else wait
            ),
            wait,
        )

    @rule(order=orders, wait=st.sampled_from([0, 20]))
    def submit_the_same_again(self, order: Order, wait: int) -> None:
        if self.registered.get(order.requester_id) is not None and order.key is None:
            assert code_of(self.send(order)) == 4
            return
        self.see(order, self.send(order, wait=0 if order.state == "sleeps" else wait), wait)

    def see(self, order: Order, answer: Any, wait: int) -> None:
        """An answer that tells how an order stands."""
        if "error" in answer and answer["error"]["code"] == 5:
            assert order.state == "sleeps" or (order.state == "accepted" and not wait), (order, answer)
            return
        assert order.state != "sleeps", answer
        self.ended(order, answer)

    @rule(
        order=orders,
        member=st.sampled_from(["requesterNonce", "workloadId", "responseTimeoutMSecs", "inData"]),
    )
    def submit_other_bytes_under_a_used_id(self, order: Order, member: str) -> None:
        other = {"requesterNonce": "ab" * 16, "workloadId": "ab", "responseTimeoutMSecs": 1, "inData": []}[
            member
        ]
        answer = self.send(order, **{member: other})
        forbidden = self.registered.get(order.requester_id) is not None and order.key is None
        assert code_of(answer) == (4 if forbidden else 2), answer

    @rule(member=st.sampled_from(["WorkOrderGetResult", "WorkOrderReceiptRetrieve", "WorkOrderCancel"]))
    def ask_for_what_never_was(self, member: str) -> None:
        params = {"workOrderId": os.urandom(32).hex()}
        if member == "WorkOrderCancel":
            params["requesterId"] = "ab"
        assert code_of(self.call(member, params)) == 2

    @rule(
        order=orders,
        proof=st.sampled_from(["right", "right", "wrong key", "nothing", "another requester", "operator"]),
    )
    def cancel(self, order: Order, proof: str) -> None:
        if proof == "operator":
            answer = self.call_cancel(order, as_operator=True)
        elif proof == "right":
            key = self.registered.get(order.requester_id) or order.key
            if key is None or order.key is not None or key is self.registered.get(order.requester_id):
                answer = self.call_cancel(order, key=key)
            else:
                answer = self.call_cancel(order)
        elif proof == "another requester":
            answer = self.call_cancel(order, requesterId="cd")
        elif proof == "wrong key" and (order.key or self.registered.get(order.requester_id)):
            bound = self.registered.get(order.requester_id) or order.key
            answer = self.call_cancel(order, key=next(key for key in KEYS if key is not bound))
        else:
            answer = self.call_cancel(order, encryptedRequestHash="")
        if proof not in ("right", "operator"):
            assert code_of(answer) == 3, answer
            return
        state = answer["error"]["data"]["state"]
        before = order.state
        if code_of(answer) == 0:
            assert before in ("accepted", "sleeps", "cancelled"), (before, answer)
            order.state = "cancelled"
            if before != "cancelled":
                order.answer = self.call("WorkOrderGetResult", {"workOrderId": order.id})
                assert code_of(order.answer) == 1
                assert "cancelled" in order.answer["error"]["message"]
            self.sleepers = [sleeper for sleeper in self.sleepers if sleeper is not order]
        else:
            assert code_of(answer) == 1, answer
            assert before in ("accepted", "done", "failed"), (before, answer)
            self.settle(order)
            assert state == {"done": "completed", "failed": "failed"}[order.state]

    def call_cancel(
        self, order: Order, *, key: SigningKey | None = None, as_operator: bool = False, **changes: Any
    ) -> Any:
        request = order.sealed.request
        params = {
            "workOrderId": order.id,
            "requesterId": order.requester_id,
            "encryptedRequestHash": request.encrypted_request_hash,
        }
        if key is not None:
            digest = cancellation_digest(
                work_order_id=order.id,
                requester_id=order.requester_id,
                encrypted_request_hash=request.encrypted_request_hash,
            )
            params["signature"] = encode_base64(key.sign(digest))
        return self.call("WorkOrderCancel", params | changes, as_operator=as_operator)

    # Receipts

    @rule(
        target=receipts,
        order=orders,
        key=st.sampled_from(KEYS),
        status=st.sampled_from([PENDING, PENDING, 1000]),
        fault=st.sampled_from([None, None, None, "hash", "worker", "requester", "signature"]),
    )
    def create_receipt(self, order: Order, key: SigningKey, status: int, fault: str | None) -> Any:
        sealed = order.sealed
        bound = self.registered.get(order.requester_id) or order.key
        key = bound if bound is not None and fault is None else key
        params = msgspec.to_builtins(
            create_receipt(
                sealed.request, sealed.request_hash, key, worker_service_id=self.organization, status=status
            )
        )
        wrong = {
            "hash": {"workOrderRequestHash": encode_base64(bytes(32))},
            "worker": {"workerId": "ab"},
            "requester": {"requesterId": "ab"},
            "signature": {"requesterGeneratedNonce": "00"},
        }
        answer = self.call("WorkOrderReceiptCreate", params | wrong.get(fault or "", {}))
        if fault is not None:
            assert code_of(answer) == (4 if fault == "signature" else 2), answer
            return multiple()
        if order.id in self.known_receipts:
            assert code_of(answer) == 2, answer
            return multiple()
        assert code_of(answer) == 0, answer
        receipt = Receipt(order, params, key, status, word_may_come=True)
        self.known_receipts[order.id] = receipt
        return receipt

    def bring_up_to_date(self, receipt: Receipt) -> dict[str, Any]:
        """Retrieve a receipt; where its order has ended the worker has said its word by then, if it has one."""
        order = receipt.order
        self.settle(order)
        answer = self.call("WorkOrderReceiptRetrieve", {"workOrderId": order.id})
        result: dict[str, Any] = answer["result"]
        if receipt.word_may_come and order.state != "sleeps":
            receipt.word_may_come = False
            if order.state == "done":
                self.heard(receipt, PROCESSED)
            elif order.state == "failed" or order.workload == "test-sleep":
                self.heard(receipt, FAILED)
            elif result["receiptCurrentStatus"] == FAILED:
                # It was cancelled at the moment of its end: what the worker had answered by then, it does not deny.
                last = self.call(
                    "WorkOrderReceiptUpdateRetrieve", {"workOrderId": order.id, "updateIndex": LAST}
                )
                if "result" in last and last["result"]["updaterId"] == WORKER_ID:
                    self.heard(receipt, FAILED)
        return result

    def heard(self, receipt: Receipt, type_: int) -> None:
        """The worker's word, if the rules let it in."""
        if receipt.status == COMPLETED:
            return
        last = self.call(
            "WorkOrderReceiptUpdateRetrieve",
            {"workOrderId": receipt.order.id, "updateIndex": 1, "updaterId": WORKER_ID},
        )["result"]
        assert (last["updateType"], last["updateCount"]) == (type_, 1)
        if type_ == PROCESSED:
            assert last["updateData"] == self.response_hash(receipt.order)
        elif receipt.order.state == "failed":
            error = receipt.order.answer["error"]
            assert last["updateData"] == self.failure(receipt.order, error["code"], error["message"])
        elif receipt.order.workload == "test-sleep":
            assert last["updateData"] == self.failure(receipt.order, 1, RENOUNCED)
        receipt.updates.append((WORKER_ID, type_, last["updateData"]))
        receipt.status = type_

    def response_hash(self, order: Order) -> str:
        assert self.sealer.worker is not None
        result = decode_result(msgspec.json.encode(order.answer["result"]))
        return encode_base64(
            signed_response_hash(order.sealed.request, result, self.sealer.worker.verification_key)
        )

    def failure(self, order: Order, code: int, message: str) -> str:
        return encode_base64(failure_hash(order.sealed.request, code, message))

    @rule(receipt=receipts)
    def retrieve_receipt(self, receipt: Receipt) -> None:
        result = self.bring_up_to_date(receipt)
        assert result == receipt.params | {"receiptCurrentStatus": receipt.status}

    @rule(
        receipt=receipts,
        type_=st.sampled_from(
            [PENDING, COMPLETED, COMPLETED, PROCESSED, FAILED, REJECTED, 300, 300, 99, 255]
        ),
        data=st.sampled_from(["", "a word", "hash", "hash", "wrong hash"]),
        who=st.sampled_from(["requester", "requester", "stranger", "forger", "as the worker"]),
    )
    def update_receipt(self, receipt: Receipt, type_: int, data: str, who: str) -> None:
        self.bring_up_to_date(receipt)
        order = receipt.order
        text = data
        if data == "hash":
            text = self.response_hash(order) if order.state == "done" else encode_base64(b"1" * 32)
        elif data == "wrong hash":
            text = encode_base64(bytes(32))
        stranger = next(key for key in KEYS if key is not receipt.key)
        key = receipt.key if who == "requester" else stranger
        updater = {"stranger": "cc", "as the worker": WORKER_ID}.get(who, order.requester_id)
        signed = sign_update(
            stranger if who == "forger" else key,
            work_order_id=order.id,
            updater_id=updater,
            update_type=300,
            update_data="",
        )
        params = msgspec.to_builtins(signed) | {
            "updateType": type_,
            "updateData": text,
            "updateSignature": encode_base64(self.update_signature(key, order.id, type_, text)),
        }
        answer = self.call("WorkOrderReceiptUpdate", params)
        expected = self.expected_of_update(receipt, updater, type_, text, data, who)
        assert code_of(answer) == expected, (answer, receipt.status, receipt.updates)
        if expected == 0 and (updater, type_, text) not in receipt.updates:
            receipt.updates.append((updater, type_, text))
            if type_ <= ANY_STATUS:
                receipt.status = type_

    @staticmethod
    def update_signature(key: SigningKey, order_id: str, type_: int, text: str) -> bytes:
        return key.sign(update_digest(order_id, type_, text))

    def expected_of_update(
        self, receipt: Receipt, updater: str, type_: int, text: str, data: str, who: str
    ) -> int:
        if type_ in (99, ANY_STATUS):
            return 2
        names_response = type_ in (COMPLETED, PROCESSED)
        if names_response and data in ("", "a word"):
            return 2
        if who in ("forger", "as the worker"):
            return 4
        if who == "stranger" and type_ <= ANY_STATUS:
            return 3
        if names_response and (receipt.order.state != "done" or data == "wrong hash"):
            return 2
        if (updater, type_, text) in receipt.updates:
            return 0
        if receipt.status == COMPLETED:
            return 2
        if receipt.status == PROCESSED and type_ in (PENDING, FAILED, REJECTED):
            return 2
        return 0

    @rule(
        receipt=receipts,
        index=st.sampled_from([1, 2, 3, LAST, 1 << 32]),
        who=st.sampled_from(["", "requester", "worker", "cc"]),
    )
    def retrieve_update(self, receipt: Receipt, index: int, who: str) -> None:
        self.bring_up_to_date(receipt)
        updater = {"requester": receipt.order.requester_id, "worker": WORKER_ID}.get(who, who)
        found = [update for update in receipt.updates if updater in ("", update[0])]
        place = len(found) if index >= LAST else index
        answer = self.call(
            "WorkOrderReceiptUpdateRetrieve",
            {"workOrderId": receipt.order.id, "updateIndex": index, "updaterId": updater},
        )
        if not 1 <= place <= len(found):
            assert code_of(answer) == 2
            assert answer["error"]["data"]["updateCount"] == len(found)
            return
        result = answer["result"]
        assert (result["updaterId"], result["updateType"], result["updateData"]) == found[place - 1]
        assert result["updateCount"] == len(found)

    @rule(
        status=st.sampled_from([None, PENDING, COMPLETED, PROCESSED, FAILED, REJECTED, ANY_STATUS, 1000]),
        who=st.integers(0, 3),
    )
    def look_receipts_up(self, status: int | None, who: int) -> None:
        for receipt in self.known_receipts.values():
            self.bring_up_to_date(receipt)
        requester = self.requesters[who] if who < 3 else None
        expected = [
            order_id
            for order_id, receipt in self.known_receipts.items()
            if status in (None, ANY_STATUS, receipt.status)
            and requester in (None, receipt.order.requester_id)
        ]
        criteria = {"workerServiceId": self.organization, "receiptStatus": status, "requesterId": requester}
        page = self.call("WorkOrderReceiptLookUp", criteria)["result"]
        assert page == {"totalCount": len(expected), "lookupTag": "", "ids": expected}

    # Look-ups over several pages

    @rule(target=tags, what=st.sampled_from(["receipts", "workers"]))
    def first_page(self, what: str) -> Any:
        method, criteria, everything = self.many(what)
        page = self.call(method, criteria)["result"]
        assert (page["totalCount"], page["ids"]) == (MANY, everything[:PAGE])
        return what, page["lookupTag"]

    @rule(tag=tags, name=st.sampled_from(["lookUpTag", "lookupTag", "lastLookUpTag"]))
    def next_page(self, tag: tuple[str, str], name: str) -> None:
        method, criteria, everything = self.many(tag[0])
        page = self.call(f"{method}Next", criteria | {name: tag[1]})["result"]
        assert page == {"totalCount": MANY, "lookupTag": "", "ids": everything[PAGE:]}

    @rule(tag=consumes(tags))
    def past_the_end_and_beside(self, tag: tuple[str, str]) -> None:
        method, criteria, _ = self.many(tag[0])
        nothing = {"organizationId": "00ff"} if tag[0] == "workers" else {"requesterId": "00ff"}
        assert code_of(self.call(f"{method}Next", {**criteria, **nothing, "lookUpTag": tag[1]})) == 5
        assert code_of(self.call(f"{method}Next", criteria | {"lookUpTag": "no tag"})) == 2
        assert code_of(self.call(f"{method}Next", criteria)) == 2

    def many(self, what: str) -> tuple[str, dict[str, Any], list[str]]:
        if what == "receipts":
            return "WorkOrderReceiptLookUp", {"requesterId": self.many_requester}, self.many_receipts
        return "WorkerLookUp", {"organizationId": self.many_organization}, self.many_workers

    # Workers

    @rule(
        target=workers,
        authority=st.sampled_from(["operator", "worker", "worker", "nobody", "forger"]),
        types=st.lists(st.sampled_from(["01", "02", "03"]), unique=True, max_size=2),
    )
    def register_worker(self, authority: str, types: list[str]) -> Any:
        foreign = ForeignWorker()
        params = foreign.registration(organizationId=self.organization, applicationTypeId=types)
        answer, nonce = self.write("WorkerRegister", foreign, params, authority)
        expected = {"nobody": 3, "forger": 4}.get(authority, 0)
        assert code_of(answer) == expected, answer
        if expected:
            assert code_of(self.call("WorkerRetrieve", {"workerId": foreign.worker_id})) == 2
            return multiple()
        worker = Worker(foreign, params["details"], types, self.organization, nonce=nonce)
        self.known_workers[foreign.worker_id] = worker
        return worker

    def write(
        self,
        method: str,
        foreign: ForeignWorker,
        params: dict[str, Any],
        authority: str,
        nonce: str | None = None,
    ) -> tuple[Any, str]:
        """The answer, and the nonce that the service remembers if it was accepted."""
        if authority == "operator":
            return self.call(method, params, as_operator=True), ""
        if authority == "nobody":
            return self.call(method, params), ""
        if nonce is not None:
            params = params | {"signatureNonce": nonce}
        signed = foreign.signed(method, params, KEYS[2] if authority == "forger" else None)
        return self.call(method, signed), signed["signatureNonce"]

    @rule(worker=workers)
    def register_it_again(self, worker: Worker) -> None:
        params = worker.foreign.registration()
        assert code_of(self.call("WorkerRegister", params, as_operator=True)) == 2

    @rule(
        worker=workers,
        what=st.sampled_from(["details", 1, 2, 2, 3, 4]),
        authority=st.sampled_from(["operator", "worker", "worker", "nobody", "forger", "replay"]),
    )
    def change_worker(self, worker: Worker, what: Any, authority: str) -> None:
        foreign = worker.foreign
        if what == "details":
            method, params = (
                "WorkerUpdate",
                foreign.update(details=foreign.details(fromAddress=os.urandom(4).hex())),
            )
        else:
            method, params = "WorkerSetStatus", foreign.status(what)
        replayed = worker.nonce or None if authority == "replay" else None
        answer, nonce = self.write(method, foreign, params, authority, replayed)
        if authority == "nobody":
            expected = 3
        elif authority == "forger" or replayed:
            expected = 4
        elif authority != "operator" and worker.status in (3, 4):
            expected = 3
        else:
            expected = 0
        assert code_of(answer) == expected, (answer, worker)
        if expected == 0:
            worker.nonce = nonce or worker.nonce
            if what == "details":
                worker.details = params["details"]
            else:
                worker.status = what

    @rule(worker=workers)
    def retrieve_worker(self, worker: Worker) -> None:
        record = self.call("WorkerRetrieve", {"workerId": worker.foreign.worker_id})["result"]
        remembered = record["details"].pop("registration", {})
        assert record == {
            "workerType": 1,
            "organizationId": worker.organization,
            "applicationTypeId": worker.types if len(worker.types) > 1 else "".join(worker.types),
            "details": worker.details,
            "status": worker.status,
        }
        assert remembered.get("signatureNonce", "") == worker.nonce
        assert set(remembered.get("keys", {})) == set(worker.keys)

    @rule(types=st.sampled_from([None, "01", ["02", "03"], []]))
    def look_workers_up(self, types: Any) -> None:
        wanted = [types] if isinstance(types, str) else types
        expected = [
            worker_id
            for worker_id, worker in self.known_workers.items()
            if not wanted or set(wanted) <= set(worker.types)
        ]
        criteria = {"organizationId": self.organization, "applicationTypeId": types, "workerType": 1}
        page = self.call("WorkerLookUp", criteria)["result"]
        assert page == {"totalCount": len(expected), "lookupTag": "", "ids": expected}

    # Keys

    @rule(
        worker=workers,
        tag=st.sampled_from(["", "", "ab", "cd"]),
        fault=st.sampled_from([None, None, "forged", "replayed", "nonce used", "no key"]),
    )
    def push_key(self, worker: Worker, tag: str, fault: str | None) -> None:
        used = [key["encryptionKeyNonce"] for key in worker.keys.values()]
        changes: dict[str, Any] = {}
        if fault == "nonce used" and used:
            changes["encryptionKeyNonce"] = used[0].upper()
        elif fault == "replayed" and worker.nonce:
            changes["signatureNonce"] = worker.nonce
        elif fault == "no key":
            changes["encryptionKey"] = "PEM"
        params = worker.foreign.pushed_key(tag, KEYS[2] if fault == "forged" else None, **changes)
        answer = self.call("EncryptionKeySet", params)
        if fault == "no key":
            expected = 3
        elif worker.status in (3, 4) or fault == "forged" or "signatureNonce" in changes:
            expected = 4
        elif "encryptionKeyNonce" in changes:
            expected = 3
        else:
            expected = 0
        assert code_of(answer) == expected, answer
        if expected == 0:
            worker.nonce = params["signatureNonce"]
            worker.keys[tag] = params

    @rule(worker=workers, tag=st.sampled_from([None, "", "ab", "ef"]), knows_last=st.booleans())
    def get_key(self, worker: Worker, tag: str | None, knows_last: bool) -> None:
        found = worker.keys.get(tag or "00aa") or worker.keys.get("")
        params = {"workerId": worker.foreign.worker_id, "requesterId": "00aa", "tag": tag}
        if knows_last and found:
            params["lastUsedKeyNonce"] = found["encryptionKeyNonce"].upper()
        answer = self.call("EncryptionKeyGet", params)
        if worker.status in (3, 4):
            assert code_of(answer) == 1, answer
        elif found is None or knows_last:
            assert code_of(answer) == 5, answer
        else:
            assert answer["result"] == found

    @rule(tag=st.sampled_from(["", "ab", "0x" + "AB" * 32]))
    def get_the_hosted_worker_s_key(self, tag: str) -> None:
        params = {"workerId": WORKER_ID, "requesterId": "00aa", "tag": tag}
        assert self.call("EncryptionKeyGet", params)["result"]["tag"] == (tag or "00aa")

    @rule(
        who=st.integers(0, 2),
        key=st.sampled_from([None, *KEYS[:2]]),
        spelling=st.booleans(),
        as_operator=st.sampled_from([True, True, False]),
    )
    def set_requester_key(self, who: int, key: SigningKey | None, spelling: bool, as_operator: bool) -> None:
        requester = self.requesters[who]
        # What is under way was submitted under the key of then; which one the enclave is told depends on the moment.
        named = f"0x{requester.upper()}" if spelling else requester
        params = {"requesterId": named, "verifyingKey": key.verification_key.pem if key else None}
        for order in self.known_orders:
            self.settle(order)
        answer = self.call("RequesterKeySet", params, as_operator=as_operator)
        assert code_of(answer) == (0 if as_operator else 3), answer
        if as_operator:
            self.registered.pop(requester, None)
            if key is not None:
                self.registered[requester] = key
        got = self.call("RequesterKeyGet", {"requesterId": named}, as_operator=True)["result"]
        known = self.registered.get(requester)
        assert got == {"requesterId": named, "verifyingKey": known.verification_key.pem if known else None}


def prepare(service: ServiceProcess, caller: Caller) -> None:
    """Tell the machine its service, and make what its look-ups page through."""
    Surface.caller = caller
    Surface.sealer = Requester(service.url, None)  # type: ignore[arg-type]
    record = decode_record(
        msgspec.json.encode(caller.call("WorkerRetrieve", {"workerId": WORKER_ID})["result"])
    )
    report, worker = appraise_worker(
        record, TrustPolicy.development(), worker_id=WORKER_ID, as_of=datetime.now(UTC)
    )
    report.raise_for_verdict()
    Surface.sealer.worker = worker
    Surface.many_requester, Surface.many_organization = os.urandom(32).hex(), os.urandom(32).hex()
    Surface.many_receipts, Surface.many_workers = [], []
    foreign = ForeignWorker()
    for _ in range(MANY):
        sealed = Surface.sealer.seal([b"x"], requester_id=Surface.many_requester)
        caller.call("WorkOrderSubmit", msgspec.to_builtins(sealed.request))
        params = create_receipt(sealed.request, sealed.request_hash, KEYS[0], worker_service_id="5e")
        assert code_of(caller.call("WorkOrderReceiptCreate", msgspec.to_builtins(params))) == 0
        Surface.many_receipts.append(sealed.request.work_order_id)
        worker_id = os.urandom(32).hex()
        params_of_worker = foreign.registration(workerId=worker_id, organizationId=Surface.many_organization)
        assert code_of(caller.call("WorkerRegister", params_of_worker, as_operator=True)) == 0
        Surface.many_workers.append(worker_id)


def test_the_service_does_what_the_model_says(service: ServiceProcess) -> None:
    caller = Caller(service)
    try:
        prepare(service, caller)
        run_state_machine_as_test(
            Surface,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                phases=(Phase.generate, Phase.shrink),
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        caller.close()
    print(f"{caller.calls} calls:\n{caller.show()}")
    assert "call failed" not in service.log
    assert "Traceback" not in service.log
