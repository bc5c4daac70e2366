"""One order through the processor, without process or channel."""

import dataclasses
import json
import os
from pathlib import Path

import coincurve
import msgspec
import pytest

from avalon_core.crypto import aead
from avalon_core.crypto.dialects import WorkerKeys, WorkerPublicKeys
from avalon_core.crypto.dialects.hpke import seal_owned_input
from avalon_core.crypto.orders import Item, OrderDraft, SealedOrder, open_result, seal_order
from avalon_core.crypto.sealing import HpkePrivateKey, RsaPrivateKey
from avalon_core.crypto.signing import SigningKey, load_verification_key
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.errors import WorkOrderError
from avalon_core.protocol.ids import worker_id_of, workload_id_of
from avalon_core.protocol.orders import InDataItem, decode_request, decode_result, encode_request
from avalon_enclave.events import Journal
from avalon_enclave.processor import Processor
from avalon_enclave.replay import ReplayGuard
from avalon_enclave.runtimes.base import Uncontrolled
from avalon_enclave.runtimes.thread import ThreadRuntime
from avalon_enclave.runtimes.watchdog import Watchdog
from avalon_enclave.workloads import Isolation, Limits, Workload
from avalon_enclave.workloads.echo import EchoResult
from avalon_enclave.workloads.heart_disease import HeartDiseaseEval

WORKER = "singleton-worker-1"
VECTORS = (
    Path(os.environ.get("AVALON_VECTORS", Path(__file__).parents[2].parent / "shared" / "vectors")) / "wire"
)
if not VECTORS.is_dir():
    VECTORS = Path(__file__).parents[2] / "core" / "tests" / "vectors" / "wire"
needs_vectors = pytest.mark.skipif(
    not VECTORS.is_dir(),
    reason="the wire vectors are not here: set AVALON_VECTORS to the folder that holds wire/",
)


class Spy(Workload):
    name = "spy"
    title = input_help = "test"
    limits = Limits(max_items=2, max_item_bytes=10, isolation=Isolation.THREAD)

    def run(self, inputs, context):
        self.inputs, self.context = inputs, context
        return inputs


@pytest.fixture(scope="module")
def rsa() -> RsaPrivateKey:
    return RsaPrivateKey.generate()


@pytest.fixture
def spy() -> Spy:
    return Spy()


def make(
    rsa: RsaPrivateKey, *workloads: Workload, signer: SigningKey | None = None, worker_id=None
) -> Processor:
    journal = Journal(lambda log: None)
    watchdog = Watchdog(lambda: None)
    return Processor(
        worker_id=worker_id or worker_id_of(WORKER),
        keys=WorkerKeys(rsa=rsa, hpke=HpkePrivateKey.generate()),
        signer=signer or SigningKey.generate(),
        runtimes={
            workload_id_of(workload.name): ThreadRuntime(workload, watchdog=watchdog, journal=journal)
            for workload in workloads
        },
        accept_legacy=True,
    )


@pytest.fixture
def processor(rsa, spy) -> Processor:
    return make(rsa, EchoResult(), spy)


def public(processor: Processor) -> WorkerPublicKeys:
    return WorkerPublicKeys(rsa=processor.keys.rsa.public_key, hpke=processor.keys.hpke.public_key)


def draft(workload: str = "echo-result", *data: bytes, **changes) -> OrderDraft:
    values = {
        "work_order_id": os.urandom(32).hex(),
        "worker_id": worker_id_of(WORKER),
        "workload_id": workload_id_of(workload),
        "requester_id": "aa" * 32,
        "requester_nonce": os.urandom(16).hex(),
        "inputs": [Item(index=index, data=item) for index, item in enumerate(data or (b"hello",))],
    }
    return OrderDraft(**(values | changes))


def run(processor: Processor, sealed: SealedOrder, registered: str | None = None) -> list[Item]:
    """Process an order as an enclave that has not seen it before."""
    processor = dataclasses.replace(processor, replay=ReplayGuard())
    processed = processor.process(encode_request(sealed.request), registered, Uncontrolled())
    return open_result(sealed, decode_result(processed.result), processor.signer.verification_key)


