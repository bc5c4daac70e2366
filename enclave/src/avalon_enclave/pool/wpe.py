"""A work order processing enclave's part in its pool, as a machine without threads, sockets or a clock.

It holds a session with each KME that its host connects, asks any of them for the secrets of an order, and turns to another
where one is gone or cannot serve: an order fails only where no KME is left for :data:`PATIENCE_SECONDS`. What is asked in one
turn travels together.

It begins with the manifest that its host gives it, follows the changes that a KME tells (it checks the owners' signatures),
and never goes back. Where a change might not admit a KME any more, all links end, and each KME is judged anew.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, assert_never

from avalon_core.channel.handshake import (
    HANDSHAKE_SECONDS,
    Established,
    Identity,
    Initiator,
    Resumption,
    unique_id_digest,
)
from avalon_core.channel.pool import (
    MAX_BATCH,
    MAX_BATCH_BYTES,
    MAX_FINISHED,
    MAX_HEADER_BYTES,
    Finished,
    Introduce,
    Leave,
    OpenOrder,
    OpenOrders,
    OrderOpened,
    OrdersOpened,
    ReceiptsSigned,
    ResultsSigned,
    Signed,
    SignReceipt,
    SignReceipts,
    SignResult,
    SignResults,
    ToKme,
    Welcome,
    decode_to_wpe,
    encode,
)
from avalon_core.crypto.manifests import (
    Manifest,
    SignedManifest,
    accept_change,
    digest_of,
    encode_manifest,
    read_manifest,
)
from avalon_core.crypto.signing import load_verification_key
from avalon_core.errors import (
    AvalonError,
    ChannelError,
    EvidenceError,
    KeyFormatError,
    PolicyViolation,
    SignatureMismatch,
)
from avalon_core.protocol.errors import WorkOrderCode
from avalon_enclave.pool.links import Link, LinkClosed

ROLE = "wpe"
KME_ROLE = "kme"
EVIDENCE_SECONDS = 24 * 3600.0
PATIENCE_SECONDS = 20.0
"""How long an order waits for a KME that serves, before it is given back to the host."""

MAX_WAITING = 8192
"""Requests that are not answered, asked already or not."""

MAX_KMES = 256
"""Links to KMEs, and KMEs whose sessions could be resumed."""

Request = OpenOrder | SignResult | SignReceipt
Answer = OrderOpened | Signed
OnAnswer = Callable[[Answer | None], None]
"""Called once, without the lock, with the answer; None: no KME answered in time."""


class Outside(Protocol):
    """What a WPE needs of the world around it."""

    def send(self, link: int, frame: bytes) -> None:
        """Have the host carry a frame."""

    def close(self, link: int, reason: str) -> None:
        """Have the host end a link."""

    def event(self, name: str, fields: Mapping[str, str | int]) -> None:
        """Something an operator should know."""

    def soon(self, work: Callable[[], None]) -> None:
        """Call this soon, so that what is asked meanwhile can travel with it."""

    def issue_evidence(self, report_data: bytes) -> bytes:
        """Evidence over 64 bytes, encoded."""

    def judge(self, evidence: bytes, report_data: bytes, role: str, manifest: Manifest) -> None:
        """Judge a peer's evidence by the manifest; raises HandshakeRefused."""

    def welcomed(self, welcome: Welcome) -> None:
        """A KME takes this WPE: orders can be processed."""

    def monotonic(self) -> float:
        """Seconds."""


@dataclass(slots=True)
class _Kme:
    """One link to a KME."""

    link: Link
    since: float
    established: Established | None = None
    welcome: Welcome | None = None
    asked: dict[int, "_Asked"] = field(default_factory=dict)


@dataclass(slots=True)
class _Asked:
    """A request that waits for its answer."""

    request: Request
    on_answer: OnAnswer
    deadline: float
    avoid: set[int] = field(default_factory=set)
    """Links whose KME said that another should be asked."""


