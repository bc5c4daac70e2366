"""``avalon simulator``: arguments and help. What the commands do is in :mod:`avalon_sdk.cli.simulating`."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from avalon_sdk.cli.exits import run
from avalon_sdk.cli.options import Json

_EXIT_CODES = "[bold]Exit codes[/bold]  0 ok · 2 usage, or a file cannot be read or written"
_EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "avalon simulator states --format sgx\n\n"
    "avalon simulator quote --format sgx --out quote.bin --collateral-out collateral.json\n\n"
    "avalon attest verify quote.bin --collateral collateral.json --policy development\n\n"
    "avalon simulator root --format tdx > root.pem\n\n"
)

simulator_app = typer.Typer(
    name="simulator",
    help="Make SIMULATED evidence, good and bad, to try policies and verifiers on. It protects nothing.",
    epilog=_EXAMPLES + _EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
)


class Format(enum.StrEnum):
    """The kinds of evidence."""

    SGX = "sgx"
    TDX = "tdx"
    SNP = "snp"
    NITRO = "nitro"


SeedFile = Annotated[
    Path | None,
    typer.Option(
        "--seed-file",
        metavar="FILE",
        help="The simulator's seed: 32 bytes, raw or in hex. Default: the published one.",
    ),
]


@simulator_app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "avalon simulator quote --format sgx --state out-of-date --out quote.bin --collateral-out collateral.json\n\n"
    "avalon simulator quote --format tdx --report-data 00ff --measurement $(printf '%096d' 7) --out quote.bin\n\n"
    + _EXIT_CODES
)
def quote(
    *,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="Where the raw evidence goes.", show_default=False),
    ],
    format_: Annotated[Format, typer.Option("--format", help="The kind of evidence.")] = Format.SGX,
    state: Annotated[
        str,
        typer.Option("--state", metavar="STATE", help="What is to be the case: 'avalon simulator states'."),
    ] = "up-to-date",
    report_data: Annotated[
        str,
        typer.Option(
            "--report-data", metavar="HEX", help="What it vouches for: at most 64 bytes. Default: zeros."
        ),
    ] = "",
    measurement: Annotated[
        str | None,
        typer.Option(
            "--measurement",
            metavar="HEX",
            help="32 bytes for sgx, 48 for the others. Default: zeros and a one.",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Of a debug enclave, in any state.")] = False,
    collateral_out: Annotated[
        Path | None,
        typer.Option(
            "--collateral-out",
            metavar="FILE",
            help="Where the collateral that it is judged by goes, as JSON.",
        ),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", metavar="TIME", help="As if it were then: 2025-07-04T09:10:24Z. Default: now."
        ),
    ] = None,
    seed_file: SeedFile = None,
    json_: Json = False,
) -> None:
    """Make SIMULATED evidence in a state, and the collateral that it is judged by."""
    from avalon_sdk.cli.simulating import QuoteArguments, make_quote

    arguments = QuoteArguments(
        kind=format_.value,
        state=state,
        report_data=report_data,
        measurement=measurement,
        debug=debug,
        out=out,
        collateral_out=collateral_out,
        as_of=as_of,
        seed_file=seed_file,
    )
    run(lambda: make_quote(arguments, as_json=json_), as_json=json_)


@simulator_app.command(epilog="[bold]Example[/bold]\n\navalon simulator states --json\n\n" + _EXIT_CODES)
def states(
    *,
    format_: Annotated[
        Format | None, typer.Option("--format", help="Only this kind. Default: all.", show_default=False)
    ] = None,
    json_: Json = False,
) -> None:
    """List the states that evidence can be asked for in, and what is to be expected of each."""
    from avalon_sdk.cli.simulating import list_states

    run(lambda: list_states(None if format_ is None else format_.value, as_json=json_), as_json=json_)


@simulator_app.command(
    epilog="[bold]Example[/bold]\n\navalon simulator root --format snp > root.pem\n\n" + _EXIT_CODES
)
def root(
    *,
    format_: Annotated[Format, typer.Option("--format", help="The kind of evidence.")] = Format.SGX,
    seed_file: SeedFile = None,
    json_: Json = False,
) -> None:
    """Print the root certificate that SIMULATED evidence ends in, in PEM; its digest goes to stderr."""
    from avalon_sdk.cli.simulating import show_root

    run(lambda: show_root(format_.value, seed_file, as_json=json_), as_json=json_)
