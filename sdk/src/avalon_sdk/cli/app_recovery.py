"""``avalon pool recovery-key`` to ``avalon pool return``: arguments and help. What the commands do is in
:mod:`avalon_sdk.cli.recovering`."""

from pathlib import Path
from typing import Annotated

import typer

from avalon_sdk.cli.exits import run
from avalon_sdk.cli.options import (
    DEFAULT_URL,
    EXIT_CODES,
    Json,
    PolicyOption,
    PoolWorker,
    RequiredTokenFile,
    Timeout,
    Url,
)

_HAND_BACK_EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "avalon pool hand-back recovery.json --kme kme.json --key alice.key --manifest first.json --out alice.share\n\n"
    "avalon pool hand-back recovery.json --kme kme.json --key alice.key --policy trust.toml --out alice.share\n\n"
    "[bold]Exit codes[/bold]  0 ok · 2 usage · 4 the KME's evidence is not acceptable · 6 it could not be checked"
)

RecoveryFile = Annotated[
    Path,
    typer.Argument(
        metavar="RECOVERY", help="The recovery file, of 'avalon pool shares'.", show_default=False
    ),
]
RecoveryOut = Annotated[
    Path,
    typer.Option("--out", metavar="FILE", help="Where it goes; replaced where it is.", show_default=False),
]


def add_recovery_commands(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(
        "recovery-key",
        rich_help_panel="Recovery",
        epilog="[bold]Example[/bold]\n\navalon pool recovery-key alice.key > alice.pub\n\n" + EXIT_CODES,
    )(recovery_key)
    app.command(
        rich_help_panel="Recovery",
        epilog="[bold]Example[/bold]\n\navalon pool shares --out recovery.json --token-file operator-token\n\n"
        + EXIT_CODES,
    )(shares)
    app.command(
        rich_help_panel="Recovery",
        epilog="[bold]Example[/bold]\n\n"
        "avalon pool recover recovery.json --out kme.json --token-file operator-token\n\n" + EXIT_CODES,
    )(recover)
    app.command("hand-back", rich_help_panel="Recovery", epilog=_HAND_BACK_EXAMPLES)(hand_back)
    app.command(
        "return",
        rich_help_panel="Recovery",
        epilog="[bold]Example[/bold]\n\navalon pool return alice.share --token-file operator-token\n\n"
        + EXIT_CODES,
    )(return_)


def recovery_key(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Where the private key goes; it must not be there.", show_default=False
        ),
    ],
    *,
    json_: Json = False,
) -> None:
    """For an owner: make a key for recovery shares. The private part goes to FILE, the public part is printed."""
    from avalon_sdk.cli import recovering

    run(lambda: recovering.make_recovery_key(file, as_json=json_), as_json=json_)


def shares(
    *,
    out: RecoveryOut,
    token_file: RequiredTokenFile,
    url: Url = DEFAULT_URL,
    worker: PoolWorker = None,
    timeout: Timeout = 60.0,
    json_: Json = False,
) -> None:
    """For the operator: write a recovery file of what the pool holds now. It opens for the owners alone."""
    from avalon_sdk.cli import recovering

    run(
        lambda: recovering.fetch_shares(
            url, out=out, token_file=token_file, worker=worker, timeout=timeout, as_json=json_
        ),
        as_json=json_,
    )


def recover(
    recovery: RecoveryFile,
    *,
    out: RecoveryOut,
    token_file: RequiredTokenFile,
    url: Url = DEFAULT_URL,
    worker: PoolWorker = None,
    timeout: Timeout = 60.0,
    json_: Json = False,
) -> None:
    """For the operator: begin a recovery with a service that runs 'avalon up --pool --recover'.

    Writes the key for which the owners are to seal their shares, and the KME's evidence that it is its own.
    """
    from avalon_sdk.cli import recovering

    run(
        lambda: recovering.begin_recovery(
            url, recovery, out=out, token_file=token_file, worker=worker, timeout=timeout, as_json=json_
        ),
        as_json=json_,
    )


def hand_back(
    recovery: RecoveryFile,
    *,
    key: Annotated[
        Path,
        typer.Option(
            "--key",
            metavar="FILE",
            help="Your private key, of 'avalon pool recovery-key', readable by you alone.",
            show_default=False,
        ),
    ],
    kme: Annotated[
        Path,
        typer.Option(
            "--kme",
            metavar="FILE",
            help="The KME's key and evidence, of 'avalon pool recover'.",
            show_default=False,
        ),
    ],
    out: RecoveryOut,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            metavar="FILE",
            help="Your copy of the pool's first manifest: the KME must be one that it admits.",
        ),
    ] = None,
    change: Annotated[
        list[Path] | None,
        typer.Option(
            "--change",
            metavar="FILE",
            help="With --manifest: each change since then, in order. May be repeated.",
        ),
    ] = None,
    policy: PolicyOption = None,
    json_: Json = False,
) -> None:
    """For an owner: judge the KME's evidence; only if it passes, open your share and seal it to that KME.

    Where it does not pass, your key is not even read. Neither the key nor the share in the clear is written anywhere.
    """
    from avalon_sdk.cli import recovering

    run(
        lambda: recovering.hand_share_back(
            recovery,
            key=key,
            kme=kme,
            policy=policy,
            first_manifest=manifest,
            changes=tuple(change or ()),
            out=out,
            as_json=json_,
        ),
        as_json=json_,
    )


def return_(
    share: Annotated[
        Path,
        typer.Argument(metavar="SHARE", help="A share, of 'avalon pool hand-back'.", show_default=False),
    ],
    *,
    token_file: RequiredTokenFile,
    url: Url = DEFAULT_URL,
    worker: PoolWorker = None,
    timeout: Timeout = 60.0,
    json_: Json = False,
) -> None:
    """For the operator: hand in an owner's share. With enough of them the pool is back."""
    from avalon_sdk.cli import recovering

    run(
        lambda: recovering.return_share(
            url, share, token_file=token_file, worker=worker, timeout=timeout, as_json=json_
        ),
        as_json=json_,
    )