def refusal(processor: Processor, sealed: SealedOrder, registered: str | None = None) -> tuple[int, str]:
    with pytest.raises(WorkOrderError) as caught:
        run(processor, sealed, registered)
    return int(caught.value.code), caught.value.message


def test_each_suite_is_answered_in_kind(processor, suite):
    sealed = seal_order(draft("echo-result", b"a", b"", b"\xff" * 1000), public(processor), suite=suite)
    assert [item.data for item in run(processor, sealed)] == [
        b"RESULT: a",
        b"RESULT: ",
        b"RESULT: " + b"\xff" * 1000,
    ]


def test_indices_of_the_requester_are_kept(processor, suite):
    inputs = [Item(index=9, data=b"nine"), Item(index=3, data=b"three")]
    sealed = seal_order(draft(inputs=inputs), public(processor), suite=suite)
    assert run(processor, sealed) == [
        Item(index=3, data=b"RESULT: three"),
        Item(index=9, data=b"RESULT: nine"),
    ]


def test_an_order_for_another_worker_is_refused(processor, suite):
    sealed = seal_order(draft(worker_id=worker_id_of("another")), public(processor), suite=suite)
    code, message = refusal(processor, sealed)
    assert code == 2
    assert "another worker" in message


@pytest.mark.parametrize("workload_id", [workload_id_of("nothing"), "ff", "abc"])
def test_an_unknown_workload_is_refused(processor, workload_id):
    sealed = seal_order(draft(workload_id=workload_id), public(processor))
    assert refusal(processor, sealed)[0] == 9


@pytest.mark.parametrize("spell", [str.upper, "0x{}".format])
def test_a_workload_id_may_be_spelled_otherwise(processor, spell):
    sealed = seal_order(draft(workload_id=spell(workload_id_of("echo-result"))), public(processor))
    assert run(processor, sealed)[0].data == b"RESULT: hello"


def test_legacy_orders_need_permission(processor):
    strict = dataclasses.replace(processor, accept_legacy=False, replay=ReplayGuard())
    legacy = seal_order(draft(), public(processor), suite="avalon", shared_iv=True)
    assert processor.process(encode_request(legacy.request), None, Uncontrolled()).legacy
    code, message = refusal(strict, legacy)
    assert code == 2
    assert "~avalon-hpke-1" in message
    fresh = seal_order(draft(), public(processor), suite="avalon")
    assert not strict.process(encode_request(fresh.request), None, Uncontrolled()).legacy


def test_a_changed_request_is_refused(processor, suite):
    sealed = seal_order(draft(), public(processor), suite=suite)
    changed = msgspec.structs.replace(sealed.request, requester_nonce="ee" * 16)
    assert refusal(processor, dataclasses.replace(sealed, request=changed))[0] == 1


def test_signatures_and_what_the_workload_learns_of_them(processor, spy, suite):
    signer, other = SigningKey.generate(), SigningKey.generate()
    unsigned = seal_order(draft("spy"), public(processor), suite=suite)
    run(processor, unsigned)
    assert spy.context.requester == ("aa" * 32, None)

    signed = seal_order(draft("spy", signer=signer), public(processor), suite=suite)
    run(processor, signed)
    assert spy.context.requester == ("aa" * 32, signer.verification_key.pem)
    run(processor, signed, registered=signer.verification_key.pem)
    assert spy.context.worker_id == worker_id_of(WORKER)
    assert refusal(processor, signed, registered=other.verification_key.pem)[0] == 4
    assert refusal(processor, signed, registered="no PEM")[0] == 4


def test_limits_of_the_workload_are_kept(processor):
    code, message = refusal(processor, seal_order(draft("spy", b"1", b"2", b"3"), public(processor)))
    assert (code, message) == (2, "inData: got 3 items, expected at most 2")
    code, message = refusal(processor, seal_order(draft("spy", b"x" * 11), public(processor)))
    assert (code, message) == (2, "inData item 0: got 11 bytes, expected at most 10")


