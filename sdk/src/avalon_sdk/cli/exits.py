"""Exit codes, which error gives which, and how an error is shown: one paragraph, never a traceback."""

import enum
import json
import logging
import os
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import typer

from avalon_core.errors import AvalonError
from avalon_sdk import errors


class ExitCode(enum.IntEnum):
    """What the command's exit code says."""

    OK = 0
    FAILED = 1
    """The order was refused or failed; a check of doctor failed."""

    USAGE = 2
    UNREACHABLE = 3
    """No service there, or not ready, or nobody takes orders."""

    UNTRUSTED = 4
    """The worker's evidence, a result, a receipt or a saved order is not acceptable."""

    TIMEOUT = 5
    COULD_NOT_CHECK = 6
    """Nothing speaks against the evidence, but a check could not be made, or no policy was given: not accepted."""

    INTERRUPTED = 130


_CODES: tuple[tuple[type[AvalonError], ExitCode], ...] = (
    (errors.BadRequest, ExitCode.USAGE),
    (errors.CannotConnect, ExitCode.UNREACHABLE),
    (errors.BadAnswer, ExitCode.UNREACHABLE),
    (errors.Busy, ExitCode.UNREACHABLE),
    (errors.NoSuchWorker, ExitCode.UNREACHABLE),
    (errors.UntrustedWorker, ExitCode.UNTRUSTED),
    (errors.ResultRefused, ExitCode.UNTRUSTED),
    (errors.ReceiptRefused, ExitCode.UNTRUSTED),
    (errors.KeyRefused, ExitCode.UNTRUSTED),
    (errors.SavedOrderRefused, ExitCode.UNTRUSTED),
    (errors.JournalUnusable, ExitCode.USAGE),
    (errors.ResultTimeout, ExitCode.TIMEOUT),
)


def is_debugging() -> bool:
    """AVALON_DEBUG=1: the user asked for tracebacks."""
    return os.environ.get("AVALON_DEBUG", "") not in ("", "0")


def exit_code_of(error: AvalonError) -> ExitCode:
    """The exit code for an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)


def show_error(error: Exception) -> None:
    """One paragraph on stderr."""
    from avalon_sdk.cli.output import complain

    complain(str(error))


def run(command: Callable[[], Awaitable[ExitCode]], *, as_json: bool = False) -> None:
    """Run an asynchronous command, and exit with its code or its error's."""
    import anyio

    from avalon_sdk.trust import SimulatedWorkerWarning

    # The command says SIMULATED in its own words.
    warnings.simplefilter("ignore", SimulatedWorkerWarning)
    logging.getLogger("avalon_sdk").addHandler(logging.NullHandler())
    try:
        code = anyio.run(command)
    except AvalonError as exc:
        if is_debugging():
            raise
        if as_json:
            typer.echo(json.dumps({"error": _as_json(exc)}))
        show_error(exc)
        code = exit_code_of(exc)
    raise typer.Exit(int(code))


def _as_json(error: AvalonError) -> dict[str, Any]:
    described: dict[str, Any] = {"kind": type(error).__name__, "message": error.message}
    if isinstance(error, errors.ServiceError):
        described["code"] = error.code
    if isinstance(error, errors.ResultTimeout):
        described["work_order_id"] = error.work_order_id
    return described
