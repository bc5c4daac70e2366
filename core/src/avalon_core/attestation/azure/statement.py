"""The paravisor's statement: the JSON that the hardware report covers.

    {"keys": [{"kid": "HCLAkPub", "kty": "RSA", "e": "AQAB", "n": "<base64url>", "key_ops": ["sign"]}, ...],
     "vm-configuration": {"secure-boot": true, "tpm-enabled": true, "vmUniqueId": "..."},
     "user-data": "<hex of 64 bytes>"}

HCLAkPub (a JWK, RFC 7517) is the TPM's attestation key. ``user-data`` is what the guest wrote to NV index 0x01400002
before the report was made; older platforms do not have it. Members that are not read here are covered all the same.
Source: Microsoft, Azure Confidential VM Guest Attestation Design Detail (2025), Runtime Claims.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa

from avalon_core.errors import EncodingError, EvidenceError
from avalon_core.protocol.encodings import decode_hex

USER_DATA_BYTES = 64
ATTESTATION_KEY = "HCLAkPub"
MAX_KEYS = 16
"""Real statements have one or two."""

MAX_CONFIGURATION = 64
MAX_NAME_CHARS = 48
MAX_VALUE_CHARS = 256
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
"""A larger modulus would cost the verifier seconds. The virtual TPM has 2048."""


class _Key(msgspec.Struct, frozen=True):
    kid: str
    kty: str
    n: str = ""
    e: str = ""


class _Statement(msgspec.Struct, frozen=True, rename="kebab"):
    keys: list[_Key]
    vm_configuration: dict[str, Any] = {}
    user_data: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeStatement:
    """What the paravisor states."""

    attestation_key: rsa.RSAPublicKey
    """HCLAkPub: it signs the virtual TPM's quotes."""

    configuration: Mapping[str, str]
    """The scalar members of ``vm-configuration``, by lower-case names of words with underscores: ``secure_boot``.
    Truth values are ``yes`` and ``no``."""

    user_data: bytes | None
    """64 bytes of the guest's choice; None where the platform has no such member."""


def parse_statement(text: bytes) -> RuntimeStatement:
    """Read the statement.

    Raises:
        EvidenceError: not JSON of this form, or without exactly one attestation key that can be used.
    """
    try:
        statement = msgspec.json.decode(text, type=_Statement)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise EvidenceError(f"the statement in an HCL report cannot be read: {exc}") from None
    keys = [key for key in statement.keys[:MAX_KEYS] if key.kid == ATTESTATION_KEY]
    if len(keys) != 1 or len(statement.keys) > MAX_KEYS:
        raise EvidenceError(
            f"the statement in an HCL report has {len(keys)} keys named {ATTESTATION_KEY}, expected one"
        )
    return RuntimeStatement(
        attestation_key=_read_key(keys[0]),
        configuration=_read_configuration(statement.vm_configuration),
        user_data=None if statement.user_data is None else _read_user_data(statement.user_data),
    )


def _read_key(key: _Key) -> rsa.RSAPublicKey:
    if key.kty != "RSA":
        raise EvidenceError(f"the key {ATTESTATION_KEY}: got kty {key.kty[:16]!r}, expected 'RSA'")
    try:
        modulus = int.from_bytes(_base64url(key.n), "big")
        exponent = int.from_bytes(_base64url(key.e), "big")
        if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
            raise EvidenceError(
                f"the key {ATTESTATION_KEY}: got {modulus.bit_length()} bits, expected {MIN_RSA_BITS} to {MAX_RSA_BITS}"
            )
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError as exc:
        raise EvidenceError(f"the key {ATTESTATION_KEY} is no RSA key: {exc}") from None


def _base64url(text: str) -> bytes:
    """A number of a JWK: no padding (RFC 7515, 2)."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise EvidenceError(f"the key {ATTESTATION_KEY}: a number is not base64url") from None


def _read_configuration(members: Mapping[str, Any]) -> Mapping[str, str]:
    if len(members) > MAX_CONFIGURATION:
        raise EvidenceError(
            f"the statement in an HCL report: got {len(members)} members of vm-configuration, "
            f"expected at most {MAX_CONFIGURATION}"
        )
    found: dict[str, str] = {}
    for name, value in members.items():
        if isinstance(value, bool):
            text = "yes" if value else "no"
        elif isinstance(value, str | int):
            text = str(value)
        else:
            continue
        words = _words(name)
        if words in found:
            raise EvidenceError("the statement in an HCL report tells a part of vm-configuration twice")
        if len(name) <= MAX_NAME_CHARS and len(text) <= MAX_VALUE_CHARS:
            found[words] = text
    return found


def _words(name: str) -> str:
    """``secure-boot`` and ``vmUniqueId`` as ``secure_boot`` and ``vm_unique_id``."""
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name.replace("-", "_"))


def _read_user_data(text: str) -> bytes:
    try:
        data = decode_hex(text, what="user-data")
    except EncodingError as exc:
        raise EvidenceError(f"the statement in an HCL report: {exc.message}") from None
    if len(data) != USER_DATA_BYTES:
        raise EvidenceError(f"user-data in an HCL report: got {len(data)} bytes, expected {USER_DATA_BYTES}")
    return data
