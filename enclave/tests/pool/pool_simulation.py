"""Schedules of a whole pool: hosts that lose, delay, cut, restart and cheat, and what must hold whatever they do.

One seed is one schedule. :class:`Simulation` is the :class:`pool_world.World` with hosts that reconnect, a store that hands out
claims under growing tokens, owners that change the manifest, and an adversary; after every event it checks the invariants:

1. *keys*: a KME that the manifest does not admit has no state, and no frame carries a key of the pool;
2. *peers*: no enclave keeps a session with a peer that its manifest does not admit;
3. *frames*: what was changed, dropped, repeated or reordered is not accepted: the link it came on is gone;
4. *lease*: a KME opens no order for whom it knows (or was told) not to hold it: a lower token, another WPE under the same
   token, other bytes under the id, an order that the pool has signed as failed;
5. *epochs*: KMEs that have a link and nothing left to say have the same current epoch and manifest, no epoch goes back, and
   nobody who was rolled back serves while a peer knows better;
6. *healing*: when the hosts behave again, all KMEs agree and an order is opened.

What the checks know they keep themselves: they do not ask the ledger what it remembers.
"""

import contextlib
import hashlib
import os
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import cycle

from pool_world import KME_CODE, WPE_CODE, Machine, Wire, World, manifest_of

from avalon_core.channel import handshake
from avalon_core.channel.pool import OpenOrder, OrderOpened, Signed, SignReceipt
from avalon_core.crypto.dialects import WorkerPublicKeys
from avalon_core.crypto.manifests import (
    Manifest,
    SignedManifest,
    digest_of,
    encode_manifest,
    read_manifest,
    sign_manifest,
)
from avalon_core.crypto.orders import Item, OrderDraft, SealedOrder, seal_order
from avalon_core.crypto.sealing import HpkePrivateKey, RsaPrivateKey
from avalon_core.crypto.signing import SigningKey
from avalon_core.errors import AvalonError
from avalon_core.protocol.ids import HexStr, RequesterId, WorkOrderId, worker_id_of, workload_id_of
from avalon_core.protocol.orders import header_of
from avalon_enclave.pool import state as states
from avalon_enclave.pool.kme import KmeNode
from avalon_enclave.pool.wpe import WpeNode

NEW_KME_CODE, NEW_WPE_CODE, FOREIGN_CODE = "a1" * 32, "b1" * 32, "ff" * 32
FAILED = -1


class Violated(AssertionError):
    """An invariant does not hold."""


# -- keys that were made before: a schedule must not wait for primes


@cache
def _ready() -> tuple[RsaPrivateKey, bytes, list[HpkePrivateKey]]:
    rsa = RsaPrivateKey.generate()
    chance = random.Random(192)
    return rsa, rsa.to_bytes(), [HpkePrivateKey(chance.randbytes(96)) for _ in range(192)]


@cache
def owners() -> list[SigningKey]:
    return [SigningKey(bytes([number]) * 32) for number in (1, 2, 3)]


@cache
def first_manifest(**members: int) -> bytes:
    return manifest_of(
        owners=tuple(owner.verification_key.pem for owner in owners()),
        quorum=2,
        kme_measurements=(KME_CODE, NEW_KME_CODE),
        wpe_measurements=(WPE_CODE, NEW_WPE_CODE),
        overlap_seconds=500,
        **members,
    )


