"""The body of an attestation verification report: JSON, whose very bytes IAS signed.

Members: IAS, *Data structures, Attestation verification report*. Members that are not known here are let be: the
signature covers them, and Intel has added some in the service's lifetime. A body of API version 2 says no version.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from avalon_core.attestation.claims import TcbStatus
from avalon_core.attestation.sgx_epid.json_text import parse_object
from avalon_core.attestation.sgx_epid.quote_body import QuoteBody, parse_quote_body
from avalon_core.errors import EncodingError, EvidenceError
from avalon_core.protocol.encodings import decode_canonical_base64

MAX_REPORT_BYTES = 16 * 1024
"""Real bodies have about 1100 bytes."""

MAX_TEXT_CHARS = 1024
"""Of any member but the quote body. The longest real one, the pseudonym, has 172; a platform info blob 210."""

MAX_ADVISORIES = 256
VERSIONS = range(2, 6)
_FIRST_VERSION = 2
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?", re.ASCII)
_ADVISORY = re.compile(r"[A-Z0-9-]{1,40}", re.ASCII)

TCB_STATUSES: Mapping[str, TcbStatus] = {
    "OK": TcbStatus.UP_TO_DATE,
    "GROUP_OUT_OF_DATE": TcbStatus.OUT_OF_DATE,
    "SW_HARDENING_NEEDED": TcbStatus.SW_HARDENING_NEEDED,
    "CONFIGURATION_NEEDED": TcbStatus.CONFIGURATION_NEEDED,
    "CONFIGURATION_AND_SW_HARDENING_NEEDED": TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
}
"""The quote statuses with which IAS says: the quote's signature holds, and this is the platform's state."""

REFUSED_STATUSES: Mapping[str, str] = {
    "SIGNATURE_INVALID": "the quote's EPID signature does not hold: no genuine platform signed it",
    "GROUP_REVOKED": "the platform's whole EPID group is revoked",
    "SIGNATURE_REVOKED": "the platform is revoked, by a signature of its own",
    "KEY_REVOKED": "the platform's key is known to attackers and revoked",
    "SIGRL_VERSION_MISMATCH": "the quote was not checked against the newest revocation list",
}
"""The quote statuses with which IAS vouches for nothing in the quote. There are no claims then: a quote by a revoked key
may be anybody's invention, so that not even "revoked" is a fact about an enclave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report of the published shape. Its signature has not been verified."""

    version: int
    """Of the API: 2 to 5."""

    id: str
    timestamp: datetime
    """When IAS made the report."""

    quote_status: str
    """``isvEnclaveQuoteStatus``, as it came."""

    quote: QuoteBody
    nonce: str | None
    epid_pseudonym: str | None
    """Base64. For linkable quotes, the same for all of one platform and one service provider."""

    advisory_url: str | None
    advisories: frozenset[str]
    """Unsigned before version 3, and then never read."""

    platform_info_blob: str | None
    """Hex, to be handed to Intel's software on the platform."""

    revocation_reason: int | None
    """With GROUP_REVOKED: a CRLReason of RFC 5280."""

    tcb_evaluation: int | None
    """``tcbEvaluationDataNumber``, since version 5."""


def parse_report(body: bytes) -> Report:
    """Read the body.

    Raises:
        EvidenceError: not of the published shape, or with a member twice.
    """
    members = parse_object(body, what="the attestation verification report", max_bytes=MAX_REPORT_BYTES)
    return Report(
        version=_version(members),
        id=_required(members, "id"),
        timestamp=_timestamp(_required(members, "timestamp")),
        quote_status=_required(members, "isvEnclaveQuoteStatus"),
        quote=_quote(_required(members, "isvEnclaveQuoteBody")),
        nonce=_text(members, "nonce"),
        epid_pseudonym=_text(members, "epidPseudonym"),
        advisory_url=_text(members, "advisoryURL"),
        advisories=_advisories(members.get("advisoryIDs")),
        platform_info_blob=_text(members, "platformInfoBlob"),
        revocation_reason=_number(members, "revocationReason"),
        tcb_evaluation=_number(members, "tcbEvaluationDataNumber"),
    )


def _version(members: Mapping[str, Any]) -> int:
    version = _number(members, "version")
    if version is None:
        return _FIRST_VERSION
    if version not in VERSIONS:
        raise EvidenceError(
            f"an attestation verification report of version {version}, "
            f"expected {VERSIONS.start} to {VERSIONS.stop - 1}"
        )
    return version


def _required(members: Mapping[str, Any], name: str) -> str:
    value = _text(members, name)
    if value is None:
        raise EvidenceError(f"the attestation verification report lacks {name}")
    return value


def _text(members: Mapping[str, Any], name: str) -> str | None:
    value = members.get(name)
    if value is not None and (not isinstance(value, str) or len(value) > MAX_TEXT_CHARS):
        raise EvidenceError(f"{name} must be a text of at most {MAX_TEXT_CHARS} characters")
    return value


def _number(members: Mapping[str, Any], name: str) -> int | None:
    value = members.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise EvidenceError(f"{name} must be a number from 0 on")
    return value


def _timestamp(text: str) -> datetime:
    match = _TIMESTAMP.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        # Fractions of a second are cut: no rule here is that fine.
        return datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    except ValueError:
        raise EvidenceError(
            "timestamp must be as 2020-05-11T09:21:15.454051, in UTC without a zone"
        ) from None


def _quote(text: str) -> QuoteBody:
    try:
        return parse_quote_body(decode_canonical_base64(text, what="isvEnclaveQuoteBody"))
    except EncodingError as exc:
        raise EvidenceError(exc.message) from None


def _advisories(value: Any) -> frozenset[str]:
    if value is None:
        return frozenset()
    if not isinstance(value, list) or len(value) > MAX_ADVISORIES:
        raise EvidenceError(f"advisoryIDs must be an array of at most {MAX_ADVISORIES} texts")
    for entry in value:
        if not isinstance(entry, str) or not _ADVISORY.fullmatch(entry):
            raise EvidenceError("an entry of advisoryIDs must be as INTEL-SA-00334")
    return frozenset(value)
