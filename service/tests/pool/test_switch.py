"""Frames go to the other end of their link and nowhere else; a link that is over is over at both ends, once."""

from __future__ import annotations

from avalon_core.channel.messages import ToEnclave
from avalon_core.channel.pool_messages import LinkClosed, LinkFrame, LinkOpened
from avalon_core.errors import ChannelError
from avalon_service.pool.switch import ENDED, Switch, Wire


class Enclave:
    """An end that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[ToEnclave] = []
        self.is_full = False

    def send(self, message: ToEnclave) -> None:
        if self.is_full and isinstance(message, LinkFrame):
            raise ChannelError("too large")
        self.told.append(message)

    def take(self) -> list[ToEnclave]:
        told, self.told = self.told, []
        return told


class World:
    """A WPE, two KMEs, and why links ended."""

    def __init__(self) -> None:
        self.switch = Switch()
        self.wpe, self.kme, self.other = Enclave(), Enclave(), Enclave()
        self.ended: list[str] = []

    def connect(self, kme: Enclave, peer: int = 1) -> Wire:
        return self.switch.connect(self.wpe, kme, peer=peer, on_end=self.ended.append)

    def forget(self) -> None:
        for enclave in (self.wpe, self.kme, self.other):
            enclave.take()


def test_the_initiator_is_told_to_greet_and_whom() -> None:
    world = World()
    wire = world.connect(world.kme, peer=7)
    assert world.kme.take() == [LinkOpened(wire.number, initiate=False)]
    assert world.wpe.take() == [LinkOpened(wire.number, initiate=True, peer=7)]
    assert len(world.switch) == 1
    assert wire.other(world.wpe) is world.kme
    assert wire.other(world.kme) is world.wpe


def test_frames_go_both_ways_in_their_order_and_unchanged() -> None:
    world = World()
    first, second = world.connect(world.kme), world.connect(world.other, peer=2)
    world.forget()
    for number in range(3):
        world.switch.carry(world.wpe, LinkFrame(first.number, b"to kme %d" % number))
    world.switch.carry(world.wpe, LinkFrame(second.number, b"to other"))
    world.switch.carry(world.kme, LinkFrame(first.number, b"back"))
    assert world.kme.take() == [LinkFrame(first.number, b"to kme %d" % number) for number in range(3)]
    assert world.other.take() == [LinkFrame(second.number, b"to other")]
    assert world.wpe.take() == [LinkFrame(first.number, b"back")]


def test_nobody_speaks_on_a_link_that_is_not_its_own() -> None:
    world = World()
    wire = world.connect(world.kme)
    world.forget()
    world.switch.carry(world.other, LinkFrame(wire.number, b"hello"))
    world.switch.closed_by(world.other, wire.number, "mischief")
    assert not world.kme.take() + world.wpe.take()
    assert not world.ended
    world.switch.carry(world.wpe, LinkFrame(wire.number, b"still here"))
    assert world.kme.take() == [LinkFrame(wire.number, b"still here")]


def test_a_link_that_an_enclave_ends_is_over_at_both_ends() -> None:
    world = World()
    wire = world.connect(world.kme)
    world.forget()
    world.switch.closed_by(world.kme, wire.number, "measurement not allowed")
    assert world.kme.take() == world.wpe.take() == [LinkClosed(wire.number)]
    assert world.ended == ["measurement not allowed"]
    assert len(world.switch) == 0
    # What was under way meanwhile is dropped; the end is told once.
    world.switch.carry(world.wpe, LinkFrame(wire.number, b"late"))
    world.switch.closed_by(world.wpe, wire.number, "left")
    world.switch.cut(wire, "again")
    assert not world.kme.take() + world.wpe.take()
    assert world.ended == ["measurement not allowed"]


def test_an_enclave_that_is_gone_takes_all_of_its_links_along_and_no_other() -> None:
    world = World()
    world.connect(world.kme)
    kept = world.connect(world.other, peer=2)
    between = world.switch.connect(world.other, world.kme, peer=1, on_end=world.ended.append)
    world.forget()
    world.switch.gone(world.kme)
    assert world.ended == [ENDED, ENDED]
    assert len(world.switch) == 1
    assert LinkClosed(between.number) in world.other.take()
    world.switch.carry(world.wpe, LinkFrame(kept.number, b"x"))
    assert world.other.take() == [LinkFrame(kept.number, b"x")]
    world.switch.gone(world.kme)
    assert len(world.ended) == 2


def test_a_frame_that_does_not_fit_ends_its_link() -> None:
    """Dropped alone, it would leave a session that has lost a record: both ends make a new one."""
    world = World()
    wire = world.connect(world.kme)
    world.forget()
    world.kme.is_full = True
    world.switch.carry(world.wpe, LinkFrame(wire.number, b"large"))
    assert world.wpe.take() == [LinkClosed(wire.number)]
    assert world.ended == ["a frame does not fit: too large"]


def test_a_link_made_again_has_another_number() -> None:
    world = World()
    first = world.connect(world.kme)
    world.switch.cut(first, "left")
    second = world.connect(world.kme)
    world.forget()
    assert first.number != second.number
    world.switch.carry(world.wpe, LinkFrame(first.number, b"old"))
    assert not world.kme.take()
