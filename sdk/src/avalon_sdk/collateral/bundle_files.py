"""Collateral as a file that can be carried to where there is no network: written, read, and put into the cache.

The form is :mod:`avalon_core.attestation.bundles`. Put into the cache, a bundle becomes the answers that the vendors' services
would give, under the addresses that the settings name: evidence that needs them finds them there.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography import x509

from avalon_core.attestation.bundles import collateral_from_object, collateral_to_object
from avalon_core.attestation.chains import load_certificate, load_crl, name_of
from avalon_core.attestation.collateral import MAX_COLLATERAL_BYTES, Collateral, DcapCollateral, SnpCollateral
from avalon_core.attestation.dcap.tcb_info import parse_tcb_info
from avalon_core.attestation.files import read_collateral
from avalon_core.attestation.snp.certificates import (
    KeyCertificate,
    is_key_certificate,
    read_key_certificate,
)
from avalon_core.attestation.snp.products import Product
from avalon_core.attestation.snp.report import SigningKey
from avalon_core.errors import EvidenceError
from avalon_sdk.collateral.amd import AmdQuestions, KeyKind
from avalon_sdk.collateral.asking import Question, entry_of, read_answer
from avalon_sdk.collateral.cache import CollateralCache
from avalon_sdk.collateral.http import Answer
from avalon_sdk.collateral.intel import (
    CRL_CHAIN,
    QE_CHAIN,
    TCB_CHAIN,
    IntelQuestions,
    Tee,
    ca_of,
    header_of,
)
from avalon_sdk.collateral.reading import UNREADABLE, der_of, pem_text
from avalon_sdk.collateral.settings import CollateralSettings
from avalon_sdk.errors import BadRequest

_NO_HEADERS: dict[str, str] = {}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of a bundle."""

    kept: tuple[str, ...]
    """What the cache has now, for people."""

    older: tuple[str, ...]
    """What the cache has in a version that ends later, and kept."""

    left_out: tuple[str, ...]
    """What no question asks for, so that it has to be given as a file."""


def write_bundle(path: Path, collateral: Collateral) -> None:
    """Write a bundle, whole or not at all.

    Raises:
        BadRequest: the file cannot be written.
    """
    content = msgspec.json.format(msgspec.json.encode(collateral_to_object(collateral)), indent=1) + b"\n"
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        draft = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            draft.chmod(0o644)
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise BadRequest(f"{path} cannot be written: {exc.strerror}") from exc