def quicken(monkeypatch) -> None:
    """Epochs share one RSA key and handshakes take one of many ready keys; everything else is as it is."""
    rsa, der, ready = _ready()
    chance = random.Random()

    class Ready(HpkePrivateKey):
        @classmethod
        def generate(cls) -> HpkePrivateKey:
            return chance.choice(ready)

    by_bytes = {key.to_bytes(): key for key in ready}
    turns = [cycle(ready)]

    def reseed(_: Simulation, seed: int) -> None:
        chance.seed(seed)
        turns[0] = cycle(ready)

    def new_epoch(number: int, now: int) -> states.Epoch:
        # Of as many keys as there are, no schedule comes to the same one twice: they are what tells epochs apart.
        return states.Epoch(number=number, made_at=now, rsa=der, hpke=next(turns[0]).to_bytes())

    def load_epoch(epoch: states.Epoch) -> states.EpochKeys:
        return states.EpochKeys(epoch=epoch, keys=states.WorkerKeys(rsa=rsa, hpke=by_bytes[epoch.hpke]))

    # What the operating system calls random comes of the seed as well, or a seed would not be the whole schedule.
    monkeypatch.setattr(os, "urandom", chance.randbytes)
    monkeypatch.setattr(Simulation, "reseed", reseed)
    monkeypatch.setattr(handshake, "HpkePrivateKey", Ready)
    monkeypatch.setattr(states, "_new_epoch", new_epoch)
    monkeypatch.setattr(states, "_load_epoch", load_epoch)


# -- the world


@dataclass
class Frame:
    """What travels, and what it was when it left."""

    sequence: int
    sent: bytes
    now: bytes


@dataclass
class Order:
    """One of the store's."""

    sealed: SealedOrder
    header: bytes
    fingerprint: bytes
    token: int = 0
    holder: str = ""
    """Name of the WPE to whose host the claim was given."""

    ended: bool = False


