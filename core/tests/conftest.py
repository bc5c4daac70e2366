"""One worker, one requester and the vectors, for every test of the core; and the one place where vectors are skipped."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import coincurve
import hypothesis
import pytest

from avalon_core.crypto.dialects import WorkerKeys, WorkerPublicKeys
from avalon_core.crypto.orders import (
    Item,
    OpenedOrder,
    OrderDraft,
    PoolVoucher,
    SealedOrder,
    open_order,
    seal_order,
    unlock,
    voucher_digest,
)
from avalon_core.crypto.sealing import HpkePrivateKey, RsaPrivateKey
from avalon_core.crypto.signing import SigningKey, VerificationKey
from avalon_core.protocol.ids import HexStr, RequesterId, worker_id_of, workload_id_of
from avalon_core.protocol.ids import WorkOrderId as OrderId
from avalon_core.protocol.orders import WorkOrderRequest

HERE = Path(__file__).parent
VECTORS = HERE / "vectors"

hypothesis.settings.register_profile("core", max_examples=60, deadline=None)
hypothesis.settings.load_profile("core")


def _signing_key(pem: str) -> SigningKey:
    """The fixed keys are PKCS#8 with parameters that OpenSSL's reader refuses; libsecp256k1's helper reads them."""
    return SigningKey(coincurve.PrivateKey.from_pem(pem.encode()).secret)


@dataclass(frozen=True)
class World:
    """Everybody's keys, and orders in one line."""

    worker: WorkerKeys
    worker_signer: SigningKey
    requester: SigningKey
    one_time: SigningKey
    fixed: dict[str, Any] = field(repr=False)

    @property
    def public(self) -> WorkerPublicKeys:
        return WorkerPublicKeys(rsa=self.worker.rsa.public_key, hpke=self.worker.hpke.public_key)

    def draft(self, *texts: str, **members: Any) -> OrderDraft:
        given = {
            "work_order_id": OrderId("0xAb01"),
            "worker_id": worker_id_of("test worker"),
            "workload_id": workload_id_of("echo-result"),
            "requester_id": RequesterId("cafe"),
            "requester_nonce": HexStr("00ff"),
            "inputs": [Item(index=i, data=text.encode()) for i, text in enumerate(texts)],
        }
        return OrderDraft(**given | members)

    def seal(self, draft: OrderDraft, **options: Any) -> SealedOrder:
        return seal_order(draft, self.public, **options)

    def open(self, request: WorkOrderRequest, *, registered: VerificationKey | None = None) -> OpenedOrder:
        return open_order(request, unlock(request, self.worker), registered_key=registered)

    def voucher(self, request: WorkOrderRequest) -> PoolVoucher:
        pem = self.one_time.verification_key.pem
        digest = voucher_digest(pem, request.requester_nonce)
        return PoolVoucher(verification_key_pem=pem, signature=self.worker_signer.sign(digest))


@pytest.fixture(scope="session")
def world() -> World:
    fixed = json.loads((VECTORS / "wire" / "fixed_keys.json").read_text())
    return World(
        worker=WorkerKeys(
            rsa=RsaPrivateKey.from_pem(fixed["workerEncryptionKeyPrivatePem"]),
            hpke=HpkePrivateKey(bytes(range(96))),
        ),
        worker_signer=_signing_key(fixed["workerSigningKeyPrivatePem"]),
        requester=_signing_key(fixed["requesterSigningKeyPrivatePem"]),
        one_time=_signing_key(fixed["oneTimeSigningKeyPrivatePem"]),
        fixed=fixed,
    )


@pytest.fixture(scope="session")
def shared_vectors() -> Path:
    """The collection of vectors beside the repository, where there is one. The one place that skips for its absence."""
    default = HERE.parents[1].parent / "shared" / "vectors"
    path = Path(os.environ.get("AVALON_VECTORS", default))
    if "AVALON_VECTORS" not in os.environ and not path.is_dir():
        pytest.skip("no shared vectors: set AVALON_VECTORS to the folder that holds them")
    assert path.is_dir(), f"AVALON_VECTORS names {path}, which is not a folder"
    return path


Mutator = Callable[[Any], Sequence[tuple[str, Any]]]


def _other_characters(char: str) -> set[str]:
    """A neighbour of the same class, so that the change survives decoding, and the other case."""
    neighbours = {"9": "8", "f": "e", "F": "E", "z": "y", "Z": "Y"}
    return {neighbours.get(char, chr(ord(char) + 1)), char.swapcase()} - {char}


def _mutations(value: Any, path: str = "$") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        found += [(f"{path}.{k} removed", {n: v for n, v in value.items() if n != k}) for k in value]
        for key, member in value.items():
            found += [(where, value | {key: new}) for where, new in _mutations(member, f"{path}.{key}")]
    elif isinstance(value, list):
        for i, member in enumerate(value):
            where = f"{path}[{i}]"
            found.append((f"{where} removed", value[:i] + value[i + 1 :]))
            found.append((f"{where} twice", [*value, member]))
            if isinstance(member, dict) and "index" in member:
                found.append((f"{where} added again", [*value, member | {"index": 77}]))
            found += [(w, [*value[:i], new, *value[i + 1 :]]) for w, new in _mutations(member, where)]
    elif isinstance(value, bool) or value is None:
        found.append((path, not value))
    elif isinstance(value, int):
        found += [(path, value + 1), (path, value - 1)]
    elif isinstance(value, str):
        for i, char in enumerate(value):
            found += [(f"{path}[{i}]", value[:i] + c + value[i + 1 :]) for c in _other_characters(char)]
        found += [(f"{path} longer", value + "0"), (f"{path} longer", "0x" + value)]
        found += [(f"{path} {name}", value + tail) for name, tail in (("space", " "), ("newline", "\n"))]
        if value:
            found += [(f"{path} shorter", value[:-1]), (f"{path} empty", "")]
    return found


@pytest.fixture(scope="session")
def mutations() -> Mutator:
    """Every change of one character, number or item in a JSON value, with where it was made."""
    return _mutations
