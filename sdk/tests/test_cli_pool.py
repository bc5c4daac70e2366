"""``avalon pool`` against a service on loopback, and the client's methods for operators of a pool."""

import json

import msgspec
import pytest

from avalon_core.crypto.manifests import Manifest, SignedManifest, encode_manifest
from avalon_core.crypto.recovery import Recovery, read_recovery, split
from avalon_core.crypto.sealing import HpkePrivateKey
from avalon_core.protocol.errors import GeneralCode, GeneralError
from avalon_core.protocol.ids import worker_id_of
from avalon_sdk import sync
from avalon_sdk.errors import BadAnswer, BadRequest, CannotConnect, ServiceError

WORKER = worker_id_of("heart")
POOL = "1a" * 32
ENCLAVE = {"pid": 7, "restarts": 0, "measurement": "1d" * 32, "simulated": True, "lastEnd": ""}
KME = {
    "instance": "1e" * 16,
    "serving": True,
    "revision": 3,
    "wpes": 1,
    "counters": {"opened": 5, "refused": 1, "refused_peers": {"measurement not allowed": 2}, "rollbacks": 0},
    "pool": POOL,
    "manifest": {"version": 2, "digest": "1f" * 32},
    "epochs": [
        {"number": 2, "made_at": 1_800_000_000, "key": "2a" * 32},
        {"number": 1, "made_at": 1, "key": "2b" * 32},
    ],
}
STATUS = {
    "worker": "heart",
    "workerId": WORKER,
    "pool": POOL,
    "simulated": True,
    "state": "serving",
    "epoch": 2,
    "manifestVersion": 2,
    "links": 1,
    "linksEnded": {"the manifest changed": 1},
    "rollbacks": 0,
    "kmes": [
        {"name": "kme-1", "state": "serving", **ENCLAVE, "enclave": KME, "ofALaterVersion": 1},
        {"name": "kme-2", "state": "restarting", **ENCLAVE, "pid": None, "lastEnd": "killed by SIGKILL"},
    ],
    "wpes": [{"name": "wpe-1", "state": "serving", **ENCLAVE, "inFlight": 4}],
}
OWNER = HpkePrivateKey.generate()
RECOVERY = split(b"state", pool=POOL, owners=[OWNER.public_key.hex], threshold=1)
FIRST = encode_manifest(Manifest(worker_name="heart"))
CHANGE = SignedManifest(manifest=FIRST)
OFFER = {"pool": POOL, "key": OWNER.public_key.hex, "proofDataType": "T", "proofData": {"document": "AA=="}}


class PlayedPool:
    """Answers as a service with a pool does, and remembers what it was asked."""

    def __init__(self):
        self.calls = []
        self.status = dict(STATUS)
        self.returned = 0

    def __call__(self, method, params):
        self.calls.append((method, params))
        match method:
            case "PoolStatus":
                return self.status
            case "PoolRotate":
                return {"epoch": 3}
            case "PoolDrain":
                return {"draining": True}
            case "PoolChange":
                if not json.loads(params["change"])["signatures"]:
                    raise GeneralError(
                        GeneralCode.INVALID_PARAMETER, "0 owners have signed the change, expected 1"
                    )
                return {"version": 2}
            case "PoolShares":
                return msgspec.to_builtins(RECOVERY)
            case "PoolRecover":
                return OFFER
            case _:
                self.returned += 1
                return {
                    "shares": self.returned,
                    "needed": 2,
                    **({"recovered": True} if self.returned == 2 else {}),
                }


@pytest.fixture
def pool(service):
    service.pool = PlayedPool()
    return service.pool


@pytest.fixture
def operator(service):
    return service.client(operator_token=lambda: service.operator_token)


async def test_a_client_asks_and_commands(pool, operator):
    async with operator as client:
        status = await client.pool_status()
        assert (status.worker, status.epoch, [kme.name for kme in status.kmes]) == (
            "heart",
            2,
            ["kme-1", "kme-2"],
        )
        assert status.kmes[0].enclave is not None
        assert status.kmes[0].enclave.epochs[0].key == "2a" * 32
        assert status.kmes[1].enclave is None
        assert status.wpes[0].in_flight == 4
        assert (await client.rotate_pool()).epoch == 3
        assert (await client.drain_pool()).draining
        recovery = await client.pool_shares()
        assert recovery == RECOVERY
        assert (await client.recover_pool(recovery)).key == OWNER.public_key.hex
        assert not (await client.return_share(recovery.shares[0])).recovered
        assert (await client.return_share(recovery.shares[0])).recovered
        signed = SignedManifest(manifest=FIRST, signatures={"pem": b"der"})
        assert (await client.change_pool(signed, worker_id=WORKER)).version == 2
    assert pool.calls[0] == ("PoolStatus", {})
    assert pool.calls[-1][1]["workerId"] == WORKER
    assert msgspec.json.decode(pool.calls[-1][1]["change"], type=SignedManifest) == signed


async def test_what_the_service_refuses_is_told(pool, operator):
    async with operator as client:
        with pytest.raises(ServiceError, match="0 owners have signed") as caught:
            await client.change_pool(CHANGE)
        assert caught.value.code == 2
        with pytest.raises(BadRequest, match="worker_id"):
            await client.pool_status(worker_id="heart")


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.pool_status(),
        lambda client: client.rotate_pool(),
        lambda client: client.drain_pool(),
        lambda client: client.change_pool(CHANGE),
        lambda client: client.pool_shares(),
        lambda client: client.recover_pool(RECOVERY),
        lambda client: client.return_share(RECOVERY.shares[0]),
    ],
    ids=["status", "rotate", "drain", "change", "shares", "recover", "share"],
)
async def test_without_a_pool_code_6_and_without_the_token_code_3(call, service, operator):
    async with operator as client:
        with pytest.raises(ServiceError) as caught:
            await call(client)
    assert caught.value.code == 6
    async with service.client() as stranger:
        with pytest.raises(ServiceError) as caught:
            await call(stranger)
    assert caught.value.code == 3


