"""``avalon pool``: arguments and help of what operators do with a running pool. What the commands do is in
:mod:`avalon_sdk.cli.pooling`; the commands of owners are in :mod:`avalon_sdk.cli.app_manifest`, those of recovery in
:mod:`avalon_sdk.cli.app_recovery`."""

from pathlib import Path
from typing import Annotated

import typer

from avalon_sdk.cli.app_manifest import add_manifest_commands
from avalon_sdk.cli.app_recovery import add_recovery_commands
from avalon_sdk.cli.exits import run
from avalon_sdk.cli.options import DEFAULT_URL, EXIT_CODES, Json, PoolWorker, RequiredTokenFile, Timeout, Url

_EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "avalon pool status --token-file operator-token\n\n"
    "avalon pool amend first.json --add-wpe 4f2a... --out change.json && avalon pool sign change.json --key alice.pem\n\n"
    "avalon pool change change.json --token-file operator-token\n\n"
    "avalon pool shares --out recovery.json --token-file operator-token\n\n"
)

pool_app = typer.Typer(
    name="pool",
    help="Look after a pool of enclaves: as its operator, and as one of its owners.",
    epilog=_EXAMPLES + EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@pool_app.command(
    epilog="[bold]Example[/bold]\n\navalon pool status --json --token-file operator-token\n\n"
    "[bold]Exit codes[/bold]  0 it serves, or drains as it was told · 1 there is no pool, or the token is refused · "
    "2 usage · 3 cannot connect, or it does not serve"
)
def status(
    *,
    token_file: RequiredTokenFile,
    url: Url = DEFAULT_URL,
    worker: PoolWorker = None,
    timeout: Timeout = 30.0,
    json_: Json = False,
) -> None:
    """Show every KME and WPE, the epochs of keys, the manifest in force, and alarms."""
    from avalon_sdk.cli import pooling

    run(
        lambda: pooling.show_status(
            url, token_file=token_file, worker=worker, timeout=timeout, as_json=json_
        ),
        as_json=json_,
    )


@pool_app.command(
    epilog="[bold]Example[/bold]\n\navalon pool rotate --token-file operator-token\n\n" + EXIT_CODES
)
def rotate(
    *,
    token_file: RequiredTokenFile,
    url: Url = DEFAULT_URL,
    worker: PoolWorker = None,
    timeout: Timeout = 60.0,
    json_: Json = False,
) -> None:
    """Make new encryption keys. Orders sealed to the ones before still open for the manifest's overlap."""
    from avalon_sdk.cli import pooling

    run(
        lambda: pooling.rotate(url, token_file=token_file, worker=worker, timeout=timeout, as_json=json_),
        as_json=json_,
    )


@pool_app.command(
    epilog="[bold]Example[/bold]\n\navalon pool drain --token-file operator-token\n\n" + EXIT_CODES
)
def drain(
    *,
    token_file: RequiredTokenFile,
    url: Url = DEFAULT_URL,
    worker: PoolWorker = None,
    timeout: Timeout = 30.0,
    json_: Json = False,
) -> None:
    """Claim no more orders and finish what is in hand, before the service is stopped."""
    from avalon_sdk.cli import pooling

    run(
        lambda: pooling.drain(url, token_file=token_file, worker=worker, timeout=timeout, as_json=json_),
        as_json=json_,
    )


@pool_app.command(
    epilog="[bold]Example[/bold]\n\navalon pool change change.json --token-file operator-token\n\n"
    + EXIT_CODES
)
def change(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A change that a quorum of the owners has signed.", show_default=False
        ),
    ],
    *,
    token_file: RequiredTokenFile,
    url: Url = DEFAULT_URL,
    worker: PoolWorker = None,
    timeout: Timeout = 60.0,
    json_: Json = False,
) -> None:
    """Hand a change of the manifest to the pool, which takes it only if its owners have signed it."""
    from avalon_sdk.cli import pooling

    run(
        lambda: pooling.change(
            url, file, token_file=token_file, worker=worker, timeout=timeout, as_json=json_
        ),
        as_json=json_,
    )


add_manifest_commands(pool_app)
add_recovery_commands(pool_app)
