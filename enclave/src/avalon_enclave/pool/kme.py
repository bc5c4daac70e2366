"""A key management enclave as a machine without threads, sockets or a clock: what happens, and what it answers.

Frames, commands of the host and the time go in; frames, seals, records and events come out through :class:`Outside`. The
process around it (:mod:`avalon_enclave.roles.kme`) has the threads; a simulation calls it directly.

A KME serves WPEs as soon as it has the pool's state: made (the first KME of a pool), restored from its seal, recovered from
the owners' shares, or given by a peer whose evidence the manifest admits and who admits ours. One that was restored asks a
peer first, where it has any: a peer that has seen a newer seal of it tells that it was rolled back, and what was lost is
merged back before anything is served. Who was asked must have had a state of its own: a KME that has yet to agree with a
peer gives its state to none that has nothing, or a host could have it agree with its own echo.

What KMEs tell each other, over each link: first its name and the revision of its seal (Join); to that all that it remembers
and its state; then its state whenever keys or manifest change, the orders that it opened before it answers for them, and the
names of its WPEs. A link keeps the order of what is said, so each end has told its newest state at any time, and nothing is
ever asked for or said again.

A changed manifest ends all links, handshakes and resumptions: every peer comes back and is judged by the new one. KMEs are
told of it first. A KME whose own code is not admitted any more stops.
"""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, assert_never

from avalon_core.channel.handshake import (
    HANDSHAKE_SECONDS,
    Established,
    Identity,
    Initiator,
    Responder,
    Resumption,
)
from avalon_core.channel.pool import (
    MAX_TOLD_CHANGES,
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
    Wpes,
    decode_between_kmes,
    decode_to_kme,
    encode,
)
from avalon_core.crypto.manifests import Manifest, SignedManifest, digest_of, encode_manifest
from avalon_core.errors import AvalonError, ChannelError, HandshakeRefused
from avalon_enclave.errors import PoolStateRefused
from avalon_enclave.pool import state as states
from avalon_enclave.pool.judging import CODE_REFUSED
from avalon_enclave.pool.links import Link, LinkClosed
from avalon_enclave.pool.office import Office, Registration
from avalon_enclave.pool.state import Pool, PoolState

ROLE = "kme"
WPE_ROLE = "wpe"
EVIDENCE_SECONDS = 24 * 3600.0
"""How long a session and its resumptions may go on upon evidence that was judged once."""

MAX_LINKS = 4096
MAX_RESUMPTIONS = 4096
MAX_PENDING = 16_384
"""Orders of one link that wait to be opened. A WPE has half as many waiting in all."""

GOSSIP_ORDERS = 1024
"""Opened orders are told to the peers in messages of at most this many."""

