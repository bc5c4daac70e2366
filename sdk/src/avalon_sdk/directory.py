"""Writing to a service's worker directory, and the keys of workers and requesters that a service keeps.

A write needs authority: the operator's token (which the transport carries), or a signature by the worker's own key. What is
read from the directory is appraised in :mod:`avalon_sdk.workers`.
"""

import time
from collections.abc import Sequence

import msgspec

from avalon_core.crypto.registry import (
    check_details,
    key_digest,
    key_nonce,
    key_request_digest,
    write_digest,
)
from avalon_core.crypto.sealing import load_rsa_public_key
from avalon_core.crypto.signing import SigningKey, VerificationKey, load_verification_key
from avalon_core.errors import EncodingError, KeyFormatError, SignatureMismatch
from avalon_core.protocol.encodings import decode_base64, encode_base64
from avalon_core.protocol.errors import WorkerStatus
from avalon_core.protocol.ids import Base64Str, HexStr, RequesterId, WorkerId
from avalon_core.protocol.registry import (
    EncryptionKeyGetParams,
    EncryptionKeyGrant,
    EncryptionKeySetParams,
    RequesterKeyGetParams,
    RequesterKeySetParams,
    WorkerRegisterParams,
    WorkerSetStatusParams,
    WorkerUpdateParams,
)
from avalon_core.protocol.workers import WorkerDetails
from avalon_sdk.deadline import Deadline, RetryPolicy
from avalon_sdk.errors import BadAnswer, BadRequest, KeyRefused
from avalon_sdk.planning import require_hex_id
from avalon_sdk.transports.base import RegistryWrite, Transport
from avalon_sdk.workers import TrustedWorker


