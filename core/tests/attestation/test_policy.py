"""Trust policies: what they admit, in sentences; the algebra of rules; and their texts."""

import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avalon_core.attestation.appraisal import appraise_claims
from avalon_core.attestation.checks import Verdict
from avalon_core.attestation.claims import Claims, TcbStatus, Tee
from avalon_core.attestation.policy import (
    TrustPolicy,
    production_problems,
    require_production,
)
from avalon_core.attestation.policy_diff import Subject, compare, dry_run, policy_changes
from avalon_core.attestation.policy_text import (
    load_policy,
    load_policy_json,
    load_policy_toml,
)
from avalon_core.attestation.policy_words import policy_advice, policy_in_words
from avalon_core.attestation.policy_writing import dump_policy_json, dump_policy_toml, policy_to_object
from avalon_core.attestation.roots import TrustAnchor
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
    Rule,
    Signer,
    admits,
)
from avalon_core.errors import AvalonError, PolicyViolation
from avalon_core.simulator.roots import SIMULATOR

MINE, OTHER = "1a" * 32, "2b" * 32
ME, SOMEBODY = "3c" * 32, "4d" * 32
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
NOW_S = int(NOW.timestamp())

SGX = Claims(
    tee=Tee.SGX,
    format="SGX quote v3",
    root="intel-sgx",
    simulated=False,
    measurement=MINE,
    report_data=b"\x07" * 64,
    debug=False,
    signer=ME,
    product_id=1,
    svn=3,
    tcb_status=TcbStatus.UP_TO_DATE,
    fmspc="00606a000000",
    config_id="ab" * 32 + "00" * 32,
    config_svn=2,
    tcb_evaluation=17,
    collateral_expires=NOW_S + 1000,
)
HARDENING = replace(
    SGX, tcb_status=TcbStatus.SW_HARDENING_NEEDED, advisories=frozenset({"INTEL-SA-00615", "INTEL-SA-00334"})
)
TDX = replace(
    SGX,
    tee=Tee.TDX,
    measurement="5e" * 48,
    registers={"rtmr0": "aa" * 48, "rtmr3": "bb" * 48},
    signer=None,
    product_id=None,
    svn=None,
    config_svn=None,
)
SNP = Claims(
    tee=Tee.SNP,
    format="SNP report v2",
    root="amd-milan",
    simulated=False,
    measurement="6f" * 48,
    report_data=bytes(64),
    debug=False,
    svn=0,
    tcb={"bootloader": "4", "tee": "0", "snp": "22", "microcode": "211"},
    config_id="cd" * 32,
    attributes={"vmpl": "0", "revocation": "not checked: no CRL given"},
)
NITRO = Claims(
    tee=Tee.NITRO,
    format="Nitro",
    root="aws-nitro",
    simulated=False,
    measurement="70" * 48,
    report_data=bytes(64),
    debug=False,
    issued_at=NOW_S - 600,
)
TPM = replace(NITRO, tee=Tee.TPM, root="google-ek-ak", measurement="81" * 32, registers={"pcr4": "82" * 32})
SIMULATED = replace(SGX, root="simulator", simulated=True)

GOOD = TrustPolicy.production({MINE})


def policy_for(claims: Claims, **changes: object) -> TrustPolicy:
    return replace(TrustPolicy(code=Measurements({claims.measurement}), demand_revocation=False), **changes)


