"""A worker's record: every check fails alone, with its verdict and a remedy; and what could not be checked has failed."""

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

import avalon_core.attestation
from avalon_core.attestation import (
    AppraisalReport,
    Check,
    Measurements,
    TrustPolicy,
    Verdict,
    appraise_worker,
    report_data,
)
from avalon_core.attestation import formats as formats_module
from avalon_core.attestation.binding import REPORT_DATA_BYTES
from avalon_core.attestation.formats import ENTRIES, FORMATS
from avalon_core.attestation.proof_data import OwnProofData, encode
from avalon_core.attestation.workers import LONGEST_CACHE
from avalon_core.crypto.signing import digest_of_text
from avalon_core.errors import PolicyViolation
from avalon_core.protocol.workers import KeyBinding, WorkerDetails, WorkerRecord, WorkerTypeData
from avalon_core.simulator.states import State
from avalon_core.simulator.vendors import EvidenceRequest, SimulatedVendors

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ISSUED_AT = int(NOW.timestamp()) - 60
MEASUREMENT = "ab" * 32
WORKER_ID = "1d" * 32
POLICY = TrustPolicy.development({MEASUREMENT})
VENDORS = SimulatedVendors()
BINDING = KeyBinding(worker_id=WORKER_ID, role="singleton", nonce="0f" * 32, issued_at=ISSUED_AT)


def type_data(world, **members: Any) -> WorkerTypeData:
    """A worker that passes; members of its evidence are changed before it is issued."""
    keys = {
        "verification_key": world.worker_signer.verification_key.pem,
        "encryption_key": world.public.rsa.pem,
        "hpke_encryption_key": world.public.hpke.hex,
    }
    binding = members.pop("binding", BINDING)
    issued = members.pop("vendors", VENDORS).issue(
        EvidenceRequest(
            kind=members.pop("kind", "sgx"),
            measurement=bytes.fromhex(members.pop("measurement", MEASUREMENT)),
            report_data=members.pop("report_data", report_data(binding, **keys)),
            state=members.pop("state", State.UP_TO_DATE),
            debug=members.pop("debug", False),
        ),
        NOW,
    )
    proof_data_type, proof_data = encode(issued.evidence, issued.collateral)
    given = keys | {
        "encryption_key_signature": world.worker_signer.sign(digest_of_text(keys["encryption_key"])).hex(),
        "hpke_encryption_key_signature": world.worker_signer.sign(digest_of_text(keys["hpke_encryption_key"])).hex(),
        "proof_data_type": proof_data_type,
        "proof_data": proof_data,
        "key_binding": binding,
        "simulated": True,
    }  # fmt: skip
    return WorkerTypeData(**given | members)


def record(data: WorkerTypeData) -> WorkerRecord:
    details = WorkerDetails(worker_type_data=data)
    return WorkerRecord(worker_type=1, organization_id="", application_type_id="", details=details, status=1)


def appraise(data: WorkerTypeData, policy: TrustPolicy = POLICY, as_of: datetime = NOW) -> AppraisalReport:
    report, worker = appraise_worker(record(data), policy, worker_id=WORKER_ID, as_of=as_of)
    assert (worker is not None) == (report.verdict is Verdict.PASSED)
    return report


def bad(report: AppraisalReport) -> list[tuple[str, Verdict]]:
    return [(check.name, check.verdict) for check in report.problems]


def bound(**changes: Any) -> KeyBinding:
    return msgspec.structs.replace(BINDING, **changes)


def test_a_worker_that_passes_yields_exactly_the_keys_that_were_bound(world) -> None:
    report, worker = appraise_worker(record(type_data(world)), POLICY, worker_id=WORKER_ID, as_of=NOW)
    report.raise_for_verdict()
    names = [check.name for check in report.checks]
    assert names.index("root") < names.index("worker identity") < names.index("accepted root")
    assert names[-2:] == ["report data", "encryption keys"]
    assert all(check.remedy == "" for check in report.checks)
    assert report.claims is not None
    assert report.claims.simulated
    assert report.as_of == int(NOW.timestamp())
    assert worker is not None
    assert worker.verification_key == world.worker_signer.verification_key
    assert worker.public_keys.hpke.key_id == world.public.hpke.key_id
    assert worker.public_keys.rsa.pem == world.public.rsa.pem


