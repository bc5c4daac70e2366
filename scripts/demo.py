"""``make demo``: start a service, have its enclave process two orders, stop everything. Each step as it happens.

The enclave is SIMULATED: everything runs as it would in a TEE, and no hardware protects it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from rich.console import Console

from avalon_sdk import AvalonClient, OrderOutcome, Progress, SimulatedWorkerWarning, Step

AVALON = Path(sys.executable).parent / "avalon"
START_SECONDS = 60.0
ORDER_SECONDS = 60.0
HEART_DATA = "Data: 25 10 1 67 102 125 1 95 5 10 1 11 36 1"

console = Console(highlight=False)


@contextmanager
def step(doing: str) -> Iterator[list[str]]:
    """Show what is being waited for, then that it is done, how long it took, and what was appended to the list."""
    began = time.monotonic()
    details: list[str] = []
    if console.is_terminal:
        with console.status(f"{doing} …"):
            yield details
    else:
        console.print(f"   {doing} …")
        yield details
    console.print(f"[green]✓[/green]  {doing} [dim]({time.monotonic() - began:.2f} s)[/dim]", soft_wrap=True)
    for detail in details:
        console.print(f"   {detail}", soft_wrap=True)


@asynccontextmanager
async def running_service(directory: Path) -> AsyncIterator[str]:
    """A service on a free port; its address. Its log is shown where it does not start."""
    log_path = directory / "service.log"
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            AVALON,
            "up",
            "--port",
            "0",
            "--data-dir",
            directory / "data",
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            stdin=asyncio.subprocess.DEVNULL,
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            line = (await process.stdout.readline()).decode()
        if not line.startswith("avalon ready"):
            raise SystemExit(f"The service did not start. It said:\n{log_path.read_text()}")
        yield line.split()[2]
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


def show(progress: Progress) -> None:
    """One line a step of an order."""
    words = {
        Step.WORKER_CHECKED: "worker record retrieved and its evidence checked",
        Step.SEALED: "order sealed",
        Step.SUBMITTED: "submitted",
        Step.EXECUTED: "executed in the enclave",
        Step.VERIFIED: "result verified and decrypted",
    }
    mark = (
        "  [bold yellow]SIMULATED[/bold yellow]"
        if progress.simulated and progress.step is Step.WORKER_CHECKED
        else ""
    )
    console.print(
        f"   [green]✓[/green] {words.get(progress.step, progress.step)}: {progress.detail}{mark}",
        soft_wrap=True,
    )


async def order(client: AvalonClient, title: str, workload: str, items: list[str]) -> OrderOutcome:
    console.print(f"\n[bold]{title}[/bold]")
    for item in items:
        console.print(f"   input:  {item}", soft_wrap=True)
    outcome = await client.run(workload, items, timeout=ORDER_SECONDS, on_progress=show)
    for text in outcome.texts():
        console.print(f"   output: [bold]{text}[/bold]", soft_wrap=True)
    return outcome


def require(outcome: OrderOutcome, texts: list[str]) -> None:
    """The demo is a check, too."""
    if outcome.texts() != texts:
        raise SystemExit(f"the answer is wrong: got {outcome.texts()}, expected {texts}")


async def demo(directory: Path) -> None:
    console.print("[bold]Avalon: a work order from a requester to an attested worker and back[/bold]")
    console.print(
        "[bold yellow]SIMULATED[/bold yellow]: the enclave below is an ordinary process. "
        "All messages are as in a real TEE; no hardware protects them.\n",
        soft_wrap=True,
    )
    async with AsyncExitStack() as stack:
        with step("starting the service and its enclave (SIMULATED), which makes its keys") as said:
            url = await stack.enter_async_context(running_service(directory))
            said.append(f"listening on {url}, orders are kept in SQLite, the enclave is a process of its own")
        async with AvalonClient(url) as client:
            heart = await order(client, "Heart disease evaluation", "heart-disease-eval", [HEART_DATA])
            require(heart, ["You have a 47% risk of heart disease"])
            echo = await order(client, "Echo of three items", "echo-result", ["one", "two", "three"])
            require(echo, ["RESULT: one", "RESULT: two", "RESULT: three"])
        console.print()
        with step("stopping the service and its enclave"):
            await stack.aclose()
    console.print(
        "\nNext, in one terminal:\n"
        "   .venv/bin/avalon up\n"
        "and in another:\n"
        f'   .venv/bin/avalon submit heart-disease-eval "{HEART_DATA}"\n'
        "   .venv/bin/avalon workers\n"
        "   .venv/bin/avalon --help\n",
        soft_wrap=True,
    )


def main() -> None:
    # The demo says SIMULATED in its own words.
    warnings.simplefilter("ignore", SimulatedWorkerWarning)
    os.environ.pop("AVALON_URL", None)
    with tempfile.TemporaryDirectory(prefix="avalon-demo-") as directory:
        try:
            asyncio.run(demo(Path(directory)))
        except KeyboardInterrupt:
            raise SystemExit(130) from None


if __name__ == "__main__":
    main()