_OWN_EVIDENCE_BYTES = 64


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
    since: float
    role: str = ""
    """Once the handshake is over."""

    registration: Registration | None = None
    """Of a WPE, once it has introduced itself."""

    pending: int = 0
    """Its orders that are being opened."""

    instance: str = ""
    """Of a KME, once it has told."""

    waits: bool = False
    """It has nothing, and is told the state as soon as this KME serves."""

    wpes: tuple[str, ...] = ()
    """The WPEs of a KME: forgotten with the link."""


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
        self._telling = 0
        """Threads that are opening orders, each of which tells the peers when it is done."""

        self._wpes_untold = False
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
            PoolStateRefused: the manifest is not a first one or does not admit this KME, or there is a state already.
        """
        with self._lock:
            if self._state is not None:
                raise PoolStateRefused("this KME has a pool's state already")
            if not self._is_admitted():
                raise PoolStateRefused(
                    "the manifest does not admit this KME's own measurement: name it there"
                )
            self._take(states.create(self._first_manifest, now=self._outside.unix_time()))
            self._serve()

    def restore(self, state: PoolState, revision: int, *, alone: bool) -> None:
        """Go on with a state that was sealed or recovered.

        Args:
            state: the state.
            revision: of the seal.
            alone: there are no peers to ask: serve at once. A rollback cannot be detected then.

        Raises:
            PoolStateRefused: the state is broken or another pool's, or there is one already.
        """
        with self._lock:
            if self._state is not None:
                raise PoolStateRefused("this KME has a pool's state already")
            if digest_of(state.first_manifest).hex() != self._pool_id:
                raise PoolStateRefused("the sealed state is another pool's")
            pool = states.load(states.forget_old(state, now=self._outside.unix_time()))
            self._revision = revision
            if alone:
                self._take(pool.state)
                self._serve()
                return
            # Not sealed anew before a peer was asked: a newer revision would hide that this one is old. Nor announced.
            self._state = pool.state
            self.office.take_pool(pool)

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
            return self.office.pool.manifest

    def drain(self) -> None:
        """Open no more orders; what is open goes on."""
        with self._lock:
            self._draining = True

    def tick(self) -> None:
        """Forget encryption keys whose overlap has run out, and peers that are gone without a word. To be called now and
        then."""
        with self._lock:
            now = self._outside.monotonic()
            for link, peer in list(self._peers.items()):
                if peer.link.is_over(now):
                    self._end(
                        link, "session over", "the evidence behind it is too old: a new one is to be made"
                    )
                elif not (peer.instance or peer.registration) and now - peer.since > HANDSHAKE_SECONDS:
                    self._end(
                        link, "no word", f"the peer did not introduce itself in {HANDSHAKE_SECONDS:g} s"
                    )
            self._left = {id_: left for id_, left in self._left.items() if left.expires > now}
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
                    accepts=frozenset({WPE_ROLE, ROLE}) if self._serving else frozenset({ROLE}),
                    take_resumption=self._take_resumption,
                    now=now,
                )
            peer = self._peers[link] = _Peer(Link(end), now)
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
            except PoolStateRefused as exc:
                self._end(link, "state refused", exc.message)
            except ChannelError as exc:
                self._end(link, "broke the rules", exc.message)
            except AvalonError as exc:
                # Not the peer's fault, as when the platform gives no evidence. It costs this link and not the KME.
                self._end(link, "failed here", exc.message)

    def link_closed(self, link: int) -> None:
        """The host says that a link is gone."""
        with self._lock:
            peer = self._peers.pop(link, None)
            if peer is not None:
                self._gone(peer)

    def wpes(self) -> int:
        """WPEs that have a session here."""
        with self._lock:
            return len(self._wpes_here())

    # -- the office's work, in other threads

    def _open_orders(
        self, link: int, peer: _Peer, registration: Registration, orders: tuple[OpenOrder, ...]
    ) -> None:
        opened = []
        with self._lock:
            self._telling += 1
        for order in orders:
            if self._draining:
                answer = OrderOpened(order.number, code=8, message="this KME drains", retry=True)
            else:
                answer = self.office.open(registration, order)
            opened.append(answer)
        good = sum(1 for answer in opened if answer.code == 0)
        with self._lock:
            self._telling -= 1
            peer.pending -= len(orders)
            self.counters.opened += good
            self.counters.refused += len(opened) - good
            # Told to the peers first: whichever of them the WPE turns to after it has the answer knows of the order.
            self._gossip()
            self._answer(link, peer, OrdersOpened(tuple(opened)))

    def _sign_results(self, link: int, peer: _Peer, registration: Registration, asked: SignResults) -> None:
        signed = tuple(
            Signed(one.number, self.office.sign_result(registration, one)) for one in asked.results
        )
        with self._lock:
            self._answer(link, peer, ResultsSigned(signed))

    def _sign_receipts(self, link: int, peer: _Peer, registration: Registration, asked: SignReceipts) -> None:
        signed = tuple(
            Signed(one.number, self.office.sign_receipt(registration, one)) for one in asked.receipts
        )
        with self._lock:
            self._gossip()
            self._answer(link, peer, ReceiptsSigned(signed))

    def _answer(self, link: int, peer: _Peer, message: ToWpe) -> None:
        """Say it to whom asked. The host may have given the number of the link to another WPE meanwhile."""
        if self._peers.get(link) is peer:
            self._say(link, message)

    # -- with the lock held

    def _identity(self) -> Identity:
        def judge(evidence: bytes, report_data: bytes, role: str) -> None:
            self._outside.judge(evidence, report_data, role, self._manifest())

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
            # Nothing to resume is kept: KMEs give each other everything, so they show evidence each time.
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
        self._keep(established.resumption)

    def _welcome(self, link: int, peer: _Peer, introduced: Introduce) -> None:
        pool, instance = self.office.pool, introduced.instance
        known = self._wpes_here().union(*(other.wpes for other in self._peers.values()))
        # By name, and here rather than in the handshake: a WPE that another KME has already is none more.
        if instance not in known and len(known) >= pool.manifest.max_wpes:
            self._end(link, "too many wpes", f"the manifest admits {pool.manifest.max_wpes} at a time")
            return
        peer.registration = self.office.register(instance)
        wpes = len(self._wpes_here())
        self._outside.event("wpe_joined", {"link": link, "wpe": instance, "wpes": wpes})
        self._wpes_changed()
        since = introduced.manifest_version - 1
        self._say(
            link,
            Welcome(
                worker_name=pool.manifest.worker_name,
                verification_key=pool.signing.verification_key.pem,
                orders_left=self.office.orders_left(peer.registration),
                kme_signs_results=pool.manifest.kme_signs_results,
                accept_legacy=pool.manifest.accept_legacy,
                changes=pool.state.changes[since : since + MAX_TOLD_CHANGES],
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
            self._welcome(link, peer, message)
            return
        if registration is None:
            raise ChannelError("a WPE spoke before it had introduced itself")
        match message:
            case OpenOrders(orders=orders):
                if peer.pending + len(orders) > MAX_PENDING:
                    raise ChannelError(f"a WPE asked for more than {MAX_PENDING} orders at a time")
                peer.pending += len(orders)
                # Each on its own, so that RSA's milliseconds run on all cores.
                for part in _parts(orders):
                    self._outside.run(partial(self._open_orders, link, peer, registration, part))
            case SignResults():
                self._outside.run(partial(self._sign_results, link, peer, registration, message))
            case SignReceipts():
                self._outside.run(partial(self._sign_receipts, link, peer, registration, message))
            case Finished(work_order_ids=ids):
                self.office.finish(registration, ids)
            case Leave():
                self._end(link, "left", "the WPE left")
            case _:
                assert_never(message)

    def _from_kme(self, link: int, peer: _Peer, message: BetweenKmes) -> None:
        if isinstance(message, Join):
            self._joined(link, peer, message)
            return
        if not peer.instance:
            raise ChannelError("a KME spoke before it had told who it is")
        match message:
            case State():
                self._told_state(link, peer, message)
            case StateTaken(sealed_revision=revision):
                self._note_revision(peer.instance, revision)
            case Opened(orders=orders):
                for work_order_id, fingerprint, token, wpe in orders:
                    self.office.told(work_order_id, fingerprint, token, wpe)
            case Wpes(instances=instances):
                peer.wpes = instances
            case _:
                assert_never(message)

    def _joined(self, link: int, peer: _Peer, join: Join) -> None:
        if peer.instance or not join.instance:
            raise ChannelError("a KME tells once who it is")
        if join.instance == self._instance:
            # Also a second one from the same seal. It would confirm to a KME that was rolled back that all is well.
            self._end(link, "this very KME", "the host has linked this KME to itself, or to its copy")
            return
        peer.instance = join.instance
        if self._state is None:
            # It has one for us, or a third has one for both; or this KME gets one without a peer, from the owners' shares.
            peer.waits = join.sealed_revision == 0
            return
        if self._manifest().migration == "never":
            self._end(link, "keys may not leave", "the manifest forbids migration")
            return
        if not self._serving and join.sealed_revision == 0:
            peer.waits = True
            return
        self._tell_all(link, peer)
        self._note_revision(join.instance, join.sealed_revision)

    def _told_state(self, link: int, peer: _Peer, told: State) -> None:
        theirs = states.decode_state(told.state)
        if digest_of(theirs.first_manifest).hex() != self._pool_id:
            raise PoolStateRefused("the peer's state is another pool's")
        now = self._outside.unix_time()
        merged = states.merge(self._state if self._state is not None else theirs, theirs, now=now)
        rolled_back = self._state is not None and told.seen_revision > self._revision
        if rolled_back:
            self.counters.rollbacks += 1
            self._outside.event(
                "rollback_detected", {"restored": self._revision, "seen_by_a_peer": told.seen_revision}
            )
            self._revision = told.seen_revision
        # Sealed anew after a rollback even where nothing was lost: else the next start would look like another one.
        self._change(merged, seal=rolled_back)
        self._serve()
        if self._state is not None and self._peers.get(link) is peer:
            digest = states.digest_of_state(self._state)
            self._say(link, StateTaken(self._instance, self._revision, digest))

    def _tell_all(self, link: int, peer: _Peer) -> None:
        """What a KME that joins has to know. The state last: it serves as soon as it has that."""
        peer.waits = False
        orders = self.office.remembered()
        for start in range(0, len(orders), GOSSIP_ORDERS):
            self._say(link, Opened(tuple(orders[start : start + GOSSIP_ORDERS])))
        self._say(link, Wpes(tuple(sorted(self._wpes_here()))))
        self._say_state(link, peer.instance)

    def _note_revision(self, instance: str, revision: int) -> None:
        if self._state is not None:
            self._remember(states.note_revision(self._state, instance, revision))

    def _remember(self, state: PoolState) -> None:
        """Take a state that is new in nothing but what was seen of seals.

        Not a change that peers must hear of: they are told with the next one. But it is sealed, under the revision that there
        is: should all KMEs be restarted at once, their seals are all that remembers.
        """
        before, self._state = self._state, state
        if self._serving and before is not None and before.revisions != state.revisions:
            self._outside.state_changed(state, self._instance, self._revision)

    def _change(self, state: PoolState, *, seal: bool = False) -> None:
        """Take a state, seal it, and tell the peers, where it says anything new."""
        state = states.forget_old(state, now=self._outside.unix_time())
        before = self._state
        changed = before is None or states.digest_of_state(before) != states.digest_of_state(state)
        if not changed and not seal:
            self._remember(state)
            return
        judged_by = digest_of(encode_manifest(self._manifest())).hex()
        self._take(state)
        if changed:
            for link, peer in self._kmes():
                if not peer.waits:
                    self._say_state(link, peer.instance)
        if self.office.pool.manifest_digest != judged_by:
            self._judge_anew()

    def _take(self, state: PoolState) -> None:
        known = self.office.pool.epochs if self._state is not None else ()
        pool = states.load(state, known=known)
        # Later than what any clock here has shown, so that of all KMEs that were ever there the latest are remembered.
        self._revision = max(self._revision + 1, self._outside.unix_time())
        self._state = states.note_revision(state, self._instance, self._revision)
        self.office.take_pool(pool)
        self._outside.state_changed(self._state, self._instance, self._revision)
        if self._serving:
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
        if self._serving or self._state is None:
            return
        if not self._is_admitted():
            self._stop()
            return
        self._serving = self.office.is_open = True
        self._outside.event("kme_serving", {"epoch": self.office.pool.current.epoch.number})
        self._outside.pool_changed(self.office.pool)
        for link, peer in self._kmes():
            if peer.waits:
                self._tell_all(link, peer)

    def _stop(self) -> None:
        self._serving = self.office.is_open = False
        why = "the manifest in force does not admit this KME's own measurement: it serves no more"
        self._outside.event("link_closed", {"link": 0, "reason": "not admitted", "detail": why})
        for link in list(self._peers):
            self._end(link, "not admitted", why)

    def _is_admitted(self) -> bool:
        """Whether the manifest in force admits the code of this very KME. In doubt it does: peers judge it, too."""
        nonce = os.urandom(_OWN_EVIDENCE_BYTES)
        try:
            self._outside.judge(self._outside.issue_evidence(nonce), nonce, ROLE, self._manifest())
        except HandshakeRefused as exc:
            return exc.reason != CODE_REFUSED
        except AvalonError:
            return True
        return True

    def _judge_anew(self) -> None:
        """The manifest changed, and may not admit those any more that are here, nor this KME itself.

        Handshakes that are under way end as well: their evidence was judged by the manifest before. All come back.
        """
        self._left.clear()
        for link in list(self._peers):
            self._end(link, "the manifest changed", "to be judged by the manifest in force")
        if self._serving and not self._is_admitted():
            self._stop()

    def _kmes(self) -> list[tuple[int, _Peer]]:
        """Links to KMEs that have told who they are."""
        return [
            (link, peer)
            for link, peer in self._peers.items()
            if peer.role == ROLE and peer.instance and peer.link.is_established
        ]

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
        self._gone(peer)
        self.counters.refused_peers[reason] = self.counters.refused_peers.get(reason, 0) + 1
        self._outside.event("link_closed", {"link": link, "reason": reason, "detail": message})
        self._outside.close(link, reason)

    def _gone(self, peer: _Peer) -> None:
        """A link is no more: what hung on it is forgotten."""
        registration = peer.registration
        if registration is None:
            return
        if all(other.registration is not registration for other in self._peers.values()):
            self.office.gone(registration)
        self._wpes_changed()

    def _wpes_here(self) -> set[str]:
        return {peer.registration.instance for peer in self._peers.values() if peer.registration is not None}

    # -- gossip

    def _note_opened(self, work_order_id: str, fingerprint: bytes, token: int, wpe: str) -> None:
        with self._lock:
            self._untold.append((work_order_id, fingerprint, token, wpe))
            if len(self._untold) == 1 and not self._telling:
                # For what no WPE asked for; else it is told before the WPE is answered.
                self._outside.run(self._gossip)

    def _gossip(self) -> None:
        with self._lock:
            untold, self._untold = self._untold, []
            for link, _ in self._kmes():
                for start in range(0, len(untold), GOSSIP_ORDERS):
                    self._say(link, Opened(tuple(untold[start : start + GOSSIP_ORDERS])))

    def _wpes_changed(self) -> None:
        if not self._wpes_untold:
            self._wpes_untold = True
            self._outside.run(self._tell_wpes)

    def _tell_wpes(self) -> None:
        with self._lock:
            self._wpes_untold = False
            wpes = Wpes(tuple(sorted(self._wpes_here())))
            for link, _ in self._kmes():
                self._say(link, wpes)


def _parts(orders: tuple[OpenOrder, ...]) -> list[tuple[OpenOrder, ...]]:
    """Pieces of work: RSA's orders one by one, the cheap ones of our suite together."""
    cheap = tuple(order for order in orders if b'"~avalon-hpke-1"' in order.request)
    dear: list[tuple[OpenOrder, ...]] = [
        (order,) for order in orders if b'"~avalon-hpke-1"' not in order.request
    ]
    return [cheap, *dear] if cheap else dear
