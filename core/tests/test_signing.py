"""ECDSA over secp256k1: one spelling where strict, the original's habits where lenient, and no error but ours."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from avalon_core.crypto.sealing import (
    HPKE_PUBLIC_BYTES,
    HpkePrivateKey,
    RsaPrivateKey,
    load_hpke_public_key,
    load_rsa_public_key,
)
from avalon_core.crypto.signing import _ORDER, SigningKey, digest_of_text, load_verification_key
from avalon_core.errors import DecryptionFailed, KeyFormatError, SignatureMismatch

KEY = SigningKey(b"\7" * 32)
DIGEST = digest_of_text("what is signed")
SIGNATURE = KEY.sign(DIGEST)
DER = ec.derive_private_key(7, ec.SECP256K1()).public_key().public_bytes(
    Encoding.DER, PublicFormat.SubjectPublicKeyInfo
)  # fmt: skip


def high_s(signature: bytes) -> bytes:
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, _ORDER - s)


def test_signatures_are_deterministic_and_low() -> None:
    """RFC 6979: the same digest, the same signature; and S in the lower half of the group order."""
    assert KEY.sign(DIGEST) == SIGNATURE
    assert SigningKey(KEY.to_bytes()).sign(DIGEST) == SIGNATURE
    assert decode_dss_signature(SIGNATURE)[1] <= _ORDER // 2


def test_the_nonce_is_that_of_rfc_6979() -> None:
    """The published vector for secp256k1: key 1, SHA-256 of "Satoshi Nakamoto"."""
    signature = SigningKey((1).to_bytes(32, "big")).sign(digest_of_text("Satoshi Nakamoto"))
    r, s = decode_dss_signature(signature)
    assert f"{r:064x}" == "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8"
    assert f"{s:064x}" == "2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5"


def test_high_s_is_accepted_where_lenient_and_refused_where_strict() -> None:
    KEY.verification_key.verify(DIGEST, high_s(SIGNATURE))
    with pytest.raises(SignatureMismatch):
        KEY.verification_key.verify(DIGEST, high_s(SIGNATURE), strict=True)


@pytest.mark.parametrize("strict", [True, False])
def test_any_changed_bit_of_signature_or_digest_is_refused(strict: bool) -> None:
    key = KEY.verification_key
    key.verify(DIGEST, SIGNATURE, strict=strict)
    for signature, digest in (
        *((flip(SIGNATURE, bit), DIGEST) for bit in range(8 * len(SIGNATURE))),
        *((SIGNATURE, flip(DIGEST, bit)) for bit in range(256)),
        (SIGNATURE + b"\0", DIGEST),
        (SIGNATURE[:-1], DIGEST),
        (b"", DIGEST),
    ):
        with pytest.raises(SignatureMismatch):
            key.verify(digest, signature, strict=strict)


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


OUT_OF_RANGE = {
    "zeros": (0, 0),
    "s is zero": (1, 0),
    "r is zero": (0, 1),
    "s is the order": (1, _ORDER),
    "s is above the order": (1, _ORDER + 1),
    "s is twice the order": (1, 2 * _ORDER),
    "s is enormous": (1, 2**4000),
    "r is the order": (_ORDER, 1),
    "r is enormous": (2**4000, 1),
}


@pytest.mark.parametrize(("r", "s"), OUT_OF_RANGE.values(), ids=OUT_OF_RANGE)
def test_numbers_out_of_range_are_mismatches_and_no_crash(r: int, s: int) -> None:
    for strict in (True, False):
        with pytest.raises(SignatureMismatch):
            KEY.verification_key.verify(DIGEST, encode_dss_signature(r, s), strict=strict)


@given(st.binary(max_size=80))
def test_noise_is_a_mismatch_and_no_crash(noise: bytes) -> None:
    for strict in (True, False):
        with pytest.raises(SignatureMismatch):
            KEY.verification_key.verify(DIGEST, noise, strict=strict)


def test_a_signature_under_another_key_is_refused() -> None:
    with pytest.raises(SignatureMismatch):
        SigningKey(b"\x08" * 32).verification_key.verify(DIGEST, SIGNATURE)


def pem(der: bytes) -> str:
    return f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(der).decode()}\n-----END PUBLIC KEY-----\n"


def of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    spki = PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(Encoding.PEM, spki).decode()


NOT_OUR_KEYS = {
    "nothing": "",
    "text": "not a key",
    "a lone surrogate": "\ud800",
    "another curve": of(ec.generate_private_key(ec.SECP256R1())),
    "a curve that the library does not know": pem(DER.replace(bytes.fromhex("2b8104000a"), bytes.fromhex("2b8104007a"))),
    "an algorithm that the library does not know": pem(
        DER.replace(bytes.fromhex("2a8648ce3d0201"), bytes.fromhex("2a8648ce3d0277"))
    ),
    "a point off the curve": pem(DER[:-1] + bytes([DER[-1] ^ 1])),
    "a key cut short": pem(DER[:-1]),
    "a private key's frame": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
}  # fmt: skip


@pytest.mark.parametrize("text", NOT_OUR_KEYS.values(), ids=NOT_OUR_KEYS)
def test_what_is_no_key_of_ours_is_a_key_format_error(text: str) -> None:
    for load in (load_verification_key, load_rsa_public_key, SigningKey.from_pem, RsaPrivateKey.from_pem):
        with pytest.raises(KeyFormatError):
            load(text)


@given(st.integers(0, len(DER) - 1), st.integers(1, 255))
def test_a_changed_key_is_another_key_or_none(at: int, change: int) -> None:
    der = bytearray(DER)
    der[at] ^= change
    try:
        key = load_verification_key.__wrapped__(pem(bytes(der)))
    except KeyFormatError:
        return
    # A hybrid or otherwise odd encoding of the point may still be read: what matters is that it does not crash.
    assert key.pem == pem(bytes(der))


def test_a_key_is_kept_as_the_text_in_which_it_came() -> None:
    text = pem(DER)
    assert load_verification_key(text).pem == text
    assert load_verification_key(text) == load_verification_key(KEY_7_PEM)
    assert hash(load_verification_key(text)) == hash(load_verification_key(KEY_7_PEM))


KEY_7_PEM = SigningKey((7).to_bytes(32, "big")).verification_key.pem


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, b"\1" * 31, b"\1" * 33, b""])
def test_a_private_key_out_of_range_is_refused(secret: bytes) -> None:
    with pytest.raises(KeyFormatError):
        SigningKey(secret)


def test_short_rsa_keys_are_refused() -> None:
    with pytest.raises(KeyFormatError, match="2048"):
        load_rsa_public_key(of(rsa.generate_private_key(65537, 1024)))


HPKE = HpkePrivateKey(bytes(range(96)))
NOT_HPKE_KEYS = {
    "nothing": "",
    "odd": "0",
    "white space": HPKE.public_key.hex[:-2] + " " + HPKE.public_key.hex[-2:],
    "upper case": HPKE.public_key.hex.upper(),
    "short": HPKE.public_key.hex[:-2],
    "long": HPKE.public_key.hex + "00",
    "coefficients out of range": "ff" * HPKE_PUBLIC_BYTES,
}


@pytest.mark.parametrize("text", NOT_HPKE_KEYS.values(), ids=NOT_HPKE_KEYS)
def test_what_is_no_hpke_key_is_a_key_format_error(text: str) -> None:
    with pytest.raises(KeyFormatError):
        load_hpke_public_key(text)


@pytest.mark.parametrize("count", [0, 95, 97])
def test_an_hpke_private_key_of_another_length_is_refused(count: int) -> None:
    with pytest.raises(KeyFormatError):
        HpkePrivateKey(bytes(count))


def test_hpke_opens_what_was_sealed_to_it_under_the_same_info_only() -> None:
    key = load_hpke_public_key(HPKE.public_key.hex)
    sealed = key.seal(b"secret", b"info")
    assert HPKE.open_(sealed, b"info") == b"secret"
    for message, info in (
        (sealed, b"other"),
        (b"", b"info"),
        (sealed[:-1], b"info"),
        (sealed[:100], b"info"),
        *((flip(sealed, bit), b"info") for bit in range(0, 8 * len(sealed), 61)),
    ):
        with pytest.raises(DecryptionFailed):
            HPKE.open_(message, info)
    with pytest.raises(DecryptionFailed):
        HpkePrivateKey(bytes(96)).open_(sealed, b"info")


def test_keys_survive_sealing_to_bytes() -> None:
    assert HpkePrivateKey(HPKE.to_bytes()).public_key.key_id == HPKE.public_key.key_id
    fresh = HpkePrivateKey.generate()
    assert HpkePrivateKey(fresh.to_bytes()).open_(fresh.public_key.seal(b"s", b""), b"") == b"s"


def test_no_key_shows_itself_in_its_repr() -> None:
    for key in (KEY, HPKE, SigningKey.generate()):
        assert key.to_bytes().hex()[:16] not in repr(key)


def test_a_fresh_key_s_pem_is_what_openssl_writes() -> None:
    for _ in range(50):
        key = SigningKey.generate()
        number = int.from_bytes(key.to_bytes(), "big")
        public = ec.derive_private_key(number, ec.SECP256K1()).public_key()
        written = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        assert key.verification_key.pem == written
        assert load_verification_key(written) == key.verification_key
        key.verification_key.verify(bytes(32), key.sign(bytes(32)), strict=True)


def test_only_32_bytes_between_one_and_the_order_are_a_key() -> None:
    order = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
    for number in (1, order - 1):
        assert SigningKey(number.to_bytes(32, "big")).to_bytes() == number.to_bytes(32, "big")
    for secret in (bytes(32), order.to_bytes(32, "big"), b"\xff" * 32, b"\x01" * 31, b"\x01" * 33, b""):
        with pytest.raises(KeyFormatError):
            SigningKey(secret)
