"""``avalon pool manifest``, ``amend``, ``sign`` and ``show``: what owners do, without a service."""

import json
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from avalon_core.attestation.pool_checks import owner_digest
from avalon_core.crypto.manifests import accept_change, digest_of, read_manifest, read_signed_manifest
from avalon_core.crypto.sealing import HpkePrivateKey
from avalon_sdk.cli.app import app

KME, WPE, NEW_WPE = "4f" * 32, "81" * 32, "93" * 32
NAMES = ("alice", "bob", "carol", "mallory")


def _write_owner(folder, name):
    key = ec.generate_private_key(ec.SECP256K1())
    private = folder / f"{name}.pem"
    private.touch(0o600)
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    (folder / f"{name}.pub.pem").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Key files of everybody."""
    folder = tmp_path_factory.mktemp("keys")
    for name in NAMES:
        _write_owner(folder, name)
        (folder / f"{name}.pub").write_text(HpkePrivateKey.generate().public_key.hex + "\n")
    (folder / "nonsense").write_text("nonsense")
    (folder / "open.pem").write_bytes((folder / "alice.pem").read_bytes())
    (folder / "open.pem").chmod(0o644)
    # The same key, with a line of text before it and other ends of lines.
    spelled = (folder / "alice.pub.pem").read_bytes().replace(b"\n", b"\r\n")
    (folder / "alice.other.pem").write_bytes(spelled)
    return folder


class Ran:
    def __init__(self, result):
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr
        self.exception = result.exception

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def pool(tmp_path, monkeypatch, keys):
    """Runs ``avalon pool`` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("AVALON_KEY", "AVALON_POLICY"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*arguments):
        filled = [text.format(keys=keys) if isinstance(text, str) else str(text) for text in arguments]
        ran = Ran(CliRunner().invoke(app, ["pool", *filled]))
        assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
        return ran

    invoke.folder = tmp_path
    return invoke


FIRST = (
    "manifest",
    "--worker-name",
    "heart",
    "--kme",
    KME,
    "--wpe",
    WPE.upper(),
    "--root",
    "simulator",
    *(part for name in NAMES[:3] for part in ("--owner", "{keys}/" + name + ".pub.pem")),
    "--quorum",
    "2",
    *(part for name in NAMES[:3] for part in ("--recovery-key", "{keys}/" + name + ".pub")),
    "--threshold",
    "2",
)


@pytest.fixture
def first(pool):
    ran = pool(*FIRST, "--out", "first.json")
    assert ran.code == 0, ran.err
    return pool.folder / "first.json"


def amend(pool, *arguments, current="first.json", out="change.json"):
    ran = pool("amend", current, *arguments, "--out", out)
    assert ran.code == 0, ran.err
    return ran


def test_a_first_manifest_is_what_the_options_say(pool, first, keys):
    manifest = read_manifest(first.read_bytes())
    assert (manifest.worker_name, manifest.version, manifest.previous) == ("heart", 1, "")
    assert (manifest.kme_measurements, manifest.wpe_measurements) == ((KME,), (WPE,))
    assert (manifest.quorum, len(manifest.owners)) == (2, 3)
    assert (manifest.recovery_threshold, len(manifest.recovery_keys)) == (2, 3)
    assert not manifest.accept_legacy
    told = pool("show", "first.json", "--json").json
    assert told["digest"] == digest_of(first.read_bytes()).hex()
    assert told["simulated"] is True
    assert told["signatures"] == []


def test_it_is_shown_in_words_and_marked_where_it_protects_nothing(pool, first, keys):
    ran = pool("show", "first.json")
    assert ran.code == 0
    assert f"KME {KME}" in ran.out
    assert f"WPE {WPE}" in ran.out
    assert "2 of 3 owners can change it" in ran.out
    assert owner_digest((keys / "alice.pub.pem").read_text()) in ran.out
    assert "2 of 3 shares restore the pool" in ran.out
    assert "SIMULATED" in ran.err
    pool("manifest", "--worker-name", "heart", "--root", "intel-sgx", "--out", "real.json")
    real = pool("show", "real.json")
    assert "SIMULATED" not in real.err + real.out
    assert "No code may hold the pool's keys" in real.out
    assert "Nobody can change this manifest" in real.out


