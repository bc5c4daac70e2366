"""``avalon config show`` and what the service says of itself."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from service_process import AVALON, Requester

from avalon_service.settings import Settings

pytestmark = [pytest.mark.acceptance]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AVALON_")}
    return subprocess.run(
        [AVALON, "config", *arguments],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_setting_is_shown_with_its_origin_and_text(tmp_path: Path) -> None:
    file = tmp_path / "avalon.toml"
    file.write_text('port = 1\nworker_name = "from a file"\n')
    done = run("show", "--json", "--config", str(file), AVALON_PORT="2")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["settings"]}
    assert list(rows) == list(Settings.__struct_fields__)
    assert (rows["port"]["value"], rows["port"]["origin"]) == (2, "environment AVALON_PORT")
    assert (rows["worker_name"]["value"], rows["worker_name"]["origin"]) == ("from a file", f"file {file}")
    assert rows["lease_seconds"]["origin"] == "default"
    assert all(row["documentation"] for row in rows.values())


def test_people_read_it_too() -> None:
    done = run("show", AVALON_PORT="2")
    assert "port = 2   # environment AVALON_PORT\n    0: any free port" in done.stdout
    assert 'profile = "development"\n' in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("show",), {"AVALON_PORT": "many"}, "setting port (environment AVALON_PORT)"),
        (("show", "--config", "none.toml"), {}, "cannot read the settings file none.toml"),
        (("hide",), {}, "show"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_a_usage_error(
    arguments: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    done = run(*arguments, **environment)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_is_listed_with_what_it_does() -> None:
    done = subprocess.run([AVALON, "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert "Show the service's settings" in done.stdout


async def test_the_status_tells_the_services_time(requester: Requester) -> None:
    status = json.loads((await requester.get("/status"))[1])
    assert abs(status["time"] - time.time()) < 5
