"""A key management enclave as a machine without threads, sockets or a clock: what happens, and what it answers.

Frames, commands of the host and the time go in; frames, seals, records and events come out through :class:`Outside`. The
process around it (:mod:`avalon_enclave.roles.kme`) has the threads; a simulation calls it directly.

A KME serves WPEs as soon as it has the pool's state: made (the first KME of a pool), restored from its seal, recovered from
the owners' shares, or given by a peer whose evidence the manifest admits and who admits ours. One that was restored asks a
peer first, where it has any: a peer that has seen a newer seal of it tells that it was rolled back, and what was lost is
merged back before anything is served.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, assert_never

from avalon_core.channel.handshake import Established, Identity, Initiator, Responder, Resumption
from avalon_core.channel.pool import (
    BetweenKmes,
    Finished,
    Introduce,
    Join,
    Leave,
    Opened,
    OpenOrder,
    OpenOrders,
    OrderOpened,
    OrdersOpened,
    ReceiptsSigned,
    ResultsSigned,
    Signed,
    SignReceipts,
    SignResults,
    State,
    StateTaken,
    ToKme,
    ToWpe,
    Welcome,
    decode_between_kmes,
    decode_to_kme,
    encode,
)
from avalon_core.crypto.manifests import Manifest, SignedManifest, digest_of
from avalon_core.errors import ChannelError, HandshakeRefused
from avalon_enclave.errors import PoolStateRefused
from avalon_enclave.pool import state as states
from avalon_enclave.pool.links import Link, LinkClosed
from avalon_enclave.pool.office import Office, Registration
from avalon_enclave.pool.state import Pool, PoolState

ROLE = "kme"
WPE_ROLE = "wpe"
EVIDENCE_SECONDS = 24 * 3600.0
"""How long a session and its resumptions may go on upon evidence that was judged once."""

MAX_LINKS = 4096
MAX_RESUMPTIONS = 4096
GOSSIP_ORDERS = 1024
"""Opened orders are told to the peers in messages of at most this many."""


class Outside(Protocol):
    """What a KME needs of the world around it. Called with the node's lock held: it must not call back."""

    def send(self, link: int, frame: bytes) -> None:
        """Have the host carry a frame."""

    def close(self, link: int, reason: str) -> None:
        """Have the host end a link."""

    def state_changed(self, state: PoolState, instance: str, revision: int) -> None:
        """Seal the state and give it to the host."""

    def pool_changed(self, pool: Pool) -> None:
        """There is a pool now, or its keys or manifest changed: the record is to be made anew."""

    def event(self, name: str, fields: Mapping[str, str | int]) -> None:
        """Something an operator should know. Nothing secret."""

    def run(self, work: Callable[[], None]) -> None:
        """Do a piece of work in another thread, later (a simulation: at once, after the lock is free)."""

    def issue_evidence(self, report_data: bytes) -> bytes:
        """Evidence over 64 bytes, encoded."""

    def judge(self, evidence: bytes, report_data: bytes, role: str, manifest: Manifest) -> None:
        """Judge a peer's evidence by the manifest.

        Raises:
            HandshakeRefused: it is not admitted.
        """

    def monotonic(self) -> float:
        """Seconds."""

    def unix_time(self) -> int:
        """Seconds."""


@dataclass(slots=True)
class _Peer:
    """One link and who is at its other end."""

    link: Link
    role: str = ""
    registration: Registration | None = None
    is_wpe: bool = False
    instance: str = ""
    """Of a KME, once it has told."""


@dataclass(slots=True)
class Counters:
    """For metrics."""

    opened: int = 0
    refused: int = 0
    registered: int = 0
    resumed: int = 0
    refused_peers: dict[str, int] = field(default_factory=dict)
    """By reason."""

    rollbacks: int = 0


