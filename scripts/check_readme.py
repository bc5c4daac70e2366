"""Run the commands that README.md shows, in a fresh copy of the repository, and compare what they print.

Every block marked ``console`` is run; what is not to be run is written as another kind of block (``sh``, ``text``).
In a block, lines after ``$ `` are commands (continued by a backslash and ``> ``) and the lines that follow are what
the command prints, standard error included. ``...`` stands for anything, on a line of its own for any lines.
Commands run one by one in the root of the copy, so a ``cd`` has no effect and is refused; each must succeed.

A comment on the line before a block says what a reader need not see, as clauses separated by semicolons:

    <!-- check: background; with --port {port} --data-dir {data} -->

``background``  the block's one command stays. It must print what is shown within a minute; then the next block runs. When
                all are done it gets what Ctrl-C sends, and must end in good time.
``with ...``    arguments that are added to each command of the block. ``{port}`` is a free port, ``{data}`` an empty folder.
                Where the README shows the default port, the free one is expected.
``fails``       each command of the block must fail.

At the end no process may be left over. Without a single command to check, the check fails.
"""

import argparse
import contextlib
import ctypes
import difflib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_PORT = "1947"

COMMAND_SECONDS = 600.0
"""A set-up over a slow line is the longest thing that a README asks for."""

READY_SECONDS = 60.0
STOP_SECONDS = 20.0

_NOT_COPIED = {".git", ".venv", "__pycache__", "build", "dist"}
_PR_SET_CHILD_SUBREAPER = 36
_FENCE = re.compile(r"^(?P<fence>```+)(?P<kind>[\w-]*)\s*$")
_COMMENT = re.compile(r"^<!--\s*check:(?P<clauses>.*?)-->\s*$")