@pytest.mark.parametrize(("kind", "width"), [("sgx", 32), ("tdx", 48), ("snp", 48), ("nitro", 48)])
def test_every_kind_of_tee_can_stand_behind_a_worker(world, kind: str, width: int) -> None:
    report = appraise(
        type_data(world, kind=kind, measurement="cd" * width), TrustPolicy.development({"cd" * width})
    )
    report.raise_for_verdict()
    assert report.claims is not None
    assert report.claims.tee == kind


FAILED, UNCHECKED = Verdict.FAILED, Verdict.COULD_NOT_CHECK
NO_SECRETS = "do not send secrets"
FROM_PARTS = "put together from parts"
ALONE: dict[str, tuple[str, Verdict, str, Callable[[Any], WorkerTypeData]]] = {
    "no evidence": ("evidence", UNCHECKED, NO_SECRETS, lambda w: type_data(w, proof_data=None)),
    "evidence of an unknown type": (
        "evidence", UNCHECKED, NO_SECRETS, lambda w: type_data(w, proof_data_type="TEE-SIMULATED")),
    "no type of evidence": ("evidence", UNCHECKED, NO_SECRETS, lambda w: type_data(w, proof_data_type="")),
    "evidence that cannot be read": (
        "evidence", UNCHECKED, NO_SECRETS, lambda w: type_data(w, proof_data={"platform": "SIMULATED"})),
    "evidence that is a text": ("evidence", UNCHECKED, NO_SECRETS, lambda w: type_data(w, proof_data="x")),
    "another measurement": (
        "code identity", FAILED, "Compare with the measurement", lambda w: type_data(w, measurement="cd" * 32)),
    "the record of another worker": (
        "worker identity", FAILED, "another worker's record", lambda w: type_data(w, binding=bound(worker_id="2e" * 32))),
    "a record that hides its simulator": (
        "simulation told", FAILED, "do not use it", lambda w: type_data(w, simulated=False)),
    "no binding": ("report data", UNCHECKED, "do not use them", lambda w: type_data(w, key_binding=None)),
    "a binding of another nonce": (
        "report data", FAILED, "", lambda w: type_data(w, key_binding=bound(nonce="0e" * 32))),
    "a binding of a tenant": (
        "report data", FAILED, "", lambda w: type_data(w, key_binding=bound(tenant=""))),
    "a binding of another time": (
        "report data", FAILED, "", lambda w: type_data(w, key_binding=bound(issued_at=ISSUED_AT + 1))),
    "other report data": ("report data", FAILED, "", lambda w: type_data(w, report_data=bytes(64))),
    "report data that differ in the second half only": (
        "report data", FAILED, "", lambda w: type_data(w, report_data=tail_set(w))),
    "no signature over the HPKE key": (
        "encryption keys", FAILED, FROM_PARTS, lambda w: type_data(w, hpke_encryption_key_signature=None)),
    "a signature over the RSA key by another": (
        "encryption keys", FAILED, FROM_PARTS,
        lambda w: type_data(w, encryption_key_signature=w.requester.sign(digest_of_text(w.public.rsa.pem)).hex())),
    "a signature over the HPKE key by another": (
        "encryption keys", FAILED, FROM_PARTS,
        lambda w: type_data(
            w, hpke_encryption_key_signature=w.requester.sign(digest_of_text(w.public.hpke.hex)).hex())),
    "the signatures exchanged": (
        "encryption keys", FAILED, FROM_PARTS,
        lambda w: type_data(
            w, hpke_encryption_key_signature=w.worker_signer.sign(digest_of_text(w.public.rsa.pem)).hex())),
    "a signature with white space": (
        "encryption keys", FAILED, FROM_PARTS,
        lambda w: type_data(
            w, encryption_key_signature=" " + w.worker_signer.sign(digest_of_text(w.public.rsa.pem)).hex())),
    "a signature that is not hex": (
        "encryption keys", FAILED, FROM_PARTS, lambda w: type_data(w, encryption_key_signature="zz")),
}  # fmt: skip


