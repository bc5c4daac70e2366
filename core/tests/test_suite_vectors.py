"""The vectors of ~avalon-hpke-1, reproduced by an implementation that was written from the document alone.

It shares no code with avalon_core: hashlib, hmac and AES-GCM, and HPKE single shot from pyca/cryptography.
"""

import base64
import hashlib
import hmac
import json
import runpy
import struct
import sys
from pathlib import Path
from typing import Any

import coincurve
import pytest
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from avalon_core.crypto.dialects import WorkerKeys
from avalon_core.crypto.dialects.base import OrderKeys
from avalon_core.crypto.dialects.hpke import HPKE
from avalon_core.crypto.orders import Item, PoolVoucher, open_order, seal_result, unlock, voucher_digest
from avalon_core.crypto.sealing import HpkePrivateKey
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.orders import decode_request, decode_result, encode_result

FILE = Path(__file__).parent / "vectors" / "avalon-hpke-1.json"
VECTORS = json.loads(FILE.read_text())
CASES = {case["name"]: case for case in VECTORS["cases"]}
EACH_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
HEADER = [
    "payloadFormat", "responseTimeoutMSecs", "workOrderId", "workerId", "workloadId", "requesterId", "requesterNonce",
    "resultUri", "notifyUri", "workerEncryptionKey", "dataEncryptionAlgorithm", "verifyingKey",
]  # fmt: skip

# --- the suite, from docs/suite-avalon-hpke-1.md -----------------------------------------------------------------


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def label(name: str) -> bytes:
    return b"avalon-hpke-1 " + name.encode() + b"\0"


def fields(*values: Any) -> bytes:
    texts = [None if v is None else str(v).encode() for v in values]
    return b"".join(b"\0" if t is None else b"\1" + struct.pack(">I", len(t)) + t for t in texts)


def header_digest(request: dict[str, Any]) -> bytes:
    return sha(label("header"), fields(*(request.get(name) for name in HEADER)))


def items_digest(items: list[dict[str, Any]]) -> bytes:
    parts = [label("items")]
    for item in sorted(items, key=lambda item: item["index"]):
        parts.append(
            fields(*(item.get(m) for m in ("index", "dataHash", "encryptedDataEncryptionKey", "iv")))
        )
        data = item.get("data", "").encode()
        parts.append(struct.pack(">I", len(data)) + data)
    return sha(*parts)


def request_hash(request: dict[str, Any]) -> bytes:
    both = (items_digest(request.get(name, [])) for name in ("inData", "outData"))
    return sha(label("request"), header_digest(request), *both)


def result_hash(result: dict[str, Any], of_request: bytes) -> bytes:
    names = ("workerNonce", "workOrderId", "workerId", "workloadId", "requesterId", "extVerificationKey")
    covered = fields(*(result.get(name) for name in names))
    return sha(label("result"), of_request, covered, items_digest(result["outData"]))


def extract(salt: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt, secret, "sha256")


def key(prk: bytes, name: str, index: int, context: bytes = b"") -> bytes:
    return hmac.digest(prk, label(name) + struct.pack(">I", index) + context + b"\1", "sha256")


def open_(key_: bytes, message: bytes, nonce: bytes = bytes(12)) -> bytes:
    return AESGCM(key_).decrypt(nonce, message, None)


def hpke_open(sealed: bytes, info: bytes) -> bytes:
    seed = bytes.fromhex(VECTORS["workerHpkePrivateKey"])
    kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(seed[:64])
    curve = x25519.X25519PrivateKey.from_private_bytes(seed[64:])
    suite = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    return suite.decrypt(sealed, hpke.MLKEM768X25519PrivateKey(kem, curve), info)


def own_key(item: dict[str, Any], request: dict[str, Any], prk: bytes, name: str) -> bytes:
    wrapped = open_(key(prk, name, item["index"]), bytes.fromhex(item["encryptedDataEncryptionKey"]))
    info = sha(label("owner"), fields(request["workerId"], request["workloadId"]))
    return extract(label("owner"), hpke_open(wrapped, info))


def has_own_key(item: dict[str, Any]) -> bool:
    return item.get("encryptedDataEncryptionKey") not in (None, "", "null", "-")


def open_input(item: dict[str, Any], request: dict[str, Any], prk: bytes) -> bytes:
    data = base64.b64decode(item["data"])
    if item.get("encryptedDataEncryptionKey") == "-":
        return data
    if has_own_key(item):
        owner = own_key(item, request, prk, "owner input key")
        return open_(key(owner, "owner input", 0), data, bytes.fromhex(item["iv"]))
    return open_(key(prk, "input", item["index"]), data)


# --- end of the suite --------------------------------------------------------------------------------------------