class Simulation(World):
    """See the module."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        members = {"max_wpes": chance.choice((2, 64)), "orders_per_wpe": chance.choice((0, 0, 3))}
        super().__init__(seed, manifest=first_manifest(**members))
        self.seed = seed
        self.malicious = chance.random() < 0.5
        self.rolls_back = chance.random() < 0.3
        self.skews: dict[str, int] = {}
        self.partitions: set[frozenset[str]] = set()
        self.orders: dict[str, Order] = {}
        self.changes: list[SignedManifest] = []
        self.opens = 0
        self.tampered = 0
        self.restarts = 0
        self._next = {}
        self._expected: dict[tuple[int, int], int] = {}
        self._spoiled: set[tuple[int, int]] = set()
        self._linked: dict[frozenset[str], Wire] = {}
        self._opened_at: dict[str, dict[str, tuple[int, str, bytes]]] = {}
        """By KME: what it opened itself, since it was started: token, instance, fingerprint."""

        self._must_know: dict[str, dict[str, tuple[int, str, bytes]]] = {}
        """By KME: that, and what peers had certainly told it."""

        self._ever: dict[str, set[tuple[int, str, bytes]]] = {}
        """By order, all that was opened anywhere."""

        self._fresh: set[str] = set()
        """KMEs that were started without a seal."""

        self._served: set[Machine] = set()
        """Starts of KMEs that serve or have served."""

        self._secrets: set[bytes] = set()
        self._highest: dict[str, int] = {}
        self._rolled: dict[str, int] = {}
        """KMEs that were started from an old seal: the revision of the newest."""

        self._counter = 0
        self.reseed(seed)
        self._start()

    def reseed(self, seed: int) -> None:
        """Of all randomness: see :func:`quicken`."""

    def _start(self) -> None:
        skewed = self.random.random() < 0.3
        for number in range(self.random.choice((1, 2, 2, 3))):
            name = f"kme-{number}"
            self.skews[name] = self.random.randrange(-90, 90) if skewed else 0
            code = self.random.choice((KME_CODE, KME_CODE, NEW_KME_CODE)) if number else KME_CODE
            self.kme(name, measurement=code)
        self.nodes["kme-0"].create()
        for number in range(self.random.choice((1, 2, 2))):
            self.wpe(f"wpe-{number}", measurement=self.random.choice((WPE_CODE, NEW_WPE_CODE)))
        self._watch("kme-0")

    # -- machines

    def kme(self, name: str, *, measurement: str = KME_CODE, manifest: bytes | None = None) -> KmeNode:
        node = super().kme(name, measurement=measurement, manifest=manifest)
        self._attach(name, node)
        return node

    def _attach(self, name: str, node: KmeNode) -> None:
        self._opened_at[name], self._must_know[name] = {}, {}
        self._fresh.add(name)
        self._highest[name] = 0
        machine = self.machines[name]
        skew = self.skews.get(name, 0)
        machine.unix_time = lambda: 1_700_000_000 + int(self.now) + skew
        office = node.office
        open_, sign = office.open, office.sign_receipt

        def opened(registration, order):
            answer = open_(registration, order)
            if answer.code == 0:
                self._check_open(name, registration.instance, order)
            return answer

        def signed(registration, asked):
            signature = sign(registration, asked)
            if signature and asked.failed:
                entry = (FAILED, registration.instance, b"")
                self._opened_at[name][asked.work_order_id] = entry
                self._must_know[name][asked.work_order_id] = entry
            return signature

        office.open, office.sign_receipt = opened, signed

    def kmes(self) -> list[str]:
        return [name for name in self.nodes if name.startswith("kme-") and self.machines[name].alive]

    def wpes(self) -> list[str]:
        return [name for name in self.nodes if name.startswith("wpe-") and self.machines[name].alive]

    def serving(self) -> list[str]:
        return [name for name in self.kmes() if self.nodes[name].is_serving]

    def kill(self, name: str) -> None:
        """Kill -9. What its host has of its frames may still arrive, or some of it."""
        machine = self.machines[name]
        if not machine.alive:
            return
        machine.alive = False
        self._work = [(of, work) for of, work in self._work if of is not machine]
        for (owner, _), wire in list(self._wires.items()):
            if owner == name:
                side = 0 if wire.ends[0][0] is machine else 1
                lost = self.random.randrange(len(wire.queues[side]) + 1)
                for _ in range(lost):
                    wire.queues[side].pop()
                wire.queues[1 - side].clear()
                wire.cut = True

    def restart(self, name: str, *, old: bool = False, alone: bool = False) -> None:
        measurement = self.machines[name].measurement
        self.kill(name)
        self.restarts += 1
        if name.startswith("wpe-"):
            self.wpe(name, measurement=measurement)
            return
        seals = self.seals.get(name, [])
        if not seals:
            self.kme(name, measurement=measurement)
            return
        seal = self.random.choice(seals) if old else seals[-1]
        machine = self.machines[name] = Machine(self, name, measurement)
        node = self.nodes[name] = KmeNode(
            machine,
            instance=seal.instance,
            first_manifest=self.manifest,
            manifest=read_manifest(self.manifest),
        )
        self._attach(name, node)
        if seal is not seals[-1]:
            self._rolled[name] = seals[-1].revision
        else:
            self._rolled.pop(name, None)
        node.restore(states.decode_state(seal.state), seal.revision, alone=alone)
        if node.is_serving and not alone:
            raise Violated("epochs: a KME serves from its seal and has asked no peer")
        self._fresh.discard(name)

    # -- links

    def pairs(self) -> list[tuple[str, str]]:
        """Who should be linked: the first greets the second."""
        kmes = self.kmes()
        wanted = [(two, one) for index, one in enumerate(kmes) for two in kmes[index + 1 :]]
        # A KME that has nothing greets: it cannot serve whoever greets it.
        wanted = [pair if self.nodes[pair[1]].state is not None else pair[::-1] for pair in wanted]
        return wanted + [(wpe, kme) for wpe in self.wpes() for kme in kmes]

    def unlinked(self) -> list[tuple[str, str]]:
        return [
            pair
            for pair in self.pairs()
            if frozenset(pair) not in self.partitions and not self._is_linked(frozenset(pair))
        ]

    def _is_linked(self, pair: frozenset[str]) -> bool:
        wire = self._linked.get(pair)
        return wire is not None and not wire.cut and all(machine.alive for machine, _ in wire.ends)

    def connect(self, initiator: str, responder: str) -> None:
        super().connect(initiator, responder)
        wire = self._wires.get((initiator, self._link))
        if wire is not None:
            self._linked[frozenset((initiator, responder))] = wire

    def carry(self, sender: Machine, link: int, frame: bytes) -> None:
        for secret in self._secrets:
            if secret in frame:
                raise Violated("keys: a frame carries a key of the pool")
        wire = self._wires.get((sender.name, link))
        if wire is None or wire.cut:
            return
        side = 0 if wire.ends[0] == (sender, link) else 1
        key = (wire.ends[0][1], side)
        sequence = self._next[key] = self._next.get(key, 0) + 1
        wire.queues[side].append(Frame(sequence, frame, frame))

    def _deliver(self, wire: Wire, side: int) -> None:
        frame: Frame = wire.queues[side].popleft()
        machine, link = wire.ends[1 - side]
        if not machine.alive:
            return
        key = (wire.ends[0][1], side)
        expected = self._expected.get(key, 0) + 1
        self._expected[key] = expected
        node = self.nodes[machine.name]
        served = isinstance(node, KmeNode) and node.is_serving
        node.link_frame(link, frame.now)
        teller = wire.ends[side][0]
        serves_now = isinstance(node, KmeNode) and node.is_serving and not served
        if serves_now and machine.name in self._fresh and teller not in self._served:
            raise Violated("epochs: a KME serves with the state of one that has asked nobody")
        if serves_now:
            self._fresh.discard(machine.name)
        if frame.sequence != expected or frame.sent != frame.now:
            self._spoiled.add(key)
        # (A changed Hello is answered, as nothing can be known of it yet; but nothing comes of it.)
        if key in self._spoiled and self._has_session(node, link):
            raise Violated("frames: what a host meddled with was accepted")
        self._watch(machine.name)

    def _do(self, index: int) -> None:
        machine, work = self._work.pop(index)
        work()
        self._watch(machine.name)

    @staticmethod
    def _has_session(node: KmeNode | WpeNode, link: int) -> bool:
        end = (node._peers if isinstance(node, KmeNode) else node._kmes).get(link)
        return end is not None and end.link.is_established

    # -- the store and the WPEs' hosts

    def submit(self) -> None:
        serving = self.serving()
        if not serving:
            return
        keys = self.nodes[self.random.choice(serving)].office.pool.current.keys
        self._counter += 1
        id_ = f"{self._counter:04x}"
        self.orders[id_] = self._order(id_, keys)

    def _order(self, id_: str, keys) -> Order:
        draft = OrderDraft(
            work_order_id=WorkOrderId(id_),
            worker_id=worker_id_of("pool under test"),
            workload_id=workload_id_of("echo-result"),
            requester_id=RequesterId("cafe"),
            requester_nonce=HexStr("00ff"),
            inputs=[Item(index=0, data=b"a secret")],
        )
        sealed = seal_order(draft, WorkerPublicKeys(rsa=keys.rsa.public_key, hpke=keys.hpke.public_key))
        header = header_of(sealed.request)
        return Order(sealed, header, hashlib.sha256(header).digest()[:16])

    def claim(self) -> None:
        """A lease has run out, or there was none: the next token, to any WPE's host."""
        open_ = [id_ for id_, order in self.orders.items() if not order.ended]
        wpes = self.wpes()
        if open_ and wpes:
            order = self.orders[self.random.choice(open_)]
            order.token += 1
            order.holder = self.random.choice(wpes)
            self._ask(order, order.holder, order.token)

    def ask_again(self) -> None:
        """A host that is slow, or lies: an old token, or the present one at a WPE that does not hold the claim."""
        if self.orders and self.wpes():
            order = self.orders[self.random.choice(list(self.orders))]
            if order.token:
                self._ask(order, self.random.choice(self.wpes()), self.random.randint(1, order.token))

    def other_bytes(self) -> None:
        """A second order under an id that is taken."""
        serving = self.serving()
        if self.orders and serving and self.wpes():
            id_ = self.random.choice(list(self.orders))
            keys = self.nodes[self.random.choice(serving)].office.pool.current.keys
            self._ask(
                self._order(id_, keys), self.random.choice(self.wpes()), self.orders[id_].token + 1, fake=True
            )

    def _ask(self, order: Order, wpe: str, token: int, *, fake: bool = False) -> None:
        node = self.nodes[wpe]
        assert isinstance(node, WpeNode)

        def answered(answer) -> None:
            if not isinstance(answer, OrderOpened) or answer.code:
                return
            if answer.session != order.sealed.keys.session:
                raise Violated("lease: a WPE was given the secrets of another order")
            if fake or order.token != token or order.holder != wpe:
                return
            if self.random.random() < 0.4:
                order.ended = True
                self._sign(node, order, failed=self.random.random() < 0.5)

        node.ask(lambda number: OpenOrder(number, token, order.header, order.fingerprint), answered)

    def _sign(self, node: WpeNode, order: Order, *, failed: bool) -> None:
        id_ = order.sealed.request.work_order_id

        def answered(answer) -> None:
            if isinstance(answer, Signed) and self.random.random() < 0.5:
                node.finished((id_,))

        node.ask(lambda number: SignReceipt(number, id_, failed, bytes(32)), answered)

    # -- the operators and owners

    def rotate(self) -> None:
        serving = self.serving()
        if serving:
            node = self.nodes[self.random.choice(serving)]
            self._try(lambda: node.rotate(node.office.pool.current.epoch.number))

    def change(self) -> None:
        """The owners sign one change after the other; a KME that is behind is given all that it lacks."""
        first = read_manifest(self.manifest)
        current = self.changes[-1].manifest if self.changes else self.manifest
        values = {name: getattr(first, name) for name in first.__struct_fields__} | {
            "version": read_manifest(current).version + 1,
            "previous": digest_of(current).hex(),
            "wpe_measurements": self.random.choice(((WPE_CODE,), (WPE_CODE, NEW_WPE_CODE))),
            "kme_measurements": self.random.choice(((KME_CODE,), (KME_CODE, NEW_KME_CODE))),
        }
        manifest = encode_manifest(Manifest(**values))
        self.changes.append(
            SignedManifest(
                manifest=manifest, signatures=dict(sign_manifest(manifest, owner) for owner in owners()[:2])
            )
        )
        self.hand_over_changes()

    def hand_over_changes(self, kme: str | None = None) -> None:
        serving = self.serving()
        if serving:
            node = self.nodes[kme or self.random.choice(serving)]
            for change in self.changes:
                self._try(lambda change=change: node.change_manifest(change))

    def late_receipt(self) -> None:
        serving = self.serving()
        if serving and self.orders:
            id_ = self.random.choice(list(self.orders))
            kme = self.random.choice(serving)
            try:
                self.nodes[kme].office.sign_late_receipt(self.orders[id_].header, None)
            except AvalonError:
                return
            self._opened_at[kme][id_] = self._must_know[kme][id_] = (FAILED, "", b"")

    def tick(self) -> None:
        self.now += self.random.choice((1, 10, 200))
        for name in (*self.kmes(), *self.wpes()):
            self.nodes[name].tick()

    @staticmethod
    def _try(act: Callable[[], object]) -> None:
        with contextlib.suppress(AvalonError):
            act()

    # -- what goes wrong

    def reconnect(self) -> None:
        pairs = self.unlinked()
        if pairs:
            self.connect(*self.random.choice(pairs))

    def cut_one(self) -> None:
        wires = list(self._wires.values())
        if wires:
            self._cut_wire(self.random.choice(wires))

    def partition(self) -> None:
        pairs = self.pairs()
        if pairs:
            pair = self.random.choice(pairs)
            self.partitions.add(frozenset(pair))
            self.cut_all(*pair)

    def mend(self) -> None:
        self.partitions.clear()

    def crash(self) -> None:
        names = [*self.kmes(), *self.wpes()]
        if names:
            self.kill(self.random.choice(names))

    def start_again(self) -> None:
        dead = [name for name, machine in self.machines.items() if not machine.alive]
        if not dead:
            return
        name = self.random.choice(dead)
        served = bool(self.serving())
        old = self.rolls_back and served and name.startswith("kme-")
        # (Not where none is left that every manifest admits: the pool would be lost.)
        safe = any(self.machines[other].measurement == KME_CODE for other in self.serving())
        if safe and name.startswith("kme-") and self.random.random() < 0.2:
            self.seals[name] = []  # its host has lost it, or puts another in its place
        self.restart(name, old=old, alone=name.startswith("kme-") and not self.kmes())

    def stranger(self) -> None:
        """Foreign code, and genuine code in the wrong role or pool."""
        serving = self.serving()
        if not serving:
            return
        self._counter += 1
        kind = self.random.choice(("kme", "wpe", "role", "pool"))
        name = f"stranger-{self._counter}"
        if kind == "kme":
            World.kme(self, name, measurement=FOREIGN_CODE)
        elif kind == "wpe":
            World.wpe(self, name, measurement=FOREIGN_CODE)
        elif kind == "role":
            World.wpe(self, name, measurement=KME_CODE)
        else:
            World.kme(self, name, manifest=manifest_of(worker_name="another pool"))
        self.connect(name, self.random.choice(serving))

    def to_itself(self) -> None:
        """The host links a KME with itself."""
        kmes = self.kmes()
        if kmes:
            self.link_to_itself(self.random.choice(kmes))

    def tamper(self) -> None:
        busy = [(wire, side) for wire in self._wires.values() for side in (0, 1) if wire.queues[side]]
        if not busy:
            return
        self.tampered += 1
        wire, side = self.random.choice(busy)
        queue: deque[Frame] = wire.queues[side]
        match self.random.choice(("drop", "repeat", "reorder", "change", "reflect", "cross")):
            case "drop":
                queue.popleft()
            case "repeat":
                queue.append(queue[0])
            case "reorder":
                queue.rotate(1)
            case "change":
                frame = queue[0]
                changed = bytearray(frame.now)
                changed[int(self.random.random() * len(changed))] ^= 1 << self.random.randrange(8)
                queue[0] = Frame(frame.sequence, frame.sent, bytes(changed))
            case "reflect":
                wire.queues[1 - side].append(Frame(0, b"", queue[0].now))
            case "cross":
                other, where = self.random.choice(busy)
                if other is not wire or where != side:
                    other.queues[where].append(Frame(0, b"", queue[0].now))

    # -- a schedule

    def play(self, actions: int = 60) -> None:
        """The schedule, then healing. Raises Violated, or whatever a node raised."""
        plain = (
            [self.reconnect] * 8
            + [self.submit] * 2
            + [self.claim] * 6
            + [self.ask_again] * 4
            + [self.rotate, self.change, self.cut_one, self.partition, self.mend, self.crash]
            + [self.start_again] * 3
            + [self.tick, self.late_receipt, self.settle, self.hand_over_changes]
        )
        attacks = [self.stranger, self.to_itself, self.other_bytes, self.tamper, self.tamper, self.tamper]
        choices = plain + attacks if self.malicious else plain
        for _ in range(actions):
            self.random.choice(choices)()
            for _ in range(self.random.randrange(10)):
                if not self.step():
                    self._quiet()
                    break
        self.heal()

    def settle(self) -> None:
        self.run(5000)
        self._quiet()

    def heal(self) -> None:
        self.partitions.clear()
        if self.malicious:
            # A host that behaves again ends the links on which it has dropped something.
            for wire in list(self._wires.values()):
                self._cut_wire(wire)
        for name in list(self.machines):
            if name.startswith("stranger"):
                self.kill(name)
            elif not self.machines[name].alive:
                self.restart(name)
        self._join_all()
        self._somebody_serves()
        # To each: one that is not admitted any more is refused by its peers before it could hear of it from them.
        for name in self.serving():
            self.hand_over_changes(name)
        self._join_all()
        self._somebody_serves()
        for name in self.kmes():
            node = self.nodes[name]
            if node.is_serving != self._admitted(name):
                raise Violated(
                    f"healing: {name} serves: {node.is_serving}, is admitted: {self._admitted(name)}"
                )
        serving = self.serving()
        current = {self.nodes[name].office.pool.current.rank for name in serving}
        manifests = {self.nodes[name].office.pool.manifest_digest for name in serving}
        if len(current) != 1 or len(manifests) != 1:
            raise Violated("epochs: KMEs that have spoken do not agree")
        if (
            not any(self.skews.values())
            and len({states.digest_of_state(self.nodes[n].state) for n in serving}) != 1
        ):
            raise Violated("epochs: KMEs that have spoken hold different keys")
        self._check_an_order_opens()

    def _somebody_serves(self) -> None:
        if not self.serving():
            admitted = [name for name in self.kmes() if self.seals.get(name) and self._admitted(name)]
            # There is one, or those that there are may not speak with it: the operator says so.
            self.restart(admitted[0], alone=True)
            for change in self.changes:
                self._try(partial(self.nodes[admitted[0]].change_manifest, change))
            self._join_all()

    def _admitted(self, name: str) -> bool:
        in_force = read_manifest(self.changes[-1].manifest if self.changes else self.manifest)
        codes = in_force.kme_measurements if name.startswith("kme-") else in_force.wpe_measurements
        return self.machines[name].measurement in codes

    def _join_all(self) -> None:
        self.settle()
        for _ in range(6):
            pairs = self.unlinked()
            if not pairs:
                return
            for pair in pairs:
                self.connect(*pair)
            self.settle()

    def _check_an_order_opens(self) -> None:
        for name in self.wpes()[:1]:
            # Afresh: it may have processed as many orders as it may.
            self.restart(name)
        self._join_all()
        fresh = self.wpes()[0]
        if self.nodes[fresh].is_ready != self._admitted(fresh):
            raise Violated(
                f"healing: a WPE is served: {self.nodes[fresh].is_ready}, is admitted: {self._admitted(fresh)}"
            )
        if not self._admitted(fresh):
            return
        self.submit()
        order = self.orders[f"{self._counter:04x}"]
        answers: list[object] = []
        self.nodes[fresh].ask(
            lambda number: OpenOrder(number, 1, order.header, order.fingerprint), answers.append
        )
        self.settle()
        if len(answers) != 1 or not isinstance(answers[0], OrderOpened) or answers[0].code:
            raise Violated(f"healing: an order is not opened: {answers}")

    # -- the invariants

    def _watch(self, name: str) -> None:
        """After each event, of the machine where it happened."""
        node, machine = self.nodes.get(name), self.machines[name]
        if not machine.alive:
            return
        if isinstance(node, KmeNode):
            self._watch_kme(name, node, machine)
        elif isinstance(node, WpeNode):
            for link, kme in node._kmes.items():
                if kme.welcome is not None:
                    code = self._other(name, link).measurement
                    if code not in node._manifest.kme_measurements:
                        raise Violated("peers: a WPE keeps a KME that its manifest does not admit")
                    if name.startswith("stranger"):
                        raise Violated("peers: a stranger was welcomed")

    def _watch_kme(self, name: str, node: KmeNode, machine: Machine) -> None:
        if node.state is None:
            return
        if name.startswith("stranger"):
            raise Violated("keys: a KME that is not admitted has the pool's state")
        if node.is_serving:
            self._served.add(machine)
        pool = node.office.pool
        number = pool.current.epoch.number
        if number < self._highest[name]:
            raise Violated("epochs: a KME went back to an older epoch")
        self._highest[name] = number
        self._secrets.add(pool.signing.to_bytes())
        self._secrets.add(pool.current.keys.hpke.to_bytes())
        for link, peer in node._peers.items():
            code = self._other(name, link).measurement
            if peer.registration is not None and code not in pool.manifest.wpe_measurements:
                raise Violated("peers: a KME keeps a WPE that its manifest does not admit")
            if peer.instance and code not in pool.manifest.kme_measurements:
                raise Violated("peers: a KME keeps a KME that its manifest does not admit")

    def _other(self, name: str, link: int) -> Machine:
        for machine, number in self._wires[name, link].ends:
            if (machine.name, number) != (name, link):
                return machine
        raise AssertionError

    def _quiet(self) -> None:
        """Nothing is left to be said: KMEs with a link have told each other all."""
        kmes = self.kmes()
        for index, one in enumerate(kmes):
            for other in kmes[index + 1 :]:
                if self._have_joined(one, other):
                    self._check_pair(one, other)
        for name in kmes:
            self._check_rollback(name)

    def _have_joined(self, one: str, other: str) -> bool:
        wire = self._linked.get(frozenset((one, other)))
        if wire is None or wire.cut or any(wire.queues):
            return False
        link = wire.ends[0][1]
        if any(self._expected.get((link, side)) != self._next.get((link, side)) for side in (0, 1)):
            return False  # the last frame was dropped, and nothing has come after it yet
        for machine, link in wire.ends:
            peer = self.nodes[machine.name]._peers.get(link) if machine.alive else None
            if peer is None or not peer.instance:
                return False
        return True

    def _check_pair(self, one: str, other: str) -> None:
        ours, theirs = self.nodes[one], self.nodes[other]
        if not (ours.is_serving and theirs.is_serving):
            return
        if ours.office.pool.current.rank != theirs.office.pool.current.rank:
            raise Violated("epochs: two KMEs that have spoken have different current epochs")
        if ours.office.pool.manifest_digest != theirs.office.pool.manifest_digest:
            raise Violated("epochs: two KMEs that have spoken have different manifests")
        for teller, told in ((one, other), (other, one)):
            for id_, entry in self._opened_at[teller].items():
                known = self._must_know[told].get(id_)
                if known is None or (
                    known[0] != FAILED and (entry[0] == FAILED or _rank(entry) > _rank(known))
                ):
                    self._must_know[told][id_] = entry

    def _check_rollback(self, name: str) -> None:
        """One from an old seal that serves while others do must have been told, if they had seen a newer one."""
        newest, node = self._rolled.get(name), self.nodes[name]
        if newest is None or not node.is_serving:
            return
        for other in self.kmes():
            if other != name and self._have_joined(name, other) and self.nodes[other].is_serving:
                best = self.nodes[other].office.pool.current.epoch.number
                if node.office.pool.current.epoch.number < best:
                    raise Violated("epochs: a KME that was rolled back serves with old keys")

    def _check_open(self, kme: str, instance: str, order: OpenOrder) -> None:
        self.opens += 1
        id_ = next(id_ for id_ in self.orders if f'"{id_}"'.encode() in order.request)
        known = self._must_know[kme].get(id_)
        entry = (order.token, instance, order.fingerprint)
        if known is not None:
            if known[0] == FAILED:
                raise Violated("lease: an order was opened after the pool had signed that it failed")
            # Of two that were opened by KMEs that could not hear each other, the greater wins at all that hear of it.
            greater = [other for other in self._ever.get(id_, ()) if _rank(other) > _rank(known)]
            if not any(_may_follow(entry, other) for other in (known, *greater)):
                raise Violated(f"lease: {kme} opened {id_} for {entry} and knew of {known}")
        self._ever.setdefault(id_, set()).add(entry)
        self._opened_at[kme][id_] = self._must_know[kme][id_] = entry


def _rank(entry: tuple[int, str, bytes]) -> tuple[int, bytes, str]:
    token, instance, fingerprint = entry
    return token, fingerprint, instance


def _may_follow(entry: tuple[int, str, bytes], known: tuple[int, str, bytes]) -> bool:
    """The rules of the ledger, once more and otherwise."""
    same_bytes = entry[2] == known[2]
    return same_bytes and (entry[0] > known[0] or entry[:2] == known[:2])