def tail_set(world) -> bytes:
    keys = type_data(world)
    return (
        report_data(
            BINDING,
            verification_key=keys.verification_key,
            encryption_key=keys.encryption_key,
            hpke_encryption_key=keys.hpke_encryption_key or "",
        )[:63]
        + b"\1"
    )


@pytest.mark.parametrize(("name", "verdict", "remedy", "make"), ALONE.values(), ids=ALONE)
def test_a_check_fails_alone(world, name: str, verdict: Verdict, remedy: str, make) -> None:
    report = appraise(make(world))
    assert bad(report) == [(name, verdict)]
    assert report.verdict is verdict
    [failed] = report.problems
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
    assert {name for name, _ in bad(report)} <= {"report data", "encryption keys"}
    assert bad(report)
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
    assert bad(appraise(stolen)) == [("report data", FAILED)]


@pytest.mark.parametrize(
    "changes", [{"role": "kme"}, {"role": "wpe"}, {"pool": "00" * 32, "manifest": "00" * 32}]
)
def test_a_worker_does_not_become_a_pool_by_saying_so(world, changes: dict[str, str]) -> None:
    assert ("report data", FAILED) in bad(appraise(type_data(world, key_binding=bound(**changes))))


def test_a_debug_enclave_is_refused(world) -> None:
    report = appraise(type_data(world, debug=True))
    assert report.verdict is not Verdict.PASSED
    assert any("debug" in check.found or check.name == "debug" for check in report.problems)


def test_production_refuses_the_simulator_and_says_why(world) -> None:
    report = appraise(type_data(world), TrustPolicy.production({MEASUREMENT}))
    assert bad(report) == [("accepted root", FAILED)]
    with pytest.raises(PolicyViolation, match="SIMULATED"):
        report.raise_for_verdict()


def test_a_simulator_with_a_seed_of_its_own_is_nobodys_root(world) -> None:
    report = appraise(type_data(world, vendors=SimulatedVendors(b"\3" * 32)))
    assert ("root", FAILED) in bad(report)


EMPTY = {
    "nothing at all": TrustPolicy(),
    "no measurement": TrustPolicy.development(frozenset()),
    "no measurement in production": TrustPolicy.production(frozenset()),
    "no root": replace(POLICY, roots=frozenset()),
}


@pytest.mark.parametrize("policy", EMPTY.values(), ids=EMPTY)
def test_an_empty_policy_admits_nothing(world, policy: TrustPolicy) -> None:
    report = appraise(type_data(world), policy)
    assert report.verdict is Verdict.FAILED
    assert {name for name, _ in bad(report)} <= {"accepted root", "code identity"}


def test_any_measurement_passes_only_where_it_is_asked_for_and_says_so(world) -> None:
    report = appraise(type_data(world), TrustPolicy.development())
    assert report.verdict is Verdict.PASSED
    assert any("UNSAFE" in check.expected for check in report.checks if check.name == "code identity")
    assert not Measurements().admits("")
    assert not Measurements({MEASUREMENT}).admits(MEASUREMENT.upper())


# -- time


def good_until(world, policy: TrustPolicy = POLICY, as_of: datetime = NOW) -> int:
    _, worker = appraise_worker(record(type_data(world)), policy, worker_id=WORKER_ID, as_of=as_of)
    assert worker is not None
    return worker.good_until


def test_it_is_good_until_the_first_of_an_hour_its_collateral_and_its_age(world) -> None:
    collateral = appraise(type_data(world)).claims.collateral_expires
    assert good_until(world) == int((NOW + LONGEST_CACHE).timestamp())
    late = datetime.fromtimestamp(collateral - 60, UTC)
    assert good_until(world, as_of=late) == collateral
    assert good_until(world, replace(POLICY, maximum_age=90)) == ISSUED_AT + 90


def test_what_it_rests_on_comes_to_its_end(world) -> None:
    data = type_data(world)
    report = appraise(data, as_of=NOW + timedelta(days=40))
    assert report.verdict is not Verdict.PASSED
    assert bad(appraise(data, replace(POLICY, maximum_age=59))) == [("evidence age", FAILED)]
    # A clock inside that runs ahead must not make evidence young for ever.
    assert bad(appraise(data, replace(POLICY, maximum_age=59), NOW - timedelta(hours=2))) != []