class WpeNode:
    """See the module. Its methods may be called from any thread."""

    def __init__(self, outside: Outside, *, first_manifest: bytes, manifest: Manifest) -> None:
        self._outside = outside
        self._lock = threading.RLock()
        self._pool_id = digest_of(first_manifest).hex()
        self._manifest = manifest
        self._kmes: dict[int, _Kme] = {}
        self._left: dict[int, Resumption] = {}
        """Of links that are gone, by the name that the host gives the KME."""

        self._names: dict[int, int] = {}
        self._waiting: dict[int, _Asked] = {}
        """Requests that no KME has been asked yet, or must be asked again."""

        self._number = 0
        self._flushing = False
        self._verification_key: str | None = None
        self.instance = os.urandom(16).hex()

    @property
    def is_ready(self) -> bool:
        """A KME serves this WPE."""
        with self._lock:
            return any(kme.welcome is not None for kme in self._kmes.values())

    @property
    def verification_key(self) -> str | None:
        """PEM of the pool's key, once a KME has told."""
        return self._verification_key

    def link_opened(self, link: int, kme: int) -> None:
        """The host connected a KME. ``kme``: the host's number of it, the same when it connects the same one again."""
        with self._lock:
            if link in self._kmes or len(self._kmes) >= MAX_KMES:
                self._outside.close(link, "no room")
                return
            now = self._outside.monotonic()
            resume = self._left.pop(kme, None)
            self._names[link] = kme
            identity = Identity(
                pool=self._pool_id,
                role=ROLE,
                issue=self._outside.issue_evidence,
                judge=lambda evidence, data, role: self._outside.judge(evidence, data, role, self._manifest),
                evidence_seconds=EVIDENCE_SECONDS,
            )
            end = Initiator(identity, responder_role=KME_ROLE, now=now, resume=resume)
            self._kmes[link] = _Kme(Link(end), now)
            for frame in self._kmes[link].link.start():
                self._outside.send(link, frame)

    def link_frame(self, link: int, frame: bytes) -> None:
        """A KME's frame."""
        answered: list[tuple[OnAnswer, Answer | None]] = []
        with self._lock:
            kme = self._kmes.get(link)
            if kme is None:
                return
            try:
                received = kme.link.receive(frame, now=self._outside.monotonic())
                for answer in received.answers:
                    self._outside.send(link, answer)
                if received.established is not None:
                    kme.established = received.established
                    self._say(link, kme, Introduce(self.instance, self._manifest.version))
                if received.payload is not None:
                    answered = self._message(link, kme, received.payload)
            except LinkClosed as exc:
                self._end(link, exc.reason, exc.message)
            except ChannelError as exc:
                self._end(link, "broke the rules", exc.message)
            except AvalonError as exc:
                # Not the peer's fault, as when the platform gives no evidence. It costs this link and not the WPE.
                self._end(link, "failed here", exc.message)
        _tell(answered)

    def link_closed(self, link: int) -> None:
        """The host says that a link is gone: what was asked there is asked elsewhere."""
        with self._lock:
            self._forget(link)

    def ask(self, request: Callable[[int], Request], on_answer: OnAnswer) -> None:
        """Ask a KME, any that serves; ``request`` is given the number that the request is to carry.

        Raises:
            ChannelError: too much waits already.
        """
        with self._lock:
            if len(self._waiting) + sum(len(kme.asked) for kme in self._kmes.values()) >= MAX_WAITING:
                raise ChannelError(f"{MAX_WAITING} requests wait for a key management enclave already")
            self._number += 1
            asked = request(self._number)
            too_long = isinstance(asked, OpenOrder) and len(asked.request) > MAX_HEADER_BYTES
            if not too_long:
                deadline = self._outside.monotonic() + PATIENCE_SECONDS
                self._waiting[self._number] = _Asked(asked, on_answer, deadline)
                self._flush_soon()
        if too_long:
            # A KME would take it for a broken peer, and the next KME as well.
            on_answer(
                OrderOpened(
                    asked.number,
                    code=int(WorkOrderCode.INVALID_PARAMETER),
                    message=f"the order without its data is longer than {MAX_HEADER_BYTES} bytes",
                )
            )

    def finished(self, work_order_ids: tuple[str, ...]) -> None:
        """Tell the KMEs that these orders are done with."""
        with self._lock:
            for link, kme in list(self._kmes.items()):
                if kme.welcome is not None:
                    for start in range(0, len(work_order_ids), MAX_FINISHED):
                        self._say(link, kme, Finished(work_order_ids[start : start + MAX_FINISHED]))

    def tick(self) -> None:
        """Give up what has waited too long, and KMEs that say nothing. To be called every second or so."""
        now = self._outside.monotonic()
        given_up: list[_Asked] = []
        with self._lock:
            for link, kme in list(self._kmes.items()):
                if kme.link.is_over(now):
                    self._end(
                        link, "session over", "the evidence behind it is too old: a new one is to be made"
                    )
                elif kme.welcome is None and now - kme.since > HANDSHAKE_SECONDS:
                    self._end(link, "no word", f"the KME did not welcome this WPE in {HANDSHAKE_SECONDS:g} s")
            for asked_by in (self._waiting, *(kme.asked for kme in self._kmes.values())):
                late = [number for number, asked in asked_by.items() if asked.deadline <= now]
                given_up += [asked_by.pop(number) for number in late]
            for asked in self._waiting.values():
                # Who said no may have changed its mind. Tried again here and not at each flush: the KMEs have other work.
                asked.avoid.clear()
            self._flush_soon()
        _tell([(asked.on_answer, None) for asked in given_up])

    def leave(self) -> None:
        """Take leave of all KMEs."""
        with self._lock:
            for link, kme in list(self._kmes.items()):
                if kme.welcome is not None:
                    self._say(link, kme, Leave())
                self._end(link, "leaving", "this WPE ends")

    def flush(self) -> None:
        """Send what waits, in as few messages as it takes."""
        with self._lock:
            self._flushing = False
            for link, requests in self._assign().items():
                kme = self._kmes[link]
                for message in _batches(requests):
                    self._say(link, kme, message)

    # -- with the lock held

    def _flush_soon(self) -> None:
        if not self._flushing and self._waiting:
            self._flushing = True
            self._outside.soon(self.flush)

    def _assign(self) -> dict[int, list[Request]]:
        """Give every waiting request to the serving KME that has the least to do."""
        serving = {link: kme for link, kme in self._kmes.items() if kme.welcome is not None}
        assigned: dict[int, list[Request]] = {}
        if not serving:
            return assigned
        for number, asked in list(self._waiting.items()):
            choice = [link for link in serving if link not in asked.avoid]
            if not choice:
                continue  # each has said no for now: with the next tick
            link = min(choice, key=lambda link: len(serving[link].asked))
            serving[link].asked[number] = self._waiting.pop(number)
            assigned.setdefault(link, []).append(asked.request)
        return assigned

    def _message(self, link: int, kme: _Kme, payload: bytes) -> list[tuple[OnAnswer, Answer | None]]:
        message = decode_to_wpe(payload)
        match message:
            case Welcome():
                self._welcomed(link, kme, message)
                return []
            case OrdersOpened(orders=orders):
                return [done for order in orders for done in self._answer(link, kme, order)]
            case ResultsSigned(signatures=signatures) | ReceiptsSigned(signatures=signatures):
                return [done for signed in signatures for done in self._answer(link, kme, signed)]
            case _:
                assert_never(message)

    def _answer(self, link: int, kme: _Kme, answer: Answer) -> list[tuple[OnAnswer, Answer | None]]:
        asked = kme.asked.pop(answer.number, None)
        if asked is None:
            return []  # given up meanwhile
        if isinstance(answer, OrderOpened) and answer.retry and answer.code == WorkOrderCode.BUSY:
            return self._elsewhere(link, asked, answer)
        if isinstance(answer, Signed) and not answer.signature:
            # This KME has not heard (yet) that another opened the order for this WPE.
            return self._elsewhere(link, asked, answer)
        return [(asked.on_answer, answer)]

    def _elsewhere(self, link: int, asked: _Asked, answer: Answer) -> list[tuple[OnAnswer, Answer | None]]:
        """Have another KME asked where there is one that has not said no, or may be soon; else this is the answer."""
        asked.avoid = {other for other in asked.avoid if other in self._kmes} | {link}
        if len(asked.avoid) == len(self._kmes):
            return [(asked.on_answer, answer)]
        self._waiting[answer.number] = asked
        self._flush_soon()
        return []

    def _welcomed(self, link: int, kme: _Kme, welcome: Welcome) -> None:
        established = kme.established
        if established is None or kme.welcome is not None:
            raise ChannelError("a KME welcomes once")
        if self._verification_key not in (None, welcome.verification_key):
            raise ChannelError("the KME has another pool's key than the KME before it")
        if established.resumed_from is None:
            digest = unique_id_digest(established.unique_id, established.own_nonce)
            try:
                load_verification_key(welcome.verification_key).verify(
                    digest, established.pool_signature, strict=True
                )
            except (KeyFormatError, SignatureMismatch) as exc:
                raise ChannelError(f"the unique id is not signed by the pool's key: {exc.message}") from None
        self._verification_key = welcome.verification_key
        if welcome.changes and not self._follow(welcome.changes):
            for other in list(self._kmes):
                self._end(other, "the manifest changed", "to be judged by the manifest in force")
            self._left.clear()
            return
        kme.welcome = welcome
        self._outside.event("kme_joined", {"link": link})
        self._outside.welcomed(welcome)
        self._flush_soon()

    def _follow(self, changes: tuple[SignedManifest, ...]) -> bool:
        """Take changes of the manifest that a KME told; whether all KMEs that were admitted still are, for certain.

        Raises:
            ChannelError: the owners have not signed them so.
        """
        before = now = self._manifest
        try:
            for change in changes:
                # What this WPE has heard meanwhile by another KME is not new.
                if read_manifest(change.manifest).version > now.version:
                    now = accept_change(encode_manifest(now), change)
        except (EvidenceError, PolicyViolation) as exc:
            raise ChannelError(
                f"the KME told a change of the manifest that cannot be: {exc.message}"
            ) from None
        self._manifest = now
        return (
            set(before.kme_measurements) <= set(now.kme_measurements)
            and set(before.roots) <= set(now.roots)
            and set(before.tcb_statuses) <= set(now.tcb_statuses)
        )

    def _say(self, link: int, kme: _Kme, message: ToKme) -> None:
        try:
            for frame in kme.link.send(encode(message), now=self._outside.monotonic()):
                self._outside.send(link, frame)
        except LinkClosed as exc:
            self._end(link, exc.reason, exc.message)

    def _end(self, link: int, reason: str, message: str) -> None:
        kme = self._kmes.get(link)
        if kme is None:
            return
        for frame in kme.link.farewell():
            self._outside.send(link, frame)
        self._outside.event("link_closed", {"link": link, "reason": reason, "detail": message})
        self._forget(link)
        self._outside.close(link, reason)

    def _forget(self, link: int) -> None:
        kme = self._kmes.pop(link, None)
        name = self._names.pop(link, None)
        if kme is None:
            return
        if kme.established is not None and kme.welcome is not None and name is not None:
            self._left[name] = kme.established.resumption
            while len(self._left) > MAX_KMES:
                self._left.pop(next(iter(self._left)))
        self._waiting.update(kme.asked)
        self._flush_soon()


