"""The documents about attestation: every policy in them loads, and every command prints what they show."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from avalon_core.attestation.policy import TrustPolicy
from avalon_core.attestation.policy_text import load_policy_toml
from avalon_core.attestation.policy_writing import dump_policy_toml
from avalon_sdk.cli.app import app

DOCS = Path(__file__).parents[2] / "docs" / "attestation"
POLICIES = (DOCS / "policies.md").read_text()
REPORT = (DOCS / "reading-a-report.md").read_text()
TOML = re.findall(r"```toml\n(.*?)```", POLICIES, re.DOTALL)
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```toml\n(.*?)```", REPORT, re.DOTALL))
COMMANDS = re.findall(r"```console\n\$ (avalon .*?)\n(.*?)```", REPORT, re.DOTALL)


@pytest.mark.parametrize("text", TOML, ids=range(len(TOML)))
def test_every_policy_that_is_shown_loads(text):
    policy = load_policy_toml(text)
    assert not policy.code.is_empty
    assert load_policy_toml(dump_policy_toml(policy)) == policy


def test_the_defaults_that_are_told_are_the_defaults():
    default = TrustPolicy()
    told = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", POLICIES, re.MULTILINE))
    assert told == {
        "roots": '["vendors"]',
        "tees": '["sgx", "tdx", "snp", "nitro"]',
        "allow_debug_UNSAFE": "false",
        "tcb_statuses": '["UpToDate"]',
        "collateral_grace": "0",
        "demand_revocation": "true",
    }
    text = "\n".join(f"{name} = {value}" for name, value in told.items())
    assert load_policy_toml(text) == default


def test_the_python_that_is_shown_runs():
    (source,) = re.findall(r"```python\n(.*?)```", POLICIES, re.DOTALL)
    exec(compile(source, "policies.md", "exec"), {})


def test_every_command_prints_what_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AVALON_POLICY", raising=False)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    assert len(COMMANDS) >= 6
    for command, shown in COMMANDS:
        ran = CliRunner().invoke(app, shlex.split(command)[1:])
        pattern = r"[\s\S]*".join(
            re.escape(part) for part in re.split(r"^\.\.\.\n", shown, flags=re.MULTILINE)
        )
        assert re.fullmatch(pattern.rstrip("\\\n") + r"\s*", ran.output), f"{command}\n{ran.output}"
