"""Seal an order, open it, seal its result, open the result: the whole life of a message between requester and enclave.

Opening an order, in the enclave, is these steps in this order; each failure is a typed :class:`WorkOrderError`:

1. *Form.* What the suite refuses is refused before any key is used (code 2).
2. *Unlock.* The worker's private key opens the session key and the items' own keys (code 1).
3. *Dialect and integrity.* The encrypted request hash opens under one dialect; the hash computed from the request
   must equal it (code 1). Nothing in a request names its dialect: the AEAD tag decides.
4. *Requester.* A signature, where there is one, must verify: under the key registered for the requester if one is,
   else under verifyingKey, which then proves possession only (code 4). Where a key is registered there must be one.
5. *Inputs.* Every encrypted item opens, and matches its dataHash where it has one (code 1).

What the caller still must do: decide whether a legacy order (:func:`nonce_reuse`) is wanted, guard against
replay, and run the workload.
"""

import hashlib
import hmac
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import msgspec

from avalon_core.crypto.dialects import (
    AVALON,
    EEA,
    HPKE,
    SESSION_DIALECTS,
    Dialect,
    OrderKeys,
    WorkerKeys,
    WorkerPublicKeys,
)
from avalon_core.crypto.dialects.base import SECRET_BYTES, wrapped_own_keys
from avalon_core.crypto.dialects.hpke import form_fault, header_digest, order_prk, owned_fault, unlock_hpke
from avalon_core.crypto.dialects.session import SessionDialect, nonce_reuse, unlock_session
from avalon_core.crypto.signing import SigningKey, VerificationKey, digest_of_text, load_verification_key
from avalon_core.errors import AvalonError, DecryptionFailed, EncodingError, KeyFormatError, SignatureMismatch
from avalon_core.protocol.encodings import decode_base64, decode_canonical_base64, decode_hex, encode_base64
from avalon_core.protocol.errors import WorkOrderCode, WorkOrderError, failed_order, invalid_order
from avalon_core.protocol.ids import Base64Str, HexStr, RequesterId, WorkerId, WorkloadId, WorkOrderId
from avalon_core.protocol.limits import MAX_ITEM_INDEX, MAX_ITEMS, MAX_OWN_KEYS
from avalon_core.protocol.orders import (
    CLEAR_TEXT_KEY,
    DATA_ENCRYPTION_ALGORITHM,
    FORMAT_HPKE,
    FORMAT_JSON_RPC,
    InDataItem,
    OutDataItem,
    WorkOrderRequest,
    WorkOrderResult,
)

__all__ = [
    "Item",
    "OpenedOrder",
    "OrderDraft",
    "PoolVoucher",
    "ResultRefused",
    "ResultSigner",
    "SealedOrder",
    "nonce_reuse",
    "open_order",
    "open_result",
    "seal_order",
    "seal_result",
    "unlock",
]

WORKER_NONCE_BYTES = 32

_ItemT = TypeVar("_ItemT", bound=InDataItem)


class ResultRefused(AvalonError):
    """The result is not acceptable: it is not this order's, not this worker's, or was changed on the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A plaintext item. Its repr shows no data."""

    index: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedOrder:
    """An order that opened and is what its sender sealed. Holds plaintext: it exists in enclaves only."""

    request: WorkOrderRequest = field(repr=False)
    dialect: Dialect
    keys: OrderKeys = field(repr=False)
    request_hash: bytes
    inputs: Sequence[Item]
    """Sorted by index."""


