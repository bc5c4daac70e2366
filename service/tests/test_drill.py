"""``avalon drill`` with real enclave processes: it proves what it says, refuses what it must, and leaves nothing."""

import asyncio
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil
import pytest
import typer
from typer.testing import CliRunner

from avalon_core.attestation.policy import TrustPolicy
from avalon_core.attestation.rules import Measurements
from avalon_core.channel.launch import measured_settings
from avalon_core.channel.messages import Configure
from avalon_core.channel.pool_messages import PoolConfigure, RecordChanged
from avalon_core.crypto.manifests import (
    Manifest,
    SignedManifest,
    digest_of,
    encode_manifest,
    read_manifest,
    sign_manifest,
)
from avalon_core.crypto.recovery import Recovery, read_recovery
from avalon_core.crypto.sealing import HpkePrivateKey
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.workers import WorkerRecord, decode_details
from avalon_service.cli import drill as cli
from avalon_service.hosts.process import EnclaveCommand, start
from avalon_service.hosts.quoting import QuotingManager
from avalon_service.pool import drill
from avalon_service.pool.assembly import measure
from avalon_service.pool.drill import DrillFailed, DrillPlan, run_drill
from avalon_service.settings import Settings

OWNER = SigningKey.generate()
KEYS = [HpkePrivateKey.generate() for _ in range(3)]
SETTINGS = Settings(worker_name="heart")
MEASURED = measured_settings(
    Configure(worker_name="heart", keys="fresh", accept_legacy=SETTINGS.accepts_legacy)
)


@dataclass
class World:
    """A pool that was, and what is left of it."""

    first: bytes
    recovery: Recovery
    record: WorkerRecord
    """As it was when the recovery file was made."""

    rotated: WorkerRecord
    """As it was after a rotation."""

    def plan(self, **changes) -> DrillPlan:
        given = {
            "settings": SETTINGS,
            "recovery": self.recovery,
            "first_manifest": self.first,
            "changes": (),
            "keys": KEYS[:2],
            **changes,
        }
        return DrillPlan(**given)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return asyncio.run(_make_world(tmp_path_factory.mktemp("pool")))


async def _make_world(folder: Path) -> World:
    first = encode_manifest(
        Manifest(
            worker_name="heart",
            kme_measurements=(await measure("kme", MEASURED),),
            wpe_measurements=("00" * 32,),
            roots=("simulator",),
            owners=(OWNER.verification_key.pem,),
            quorum=1,
            recovery_keys=tuple(key.public_key.hex for key in KEYS),
            recovery_threshold=2,
        )
    )
    records: asyncio.Queue[RecordChanged] = asyncio.Queue()
    quoting = QuotingManager()
    await quoting.start()
    try:
        kme, _ = await start(
            EnclaveCommand(
                role="kme",
                platform="simulated",
                platform_state=folder / "platform",
                quoting_socket=quoting.socket_path,
                measured=MEASURED,
                name="kme-1",
            ),
            Configure(
                worker_name="heart",
                keys="fresh",
                accept_legacy=SETTINGS.accepts_legacy,
                pool=PoolConfigure(first_manifest=first, start="create", alone=True),
            ),
            lambda _: None,
            30.0,
            on_pool=lambda _, said: records.put_nowait(said) if isinstance(said, RecordChanged) else None,
        )
        async with asyncio.timeout(30):
            before = await records.get()
            shares = await kme.command("shares", b"", 20.0)
            await kme.command("rotate", b'{"expected":1}', 20.0)
            while (after := await records.get()).epoch == before.epoch:
                pass
        await kme.shut_down(10.0)
    finally:
        await quoting.stop()
    assert shares.ok, shares.text
    return World(first, read_recovery(shares.text), _record(before), _record(after))


