"""What a pool's host keeps: whole or not at all, its owner's alone, and never two manifests for one pool."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from avalon_core.crypto.manifests import (
    Manifest,
    SignedManifest,
    digest_of,
    encode_manifest,
    follow,
    read_signed_manifest,
    sign_manifest,
)
from avalon_core.crypto.signing import SigningKey
from avalon_service.pool.files import PoolFiles, write_durably

OWNER = SigningKey.generate()
FIRST = Manifest(worker_name="pool", owners=(OWNER.verification_key.pem,), quorum=1, roots=("simulator",))


def change(before: Manifest) -> tuple[Manifest, bytes]:
    """The next manifest, signed."""
    previous = digest_of(encode_manifest(before)).hex()
    after = msgspec.structs.replace(before, version=before.version + 1, previous=previous)
    text = encode_manifest(after)
    signed = SignedManifest(manifest=text, signatures=dict([sign_manifest(text, OWNER)]))
    return after, msgspec.json.encode(signed)


def test_a_new_directory_holds_no_pool(tmp_path: Path) -> None:
    files = PoolFiles(tmp_path / "a" / "b")
    assert files.first_manifest is None
    assert files.changes() == []
    assert files.sealed("kme-1") is None
    assert not files.is_new


def test_the_first_manifest_is_kept_as_its_canonical_bytes(tmp_path: Path) -> None:
    assert PoolFiles(tmp_path).begin(FIRST) == encode_manifest(FIRST)
    assert PoolFiles(tmp_path).first_manifest == encode_manifest(FIRST)


def test_a_pool_is_new_until_a_kme_has_sealed_its_keys(tmp_path: Path) -> None:
    files = PoolFiles(tmp_path)
    files.begin(FIRST)
    files.note_new()
    assert PoolFiles(tmp_path).is_new
    files.keep_sealed("kme-1", b"sealed")
    files.forget_new()
    files.forget_new()
    assert not PoolFiles(tmp_path).is_new


def test_seals_are_each_kme_s_own_and_the_last_one_counts(tmp_path: Path) -> None:
    files = PoolFiles(tmp_path)
    for sealed in (b"1", b"2", b"3" * 100_000):
        files.keep_sealed("kme-1", sealed)
        assert PoolFiles(tmp_path).sealed("kme-1") == sealed
    assert files.sealed("kme-2") is None


def test_changes_come_back_in_order(tmp_path: Path) -> None:
    files, manifest, kept = PoolFiles(tmp_path), FIRST, []
    for _ in range(12):
        manifest, signed = change(manifest)
        files.keep_change(signed)
        kept.append(signed)
    assert PoolFiles(tmp_path).changes() == kept
    in_force = follow(encode_manifest(FIRST), [read_signed_manifest(signed) for signed in kept])
    assert in_force == encode_manifest(manifest)


def test_changes_behind_a_gap_are_not_told(tmp_path: Path) -> None:
    """The KMEs had taken the second one, and the service died before it had kept it."""
    files = PoolFiles(tmp_path)
    two, signed_two = change(FIRST)
    _, signed_three = change(two)
    files.keep_change(signed_three)
    assert files.changes() == []
    files.keep_change(signed_two)
    assert files.changes() == [signed_two, signed_three]


def test_everything_is_its_owner_s_alone(tmp_path: Path) -> None:
    files = PoolFiles(tmp_path / "pool")
    files.begin(FIRST)
    files.note_new()
    files.keep_sealed("kme-1", b"sealed")
    files.keep_change(change(FIRST)[1])
    found = [tmp_path / "pool", *(tmp_path / "pool").rglob("*")]
    assert len(found) == 7
    assert not [path for path in found if path.stat().st_mode & 0o077]


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sealed"
    write_durably(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    write_durably(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert [one.name for one in tmp_path.iterdir()] == ["sealed"]
