"""The SGX extension of a PCK certificate: what Intel certifies of a platform.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, 3.5 (OIDs under
1.2.840.113741.1.13.1). The shapes are those of certificates that Intel issued.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat import asn1

SGX_EXTENSION = "1.2.840.113741.1.13.1"
COMPONENTS = 16

_ENUMERATED = 0x0A


@asn1.sequence
class _Entry:
    id: x509.ObjectIdentifier
    value: asn1.TLV


@asn1.sequence
class _Octets:
    id: x509.ObjectIdentifier
    value: bytes


@asn1.sequence
class _Integer:
    id: x509.ObjectIdentifier
    value: int


@asn1.sequence
class _Boolean:
    id: x509.ObjectIdentifier
    value: bool


@asn1.sequence
class _Wrapper:
    """The library encodes lists as members of a sequence only."""

    entries: list[asn1.TLV]


@dataclass(frozen=True, slots=True, kw_only=True)
class PckPlatform:
    """A platform as its PCK certificate describes it."""

    ppid: bytes
    """16 bytes."""

    components: Sequence[int]
    """16 security versions of 0 to 255: CPUSVN."""

    pcesvn: int
    pceid: bytes = bytes(2)
    """2 bytes, as the certificate carries them."""

    fmspc: bytes
    """6 bytes."""

    sgx_type: int
    """0 standard, 1 scalable, 2 scalable with integrity."""

    platform_instance_id: bytes | None = None
    """16 bytes; only platforms under the platform CA (servers of several packages) have it."""

    dynamic: bool = True
    cached_keys: bool = False
    smt: bool = False
    """Flags of the configuration, which only such platforms carry."""

    def __post_init__(self) -> None:
        if len(self.components) != COMPONENTS or not all(0 <= svn <= 0xFF for svn in self.components):
            raise ValueError(f"expected {COMPONENTS} security versions of 0 to 255, got {self.components!r}")

    @property
    def cpusvn(self) -> bytes:
        """16 bytes."""
        return bytes(self.components)


def encode_sgx_extension(platform: PckPlatform) -> bytes:
    """The DER of the extension's value."""
    tcb = [
        *(_integer(f"2.{number}", svn) for number, svn in enumerate(platform.components, start=1)),
        _integer(f"2.{COMPONENTS + 1}", platform.pcesvn),
        _octets(f"2.{COMPONENTS + 2}", platform.cpusvn),
    ]
    entries = [
        _octets("1", platform.ppid),
        _nested("2", tcb),
        _octets("3", platform.pceid),
        _octets("4", platform.fmspc),
        _enumerated("5", platform.sgx_type),
    ]
    if platform.platform_instance_id is not None:
        flags = (platform.dynamic, platform.cached_keys, platform.smt)
        entries += [
            _octets("6", platform.platform_instance_id),
            _nested("7", [_boolean(f"7.{number}", flag) for number, flag in enumerate(flags, start=1)]),
        ]
    return _sequence_of(entries)


def _oid(under: str) -> x509.ObjectIdentifier:
    return x509.ObjectIdentifier(f"{SGX_EXTENSION}.{under}")


def _element(value: Any) -> asn1.TLV:
    return _read(asn1.encode_der(value))


def _read(der: bytes) -> asn1.TLV:
    return asn1.decode_der(asn1.TLV, der)


def _octets(under: str, value: bytes) -> asn1.TLV:
    return _element(_Octets(id=_oid(under), value=value))


def _integer(under: str, value: int) -> asn1.TLV:
    return _element(_Integer(id=_oid(under), value=value))


def _boolean(under: str, value: bool) -> asn1.TLV:
    return _element(_Boolean(id=_oid(under), value=value))


def _enumerated(under: str, value: int) -> asn1.TLV:
    # The library has no ENUMERATED; a single small value is its tag, its length of one, and itself.
    return _element(_Entry(id=_oid(under), value=_read(bytes((_ENUMERATED, 1, value)))))


def _nested(under: str, entries: list[asn1.TLV]) -> asn1.TLV:
    return _element(_Entry(id=_oid(under), value=_read(_sequence_of(entries))))


def _sequence_of(entries: list[asn1.TLV]) -> bytes:
    return bytes(_read(asn1.encode_der(_Wrapper(entries=entries))).data)