def read_bundle(path: Path) -> Collateral:
    """Read a bundle, or another file with collateral: see :func:`avalon_core.attestation.files.read_collateral`.

    Raises:
        BadRequest: it cannot be read, is too large, or is none.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_COLLATERAL_BYTES + 1)
    except OSError as exc:
        raise BadRequest(f"{path} cannot be read: {exc.strerror}") from exc
    try:
        # Also what our own reader of bundles says of one that was cut.
        collateral = read_collateral(raw)
        return collateral_from_object(collateral_to_object(collateral))
    except EvidenceError as exc:
        raise BadRequest(f"{path}: {exc.message}") from exc


class Importer:
    """Puts collateral into a cache, as the answers to the questions of these settings."""

    def __init__(
        self, cache: CollateralCache, settings: CollateralSettings | None = None, *, now: Callable[[], int]
    ) -> None:
        """``now``: Unix seconds."""
        self._cache = cache
        self._settings = settings or CollateralSettings()
        self._intel = IntelQuestions(self._settings)
        self._amd = AmdQuestions(self._settings)
        self._now = now
        self._kept: dict[str, None] = {}
        self._older: dict[str, None] = {}
        self._left_out: dict[str, None] = {}

    def add(self, collateral: Collateral) -> Imported:
        """Put it into the cache.

        Raises:
            EvidenceError: a part cannot be read.
            BadCollateral: a part is not what it says.
            CacheUnusable
        """
        try:
            for dcap in collateral.dcap:
                self._add_dcap(dcap)
            for snp in collateral.snp:
                self._add_snp(snp)
        except UNREADABLE as exc:
            raise EvidenceError(f"a part of the collateral cannot be read: {exc}") from None
        loose = len(collateral.certificates) + len(collateral.crls)
        if loose:
            self._left_out[f"{loose} certificates and CRLs of no vendor's service"] = None
        return Imported(kept=tuple(self._kept), older=tuple(self._older), left_out=tuple(self._left_out))

    def _add_dcap(self, dcap: DcapCollateral) -> None:
        info = parse_tcb_info(dcap.tcb_info)
        tee: Tee = "tdx" if info.id == "TDX" else "sgx"
        self._keep(
            self._intel.tcb_info(tee, info.fmspc.lower()),
            _statement("tcbInfo", dcap.tcb_info, dcap.tcb_info_signature),
            {TCB_CHAIN[0]: header_of(dcap.tcb_info_issuer_chain)},
        )
        self._keep(
            self._intel.qe_identity(tee),
            _statement("enclaveIdentity", dcap.qe_identity, dcap.qe_identity_signature),
            {QE_CHAIN[0]: header_of(dcap.qe_identity_issuer_chain)},
        )
        crl = _unhex(dcap.pck_crl)
        ca = ca_of(load_crl(crl).issuer)
        if ca is None:
            self._left_out["a CRL of neither PCK CA"] = None
        else:
            self._keep(self._intel.pck_crl(ca), crl, {CRL_CHAIN[0]: header_of(dcap.pck_crl_issuer_chain)})
        self._keep(self._intel.root_crl(), _unhex(dcap.root_ca_crl), _NO_HEADERS)
        if dcap.pck_certificate_chain is not None:
            self._left_out["a PCK chain (the quote that needs it asks by an encrypted PPID)"] = None

    def _add_snp(self, snp: SnpCollateral) -> None:
        certificates = [load_certificate(der) for der in snp.certificates]
        keys = [read_key_certificate(one) for one in certificates if is_key_certificate(one)]
        for key in keys:
            self._add_key(key)
        rest = [one for one in certificates if not is_key_certificate(one)]
        kinds = tuple(_issuers(rest))
        for product, kind, issuers in kinds:
            self._keep(self._amd.issuers(product, kind), pem_text(issuers).encode(), _NO_HEADERS)
        if snp.crl is not None:
            self._add_crl(snp.crl, kinds[0][1] if kinds else "vcek")

    def _add_key(self, key: KeyCertificate) -> None:
        if key.kind is SigningKey.VLEK or key.chip_id is None:
            self._left_out["a VLEK's certificate (it has to come with the evidence)"] = None
            return
        self._keep(self._amd.vcek(key.product, key.chip_id, key.tcb), der_of(key.certificate), _NO_HEADERS)

    def _add_crl(self, crl: bytes, kind: KeyKind) -> None:
        issuer = load_crl(crl).issuer.rfc4514_string()
        product = next((one for one in Product if f"ARK-{one}" in issuer), None)
        if product is None:
            self._left_out["a CRL of no ARK"] = None
            return
        self._keep(self._amd.crl(product, kind), crl, _NO_HEADERS)

    def _keep(self, question: Question[_T], body: bytes, headers: dict[str, str]) -> None:
        answer = Answer(headers=headers, body=body)
        reading = read_answer(question, answer)
        before = self._cache.get(question.url)
        if before is not None and before.found and (before.ends or 0) > (reading.ends or 0):
            self._older[question.what] = None
            return
        entry = entry_of(
            question, answer, reading.ends, now=self._now(), negative_age=self._settings.negative_age
        )
        self._cache.put(entry)
        self._kept[question.what] = None


def _statement(name: str, text: str, signature: str) -> bytes:
    """The answer of the service: the text stays the very text that was signed."""
    return b'{"%b":%b,"signature":%b}' % (name.encode(), text.encode(), msgspec.json.encode(signature))


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise EvidenceError("a CRL of the collateral is not hex") from None


def _issuers(
    certificates: list[x509.Certificate],
) -> Iterator[tuple[Product, KeyKind, tuple[x509.Certificate, ...]]]:
    """The whole pairs of ASK or ASVK and ARK among the certificates."""
    named = {name_of(one).rpartition(" ")[2]: one for one in certificates}
    for product in Product:
        ark = named.get(f"ARK-{product}")
        pairs: tuple[tuple[KeyKind, str], ...] = (("vcek", f"SEV-{product}"), ("vlek", f"SEV-VLEK-{product}"))
        for kind, name in pairs:
            if ark is not None and name in named:
                yield product, kind, (named[name], ark)
