"""Appraise a worker record: its evidence by the policy, and that the evidence is about the keys in the record.

The checks, after those of the evidence's format and before those of the policy (:mod:`avalon_core.attestation.appraisal`):

1. *evidence*: the record carries evidence of a kind that is known here.
2. *worker identity*: the record's key binding names the worker that was asked for.
3. *simulation told*: evidence of a simulator stands in a record that says so.
4. *report data* (the policy's last check): the evidence commits to exactly the keys in the record, and to their binding.
5. *pool ...*: where the worker is a pool, its manifest (:mod:`avalon_core.attestation.pool_checks`).
6. *tenant*: where the policy asks for it, the worker is dedicated to one of these tenants.
7. *encryption keys*: the verification key has signed them.

Evidence of most TEEs carries no time. The binding's is used in its place: the attested code wrote it, by a clock that its
host may have set, so it tells the age of honest evidence and bounds nothing against a host that plans ahead.

A caller who passes still has to check that the worker is active.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from avalon_core.attestation.appraisal import appraise_claims, unreadable
from avalon_core.attestation.binding import report_data
from avalon_core.attestation.checks import (
    AppraisalReport,
    Check,
    Verdict,
    could_not_check,
    decided,
    failed,
    passed,
)
from avalon_core.attestation.claims import Claims
from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral
from avalon_core.attestation.formats import format_named
from avalon_core.attestation.policy import TrustPolicy
from avalon_core.attestation.pool_checks import pool_checks
from avalon_core.attestation.proof_data import decode
from avalon_core.crypto.dialects import WorkerPublicKeys
from avalon_core.crypto.sealing import load_hpke_public_key, load_rsa_public_key
from avalon_core.crypto.signing import VerificationKey, digest_of_text, load_verification_key
from avalon_core.errors import AvalonError, EncodingError, KeyFormatError, SignatureMismatch
from avalon_core.protocol.encodings import decode_hex, decode_lower_hex
from avalon_core.protocol.workers import KeyBinding, WorkerRecord, WorkerTypeData

LONGEST_CACHE = timedelta(hours=1)
"""An appraisal that passed is good for so long at most, whatever the evidence says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppraisedWorker:
    """A worker whose record passed: the keys that may be used."""

    public_keys: WorkerPublicKeys = field(repr=False)
    verification_key: VerificationKey = field(repr=False)
    report: AppraisalReport
    good_until: int
    """Unix seconds: from then on the record must be appraised again, for its collateral or its age may have run out."""


def appraise_worker(
    record: WorkerRecord,
    policy: TrustPolicy,
    *,
    worker_id: str,
    as_of: datetime,
    collateral: Collateral = NO_COLLATERAL,
) -> tuple[AppraisalReport, AppraisedWorker | None]:
    """Appraise a worker record.

    Args:
        record: as the service gave it.
        policy: what is accepted.
        worker_id: the worker that was asked for: evidence binds the keys to it, too.
        as_of: the time, with a zone.
        collateral: what is at hand besides the collateral in the record.

    Returns:
        The report, and the worker's keys where its verdict is passed (else None: there is nothing to seal to).
    """
    data = record.details.worker_type_data
    checks: list[Check] = []
    claims = _verify_evidence(data, policy, as_of, collateral, checks)
    if claims is None:
        return _report(checks, None, policy, as_of), None
    binding = data.key_binding
    if binding is None or data.hpke_encryption_key is None:
        checks.append(_unbound())
        return _report(checks, claims, policy, as_of), None
    checks.append(_check_identity(binding, worker_id))
    checks.append(_check_told(data, claims))
    bound = report_data(
        binding,
        verification_key=data.verification_key,
        encryption_key=data.encryption_key,
        hpke_encryption_key=data.hpke_encryption_key,
    )
    if claims.issued_at is None:
        claims = replace(claims, issued_at=binding.issued_at)
    checks += appraise_claims(claims, policy, as_of=as_of, report_data=bound).checks
    checks += pool_checks(data.extended_measurements, binding, claims, policy)
    checks += _check_tenant(binding, policy)
    keys = _check_keys(data, checks)
    report = _report(checks, claims, policy, as_of)
    if report.verdict is not Verdict.PASSED or keys is None:
        return report, None
    public_keys, verification_key = keys
    return report, AppraisedWorker(
        public_keys=public_keys,
        verification_key=verification_key,
        report=report,
        good_until=_good_until(claims, policy, as_of),
    )


