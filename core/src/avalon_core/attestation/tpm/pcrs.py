"""PCR values beside a quote: their encoding, and what a quote says of them.

A quote carries only a digest over the PCRs. Their values travel apart, as the attachment ``pcrs``, in JSON:

    {"sha256": {"0": "<hex>", "4": "<hex>", "7": "<hex>"}}

Banks by the name of their hash, PCRs by decimal number, values in lower-case hex. They have to be those that were
quoted, no more and no fewer: for any other value nobody vouches.
"""

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from avalon_core.attestation.tpm.structures import HASH_BYTES, MAX_BANKS, MAX_PCRS, BankSelection
from avalon_core.errors import EncodingError, EvidenceError
from avalon_core.protocol.encodings import decode_lower_hex

PcrValues = Mapping[str, Mapping[int, bytes]]
"""By bank, then by number."""

MAX_PCRS_BYTES = 64 * 1024
"""Of the attachment. Eight banks of 32 PCRs of 64 bytes, in hex and with their punctuation, stay below."""

_POLICY_PCR = (0x0000017F).to_bytes(4, "big")
"""TPM_CC_PolicyPCR."""


def decode_pcrs(data: bytes) -> PcrValues:
    """Read the attachment ``pcrs``.

    Raises:
        EvidenceError: not of the shape that the module shows, or larger than a cap.
    """
    if len(data) > MAX_PCRS_BYTES:
        raise EvidenceError(
            f"the PCR values are too large: got {len(data)} bytes, expected at most {MAX_PCRS_BYTES}"
        )
    try:
        banks = msgspec.json.decode(data, type=dict[str, dict[str, str]])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise EvidenceError(f"the PCR values cannot be read: {exc}") from None
    if len(banks) > MAX_BANKS:
        raise EvidenceError(f"the PCR values: too many banks: got {len(banks)}, expected at most {MAX_BANKS}")
    return {bank: _decode_bank(bank, values) for bank, values in banks.items()}


def encode_pcrs(values: PcrValues) -> bytes:
    """Write the attachment ``pcrs``."""
    return msgspec.json.encode(
        {bank: {str(pcr): pcrs[pcr].hex() for pcr in sorted(pcrs)} for bank, pcrs in values.items()}
    )


def selected(values: PcrValues, selection: Sequence[BankSelection]) -> bytes | None:
    """The values of a selection, one after another as a TPM digests them: bank by bank, ascending in each.

    Returns:
        None where the values are not exactly those of the selection.
    """
    expected = {entry.bank: entry.pcrs for entry in selection if entry.pcrs}
    if {bank: tuple(sorted(pcrs)) for bank, pcrs in values.items() if pcrs} != expected:
        return None
    return b"".join(values[entry.bank][pcr] for entry in selection for pcr in entry.pcrs)


def pcr_policy_digest(selection_raw: bytes, concatenated: bytes) -> bytes:
    """The digest of a policy session after one TPM2_PolicyPCR of these values: what data is sealed under.

    SHA-256(32 zero bytes || TPM_CC_PolicyPCR || TPML_PCR_SELECTION || SHA-256(values)): TCG, TPM Library, Part 3,
    clause 23.7. ``tpm2_createpolicy --policy-pcr`` of tpm2-tools computes the same.

    Args:
        selection_raw: the TPML_PCR_SELECTION as the TPM writes it.
        concatenated: the values of the selection: see :func:`selected`.
    """
    digest = hashlib.sha256(concatenated).digest()
    return hashlib.sha256(bytes(32) + _POLICY_PCR + selection_raw + digest).digest()


def _decode_bank(bank: str, values: Mapping[str, str]) -> Mapping[int, bytes]:
    width = HASH_BYTES.get(bank)
    if width is None:
        raise EvidenceError(
            f"the PCR values: unknown bank: got {bank[:16]!r}, expected one of {', '.join(HASH_BYTES)}"
        )
    decoded = {}
    for name, text in values.items():
        if not (name.isascii() and name.isdecimal() and len(name) <= 2 and str(int(name)) == name):
            raise EvidenceError(
                f"the PCR values: a PCR's number: got {name[:16]!r}, expected a decimal number"
            )
        if int(name) >= MAX_PCRS:
            raise EvidenceError(f"the PCR values: got PCR {name}, expected at most {MAX_PCRS - 1}")
        try:
            value = decode_lower_hex(text, what=f"the value of PCR {name}")
        except EncodingError as exc:
            raise EvidenceError(f"the PCR values: {exc.message}") from None
        if len(value) != width:
            raise EvidenceError(f"PCR {name} of bank {bank}: got {len(value)} bytes, expected {width}")
        decoded[int(name)] = value
    return decoded