def unlock(request: WorkOrderRequest, keys: WorkerKeys) -> OrderKeys:
    """Steps 1 and 2: the secrets that this one order needs. In a pool this is the key management enclave's part.

    Raises:
        WorkOrderError: code 2 for form, code 1 where the keys do not open.
    """
    own = len(wrapped_own_keys(request))
    if own > MAX_OWN_KEYS:
        raise invalid_order(
            f"items have {own} keys of their own: expected at most {MAX_OWN_KEYS} in one order"
        )
    if request.is_hpke:
        fault = form_fault(request)
        if fault is not None:
            raise invalid_order(fault)
        named = request.worker_encryption_key
        if named and named != keys.hpke.public_key.key_id:
            raise invalid_order(
                "workerEncryptionKey: the order was sealed to a key that this worker does not have (any more); "
                "retrieve the worker's record again and seal anew"
            )
    try:
        opened = unlock_hpke(request, keys) if request.is_hpke else unlock_session(request, keys)
    except (DecryptionFailed, EncodingError) as exc:
        raise failed_order(f"the order's keys do not open: {exc.message}") from None
    if request.is_hpke and (fault := owned_fault(request, opened)) is not None:
        raise invalid_order(fault)
    return opened


def open_order(
    request: WorkOrderRequest, keys: OrderKeys, *, registered_key: VerificationKey | None = None
) -> OpenedOrder:
    """Steps 3 to 5.

    Args:
        request: as received.
        keys: from :func:`unlock`.
        registered_key: the verification key that is registered for the requester, if one is.

    Raises:
        WorkOrderError: codes 1, 2 and 4, as the module says.
    """
    dialect, request_hash = _find_dialect(request, keys)
    _check_requester(request, request_hash, registered_key)
    inputs = [
        Item(index=item.index, data=_open_input(dialect, request, item, keys))
        for item in sorted(request.in_data, key=lambda item: item.index)
    ]
    return OpenedOrder(request=request, dialect=dialect, keys=keys, request_hash=request_hash, inputs=inputs)


def _find_dialect(request: WorkOrderRequest, keys: OrderKeys) -> tuple[Dialect, bytes]:
    candidates: Sequence[Dialect] = (HPKE,) if request.is_hpke else SESSION_DIALECTS
    for dialect in candidates:
        try:
            sealed_hash = dialect.open_request_hash(request, keys)
        except (DecryptionFailed, EncodingError):
            continue
        if dialect is EEA and not request.session_key_iv:
            raise invalid_order(
                "sessionKeyIv: required in this dialect (without it the iv would be zeros for every message)"
            )
        if dialect is EEA and any(template.is_clear for template in request.out_data):
            # This dialect hashes nothing of the marks "" and "-": anyone on the wire could have put one for the other.
            raise invalid_order(
                'outData: the mark "-" is not protected in this dialect; leave outputs encrypted'
            )
        try:
            request_hash = dialect.request_hash(request)
        except EncodingError as exc:
            raise invalid_order(exc.message) from None
        if not hmac.compare_digest(request_hash, sealed_hash):
            raise failed_order("the request hash does not match the request: it was changed on the way")
        return dialect, request_hash
    raise failed_order("the request hash does not open in any dialect: wrong key, or changed on the way")


def _check_requester(
    request: WorkOrderRequest, request_hash: bytes, registered: VerificationKey | None
) -> None:
    if not request.requester_signature:
        if registered is None:
            return
        raise WorkOrderError(
            WorkOrderCode.INVALID_SIGNATURE,
            "requesterSignature: a key is registered for this requester, so every order of it must be signed",
        )
    try:
        key = registered or load_verification_key(request.verifying_key or "")
        decode = decode_canonical_base64 if request.is_hpke else decode_base64
        signature = decode(request.requester_signature, what="requesterSignature")
        key.verify(request_hash, signature, strict=request.is_hpke)
    except (KeyFormatError, SignatureMismatch, EncodingError) as exc:
        raise WorkOrderError(
            WorkOrderCode.INVALID_SIGNATURE, f"requesterSignature does not verify: {exc.message}"
        ) from None


