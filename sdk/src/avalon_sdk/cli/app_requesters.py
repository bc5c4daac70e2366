"""``avalon requester``: arguments and help. What the commands do is in :mod:`avalon_sdk.cli.keys`."""

from pathlib import Path
from typing import Annotated

import typer

from avalon_sdk.cli.exits import run
from avalon_sdk.cli.options import DEFAULT_URL, EXIT_CODES, Json, RequiredTokenFile, Timeout, Url

_EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "avalon requester set-key 4f2a... --public-key requester.pem --token-file operator-token\n\n"
    "avalon requester show-key 4f2a... --token-file operator-token\n\n"
    "avalon requester remove-key 4f2a... --token-file operator-token\n\n"
)
_Requester = Annotated[
    str, typer.Argument(metavar="REQUESTER", help="The requester's id, hex.", show_default=False)
]

requester_app = typer.Typer(
    name="requester",
    help="For operators: the key with which a requester must sign its orders.",
    epilog=_EXAMPLES + EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@requester_app.command("set-key", epilog=_EXAMPLES + EXIT_CODES)
def set_key(
    requester: _Requester,
    *,
    public_key: Annotated[
        Path,
        typer.Option(
            "--public-key",
            metavar="FILE",
            help="The requester's secp256k1 public key in PEM.",
            show_default=False,
        ),
    ],
    token_file: RequiredTokenFile,
    url: Url = DEFAULT_URL,
    timeout: Timeout = 30.0,
    json_: Json = False,
) -> None:
    """Register a requester's key: from now on all of its orders must be signed with it."""
    from avalon_sdk.cli import keys

    run(
        lambda: keys.set_requester_key(
            url, requester, public_key=public_key, token_file=token_file, timeout=timeout, as_json=json_
        ),
        as_json=json_,
    )


@requester_app.command("remove-key", epilog=_EXAMPLES + EXIT_CODES)
def remove_key(
    requester: _Requester,
    *,
    token_file: RequiredTokenFile,
    url: Url = DEFAULT_URL,
    timeout: Timeout = 30.0,
    json_: Json = False,
) -> None:
    """Take a requester's key away: its orders need not be signed any more."""
    from avalon_sdk.cli import keys

    run(
        lambda: keys.set_requester_key(
            url, requester, public_key=None, token_file=token_file, timeout=timeout, as_json=json_
        ),
        as_json=json_,
    )


@requester_app.command("show-key", epilog=_EXAMPLES + EXIT_CODES)
def show_key(
    requester: _Requester,
    *,
    token_file: RequiredTokenFile,
    url: Url = DEFAULT_URL,
    timeout: Timeout = 30.0,
    json_: Json = False,
) -> None:
    """Print the key that is registered for a requester. Exit code 1 where there is none."""
    from avalon_sdk.cli import keys

    run(
        lambda: keys.show_requester_key(
            url, requester, token_file=token_file, timeout=timeout, as_json=json_
        ),
        as_json=json_,
    )
