"""``avalon order``, ``orders``, ``cancel`` and ``watch``: arguments and help. What they do is in
:mod:`avalon_sdk.cli.ordering`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from avalon_sdk.cli.exits import run
from avalon_sdk.cli.options import (
    EXIT_CODES,
    Json,
    KeptUrl,
    KeyFile,
    MeasurementOption,
    OrderArgument,
    PolicyOption,
    Timeout,
)

if TYPE_CHECKING:
    from avalon_sdk.cli.kept import Asked

_EXAMPLES = "[bold]Examples[/bold]\n\n"


def order(
    order: OrderArgument,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is finished.")] = False,
    url: KeptUrl = None,
    timeout: Timeout = 30.0,
    policy: PolicyOption = None,
    measurement: MeasurementOption = None,
    json_: Json = False,
) -> None:
    """Show an order: its state, and its verified result where the journal has its keys."""
    from avalon_sdk.cli.ordering import show_order

    asked = asked_of(order, url, policy, measurement, timeout, as_json=json_)
    run(lambda: show_order(asked, waits=wait), as_json=json_)


def orders(
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest so many.")] = 20,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Forget those that are finished, except results that nobody has opened."
        ),
    ] = False,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="For each order.")] = 5.0,
    json_: Json = False,
) -> None:
    """List the journal's orders, the newest first, with the states that they are in now."""
    from avalon_sdk.cli.ordering import list_orders

    run(lambda: list_orders(limit=limit, timeout=timeout, prune=prune, as_json=json_), as_json=json_)


def cancel(
    order: OrderArgument,
    *,
    key: KeyFile = None,
    # Not from the environment: who cancels as the operator means to.
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="As the operator: the file of the token."),
    ] = None,
    url: KeptUrl = None,
    timeout: Timeout = 30.0,
    policy: PolicyOption = None,
    measurement: MeasurementOption = None,
    json_: Json = False,
) -> None:
    """Withdraw an order of the journal that is not finished. One that was signed needs the same key. With --token-file:
    as the operator, anybody's order."""
    from avalon_sdk.cli.ordering import cancel_order

    asked = asked_of(order, url, policy, measurement, timeout, as_json=json_)
    run(lambda: cancel_order(asked, key=key, token_file=token_file), as_json=json_)


def watch(
    order: OrderArgument,
    *,
    url: KeptUrl = None,
    timeout: Timeout = 3600.0,
    policy: PolicyOption = None,
    measurement: MeasurementOption = None,
    json_: Json = False,
) -> None:
    """Print each state of an order as it comes, until it is finished; the exit code says how it ended."""
    from avalon_sdk.cli.ordering import watch_order

    asked = asked_of(order, url, policy, measurement, timeout, as_json=json_)
    run(lambda: watch_order(asked), as_json=json_)


def asked_of(
    order: str,
    url: str | None,
    policy: str | None,
    measurement: list[str] | None,
    timeout: float,
    *,
    as_json: bool,
) -> "Asked":
    """The arguments that commands about one order share."""
    from avalon_sdk.cli.kept import Asked

    return Asked(
        order=order,
        url=url,
        policy=policy,
        measurements=tuple(measurement or ()),
        timeout=timeout,
        as_json=as_json,
    )


def add_order_commands(app: typer.Typer) -> None:
    """Register the four commands."""
    for command, examples in (
        (order, "avalon order 4f2a91\n\navalon order 4f2a91 --wait --timeout 600 --json\n\n"),
        (orders, "avalon orders --limit 5\n\navalon orders --prune\n\n"),
        (cancel, "avalon cancel 4f2a91\n\navalon cancel 4f2a... --token-file operator-token\n\n"),
        (watch, "avalon watch 4f2a91 && avalon order 4f2a91\n\n"),
    ):
        app.command(epilog=_EXAMPLES + examples + EXIT_CODES)(command)