async def test_what_must_not_be_done_twice_is_not_tried_again(pool, service, operator):
    async with operator as client:
        service.lose_answers = 1
        with pytest.raises(CannotConnect):
            await client.rotate_pool()
        service.lose_answers = 1
        with pytest.raises(CannotConnect):
            await client.return_share(RECOVERY.shares[0])
        service.lose_answers = 1
        assert (await client.pool_status()).epoch == 2
    assert [method for method, _ in pool.calls] == ["PoolRotate", "PoolShare", "PoolStatus", "PoolStatus"]


@pytest.mark.parametrize("answer", [{}, [], None, {"epoch": "3"}, "x"])
async def test_an_answer_that_is_none_is_no_fault_of_ours(answer, service, operator):
    service.pool = lambda method, params: answer
    async with operator as client:
        with pytest.raises(BadAnswer, match="PoolRotate"):
            await client.rotate_pool()


def test_the_blocking_client_has_the_same(pool, service):
    transport = service.transport(operator_token=lambda: service.operator_token)
    with sync.Client(transport) as client:
        assert client.pool_status(worker_id=WORKER).state == "serving"
        assert isinstance(client.pool_shares(), Recovery)


# -- the command


@pytest.fixture
def run(http_service, avalon, tmp_path, pool):
    token = tmp_path / "operator-token"
    token.touch(0o600)
    http_service.service.operator_token = "token-of-the-test"
    token.write_text("token-of-the-test")

    async def invoke(*arguments, **env):
        return await avalon("pool", *arguments, "--url", http_service.url, "--token-file", str(token), **env)

    return invoke


@pytest.mark.acceptance
async def test_status_shows_every_enclave_and_every_alarm(run, pool):
    ran = await run("status")
    assert ran.code == 0, ran.err
    assert "SIMULATED" in ran.err
    assert "ROLLBACK" not in ran.err
    lines = ran.out.splitlines()
    assert lines[0] == "heart  serving"
    assert any(line.split()[:7] == ["kme-1", "serving", "7", "0", "2,", "1", "2"] for line in lines)
    assert any(line.split()[:4] == ["wpe-1", "serving", "7", "0"] for line in lines)
    assert "kme-2 ended before: killed by SIGKILL" in ran.out
    assert "kme-1 ended 2 links: measurement not allowed" in ran.out
    assert "1 ended: the manifest changed" in ran.out
    pool.status |= {"rollbacks": 1, "simulated": False}
    alarmed = await run("status")
    assert "ROLLBACK" in alarmed.err
    assert "SIMULATED" not in alarmed.err
    told = json.loads((await run("status", "--json", "--worker", "heart")).out)
    assert (told["rollbacks"], told["kmes"][0]["enclave"]["revision"]) == (1, 3)
    assert pool.calls[-1] == ("PoolStatus", {"workerId": WORKER})


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("state", "code"), [("serving", 0), ("draining", 0), ("starting", 3), ("stopped", 3)]
)
async def test_the_exit_code_says_whether_it_is_at_work(state, code, run, pool):
    pool.status |= {"state": state, "kmes": [], "wpes": [], "simulated": None}
    assert (await run("status")).code == code


@pytest.mark.acceptance
async def test_what_a_service_says_cannot_rewrite_the_terminal(run, pool):
    pool.status |= {"worker": "he\x1b[2Jart", "linksEnded": {"\x1b[1m": 1}}
    ran = await run("status")
    assert "\x1b" not in ran.out + ran.err


@pytest.mark.acceptance
async def test_commands_and_files(run, pool, tmp_path):
    assert "epoch 3" in (await run("rotate")).out
    assert "no more orders" in (await run("drain")).out
    recovery = tmp_path / "recovery.json"
    for _ in range(2):  # a newer one takes the place of an older one
        assert (await run("shares", "--out", str(recovery))).code == 0
    assert read_recovery(recovery.read_bytes()) == RECOVERY
    kme = tmp_path / "kme.json"
    assert (await run("recover", str(recovery), "--out", str(kme))).code == 0
    assert json.loads(kme.read_text()) == OFFER
    share = tmp_path / "share.json"
    share.write_bytes(msgspec.json.encode(RECOVERY.shares[0]))
    assert "1 of 2" in (await run("return", str(share))).out
    assert "has the pool's keys again" in (await run("return", str(share))).out
    change = tmp_path / "change.json"
    change.write_bytes(msgspec.json.encode(CHANGE))
    refused = await run("change", str(change))
    assert refused.code == 1
    assert "0 owners have signed" in refused.err
    nothing = await run("change", str(kme))
    assert nothing.code == 2


@pytest.mark.acceptance
async def test_a_service_without_a_pool_and_a_wrong_token(run, http_service, avalon, tmp_path):
    http_service.service.pool = None
    ran = await run("status")
    assert ran.code == 1
    assert "avalon up --pool" in ran.err
    wrong = tmp_path / "wrong"
    wrong.touch(0o600)
    wrong.write_text("wrong")
    ran = await avalon("pool", "status", "--url", http_service.url, "--token-file", str(wrong))
    assert ran.code == 1
    assert "code 3" in ran.err