@EACH_CASE
def test_the_document_reproduces_every_intermediate_value_of_a_request(case: dict[str, Any]) -> None:
    request = case["request"]
    digest = header_digest(request)
    secret = hpke_open(bytes.fromhex(request["encryptedSessionKey"]), digest)
    prk = extract(digest, secret)
    assert (digest.hex(), secret.hex(), prk.hex()) == (case["headerDigest"], case["secret"], case["prk"])
    assert key(prk, "request hash", 0).hex() == case["requestHashKey"]
    for member, name in (
        ("inputKeys", "input"), ("ownerInputKeyKeys", "owner input key"), ("ownerOutputKeyKeys", "owner output key")
    ):  # fmt: skip
        assert {i: key(prk, name, int(i)).hex() for i in case[member]} == case[member]
    assert request_hash(request).hex() == case["requestHash"]
    message = bytes.fromhex(request["encryptedRequestHash"])
    assert open_(key(prk, "request hash", 0), message) == request_hash(request)
    sealed_again = AESGCM(key(prk, "request hash", 0)).encrypt(bytes(12), request_hash(request), None)
    assert sealed_again == message
    inputs = {str(i["index"]): open_input(i, request, prk).decode() for i in request.get("inData", [])}
    assert inputs == case["inputs"]
    if "requesterSignature" in request:
        public = coincurve.PrivateKey(bytes.fromhex(VECTORS["requesterSigningKey"])).public_key
        assert public.verify(
            base64.b64decode(request["requesterSignature"]), request_hash(request), hasher=None
        )


@EACH_CASE
def test_the_document_reproduces_every_intermediate_value_of_a_result(case: dict[str, Any]) -> None:
    request, result, prk = case["request"], case["result"], bytes.fromhex(case["prk"])
    of_request, nonce = request_hash(request), bytes.fromhex(case["workerNonce"])
    assert base64.b64decode(result["workerNonce"]) == nonce
    assert result_hash(result, of_request).hex() == case["resultHash"]
    signing = VECTORS["oneTimeSigningKey" if "extVerificationKey" in result else "workerSigningKey"]
    signature = coincurve.PrivateKey(bytes.fromhex(signing)).sign(
        result_hash(result, of_request), hasher=None
    )
    assert base64.b64encode(signature).decode() == result["workerSignature"]
    if "extVerificationKey" in result:
        vouched = sha((result["extVerificationKey"] + request["requesterNonce"]).encode())
        voucher = coincurve.PrivateKey(bytes.fromhex(VECTORS["workerSigningKey"])).sign(vouched, hasher=None)
        assert base64.b64encode(voucher).decode() == result["extVerificationKeySignature"]
    outputs = {}
    for item in result["outData"]:
        data = base64.b64decode(item["data"])
        if has_own_key(item):
            owner = extract(label("owner"), bytes.fromhex(VECTORS["ownerKeys"]["reader"]))
            data = open_(key(owner, "owner output", item["index"], of_request + nonce), data)
        elif item["encryptedDataEncryptionKey"] != "-":
            derived = key(prk, "output", item["index"], of_request + nonce)
            assert derived.hex() == case["outputKeys"][str(item["index"])]
            data = open_(derived, data)
        outputs[str(item["index"])] = data.decode()
    assert outputs == case["outputs"]


@EACH_CASE
def test_the_core_opens_the_recorded_request_and_answers_the_recorded_result(
    case: dict[str, Any], world
) -> None:
    worker = WorkerKeys(
        rsa=world.worker.rsa, hpke=HpkePrivateKey(bytes.fromhex(VECTORS["workerHpkePrivateKey"]))
    )
    request = decode_request(json.dumps(case["request"]).encode())
    opened = open_order(request, unlock(request, worker))
    assert opened.request_hash.hex() == case["requestHash"]
    assert {str(item.index): item.data.decode() for item in opened.inputs} == case["inputs"]
    signer = SigningKey(bytes.fromhex(VECTORS["workerSigningKey"]))
    voucher = None
    if "extVerificationKey" in case["result"]:
        pem = case["result"]["extVerificationKey"]
        voucher = PoolVoucher(
            verification_key_pem=pem, signature=signer.sign(voucher_digest(pem, request.requester_nonce))
        )
        signer = SigningKey(bytes.fromhex(VECTORS["oneTimeSigningKey"]))
    outputs = [Item(index=int(index), data=text.encode()) for index, text in case["outputs"].items()]
    nonce = bytes.fromhex(case["workerNonce"])
    result = seal_result(opened, outputs, signer, voucher=voucher, worker_nonce=nonce)
    assert json.loads(encode_result(result)) == case["result"]


def test_a_third_party_reads_its_output_with_its_own_key_alone() -> None:
    case = CASES["everything"]
    request = decode_request(json.dumps(case["request"]).encode())
    item = next(i for i in decode_result(json.dumps(case["result"]).encode()).out_data if i.has_own_key)
    keys = OrderKeys(
        session=bytes(32),
        own={item.encrypted_data_encryption_key or "": bytes.fromhex(VECTORS["ownerKeys"]["reader"])},
    )
    text = HPKE.open_output(
        request,
        keys,
        item,
        request_hash=bytes.fromhex(case["requestHash"]),
        worker_nonce=bytes.fromhex(case["workerNonce"]),
    )
    assert text.decode() == case["outputs"][str(item.index)]


def test_the_vectors_are_what_the_script_makes(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    script = Path(__file__).parents[2] / "scripts" / "make_vectors.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--check"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0, capsys.readouterr().out