class CheckFailed(Exception):
    """The README and the repository disagree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command with what it is to print."""

    line: int
    text: str
    expected: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One console block."""

    line: int
    commands: Sequence[Command]
    background: bool = False
    fails: bool = False
    arguments: str = ""


@dataclass(kw_only=True)
class Running:
    """A background command that has said that it is ready."""

    command: Command
    process: "subprocess.Popen[bytes]"
    output: Path


@dataclass(kw_only=True)
class Stage:
    """Where the commands run."""

    root: Path
    scratch: Path
    port: int
    running: list[Running] = field(default_factory=list)

    def fill_in(self, text: str) -> str:
        return text.replace("{port}", str(self.port)).replace("{data}", str(self.scratch / "data"))


def parse(readme: str) -> list[Block]:
    """The console blocks of a README.

    Raises:
        CheckFailed: a block that cannot be understood.
    """
    blocks: list[Block] = []
    fence, kind, opened, clauses, body = "", "", 0, "", list[str]()
    previous = ""
    for number, line in enumerate(readme.splitlines(), start=1):
        match = _FENCE.match(line)
        if not fence and match:
            fence, kind, opened, body = match["fence"], match["kind"], number, []
            comment = _COMMENT.match(previous)
            clauses = comment["clauses"] if comment else ""
            if comment and kind != "console":
                raise CheckFailed(f"line {number}: a check comment belongs to a console block, got {kind!r}")
        elif fence and line.rstrip() == fence:
            if kind == "console":
                blocks.append(_parse_block(opened, body, clauses))
            fence = ""
        elif fence:
            body.append(line.rstrip())
        previous = line
    if fence:
        raise CheckFailed(f"line {opened}: the block is never closed")
    return blocks


def _parse_block(opened: int, body: Sequence[str], clauses: str) -> Block:
    commands: list[Command] = []
    text, start, expected = "", 0, list[str]()

    def finish() -> None:
        if text:
            commands.append(Command(line=start, text=text, expected=tuple(_without_blank_ends(expected))))

    for number, line in enumerate(body, start=opened + 1):
        if line.startswith("$ "):
            finish()
            text, start, expected = line.removeprefix("$ "), number, []
        elif text.endswith("\\") and line.startswith("> ") and not expected:
            text += "\n" + line.removeprefix("> ")
        elif text:
            expected.append(line)
        elif line:
            raise CheckFailed(f"line {number}: output before any command; a command starts with '$ '")
    finish()
    if not commands:
        raise CheckFailed(
            f"line {opened}: a console block without a command; if it is not to be run, call it text"
        )
    for command in commands:
        if re.match(r"cd\b", command.text):
            raise CheckFailed(
                f"line {command.line}: each command runs in the root of the copy; 'cd' has no effect"
            )
    return _with_clauses(Block(line=opened, commands=commands), clauses)


def _with_clauses(block: Block, clauses: str) -> Block:
    background, fails, arguments = False, False, ""
    for clause in filter(None, (part.strip() for part in clauses.split(";"))):
        if clause == "background":
            background = True
        elif clause == "fails":
            fails = True
        elif clause.startswith("with "):
            arguments = clause.removeprefix("with ")
        else:
            raise CheckFailed(
                f"line {block.line}: got the clause {clause!r}, expected 'background', 'fails' or 'with ...'"
            )
    if background and (len(block.commands) != 1 or not block.commands[0].expected):
        raise CheckFailed(
            f"line {block.line}: a background block has one command and shows what it prints when ready"
        )
    return Block(
        line=block.line, commands=block.commands, background=background, fails=fails, arguments=arguments
    )


def _without_blank_ends(lines: Sequence[str]) -> Sequence[str]:
    return "\n".join(lines).strip("\n").split("\n") if any(lines) else ()


def pattern_of(expected: Sequence[str]) -> str:
    """A regular expression for lines in which ``...`` stands for anything."""
    parts: list[str] = []
    for line in expected:
        if line.strip() == "...":
            parts.append(r"(?:[^\n]*\n)*?")
        else:
            parts.append(r"[^\n]*?".join(re.escape(piece) for piece in line.split("...")) + r"[ \t]*\n")
    return "".join(parts)


def check(readme: Path, source: Path, *, reuse_venv: bool) -> int:
    """Check a README against a source tree; the number of commands that were run.

    Raises:
        CheckFailed
    """
    blocks = parse(readme.read_text(encoding="utf-8"))
    count = sum(len(block.commands) for block in blocks)
    if not count:
        raise CheckFailed(f"{readme.name} has no console block: nothing was checked")
    _adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="avalon-readme-") as folder:
        scratch = Path(folder).resolve()
        stage = Stage(root=scratch / "avalon", scratch=scratch, port=_free_port())
        _copy(source, stage.root, reuse_venv=reuse_venv)
        try:
            for block in blocks:
                for command in block.commands:
                    _run(command, block, stage)
            for running in reversed(stage.running):
                _stop(running)
            stage.running.clear()
        finally:
            left = _end_all(stage)
        if left:
            raise CheckFailed(f"processes were left over and had to be ended: {', '.join(left)}")
    return count


def _run(command: Command, block: Block, stage: Stage) -> None:
    text = stage.fill_in(" ".join(filter(None, (command.text, block.arguments))))
    expected = [re.sub(rf"\b{DEFAULT_PORT}\b", str(stage.port), line) for line in command.expected]
    print(f"line {command.line}: $ {command.text}", flush=True)
    output = stage.scratch / f"output-{command.line}"
    with output.open("wb") as sink:
        process = subprocess.Popen(
            ["bash", "-c", text],
            cwd=stage.root,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Running(command=command, process=process, output=output)
    stage.running.append(running)
    if block.background:
        _await_ready(running, expected)
        return
    try:
        status = process.wait(COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        raise CheckFailed(
            f"line {command.line}: no end after {COMMAND_SECONDS:.0f} s\n{_printed(output)}"
        ) from None
    stage.running.remove(running)
    if (status != 0) is not block.fails:
        wanted = "a failure" if block.fails else "success"
        raise CheckFailed(
            f"line {command.line}: ended with status {status}, expected {wanted}\n{_printed(output)}"
        )
    if not re.fullmatch(pattern_of(expected), _printed(output)):
        raise CheckFailed(f"line {command.line}: printed something else\n{_difference(expected, output)}")


def _await_ready(running: Running, expected: Sequence[str]) -> None:
    pattern = re.compile(pattern_of(expected))
    line = running.command.line
    give_up = time.monotonic() + READY_SECONDS
    while True:
        status = running.process.poll()
        if pattern.match(_printed(running.output)):
            return
        if status is not None:
            difference = _difference(expected, running.output)
            raise CheckFailed(f"line {line}: ended with status {status} instead of staying\n{difference}")
        if time.monotonic() > give_up:
            difference = _difference(expected, running.output)
            raise CheckFailed(f"line {line}: did not print this in {READY_SECONDS:.0f} s\n{difference}")
        time.sleep(0.05)


def _stop(running: Running) -> None:
    """What Ctrl-C does: SIGINT to the command and everything that it started in its group."""
    line = running.command.line
    if running.process.poll() is not None:
        raise CheckFailed(f"line {line}: ended before it was stopped\n{_printed(running.output)}")
    os.killpg(running.process.pid, signal.SIGINT)
    try:
        status = running.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        raise CheckFailed(
            f"line {line}: still there {STOP_SECONDS:.0f} s after Ctrl-C\n{_printed(running.output)}"
        ) from None
    if status not in (0, 130, -signal.SIGINT):
        raise CheckFailed(f"line {line}: ended with status {status} after Ctrl-C\n{_printed(running.output)}")


def _end_all(stage: Stage) -> list[str]:
    """End whatever the commands left: their groups, then orphans. Only orphans are reported."""
    for running in stage.running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()
    left: list[str] = []
    grace = time.monotonic() + 2
    while orphans := list(_orphans()):
        if time.monotonic() > grace:
            for pid, name in orphans:
                left.append(f"{name} ({pid})")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    return left


def _adopt_orphans() -> None:
    """Become the parent of every process whose parent ends, so that none can be lost from sight (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _orphans() -> Iterator[tuple[int, str]]:
    """Our children that still run, once those that have ended are reaped (Linux; elsewhere none)."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            head, _, rest = stat.read_text().rpartition(")")
            state, parent = rest.split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                yield int(head.split()[0]), head.partition("(")[2]


def _copy(source: Path, target: Path, *, reuse_venv: bool) -> None:
    for name in _files(source):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, path, follow_symlinks=False)
    if reuse_venv:
        (target / ".venv").symlink_to(source / ".venv")


def _files(source: Path) -> Iterator[Path]:
    """What a clone of the present state would hold."""
    if (source / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=source,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        names = (Path(name) for name in listed.split("\0") if name)
        yield from (name for name in names if (source / name).exists())
        return
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_file() and not any(part in _NOT_COPIED or part.endswith("_cache") for part in name.parts):
            yield name


def _environment() -> dict[str, str]:
    """The caller's, without what could make a command behave otherwise than for a newcomer."""
    unwanted = ("AVALON_", "PYTHON", "MAKE", "MFLAGS", "PYTEST", "VIRTUAL_ENV", "CI")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return {**kept, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "120", "LC_ALL": "C.UTF-8"}


def _printed(output: Path) -> str:
    text = output.read_text(encoding="utf-8", errors="replace").strip("\n")
    return text + "\n" if text else ""


def _difference(expected: Sequence[str], output: Path) -> str:
    lines = difflib.unified_diff(
        expected, _printed(output).splitlines(), "README", "printed", lineterm="", n=100
    )
    return "\n".join(lines)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Run the commands that README.md shows and compare what they print."
    )
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--source", type=Path, default=ROOT, help="what to copy (default: this repository)")
    parser.add_argument(
        "--reuse-venv", action="store_true", help="link this .venv into the copy: quicker, proves less"
    )
    arguments = parser.parse_args()
    # A CI job that is cancelled must not leave services behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        count = check(arguments.readme, arguments.source, reuse_venv=arguments.reuse_venv)
    except CheckFailed as exc:
        print(f"\n{arguments.readme.name}, {exc}", file=sys.stderr)
        return 1
    print(f"{arguments.readme.name}: {count} commands print what is shown.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
