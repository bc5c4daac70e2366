"""``avalon attest``: arguments and help. What the commands do is in :mod:`avalon_sdk.cli.attesting`."""

from pathlib import Path
from typing import Annotated

import typer

from avalon_sdk.cli.exits import run
from avalon_sdk.cli.options import Json

ATTEST_EXIT_CODES = (
    "[bold]Exit codes[/bold]  0 passed, by the policy that was given · 4 failed · 6 could not check, or no policy was "
    "given · 2 usage · 1 the file cannot be shown"
)
_EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "avalon attest inspect quote.bin [dim]# what is this?[/dim]\n\n"
    "avalon attest verify quote.bin --collateral collateral.json --policy trust.toml\n\n"
    "avalon attest verify report.bin --collateral vcek.der --collateral chain.pem --policy trust.toml --line\n\n"
    "avalon attest explain quote.bin --collateral collateral.json --as-of 2025-07-04\n\n"
)

Fetch = Annotated[
    bool,
    typer.Option(
        "--fetch",
        help="Ask the vendors' services for the collateral that is missing (see avalon collateral).",
    ),
]

attest_app = typer.Typer(
    name="attest",
    help="Look at evidence in files: what it is, whether it holds, and what a policy says about it.",
    epilog=_EXAMPLES + ATTEST_EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
)

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="Evidence: raw, hex, base64, or JSON (a worker record, proofData, a quote, an IAS report).",
        show_default=False,
    ),
]
Collateral = Annotated[
    list[Path] | None,
    typer.Option(
        "--collateral",
        metavar="FILE",
        help="What the vendor publishes about the platform: JSON, certificates or CRLs in PEM or DER. May be repeated.",
    ),
]
AsOf = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        metavar="TIME",
        help="Judge as of this time: 2025-07-04T09:10:24Z, 2025-07-04, or Unix seconds. Default: now.",
    ),
]
Policy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        envvar="AVALON_POLICY",
        metavar="FILE|development",
        help="What is acceptable: a TOML or JSON file, or 'development' (accepts the simulator, protects nothing). "
        "Without one, signatures are verified up to the vendors' roots and nothing is accepted.",
    ),
]
ReportData = Annotated[
    str | None,
    typer.Option(
        "--report-data", metavar="HEX", help="What the evidence must have been made for; at most 64 bytes."
    ),
]
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help="Which kind it is. Default: the bytes tell."),
]
Signature = Annotated[
    Path | None,
    typer.Option("--signature", metavar="FILE", help="A signature apart from the document (IAS, TPM)."),
]
Certificate = Annotated[
    list[Path] | None,
    typer.Option(
        "--certificate",
        metavar="FILE",
        help="Certificates that belong to the evidence, leaf first (IAS, TPM, SNP). May be repeated.",
    ),
]
Attach = Annotated[
    list[str] | None,
    typer.Option(
        "--attach",
        metavar="NAME=FILE",
        help="Another part of the evidence: event_log=log.bin. May be repeated.",
    ),
]


@attest_app.command(
    epilog="[bold]Example[/bold]\n\navalon attest inspect quote.hex --json\n\n" + ATTEST_EXIT_CODES
)
def inspect(
    file: File,
    *,
    format_name: Format = None,
    signature: Signature = None,
    certificate: Certificate = None,
    attach: Attach = None,
    json_: Json = False,
) -> None:
    """Show what a file is and every field in it. Nothing is verified."""
    from avalon_sdk.cli.attesting import EvidenceArguments, inspect_file

    evidence = EvidenceArguments(
        format_name=format_name,
        signature=signature,
        certificates=tuple(certificate or ()),
        attachments=tuple(attach or ()),
    )
    run(lambda: inspect_file(file, evidence, as_json=json_), as_json=json_)


@attest_app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "avalon attest verify quote.bin --collateral collateral.json --policy trust.toml\n\n"
    "avalon attest verify avr.json --signature avr.sig --certificate chain.pem --policy trust.toml\n\n"
    "avalon attest verify quote.bin --collateral c.json --policy trust.toml --line && echo 'may be used'\n\n"
    + ATTEST_EXIT_CODES
)
def verify(
    file: File,
    *,
    collateral: Collateral = None,
    as_of: AsOf = None,
    policy: Policy = None,
    report_data: ReportData = None,
    format_name: Format = None,
    signature: Signature = None,
    certificate: Certificate = None,
    attach: Attach = None,
    fetch: Fetch = False,
    json_: Json = False,
    line: Annotated[bool, typer.Option("--line", help="Print one line.")] = False,
) -> None:
    """Verify evidence and judge it by a policy. Only the code 0 says that it may be used."""
    from avalon_sdk.cli.attesting import EvidenceArguments, VerifyArguments, verify_file

    evidence = EvidenceArguments(
        format_name=format_name,
        signature=signature,
        certificates=tuple(certificate or ()),
        attachments=tuple(attach or ()),
        collateral=tuple(collateral or ()),
        fetch=fetch,
    )
    arguments = VerifyArguments(policy=policy, as_of=as_of, report_data=report_data)
    run(lambda: verify_file(file, evidence, arguments, as_json=json_, as_line=line), as_json=json_)


@attest_app.command(
    epilog="[bold]Example[/bold]\n\navalon attest explain quote.bin --collateral collateral.json --policy trust.toml\n\n"
    + ATTEST_EXIT_CODES
)
def explain(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Evidence, as for verify.", show_default=False)
    ],
    *,
    collateral: Collateral = None,
    as_of: AsOf = None,
    policy: Policy = None,
    report_data: ReportData = None,
    format_name: Format = None,
    signature: Signature = None,
    certificate: Certificate = None,
    attach: Attach = None,
    fetch: Fetch = False,
) -> None:
    """Verify evidence and explain it: what every check asks, what was found, what a status or an advisory means."""
    from avalon_sdk.cli.attesting import EvidenceArguments, VerifyArguments, explain_files

    evidence = EvidenceArguments(
        format_name=format_name,
        signature=signature,
        certificates=tuple(certificate or ()),
        attachments=tuple(attach or ()),
        collateral=tuple(collateral or ()),
        fetch=fetch,
    )
    arguments = VerifyArguments(policy=policy, as_of=as_of, report_data=report_data)
    run(lambda: explain_files(files, evidence, arguments))
