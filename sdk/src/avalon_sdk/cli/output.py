"""What the command shows. Texts that come from a service never reach the terminal as they are."""

import json
import sys
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

SIMULATED_NOTE = "SIMULATED: no hardware protects this order; the worker's operator can read all of it"


def printable(text: str) -> str:
    """The text without control characters, which could rewrite what a terminal shows; lines and tabs stay."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def complain(text: str) -> None:
    """One paragraph on stderr."""
    line = Text("error: ", style="bold red")
    line.append(printable(text), style="not bold default")
    errors_console().print(line)


def remark(text: str) -> None:
    """A warning on stderr that must not be missed."""
    errors_console().print(Text(printable(text), style="bold yellow"))


def errors_console() -> Console:
    """Stderr; plain where it is no terminal or NO_COLOR is set."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def show(text: str = "", style: str = "") -> None:
    """A line on stdout."""
    Console(soft_wrap=True, highlight=False).print(Text(printable(text), style=style))


def show_json(value: Any) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(value))


def show_output(index: int, data: bytes) -> None:
    """One output of an order: its text as it is, or JSON with base64 where it is no text."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        typer.echo(json.dumps(output_as_json(index, data)))
        return
    typer.echo(printable(text) if sys.stdout.isatty() else text)


def output_as_json(index: int, data: bytes) -> dict[str, Any]:
    """``text`` where it is UTF-8, else ``base64``."""
    import base64

    try:
        return {"index": index, "text": data.decode()}
    except UnicodeDecodeError:
        return {"index": index, "base64": base64.b64encode(data).decode()}
