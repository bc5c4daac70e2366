"""The worker's own word for its encryption key: what a requester gets from EncryptionKeyGet.

The host says under which tag. Nothing else of what is signed comes from outside, and the digest has a purpose of its
own, so the host gains no signature that would pass for a result or for another key.
"""

import re

from avalon_core.channel.messages import KeySigned, SignKey
from avalon_core.crypto.registry import key_digest, key_nonce
from avalon_core.errors import ChannelError
from avalon_enclave.keystore import KeyStore

_TAG = re.compile(r"(0x)?[0-9a-fA-F]{0,64}\Z")


class KeySigner:
    """Vouches for one worker's RSA key."""

    def __init__(self, worker_id: str, keys: KeyStore) -> None:
        self._worker_id = worker_id
        self._signing = keys.signing
        self._encryption_key = keys.encryption.rsa.public_key.pem
        self._nonce = key_nonce(self._encryption_key)

    def __call__(self, message: SignKey) -> KeySigned:
        """Sign the key under a tag.

        Raises:
            ChannelError: the host gave a tag that no requester could have sent.
        """
        if _TAG.match(message.tag) is None:
            raise ChannelError("the host wants a key signed under a tag that is not hex of up to 32 bytes")
        digest = key_digest(
            worker_id=self._worker_id,
            encryption_key=self._encryption_key,
            encryption_key_nonce=self._nonce,
            tag=message.tag,
        )
        return KeySigned(
            handle=message.handle,
            encryption_key=self._encryption_key,
            encryption_key_nonce=self._nonce,
            signature=self._signing.sign(digest),
        )
