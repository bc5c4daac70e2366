"""A pool as processes: who is who among them, what the operator can have it do, and manifests to begin it with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
from foreign_worker import call_as, token_of
from service_process import WORKER_NAME, Requester, ServiceProcess

from avalon_core.crypto.manifests import Manifest, SignedManifest, digest_of, encode_manifest, sign_manifest
from avalon_core.crypto.signing import SigningKey

POOL = {"AVALON_POOL": "true"}


def of_role(service: ServiceProcess, role: str) -> list[psutil.Process]:
    """The enclaves of a role, the oldest first: told by their command lines, as an operator would."""
    found = []
    for enclave in service.enclaves():
        try:
            command = enclave.cmdline()
        except psutil.Error:
            continue
        if command[command.index("--role") + 1] == role:
            found.append(enclave)
    return sorted(found, key=lambda process: (process.create_time(), process.pid))


def pids(service: ServiceProcess, role: str) -> set[int]:
    return {process.pid for process in of_role(service, role)}


async def command(service: ServiceProcess, requester: Requester, method: str, **params: Any) -> Any:
    """A method for the operator; its result, or the error as it came."""
    answer = await call_as(requester, token_of(service), method, params)
    return answer.get("result", answer)


async def status_of(service: ServiceProcess, requester: Requester) -> Any:
    return await command(service, requester, "PoolStatus")


def measured(role: str, pythonpath: Path | None = None) -> str:
    """The measurement of an enclave of this installation, as the service launches it in the development profile."""
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    if pythonpath is not None:
        environment["PYTHONPATH"] = str(pythonpath)
    arguments = ["--json", "--role", role, "--config", "accept_legacy=true"]
    said = subprocess.run(
        [sys.executable, "-P", "-m", "avalon_enclave.measurement", *arguments],
        env=environment,
        capture_output=True,
        check=True,
    ).stdout
    return str(json.loads(said)["measurement"])


def manifest(**members: Any) -> Manifest:
    """A first manifest that admits this installation."""
    return Manifest(
        **{
            "worker_name": WORKER_NAME,
            "kme_measurements": (measured("kme"),),
            "wpe_measurements": (measured("wpe"),),
            "roots": ("simulator",),
            "accept_legacy": True,
            **members,
        }
    )


def begun_with(first: Manifest, folder: Path) -> dict[str, str]:
    """The environment of a service whose pool begins with this manifest."""
    file = folder / "manifest.json"
    file.write_bytes(encode_manifest(first))
    return POOL | {"AVALON_POOL_MANIFEST": str(file)}


def changed(before: Manifest, owners: Sequence[SigningKey], **members: Any) -> str:
    """A change of the manifest that these owners have signed: what PoolChange takes."""
    now = encode_manifest(before)
    then = msgspec.structs.replace(
        before, version=before.version + 1, previous=digest_of(now).hex(), **members
    )
    text = encode_manifest(then)
    signed = SignedManifest(manifest=text, signatures=dict(sign_manifest(text, owner) for owner in owners))
    return msgspec.json.encode(signed).decode()
