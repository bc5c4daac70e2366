"""``avalon measure``, as its plug-in is called."""

import json

import pytest
import typer
from typer.testing import CliRunner

from avalon_service.cli import measure


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(measure.command)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_it_prints_the_value_and_what_went_in(run):
    ran = run()
    assert ran.exit_code == 0
    assert "SIMULATED" in ran.stdout
    assert "config/role = singleton" in ran.stdout
    assert "code/avalon_enclave: " in ran.stdout
    answer = json.loads(run("--json").stdout)
    assert f"measurement {answer['measurement']}\n" in ran.stdout
    assert answer["simulated"] is True


def test_the_manifest_is_printed_line_by_line(run):
    lines = run("--manifest").stdout.splitlines()
    entries = json.loads(run("--json").stdout)["manifest"]
    assert lines == [f"{entry['sha256']}  {entry['name']}" for entry in entries]


def test_role_tenant_and_settings_are_measured(run):
    values = {
        json.loads(run("--json", *arguments).stdout)["measurement"]
        for arguments in ((), ("--role", "kme"), ("--tenant", "acme"), ("--set", "other=true"))
    }
    assert len(values) == 4


def test_a_setting_that_cannot_be_is_a_usage_error(run):
    ran = run("--set", "nonsense")
    assert ran.exit_code == 2
    assert "name=value" in ran.stderr


def test_the_settings_of_the_service_are_those_that_are_measured(run, tmp_path, monkeypatch):
    development = json.loads(run("--json").stdout)
    assert {"name": "config/accept_legacy", "value": "true"}.items() <= {
        entry["name"]: entry for entry in development["manifest"]
    }["config/accept_legacy"].items()
    monkeypatch.setenv("AVALON_ACCEPT_LEGACY", "false")
    strict = json.loads(run("--json").stdout)
    assert strict["measurement"] != development["measurement"]
    assert "config/accept_legacy" not in {entry["name"] for entry in strict["manifest"]}
    (tmp_path / "bad.toml").write_text("nonsense = 1")
    assert run("--config", str(tmp_path / "bad.toml")).exit_code == 2


def test_where_the_enclave_cannot_be_measured_it_says_so(run, monkeypatch):
    monkeypatch.setattr(measure.sys, "executable", "/nonexistent/python")
    ran = run()
    assert ran.exit_code == 1
    assert "cannot be measured" in ran.stderr
