"""The rules of the house that no other tool checks. Each is a function that yields what breaks it, as `file:line: what`.

They look at what a commit would hold: every text file that git tracks or would add. A line that is right all the same
says so with the words "house: allow" and the reason.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lock_digest import staleness

_ROOT = Path(__file__).resolve().parent.parent
_ALLOWED = "house: allow"

_REGISTRIES = (
    ("pypi", "org"),
    ("pythonhosted", "org"),
    ("npmjs", "org"),
    ("npmjs", "com"),
    ("yarnpkg", "com"),
    ("debian", "org"),
    ("crates", "io"),
    ("proxy", "golang", "org"),
)
"""In pieces, or this file would break its own rule."""

_WORDS = {
    "names a registry's host": re.compile(
        r"\b(?:" + "|".join(r"\.".join(name) for name in _REGISTRIES) + r")\b", re.IGNORECASE
    ),
    "names a path of one machine": re.compile(r"(?<![\w.~/${}>*%+-])/(?:home|root|work|Users|tmp)/[\w.]"),
    "claims a certificate that nobody gave": re.compile(
        r"\b(?:EEA|Enterprise Ethereum Alliance|specification)\b[^.\n]{0,40}\b(?:complian(?:t|ce)|certifi(?:ed|cation))"
        r"|\b(?:compliant|certified)\b[^.\n]{0,20}\b(?:EEA|Enterprise Ethereum Alliance|specification)\b",
        re.IGNORECASE,
    ),
    "leaves a note instead of doing it or filing an issue": re.compile(r"\b(?:TO[D]O|FIX[M]E|XX[X])\b"),
}

_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9][\w.-]*)(?:\[[\w,-]+\])?==(?P<version>[^\s;]+)")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def words(root: Path, files: Sequence[Path]) -> Iterator[str]:
    """No registry, no path of a machine, no claim, no note to oneself."""
    for name in files:
        for number, line in enumerate(_lines(root / name), start=1):
            if _ALLOWED in line:
                continue
            for what, pattern in _WORDS.items():
                if match := pattern.search(line):
                    yield f"{name}:{number}: {what}: {match.group()!r}"


def locks(root: Path, files: Sequence[Path]) -> Iterator[str]:
    """Locks pin every version with a hash, hold no address, are up to date, and agree with each other."""
    versions: dict[str, tuple[str, Path]] = {}
    for name in files:
        if name.parent != Path("requirements") or name.suffix != ".txt":
            continue
        for number, line in _joined(_lines(root / name)):
            requirement = _REQUIREMENT.match(line)
            if requirement is None:
                yield f"{name}:{number}: got {line[:60]!r}, expected 'name==version --hash=...'"
                continue
            if "--hash=sha256:" not in line:
                yield f"{name}:{number}: {requirement['name']} has no hash"
            if "://" in line:
                yield f"{name}:{number}: {requirement['name']} has an address"
            version, where = versions.setdefault(requirement["name"], (requirement["version"], name))
            if version != requirement["version"]:
                yield f"{name}:{number}: {requirement['name']} is {requirement['version']}, but {version} in {where}"
        if (reason := staleness(root / name, root)) is not None:
            yield f"{name}:1: {reason}"


def typed(root: Path, files: Sequence[Path]) -> Iterator[str]:
    """Every package says that it is typed."""
    for name in files:
        if len(name.parts) == 4 and name.parts[1] == "src" and name.name == "__init__.py":
            marker = name.with_name("py.typed")
            if not (root / marker).is_file():
                yield f"{marker}:1: is missing: the package's types would be ignored by its users"


def links(root: Path, files: Sequence[Path]) -> Iterator[str]:
    """Links between documents lead somewhere, and every decision record is listed in the index."""
    for name in files:
        if name.suffix != ".md":
            continue
        for number, line in enumerate(_lines(root / name), start=1):
            for match in _LINK.finditer(line):
                target = match["target"].partition("#")[0]
                elsewhere = "://" in target or target.startswith("mailto:")
                if target and not elsewhere and not (root / name.parent / target).exists():
                    yield f"{name}:{number}: the link leads nowhere: {target}"
    index = root / "docs" / "README.md"
    known = index.read_text(encoding="utf-8") if index.is_file() else ""
    for name in files:
        if name.parent == Path("docs/adr") and f"adr/{name.name}" not in known:
            yield f"{name}:1: is not listed in docs/README.md"


def scripts(root: Path, files: Sequence[Path]) -> Iterator[str]:
    """Shell scripts can be run, and stop at the first error."""
    for name in files:
        lines = _lines(root / name)
        if lines and re.match(r"#!.*\b(?:ba)?sh\b", lines[0]):
            if not (root / name).stat().st_mode & 0o111:
                yield f"{name}:1: is a script that cannot be executed: chmod +x"
            if not any(line.startswith("set -euo pipefail") for line in lines):
                yield f"{name}:1: is a script without 'set -euo pipefail'"


RULES: Sequence[Callable[[Path, Sequence[Path]], Iterator[str]]] = (words, locks, typed, links, scripts)


def check(root: Path) -> tuple[int, list[str]]:
    """The number of files looked at, and everything that breaks a rule."""
    files = [name for name in _candidates(root) if _is_text(root / name)]
    return len(files), [broken for rule in RULES for broken in rule(root, files)]


def _candidates(root: Path) -> Iterator[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for text in sorted(set(filter(None, listed.split("\0")))):
        if (root / text).is_file():
            yield Path(text)


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" not in file.read(8192)


def _lines(path: Path) -> Sequence[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _joined(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The logical lines of a requirements file with their numbers, without comments."""
    start, text = 0, ""
    for number, line in enumerate(lines, start=1):
        if not text:
            start = number
        text += line.split(" #")[0].removesuffix("\\").strip() + " "
        if line.endswith("\\"):
            continue
        if text.strip() and not text.lstrip().startswith("#"):
            yield start, text.strip()
        text = ""


def main() -> int:
    root = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else _ROOT
    try:
        count, broken = check(root)
    except (OSError, subprocess.CalledProcessError) as exc:
        print(
            f"check_house: cannot list the files of {root}: {exc}; it needs git and a git work tree",
            file=sys.stderr,
        )
        return 2
    for line in broken:
        print(line)
    if broken:
        print(f"{len(broken)} broken rules in {count} files.")
        return 1
    print(f"{count} files keep the rules of the house.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
