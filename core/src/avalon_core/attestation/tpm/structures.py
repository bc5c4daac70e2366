"""The two structures of a TPM 2.0 quote, parsed: TPMS_ATTEST, which is signed, and TPMT_SIGNATURE.

Source: TCG, Trusted Platform Module Library, Part 2: Structures, revision 1.59: clause 10.12 (attestation structures),
11.3 (signatures), 10.6 (PCR selections), 6.3 (TPM_ALG_ID). All integers are big-endian. The whole input has to be the
structure; a byte too many is refused, and so is every selection that could be read in two ways.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from avalon_core.attestation.tpm.cursor import Cursor
from avalon_core.errors import EvidenceError

TPM_GENERATED_VALUE = 0xFF544347
"""``ff`` and "TCG": a TPM's restricted keys sign nothing that starts so unless the TPM itself made it (clause 6.2)."""

TPM_ST_ATTEST_QUOTE = 0x8018

ALG_SHA1 = 0x0004
ALG_SHA256 = 0x000B
ALG_SHA384 = 0x000C
ALG_SHA512 = 0x000D
ALG_RSASSA = 0x0014
ALG_RSAPSS = 0x0016
ALG_ECDSA = 0x0018

HASH_NAMES: Mapping[int, str] = MappingProxyType(
    {ALG_SHA1: "sha1", ALG_SHA256: "sha256", ALG_SHA384: "sha384", ALG_SHA512: "sha512"}
)
"""The hashes that are computed here, as hashlib and banks of PCRs call them."""

