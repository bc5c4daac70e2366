"""A requester judges a pool by its manifest: whose code may see the data, who vouches for it, who may change that."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from avalon_core.attestation.checks import Check, Verdict
from avalon_core.attestation.claims import Claims, TcbStatus, Tee
from avalon_core.attestation.policy import SIMULATORS, TrustPolicy
from avalon_core.attestation.pool_checks import owner_digest, pool_checks
from avalon_core.attestation.rules import AnyMeasurementUNSAFE, Measurements
from avalon_core.crypto.manifests import Manifest, SignedManifest, digest_of, encode_manifest, sign_manifest
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.ids import HexStr
from avalon_core.protocol.workers import KeyBinding

KME, WPE, OTHER = "aa" * 32, "bb" * 32, "cc" * 32
OWNER = SigningKey.generate()
CLAIMS = Claims(
    tee=Tee.SGX,
    format="SGX quote v3",
    root="simulator",
    simulated=True,
    measurement=KME,
    report_data=bytes(64),
    debug=False,
)
ADMITTED = frozenset({KME, WPE})


def policy(**members: Any) -> TrustPolicy:
    values = {"code": Measurements(ADMITTED), "roots": frozenset({SIMULATORS}), **members}
    return TrustPolicy(**values)


def manifest(**members: Any) -> bytes:
    values = {
        "worker_name": "pool",
        "kme_measurements": (KME,),
        "wpe_measurements": (WPE,),
        "roots": ("simulator",),
        **members,
    }
    return encode_manifest(Manifest(**values))


def record(first: bytes, *changes: SignedManifest) -> tuple[Any, KeyBinding]:
    """The record's extendedMeasurements as they travel, and a binding that commits to them."""
    current = changes[-1].manifest if changes else first
    travelling = msgspec.to_builtins({"poolManifest": first, "poolManifestChanges": list(changes)})
    binding = KeyBinding(
        worker_id="00",
        role="kme",
        nonce=HexStr("00"),
        pool=digest_of(first).hex(),
        manifest=digest_of(current).hex(),
    )
    return travelling, binding


def verdicts(checks: Any) -> Mapping[str, Verdict]:
    return {check.name: check.verdict for check in checks}


def judged(first: bytes, given: TrustPolicy | None = None) -> Mapping[str, Verdict]:
    told, binding = record(first)
    return verdicts(pool_checks(told, binding, CLAIMS, given or policy()))


def owned(**members: Any) -> bytes:
    return manifest(owners=(OWNER.verification_key.pem,), quorum=1, **members)


def test_a_pool_whose_manifest_the_policy_accepts_whole_passes():
    found = judged(manifest())
    assert set(found) == {"pool manifest", "pool code", "pool roots", "pool platforms", "pool owners"}
    assert set(found.values()) == {Verdict.PASSED}


def test_a_singleton_is_judged_by_its_own_evidence_alone():
    binding = KeyBinding(worker_id="00", role="singleton", nonce=HexStr("00"))
    assert pool_checks(None, binding, CLAIMS, policy()) == ()


@pytest.mark.parametrize(
    ("members", "failed"),
    {
        "code that the policy does not know may process orders": (
            {"wpe_measurements": (WPE, OTHER)},
            "pool code",
        ),
        "code that the policy does not know may hold the keys": (
            {"kme_measurements": (KME, OTHER)},
            "pool code",
        ),
        "nobody may do anything": ({"kme_measurements": (), "wpe_measurements": ()}, "pool code"),
        "a root that the policy does not accept": ({"roots": ("simulator", "intel-sgx")}, "pool roots"),
        "a root that nobody knows": ({"roots": ("my own",)}, "pool roots"),
        "no root": ({"roots": ()}, "pool roots"),
        "platforms that are out of date": ({"tcb_statuses": ("UpToDate", "OutOfDate")}, "pool platforms"),
        "an owner whom the policy does not name": (
            {"owners": (OWNER.verification_key.pem,), "quorum": 1},
            "pool owners",
        ),
    }.values(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_thing_that_the_policy_does_not_accept_fails(members: Mapping[str, Any], failed: str):
    found = judged(manifest(**members))
    assert [name for name, verdict in found.items() if verdict is not Verdict.PASSED] == [failed]


def test_an_owner_whom_the_policy_names_may_change_the_manifest():
    named = policy(pool_owners=frozenset({owner_digest(OWNER.verification_key.pem)}))
    assert set(judged(owned(), named).values()) == {Verdict.PASSED}


def test_whoever_accepts_any_code_need_name_no_owner():
    anything = policy(code=AnyMeasurementUNSAFE())
    assert judged(owned(), anything)["pool owners"] is Verdict.PASSED


def test_a_status_that_policy_and_manifest_accept_passes():
    lax = policy(tcb_statuses=frozenset({TcbStatus.UP_TO_DATE, TcbStatus.SW_HARDENING_NEEDED}))
    found = judged(manifest(tcb_statuses=("UpToDate", "SWHardeningNeeded")), lax)
    assert set(found.values()) == {Verdict.PASSED}


def test_what_counts_is_the_manifest_after_all_changes():
    first = owned()
    then = owned(version=2, previous=digest_of(first).hex(), wpe_measurements=(WPE, OTHER))
    change = SignedManifest(manifest=then, signatures=dict([sign_manifest(then, OWNER)]))
    told, binding = record(first, change)
    named = policy(pool_owners=frozenset({owner_digest(OWNER.verification_key.pem)}))
    assert verdicts(pool_checks(told, binding, CLAIMS, named))["pool code"] is Verdict.FAILED


def _only(checks: Any) -> Check:
    (check,) = checks
    return check


def test_another_manifest_than_the_evidence_commits_to_is_refused():
    _, binding = record(manifest(wpe_measurements=(OTHER,)))
    told, _ = record(manifest())
    check = _only(pool_checks(told, binding, CLAIMS, policy()))
    assert (check.name, check.verdict) == ("pool manifest", Verdict.FAILED)


@pytest.mark.parametrize("told", [None, {}, {"poolManifest": "bm8="}, {"poolManifest": 7}, "text"], ids=str)
def test_a_manifest_that_is_not_there_could_not_be_checked(told: Any):
    _, binding = record(manifest())
    check = _only(pool_checks(told, binding, CLAIMS, policy()))
    assert (check.name, check.verdict) == ("pool manifest", Verdict.COULD_NOT_CHECK)


def test_a_key_management_enclave_that_names_no_pool_is_none_to_trust():
    binding = KeyBinding(worker_id="00", role="kme", nonce=HexStr("00"))
    assert _only(pool_checks(None, binding, CLAIMS, policy())).verdict is Verdict.COULD_NOT_CHECK


def test_a_change_that_nobody_signed_is_refused():
    first = owned()
    then = owned(version=2, previous=digest_of(first).hex())
    told, binding = record(first, SignedManifest(manifest=then))
    check = _only(pool_checks(told, binding, CLAIMS, policy()))
    assert (check.name, check.verdict) == ("pool manifest", Verdict.COULD_NOT_CHECK)
