"""The virtual TPM's quote: over what the guest booted, and over data of the guest's choice.

Three attachments, encoded as evidence of real TPMs is (:mod:`avalon_core.attestation.tpm`): ``tpm_quote``, a TPMS_ATTEST;
``tpm_signature``, a TPMT_SIGNATURE over it; ``pcrs``, the values that were quoted, in JSON. ``pcrs`` may be absent: then
the claims have no registers. The key is the one that the hardware report covers; no certificate of it is needed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import rsa

from avalon_core.attestation.checks import (
    Check,
    Verdict,
    could_not_check,
    decided,
    failed,
    overall,
    passed,
)
from avalon_core.attestation.tpm.pcrs import PcrValues, decode_pcrs, selected
from avalon_core.attestation.tpm.signatures import verify_signature
from avalon_core.attestation.tpm.structures import Quote, QuoteSignature, parse_quote, parse_signature
from avalon_core.errors import EvidenceError, SignatureMismatch

TPM_QUOTE = "tpm_quote"
TPM_SIGNATURE = "tpm_signature"
PCRS = "pcrs"
MAX_QUALIFYING_BYTES = 64
"""Report data has 64 bytes."""

_BANK = "sha256"
_SOURCE = "TPM 2.0 Library, Part 2, 10.12"
_REMEDY = "Ask the worker for a fresh quote of its virtual TPM, with its signature and the quoted PCR values."


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedQuote:
    """What a verified quote says."""

    qualifying_data: bytes
    """At most 64 bytes, chosen by the guest."""

    registers: Mapping[str, str]
    """Hex by ``pcr0`` for the bank of SHA-256, ``pcr0_sha384`` for another; empty where no values were given."""

    attributes: Mapping[str, str]


def verify_vtpm(
    attachments: Mapping[str, bytes], key: rsa.RSAPublicKey
) -> tuple[Sequence[Check], VerifiedQuote | None]:
    """Verify the quote under the TPM's attestation key.

    Returns:
        No check and None where no part of a quote is attached. Else the checks ``tpm quote``, ``tpm signature`` and
        ``pcrs``, and what the quote says where all of them passed.
    """
    if not attachments.keys() & {TPM_QUOTE, TPM_SIGNATURE, PCRS}:
        return (), None
    missing = [name for name in (TPM_QUOTE, TPM_SIGNATURE) if name not in attachments]
    if missing:
        return (_missing(missing),), None
    try:
        quote = parse_quote(attachments[TPM_QUOTE])
        signature = parse_signature(attachments[TPM_SIGNATURE])
        values = decode_pcrs(attachments[PCRS]) if PCRS in attachments else None
    except EvidenceError as exc:
        return (_unreadable(exc),), None
    checks = [_check_quote(quote), _check_signature(key, signature, attachments[TPM_QUOTE])]
    if values is not None:
        checks.append(_check_pcrs(quote, values, signature.hash_name))
    if overall(checks) is not Verdict.PASSED:
        return checks, None
    verified = VerifiedQuote(
        qualifying_data=quote.extra_data, registers=_registers(values or {}), attributes=_attributes(quote)
    )
    return checks, verified


def _missing(names: Sequence[str]) -> Check:
    return could_not_check(
        "tpm quote",
        expected="a TPM quote with its signature",
        found=f"no {' and no '.join(names)}",
        source=_SOURCE,
        remedy=_REMEDY,
    )


def _unreadable(exc: EvidenceError) -> Check:
    return failed(
        "tpm quote",
        expected="a TPM quote, its signature and PCR values",
        found=exc.message,
        source=_SOURCE,
        remedy=_REMEDY,
    )


def _check_quote(quote: Quote) -> Check:
    size = len(quote.extra_data)
    return decided(
        "tpm quote",
        size <= MAX_QUALIFYING_BYTES,
        expected=f"a TPM quote over at most {MAX_QUALIFYING_BYTES} bytes of qualifying data",
        found=f"one over {size} bytes",
        source=_SOURCE,
        remedy=_REMEDY,
    )


def _check_signature(key: rsa.RSAPublicKey, signature: QuoteSignature, signed: bytes) -> Check:
    expected = "a signature of the quote by the TPM key that the hardware report covers"
    try:
        verify_signature(key, signature, signed)
    except (EvidenceError, SignatureMismatch) as exc:
        return failed("tpm signature", expected=expected, found=exc.message, source=_SOURCE, remedy=_REMEDY)
    return passed("tpm signature", expected=expected, found=f"{signature.scheme}, it holds", source=_SOURCE)


def _check_pcrs(quote: Quote, values: PcrValues, hash_name: str) -> Check:
    concatenated = selected(values, quote.selection)
    fits = concatenated is not None and hashlib.new(hash_name, concatenated).digest() == quote.pcr_digest
    return decided(
        "pcrs",
        fits,
        expected="exactly the PCR values that were quoted",
        found="they are" if fits else "other values, or of other PCRs",
        source=_SOURCE,
        remedy=_REMEDY,
    )


def _registers(values: PcrValues) -> Mapping[str, str]:
    return {
        f"pcr{number}" if bank == _BANK else f"pcr{number}_{bank}": value.hex()
        for bank, pcrs in values.items()
        for number, value in pcrs.items()
    }


def _attributes(quote: Quote) -> Mapping[str, str]:
    return {
        "tpm_pcr_digest": quote.pcr_digest.hex(),
        "tpm_clock": str(quote.clock_milliseconds),
        "tpm_reset_count": str(quote.reset_count),
        "tpm_restart_count": str(quote.restart_count),
    }
