"""Verification of evidence, in four steps kept apart: parse, verify, claims, appraise. All of it pure.

This first cut knows one kind of evidence, the simulated platform's own. It is verified by the code path that every
kind takes: a signature to an accepted root, claims, a policy. Production accepts no simulator root, so simulated
evidence fails there like any other forgery.
"""

from avalon_core.attestation.first.appraisal import (
    AppraisalReport,
    AppraisedWorker,
    Check,
    Verdict,
    appraise_worker,
)
from avalon_core.attestation.first.binding import report_data
from avalon_core.attestation.first.claims import Claims
from avalon_core.attestation.first.policy import AnyMeasurementUNSAFE, Measurements, TrustPolicy

__all__ = [
    "AnyMeasurementUNSAFE",
    "AppraisalReport",
    "AppraisedWorker",
    "Check",
    "Claims",
    "Measurements",
    "TrustPolicy",
    "Verdict",
    "appraise_worker",
    "report_data",
]
