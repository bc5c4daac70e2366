"""Collateral: what vendors publish about platforms and evidence is judged by. Data only; who fetches it is elsewhere."""

from dataclasses import dataclass

import msgspec

MAX_COLLATERAL_BYTES = 4 * 1024 * 1024
"""A whole bundle. One platform's Intel collateral has about 20 KB; AMD's CRLs are below 100 KB."""

MAX_CRL_BYTES = 2 * 1024 * 1024
"""One CRL: those of vendors list some hundred certificates at most."""


class DcapCollateral(msgspec.Struct, frozen=True, kw_only=True):
    """Intel's collateral of one platform: the members of a PCS/PCCS v4 answer (the usual JSON form of it).

    Texts that are signed (``tcb_info``, ``qe_identity``) are kept as they came: their signatures cover the raw text.
    """

    pck_crl_issuer_chain: str
    """PEM."""

    root_ca_crl: str
    """Hex of the DER."""

    pck_crl: str
    """Hex of the DER."""

    tcb_info_issuer_chain: str
    """PEM."""

    tcb_info: str
    """The raw JSON text of the ``tcbInfo`` member."""

    tcb_info_signature: str
    """Hex, 64 bytes: r and s over SHA-256 of the raw text."""

    qe_identity_issuer_chain: str
    """PEM."""

    qe_identity: str
    """The raw JSON text of the ``enclaveIdentity`` member."""

    qe_identity_signature: str
    """Hex."""

    pck_certificate_chain: str | None = None
    """PEM, leaf first: for quotes that carry no chain (certification data of type 1 to 3)."""


class SnpCollateral(msgspec.Struct, frozen=True, kw_only=True):
    """AMD's collateral of one platform, as the KDS gives it."""

    certificates: tuple[bytes, ...]
    """DER: VCEK or VLEK where known, ASK (or ASVK), ARK, in any order."""

    crl: bytes | None = None
    """DER of the ARK's CRL of the product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collateral:
    """All collateral at hand; each format picks what fits its evidence."""

    dcap: tuple[DcapCollateral, ...] = ()
    snp: tuple[SnpCollateral, ...] = ()
    certificates: tuple[bytes, ...] = ()
    """DER of further intermediate and root certificates (TPM, Nitro, IAS)."""

    crls: tuple[bytes, ...] = ()
    """DER of further CRLs."""


NO_COLLATERAL = Collateral()