def test_without_a_number_all_owners_and_all_shares_are_needed(pool):
    names = [part for name in NAMES[:2] for part in ("--owner", "{keys}/" + name + ".pub.pem")]
    shares = [part for name in NAMES[:3] for part in ("--recovery-key", "{keys}/" + name + ".pub")]
    ran = pool("manifest", "--worker-name", "heart", *names, *shares, "--out", "first.json")
    assert ran.code == 0, ran.err
    manifest = read_manifest((pool.folder / "first.json").read_bytes())
    assert (manifest.quorum, manifest.recovery_threshold) == (2, 3)


def test_a_quorum_of_owners_changes_a_manifest(pool, first):
    amended = amend(pool, "--add-wpe", NEW_WPE, "--max-wpes", "8")
    assert f"+ WPE {NEW_WPE}" in amended.out
    assert "- There are at most 64 WPEs at a time." in amended.out
    told = pool("show", "change.json", "--manifest", "first.json")
    assert (told.code, "nobody has signed it yet" in told.out) == (1, True)
    once = pool("sign", "change.json", "--key", "{keys}/alice.pem", "--manifest", "first.json")
    assert once.code == 0
    assert "expected 2" in once.out
    again = pool("sign", "change.json", "--key", "{keys}/alice.pem", "--manifest", "first.json")
    assert "expected 2" in again.out
    twice = pool("sign", "change.json", "--key", "{keys}/bob.pem", "--manifest", "first.json")
    assert "It will be taken" in twice.out
    assert pool("show", "change.json", "--manifest", "first.json").code == 0
    change = read_signed_manifest((pool.folder / "change.json").read_bytes())
    assert accept_change(first.read_bytes(), change).wpe_measurements == (WPE, NEW_WPE)


def test_owners_sign_copies_and_the_signatures_are_brought_together(pool, first):
    amend(pool, "--add-wpe", NEW_WPE)
    for name in ("alice", "bob"):
        (pool.folder / f"{name}.json").write_bytes((pool.folder / "change.json").read_bytes())
        assert pool("sign", f"{name}.json", "--key", "{keys}/" + name + ".pem").code == 0
    ran = pool(
        "sign", "change.json", "--with", "alice.json", "--with", "bob.json", "--manifest", "first.json"
    )
    assert ran.code == 0, ran.err
    assert pool("show", "change.json", "--manifest", "first.json", "--json").json["accepted"] is True


def test_a_stranger_s_signature_counts_nothing_and_is_told(pool, first):
    amend(pool, "--add-wpe", NEW_WPE)
    assert pool("sign", "change.json", "--key", "{keys}/mallory.pem").code == 0
    told = pool("show", "change.json", "--manifest", "first.json", "--json")
    assert told.code == 1
    assert [signer["counts"] for signer in told.json["signatures"]] == [False]
    refused = pool("sign", "change.json", "--key", "{keys}/mallory.pem", "--manifest", "first.json")
    assert refused.code == 2
    assert "nobody who is an owner" in refused.err


def test_a_changed_byte_makes_signatures_worthless(pool, first):
    amend(pool, "--add-wpe", NEW_WPE)
    for name in ("alice", "bob"):
        pool("sign", "change.json", "--key", "{keys}/" + name + ".pem")
    amend(pool, "--add-wpe", "94" * 32, out="other.json")
    change = json.loads((pool.folder / "change.json").read_text())
    other = json.loads((pool.folder / "other.json").read_text())
    (pool.folder / "forged.json").write_text(json.dumps(other | {"signatures": change["signatures"]}))
    told = pool("show", "forged.json", "--manifest", "first.json")
    assert told.code == 1
    assert told.out.count("does NOT verify") == 2