def _open_input(dialect: Dialect, request: WorkOrderRequest, item: InDataItem, keys: OrderKeys) -> bytes:
    try:
        if item.is_clear:
            decode = decode_canonical_base64 if request.is_hpke else decode_base64
            data = decode(item.data, what=f"inData item {item.index}: data")
        else:
            data = dialect.open_input(request, item, keys)
    except EncodingError as exc:
        raise invalid_order(exc.message) from None
    except DecryptionFailed:
        raise failed_order(
            f"inData item {item.index} does not open: wrong key or iv, or changed on the way"
        ) from None
    if item.data_hash and not hmac.compare_digest(hashlib.sha256(data).hexdigest(), item.data_hash.lower()):
        raise failed_order(f"inData item {item.index}: dataHash does not match the data")
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolVoucher:
    """A one-time key that a pool's signing key vouches for."""

    verification_key_pem: str
    signature: bytes
    """DER, over SHA-256(UTF-8 of the PEM followed by the requester's nonce)."""


class ResultSigner(Protocol):
    """Who signs results with a key that is not here: from their parts, so that nothing else can be had signed."""

    def sign_result(
        self, dialect: Dialect, *, worker_nonce: str, items_digest: bytes, request_hash: bytes
    ) -> bytes:
        """DER over R (:meth:`avalon_core.crypto.dialects.Dialect.result_hash_of`) of a result without a one-time key."""


def seal_result(
    opened: OpenedOrder,
    outputs: Sequence[Item],
    signer: SigningKey | ResultSigner,
    *,
    voucher: PoolVoucher | None = None,
    worker_nonce: bytes | None = None,
) -> WorkOrderResult:
    """Encrypt the outputs for the requester and sign the result, in the dialect of the order.

    ``worker_nonce``: 32 bytes, for vectors; otherwise fresh.

    Raises:
        WorkOrderError: code 1; the outputs cannot be sealed without a key and nonce being used twice, or cannot be
            told apart by the requester: indices repeat or are out of range, there are too many, or one has no
            template in an order that is safe only with templates for all.
    """
    request = opened.request
    _check_outputs(request, outputs)
    nonce = worker_nonce if worker_nonce is not None else os.urandom(WORKER_NONCE_BYTES)
    templates: Mapping[int, OutDataItem] = {template.index: template for template in request.out_data}
    sealed = tuple(
        opened.dialect.seal_output(
            request,
            opened.keys,
            index=output.index,
            plaintext=output.data,
            template=templates.get(output.index),
            request_hash=opened.request_hash,
            worker_nonce=nonce,
        )
        for output in sorted(outputs, key=lambda output: output.index)
    )
    unsigned = WorkOrderResult(
        work_order_id=request.work_order_id,
        workload_id=request.workload_id,
        worker_id=request.worker_id,
        requester_id=request.requester_id,
        worker_nonce=Base64Str(encode_base64(nonce)),
        worker_signature=Base64Str(""),
        out_data=sealed,
        ext_verification_key=voucher.verification_key_pem if voucher else None,
        ext_verification_key_signature=Base64Str(encode_base64(voucher.signature)) if voucher else None,
    )
    if isinstance(signer, SigningKey):
        signature = signer.sign(opened.dialect.result_hash(request, unsigned, opened.request_hash))
    else:
        signature = signer.sign_result(
            opened.dialect,
            worker_nonce=unsigned.worker_nonce,
            items_digest=opened.dialect.result_items_digest(unsigned),
            request_hash=opened.request_hash,
        )
    return msgspec.structs.replace(unsigned, worker_signature=Base64Str(encode_base64(signature)))