class KmeNode:
    """See the module. Its methods may be called from any thread."""

    def __init__(self, outside: Outside, *, instance: str, first_manifest: bytes, manifest: Manifest) -> None:
        """A KME without a pool's state yet.

        Args:
            outside: the world around it.
            instance: its random name.
            first_manifest: names the pool.
            manifest: the one in force as far as the host told; used to judge peers until there is a state.
        """
        self._outside = outside
        self._lock = threading.RLock()
        self._instance = instance
        self._first_manifest = first_manifest
        self._pool_id = digest_of(first_manifest).hex()
        self._told_manifest = manifest
        self._state: PoolState | None = None
        self._revision = 0
        self._serving = False
        self._peers: dict[int, _Peer] = {}
        self._left: dict[bytes, Resumption] = {}
        self._untold: list[tuple[str, bytes, int, str]] = []
        self._remote_wpes: dict[str, int] = {}
        self._draining = False
        self.office = Office(on_opened=self._note_opened)
        self.counters = Counters()

    # -- the pool's state

    @property
    def is_serving(self) -> bool:
        """It has the pool's keys and opens orders."""
        return self._serving

    @property
    def state(self) -> PoolState | None:
        """The copy of the state. Secret."""
        return self._state

    @property
    def revision(self) -> int:
        """Of the last seal."""
        return self._revision

    def create(self) -> None:
        """Make the pool: fresh keys.

        Raises:
            PoolStateRefused: the manifest is not a first one, or there is a state already.
        """
        with self._lock:
            if self._state is not None:
                raise PoolStateRefused("this KME has a pool's state already")
            self._take(states.create(self._first_manifest, now=self._outside.unix_time()))
            self._serve()

    def restore(self, state: PoolState, revision: int, *, alone: bool) -> None:
        """Go on with a state that was sealed or recovered.

        Args:
            state: the state.
            revision: of the seal.
            alone: there are no peers to ask: serve at once. A rollback cannot be detected then.
        """
        with self._lock:
            if digest_of(state.first_manifest).hex() != self._pool_id:
                raise PoolStateRefused("the sealed state is another pool's")
            # Not sealed anew before a peer was asked: a newer revision would hide that this one is old.
            pool = states.load(states.forget_old(state, now=self._outside.unix_time()))
            self._revision, self._state = revision, pool.state
            self.office.take_pool(pool)
            self._outside.pool_changed(pool)
            if alone:
                self._serve()

    def rotate(self, expected: int) -> int:
        """Make new encryption keys unless there are newer ones than ``expected`` already; the current epoch's number.

        Raises:
            PoolStateRefused: there is no state, or there are too many epochs.
        """
        with self._lock:
            state = states.rotate(self._have_in_force(), expected=expected, now=self._outside.unix_time())
            self._change(state)
            return self.office.pool.current.epoch.number

    def change_manifest(self, change: SignedManifest) -> Manifest:
        """Take a change that a quorum of owners has signed; the manifest in force.

        Raises:
            PoolStateRefused, PolicyViolation, EvidenceError: it is not admitted.
        """
        with self._lock:
            self._change(states.change_manifest(self._have_in_force(), change))
            self._drop_the_disallowed()
            return self.office.pool.manifest

    def drain(self) -> None:
        """Open no more orders; what is open goes on."""
        with self._lock:
            self._draining = True

    def tick(self) -> None:
        """Forget encryption keys whose overlap has run out. To be called now and then."""
        with self._lock:
            if self._state is not None and self._serving:
                self._change(self._state)

    # -- links

    def link_opened(self, link: int, *, initiate: bool) -> None:
        """The host connected a peer under this number; ``initiate``: to another KME, whom we are to greet."""
        with self._lock:
            if link in self._peers or len(self._peers) >= MAX_LINKS:
                self._outside.close(link, "no room")
                return
            now = self._outside.monotonic()
            identity = self._identity()
            end: Initiator | Responder
            if initiate:
                end = Initiator(identity, responder_role=ROLE, now=now)
            else:
                end = Responder(
                    identity,
                    accepts=frozenset({WPE_ROLE, ROLE}) if self._state is not None else frozenset(),
                    take_resumption=self._take_resumption,
                    now=now,
                )
            peer = self._peers[link] = _Peer(Link(end))
            for frame in peer.link.start():
                self._outside.send(link, frame)

    def link_frame(self, link: int, frame: bytes) -> None:
        """A peer's frame."""
        with self._lock:
            peer = self._peers.get(link)
            if peer is None:
                return
            try:
                received = peer.link.receive(frame, now=self._outside.monotonic())
                for answer in received.answers:
                    self._outside.send(link, answer)
                if received.established is not None:
                    self._established(link, peer, received.established)
                if received.payload is not None:
                    self._message(link, peer, received.payload)
            except LinkClosed as exc:
                for answer in exc.answers:
                    self._outside.send(link, answer)
                self._end(link, exc.reason, exc.message)
            except (ChannelError, PoolStateRefused) as exc:
                self._end(link, "broke the rules", exc.message)

    def link_closed(self, link: int) -> None:
        """The host says that a link is gone."""
        with self._lock:
            self._peers.pop(link, None)

    def wpes(self) -> int:
        """WPEs that have a session here."""
        with self._lock:
            return self._wpes_here()

    # -- the office's work, in other threads

    def _open_orders(self, link: int, registration: Registration, orders: tuple[OpenOrder, ...]) -> None:
        opened = []
        for order in orders:
            if self._draining:
                answer = OrderOpened(order.number, code=8, message="this KME drains", retry=True)
            else:
                answer = self.office.open(registration, order)
            opened.append(answer)
        good = sum(1 for answer in opened if answer.code == 0)
        with self._lock:
            self.counters.opened += good
            self.counters.refused += len(opened) - good
            self._say(link, OrdersOpened(tuple(opened)))

    def _sign_results(self, link: int, registration: Registration, asked: SignResults) -> None:
        signed = tuple(
            Signed(one.number, self.office.sign_result(registration, one)) for one in asked.results
        )
        with self._lock:
            self._say(link, ResultsSigned(signed))

    def _sign_receipts(self, link: int, registration: Registration, asked: SignReceipts) -> None:
        signed = tuple(
            Signed(one.number, self.office.sign_receipt(registration, one)) for one in asked.receipts
        )
        with self._lock:
            self._say(link, ReceiptsSigned(signed))

    # -- with the lock held

    def _identity(self) -> Identity:
        def judge(evidence: bytes, report_data: bytes, role: str) -> None:
            self._outside.judge(evidence, report_data, role, self._manifest())
            if (
                role == WPE_ROLE
                and self._wpes_here() + sum(self._remote_wpes.values()) >= self._manifest().max_wpes
            ):
                raise HandshakeRefused(
                    "too many wpes", f"the manifest admits {self._manifest().max_wpes} at a time"
                )

        state = self._state
        return Identity(
            pool=self._pool_id,
            role=ROLE,
            issue=self._outside.issue_evidence,
            judge=judge,
            evidence_seconds=EVIDENCE_SECONDS,
            sign=self.office.pool.signing.sign if state is not None else None,
        )

    def _manifest(self) -> Manifest:
        return self.office.pool.manifest if self._state is not None else self._told_manifest

    def _established(self, link: int, peer: _Peer, established: Established) -> None:
        peer.role = established.peer_role
        if peer.role == ROLE:
            self._keep(established.resumption)
            self._outside.event("kme_joined", {"link": link})
            self._say(link, Join(self._instance, self._revision))
            return
        if not self._serving:
            self._end(link, "not serving yet", "a WPE came before this KME had agreed with a peer")
            return
        if established.resumed_from is not None:
            self.counters.resumed += 1
        else:
            self.counters.registered += 1
        peer.is_wpe = True
        self._keep(established.resumption)

    def _welcome(self, link: int, peer: _Peer, instance: str) -> None:
        peer.registration = self.office.register(instance)
        self._outside.event("wpe_joined", {"link": link, "wpe": instance, "wpes": self._wpes_here()})
        pool = self.office.pool
        self._say(
            link,
            Welcome(
                worker_name=pool.manifest.worker_name,
                verification_key=pool.signing.verification_key.pem,
                orders_left=self.office.orders_left(peer.registration),
                kme_signs_results=pool.manifest.kme_signs_results,
                accept_legacy=pool.manifest.accept_legacy,
            ),
        )

    def _take_resumption(self, session_id: bytes) -> Resumption | None:
        return self._left.pop(session_id, None)

    def _keep(self, resumption: Resumption) -> None:
        self._left[resumption.session_id] = resumption
        while len(self._left) > MAX_RESUMPTIONS:
            self._left.pop(next(iter(self._left)))

    def _message(self, link: int, peer: _Peer, payload: bytes) -> None:
        if peer.role == ROLE:
            self._from_kme(link, peer, decode_between_kmes(payload))
            return
        message: ToKme = decode_to_kme(payload)
        registration = peer.registration
        if isinstance(message, Introduce):
            if registration is not None:
                raise ChannelError("a WPE introduced itself twice")
            self._welcome(link, peer, message.instance)
            return
        if registration is None:
            raise ChannelError("a WPE spoke before it had introduced itself")
        match message:
            case OpenOrders(orders=orders):
                # Each on its own, so that RSA's milliseconds run on all cores.
                for part in _parts(orders):
                    self._outside.run(lambda part=part: self._open_orders(link, registration, part))  # type: ignore[misc]
            case SignResults():
                self._outside.run(lambda: self._sign_results(link, registration, message))
            case SignReceipts():
                self._outside.run(lambda: self._sign_receipts(link, registration, message))
            case Finished(work_order_ids=ids):
                self.office.finish(registration, ids)
            case Leave():
                self._end(link, "left", "the WPE left")
            case _:
                assert_never(message)

    def _from_kme(self, link: int, peer: _Peer, message: BetweenKmes) -> None:
        match message:
            case Join(instance=instance, sealed_revision=revision):
                peer.instance = instance
                if self._state is None:
                    return  # it has one for us, or a third has one for both
                if self._manifest().migration == "never":
                    self._end(link, "keys may not leave", "the manifest forbids migration")
                    return
                self._say_state(link, instance)
                self._note_revision(instance, revision)
            case State(instance=instance, state=encoded, seen_revision=seen):
                peer.instance = instance
                if seen > self._revision:
                    self.counters.rollbacks += 1
                    self._outside.event(
                        "rollback_detected", {"restored": self._revision, "seen_by_a_peer": seen}
                    )
                    self._revision = seen
                self._merge(states.decode_state(encoded))
                self._serve()
                assert self._state is not None
                self._say(
                    link, StateTaken(self._instance, self._revision, states.digest_of_state(self._state))
                )
            case StateTaken(instance=instance, sealed_revision=revision, digest=digest):
                self._note_revision(instance, revision)
                if self._state is not None and states.digest_of_state(self._state) != digest:
                    # It had something that we have not, or lost a race: say ours once more, and hear theirs.
                    self._say_state(link, instance)
                self._serve()
            case Opened(orders=orders, wpes=wpes):
                self._remote_wpes[peer.instance] = wpes
                for work_order_id, fingerprint, token, wpe in orders:
                    self.office.told(work_order_id, fingerprint, token, wpe)
            case _:
                assert_never(message)

    def _merge(self, theirs: PoolState) -> None:
        if self._state is None:
            if digest_of(theirs.first_manifest).hex() != self._pool_id:
                raise PoolStateRefused("the peer's state is another pool's")
            merged = states.merge(theirs, theirs, now=self._outside.unix_time())
        else:
            merged = states.merge(self._state, theirs, now=self._outside.unix_time())
        self._change(merged)

    def _note_revision(self, instance: str, revision: int) -> None:
        if self._state is not None:
            # Not a change that peers must hear of: they are told with the next one.
            self._state = states.note_revision(self._state, instance, revision)

    def _change(self, state: PoolState) -> None:
        """Take a state, seal it, and tell the peers, where it says anything new."""
        state = states.forget_old(state, now=self._outside.unix_time())
        before = self._state
        if before is not None and states.digest_of_state(before) == states.digest_of_state(state):
            self._state = state
            return
        self._take(state)
        for link, peer in list(self._peers.items()):
            if peer.role == ROLE and peer.link.is_established and peer.instance:
                self._say_state(link, peer.instance)

    def _take(self, state: PoolState) -> None:
        pool = states.load(state)
        self._revision += 1
        self._state = states.note_revision(state, self._instance, self._revision)
        self.office.take_pool(pool)
        self._outside.state_changed(self._state, self._instance, self._revision)
        self._outside.pool_changed(pool)

    def _have(self) -> PoolState:
        if self._state is None:
            raise PoolStateRefused("this KME has no pool's state yet")
        return self._state

    def _have_in_force(self) -> PoolState:
        """The state, where it is known not to be an old one."""
        if not self._serving:
            raise PoolStateRefused("this KME has not agreed with a peer yet: ask one that serves")
        return self._have()

    def _serve(self) -> None:
        if not self._serving and self._state is not None:
            self._serving = True
            self._outside.event("kme_serving", {"epoch": self.office.pool.current.epoch.number})

    def _say_state(self, link: int, instance: str) -> None:
        state = self._have()
        self._say(
            link,
            State(self._instance, states.encode_state(state), seen_revision=state.revisions.get(instance, 0)),
        )

    def _say(self, link: int, message: ToWpe | BetweenKmes) -> None:
        peer = self._peers.get(link)
        if peer is None:
            return
        try:
            for frame in peer.link.send(encode(message), now=self._outside.monotonic()):
                self._outside.send(link, frame)
        except LinkClosed as exc:
            self._end(link, exc.reason, exc.message)

    def _end(self, link: int, reason: str, message: str) -> None:
        peer = self._peers.pop(link, None)
        if peer is None:
            return
        for frame in peer.link.farewell():
            self._outside.send(link, frame)
        self.counters.refused_peers[reason] = self.counters.refused_peers.get(reason, 0) + 1
        self._outside.event("link_closed", {"link": link, "reason": reason, "detail": message})
        self._outside.close(link, reason)

    def _drop_the_disallowed(self) -> None:
        """A changed manifest may not admit those any more that are here: they come back, and are judged anew."""
        self._left.clear()
        for link, peer in list(self._peers.items()):
            if peer.role == WPE_ROLE:
                self._end(link, "the manifest changed", "register again under the manifest in force")

    def _wpes_here(self) -> int:
        return sum(1 for peer in self._peers.values() if peer.is_wpe)

    # -- gossip

    def _note_opened(self, work_order_id: str, fingerprint: bytes, token: int, wpe: str) -> None:
        with self._lock:
            self._untold.append((work_order_id, fingerprint, token, wpe))
            if len(self._untold) == 1:
                self._outside.run(self._gossip)

    def _gossip(self) -> None:
        with self._lock:
            untold, self._untold = self._untold, []
            wpes = self._wpes_here()
            for link, peer in list(self._peers.items()):
                if peer.role == ROLE and peer.link.is_established:
                    for start in range(0, len(untold), GOSSIP_ORDERS):
                        self._say(link, Opened(tuple(untold[start : start + GOSSIP_ORDERS]), wpes))


def _parts(orders: tuple[OpenOrder, ...]) -> list[tuple[OpenOrder, ...]]:
    """Pieces of work: RSA's orders one by one, the cheap ones of our suite together."""
    cheap = tuple(order for order in orders if b'"~avalon-hpke-1"' in order.request)
    dear: list[tuple[OpenOrder, ...]] = [
        (order,) for order in orders if b'"~avalon-hpke-1"' not in order.request
    ]
    return [cheap, *dear] if cheap else dear
