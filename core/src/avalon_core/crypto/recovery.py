"""Recovery of a pool whose KMEs are all gone: shares for its owners, and how they come back to an enclave.

The pool's state is encrypted under a random key; the key is split so that any k of n shares give it back (SLIP-0039, a
maintained library's Shamir); each share is sealed to one owner's key. What the host keeps opens for nobody.

To recover, an owner has a fresh KME show evidence that its recovery key is its own (see :func:`recovery_report_data`), opens
the share and seals it to that key. The owner's private key and the share in the clear never leave the owner's machine.

    a share in words, sealed    HPKE MLKEM768-X25519, info = domain, pool id, digest of the encrypted state
    encrypted state             12 bytes nonce, AES-256-GCM(key, state)
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta
from shamir_mnemonic import MnemonicError, combine_mnemonics, generate_mnemonics

from avalon_core.crypto import aead
from avalon_core.crypto.sealing import HpkePrivateKey, load_hpke_public_key
from avalon_core.errors import DecryptionFailed, EncodingError, EvidenceError, KeyFormatError
from avalon_core.protocol.encodings import decode_base64, decode_hex, encode_base64, encode_fields

MAX_STATE_BYTES = 4 * 1024 * 1024
_AROUND_STATE = aead.NONCE_BYTES + aead.TAG_BYTES
MAX_SHARE_CHARS = 65536
_SHARE_INFO = b"avalon recovery share 1\0"
_RETURN_INFO = b"avalon recovery return 1\0"
_EVIDENCE = b"avalon recovery evidence 1\0"

_Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Hex = Annotated[str, Meta(pattern=r"^([0-9a-f]{2})*\Z", max_length=8192)]


class Share(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One owner's share, or what the owner gives back of it."""

    pool: _Digest
    state: _Digest
    """SHA-256 of the encrypted state: shares of another state do not combine with it."""

    threshold: Annotated[int, Meta(ge=1, le=16)]
    key: _Digest
    """Id of the key to which it is sealed: SHA-256 of the MLKEM768-X25519 public key."""

    sealed: _Hex