CASES = {
    # sentence: (policy, claims, the check that stands against it, or None; could not check?)
    "the measurement that was named is admitted": (GOOD, SGX, None),
    "another measurement is not": (GOOD, replace(SGX, measurement=OTHER), "code identity"),
    "no policy admits nobody": (TrustPolicy(), SGX, "code identity"),
    "an empty list of measurements admits nobody": (TrustPolicy.production(set()), SGX, "code identity"),
    "an empty list of roots admits nobody": (replace(GOOD, roots=set()), SGX, "accepted root"),
    "an empty list of kinds admits nobody": (replace(GOOD, tees=set()), SGX, "tee"),
    "an empty list of statuses admits nobody": (replace(GOOD, tcb_statuses=set()), SGX, "tcb status"),
    "an empty list of statuses admits not even those who have none": (
        policy_for(NITRO, tcb_statuses=set()),
        NITRO,
        "tcb status",
    ),
    "an empty list of FMSPCs admits nobody": (replace(GOOD, fmspcs=set()), SGX, "fmspc"),
    "an empty list of FMSPCs admits not even other vendors": (policy_for(NITRO, fmspcs=set()), NITRO, "fmspc"),
    "an empty list of configurations admits nobody": (replace(GOOD, config_ids=set()), SGX, "config id"),
    "debug mode is never admitted": (GOOD, replace(SGX, debug=True), "debug"),
    "debug mode is admitted by who says so loudly": (
        replace(GOOD, allow_debug_UNSAFE=True),
        replace(SGX, debug=True),
        None,
    ),
    "production refuses the simulator": (GOOD, SIMULATED, "accepted root"),
    "development admits the simulator": (TrustPolicy.development(), SIMULATED, None),
    "development admits real hardware": (TrustPolicy.development(), SGX, None),
    "development with measurements admits no others": (
        TrustPolicy.development({OTHER}),
        SIMULATED,
        "code identity",
    ),
    "claims that call a vendor's root simulated are refused": (
        GOOD,
        replace(SGX, simulated=True),
        "accepted root",
    ),
    "claims that call a simulator's root real are refused": (
        TrustPolicy.development(),
        replace(SIMULATED, simulated=False),
        "accepted root",
    ),
    "a root that was not named is refused": (replace(GOOD, roots={"amd-milan"}), SGX, "accepted root"),
    "a root that was named is admitted": (replace(GOOD, roots={"intel-sgx"}), SGX, None),
    "the root of a service that ended has to be named": (GOOD, replace(SGX, root="intel-ias"), "accepted root"),
    "the root of a service that ended is admitted by name": (
        replace(GOOD, roots={"intel-ias"}),
        replace(SGX, root="intel-ias"),
        None,
    ),
    "a TPM is no TEE unless it is named": (policy_for(TPM), TPM, "tee"),
    "a TPM that is named is admitted": (policy_for(TPM, tees={Tee.TPM}), TPM, None),
    "a kind that was left out is refused": (replace(GOOD, tees={Tee.SNP}), SGX, "tee"),
    "a status that was not named is refused": (GOOD, replace(HARDENING, advisories=frozenset()), "tcb status"),
    "a status that was named passes, its advisories do not": (
        replace(GOOD, tcb_statuses={TcbStatus.SW_HARDENING_NEEDED}),
        HARDENING,
        "advisories",
    ),
    "one advisory of two is not enough": (
        replace(GOOD, tcb_statuses={TcbStatus.SW_HARDENING_NEEDED}, advisories={"INTEL-SA-00615"}),
        HARDENING,
        "advisories",
    ),
    "a status and all its advisories pass": (
        replace(
            GOOD,
            tcb_statuses={TcbStatus.SW_HARDENING_NEEDED},
            advisories={"INTEL-SA-00615", "INTEL-SA-00334"},
        ),
        HARDENING,
        None,
    ),
    "an unknown advisory beside UpToDate is no error": (
        GOOD,
        replace(SGX, advisories=frozenset({"INTEL-SA-99999"})),
        None,
    ),
    "an Intel platform without a status could not be checked": (
        GOOD,
        replace(SGX, tcb_status=None),
        "tcb status?",
    ),
    "Nitro needs no status": (policy_for(NITRO), NITRO, None),
    "SNP without a CRL could not be checked": (
        policy_for(SNP, demand_revocation=True),
        SNP,
        "revocation demanded?",
    ),
    "SNP without a CRL passes where nobody demands one": (policy_for(SNP), SNP, None),
    "SNP with new enough parts passes": (
        policy_for(SNP, minimum_tcb={Tee.SNP: {"snp": 22, "microcode": 211}}),
        SNP,
        None,
    ),
    "SNP with an old part is refused": (
        policy_for(SNP, minimum_tcb={Tee.SNP: {"microcode": 212}}),
        SNP,
        "minimum tcb",
    ),
    "a part that the evidence does not tell could not be checked": (
        policy_for(SNP, minimum_tcb={Tee.SNP: {"fmc": 1}}),
        SNP,
        "minimum tcb?",
    ),
    "minimums of SNP say nothing about SGX": (
        replace(GOOD, minimum_tcb={Tee.SNP: {"microcode": 999}}),
        SGX,
        None,
    ),
    "an FMSPC of the list passes": (replace(GOOD, fmspcs={"00606a000000"}), SGX, None),
    "an FMSPC that is not in the list is refused": (replace(GOOD, fmspcs={"00906ed50000"}), SGX, "fmspc"),
    "a denied FMSPC is refused though it is in the list": (
        replace(GOOD, fmspcs={"00606a000000"}, denied_fmspcs={"00606a000000"}),
        SGX,
        "fmspc",
    ),
    "evidence that tells no FMSPC could not be checked": (
        replace(GOOD, denied_fmspcs={"00906ed50000"}),
        replace(SGX, fmspc=None),
        "fmspc?",
    ),
    "FMSPCs say nothing about SNP": (policy_for(SNP, fmspcs={"00606a000000"}), SNP, None),
    "a tenant's binding that is padded with zeros passes": (replace(GOOD, config_ids={"ab" * 32}), SGX, None),
    "another tenant's is refused": (replace(GOOD, config_ids={"ac" * 32}), SGX, "config id"),
    "the beginning of a tenant's binding is not enough": (
        replace(GOOD, config_ids={"ab" * 31}),
        SGX,
        "config id",
    ),
    "evidence without a configuration has no tenant": (
        policy_for(NITRO, config_ids={"ab" * 32}),
        NITRO,
        "config id",
    ),
    "a configuration that is new enough passes": (replace(GOOD, minimum_config_svn=2), SGX, None),
    "an old configuration is refused": (replace(GOOD, minimum_config_svn=3), SGX, "config svn"),
    "recent knowledge of the TCB passes": (replace(GOOD, minimum_tcb_evaluation=17), SGX, None),
    "old knowledge of the TCB is refused": (replace(GOOD, minimum_tcb_evaluation=18), SGX, "tcb evaluation"),
    "no knowledge of the TCB could not be checked": (
        replace(GOOD, minimum_tcb_evaluation=1),
        replace(SGX, tcb_evaluation=None),
        "tcb evaluation?",
    ),
    "young evidence passes": (policy_for(NITRO, maximum_age=600), NITRO, None),
    "old evidence is refused": (policy_for(NITRO, maximum_age=599), NITRO, "evidence age"),
    "evidence of the future is refused": (
        policy_for(NITRO, maximum_age=600),
        replace(NITRO, issued_at=NOW_S + 301),
        "evidence age",
    ),
    "a clock may be five minutes ahead": (
        policy_for(NITRO, maximum_age=600),
        replace(NITRO, issued_at=NOW_S + 299),
        None,
    ),
    "evidence without a time could not be checked for its age": (
        replace(GOOD, maximum_age=600),
        SGX,
        "evidence age?",
    ),
    "collateral that has ended is refused": (
        GOOD,
        replace(SGX, collateral_expires=NOW_S - 1),
        "collateral age",
    ),
    "collateral that has ended passes within its grace": (
        replace(GOOD, collateral_grace=1),
        replace(SGX, collateral_expires=NOW_S - 1),
        None,
    ),
    "a signer's product passes from its version on": (
        policy_for(SGX, code=Signer(signer=ME, product_id=1, minimum_svn=3)),
        SGX,
        None,
    ),
    "an old version of a signer's product is refused": (
        policy_for(SGX, code=Signer(signer=ME, product_id=1, minimum_svn=4)),
        SGX,
        "code identity",
    ),
    "another product of the signer is refused": (
        policy_for(SGX, code=Signer(signer=ME, product_id=2)),
        SGX,
        "code identity",
    ),
    "another signer is refused": (policy_for(SGX, code=Signer(signer=SOMEBODY)), SGX, "code identity"),
    "evidence without a signer has none of them": (
        policy_for(TDX, code=Signer(signer=ME)),
        TDX,
        "code identity",
    ),
    "evidence without a version has no version that is new enough": (
        policy_for(SGX, code=Signer(signer=ME, minimum_svn=0)),
        replace(SGX, svn=None),
        "code identity",
    ),
    "a measurement with its registers passes": (
        policy_for(TDX, code=Measurement(value=TDX.measurement, registers={"rtmr3": "bb" * 48})),
        TDX,
        None,
    ),
    "a measurement with another register is refused": (
        policy_for(TDX, code=Measurement(value=TDX.measurement, registers={"rtmr3": "bc" * 48})),
        TDX,
        "code identity",
    ),
    "a register that is not there is refused": (
        policy_for(TDX, code=Registers(values={"rtmr9": "bb" * 48})),
        TDX,
        "code identity",
    ),
    "a field can be demanded beside the code": (
        policy_for(
            SNP, code=AllOf(Measurements({SNP.measurement}), Field(name="vmpl", values={"0"}))
        ),
        SNP,
        None,
    ),
    "a field with another value is refused": (
        policy_for(
            SNP, code=AllOf(Measurements({SNP.measurement}), Field(name="vmpl", values={"1"}))
        ),
        SNP,
        "code identity",
    ),
    "a kind can be demanded beside the code": (
        policy_for(SGX, code=AllOf(Kind(Tee.TDX), Measurements({MINE}))),
        SGX,
        "code identity",
    ),
}  # fmt: skip


