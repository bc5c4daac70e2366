"""Puts a pool's host together from the settings: its files, its first manifest, how its enclaves are launched."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from avalon_core.channel.launch import measured_settings
from avalon_core.channel.messages import Configure
from avalon_core.crypto.manifests import Manifest, read_manifest
from avalon_core.errors import EvidenceError
from avalon_service.hosts.evidence import CollateralSource
from avalon_service.hosts.process import EnclaveCommand
from avalon_service.hosts.receipts import ReceiptDesk
from avalon_service.orders.ports import Store
from avalon_service.pool.files import PoolFiles
from avalon_service.pool.host import PoolHost, PoolUnusable
from avalon_service.registry.requesters import RequesterKeys
from avalon_service.settings import Settings

_MEASURE_SECONDS = 60.0
_MAX_MANIFEST_BYTES = 256 * 1024


async def open_pool(
    settings: Settings,
    *,
    store: Store,
    directory: Path,
    requesters: RequesterKeys,
    receipts: ReceiptDesk,
    command: Callable[[str, str, Mapping[str, str]], EnclaveCommand],
    collateral: CollateralSource | None = None,
) -> PoolHost:
    """The host of the pool that the settings describe; a new pool where there is none yet.

    Args:
        settings: all of them.
        store: of orders and workers.
        directory: of this pool.
        requesters: whose orders must be signed.
        receipts: of the service.
        command: (role, name, measured settings) to how such an enclave is launched.
        collateral: adds to the pool's record what vendors publish; None: it is as the KMEs made it.

    Raises:
        PoolUnusable: the manifest cannot be read, or the enclaves of this installation cannot be measured.
    """
    measured = measured_settings(
        Configure(worker_name=settings.worker_name, keys="fresh", accept_legacy=settings.accepts_legacy)
    )
    files = PoolFiles(directory)
    if files.first_manifest is None:
        files.begin(
            _given_manifest(settings) if settings.pool_manifest else await _own_manifest(settings, measured)
        )
        files.note_new()
    return PoolHost(
        settings=settings,
        orders=store.orders,
        workers=store.workers,
        files=files,
        requesters=requesters,
        receipts=receipts,
        command=lambda role, name: command(role, name, measured),
        measured=measured,
        collateral=collateral,
    )


def _given_manifest(settings: Settings) -> Manifest:
    """Of the given manifests the one of this worker."""
    found = [_read_manifest(Path(name)) for name in settings.pool_manifest]
    for manifest in found:
        if manifest.worker_name == settings.worker_name:
            return manifest
    named = ", ".join(repr(manifest.worker_name) for manifest in found)
    raise PoolUnusable(
        f"pool_manifest: none is of the worker {settings.worker_name!r}, which begins a pool: got manifests of {named}"
    )


def _read_manifest(path: Path) -> Manifest:
    try:
        with path.open("rb") as file:
            return read_manifest(file.read(_MAX_MANIFEST_BYTES + 1))
    except OSError as exc:
        raise PoolUnusable(f"pool_manifest: {path} cannot be read: {exc.strerror}") from exc
    except EvidenceError as exc:
        raise PoolUnusable(
            f"pool_manifest: {path}: {exc.message}; 'avalon pool manifest' writes one"
        ) from exc


async def _own_manifest(settings: Settings, measured: Mapping[str, str]) -> Manifest:
    """A manifest that admits what is installed here. For development: it says nothing that an owner has decided."""
    if settings.is_production:
        raise PoolUnusable(
            "the production profile begins a pool only with a manifest that its owners have written: set pool_manifest "
            "('avalon pool manifest' writes one)"
        )
    kme, wpe = await asyncio.gather(measure("kme", measured), measure("wpe", measured))
    return Manifest(
        worker_name=settings.worker_name,
        kme_measurements=(kme,),
        wpe_measurements=(wpe,),
        roots=("simulator",),
        max_wpes=max(64, settings.pool_wpes + settings.pool_spares),
        accept_legacy=settings.accepts_legacy,
    )


async def measure(role: str, measured: Mapping[str, str]) -> str:
    """The measurement that an enclave of this installation has on the simulated platform: 64 hex digits.

    Raises:
        PoolUnusable: it cannot be measured.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "avalon_enclave.measurement",
        "--json",
        "--role",
        role,
        *(argument for name, value in measured.items() for argument in ("--config", f"{name}={value}")),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "TZ") if name in os.environ},
    )
    try:
        async with asyncio.timeout(_MEASURE_SECONDS):
            said, complaint = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise PoolUnusable(
            f"the {role} of this installation was not measured within {_MEASURE_SECONDS:g} s"
        ) from None
    if process.returncode != 0:
        raise PoolUnusable(
            f"the {role} of this installation cannot be measured: {complaint.decode(errors='replace')[:500]}"
        )
    return str(json.loads(said)["measurement"])