class Recovery(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """All that is needed to recover a pool, besides the owners' keys. Not secret."""

    pool: _Digest
    state: Annotated[str, Meta(max_length=2 * MAX_STATE_BYTES)]
    """Base64 of the encrypted state."""

    shares: Annotated[tuple[Share, ...], Meta(min_length=1, max_length=16)]


_share_decoder = msgspec.json.Decoder(Share)
_recovery_decoder = msgspec.json.Decoder(Recovery)


def split(state: bytes, *, pool: str, owners: Sequence[str], threshold: int) -> Recovery:
    """Encrypt a pool's state and split the key among owners.

    Args:
        state: secret bytes.
        pool: hex of the pool's id.
        owners: hex of their MLKEM768-X25519 public keys.
        threshold: how many of them restore the state.

    Raises:
        KeyFormatError: an owner's key is none.
        EvidenceError: the state is larger than what :func:`read_recovery` takes.
    """
    if len(state) > MAX_STATE_BYTES - _AROUND_STATE:
        raise EvidenceError(f"a state of {len(state)} bytes: expected less than {MAX_STATE_BYTES}")
    key, nonce = os.urandom(aead.KEY_BYTES), os.urandom(aead.NONCE_BYTES)
    encrypted = nonce + aead.seal(key, nonce, state)
    digest = hashlib.sha256(encrypted).hexdigest()
    if threshold == 1:
        # One share of many is the secret itself; the library has no such split.
        words = [generate_mnemonics(1, [(1, 1)], key, iteration_exponent=0)[0][0]] * len(owners)
    else:
        words = generate_mnemonics(1, [(threshold, len(owners))], key, iteration_exponent=0)[0]
    shares = []
    for owner, text in zip(owners, words, strict=True):
        public = load_hpke_public_key(owner)
        sealed = public.seal(text.encode(), _info(_SHARE_INFO, pool, digest))
        shares.append(
            Share(pool=pool, state=digest, threshold=threshold, key=public.key_id, sealed=sealed.hex())
        )
    return Recovery(pool=pool, state=encode_base64(encrypted), shares=tuple(shares))


def hand_back(share: Share, owner: HpkePrivateKey, recovery_key: str) -> Share:
    """Open an owner's share and seal it to a KME's recovery key, whose evidence the caller has judged.

    Raises:
        DecryptionFailed: the share is another owner's, or was changed.
        KeyFormatError: the recovery key is none.
    """
    words = owner.open_(bytes.fromhex(share.sealed), _info(_SHARE_INFO, share.pool, share.state))
    public = load_hpke_public_key(recovery_key)
    sealed = public.seal(words, _info(_RETURN_INFO, share.pool, share.state))
    return Share(
        pool=share.pool, state=share.state, threshold=share.threshold, key=public.key_id, sealed=sealed.hex()
    )


def combine(recovery: Recovery, shares: Sequence[Share], recovery_key: HpkePrivateKey) -> bytes:
    """The pool's state from shares that were handed back.

    Raises:
        DecryptionFailed: too few shares, or they are not of this state.
        EvidenceError: a share is of another pool or state.
    """
    return combine_words(recovery, [open_share(recovery, share, recovery_key) for share in shares])


def open_share(recovery: Recovery, share: Share, recovery_key: HpkePrivateKey) -> str:
    """The words of a share that was handed back. Secret; two seals of one share give the same words.

    Raises:
        DecryptionFailed: it is not sealed to this key, or was changed.
        EvidenceError: it is of another pool or state.
    """
    digest = hashlib.sha256(_encrypted(recovery)).hexdigest()
    if (share.pool, share.state) != (recovery.pool, digest):
        raise EvidenceError("a share is of another pool, or of another state of it")
    words = recovery_key.open_(bytes.fromhex(share.sealed), _info(_RETURN_INFO, share.pool, digest))
    try:
        return words.decode("ascii")
    except UnicodeDecodeError:
        raise DecryptionFailed("the share holds no words") from None


def combine_words(recovery: Recovery, words: Sequence[str]) -> bytes:
    """The pool's state from the words of as many different shares as it takes.

    Raises:
        DecryptionFailed: too few shares, or they are not of this state.
        EvidenceError: the recovery file is broken.
    """
    encrypted = _encrypted(recovery)
    try:
        # A set: with one share for each owner and a threshold of one, all shares are alike.
        key = combine_mnemonics(sorted(set(words))[: recovery.shares[0].threshold])
        return aead.open_(key, encrypted[: aead.NONCE_BYTES], encrypted[aead.NONCE_BYTES :])
    except (MnemonicError, ValueError, LookupError):
        raise DecryptionFailed("the shares do not combine: too few, or not of one state") from None


def _encrypted(recovery: Recovery) -> bytes:
    try:
        return decode_base64(recovery.state, what="state")
    except EncodingError as exc:
        raise EvidenceError(exc.message) from None


def recovery_report_data(recovery_key: str, pool: str) -> bytes:
    """What the evidence of a KME's recovery key commits to: 64 bytes."""
    return hashlib.sha512(_EVIDENCE + encode_fields(pool, recovery_key)).digest()


def read_recovery(text: bytes) -> Recovery:
    """Read it from JSON.

    Raises:
        EvidenceError
    """
    if len(text) > 2 * MAX_STATE_BYTES:
        raise EvidenceError(f"a recovery file of {len(text)} bytes: expected at most {2 * MAX_STATE_BYTES}")
    try:
        return _recovery_decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise EvidenceError(f"not a pool's recovery file: {exc}") from None


def read_share(text: bytes) -> Share:
    """Read one share from JSON.

    Raises:
        EvidenceError
    """
    if len(text) > MAX_SHARE_CHARS:
        raise EvidenceError(f"a recovery share of {len(text)} bytes: expected at most {MAX_SHARE_CHARS}")
    try:
        return _share_decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise EvidenceError(f"not a recovery share: {exc}") from None


def owner_key_from_hex(text: str) -> HpkePrivateKey:
    """Read an owner's private key: hex of its 96 bytes.

    Raises:
        KeyFormatError
    """
    try:
        return HpkePrivateKey(decode_hex(text.strip(), what="the owner's key"))
    except EncodingError as exc:
        raise KeyFormatError(exc.message) from None


def _info(domain: bytes, pool: str, state: str) -> bytes:
    return domain + encode_fields(pool, state)