@pytest.mark.parametrize("sentence", CASES)
def test_what_a_policy_admits(sentence):
    policy, claims, against = CASES[sentence]
    report = appraise_claims(claims, policy, as_of=NOW)
    if against is None:
        assert report.verdict is Verdict.PASSED, list(report.problems)
        report.raise_for_verdict()
    else:
        assert [check.name for check in report.problems] == [against.rstrip("?")]
        expected = Verdict.COULD_NOT_CHECK if against.endswith("?") else Verdict.FAILED
        assert report.verdict is expected
        with pytest.raises(PolicyViolation, match=against.rstrip("?")):
            report.raise_for_verdict()


@pytest.mark.parametrize("sentence", CASES)
def test_every_policy_survives_its_texts(sentence):
    policy = CASES[sentence][0]
    assert load_policy_toml(dump_policy_toml(policy)) == policy
    assert load_policy_json(dump_policy_json(policy)) == policy


def test_report_data_is_asked_for_by_the_caller():
    assert appraise_claims(SGX, GOOD, as_of=NOW, report_data=b"\x07" * 64).verdict is Verdict.PASSED
    report = appraise_claims(SGX, GOOD, as_of=NOW, report_data=b"\x07" * 63)
    assert [check.name for check in report.problems] == ["report data"]
    with pytest.raises(ValueError, match="report data: got 65 bytes"):
        appraise_claims(SGX, GOOD, as_of=NOW, report_data=bytes(65))
    with pytest.raises(ValueError, match="zone"):
        appraise_claims(SGX, GOOD, as_of=NOW.replace(tzinfo=None))


def test_for_every_alternative_the_report_says_why_it_did_not_match():
    code = AnyOf(
        Measurement(value=OTHER, label="release 1.4"),
        Signer(signer=ME, product_id=1, minimum_svn=5),
        AllOf(Kind(Tee.TDX), Measurements({MINE})),
    )
    (problem,) = appraise_claims(SGX, policy_for(SGX, code=code), as_of=NOW).problems
    assert problem.expected == "one of 3 alternatives"
    assert f"1. not 'release 1.4': measurement {OTHER}: the measurement is {MINE}" in problem.found
    assert "the security version is 3, at least 5 is demanded" in problem.found
    assert "the TEE is sgx" in problem.found
    assert problem.remedy


