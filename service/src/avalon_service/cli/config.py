"""``avalon config``: what is set, and where each value came from."""

from __future__ import annotations

import enum
import json
import os
from pathlib import Path
from typing import Annotated

import typer


class Action(enum.StrEnum):
    """What to do."""

    SHOW = "show"


def command(
    action: Annotated[Action, typer.Argument(help="show: print every setting.")],  # noqa: ARG001 typer checks it
    config: Annotated[
        Path | None, typer.Option(help="The TOML file of settings that `avalon up --config` would be given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the service's settings: each value, where it came from, and what it is for.

    They are those that `avalon up` would use, started here with the same file and environment. Secrets are not shown.
    Exit codes: 0, or 2 where a setting is wrong.

    Examples:

        avalon config show

        AVALON_PORT=8080 avalon config show --config avalon.toml --json
    """
    from avalon_service.setting_docs import describe, shown
    from avalon_service.settings import SettingsError, load_settings

    try:
        loaded = load_settings(command_line={}, environment=os.environ, file=config)
    except SettingsError as exc:
        typer.echo(f"avalon config: {exc}", err=True)
        raise typer.Exit(2) from None
    rows = [
        {
            "name": doc.name,
            "value": shown(doc.name, getattr(loaded.settings, doc.name)),
            "origin": loaded.origins[doc.name],
            "documentation": doc.text,
        }
        for doc in describe()
    ]
    if as_json:
        typer.echo(json.dumps({"settings": rows}))
        return
    for row in rows:
        origin = "" if row["origin"] == "default" else f"   # {row['origin']}"
        typer.echo(f"{row['name']} = {_as_toml(row['value'])}{origin}")
        typer.echo(f"    {row['documentation']}")


def _as_toml(value: object) -> str:
    """The value as one would write it in the file; what follows the profile as a remark."""
    return "(as the profile says)" if value is None else json.dumps(value)