class DirectoryWriter:
    """Writes entries for a client."""

    def __init__(self, transport: Transport, retry: RetryPolicy) -> None:
        self._transport = transport
        self._retry = retry
        self._last_nonce = 0

    async def register(
        self,
        worker_id: str,
        details: WorkerDetails | bytes,
        deadline: Deadline,
        *,
        worker_type: int,
        organization_id: str,
        application_type_ids: Sequence[str],
        signer: SigningKey | None,
    ) -> None:
        """Add a worker."""
        write = WorkerRegisterParams(
            worker_id=WorkerId(require_hex_id(worker_id, "worker_id")),
            worker_type=worker_type,
            details=_raw(details),
            organization_id=organization_id and require_hex_id(organization_id, "organization_id"),
            application_type_id=tuple(
                require_hex_id(text, "application_type_ids") for text in application_type_ids
            ),
        )
        await self._write(write, signer, deadline)

    async def update(
        self,
        worker_id: str,
        details: WorkerDetails | bytes,
        deadline: Deadline,
        *,
        signer: SigningKey | None,
    ) -> None:
        """Replace a worker's details."""
        write = WorkerUpdateParams(
            worker_id=WorkerId(require_hex_id(worker_id, "worker_id")), details=_raw(details)
        )
        await self._write(write, signer, deadline)

    async def set_status(
        self, worker_id: str, status: WorkerStatus, deadline: Deadline, *, signer: SigningKey | None
    ) -> None:
        """Change a worker's status."""
        write = WorkerSetStatusParams(
            worker_id=WorkerId(require_hex_id(worker_id, "worker_id")), status=int(WorkerStatus(status))
        )
        await self._write(write, signer, deadline)

    async def push_encryption_key(
        self,
        worker_id: str,
        encryption_key: str,
        signer: SigningKey,
        deadline: Deadline,
        *,
        encryption_key_nonce: str | None,
        tag: str,
    ) -> None:
        """Have the service give out a key of a worker that it does not host."""
        try:
            load_rsa_public_key(encryption_key)
        except KeyFormatError as exc:
            raise BadRequest(f"encryption_key: {exc.message}") from exc
        write = EncryptionKeySetParams(
            worker_id=WorkerId(require_hex_id(worker_id, "worker_id")),
            encryption_key=encryption_key,
            encryption_key_nonce=HexStr(encryption_key_nonce or key_nonce(encryption_key)),
            tag=tag and require_hex_id(tag, "tag"),
            signature_nonce=self._next_nonce(),
            signature=Base64Str(""),
        )
        digest = key_digest(
            worker_id=write.worker_id,
            encryption_key=write.encryption_key,
            encryption_key_nonce=write.encryption_key_nonce,
            tag=write.tag,
            signature_nonce=write.signature_nonce,
        )
        signed = msgspec.structs.replace(write, signature=Base64Str(encode_base64(signer.sign(digest))))
        # Once, as every signed write.
        await self._transport.push_encryption_key(signed, timeout=deadline.left)

    async def set_requester_key(
        self, requester_id: str, key: VerificationKey | None, deadline: Deadline
    ) -> None:
        """Register a requester's key, or take it away."""
        entry = RequesterKeySetParams(
            requester_id=RequesterId(require_hex_id(requester_id, "requester_id")),
            verifying_key=key.pem if key is not None else None,
        )
        await self._retry.persist(
            lambda: self._transport.set_requester_key(entry, timeout=deadline.left), deadline
        )

    async def requester_key(self, requester_id: str, deadline: Deadline) -> VerificationKey | None:
        """The key that is registered for a requester."""
        wanted = RequesterKeyGetParams(requester_id=RequesterId(require_hex_id(requester_id, "requester_id")))
        pem = await self._retry.persist(
            lambda: self._transport.requester_key(wanted, timeout=deadline.left), deadline
        )
        try:
            return load_verification_key(pem) if pem else None
        except KeyFormatError as exc:
            raise BadAnswer(f"the key of requester {requester_id} is none: {exc.message}") from exc

    async def _write(self, write: RegistryWrite, signer: SigningKey | None, deadline: Deadline) -> None:
        signed = write if signer is None else self._signed(write, signer)

        async def call() -> None:
            await self._transport.write_worker(signed, timeout=deadline.left)

        if signer is not None or isinstance(write, WorkerRegisterParams):
            # Where it arrived and its answer was lost, it would be refused the second time: tell the caller the truth.
            await call()
        else:
            await self._retry.persist(call, deadline)

    def _signed(self, write: RegistryWrite, signer: SigningKey) -> RegistryWrite:
        # Signature and nonce go together, so the digest is over a record that has both.
        numbered = msgspec.structs.replace(write, signature_nonce=self._next_nonce(), signature=Base64Str(""))
        signature = encode_base64(signer.sign(write_digest(numbered)))
        return msgspec.structs.replace(numbered, signature=Base64Str(signature))

    def _next_nonce(self) -> HexStr:
        """Larger than that of every write before: milliseconds since the epoch."""
        self._last_nonce = max(time.time_ns() // 1_000_000, self._last_nonce + 1)
        return HexStr(f"{self._last_nonce:x}")


async def granted_key(
    transport: Transport,
    retry: RetryPolicy,
    worker: TrustedWorker,
    requester_id: RequesterId,
    deadline: Deadline,
    *,
    last_used_key_nonce: str | None,
    signer: SigningKey | None,
) -> EncryptionKeyGrant:
    """Ask for a worker's encryption key, and accept it in these steps:

    1. It is this worker's, and meant for this requester or for all.
    2. The worker's verification key, from the record that was appraised, signed it.
    3. It is a key.

    Raises:
        KeyRefused: a step failed.
    """
    request = EncryptionKeyGetParams(
        worker_id=worker.worker_id,
        requester_id=requester_id,
        last_used_key_nonce=HexStr(last_used_key_nonce) if last_used_key_nonce else None,
    )
    if signer is not None:
        request = msgspec.structs.replace(request, signature_nonce=HexStr(f"{time.time_ns():x}"))
        signature = encode_base64(signer.sign(key_request_digest(request)))
        request = msgspec.structs.replace(request, signature=Base64Str(signature))
    grant = await retry.persist(lambda: transport.encryption_key(request, timeout=deadline.left), deadline)
    if grant.worker_id != worker.worker_id or grant.tag not in ("", requester_id):
        raise KeyRefused(
            "the encryption key is another worker's, or meant for another requester: do not use it"
        )
    digest = key_digest(
        worker_id=grant.worker_id,
        encryption_key=grant.encryption_key,
        encryption_key_nonce=grant.encryption_key_nonce,
        tag=grant.tag,
        signature_nonce=grant.signature_nonce,
    )
    try:
        worker.appraised.verification_key.verify(digest, decode_base64(grant.signature, what="signature"))
        load_rsa_public_key(grant.encryption_key)
    except (SignatureMismatch, EncodingError, KeyFormatError) as exc:
        raise KeyRefused(
            f"worker {worker.worker_id} does not vouch for the encryption key: {exc.message}"
        ) from exc
    return grant


def _raw(details: WorkerDetails | bytes) -> msgspec.Raw:
    raw = details if isinstance(details, bytes) else msgspec.json.encode(details)
    try:
        check_details(raw)
    except ValueError as exc:
        raise BadRequest(str(exc)) from exc
    return msgspec.Raw(raw)
