"""A pool, its rules one by one: who may join, what a WPE is given, what KMEs agree on."""

import hashlib

import pytest
from pool_orders import NONCE, ask, opening, sealed
from pool_world import World, manifest_of

from avalon_core.channel.pool import OpenOrder, OrderOpened, SignReceipt, SignResult
from avalon_core.crypto.dialects import AVALON, HPKE
from avalon_core.crypto.manifests import (
    Manifest,
    SignedManifest,
    digest_of,
    encode_manifest,
    read_manifest,
    sign_manifest,
)
from avalon_core.crypto.orders import voucher_digest
from avalon_core.crypto.signing import SigningKey
from avalon_core.errors import PolicyViolation
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.ids import HexStr, WorkOrderId
from avalon_core.protocol.orders import FORMAT_HPKE, header_of
from avalon_core.protocol.receipts import ReceiptStatus, update_digest
from avalon_enclave.errors import PoolStateRefused
from avalon_enclave.pool.judging import CODE_REFUSED
from avalon_enclave.pool.state import digest_of_state, merge


@pytest.fixture
def world():
    world = World()
    world.kme("kme-1").create()
    world.wpe("wpe-1")
    world.connect("wpe-1", "kme-1")
    world.run()
    return world


@pytest.mark.parametrize("suite", [FORMAT_HPKE, AVALON.name])
def test_a_wpe_is_given_exactly_the_secrets_of_one_order(world, suite):
    pool = world.machines["kme-1"].pool
    order = sealed(pool, suite=suite)
    opened = ask(world, "wpe-1", opening(order))
    assert isinstance(opened, OrderOpened)
    assert opened.code == 0, opened.message
    assert opened.session == order.keys.session
    one_time = SigningKey(opened.signing_key).verification_key
    pool.signing.verification_key.verify(voucher_digest(one_time.pem, NONCE), opened.voucher, strict=True)
    told = b"".join((opened.session, opened.signing_key, opened.voucher))
    for secret in (
        pool.signing.to_bytes(),
        pool.current.keys.hpke.to_bytes(),
        pool.current.keys.rsa.to_bytes(),
    ):
        assert secret not in told


def test_every_order_has_a_signing_key_of_its_own(world):
    pool = world.machines["kme-1"].pool
    keys = {ask(world, "wpe-1", opening(sealed(pool, f"ab0{n}"))).signing_key for n in range(4)}
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("role", "measurement", "reason"),
    [("wpe", "cc" * 32, CODE_REFUSED), ("kme", "cc" * 32, CODE_REFUSED), ("wpe", "aa" * 32, CODE_REFUSED)],
    ids=["a WPE whose code was changed", "a KME whose code was changed", "a KME's code in the role of a WPE"],
)
def test_foreign_code_does_not_join(world, role, measurement, reason):
    getattr(world, role)("stranger", measurement=measurement)
    world.connect("stranger", "kme-1")
    world.run()
    assert world.machines["kme-1"].reasons() == [reason]
    assert world.nodes["kme-1"].counters.refused_peers == {reason: 1}
    if role == "wpe":
        assert not world.nodes["stranger"].is_ready
    else:
        assert world.nodes["stranger"].state is None


def test_a_wpe_and_a_kme_of_another_pool_do_not_join(world):
    other = manifest_of(worker_name="another pool")
    world.wpe("stranger", manifest=other)
    world.kme("foreign kme", manifest=other)
    world.connect("stranger", "kme-1")
    world.connect("foreign kme", "kme-1")
    world.run()
    assert world.machines["kme-1"].reasons() == ["another pool", "another pool"]
    assert world.nodes["foreign kme"].state is None


def test_no_more_wpes_join_than_the_manifest_admits():
    world = World(manifest=manifest_of(max_wpes=2))
    world.kme("kme-1").create()
    for number in range(3):
        world.wpe(f"wpe-{number}")
        world.connect(f"wpe-{number}", "kme-1")
        world.run()
    assert world.machines["kme-1"].reasons() == ["too many wpes"]
    assert world.nodes["kme-1"].wpes() == 2


def test_a_wpe_processes_no_more_orders_than_it_may(world):
    world = World(manifest=manifest_of(orders_per_wpe=2))
    for name in ("kme-1", "kme-2"):
        world.kme(name)
    world.nodes["kme-1"].create()
    world.connect("kme-2", "kme-1")
    world.run()
    world.wpe("wpe-1")
    for kme in ("kme-1", "kme-2"):
        world.connect("wpe-1", kme)
    world.run()
    pool = world.machines["kme-1"].pool
    codes = [ask(world, "wpe-1", opening(sealed(pool, f"ab0{n}"))).code for n in range(4)]
    assert codes == [0, 0, 8, 8]


def test_an_order_is_opened_for_the_highest_token_only(world):
    world.wpe("wpe-2")
    world.connect("wpe-2", "kme-1")
    world.run()
    order = sealed(world.machines["kme-1"].pool)
    assert ask(world, "wpe-1", opening(order, token=3)).code == 0
    assert ask(world, "wpe-1", opening(order, token=3)).code == 0
    assert ask(world, "wpe-2", opening(order, token=3)).code == 8
    assert ask(world, "wpe-2", opening(order, token=2)).code == 8
    assert ask(world, "wpe-2", opening(order, token=4)).code == 0
    assert ask(world, "wpe-1", opening(order, token=3)).code == 8


def test_one_id_is_one_order(world):
    pool = world.machines["kme-1"].pool
    assert ask(world, "wpe-1", opening(sealed(pool))).code == 0
    answer = ask(world, "wpe-1", opening(sealed(pool), token=9, fingerprint=bytes(16)))
    assert answer.code == 2
    assert "another order" in answer.message


