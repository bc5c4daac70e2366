"""The measurement of a platform without hardware: one hash over everything of ours that decides what runs.

It takes the place of a loader's measurement (MRENCLAVE, MRTD), and covers what a loader's manifest of trusted files
would list. The manifest is a list of named entries, each with a digest:

    config/<name>              what the enclave was told at launch that changes what it does: role, tenant, ...
    code/<package>/<path>      every file of avalon_core and avalon_enclave
    entry/<name>               the entry point that offers a workload: its value
    workload/<top>/<path>      every file of the top-level package or module that holds a workload of a third party
    dependency/<name>          the version of a third-party library; its content is pinned by hash where we are built

Names are paths inside their package, so that equal code gives an equal value on every machine, whatever the folder,
the order of files in it, their dates, and whether they were installed as a wheel or in place. Compiled caches and
hidden files are left out.

Not covered, and it says so: the interpreter, and the content of third-party libraries. On hardware, the loader's
manifest covers those too.

``python -m avalon_enclave.measurement --role singleton`` prints the value, and with ``--json`` the manifest.
"""

import argparse
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import avalon_core
import avalon_enclave
from avalon_core.protocol.encodings import encode_fields

WORKLOAD_GROUP = "avalon.workloads"

DEPENDENCIES = (
    "cbor2",
    "cffi",
    "coincurve",
    "cryptography",
    "dcap-qvl",
    "msgspec",
    "pycparser",
    "shamir-mnemonic",
)
"""The libraries that avalon-enclave stands on, directly or not. A test compares the list with what is installed."""

Hash = Literal["sha256", "sha384"]
"""MRENCLAVE has 32 bytes; MRTD, SNP's measurement and Nitro's PCR0 have 48."""

_DOMAIN = b"avalon simulated measurement 2\0"
_SHIPPED = "avalon_enclave"
_MISSING = "(not installed)"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that is measured."""

    name: str
    sha256: str
    """Lower-case hex of the SHA-256 over the file, or over the value in UTF-8."""

    value: str | None = None
    """Where it is a short text and no file."""


def measure(role: str, configuration: Mapping[str, str] | None = None, *, algorithm: Hash = "sha256") -> str:
    """Lower-case hex of the hash over the manifest: see :func:`manifest` and :func:`hash_of`."""
    return hash_of(manifest(role, configuration), algorithm=algorithm)


def manifest(role: str, configuration: Mapping[str, str] | None = None) -> Sequence[Entry]:
    """What is measured, in the order of the names.

    Args:
        role: what the enclave is to be.
        configuration: what else it is told at launch that changes what it does, as texts by name.
    """
    entries = [_of_value(f"config/{name}", value) for name, value in (configuration or {}).items()]
    entries.append(_of_value("config/role", role))
    for package in (avalon_core, avalon_enclave):
        entries += _of_files(f"code/{package.__name__}", _files_under(Path(package.__path__[0])))
    workloads = installed_workloads()
    entries += [_of_value(f"entry/{entry.name}", entry.value) for entry in workloads]
    for top in {entry.module.partition(".")[0] for entry in workloads} - {_SHIPPED}:
        entries += _of_files(f"workload/{top}", _code_of(top))
    entries += [_of_value(f"dependency/{name}", _version_of(name)) for name in DEPENDENCIES]
    # Two distributions may offer a workload of the same name: the order must not depend on which is found first.
    return sorted(entries, key=lambda entry: (entry.name, entry.sha256))


def hash_of(entries: Iterable[Entry], *, algorithm: Hash = "sha256") -> str:
    """Lower-case hex of the hash over entries, each as the canonical encoding of its name and digest, in their order."""
    hashed = hashlib.new(algorithm, _DOMAIN)
    for entry in entries:
        hashed.update(encode_fields(entry.name, entry.sha256))
    return hashed.hexdigest()


def installed_workloads() -> list[metadata.EntryPoint]:
    """The entry points of workloads, without loading any."""
    return list(metadata.entry_points(group=WORKLOAD_GROUP))


def is_shipped(entry: metadata.EntryPoint) -> bool:
    """The workload's code is part of this distribution."""
    return entry.module.partition(".")[0] == _SHIPPED


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; prints the measurement of an enclave that would be started here. Returns the exit code."""
    options = _parser().parse_args(arguments)
    entries = manifest(options.role, dict(options.config))
    if options.json:
        answer = {
            "measurement": hash_of(entries),
            "measurement_sha384": hash_of(entries, algorithm="sha384"),
            "role": options.role,
            "manifest": [
                {"name": entry.name, "sha256": entry.sha256}
                | ({} if entry.value is None else {"value": entry.value})
                for entry in entries
            ],
        }
        sys.stdout.write(json.dumps(answer) + "\n")
    else:
        sys.stdout.write(hash_of(entries) + "\n")
    return 0


def setting(text: str) -> tuple[str, str]:
    """Read ``name=value``, as command lines give configuration.

    Raises:
        argparse.ArgumentTypeError: not of this form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.replace("_", "").isalnum() or name == "role":
        raise argparse.ArgumentTypeError(
            f"got {text[:80]!r}, expected name=value, where the name is not role"
        )
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="avalon_enclave.measurement",
        description="Print the measurement that an enclave on a SIMULATED platform has when it is started from here.",
        allow_abbrev=False,
    )
    parser.add_argument("--role", required=True, help="what the enclave is to be")
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        type=setting,
        metavar="NAME=VALUE",
        help="what it is told at launch; may be given several times",
    )
    parser.add_argument("--json", action="store_true", help="print what went in, too")
    return parser


def _of_value(name: str, value: str) -> Entry:
    return Entry(name, hashlib.sha256(value.encode()).hexdigest(), value)


def _of_files(prefix: str, files: Iterable[tuple[str, Path]]) -> Iterator[Entry]:
    for name, path in files:
        with path.open("rb") as file:
            yield Entry(f"{prefix}/{name}", hashlib.file_digest(file, "sha256").hexdigest())


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return _MISSING


def _code_of(top: str) -> Iterator[tuple[str, Path]]:
    """Every file of a top-level package or module, found without importing it. Nothing where it is missing."""
    # Not PathFinder: packages installed in place may be found by a finder of their own.
    spec = importlib.util.find_spec(top)
    if spec is None:
        return
    for folder in spec.submodule_search_locations or ():
        yield from _files_under(Path(folder))
    if spec.submodule_search_locations is None and spec.origin is not None:
        path = Path(spec.origin)
        yield path.name, path


def _files_under(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in relative.parts)
        if is_hidden or "__pycache__" in relative.parts or path.suffix == ".pyc" or not path.is_file():
            continue
        yield relative.as_posix(), path


if __name__ == "__main__":
    sys.exit(main())
