"""AES-256-GCM, in the layouts that the wire knows. Every message of every dialect is sealed here and nowhere else."""

import enum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from avalon_core.errors import DecryptionFailed

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16


class Layout(enum.Enum):
    """Where the tag of a message stands."""

    CIPHERTEXT_TAG = "ciphertext then tag"
    TAG_CIPHERTEXT = "tag then ciphertext"


def seal(key: bytes, nonce: bytes, plaintext: bytes, layout: Layout = Layout.CIPHERTEXT_TAG) -> bytes:
    """Encrypt one message. The caller answers for (key, nonce) never having been used before."""
    sealed = AESGCM(key).encrypt(nonce, plaintext, None)
    return sealed if layout is Layout.CIPHERTEXT_TAG else sealed[-TAG_BYTES:] + sealed[:-TAG_BYTES]


def open_(key: bytes, nonce: bytes, message: bytes, layout: Layout = Layout.CIPHERTEXT_TAG) -> bytes:
    """Decrypt one message.

    Raises:
        DecryptionFailed: wrong key or nonce, or a changed message.
    """
    if len(message) < TAG_BYTES:
        raise DecryptionFailed("the message is shorter than its authentication tag")
    if layout is Layout.TAG_CIPHERTEXT:
        message = message[TAG_BYTES:] + message[:TAG_BYTES]
    try:
        return AESGCM(key).decrypt(nonce, message, None)
    except InvalidTag:
        raise DecryptionFailed from None
