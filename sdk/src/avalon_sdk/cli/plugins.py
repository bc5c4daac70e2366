"""Commands that other distributions add to ``avalon``.

The contract: an entry point in the group ``avalon.commands``. Its name is the command's name; its value is a plain
callable that typer can register, and it is registered as ``app.command(name)(callable)`` would, or a
``typer.Typer`` for a command with commands of its own::

    [project.entry-points."avalon.commands"]
    up = "avalon_service.cli:up"

Loading it may be slow: it is imported only when the command is used. ``avalon --help`` reads the first line of its
docstring from its source, without importing it. A command of ours is never replaced. A plug-in that cannot be
loaded says so when it is used, and harms no other command. An AvalonError that it raises is shown as a paragraph.
"""

import ast
import importlib.util
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import typer

from avalon_core.errors import AvalonError

GROUP = "avalon.commands"
_PANEL = "Commands of installed packages"
_PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


class BrokenPlugin(AvalonError):
    """A command of another package cannot be loaded."""


def add_plugins(app: typer.Typer, own: Iterable[str], found: Iterable[EntryPoint] | None = None) -> list[str]:
    """Register a stand-in for each plug-in; it loads the command when it is used.

    Returns:
        What the user should be told: plug-ins that were left out, and why.
    """
    warnings = []
    taken = set(own)
    for entry_point in sorted(entry_points(group=GROUP) if found is None else found, key=lambda ep: ep.name):
        if entry_point.name in taken:
            warnings.append(
                f"{_origin(entry_point)} offers a command {entry_point.name!r}, which there is already: left out. "
                "Uninstall one of the packages."
            )
            continue
        taken.add(entry_point.name)
        _add(app, entry_point)
    return warnings


def _add(app: typer.Typer, entry_point: EntryPoint) -> None:
    def stand_in(ctx: typer.Context) -> None:
        load(entry_point)(args=ctx.args, prog_name=ctx.command_path)

    help_ = _first_line(entry_point) or f"From {_origin(entry_point)}."
    app.command(
        entry_point.name,
        help=help_,
        context_settings=_PASSED_ON,
        add_help_option=False,
        rich_help_panel=_PANEL,
    )(stand_in)


def load(entry_point: EntryPoint) -> typer.Typer:
    """Import a plug-in and make it a command line of its own.

    Raises:
        BrokenPlugin: says which package, what is wrong, and what to do.
    """
    try:
        target = entry_point.load()
        if isinstance(target, typer.Typer):
            return target
        if not callable(target):
            raise TypeError(f"expected a callable, got {type(target).__name__}")
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
        alone.command(entry_point.name)(target)
        typer.main.get_command(alone)
    except (Exception, SystemExit) as exc:
        raise BrokenPlugin(
            f"the command {entry_point.name!r} of {_origin(entry_point)} cannot be loaded: {type(exc).__name__}: "
            f"{exc}. Reinstall that package, or uninstall it; the other commands work."
        ) from exc
    else:
        return alone


def _origin(entry_point: EntryPoint) -> str:
    return f"the package {entry_point.dist.name}" if entry_point.dist is not None else "another package"


def _first_line(entry_point: EntryPoint) -> str | None:
    """The first line of the callable's docstring, read from its source; None where that cannot be had."""
    try:
        spec = importlib.util.find_spec(entry_point.module)
        if spec is None or spec.origin is None:
            return "(cannot be found: reinstall the package)"
        tree = ast.parse(Path(spec.origin).read_bytes())
    except Exception:  # noqa: BLE001 a broken parent package must not break the help
        return None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == entry_point.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0] or None
    return None