def test_what_does_not_open_uses_no_id_up(world):
    pool = world.machines["kme-1"].pool
    order = sealed(pool)
    broken = order.request.__class__(
        **{
            **{name: getattr(order.request, name) for name in order.request.__struct_fields__},
            "encrypted_session_key": HexStr("00" * (len(order.request.encrypted_session_key) // 2)),
        }
    )
    spoiled = ask(world, "wpe-1", lambda number: OpenOrder(number, 9, header_of(broken), bytes(16)))
    assert spoiled.code == 1
    assert ask(world, "wpe-1", opening(order)).code == 0


def test_a_failed_order_is_never_opened_again_at_any_kme(world):
    world.kme("kme-2")
    world.connect("kme-2", "kme-1")
    world.run()
    pool = world.machines["kme-1"].pool
    order = sealed(pool)
    assert ask(world, "wpe-1", opening(order)).code == 0
    response_hash = hashlib.sha256(b"the refusal").digest()
    signed = ask(world, "wpe-1", lambda number: SignReceipt(number, "ab01", True, response_hash))
    digest = update_digest(WorkOrderId("ab01"), int(ReceiptStatus.FAILED), encode_base64(response_hash))
    pool.signing.verification_key.verify(digest, signed.signature, strict=True)
    world.wpe("wpe-2")
    world.connect("wpe-2", "kme-2")
    world.run()
    assert ask(world, "wpe-2", opening(order, token=7)).code == 2
    assert ask(world, "wpe-1", opening(order, token=8)).code == 2


def test_receipts_are_signed_for_orders_that_the_wpe_has_only(world):
    hash_ = bytes(32)
    assert ask(world, "wpe-1", lambda number: SignReceipt(number, "ab01", False, hash_)).signature == b""
    asked = lambda number: SignResult(number, "ab01", FORMAT_HPKE, "AAAA", hash_, hash_)  # noqa: E731
    assert ask(world, "wpe-1", asked).signature == b""


def test_where_kmes_sign_results_a_wpe_gets_no_key():
    world = World(manifest=manifest_of(kme_signs_results=True))
    world.kme("kme-1").create()
    world.wpe("wpe-1")
    world.connect("wpe-1", "kme-1")
    world.run()
    pool = world.machines["kme-1"].pool
    opened = ask(world, "wpe-1", opening(sealed(pool)))
    assert (opened.code, opened.signing_key, opened.voucher) == (0, b"", b"")
    items, request_hash = bytes(range(32)), bytes(32)
    signed = ask(
        world, "wpe-1", lambda number: SignResult(number, "ab01", FORMAT_HPKE, "AAAA", items, request_hash)
    )
    result_hash = HPKE.result_hash_of(
        sealed(pool).request,
        worker_nonce="AAAA",
        items_digest=items,
        request_hash=request_hash,
        ext_verification_key=None,
    )
    pool.signing.verification_key.verify(result_hash, signed.signature, strict=True)


@pytest.mark.parametrize(
    "asked",
    [
        ("ab02", FORMAT_HPKE, "AAAA"),
        ("ab01", "a dialect of its own", "AAAA"),
        ("ab01", "eea-1.1", "no base64"),
    ],
    ids=["of another order", "in no dialect", "with a nonce that is none"],
)
def test_a_kme_signs_no_other_result(asked):
    world = World(manifest=manifest_of(kme_signs_results=True))
    world.kme("kme-1").create()
    world.wpe("wpe-1")
    world.connect("wpe-1", "kme-1")
    world.run()
    assert ask(world, "wpe-1", opening(sealed(world.machines["kme-1"].pool))).code == 0
    answer = ask(world, "wpe-1", lambda number: SignResult(number, *asked, bytes(32), bytes(32)))
    assert answer.signature == b""


def test_a_kme_signs_no_result_for_a_wpe_whose_claim_went_to_another():
    world = World(manifest=manifest_of(kme_signs_results=True))
    world.kme("kme-1").create()
    for name in ("wpe-1", "wpe-2"):
        world.wpe(name)
        world.connect(name, "kme-1")
    world.run()
    order = sealed(world.machines["kme-1"].pool)
    assert ask(world, "wpe-1", opening(order, token=1)).code == 0
    assert ask(world, "wpe-2", opening(order, token=2)).code == 0
    asked = ("ab01", FORMAT_HPKE, "AAAA", bytes(32), bytes(32))
    assert ask(world, "wpe-1", lambda number: SignResult(number, *asked)).signature == b""
    assert ask(world, "wpe-2", lambda number: SignResult(number, *asked)).signature != b""


def test_a_kme_that_joins_has_the_pool_s_keys_and_serves_at_once(world):
    world.kme("kme-2")
    world.connect("kme-2", "kme-1")
    world.run()
    first, second = world.machines["kme-1"].pool, world.machines["kme-2"].pool
    assert first.signing.to_bytes() == second.signing.to_bytes()
    assert world.nodes["kme-2"].is_serving
    world.kill("kme-1")
    world.connect("wpe-1", "kme-2")
    world.run()
    assert ask(world, "wpe-1", opening(sealed(first))).code == 0


def test_keys_that_may_not_leave_do_not():
    world = World(manifest=manifest_of(migration="never"))
    world.kme("kme-1").create()
    world.kme("kme-2")
    world.connect("kme-2", "kme-1")
    world.run()
    assert world.nodes["kme-2"].state is None
    assert "keys may not leave" in world.machines["kme-1"].reasons()


def test_a_wpe_fails_over_without_failing_an_order(world):
    world.kme("kme-2")
    world.connect("kme-2", "kme-1")
    world.run()
    world.connect("wpe-1", "kme-2")
    world.run()
    pool = world.machines["kme-1"].pool
    answers = []
    for number in range(8):
        world.nodes["wpe-1"].ask(opening(sealed(pool, f"ab0{number}")), answers.append)
    for _ in range(3):
        world.step()
    world.kill("kme-1")
    world.run()
    assert [answer.code for answer in answers] == [0] * 8


def test_rotation_reaches_all_kmes_and_old_orders_still_open(world):
    world.kme("kme-2")
    world.connect("kme-2", "kme-1")
    world.run()
    old = world.machines["kme-1"].pool
    order = sealed(old)
    assert world.nodes["kme-2"].rotate(expected=1) == 2
    world.run()
    for name in ("kme-1", "kme-2"):
        assert world.machines[name].pool.current.epoch.number == 2
    assert world.nodes["kme-1"].rotate(expected=1) == 2, "asked again, it makes no third epoch"
    assert ask(world, "wpe-1", opening(order)).code == 0
    assert ask(world, "wpe-1", opening(sealed(world.machines["kme-1"].pool, "ab02"))).code == 0
    assert ask(world, "wpe-1", opening(sealed(old, "ab03", suite=AVALON.name))).code == 0


def test_keys_that_were_replaced_are_forgotten_after_the_overlap():
    world = World(manifest=manifest_of(overlap_seconds=100))
    world.kme("kme-1").create()
    world.wpe("wpe-1")
    world.connect("wpe-1", "kme-1")
    world.run()
    old = sealed(world.machines["kme-1"].pool)
    world.nodes["kme-1"].rotate(expected=1)
    world.now += 101
    world.nodes["kme-1"].rotate(expected=2)
    world.run()
    assert [keys.epoch.number for keys in world.machines["kme-1"].pool.epochs] == [3, 2]
    assert ask(world, "wpe-1", opening(old)).code == 2


def test_two_rotations_at_once_end_in_one_current_epoch(world):
    world.kme("kme-2")
    world.connect("kme-2", "kme-1")
    world.run()
    world.cut_all("kme-1", "kme-2")
    for name in ("kme-1", "kme-2"):
        world.nodes[name].rotate(expected=1)
    made = {world.machines[name].pool.current.rank for name in ("kme-1", "kme-2")}
    assert len(made) == 2
    world.connect("kme-2", "kme-1")
    world.run()
    assert {world.machines[name].pool.current.rank for name in ("kme-1", "kme-2")} == {max(made)}
    assert len({digest_of_state(world.nodes[name].state) for name in ("kme-1", "kme-2")}) == 1


def test_a_restarted_kme_serves_from_its_seal_and_a_wpe_need_not_be_restarted(world):
    pool = world.machines["kme-1"].pool
    world.restarted_kme("kme-1", alone=True)
    world.connect("wpe-1", "kme-1")
    world.run()
    if not world.nodes["wpe-1"].is_ready:
        # It tried to resume a session that died with the KME; the host connects again.
        world.connect("wpe-1", "kme-1")
        world.run()
    assert ask(world, "wpe-1", opening(sealed(pool))).code == 0


def test_a_rolled_back_seal_is_detected_by_the_peers_and_what_was_lost_comes_back(world):
    world.kme("kme-2")
    world.connect("kme-2", "kme-1")
    world.run()
    old = world.seals["kme-2"][-1]
    world.nodes["kme-1"].rotate(expected=1)
    world.run()
    node = world.restarted_kme("kme-2", seal=old)
    assert not node.is_serving, "it asks a peer first"
    world.connect("kme-2", "kme-1")
    world.run()
    assert node.counters.rollbacks == 1
    assert "rollback_detected" in [name for name, _ in world.machines["kme-2"].events]
    assert world.machines["kme-2"].pool.current.epoch.number == 2
    assert node.is_serving


def test_a_rollback_is_detected_when_all_kmes_were_restarted_together(world):
    world.kme("kme-2")
    world.connect("kme-2", "kme-1")
    world.run()
    old = world.seals["kme-2"][0]
    world.now += 10
    world.nodes["kme-1"].rotate(expected=1)
    world.run()
    world.restarted_kme("kme-1")
    node = world.restarted_kme("kme-2", seal=old)
    world.connect("kme-2", "kme-1")
    world.run()
    assert node.counters.rollbacks == 1
    assert world.nodes["kme-1"].counters.rollbacks == 0


def test_an_honest_restart_is_no_rollback(world):
    world.kme("kme-2")
    world.connect("kme-2", "kme-1")
    world.run()
    world.nodes["kme-1"].rotate(expected=1)
    world.run()
    node = world.restarted_kme("kme-2")
    world.connect("kme-2", "kme-1")
    world.run()
    assert node.counters.rollbacks == 0
    assert node.is_serving


def test_two_kmes_that_were_both_restarted_serve_again(world):
    world.kme("kme-2")
    world.connect("kme-2", "kme-1")
    world.run()
    for name in ("kme-1", "kme-2"):
        world.restarted_kme(name)
    world.connect("kme-2", "kme-1")
    world.run()
    assert world.nodes["kme-1"].is_serving
    assert world.nodes["kme-2"].is_serving


# -- changes of the manifest


@pytest.fixture
def owners():
    return [SigningKey.generate() for _ in range(3)]


def owned_world(owners, **members):
    pems = tuple(owner.verification_key.pem for owner in owners)
    world = World(manifest=manifest_of(owners=pems, quorum=2, **members))
    world.kme("kme-1").create()
    world.kme("kme-2")
    world.connect("kme-2", "kme-1")
    world.wpe("wpe-1")
    world.connect("wpe-1", "kme-1")
    world.run()
    return world


def change_of(first: bytes, signers, **members) -> SignedManifest:
    current = read_manifest(first)
    values = {name: getattr(current, name) for name in current.__struct_fields__}
    values |= {"version": current.version + 1, "previous": digest_of(first).hex(), **members}
    manifest = encode_manifest(Manifest(**values))
    return SignedManifest(
        manifest=manifest, signatures=dict(sign_manifest(manifest, signer) for signer in signers)
    )


def test_a_new_measurement_is_admitted_by_a_quorum_and_reaches_all_kmes(owners):
    world = owned_world(owners)
    new_code = "dd" * 32
    change = change_of(world.manifest, owners[:2], wpe_measurements=("bb" * 32, new_code))
    world.nodes["kme-1"].change_manifest(change)
    world.run()
    assert world.machines["kme-2"].pool.manifest.wpe_measurements == ("bb" * 32, new_code)
    world.wpe("new", measurement=new_code)
    world.connect("new", "kme-2")
    world.run()
    assert world.nodes["new"].is_ready


def test_a_measurement_that_is_admitted_no_more_has_to_go(owners):
    world = owned_world(owners)
    world.nodes["kme-1"].change_manifest(change_of(world.manifest, owners[1:], wpe_measurements=("dd" * 32,)))
    world.run()
    world.connect("wpe-1", "kme-1")
    world.run()
    world.connect("wpe-1", "kme-1")
    world.run()
    assert CODE_REFUSED in world.machines["kme-1"].reasons()
    assert not world.nodes["wpe-1"].is_ready


@pytest.mark.parametrize(
    "change",
    {
        "signed by one owner only": lambda first, owners: change_of(first, owners[:1]),
        "signed by a stranger": lambda first, owners: change_of(first, [SigningKey.generate(), owners[0]]),
        "of another worker": lambda first, owners: change_of(first, owners, worker_name="other"),
        "that skips a version": lambda first, owners: change_of(first, owners, version=3),
        "of another manifest": lambda first, owners: change_of(first, owners, previous="00" * 32),
    }.values(),
    ids=lambda _: "",
)
def test_no_other_change_is_admitted(owners, change):
    world = owned_world(owners)
    with pytest.raises(PolicyViolation):
        world.nodes["kme-1"].change_manifest(change(world.manifest, owners))
    assert world.machines["kme-1"].pool.manifest.version == 1


def test_a_pool_without_owners_cannot_be_changed(world, owners):
    with pytest.raises(PolicyViolation):
        world.nodes["kme-1"].change_manifest(change_of(world.manifest, owners))


def test_a_state_of_another_pool_is_not_merged(world):
    other = World(manifest=world.manifest)
    other.kme("other").create()
    with pytest.raises(PoolStateRefused):
        merge(world.nodes["kme-1"].state, other.nodes["other"].state, now=0)


# -- several KMEs


def two_kmes(**members):
    world = World(manifest=manifest_of(**members))
    world.kme("kme-1").create()
    world.kme("kme-2")
    world.connect("kme-2", "kme-1")
    world.run()
    return world


def test_a_wpe_with_a_session_at_each_kme_is_one_wpe():
    world = two_kmes(max_wpes=2)
    for number in range(3):
        world.wpe(f"wpe-{number}")
        for kme in ("kme-1", "kme-2"):
            world.connect(f"wpe-{number}", kme)
            world.run()
    assert [world.nodes[name].wpes() for name in ("kme-1", "kme-2")] == [2, 2]
    assert not world.nodes["wpe-2"].is_ready


def test_the_wpes_of_a_kme_that_is_gone_take_no_room():
    world = two_kmes(max_wpes=1)
    world.wpe("wpe-1")
    world.connect("wpe-1", "kme-2")
    world.run()
    world.wpe("wpe-2")
    world.connect("wpe-2", "kme-1")
    world.run()
    assert world.machines["kme-1"].reasons() == ["too many wpes"]
    world.kill("kme-2")
    world.connect("wpe-2", "kme-1")
    world.run()
    assert world.nodes["wpe-2"].is_ready


def test_a_kme_that_joins_knows_what_was_opened_before():
    world = two_kmes()
    for name in ("wpe-1", "wpe-2"):
        world.wpe(name)
        world.connect(name, "kme-1")
        world.run()
    order = sealed(world.machines["kme-1"].pool)
    assert ask(world, "wpe-1", opening(order, token=5)).code == 0
    world.restarted_kme("kme-2")
    world.connect("kme-2", "kme-1")
    world.run()
    world.kill("kme-1")
    world.connect("wpe-2", "kme-2")
    world.run()
    assert ask(world, "wpe-2", opening(order, token=4)).code == 8
    assert ask(world, "wpe-2", opening(order, token=5)).code == 8


def test_a_receipt_is_signed_by_another_kme_than_the_one_that_opened_the_order():
    world = two_kmes()
    world.wpe("wpe-1")
    world.connect("wpe-1", "kme-1")
    world.run()
    assert ask(world, "wpe-1", opening(sealed(world.machines["kme-1"].pool))).code == 0
    world.kill("kme-1")
    world.connect("wpe-1", "kme-2")
    world.run()
    assert ask(world, "wpe-1", lambda number: SignReceipt(number, "ab01", False, bytes(32))).signature


def test_a_kme_that_knows_nothing_of_an_order_is_not_the_last_that_is_asked():
    world = two_kmes()
    world.cut_all("kme-1", "kme-2")
    world.wpe("wpe-1")
    world.connect("wpe-1", "kme-1")
    world.run()
    assert ask(world, "wpe-1", opening(sealed(world.machines["kme-1"].pool))).code == 0
    world.connect("wpe-1", "kme-2")
    world.run()
    for _ in range(4):
        assert ask(world, "wpe-1", lambda number: SignReceipt(number, "ab01", False, bytes(32))).signature


def test_orders_are_given_up_when_no_kme_comes_and_all_are_told(world):
    world.kill("kme-1")
    world.run()
    node, heard = world.nodes["wpe-1"], []

    def broken(answer):
        heard.append(answer)
        raise RuntimeError

    order = sealed(world.machines["kme-1"].pool)
    node.ask(opening(order), broken)
    node.ask(opening(order), heard.append)
    world.now += 21
    with pytest.raises(RuntimeError):
        node.tick()
    assert heard == [None, None]


def test_a_recovered_state_is_sealed_at_once(world):
    state = world.nodes["kme-1"].state
    world.kill("kme-1")
    node = world.kme("kme-2")
    node.restore(state, 0, alone=True)
    assert node.is_serving
    assert world.seals["kme-2"]


# -- changed manifests, once more


def test_a_kme_whose_code_is_admitted_no_more_stops(owners):
    world = owned_world(owners)
    world.nodes["kme-2"].change_manifest(change_of(world.manifest, owners[:2], kme_measurements=("dd" * 32,)))
    world.run()
    for name in ("kme-1", "kme-2"):
        assert not world.nodes[name].is_serving
        assert "not admitted" in world.machines[name].reasons()
    assert not world.nodes["wpe-1"].is_ready


def test_a_change_ends_the_sessions_at_every_kme_and_handshakes_that_are_under_way(owners):
    world = owned_world(owners)
    world.wpe("wpe-2")
    world.connect("wpe-2", "kme-2")
    for _ in range(4):
        world.step()
    world.nodes["kme-1"].change_manifest(change_of(world.manifest, owners[:2], max_wpes=9))
    world.run()
    for name in ("kme-1", "kme-2"):
        assert world.nodes[name].wpes() == 0
    assert not world.nodes["wpe-2"].is_ready


def test_a_wpe_follows_the_manifest_and_resumes_with_no_kme_that_it_does_not_admit(owners):
    world = owned_world(owners, kme_measurements=("aa" * 32, "ab" * 32))
    world.kme("kme-3", measurement="ab" * 32)
    world.connect("kme-3", "kme-1")
    world.run()
    world.connect("wpe-1", "kme-3")
    world.run()
    # kme-3 does not hear of it: it is behind a partition.
    world.cut_all("kme-3", "kme-1")
    world.cut_all("wpe-1", "kme-3")
    world.nodes["kme-1"].change_manifest(change_of(world.manifest, owners[:2], kme_measurements=("aa" * 32,)))
    world.run()
    # There is nothing to resume; it hears of the change; it has judged anew.
    for _ in range(3):
        world.connect("wpe-1", "kme-1")
        world.run()
    assert world.nodes["wpe-1"].is_ready
    world.connect("wpe-1", "kme-3")
    world.run()
    assert world.machines["wpe-1"].reasons()[-1] == CODE_REFUSED
    assert world.nodes["kme-3"].counters.resumed == 0
