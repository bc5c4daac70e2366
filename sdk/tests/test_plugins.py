"""Commands of other packages: found by entry point, loaded when used, and unable to harm the others."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from avalon_sdk.cli.plugins import GROUP, BrokenPlugin, add_plugins

SOURCE = '''
"""A plug-in."""
import typer

def greet(name: str, loud: bool = False) -> None:
    """Greet somebody."""
    typer.echo(f"hello {name}".upper() if loud else f"hello {name}")

tools = typer.Typer(help="Tools.")

@tools.command()
def first() -> None:
    """First."""
    typer.echo("first")

@tools.command()
def second() -> None:
    """Second."""

number = 3
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "plugin_under_test"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    (tmp_path / "broken_plugin.py").write_text(
        'def run() -> None:\n    """Never."""\nraise RuntimeError("boom")\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def app_with(*found: EntryPoint) -> tuple[typer.Typer, list[str]]:
    app = typer.Typer()

    @app.command()
    def submit() -> None:
        """Ours."""
        typer.echo("ours")

    @app.command()
    def other() -> None:
        """Ours too."""

    return app, add_plugins(app, ("submit", "other"), found)


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=GROUP)


def test_a_plugin_runs_with_its_own_arguments_and_help(module):
    app, _ = app_with(entry("greet", f"{module}:greet"))
    assert CliRunner().invoke(app, ["greet", "you", "--loud"]).output == "HELLO YOU\n"
    assert "--loud" in CliRunner().invoke(app, ["greet", "--help"]).output
    assert CliRunner().invoke(app, ["greet"]).exit_code == 2


def test_help_tells_of_a_plugin_without_importing_it(module):
    app, _ = app_with(entry("greet", f"{module}:greet"), entry("gone", "no_such_module:run"))
    output = CliRunner().invoke(app, ["--help"]).output
    assert "Greet somebody." in output
    assert "reinstall" in output
    assert module not in sys.modules


def test_another_command_does_not_load_it(module):
    app, _ = app_with(entry("greet", f"{module}:greet"))
    assert CliRunner().invoke(app, ["submit"]).output == "ours\n"
    assert module not in sys.modules


def test_a_typer_object_is_a_command_with_commands(module):
    app, _ = app_with(entry("tools", f"{module}:tools"))
    assert CliRunner().invoke(app, ["tools", "first"]).output == "first\n"


@pytest.mark.parametrize(
    "value",
    ["broken_plugin:run", "no_such_module:run", "plugin_under_test:nothing", "plugin_under_test:number"],
)
def test_a_broken_plugin_says_so_and_harms_no_other_command(module, value):
    app, _ = app_with(entry("bad", value))
    result = CliRunner().invoke(app, ["bad"])
    assert isinstance(result.exception, BrokenPlugin)
    assert "'bad' of another package cannot be loaded" in str(result.exception)
    assert CliRunner().invoke(app, ["submit"]).output == "ours\n"
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0


def test_a_command_of_ours_is_never_replaced(module):
    app, warnings = app_with(entry("submit", f"{module}:greet"))
    assert CliRunner().invoke(app, ["submit"]).output == "ours\n"
    assert len(warnings) == 1
    assert "which there is already" in warnings[0]
