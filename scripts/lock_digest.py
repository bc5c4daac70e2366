"""What a lock file was made from: its inputs and a digest over them, kept in two comment lines at its top.

Of a pyproject.toml only what the resolver reads counts, and not our own distributions, which are in no lock: another
entry point does not ask for a new lock.
"""

import hashlib
import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_INPUTS = "# inputs: "
_DIGEST = "# inputs-sha256: "


def digest_of_inputs(inputs: Sequence[str], root: Path = ROOT) -> str:
    """Hex of SHA-256 over everything in the inputs that decides what is locked."""
    return hashlib.sha256(json.dumps([[name, _essence(root / name)] for name in inputs]).encode()).hexdigest()


def staleness(lock: Path, root: Path = ROOT) -> str | None:
    """Say why a lock file is out of date, or None where it is not."""
    lines = lock.read_text().splitlines()
    inputs = next((line.removeprefix(_INPUTS).split() for line in lines if line.startswith(_INPUTS)), None)
    found = next((line.removeprefix(_DIGEST) for line in lines if line.startswith(_DIGEST)), None)
    if inputs is None or found is None:
        return "does not say what it was made from; run scripts/lock.sh"
    missing = [name for name in inputs if not (root / name).is_file()]
    if missing:
        return f"was made from {missing[0]}, which is not there any more; run scripts/lock.sh"
    if digest_of_inputs(inputs, root) != found:
        return f"is older than what it was made from ({' '.join(inputs)}); run scripts/lock.sh"
    return None


def stamp(lock: Path, inputs: Sequence[str], root: Path = ROOT) -> None:
    """Write the two lines at the top of a lock file, instead of those that may be there."""
    lines = [line for line in lock.read_text().splitlines() if not line.startswith((_INPUTS, _DIGEST))]
    header = [_INPUTS + " ".join(inputs), _DIGEST + digest_of_inputs(inputs, root)]
    lock.write_text("\n".join([*header, *lines]) + "\n")


def _essence(path: Path) -> object:
    if path.suffix != ".toml":
        return sorted(line.split("#")[0].strip() for line in path.read_text().splitlines())
    project = tomllib.loads(path.read_text())["project"]
    return {
        "requires-python": project.get("requires-python"),
        "dependencies": sorted(
            text for text in project.get("dependencies", []) if not text.startswith("avalon-")
        ),
        "optional-dependencies": project.get("optional-dependencies", {}),
    }


if __name__ == "__main__":
    stamp(Path(sys.argv[1]), sys.argv[2:])
