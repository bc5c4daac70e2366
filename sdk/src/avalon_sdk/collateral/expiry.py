"""When collateral ends: what in it has ended, or will within a time. For warnings, before verdicts turn."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from avalon_core.attestation.chains import load_certificate, load_crl, name_of
from avalon_core.attestation.collateral import Collateral, DcapCollateral
from avalon_core.attestation.dcap.tcb_info import parse_qe_identity, parse_tcb_info
from avalon_core.errors import EvidenceError
from avalon_sdk.collateral.reading import UNREADABLE, certificates_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A part of collateral and its end."""

    what: str
    ends: datetime
    """With a zone."""

    def has_ended(self, as_of: datetime) -> bool:
        """Whether it has ended at this time (with a zone)."""
        return self.ends <= as_of


def expiring(collateral: Collateral, *, within: timedelta, as_of: datetime) -> tuple[Ending, ...]:
    """What has ended as of a time (with a zone), or ends within so much of it; the first end first.

    Raises:
        EvidenceError: a part cannot be read.
    """
    until = as_of + within
    return tuple(ending for ending in endings(collateral) if ending.ends <= until)


def endings(collateral: Collateral) -> tuple[Ending, ...]:
    """The end of every part, the first first.

    Raises:
        EvidenceError: a part cannot be read.
    """
    try:
        found = dict.fromkeys(_endings(collateral))
    except UNREADABLE as exc:
        raise EvidenceError(f"a part of the collateral cannot be read: {exc}") from None
    return tuple(sorted(found, key=lambda ending: (ending.ends, ending.what)))


def _endings(collateral: Collateral) -> Iterator[Ending]:
    for entry in collateral.dcap:
        yield from _of_dcap(entry)
    for platform in collateral.snp:
        yield from _of_certificates(platform.certificates)
        if platform.crl is not None:
            yield _of_crl(platform.crl)
    yield from _of_certificates(collateral.certificates)
    for crl in collateral.crls:
        yield _of_crl(crl)


def _of_dcap(entry: DcapCollateral) -> Iterator[Ending]:
    info = parse_tcb_info(entry.tcb_info)
    yield Ending(what=f"{info.id} TCB info of FMSPC {info.fmspc.lower()}", ends=info.next_update)
    identity = parse_qe_identity(entry.qe_identity)
    yield Ending(what=f"QE identity {identity.id}", ends=identity.next_update)
    for text in (entry.root_ca_crl, entry.pck_crl):
        yield _of_crl(bytes.fromhex(text))
    chains = (
        entry.pck_crl_issuer_chain,
        entry.tcb_info_issuer_chain,
        entry.qe_identity_issuer_chain,
        entry.pck_certificate_chain,
    )
    for chain in chains:
        if chain is not None:
            yield from (_of_certificate(one) for one in certificates_of(chain.encode()))


def _of_certificates(ders: tuple[bytes, ...]) -> Iterator[Ending]:
    return (_of_certificate(load_certificate(der)) for der in ders)


def _of_certificate(certificate: x509.Certificate) -> Ending:
    return Ending(what=f"certificate of {name_of(certificate)!r}", ends=certificate.not_valid_after_utc)


def _of_crl(der: bytes) -> Ending:
    crl = load_crl(der)
    if crl.next_update_utc is None:
        raise EvidenceError("a CRL that names no next update")
    names = crl.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    issuer = str(names[0].value) if names else crl.issuer.rfc4514_string()
    return Ending(what=f"CRL of {issuer!r}", ends=crl.next_update_utc)
