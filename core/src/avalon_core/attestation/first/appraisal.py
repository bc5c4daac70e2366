"""Appraise a worker record against a policy: every check by name, with what was expected, found, and what to do.

The checks, in this order. One that cannot be made has the verdict "could not check", and that is a failure:

1. *evidence*: the record carries evidence of a kind that is known here.
2. *root*: the evidence is signed under a root that the policy accepts.
3. *debug*: the operator cannot look into the enclave.
4. *measurement*: the policy admits the code that runs.
5. *worker identity*: the record's key binding names the worker that was asked for.
6. *key binding*: the evidence's report data commits to exactly the keys in the record.
7. *encryption keys*: the verification key has signed them.

A caller who passes still has to check that the worker is active.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from avalon_core.attestation.first import simulated
from avalon_core.attestation.first.binding import report_data
from avalon_core.attestation.first.claims import Claims
from avalon_core.attestation.first.policy import TrustPolicy
from avalon_core.crypto.dialects import WorkerPublicKeys
from avalon_core.crypto.sealing import load_hpke_public_key, load_rsa_public_key
from avalon_core.crypto.signing import VerificationKey, digest_of_text, load_verification_key
from avalon_core.errors import (
    EncodingError,
    EvidenceError,
    KeyFormatError,
    PolicyViolation,
    SignatureMismatch,
)
from avalon_core.protocol.encodings import decode_hex, decode_lower_hex
from avalon_core.protocol.workers import KeyBinding, WorkerRecord, WorkerTypeData


class Verdict(enum.StrEnum):
    """The outcome of one check, and of all."""

    PASSED = "passed"
    FAILED = "failed"
    COULD_NOT_CHECK = "could not check"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check."""

    name: str
    expected: str
    found: str
    verdict: Verdict
    remedy: str = ""
    """What to do about it, in plain words; empty where it passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppraisalReport:
    """All checks that were made."""

    checks: Sequence[Check]
    claims: Claims | None = None

    @property
    def verdict(self) -> Verdict:
        """Passed only where every check passed and there was one."""
        if self.checks and all(check.verdict is Verdict.PASSED for check in self.checks):
            return Verdict.PASSED
        return Verdict.FAILED

    def raise_for_verdict(self) -> None:
        """Return only where the verdict is passed.

        Raises:
            PolicyViolation: names the first check that did not pass, and the remedy.
        """
        if self.verdict is Verdict.PASSED:
            return
        for check in self.checks:
            if check.verdict is not Verdict.PASSED:
                raise PolicyViolation(
                    f"the worker's evidence is not acceptable: {check.name} {check.verdict}: "
                    f"got {check.found}, expected {check.expected}. {check.remedy}".rstrip()
                )
        raise PolicyViolation("the worker's evidence is not acceptable: nothing could be checked")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppraisedWorker:
    """A worker whose record passed: the keys that may be used."""

    public_keys: WorkerPublicKeys = field(repr=False)
    verification_key: VerificationKey = field(repr=False)
    report: AppraisalReport


def appraise_worker(
    record: WorkerRecord, policy: TrustPolicy, *, worker_id: str
) -> tuple[AppraisalReport, AppraisedWorker | None]:
    """Appraise a worker record.

    Args:
        record: as the service gave it.
        policy: what is accepted.
        worker_id: the worker that was asked for: evidence binds the keys to it, too.

    Returns:
        The report, and the worker's keys where its verdict is passed (else None: there is nothing to seal to).
    """
    data = record.details.worker_type_data
    checks: list[Check] = []
    claims = _verify_evidence(data, policy, checks)
    if claims is None:
        return AppraisalReport(checks=checks), None
    checks.append(
        _check(
            "debug",
            "off",
            "on" if claims.debug else "off",
            passed=not claims.debug,
            remedy="Do not use this worker: its operator can read its memory.",
        )
    )
    checks.append(
        _check(
            "measurement",
            str(policy.measurements),
            claims.measurement,
            passed=policy.measurements.admits(claims.measurement),
            remedy="Compare with the measurement that you built or were told; add it to the policy if it is right.",
        )
    )
    if data.key_binding is not None:
        checks.append(_check_identity(data.key_binding, worker_id))
    checks.append(_check_binding(data, claims))
    keys = _check_keys(data, checks)
    report = AppraisalReport(checks=checks, claims=claims)
    if report.verdict is not Verdict.PASSED or keys is None:
        return report, None
    public_keys, verification_key = keys
    return report, AppraisedWorker(public_keys=public_keys, verification_key=verification_key, report=report)


def _check(name: str, expected: str, found: str, *, passed: bool, remedy: str) -> Check:
    verdict = Verdict.PASSED if passed else Verdict.FAILED
    return Check(name=name, expected=expected, found=found, verdict=verdict, remedy="" if passed else remedy)


def _verify_evidence(data: WorkerTypeData, policy: TrustPolicy, checks: list[Check]) -> Claims | None:
    expected = f"evidence of type {simulated.PROOF_DATA_TYPE}"
    remedy = "This version cannot verify it: do not send secrets to this worker."
    if data.proof_data_type != simulated.PROOF_DATA_TYPE or data.proof_data is None:
        found = f"type {data.proof_data_type!r}" + (" without data" if data.proof_data is None else "")
        checks.append(
            Check(
                name="evidence",
                expected=expected,
                found=found,
                verdict=Verdict.COULD_NOT_CHECK,
                remedy=remedy,
            )
        )
        return None
    try:
        evidence = simulated.parse(data.proof_data)
    except EvidenceError as exc:
        checks.append(
            Check(
                name="evidence",
                expected=expected,
                found=exc.message,
                verdict=Verdict.COULD_NOT_CHECK,
                remedy=remedy,
            )
        )
        return None
    checks.append(_check("evidence", expected, "SIMULATED evidence", passed=True, remedy=""))
    for pem in policy.simulator_roots:
        try:
            claims = simulated.verify(evidence, load_verification_key(pem))
        except SignatureMismatch:
            continue
        checks.append(
            _check(
                "root", "an accepted root", "an accepted simulator root (SIMULATED)", passed=True, remedy=""
            )
        )
        return claims
    expected = f"one of {len(policy.simulator_roots)} accepted simulator roots"
    checks.append(
        _check(
            "root",
            expected if policy.simulator_roots else "a hardware vendor's root (simulators are not accepted)",
            "SIMULATED evidence of another root" if policy.simulator_roots else "SIMULATED evidence",
            passed=False,
            remedy="A simulated worker protects nothing. To try it all the same, use the development policy.",
        )
    )
    return None


def _check_identity(binding: KeyBinding, worker_id: str) -> Check:
    # What the binding says is proved by the next check.
    return _check(
        "worker identity",
        worker_id,
        binding.worker_id,
        passed=binding.worker_id == worker_id,
        remedy="The service gave out another worker's record: do not use it, and tell the operator.",
    )


def _check_binding(data: WorkerTypeData, claims: Claims) -> Check:
    remedy = "The keys are not those of the attested enclave: do not use them, and tell the operator."
    if data.key_binding is None or data.hpke_encryption_key is None:
        return Check(
            name="key binding",
            expected="keyBinding and hpkeEncryptionKey in the record",
            found="none",
            verdict=Verdict.COULD_NOT_CHECK,
            remedy=remedy,
        )
    bound = report_data(
        data.key_binding,
        verification_key=data.verification_key,
        encryption_key=data.encryption_key,
        hpke_encryption_key=data.hpke_encryption_key,
    )
    return _check(
        "key binding",
        bound.hex(),
        claims.report_data.hex(),
        passed=bound == claims.report_data,
        remedy=remedy,
    )


def _check_keys(data: WorkerTypeData, checks: list[Check]) -> tuple[WorkerPublicKeys, VerificationKey] | None:
    name, expected = "encryption keys", "keys signed by the verification key"
    try:
        verification_key = load_verification_key(data.verification_key)
        rsa = load_rsa_public_key(data.encryption_key)
        hpke = load_hpke_public_key(data.hpke_encryption_key or "")
        verification_key.verify(
            digest_of_text(data.encryption_key),
            decode_hex(data.encryption_key_signature, what="encryptionKeySignature"),
        )
        signature = decode_lower_hex(
            data.hpke_encryption_key_signature or "", what="hpkeEncryptionKeySignature"
        )
        verification_key.verify(digest_of_text(data.hpke_encryption_key or ""), signature, strict=True)
    except (KeyFormatError, SignatureMismatch, EncodingError) as exc:
        checks.append(
            _check(
                name,
                expected,
                str(exc),
                passed=False,
                remedy="Do not use this worker: its record was put together from parts.",
            )
        )
        return None
    checks.append(_check(name, expected, "both signatures verify", passed=True, remedy=""))
    return WorkerPublicKeys(rsa=rsa, hpke=hpke), verification_key
