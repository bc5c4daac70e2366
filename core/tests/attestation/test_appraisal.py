"""Appraisal from evidence to report: simulated vendors in all their states, real evidence, and what reports look like."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import avalon_core.attestation
from avalon_core.attestation import chains
from avalon_core.attestation.appraisal import appraise, appraise_claims, verify_only
from avalon_core.attestation.checks import AppraisalReport, Verdict, failed, passed
from avalon_core.attestation.claims import Claims, TcbStatus, Tee
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.explain import (
    explain_advisory,
    explain_check,
    explain_status,
    explained_checks,
)
from avalon_core.attestation.files import read_collateral, read_evidence
from avalon_core.attestation.formats import FORMATS
from avalon_core.attestation.policy import TrustPolicy
from avalon_core.attestation.policy_checks import duration, moment
from avalon_core.attestation.reports import report_line, report_text, report_to_object
from avalon_core.attestation.roots import TrustAnchor
from avalon_core.attestation.rules import Measurements
from avalon_core.simulator.states import EXPECTATIONS, Outcome, State
from avalon_core.simulator.vendors import MEASUREMENT_BYTES, EvidenceRequest, SimulatedVendors

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
VENDORS = SimulatedVendors()
REPORT_DATA = b"\x09" * 64


def issue(kind, state=State.UP_TO_DATE, **changes):
    request = EvidenceRequest(
        kind=kind,
        measurement=b"\x5a" * MEASUREMENT_BYTES[kind],
        report_data=REPORT_DATA,
        state=state,
        **changes,
    )
    return VENDORS.issue(request, NOW)


def judge(issued, policy, **changes):
    return appraise(issued.evidence, policy, collateral=issued.collateral, as_of=NOW, **changes)


@pytest.mark.parametrize("kind", EXPECTATIONS)
def test_good_evidence_of_every_kind_passes_and_every_check_is_told(kind):
    report = judge(
        issue(kind), TrustPolicy.development({"5a" * MEASUREMENT_BYTES[kind]}), report_data=REPORT_DATA
    )
    assert report.verdict is Verdict.PASSED, report_text(report)
    names = [check.name for check in report.checks]
    assert names.index("root") < names.index("accepted root") < names.index("code identity")
    assert names[-1] == "report data"
    assert report.claims is not None
    assert report.claims.simulated
    assert "SIMULATED" in report_text(report)


@pytest.mark.parametrize("kind", EXPECTATIONS)
def test_production_refuses_simulated_evidence_and_says_that_it_is_simulated(kind):
    report = judge(issue(kind), TrustPolicy.production({"5a" * MEASUREMENT_BYTES[kind]}))
    assert report.verdict is Verdict.FAILED
    (problem,) = report.problems
    assert problem.name == "accepted root"
    assert "SIMULATED" in problem.found
    assert "development policy" in problem.remedy


@pytest.mark.parametrize("kind", EXPECTATIONS)
def test_without_a_policy_nothing_passes(kind):
    issued = issue(kind)
    anchors = TrustPolicy().anchors()
    report = verify_only(issued.evidence, collateral=issued.collateral, as_of=NOW, anchors=anchors)
    assert report.verdict is Verdict.COULD_NOT_CHECK
    assert [check.name for check in report.problems] == ["policy"]
    assert report.claims is not None
    vendors_only = verify_only(issued.evidence, collateral=issued.collateral, as_of=NOW)
    assert vendors_only.verdict is Verdict.FAILED
    assert vendors_only.claims is None


@pytest.mark.parametrize(
    ("kind", "state"), [(kind, state) for kind, states in EXPECTATIONS.items() for state in states]
)
def test_every_state_is_admitted_or_refused_as_it_should_be(kind, state):
    expectation = EXPECTATIONS[kind][state]
    strict = TrustPolicy.development({"5a" * MEASUREMENT_BYTES[kind]})
    report = judge(issue(kind, state), strict, report_data=REPORT_DATA)
    unremarkable = expectation.outcome is Outcome.VERIFIED and expectation.tcb_status in (
        None,
        TcbStatus.UP_TO_DATE,
    )
    assert (report.verdict is Verdict.PASSED) == unremarkable, report_text(report)
    assert all(check.remedy for check in report.problems)
    assert {check.name for check in report.checks} <= explained_checks()
    if expectation.outcome is Outcome.VERIFIED and not unremarkable:
        assert report.problems[0].name == "tcb status"
        tolerant = replace(
            strict,
            tcb_statuses={expectation.tcb_status},
            advisories=report.claims.advisories if report.claims else frozenset(),
        )
        assert judge(issue(kind, state), tolerant).verdict is Verdict.PASSED


def test_collateral_that_is_missing_could_not_be_checked():
    issued = issue("sgx")
    report = appraise(issued.evidence, TrustPolicy.development(), as_of=NOW)
    assert report.verdict is Verdict.COULD_NOT_CHECK
    assert report.claims is None


def test_grace_is_given_to_collateral_that_has_ended():
    issued = issue("tdx", State.EXPIRED_COLLATERAL)
    policy = TrustPolicy.development()
    assert judge(issued, policy).verdict is not Verdict.PASSED
    assert judge(issued, replace(policy, collateral_grace=3 * 86_400)).verdict is Verdict.PASSED


def test_old_firmware_of_snp_is_refused_by_minimums_alone():
    old = issue("snp", State.OUT_OF_DATE)
    policy = TrustPolicy.development()
    assert judge(old, policy).verdict is Verdict.PASSED
    new = judge(issue("snp"), policy).claims
    assert new is not None
    minimums = {name: int(new.tcb[name]) for name in ("bootloader", "snp", "microcode")}
    strict = replace(policy, minimum_tcb={Tee.SNP: minimums})
    assert judge(issue("snp"), strict).verdict is Verdict.PASSED
    assert [check.name for check in judge(old, strict).problems] == ["minimum tcb"]


def test_a_simulator_of_ones_own_is_accepted_as_ones_own_root():
    own = SimulatedVendors(b"\x01" * 32)
    request = EvidenceRequest(kind="sgx", measurement=b"\x5a" * 32, report_data=REPORT_DATA)
    issued = own.issue(request, NOW)
    assert judge(issued, TrustPolicy.development()).verdict is Verdict.FAILED
    root = TrustAnchor(name="our-simulator", sha256=own.root_sha256("sgx"), simulated=True)
    policy = TrustPolicy(code=Measurements({"5a" * 32}), own_roots=(root,))
    assert judge(issued, policy).verdict is Verdict.PASSED


def test_evidence_of_an_unknown_kind_could_not_be_checked():
    report = appraise(Evidence(format="sxg", document=b"x"), TrustPolicy.development(), as_of=NOW)
    assert report.verdict is Verdict.COULD_NOT_CHECK
    assert [check.name for check in report.checks] == ["evidence"]
    assert verify_only(Evidence(format="sxg", document=b"x"), as_of=NOW).verdict is Verdict.COULD_NOT_CHECK


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_policy_says_that_it_is_empty_even_of_evidence_that_does_not_verify(name):
    report = appraise(Evidence(format=name, document=b"nonsense"), TrustPolicy(), as_of=NOW)
    assert report.verdict is not Verdict.PASSED
    assert report.checks[-1].name == "policy"
    assert "names no code" in report.checks[-1].found


@given(st.sampled_from(sorted(FORMATS)), st.binary(max_size=400))
def test_nonsense_of_every_kind_is_refused_and_raises_nothing(name, document):
    report = appraise(Evidence(format=name, document=document), TrustPolicy.development(), as_of=NOW)
    assert report.verdict is not Verdict.PASSED
    assert report.claims is None


@given(st.data())
def test_a_changed_byte_never_passes(data):
    issued = data.draw(st.sampled_from([issue(kind) for kind in ("sgx", "tdx", "snp", "nitro")]))
    document = bytearray(issued.evidence.document)
    place = data.draw(st.integers(0, len(document) - 1))
    document[place] ^= data.draw(st.integers(1, 255))
    changed = replace(issued.evidence, document=bytes(document))
    policy = TrustPolicy.production({"00" * 32})
    report = appraise(changed, policy, collateral=issued.collateral, as_of=NOW)
    assert report.verdict is not Verdict.PASSED


# Real evidence ------------------------------------------------------------------------------------------------------

REAL = {
    # name: (document, collateral, as of, the checks that stand against it under its own measurement)
    "SGX whose configuration leaves it open": (
        "sgx-dcap/phala-network-dcap-qvl/sgx_quote",
        ["sgx-dcap/phala-network-dcap-qvl/sgx_quote_collateral.json"],
        1751624924,
        ["tcb status", "advisories"],
    ),
    "SGX that is out of date": (
        "sgx-dcap/oasisprotocol-oasis-core/quote_v3_ecdsa_p256_pck_chain.bin",
        ["sgx-dcap/assembled/collateral_sgx_00606A000000_2025-08.json"],
        1756530546,
        ["tcb status", "advisories"],
    ),
    "TDX in hex": (
        "tdx/phala-network-dcap-qvl/quote_hex.txt",
        ["tdx/phala-network-dcap-qvl/quote_collateral.json"],
        1758093775,
        [],
    ),
    "TDX of version 5": (
        "tdx/google-go-tdx-guest/quote_v5_sample.dat",
        ["tdx/assembled/collateral_tdx_90C06F000000_2026-01.json"],
        1769529299,
        [],
    ),
    "SNP in hex, without a CRL": (
        "sev-snp/virtee-sev/report_milan.hex",
        ["sev-snp/virtee-sev/vcek_milan.der", "sev-snp/virtee-sev/cert_chain_milan"],
        1700000000,
        ["revocation demanded"],
    ),
    "SNP in debug mode": (
        "sev-snp/google-go-sev-guest/attestation.bin",
        ["sev-snp/google-go-sev-guest/vcek.testcer", "sev-snp/google-go-sev-guest/milan.testcer"],
        1700000000,
        ["debug", "revocation demanded"],
    ),
    "Nitro": (
        "nitro/anjuna-security-go-nitro-attestation/sample_prod_doc_with_publickey.bin",
        [],
        1616602000,
        [],
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_real_evidence_is_judged_by_a_production_policy(name, shared_vectors):
    document, files, as_of, against = REAL[name]
    folder = shared_vectors / "evidence"
    file = read_evidence((folder / document).read_bytes())
    collateral = read_collaterals(folder / path for path in files)
    moment_ = datetime.fromtimestamp(as_of, UTC)
    verified = verify_only(file.evidence, collateral=collateral, as_of=moment_)
    assert [check.name for check in verified.problems] == ["policy"], report_text(verified)
    assert verified.claims is not None
    policy = TrustPolicy.production({verified.claims.measurement})
    report = appraise(file.evidence, policy, collateral=collateral, as_of=moment_)
    assert [check.name for check in report.problems] == against, report_text(report)
    assert {check.name for check in report.checks} <= explained_checks()
    other = TrustPolicy.production({"00" * 32})
    refused = appraise(file.evidence, other, collateral=collateral, as_of=moment_)
    assert "code identity" in [check.name for check in refused.problems]
    stripped = appraise(file.evidence, policy, as_of=datetime(2050, 1, 1, tzinfo=UTC))
    assert stripped.verdict is not Verdict.PASSED


def read_collaterals(paths):
    from avalon_core.attestation.bundles import merged

    return merged(read_collateral(path.read_bytes()) for path in paths)


# Reports ------------------------------------------------------------------------------------------------------------

CLAIMS = Claims(
    tee=Tee.SGX,
    format="SGX quote v3",
    root="intel-sgx",
    simulated=False,
    measurement="ab" * 32,
    report_data=bytes(64),
    debug=False,
    tcb_status=TcbStatus.OUT_OF_DATE,
    advisories=frozenset({"INTEL-SA-00615"}),
)
REPORT = AppraisalReport(
    checks=(
        passed("root", expected="a known root", found="intel-sgx", source="certificates"),
        failed("tcb status", expected="UpToDate", found="OutOfDate", remedy="Update.", source="TCB info"),
    ),
    claims=CLAIMS,
    as_of=1751620224,
    policy_name="mine",
)


def test_the_json_of_a_report_is_pinned():
    value = report_to_object(REPORT)
    assert json.loads(json.dumps(value)) == value
    assert value == {
        "version": 1,
        "verdict": "failed",
        "as_of": 1751620224,
        "policy": "mine",
        "checks": [
            {
                "name": "root",
                "verdict": "passed",
                "expected": "a known root",
                "found": "intel-sgx",
                "source": "certificates",
                "remedy": "",
                "meaning": "Whether that root is one that is known here, by the digest of its certificate.",
            },
            {
                "name": "tcb status",
                "verdict": "failed",
                "expected": "UpToDate",
                "found": "OutOfDate",
                "source": "TCB info",
                "remedy": "Update.",
                "meaning": "How the vendor judges the platform's security updates and settings, and whether that "
                "will do.",
            },
        ],
        "claims": {
            "tee": "sgx",
            "format": "SGX quote v3",
            "root": "intel-sgx",
            "simulated": False,
            "measurement": "ab" * 32,
            "report_data": "00" * 64,
            "debug": False,
            "registers": {},
            "signer": None,
            "product_id": None,
            "svn": None,
            "tcb_status": "OutOfDate",
            "advisories": ["INTEL-SA-00615"],
            "tcb": {},
            "fmspc": None,
            "chip_id": None,
            "config_id": None,
            "config_svn": None,
            "family_id": None,
            "ext_product_id": None,
            "owner": None,
            "attributes": {},
            "issued_at": None,
            "collateral_expires": None,
            "tcb_evaluation": None,
        },
    }


def test_every_member_of_the_claims_is_in_the_json():
    assert set(report_to_object(REPORT)["claims"]) == set(Claims.__dataclass_fields__)


def test_a_report_in_one_line():
    assert report_line(REPORT) == (
        f"failed: sgx {'ab' * 32} tcb status failed: got OutOfDate, expected UpToDate"
    )
    good = replace(REPORT, checks=REPORT.checks[:1])
    assert report_line(good) == f"passed: sgx {'ab' * 32} (1 checks)"
    assert report_line(AppraisalReport(checks=())) == "could not check: (nothing could be checked)"
    two = replace(REPORT, checks=(*REPORT.checks, REPORT.checks[1]))
    assert report_line(two).endswith("(and 1 more)")
    simulated = replace(good, claims=replace(CLAIMS, simulated=True))
    assert "SIMULATED" in report_line(simulated)


def test_a_report_in_words():
    text = report_text(REPORT, explains=True)
    assert text.startswith("FAILED\n  as of 2025-07-04 09:10:24 UTC, by the policy 'mine'\n")
    assert "      asks      Whether that root is one that is known here" in text
    assert "      remedy    Update." in text
    assert "  The platform is OutOfDate\n      means     The platform lacks security updates" in text
    assert "intel-sa-00615.html" in text


# Explanations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", TcbStatus)
def test_every_status_is_explained(status):
    explained = explain_status(status)
    assert explained.status is status
    assert explained.meaning.endswith(".")
    assert explained.remedy.endswith(".")
    assert explained.who


def test_advisories_are_explained_where_they_are_known():
    known = explain_advisory("INTEL-SA-00334")
    assert "LVI" in known.meaning
    assert known.address.endswith("/advisory/intel-sa-00334.html")
    assert explain_advisory("INTEL-SA-99999").meaning == ""
    assert explain_advisory("AMD-SB-3015").address.endswith("/amd-sb-3015.html")
    assert explain_advisory("anything at all").address == ""


_CALL = re.compile(
    r'\b(?:passed|failed|could_not_check|decided|_check)\(\s*"([a-z ]+)",\s*(?:expected|not |ok|[a-z_.]+)'
)


def test_every_check_that_a_format_makes_is_explained():
    root = Path(avalon_core.attestation.__file__).parent
    made = {
        name
        for path in root.rglob("*.py")
        if "first" not in path.parts
        for name in _CALL.findall(path.read_text())
    }
    assert {"root", "chain", "signature", "code identity"} <= made
    assert made - explained_checks() == set()
    assert explain_check("nothing of the kind") == ""
    assert chains.__name__  # its checks are among them


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (1, "1 second"),
        (90, "90 seconds"),
        (120, "2 minutes"),
        (5400, "90 minutes"),
        (86_400, "1 day"),
        (90_000, "25 hours"),
        (31 * 86_400, "31 days"),
    ],
)
def test_durations_for_people(seconds, expected):
    assert duration(seconds) == expected


def test_moments_for_people():
    assert moment(0) == "1970-01-01 00:00:00 UTC"
    assert moment(10**18) == f"{10**18} s since 1970"


def test_claims_alone_can_be_judged():
    assert appraise_claims(CLAIMS, TrustPolicy.production({"ab" * 32}), as_of=NOW).verdict is Verdict.FAILED
