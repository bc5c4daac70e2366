"""The README's checker itself, against READMEs that are right and wrong in one way each."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_readme.py"

SERVER = """\
import signal, sys, socket
port = int(sys.argv[sys.argv.index("--port") + 1])
listener = socket.create_server(("127.0.0.1", port))
print(f"ready at http://127.0.0.1:{port} (took 0.{port} s)", flush=True)
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
while True:
    connection, _ = listener.accept()
    connection.sendall(b"47%")
    connection.close()
"""

CLIENT = """\
import sys, socket
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    print("risk", connection.recv(100).decode())
"""


def run(folder: Path, readme: str) -> subprocess.CompletedProcess[str]:
    source = folder / "source"
    source.mkdir()
    (source / "server.py").write_text(SERVER)
    (source / "client.py").write_text(CLIENT)
    (source / "README.md").write_text(textwrap.dedent(readme).replace("PYTHON", sys.executable))
    return subprocess.run(
        [sys.executable, SCRIPT, "--readme", source / "README.md", "--source", source],
        capture_output=True,
        text=True,
        timeout=90,
    )


RIGHT = {
    "the very words": """
        ```console
        $ echo one; echo two
        one
        two
        ```
        """,
    "a command that prints nothing": """
        ```console
        $ true
        ```
        """,
    "wild cards in a line and for lines": """
        ```console
        $ echo took 12 s; echo a; echo b; echo end
        took ... s
        ...
        end
        ```
        """,
    "wild card lines may be none": """
        ```console
        $ echo end
        ...
        end
        ```
        """,
    "several commands in a block, one continued": """
        ```console
        $ echo one \\
        > two
        one two

        $ echo three
        three
        ```
        """,
    "a command that is to fail": """
        <!-- check: fails -->
        ```console
        $ echo no >&2; exit 3
        no
        ```
        """,
    "blocks of other kinds are not run": """
        ```sh
        exit 1
        ```

        ```console
        $ echo one
        one
        ```
        """,
    "commands see the copied tree": """
        ```console
        $ ls *.py
        client.py
        server.py
        ```
        """,
    "a server in the background": """
        <!-- check: background; with --port {port} -->
        ```console
        $ PYTHON server.py
        ready at http://127.0.0.1:1947 (took ... s)
        ```

        In another terminal:

        <!-- check: with {port} -->
        ```console
        $ PYTHON client.py
        risk 47%
        ```
        """,
}

WRONG = {
    "no block at all": ("Nothing here.", "nothing was checked"),
    "another output": ("```console\n$ echo two\none\n```", "printed something else"),
    "more output than shown": ("```console\n$ echo one; echo two\none\n```", "+two"),
    "less output than shown": ("```console\n$ echo one\none\ntwo\n```", "-two"),
    "output where none is shown": ("```console\n$ echo one\n```", "printed something else"),
    "a failing command": ("```console\n$ echo one; exit 4\none\n```", "status 4, expected success"),
    "a command that should fail": ("<!-- check: fails -->\n```console\n$ true\n```", "expected a failure"),
    "an unknown clause": ("<!-- check: soon -->\n```console\n$ true\n```", "got the clause 'soon'"),
    "a comment on another block": ("<!-- check: fails -->\n```sh\ntrue\n```", "belongs to a console block"),
    "a block without a command": ("```console\none\n```", "output before any command"),
    "a change of folder": ("```console\n$ cd docs\n```", "'cd' has no effect"),
    "a block that is not closed": ("```console\n$ true\n", "never closed"),
    "a background command that ends": (
        "<!-- check: background -->\n```console\n$ echo no\nready\n```",
        "instead of staying",
    ),
    "a background command that shows nothing": (
        "<!-- check: background -->\n```console\n$ sleep 60\n```",
        "shows what it prints",
    ),
    "a process that is left over": (
        "```console\n$ setsid sleep 600 & sleep 0.3\n```",
        "left over and had to be ended: sleep",
    ),
}


@pytest.mark.parametrize("readme", RIGHT.values(), ids=RIGHT.keys())
def test_accepts(readme: str, tmp_path: Path) -> None:
    done = run(tmp_path, readme)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("readme", "complaint"), WRONG.values(), ids=WRONG.keys())
def test_refuses(readme: str, complaint: str, tmp_path: Path) -> None:
    done = run(tmp_path, readme)
    assert done.returncode == 1
    assert complaint in done.stderr


def test_a_server_is_ended_when_a_later_command_is_wrong(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        <!-- check: background; with --port {port} -->
        ```console
        $ echo $$ >&2; exec PYTHON server.py
        ...
        ready at http://127.0.0.1:1947 ...
        ```

        ```console
        $ cat ../output-4
        1
        ```
        """,
    )
    assert done.returncode == 1
    pid = int(next(line for line in done.stderr.splitlines() if line.strip("+").isdigit()).strip("+"))
    time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