HASH_BYTES: Mapping[str, int] = MappingProxyType({"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64})

SCHEME_NAMES: Mapping[int, str] = MappingProxyType(
    {ALG_RSASSA: "rsassa", ALG_RSAPSS: "rsapss", ALG_ECDSA: "ecdsa"}
)

MAX_PCRS = 32
"""PCRs of one bank. A PC has 24 (PC Client Platform TPM Profile, clause 4.6); selections have room for 32."""

MAX_BANKS = 8
"""TPMs have two to four."""

MAX_NAME_BYTES = 66
MAX_DATA_BYTES = 64
"""Of report data. TPM2B_DATA takes up to two bytes more, which are nobody's report data."""

MAX_RSA_BYTES = 512
MAX_ECC_BYTES = 66


@dataclass(frozen=True, slots=True, kw_only=True)
class BankSelection:
    """The selected PCRs of one bank: a TPMS_PCR_SELECTION."""

    bank: str
    """``sha256``; ``0x0012`` where the hash is none of ours."""

    pcrs: tuple[int, ...]
    """Ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A TPMS_ATTEST of type TPM_ST_ATTEST_QUOTE."""

    qualified_signer: bytes
    """The qualified name of the key that signed: a hash algorithm (2 bytes) and a digest."""

    extra_data: bytes
    """What the caller had quoted: qualifyingData, at most 64 bytes."""

    clock_milliseconds: int
    """Since the TPM's clock was last cleared; no time of day."""

    reset_count: int
    """TPM resets (boots) since TPM2_Clear; in quotes of keys outside the endorsement hierarchy it is obfuscated."""

    restart_count: int
    """TPM restarts and resumes since the last reset; obfuscated likewise."""

    clock_safe: bool
    """No higher clock value than this was ever reported."""

    firmware_version: int
    """The TPM's own firmware; obfuscated likewise."""

    selection: Sequence[BankSelection]
    selection_raw: bytes
    """The TPML_PCR_SELECTION as it was signed."""

    pcr_digest: bytes
    """Over the selected PCRs, with the hash of the signature's scheme."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteSignature:
    """A TPMT_SIGNATURE of one of the schemes that are verified here."""

    scheme: str
    """``rsassa``, ``rsapss`` or ``ecdsa``."""

    hash_name: str
    """``sha256``, ``sha384`` or ``sha512``."""

    rsa: bytes = b""
    """RSA schemes: the signature, as long as the modulus."""

    r: int = 0
    s: int = 0
    """ECDSA."""


def parse_quote(data: bytes) -> Quote:
    """Parse a TPMS_ATTEST.

    Raises:
        EvidenceError: not one, not of a quote, or not exactly as long as it says.
    """
    cursor = Cursor(data, what="the TPM quote", order="big")
    if (magic := cursor.number(4)) != TPM_GENERATED_VALUE:
        raise EvidenceError(f"not a TPM quote: got magic {magic:#010x}, expected {TPM_GENERATED_VALUE:#010x}")
    if (kind := cursor.number(2)) != TPM_ST_ATTEST_QUOTE:
        raise EvidenceError(
            f"an attestation of a TPM, but no quote: got type {kind:#06x}, expected {TPM_ST_ATTEST_QUOTE:#06x}"
        )
    qualified_signer = cursor.sized(2, most=MAX_NAME_BYTES)
    extra_data = cursor.sized(2, most=MAX_DATA_BYTES)
    clock, resets, restarts, safe = (cursor.number(width) for width in (8, 4, 4, 1))
    if safe > 1:
        raise EvidenceError(f"the TPM quote's clockInfo.safe: got {safe}, expected 0 or 1")
    firmware_version = cursor.number(8)
    start = cursor.position
    selection = _read_selection(cursor)
    selection_raw = data[start : cursor.position]
    pcr_digest = cursor.sized(2, most=max(HASH_BYTES.values()))
    cursor.end()
    return Quote(
        qualified_signer=qualified_signer,
        extra_data=extra_data,
        clock_milliseconds=clock,
        reset_count=resets,
        restart_count=restarts,
        clock_safe=bool(safe),
        firmware_version=firmware_version,
        selection=selection,
        selection_raw=selection_raw,
        pcr_digest=pcr_digest,
    )


def parse_signature(data: bytes) -> QuoteSignature:
    """Parse a TPMT_SIGNATURE.

    Raises:
        EvidenceError: not one; another scheme than RSASSA, RSAPSS and ECDSA; SHA-1 or an unknown hash; not exactly as
            long as it says.
    """
    cursor = Cursor(data, what="the TPM signature", order="big")
    scheme = SCHEME_NAMES.get(algorithm := cursor.number(2))
    if scheme is None:
        raise EvidenceError(
            f"the TPM signature's scheme: got {algorithm:#06x}, expected RSASSA (0x0014), RSAPSS (0x0016) or "
            "ECDSA (0x0018)"
        )
    hash_name = HASH_NAMES.get(algorithm := cursor.number(2))
    if hash_name is None or hash_name == "sha1":
        raise EvidenceError(
            f"the TPM signature's hash: got {algorithm:#06x}, expected SHA-256 (0x000b), SHA-384 or SHA-512"
        )
    if scheme == "ecdsa":
        r, s = (int.from_bytes(cursor.sized(2, most=MAX_ECC_BYTES), "big") for _ in range(2))
        cursor.end()
        return QuoteSignature(scheme=scheme, hash_name=hash_name, r=r, s=s)
    rsa = cursor.sized(2, most=MAX_RSA_BYTES)
    cursor.end()
    return QuoteSignature(scheme=scheme, hash_name=hash_name, rsa=rsa)


def encode_selection(selection: Sequence[BankSelection]) -> bytes:
    """The TPML_PCR_SELECTION of banks of known hashes, with bit maps of 3 bytes as a PC's TPM has them.

    Raises:
        ValueError: a bank of another hash, or a PCR above 23.
    """
    numbers = {name: number for number, name in HASH_NAMES.items()}
    encoded = len(selection).to_bytes(4, "big")
    for entry in selection:
        if entry.bank not in numbers or not all(0 <= pcr < 24 for pcr in entry.pcrs):
            raise ValueError(f"a PC's TPM has no such selection: {entry}")
        bits = sum(1 << pcr for pcr in set(entry.pcrs))
        encoded += numbers[entry.bank].to_bytes(2, "big") + b"\3" + bits.to_bytes(3, "little")
    return encoded


def _read_selection(cursor: Cursor) -> Sequence[BankSelection]:
    count = cursor.number(4)
    if count > MAX_BANKS:
        raise EvidenceError(
            f"the TPM quote selects too many banks: got {count}, expected at most {MAX_BANKS}"
        )
    banks = []
    for _ in range(count):
        algorithm = cursor.number(2)
        bits = int.from_bytes(cursor.sized(1, most=MAX_PCRS // 8), "little")
        pcrs = tuple(pcr for pcr in range(MAX_PCRS) if bits >> pcr & 1)
        banks.append(BankSelection(bank=HASH_NAMES.get(algorithm, f"{algorithm:#06x}"), pcrs=pcrs))
    if len({entry.bank for entry in banks}) != len(banks):
        raise EvidenceError("the TPM quote selects one bank of PCRs twice")
    return tuple(banks)
