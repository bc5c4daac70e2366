"""EncryptionKeyGet and EncryptionKeySet: keys that workers vouch for themselves.

The key of a worker that is hosted here is signed in its enclave, at each request, under the tag of the request. A
worker that runs elsewhere pushes its keys, signed; they are kept and given out with its signature. A key for one
requester alone exists in the second case only: our own enclaves have one RSA key each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from avalon_core.crypto.registry import check_details, key_digest, key_request_digest
from avalon_core.crypto.sealing import load_rsa_public_key
from avalon_core.crypto.signing import load_verification_key
from avalon_core.errors import AvalonError, KeyFormatError
from avalon_core.protocol.encodings import decode_base64
from avalon_core.protocol.errors import EncryptionKeyCode, EncryptionKeyError, GeneralError, WorkerStatus
from avalon_core.protocol.registry import EncryptionKeyGetParams, EncryptionKeyGrant, EncryptionKeySetParams
from avalon_service.orders.errors import UnknownWorker
from avalon_service.orders.ports import WorkerDirectory, WorkerEntry
from avalon_service.registry.requesters import RequesterKeys
from avalon_service.registry.workers import (
    WorkerRegistry,
    check_signature,
    registration_of,
    with_registration,
)

MAX_TAGS = 64
"""Keys that one worker may have here at a time; they are part of its entry, which is kept in memory."""

_Code = EncryptionKeyCode


class NotServing(Exception):
    """No enclave of the worker serves at the moment."""


class Voucher(Protocol):
    """The host of a worker, as seen from here."""

    async def vouch(self, tag: str) -> EncryptionKeyGrant:
        """The worker's present key, signed in its enclave.

        Raises:
            NotServing
        """
        ...


class EncryptionKeys:
    """The two methods."""

    def __init__(
        self,
        *,
        workers: WorkerDirectory,
        registry: WorkerRegistry,
        requesters: RequesterKeys,
        host_of: Callable[[str], Voucher | None],
    ) -> None:
        """``host_of``: the host of a worker, where this service has it."""
        self._workers = workers
        self._registry = registry
        self._requesters = requesters
        self._host_of = host_of

    async def get(self, params: EncryptionKeyGetParams) -> EncryptionKeyGrant:
        """A key of the worker, vouched for by it.

        Raises:
            EncryptionKeyError
        """
        entry = await self._retrieve(params.worker_id)
        self._check_requester(params)
        if entry.status in (WorkerStatus.DECOMMISSIONED, WorkerStatus.COMPROMISED):
            name = WorkerStatus(entry.status).name.lower()
            raise EncryptionKeyError(
                _Code.FAILED, f"the worker is {name}: seal nothing to it; choose another"
            )
        grant = await self._grant(entry, params.tag or params.requester_id)
        last = params.last_used_key_nonce
        if last and last.lower() == grant.encryption_key_nonce.lower():
            raise EncryptionKeyError(
                _Code.NOT_READY, "there is no newer key than the one of lastUsedKeyNonce: go on with that one"
            )
        return grant

    async def _grant(self, entry: WorkerEntry, tag: str) -> EncryptionKeyGrant:
        host = self._host_of(entry.worker_id)
        if host is not None:
            try:
                return await host.vouch(tag)
            except NotServing:
                raise EncryptionKeyError(
                    _Code.NOT_READY, "the worker's enclave does not serve at the moment; ask again"
                ) from None
        keys = registration_of(entry.details).keys
        grant = keys.get(tag) or keys.get("")
        if grant is None:
            raise EncryptionKeyError(
                _Code.NOT_READY,
                "the worker has not pushed a key for this tag, or for all, yet (EncryptionKeySet); "
                "its record has the one with which it registered",
            )
        return grant

    async def set(self, params: EncryptionKeySetParams) -> None:
        """Keep a key that a worker elsewhere pushed.

        Raises:
            EncryptionKeyError
        """
        try:
            load_rsa_public_key(params.encryption_key)
        except KeyFormatError as exc:
            raise EncryptionKeyError(_Code.INVALID_PARAMETER, f"encryptionKey: {exc.message}") from None
        async with self._registry.writing:
            entry = await self._retrieve(params.worker_id)
            if self._host_of(entry.worker_id) is not None:
                raise _denied("workerId: this service hosts the worker itself; its enclave tells its key")
            if entry.status in (WorkerStatus.DECOMMISSIONED, WorkerStatus.COMPROMISED):
                raise _denied(f"the worker is {WorkerStatus(entry.status).name.lower()}")
            keys = self._checked(params, entry)
            registration = msgspec.structs.replace(
                registration_of(entry.details), signature_nonce=params.signature_nonce, keys=keys
            )
            details = with_registration(entry.details, registration)
            try:
                await self._registry.store(msgspec.structs.replace(entry, details=details))
            except GeneralError as exc:
                raise EncryptionKeyError(_Code.FAILED, exc.message) from None

    def _checked(self, params: EncryptionKeySetParams, entry: WorkerEntry) -> dict[str, EncryptionKeyGrant]:
        """The worker's keys with the new one among them."""
        remembered = registration_of(entry.details)
        try:
            type_data = check_details(entry.details).worker_type_data
            check_signature(
                params.signature,
                params.signature_nonce,
                key_digest(
                    worker_id=params.worker_id,
                    encryption_key=params.encryption_key,
                    encryption_key_nonce=params.encryption_key_nonce,
                    tag=params.tag,
                    signature_nonce=params.signature_nonce,
                ),
                type_data.verification_key,
                remembered.signature_nonce,
            )
        except ValueError as exc:
            raise _denied(str(exc)) from None
        used = {key.encryption_key_nonce.lower() for key in remembered.keys.values()}
        if params.encryption_key_nonce.lower() in {*used, (type_data.encryption_key_nonce or "").lower()}:
            raise EncryptionKeyError(
                _Code.INVALID_PARAMETER,
                "encryptionKeyNonce: names another key already; a new key needs a new one",
            )
        grant = EncryptionKeyGrant(
            worker_id=params.worker_id,
            encryption_key=params.encryption_key,
            encryption_key_nonce=params.encryption_key_nonce,
            tag=params.tag,
            signature=params.signature,
            signature_nonce=params.signature_nonce,
        )
        keys = {**remembered.keys, params.tag: grant}
        if len(keys) > MAX_TAGS:
            raise EncryptionKeyError(
                _Code.FAILED, f"tag: the worker has keys for {MAX_TAGS} tags, and no more are kept"
            )
        return keys

    def _check_requester(self, params: EncryptionKeyGetParams) -> None:
        """A signature must verify under the registered key. None is needed: what is given out is public."""
        if not params.signature:
            return
        key = self._requesters.key_of(params.requester_id)
        if key is None:
            raise _denied(
                "signature: no key is registered for this requester, so it cannot be checked; "
                "leave it out, or have the operator register the key (RequesterKeySet)"
            )
        try:
            signature = decode_base64(params.signature, what="signature")
            load_verification_key(key).verify(key_request_digest(params), signature)
        except AvalonError as exc:
            raise _denied(
                f"signature does not verify under the key registered for the requester: {exc.message}"
            ) from None

    async def _retrieve(self, worker_id: str) -> WorkerEntry:
        try:
            return await self._workers.retrieve(worker_id)
        except UnknownWorker:
            message = "workerId: no such worker is registered here; look workers up first"
            raise EncryptionKeyError(_Code.INVALID_PARAMETER, message) from None


def _denied(message: str) -> EncryptionKeyError:
    return EncryptionKeyError(_Code.ACCESS_DENIED, message)
