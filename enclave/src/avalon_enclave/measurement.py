"""The measurement of a platform without hardware: one hash over everything of ours that decides what runs.

It covers, in this order, each as a named section: the role; every Python file of avalon_core and avalon_enclave;
the entry points that offer workloads; and the code of every workload that does not ship with them (the whole
top-level package or module that holds it). Files are named by their path inside their package, so that equal code
gives an equal value on every machine. Compiled caches are left out.

Not covered, and it says so: the interpreter, and the third-party libraries (their versions are pinned by hash
where the distribution is built). On hardware, the loader's manifest covers those too.
"""

import hashlib
import importlib.machinery
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import avalon_core
import avalon_enclave
from avalon_core.protocol.encodings import encode_fields

WORKLOAD_GROUP = "avalon.workloads"
_DOMAIN = b"avalon simulated measurement 1\0"
_SHIPPED = "avalon_enclave"


def measure(role: str) -> str:
    """Lower-case hex of SHA-256 over what the module says."""
    entry_points = sorted(installed_workloads(), key=lambda entry: (entry.name, entry.value))
    hashed = hashlib.sha256(_DOMAIN)
    hashed.update(encode_fields("role", role))
    for package in (avalon_core, avalon_enclave):
        _add_files(hashed, package.__name__, _files_under(Path(package.__path__[0]), "*.py"))
    for entry in entry_points:
        hashed.update(encode_fields("workload", entry.name, entry.value))
    for top in sorted({entry.module.partition(".")[0] for entry in entry_points} - {_SHIPPED}):
        _add_files(hashed, top, _code_of(top))
    return hashed.hexdigest()


def installed_workloads() -> list[metadata.EntryPoint]:
    """The entry points of workloads, without loading any."""
    return list(metadata.entry_points(group=WORKLOAD_GROUP))


def is_shipped(entry: metadata.EntryPoint) -> bool:
    """The workload's code is part of this distribution."""
    return entry.module.partition(".")[0] == _SHIPPED


def _add_files(hashed: "hashlib._Hash", package: str, files: Iterable[tuple[str, bytes]]) -> None:
    for name, content in files:
        hashed.update(encode_fields("file", package, name, hashlib.sha256(content).hexdigest()))


def _code_of(top: str) -> Iterator[tuple[str, bytes]]:
    """Every file of a top-level package or module, found without importing it. Nothing where it is missing."""
    spec = importlib.machinery.PathFinder.find_spec(top)
    if spec is None:
        return
    for folder in spec.submodule_search_locations or ():
        yield from _files_under(Path(folder), "*")
    if spec.submodule_search_locations is None and spec.origin is not None:
        path = Path(spec.origin)
        yield path.name, path.read_bytes()


def _files_under(folder: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    paths = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob(pattern)
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    for name in sorted(paths):
        yield name, paths[name].read_bytes()