def test_of_many_alternatives_the_report_tells_some_and_counts_the_rest():
    code = AnyOf(*(Measurement(value=f"{number:064x}") for number in range(20)))
    (problem,) = appraise_claims(SGX, policy_for(SGX, code=code), as_of=NOW).problems
    assert "8. not" in problem.found
    assert "9. not" not in problem.found
    assert "and 12 more that did not match" in problem.found


# Own roots --------------------------------------------------------------------------------------------------------

LAB = TrustAnchor(name="my-lab", sha256="9c" * 32)


def test_a_root_of_ones_own_is_accepted_by_its_name():
    policy = replace(GOOD, own_roots=(LAB,))
    assert appraise_claims(replace(SGX, root="my-lab"), policy, as_of=NOW).verdict is Verdict.PASSED
    assert appraise_claims(replace(SGX, root="my-lab"), GOOD, as_of=NOW).verdict is Verdict.FAILED
    assert production_problems(policy) == ()


def test_the_published_simulator_stays_one_whatever_a_policy_calls_it():
    disguised = TrustAnchor(name="hardware", sha256=SIMULATOR.sha256, simulated=False)
    policy = replace(GOOD, own_roots=(disguised,))
    anchor = policy.anchors().find(SIMULATOR.sha256)
    assert anchor is not None
    assert anchor.simulated
    assert "simulator" in production_problems(policy)[0]
    assert "hardware" not in {root.name for root in policy.anchors()}


def test_a_root_of_ones_own_cannot_take_a_vendors_name():
    with pytest.raises(PolicyFormatError, match="'intel-sgx' is taken"):
        replace(GOOD, own_roots=(replace(LAB, name="intel-sgx"),))
    with pytest.raises(PolicyFormatError, match="is taken"):
        replace(GOOD, own_roots=(LAB, replace(LAB, sha256="9d" * 32)))


# Production --------------------------------------------------------------------------------------------------------

UNFIT = {
    "a simulator": (replace(GOOD, roots={"simulators"}), "simulator"),
    "a simulator by name": (replace(GOOD, roots={"simulator"}), "simulator"),
    "a simulator of one's own": (replace(GOOD, own_roots=(replace(LAB, simulated=True),)), "my-lab"),
    "debug mode": (replace(GOOD, allow_debug_UNSAFE=True), "debug"),
    "any code": (replace(GOOD, code=AnyMeasurementUNSAFE()), "any code"),
    "any code, deep inside": (
        replace(GOOD, code=AnyOf(Measurements({MINE}), AllOf(Kind(Tee.SGX), AnyMeasurementUNSAFE()))),
        "any code",
    ),
    "nothing": (TrustPolicy(), "names no code"),
    "no root": (replace(GOOD, roots=()), "no root"),
    "no kind": (replace(GOOD, tees=()), "tees is empty"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_production_refuses_a_policy_with(what):
    policy, expected = UNFIT[what]
    assert any(expected in problem for problem in production_problems(policy))
    with pytest.raises(PolicyViolation, match=expected):
        require_production(policy)


def test_production_takes_a_good_policy_and_lists_all_that_is_wrong_with_a_bad_one():
    require_production(GOOD)
    assert len(production_problems(replace(TrustPolicy.development(), allow_debug_UNSAFE=True))) == 3


# Rules --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        Kind(Tee.SGX),
        Field(name="vmpl", values={"0"}),
        AllOf(Kind(Tee.SGX), Field(name="vmpl", values={"0"})),
        AnyOf(Measurements({MINE}), Kind(Tee.SGX)),
        AllOf(Kind(Tee.SGX), AnyOf(Measurements({MINE}), Kind(Tee.SGX))),
    ],
)
def test_a_rule_that_lets_any_code_pass_without_saying_so_is_refused(rule):
    with pytest.raises(PolicyFormatError, match="lets any code pass"):
        TrustPolicy(code=rule)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Measurements({MINE.upper()}), "lower-case hex"),
        (lambda: Measurements({"ab"}), "64 or 96 or 128"),
        (lambda: Signer(signer="00" * 32), "zeros only"),
        (lambda: Signer(signer=ME, minimum_svn=-1), "minimum_svn: got -1"),
        (lambda: Signer(signer=ME, product_id=True), "product_id: got True"),
        (lambda: Registers(values={"RTMR0": "aa"}), "lower-case word"),
        (lambda: Measurement(value=MINE, label="a\x1b[31m"), "printable"),
        (lambda: replace(GOOD, fmspcs={"00"}), "12 lower-case hex"),
        (lambda: replace(GOOD, advisories={"intel\n"}), "INTEL-SA-00615"),
        (lambda: replace(GOOD, roots={"Intel SGX"}), "intel-sgx"),
        (lambda: replace(GOOD, maximum_age=-1), "maximum_age"),
        (lambda: replace(GOOD, code=AnyOf(*[Measurements({MINE})] * 2001)), "too many rules"),
        (lambda: replace(GOOD, code=_nested(9)), "nested too deep"),
    ],
)
def test_what_is_not_of_its_form_is_refused(make, expected):
    with pytest.raises(PolicyFormatError, match=expected):
        make()


def _nested(depth: int) -> Rule:
    rule: Rule = Measurements({MINE})
    for _ in range(depth):
        rule = AnyOf(rule)
    return rule


