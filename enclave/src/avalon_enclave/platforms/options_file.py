"""The file that configures a hardware platform (``--platform-config``): TOML, with nothing in it that is not known."""

import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from avalon_enclave.errors import StartRefused

MAX_OPTIONS_BYTES = 64 * 1024

_T = TypeVar("_T", bound=msgspec.Struct)


def read_options(path: Path | None, kind: type[_T]) -> _T:
    """The file's members as a record; the record's defaults where no file is named.

    Raises:
        StartRefused: it cannot be read, or a member is unknown or of another form.
    """
    if path is None:
        return kind()
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_OPTIONS_BYTES + 1)
    except OSError as exc:
        raise StartRefused(f"--platform-config: {path} cannot be read ({exc.strerror})") from exc
    if len(raw) > MAX_OPTIONS_BYTES:
        raise StartRefused(
            f"--platform-config: {path} is too large: expected at most {MAX_OPTIONS_BYTES} bytes"
        )
    try:
        return msgspec.convert(tomllib.loads(raw.decode()), kind)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as exc:
        raise StartRefused(
            f"--platform-config: {path}: {exc}; see docs/attestation/platforms.md for what it holds"
        ) from exc
