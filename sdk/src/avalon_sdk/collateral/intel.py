"""Intel's collateral, from the provisioning certification service (PCS) or a caching service (PCCS), API version 4.

    /sgx/certification/v4/tcb?fmspc=               TCB info; its issuer chain is in a header
    /tdx/certification/v4/tcb?fmspc=
    /sgx/certification/v4/qe/identity              QE identity, likewise
    /tdx/certification/v4/qe/identity
    /sgx/certification/v4/pckcrl?ca=&encoding=der  CRL of the PCK CA (platform or processor), likewise
    /sgx/certification/v4/pckcert?...              one platform's PCK certificate, likewise
    /sgx/certification/v4/rootcacrl                CRL of the root: a PCCS only; else its distribution point

Statements are kept as the very texts that came: their signatures cover them, and JSON that is written anew is another text.

Source: Intel SGX and TDX Provisioning Certification Service API v4; Intel SGX PCCS Design Guide.
"""

from collections.abc import Mapping
from typing import Literal, TypeVar
from urllib.parse import quote, unquote, urlencode

import msgspec
from cryptography import x509

from avalon_core.attestation.collateral import DcapCollateral
from avalon_core.attestation.dcap.pck import fmspc_of, platform_of
from avalon_core.attestation.dcap.quotes import CertificationType, PlatformIdentifiers
from avalon_core.attestation.dcap.tcb_info import (
    MAX_STATEMENT_CHARS,
    QeIdentity,
    TcbInfo,
    parse_qe_identity,
    parse_tcb_info,
)
from avalon_core.errors import EvidenceError
from avalon_sdk.collateral.asking import Asker, Piece, Question, Reading
from avalon_sdk.collateral.errors import BadCollateral, NoSuchCollateral
from avalon_sdk.collateral.http import Answer
from avalon_sdk.collateral.reading import (
    MAX_CERTIFICATES_BYTES,
    certificates_of,
    crl_of,
    der_of,
    end_of,
    pem_text,
    require_issuer,
)
from avalon_sdk.collateral.settings import DAY, CollateralSettings
from avalon_sdk.deadline import Deadline

Tee = Literal["sgx", "tdx"]
Ca = Literal["platform", "processor"]

TCB_CHAIN = ("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain")
"""The second is that of version 3, which some services still send."""

QE_CHAIN = ("sgx-enclave-identity-issuer-chain", "enclave-identity-issuer-chain")
CRL_CHAIN = ("sgx-pck-crl-issuer-chain",)
PCK_CHAIN = ("sgx-pck-certificate-issuer-chain",)
MAX_STATEMENT_BYTES = MAX_STATEMENT_CHARS + 1024
MAX_CRL_BYTES = 2 * 1024 * 1024
PCK_MAX_AGE = 30 * DAY
"""A platform's certificate of one TCB changes hardly ever; Intel issues new ones after a recovery."""

_KEY_HEADER = "Ocp-Apim-Subscription-Key"
_SIGNATURE_BYTES = 64
_ROOT_NAME = "SGX Root CA"
_T = TypeVar("_T")
_CAS: tuple[Ca, ...] = ("platform", "processor")


class _TcbAnswer(msgspec.Struct, frozen=True, rename="camel"):
    tcb_info: msgspec.Raw
    signature: str


class _QeAnswer(msgspec.Struct, frozen=True, rename="camel"):
    enclave_identity: msgspec.Raw
    signature: str


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """A signed statement, and who signed it."""

    text: str
    """The raw text that the signature covers."""

    signature: str
    """Hex."""

    chain: str
    """PEM of its issuers."""


class PckCrl(msgspec.Struct, frozen=True, kw_only=True):
    """The CRL of a PCK CA."""

    der: bytes
    chain: str
    """PEM of the CA and the root."""


