"""``avalon receipt``: arguments and help. What the commands do is in :mod:`avalon_sdk.cli.receipts`."""

from typing import Annotated

import typer

from avalon_sdk.cli.app_orders import asked_of
from avalon_sdk.cli.exits import run
from avalon_sdk.cli.options import (
    DEFAULT_URL,
    EXIT_CODES,
    Json,
    KeptUrl,
    KeyFile,
    MeasurementOption,
    OrderArgument,
    PolicyOption,
    Timeout,
    Url,
)
from avalon_sdk.cli.options import RequiredKeyFile as Key

_EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "avalon receipt create 4f2a91 --key me.pem [dim]# an order of the journal[/dim]\n\n"
    "avalon receipt verify 4f2a91 --key me.pem\n\n"
    "avalon receipt update 4f2a91 completed --key me.pem [dim]# the result is accepted[/dim]\n\n"
    "avalon receipt list --status processed --json\n\n"
    "[bold]A key[/bold]  (umask 077; openssl ecparam -name secp256k1 -genkey -noout -out me.pem)\n\n"
)

receipt_app = typer.Typer(
    name="receipt",
    help="Create, show, verify and update receipts: signed words about an order.",
    epilog=_EXAMPLES + EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@receipt_app.command(epilog=_EXAMPLES + EXIT_CODES)
def create(
    order: OrderArgument,
    *,
    key: Key,
    service_id: Annotated[
        str | None,
        typer.Option("--service-id", metavar="HEX", help="For look-ups. Default: the worker's id."),
    ] = None,
    url: KeptUrl = None,
    timeout: Timeout = 30.0,
    policy: PolicyOption = None,
    measurement: MeasurementOption = None,
    json_: Json = False,
) -> None:
    """Create the receipt of an order of the journal. The worker adds its own word when the order is finished."""
    from avalon_sdk.cli import receipts

    asked = asked_of(order, url, policy, measurement, timeout, as_json=json_)
    run(lambda: receipts.create(asked, key=key, worker_service_id=service_id), as_json=json_)


@receipt_app.command(epilog=_EXAMPLES + EXIT_CODES)
def show(
    order: OrderArgument,
    *,
    key: KeyFile = None,
    url: KeptUrl = None,
    timeout: Timeout = 30.0,
    policy: PolicyOption = None,
    measurement: MeasurementOption = None,
    json_: Json = False,
) -> None:
    """Show a receipt and its updates, every signature verified. With a key: it must have signed the creation."""
    from avalon_sdk.cli import receipts

    asked = asked_of(order, url, policy, measurement, timeout, as_json=json_)
    run(lambda: receipts.display(asked, key=key), as_json=json_)


@receipt_app.command(epilog=_EXAMPLES + EXIT_CODES)
def verify(
    order: OrderArgument,
    *,
    key: KeyFile = None,
    url: KeptUrl = None,
    timeout: Timeout = 30.0,
    policy: PolicyOption = None,
    measurement: MeasurementOption = None,
    json_: Json = False,
) -> None:
    """Verify the order's result, and that the worker's own word in the receipt names that very result."""
    from avalon_sdk.cli import receipts

    asked = asked_of(order, url, policy, measurement, timeout, as_json=json_)
    run(lambda: receipts.verify(asked, key=key), as_json=json_)


@receipt_app.command(epilog=_EXAMPLES + EXIT_CODES)
def update(
    order: OrderArgument,
    kind: Annotated[
        str,
        typer.Argument(metavar="TYPE", help="completed, rejected, ... or a number above 255 of your own."),
    ],
    *,
    key: Key,
    data: Annotated[
        str | None, typer.Option("--data", help="Default: the hash of the result, where the type names one.")
    ] = None,
    url: KeptUrl = None,
    timeout: Timeout = 30.0,
    policy: PolicyOption = None,
    measurement: MeasurementOption = None,
    json_: Json = False,
) -> None:
    """Add a signed update as the order's requester."""
    from avalon_sdk.cli import receipts

    asked = asked_of(order, url, policy, measurement, timeout, as_json=json_)
    run(lambda: receipts.update(asked, key=key, kind=kind, data=data), as_json=json_)


@receipt_app.command("list", epilog=_EXAMPLES + EXIT_CODES)
def list_(
    *,
    worker: Annotated[str | None, typer.Option("--worker-id", metavar="HEX")] = None,
    requester: Annotated[str | None, typer.Option("--requester", metavar="HEX")] = None,
    service_id: Annotated[str | None, typer.Option("--service-id", metavar="HEX")] = None,
    status: Annotated[
        str | None, typer.Option("--status", help="pending, processed, completed, failed, rejected.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1)] = 100,
    url: Url = DEFAULT_URL,
    timeout: Timeout = 30.0,
    json_: Json = False,
) -> None:
    """List the orders that have a matching receipt, by the service's word."""
    from avalon_sdk.cli import receipts

    run(
        lambda: receipts.look_up(
            url,
            worker_id=worker,
            requester_id=requester,
            worker_service_id=service_id,
            status=status,
            limit=limit,
            timeout=timeout,
            as_json=json_,
        ),
        as_json=json_,
    )
