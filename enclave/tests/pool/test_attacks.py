"""Attacks on a pool, a few lines each: by hosts, by changed enclaves, with what was recorded."""

import msgspec
import pytest
from pool_evidence import DATA, NOW, evidence, manifest
from pool_orders import ask, opening, sealed
from pool_world import KME_CODE, World, manifest_of

from avalon_core.channel.handshake import HANDSHAKE_SECONDS, VERSION
from avalon_core.channel.pool import OpenOrder
from avalon_core.errors import HandshakeRefused
from avalon_core.protocol.orders import header_of
from avalon_enclave.errors import PoolStateRefused
from avalon_enclave.pool.judging import CODE_REFUSED, Judge
from avalon_enclave.pool.kme import EVIDENCE_SECONDS


class Tapped(World):
    """A world whose hosts keep what they carry, and may put something else in its place."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.carried: list[tuple[str, int, bytes]] = []
        self.instead = lambda sender, number, frame: frame
        self._counts: dict[tuple[str, int], int] = {}

    def carry(self, sender, link, frame):
        number = self._counts[sender.name, link] = self._counts.get((sender.name, link), 0) + 1
        self.carried.append((sender.name, number, frame))
        super().carry(sender, link, self.instead(sender.name, number, frame))

    def recorded(self, sender: str, number: int) -> bytes:
        return next(frame for who, which, frame in self.carried if (who, which) == (sender, number))


@pytest.fixture
def world():
    world = Tapped()
    world.kme("kme-1").create()
    return world


def joined(world, name="wpe-1", kme="kme-1"):
    if name not in world.nodes:
        world.wpe(name)
    world.connect(name, kme)
    world.run()
    return world.nodes[name]


def test_the_code_of_a_wpe_was_changed(world):
    world.wpe("wpe-1", measurement="b0" + "bb" * 31)
    assert not joined(world).is_ready
    assert world.machines["kme-1"].reasons() == [CODE_REFUSED]


@pytest.mark.parametrize(
    ("given_", "options", "reason"),
    [
        (evidence(), {"simulated": False}, "root not accepted"),
        (evidence(debug=True), {"simulated": True}, "debug evidence"),
        (evidence(report_data=DATA[::-1]), {"simulated": True}, "evidence of another handshake"),
    ],
    ids=["the simulator's root in production", "a debug enclave", "evidence of another enclave's key"],
)
def test_evidence_that_is_not_good_enough(given_, options, reason):
    with pytest.raises(HandshakeRefused) as caught:
        Judge(clock=lambda: NOW, **options)(given_, DATA, "wpe", manifest())
    assert caught.value.reason == reason


def test_a_registration_is_replayed(world):
    joined(world)
    hello, register = world.recorded("wpe-1", 1), world.recorded("wpe-1", 2)
    world.instead = lambda who, number, frame: (
        {1: hello, 2: register}.get(number, frame) if who == "wpe-2" else frame
    )
    assert not joined(world, "wpe-2").is_ready


def test_a_registration_is_replayed_by_the_host_alone(world):
    joined(world)
    kme = world.nodes["kme-1"]
    kme.link_opened(99, initiate=False)
    kme.link_frame(99, world.recorded("wpe-1", 1))
    kme.link_frame(99, world.recorded("wpe-1", 2))
    assert world.machines["kme-1"].reasons() == ["unknown unique id"]


def test_a_unique_id_is_used_a_second_time(world):
    joined(world)
    kme, link = world.nodes["kme-1"], 1
    kme.link_frame(link, world.recorded("wpe-1", 2))
    assert world.machines["kme-1"].reasons() == ["session closed"]


def test_a_unique_id_is_stolen(world):
    """The host gives the challenge that one WPE asked for to another."""
    world.wpe("victim")
    world.connect("victim", "kme-1")
    while not any(who == "kme-1" for who, _, _ in world.carried):
        world.step()
    stolen = world.recorded("kme-1", 1)
    world.instead = lambda who, number, frame: stolen if (who, number) == ("kme-1", 1) else frame
    thief = joined(world, "thief")
    assert not thief.is_ready
    assert world.machines["thief"].reasons() == ["report data"]


@pytest.mark.parametrize("place", ["version", "pool", "role"])
def test_the_opening_is_downgraded(world, place):
    def instead(who, number, frame):
        if (who, number) != ("wpe-1", 1):
            return frame
        tag, version, pool, role, nonce = msgspec.msgpack.decode(frame)
        changed = {"version": version, "pool": pool, "role": role} | {place: "avalon session 0"}
        return msgspec.msgpack.encode([tag, *changed.values(), nonce])

    assert VERSION != "avalon session 0"
    world.instead = instead
    assert not joined(world).is_ready
    expected = {"version": "wrong version", "pool": "another pool", "role": "wrong role"}
    assert world.machines["kme-1"].reasons() == [expected[place]]


def test_a_wpe_comes_as_a_kme(world):
    """The host changes the role in the Hello: the KME's evidence binds what it has heard."""

    def instead(who, number, frame):
        return frame.replace(b"\xa3wpe", b"\xa3kme") if (who, number) == ("wpe-1", 1) else frame

    world.instead = instead
    assert not joined(world).is_ready
    assert world.machines["wpe-1"].reasons() == ["report data"]


