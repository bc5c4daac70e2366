"""Evidence as it travels, and what a format has to be able to do with it.

Every kind of evidence is one main document and what belongs to it: a detached signature, certificates, an event log.
A format parses and verifies it, purely: time and collateral are arguments.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Protocol

from avalon_core.attestation.checks import Verification
from avalon_core.attestation.collateral import Collateral
from avalon_core.attestation.roots import TrustAnchors
from avalon_core.errors import EvidenceError

MAX_DOCUMENT_BYTES = 128 * 1024
"""The largest real documents (TPM event logs apart) are below 16 KiB."""

MAX_ATTACHMENT_BYTES = 2 * 1024 * 1024
"""Event logs of real machines have some tens of kilobytes; Linux caps IMA logs far higher, which we do not take."""

MAX_CERTIFICATES = 16
MAX_CERTIFICATE_BYTES = 16 * 1024
MAX_ATTACHMENTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Evidence of one kind. Nothing in it has been verified.

    Raises:
        EvidenceError: a part is larger than its cap.
    """

    format: str
    """The name of the format: see :data:`avalon_core.attestation.formats.FORMATS`."""

    document: bytes
    """The quote, report or attestation document, raw."""

    signature: bytes = b""
    """Where it is apart from the document: IAS reports, TPM quotes."""

    certificates: tuple[bytes, ...] = ()
    """DER, leaf first, where they travel beside the document: SNP, IAS, TPM."""

    attachments: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    """Other parts by name: ``event_log``, ``pcrs``, ``tpm_quote``. Each format says which it reads."""

    def __post_init__(self) -> None:
        _cap("the document", len(self.document), MAX_DOCUMENT_BYTES)
        _cap("the signature", len(self.signature), MAX_DOCUMENT_BYTES)
        _cap("the number of certificates", len(self.certificates), MAX_CERTIFICATES)
        _cap("the number of attachments", len(self.attachments), MAX_ATTACHMENTS)
        for certificate in self.certificates:
            _cap("a certificate", len(certificate), MAX_CERTIFICATE_BYTES)
        for name, attachment in self.attachments.items():
            _cap(f"the attachment {name[:32]!r}", len(attachment), MAX_ATTACHMENT_BYTES)


def _cap(what: str, size: int, most: int) -> None:
    if size > most:
        raise EvidenceError(f"{what} of the evidence is too large: got {size}, expected at most {most}")


class EvidenceFormat(Protocol):
    """One kind of evidence."""

    @property
    def name(self) -> str:
        """As in :attr:`Evidence.format` and on the command line: ``sgx-dcap``."""

    @property
    def proof_data_type(self) -> str:
        """As in worker records: ``TEE-SGX-DCAP``."""

    def detect(self, document: bytes) -> bool:
        """Whether the raw bytes look like this kind of document (cheap, by magic numbers; no promise)."""

    def verify(
        self,
        evidence: Evidence,
        *,
        anchors: TrustAnchors,
        collateral: Collateral,
        as_of: datetime,
        grace: timedelta = timedelta(0),
    ) -> Verification:
        """Parse, then check every signature up to a known root.

        Args:
            evidence: of this format.
            anchors: the known roots. Another root is a failed check ``root``.
            collateral: what the vendor publishes about the platform. What is needed and missing is a check that
                could not be made.
            as_of: the time (with a zone) of which the outcome speaks: certificates, CRLs and TCB info are judged at it.
            grace: how long after its end collateral is still taken.

        Returns:
            The checks, and the claims where all of them passed. It raises nothing for bad evidence.
        """
