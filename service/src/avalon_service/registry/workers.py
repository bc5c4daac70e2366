"""Writes to the worker directory from the wire: who may make them, and what they leave behind.

A write is allowed, in this order:

1. The operator may do everything but write the record of a worker that this service hosts: that is its enclave's.
2. Otherwise a signature must be there (code 3), and verify under the worker's verification key: the one that is
   registered, or for WorkerRegister the one in the new details (code 4).
3. Its nonce must be a larger number than that of every signed write of this worker before (code 4).
4. A worker that is decommissioned or compromised is the operator's alone: its key may be in other hands (code 3).

What the service itself must remember of a worker stands in its details as the member ``registration``, which only
the service writes: the last nonce, and the encryption keys that the worker pushed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from avalon_core.crypto.registry import check_details, write_digest
from avalon_core.crypto.signing import load_verification_key
from avalon_core.errors import AvalonError
from avalon_core.protocol.encodings import decode_base64
from avalon_core.protocol.errors import GeneralCode, GeneralError, WorkerStatus
from avalon_core.protocol.registry import (
    EncryptionKeyGrant,
    SignedWrite,
    WorkerRegisterParams,
    WorkerSetStatusParams,
    WorkerUpdateParams,
)
from avalon_service.orders.errors import StoreUnavailable, UnknownWorker
from avalon_service.orders.ports import WorkerDirectory, WorkerEntry

NO_AUTHORITY = (
    "this needs authority: send the operator's token in the HTTP header 'Authorization: Bearer ...' (it is in the file "
    "operator-token of the service's data directory), or sign with the worker's own key (signatureNonce, signature)"
)
WRONG_TOKEN = "the token in the Authorization header is not that of this service's operator"  # noqa: S105 no secret
_OPERATORS_ALONE = frozenset({WorkerStatus.DECOMMISSIONED, WorkerStatus.COMPROMISED})


class Registration(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the service remembers of a worker that registered over the wire."""

    signature_nonce: str = ""
    """Of the last signed write; hex."""

    keys: dict[str, EncryptionKeyGrant] = {}
    """The encryption keys that the worker pushed, by tag."""


class _Details(msgspec.Struct, frozen=True):
    registration: Registration = Registration()


_remembered = msgspec.json.Decoder(_Details)


class WorkerRegistry:
    """The directory's writers from outside, one at a time."""

    def __init__(
        self,
        workers: WorkerDirectory,
        *,
        is_hosted: Callable[[str], bool],
        self_registration: bool,
        max_workers: int,
    ) -> None:
        """See the settings; ``is_hosted``: an enclave of this service is this worker."""
        self._workers = workers
        self._is_hosted = is_hosted
        self._self_registration = self_registration
        self._max_workers = max_workers
        self.writing = asyncio.Lock()
        """Held from reading an entry to writing it."""

    async def register(self, params: WorkerRegisterParams, *, by_operator: bool) -> None:
        """Add a worker.

        Raises:
            GeneralError: refused, or not stored.
        """
        key = self._verification_key_in(params.details)
        if not by_operator and params.signature is not None and not self._self_registration:
            raise _denied(
                "new workers are registered by the operator here (setting self_registration): send the operator's "
                "token in the HTTP header 'Authorization: Bearer ...'"
            )
        nonce = _authorise(params, write_digest(params), key, Registration(), by_operator=by_operator)
        async with self.writing:
            await self._refuse_taken(params.worker_id)
            entry = WorkerEntry(
                worker_id=params.worker_id,
                worker_type=params.worker_type,
                organization_id=params.organization_id,
                application_type_ids=params.application_type_ids,
                details=with_registration(params.details, Registration(signature_nonce=nonce)),
            )
            await self.store(entry)

    async def update(self, params: WorkerUpdateParams, *, by_operator: bool) -> None:
        """Replace a worker's details.

        Raises:
            GeneralError: refused, or not stored.
        """
        new_key = self._verification_key_in(params.details)
        async with self.writing:
            entry = await self._retrieve(params.worker_id)
            if self._is_hosted(entry.worker_id):
                raise _hosted()
            remembered, key = registration_of(entry.details), _verification_key_of(entry)
            nonce = self._authorise_for(entry, params, write_digest(params), by_operator=by_operator)
            keys = remembered.keys if new_key == key else {}
            registration = Registration(signature_nonce=nonce, keys=keys)
            details = with_registration(params.details, registration)
            await self.store(msgspec.structs.replace(entry, details=details))

    async def set_status(self, params: WorkerSetStatusParams, *, by_operator: bool) -> None:
        """Change a worker's status. Of a worker that is hosted here only the operator can: its enclave signs no such thing.

        Raises:
            GeneralError: refused, or not stored.
        """
        async with self.writing:
            entry = await self._retrieve(params.worker_id)
            nonce = self._authorise_for(entry, params, write_digest(params), by_operator=by_operator)
            if by_operator:
                # The host may replace the details at any moment: touch nothing but the status.
                await self._stored(self._workers.set_status(entry.worker_id, params.status))
                return
            remembered = registration_of(entry.details)
            registration = msgspec.structs.replace(remembered, signature_nonce=nonce)
            details = with_registration(entry.details, registration)
            await self.store(msgspec.structs.replace(entry, details=details, status=params.status))

    async def store(self, entry: WorkerEntry) -> None:
        """Write an entry, with :attr:`writing` held.

        Raises:
            GeneralError: not stored.
        """
        await self._stored(self._workers.register(entry))

    async def _stored(self, write: Awaitable[None]) -> None:
        try:
            await write
        except StoreUnavailable as exc:
            raise GeneralError(GeneralCode.UNKNOWN_ERROR, f"not stored, send it again: {exc}") from None

    async def _retrieve(self, worker_id: str) -> WorkerEntry:
        try:
            return await self._workers.retrieve(worker_id)
        except UnknownWorker:
            message = "workerId: no such worker is registered here; WorkerRegister adds it"
            raise GeneralError(GeneralCode.INVALID_PARAMETER, message, {"workerId": worker_id}) from None

    async def _refuse_taken(self, worker_id: str) -> None:
        # Another spelling of a hosted worker's id could pass for it in the eyes of people.
        if self._is_hosted(worker_id) or self._is_hosted(worker_id.removeprefix("0x").lower()):
            raise _hosted()
        try:
            await self._workers.retrieve(worker_id)
        except UnknownWorker:
            page = await self._workers.look_up(limit=1)
        else:
            raise _invalid("workerId: already registered; WorkerUpdate changes its details")
        if page.total >= self._max_workers:
            raise GeneralError(
                GeneralCode.UNKNOWN_ERROR,
                f"the directory is full: it holds {page.total} workers (setting max_workers)",
            )

    def _verification_key_in(self, details: bytes) -> str:
        try:
            return check_details(details).worker_type_data.verification_key
        except ValueError as exc:
            raise _invalid(str(exc)) from None

    def _authorise_for(
        self, entry: WorkerEntry, write: SignedWrite, digest: bytes, *, by_operator: bool
    ) -> str:
        remembered = registration_of(entry.details)
        nonce = _authorise(write, digest, _verification_key_of(entry), remembered, by_operator=by_operator)
        if not by_operator and entry.status in _OPERATORS_ALONE:
            raise _denied(
                f"the worker is {WorkerStatus(entry.status).name.lower()}: only the operator changes it now"
            )
        return nonce