def test_a_nonce_is_stale(world):
    world.wpe("wpe-1")
    world.connect("wpe-1", "kme-1")
    while not any(who == "kme-1" for who, _, _ in world.carried):
        world.step()
    world.now += HANDSHAKE_SECONDS + 1
    world.run()
    assert world.machines["kme-1"].reasons() == ["stale nonce"]


def test_a_handshake_that_never_goes_on_is_forgotten(world):
    kme = world.nodes["kme-1"]
    for link in range(100, 150):
        kme.link_opened(link, initiate=False)
    world.now += HANDSHAKE_SECONDS + 1
    kme.tick()
    assert not kme._peers


def test_a_session_outlives_its_evidence(world):
    wpe = joined(world)
    world.now += EVIDENCE_SECONDS
    world.nodes["kme-1"].tick()
    wpe.tick()
    assert world.nodes["kme-1"].wpes() == 0
    assert not wpe.is_ready
    assert joined(world).is_ready, "by evidence again: there is nothing to resume"
    assert world.nodes["kme-1"].counters.resumed == 0


def test_the_state_of_another_pool(world):
    """Two pools under one manifest have one id; they have not one key."""
    world.kme("kme-2").create()
    world.connect("kme-2", "kme-1")
    world.run()
    assert "state refused" in world.machines["kme-1"].reasons() + world.machines["kme-2"].reasons()
    keys = {world.nodes[name].office.pool.signing.to_bytes() for name in ("kme-1", "kme-2")}
    assert len(keys) == 2


def test_a_kme_of_another_pool(world):
    world.kme("kme-2", manifest=manifest_of(worker_name="another pool"))
    world.connect("kme-2", "kme-1")
    world.run()
    assert world.machines["kme-1"].reasons() == ["another pool"]
    assert world.nodes["kme-2"].state is None


@pytest.mark.parametrize("confidant", ["itself", "its copy", "one that has nothing"])
def test_a_rolled_back_kme_is_made_to_agree_with_its_own_echo(world, confidant):
    old = world.seals["kme-1"][0]
    world.nodes["kme-1"].rotate(expected=1)
    node = world.restarted_kme("kme-1", seal=old)
    if confidant == "one that has nothing":
        world.kme("kme-2")
        world.connect("kme-2", "kme-1")
    elif confidant == "its copy":
        world.seals["copy"] = [old]
        world.kme("copy")
        world.restarted_kme("copy")
        world.connect("copy", "kme-1")
    else:
        world.link_to_itself("kme-1")
    world.run()
    assert not node.is_serving
    assert node.office.pool.current.epoch.number == 1
    if confidant == "one that has nothing":
        assert world.nodes["kme-2"].state is None


