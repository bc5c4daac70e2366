"""One link to a peer enclave: first the handshake, then the session, over frames that the hosts carry."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from avalon_core.channel.handshake import Established, Initiator, Responder, refusal
from avalon_core.channel.session import Session
from avalon_core.errors import HandshakeRefused, SessionClosed


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What a frame brought."""

    answers: Sequence[bytes] = ()
    """Frames to be sent back, in this order."""

    established: Established | None = None
    """The handshake is over with this frame."""

    payload: bytes | None = field(default=None, repr=False)
    """A message of the peer."""


class LinkClosed(Exception):
    """The link is of no use any more."""

    def __init__(self, reason: str, message: str, answers: Sequence[bytes] = ()) -> None:
        """``reason``: of a fixed list; ``answers``: what is still to be sent before it is closed."""
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.answers = answers


class Link:
    """One end of a link. For one thread at a time."""

    def __init__(self, end: Initiator | Responder) -> None:
        self._end: Initiator | Responder | None = end
        self._session: Session | None = None

    @property
    def is_established(self) -> bool:
        """The handshake is over, and the session is open."""
        return self._session is not None and not self._session.is_closed

    def is_over(self, now: float) -> bool:
        """There was a session, and the evidence behind it is too old by now."""
        return self._session is not None and self._session.is_over(now)

    def start(self) -> Sequence[bytes]:
        """The first frames of this end."""
        return [self._end.start()] if isinstance(self._end, Initiator) else []

    def receive(self, frame: bytes, *, now: float) -> Received:
        """Take a frame.

        Raises:
            LinkClosed: the handshake failed, or the session is closed.
        """
        if self._session is not None:
            try:
                return Received(payload=self._session.open(frame, now=now))
            except SessionClosed as exc:
                raise LinkClosed("session closed", exc.message) from None
        assert self._end is not None
        try:
            answer, established = self._end.receive(frame, now=now)
        except HandshakeRefused as exc:
            answers = [refusal(exc.reason)] if isinstance(self._end, Responder) else []
            raise LinkClosed(exc.reason, exc.message, answers) from None
        if established is not None:
            self._session, self._end = established.session, None
        return Received(answers=[answer] if answer is not None else [], established=established)

    def send(self, payload: bytes, *, now: float) -> Sequence[bytes]:
        """The frames that carry a message.

        Raises:
            LinkClosed: there is no session, or not any more.
        """
        if self._session is None:
            raise LinkClosed("no session", "the handshake is not over")
        try:
            return self._session.seal(payload, now=now)
        except SessionClosed as exc:
            raise LinkClosed("session closed", exc.message) from None

    def farewell(self) -> Sequence[bytes]:
        """The frames that tell the peer of the end. The link is closed then."""
        if self._session is None:
            return []
        record = self._session.goodbye()
        return [record] if record is not None else []