def registration_of(details: bytes) -> Registration:
    """What the service remembers in a worker's details."""
    try:
        return _remembered.decode(details).registration
    except msgspec.DecodeError:
        # Not one of ours: written before there was such a thing.
        return Registration()


def with_registration(details: bytes, registration: Registration) -> bytes:
    """The details with what the service remembers; every other member stays as it is, to the byte."""
    members = msgspec.json.decode(details, type=dict[str, msgspec.Raw])
    members.pop("registration", None)
    if registration != Registration():
        members["registration"] = msgspec.Raw(msgspec.json.encode(registration))
    return msgspec.json.encode(members)


def check_signature(signature: str, nonce: str, digest: bytes, key: str, last_nonce: str) -> None:
    """Steps 2 and 3: the signature verifies, and is not an old one.

    Raises:
        ValueError: says which, and what was expected.
    """
    try:
        load_verification_key(key).verify(digest, decode_base64(signature, what="signature"))
    except AvalonError as exc:
        raise ValueError(
            f"signature does not verify under the worker's verification key: {exc.message}"
        ) from None
    if last_nonce and int(nonce, 16) <= int(last_nonce, 16):
        raise ValueError(
            f"signatureNonce: got {nonce}, expected a larger number than that of the last signed write, {last_nonce}"
        )


def _authorise(
    write: SignedWrite, digest: bytes, key: str, remembered: Registration, *, by_operator: bool
) -> str:
    """Returns: the nonce to remember."""
    if by_operator:
        return remembered.signature_nonce
    if write.signature is None or write.signature_nonce is None:
        raise _denied(NO_AUTHORITY)
    try:
        check_signature(write.signature, write.signature_nonce, digest, key, remembered.signature_nonce)
    except ValueError as exc:
        raise GeneralError(GeneralCode.INVALID_SIGNATURE, str(exc)) from None
    return write.signature_nonce


def _verification_key_of(entry: WorkerEntry) -> str:
    try:
        return check_details(entry.details).worker_type_data.verification_key
    except ValueError:
        return ""


def _denied(message: str) -> GeneralError:
    return GeneralError(GeneralCode.ACCESS_DENIED, message)


def _hosted() -> GeneralError:
    return _denied(
        "workerId: this service hosts the worker itself, and its record comes from its enclave; "
        "only its status can be set (WorkerSetStatus, by the operator)"
    )


def _invalid(message: str) -> GeneralError:
    return GeneralError(GeneralCode.INVALID_PARAMETER, message)
