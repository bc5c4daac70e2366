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
    show_json,
    show_output,
)
from avalon_sdk.cli.trusting import open_client
from avalon_sdk.errors import BadRequest
from avalon_sdk.orders import MAX_ITEM_BYTES, OrderOutcome
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


async def submit_order(arguments: SubmitArguments) -> ExitCode:
    """Run one order and print its outputs."""
    inputs = read_items(arguments.items)
    async with open_client(arguments.url, arguments.policy, arguments.measurements) as client:
        with _progress() as observer:
            outcome = await client.run(
                arguments.workload,
                inputs,
                worker=arguments.worker,
                suite=arguments.suite,
                timeout=arguments.timeout,
                on_progress=observer,
            )
    if arguments.as_json:
        show_json(_as_json(outcome))
    else:
        for index, data in enumerate(outcome.items):
            show_output(index, data)
    return ExitCode.OK


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
def _progress() -> Iterator[Observer]:
    """Tells each step on a terminal; elsewhere only what must not be missed."""
    console = errors_console()
    if not console.is_terminal:
        yield _tell_simulated
        return
    with console.status("checking the worker") as status:

        def tell(progress: Progress) -> None:
            _tell_step(console, progress)
            waits = progress.step is Step.SUBMITTED
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


def _as_json(outcome: OrderOutcome) -> dict[str, object]:
    return {
        "work_order_id": outcome.work_order_id,
        "worker_id": outcome.worker_id,
        "simulated": outcome.simulated,
        "suite": outcome.suite,
        "outputs": [output_as_json(index, data) for index, data in enumerate(outcome.items)],
        "sizes": asdict(outcome.sizes),
    }
