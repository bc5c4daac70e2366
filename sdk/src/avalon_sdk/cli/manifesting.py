"""``avalon pool manifest``, ``amend``, ``sign`` and ``show``: what a pool's owners do, on machines of their own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from avalon_core.attestation.claims import TcbStatus
from avalon_core.attestation.pool_checks import owner_digest
from avalon_core.crypto.manifests import (
    Manifest,
    SignedManifest,
    accept_change,
    digest_of,
    encode_manifest,
    read_manifest,
    sign_manifest,
)
from avalon_core.crypto.signing import load_verification_key
from avalon_core.errors import AvalonError, EvidenceError, KeyFormatError, SignatureMismatch
from avalon_sdk.cli.attest_output import show_words
from avalon_sdk.cli.exits import ExitCode
from avalon_sdk.cli.manifest_files import (
    ManifestFile,
    read_change_file,
    read_manifest_file,
    read_owner,
    read_recovery_public,
    write_new,
    write_over,
)
from avalon_sdk.cli.manifest_words import changes_in_words, is_simulated, manifest_in_words, unknown_roots
from avalon_sdk.cli.output import remark, show, show_json
from avalon_sdk.cli.trusting import read_key
from avalon_sdk.errors import BadRequest

T = TypeVar("T")

SIMULATED = "SIMULATED: this manifest admits enclaves that no hardware protects"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestArguments:
    """What the options say of a manifest. None, or nothing: they do not say."""

    quorum: int | None = None
    threshold: int | None = None
    migration: str | None = None
    localisation: str | None = None
    max_wpes: int | None = None
    orders_per_wpe: int | None = None
    kme_signs_results: bool | None = None
    overlap_seconds: int | None = None
    accept_legacy: bool | None = None

    def given(self) -> dict[str, Any]:
        """By the names of the manifest's members."""
        values = {
            "quorum": self.quorum,
            "recovery_threshold": self.threshold,
            "migration": self.migration,
            "localisation": self.localisation,
            "max_wpes": self.max_wpes,
            "orders_per_wpe": self.orders_per_wpe,
            "kme_signs_results": self.kme_signs_results,
            "overlap_seconds": self.overlap_seconds,
            "accept_legacy": self.accept_legacy,
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists:
    """What the options add to the lists of a manifest, or take from them."""

    kmes: Sequence[str] = ()
    wpes: Sequence[str] = ()
    roots: Sequence[str] = ()
    tcb_statuses: Sequence[str] = ()
    owners: Sequence[Path] = ()
    recovery_keys: Sequence[Path] = ()

    def __bool__(self) -> bool:
        return any((self.kmes, self.wpes, self.roots, self.tcb_statuses, self.owners, self.recovery_keys))


async def begin(
    worker_name: str, lists: Lists, arguments: ManifestArguments, *, out: Path, as_json: bool
) -> ExitCode:
    """Write a first manifest."""
    values: dict[str, Any] = {
        "kme_measurements": _lower(lists.kmes),
        "wpe_measurements": _lower(lists.wpes),
        "roots": tuple(lists.roots),
        "owners": tuple(read_owner(path, "--owner") for path in lists.owners),
        "recovery_keys": tuple(read_recovery_public(path, "--recovery-key") for path in lists.recovery_keys),
    }
    if lists.tcb_statuses:
        values["tcb_statuses"] = tuple(lists.tcb_statuses)
    # All of them is what nobody can find too few; a smaller number is for the owners to choose.
    if values["owners"] and arguments.quorum is None:
        values["quorum"] = len(values["owners"])
    if values["recovery_keys"] and arguments.threshold is None:
        values["recovery_threshold"] = len(values["recovery_keys"])
    encoded = _made({"worker_name": worker_name} | values | arguments.given())
    write_new(out, encoded, "--out")
    _tell(ManifestFile(path=out, encoded=encoded, manifest=read_manifest(encoded)), as_json=as_json)
    return ExitCode.OK


async def amend(
    current: Path,
    added: Lists,
    removed: Lists,
    arguments: ManifestArguments,
    *,
    out: Path,
    as_json: bool,
) -> ExitCode:
    """Write the change that leads from a manifest to the next version."""
    if not (added or removed or arguments.given()):
        raise BadRequest("expected at least one option that says what is to change")
    file = read_manifest_file(current, "CURRENT")
    before = file.manifest
    owners = _amended(
        "owner",
        before.owners,
        [read_owner(path, "--add-owner") for path in added.owners],
        [_known_owner(before, path) for path in removed.owners],
    )
    values = {
        "kme_measurements": _amended(
            "kme", before.kme_measurements, _lower(added.kmes), _lower(removed.kmes)
        ),
        "wpe_measurements": _amended(
            "wpe", before.wpe_measurements, _lower(added.wpes), _lower(removed.wpes)
        ),
        "roots": _amended("root", before.roots, added.roots, removed.roots),
        "tcb_statuses": _amended("tcb-status", before.tcb_statuses, added.tcb_statuses, removed.tcb_statuses),
        "owners": owners,
        "recovery_keys": _amended(
            "recovery-key",
            before.recovery_keys,
            [read_recovery_public(path, "--add-recovery-key") for path in added.recovery_keys],
            [read_recovery_public(path, "--remove-recovery-key") for path in removed.recovery_keys],
        ),
    }
    unchanged = {
        name: getattr(before, name)
        for name in before.__struct_fields__
        if name not in ("version", "previous")
    }
    encoded = _made(
        unchanged
        | values
        | arguments.given()
        | {"version": before.version + 1, "previous": digest_of(file.encoded).hex()}
    )
    after = read_manifest(encoded)
    changes = changes_in_words(before, after)
    if not changes:
        raise BadRequest("nothing would change: the manifest says so already")
    write_new(out, msgspec.json.encode(SignedManifest(manifest=encoded)) + b"\n", "--out")
    if as_json:
        show_json(
            {
                "version": after.version,
                "digest": digest_of(encoded).hex(),
                "previous": after.previous,
                "changes": list(changes),
                "quorum": before.quorum,
            }
        )
        return ExitCode.OK
    show(f"{out}: version {after.version} of the manifest of {after.worker_name!r}", "bold")
    show(f"  digest {digest_of(encoded).hex()}")
    for line in changes:
        show(line, "green" if line.startswith("+") else "red")
    if not before.owners:
        remark(f"{current} names no owners: no pool will take this change")
    else:
        show(
            f"{before.quorum} of {len(before.owners)} owners are to sign it: avalon pool sign {out} --key FILE"
        )
    return ExitCode.OK


async def sign(
    path: Path, *, key: Path | None, others: Sequence[Path], current: Path | None, as_json: bool
) -> ExitCode:
    """Add signatures to a change: with a key, or from copies that others have signed."""
    if key is None and not others:
        raise BadRequest("expected --key (an owner's) or --with (a copy that another owner has signed)")
    change = read_change_file(path, "CHANGE")
    before = read_manifest_file(current, "--manifest") if current is not None else None
    signatures = dict(change.signatures)
    for other in others:
        theirs = read_change_file(other, "--with")
        if theirs.manifest != change.manifest:
            raise BadRequest(f"--with: {other} is a copy of another change than {path}")
        signatures |= theirs.signatures
    if key is not None:
        owner = read_key(key)
        pem, signature = sign_manifest(change.manifest, owner)
        if before is not None:
            pem = _spelling(before.manifest, pem, key)
        signatures[pem] = signature
    signed = SignedManifest(manifest=change.manifest, signatures=signatures)
    try:
        # As it will be read: too many signatures are found here, and not by the pool.
        msgspec.json.decode(msgspec.json.encode(signed), type=SignedManifest)
    except msgspec.ValidationError as exc:
        raise BadRequest(f"CHANGE: {path} cannot hold these signatures: {exc}") from exc
    write_over(path, signed, "CHANGE")
    _tell(read_manifest_file(path, "CHANGE"), before=before, as_json=as_json, briefly=True)
    return ExitCode.OK


async def show_file(path: Path, *, current: Path | None, as_json: bool) -> ExitCode:
    """Print a manifest or a change in words; with the manifest in force, whether the change will be taken."""
    file = read_manifest_file(path, "FILE")
    before = read_manifest_file(current, "--manifest") if current is not None else None
    if before is not None and file.change is None:
        raise BadRequest(f"--manifest goes with a change, and {path} is a first manifest")
    is_taken = _tell(file, before=before, as_json=as_json)
    return ExitCode.OK if is_taken or before is None else ExitCode.FAILED


def _tell(
    file: ManifestFile, *, before: ManifestFile | None = None, as_json: bool, briefly: bool = False
) -> bool:
    """Print it; whether the manifest in force takes it."""
    manifest = file.manifest
    signers = _signers(file.change, before) if file.change is not None else ()
    obstacle = _obstacle(file.change, before) if file.change is not None and before is not None else ""
    if as_json:
        show_json(
            {
                "worker_name": manifest.worker_name,
                "version": manifest.version,
                "digest": file.digest,
                "previous": manifest.previous or None,
                "simulated": is_simulated(manifest),
                "words": list(manifest_in_words(manifest)),
                "manifest": msgspec.to_builtins(manifest),
                "signatures": [
                    {"owner": signer.owner, "valid": signer.is_valid, "counts": signer.counts}
                    for signer in signers
                ],
                "accepted": None if before is None else not obstacle,
                "obstacle": obstacle or None,
            }
        )
        return not obstacle
    kind = "a first manifest" if file.change is None else "a change of the manifest"
    show(f"{file.path}: {kind}, version {manifest.version}, of {manifest.worker_name!r}", "bold")
    show(f"  digest {file.digest}" + (" (the pool's id)" if manifest.version == 1 else ""))
    if manifest.previous:
        show(f"  after  {manifest.previous}")
    if is_simulated(manifest):
        remark(SIMULATED)
    if not briefly:
        show_words(manifest_in_words(manifest))
        if before is not None:
            show(f"Compared with version {before.manifest.version}:", "bold")
            for line in changes_in_words(before.manifest, manifest):
                show(f"  {line}", "green" if line.startswith("+") else "red")
    if file.change is not None:
        _show_signers(signers, before, obstacle)
    return not obstacle


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signer:
    owner: str
    is_valid: bool
    counts: bool | None
    """It is an owner's of the manifest in force. None: that is not at hand."""

    words: str = field(default="")


def _signers(change: SignedManifest, before: ManifestFile | None) -> Sequence[_Signer]:
    signers = []
    for pem, signature in change.signatures.items():
        try:
            load_verification_key(pem).verify(digest_of(change.manifest), signature, strict=True)
            name, is_valid = owner_digest(pem), True
        except KeyFormatError:
            name, is_valid = "not a key", False
        except SignatureMismatch:
            name, is_valid = owner_digest(pem), False
        counts = None if before is None else is_valid and pem in before.manifest.owners
        words = (
            "does NOT verify"
            if not is_valid
            else "has signed"
            if counts is not False
            else "has signed, and is no owner: it counts nothing"
        )
        signers.append(_Signer(owner=name, is_valid=is_valid, counts=counts, words=words))
    return signers


def _obstacle(change: SignedManifest, before: ManifestFile) -> str:
    """Why the manifest in force does not take the change; empty: it does."""
    try:
        accept_change(before.encoded, change)
    except AvalonError as exc:
        return exc.message
    return ""


def _show_signers(signers: Sequence[_Signer], before: ManifestFile | None, obstacle: str) -> None:
    for signer in signers:
        show(
            f"  {signer.owner}  {signer.words}",
            "green" if signer.counts is not False and signer.is_valid else "red",
        )
    if not signers:
        show("  nobody has signed it yet")
    if before is None:
        show("Whether that is a quorum is for the manifest in force to say: give it with --manifest.")
    elif obstacle:
        show(f"It will NOT be taken: {obstacle}", "bold red")
    else:
        show("It will be taken: a quorum of the owners has signed it.", "bold green")


def _made(values: dict[str, Any]) -> bytes:
    """The canonical bytes of a manifest of these values.

    Raises:
        BadRequest: there is no such manifest.
    """
    for status in values.get("tcb_statuses", ()):
        if status not in tuple(TcbStatus):
            raise BadRequest(f"--tcb-status: got {status[:40]!r}, expected one of {', '.join(TcbStatus)}")
    try:
        manifest = Manifest(**values)
        encoded = encode_manifest(manifest)
        read_manifest(encoded)
    except (ValueError, EvidenceError) as exc:
        message = exc.message if isinstance(exc, EvidenceError) else str(exc)
        raise BadRequest(f"there cannot be such a manifest: {message}") from exc
    if strangers := unknown_roots(manifest):
        raise BadRequest(
            f"--root: nobody here knows {', '.join(strangers)}: expected names such as intel-sgx, amd-milan, aws-nitro or "
            "simulator"
        )
    return encoded


def _amended(name: str, before: Sequence[T], added: Sequence[T], removed: Sequence[T]) -> tuple[T, ...]:
    for value in removed:
        if value not in before:
            raise BadRequest(f"--remove-{name}: the manifest does not name {str(value)[:80]!r}")
    for value in added:
        if value in before:
            raise BadRequest(f"--add-{name}: the manifest names {str(value)[:80]!r} already")
    return (*(value for value in before if value not in removed), *added)


def _lower(measurements: Sequence[str]) -> tuple[str, ...]:
    return tuple(text.lower() for text in measurements)


def _known_owner(manifest: Manifest, path: Path) -> str:
    return _spelling(manifest, read_owner(path, "--remove-owner"), path)


def _spelling(manifest: Manifest, pem: str, source: Path) -> str:
    """The owner's key as the manifest spells it: signatures are looked up by that."""
    key = load_verification_key(pem)
    for owner in manifest.owners:
        if load_verification_key(owner) == key:
            return owner
    raise BadRequest(f"{source} is the key of nobody who is an owner in the manifest in force")