def test_a_report_without_checks_and_one_that_could_not_check_have_not_passed() -> None:
    assert AppraisalReport(checks=[]).verdict is not Verdict.PASSED
    with pytest.raises(PolicyViolation, match="nothing could be checked"):
        AppraisalReport(checks=[]).raise_for_verdict()
    passed = Check(name="a", expected="", found="", verdict=Verdict.PASSED)
    unchecked = replace(passed, name="b", verdict=Verdict.COULD_NOT_CHECK, remedy="look")
    report = AppraisalReport(checks=[passed, unchecked])
    assert report.verdict is Verdict.COULD_NOT_CHECK
    with pytest.raises(PolicyViolation, match="b could not check"):
        report.raise_for_verdict()


def test_a_changed_character_of_a_quote_is_refused_or_changes_nothing_that_it_says(world, mutations) -> None:
    """What passes all the same is in the PEM around the certificates, which nobody signs."""
    data = type_data(world)
    honest = appraise(data).claims
    collateral = data.proof_data["collateral"]
    tried = passed = 0
    for _, mutant in mutations({"document": data.proof_data["document"]}):
        if tried % 7 == 0:
            changed = msgspec.structs.replace(data, proof_data={**mutant, "collateral": collateral})
            report = appraise(changed)
            if report.verdict is Verdict.PASSED:
                assert report.claims == honest
                passed += 1
        tried += 1
    assert passed <= tried // 7 // 20


def test_report_data_commits_to_every_field(world) -> None:
    keys = {"verification_key": "a", "encryption_key": "b", "hpke_encryption_key": "c"}
    binding = KeyBinding(worker_id=WORKER_ID, role="r", nonce="n", issued_at=1)
    changes = (
        {"worker_id": "x"}, {"role": "x"}, {"nonce": "x"}, {"tenant": ""}, {"tenant": "n", "nonce": ""}, {"issued_at": 2},
        {"pool": "x"}, {"manifest": "x"}, {"pool": ""}, {"manifest": ""},
    )  # fmt: skip
    all_of_them = {
        report_data(binding, **keys),
        *(report_data(binding, **keys | {name: "x"}) for name in keys),
        report_data(binding, **keys | {"verification_key": "ab", "encryption_key": ""}),
        *(report_data(msgspec.structs.replace(binding, **change), **keys) for change in changes),
    }
    assert len(all_of_them) == 5 + len(changes)
    assert all(len(data) == REPORT_DATA_BYTES and data[32:] == bytes(32) for data in all_of_them)


# -- the surface


def test_every_public_name_is_there() -> None:
    assert all(getattr(avalon_core.attestation, name) is not None for name in avalon_core.attestation.__all__)
    assert set(avalon_core.attestation._HOME_OF) == set(avalon_core.attestation.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = avalon_core.attestation.nothing


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_what_is_said_of_a_format_before_it_is_loaded_is_what_it_says_itself(entry) -> None:
    known = FORMATS[entry.name]
    assert (known.name, known.proof_data_type) == (entry.name, entry.proof_data_type)
    assert isinstance(known, OwnProofData) == entry.own_proof_data
    assert len({other.proof_data_type for other in ENTRIES}) == len(ENTRIES) == len(formats_module.FORMATS)


@pytest.mark.parametrize(
    ("tenant", "accepted", "passes"),
    [("acme", {"acme"}, True), ("other", {"acme"}, False), (None, {"acme"}, False), ("acme", set(), False)],
    ids=["its own worker", "another's worker", "everybody's worker", "an empty list accepts none"],
)
def test_a_policy_may_ask_for_a_worker_that_is_dedicated(world, tenant, accepted, passes) -> None:
    policy = dataclasses.replace(POLICY, tenants=frozenset(accepted))
    report = appraise(type_data(world, binding=bound(tenant=tenant)), policy)
    assert [name for name, _ in bad(report)] == ([] if passes else ["tenant"])


def test_a_record_that_hides_its_pool_s_manifest_is_refused(world) -> None:
    report = appraise(type_data(world, binding=bound(role="kme", pool="ab" * 32, manifest="ab" * 32)))
    assert [name for name, _ in bad(report)] == ["pool manifest"]
