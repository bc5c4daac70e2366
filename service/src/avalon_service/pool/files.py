"""What the host keeps of a pool, each file whole and durable or not at all. None of it is secret.

manifest.json          the first manifest's canonical bytes
changes/000002.json    signed changes, by version
kme-1/sealed           the state as that KME's platform sealed it
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from avalon_core.crypto.manifests import Manifest, encode_manifest, read_manifest, read_signed_manifest


class PoolFiles:
    """The directory of one pool."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def first_manifest(self) -> bytes | None:
        """Its canonical bytes; None: there is no pool here yet."""
        try:
            return (self._directory / "manifest.json").read_bytes()
        except FileNotFoundError:
            return None

    def begin(self, manifest: Manifest) -> bytes:
        """Keep the first manifest."""
        encoded = encode_manifest(manifest)
        write_durably(self._directory / "manifest.json", encoded)
        return encoded

    @property
    def is_new(self) -> bool:
        """No KME has sealed the pool's keys yet: the first one makes them."""
        return (self._directory / "new").exists()

    def note_new(self) -> None:
        """The manifest was written a moment ago."""
        write_durably(self._directory / "new", b"")

    def forget_new(self) -> None:
        """A KME has sealed the pool's keys. From now on nobody ever makes new ones in their place."""
        (self._directory / "new").unlink(missing_ok=True)

    def changes(self) -> Sequence[bytes]:
        """JSON of the signed changes, in order, as far as they follow each other.

        After a crash between the KMEs' taking of a change and its keeping here there is a gap. Enclaves start by what
        lies before it, and are told the rest by the KMEs, which have sealed it.
        """
        changes: list[bytes] = []
        for version in itertools.count(2):
            try:
                changes.append(self._change(version).read_bytes())
            except FileNotFoundError:
                return changes
        raise AssertionError("unreachable")

    def keep_change(self, change: bytes) -> None:
        """Keep a change that the KMEs have taken."""
        version = read_manifest(read_signed_manifest(change).manifest).version
        path = self._change(version)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_durably(path, change)

    def _change(self, version: int) -> Path:
        return self._directory / "changes" / f"{version:06}.json"

    def sealed(self, kme: str) -> bytes | None:
        """What a KME sealed last; None: nothing yet."""
        try:
            return (self._directory / kme / "sealed").read_bytes()
        except FileNotFoundError:
            return None

    def keep_sealed(self, kme: str, sealed: bytes) -> None:
        """Keep what a KME sealed."""
        (self._directory / kme).mkdir(mode=0o700, exist_ok=True)
        write_durably(self._directory / kme / "sealed", sealed)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that after a crash there is the old content or the new one."""
    part = path.with_name(f"{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