def owned(processor: Processor, key: bytes, iv: bytes, index: int) -> InDataItem:
    data, wrapped, iv_hex = seal_owned_input(
        key,
        iv,
        b"theirs",
        worker=processor.keys.hpke.public_key,
        worker_id=worker_id_of(WORKER),
        workload_id=workload_id_of("echo-result"),
    )
    return InDataItem(index=index, data=data, encrypted_data_encryption_key=wrapped, iv=iv_hex)


def owned_in_avalon(processor: Processor, key: bytes, iv: bytes, index: int) -> InDataItem:
    return InDataItem(
        index=index,
        data=encode_base64(aead.seal(key, iv, b"theirs")),
        encrypted_data_encryption_key=processor.keys.rsa.public_key.seal(key).hex(),
        iv=iv.hex(),
    )


@pytest.mark.parametrize(("suite", "own"), [("~avalon-hpke-1", owned), ("avalon", owned_in_avalon)])
def test_one_key_in_two_wrappings_under_one_iv_is_refused(processor, suite, own):
    strict = dataclasses.replace(processor, accept_legacy=False)
    key = os.urandom(32)
    for second_iv, allowed in ((b"2" * 12, True), (b"1" * 12, False)):
        items = [own(processor, key, b"1" * 12, 1), own(processor, key, second_iv, 2)]
        sealed = seal_order(draft(owned_inputs=items), public(processor), suite=suite)
        if allowed:
            assert [item.data for item in run(strict, sealed)] == [b"RESULT: hello"] + 2 * [b"RESULT: theirs"]
        else:
            code, message = refusal(strict, sealed)
            assert code == 2
            assert "item 2: another item has the same key" in message


def test_no_secret_is_in_a_representation(processor):
    shown = repr(processor)
    assert "RsaPrivateKey" not in shown
    assert "SigningKey" not in shown


@needs_vectors
def test_the_wire_vectors_of_existing_clients():
    vectors = json.loads((VECTORS / "fixed_keys.json").read_text())
    # The vectors' PKCS#8 has parameters that OpenSSL's reader refuses; libsecp256k1's helper reads them.
    signer = SigningKey(coincurve.PrivateKey.from_pem(vectors["workerSigningKeyPrivatePem"].encode()).secret)
    processor = make(
        RsaPrivateKey.from_pem(vectors["workerEncryptionKeyPrivatePem"]),
        EchoResult(),
        HeartDiseaseEval(),
        signer=signer,
        worker_id=vectors["cases"][0]["request"]["params"]["workerId"],
    )
    assert signer.verification_key == load_verification_key(vectors["workerVerificationKeyPem"])
    for case in vectors["cases"]:
        params = json.dumps(case["request"]["params"]).encode()
        request = decode_request(params)
        processed = processor.process(params, None, Uncontrolled())
        ours = decode_result(processed.result)
        theirs = decode_result(msgspec.json.encode(case["result"]))
        assert [item.index for item in ours.out_data] == [item.index for item in theirs.out_data], case[
            "name"
        ]
        if request.session_key_iv and request.workload_id == workload_id_of("echo-result"):
            # One key and iv: equal plaintext is equal ciphertext, so the answer is the vectors' own, byte for byte.
            assert ours.out_data == theirs.out_data, case["name"]


def test_a_repeated_order_gets_the_same_result_and_does_not_run_again(processor, spy, suite):
    params = encode_request(seal_order(draft("spy"), public(processor), suite=suite).request)
    first = processor.process(params, None, Uncontrolled()).result
    spy.context = None
    assert processor.process(params, None, Uncontrolled()).result == first
    assert spy.context is None


def test_other_bytes_under_an_id_that_was_processed_are_refused(processor, suite):
    used = draft("echo-result", b"one")
    params = encode_request(seal_order(used, public(processor), suite=suite).request)
    processor.process(params, None, Uncontrolled())
    again = dataclasses.replace(used, inputs=[Item(index=0, data=b"two")])
    with pytest.raises(WorkOrderError, match="another order under this id") as caught:
        processor.process(
            encode_request(seal_order(again, public(processor), suite=suite).request), None, Uncontrolled()
        )
    assert caught.value.code == 2
