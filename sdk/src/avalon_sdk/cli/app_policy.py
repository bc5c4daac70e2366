"""``avalon policy``: arguments and help. What the commands do is in :mod:`avalon_sdk.cli.policies`."""

from pathlib import Path
from typing import Annotated

import typer

from avalon_sdk.cli.app_attest import AsOf, Collateral
from avalon_sdk.cli.exits import run
from avalon_sdk.cli.options import Json

_EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "avalon policy check trust.toml\n\n"
    "avalon policy dry-run trust.toml evidence/*.bin --collateral collateral.json\n\n"
    "avalon policy diff trust.toml stricter.toml evidence/*.bin --collateral collateral.json\n\n"
)

policy_app = typer.Typer(
    name="policy",
    help="Look at trust policies: in words, and in effect, before they decide about anything.",
    epilog=_EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode="rich",
)

PolicyFile = Annotated[
    str,
    typer.Argument(metavar="FILE", help="A policy in TOML or JSON, or 'development'.", show_default=False),
]
EvidenceFiles = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="EVIDENCE...", help="Files with evidence, as for 'avalon attest verify'.", show_default=False
    ),
]


@policy_app.command(
    epilog="[bold]Example[/bold]\n\navalon policy check trust.toml --production && echo 'may be deployed'\n\n"
    "[bold]Exit codes[/bold]  0 ok · 1 it admits nobody, or with --production is not fit for it · 2 not a policy"
)
def check(
    file: PolicyFile,
    *,
    production: Annotated[
        bool, typer.Option("--production", help="Fail unless it is fit for production.")
    ] = False,
    dump: Annotated[bool, typer.Option("--dump", help="Print it in TOML, with all that it implies.")] = False,
    json_: Json = False,
) -> None:
    """Say in words what a policy accepts, what it leaves open, and whether production would take it."""
    from avalon_sdk.cli.policies import check_policy

    run(lambda: check_policy(file, for_production=production, dumps=dump, as_json=json_), as_json=json_)


@policy_app.command(
    "dry-run",
    epilog="[bold]Example[/bold]\n\navalon policy dry-run trust.toml evidence/*.bin --collateral collateral.json\n\n"
    "[bold]Exit codes[/bold]  0 all admitted · 4 somebody is not · 2 usage",
)
def dry_run(
    file: PolicyFile,
    evidence: EvidenceFiles = None,
    *,
    collateral: Collateral = None,
    as_of: AsOf = None,
    json_: Json = False,
) -> None:
    """Say whom a policy would admit, and why not the others."""
    from avalon_sdk.cli.policies import dry_run_policy

    run(
        lambda: dry_run_policy(
            file, tuple(evidence or ()), collateral=tuple(collateral or ()), as_of=as_of, as_json=json_
        ),
        as_json=json_,
    )


@policy_app.command(
    epilog="[bold]Example[/bold]\n\navalon policy diff trust.toml stricter.toml evidence/*.bin --as-of 2025-07-04\n\n"
    "[bold]Exit codes[/bold]  0 the same are admitted · 1 somebody is admitted by one of them only · 2 usage"
)
def diff(
    before: PolicyFile,
    after: PolicyFile,
    evidence: EvidenceFiles = None,
    *,
    collateral: Collateral = None,
    as_of: AsOf = None,
    json_: Json = False,
) -> None:
    """Say how two policies differ: in their texts, and in whom they admit, and why."""
    from avalon_sdk.cli.policies import diff_policies

    run(
        lambda: diff_policies(
            before,
            after,
            tuple(evidence or ()),
            collateral=tuple(collateral or ()),
            as_of=as_of,
            as_json=json_,
        ),
        as_json=json_,
    )
