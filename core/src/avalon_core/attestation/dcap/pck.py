"""What a PCK certificate says of its platform: the SGX extension.

    SGX Extensions (1.2.840.113741.1.13.1): a sequence of (object identifier, value)
        .1 PPID (16 bytes)   .2 TCB: .2.1 to .2.16 component SVNs, .2.17 PCESVN, .2.18 CPUSVN (16 bytes)
        .3 PCE-ID (2)        .4 FMSPC (6)      .5 SGX type      .6, .7 platform instance and configuration

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, "SGX Extensions".
"""

from collections.abc import Iterator
from functools import lru_cache

import msgspec
from cryptography import x509

from avalon_core.attestation.chains import extensions_of
from avalon_core.errors import EvidenceError

SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
FMSPC_BYTES = 6
CPUSVN_BYTES = 16

_BASE = bytes.fromhex("2a864886f84d010d01")
"""The content of that identifier in DER; members append their arcs."""

_TCB = _BASE + b"\x02"
_FMSPC = _BASE + b"\x04"
_PCESVN = _TCB + b"\x11"
_CPUSVN = _TCB + b"\x12"
_SEQUENCE, _OCTET_STRING, _INTEGER, _OID = 0x30, 0x04, 0x02, 0x06
_MOST_MEMBERS = 32
"""The extension has seven members, its TCB eighteen."""


class PckPlatform(msgspec.Struct, frozen=True, kw_only=True):
    """The platform's state for which Intel certified its key."""

    fmspc: bytes
    cpusvn: bytes
    """16 bytes: one SVN a component, in the order of TCB info."""

    pcesvn: int


@lru_cache(maxsize=256)
def is_pck_certificate(certificate: x509.Certificate) -> bool:
    """Whether it has the SGX extension."""
    try:
        extensions_of(certificate).get_extension_for_oid(SGX_EXTENSION)
    except (x509.ExtensionNotFound, EvidenceError):
        return False
    return True


def fmspc_of(certificate: x509.Certificate) -> str:
    """The platform's FMSPC, lower-case hex.

    Raises:
        EvidenceError: no SGX extension, or none that can be read.
    """
    return _octets(_members(_extension(certificate)), _FMSPC, FMSPC_BYTES, "FMSPC").hex()


def platform_of(certificate: x509.Certificate) -> PckPlatform:
    """What the certificate says of its platform.

    Raises:
        EvidenceError: no SGX extension, or none that can be read.
    """
    members = _members(_extension(certificate))
    tag, raw = members.get(_TCB, (0, b""))
    if tag != _SEQUENCE:
        raise EvidenceError("the SGX extension of the PCK certificate has no TCB")
    tcb = _members(raw, outer=False)
    tag, pcesvn = tcb.get(_PCESVN, (0, b""))
    if tag != _INTEGER or not 0 < len(pcesvn) <= 3:
        raise EvidenceError("the SGX extension of the PCK certificate has no PCESVN of 16 bits")
    return PckPlatform(
        fmspc=_octets(members, _FMSPC, FMSPC_BYTES, "FMSPC"),
        cpusvn=_octets(tcb, _CPUSVN, CPUSVN_BYTES, "CPUSVN"),
        pcesvn=int.from_bytes(pcesvn),
    )


def _extension(certificate: x509.Certificate) -> bytes:
    try:
        extension = extensions_of(certificate).get_extension_for_oid(SGX_EXTENSION).value
    except x509.ExtensionNotFound:
        raise EvidenceError("the certificate has no SGX extension: it is no PCK certificate") from None
    assert isinstance(extension, x509.UnrecognizedExtension)
    return extension.value


def _octets(members: dict[bytes, tuple[int, bytes]], name: bytes, size: int, what: str) -> bytes:
    tag, value = members.get(name, (0, b""))
    if tag != _OCTET_STRING or len(value) != size:
        raise EvidenceError(f"the SGX extension of the PCK certificate has no {what} of {size} bytes")
    return value


def _members(der: bytes, *, outer: bool = True) -> dict[bytes, tuple[int, bytes]]:
    """The members of a sequence of (object identifier, value), as tag and content by identifier."""
    if outer:
        tag, der = next(_elements(der), (0, b""))
        if tag != _SEQUENCE:
            raise EvidenceError("the SGX extension of the PCK certificate is no sequence")
    members = {}
    for count, (tag, member) in enumerate(_elements(der)):
        pair = list(_elements(member)) if tag == _SEQUENCE and count < _MOST_MEMBERS else []
        if len(pair) != 2 or pair[0][0] != _OID:
            raise EvidenceError("the SGX extension of the PCK certificate has a member that cannot be read")
        members[pair[0][1]] = pair[1]
    return members


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements of DER one after another, as tag and content."""
    position, size = 0, len(der)
    while position < size:
        if size - position < 2:
            raise EvidenceError("the SGX extension of the PCK certificate is cut off")
        tag, length = der[position], der[position + 1]
        position += 2
        if length & 0x80:
            digits = length & 0x7F
            if not 0 < digits <= 2:
                raise EvidenceError(
                    "the SGX extension of the PCK certificate has a length of too many digits"
                )
            length = int.from_bytes(der[position : position + digits])
            position += digits
        if position + length > size:
            raise EvidenceError("the SGX extension of the PCK certificate is cut off")
        yield tag, der[position : position + length]
        position += length