HEX = st.sampled_from([MINE, OTHER, ME, SOMEBODY, "5e" * 48])
LEAVES = st.one_of(
    st.builds(Measurements, st.frozensets(HEX, max_size=3)),
    st.builds(
        Measurement,
        value=HEX,
        registers=st.dictionaries(
            st.sampled_from(["rtmr0", "pcr4"]), st.sampled_from(["aa", "bb"]), max_size=2
        ),
        label=st.text(st.characters(codec="utf-8"), max_size=5).filter(str.isprintable),
    ),
    st.builds(
        Signer,
        signer=HEX,
        product_id=st.none() | st.integers(0, 3),
        minimum_svn=st.none() | st.integers(0, 5),
    ),
    st.builds(
        Registers, values=st.dictionaries(st.sampled_from(["rtmr0", "pcr4"]), st.sampled_from(["aa", "bb"]))
    ),
    st.just(AnyMeasurementUNSAFE()),
)
FREE = st.one_of(
    st.builds(Kind, st.sampled_from(Tee)),
    st.builds(
        Field,
        name=st.sampled_from(["vmpl", "owner", "csp_id"]),
        values=st.frozensets(
            st.text(st.characters(codec="utf-8"), max_size=4).filter(str.isprintable), max_size=3
        ),
    ),
)
RULES = st.recursive(
    LEAVES | FREE,
    lambda inner: st.lists(inner, max_size=3).flatmap(
        lambda parts: st.sampled_from([AllOf(*parts), AnyOf(*parts)])
    ),
    max_leaves=8,
)
GROUNDED = RULES.filter(lambda rule: rule.is_grounded)
CLAIMS = st.builds(
    lambda **changes: replace(SGX, **changes),
    tee=st.sampled_from(Tee),
    root=st.sampled_from(["intel-sgx", "amd-milan", "simulator", "my-lab", "nobody"]),
    simulated=st.booleans(),
    measurement=HEX,
    registers=st.dictionaries(st.sampled_from(["rtmr0", "pcr4"]), st.sampled_from(["aa", "bb"])),
    signer=st.none() | HEX,
    product_id=st.none() | st.integers(0, 3),
    svn=st.none() | st.integers(0, 5),
    debug=st.booleans(),
    tcb_status=st.none() | st.sampled_from(TcbStatus),
    advisories=st.frozensets(st.sampled_from(["INTEL-SA-00615", "INTEL-SA-00334"])),
    tcb=st.dictionaries(st.sampled_from(["snp", "microcode"]), st.sampled_from(["0", "7", "x"])),
    fmspc=st.none() | st.sampled_from(["00606a000000", "00906ed50000"]),
    config_id=st.none() | st.sampled_from(["ab" * 64, "cd" * 32]),
    config_svn=st.none() | st.integers(0, 3),
    attributes=st.dictionaries(
        st.sampled_from(["vmpl", "csp_id", "revocation"]), st.sampled_from(["0", "not checked: none"])
    ),
    issued_at=st.none() | st.integers(NOW_S - 100, NOW_S + 400),
    collateral_expires=st.none() | st.integers(NOW_S - 100, NOW_S + 100),
    tcb_evaluation=st.none() | st.integers(15, 19),
)
POLICIES = st.builds(
    TrustPolicy,
    name=st.text(st.characters(codec="utf-8"), max_size=10).filter(str.isprintable),
    code=GROUNDED,
    roots=st.frozensets(st.sampled_from(["vendors", "simulators", "intel-sgx", "amd-milan"])),
    own_roots=st.sampled_from([(), (LAB,), (replace(LAB, simulated=True, description="of the lab"),)]),
    tees=st.frozensets(st.sampled_from(Tee)),
    allow_debug_UNSAFE=st.booleans(),
    tcb_statuses=st.frozensets(st.sampled_from(TcbStatus)),
    advisories=st.frozensets(st.sampled_from(["INTEL-SA-00615", "INTEL-SA-00334"])),
    fmspcs=st.none() | st.frozensets(st.sampled_from(["00606a000000", "00906ed50000"])),
    denied_fmspcs=st.frozensets(st.sampled_from(["00606a000000", "00906ed50000"])),
    config_ids=st.none() | st.frozensets(st.sampled_from(["ab" * 64, "cd"])),
    minimum_config_svn=st.none() | st.integers(0, 3),
    minimum_tcb=st.dictionaries(
        st.sampled_from(Tee), st.dictionaries(st.sampled_from(["snp", "microcode"]), st.integers(0, 9))
    ),
    minimum_tcb_evaluation=st.none() | st.integers(15, 19),
    maximum_age=st.none() | st.integers(0, 100),
    collateral_grace=st.integers(0, 100),
    demand_revocation=st.booleans(),
)


@given(CLAIMS)
def test_empty_admits_nothing_whatever_the_claims_are(claims):
    for rule in (AnyOf(), AllOf(), Measurements(), Registers(values={}), AnyOf(AllOf()), AllOf(AnyOf())):
        assert rule.is_empty
        assert not admits(rule, claims)
    for policy in (
        TrustPolicy(),
        TrustPolicy.production(frozenset()),
        TrustPolicy.development(frozenset()),
        replace(TrustPolicy.development(), roots=frozenset()),
        replace(TrustPolicy.development(), tees=frozenset()),
        replace(TrustPolicy.development(), tcb_statuses=frozenset()),
        replace(TrustPolicy.development(), fmspcs=frozenset()),
        replace(TrustPolicy.development(), config_ids=frozenset()),
    ):
        assert appraise_claims(claims, policy, as_of=NOW).verdict is not Verdict.PASSED


