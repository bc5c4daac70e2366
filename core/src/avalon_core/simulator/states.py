"""The states that evidence can be asked for in, and what a verifier has to make of each.

A simulator that only ever makes good evidence shows nothing: every way in which evidence is bad has a name here.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from avalon_core.attestation.claims import TcbStatus


class State(enum.StrEnum):
    """A state of platform, evidence or collateral."""

    UP_TO_DATE = "up-to-date"
    SW_HARDENING_NEEDED = "sw-hardening-needed"
    CONFIGURATION_NEEDED = "configuration-needed"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "configuration-and-sw-hardening-needed"
    OUT_OF_DATE = "out-of-date"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "out-of-date-configuration-needed"
    TD_RELAUNCH_ADVISED = "td-relaunch-advised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "td-relaunch-advised-configuration-needed"
    REVOKED = "revoked"
    NO_TCB_LEVEL = "no-tcb-level"
    REVOKED_CERTIFICATE = "revoked-certificate"
    EXPIRED_CERTIFICATE = "expired-certificate"
    EXPIRED_COLLATERAL = "expired-collateral"
    FUTURE_COLLATERAL = "future-collateral"
    STALE = "stale"
    DEBUG = "debug"
    WRONG_QE = "wrong-qe"
    OUTDATED_QE = "outdated-qe"
    WRONG_REPORT_DATA = "wrong-report-data"
    WRONG_SIGNATURE = "wrong-signature"
    WRONG_QE_SIGNATURE = "wrong-qe-signature"
    WRONG_KEY_BINDING = "wrong-key-binding"
    WRONG_TCB_SIGNATURE = "wrong-tcb-signature"
    UNKNOWN_ROOT = "unknown-root"


class Outcome(enum.StrEnum):
    """What is to be expected of a verifier and a policy."""

    VERIFIED = "verified; whether it is good enough is the policy's word"
    NEVER_ACCEPTED = "refused, by the verifier or by any sane policy"
    REJECTED = "refused by the verifier"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a state is, and what to expect of it."""

    description: str
    outcome: Outcome
    tcb_status: TcbStatus | None = None
    """The vendor's judgement that a verifier reports, or names where it refuses."""


def _judged(status: TcbStatus, description: str) -> Expectation:
    return Expectation(description=description, outcome=Outcome.VERIFIED, tcb_status=status)


def _verified(description: str) -> Expectation:
    return Expectation(description=description, outcome=Outcome.VERIFIED)


def _never(description: str) -> Expectation:
    return Expectation(description=description, outcome=Outcome.NEVER_ACCEPTED)


def _rejected(description: str) -> Expectation:
    return Expectation(description=description, outcome=Outcome.REJECTED)


_WRONG_REPORT_DATA = _never("well signed, but it vouches for other report data than was asked for")
_WRONG_SIGNATURE = _rejected("the signature over the report does not hold")
_UNKNOWN_ROOT = _rejected("everything holds, under the root of somebody else's simulator")

