"""Equal code gives an equal measurement wherever it is, and other code another."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import avalon_core
import avalon_enclave
from avalon_enclave import measurement
from avalon_enclave.measurement import Entry, hash_of, manifest, measure

ENCLAVE = Path(avalon_enclave.__path__[0]).parents[1]
CORE = Path(avalon_core.__path__[0]).parents[1]
WORKLOAD = "class Own:\n    name = 'own'\n"


def copy_sources(target: Path) -> Path:
    """Both distributions, as a checkout has them. A copy: others may be at work in the original."""
    for distribution in (CORE, ENCLAVE):
        shutil.copytree(
            distribution,
            target / distribution.name,
            ignore=shutil.ignore_patterns("__pycache__", "tests", ".*"),
        )
    return target


def install_workload(folder: Path, *, code: str = WORKLOAD) -> None:
    (folder / "own_workload").mkdir(parents=True)
    (folder / "own_workload" / "__init__.py").write_text(code)
    (folder / "own_workload" / "table.csv").write_text("1,2\n")
    info = folder / "own_workload-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-workload\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[avalon.workloads]\nown = own_workload:Own\n")


def report(*folders: Path, arguments: tuple[str, ...] = ()) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "avalon_enclave.measurement", "--role", "singleton", "--json", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(folder) for folder in folders)},
        cwd=folders[0],
        capture_output=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def in_place(checkout: Path) -> tuple[Path, ...]:
    return (checkout / "core" / "src", checkout / "enclave" / "src")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    return copy_sources(tmp_path_factory.mktemp("checkout"))


def test_two_checkouts_and_an_installed_wheel_have_the_same_measurement(checkout, tmp_path):
    other = tmp_path / "elsewhere"
    shutil.copytree(checkout, other)
    for path in other.rglob("*.py"):
        os.utime(path, (1, 1))
    wheel = tmp_path / "site-packages"
    for distribution in ("core", "enclave"):
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
            cwd=other / distribution,
            check=True,
            capture_output=True,
            timeout=60,
        )
    for built in (tmp_path / "dist").glob("*.whl"):
        with zipfile.ZipFile(built) as archive:
            archive.extractall(wheel)
    first = report(*in_place(checkout))
    assert first == report(*in_place(other))
    assert first == report(wheel)
    assert str(checkout) not in json.dumps(first)


def test_compiled_caches_and_hidden_files_do_not_matter(checkout, tmp_path):
    before = report(*in_place(checkout))
    package = checkout / "core" / "src" / "avalon_core"
    (package / "__pycache__").mkdir(exist_ok=True)
    (package / "__pycache__" / "stray.cpython-311.pyc").write_bytes(b"x")
    (package / "stray.pyc").write_bytes(b"x")
    (package / ".errors.py.swp").write_bytes(b"x")
    assert report(*in_place(checkout)) == before


def test_a_changed_byte_of_a_workload_or_of_its_data_changes_it(checkout, tmp_path):
    values = set()
    for name, code in (("one", WORKLOAD), ("same", WORKLOAD), ("other", WORKLOAD.replace("own", "Own"))):
        install_workload(tmp_path / name, code=code)
        values.add(report(*in_place(checkout), tmp_path / name)["measurement"])
    assert len(values) == 2
    (tmp_path / "one" / "own_workload" / "table.csv").write_text("1,3\n")
    answer = report(*in_place(checkout), tmp_path / "one")
    assert answer["measurement"] not in values
    names = {entry["name"] for entry in answer["manifest"]}
    assert {"workload/own_workload/__init__.py", "workload/own_workload/table.csv", "entry/own"} <= names


def test_a_changed_byte_of_a_workload_that_ships_changes_it(checkout, tmp_path):
    other = tmp_path / "changed"
    shutil.copytree(checkout, other)
    path = other / "enclave" / "src" / "avalon_enclave" / "workloads" / "echo.py"
    path.write_bytes(path.read_bytes() + b"#")
    assert report(*in_place(other))["measurement"] != report(*in_place(checkout))["measurement"]


def test_role_and_configuration_change_it():
    values = [
        measure("singleton"),
        measure("kme"),
        measure("singleton", {"tenant": "a"}),
        measure("singleton", {"tenant": "b"}),
        measure("singleton", {"accept_legacy": "a"}),
    ]
    assert len(set(values)) == len(values)
    assert measure("singleton", {"a": "1", "b": "2"}) == measure("singleton", {"b": "2", "a": "1"})


def test_the_lengths_are_those_of_mrenclave_and_mrtd():
    assert re.fullmatch("[0-9a-f]{64}", measure("singleton"))
    assert re.fullmatch("[0-9a-f]{96}", measure("singleton", algorithm="sha384"))


def test_the_command_line_prints_the_value_and_measures_what_it_is_given(checkout):
    plain = report(*in_place(checkout))
    told = report(*in_place(checkout), arguments=("--config", "tenant=acme"))
    assert told["measurement"] != plain["measurement"]
    assert {"name": "config/tenant", "value": "acme"}.items() <= next(
        entry for entry in told["manifest"] if entry["name"] == "config/tenant"
    ).items()


def test_the_printed_manifest_has_the_printed_hash(checkout, capsys):
    answer = report(*in_place(checkout))
    entries = [Entry(entry["name"], entry["sha256"]) for entry in answer["manifest"]]
    assert hash_of(entries) == answer["measurement"]
    assert hash_of(entries, algorithm="sha384") == answer["measurement_sha384"]
    assert [entry.name for entry in entries] == sorted(entry.name for entry in entries)
    assert measurement.main(["--role", "singleton"]) == 0
    assert len(capsys.readouterr().out.strip()) == 64


@pytest.mark.parametrize("text", ["", "=x", "tenant", "role=kme", "a b=c"])
def test_configuration_that_cannot_be_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        measurement.main(["--role", "singleton", "--config", text])
    capsys.readouterr()


def test_the_libraries_that_are_listed_are_those_that_the_enclave_stands_on():
    # Ours from their sources: what is installed in place keeps the metadata of the day it was installed.
    todo = [
        text
        for ours in (CORE, ENCLAVE)
        for text in tomllib.loads((ours / "pyproject.toml").read_text())["project"]["dependencies"]
    ]
    found: set[str] = set()
    while todo:
        requirement = Requirement(todo.pop())
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name not in found and not requirement.name.startswith("avalon-"):
            found.add(requirement.name)
            todo += metadata.requires(requirement.name) or []
    assert found == set(measurement.DEPENDENCIES)


def test_every_entry_is_named_once():
    names = [entry.name for entry in manifest("singleton")]
    assert len(names) == len(set(names))
