"""Data that belongs to somebody other than the requester.

Its owner checks the worker, then seals each item to that worker and one workload. The requester passes the sealed item on
in an order of its own: it can have the worker run that workload on it, and cannot read it. In the same way an output can be
sealed to an owner, who alone opens it::

    owner: item = seal_owned_input(worker, "echo-result", b"private").to_bytes()
    requester: (await client.run("echo-result", [OwnedInput.from_bytes(item)]))

    owner: key = OutputKey.generate()
    wrapped = key.seal_to(worker, "echo-result")
    requester: handle = await client.submit("echo-result", ["a"], outputs={0: wrapped})
    owner: outputs = key.open_outputs(handle.request, outcome.raw, worker)

Sealed items go from owner to requester over a confidential way: whoever has one can have the workload run on it. Everything
here is of the suite ``~avalon-hpke-1``.
"""

import os
from dataclasses import dataclass, field

import msgspec

from avalon_core.crypto.dialects import HPKE, OrderKeys
from avalon_core.crypto.dialects.base import SECRET_BYTES
from avalon_core.crypto.dialects.hpke import seal_owned_input as _seal_input
from avalon_core.crypto.dialects.hpke import seal_owner_key
from avalon_core.crypto.receipts import signed_response_hash
from avalon_core.crypto.sealing import HpkePublicKey
from avalon_core.errors import DecryptionFailed, EncodingError, SignatureMismatch
from avalon_core.protocol.encodings import decode_canonical_base64, decode_lower_hex
from avalon_core.protocol.errors import WorkOrderError
from avalon_core.protocol.ids import Base64Str, HexStr, workload_id_of
from avalon_core.protocol.orders import FORMAT_HPKE, InDataItem, decode_request, decode_result
from avalon_sdk.errors import BadRequest, ResultRefused, SuiteNotOffered
from avalon_sdk.workers import TrustedWorker

_IV_BYTES = 12


class _Portable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data: str
    wrapped_key: str
    iv: str


_decoder = msgspec.json.Decoder(_Portable)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedInput:
    """An input that its owner sealed to a worker, for one workload."""

    data: str = field(repr=False)
    """Base64 of the message."""

    wrapped_key: str = field(repr=False)
    """Hex of the item's key, sealed to the worker."""

    iv: str = field(repr=False)

    def to_bytes(self) -> bytes:
        """To be handed to the requester, over a confidential way."""
        return msgspec.json.encode(_Portable(data=self.data, wrapped_key=self.wrapped_key, iv=self.iv))

    @classmethod
    def from_bytes(cls, raw: bytes) -> "OwnedInput":
        """What :meth:`to_bytes` made.

        Raises:
            BadRequest: it did not.
        """
        try:
            read = _decoder.decode(raw)
            item = cls(data=read.data, wrapped_key=read.wrapped_key, iv=read.iv)
            msgspec.convert(msgspec.to_builtins(item.as_item(0)), InDataItem)
            decode_canonical_base64(item.data, what="data")
            decode_lower_hex(item.wrapped_key, what="wrapped_key")
            decode_lower_hex(item.iv, what="iv")
        except (ValueError, RecursionError, EncodingError) as exc:  # msgspec's errors are kinds of ValueError
            raise BadRequest(f"not an owned input: {exc}") from exc
        return item

    def as_item(self, index: int) -> InDataItem:
        """The item at this place of an order."""
        return InDataItem(
            index=index,
            data=Base64Str(self.data),
            encrypted_data_encryption_key=self.wrapped_key,
            iv=HexStr(self.iv),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedOutput:
    """How an output is to be sealed: under an owner's key. For the option ``outputs``."""

    wrapped_key: str = field(repr=False)
    """Hex of the owner's key, sealed to the worker."""


def seal_owned_input(worker: TrustedWorker, workload: str, data: bytes) -> OwnedInput:
    """Seal an item of one's own to a worker that was checked, for one workload, under a fresh key.

    Raises:
        SuiteNotOffered: the worker has no key for it.
    """
    message, wrapped, iv = _seal_input(
        os.urandom(SECRET_BYTES),
        os.urandom(_IV_BYTES),
        data,
        worker=_hpke_key(worker),
        worker_id=worker.worker_id,
        workload_id=workload_id_of(workload),
    )
    return OwnedInput(data=message, wrapped_key=wrapped, iv=iv)


class OutputKey:
    """A key of an owner's, for outputs that only the owner is to read. 32 secret bytes; its repr shows none."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != SECRET_BYTES:
            raise BadRequest(f"an output key has {SECRET_BYTES} bytes: got {len(key)}")
        self._key = key

    @classmethod
    def generate(cls) -> "OutputKey":
        """A fresh one."""
        return cls(os.urandom(SECRET_BYTES))

    def to_bytes(self) -> bytes:
        """The secret, to be kept until the result is there."""
        return self._key

    def seal_to(self, worker: TrustedWorker, workload: str) -> OwnedOutput:
        """What the requester names for an output, in an order of this workload to this worker.

        Raises:
            SuiteNotOffered: the worker has no key for it.
        """
        wrapped = seal_owner_key(
            self._key,
            worker=_hpke_key(worker),
            worker_id=worker.worker_id,
            workload_id=workload_id_of(workload),
        )
        return OwnedOutput(wrapped_key=wrapped)

    def open_outputs(self, request: bytes, result: bytes, worker: TrustedWorker) -> dict[int, bytes]:
        """Verify a result and open the outputs that are under this key, by their indices.

        1. The result is this worker's, for this very request.
        2. Outputs travel as the request's templates say; those that do not open under this key are somebody else's.

        Args:
            request: the order as it was sent (:attr:`avalon_sdk.OrderHandle.request`).
            result: the result as it came (:attr:`avalon_sdk.OrderOutcome.raw`).
            worker: as the owner checked it.

        Raises:
            ResultRefused: a step failed, or none of the outputs is under this key.
        """
        try:
            sent, came = decode_request(request), decode_result(result)
            if not sent.is_hpke:
                raise ResultRefused(f"the order is not of the suite {FORMAT_HPKE}")
            signed_response_hash(sent, came, worker.appraised.verification_key)
            nonce = decode_canonical_base64(came.worker_nonce, what="workerNonce")
            request_hash = HPKE.request_hash(sent)
        except (WorkOrderError, SignatureMismatch, EncodingError) as exc:
            raise ResultRefused(f"the result is not acceptable: {exc.message}") from exc
        templates = {item.index: item.encrypted_data_encryption_key for item in sent.out_data}
        opened = {}
        for item in came.out_data:
            wrapped = item.encrypted_data_encryption_key
            if not item.has_own_key or wrapped is None or templates.get(item.index) != wrapped:
                continue
            keys = OrderKeys(session=bytes(SECRET_BYTES), own={wrapped: self._key})
            try:
                opened[item.index] = HPKE.open_output(
                    sent, keys, item, request_hash=request_hash, worker_nonce=nonce
                )
            except (DecryptionFailed, EncodingError):
                continue
        if not opened:
            raise ResultRefused("none of the result's outputs opens under this key")
        return opened


def _hpke_key(worker: TrustedWorker) -> HpkePublicKey:
    worker.require_suite(FORMAT_HPKE)
    key = worker.appraised.public_keys.hpke
    if key is None:
        raise SuiteNotOffered(f"worker {worker.worker_id} has no key for {FORMAT_HPKE}")
    return key
