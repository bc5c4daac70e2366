"""Files of a pool's owners: manifests, changes of them, keys. Read with a cap, written whole or not at all."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from avalon_core.crypto.manifests import (
    MAX_MANIFEST_BYTES,
    Manifest,
    SignedManifest,
    digest_of,
    follow,
    read_manifest,
    read_signed_manifest,
)
from avalon_core.crypto.recovery import MAX_STATE_BYTES
from avalon_core.crypto.sealing import load_hpke_public_key
from avalon_core.crypto.signing import load_verification_key
from avalon_core.errors import AvalonError, EvidenceError, KeyFormatError, PolicyViolation
from avalon_core.protocol.limits import MAX_PEM_CHARS
from avalon_sdk.errors import BadRequest

T = TypeVar("T")

MAX_RECOVERY_BYTES = 2 * MAX_STATE_BYTES
_MAX_PUBLIC_KEY_BYTES = 8192
_OTHERS = 0o077


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFile:
    """A first manifest, or a change that leads to a manifest."""

    path: Path
    encoded: bytes
    """The manifest's canonical bytes."""

    manifest: Manifest
    change: SignedManifest | None = None
    """None: a manifest without signatures, as a first one is."""

    @property
    def digest(self) -> str:
        """Hex."""
        return digest_of(self.encoded).hex()


def read_manifest_file(path: Path, what: str) -> ManifestFile:
    """A manifest, or the one to which a change leads.

    Raises:
        BadRequest: the file cannot be read, or holds neither.
    """
    raw = read_capped(path, what, 2 * MAX_MANIFEST_BYTES)
    try:
        change = read_signed_manifest(raw)
    except EvidenceError:
        change = None
    try:
        encoded = change.manifest if change is not None else raw.removesuffix(b"\n")
        return ManifestFile(path=path, encoded=encoded, manifest=read_manifest(encoded), change=change)
    except EvidenceError as exc:
        raise BadRequest(
            f"{what}: {path} is neither a manifest nor a change of one: {exc.message}. 'avalon pool manifest' writes "
            "a first manifest, 'avalon pool amend' a change"
        ) from exc


def read_change_file(path: Path, what: str) -> SignedManifest:
    """A change.

    Raises:
        BadRequest: the file cannot be read, or holds none.
    """
    file = read_manifest_file(path, what)
    if file.change is None:
        raise BadRequest(
            f"{what}: {path} is a first manifest, expected a change; 'avalon pool amend' writes one"
        )
    return file.change


def read_chain(first: Path, changes: Sequence[Path]) -> tuple[str, Manifest]:
    """A pool's id, and the manifest in force after all changes.

    Raises:
        BadRequest: a file cannot be read, the first is no first manifest, or a change is not admitted.
    """
    file = read_manifest_file(first, "--manifest")
    if file.change is not None or file.manifest.version != 1:
        raise BadRequest(
            f"--manifest: {first} is version {file.manifest.version} of a manifest, expected the first one: its digest "
            "is the pool's id. Give later ones with --change"
        )
    try:
        last = follow(file.encoded, [read_change_file(path, "--change") for path in changes])
    except (PolicyViolation, EvidenceError) as exc:
        raise BadRequest(f"--change: the changes do not lead from {first} on: {exc.message}") from exc
    return file.digest, read_manifest(last)


def read_owner(path: Path, what: str) -> str:
    """An owner's public key in the one spelling of PEM that we write.

    Raises:
        BadRequest: the file cannot be read, or holds none.
    """
    raw = read_capped(path, what, MAX_PEM_CHARS)
    try:
        load_verification_key(raw.decode("ascii"))
        # One spelling, so that a signature is found under it.
        key = load_pem_public_key(raw)
    except (KeyFormatError, UnicodeDecodeError, ValueError) as exc:
        raise BadRequest(
            f"{what}: {path} is not a secp256k1 public key in PEM; 'openssl ec -in KEY -pubout' makes it from a private "
            "one"
        ) from exc
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def read_recovery_public(path: Path, what: str) -> str:
    """The public part of an owner's recovery key, in hex.

    Raises:
        BadRequest: the file cannot be read, or holds none.
    """
    try:
        text = read_capped(path, what, _MAX_PUBLIC_KEY_BYTES).decode("ascii").strip()
        return load_hpke_public_key(text).hex
    except (KeyFormatError, UnicodeDecodeError) as exc:
        raise BadRequest(
            f"{what}: {path} does not hold the hex of a MLKEM768-X25519 public key; 'avalon pool recovery-key' prints it"
        ) from exc


def read_secret(path: Path, what: str, limit: int) -> bytes:
    """A file that nobody else may read.

    Raises:
        BadRequest: others can read it, or it cannot be read.
    """
    try:
        if path.stat().st_mode & _OTHERS:
            raise BadRequest(f"{what}: others can read {path}: chmod 600 it")
    except OSError as exc:
        raise BadRequest(f"{what}: {path} cannot be read: {exc.strerror}") from exc
    return read_capped(path, what, limit)


def read_capped(path: Path, what: str, limit: int) -> bytes:
    """A whole file.

    Raises:
        BadRequest: not there, or too large.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as exc:
        raise BadRequest(f"{what}: {path} cannot be read: {exc.strerror}") from exc
    if len(raw) > limit:
        raise BadRequest(f"{what}: {path} is too large: expected at most {limit} bytes")
    return raw


def read_as(path: Path, what: str, limit: int, parse: Callable[[bytes], T]) -> T:
    """A file's content, parsed.

    Raises:
        BadRequest: it cannot be read, or is none.
    """
    raw = read_capped(path, what, limit)
    try:
        return parse(raw)
    except AvalonError as exc:
        raise BadRequest(f"{what}: {path}: {exc.message}") from exc


def write_new(path: Path, content: bytes, what: str, *, mode: int = 0o644) -> None:
    """Write a file that must not be there yet: what it holds may be the only one of its kind.

    Raises:
        BadRequest: it is there, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as exc:
        raise BadRequest(f"{what}: {path} is there already, and is not overwritten: name another") from exc
    except OSError as exc:
        raise BadRequest(f"{what}: cannot write {path}: {exc.strerror}") from exc


def write_over(path: Path, value: msgspec.Struct, what: str) -> None:
    """Write a value as JSON, in the place of a file or anew: whole or not at all.

    Raises:
        BadRequest: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(msgspec.json.encode(value) + b"\n")
        part.replace(path)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise BadRequest(f"{what}: cannot write {path}: {exc.strerror}") from exc
