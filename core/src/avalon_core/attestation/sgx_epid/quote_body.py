"""The body of an EPID quote: 48 bytes of header and the 384 bytes of the enclave's report. All little-endian.

Sources: IAS, *Data structures, Quote*; Intel SDM vol. 3D, *Report (REPORT)* and *ATTRIBUTES*.
"""

import struct
from dataclasses import dataclass

from avalon_core.errors import EvidenceError

QUOTE_BODY_BYTES = 432
_VERSIONS = (1, 2)

_HEADER = struct.Struct("<HH4sHHI32s")
"""version, signature type, EPID group id, QE SVN, PCE SVN (reserved in version 1), extended group id, basename."""

_REPORT = struct.Struct("<16s4s12x16s8s8s32s32x32s32x64sHHH42x16s64s")
"""CPUSVN, MISCSELECT, ISVEXTPRODID, attribute flags, XFRM, MRENCLAVE, MRSIGNER, CONFIGID, ISVPRODID, ISVSVN, CONFIGSVN,
ISVFAMILYID, REPORTDATA."""

_INIT, _DEBUG, _MODE64, _PROVISION_KEY, _EINITTOKEN_KEY, _KSS = 0x01, 0x02, 0x04, 0x10, 0x20, 0x80
_LINKABLE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteBody:
    """What the quote says. Byte strings are as in memory; a group id reads the other way round."""

    version: int
    signature_type: int
    """0 unlinkable, 1 linkable: whether two quotes of one platform can be told to be so."""

    group_id: bytes
    """4 bytes, little-endian."""

    qe_svn: int
    pce_svn: int
    extended_group_id: int
    basename: bytes
    cpu_svn: bytes
    """16 bytes."""

    misc_select: bytes
    """4 bytes."""

    ext_product_id: bytes
    """16 bytes."""

    flags: int
    """64 bits: ATTRIBUTES.FLAGS."""

    xfrm: bytes
    """8 bytes."""

    mrenclave: bytes
    mrsigner: bytes
    config_id: bytes
    """64 bytes. This, CONFIGSVN, ISVFAMILYID and ISVEXTPRODID are zero without KSS."""

    product_id: int
    svn: int
    config_svn: int
    family_id: bytes
    """16 bytes."""

    report_data: bytes
    """64 bytes."""

    @property
    def initialized(self) -> bool:
        """The enclave ran: EINIT succeeded."""
        return bool(self.flags & _INIT)

    @property
    def debug(self) -> bool:
        """A debugger can read the enclave's memory."""
        return bool(self.flags & _DEBUG)

    @property
    def mode64(self) -> bool:
        """A 64-bit enclave."""
        return bool(self.flags & _MODE64)

    @property
    def provision_key(self) -> bool:
        """The enclave may derive the provisioning key, which identifies the machine."""
        return bool(self.flags & _PROVISION_KEY)

    @property
    def einittoken_key(self) -> bool:
        """The enclave may derive the key of launch tokens."""
        return bool(self.flags & _EINITTOKEN_KEY)

    @property
    def kss(self) -> bool:
        """Key separation and sharing was enabled."""
        return bool(self.flags & _KSS)

    @property
    def linkable(self) -> bool:
        """See :attr:`signature_type`."""
        return self.signature_type == _LINKABLE


def parse_quote_body(data: bytes) -> QuoteBody:
    """Read a quote without its signature.

    Raises:
        EvidenceError: of another length or version.
    """
    if len(data) != QUOTE_BODY_BYTES:
        raise EvidenceError(f"a quote body of {len(data)} bytes, expected {QUOTE_BODY_BYTES}")
    version, signature_type, group_id, qe_svn, pce_svn, extended_group_id, basename = _HEADER.unpack_from(
        data
    )
    if version not in _VERSIONS:
        raise EvidenceError(f"an EPID quote of version {version}, expected 1 or 2")
    (
        cpu_svn,
        misc_select,
        ext_product_id,
        flags,
        xfrm,
        mrenclave,
        mrsigner,
        config_id,
        product_id,
        svn,
        config_svn,
        family_id,
        report_data,
    ) = _REPORT.unpack_from(data, _HEADER.size)
    return QuoteBody(
        version=version,
        signature_type=signature_type,
        group_id=group_id,
        qe_svn=qe_svn,
        pce_svn=pce_svn,
        extended_group_id=extended_group_id,
        basename=basename,
        cpu_svn=cpu_svn,
        misc_select=misc_select,
        ext_product_id=ext_product_id,
        flags=int.from_bytes(flags, "little"),
        xfrm=xfrm,
        mrenclave=mrenclave,
        mrsigner=mrsigner,
        config_id=config_id,
        product_id=product_id,
        svn=svn,
        config_svn=config_svn,
        family_id=family_id,
        report_data=report_data,
    )
