"""What a dialect is: the interface that :mod:`avalon_core.crypto.orders` drives, and the keys that pass through it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from avalon_core.crypto.sealing import HpkePrivateKey, HpkePublicKey, RsaPrivateKey, RsaPublicKey
from avalon_core.protocol.encodings import decode_hex
from avalon_core.protocol.orders import InDataItem, OutDataItem, WorkOrderRequest, WorkOrderResult

SECRET_BYTES = 32
"""Session keys, order secrets and items' own keys alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerKeys:
    """The private keys that open orders. They exist inside an enclave only."""

    rsa: RsaPrivateKey = field(repr=False)
    hpke: HpkePrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPublicKeys:
    """What a requester seals to, from a worker record that was appraised."""

    rsa: RsaPublicKey
    hpke: HpkePublicKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderKeys:
    """Exactly the secrets that one order needs: what a key management enclave would hand out for it."""

    session: bytes = field(repr=False)
    """The session key; in our suite the pseudo-random key from the order's secret and header. 32 bytes."""

    own: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Items' own keys, by the wrapped form that the item carries. 32 bytes each."""


class Dialect(Protocol):
    """One way of hashing an order and laying out its messages. Stateless; keys and randomness are arguments."""

    @property
    def name(self) -> str:
        """``avalon``, ``eea-1.1`` or ``~avalon-hpke-1``."""

    def request_hash(self, request: WorkOrderRequest) -> bytes:
        """H: 32 bytes that commit to the request.

        Raises:
            EncodingError: a member cannot be decoded as this dialect hashes it.
        """

    def open_request_hash(self, request: WorkOrderRequest, keys: OrderKeys) -> bytes:
        """The H that the requester sealed.

        Raises:
            DecryptionFailed: not sealed under this key in this dialect.
        """

    def open_input(self, request: WorkOrderRequest, item: InDataItem, keys: OrderKeys) -> bytes:
        """The plaintext of one encrypted input.

        Raises:
            DecryptionFailed, EncodingError
        """

    def seal_output(
        self,
        request: WorkOrderRequest,
        keys: OrderKeys,
        *,
        index: int,
        plaintext: bytes,
        template: OutDataItem | None,
        request_hash: bytes,
        worker_nonce: bytes,
    ) -> OutDataItem:
        """One output, encrypted as the request's template says, or to the requester."""

    def open_output(
        self,
        request: WorkOrderRequest,
        keys: OrderKeys,
        item: OutDataItem,
        *,
        request_hash: bytes,
        worker_nonce: bytes,
    ) -> bytes:
        """The plaintext of one output, for whoever holds the keys.

        Raises:
            DecryptionFailed, EncodingError
        """

    def result_items_digest(self, result: WorkOrderResult) -> bytes:
        """What R says of the outputs: 32 bytes.

        Raises:
            EncodingError
        """

    def result_hash_of(
        self,
        request: WorkOrderRequest,
        *,
        worker_nonce: str,
        items_digest: bytes,
        request_hash: bytes,
        ext_verification_key: str | None,
    ) -> bytes:
        """R, from the parts of a result: whoever signs for another enclave makes it itself.

        Args:
            request: its ids and requester's nonce are what counts.
            worker_nonce: base64.
            items_digest: of :meth:`result_items_digest`.
            request_hash: H.
            ext_verification_key: PEM of a pool's one-time key, where one signs.

        Raises:
            EncodingError
        """

    def result_hash(self, request: WorkOrderRequest, result: WorkOrderResult, request_hash: bytes) -> bytes:
        """R: 32 bytes that the worker signs.

        Raises:
            EncodingError
        """


def wrapped_own_keys(request: WorkOrderRequest) -> Sequence[str]:
    """The distinct wrapped own keys of an order's items and templates, in the order of their appearance."""
    items = (*request.in_data, *request.out_data)
    found = (item.encrypted_data_encryption_key for item in items if item.has_own_key)
    return list(dict.fromkeys(wrapped for wrapped in found if wrapped is not None))


def key_of(item: InDataItem, keys: OrderKeys) -> bytes:
    """The key that an encrypted item names."""
    wrapped = item.encrypted_data_encryption_key
    return keys.own[wrapped] if item.has_own_key and wrapped is not None else keys.session


def sorted_by_index(items: Sequence[InDataItem]) -> Sequence[InDataItem]:
    """Items are hashed in the order of their indices, whatever their order in the list."""
    return items if len(items) < 2 else sorted(items, key=lambda item: item.index)


def iv_of(item_iv: str | None, fallback: str | None) -> bytes | None:
    """The explicit iv that applies to an item: its own, else the session's, else None."""
    text = item_iv or fallback
    return decode_hex(text, what="iv") if text else None
