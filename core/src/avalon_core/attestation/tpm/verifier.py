"""TPM 2.0 quotes as evidence: of the start of a machine, not of one program, and with no protection of its memory.

The parts of the evidence:

- ``document``: the TPMS_ATTEST that TPM2_Quote returned, without a length before it;
- ``signature``: its TPMT_SIGNATURE;
- ``certificates``: the attestation key's certificate first, then its intermediates and root, DER;
- attachment ``pcrs``: the quoted values: :mod:`avalon_core.attestation.tpm.pcrs`;
- attachment ``event_log``, if at hand: what the firmware and boot loader measured, in any of the encodings of
  :mod:`avalon_core.attestation.tpm.event_log`;
- attachment ``os_event_log``, if at hand: what the operating system measured after that, usually a canonical log.

The steps, each a check of its own name, in this order:

1. *evidence*: everything that is there can be parsed.
2. *chain*, *root*, *validity*: the attestation key's certificate leads to a known root.
   *revocation*: of each certificate that names a CRL, or whose issuer's CRL is at hand.
3. *leaf*: the certificate is none of an authority, and allows signatures.
4. *signature*: over the document, by the certificate's key, of a scheme that is taken.
5. *pcr selection*: PCRs are quoted, of banks of SHA-256, SHA-384 or SHA-512 only.
6. *pcr values*: exactly the quoted ones, and their digest is the quote's.
7. *event log*: replayed, it gives every quoted PCR (a PCR of which it has no event must never have been extended).
8. *event data*: digests that have to be over the logged data are.

What this rests on and cannot check: that the certified key is a *restricted* signing key *in a TPM*. A key that is not
would sign any bytes, also such that look like a quote. Only the authority that certified it has seen to that, so its
root is the word of whoever runs it: know why it is in the policy.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from avalon_core.attestation.chains import check_revocation, load_certificate, load_crl, name_of, verify_chain
from avalon_core.attestation.checks import (
    Check,
    Verdict,
    Verification,
    could_not_check,
    decided,
    failed,
    overall,
    passed,
)
from avalon_core.attestation.claims import REPORT_DATA_BYTES, Claims, Tee
from avalon_core.attestation.collateral import Collateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.roots import TrustAnchor, TrustAnchors
from avalon_core.attestation.tpm.boot_state import BootState, boot_state
from avalon_core.attestation.tpm.event_log import (
    EventLog,
    parse_event_log,
    replay,
    value_without_events,
)
from avalon_core.attestation.tpm.pcrs import PcrValues, decode_pcrs, pcr_policy_digest, selected
from avalon_core.attestation.tpm.signatures import verify_signature
from avalon_core.attestation.tpm.structures import (
    TPM_GENERATED_VALUE,
    TPM_ST_ATTEST_QUOTE,
    BankSelection,
    Quote,
    QuoteSignature,
    parse_quote,
    parse_signature,
)
from avalon_core.errors import EvidenceError, SignatureMismatch

PCRS = "pcrs"
EVENT_LOG = "event_log"
OS_EVENT_LOG = "os_event_log"
"""The attachments that are read; others are ignored."""

_STRONG_BANKS = ("sha256", "sha384", "sha512")
_START = TPM_GENERATED_VALUE.to_bytes(4, "big") + TPM_ST_ATTEST_QUOTE.to_bytes(2, "big")
_ANOTHER_QUOTE = (
    "Do not trust it; ask the worker for fresh evidence, and tell its operator if that fails too."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parsed:
    quote: Quote
    signature: QuoteSignature
    leaf: x509.Certificate
    others: Sequence[x509.Certificate]
    crls: Sequence[x509.CertificateRevocationList]
    pcrs: PcrValues
    logs: Sequence[EventLog]


class TpmFormat:
    """See the module. Satisfies :class:`avalon_core.attestation.evidence.EvidenceFormat`."""

    name = "tpm"
    proof_data_type = "TEE-TPM"

    def detect(self, document: bytes) -> bool:
        return document.startswith(_START)

    def verify(
        self,
        evidence: Evidence,
        *,
        anchors: TrustAnchors,
        collateral: Collateral,
        as_of: datetime,
        grace: timedelta = timedelta(0),
    ) -> Verification:
        expected = "a TPM quote with its signature, certificates, PCR values and event log"
        try:
            parsed = _parse(evidence, collateral)
        except EvidenceError as exc:
            check = could_not_check("evidence", expected=expected, found=exc.message, remedy=_ANOTHER_QUOTE)
            return Verification(checks=[check])
        checks = [passed("evidence", expected=expected, found="a TPM 2.0 quote", source="the evidence")]
        anchor = _check_key(parsed, checks, anchors=anchors, as_of=as_of, grace=grace)
        checks.append(_check_signature(parsed, evidence.document))
        checks.append(_check_selection(parsed.quote.selection))
        if overall(checks) is not Verdict.PASSED or anchor is None:
            # Neither values nor log mean anything beside a quote that does not hold.
            return Verification(checks=checks)
        concatenated = _check_values(parsed, checks)
        if concatenated is None:
            return Verification(checks=checks)
        state = _check_logs(parsed, checks)
        if overall(checks) is not Verdict.PASSED:
            return Verification(checks=checks)
        return Verification(checks=checks, claims=_claims(parsed, anchor, concatenated, state))


def _parse(evidence: Evidence, collateral: Collateral) -> _Parsed:
    if not evidence.certificates:
        raise EvidenceError(
            "the certificate of the attestation key is missing: expected it first of the certificates"
        )
    if PCRS not in evidence.attachments:
        raise EvidenceError(
            f"the values of the quoted PCRs are missing: expected them as the attachment {PCRS!r}"
        )
    leaf, *others = (load_certificate(der) for der in evidence.certificates)
    _require_readable(leaf)
    return _Parsed(
        quote=parse_quote(evidence.document),
        signature=parse_signature(evidence.signature),
        leaf=leaf,
        others=[*others, *(load_certificate(der) for der in collateral.certificates)],
        crls=[load_crl(der) for der in collateral.crls],
        pcrs=decode_pcrs(evidence.attachments[PCRS]),
        logs=[
            parse_event_log(evidence.attachments[name])
            for name in (EVENT_LOG, OS_EVENT_LOG)
            if name in evidence.attachments
        ],
    )


def _require_readable(leaf: x509.Certificate) -> None:
    """Have the library read now what it otherwise reads when it is asked for."""
    try:
        _ = leaf.extensions, leaf.public_key()
    except (
        ValueError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as exc:
        raise EvidenceError(f"the attestation key's certificate cannot be read: {exc}") from None


def _check_key(
    parsed: _Parsed, checks: list[Check], *, anchors: TrustAnchors, as_of: datetime, grace: timedelta
) -> TrustAnchor | None:
    chain = verify_chain(parsed.leaf, parsed.others, anchors=anchors, as_of=as_of)
    checks.extend(chain.checks)
    if chain.anchor is not None:
        checks.extend(_check_revocation(chain.path, parsed.crls, as_of=as_of, grace=grace))
    checks.append(_check_usage(parsed.leaf))
    return chain.anchor


def _check_revocation(
    path: Sequence[x509.Certificate],
    crls: Sequence[x509.CertificateRevocationList],
    *,
    as_of: datetime,
    grace: timedelta,
) -> list[Check]:
    """One check a certificate whose authority publishes CRLs. Many authorities of attestation keys do not."""
    issuers = {crl.issuer for crl in crls}
    return [
        check_revocation([subject, issuer], crls, as_of=as_of, grace=grace)
        for subject, issuer in itertools.pairwise(path)
        if issuer.subject in issuers or _extension(subject, x509.CRLDistributionPoints) is not None
    ]


def _check_usage(leaf: x509.Certificate) -> Check:
    """TCG EK Credential Profile, clause 3: a key that only decrypts attests nothing, and an authority is no TPM."""
    constraints = _extension(leaf, x509.BasicConstraints)
    usage = _extension(leaf, x509.KeyUsage)
    is_authority = constraints is not None and constraints.ca
    signs = usage is None or usage.digital_signature
    found = (
        "the certificate of an authority"
        if is_authority
        else "a key that may sign"
        if signs
        else "no such usage"
    )
    return decided(
        "leaf",
        signs and not is_authority,
        expected="the certificate of an end, whose key may sign",
        found=found,
        source=name_of(leaf),
        remedy="This is not the certificate of an attestation key: the worker's operator has to configure that one.",
    )


_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _public_key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _check_signature(parsed: _Parsed, document: bytes) -> Check:
    scheme = f"{parsed.signature.scheme} with {parsed.signature.hash_name}"
    expected = "a signature over the quote by the key of the first certificate"
    try:
        verify_signature(parsed.leaf.public_key(), parsed.signature, document)
    except EvidenceError as exc:
        return failed("signature", expected=expected, found=exc.message, remedy=_ANOTHER_QUOTE)
    except SignatureMismatch:
        return failed(
            "signature", expected=expected, found=f"{scheme}, which does not verify", remedy=_ANOTHER_QUOTE
        )
    return passed("signature", expected=expected, found=scheme, source=name_of(parsed.leaf))


def _check_selection(selection: Sequence[BankSelection]) -> Check:
    weak = [entry.bank for entry in selection if entry.pcrs and entry.bank not in _STRONG_BANKS]
    return decided(
        "pcr selection",
        any(entry.pcrs for entry in selection) and not weak,
        expected="PCRs of banks " + ", ".join(_STRONG_BANKS),
        found=describe_selection(selection) or "no PCR",
        source="the quote",
        remedy="Have the worker quote the bank of SHA-256: banks of SHA-1 prove nothing any more.",
    )


def describe_selection(selection: Sequence[BankSelection]) -> str:
    """For people and policies: ``sha256:0,1,7``, banks joined with ``+``."""
    return "+".join(f"{entry.bank}:{','.join(map(str, entry.pcrs))}" for entry in selection if entry.pcrs)


def _check_values(parsed: _Parsed, checks: list[Check]) -> bytes | None:
    quote = parsed.quote
    concatenated = selected(parsed.pcrs, quote.selection)
    source = f"the attachment {PCRS}"
    if concatenated is None:
        found = "+".join(f"{bank}:{','.join(map(str, sorted(pcrs)))}" for bank, pcrs in parsed.pcrs.items())
        checks.append(
            failed(
                "pcr values",
                expected=f"the values of {describe_selection(quote.selection)}",
                found=found or "none",
                source=source,
                remedy="Have the worker send the values of exactly the PCRs that it quotes.",
            )
        )
        return None
    digest = hashlib.new(parsed.signature.hash_name, concatenated).digest()
    check = decided(
        "pcr values",
        digest == quote.pcr_digest,
        expected=f"{parsed.signature.hash_name} {quote.pcr_digest.hex()}",
        found=digest.hex(),
        source=source,
        remedy=_ANOTHER_QUOTE,
    )
    checks.append(check)
    return concatenated if check.verdict is Verdict.PASSED else None


def _check_logs(parsed: _Parsed, checks: list[Check]) -> BootState | None:
    if not parsed.logs:
        return None
    selection = parsed.quote.selection
    source = ", ".join(f"{log.encoding} log of {len(log.events)} events" for log in parsed.logs)
    expected = f"the quoted values of {describe_selection(selection)}"
    try:
        differing = _differing(parsed)
    except EvidenceError as exc:
        checks.append(
            could_not_check(
                "event log",
                expected=expected,
                found=exc.message,
                source=source,
                remedy="Have the worker quote a bank that its event log has digests for.",
            )
        )
        return None
    checks.append(
        decided(
            "event log",
            not differing,
            expected=expected,
            found=f"other values of {', '.join(differing)}" if differing else "the same values",
            source=source,
            remedy="The log is not, or not all, of what was measured: have the worker quote only PCRs that its log "
            "covers (the operating system extends others later), or leave the log away and pin the values.",
        )
    )
    if differing:
        return None
    state = boot_state(parsed.logs, selection)
    checks.append(
        decided(
            "event data",
            not state.untrue,
            expected="digests over the data beside them, where the event's type says so",
            found="; ".join(state.untrue[:4]) or "all",
            source=source,
            remedy="Somebody changed the log: do not believe it, and tell the worker's operator.",
        )
    )
    return state


def _differing(parsed: _Parsed) -> list[str]:
    differing = []
    locality = parsed.logs[0].startup_locality
    for entry in parsed.quote.selection:
        if not entry.pcrs:
            continue
        replayed = replay(parsed.logs, entry.bank, entry.pcrs)
        for pcr in entry.pcrs:
            value = replayed.get(pcr, value_without_events(pcr, entry.bank, locality))
            if value != parsed.pcrs[entry.bank][pcr]:
                differing.append(f"{entry.bank}:{pcr}")
    return differing


def _claims(parsed: _Parsed, anchor: TrustAnchor, concatenated: bytes, state: BootState | None) -> Claims:
    quote = parsed.quote
    return Claims(
        tee=Tee.TPM,
        format="TPM 2.0 quote",
        root=anchor.name,
        simulated=anchor.simulated,
        measurement=pcr_policy_digest(quote.selection_raw, concatenated).hex(),
        # At most 64 bytes of TPM2B_DATA's 66 can be report data; a longer value is nobody's.
        report_data=quote.extra_data.ljust(REPORT_DATA_BYTES, b"\0"),
        debug=state is not None and state.debug_mode,
        registers=_registers(parsed.pcrs),
        attributes=_attributes(parsed, concatenated, state),
    )


def _registers(values: PcrValues) -> Mapping[str, str]:
    """``pcr7`` of the bank of SHA-256, ``pcr7_sha384`` of others."""
    return {
        f"pcr{pcr}" if bank == "sha256" else f"pcr{pcr}_{bank}": value.hex()
        for bank, pcrs in values.items()
        for pcr, value in sorted(pcrs.items())
    }


def _attributes(parsed: _Parsed, concatenated: bytes, state: BootState | None) -> Mapping[str, str]:
    quote = parsed.quote
    attributes = {
        "pcr_selection": describe_selection(quote.selection),
        "pcr_digest": hashlib.sha256(concatenated).hexdigest(),
        "attestation_key": hashlib.sha256(_public_key(parsed.leaf)).hexdigest(),
        "attestation_key_name": name_of(parsed.leaf),
        "qualified_signer": quote.qualified_signer.hex(),
        "signature_scheme": f"{parsed.signature.scheme}-{parsed.signature.hash_name}",
        "tpm_firmware_version": f"{quote.firmware_version:016x}",
        "reset_count": str(quote.reset_count),
        "restart_count": str(quote.restart_count),
        "clock_milliseconds": str(quote.clock_milliseconds),
        "clock_safe": "yes" if quote.clock_safe else "no",
        "event_log": "+".join(log.encoding for log in parsed.logs) or "none",
        "secure_boot": "unknown" if state is None else state.secure_boot,
    }
    if state is not None:
        attributes["separators"] = ",".join(map(str, state.separated))
        attributes["logged_efi_actions"] = "; ".join(state.actions)
        if state.kernel_command_line is not None:
            attributes["logged_kernel_command_line"] = state.kernel_command_line
    return attributes


TPM = TpmFormat()
