"""Every check fails alone, with its verdict and a remedy; and what could not be checked has failed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from avalon_core.attestation import (
    AnyMeasurementUNSAFE,
    AppraisalReport,
    Check,
    Measurements,
    TrustPolicy,
    Verdict,
    appraise_worker,
    report_data,
)
from avalon_core.attestation.first import simulated
from avalon_core.attestation.first.binding import REPORT_DATA_BYTES
from avalon_core.crypto.signing import SigningKey, digest_of_text
from avalon_core.errors import EvidenceError, PolicyViolation, SignatureMismatch
from avalon_core.protocol.workers import KeyBinding, WorkerDetails, WorkerRecord, WorkerTypeData

MEASUREMENT = "ab" * 32
WORKER_ID = "1d" * 32
POLICY = TrustPolicy.development({MEASUREMENT})
CHECKS = ["evidence", "root", "debug", "measurement", "worker identity", "key binding", "encryption keys"]


def type_data(world, **members: Any) -> WorkerTypeData:
    """A worker that passes; ``evidence`` members change its evidence, which is then signed."""
    root = members.pop("root", simulated.simulator_root())
    measurement = members.pop("measurement", MEASUREMENT)
    keys = {
        "verification_key": world.worker_signer.verification_key.pem,
        "encryption_key": world.public.rsa.pem,
        "hpke_encryption_key": world.public.hpke.hex,
    }
    named = members.pop("worker_id", WORKER_ID)
    binding = KeyBinding(worker_id=named, role="singleton", nonce="0f" * 32)
    bound = members.pop("report_data", report_data(binding, **keys))
    evidence = simulated.issue(root, measurement=measurement, report_data=bound, issued_at=1)
    given = keys | {
        "encryption_key_signature": world.worker_signer.sign(digest_of_text(keys["encryption_key"])).hex(),
        "hpke_encryption_key_signature": world.worker_signer.sign(digest_of_text(keys["hpke_encryption_key"])).hex(),
        "proof_data_type": simulated.PROOF_DATA_TYPE,
        "proof_data": msgspec.to_builtins(evidence),
        "key_binding": binding,
        "simulated": True,
    }  # fmt: skip
    return WorkerTypeData(**given | members)


def record(data: WorkerTypeData) -> WorkerRecord:
    details = WorkerDetails(worker_type_data=data)
    return WorkerRecord(worker_type=1, organization_id="", application_type_id="", details=details, status=1)


def appraise(data: WorkerTypeData, policy: TrustPolicy = POLICY) -> AppraisalReport:
    report, worker = appraise_worker(record(data), policy, worker_id=WORKER_ID)
    assert (worker is not None) == (report.verdict is Verdict.PASSED)
    return report


def bad(report: AppraisalReport) -> list[tuple[str, Verdict]]:
    return [(check.name, check.verdict) for check in report.checks if check.verdict is not Verdict.PASSED]


def test_a_worker_that_passes_yields_exactly_the_keys_that_were_bound(world) -> None:
    report, worker = appraise_worker(record(type_data(world)), POLICY, worker_id=WORKER_ID)
    report.raise_for_verdict()
    assert [check.name for check in report.checks] == CHECKS
    assert all(check.remedy == "" for check in report.checks)
    assert report.claims is not None
    assert report.claims.simulated
    assert worker is not None
    assert worker.verification_key == world.worker_signer.verification_key
    assert worker.public_keys.hpke.key_id == world.public.hpke.key_id
    assert worker.public_keys.rsa.pem == world.public.rsa.pem


FAILED, UNCHECKED = Verdict.FAILED, Verdict.COULD_NOT_CHECK
ALONE: dict[str, tuple[str, Verdict, str, Callable[[Any], WorkerTypeData]]] = {
    "no evidence": ("evidence", UNCHECKED, "do not send secrets", lambda w: type_data(w, proof_data=None)),
    "evidence of another type": (
        "evidence", UNCHECKED, "do not send secrets", lambda w: type_data(w, proof_data_type="TEE-SGX-DCAP")),
    "no type of evidence": ("evidence", UNCHECKED, "do not send secrets", lambda w: type_data(w, proof_data_type="")),
    "evidence that cannot be read": (
        "evidence", UNCHECKED, "do not send secrets", lambda w: type_data(w, proof_data={"platform": "SIMULATED"})),
    "evidence that is a text": ("evidence", UNCHECKED, "do not send secrets", lambda w: type_data(w, proof_data="x")),
    "a root that is not accepted": (
        "root", FAILED, "protects nothing", lambda w: type_data(w, root=SigningKey(b"\3" * 32))),
    "another measurement": (
        "measurement", FAILED, "Compare with the measurement", lambda w: type_data(w, measurement="cd" * 32)),
    "the record of another worker": (
        "worker identity", FAILED, "another worker's record", lambda w: type_data(w, worker_id="2e" * 32)),
    "no binding": ("key binding", UNCHECKED, "not those of the attested", lambda w: type_data(w, key_binding=None)),
    "a binding of another role": (
        "key binding", FAILED, "not those of the attested",
        lambda w: type_data(w, key_binding=KeyBinding(worker_id=WORKER_ID, role="kme", nonce="0f" * 32))),
    "a binding of another nonce": (
        "key binding", FAILED, "not those of the attested",
        lambda w: type_data(w, key_binding=KeyBinding(worker_id=WORKER_ID, role="singleton", nonce="0e" * 32))),
    "a binding of a tenant": (
        "key binding", FAILED, "not those of the attested",
        lambda w: type_data(w, key_binding=KeyBinding(worker_id=WORKER_ID, role="singleton", nonce="0f" * 32, tenant=""))),
    "other report data": (
        "key binding", FAILED, "not those of the attested", lambda w: type_data(w, report_data=bytes(64))),
    "report data that differ in the second half only": (
        "key binding", FAILED, "not those of the attested", lambda w: type_data(w, report_data=tail_set(w))),
    "no signature over the HPKE key": (
        "encryption keys", FAILED, "put together from parts",
        lambda w: type_data(w, hpke_encryption_key_signature=None)),
    "a signature over the RSA key by another": (
        "encryption keys", FAILED, "put together from parts",
        lambda w: type_data(w, encryption_key_signature=w.requester.sign(digest_of_text(w.public.rsa.pem)).hex())),
    "a signature over the HPKE key by another": (
        "encryption keys", FAILED, "put together from parts",
        lambda w: type_data(
            w, hpke_encryption_key_signature=w.requester.sign(digest_of_text(w.public.hpke.hex)).hex())),
    "the signatures exchanged": (
        "encryption keys", FAILED, "put together from parts",
        lambda w: type_data(
            w, hpke_encryption_key_signature=w.worker_signer.sign(digest_of_text(w.public.rsa.pem)).hex())),
    "a signature with white space": (
        "encryption keys", FAILED, "put together from parts",
        lambda w: type_data(
            w, encryption_key_signature=" " + w.worker_signer.sign(digest_of_text(w.public.rsa.pem)).hex())),
    "a signature that is not hex": (
        "encryption keys", FAILED, "put together from parts", lambda w: type_data(w, encryption_key_signature="zz")),
}  # fmt: skip


def tail_set(world) -> bytes:
    evidence = type_data(world).proof_data
    return bytes.fromhex(evidence["report_data" if "report_data" in evidence else "reportData"])[:63] + b"\1"


@pytest.mark.parametrize(("name", "verdict", "remedy", "make"), ALONE.values(), ids=ALONE)
def test_a_check_fails_alone(world, name: str, verdict: Verdict, remedy: str, make) -> None:
    report = appraise(make(world))
    assert bad(report) == [(name, verdict)]
    assert report.verdict is Verdict.FAILED
    failed = next(check for check in report.checks if check.name == name)
    assert remedy in failed.remedy
    assert failed.found != failed.expected
    with pytest.raises(PolicyViolation, match=name) as refused:
        report.raise_for_verdict()
    assert failed.remedy in str(refused.value)


SUBSTITUTED = {
    "the verification key": lambda w: {"verification_key": w.requester.verification_key.pem},
    "the HPKE key": lambda w: {"hpke_encryption_key": w.public.hpke.hex[:-2] + "00"},
    "the HPKE key in another case": lambda w: {"hpke_encryption_key": w.public.hpke.hex.upper()},
    "the RSA key": lambda w: {"encryption_key": w.public.rsa.pem + "\n"},
    "no HPKE key": lambda w: {"hpke_encryption_key": None},
    "an HPKE key that is none": lambda w: {"hpke_encryption_key": "00"},
    "a verification key that is none": lambda w: {"verification_key": "x"},
    "a verification key on an unknown curve": lambda w: {
        "verification_key": "-----BEGIN PUBLIC KEY-----\nMBMwDgYHKoZIzj0CAQYDKwF6AwEA\n-----END PUBLIC KEY-----\n"
    },
    "a lone surrogate": lambda w: {"encryption_key_signature": "\ud800"},
}


@pytest.mark.parametrize("substitute", SUBSTITUTED.values(), ids=SUBSTITUTED)
def test_a_record_that_was_put_together_from_parts_is_refused(world, substitute) -> None:
    report = appraise(type_data(world, **substitute(world)))
    assert ("encryption keys", FAILED) in bad(report)
    with pytest.raises(PolicyViolation):
        report.raise_for_verdict()


def test_evidence_of_another_worker_does_not_vouch_for_these_keys(world) -> None:
    """The thief signs with a key of its own and shows genuine evidence of an honest worker."""
    honest, thief = type_data(world), world.requester
    stolen = msgspec.structs.replace(
        honest,
        verification_key=thief.verification_key.pem,
        encryption_key_signature=thief.sign(digest_of_text(honest.encryption_key)).hex(),
        hpke_encryption_key_signature=thief.sign(digest_of_text(honest.hpke_encryption_key or "")).hex(),
    )
    assert bad(appraise(stolen)) == [("key binding", FAILED)]


def test_a_debug_enclave_is_refused(world, monkeypatch: pytest.MonkeyPatch) -> None:
    real = simulated.verify
    monkeypatch.setattr(simulated, "verify", lambda *given: replace(real(*given), debug=True))
    report = appraise(type_data(world))
    assert bad(report) == [("debug", FAILED)]
    assert "can read its memory" in report.checks[2].remedy


def test_production_refuses_the_simulator_and_says_why(world) -> None:
    report = appraise(type_data(world), TrustPolicy.production({MEASUREMENT}))
    assert bad(report) == [("root", FAILED)]
    with pytest.raises(PolicyViolation, match="simulators are not accepted"):
        report.raise_for_verdict()


EMPTY = {
    "nothing at all": TrustPolicy(),
    "no measurement": TrustPolicy.development(frozenset()),
    "no measurement in production": TrustPolicy.production(frozenset()),
    "any measurement and no root": TrustPolicy(measurements=AnyMeasurementUNSAFE()),
}


@pytest.mark.parametrize("policy", EMPTY.values(), ids=EMPTY)
def test_an_empty_policy_admits_nothing(world, policy: TrustPolicy) -> None:
    report = appraise(type_data(world), policy)
    assert report.verdict is Verdict.FAILED
    assert {name for name, _ in bad(report)} <= {"root", "measurement"}


def test_any_measurement_passes_only_where_it_is_asked_for_and_says_so(world) -> None:
    report = appraise(type_data(world), TrustPolicy.development())
    assert report.verdict is Verdict.PASSED
    assert report.checks[3].expected == "any (UNSAFE)"
    assert not Measurements().admits("")
    assert not Measurements({MEASUREMENT}).admits(MEASUREMENT.upper())


def test_of_several_roots_any_may_have_signed(world) -> None:
    mine = SigningKey(b"\3" * 32)
    policy = replace(POLICY, simulator_roots=POLICY.simulator_roots | {mine.verification_key.pem})
    assert appraise(type_data(world, root=mine), policy).verdict is Verdict.PASSED
    assert appraise(type_data(world), policy).verdict is Verdict.PASSED


def test_a_report_without_checks_and_one_that_could_not_check_have_failed() -> None:
    assert AppraisalReport(checks=[]).verdict is Verdict.FAILED
    with pytest.raises(PolicyViolation, match="nothing could be checked"):
        AppraisalReport(checks=[]).raise_for_verdict()
    passed = Check(name="a", expected="", found="", verdict=Verdict.PASSED)
    unchecked = replace(passed, name="b", verdict=Verdict.COULD_NOT_CHECK)
    report = AppraisalReport(checks=[passed, unchecked])
    assert report.verdict is Verdict.FAILED
    with pytest.raises(PolicyViolation, match="b could not check"):
        report.raise_for_verdict()


def test_any_changed_character_of_evidence_is_refused(world, mutations) -> None:
    evidence = msgspec.to_builtins(
        simulated.issue(
            simulated.simulator_root(), measurement=MEASUREMENT, report_data=bytes(64), issued_at=7
        )
    )
    root = simulated.simulator_root().verification_key
    assert simulated.verify(simulated.parse(evidence), root).issued_at == 7
    for _, mutant in mutations(evidence):
        with pytest.raises((EvidenceError, SignatureMismatch)):
            simulated.verify(simulated.parse(mutant), root)


def test_report_data_commits_to_every_field(world) -> None:
    keys = {"verification_key": "a", "encryption_key": "b", "hpke_encryption_key": "c"}
    binding = KeyBinding(worker_id=WORKER_ID, role="r", nonce="n")
    all_of_them = {
        report_data(binding, **keys),
        *(report_data(binding, **keys | {name: "x"}) for name in keys),
        report_data(binding, **keys | {"verification_key": "ab", "encryption_key": ""}),
        *(report_data(msgspec.structs.replace(binding, **c), **keys)
          for c in ({"worker_id": "x"}, {"role": "x"}, {"nonce": "x"}, {"tenant": ""}, {"tenant": "n", "nonce": ""})),
    }  # fmt: skip
    assert len(all_of_them) == 10
    assert all(len(data) == REPORT_DATA_BYTES and data[32:] == bytes(32) for data in all_of_them)
