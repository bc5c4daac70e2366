"""The payload of a Nitro document: members, types and sizes as AP 2.2 and 3.2.2 publish them.

Two deliberate differences from the text. Optional members may be null: the text forbids it, and every document that
AWS signs has them so. PCR0 must be there: it is the identity of the code, and the text only asks for any register.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from avalon_core.attestation import cbor
from avalon_core.errors import EvidenceError

MAX_PAYLOAD_BYTES = 16384
"""AP 3.1."""

MAX_MODULE_ID_CHARS = 128
"""AP names no cap. Real ones are 39 characters: instance id, "-enc", enclave id."""

MAX_CERTIFICATE_BYTES = 1024
MAX_PUBLIC_KEY_BYTES = 1024
MAX_USER_DATA_BYTES = 512
MAX_NONCE_BYTES = 512
MAX_CABUNDLE = 16
"""AP names no cap. Real bundles have 4: root, region, zone, instance."""

MAX_TIMESTAMP_MS = 253402300799999
"""The last millisecond of the year 9999: what is beyond is not a time of day."""

PCR_INDEXES = range(32)
PCR_BYTES = (32, 48, 64)
DIGEST = "SHA384"

_MANDATORY = ("module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle")
_OPTIONAL = ("public_key", "user_data", "nonce")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationDocument:
    """A document of the published shape. Nothing in it has been verified."""

    module_id: str
    """Which machine and enclave: ``i-0e4fe5de7ee5abe78-enc018d3cadd7d66279``."""

    timestamp: int
    """Milliseconds since 1970, by the hypervisor's clock."""

    pcrs: Mapping[int, bytes]
    """The locked registers by index, 0 among them."""

    certificate: bytes
    """DER: the certificate of the key that signed."""

    cabundle: tuple[bytes, ...]
    """DER, root first."""

    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None


def parse_document(payload: bytes) -> AttestationDocument:
    """Read the payload.

    Raises:
        EvidenceError: a rule of AP 3.2.2 is broken.
    """
    members = cbor.decode(payload, what="the attestation document", max_bytes=MAX_PAYLOAD_BYTES)
    if not isinstance(members, dict):
        raise EvidenceError("the attestation document is not a map")
    _check_names(members)
    if members["digest"] != DIGEST:
        raise EvidenceError(f"the attestation document's digest must be {DIGEST!r}")
    return AttestationDocument(
        module_id=_module_id(members["module_id"]),
        timestamp=_timestamp(members["timestamp"]),
        pcrs=_pcrs(members["pcrs"]),
        certificate=_bytes(members["certificate"], "certificate", 1, MAX_CERTIFICATE_BYTES),
        cabundle=_cabundle(members["cabundle"]),
        public_key=_optional(members, "public_key", 1, MAX_PUBLIC_KEY_BYTES),
        user_data=_optional(members, "user_data", 0, MAX_USER_DATA_BYTES),
        nonce=_optional(members, "nonce", 0, MAX_NONCE_BYTES),
    )


def _check_names(members: Mapping[Any, Any]) -> None:
    missing = [name for name in _MANDATORY if members.get(name) is None]
    if missing:
        raise EvidenceError(f"the attestation document lacks {', '.join(missing)}")
    unknown = [name for name in members if name not in (*_MANDATORY, *_OPTIONAL)]
    if unknown:
        # AP 3.2.2.1 lists what is allowed. A member that is not understood may change what the others mean.
        raise EvidenceError(f"the attestation document has members that AWS does not list: {len(unknown)}")


def _module_id(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_MODULE_ID_CHARS or not value.isprintable():
        raise EvidenceError(f"module_id must be a text of 1 to {MAX_MODULE_ID_CHARS} printable characters")
    return value


def _timestamp(value: Any) -> int:
    if type(value) is not int or not 0 < value <= MAX_TIMESTAMP_MS:
        raise EvidenceError("timestamp must be a positive integer: milliseconds since 1970")
    return value


def _pcrs(value: Any) -> dict[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= len(PCR_INDEXES):
        raise EvidenceError(f"pcrs must be a map of 1 to {len(PCR_INDEXES)} registers")
    for index, register in value.items():
        if type(index) is not int or index not in PCR_INDEXES:
            raise EvidenceError("an index in pcrs must be an integer of 0 to 31")
        if not isinstance(register, bytes) or len(register) not in PCR_BYTES:
            raise EvidenceError("a register in pcrs must be a byte string of 32, 48 or 64 bytes")
    if 0 not in value:
        raise EvidenceError("pcrs lacks PCR0, the identity of the enclave's code")
    return dict(sorted(value.items()))


def _cabundle(value: Any) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_CABUNDLE:
        raise EvidenceError(f"cabundle must be an array of 1 to {MAX_CABUNDLE} certificates")
    return tuple(_bytes(entry, "an entry of cabundle", 1, MAX_CERTIFICATE_BYTES) for entry in value)


def _optional(members: Mapping[Any, Any], name: str, least: int, most: int) -> bytes | None:
    value = members.get(name)
    return None if value is None else _bytes(value, name, least, most)


def _bytes(value: Any, what: str, least: int, most: int) -> bytes:
    if not isinstance(value, bytes) or not least <= len(value) <= most:
        raise EvidenceError(f"{what} must be a byte string of {least} to {most} bytes")
    return value
