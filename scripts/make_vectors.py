"""Make core/tests/vectors/avalon-hpke-1.json, or check (--check) that it is what this script would make.

Everything follows from fixed seeds but HPKE's own randomness: what was sealed once is read back from the file and
kept, so that a second run changes nothing. ``--fresh`` seals anew.
"""

import argparse
import hashlib
import hmac
import json
import sys
from pathlib import Path
from typing import Any

from avalon_core.crypto.dialects import WorkerKeys, WorkerPublicKeys
from avalon_core.crypto.dialects.hpke import header_digest, owner_info, seal_owned_input, seal_owner_key
from avalon_core.crypto.orders import (
    Item,
    OrderDraft,
    PoolVoucher,
    open_order,
    open_result,
    seal_order,
    seal_result,
    unlock,
    voucher_digest,
)
from avalon_core.crypto.sealing import HpkePrivateKey, RsaPrivateKey
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.ids import worker_id_of, workload_id_of
from avalon_core.protocol.orders import InDataItem, OutDataItem, encode_request, encode_result

PATH = Path(__file__).parents[1] / "core" / "tests" / "vectors" / "avalon-hpke-1.json"
RSA_PATH = PATH.parent / "wire" / "fixed_keys.json"

WORKER_ID = worker_id_of("vector worker")
WORKLOAD_ID = workload_id_of("echo-result")


def seeded(what: str, count: int = 32) -> bytes:
    return hashlib.shake_256(f"avalon-hpke-1 vectors: {what}".encode()).digest(count)


class RecordedKey:
    """A worker's public key that seals as it did before, where it did."""

    def __init__(self, key: HpkePrivateKey, before: list[dict[str, str]]) -> None:
        self._key = key
        self._before = {(entry["secret"], entry["info"]): entry["sealed"] for entry in before}
        self.hex = key.public_key.hex
        self.key_id = key.public_key.key_id
        self.made: list[dict[str, str]] = []

    def seal(self, secret: bytes, info: bytes) -> bytes:
        known = self._before.get((secret.hex(), info.hex()))
        sealed = bytes.fromhex(known) if known else self._key.public_key.seal(secret, info)
        if self._key.open_(sealed, info) != secret:
            raise ValueError("the recorded encryption does not open to what was sealed")
        self._before[secret.hex(), info.hex()] = sealed.hex()
        entry = {"secret": secret.hex(), "info": info.hex(), "sealed": sealed.hex()}
        if entry not in self.made:
            self.made.append(entry)
        return sealed


def draft(name: str, texts: dict[int, str], **members: Any) -> OrderDraft:
    given = {
        "work_order_id": seeded(f"{name} order").hex(),
        "worker_id": WORKER_ID,
        "workload_id": WORKLOAD_ID,
        "requester_id": seeded("requester id").hex(),
        "requester_nonce": seeded(f"{name} nonce", 16).hex(),
        "inputs": [Item(index=index, data=text.encode()) for index, text in texts.items()],
    }
    return OrderDraft(**given | members)


def drafts(worker: RecordedKey, requester: SigningKey) -> dict[str, tuple[OrderDraft, dict[int, str]]]:
    scope = {"worker": worker, "worker_id": WORKER_ID, "workload_id": WORKLOAD_ID}

    def owned(index: int, key: str, text: str) -> InDataItem:
        data, wrapped, iv = seal_owned_input(seeded(key), seeded(f"iv {index}", 12), text.encode(), **scope)
        return InDataItem(index=index, data=data, encrypted_data_encryption_key=wrapped, iv=iv)

    everything = draft(
        "everything",
        {7: "seventh", 0: "", 3: "in the clear: ünïcode 世界"},
        work_order_id="0xA1B2c3",
        clear=frozenset({3}),
        owned_inputs=[owned(5, "first owner", "the owner's data"), owned(2, "first owner", "more of it")],
        out_data=[
            OutDataItem(index=9, encrypted_data_encryption_key="-"),
            OutDataItem(
                index=5, encrypted_data_encryption_key=seal_owner_key(seeded("reader"), **scope), iv=None
            ),
            OutDataItem(index=0, encrypted_data_encryption_key="null", data_hash=""),
        ],
        response_timeout_msecs=6000,
        result_uri="https://example.org/result?größe=1",
        notify_uri="",
        signer=requester,
    )
    return {
        "one item": (draft("one item", {0: "hello"}), {0: "RESULT: hello"}),
        "no items": (draft("no items", {}), {}),
        "unsorted indices and unicode": (
            draft("unsorted", {2**31 - 1: "last", 10: "héllo 世界", 9: "nine"}),
            {9: "9", 10: "世界", 2**31 - 1: ""},
        ),
        "signed": (draft("signed", {0: "signed"}, signer=requester), {0: "RESULT: signed"}),
        "pool": (draft("pool", {0: "pooled"}), {0: "RESULT: pooled"}),
        "everything": (everything, {9: "public output", 5: "for the reader", 0: "zero", 7: "seven"}),
    }