def test_changes_follow_each_other(pool, first):
    amend(pool, "--add-wpe", NEW_WPE)
    ran = amend(pool, "--remove-wpe", WPE, "--quorum", "3", current="change.json", out="third.json")
    assert "version 3" in ran.out
    assert f"- WPE {WPE}" in ran.out
    assert "+ 3 of 3 owners can change it" in ran.out
    # The third does not follow the first.
    skipped = pool("show", "third.json", "--manifest", "first.json")
    assert skipped.code == 1
    assert "does not follow the manifest in force" in skipped.out


def test_owners_are_found_under_the_manifest_s_spelling_of_their_keys(pool, keys):
    pool("manifest", "--worker-name", "heart", "--owner", "{keys}/alice.other.pem", "--out", "first.json")
    amend(pool, "--max-wpes", "3")
    assert pool("sign", "change.json", "--key", "{keys}/alice.pem").code == 0
    assert pool("show", "change.json", "--manifest", "first.json").code == 0


def test_everything_can_be_amended(pool, first):
    ran = amend(
        pool,
        *(
            "--add-kme",
            "50" * 32,
            "--remove-kme",
            KME,
            "--add-root",
            "intel-sgx",
            "--remove-root",
            "simulator",
        ),
        *("--add-tcb-status", "SWHardeningNeeded", "--remove-owner", "{keys}/carol.pub.pem"),
        *("--add-recovery-key", "{keys}/mallory.pub", "--remove-recovery-key", "{keys}/alice.pub"),
        *("--localisation", "same-platform", "--orders-per-wpe", "100", "--kme-signs-results"),
        *("--overlap", "60", "--accept-legacy", "--threshold", "3"),
    )
    assert ran.out.count("\n+ ") == 11
    manifest = pool("show", "change.json", "--json").json["manifest"]
    assert manifest["kmeMeasurements"] == ["50" * 32]
    assert manifest["roots"] == ["intel-sgx"]
    assert manifest["tcbStatuses"] == ["UpToDate", "SWHardeningNeeded"]
    assert (len(manifest["owners"]), len(manifest["recoveryKeys"]), manifest["overlapSeconds"]) == (2, 3, 60)
    assert manifest["kmeSignsResults"] is manifest["acceptLegacy"] is True


def test_files_that_are_there_are_not_overwritten(pool, first):
    before = first.read_bytes()
    assert pool(*FIRST, "--out", "first.json").code == 2
    assert pool("amend", "first.json", "--max-wpes", "2", "--out", "first.json").code == 2
    assert first.read_bytes() == before