class IntelService:
    """Asks a PCS or PCCS."""

    def __init__(self, settings: CollateralSettings, asker: Asker) -> None:
        self._questions = IntelQuestions(settings)
        self._asker = asker

    async def collateral(
        self, tee: Tee, fmspc: str, ca: Ca, *, deadline: Deadline, pck_chain: str | None = None
    ) -> tuple[DcapCollateral, tuple[Piece, ...]]:
        """All that is published about a platform.

        Args:
            tee: ``sgx`` or ``tdx``.
            fmspc: 12 lower-case hex digits.
            ca: which CA certifies the platform.
            deadline: for all of it.
            pck_chain: PEM, for quotes that carry none.

        Raises:
            NoSuchCollateral, NotCached, VendorUnreachable, VendorBusy, BadCollateral
        """
        ask, questions = self._asker.ask, self._questions
        tcb = await ask(questions.tcb_info(tee, fmspc), deadline)
        identity = await ask(questions.qe_identity(tee), deadline)
        crl = await ask(questions.pck_crl(ca), deadline)
        root_crl = await ask(questions.root_crl(), deadline)
        collateral = DcapCollateral(
            pck_crl_issuer_chain=crl.value.chain,
            root_ca_crl=root_crl.value.hex(),
            pck_crl=crl.value.der.hex(),
            tcb_info_issuer_chain=tcb.value.chain,
            tcb_info=tcb.value.text,
            tcb_info_signature=tcb.value.signature,
            qe_identity_issuer_chain=identity.value.chain,
            qe_identity=identity.value.text,
            qe_identity_signature=identity.value.signature,
            pck_certificate_chain=pck_chain,
        )
        return collateral, (tcb.piece, identity.piece, crl.piece, root_crl.piece)

    async def pck_chain(
        self, platform: PlatformIdentifiers, kind: CertificationType, qe_id: bytes, *, deadline: Deadline
    ) -> tuple[tuple[x509.Certificate, ...], Piece]:
        """The certificates of a platform that a quote only names (certification data of types 1 to 3), leaf first.

        Raises:
            NoSuchCollateral: nobody can ask for it, or it is not known.
            NotCached, VendorUnreachable, VendorBusy, BadCollateral
        """
        got = await self._asker.ask(self._questions.pck_certificate(platform, kind, qe_id), deadline)
        return got.value, got.piece


class IntelQuestions:
    """What can be asked, and how each answer is read."""

    def __init__(self, settings: CollateralSettings) -> None:
        self._settings = settings

    def tcb_info(self, tee: Tee, fmspc: str) -> Question[Statement]:
        """TCB info of a family of platforms."""
        query = {"fmspc": fmspc}
        if self._settings.tcb_update != "standard":
            query["update"] = self._settings.tcb_update

        def read(answer: Answer) -> Reading[Statement]:
            parts = _decoded(answer.body, _TcbAnswer)
            text = _text(parts.tcb_info)
            info = parse_tcb_info(text)
            if (info.id.lower(), info.fmspc.lower()) != (tee, fmspc):
                raise EvidenceError(
                    f"got TCB info of {info.id[:8]!r}, FMSPC {info.fmspc[:16]!r}, expected {tee.upper()}, {fmspc}"
                )
            return _statement(text, parts.signature, _chain(answer, TCB_CHAIN), info)

        return Question(
            url=self._url(tee, "tcb", query),
            what=f"{tee.upper()} TCB info of FMSPC {fmspc}",
            read=read,
            max_bytes=MAX_STATEMENT_BYTES,
            max_age=self._settings.max_age,
            keep_headers=TCB_CHAIN,
        )

    def qe_identity(self, tee: Tee) -> Question[Statement]:
        """The identity of the quoting enclave."""
        query = {} if self._settings.tcb_update == "standard" else {"update": self._settings.tcb_update}
        expected = "QE" if tee == "sgx" else "TD_QE"

        def read(answer: Answer) -> Reading[Statement]:
            parts = _decoded(answer.body, _QeAnswer)
            text = _text(parts.enclave_identity)
            identity = parse_qe_identity(text)
            if identity.id != expected:
                raise EvidenceError(f"got the identity of {identity.id[:16]!r}, expected {expected}")
            return _statement(text, parts.signature, _chain(answer, QE_CHAIN), identity)

        return Question(
            url=self._url(tee, "qe/identity", query),
            what=f"{tee.upper()} QE identity",
            read=read,
            max_bytes=MAX_STATEMENT_BYTES,
            max_age=self._settings.max_age,
            keep_headers=QE_CHAIN,
        )

    def pck_crl(self, ca: Ca) -> Question[PckCrl]:
        """The CRL of the CA that certifies platforms."""

        def read(answer: Answer) -> Reading[PckCrl]:
            chain = _chain(answer, CRL_CHAIN)
            crl = require_issuer(crl_of(answer.body), chain)
            if ca_of(crl.issuer) != ca:
                raise EvidenceError(f"a CRL of {crl.issuer.rfc4514_string()[:100]!r}, expected the {ca} CA's")
            return Reading(value=PckCrl(der=der_of(crl), chain=pem_text(chain)), ends=end_of(crl))

        return Question(
            url=self._url("sgx", "pckcrl", {"ca": ca, "encoding": "der"}),
            what=f"CRL of the PCK {ca} CA",
            read=read,
            max_bytes=MAX_CRL_BYTES,
            max_age=self._settings.max_age,
            keep_headers=CRL_CHAIN,
        )

    def root_crl(self) -> Question[bytes]:
        """The CRL of the root, DER."""
        settings = self._settings
        is_pccs = settings.intel_kind == "pccs"

        def read(answer: Answer) -> Reading[bytes]:
            crl = crl_of(answer.body)
            if _ROOT_NAME not in crl.issuer.rfc4514_string():
                raise EvidenceError(
                    f"a CRL of {crl.issuer.rfc4514_string()[:100]!r}, expected the SGX root CA's"
                )
            return Reading(value=der_of(crl), ends=end_of(crl))

        return Question(
            url=self._url("sgx", "rootcacrl", {}) if is_pccs else settings.intel_root_crl_url,
            what="CRL of the SGX root CA",
            read=read,
            max_bytes=MAX_CRL_BYTES,
            max_age=settings.max_age,
        )

    def pck_certificate(
        self, platform: PlatformIdentifiers, kind: CertificationType, qe_id: bytes
    ) -> Question[tuple[x509.Certificate, ...]]:
        """A platform's certificate and its issuers, leaf first.

        Raises:
            NoSuchCollateral: this service cannot be asked by what the quote says.
        """
        query = {
            "cpusvn": platform.cpusvn.hex(),
            "pcesvn": platform.pcesvn.to_bytes(2, "little").hex(),
            "pceid": platform.pceid.to_bytes(2, "little").hex(),
        }
        has_encrypted_ppid = kind is CertificationType.PPID_RSA_3072
        if has_encrypted_ppid:
            query = {"encrypted_ppid": platform.ppid.hex(), **query}
        if self._settings.intel_kind == "pccs":
            # A PCCS finds platforms by their quoting enclave, and goes on to Intel with the PPID where it has to.
            query = {"qeid": qe_id.hex(), **query}
        elif not has_encrypted_ppid:
            raise NoSuchCollateral(
                f"the quote names its platform by certification data of type {int(kind)}, and Intel's service is asked by type "
                "3 only: ask the operator's PCCS (--pccs), or for a quote with the PCK chain in it"
            )

        def read(answer: Answer) -> Reading[tuple[x509.Certificate, ...]]:
            chain = (*certificates_of(answer.body)[:1], *_chain(answer, PCK_CHAIN))
            said = platform_of(chain[0])
            if said.pcesvn > platform.pcesvn:
                raise EvidenceError("a PCK certificate of a newer TCB than the platform's")
            return Reading(value=chain, ends=end_of(chain[0]))

        return Question(
            url=self._url("sgx", "pckcert", query),
            what="PCK certificate",
            read=read,
            max_bytes=MAX_CERTIFICATES_BYTES,
            max_age=PCK_MAX_AGE,
            keep_headers=PCK_CHAIN,
            request_headers=self._key_headers,
        )

    def _key_headers(self) -> Mapping[str, str]:
        source = self._settings.intel_key
        return {} if source is None else {_KEY_HEADER: source()}

    def _url(self, tee: Tee, path: str, query: Mapping[str, str]) -> str:
        url = f"{self._settings.intel_url}/{tee}/certification/v4/{path}"
        return f"{url}?{urlencode(query)}" if query else url