def _batches(requests: list[Request]) -> list[ToKme]:
    messages: list[ToKme] = [OpenOrders(part) for part in _open_batches(requests)]
    results = tuple(request for request in requests if isinstance(request, SignResult))
    receipts = tuple(request for request in requests if isinstance(request, SignReceipt))
    messages += [
        SignResults(results[start : start + MAX_BATCH]) for start in range(0, len(results), MAX_BATCH)
    ]
    messages += [
        SignReceipts(receipts[start : start + MAX_BATCH]) for start in range(0, len(receipts), MAX_BATCH)
    ]
    return messages


def _open_batches(requests: list[Request]) -> list[tuple[OpenOrder, ...]]:
    batches: list[list[OpenOrder]] = []
    room = 0
    for request in requests:
        if not isinstance(request, OpenOrder):
            continue
        if not batches or len(batches[-1]) == MAX_BATCH or len(request.request) > room:
            batches.append([])
            room = MAX_BATCH_BYTES
        batches[-1].append(request)
        room -= len(request.request)
    return [tuple(batch) for batch in batches]


def _tell(answered: list[tuple[OnAnswer, Answer | None]]) -> None:
    """Call them all, in order; where one raises, the others are called all the same, and then it is raised."""
    with contextlib.ExitStack() as calls:
        for on_answer, answer in reversed(answered):
            calls.callback(on_answer, answer)
