"""``avalon pool manifest``, ``amend``, ``sign`` and ``show``: arguments and help. What the commands do is in
:mod:`avalon_sdk.cli.manifesting`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from avalon_sdk.cli.exits import run
from avalon_sdk.cli.options import EXIT_CODES, Json

_MANIFEST_EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "avalon pool manifest --worker-name heart --kme 4f2a... --wpe 81b0... --root intel-sgx --owner alice.pub.pem "
    "--owner bob.pub.pem --owner carol.pub.pem --quorum 2 --out first.json\n\n"
    "avalon measure --role kme --json [dim]# the measurement of a KME of this installation (SIMULATED)[/dim]\n\n"
)
_AMEND_EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "avalon pool amend first.json --add-wpe 93cc... --out change-2.json\n\n"
    "avalon pool amend change-2.json --remove-wpe 81b0... --out change-3.json\n\n"
)
_SIGN_EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "avalon pool sign change-2.json --key bob.pem --manifest first.json\n\n"
    "avalon pool sign change-2.json --with from-alice.json --with from-bob.json\n\n"
)
_SHOW_EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "avalon pool show first.json\n\n"
    "avalon pool show change-2.json --manifest first.json\n\n"
    "[bold]Exit codes[/bold]  0 ok; with --manifest, the change will be taken · 1 it will not · 2 usage"
)
_PANEL = "Manifests, without a service"


class Migration(StrEnum):
    """Whether keys may leave a KME."""

    ALLOWED = "allowed"
    NEVER = "never"


class Localisation(StrEnum):
    """Where WPEs may be."""

    ANYWHERE = "anywhere"
    SAME_PLATFORM = "same-platform"


def _list(name: str, metavar: str, help_: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        name, metavar=metavar, help=f"{help_} May be repeated.", show_default=False
    )
    return option


New = Annotated[
    Path,
    typer.Option("--out", metavar="FILE", help="Where it goes; it must not be there.", show_default=False),
]
InForce = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        help="The manifest in force: the first one, or the change before. Says whose signatures count.",
    ),
]
Quorum = Annotated[
    int | None, typer.Option("--quorum", help="How many owners must sign a change. [default: all]")
]
Threshold = Annotated[
    int | None, typer.Option("--threshold", help="How many shares restore the pool. [default: all]")
]
MigrationOption = Annotated[
    Migration | None,
    typer.Option("--migration", help="Whether keys may leave the KME that made them. [default: allowed]"),
]
LocalisationOption = Annotated[
    Localisation | None,
    typer.Option("--localisation", help="Where WPEs may be, seen from their KME. [default: anywhere]"),
]
MaxWpes = Annotated[int | None, typer.Option("--max-wpes", help="WPEs at a time. [default: 64]")]
OrdersPerWpe = Annotated[
    int | None,
    typer.Option(
        "--orders-per-wpe", help="Orders until a WPE is started afresh; 0: any number. [default: 0]"
    ),
]
KmeSigns = Annotated[
    bool | None,
    typer.Option(
        "--kme-signs-results/--wpe-signs-results",
        help="Who signs results. [default: --wpe-signs-results, with one-time keys]",
    ),
]
Overlap = Annotated[
    int | None,
    typer.Option(
        "--overlap", metavar="SECONDS", help="For how long replaced keys still open orders. [default: 604800]"
    ),
]
Legacy = Annotated[
    bool | None,
    typer.Option(
        "--accept-legacy/--refuse-legacy",
        help="Whether orders are processed whose key and iv encrypt more than one message. [default: --refuse-legacy]",
    ),
]


def add_manifest_commands(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(rich_help_panel=_PANEL, epilog=_MANIFEST_EXAMPLES + EXIT_CODES)(manifest)
    app.command(rich_help_panel=_PANEL, epilog=_AMEND_EXAMPLES + EXIT_CODES)(amend)
    app.command(rich_help_panel=_PANEL, epilog=_SIGN_EXAMPLES + EXIT_CODES)(sign)
    app.command(rich_help_panel=_PANEL, epilog=_SHOW_EXAMPLES)(show)


def manifest(
    *,
    worker_name: Annotated[
        str,
        typer.Option(
            "--worker-name", metavar="NAME", help="The pool's, as in the settings.", show_default=False
        ),
    ],
    out: New,
    kme: Annotated[list[str] | None, _list("--kme", "HEX", "A measurement that may be a KME.")] = None,
    wpe: Annotated[list[str] | None, _list("--wpe", "HEX", "A measurement that may be a WPE.")] = None,
    root: Annotated[
        list[str] | None,
        _list("--root", "NAME", "Evidence may end in this root: intel-sgx; simulator protects nothing."),
    ] = None,
    tcb_status: Annotated[
        list[str] | None,
        _list("--tcb-status", "STATUS", "A judgement of the platform that is accepted. Default: UpToDate."),
    ] = None,
    owner: Annotated[
        list[Path] | None,
        _list(
            "--owner",
            "FILE",
            "An owner's secp256k1 public key in PEM. Without owners nothing can be changed.",
        ),
    ] = None,
    quorum: Quorum = None,
    recovery_key: Annotated[
        list[Path] | None,
        _list("--recovery-key", "FILE", "What 'avalon pool recovery-key' printed for an owner."),
    ] = None,
    threshold: Threshold = None,
    migration: MigrationOption = None,
    localisation: LocalisationOption = None,
    max_wpes: MaxWpes = None,
    orders_per_wpe: OrdersPerWpe = None,
    kme_signs_results: KmeSigns = None,
    overlap: Overlap = None,
    accept_legacy: Legacy = None,
    json_: Json = False,
) -> None:
    """Write a pool's first manifest: who may hold its keys, who may process its orders, who may change that.

    A measurement that is not named is not admitted. The pool begins with it: avalon up --pool with the setting pool_manifest.
    """
    from avalon_sdk.cli.manifesting import Lists, ManifestArguments, begin

    lists = Lists(
        kmes=tuple(kme or ()),
        wpes=tuple(wpe or ()),
        roots=tuple(root or ()),
        tcb_statuses=tuple(tcb_status or ()),
        owners=tuple(owner or ()),
        recovery_keys=tuple(recovery_key or ()),
    )
    arguments = ManifestArguments(
        quorum=quorum,
        threshold=threshold,
        migration=migration.value if migration is not None else None,
        localisation=localisation.value if localisation is not None else None,
        max_wpes=max_wpes,
        orders_per_wpe=orders_per_wpe,
        kme_signs_results=kme_signs_results,
        overlap_seconds=overlap,
        accept_legacy=accept_legacy,
    )
    run(lambda: begin(worker_name, lists, arguments, out=out, as_json=json_), as_json=json_)


def amend(
    current: Annotated[
        Path,
        typer.Argument(
            metavar="CURRENT",
            help="The manifest in force: the first one, or the last change of it.",
            show_default=False,
        ),
    ],
    *,
    out: New,
    add_kme: Annotated[list[str] | None, _list("--add-kme", "HEX", "Admit these KMEs.")] = None,
    remove_kme: Annotated[list[str] | None, _list("--remove-kme", "HEX", "Admit them no longer.")] = None,
    add_wpe: Annotated[list[str] | None, _list("--add-wpe", "HEX", "Admit these WPEs.")] = None,
    remove_wpe: Annotated[list[str] | None, _list("--remove-wpe", "HEX", "Admit them no longer.")] = None,
    add_root: Annotated[list[str] | None, _list("--add-root", "NAME", "Accept this root.")] = None,
    remove_root: Annotated[list[str] | None, _list("--remove-root", "NAME", "Accept it no longer.")] = None,
    add_tcb_status: Annotated[
        list[str] | None, _list("--add-tcb-status", "STATUS", "Accept this judgement of the platform.")
    ] = None,
    remove_tcb_status: Annotated[
        list[str] | None, _list("--remove-tcb-status", "STATUS", "Accept it no longer.")
    ] = None,
    add_owner: Annotated[
        list[Path] | None, _list("--add-owner", "FILE", "Another owner's public key in PEM.")
    ] = None,
    remove_owner: Annotated[
        list[Path] | None,
        _list("--remove-owner", "FILE", "The public key of who is to be an owner no longer."),
    ] = None,
    quorum: Quorum = None,
    add_recovery_key: Annotated[
        list[Path] | None, _list("--add-recovery-key", "FILE", "Another owner's recovery key.")
    ] = None,
    remove_recovery_key: Annotated[
        list[Path] | None, _list("--remove-recovery-key", "FILE", "A recovery key that gets no more shares.")
    ] = None,
    threshold: Threshold = None,
    migration: MigrationOption = None,
    localisation: LocalisationOption = None,
    max_wpes: MaxWpes = None,
    orders_per_wpe: OrdersPerWpe = None,
    kme_signs_results: KmeSigns = None,
    overlap: Overlap = None,
    accept_legacy: Legacy = None,
    json_: Json = False,
) -> None:
    """Write a change of a manifest, for the owners to sign. What no option names stays as it is."""
    from avalon_sdk.cli.manifesting import Lists, ManifestArguments
    from avalon_sdk.cli.manifesting import amend as write_change

    added = Lists(
        kmes=tuple(add_kme or ()),
        wpes=tuple(add_wpe or ()),
        roots=tuple(add_root or ()),
        tcb_statuses=tuple(add_tcb_status or ()),
        owners=tuple(add_owner or ()),
        recovery_keys=tuple(add_recovery_key or ()),
    )
    removed = Lists(
        kmes=tuple(remove_kme or ()),
        wpes=tuple(remove_wpe or ()),
        roots=tuple(remove_root or ()),
        tcb_statuses=tuple(remove_tcb_status or ()),
        owners=tuple(remove_owner or ()),
        recovery_keys=tuple(remove_recovery_key or ()),
    )
    arguments = ManifestArguments(
        quorum=quorum,
        threshold=threshold,
        migration=migration.value if migration is not None else None,
        localisation=localisation.value if localisation is not None else None,
        max_wpes=max_wpes,
        orders_per_wpe=orders_per_wpe,
        kme_signs_results=kme_signs_results,
        overlap_seconds=overlap,
        accept_legacy=accept_legacy,
    )
    run(lambda: write_change(current, added, removed, arguments, out=out, as_json=json_), as_json=json_)


def sign(
    change: Annotated[
        Path,
        typer.Argument(metavar="CHANGE", help="Of 'avalon pool amend'; it is replaced.", show_default=False),
    ],
    *,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            envvar="AVALON_KEY",
            metavar="FILE",
            help="An owner's secp256k1 private key in PEM, readable by you alone.",
        ),
    ] = None,
    with_: Annotated[
        list[Path] | None, _list("--with", "FILE", "Take over the signatures of a copy of the change.")
    ] = None,
    manifest: InForce = None,
    json_: Json = False,
) -> None:
    """Add an owner's signature to a change. Look at it with 'avalon pool show' first: it is what you sign."""
    from avalon_sdk.cli import manifesting

    run(
        lambda: manifesting.sign(change, key=key, others=tuple(with_ or ()), current=manifest, as_json=json_),
        as_json=json_,
    )


def show(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A manifest, or a change.", show_default=False)
    ],
    *,
    manifest: InForce = None,
    json_: Json = False,
) -> None:
    """Say in words what a manifest or a change allows, who has signed it, and whether that is a quorum."""
    from avalon_sdk.cli import manifesting

    run(lambda: manifesting.show_file(file, current=manifest, as_json=json_), as_json=json_)