def expand(prk: bytes, label: str, index: int, context: bytes = b"") -> str:
    info = b"avalon-hpke-1 " + label.encode() + b"\0" + index.to_bytes(4, "big") + context
    return hmac.digest(prk, info + b"\1", "sha256").hex()


def make(before: dict[str, Any]) -> dict[str, Any]:
    hpke = HpkePrivateKey(seeded("worker hpke", 96))
    signer, requester, one_time = (SigningKey(seeded(who)) for who in ("worker", "requester", "one time"))
    rsa = RsaPrivateKey.from_pem(json.loads(RSA_PATH.read_text())["workerEncryptionKeyPrivatePem"])
    recorded = RecordedKey(hpke, before.get("hpke", []))
    worker = WorkerKeys(rsa=rsa, hpke=hpke)
    public = WorkerPublicKeys(rsa=rsa.public_key, hpke=recorded)  # type: ignore[arg-type]
    cases = []
    for name, (order, outputs) in drafts(recorded, requester).items():
        secret = seeded(f"{name} secret")
        sealed = seal_order(order, public, random=lambda _count, secret=secret: secret)
        request = sealed.request
        opened = open_order(request, unlock(request, worker))
        worker_nonce = seeded(f"{name} worker nonce")
        pem = one_time.verification_key.pem
        voucher = PoolVoucher(
            verification_key_pem=pem, signature=signer.sign(voucher_digest(pem, request.requester_nonce))
        )
        result = seal_result(
            opened,
            [Item(index=index, data=text.encode()) for index, text in outputs.items()],
            one_time if name == "pool" else signer,
            voucher=voucher if name == "pool" else None,
            worker_nonce=worker_nonce,
        )
        open_result(sealed, result, signer.verification_key)
        prk, context = sealed.keys.session, sealed.request_hash + worker_nonce
        digest = header_digest(request)
        result_hash = sealed.dialect.result_hash(request, result, sealed.request_hash)
        cases.append(
            {
                "name": name,
                "secret": secret.hex(),
                "headerDigest": digest.hex(),
                "prk": prk.hex(),
                "requestHashKey": expand(prk, "request hash", 0),
                "inputKeys": {str(i.index): expand(prk, "input", i.index) for i in order.inputs},
                "ownerInputKeyKeys": {
                    str(i.index): expand(prk, "owner input key", i.index) for i in order.owned_inputs
                },
                "ownerOutputKeyKeys": {
                    str(i.index): expand(prk, "owner output key", i.index)
                    for i in order.out_data
                    if i.has_own_key
                },
                "outputKeys": {str(i): expand(prk, "output", i, context) for i in sorted(outputs)},
                "inputs": {str(item.index): item.data.decode() for item in opened.inputs},
                "requestHash": sealed.request_hash.hex(),
                "request": json.loads(encode_request(request)),
                "workerNonce": worker_nonce.hex(),
                "outputs": {str(index): text for index, text in outputs.items()},
                "resultHash": result_hash.hex(),
                "result": json.loads(encode_result(result)),
            }
        )
    return {
        "about": "Vectors of ~avalon-hpke-1; see docs/suite-avalon-hpke-1.md. Made by scripts/make_vectors.py.",
        "workerHpkePrivateKey": hpke.to_bytes().hex(),
        "workerHpkePublicKey": hpke.public_key.hex,
        "workerHpkeKeyId": hpke.public_key.key_id,
        "workerSigningKey": signer.to_bytes().hex(),
        "workerVerificationKey": signer.verification_key.pem,
        "oneTimeSigningKey": one_time.to_bytes().hex(),
        "requesterSigningKey": requester.to_bytes().hex(),
        "ownerInfo": owner_info(WORKER_ID, WORKLOAD_ID).hex(),
        "ownerKeys": {who: seeded(who).hex() for who in ("first owner", "reader")},
        "hpke": recorded.made,
        "cases": cases,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the file differs")
    parser.add_argument("--fresh", action="store_true", help="seal anew instead of keeping what was sealed")
    options = parser.parse_args()
    text = PATH.read_text() if PATH.exists() else "{}"
    made = json.dumps(make({} if options.fresh else json.loads(text)), indent=1, ensure_ascii=False) + "\n"
    if options.check:
        print("up to date" if made == text else f"{PATH.name} differs: run scripts/make_vectors.py")
        return int(made != text)
    PATH.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
