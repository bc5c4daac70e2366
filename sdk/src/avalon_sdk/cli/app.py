"""The commands and their options. What they do is in a module each, imported when the command runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from avalon_core.errors import AvalonError
from avalon_sdk.cli.app_attest import attest_app
from avalon_sdk.cli.app_collateral import collateral_app
from avalon_sdk.cli.app_orders import add_order_commands
from avalon_sdk.cli.app_policy import policy_app
from avalon_sdk.cli.app_pool import pool_app
from avalon_sdk.cli.app_receipts import receipt_app
from avalon_sdk.cli.app_requesters import requester_app
from avalon_sdk.cli.app_simulator import simulator_app
from avalon_sdk.cli.app_workers import worker_app
from avalon_sdk.cli.exits import ExitCode, is_debugging, run, show_error
from avalon_sdk.cli.options import (
    DEFAULT_URL,
    EXIT_CODES,
    Json,
    KeyFile,
    MeasurementOption,
    PolicyOption,
    Timeout,
    Url,
)
from avalon_sdk.cli.plugins import add_plugins

_OWN_COMMANDS = (
    "submit",
    "order",
    "orders",
    "cancel",
    "watch",
    "receipt",
    "workers",
    "worker",
    "requester",
    "attest",
    "collateral",
    "policy",
    "simulator",
    "pool",
    "status",
    "doctor",
)

_EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "avalon submit echo-result hello [dim]# one order, one item[/dim]\n\n"
    "avalon workers --url https://tcs.example.com --policy trust.toml\n\n"
    "avalon doctor [dim]# what is wrong here?[/dim]\n\n"
)
_SUBMIT_EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "avalon submit echo-result hello world\n\n"
    "avalon submit heart-disease-eval @patients.txt --timeout 60\n\n"
    "cat text | avalon submit echo-result - --json\n\n"
    "avalon submit echo-result hello --url https://tcs.example.com --measurement 4f2a...\n\n"
    "id=$(avalon submit heart-disease-eval @patients.txt --no-wait) && avalon order $id --wait\n\n"
)

app = typer.Typer(
    name="avalon",
    help="Send confidential work to a worker whose evidence you checked.",
    epilog=_EXAMPLES + EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(*, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"avalon {version('avalon-sdk')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version.",
            is_eager=True,
            callback=lambda wanted: _show_version(wanted=wanted),
        ),
    ] = False,
) -> None:
    pass


@app.command(epilog=_SUBMIT_EXAMPLES + EXIT_CODES)
def submit(
    workload: Annotated[str, typer.Argument(help="Its name, for example echo-result.")],
    items: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ITEM]...",
            help="Inputs: a text, [bold]@path[/bold] for a file, [bold]-[/bold] for standard input, "
            "[bold]@@text[/bold] for a text that starts with @.",
        ),
    ] = None,
    *,
    url: Url = DEFAULT_URL,
    worker: Annotated[
        str | None, typer.Option("--worker", metavar="NAME", help="Default: the first that passes.")
    ] = None,
    suite: Annotated[
        str, typer.Option("--suite", help="~avalon-hpke-1, or of old: avalon, eea-1.1.")
    ] = "~avalon-hpke-1",
    timeout: Timeout = 30.0,
    no_wait: Annotated[
        bool,
        typer.Option(
            "--no-wait", help="Print the id and end; the order is kept in the journal for 'avalon order'."
        ),
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the order in the journal, before it is sent.")
    ] = False,
    key: KeyFile = None,
    requester: Annotated[
        str | None, typer.Option("--requester", metavar="HEX", help="Whose order it is. Default: random.")
    ] = None,
    result_uri: Annotated[
        str | None,
        typer.Option("--result-uri", metavar="URL", help="The service posts the sealed result there."),
    ] = None,
    notify_uri: Annotated[
        str | None,
        typer.Option("--notify-uri", metavar="URL", help="The service posts there when it is finished."),
    ] = None,
    policy: PolicyOption = None,
    measurement: MeasurementOption = None,
    json_: Json = False,
) -> None:
    """Seal an order to a worker, wait for its result, verify it and print it."""
    from avalon_sdk.cli.submitting import SubmitArguments, submit_order

    arguments = SubmitArguments(
        url=url,
        workload=workload,
        items=tuple(items or ()),
        worker=worker,
        suite=suite,
        timeout=timeout,
        policy=policy,
        measurements=tuple(measurement or ()),
        as_json=json_,
        waits=not no_wait,
        keeps=keep,
        key=key,
        requester_id=requester,
        result_uri=result_uri,
        notify_uri=notify_uri,
    )
    run(lambda: submit_order(arguments), as_json=json_)


add_order_commands(app)
app.add_typer(receipt_app)
app.add_typer(worker_app)
app.add_typer(attest_app)
app.add_typer(collateral_app)
app.add_typer(policy_app)
app.add_typer(simulator_app)
app.add_typer(requester_app)
app.add_typer(pool_app)


@app.command(epilog="[bold]Example[/bold]\n\navalon workers --json\n\n" + EXIT_CODES)
def workers(
    *,
    url: Url = DEFAULT_URL,
    timeout: Timeout = 30.0,
    policy: PolicyOption = None,
    measurement: MeasurementOption = None,
    json_: Json = False,
) -> None:
    """List the workers: status, evidence, suites and workloads."""
    from avalon_sdk.cli.listing import list_workers

    run(
        lambda: list_workers(url, policy, tuple(measurement or ()), timeout=timeout, as_json=json_),
        as_json=json_,
    )


@app.command(epilog="[bold]Example[/bold]\n\navalon status --url http://127.0.0.1:1947\n\n" + EXIT_CODES)
def status(
    *,
    url: Url = DEFAULT_URL,
    timeout: Timeout = 30.0,
    policy: PolicyOption = None,
    measurement: MeasurementOption = None,
    json_: Json = False,
) -> None:
    """Say whether the service is up and ready, and what its workers' evidence comes to."""
    from avalon_sdk.cli.state import show_status

    run(
        lambda: show_status(url, policy, tuple(measurement or ()), timeout=timeout, as_json=json_),
        as_json=json_,
    )


@app.command(epilog="[bold]Example[/bold]\n\navalon doctor || echo 'something is wrong'\n\n" + EXIT_CODES)
def doctor(
    *,
    url: Url = DEFAULT_URL,
    timeout: Timeout = 10.0,
    policy: PolicyOption = None,
    measurement: MeasurementOption = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", envvar="AVALON_DATA_DIR", help="Where a service here keeps its data."),
    ] = None,
    json_: Json = False,
) -> None:
    """Check this machine, the service and its workers, and say what to do about what is wrong."""
    from avalon_sdk.cli.doctor import examine

    run(
        lambda: examine(
            url, policy, tuple(measurement or ()), data_dir=data_dir, timeout=timeout, as_json=json_
        ),
        as_json=json_,
    )


def main() -> None:
    """The entry point of the ``avalon`` command."""
    try:
        for warning in add_plugins(app, _OWN_COMMANDS):
            typer.echo(f"warning: {warning}", err=True)
        app()
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except AvalonError as exc:
        if is_debugging():
            raise
        show_error(exc)
        sys.exit(ExitCode.FAILED)
    except Exception as exc:
        if is_debugging():
            raise
        show_error(
            RuntimeError(
                f"something that should not happen: {type(exc).__name__}: {exc}. This is a fault of ours: please "
                "report it with what AVALON_DEBUG=1 shows."
            )
        )
        sys.exit(ExitCode.FAILED)
