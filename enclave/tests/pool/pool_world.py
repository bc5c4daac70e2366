"""A pool in one thread: KMEs, WPEs and the hosts between them, over a network that a seed drives.

Nothing runs at the same time as anything else: every frame, every piece of work and every command is an event, and the seed
chooses which one is next. So a schedule that breaks something is found again by its seed.
"""

import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from avalon_core.crypto.manifests import Manifest, encode_manifest, read_manifest
from avalon_core.errors import HandshakeRefused
from avalon_enclave.pool.judging import CODE_REFUSED
from avalon_enclave.pool.kme import KmeNode
from avalon_enclave.pool.state import PoolState, decode_state, encode_state
from avalon_enclave.pool.wpe import WpeNode

KME_CODE = "aa" * 32
WPE_CODE = "bb" * 32


def manifest_of(**changes) -> bytes:
    values = {
        "worker_name": "pool under test",
        "kme_measurements": (KME_CODE,),
        "wpe_measurements": (WPE_CODE,),
        "roots": ("simulator",),
        **changes,
    }
    return encode_manifest(Manifest(**values))


def evidence(measurement: str, report_data: bytes) -> bytes:
    return measurement.encode() + b":" + report_data


def judge(given: bytes, report_data: bytes, role: str, manifest: Manifest) -> None:
    """Evidence in this world is a measurement and its report data: the rules of the pool are what is tested here."""
    measurement, _, bound = given.partition(b":")
    allowed = manifest.kme_measurements if role == "kme" else manifest.wpe_measurements
    if measurement.decode(errors="replace") not in allowed:
        raise HandshakeRefused(
            CODE_REFUSED, f"not one of the {len(allowed)} that the manifest admits for a {role}"
        )
    if bound != report_data:
        raise HandshakeRefused("report data", "the evidence binds something else")


@dataclass
class Seal:
    """What the host keeps of a KME."""

    state: bytes
    instance: str
    revision: int


class Machine:
    """One enclave and what it says to its host."""

    def __init__(self, world: "World", name: str, measurement: str) -> None:
        self.world = world
        self.name = name
        self.measurement = measurement
        self.alive = True
        self.events: list[tuple[str, Mapping[str, str | int]]] = []
        self.pool = None
        self.seal: Seal | None = None
        self.welcomes = []

    # Outside, of both kinds of node

    def send(self, link: int, frame: bytes) -> None:
        self.world.carry(self, link, frame)

    def close(self, link: int, reason: str) -> None:
        self.world.cut(self, link)

    def event(self, name: str, fields: Mapping[str, str | int]) -> None:
        self.events.append((name, fields))

    def run(self, work: Callable[[], None]) -> None:
        self.world.later(self, work)

    soon = run

    def issue_evidence(self, report_data: bytes) -> bytes:
        return evidence(self.measurement, report_data)

    def judge(self, given: bytes, report_data: bytes, role: str, manifest: Manifest) -> None:
        judge(given, report_data, role, manifest)

    def monotonic(self) -> float:
        return self.world.now

    def unix_time(self) -> int:
        return 1_700_000_000 + int(self.world.now)

    def state_changed(self, state: PoolState, instance: str, revision: int) -> None:
        self.seal = Seal(encode_state(state), instance, revision)
        self.world.seals.setdefault(self.name, []).append(self.seal)

    def pool_changed(self, pool) -> None:
        self.pool = pool

    def welcomed(self, welcome) -> None:
        self.welcomes.append(welcome)

    def reasons(self) -> list[str]:
        """Why links were closed here."""
        return [str(fields["reason"]) for name, fields in self.events if name == "link_closed"]


@dataclass
class Wire:
    """A link between two machines, as the hosts keep it. Frames stay in order, as on a stream."""

    ends: tuple[tuple[Machine, int], tuple[Machine, int]]
    queues: tuple[deque, deque] = field(default_factory=lambda: (deque(), deque()))
    cut: bool = False