def _report(
    checks: Sequence[Check], claims: Claims | None, policy: TrustPolicy, as_of: datetime
) -> AppraisalReport:
    return AppraisalReport(
        checks=tuple(checks), claims=claims, as_of=int(as_of.timestamp()), policy_name=policy.name
    )


def _verify_evidence(
    data: WorkerTypeData,
    policy: TrustPolicy,
    as_of: datetime,
    collateral: Collateral,
    checks: list[Check],
) -> Claims | None:
    if data.proof_data is None:
        checks.append(
            could_not_check(
                "evidence",
                expected="evidence in the worker record",
                found=f"type {data.proof_data_type!r:.40} without data",
                remedy="Nothing vouches for this worker: do not send secrets to it.",
            )
        )
        return None
    try:
        evidence, brought = decode(data.proof_data_type, data.proof_data)
        verification = format_named(evidence.format).verify(
            evidence,
            anchors=policy.anchors(),
            collateral=_both(collateral, brought),
            as_of=as_of,
            grace=timedelta(seconds=policy.collateral_grace),
        )
    except AvalonError as exc:
        checks.append(unreadable(exc))
        return None
    checks += verification.checks
    return verification.claims


def _both(ours: Collateral, brought: Collateral) -> Collateral:
    """Ours first: the record's may be held back at an older state by its host."""
    return Collateral(
        dcap=(*ours.dcap, *brought.dcap),
        snp=(*ours.snp, *brought.snp),
        certificates=(*ours.certificates, *brought.certificates),
        crls=(*ours.crls, *brought.crls),
    )


def _unbound() -> Check:
    return could_not_check(
        "report data",
        expected="keyBinding and hpkeEncryptionKey in the record",
        found="none",
        remedy="Nothing says that these keys are the attested enclave's: do not use them, and tell the operator.",
    )


def _check_identity(binding: KeyBinding, worker_id: str) -> Check:
    # What the binding says is proved by the check of the report data.
    return decided(
        "worker identity",
        binding.worker_id == worker_id,
        expected=worker_id,
        found=binding.worker_id,
        source="worker record",
        remedy="The service gave out another worker's record: do not use it, and tell the operator.",
    )


def _check_tenant(binding: KeyBinding, policy: TrustPolicy) -> Sequence[Check]:
    if policy.tenants is None:
        return ()
    return (
        decided(
            "tenant",
            binding.tenant in policy.tenants,
            expected=f"a worker dedicated to {', '.join(sorted(policy.tenants)) or 'nobody'}",
            found=f"dedicated to {binding.tenant}" if binding.tenant is not None else "dedicated to nobody",
            source="worker record",
            remedy="The worker serves others, too. Ask the operator for one that is dedicated to you.",
        ),
    )


def _check_told(data: WorkerTypeData, claims: Claims) -> Check:
    return decided(
        "simulation told",
        data.simulated or not claims.simulated,
        expected="a record that says so where its evidence is a simulator's",
        found="SIMULATED, and the record says so"
        if data.simulated
        else "not told"
        if claims.simulated
        else "hardware",
        source="worker record",
        remedy="The worker is simulated and its record hides it: do not use it.",
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
            failed(
                name,
                expected=expected,
                found=str(exc),
                source="worker record",
                remedy="Do not use this worker: its record was put together from parts.",
            )
        )
        return None
    checks.append(passed(name, expected=expected, found="both signatures verify", source="worker record"))
    return WorkerPublicKeys(rsa=rsa, hpke=hpke), verification_key


def _good_until(claims: Claims, policy: TrustPolicy, as_of: datetime) -> int:
    ends = [int((as_of + LONGEST_CACHE).timestamp())]
    if claims.collateral_expires is not None:
        ends.append(claims.collateral_expires + policy.collateral_grace)
    if policy.maximum_age is not None and claims.issued_at is not None:
        ends.append(claims.issued_at + policy.maximum_age)
    return min(ends)
