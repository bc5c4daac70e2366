"""``avalon simulator``: what it makes goes through ``avalon attest`` like any other file."""

import json

import pytest
from typer.testing import CliRunner

from avalon_core.simulator.roots import SIMULATOR
from avalon_core.simulator.states import EXPECTATIONS, Outcome, State
from avalon_sdk.cli.app import app


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")

    def invoke(*arguments, code=0):
        ran = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert ran.exit_code == code, ran.output
        return ran

    return invoke


@pytest.mark.parametrize("kind", EXPECTATIONS)
def test_good_evidence_passes_the_development_policy_and_nothing_else(run, tmp_path, kind):
    quote, collateral = tmp_path / "quote", tmp_path / "collateral"
    made = run(
        "simulator", "quote", "--format", kind, "--report-data", "00ff", "--out", quote, "--collateral-out", collateral
    )  # fmt: skip
    assert "SIMULATED" in made.stderr
    verify = ("attest", "verify", quote, "--collateral", collateral)
    run(*verify, "--policy", "development", "--report-data", "00ff")
    run(*verify, "--policy", "development", "--report-data", "00fe", code=4)
    assert run(*verify, code=4).exit_code == 4  # no vendor's root


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (kind, state)
        for kind, states in EXPECTATIONS.items()
        for state, expected in states.items()
        if expected.outcome is not Outcome.VERIFIED
    ],
)
def test_bad_evidence_of_every_kind_is_refused_by_the_development_policy(run, tmp_path, kind, state):
    quote, collateral = tmp_path / "quote", tmp_path / "collateral"
    made = run(
        "simulator", "quote", "--format", kind, "--state", state.value, "--report-data", "00ff",
        "--out", quote, "--collateral-out", collateral, "--json",
    )  # fmt: skip
    answer = json.loads(made.stdout)
    assert answer["simulated"] is True
    assert answer["state"] == state.value
    ran = CliRunner().invoke(
        app,
        ["attest", "verify", str(quote), "--collateral", str(collateral), "--policy", "development",
         "--report-data", "00ff"],
    )  # fmt: skip
    # A debug enclave under the development policy is that policy's own business.
    if state is not State.DEBUG:
        assert ran.exit_code in (4, 6), ran.output


def test_the_states_are_listed_with_what_is_to_be_expected(run):
    shown = run("simulator", "states").stdout
    rows = json.loads(run("simulator", "states", "--json").stdout)["states"]
    assert len(rows) == sum(len(states) for states in EXPECTATIONS.values())
    assert all(row["state"] in shown and row["description"] in shown for row in rows)
    only = json.loads(run("simulator", "states", "--format", "snp", "--json").stdout)["states"]
    assert {row["format"] for row in only} == {"snp"}


def test_the_root_is_printed_with_its_digest(run, tmp_path):
    ran = run("simulator", "root")
    assert ran.stdout.startswith("-----BEGIN CERTIFICATE-----")
    assert SIMULATOR.sha256 in ran.stderr
    assert "SIMULATED" in ran.stderr
    (tmp_path / "seed").write_text("07" * 32)
    own = json.loads(run("simulator", "root", "--json", "--seed-file", tmp_path / "seed").stdout)
    assert own["sha256"] != SIMULATOR.sha256
    assert own["name"] is None


@pytest.mark.parametrize(
    ("why", "arguments"),
    [
        ("--state: got 'good'", ("--state", "good")),
        ("has no state", ("--format", "nitro", "--state", "wrong-qe")),
        ("pairs of hex digits", ("--report-data", "0")),
        ("at most 64 bytes", ("--report-data", "00" * 65)),
        ("has 48 bytes", ("--format", "tdx", "--measurement", "00" * 32)),
        ("cannot be read", ("--seed-file", "nowhere")),
        ("expected a time", ("--as-of", "noon")),
    ],
)
def test_a_wrong_option_is_a_usage_error_that_says_why(run, tmp_path, why, arguments):
    ran = run("simulator", "quote", "--out", tmp_path / "quote", *arguments, code=2)
    assert why in ran.stderr


def test_a_seed_file_that_holds_none_and_a_place_that_cannot_be_written_are_said(run, tmp_path):
    (tmp_path / "seed").write_bytes(b"short")
    ran = run("simulator", "quote", "--out", tmp_path / "q", "--seed-file", tmp_path / "seed", code=2)
    assert "holds no seed" in ran.stderr
    assert "cannot write" in run("simulator", "quote", "--out", tmp_path / "none" / "q", code=2).stderr


def test_evidence_of_another_day_is_judged_as_of_that_day(run, tmp_path):
    quote, collateral = tmp_path / "quote", tmp_path / "collateral"
    day = "2025-07-04T09:10:24Z"
    run("simulator", "quote", "--as-of", day, "--out", quote, "--collateral-out", collateral)
    verify = ("attest", "verify", quote, "--collateral", collateral, "--policy", "development")
    run(*verify, "--as-of", day)
    run(*verify, "--as-of", "2026-07-04", code=6)
