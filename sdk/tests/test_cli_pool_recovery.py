"""``avalon pool hand-back``: an owner's share goes to a KME whose evidence has passed, and to nobody else."""

import json
from datetime import UTC, datetime

import msgspec
import pytest
from typer.testing import CliRunner

from avalon_core.attestation.proof_data import encode
from avalon_core.crypto.manifests import (
    Manifest,
    SignedManifest,
    digest_of,
    encode_manifest,
    sign_manifest,
)
from avalon_core.crypto.recovery import combine, read_recovery, read_share, recovery_report_data, split
from avalon_core.crypto.sealing import HpkePrivateKey
from avalon_core.crypto.signing import SigningKey
from avalon_core.simulator.states import State
from avalon_core.simulator.vendors import EvidenceRequest, SimulatedVendors
from avalon_sdk.cli.app import app

KME, NEW_KME, OTHER = "4f" * 32, "50" * 32, "60" * 32
STATE = b"the pool's state, which is secret"
OWNER = SigningKey.generate()
KEYS = [HpkePrivateKey.generate() for _ in range(3)]
RECOVERY_KEY = HpkePrivateKey.generate()

FIRST = encode_manifest(
    Manifest(
        worker_name="heart",
        kme_measurements=(KME,),
        roots=("simulator",),
        owners=(OWNER.verification_key.pem,),
        quorum=1,
        recovery_keys=tuple(key.public_key.hex for key in KEYS),
        recovery_threshold=2,
    )
)
POOL = digest_of(FIRST).hex()
OTHER_FIRST = FIRST.replace(b'"heart"', b'"lungs"')
SECOND = encode_manifest(
    msgspec.structs.replace(
        msgspec.json.decode(FIRST, type=Manifest), version=2, previous=POOL, kme_measurements=(NEW_KME,)
    )
)
CHANGE = SignedManifest(manifest=SECOND, signatures=dict([sign_manifest(SECOND, OWNER)]))


def offer(
    *,
    measurement=KME,
    pool=POOL,
    key=None,
    bound_key=None,
    bound_pool=None,
    state=State.UP_TO_DATE,
    debug=False,
):
    """A KME's answer, the members of which may not fit together."""
    key = key or RECOVERY_KEY.public_key.hex
    issued = SimulatedVendors().issue(
        EvidenceRequest(
            kind="sgx",
            measurement=bytes.fromhex(measurement),
            report_data=recovery_report_data(bound_key or key, bound_pool or pool),
            state=state,
            debug=debug,
        ),
        datetime.now(UTC),
    )
    kind, data = encode(issued.evidence, issued.collateral)
    return {"pool": pool, "key": key, "proofDataType": kind, "proofData": data}


class Ran:
    def __init__(self, result):
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr


@pytest.fixture
def hand_back(tmp_path, monkeypatch):
    """Hands Alice's share back, in a folder of its own; what is not told otherwise is right."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AVALON_POLICY", raising=False)
    recovery = split(STATE, pool=POOL, owners=[key.public_key.hex for key in KEYS], threshold=2)
    (tmp_path / "recovery.json").write_bytes(msgspec.json.encode(recovery))
    (tmp_path / "first.json").write_bytes(FIRST)
    (tmp_path / "other.json").write_bytes(OTHER_FIRST)
    (tmp_path / "change.json").write_bytes(msgspec.json.encode(CHANGE))
    for name, key in (("alice", KEYS[0]), ("bob", KEYS[1]), ("mallory", HpkePrivateKey.generate())):
        path = tmp_path / f"{name}.key"
        path.touch(0o600)
        path.write_text(key.to_bytes().hex() + "\n")
    (tmp_path / "open.key").write_text(KEYS[0].to_bytes().hex())
    (tmp_path / "nonsense.key").touch(0o600)
    (tmp_path / "nonsense.key").write_text("5e" * 95)
    (tmp_path / "policy.toml").write_text(f'measurements = ["{KME}"]\nroots = ["simulators"]\n')
    (tmp_path / "vendors.toml").write_text(f'measurements = ["{KME}"]\n')

    def invoke(*more, kme=None, trust=("--manifest", "first.json"), key="alice.key", out="share.json"):
        (tmp_path / "kme.json").write_text(json.dumps(offer() if kme is None else kme))
        ran = CliRunner().invoke(
            app,
            [
                *("pool", "hand-back", "recovery.json", "--kme", "kme.json", "--key", key, "--out", out),
                *trust,
                *more,
            ],
        )
        assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
        return Ran(ran)

    invoke.folder = tmp_path
    return invoke


def test_two_owners_shares_give_the_state_back_to_the_kme_alone(hand_back):
    for name in ("alice", "bob"):
        ran = hand_back(key=f"{name}.key", out=f"{name}.share")
        assert ran.code == 0, ran.err
        assert "SIMULATED" in ran.err
    recovery = read_recovery((hand_back.folder / "recovery.json").read_bytes())
    shares = [read_share((hand_back.folder / f"{name}.share").read_bytes()) for name in ("alice", "bob")]
    assert combine(recovery, shares, RECOVERY_KEY) == STATE


@pytest.mark.parametrize(
    "trust",
    [("--manifest", "first.json"), ("--policy", "policy.toml"), ("--policy", "development")],
    ids=" ".join,
)
def test_trust_in_the_manifest_or_in_a_policy_of_one_s_own(trust, hand_back):
    assert hand_back(trust=trust).code == 0
    assert json.loads(hand_back("--json", trust=trust).out)["simulated"] is True


def test_after_a_change_the_manifest_in_force_counts(hand_back):
    new = offer(measurement=NEW_KME)
    changed = ("--manifest", "first.json", "--change", "change.json")
    assert hand_back(kme=new, trust=changed).code == 0
    assert hand_back(kme=new).code == 4
    assert hand_back(trust=changed).code == 4


UNTRUSTED = {
    "other code": (offer(measurement=OTHER), "code identity"),
    "a debug enclave": (offer(debug=True), "attributes"),
    "a platform that is out of date": (offer(state=State.OUT_OF_DATE), "tcb status"),
    "a signature that is none": (offer(state=State.WRONG_SIGNATURE), "quote signature"),
    "evidence for another key": (offer(bound_key=KEYS[2].public_key.hex), "report data"),
    "evidence for another pool": (offer(bound_pool="00" * 32), "report data"),
}


@pytest.mark.parametrize("what", UNTRUSTED)
def test_a_kme_that_does_not_pass_gets_nothing_and_the_key_is_not_even_read(what, hand_back):
    kme, check = UNTRUSTED[what]
    for key in ("alice.key", "there-is-no-such.key"):
        ran = hand_back(kme=kme, key=key)
        assert ran.code == 4, ran.out + ran.err
        assert check in ran.out
        assert "NOT trusted" in ran.err
        assert not (hand_back.folder / "share.json").exists()
    told = json.loads(hand_back("--json", kme=kme).out)
    assert check in {
        entry["name"] for entry in told["error"]["report"]["checks"] if entry["verdict"] != "passed"
    }


def test_a_policy_without_the_simulator_refuses_it(hand_back):
    assert hand_back(trust=("--policy", "vendors.toml")).code == 4


def test_evidence_that_cannot_be_read_is_no_pass(hand_back):
    ran = hand_back(kme=offer() | {"proofData": {"document": "AAAA"}})
    assert ran.code in (4, 6)
    assert not (hand_back.folder / "share.json").exists()
    assert hand_back(kme=offer() | {"proofDataType": "TEE-NEW"}).code == 6


REFUSED = {
    "nobody is trusted by default": ({"trust": ()}, "without either nobody is trusted"),
    "a policy and a manifest": (
        {"trust": ("--manifest", "first.json", "--policy", "development")},
        "expected one of them",
    ),
    "changes without a manifest": (
        {"trust": ("--policy", "development", "--change", "change.json")},
        "goes with --manifest",
    ),
    "a change in the place of the first manifest": (
        {"trust": ("--manifest", "change.json")},
        "expected the first one",
    ),
    "changes that do not follow": (
        {"trust": ("--manifest", "other.json", "--change", "change.json")},
        "do not lead from",
    ),
    "the manifest of another pool": ({"trust": ("--manifest", "other.json")}, "not your pool"),
    "a KME of another pool": ({"kme": offer(pool="00" * 32)}, "is of the pool"),
    "a KME that is none": ({"kme": {"pool": POOL}}, "not a KME's recovery key"),
    "a stranger's key": ({"key": "mallory.key"}, "none of the 3 shares"),
    "a key that others can read": ({"key": "open.key"}, "chmod 600"),
    "a key that is none": ({"key": "nonsense.key"}, "not an owner's recovery key"),
    "a key that is not there": ({"key": "nowhere.key"}, "cannot be read"),
    "a key to seal to that is none": ({"kme": offer(key="00")}, "cannot be handed back"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_a_reason(what, hand_back):
    options, reason = REFUSED[what]
    ran = hand_back(**options)
    assert ran.code == 2, ran.out + ran.err
    assert reason in ran.err, ran.err
    assert not (hand_back.folder / "share.json").exists()


def test_a_damaged_recovery_file_is_told(hand_back):
    path = hand_back.folder / "recovery.json"
    recovery = json.loads(path.read_text())
    sealed = recovery["shares"][0]["sealed"]
    recovery["shares"][0]["sealed"] = ("1" if sealed[0] == "0" else "0") + sealed[1:]
    path.write_text(json.dumps(recovery))
    assert hand_back().code == 2
    path.write_text("{")
    assert hand_back().code == 2


def test_no_secret_is_printed_or_written(hand_back):
    secret = KEYS[0].to_bytes().hex()
    outputs = []
    for options in ({}, {"key": "open.key"}, {"key": "nonsense.key"}, {"kme": offer(measurement=OTHER)}):
        ran = hand_back(**options)
        outputs.append(ran.out + ran.err)
    written = (hand_back.folder / "share.json").read_text()
    for text in (*outputs, written):
        assert secret[:32] not in text
        assert "5e5e5e5e" not in text