def _record(changed: RecordChanged) -> WorkerRecord:
    return WorkerRecord(
        worker_type=1,
        organization_id="",
        application_type_id="",
        details=decode_details(changed.details),
        status=1,
    )


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No process outlives a drill, however it ends."""

    def running():
        return {child.pid for child in psutil.Process().children(recursive=True)}

    before = running()
    yield
    assert running() <= before


@pytest.fixture
def own_tmp(tmp_path, monkeypatch):
    """Temporary folders of this test alone. Short, for the sake of sockets."""
    with tempfile.TemporaryDirectory(prefix="d-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


async def test_a_recovery_file_and_enough_keys_restore_the_pool(world, own_tmp):
    told = []
    outcome = await run_drill(world.plan(living=world.record), told.append)
    assert outcome.pool == digest_of(world.first).hex()
    assert (outcome.manifest_version, list(outcome.epochs)) == (1, [1])
    assert outcome.simulated
    assert outcome.compared
    assert told == outcome.steps
    assert len(told) == 8
    assert 0 < sum(step.seconds for step in told) <= outcome.seconds
    assert list(own_tmp.iterdir()) == []


async def test_any_of_the_owners_will_do_and_more_do_no_harm(world):
    assert not (await run_drill(world.plan(keys=[KEYS[2], KEYS[0]]))).compared
    await run_drill(world.plan(keys=[*KEYS, HpkePrivateKey.generate()]))


async def test_a_recovery_file_from_before_the_last_rotation_fails(world):
    with pytest.raises(DrillFailed, match="older than the last rotation"):
        await run_drill(world.plan(living=world.rotated))


async def test_another_pool_s_record_fails(world):
    details = world.record.details
    data = msgspec.structs.replace(
        details.worker_type_data, verification_key=SigningKey.generate().verification_key.pem
    )
    other = msgspec.structs.replace(
        world.record, details=msgspec.structs.replace(details, worker_type_data=data)
    )
    with pytest.raises(DrillFailed, match="another verification key"):
        await run_drill(world.plan(living=other))


def _changed(first: bytes, **values) -> SignedManifest:
    manifest = encode_manifest(
        msgspec.structs.replace(read_manifest(first), version=2, previous=digest_of(first).hex(), **values)
    )
    return SignedManifest(manifest=manifest, signatures=dict([sign_manifest(manifest, OWNER)]))


async def test_a_kme_that_does_not_pass_gets_no_share(world, monkeypatch, own_tmp):
    opened = []
    monkeypatch.setattr(drill, "hand_back", lambda *given: opened.append(given))
    admits_others = TrustPolicy(code=Measurements({"11" * 32}), roots=frozenset({"simulator"}))
    monkeypatch.setattr(drill, "policy_of", lambda manifest, role: admits_others)
    with pytest.raises(DrillFailed, match="no share was opened") as caught:
        await run_drill(world.plan())
    assert caught.value.report is not None
    assert [check.name for check in caught.value.report.problems] == ["code identity"]
    assert opened == []
    assert list(own_tmp.iterdir()) == []


async def test_under_a_manifest_that_does_not_admit_this_installation_the_kme_does_not_even_start(
    world, own_tmp
):
    change = _changed(world.first, kme_measurements=("11" * 32,))
    with pytest.raises(DrillFailed, match="did not start"):
        await run_drill(world.plan(changes=[change]))
    assert list(own_tmp.iterdir()) == []


async def test_a_damaged_state_fails(world, own_tmp):
    state = world.recovery.state
    flipped = ("A" if state[40] != "A" else "B").join((state[:40], state[41:]))
    damaged = msgspec.structs.replace(world.recovery, state=flipped)
    with pytest.raises(DrillFailed):
        await run_drill(world.plan(recovery=damaged))
    assert list(own_tmp.iterdir()) == []


async def test_keys_that_are_too_few_or_a_stranger_s_fail_before_anything_is_started(world, monkeypatch):
    async def never(*_, **__):
        raise AssertionError("started")

    monkeypatch.setattr(drill, "start", never)
    for keys in ([], KEYS[:1], [KEYS[0], KEYS[0]], [KEYS[0], HpkePrivateKey.generate()]):
        with pytest.raises(DrillFailed, match="2 are needed"):
            await run_drill(world.plan(keys=keys))
    other = encode_manifest(Manifest(worker_name="lungs"))
    with pytest.raises(DrillFailed, match="do not belong together"):
        await run_drill(world.plan(first_manifest=other))


async def test_a_platform_that_is_not_there_is_told(world, own_tmp):
    with pytest.raises(DrillFailed, match="did not start"):
        await run_drill(world.plan(settings=msgspec.structs.replace(SETTINGS, platform="gramine")))
    assert list(own_tmp.iterdir()) == []


# -- the command


@pytest.fixture
def run(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("AVALON_URL", "AVALON_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    Path("recovery.json").write_bytes(msgspec.json.encode(world.recovery))
    Path("first.json").write_bytes(world.first)
    Path("change.json").write_bytes(msgspec.json.encode(_changed(world.first, max_wpes=7)))
    Path("worse.json").write_bytes(msgspec.json.encode(_changed(world.first, kme_measurements=("11" * 32,))))
    for number, key in enumerate(KEYS):
        path = Path(f"{number}.key")
        path.touch(0o600)
        path.write_text(key.to_bytes().hex() + "\n")
    Path("open.key").write_text(KEYS[0].to_bytes().hex())
    Path("nonsense.key").touch(0o600)
    Path("nonsense.key").write_text("5e" * 95)
    app = typer.Typer()
    app.command()(cli.command)

    def invoke(*arguments):
        ran = CliRunner().invoke(app, ["recovery.json", *arguments])
        assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
        for key in KEYS:
            assert key.to_bytes().hex()[:32] not in ran.output
        assert "5e5e5e5e" not in ran.output
        return ran

    return invoke


TWO_KEYS = ("--key", "0.key", "--key", "2.key")


def test_the_command_says_what_was_proved_and_how_long_it_took(run):
    ran = run(*TWO_KEYS, "--manifest", "first.json", "--change", "change.json")
    assert ran.exit_code == 0, ran.output
    assert "2 shares restored the pool's state" in ran.stdout
    assert "can be recovered; it took" in ran.stdout
    assert "SIMULATED" in ran.stdout
    assert "was not compared" in ran.stdout


def test_the_command_in_json(run):
    told = json.loads(run(*TWO_KEYS, "--manifest", "first.json", "--json").stdout)
    assert (told["recovered"], told["epochs"], told["compared"]) == (True, [1], False)
    failed = run(*TWO_KEYS, "--manifest", "first.json", "--change", "worse.json", "--json")
    assert failed.exit_code == 1
    told = json.loads(failed.stdout)
    assert told["recovered"] is False
    assert "did not start" in told["error"]


def test_the_command_tells_which_check_the_kme_did_not_pass(run, monkeypatch):
    monkeypatch.setattr(drill, "policy_of", lambda manifest, role: TrustPolicy())
    told = json.loads(run(*TWO_KEYS, "--manifest", "first.json", "--json").stdout)
    assert told["report"]["verdict"] == "failed"
    ran = run(*TWO_KEYS, "--manifest", "first.json")
    assert ran.exit_code == 1
    assert "code identity failed" in ran.stderr


REFUSED = {
    "too few keys": (("--key", "0.key", "--manifest", "first.json"), 1, "2 are needed"),
    "this installation is not admitted": (
        (*TWO_KEYS, "--manifest", "first.json", "--change", "worse.json"),
        1,
        "did not start",
    ),
    "a key that others can read": (("--key", "open.key", "--manifest", "first.json"), 2, "chmod 600"),
    "a key that is none": (("--key", "nonsense.key", "--manifest", "first.json"), 2, "not an owner's"),
    "a change for a manifest": ((*TWO_KEYS, "--manifest", "change.json"), 2, "expected the first one"),
    "no manifest there": ((*TWO_KEYS, "--manifest", "nowhere.json"), 2, "cannot be read"),
    "a recovery file for a change": (
        (*TWO_KEYS, "--manifest", "first.json", "--change", "recovery.json"),
        2,
        "neither a manifest nor a change",
    ),
    "nobody at the address": (
        (*TWO_KEYS, "--manifest", "first.json", "--url", "http://127.0.0.1:1"),
        2,
        "no answer",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_command_refuses_with_a_reason(what, run):
    arguments, code, reason = REFUSED[what]
    ran = run(*arguments)
    assert ran.exit_code == code, ran.output
    assert reason in ran.output
