"""A pool's life as its operator and its owners meet it: with the command line and files, and nothing else."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pool_service import of_role
from service_process import AVALON, ServiceProcess, wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240)]

Start = Callable[..., ServiceProcess]
OWNERS = ("alice", "bob", "carol")
NAME = "heart"


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Desk:
    """A folder with everybody's files, and the command in it. (In earnest each owner has a machine of its own.)"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.secrets: list[str] = []
        folder.mkdir()
        for name in OWNERS:
            self._make_owner(name)

    def _make_owner(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256K1())
        private = self.folder / f"{name}.pem"
        private.touch(0o600)
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        (self.folder / f"{name}.pub.pem").write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        (self.folder / f"{name}.pub").write_text(self.done("pool", "recovery-key", f"{name}.key").out)
        self.secrets.append((self.folder / f"{name}.key").read_text().strip()[:32])

    def run(self, *arguments: str) -> Ran:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AVALON_")}
        token = self.folder.parent / "data" / "operator-token"
        environment = clean | {"COLUMNS": "200", "AVALON_OPERATOR_TOKEN_FILE": str(token)}
        if self.url:
            environment["AVALON_URL"] = self.url
        ran = subprocess.run(
            [AVALON, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        for secret in self.secrets:
            assert secret not in ran.stdout + ran.stderr
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def done(self, *arguments: str) -> Ran:
        ran = self.run(*arguments)
        assert ran.code == 0, f"avalon {' '.join(arguments)}: {ran.code}\n{ran.out}\n{ran.err}"
        return ran

    def measured(self, role: str) -> str:
        return str(self.done("measure", "--role", role, "--json").json["measurement"])

    def begin(self) -> None:
        """The first manifest: 2 of 3 owners change it, 2 of 3 shares restore the pool."""
        options = []
        for name in OWNERS:
            options += ["--owner", f"{name}.pub.pem", "--recovery-key", f"{name}.pub"]
        self.done(
            *("pool", "manifest", "--worker-name", NAME, "--root", "simulator", "--accept-legacy"),
            *("--kme", self.measured("kme"), "--wpe", self.measured("wpe")),
            *(*options, "--quorum", "2", "--threshold", "2", "--out", "first.json"),
        )

    @property
    def environment(self) -> dict[str, str]:
        """Of the service."""
        return {"AVALON_POOL_MANIFEST": str(self.folder / "first.json"), "AVALON_WORKER_NAME": NAME}

    def status(self) -> Any:
        return json.loads(self.run("pool", "status", "--json").out)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path / "desk")
    desk.begin()
    return desk


def submit(desk: Desk, text: str) -> Ran:
    return desk.run("submit", "echo-result", text, "--policy", "development", "--timeout", "60")


def test_operator_and_owners_run_a_pool(desk: Desk, start: Start) -> None:
    service = start("--pool", environment=desk.environment).wait_ready()
    desk.url = service.url

    # Look at it.
    shown = desk.done("pool", "status")
    assert "SIMULATED" in shown.err
    assert f"{NAME}  serving" in shown.out
    status = desk.status()
    assert [kme["state"] for kme in status["kmes"]] == ["serving", "serving"]
    assert (status["epoch"], status["manifestVersion"], status["rollbacks"]) == (1, 1, 0)
    assert status["pool"] == desk.done("pool", "show", "first.json", "--json").json["digest"]
    assert submit(desk, "one").out.strip() == "RESULT: one"

    # New keys: both KMEs have them, and old recovery files tell that they are old.
    desk.done("pool", "shares", "--out", "before.json")
    drill = ("--key", "alice.key", "--key", "carol.key", "--manifest", "first.json")
    assert "the living pool's" in desk.done("drill", "before.json", *drill).out
    assert desk.done("pool", "rotate", "--json").json == {"epoch": 2}
    wait_until(lambda: all(len(kme["enclave"]["epochs"]) == 2 for kme in desk.status()["kmes"]))
    wait_until(lambda: desk.status()["epoch"] == 2)
    old = desk.run("drill", "before.json", *drill)
    assert old.code == 1
    assert "older than the last rotation" in old.err
    assert submit(desk, "two").out.strip() == "RESULT: two"

    # A new version of the WPE, and the old one no longer: two owners decide, one does not.
    new = "93" * 32
    desk.done("pool", "amend", "first.json", "--add-wpe", new, "--out", "change-2.json")
    desk.done("pool", "sign", "change-2.json", "--key", "alice.pem", "--manifest", "first.json")
    assert desk.run("pool", "show", "change-2.json", "--manifest", "first.json").code == 1
    refused = desk.run("pool", "change", "change-2.json")
    assert refused.code == 1
    assert "1 owners have signed the change, expected 2" in refused.err
    assert desk.status()["manifestVersion"] == 1
    desk.done("pool", "sign", "change-2.json", "--key", "bob.pem", "--manifest", "first.json")
    assert desk.run("pool", "show", "change-2.json", "--manifest", "first.json").code == 0
    assert desk.done("pool", "change", "change-2.json", "--json").json == {"version": 2}
    wait_until(lambda: desk.status()["manifestVersion"] == 2)
    assert submit(desk, "three").out.strip() == "RESULT: three"

    # The drill proves that all of this could be recovered, and touches nothing.
    desk.done("pool", "shares", "--out", "recovery.json")
    before = set(service.enclaves())
    drill = (*drill, "--change", "change-2.json")
    proved = desk.done("drill", "recovery.json", *drill, "--json").json
    assert (proved["recovered"], proved["epochs"], proved["compared"]) == (True, [2, 1], True)
    assert set(service.enclaves()) == before
    assert desk.status()["rollbacks"] == 0

    # A restart keeps keys and manifest.
    assert service.stop() == 0
    again = start("--pool", environment=desk.environment).wait_ready()
    desk.url = again.url
    status = desk.status()
    assert (status["epoch"], status["manifestVersion"]) == (2, 2)
    assert again.stop() == 0


def test_a_drained_pool_finishes_and_takes_nothing_more(desk: Desk, start: Start) -> None:
    service = start("--pool", environment=desk.environment).wait_ready()
    desk.url = service.url
    desk.done("pool", "drain")
    wait_until(lambda: all(wpe["state"] == "stopped" for wpe in desk.status()["wpes"]))
    assert desk.run("pool", "status").code == 0
    assert desk.status()["state"] == "draining"
    assert not of_role(service, "wpe")
    waits = desk.run(
        *("submit", "echo-result", "x", "--policy", "development", "--timeout", "3", "--no-wait")
    )
    assert waits.code in (0, 3), waits.err
    assert service.stop() == 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def test_when_all_kmes_are_lost_the_owners_bring_the_pool_back(
    desk: Desk, start: Start, tmp_path: Path
) -> None:
    service = start("--pool", environment=desk.environment).wait_ready()
    desk.url = service.url
    desk.done("pool", "shares", "--out", "recovery.json")
    # What is signed after the shares were made holds after the recovery, too.
    desk.done("pool", "amend", "first.json", "--max-wpes", "9", "--out", "change-2.json")
    for name in ("bob", "carol"):
        desk.done("pool", "sign", "change-2.json", "--key", f"{name}.pem")
    desk.done("pool", "change", "change-2.json")
    key = _verification_key(desk)
    assert service.stop() == 0

    sealed = list((tmp_path / "data" / "pools").glob("*/*/sealed"))
    assert len(sealed) == 2
    for path in sealed:
        path.unlink()
    lost = start("--pool", environment=desk.environment)
    assert lost.process.wait(60) == 3
    assert "recover the pool from the owners' shares" in lost.log

    # The operator begins; nothing is announced before the pool is back, so the port is one that is known.
    port = _free_port()
    back = start("--pool", "--recover", port=port, environment=desk.environment)
    desk.url = f"http://127.0.0.1:{port}"
    wait_until(lambda: desk.run("pool", "recover", "recovery.json", "--out", "kme.json").code == 0, 60)
    assert desk.run("pool", "status").code == 3

    # Each owner judges the KME, and hands its share back.
    judged = ("--kme", "kme.json", "--manifest", "first.json", "--change", "change-2.json")
    for name in ("alice", "carol"):
        desk.done(
            "pool", "hand-back", "recovery.json", *judged, "--key", f"{name}.key", "--out", f"{name}.share"
        )
    assert "1 of 2 shares" in desk.done("pool", "return", "alice.share").out
    assert "has the pool's keys again" in desk.done("pool", "return", "carol.share").out
    back.wait_ready()
    wait_until(lambda: all(kme["state"] == "serving" for kme in desk.status()["kmes"]))
    assert desk.status()["manifestVersion"] == 2
    assert _verification_key(desk) == key
    assert submit(desk, "back").out.strip() == "RESULT: back"
    # A share that was used does not come back.
    assert desk.run("pool", "return", "alice.share").code == 1
    assert back.stop() == 0


def _verification_key(desk: Desk) -> str:
    from avalon_sdk.sync import Client

    with pytest.warns(), Client(desk.url) as client:
        return client.find_worker(NAME).record.details.worker_type_data.verification_key
