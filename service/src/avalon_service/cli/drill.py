"""``avalon drill``: prove that a recovery file and owners' keys restore a pool."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from avalon_core.protocol.workers import WorkerRecord
    from avalon_service.pool.drill import DrillPlan, Outcome

_EXIT_FAILED = 1
_EXIT_USAGE = 2
_MAX_KEY_BYTES = 1024
_FETCH_SECONDS = 30.0


def command(
    recovery: Annotated[
        Path,
        typer.Argument(
            metavar="RECOVERY", help="The recovery file, of `avalon pool shares`.", show_default=False
        ),
    ],
    key: Annotated[
        list[Path],
        typer.Option(
            "--key",
            metavar="FILE",
            help="An owner's recovery key, of `avalon pool recovery-key`, readable by you alone. Once for each.",
            show_default=False,
        ),
    ],
    manifest: Annotated[
        Path,
        typer.Option("--manifest", metavar="FILE", help="The pool's first manifest.", show_default=False),
    ],
    change: Annotated[
        list[Path] | None,
        typer.Option("--change", metavar="FILE", help="Each change since then, in order. May be repeated."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="AVALON_URL",
            help="A service that runs the pool: what is restored must be what it has now. [default: not compared]",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The TOML file of settings that `avalon up --config` would be given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prove that a recovery file and owners' keys restore a pool, without touching the pool.

    A key management enclave of its own is started from this installation, shows its evidence, gets the shares if that
    passes the pool's own manifest, and must announce and sign the pool's record. Then it is ended, and nothing is left
    of it. No key is shown, written or sent anywhere but, sealed, into that enclave. Exit codes: 0 it works, 1 it does
    not, 2 usage.

    Examples:

        avalon drill recovery.json --key alice.key --key bob.key --manifest first.json

        avalon drill recovery.json --key alice.key --key bob.key --manifest first.json --url http://127.0.0.1:1947
    """
    # Imported here: `avalon --help` lists this command and must not load a server for it.
    import uvloop

    from avalon_core.errors import AvalonError
    from avalon_service.pool.drill import DrillFailed, Proved, run_drill

    def tell(step: Proved) -> None:
        if not as_json:
            typer.echo(f"  {step.seconds:6.2f} s  {step.words}")

    async def drill() -> Outcome:
        return await run_drill(await _plan(recovery, key, manifest, change or [], url, config), tell)

    # What a log would say of a service is of no use here: the steps are told, and that it is SIMULATED.
    logging.getLogger("avalon_service").addHandler(logging.NullHandler())
    try:
        outcome = uvloop.run(drill())
    except DrillFailed as exc:
        _tell_failure(exc, as_json=as_json)
        raise typer.Exit(_EXIT_FAILED) from None
    except AvalonError as exc:
        if as_json:
            typer.echo(json.dumps({"recovered": False, "error": exc.message}))
        typer.echo(f"avalon drill: {exc.message}", err=True)
        raise typer.Exit(_EXIT_USAGE) from None
    if as_json:
        typer.echo(json.dumps(_as_json(outcome)))
        return
    mark = " SIMULATED: this KME protected nothing." if outcome.simulated else ""
    typer.echo(
        f"The pool {outcome.pool[:16]} can be recovered; it took {outcome.seconds:.1f} s. Nothing is left of the drill.{mark}"
    )
    if not outcome.compared:
        typer.echo("Whether these are the keys that the pool has now was not compared: give --url for that.")


async def _plan(
    recovery: Path,
    keys: list[Path],
    manifest: Path,
    changes: list[Path],
    url: str | None,
    config: Path | None,
) -> DrillPlan:
    from avalon_core.crypto.recovery import owner_key_from_hex, read_recovery
    from avalon_core.errors import KeyFormatError
    from avalon_sdk.cli.manifest_files import (
        MAX_RECOVERY_BYTES,
        read_as,
        read_chain,
        read_change_file,
        read_manifest_file,
        read_secret,
    )
    from avalon_sdk.errors import BadRequest
    from avalon_service.pool.drill import DrillPlan
    from avalon_service.settings import SettingsError, load_settings

    try:
        settings = load_settings(command_line={}, environment=os.environ, file=config).settings
    except SettingsError as exc:
        raise BadRequest(str(exc)) from exc
    _, in_force = read_chain(manifest, changes)
    owners = []
    for path in keys:
        try:
            owners.append(owner_key_from_hex(read_secret(path, "--key", _MAX_KEY_BYTES).decode("ascii")))
        except (KeyFormatError, UnicodeDecodeError):
            # Nothing of the file's content goes into the message.
            raise BadRequest(
                f"--key: {path} is not an owner's recovery key, as 'avalon pool recovery-key' makes it"
            ) from None
    return DrillPlan(
        settings=settings,
        recovery=read_as(recovery, "RECOVERY", MAX_RECOVERY_BYTES, read_recovery),
        first_manifest=read_manifest_file(manifest, "--manifest").encoded,
        changes=[read_change_file(path, "--change") for path in changes],
        keys=owners,
        living=await _living(url, in_force.worker_name) if url is not None else None,
    )


async def _living(url: str, worker_name: str) -> WorkerRecord:
    """The record of the pool as it runs. It is compared and not believed, so that it needs no appraisal."""
    from avalon_core.protocol.ids import worker_id_of
    from avalon_core.protocol.workers import decode_record
    from avalon_sdk.transports.direct import DirectTransport

    transport = DirectTransport(url)
    try:
        return decode_record(
            await transport.retrieve_worker(worker_id_of(worker_name), timeout=_FETCH_SECONDS)
        )
    finally:
        await transport.close()


def _tell_failure(failed: Any, *, as_json: bool) -> None:
    from avalon_core.attestation.reports import report_to_object

    if as_json:
        report = report_to_object(failed.report) if failed.report is not None else None
        typer.echo(json.dumps({"recovered": False, "error": str(failed), "report": report}))
    elif failed.report is not None:
        for check in failed.report.problems:
            typer.echo(
                f"  {check.name} {check.verdict}: got {check.found}, expected {check.expected}", err=True
            )
    typer.echo(f"avalon drill: {failed}", err=True)


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "recovered": True,
        "pool": outcome.pool,
        "manifest_version": outcome.manifest_version,
        "epochs": list(outcome.epochs),
        "simulated": outcome.simulated,
        "compared": outcome.compared,
        "seconds": round(outcome.seconds, 3),
        "steps": [{"words": step.words, "seconds": round(step.seconds, 3)} for step in outcome.steps],
    }