def _check_outputs(request: WorkOrderRequest, outputs: Sequence[Item]) -> None:
    indices = {output.index for output in outputs}
    if len(indices) != len(outputs):
        raise failed_order("the workload made two outputs of one index")
    if len(outputs) > MAX_ITEMS or any(not 0 <= index <= MAX_ITEM_INDEX for index in indices):
        raise failed_order(
            f"the workload's outputs are not {MAX_ITEMS} at most, with indices from 0 to {MAX_ITEM_INDEX}"
        )
    if request.is_hpke or not request.session_key_iv or nonce_reuse(request) is not None:
        return
    untemplated = indices - {template.index for template in request.out_data}
    if untemplated:
        raise failed_order(
            f"the workload made output {min(untemplated)}, for which the order has no template: it would travel "
            "under the key and iv of the request hash"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderDraft:
    """An order before it is sealed. ``inputs`` have distinct indices."""

    work_order_id: WorkOrderId
    worker_id: WorkerId
    workload_id: WorkloadId
    requester_id: RequesterId
    requester_nonce: HexStr
    inputs: Sequence[Item]
    owned_inputs: Sequence[InDataItem] = ()
    """Items that their owners encrypted under keys of their own (see ``seal_owned_input``). Their data is passed on
    as it is; around encryptedDataEncryptionKey, which the owner sealed to the worker, comes a layer of the order's."""

    clear: frozenset[int] = frozenset()
    """Indices of inputs that are to travel in clear text."""

    out_data: Sequence[OutDataItem] = ()
    """Templates. A key of a third party's is given as that party sealed it to the worker (see ``seal_owner_key``)."""

    response_timeout_msecs: int = 0
    result_uri: str | None = None
    notify_uri: str | None = None
    signer: SigningKey | None = field(default=None, repr=False)
    """The requester's key, where the order is to be signed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedOrder:
    """A sealed order with what its sender keeps to open the result. The keys stay with the requester."""

    request: WorkOrderRequest
    dialect: Dialect
    keys: OrderKeys = field(repr=False)
    request_hash: bytes


def seal_order(
    draft: OrderDraft,
    worker: WorkerPublicKeys,
    *,
    suite: str = FORMAT_HPKE,
    shared_iv: bool = False,
    random: Callable[[int], bytes] = os.urandom,
) -> SealedOrder:
    """Seal an order to a worker.

    Args:
        draft: what to seal.
        worker: keys from a record that was appraised.
        suite: ``~avalon-hpke-1``, ``avalon`` or ``eea-1.1``.
        shared_iv: in ``avalon``, imitate the original's clients: one sessionKeyIv for every message, which makes
            the order legacy (insecure; for compatibility tests). ``eea-1.1`` knows no other way.
        random: source of the secret and ivs, for vectors.

    Raises:
        KeyFormatError: the worker has no key for this suite.
        EncodingError: an owner's key is not hex.
        ValueError: no such suite.
    """
    if suite == FORMAT_HPKE:
        return _seal_hpke(draft, worker, random)
    for dialect in SESSION_DIALECTS:
        if dialect.name == suite:
            return _seal_session(draft, worker, dialect, random, shared_iv=shared_iv or dialect is EEA)
    raise ValueError(
        f"no such suite: got {suite!r}, expected {FORMAT_HPKE!r}, {AVALON.name!r} or {EEA.name!r}"
    )


def _seal_hpke(draft: OrderDraft, worker: WorkerPublicKeys, random: Callable[[int], bytes]) -> SealedOrder:
    if worker.hpke is None:
        raise KeyFormatError(
            f"the worker offers no key for {FORMAT_HPKE}: seal in another suite, or choose another worker"
        )
    header = _header(draft, payload_format=FORMAT_HPKE, worker_encryption_key=worker.hpke.key_id)
    digest = header_digest(header)
    secret = random(SECRET_BYTES)
    keys = OrderKeys(session=order_prk(secret, digest))
    items = [
        _clear_item(item) if item.index in draft.clear else _hpke_item(keys, item) for item in draft.inputs
    ]
    request = msgspec.structs.replace(
        header,
        in_data=(
            *items,
            *(_own_key_sealed(item, partial(HPKE.seal_own_key, keys)) for item in draft.owned_inputs),
        ),
        out_data=tuple(_own_key_sealed(item, partial(HPKE.seal_own_key, keys)) for item in draft.out_data),
        encrypted_session_key=HexStr(worker.hpke.seal(secret, digest).hex()),
    )
    request_hash = HPKE.request_hash(request)
    sealed_hash = HexStr(HPKE.seal_request_hash(keys, request_hash).hex())
    return _finish(
        draft, msgspec.structs.replace(request, encrypted_request_hash=sealed_hash), HPKE, keys, request_hash
    )


def _hpke_item(keys: OrderKeys, item: Item) -> InDataItem:
    return InDataItem(
        index=item.index, data=Base64Str(encode_base64(HPKE.seal_input(keys, item.index, item.data)))
    )


def _own_key_sealed(item: _ItemT, seal: Callable[[InDataItem], HexStr]) -> _ItemT:
    if not item.has_own_key:
        return item
    return msgspec.structs.replace(item, encrypted_data_encryption_key=seal(item))


def _clear_item(item: Item) -> InDataItem:
    return InDataItem(
        index=item.index,
        data=Base64Str(encode_base64(item.data)),
        encrypted_data_encryption_key=CLEAR_TEXT_KEY,
    )


def _seal_session(
    draft: OrderDraft,
    worker: WorkerPublicKeys,
    dialect: SessionDialect,
    random: Callable[[int], bytes],
    *,
    shared_iv: bool,
) -> SealedOrder:
    keys = OrderKeys(session=random(SECRET_BYTES))
    iv = random(12) if shared_iv else None

    def encrypted(item: Item) -> InDataItem:
        message = dialect.seal_message(keys.session, iv, item.data)
        return InDataItem(index=item.index, data=Base64Str(encode_base64(message)))

    def own_key(item: InDataItem) -> HexStr:
        wrapped = decode_hex(item.encrypted_data_encryption_key or "", what="encryptedDataEncryptionKey")
        return HexStr(dialect.seal_wrapped_key(keys.session, wrapped).hex())

    request = msgspec.structs.replace(
        _header(draft, payload_format=FORMAT_JSON_RPC, worker_encryption_key=worker.rsa.pem.encode().hex()),
        session_key_iv=HexStr(iv.hex().upper()) if iv else None,
        requester_signature=Base64Str(""),
        encrypted_session_key=HexStr(worker.rsa.seal(keys.session).hex().upper()),
        in_data=(
            *(_clear_item(item) if item.index in draft.clear else encrypted(item) for item in draft.inputs),
            *(_own_key_sealed(item, own_key) for item in draft.owned_inputs),
        ),
        out_data=tuple(_own_key_sealed(item, own_key) for item in draft.out_data),
    )
    request_hash = dialect.request_hash(request)
    sealed_hash = HexStr(dialect.seal_message(keys.session, iv, request_hash).hex().upper())
    return _finish(
        draft,
        msgspec.structs.replace(request, encrypted_request_hash=sealed_hash),
        dialect,
        keys,
        request_hash,
    )


def _header(draft: OrderDraft, *, payload_format: str, worker_encryption_key: str) -> WorkOrderRequest:
    return WorkOrderRequest(
        response_timeout_msecs=draft.response_timeout_msecs,
        payload_format=payload_format,
        work_order_id=draft.work_order_id,
        worker_id=draft.worker_id,
        workload_id=draft.workload_id,
        requester_id=draft.requester_id,
        requester_nonce=draft.requester_nonce,
        result_uri=draft.result_uri,
        notify_uri=draft.notify_uri,
        worker_encryption_key=HexStr(worker_encryption_key),
        data_encryption_algorithm=DATA_ENCRYPTION_ALGORITHM,
        verifying_key=draft.signer.verification_key.pem if draft.signer else None,
        out_data=tuple(draft.out_data),
        encrypted_session_key=HexStr("00"),
        encrypted_request_hash=HexStr("00"),
    )


def _finish(
    draft: OrderDraft, request: WorkOrderRequest, dialect: Dialect, keys: OrderKeys, request_hash: bytes
) -> SealedOrder:
    if draft.signer is not None:
        signature = Base64Str(encode_base64(draft.signer.sign(request_hash)))
        request = msgspec.structs.replace(request, requester_signature=signature)
    return SealedOrder(request=request, dialect=dialect, keys=keys, request_hash=request_hash)


def open_result(sealed: SealedOrder, result: WorkOrderResult, worker: VerificationKey) -> list[Item]:
    """Verify a result and decrypt it.

    1. The result names this order, worker, workload and requester.
    2. A pool's one-time key, where there is one, is vouched for by the worker's key for this very order.
    3. The signature over the result hash verifies.
    4. Every output travels as its template says, or encrypted to the requester where there is none. (``eea-1.1``
       does not sign how an output travels: unchecked, a ciphertext could be passed off as clear text.)
    5. Every output that is encrypted to the requester opens.

    Args:
        sealed: what :func:`seal_order` returned.
        result: as received.
        worker: the verification key of an appraised worker record.

    Returns:
        The outputs sorted by index. Outputs under a third party's key are left out.

    Raises:
        ResultRefused: a step failed; the message says which.
    """
    request = sealed.request
    for name in ("work_order_id", "worker_id", "workload_id", "requester_id"):
        if getattr(result, name) != getattr(request, name):
            raise ResultRefused(f"the result belongs to another order: its {name.replace('_', ' ')} differs")
    if len({item.index for item in result.out_data}) != len(result.out_data):
        raise ResultRefused("the result has two outputs of one index")
    try:
        signer = result_signer(request, result, worker)
        decode = decode_canonical_base64 if request.is_hpke else decode_base64
        signature = decode(result.worker_signature, what="workerSignature")
        worker_nonce = decode(result.worker_nonce, what="workerNonce")
        result_hash = sealed.dialect.result_hash(request, result, sealed.request_hash)
        signer.verify(result_hash, signature, strict=request.is_hpke)
    except (SignatureMismatch, EncodingError, KeyFormatError) as exc:
        raise ResultRefused(f"the worker's signature does not verify: {exc.message}") from None
    templates = {template.index: template for template in request.out_data}
    outputs = []
    for item in sorted(result.out_data, key=lambda item: item.index):
        if _protection(item) != _protection(templates.get(item.index)):
            raise ResultRefused(
                f"output {item.index} is not encrypted under the key that the order asked for"
            )
        if item.has_own_key and item.encrypted_data_encryption_key not in sealed.keys.own:
            continue
        try:
            data = sealed.dialect.open_output(
                request, sealed.keys, item, request_hash=sealed.request_hash, worker_nonce=worker_nonce
            )
        except (DecryptionFailed, EncodingError) as exc:
            raise ResultRefused(f"output {item.index} does not open: {exc.message}") from None
        outputs.append(Item(index=item.index, data=data))
    return outputs


def _protection(item: OutDataItem | None) -> str:
    """Under which key an output travels: ``-`` is none, empty is the session's, else the wrapped key."""
    if item is None or not (item.is_clear or item.has_own_key):
        return ""
    return (item.encrypted_data_encryption_key or "").lower()


def result_signer(
    request: WorkOrderRequest, result: WorkOrderResult, worker: VerificationKey
) -> VerificationKey:
    """The key that the result must be signed with: the worker's own, or the one-time key that it vouches for.

    Raises:
        SignatureMismatch: the worker does not vouch for the key, or not for this order.
        EncodingError, KeyFormatError: what is there is no signature, or no key.
    """
    pem = result.ext_verification_key
    if pem is None:
        if result.ext_verification_key_signature is not None:
            raise SignatureMismatch("extVerificationKeySignature without extVerificationKey")
        return worker
    decode = decode_canonical_base64 if request.is_hpke else decode_base64
    voucher = decode(result.ext_verification_key_signature or "", what="extVerificationKeySignature")
    worker.verify(voucher_digest(pem, request.requester_nonce), voucher, strict=request.is_hpke)
    return load_verification_key(pem)


def voucher_digest(pem: str, requester_nonce: str) -> bytes:
    """What a pool signs to vouch for a one-time key: SHA-256(UTF-8 of the PEM followed by the requester's nonce)."""
    return digest_of_text(pem + requester_nonce)