class World:
    """See the module."""

    def __init__(self, seed: int = 0, *, manifest: bytes | None = None) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.manifest = manifest or manifest_of()
        self.machines: dict[str, Machine] = {}
        self.nodes: dict[str, KmeNode | WpeNode] = {}
        self.seals: dict[str, list[Seal]] = {}
        self._wires: dict[tuple[str, int], Wire] = {}
        self._work: list[tuple[Machine, Callable[[], None]]] = []
        self._link = 0

    # -- who is there

    def kme(self, name: str, *, measurement: str = KME_CODE, manifest: bytes | None = None) -> KmeNode:
        first = manifest or self.manifest
        machine = self.machines[name] = Machine(self, name, measurement)
        node = KmeNode(
            machine,
            instance=f"{name}-{self.random.random()}",
            first_manifest=first,
            manifest=read_manifest(first),
        )
        self.nodes[name] = node
        return node

    def wpe(self, name: str, *, measurement: str = WPE_CODE, manifest: bytes | None = None) -> WpeNode:
        first = manifest or self.manifest
        machine = self.machines[name] = Machine(self, name, measurement)
        node = WpeNode(machine, first_manifest=first, manifest=read_manifest(first))
        self.nodes[name] = node
        return node

    def restarted_kme(self, name: str, *, seal: Seal | None = None, alone: bool = False) -> KmeNode:
        """The KME of that name again, from its last seal or the given (older) one."""
        seal = seal or self.seals[name][-1]
        self.kill(name)
        machine = self.machines[name] = Machine(self, name, KME_CODE)
        node = KmeNode(
            machine,
            instance=seal.instance,
            first_manifest=self.manifest,
            manifest=read_manifest(self.manifest),
        )
        self.nodes[name] = node
        node.restore(decode_state(seal.state), seal.revision, alone=alone)
        return node

    def kill(self, name: str) -> None:
        """Kill -9: what it was about to say is lost, its links end."""
        machine = self.machines[name]
        machine.alive = False
        self._work = [(of, work) for of, work in self._work if of is not machine]
        for (owner, _), wire in list(self._wires.items()):
            if owner == name:
                self._cut_wire(wire)

    # -- the network

    def connect(self, initiator: str, responder: str) -> None:
        """A link between two machines: the first greets the second."""
        self._link += 1
        link = self._link
        ours, theirs = self.machines[initiator], self.machines[responder]
        wire = Wire(((ours, link), (theirs, link)))
        self._wires[(initiator, link)] = self._wires[(responder, link)] = wire
        self.nodes[responder].link_opened(link, initiate=False)
        node = self.nodes[initiator]
        if isinstance(node, KmeNode):
            node.link_opened(link, initiate=True)
        else:
            node.link_opened(link, kme=sorted(self.machines).index(responder))

    def link_to_itself(self, name: str) -> None:
        """The host joins two links of one KME."""
        self._link += 2
        machine, ours, theirs = self.machines[name], self._link - 1, self._link
        self._wires[name, ours] = self._wires[name, theirs] = Wire(((machine, ours), (machine, theirs)))
        self.nodes[name].link_opened(theirs, initiate=False)
        self.nodes[name].link_opened(ours, initiate=True)

    def carry(self, sender: Machine, link: int, frame: bytes) -> None:
        wire = self._wires.get((sender.name, link))
        if wire is not None and not wire.cut:
            wire.queues[0 if wire.ends[0] == (sender, link) else 1].append(frame)

    def cut(self, sender: Machine, link: int) -> None:
        wire = self._wires.get((sender.name, link))
        if wire is not None:
            wire.cut = True

    def cut_all(self, one: str, other: str) -> None:
        """A partition between two machines, as far as there are links now."""
        for wire in set(map(id, self._wires.values())):
            for known in list(self._wires.values()):
                if id(known) == wire and {known.ends[0][0].name, known.ends[1][0].name} == {one, other}:
                    self._cut_wire(known)

    def later(self, machine: Machine, work: Callable[[], None]) -> None:
        self._work.append((machine, work))

    # -- time

    def step(self) -> bool:
        """One event, chosen by the seed; False: nothing is left to happen."""
        choices: list[Callable[[], None]] = []
        seen = set()
        for wire in list(self._wires.values()):
            if id(wire) in seen:
                continue
            seen.add(id(wire))
            choices += [partial(self._deliver, wire, side) for side in (0, 1) if wire.queues[side]]
            if wire.cut and not any(wire.queues):
                choices.append(partial(self._cut_wire, wire))
        choices += [partial(self._do, index) for index in range(len(self._work))]
        if not choices:
            return False
        self.random.choice(choices)()
        return True

    def run(self, steps: int = 100_000) -> None:
        """Until nothing is left to happen."""
        for _ in range(steps):
            if not self.step():
                return
        raise AssertionError(f"still something happens after {steps} steps")

    def _deliver(self, wire: Wire, side: int) -> None:
        frame = wire.queues[side].popleft()
        machine, link = wire.ends[1 - side]
        if machine.alive:
            self.nodes[machine.name].link_frame(link, frame)

    def _do(self, index: int) -> None:
        _, work = self._work.pop(index)
        work()

    def _cut_wire(self, wire: Wire) -> None:
        wire.cut = True
        for queue in wire.queues:
            queue.clear()
        for machine, link in wire.ends:
            if self._wires.pop((machine.name, link), None) is not None and machine.alive:
                self.nodes[machine.name].link_closed(link)
