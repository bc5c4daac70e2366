"""``avalon collateral``: fetch what evidence needs, carry it, and say when it ends."""

import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from avalon_core.attestation.bundles import merged
from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.errors import EvidenceError
from avalon_sdk.cli.attesting import EvidenceArguments, evidence_of
from avalon_sdk.cli.exits import ExitCode, exit_code_of
from avalon_sdk.cli.output import complain, remark, show, show_json
from avalon_sdk.collateral import (
    CollateralCache,
    CollateralClient,
    CollateralSettings,
    Fetched,
    Importer,
    Piece,
    endings,
    read_bundle,
    write_bundle,
)
from avalon_sdk.collateral.fetching import DEFAULT_SECONDS
from avalon_sdk.collateral.settings import AMD_KDS, INTEL_PCS, INTEL_ROOT_CRL
from avalon_sdk.errors import BadRequest

_DAY = 24 * 3600
_MAX_KEY_BYTES = 256
_OTHERS = 0o077


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOptions:
    """Whom to ask, and what to keep."""

    pccs: str | None = None
    pcs: str | None = None
    root_crl: str | None = None
    kds: str | None = None
    ca_file: Path | None = None
    pcs_key_file: Path | None = None
    cache: Path | None = None
    offline: bool = False
    refresh: bool = False
    timeout: float = DEFAULT_SECONDS

    def settings(self) -> CollateralSettings:
        """The services.

        Raises:
            BadRequest: an address that may not be called, or two for one service.
        """
        if self.pccs is not None and self.pcs is not None:
            raise BadRequest("--pccs and --pcs: expected one of them")
        key = None if self.pcs_key_file is None else _KeyFile(self.pcs_key_file)
        return CollateralSettings(
            intel_url=self.pccs or self.pcs or INTEL_PCS,
            intel_kind="pcs" if self.pccs is None else "pccs",
            intel_root_crl_url=self.root_crl or INTEL_ROOT_CRL,
            intel_key=key,
            amd_url=self.kds or AMD_KDS,
        )

    def client(self) -> CollateralClient:
        """A client of them, to be closed.

        Raises:
            BadRequest: see :meth:`settings`; or the file of certificates cannot be used; or --offline and --refresh.
        """
        if self.offline and self.refresh:
            raise BadRequest("--offline and --refresh: expected one of them")
        return CollateralClient(
            self.settings(),
            cache=CollateralCache(self.cache),
            offline=self.offline,
            refresh=self.refresh,
            tls=None if self.ca_file is None else _tls(self.ca_file),
        )


