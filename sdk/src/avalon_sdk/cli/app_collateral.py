"""``avalon collateral``: arguments and help. What the commands do is in :mod:`avalon_sdk.cli.collecting`."""

from pathlib import Path
from typing import Annotated

import typer

from avalon_sdk.cli.exits import run
from avalon_sdk.cli.options import Json

COLLATERAL_EXIT_CODES = (
    "[bold]Exit codes[/bold]  0 ok · 1 a vendor has none, or something ends (show --check) · 2 usage · 3 a service cannot be "
    "reached, or what it answers cannot be used"
)
_EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "avalon collateral fetch quote.bin [dim]# ask Intel or AMD, and keep it[/dim]\n\n"
    "avalon collateral export quote.bin --out bundle.json [dim]# for a machine without network[/dim]\n\n"
    "avalon collateral import bundle.json [dim]# there[/dim]\n\n"
    "avalon collateral show --within 7\n\n"
)

collateral_app = typer.Typer(
    name="collateral",
    help="What vendors publish about platforms: fetch it, carry it, see when it ends.",
    epilog=_EXAMPLES + COLLATERAL_EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Evidence = Annotated[
    list[Path],
    typer.Argument(metavar="EVIDENCE...", help="Files, as for 'avalon attest'.", show_default=False),
]
Pccs = Annotated[
    str | None,
    typer.Option(
        "--pccs",
        envvar="AVALON_PCCS_URL",
        metavar="URL",
        help="Ask this caching service (PCCS) for Intel's collateral. Default: Intel itself.",
    ),
]
Pcs = Annotated[
    str | None,
    typer.Option("--pcs", envvar="AVALON_PCS_URL", metavar="URL", help="Another address of Intel's service."),
]
Kds = Annotated[
    str | None,
    typer.Option(
        "--kds",
        envvar="AVALON_KDS_URL",
        metavar="URL",
        help="Ask this service for AMD's collateral. Default: AMD itself.",
    ),
]
RootCrl = Annotated[
    str | None,
    typer.Option(
        "--root-crl",
        envvar="AVALON_INTEL_ROOT_CRL_URL",
        metavar="URL",
        help="Where the CRL of Intel's root is, where no PCCS is asked for it.",
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        envvar="AVALON_COLLATERAL_CA_FILE",
        metavar="FILE",
        help="Certificates (PEM) that the services' TLS may rest on, in place of the system's.",
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--pcs-key-file",
        envvar="AVALON_PCS_KEY_FILE",
        metavar="FILE",
        help="Intel's subscription key, for quotes that carry no PCK chain. Readable by you alone.",
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        envvar="AVALON_COLLATERAL_CACHE",
        metavar="DIR",
        help="Where answers are kept. Default: ~/.cache/avalon/collateral.",
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Use the cache alone, whatever its age.")]
Refresh = Annotated[bool, typer.Option("--refresh", help="Ask again, although the cache is fresh.")]
Seconds = Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="For the whole of it.")]
Within = Annotated[
    float, typer.Option("--within", metavar="DAYS", help="Warn of what ends within so many days.", min=0)
]


@collateral_app.command(
    epilog="[bold]Example[/bold]\n\navalon collateral fetch quote.bin --pccs https://localhost:8081\n\n"
    + COLLATERAL_EXIT_CODES
)
def fetch(
    evidence: Evidence,
    *,
    pccs: Pccs = None,
    pcs: Pcs = None,
    root_crl: RootCrl = None,
    kds: Kds = None,
    ca_file: CaFile = None,
    pcs_key_file: KeyFile = None,
    cache: Cache = None,
    offline: Offline = False,
    refresh: Refresh = False,
    timeout: Seconds = 60.0,
    within: Within = 7.0,
    json_: Json = False,
) -> None:
    """Fetch what evidence needs and keep it in the cache. Nothing is verified."""
    from avalon_sdk.cli.collecting import FetchOptions, fetch_files

    options = FetchOptions(
        pccs=pccs, pcs=pcs, root_crl=root_crl, kds=kds, ca_file=ca_file, pcs_key_file=pcs_key_file, cache=cache,
        offline=offline, refresh=refresh, timeout=timeout,
    )  # fmt: skip
    run(lambda: fetch_files(evidence, options, within=within, as_json=json_), as_json=json_)


@collateral_app.command(
    epilog="[bold]Example[/bold]\n\navalon collateral export quote.bin report.bin --out bundle.json\n\n"
    + COLLATERAL_EXIT_CODES
)
def export(
    evidence: Evidence,
    *,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The bundle (JSON).", show_default=False)
    ],
    pccs: Pccs = None,
    pcs: Pcs = None,
    root_crl: RootCrl = None,
    kds: Kds = None,
    ca_file: CaFile = None,
    pcs_key_file: KeyFile = None,
    cache: Cache = None,
    offline: Offline = False,
    refresh: Refresh = False,
    timeout: Seconds = 60.0,
    within: Within = 7.0,
    json_: Json = False,
) -> None:
    """Write what evidence needs into one file, for verifying where there is no network."""
    from avalon_sdk.cli.collecting import FetchOptions, export_files

    options = FetchOptions(
        pccs=pccs, pcs=pcs, root_crl=root_crl, kds=kds, ca_file=ca_file, pcs_key_file=pcs_key_file, cache=cache,
        offline=offline, refresh=refresh, timeout=timeout,
    )  # fmt: skip
    run(lambda: export_files(evidence, out, options, within=within, as_json=json_), as_json=json_)


@collateral_app.command(
    name="import",
    epilog="[bold]Example[/bold]\n\navalon collateral import bundle.json\n\n" + COLLATERAL_EXIT_CODES,
)
def import_(
    bundles: Annotated[
        list[Path],
        typer.Argument(metavar="BUNDLE...", help="Bundles, or a quote's collateral.", show_default=False),
    ],
    *,
    pccs: Pccs = None,
    pcs: Pcs = None,
    root_crl: RootCrl = None,
    kds: Kds = None,
    cache: Cache = None,
    within: Within = 7.0,
    json_: Json = False,
) -> None:
    """Put bundles into the cache, as the answers of the vendors' services. Nothing is verified."""
    from avalon_sdk.cli.collecting import FetchOptions, import_files

    options = FetchOptions(pccs=pccs, pcs=pcs, root_crl=root_crl, kds=kds, cache=cache)
    run(lambda: import_files(bundles, options, within=within, as_json=json_), as_json=json_)


@collateral_app.command(
    epilog="[bold]Examples[/bold]\n\navalon collateral show\n\navalon collateral show bundle.json --within 3 --check\n\n"
    + COLLATERAL_EXIT_CODES
)
def show(
    bundles: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[BUNDLE]...", help="Files with collateral. Default: the cache."),
    ] = None,
    *,
    cache: Cache = None,
    within: Within = 7.0,
    check: Annotated[bool, typer.Option("--check", help="End with code 1 where something ends.")] = False,
    json_: Json = False,
) -> None:
    """List collateral and when it ends, and warn of what ends soon."""
    from avalon_sdk.cli.collecting import show_cache, show_files

    if bundles:
        run(lambda: show_files(bundles, within=within, checks=check, as_json=json_), as_json=json_)
    else:
        run(lambda: show_cache(cache, within=within, checks=check, as_json=json_), as_json=json_)