_SGX: Mapping[State, Expectation] = {
    State.UP_TO_DATE: _judged(TcbStatus.UP_TO_DATE, "all is well"),
    State.SW_HARDENING_NEEDED: _judged(
        TcbStatus.SW_HARDENING_NEEDED, "patched, but the code itself has to be hardened; with advisories"
    ),
    State.CONFIGURATION_NEEDED: _judged(
        TcbStatus.CONFIGURATION_NEEDED, "patched, but its configuration leaves it open; with advisories"
    ),
    State.CONFIGURATION_AND_SW_HARDENING_NEEDED: _judged(
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED, "both of these; with advisories"
    ),
    State.OUT_OF_DATE: _judged(TcbStatus.OUT_OF_DATE, "patches are missing; with advisories"),
    State.OUT_OF_DATE_CONFIGURATION_NEEDED: _judged(
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED, "patches and configuration are missing; with advisories"
    ),
    State.REVOKED: Expectation(
        description="the platform's TCB level is revoked",
        outcome=Outcome.NEVER_ACCEPTED,
        tcb_status=TcbStatus.REVOKED,
    ),
    State.NO_TCB_LEVEL: _rejected("the platform is older than anything that the TCB info lists"),
    State.REVOKED_CERTIFICATE: _rejected("the platform's certificate is on the CRL"),
    State.EXPIRED_CERTIFICATE: _rejected("the platform's certificate ended on 2021-01-01"),
    State.EXPIRED_COLLATERAL: _rejected("TCB info, QE identity and CRLs ended yesterday"),
    State.FUTURE_COLLATERAL: _rejected("TCB info, QE identity and CRLs begin the day after tomorrow"),
    State.STALE: _judged(
        TcbStatus.UP_TO_DATE,
        "the collateral is about to end, and of an old TCB evaluation (12, where 18 is current)",
    ),
    State.DEBUG: _never("a debug enclave or domain: the operator can look into it"),
    State.WRONG_QE: _rejected("the quoting enclave is of another signer than its identity says"),
    State.OUTDATED_QE: _judged(TcbStatus.OUT_OF_DATE, "the quoting enclave is old; with an advisory"),
    State.WRONG_REPORT_DATA: _WRONG_REPORT_DATA,
    State.WRONG_SIGNATURE: _WRONG_SIGNATURE,
    State.WRONG_QE_SIGNATURE: _rejected("the signature over the quoting enclave's report does not hold"),
    State.WRONG_KEY_BINDING: _rejected("the quoting enclave vouches for another attestation key"),
    State.WRONG_TCB_SIGNATURE: _rejected("the signature over the TCB info does not hold"),
    State.UNKNOWN_ROOT: _UNKNOWN_ROOT,
}

_TDX: Mapping[State, Expectation] = {
    **_SGX,
    State.TD_RELAUNCH_ADVISED: _judged(
        TcbStatus.TD_RELAUNCH_ADVISED,
        "the domain was launched before its TDX module was updated (a quote of version 5)",
    ),
    State.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED: _judged(
        TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
        "the same, on a machine whose configuration leaves it open (a quote of version 5)",
    ),
}

_SNP: Mapping[State, Expectation] = {
    State.UP_TO_DATE: _verified("all is well"),
    State.OUT_OF_DATE: _verified("old firmware and microcode; only a policy with minimums notices"),
    State.REVOKED_CERTIFICATE: _rejected("the issuer of the platform's certificate is on the CRL"),
    State.EXPIRED_COLLATERAL: _rejected("the CRL ended yesterday"),
    State.FUTURE_COLLATERAL: _rejected("the CRL begins the day after tomorrow"),
    State.DEBUG: _never("the guest's policy allows debugging: the operator can look into it"),
    State.WRONG_REPORT_DATA: _WRONG_REPORT_DATA,
    State.WRONG_SIGNATURE: _WRONG_SIGNATURE,
    State.UNKNOWN_ROOT: _UNKNOWN_ROOT,
}

_NITRO: Mapping[State, Expectation] = {
    State.UP_TO_DATE: _verified("all is well; it lasts three hours"),
    State.STALE: _verified("issued two hours ago; only a policy with a maximum age notices"),
    State.EXPIRED_CERTIFICATE: _rejected("issued four hours ago, and the enclave's certificate lasts three"),
    State.DEBUG: _never("a debug enclave (all registers zero): the operator can look into it"),
    State.WRONG_REPORT_DATA: _WRONG_REPORT_DATA,
    State.WRONG_SIGNATURE: _WRONG_SIGNATURE,
    State.UNKNOWN_ROOT: _UNKNOWN_ROOT,
}

EXPECTATIONS: Mapping[str, Mapping[State, Expectation]] = {
    "sgx": _SGX,
    "tdx": _TDX,
    "snp": _SNP,
    "nitro": _NITRO,
}
"""By kind of evidence, every state that it can be asked for in."""
