"""The options that commands share, and what every help text says at its end. Imports nothing heavy."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_URL = "http://127.0.0.1:1947"

EXIT_CODES = (
    "[bold]Exit codes[/bold]  0 ok · 1 the order was refused or failed, or a check failed · 2 usage · "
    "3 cannot connect, or not ready · 4 evidence, result, receipt or saved order not acceptable · 5 time is up · "
    "130 interrupted"
)

Url = Annotated[str, typer.Option("--url", envvar="AVALON_URL", help="Address of the service.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        "--policy",
        envvar="AVALON_POLICY",
        metavar="FILE|development",
        help="Which workers to trust: a TOML or JSON file, or 'development' (accepts the simulator, protects "
        "nothing). Default: 'development' for this machine, nobody elsewhere.",
    ),
]
MeasurementOption = Annotated[
    list[str] | None,
    typer.Option(
        "--measurement", metavar="HEX", help="Accept an enclave of this measurement. May be repeated."
    ),
]
Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="For the whole of it.")]
OrderArgument = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="The work order's id; of one in the journal the beginning will do.",
        show_default=False,
    ),
]
KeptUrl = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="AVALON_URL", help="Address of the service. Default: the one in the journal."
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key",
        envvar="AVALON_KEY",
        metavar="FILE",
        help="A secp256k1 private key in PEM, readable by you alone.",
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        envvar="AVALON_OPERATOR_TOKEN_FILE",
        metavar="FILE",
        help="The operator's token: operator-token in the service's data directory.",
    ),
]
RequiredTokenFile = Annotated[
    Path,
    typer.Option(
        "--token-file",
        envvar="AVALON_OPERATOR_TOKEN_FILE",
        metavar="FILE",
        help="The operator's token: operator-token in the service's data directory.",
        show_default=False,
    ),
]
RequiredKeyFile = Annotated[
    Path,
    typer.Option(
        "--key",
        envvar="AVALON_KEY",
        metavar="FILE",
        help="A secp256k1 private key in PEM, readable by you alone.",
        show_default=False,
    ),
]
PoolWorker = Annotated[
    str | None,
    typer.Option(
        "--worker",
        metavar="NAME|ID",
        help="Which pool. May be left out where the service runs one.",
    ),
]