@given(st.lists(RULES, max_size=4), CLAIMS)
def test_all_of_and_any_of_are_what_they_say(rules, claims):
    answers = [admits(rule, claims) for rule in rules]
    assert admits(AllOf(*rules), claims) == (bool(answers) and all(answers))
    assert admits(AnyOf(*rules), claims) == any(answers)
    assert admits(AnyOf(*reversed(rules)), claims) == any(answers)
    assert admits(AnyOf(AnyOf(*rules)), claims) == any(answers)


@given(RULES, CLAIMS)
def test_a_rule_that_is_empty_admits_nothing_and_every_outcome_says_why(rule, claims):
    outcome = rule.judge(claims)
    assert outcome.rule
    assert outcome.because
    if rule.is_empty:
        assert not outcome.matched


@given(POLICIES)
def test_dumping_and_loading_changes_nothing(policy):
    toml, json_ = dump_policy_toml(policy), dump_policy_json(policy)
    assert load_policy(toml) == policy
    assert load_policy(json_.encode()) == policy
    assert dump_policy_toml(load_policy(toml)) == toml
    assert dump_policy_json(load_policy(json_)) == json_


RESTRICTIONS = st.sampled_from(
    [
        lambda p: replace(p, roots=p.roots - {"vendors"}),
        lambda p: replace(p, own_roots=()),
        lambda p: replace(p, tees=p.tees - {Tee.SGX}),
        lambda p: replace(p, allow_debug_UNSAFE=False),
        lambda p: replace(p, tcb_statuses=p.tcb_statuses - {TcbStatus.UP_TO_DATE}),
        lambda p: replace(p, advisories=p.advisories - {"INTEL-SA-00615"}),
        lambda p: replace(p, fmspcs=({"00606a000000"} if p.fmspcs is None else p.fmspcs) - {"00906ed50000"}),
        lambda p: replace(p, denied_fmspcs=p.denied_fmspcs | {"00606a000000"}),
        lambda p: replace(p, config_ids=({"cd"} if p.config_ids is None else p.config_ids) - {"ab" * 64}),
        lambda p: replace(p, minimum_config_svn=(p.minimum_config_svn or 0) + 1),
        lambda p: replace(
            p, minimum_tcb={**p.minimum_tcb, Tee.SNP: {"snp": 9, **p.minimum_tcb.get(Tee.SNP, {})}}
        ),
        lambda p: replace(p, minimum_tcb_evaluation=(p.minimum_tcb_evaluation or 0) + 1),
        lambda p: replace(p, maximum_age=1 if p.maximum_age is None else min(p.maximum_age, 1)),
        lambda p: replace(p, collateral_grace=0),
        lambda p: replace(p, demand_revocation=True),
        lambda p: replace(p, code=AllOf(p.code, Measurements({MINE}))),
        lambda p: replace(p, code=AllOf(p.code, Kind(Tee.SNP))),
    ]
)


@given(POLICIES, CLAIMS, RESTRICTIONS)
def test_adding_a_restriction_never_admits_more(policy, claims, restrict):
    stricter = restrict(policy)
    if appraise_claims(claims, stricter, as_of=NOW).verdict is Verdict.PASSED:
        assert appraise_claims(claims, policy, as_of=NOW).verdict is Verdict.PASSED


@given(POLICIES)
def test_every_policy_can_be_told_in_words(policy):
    assert all(sentence.isprintable() for sentence in policy_in_words(policy))
    assert all(policy_advice(policy)) or not policy_advice(policy)
    production_problems(policy)


# Texts --------------------------------------------------------------------------------------------------------------


def test_the_short_form_still_loads():
    assert load_policy(f'measurements = ["{MINE}"]') == TrustPolicy.production({MINE})
    short = f'{{"measurements": ["{MINE}"], "accept_simulator": true}}'
    assert load_policy(short) == TrustPolicy.development({MINE})
    assert load_policy("accept_simulator = true") == TrustPolicy.development(frozenset())
    assert load_policy("") == TrustPolicy()


def test_a_whole_policy_in_toml():
    policy = load_policy(
        f"""
        name = "heart study"
        measurements = ["0x{MINE.upper()}"]
        roots = ["intel-sgx", "my-lab"]
        tees = ["sgx", "snp"]
        tcb_statuses = ["UpToDate", "SWHardeningNeeded"]
        advisories = ["INTEL-SA-00615"]
        maximum_age = "12h"
        collateral_grace = "30d"

        [minimum_tcb.snp]
        microcode = 211

        [[code]]
        signer = "{ME}"
        product_id = 1
        minimum_svn = 3

        [[code]]
        all_of = [{{ tee = "snp" }}, {{ measurement = "{OTHER}", label = "1.4" }}, {{ field = "vmpl", values = ["0"] }}]
        """.replace(', "my-lab"', "")
    )
    assert policy == TrustPolicy(
        name="heart study",
        roots={"intel-sgx"},
        tees={Tee.SGX, Tee.SNP},
        tcb_statuses={TcbStatus.UP_TO_DATE, TcbStatus.SW_HARDENING_NEEDED},
        advisories={"INTEL-SA-00615"},
        maximum_age=43_200,
        collateral_grace=2_592_000,
        minimum_tcb={Tee.SNP: {"microcode": 211}},
        code=AnyOf(
            Measurements({MINE}),
            Signer(signer=ME, product_id=1, minimum_svn=3),
            AllOf(Kind(Tee.SNP), Measurement(value=OTHER, label="1.4"), Field(name="vmpl", values={"0"})),
        ),
    )