REFUSED = {
    "a measurement that is none": ((*FIRST, "--kme", "4f", "--out", "x"), "there cannot be such a manifest"),
    "a root that nobody knows": (
        (*FIRST, "--root", "intel-sgz", "--out", "x"),
        "nobody here knows intel-sgz",
    ),
    "a status that there is not": (
        (*FIRST, "--tcb-status", "Fine", "--out", "x"),
        "expected one of UpToDate",
    ),
    "an owner twice": ((*FIRST, "--owner", "{keys}/alice.other.pem", "--out", "x"), "named twice"),
    "a quorum of too many": (
        (
            "manifest",
            "--worker-name",
            "heart",
            "--owner",
            "{keys}/alice.pub.pem",
            "--quorum",
            "2",
            "--out",
            "x",
        ),
        "expected 1 to 1",
    ),
    "an owner's key that is none": (
        (*FIRST, "--owner", "{keys}/nonsense", "--out", "x"),
        "not a secp256k1 public",
    ),
    "a private key for an owner": (
        (*FIRST, "--owner", "{keys}/alice.pem", "--out", "x"),
        "not a secp256k1 public",
    ),
    "a recovery key that is none": ((*FIRST, "--recovery-key", "{keys}/nonsense", "--out", "x"), "MLKEM768"),
    "a file that is not there": ((*FIRST, "--owner", "nowhere", "--out", "x"), "cannot be read"),
    "keys that may never leave and recovery": (
        (*FIRST, "--migration", "never", "--out", "x"),
        "recoveryKeys",
    ),
    "a migration that there is not": ((*FIRST, "--migration", "maybe", "--out", "x"), "maybe"),
    "nothing to amend": (("amend", "first.json", "--out", "x"), "at least one option"),
    "an amendment that changes nothing": (
        ("amend", "first.json", "--max-wpes", "64", "--out", "x"),
        "nothing would change",
    ),
    "something added that is there": (("amend", "first.json", "--add-wpe", WPE, "--out", "x"), "already"),
    "something removed that is not there": (
        ("amend", "first.json", "--remove-wpe", NEW_WPE, "--out", "x"),
        "does not name",
    ),
    "a stranger removed from the owners": (
        ("amend", "first.json", "--remove-owner", "{keys}/mallory.pub.pem", "--out", "x"),
        "nobody who is an owner",
    ),
    "an amendment of what is no manifest": (
        ("amend", "{keys}/nonsense", "--max-wpes", "2", "--out", "x"),
        "neither a manifest nor a change",
    ),
    "a signature under a first manifest": (
        ("sign", "first.json", "--key", "{keys}/alice.pem"),
        "expected a change",
    ),
    "a signature with nothing to sign by": (("sign", "change.json"), "--key"),
    "a key that others can read": (("sign", "change.json", "--key", "{keys}/open.pem"), "chmod 600"),
    "a public key to sign with": (("sign", "change.json", "--key", "{keys}/bob.pub.pem"), "others can read"),
    "a copy of another change": (
        ("sign", "change.json", "--with", "other.json"),
        "a copy of another change",
    ),
    "a first manifest compared with one": (
        ("show", "first.json", "--manifest", "first.json"),
        "goes with a change",
    ),
    "a look at nonsense": (("show", "{keys}/nonsense"), "neither a manifest nor a change"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_a_reason(what, pool, first):
    arguments, reason = REFUSED[what]
    amend(pool, "--max-wpes", "8")
    amend(pool, "--max-wpes", "9", out="other.json")
    before = (pool.folder / "change.json").read_bytes()
    ran = pool(*arguments)
    assert ran.code == 2, ran.out + ran.err
    assert reason in " ".join(ran.err.replace("│", " ").split()), ran.err
    assert not (pool.folder / "x").exists()
    assert (pool.folder / "change.json").read_bytes() == before


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b'{"manifest":"AA"}', b"\xff" * 64, b"[" * 100_000])
def test_no_bytes_make_a_fault(junk, pool):
    (pool.folder / "junk").write_bytes(junk)
    for arguments in (("show", "junk"), ("sign", "junk", "--key", "{keys}/alice.pem")):
        assert pool(*arguments).code == 2


def test_no_secret_is_printed(pool, first, keys):
    amend(pool, "--max-wpes", "8")
    secret = "".join((keys / "alice.pem").read_text().splitlines()[1:-1])
    ran = pool("sign", "change.json", "--key", "{keys}/alice.pem")
    assert secret[:24] not in ran.out + ran.err + (pool.folder / "change.json").read_text()


def test_a_recovery_key_is_its_owner_s_alone(pool):
    ran = pool("recovery-key", "mine.key")
    assert ran.code == 0
    path = pool.folder / "mine.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = path.read_text().strip()
    assert HpkePrivateKey(bytes.fromhex(secret)).public_key.hex == ran.out.strip()
    assert secret not in ran.out + ran.err
    again = pool("recovery-key", "mine.key")
    assert again.code == 2
    assert path.read_text().strip() == secret
    told = pool("recovery-key", "other.key", "--json").json
    assert sorted(told) == ["key_id", "public_key"]
