"""``avalon attest`` and ``avalon policy``: what they print, and above all with which code they end."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from avalon_core.attestation.bundles import collateral_to_object
from avalon_core.attestation.proof_data import encode
from avalon_core.simulator.states import State
from avalon_core.simulator.vendors import EvidenceRequest, SimulatedVendors
from avalon_sdk.cli.app import app

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
AS_OF = "2026-05-01T12:00:00Z"
MEASUREMENT = "5a" * 32
ROOTS = 'roots = ["vendors", "simulators"]\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Evidence and policies by their names."""
    path = tmp_path_factory.mktemp("evidence")
    vendors = SimulatedVendors()
    for state in (State.UP_TO_DATE, State.SW_HARDENING_NEEDED, State.OUT_OF_DATE, State.WRONG_SIGNATURE):
        request = EvidenceRequest(
            kind="sgx", measurement=bytes.fromhex(MEASUREMENT), report_data=b"\x09" * 64, state=state
        )
        issued = vendors.issue(request, NOW)
        (path / f"{state}.bin").write_bytes(issued.evidence.document)
        (path / f"{state}.json").write_text(json.dumps(collateral_to_object(issued.collateral)))
        kind, data = encode(issued.evidence, issued.collateral)
        (path / f"{state}.record").write_text(json.dumps({"proofDataType": kind, "proofData": data}))
    (path / "strict.toml").write_text(f'name = "strict"\nmeasurements = ["{MEASUREMENT}"]\n' + ROOTS)
    (path / "hardening.toml").write_text(
        f'measurements = ["{MEASUREMENT}"]\n{ROOTS}tcb_statuses = ["UpToDate", "SWHardeningNeeded"]\n'
        'advisories = ["INTEL-SA-00334", "INTEL-SA-00615"]\n'
    )
    (path / "other.toml").write_text(f'measurements = ["{"6b" * 32}"]\n' + ROOTS)
    (path / "production.json").write_text(f'{{"measurements": ["{MEASUREMENT}"]}}')
    (path / "signer.toml").write_text(
        f'roots = ["intel-sgx"]\n[[code]]\nsigner = "{MEASUREMENT}"\nproduct_id = 1'
    )
    (path / "empty.toml").write_text("")
    (path / "wrong.toml").write_text(f'mesurements = ["{MEASUREMENT}"]\n')
    (path / "nonsense").write_text("nonsense")
    return path


@pytest.fixture(scope="module")
def real_evidence():
    """The collection beside the repository, where there is one."""
    default = Path(__file__).parents[2].parent / "shared" / "vectors"
    path = Path(os.environ.get("AVALON_VECTORS", default))
    if "AVALON_VECTORS" not in os.environ and not path.is_dir():
        pytest.skip("no shared vectors: set AVALON_VECTORS to the folder that holds them")
    assert path.is_dir(), f"AVALON_VECTORS names {path}, which is not a folder"
    return path / "evidence"


class Ran:
    def __init__(self, result):
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr


@pytest.fixture
def run(folder, monkeypatch):
    """Runs a command in the folder, in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("AVALON_POLICY", raising=False)

    def invoke(*arguments, **env):
        return Ran(CliRunner().invoke(app, list(arguments), env=env))

    return invoke


VERIFY = ("attest", "verify", "up-to-date.bin", "--collateral", "up-to-date.json", "--as-of", AS_OF)
ENDS = {
    "good evidence by a policy that names it": (0, (*VERIFY, "--policy", "strict.toml")),
    "good evidence by the development policy": (0, (*VERIFY, "--policy", "development")),
    "a record with its collateral inside": (
        0,
        ("attest", "verify", "up-to-date.record", "--as-of", AS_OF, "--policy", "strict.toml"),
    ),
    "a time in Unix seconds": (
        0,
        (*VERIFY[:-1], str(int(NOW.timestamp())), "--policy", "strict.toml"),
    ),
    "the report data that it was made for": (
        0,
        (*VERIFY, "--policy", "strict.toml", "--report-data", "0x" + "09" * 64),
    ),
    "other report data": (4, (*VERIFY, "--policy", "strict.toml", "--report-data", "08" * 64)),
    "other code": (4, (*VERIFY, "--policy", "other.toml")),
    "an empty policy": (4, (*VERIFY, "--policy", "empty.toml")),
    "simulated evidence in production": (4, (*VERIFY, "--policy", "production.json")),
    "a platform that is out of date": (
        4,
        ("attest", "verify", "out-of-date.record", "--as-of", AS_OF, "--policy", "strict.toml"),
    ),
    "a signature that does not hold": (
        4,
        ("attest", "verify", "wrong-signature.record", "--as-of", AS_OF, "--policy", "strict.toml"),
    ),
    "simulated evidence and no policy: no vendor's root": (4, VERIFY),
    "no collateral": (
        6,
        ("attest", "verify", "up-to-date.bin", "--as-of", AS_OF, "--policy", "strict.toml"),
    ),
    "no evidence": (6, ("attest", "verify", "nonsense", "--policy", "strict.toml")),
    "no file": (2, ("attest", "verify", "missing", "--policy", "strict.toml")),
    "no policy file": (2, (*VERIFY, "--policy", "missing.toml")),
    "a policy with a slip of the pen": (2, (*VERIFY, "--policy", "wrong.toml")),
    "collateral that is none": (2, (*VERIFY, "--collateral", "nonsense", "--policy", "strict.toml")),
    "no such time": (2, (*VERIFY[:-1], "yesterday", "--policy", "strict.toml")),
    "report data that is no hex": (2, (*VERIFY, "--report-data", "xy")),
    "too much report data": (2, (*VERIFY, "--report-data", "00" * 65)),
    "two forms at once": (2, (*VERIFY, "--json", "--line")),
    "an attachment without a name": (2, (*VERIFY, "--attach", "nonsense")),
    "an attachment that this kind does not read": (
        0,
        (*VERIFY, "--policy", "strict.toml", "--attach", "event_log=nonsense"),
    ),
    "a certificate that is none": (2, (*VERIFY, "--certificate", "nonsense")),
    "explaining good evidence": (
        0,
        ("attest", "explain", "up-to-date.record", "--as-of", AS_OF, "--policy", "strict.toml"),
    ),
    "explaining several, of which one fails": (
        4,
        ("attest", "explain", "up-to-date.record", "nonsense", "out-of-date.record", "--as-of", AS_OF,
         "--policy", "strict.toml"),
    ),
    "explaining several, of which one could not be checked": (
        6,
        ("attest", "explain", "up-to-date.record", "nonsense", "--as-of", AS_OF, "--policy", "strict.toml"),
    ),
    "inspecting evidence": (0, ("attest", "inspect", "up-to-date.bin")),
    "inspecting a forgery, of which nothing is verified": (0, ("attest", "inspect", "wrong-signature.bin")),
    "inspecting nonsense": (1, ("attest", "inspect", "nonsense")),
    "checking a policy": (0, ("policy", "check", "production.json")),
    "checking a policy for production": (0, ("policy", "check", "production.json", "--production")),
    "checking a policy with the simulator": (0, ("policy", "check", "strict.toml")),
    "checking a policy with the simulator for production": (
        1,
        ("policy", "check", "strict.toml", "--production"),
    ),
    "checking an empty policy": (1, ("policy", "check", "empty.toml")),
    "checking what is no policy": (2, ("policy", "check", "wrong.toml")),
    "a dry run that admits all": (
        0,
        ("policy", "dry-run", "strict.toml", "up-to-date.record", "--as-of", AS_OF),
    ),
    "a dry run that does not": (
        4,
        ("policy", "dry-run", "strict.toml", "up-to-date.record", "nonsense", "--as-of", AS_OF),
    ),
    "a dry run over nothing": (2, ("policy", "dry-run", "strict.toml")),
    "two policies that admit the same": (
        0,
        ("policy", "diff", "strict.toml", "hardening.toml", "up-to-date.record", "--as-of", AS_OF),
    ),
    "two policies alone": (0, ("policy", "diff", "strict.toml", "other.toml")),
    "two policies that do not": (
        1,
        ("policy", "diff", "strict.toml", "other.toml", "up-to-date.record", "--as-of", AS_OF),
    ),
}  # fmt: skip


@pytest.mark.parametrize("sentence", ENDS)
def test_the_exit_code_of(run, sentence):
    code, arguments = ENDS[sentence]
    ran = run(*arguments)
    assert ran.code == code, ran.out + ran.err
    assert "Traceback" not in ran.out + ran.err
    if code == 2:
        assert ran.err.startswith("error: ")


def test_nothing_but_passed_ends_with_0(run):
    for sentence, (_, arguments) in ENDS.items():
        if arguments[:2] == ("attest", "verify") and "--json" not in arguments:
            ran = run(*arguments, "--json")
            verdict = json.loads(ran.out).get("verdict")
            assert (ran.code == 0) == (verdict == "passed"), sentence


def test_a_report_in_json(run):
    ran = run(*VERIFY, "--policy", "strict.toml", "--json")
    report = json.loads(ran.out)
    assert (report["version"], report["verdict"], report["policy"]) == (1, "passed", "strict")
    assert report["as_of"] == int(NOW.timestamp())
    assert report["claims"]["measurement"] == MEASUREMENT
    assert {check["verdict"] for check in report["checks"]} == {"passed"}


def test_a_report_in_one_line(run):
    ran = run(*VERIFY, "--policy", "other.toml", "--line")
    assert ran.out.count("\n") == 1
    assert ran.out.startswith(f"failed: sgx SIMULATED {MEASUREMENT} code identity failed: got ")


def test_a_report_for_people_says_what_to_do(run):
    ran = run(*VERIFY, "--policy", "other.toml")
    assert ran.out.startswith("FAILED\n  as of 2026-05-01 12:00:00 UTC\n")
    assert "SIMULATED: no hardware protects anything here" in ran.out
    assert f"expected  measurement {'6b' * 32}" in ran.out
    assert "remedy    Compare with the measurement that you built or were told" in ran.out


def test_without_a_policy_the_report_says_that_nothing_was_judged(run):
    ran = run(*VERIFY)
    assert "none was given: nothing that the evidence says was judged" in ran.out
    assert "--policy FILE" in ran.out


def test_the_environment_names_a_policy(run):
    assert run(*VERIFY, AVALON_POLICY="strict.toml").code == 0


def test_an_explanation_tells_what_every_check_asks_and_what_a_status_means(run):
    ran = run("attest", "explain", "out-of-date.record", "--as-of", AS_OF, "--policy", "strict.toml")
    assert "asks      Whether the code that runs is code that the policy names." in ran.out
    assert "means     The platform lacks security updates" in ran.out
    assert "mended by the operator" in ran.out
    assert "https://www.intel.com/content/www/us/en/security-center/advisory/intel-sa-" in ran.out


def test_inspecting_says_that_nothing_is_verified(run):
    ran = run("attest", "inspect", "wrong-signature.bin")
    assert ran.out.startswith("sgx-dcap evidence of ")
    assert "(raw bytes)" in ran.out
    assert "NOTHING VERIFIED" in ran.err
    assert MEASUREMENT in ran.out
    shown = json.loads(run("attest", "inspect", "up-to-date.record", "--json").out)
    assert shown["verified"] is False
    assert shown["format"] == "sgx-dcap"
    assert shown["spelling"] == "JSON: a worker record"
    assert shown["fields"]["body.mrenclave"] == MEASUREMENT


def test_an_error_in_json_is_an_object(run):
    answer = json.loads(run("attest", "inspect", "nonsense", "--json").out)
    assert answer["error"]["kind"] == "EvidenceError"
    assert "tried raw bytes" in answer["error"]["message"]


def test_a_policy_in_words(run):
    ran = run("policy", "check", "hardening.toml")
    assert f"- The code must be: measurement {MEASUREMENT}." in ran.out
    assert "these advisories may be open: INTEL-SA-00334, INTEL-SA-00615." in ran.out
    assert "Not fit for production:" in ran.out
    assert "Did you mean that?" not in ran.out
    assert "without minimum_svn: every old version is accepted" in run("policy", "check", "signer.toml").out
    value = json.loads(run("policy", "check", "strict.toml", "--json").out)
    assert value["policy"]["measurements"] == [MEASUREMENT]
    assert "simulator" in value["production_problems"][0]
    assert "Fit for production." in run("policy", "check", "production.json").out


def test_a_policy_with_all_that_it_implies(run, folder):
    dumped = run("policy", "check", "production.json", "--dump").out
    assert 'tcb_statuses = ["UpToDate"]\n' in dumped
    again = folder / "dumped.toml"
    again.write_text(dumped)
    assert run("policy", "check", "dumped.toml", "--dump").out == dumped


def test_a_dry_run_says_who_is_admitted_and_why_the_others_are_not(run):
    arguments = ("policy", "dry-run", "strict.toml", "up-to-date.record", "out-of-date.record", "nonsense")
    ran = run(*arguments, "--as-of", AS_OF)
    assert "admitted  up-to-date.record\n" in ran.out
    assert "refused   out-of-date.record\n          tcb status failed: got OutOfDate" in ran.out
    assert "refused   nonsense\n          evidence could not check" in ran.out
    assert ran.out.endswith("1 of 3 admitted\n")
    value = json.loads(run(*arguments, "--as-of", AS_OF, "--json").out)
    assert [entry["admitted"] for entry in value["runs"]] == [True, False, False]


def test_the_difference_of_two_policies(run):
    arguments = (
        "policy", "diff", "strict.toml", "hardening.toml", "up-to-date.record", "sw-hardening-needed.record",
        "--as-of", AS_OF,
    )  # fmt: skip
    ran = run(*arguments)
    assert "  tcb_statuses: adds SWHardeningNeeded\n" in ran.out
    assert "  admitted by both    up-to-date.record\n" in ran.out
    value = json.loads(run(*arguments, "--json").out)
    assert [entry["before"] for entry in value["subjects"]] == ["passed", "failed"]


def test_help_has_examples(run):
    for command in (
        ("attest",), ("attest", "inspect"), ("attest", "verify"), ("attest", "explain"),
        ("policy",), ("policy", "check"), ("policy", "dry-run"), ("policy", "diff"),
    ):  # fmt: skip
        out = run(*command, "--help").out
        assert "Example" in out
        assert f"avalon {command[0]}" in out


def test_a_document_cannot_write_to_the_terminal(run, folder):
    (folder / "bad.toml").write_text('name = "x"\n"\\u001b[31m" = 1\n')
    ran = run("policy", "check", "bad.toml")
    assert ran.code == 2
    assert "\x1b" not in ran.out + ran.err


@pytest.mark.acceptance
async def test_as_processes(avalon, folder):
    at = ("--as-of", AS_OF)
    record = str(folder / "up-to-date.record")
    good = await avalon("attest", "verify", record, "--policy", str(folder / "strict.toml"), "--line", *at)
    assert (good.code, good.err) == (0, "")
    assert good.out.startswith("passed: sgx SIMULATED 5a")
    bad = await avalon("attest", "verify", record, *at)
    assert bad.code == 4
    words = await avalon("policy", "check", "development")
    assert words.code == 0
    assert "any code at all (UNSAFE)" in words.out


@pytest.mark.acceptance
async def test_real_evidence_as_processes(avalon, real_evidence, tmp_path):
    vectors = real_evidence / "tdx" / "phala-network-dcap-qvl"
    arguments = (
        "attest", "verify", str(vectors / "quote_hex.txt"), "--collateral", str(vectors / "quote_collateral.json"),
        "--as-of", "2025-09-17",
    )  # fmt: skip
    unjudged = await avalon(*arguments, "--json")
    assert unjudged.code == 6
    report = json.loads(unjudged.out)
    assert [check["name"] for check in report["checks"] if check["verdict"] != "passed"] == ["policy"]
    policy = tmp_path / "policy.toml"
    policy.write_text(f'measurements = ["{report["claims"]["measurement"]}"]')
    assert (await avalon(*arguments, "--policy", str(policy))).code == 0
    policy.write_text(f'measurements = ["{"00" * 48}"]')
    assert (await avalon(*arguments, "--policy", str(policy))).code == 4


@pytest.mark.acceptance
async def test_a_real_report_in_several_files(avalon, real_evidence):
    folder = real_evidence / "ias-epid" / "oasisprotocol-oasis-core"
    arguments = (
        "attest", "verify", str(folder / "avr_v5_body_sw_hardening_needed.json"),
        "--signature", str(folder / "avr_v5_body_sw_hardening_needed.sig"),
        "--certificate", str(folder / "avr_certificates_urlencoded.pem"), "--as-of", "2023-10-01", "--json",
    )  # fmt: skip
    unjudged = await avalon(*arguments)
    assert unjudged.code == 6, unjudged.out
    judged = await avalon(*arguments, "--policy", "development")
    assert judged.code == 4
    problems = {check["name"] for check in json.loads(judged.out)["checks"] if check["verdict"] != "passed"}
    # The service has ended, the enclave is one for debugging, and the platform has open advisories.
    assert problems == {"accepted root", "debug", "tcb status", "advisories"}