def test_a_second_kme_from_one_seal_is_found_out_when_it_differs(world):
    """A copy of kme-1, from its seal, beside it: its first change makes the other look rolled back."""
    world.kme("kme-2")
    world.connect("kme-2", "kme-1")
    world.run()
    world.seals["copy"] = [world.seals["kme-1"][-1]]
    world.kme("copy")
    world.restarted_kme("copy")
    world.connect("copy", "kme-2")
    world.run()
    world.now += 10
    world.nodes["copy"].rotate(expected=1)
    world.run()
    assert world.nodes["kme-1"].counters.rollbacks == 1


def test_the_host_gives_the_number_of_a_link_to_another_wpe(world):
    """While an order is being opened: its secrets must not go to who comes under the number."""
    wpe = joined(world)
    kme, order = world.nodes["kme-1"], sealed(world.nodes["kme-1"].office.pool)
    held = []
    world.machines["kme-1"].run = held.append
    wpe.ask(opening(order), lambda _: None)
    world.run()
    kme.link_closed(1)
    peer = kme._peers[1] = object.__new__(type("Other", (), {}))
    before = len(world.carried)
    for work in held:
        if "open_orders" in repr(work):
            kme._gossip = lambda: None
            work()
    assert kme._peers[1] is peer
    assert len(world.carried) == before


def test_a_wpe_takes_an_order_that_another_holds(world):
    joined(world)
    joined(world, "wpe-2")
    order = sealed(world.nodes["kme-1"].office.pool)
    assert ask(world, "wpe-1", opening(order, token=2)).code == 0
    for token in (1, 2):
        assert ask(world, "wpe-2", opening(order, token=token)).signing_key == b""


def test_a_wpe_renounces_what_it_cannot_have(world):
    """A token of -1 means, between KMEs, that an order is renounced. No WPE can say it."""
    wpe = joined(world)
    order = sealed(world.nodes["kme-1"].office.pool)
    wpe.ask(lambda number: OpenOrder(number, -1, header_of(order.request), bytes(16)), lambda _: None)
    world.run()
    assert "broke the rules" in world.machines["kme-1"].reasons()
    assert world.nodes["kme-1"].office.remembered() == []


def test_an_order_with_an_endless_header_costs_no_link(world):
    joined(world)
    answer = ask(world, "wpe-1", lambda number: OpenOrder(number, 1, b" " * (2 << 20), bytes(16)))
    assert answer.code == 2
    assert world.machines["kme-1"].reasons() == []


def test_many_large_orders_travel_apart(world):
    wpe, answers = joined(world), []
    for _ in range(60):
        wpe.ask(lambda number: OpenOrder(number, 1, b"{" * (1 << 20), bytes(16)), answers.append)
    world.run()
    assert [answer.code for answer in answers] == [2] * 60
    assert world.machines["kme-1"].reasons() == []


def test_a_pool_whose_manifest_does_not_admit_its_kme_is_not_made():
    world = World(manifest=manifest_of(kme_measurements=("cc" * 32,)))
    with pytest.raises(PoolStateRefused, match="own measurement"):
        world.kme("kme-1", measurement=KME_CODE).create()


def test_a_kme_that_says_nothing_of_itself_is_told_nothing(world):
    """Its code is admitted, but it speaks out of turn."""
    world.kme("kme-2")
    world.nodes["kme-2"]._established = lambda link, peer, established: setattr(peer, "role", "kme")
    world.connect("kme-2", "kme-1")
    world.run()
    assert world.nodes["kme-2"].state is None


def test_secrets_are_in_no_repr(world):
    joined(world)
    pool = world.nodes["kme-1"].office.pool
    opened = ask(world, "wpe-1", opening(sealed(pool)))
    shown = repr((opened, pool, pool.state, pool.epochs, world.nodes["kme-1"].state))
    for secret in (
        opened.session,
        opened.signing_key,
        pool.signing.to_bytes(),
        pool.current.keys.hpke.to_bytes(),
    ):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown
