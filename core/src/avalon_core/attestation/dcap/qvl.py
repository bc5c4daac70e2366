"""The edge to dcap-qvl, which verifies quotes: what goes in, what comes out, and how it refuses.

Nothing else here imports it. It is asked for claims only: it judges no TCB status, save that it refuses a revoked one.
"""

from functools import lru_cache

import dcap_qvl
import msgspec

from avalon_core.attestation.collateral import DcapCollateral
from avalon_core.errors import AvalonError, EvidenceError

MAX_REFUSAL_CHARS = 300
"""Its messages are a line; whoever made the quote must not fill reports with them."""


class LibraryRefusal(AvalonError):
    """The verifying library refused the quote."""


class Tcb(msgspec.Struct, frozen=True):
    """The merged judgement of platform, TDX module and quoting enclave."""

    status: str
    advisory_ids: tuple[str, ...]
    eval_data_number: int


class Pck(msgspec.Struct, frozen=True):
    """The SGX extension of the PCK certificate. Byte strings come as numbers."""

    ppid: tuple[int, ...]
    cpu_svn: tuple[int, ...]
    pce_svn: int
    pce_id: tuple[int, ...]
    fmspc: tuple[int, ...]
    sgx_type: int
    platform_instance_id: tuple[int, ...] | None = None
    dynamic_platform: str = "Undefined"
    cached_keys: str = "Undefined"
    smt_enabled: str = "Undefined"


class Level(msgspec.Struct, frozen=True, rename="camel"):
    """A TCB level that matched."""

    tcb_date: str
    tcb_status: str


class Platform(msgspec.Struct, frozen=True):
    """The platform."""

    pck: Pck
    tcb_level: Level


class QuotingEnclaveReport(msgspec.Struct, frozen=True):
    """Its version."""

    isv_svn: int


class QuotingEnclave(msgspec.Struct, frozen=True):
    """The quoting enclave."""

    tcb_level: Level
    report: QuotingEnclaveReport
    tcb_eval_data_number: int


class Outcome(msgspec.Struct, frozen=True):
    """What a verified quote says of its platform."""

    tcb: Tcb
    platform: Platform
    qe: QuotingEnclave
    earliest_expiration_date: int
    """Unix seconds: the first end of a certificate, CRL or TCB info that it rests on."""

    qe_iden_earliest_expiration_date: int
    """The same for the QE identity."""


_OUTCOME = msgspec.json.Decoder(Outcome)


def prepare(collateral: DcapCollateral, tcb_chain: str, qe_chain: str) -> dcap_qvl.QuoteCollateralV3:
    """The library's form of collateral, with these two issuer chains (PEM, leaf first).

    Raises:
        EvidenceError: a CRL or signature is not hex, or of the wrong size.
    """
    try:
        signatures = (
            bytes.fromhex(collateral.tcb_info_signature),
            bytes.fromhex(collateral.qe_identity_signature),
        )
        return dcap_qvl.QuoteCollateralV3(
            collateral.pck_crl_issuer_chain,
            bytes.fromhex(collateral.root_ca_crl),
            bytes.fromhex(collateral.pck_crl),
            tcb_chain,
            collateral.tcb_info,
            signatures[0],
            qe_chain,
            collateral.qe_identity,
            signatures[1],
        )
    except (ValueError, TypeError) as exc:
        raise EvidenceError(f"the collateral cannot be read: {exc}") from None


def verify(quote: bytes, collateral: dcap_qvl.QuoteCollateralV3, *, root: bytes, at: int) -> Outcome:
    """Verify a quote that carries a PCK chain (leaf first) to this root (DER), as of a time (Unix seconds).

    Raises:
        LibraryRefusal: with the library's reason, which is for people and changes from version to version.
    """
    try:
        claims = _verifier(root).verify_with_policy(
            quote, collateral, at, dcap_qvl.QuotePolicy.claims_only(at)
        )
        return _OUTCOME.decode(claims.to_json())
    except (ValueError, OverflowError) as exc:
        raise LibraryRefusal(str(exc)[:MAX_REFUSAL_CHARS].removeprefix("Verification failed: ")) from None
    except BaseException as exc:
        # A panic in Rust comes as a BaseException of its own kind. Hostile input must not end a service by one.
        if type(exc).__name__ != "PanicException":
            raise
        raise LibraryRefusal("the verifying library failed on it") from None


@lru_cache(maxsize=16)
def _verifier(root: bytes) -> dcap_qvl.QuoteVerifier:
    return dcap_qvl.QuoteVerifier(root)