def test_the_toml_of_a_policy_is_pinned():
    assert dump_policy_toml(
        TrustPolicy(
            name='a "name"',
            code=AnyOf(
                Signer(signer=ME, product_id=1, minimum_svn=3), AllOf(Kind(Tee.SGX), Measurements({MINE}))
            ),
            minimum_tcb={Tee.SNP: {"snp": 22}},
        )
    ) == (
        "version = 1\n"
        'name = "a \\"name\\""\n'
        'roots = ["vendors"]\n'
        'tees = ["nitro", "sgx", "snp", "tdx"]\n'
        'tcb_statuses = ["UpToDate"]\n'
        "demand_revocation = true\n"
        "\n[minimum_tcb.snp]\nsnp = 22\n"
        f'\n[[code]]\nsigner = "{ME}"\nproduct_id = 1\nminimum_svn = 3\n'
        "\n[[code]]\nall_of = [\n"
        '    { tee = "sgx" },\n'
        f'    {{ measurements = ["{MINE}"] }},\n'
        "]\n"
    )


WRONG = {
    "mesurements = []": r"unknown member mesurements: did you mean measurements\?",
    "zzz = 1": "nothing is called like that",
    'measurements = "ab"': "measurements: got 'ab', expected a list",
    "measurements = [1]": r"measurements\[0\]: got 1, expected a text",
    'measurements = ["xy"]': r"measurements\[0\]: got 'xy', expected an even number of hex digits",
    'measurements = ["abcd"]': "expected 64 or 96 or 128",
    "accept_simulator = 1": "accept_simulator: got 1, expected true or false",
    'tees = ["sxg"]': r"tees\[0\]: got 'sxg': did you mean sgx\?",
    'tcb_statuses = ["uptodate"]': r"did you mean UpToDate\?",
    'roots = ["intel_sgx"]': "expected a name such as intel-sgx",
    'roots = ["intel-sxg"]': r"nobody here knows 'intel-sxg': did you mean intel-sgx\?",
    'maximum_age = "1 week"': 'expected seconds, or a text such as "12h"',
    "maximum_age = true": "maximum_age: got True",
    "version = 2": "version: got 2, expected 1",
    "[minimum_tcb.spn]\nsnp = 1": r"unknown member minimum_tcb.spn: did you mean snp\?",
    '[minimum_tcb.snp]\nsnp = "1"': "minimum_tcb.snp.snp: got '1', expected a whole number",
    "[[code]]\nlabel = 'x'": r"code\[0\]: expected one of measurement, ",
    f"[[code]]\nmeasurement = '{MINE}'\nsigner = '{ME}'": r"unknown member code\[0\].signer",
    f"[[code]]\nsigner = '{ME}'\nminimum_isvsvn = 1": r"code\[0\].minimum_isvsvn: did you mean minimum_svn\?",
    "[[code]]\nany_measurement_UNSAFE = false": "expected true, or no such table",
    "[[code]]\ntee = 'sgx'": "lets any code pass",
    "[[own_roots]]\nname = 'lab'": r"own_roots\[0\]: expected sha256",
    "[[own_roots]]\nname = 'lab'\nsha256 = 'ab'": "64 lower-case hex digits",
    "code = 1": "code: got 1, expected a list",
    "measurements": "not TOML",
    "[1]": "unknown member 1",
    '{"a": 1, "a": 2}': "'a' is there twice",
    "{": "not JSON",
    '{"name": "\\ud800"}': "printable",
    '{"maximum_age": 1e400}': "expected seconds",
    '{"maximum_age": 99999999999999999999999}': "maximum_age",
    "{" + '"code":{"all_of":[' * 5000: "JSON",
    '{"code": ' + '{"any_of":[' * 20 + "]}" * 20 + "}": "nested too deep",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:40])
def test_what_is_no_policy_is_refused_with_its_place_and_what_was_expected(text):
    with pytest.raises(PolicyFormatError, match=WRONG[text]):
        load_policy(text)


def test_a_policy_that_is_too_large_or_no_text_is_refused():
    with pytest.raises(PolicyFormatError, match="too large"):
        load_policy(b"#" * (1024 * 1024 + 1))
    with pytest.raises(PolicyFormatError, match="not a text"):
        load_policy(b"\xff\xfe")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | HEX,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["code", "measurement", "measurements", "all_of", "any_of", "signer", "registers", "tees", "roots",
             "own_roots", "name", "sha256", "minimum_tcb", "snp", "tee", "field", "values", "maximum_age", "fmspcs"]
        ) | st.text(max_size=4),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(JSON | st.binary(max_size=60) | st.text(max_size=60))
def test_whatever_is_loaded_as_a_policy_raises_package_errors_only(value):
    raw = value if isinstance(value, bytes | str) else json.dumps(value)
    for load in (load_policy, load_policy_json, load_policy_toml):
        try:
            policy = load(raw)
        except AvalonError:
            continue
        assert load_policy(dump_policy_json(policy)) == policy