class _KeyFile:
    """Reads Intel's subscription key from its file each time that it is needed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self) -> str:
        try:
            if self._path.stat().st_mode & _OTHERS:
                raise BadRequest(f"--pcs-key-file: others can read {self._path}: chmod 600 it")
            with self._path.open("rb") as file:
                key = file.read(_MAX_KEY_BYTES + 1).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise BadRequest(
                f"--pcs-key-file: {self._path} cannot be read: expected a line of ASCII"
            ) from exc
        if not key.isalnum() or len(key) > _MAX_KEY_BYTES:
            raise BadRequest(f"--pcs-key-file: {self._path} holds no key: expected letters and digits")
        return key


async def fetched_for(evidence: Sequence[Evidence], options: FetchOptions | None = None) -> Fetched:
    """What evidence needs; says on stderr what is stale, and what could not be had.

    This is what ``avalon attest verify --fetch`` calls: what is missing then is a check that could not be made.

    Raises:
        BadRequest: options that cannot be.
        EvidenceError: evidence that cannot be read.
    """
    options = options or FetchOptions()
    async with options.client() as client:
        fetched = await client.prefetch(*evidence, timeout=options.timeout)
    for piece in fetched.stale:
        remark(f"stale: {_stale(piece)}")
    for problem in fetched.problems:
        complain(str(problem))
    for note in fetched.notes:
        remark(f"nothing to fetch: {note}")
    return fetched


async def collateral_for(evidence: Evidence, options: FetchOptions | None = None) -> Collateral:
    """The collateral alone: see :func:`fetched_for`. Evidence that cannot be read needs none: the verdict says so."""
    try:
        return (await fetched_for([evidence], options)).collateral
    except EvidenceError as exc:
        remark(f"nothing fetched: {exc.message}")
        return NO_COLLATERAL


async def collateral_for_file(
    path: Path, arguments: EvidenceArguments, options: FetchOptions | None = None
) -> Collateral:
    """The same for a file with what its options add: what comes along with the evidence is not asked for.

    Raises:
        BadRequest: the file or an option's file cannot be read, or options that cannot be.
    """
    try:
        evidence = evidence_of(path, arguments).evidence
    except EvidenceError:
        # Whoever verifies it says so in the verdict.
        return NO_COLLATERAL
    return await collateral_for(evidence, options)


async def fetch_files(
    paths: Sequence[Path], options: FetchOptions, *, within: float, as_json: bool
) -> ExitCode:
    """Fetch what the evidence in these files needs, and say what came."""
    fetched = await fetched_for(_read_evidence(paths), options)
    _report(fetched, as_json=as_json)
    _warn(fetched.collateral, within)
    return _code_of(fetched, options)


async def export_files(
    paths: Sequence[Path], out: Path, options: FetchOptions, *, within: float, as_json: bool
) -> ExitCode:
    """Fetch, and write a bundle where everything is there."""
    fetched = await fetched_for(_read_evidence(paths), options)
    if fetched.problems:
        complain(f"{out} is not written: something is missing")
        return exit_code_of(fetched.problems[0])
    write_bundle(out, fetched.collateral)
    _report(fetched, as_json=as_json, out=out)
    _warn(fetched.collateral, within)
    return _code_of(fetched, options)


async def import_files(
    paths: Sequence[Path], options: FetchOptions, *, within: float, as_json: bool
) -> ExitCode:
    """Put bundles into the cache."""
    collateral = merged(read_bundle(path) for path in paths)
    cache = CollateralCache(options.cache)
    try:
        imported = Importer(cache, options.settings(), now=_now).add(collateral)
    except EvidenceError as exc:
        raise BadRequest(f"the bundle cannot be used: {exc.message}") from exc
    if as_json:
        show_json(
            {
                "version": 1,
                "cache": str(cache.directory),
                "kept": imported.kept,
                "older": imported.older,
                "left_out": imported.left_out,
            }
        )
    else:
        for what in imported.kept:
            show(f"kept      {what}")
        for what in imported.older:
            show(f"not kept  {what}: the cache has one that ends later")
    for what in imported.left_out:
        remark(f"left out: {what}. Give the file itself to 'avalon attest verify --collateral'")
    _warn(collateral, within)
    return ExitCode.OK


async def show_cache(directory: Path | None, *, within: float, checks: bool, as_json: bool) -> ExitCode:
    """List what is in the cache."""
    cache = CollateralCache(directory)
    now = _now()
    answers = sorted(cache.answers(), key=lambda one: (one.ends or 0, one.what))
    if as_json:
        entries = [
            {
                "what": one.what,
                "url": one.url,
                "found": one.found,
                "bytes": len(one.body),
                "stored_at": one.stored_at,
                "fresh_until": one.fresh_until,
                "ends": one.ends,
            }
            for one in answers
        ]
        show_json({"version": 1, "cache": str(cache.directory), "answers": entries})
    else:
        show(f"{cache.directory}: {len(answers)} answers", "bold")
        for one in answers:
            state = "fresh" if now < one.fresh_until else "to be asked again"
            found = "" if one.found else "  NONE"
            show(f"{_day(one.ends)}  {one.what}{found}  ({state}, of {_day(one.stored_at)})")
    ends = [(one.what, one.ends) for one in answers if one.found and one.ends is not None]
    return _warn_of(ends, within, checks=checks)


async def show_files(paths: Sequence[Path], *, within: float, checks: bool, as_json: bool) -> ExitCode:
    """List what is in files."""
    found = _endings(merged(read_bundle(path) for path in paths))
    if as_json:
        show_json({"version": 1, "parts": [{"what": what, "ends": ends} for what, ends in found]})
    else:
        for what, ends in found:
            show(f"{_day(ends)}  {what}")
    return _warn_of(found, within, checks=checks)


def _read_evidence(paths: Sequence[Path]) -> list[Evidence]:
    found = []
    for path in paths:
        try:
            found.append(evidence_of(path, EvidenceArguments()).evidence)
        except EvidenceError as exc:
            raise BadRequest(f"{path}: {exc.message}") from exc
    return found


def _report(fetched: Fetched, *, as_json: bool, out: Path | None = None) -> None:
    if as_json:
        show_json(
            {
                "version": 1,
                "out": None if out is None else str(out),
                "pieces": [_as_json(piece) for piece in fetched.pieces],
                "problems": [str(problem) for problem in fetched.problems],
                "notes": fetched.notes,
            }
        )
        return
    for piece in fetched.pieces:
        show(f"{piece.origin:<8}{_day(piece.ends)}  {piece.what}")
    if out is not None:
        show(f"written to {out}", "bold")


def _as_json(piece: Piece) -> dict[str, Any]:
    return {
        "what": piece.what,
        "url": piece.url,
        "origin": piece.origin.value,
        "stored_at": piece.stored_at,
        "ends": piece.ends,
        "reason": piece.reason,
    }


def _code_of(fetched: Fetched, options: FetchOptions) -> ExitCode:
    if fetched.problems:
        return exit_code_of(fetched.problems[0])
    return ExitCode.UNREACHABLE if fetched.stale and not options.offline else ExitCode.OK


def _warn(collateral: Collateral, within: float) -> None:
    _warn_of(_endings(collateral), within, checks=False)


def _warn_of(found: Sequence[tuple[str, int]], within: float, *, checks: bool) -> ExitCode:
    now, ended = _now(), False
    for what, ends in found:
        if ends > now + within * _DAY:
            continue
        ended = True
        if ends <= now:
            remark(f"ENDED on {_day(ends)}: {what}. 'avalon collateral fetch --refresh' asks for a newer one")
        else:
            left = timedelta(seconds=ends - now)
            remark(f"ends in {left.days} d {left.seconds // 3600} h, on {_day(ends)}: {what}")
    return ExitCode.FAILED if ended and checks else ExitCode.OK


def _endings(collateral: Collateral) -> list[tuple[str, int]]:
    try:
        return [(ending.what, int(ending.ends.timestamp())) for ending in endings(collateral)]
    except EvidenceError as exc:
        raise BadRequest(f"the collateral cannot be read: {exc.message}") from exc


def _stale(piece: Piece) -> str:
    ended = " and HAS ENDED" if piece.has_ended(_now()) else ""
    return f"{piece.what}, fetched on {_day(piece.stored_at)}{ended}: {piece.reason}"


def _tls(path: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(path))
    except (OSError, ssl.SSLError) as exc:
        raise BadRequest(f"--ca-file: {path} holds no certificates in PEM that can be used: {exc}") from exc


def _day(at: int | None) -> str:
    return "          " if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"


def _now() -> int:
    return int(time.time())
