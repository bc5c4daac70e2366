"""``avalon submit``."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from avalon_sdk.cli.exits import ExitCode
from avalon_sdk.cli.output import (
    SIMULATED_NOTE,
    errors_console,
    output_as_json,
    printable,
    remark,
    show,
    show_json,
    show_output,
)
from avalon_sdk.cli.trusting import open_client, read_key
from avalon_sdk.errors import BadRequest, OrderFailed, OrderRefused
from avalon_sdk.journal import OrderJournal
from avalon_sdk.orders import OrderHandle, OrderOutcome
from avalon_sdk.planning import MAX_ITEM_BYTES, OrderOptions
from avalon_sdk.progress import Observer, Progress, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitArguments:
    """The command's arguments as they were given."""

    url: str
    workload: str
    items: Sequence[str]
    worker: str | None
    suite: str
    timeout: float
    policy: str | None
    measurements: Sequence[str]
    as_json: bool
    waits: bool = True
    keeps: bool = False
    key: Path | None = None
    requester_id: str | None = None
    result_uri: str | None = None
    notify_uri: str | None = None


async def submit_order(arguments: SubmitArguments) -> ExitCode:
    """Run one order and print its outputs; or hand it over, keep it, and print its id."""
    inputs = read_items(arguments.items)
    journal = OrderJournal() if arguments.keeps or not arguments.waits else None
    options: OrderOptions = {
        "worker": arguments.worker,
        "suite": arguments.suite,
        "timeout": arguments.timeout,
        "journal": journal,
        "signer": read_key(arguments.key) if arguments.key is not None else None,
        "result_uri": arguments.result_uri,
        "notify_uri": arguments.notify_uri,
    }
    async with open_client(
        arguments.url, arguments.policy, arguments.measurements, requester_id=arguments.requester_id
    ) as client:
        with progress() as observer:
            options["on_progress"] = observer
            handle = await client.submit(arguments.workload, inputs, **options)
            if not arguments.waits:
                _show_handed_over(handle, arguments)
                return ExitCode.OK
            outcome = await _outcome(handle, journal, arguments.timeout)
    show_outcome(outcome, as_json=arguments.as_json)
    return ExitCode.OK


async def _outcome(handle: OrderHandle, journal: OrderJournal | None, timeout: float) -> OrderOutcome:
    try:
        outcome = await handle.result(timeout)
    except (OrderFailed, OrderRefused):
        if journal is not None:
            handle.keep_in(journal, state="failed")
        raise
    if journal is not None:
        handle.keep_in(journal, state="completed")
    return outcome


def _show_handed_over(handle: OrderHandle, arguments: SubmitArguments) -> None:
    if arguments.as_json:
        show_json(
            {
                "work_order_id": handle.work_order_id,
                "worker_id": handle.worker.worker_id,
                "simulated": handle.worker.simulated,
                "mode": handle.worker.mode,
                "suite": handle.suite,
            }
        )
    else:
        show(handle.work_order_id)


def show_outcome(outcome: OrderOutcome, *, as_json: bool) -> None:
    """The outputs of a verified result."""
    if as_json:
        show_json(outcome_as_json(outcome))
        return
    for index, data in enumerate(outcome.items):
        show_output(index, data)


def read_items(items: Sequence[str]) -> list[str | bytes]:
    """Each ITEM as what it stands for: a text, a file, or standard input.

    Raises:
        BadRequest: a file that cannot be read or is too large; standard input twice.
    """
    if items.count("-") > 1:
        raise BadRequest("ITEM: '-' stands for standard input, which can be read once: got it twice")
    return [_read_item(item) for item in items]


def _read_item(item: str) -> str | bytes:
    if item == "-":
        return _within_cap("standard input", sys.stdin.buffer.read(MAX_ITEM_BYTES + 1))
    if item.startswith("@@"):
        return item[1:]
    if not item.startswith("@"):
        return item
    path = Path(item[1:])
    try:
        with path.open("rb") as file:
            return _within_cap(str(path), file.read(MAX_ITEM_BYTES + 1))
    except OSError as exc:
        raise BadRequest(
            f"ITEM: the file {path} cannot be read: {exc.strerror}. A text that starts with @ is written @@text."
        ) from exc


def _within_cap(what: str, data: bytes) -> bytes:
    if len(data) > MAX_ITEM_BYTES:
        raise BadRequest(f"ITEM: {what} has more than {MAX_ITEM_BYTES} bytes: split it")
    return data


@contextmanager
def progress() -> Iterator[Observer]:
    """Tells each step on a terminal; elsewhere only what must not be missed."""
    console = errors_console()
    if not console.is_terminal:
        yield _tell_simulated
        return
    with console.status("checking the worker") as status:

        def tell(progress: Progress) -> None:
            _tell_step(console, progress)
            waits = progress.step in (Step.SUBMITTED, Step.SCHEDULED, Step.PROCESSING, Step.PUT_BACK)
            status.update("waiting for the result" if waits else str(progress.step))

        yield tell


def _tell_step(console: Console, progress: Progress) -> None:
    _tell_simulated(progress)
    line = Text(f"{progress.step!s:<15}", style="green")
    line.append(printable(progress.detail), style="default")
    console.print(line)


def _tell_simulated(progress: Progress) -> None:
    if progress.step is Step.WORKER_CHECKED and progress.simulated:
        remark(SIMULATED_NOTE)


def outcome_as_json(outcome: OrderOutcome) -> dict[str, object]:
    """The same for tools."""
    return {
        "work_order_id": outcome.work_order_id,
        "worker_id": outcome.worker_id,
        "simulated": outcome.simulated,
        "mode": outcome.mode,
        "suite": outcome.suite,
        "outputs": [output_as_json(index, data) for index, data in enumerate(outcome.items)],
        "sizes": asdict(outcome.sizes),
    }
