"""What a KME hands out makes results that every client accepts: in all suites, and as the original's pools sign them."""

import hashlib
import json
from pathlib import Path

import coincurve
import pytest
from pool_world import KME_CODE, World, manifest_of

from avalon_core.channel.pool import OpenOrder, OrderOpened
from avalon_core.crypto.dialects import OrderKeys, WorkerKeys, WorkerPublicKeys
from avalon_core.crypto.orders import (
    Item,
    OrderDraft,
    PoolVoucher,
    ResultRefused,
    SealedOrder,
    open_order,
    open_result,
    seal_order,
    seal_result,
    voucher_digest,
)
from avalon_core.crypto.sealing import HpkePrivateKey, RsaPrivateKey
from avalon_core.crypto.signing import SigningKey, load_verification_key
from avalon_core.protocol.encodings import decode_base64
from avalon_core.protocol.ids import HexStr, RequesterId, WorkOrderId, worker_id_of, workload_id_of
from avalon_core.protocol.orders import FORMAT_HPKE, decode_request, decode_result, encode_result, header_of
from avalon_enclave.pool import state as states
from avalon_enclave.pool.office import Office

WIRE = Path(__file__).parents[3] / "core" / "tests" / "vectors" / "wire"
FIXED = json.loads((WIRE / "fixed_keys.json").read_text())
POOLED = {case["name"]: case for case in FIXED["cases"] if "extVerificationKey" in case["result"]}
FINGERPRINT = bytes(16)


def opened(office: Office, request, *, token=1) -> tuple[OrderKeys, SigningKey, PoolVoucher]:
    answer = office.open(office.register("ab" * 16), OpenOrder(1, token, header_of(request), FINGERPRINT))
    assert isinstance(answer, OrderOpened)
    assert answer.code == 0, answer.message
    signer = SigningKey(answer.signing_key)
    voucher = PoolVoucher(verification_key_pem=signer.verification_key.pem, signature=answer.voucher)
    return OrderKeys(session=answer.session, own=answer.own), signer, voucher


@pytest.fixture(scope="module")
def kme():
    world = World(manifest=manifest_of(kme_measurements=(KME_CODE,)))
    node = world.kme("kme-1")
    node.create()
    return node


@pytest.mark.parametrize("suite", [FORMAT_HPKE, "avalon", "eea-1.1"])
@pytest.mark.parametrize("inputs", [1, 3])
def test_a_result_under_a_voucher_is_accepted(kme, suite, inputs):
    pool = kme.office.pool
    keys = pool.current.keys
    draft = OrderDraft(
        work_order_id=WorkOrderId(hashlib.sha256(f"{suite}{inputs}".encode()).hexdigest()),
        worker_id=worker_id_of(pool.manifest.worker_name),
        workload_id=workload_id_of("echo-result"),
        requester_id=RequesterId("cafe"),
        requester_nonce=HexStr("00ff"),
        inputs=[Item(index=index, data=b"input %d" % index) for index in range(inputs)],
    )
    order = seal_order(
        draft, WorkerPublicKeys(rsa=keys.rsa.public_key, hpke=keys.hpke.public_key), suite=suite
    )
    order_keys, signer, voucher = opened(kme.office, order.request)
    outputs = [Item(index=0, data=b"the answer")]
    result = seal_result(open_order(order.request, order_keys), outputs, signer, voucher=voucher)
    travelled = decode_result(encode_result(result))
    assert open_result(order, travelled, pool.signing.verification_key) == outputs
    with pytest.raises(ResultRefused):
        open_result(order, travelled, SigningKey.generate().verification_key)
    _, _, other = opened(kme.office, order.request)
    mixed = seal_result(open_order(order.request, order_keys), outputs, signer, voucher=other)
    with pytest.raises(ResultRefused):
        open_result(order, mixed, pool.signing.verification_key)


@pytest.fixture(scope="module")
def original():
    """A pool that has the keys of the original's vectors."""
    signing = SigningKey(coincurve.PrivateKey.from_pem(FIXED["workerSigningKeyPrivatePem"].encode()).secret)
    keys = WorkerKeys(
        rsa=RsaPrivateKey.from_pem(FIXED["workerEncryptionKeyPrivatePem"]),
        hpke=HpkePrivateKey(bytes(range(96))),
    )
    epoch = states.Epoch(number=1, made_at=0, rsa=keys.rsa.to_bytes(), hpke=keys.hpke.to_bytes())
    state = states.PoolState(signing=signing.to_bytes(), first_manifest=manifest_of(), epochs=(epoch,))
    office = Office()
    office.take_pool(states.load(state))
    office.is_open = True
    return office


@pytest.mark.parametrize("case", POOLED.values(), ids=POOLED)
def test_the_original_s_pool_signatures_are_what_this_office_gives(case, original):
    request = decode_request(json.dumps(case["request"]["params"]).encode())
    original._worker_id = request.worker_id
    key = original.pool.signing.verification_key
    recorded = decode_result(json.dumps(case["result"]).encode())
    digest = voucher_digest(recorded.ext_verification_key, request.requester_nonce)
    key.verify(digest, decode_base64(recorded.ext_verification_key_signature, what="voucher"))

    order_keys, signer, voucher = opened(original, request)
    assert order_keys.session.hex() == case["sessionKeyHex"]
    key.verify(
        voucher_digest(voucher.verification_key_pem, request.requester_nonce), voucher.signature, strict=True
    )
    load_verification_key(voucher.verification_key_pem)
    order = open_order(request, order_keys)
    kept = SealedOrder(
        request=request,
        dialect=order.dialect,
        keys=OrderKeys(session=order_keys.session),
        request_hash=order.request_hash,
    )
    outputs = open_result(kept, recorded, key)
    ours = seal_result(order, outputs, signer, voucher=voucher)
    assert open_result(kept, decode_result(encode_result(ours)), key) == outputs


def test_there_are_pool_signatures_in_both_dialects_of_the_original():
    assert sorted(case["dialect"] for case in POOLED.values()) == ["avalon", "eea-1.1"]


def test_an_office_that_is_not_open_signs_and_opens_nothing(kme):
    office = Office()
    office.take_pool(kme.office.pool)
    answer = office.open(office.register("ab" * 16), OpenOrder(1, 1, b"{}", FINGERPRINT))
    assert (answer.code, answer.retry) == (8, True)


def test_a_wpe_that_is_gone_keeps_no_late_receipt_from_being_signed(kme):
    office, pool = kme.office, kme.office.pool
    keys = pool.current.keys
    draft = OrderDraft(
        work_order_id=WorkOrderId("cafe01"),
        worker_id=worker_id_of(pool.manifest.worker_name),
        workload_id=workload_id_of("echo-result"),
        requester_id=RequesterId("cafe"),
        requester_nonce=HexStr("00ff"),
        inputs=[Item(index=0, data=b"x")],
    )
    order = seal_order(draft, WorkerPublicKeys(rsa=keys.rsa.public_key, hpke=keys.hpke.public_key))
    registration = office.register("cd" * 16)
    assert office.open(registration, OpenOrder(1, 1, header_of(order.request), FINGERPRINT)).code == 0
    with pytest.raises(Exception, match="a WPE processes this order"):
        office.sign_late_receipt(header_of(order.request), None)
    office.gone(registration)
    assert office.sign_late_receipt(header_of(order.request), None).signature