@given(st.data())
def test_a_policy_that_was_changed_on_its_way_raises_package_errors_only(data):
    text = dump_policy_toml(data.draw(POLICIES))
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + data.draw(st.characters()) + text[place + 1 :]
    with contextlib.suppress(AvalonError):
        load_policy(changed)


# Dry runs and differences -------------------------------------------------------------------------------------------

WORKERS = [
    Subject(name="good", evidence=SGX),
    Subject(name="hardening", evidence=HARDENING),
    Subject(name="other", evidence=replace(SGX, measurement=OTHER)),
]


def test_a_dry_run_says_who_would_be_admitted():
    assert [(run.name, run.is_admitted) for run in dry_run(GOOD, WORKERS, as_of=NOW)] == [
        ("good", True),
        ("hardening", False),
        ("other", False),
    ]


def test_the_difference_of_two_policies_says_who_and_why():
    looser = replace(
        GOOD,
        tcb_statuses={TcbStatus.UP_TO_DATE, TcbStatus.SW_HARDENING_NEEDED},
        advisories={"INTEL-SA-00615", "INTEL-SA-00334"},
    )
    before, after = compare(GOOD, looser, WORKERS, as_of=NOW), compare(looser, GOOD, WORKERS, as_of=NOW)
    assert [difference.outcome for difference in before] == [
        "admitted by both",
        "newly admitted",
        "admitted by neither",
    ]
    assert before[1].reasons[0].startswith("tcb status now passes: the evidence has SWHardeningNeeded")
    assert after[1].outcome == "no longer admitted"
    assert after[1].reasons[0].startswith("tcb status no longer passes")
    assert policy_changes(GOOD, looser) == (
        "tcb_statuses: adds SWHardeningNeeded",
        "advisories: not set becomes [INTEL-SA-00334, INTEL-SA-00615]",
    )
    assert policy_changes(GOOD, GOOD) == ()


@given(POLICIES, POLICIES)
def test_equal_policies_have_no_changes_and_others_have_some(before, after):
    assert bool(policy_changes(before, after)) == (policy_to_object(before) != policy_to_object(after))


def test_words_of_a_production_policy_are_pinned():
    assert policy_in_words(replace(GOOD, maximum_age=5400, collateral_grace=86_400)) == (
        f"The code must be: measurement {MINE}.",
        "Evidence must end in a vendor's root (amd-genoa, amd-milan, amd-turin, aws-nitro, google-ek-ak, intel-sgx).",
        "Kinds of TEE: nitro or sgx or snp or tdx.",
        "A TEE in debug mode is refused.",
        "The vendor must judge the platform UpToDate, where it judges at all.",
        "Evidence must be at most 90 minutes old by its own signed time, and have one.",
        "Collateral is still taken 1 day after its end.",
        "Certificates must have been checked against revocation lists where the vendor issues them.",
    )


ADVICE = {
    "nothing to say about a list of measurements": (GOOD, None),
    "old versions of a signer": (replace(GOOD, code=Signer(signer=ME, product_id=1)), "minimum_svn"),
    "other products of a signer": (replace(GOOD, code=Signer(signer=ME, minimum_svn=1)), "product_id"),
    "registers without a measurement": (
        replace(GOOD, code=Registers(values={"pcr4": "aa"}), tees={Tee.NITRO}),
        "Registers without a measurement",
    ),
    "any firmware of SNP": (TrustPolicy.production({SNP.measurement}), "minimum_tcb.snp"),
    "any privilege level of SNP": (TrustPolicy.production({SNP.measurement}), "vmpl"),
    "a TPM": (replace(GOOD, tees={Tee.TPM}), "keeps no secret"),
    "platforms with known faults": (
        replace(GOOD, tcb_statuses={TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE}),
        "known attacks may work",
    ),
    "a status without its advisories": (
        replace(GOOD, tcb_statuses={TcbStatus.SW_HARDENING_NEEDED}),
        "no advisory may be open",
    ),
    "advisories without a status": (replace(GOOD, advisories={"INTEL-SA-00615"}), "has no effect"),
    "FMSPCs without an Intel platform": (
        replace(GOOD, fmspcs={"00606a000000"}, tees={Tee.NITRO}),
        "fmspcs has no effect",
    ),
    "minimums of a kind that is refused": (
        replace(GOOD, minimum_tcb={Tee.SNP: {"snp": 1}}, tees={Tee.SGX}),
        "minimum_tcb.snp has no effect",
    ),
}


@pytest.mark.parametrize("sentence", ADVICE)
def test_what_a_policy_leaves_open_is_told(sentence):
    policy, expected = ADVICE[sentence]
    advice = policy_advice(policy)
    if expected is None:
        assert advice == ()
    else:
        assert any(expected in line for line in advice), advice


def test_snp_that_is_asked_for_versions_and_its_privilege_level_needs_no_advice():
    code = AnyOf(AllOf(Field(name="vmpl", values={"0"}), Measurements({SNP.measurement})))
    assert policy_advice(replace(GOOD, code=code, minimum_tcb={Tee.SNP: {"snp": 1}})) == ()


def test_a_time_of_another_zone_is_the_same_time():
    later = NOW.astimezone(tz=datetime.now().astimezone().tzinfo) + timedelta(0)
    assert appraise_claims(SGX, GOOD, as_of=later).as_of == NOW_S
