"""The enclave vouches for its encryption key, and for nothing else."""

import pytest

from avalon_core.channel.messages import SignKey
from avalon_core.crypto.registry import key_digest, key_nonce
from avalon_core.errors import ChannelError, SignatureMismatch
from avalon_enclave.key_signing import KeySigner
from avalon_enclave.keystore import Owner, make_keys


def test_the_key_is_signed_under_the_tag() -> None:
    keys = make_keys(Owner(role="singleton", worker_name="w", tenant=None))
    signed = KeySigner("ab", keys)(SignKey(7, "0xCD"))
    assert signed.handle == 7
    assert signed.encryption_key == keys.encryption.rsa.public_key.pem
    assert signed.encryption_key_nonce == key_nonce(signed.encryption_key)

    def digest(tag: str) -> bytes:
        return key_digest(
            worker_id="ab",
            encryption_key=signed.encryption_key,
            encryption_key_nonce=signed.encryption_key_nonce,
            tag=tag,
        )

    keys.signing.verification_key.verify(digest("0xCD"), signed.signature, strict=True)
    with pytest.raises(SignatureMismatch):
        keys.signing.verification_key.verify(digest("0xcd"), signed.signature)


@pytest.mark.parametrize("tag", ["x", "ab\n", "00" * 33, "-----BEGIN PUBLIC KEY-----"])
def test_a_tag_that_is_none_breaks_the_rules_of_the_channel(tag: str) -> None:
    keys = make_keys(Owner(role="singleton", worker_name="w", tenant=None))
    with pytest.raises(ChannelError):
        KeySigner("ab", keys)(SignKey(1, tag))
