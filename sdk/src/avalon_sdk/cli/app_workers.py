"""``avalon worker``: arguments and help. What the commands do is in :mod:`avalon_sdk.cli.directory`."""

from pathlib import Path
from typing import Annotated

import typer

from avalon_sdk.cli.exits import run
from avalon_sdk.cli.options import (
    DEFAULT_URL,
    EXIT_CODES,
    Json,
    KeyFile,
    MeasurementOption,
    PolicyOption,
    RequiredKeyFile,
    Timeout,
    TokenFileOption,
    Url,
)

_EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "avalon worker show singleton-worker-1 --policy trust.toml\n\n"
    "avalon worker set-status singleton-worker-1 off-line --token-file ~/.local/share/avalon/operator-token\n\n"
    "avalon worker register my-worker --details details.json --key worker.pem\n\n"
    "avalon worker push-key my-worker --encryption-key rsa.pem --key worker.pem\n\n"
)
_WorkerArgument = Annotated[
    str, typer.Argument(metavar="WORKER", help="Its name, or its id of 64 hex digits.", show_default=False)
]

worker_app = typer.Typer(
    name="worker",
    help="One worker: its evidence check by check; for operators, writes to the directory.",
    epilog=_EXAMPLES + EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@worker_app.command(epilog=_EXAMPLES + EXIT_CODES)
def show(
    worker: Annotated[
        str | None,
        typer.Argument(
            metavar="[WORKER]", help="Its name, or its id. Default: the first.", show_default=False
        ),
    ] = None,
    *,
    url: Url = DEFAULT_URL,
    timeout: Timeout = 30.0,
    policy: PolicyOption = None,
    measurement: MeasurementOption = None,
    json_: Json = False,
) -> None:
    """Show a worker and every check of its evidence: expected, found, remedy. Exit code 4 where it is not trusted."""
    from avalon_sdk.cli.directory import show_one

    run(
        lambda: show_one(url, worker, policy, tuple(measurement or ()), timeout=timeout, as_json=json_),
        as_json=json_,
    )


@worker_app.command(epilog=_EXAMPLES + EXIT_CODES)
def register(
    worker: _WorkerArgument,
    *,
    details: Annotated[
        Path,
        typer.Option("--details", metavar="FILE", help="The worker's details: keys and evidence, as JSON."),
    ],
    worker_type: Annotated[int, typer.Option("--type", min=1, max=3, help="1 TEE, 2 MPC, 3 ZK.")] = 1,
    organization: Annotated[str, typer.Option("--organization", metavar="HEX")] = "",
    application_type: Annotated[
        list[str] | None, typer.Option("--application-type", metavar="HEX", help="May be repeated.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the details of a worker that is registered.")
    ] = False,
    token_file: TokenFileOption = None,
    key: KeyFile = None,
    url: Url = DEFAULT_URL,
    timeout: Timeout = 30.0,
    json_: Json = False,
) -> None:
    """Add a worker to the service's directory, as the operator or with the worker's own key."""
    from avalon_sdk.cli import directory

    run(
        lambda: directory.register(
            url,
            worker,
            details=details,
            worker_type=worker_type,
            organization_id=organization,
            application_type_ids=tuple(application_type or ()),
            token_file=token_file,
            key=key,
            replace=replace,
            timeout=timeout,
            as_json=json_,
        ),
        as_json=json_,
    )


@worker_app.command("set-status", epilog=_EXAMPLES + EXIT_CODES)
def set_status(
    worker: _WorkerArgument,
    status: Annotated[
        str, typer.Argument(metavar="STATUS", help="active, off-line, decommissioned or compromised.")
    ],
    *,
    token_file: TokenFileOption = None,
    key: KeyFile = None,
    url: Url = DEFAULT_URL,
    timeout: Timeout = 30.0,
    json_: Json = False,
) -> None:
    """Change a worker's status, as the operator or with the worker's own key."""
    from avalon_sdk.cli import directory

    run(
        lambda: directory.set_status(
            url, worker, status, token_file=token_file, key=key, timeout=timeout, as_json=json_
        ),
        as_json=json_,
    )


@worker_app.command("push-key", epilog=_EXAMPLES + EXIT_CODES)
def push_key(
    worker: _WorkerArgument,
    *,
    encryption_key: Annotated[
        Path,
        typer.Option(
            "--encryption-key", metavar="FILE", help="An RSA public key in PEM.", show_default=False
        ),
    ],
    key: RequiredKeyFile,
    tag: Annotated[
        str, typer.Option("--tag", metavar="HEX", help="The requester whom it is for. Default: for all.")
    ] = "",
    url: Url = DEFAULT_URL,
    timeout: Timeout = 30.0,
    json_: Json = False,
) -> None:
    """Have the service give out a key of a worker that is registered there and runs elsewhere."""
    from avalon_sdk.cli import keys

    run(
        lambda: keys.push_key(
            url, worker, encryption_key=encryption_key, key=key, tag=tag, timeout=timeout, as_json=json_
        ),
        as_json=json_,
    )
