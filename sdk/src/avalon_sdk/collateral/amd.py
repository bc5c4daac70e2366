"""AMD's collateral, from the key distribution service (KDS).

    /vcek/v1/{product}/{hwid}?blSPL=&teeSPL=&snpSPL=&ucodeSPL=    a chip's certificate for a TCB, DER (Turin: with fmcSPL)
    /vcek/v1/{product}/cert_chain                                 ASK and ARK, PEM
    /vlek/v1/{product}/cert_chain                                 ASVK and ARK, PEM
    /vcek/v1/{product}/crl, /vlek/v1/{product}/crl                the ARK's CRL, DER

A VLEK's certificate is given to the cloud provider alone: it has to come along with the evidence. The service takes a request
every ten seconds or so from one address: a chip's certificate never changes and is kept for long.

Source: Versioned Chip Endorsement Key Certificate and KDS Interface Specification (AMD 57230), 4.
"""

from typing import Literal
from urllib.parse import urlencode

from avalon_core.attestation.chains import name_of
from avalon_core.attestation.snp.certificates import is_key_certificate, read_key_certificate
from avalon_core.attestation.snp.products import Product, decode_tcb
from avalon_core.errors import EvidenceError
from avalon_sdk.collateral.asking import Asker, Piece, Question, Reading
from avalon_sdk.collateral.http import Answer
from avalon_sdk.collateral.reading import (
    MAX_CERTIFICATES_BYTES,
    certificates_of,
    crl_of,
    der_of,
    end_of,
)
from avalon_sdk.collateral.settings import DAY, CollateralSettings
from avalon_sdk.deadline import Deadline

KeyKind = Literal["vcek", "vlek"]

VCEK_MAX_AGE = 365 * DAY
CHAIN_MAX_AGE = 30 * DAY
MAX_CRL_BYTES = 2 * 1024 * 1024
_TURIN_HWID_BYTES = 8
_PARAMETERS = {
    "fmc": "fmcSPL",
    "bootloader": "blSPL",
    "tee": "teeSPL",
    "snp": "snpSPL",
    "microcode": "ucodeSPL",
}


class AmdService:
    """Asks the KDS."""

    def __init__(self, settings: CollateralSettings, asker: Asker) -> None:
        self._questions = AmdQuestions(settings)
        self._asker = asker

    async def vcek(
        self, product: Product, chip_id: bytes, tcb: bytes, *, deadline: Deadline
    ) -> tuple[bytes, Piece]:
        """A chip's certificate for a TCB version, DER.

        Args:
            product: of the chip.
            chip_id: 64 bytes, as in a report.
            tcb: 8 bytes, REPORTED_TCB of a report.
            deadline: for all of it.

        Raises:
            NoSuchCollateral, NotCached, VendorUnreachable, VendorBusy, BadCollateral
        """
        got = await self._asker.ask(self._questions.vcek(product, chip_id, tcb), deadline)
        return got.value, got.piece

    async def issuers(
        self, product: Product, kind: KeyKind, *, deadline: Deadline
    ) -> tuple[tuple[bytes, ...], Piece]:
        """ASK or ASVK, and ARK, DER. Raises as :meth:`vcek`."""
        got = await self._asker.ask(self._questions.issuers(product, kind), deadline)
        return got.value, got.piece

    async def crl(self, product: Product, kind: KeyKind, *, deadline: Deadline) -> tuple[bytes, Piece]:
        """The ARK's CRL, DER. Raises as :meth:`vcek`."""
        got = await self._asker.ask(self._questions.crl(product, kind), deadline)
        return got.value, got.piece


class AmdQuestions:
    """What can be asked, and how each answer is read."""

    def __init__(self, settings: CollateralSettings) -> None:
        self._settings = settings

    def vcek(self, product: Product, chip_id: bytes, tcb: bytes) -> Question[bytes]:
        """A chip's certificate for a TCB version."""
        levels = decode_tcb(tcb, product)
        query = {parameter: levels[name] for name, parameter in _PARAMETERS.items() if name in levels}
        hwid = chip_id[:_TURIN_HWID_BYTES] if product is Product.TURIN else chip_id

        def read(answer: Answer) -> Reading[bytes]:
            certificates = certificates_of(answer.body)
            if len(certificates) != 1 or not is_key_certificate(certificates[0]):
                raise EvidenceError("expected the certificate of a VCEK")
            key = read_key_certificate(certificates[0])
            if (key.product, key.chip_id, key.tcb) != (product, chip_id, tcb):
                raise EvidenceError(
                    f"a certificate of another chip or TCB: got {key.product_name}, TCB {key.tcb.hex()}, expected "
                    f"{product}, TCB {tcb.hex()}"
                )
            return Reading(value=der_of(certificates[0]), ends=end_of(certificates[0]))

        return Question(
            url=f"{self._url('vcek', product)}/{hwid.hex()}?{urlencode(query)}",
            what=f"VCEK of the {product} chip {hwid.hex()[:16]}, TCB {tcb.hex()}",
            read=read,
            max_bytes=MAX_CERTIFICATES_BYTES,
            max_age=VCEK_MAX_AGE,
        )

    def issuers(self, product: Product, kind: KeyKind) -> Question[tuple[bytes, ...]]:
        """ASK or ASVK, and ARK."""
        infix = "VLEK-" if kind == "vlek" else ""
        expected = {f"SEV-{infix}{product}", f"ARK-{product}"}

        def read(answer: Answer) -> Reading[tuple[bytes, ...]]:
            certificates = certificates_of(answer.body)
            # A simulator puts its mark before the names.
            names = {name_of(one).rpartition(" ")[2] for one in certificates}
            if names != expected or len(certificates) != len(expected):
                raise EvidenceError(f"got the certificates {sorted(names)}, expected {sorted(expected)}")
            return Reading(value=tuple(der_of(one) for one in certificates), ends=end_of(*certificates))

        return Question(
            url=f"{self._url(kind, product)}/cert_chain",
            what=f"{kind.upper()} issuers of {product}",
            read=read,
            max_bytes=MAX_CERTIFICATES_BYTES,
            max_age=CHAIN_MAX_AGE,
        )

    def crl(self, product: Product, kind: KeyKind) -> Question[bytes]:
        """The ARK's CRL."""

        def read(answer: Answer) -> Reading[bytes]:
            crl = crl_of(answer.body)
            if not _is_of_ark(crl.issuer.rfc4514_string(), product):
                raise EvidenceError(
                    f"a CRL of {crl.issuer.rfc4514_string()[:100]!r}, expected the one of ARK-{product}"
                )
            return Reading(value=der_of(crl), ends=end_of(crl))

        return Question(
            url=f"{self._url(kind, product)}/crl",
            what=f"CRL of ARK-{product}",
            read=read,
            max_bytes=MAX_CRL_BYTES,
            max_age=self._settings.max_age,
        )

    def _url(self, kind: KeyKind, product: Product) -> str:
        return f"{self._settings.amd_url}/{kind}/v1/{product}"


def _is_of_ark(name: str, product: Product) -> bool:
    return f"ARK-{product}" in name
