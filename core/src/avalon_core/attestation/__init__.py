"""Verification of evidence, in four steps kept apart: parse, verify, claims, appraise. All of it pure.

Two questions are asked of it. A requester asks whether a worker's record may be sealed to (:func:`appraise_worker`);
who has evidence alone asks what it is worth under a policy (:func:`appraise`). Both answer with a report of named
checks. The simulator's evidence takes the same way as hardware's and differs in its root only, which production
does not accept.

Names are loaded when they are first used, and so are the verifiers behind them: an enclave that only issues evidence
does without all of them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avalon_core.attestation.appraisal import appraise, appraise_claims, verify_only
    from avalon_core.attestation.binding import report_data
    from avalon_core.attestation.checks import AppraisalReport, Check, Verdict, Verification
    from avalon_core.attestation.claims import Claims, TcbStatus, Tee
    from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral
    from avalon_core.attestation.evidence import Evidence
    from avalon_core.attestation.policy import TrustPolicy, require_production
    from avalon_core.attestation.policy_text import load_policy
    from avalon_core.attestation.policy_writing import dump_policy_toml
    from avalon_core.attestation.roots import TrustAnchor, TrustAnchors
    from avalon_core.attestation.rules import (
        AllOf,
        AnyMeasurementUNSAFE,
        AnyOf,
        Field,
        Kind,
        Measurement,
        Measurements,
        PolicyFormatError,
        Registers,
        Signer,
    )
    from avalon_core.attestation.workers import AppraisedWorker, appraise_worker

_HOMES = {
    "appraisal": ("appraise", "appraise_claims", "verify_only"),
    "binding": ("report_data",),
    "checks": ("AppraisalReport", "Check", "Verdict", "Verification"),
    "claims": ("Claims", "TcbStatus", "Tee"),
    "collateral": ("NO_COLLATERAL", "Collateral"),
    "evidence": ("Evidence",),
    "policy": ("TrustPolicy", "require_production"),
    "policy_text": ("load_policy",),
    "policy_writing": ("dump_policy_toml",),
    "roots": ("TrustAnchor", "TrustAnchors"),
    "rules": (
        "AllOf",
        "AnyMeasurementUNSAFE",
        "AnyOf",
        "Field",
        "Kind",
        "Measurement",
        "Measurements",
        "PolicyFormatError",
        "Registers",
        "Signer",
    ),
    "workers": ("AppraisedWorker", "appraise_worker"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "NO_COLLATERAL",
    "AllOf",
    "AnyMeasurementUNSAFE",
    "AnyOf",
    "AppraisalReport",
    "AppraisedWorker",
    "Check",
    "Claims",
    "Collateral",
    "Evidence",
    "Field",
    "Kind",
    "Measurement",
    "Measurements",
    "PolicyFormatError",
    "Registers",
    "Signer",
    "TcbStatus",
    "Tee",
    "TrustAnchor",
    "TrustAnchors",
    "TrustPolicy",
    "Verdict",
    "Verification",
    "appraise",
    "appraise_claims",
    "appraise_worker",
    "dump_policy_toml",
    "load_policy",
    "report_data",
    "require_production",
    "verify_only",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