def ca_of(name: x509.Name) -> Ca | None:
    """Which of the PCK CAs a name is; None where it is neither."""
    common = [str(one.value) for one in name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    for ca in _CAS:
        if any(f"pck {ca} ca" in text.lower() for text in common):
            return ca
    return None


def ca_and_fmspc(leaf: x509.Certificate) -> tuple[Ca, str]:
    """What a PCK certificate says of where to look.

    Raises:
        EvidenceError: no PCK certificate, or of another CA than those that are known.
    """
    ca = ca_of(leaf.issuer)
    if ca is None:
        raise EvidenceError(
            f"a PCK certificate of an unknown issuer: got {leaf.issuer.rfc4514_string()[:100]!r}, expected the PCK platform CA "
            "or the PCK processor CA"
        )
    return ca, fmspc_of(leaf)


def header_of(pem: str) -> str:
    """A chain as it travels in a header."""
    return quote(pem, safe="")


def _decoded(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as exc:
        raise EvidenceError(f"not the JSON of a statement: {exc}") from None


def _text(raw: msgspec.Raw) -> str:
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError:
        raise EvidenceError("a statement that is not UTF-8") from None


def _statement(
    text: str, signature: str, chain: tuple[x509.Certificate, ...], said: TcbInfo | QeIdentity
) -> Reading[Statement]:
    try:
        is_signature = len(bytes.fromhex(signature)) == _SIGNATURE_BYTES
    except ValueError:
        is_signature = False
    if not is_signature:
        raise EvidenceError(f"a signature that is none: expected {_SIGNATURE_BYTES} bytes in hex")
    value = Statement(text=text, signature=signature, chain=pem_text(chain))
    return Reading(value=value, ends=int(said.next_update.timestamp()))


def _chain(answer: Answer, names: tuple[str, ...]) -> tuple[x509.Certificate, ...]:
    """The issuer chain in the first of these headers that is there."""
    for name in names:
        if name in answer.headers:
            pem = unquote(answer.headers[name])
            if len(pem) > MAX_CERTIFICATES_BYTES:
                raise EvidenceError(f"the header {name} is too large")
            try:
                return certificates_of(pem.encode())
            except EvidenceError as exc:
                raise EvidenceError(f"the header {name}: {exc.message}") from None
    raise BadCollateral(
        f"no issuer chain came: expected the header {names[0]}. A proxy in between may have taken it off"
    )
