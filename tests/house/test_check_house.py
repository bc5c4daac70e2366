"""The house's checker itself: a small repository that keeps every rule, then one thing wrong at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
LOCK = Path("requirements/run.txt")
PROJECT = '[project]\nname = "core"\ndependencies = ["six"]\n'


def run(script: str, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPTS / script, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def house(tmp_path: Path) -> Path:
    files = {
        "core/pyproject.toml": PROJECT,
        "core/src/core/__init__.py": '"""Nothing."""\n',
        "core/src/core/py.typed": "",
        "docs/README.md": "[one](adr/0001-one.md), [elsewhere](https://example.com/x)\n",
        "docs/adr/0001-one.md": "# One\n",
        LOCK.as_posix(): "six==1.17.0 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n",
        "run.sh": "#!/usr/bin/env bash\nset -euo pipefail\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "run.sh").chmod(0o755)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    stamp(tmp_path)
    return tmp_path


def stamp(house: Path) -> None:
    # The digest belongs to the repository of the script, so it runs as a copy inside the small one.
    (house / "scripts").mkdir(exist_ok=True)
    (house / "scripts" / "lock_digest.py").write_text((SCRIPTS / "lock_digest.py").read_text())
    done = subprocess.run(
        [sys.executable, "scripts/lock_digest.py", LOCK, "core/pyproject.toml"], cwd=house, check=False
    )
    assert done.returncode == 0


def complaints(house: Path) -> str:
    done = run("check_house.py", house)
    assert done.returncode in (0, 1), done.stderr
    return "" if done.returncode == 0 else done.stdout


def test_a_tidy_house_passes(house: Path) -> None:
    assert complaints(house) == ""


SENTENCES = {
    "a registry": ("see https://py" + "pi.org/simple", "names a registry's host"),
    "a registry in the middle": ("deb.deb" + "ian.org/x", "names a registry's host"),
    "a home": ("run /ho" + "me/alice/avalon", "names a path of one machine"),
    "a temporary folder": ('open("/t' + 'mp/x")', "names a path of one machine"),
    "a claim": ("This is EE" + "A-compliant.", "claims a certificate"),
    "a claim at length": ("certi" + "fied to the EEA's text", "claims a certificate"),
    "a note": ("# TO" + "DO: later", "leaves a note"),
    "a broken link": ("[two](adr/0002-two.md)", "leads nowhere"),
}


@pytest.mark.parametrize(("sentence", "complaint"), SENTENCES.values(), ids=SENTENCES.keys())
def test_refuses_the_sentence(sentence: str, complaint: str, house: Path) -> None:
    (house / "docs" / "other.md").write_text(f"Some words.\n{sentence}\n")
    assert f"docs/other.md:2: {complaint}" in complaints(house).replace("the link ", "")


FINE = [
    "https://example.com/home/alice",
    "relative/home/alice",
    "It is signed by a certified root key.",
    "implements the APIs described in the EEA Off-Chain Trusted Compute Specification v1.1",
    "methods and todos",
    "/tm" + "p/x  <!-- house: allow, an example -->",
]


@pytest.mark.parametrize("sentence", FINE)
def test_accepts_the_sentence(sentence: str, house: Path) -> None:
    (house / "docs" / "other.md").write_text(sentence + "\n")
    assert complaints(house) == ""


def test_binary_files_are_not_read(house: Path) -> None:
    (house / "picture.png").write_bytes(b"\0 TO" + b"DO")
    assert complaints(house) == ""


def test_a_lock_without_a_hash(house: Path) -> None:
    (house / LOCK).write_text((house / LOCK).read_text() + "idna==3.11\n")
    assert "idna has no hash" in complaints(house)


def test_a_lock_with_an_address(house: Path) -> None:
    (house / LOCK).write_text("--index-url https://example.com/simple\n" + (house / LOCK).read_text())
    assert "expected 'name==version --hash=...'" in complaints(house)


def test_locks_that_disagree(house: Path) -> None:
    other = (house / LOCK).read_text().replace("1.17.0", "1.16.0")
    (house / "requirements" / "zdev.txt").write_text(other)
    assert "six is 1.16.0, but 1.17.0 in requirements/run.txt" in complaints(house)


def test_a_lock_without_a_digest(house: Path) -> None:
    (house / LOCK).write_text("six==1.17.0 --hash=sha256:00\n")
    assert "does not say what it was made from" in complaints(house)


def test_a_new_dependency_makes_the_lock_stale(house: Path) -> None:
    (house / "core" / "pyproject.toml").write_text(PROJECT.replace('"six"', '"six", "idna"'))
    assert "is older than what it was made from" in complaints(house)


def test_another_description_does_not(house: Path) -> None:
    (house / "core" / "pyproject.toml").write_text(PROJECT + 'description = "x"\n')
    assert complaints(house) == ""


def test_a_package_without_py_typed(house: Path) -> None:
    (house / "core" / "src" / "core" / "py.typed").unlink()
    assert "core/src/core/py.typed:1: is missing" in complaints(house)


def test_a_decision_that_is_not_listed(house: Path) -> None:
    (house / "docs" / "adr" / "0002-two.md").write_text("# Two\n")
    assert "is not listed in docs/README.md" in complaints(house)


def test_a_script_that_goes_on_after_errors(house: Path) -> None:
    (house / "run.sh").write_text("#!/usr/bin/env bash\n")
    assert "without 'set -euo pipefail'" in complaints(house)


def test_a_script_that_cannot_be_run(house: Path) -> None:
    (house / "run.sh").chmod(0o644)
    assert "cannot be executed" in complaints(house)
