"""A worker that runs somewhere else: it has keys, and signs what it writes to the registry by hand."""

from __future__ import annotations

import itertools
import os
from typing import Any

import msgspec
from service_process import Requester, ServiceProcess

from avalon_core.crypto.registry import key_digest, write_digest
from avalon_core.crypto.sealing import RsaPrivateKey
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.jsonrpc import encode_call
from avalon_core.protocol.registry import WorkerRegisterParams, WorkerSetStatusParams, WorkerUpdateParams

_RSA_KEY = RsaPrivateKey.generate()
_TYPES: dict[str, Any] = {
    "WorkerRegister": WorkerRegisterParams,
    "WorkerUpdate": WorkerUpdateParams,
    "WorkerSetStatus": WorkerSetStatusParams,
}


class ForeignWorker:
    """See the module."""

    def __init__(self) -> None:
        self.worker_id = os.urandom(32).hex()
        self.signing = SigningKey.generate()
        self.nonces = (f"{number:x}" for number in itertools.count(1_700_000_000_000))

    def details(self, **changes: Any) -> dict[str, Any]:
        return {
            "workerTypeData": {
                "verificationKey": self.signing.verification_key.pem,
                "encryptionKey": _RSA_KEY.public_key.pem,
                "encryptionKeySignature": "00",
            },
            "workOrderSyncUri": "http://elsewhere.example",
            **changes,
        }

    def registration(self, **changes: Any) -> dict[str, Any]:
        return {
            "workerId": self.worker_id,
            "workerType": 1,
            "organizationId": "aa",
            "applicationTypeId": ["01", "02"],
            "details": self.details(),
            **changes,
        }

    def update(self, **changes: Any) -> dict[str, Any]:
        return {"workerId": self.worker_id, "details": self.details(), **changes}

    def status(self, status: int) -> dict[str, Any]:
        return {"workerId": self.worker_id, "status": status}

    def signed(self, method: str, params: dict[str, Any], key: SigningKey | None = None) -> dict[str, Any]:
        """The params with a nonce and a signature."""
        nonce = params.get("signatureNonce") or next(self.nonces)
        members = {**params, "signatureNonce": nonce, "signature": ""}
        write = msgspec.json.decode(msgspec.json.encode(members), type=_TYPES[method])
        return {**members, "signature": encode_base64((key or self.signing).sign(write_digest(write)))}

    def pushed_key(self, tag: str = "", key: SigningKey | None = None, **changes: Any) -> dict[str, Any]:
        """The params of EncryptionKeySet."""
        members = {
            "workerId": self.worker_id,
            "encryptionKey": _RSA_KEY.public_key.pem,
            "encryptionKeyNonce": os.urandom(16).hex(),
            "tag": tag,
            "signatureNonce": next(self.nonces),
            **changes,
        }
        digest = key_digest(
            worker_id=members["workerId"],
            encryption_key=members["encryptionKey"],
            encryption_key_nonce=members["encryptionKeyNonce"],
            tag=members["tag"],
            signature_nonce=members["signatureNonce"],
        )
        return {**members, "signature": encode_base64((key or self.signing).sign(digest))}


def token_of(service: ServiceProcess) -> str:
    """The operator's."""
    return (service.data_dir / "operator-token").read_text().strip()


async def call_as(requester: Requester, token: str, method: str, params: Any) -> Any:
    """The decoded answer to a call with a token."""
    _, body = await requester.post(encode_call(method, params, 1), authorization=f"Bearer {token}")
    return msgspec.json.decode(body)


def code_of(answer: Any) -> int:
    """Of the error object: success has one, too, by an old habit."""
    assert "error" in answer, answer
    code: int = answer["error"]["code"]
    return code
