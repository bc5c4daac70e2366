"""The JSON form of collateral: one object with everything that a verifier needs beside the evidence.

    {"version": 1,
     "dcap": [{"pck_crl_issuer_chain": "<PEM>", "root_ca_crl": "<hex>", ...}],
     "snp": [{"certificates": ["<base64 DER>", ...], "crl": "<base64 DER>"}],
     "certificates": ["<base64 DER>", ...],
     "crls": ["<base64 DER>", ...]}

Every member but ``version`` may be absent. The entries of ``dcap`` have the members of
:class:`~avalon_core.attestation.collateral.DcapCollateral`, which is how tools for Intel's quotes write them. The same
object is a file of its own (``avalon attest verify --collateral``) and the member ``collateral`` of a worker's
proofData.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from avalon_core.attestation.collateral import (
    MAX_COLLATERAL_BYTES,
    MAX_CRL_BYTES,
    Collateral,
    DcapCollateral,
    SnpCollateral,
)
from avalon_core.attestation.evidence import MAX_CERTIFICATE_BYTES
from avalon_core.errors import EncodingError, EvidenceError
from avalon_core.protocol.encodings import decode_base64, encode_base64

BUNDLE_VERSION = 1

MAX_ENTRIES = 32
"""Platforms, certificates or CRLs in one bundle, of each: a bundle is about one platform or a few, not a fleet."""


class _Snp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    certificates: tuple[str, ...]
    crl: str | None = None


class _Bundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    dcap: tuple[DcapCollateral, ...] = ()
    snp: tuple[_Snp, ...] = ()
    certificates: tuple[str, ...] = ()
    crls: tuple[str, ...] = ()


def collateral_to_object(collateral: Collateral) -> dict[str, Any]:
    """The bundle of this collateral, as values of JSON. Members that would be empty are left out."""
    bundle: dict[str, Any] = {"version": BUNDLE_VERSION}
    if collateral.dcap:
        bundle["dcap"] = [_without_none(msgspec.to_builtins(entry)) for entry in collateral.dcap]
    if collateral.snp:
        bundle["snp"] = [
            _without_none(
                {
                    "certificates": [encode_base64(der) for der in entry.certificates],
                    "crl": None if entry.crl is None else encode_base64(entry.crl),
                }
            )
            for entry in collateral.snp
        ]
    if collateral.certificates:
        bundle["certificates"] = [encode_base64(der) for der in collateral.certificates]
    if collateral.crls:
        bundle["crls"] = [encode_base64(der) for der in collateral.crls]
    return bundle


def _without_none(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def collateral_from_object(value: Any) -> Collateral:
    """Read a bundle from values of JSON.

    Raises:
        EvidenceError: not a bundle of this version, or a part is larger than its cap.
    """
    try:
        bundle = msgspec.convert(value, _Bundle, strict=True)
    except (msgspec.ValidationError, RecursionError) as exc:
        raise EvidenceError(
            f"not a bundle of collateral: {exc}. Expected an object with version, dcap, snp, certificates, crls"
        ) from None
    if bundle.version != BUNDLE_VERSION:
        raise EvidenceError(
            f"a bundle of collateral of an unknown version: got {bundle.version}, expected {BUNDLE_VERSION}"
        )
    for name in ("dcap", "snp", "certificates", "crls"):
        _cap(name, len(getattr(bundle, name)))
    for dcap in bundle.dcap:
        check_dcap_size(dcap)
    return Collateral(
        dcap=bundle.dcap,
        snp=tuple(_snp(entry) for entry in bundle.snp),
        certificates=_ders(bundle.certificates, "certificates", MAX_CERTIFICATE_BYTES),
        crls=_ders(bundle.crls, "crls", MAX_CRL_BYTES),
    )


def check_dcap_size(dcap: DcapCollateral) -> None:
    """Raise EvidenceError where one platform's collateral is larger than the cap of a whole bundle."""
    size = sum(len(text) for text in msgspec.structs.astuple(dcap) if text is not None)
    if size > MAX_COLLATERAL_BYTES:
        raise EvidenceError(
            f"collateral is too large: got {size} characters, expected at most {MAX_COLLATERAL_BYTES}"
        )


def merged(parts: Iterable[Collateral]) -> Collateral:
    """All of it in one; what is there twice is kept once, in the order of its first appearance."""
    several = tuple(parts)
    return Collateral(
        dcap=tuple(dict.fromkeys(entry for part in several for entry in part.dcap)),
        snp=tuple(dict.fromkeys(entry for part in several for entry in part.snp)),
        certificates=tuple(dict.fromkeys(der for part in several for der in part.certificates)),
        crls=tuple(dict.fromkeys(der for part in several for der in part.crls)),
    )


def _snp(entry: _Snp) -> SnpCollateral:
    _cap("snp certificates", len(entry.certificates))
    crl = None if entry.crl is None else decode_capped(entry.crl, "snp crl", MAX_CRL_BYTES)
    return SnpCollateral(
        certificates=_ders(entry.certificates, "snp certificates", MAX_CERTIFICATE_BYTES), crl=crl
    )


def _ders(texts: Sequence[str], what: str, most: int) -> tuple[bytes, ...]:
    return tuple(decode_capped(text, what, most) for text in texts)


def _cap(what: str, count: int) -> None:
    if count > MAX_ENTRIES:
        raise EvidenceError(f"too many {what} in the collateral: got {count}, expected at most {MAX_ENTRIES}")


def decode_capped(text: str, what: str, most: int) -> bytes:
    """Decode standard base64 of at most ``most`` bytes; its size is judged before it is decoded.

    Raises:
        EvidenceError: too large, or not base64; the message names ``what``.
    """
    if len(text) > (most + 2) // 3 * 4:
        raise EvidenceError(
            f"{what}: too large: got {len(text)} characters of base64, expected at most {most} bytes"
        )
    try:
        return decode_base64(text, what=what)
    except EncodingError as exc:
        raise EvidenceError(exc.message) from None
