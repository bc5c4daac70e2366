"""Attested sessions: what both ends agree on, and that a host between them gets nothing but a closed session."""

import hashlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avalon_core.channel import session as session_module
from avalon_core.channel.handshake import (
    HANDSHAKE_SECONDS,
    Established,
    Identity,
    Initiator,
    Responder,
    Resumption,
    refusal,
)
from avalon_core.channel.session import MAX_KEY_SECONDS, Session
from avalon_core.errors import HandshakeRefused, SessionClosed

NOW = 1000.0


def judge(evidence: bytes, report_data: bytes, role: str) -> None:
    """Evidence of these tests is its report data after the measurement ``good``."""
    measurement, _, bound = evidence.partition(b":")
    if measurement != b"good":
        raise HandshakeRefused("measurement not allowed", "not the code that is expected")
    if bound != report_data:
        raise HandshakeRefused("evidence binds another handshake", "report data differ")


def identity(role: str, *, pool: str = "pool", measurement: bytes = b"good") -> Identity:
    return Identity(
        pool=pool,
        role=role,
        issue=lambda report_data: measurement + b":" + report_data,
        judge=judge,
        evidence_seconds=3600.0,
    )


class Ends:
    """An initiator and a responder, and whatever lies between."""

    def __init__(self, *, wpe=None, kme=None, resume=None, left=None) -> None:
        self.left: dict[bytes, Resumption] = {} if left is None else left
        self.initiator = Initiator(wpe or identity("wpe"), responder_role="kme", now=NOW, resume=resume)
        self.responder = Responder(
            kme or identity("kme"),
            accepts=frozenset({"wpe", "kme"}),
            take_resumption=lambda session_id: self.left.pop(session_id, None),
            now=NOW,
        )

    def run(self, between=lambda number, message: message) -> tuple[Established, Established]:
        """Carry messages to and fro; ``between`` may change the one of that number."""
        number, message, ours, theirs = 0, self.initiator.start(), None, None
        while theirs is None:
            answer, theirs = self.responder.receive(between(number, message), now=NOW)
            if answer is None:
                break
            message, ours = self.initiator.receive(between(number + 1, answer), now=NOW)
            number += 2
        assert ours is not None
        assert theirs is not None
        return ours, theirs


def test_both_ends_agree_and_speak_both_ways():
    ours, theirs = Ends().run()
    assert ours.session.session_id == theirs.session.session_id
    assert theirs.peer_role == "wpe"
    assert ours.peer_role == "kme"
    for number in range(3):
        said = b"to the responder %d" % number
        (record,) = ours.session.seal(said, now=NOW)
        assert said not in record
        assert theirs.session.open(record, now=NOW) == said
        (record,) = theirs.session.seal(b"back", now=NOW)
        assert ours.session.open(record, now=NOW) == b"back"


def test_the_evidence_of_an_initiator_binds_its_key_and_the_unique_id_as_the_original_has_it():
    _, theirs = Ends().run()
    bound = theirs.peer_evidence.partition(b":")[2]
    assert bound[:32] == hashlib.sha256(theirs.peer_key.encode()).digest()
    assert bound[32:] == hashlib.sha256(theirs.unique_id.encode()).digest()


@pytest.mark.parametrize(
    ("ends", "reason"),
    {
        "an initiator of another measurement": (
            Ends(wpe=identity("wpe", measurement=b"bad")),
            "measurement not allowed",
        ),
        "a responder of another measurement": (
            Ends(kme=identity("kme", measurement=b"bad")),
            "measurement not allowed",
        ),
        "an initiator of another pool": (Ends(wpe=identity("wpe", pool="other")), "another pool"),
        "a role that is not accepted": (Ends(wpe=identity("listener")), "wrong role"),
        "a responder that is no key management enclave": (Ends(kme=identity("wpe")), "wrong role"),
    }.values(),
    ids=[
        "an initiator of another measurement",
        "a responder of another measurement",
        "an initiator of another pool",
        "a role that is not accepted",
        "a responder that is no key management enclave",
    ],
)
def test_refusals(ends, reason):
    with pytest.raises(HandshakeRefused) as caught:
        ends.run()
    assert caught.value.reason == reason


@settings(max_examples=150, deadline=None)
@given(number=st.integers(0, 4), where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_no_changed_bit_of_a_handshake_leads_to_a_session(number, where, flip):
    def between(at, message):
        if at != number:
            return message
        changed = bytearray(message)
        changed[int(where * len(changed))] ^= flip
        return bytes(changed)

    with pytest.raises(HandshakeRefused):
        Ends().run(between)


def test_a_recorded_registration_is_worth_nothing_in_another_handshake():
    recorded = {}

    def record(number, message):
        recorded[number] = message
        return message

    Ends().run(record)
    ends = Ends()
    ends.responder.receive(recorded[0], now=NOW)
    with pytest.raises(HandshakeRefused) as caught:
        ends.responder.receive(recorded[2], now=NOW)
    assert caught.value.reason == "unknown unique id"


def test_a_unique_id_is_good_for_one_registration():
    ends, recorded = Ends(), {}

    def record(number, message):
        recorded[number] = message
        return message

    ends.run(record)
    with pytest.raises(HandshakeRefused) as caught:
        ends.responder.receive(recorded[2], now=NOW)
    assert caught.value.reason in ("wrong message", "bad mac")


def test_a_stolen_unique_id_is_worth_nothing_to_another_initiator():
    thief = Initiator(identity("wpe"), responder_role="kme", now=NOW)
    thief.start()
    victim = Ends()
    challenge, _ = victim.responder.receive(victim.initiator.start(), now=NOW)
    with pytest.raises(HandshakeRefused) as caught:
        thief.receive(challenge, now=NOW)
    assert caught.value.reason == "evidence binds another handshake"


def test_a_challenge_that_is_answered_late_is_stale():
    ends = Ends()
    challenge, _ = ends.responder.receive(ends.initiator.start(), now=NOW)
    register, _ = ends.initiator.receive(challenge, now=NOW)
    with pytest.raises(HandshakeRefused) as caught:
        ends.responder.receive(register, now=NOW + HANDSHAKE_SECONDS + 1)
    assert caught.value.reason == "stale nonce"


def test_the_peer_s_refusal_is_told():
    ends = Ends()
    ends.initiator.start()
    with pytest.raises(HandshakeRefused, match="no room"):
        ends.initiator.receive(refusal("no room"), now=NOW)


def test_a_session_is_resumed_without_evidence_once():
    ours, theirs = Ends().run()
    left = {theirs.resumption.session_id: theirs.resumption}
    again = Ends(
        resume=ours.resumption, left=left, wpe=identity("wpe", measurement=b"bad"), kme=identity("kme")
    )
    resumed, at_responder = again.run()
    assert resumed.resumed_from == ours.session.session_id == at_responder.resumed_from
    assert resumed.session.session_id != ours.session.session_id
    (record,) = resumed.session.seal(b"on we go", now=NOW)
    assert at_responder.session.open(record, now=NOW) == b"on we go"
    with pytest.raises(HandshakeRefused) as caught:
        Ends(resume=ours.resumption, left=left).run()
    assert caught.value.reason == "unknown session"


def test_resumption_does_not_prolong_what_the_evidence_is_good_for():
    ours, theirs = Ends().run()
    assert ours.resumption.expires == theirs.resumption.expires == NOW + 3600
    resumed, _ = Ends(resume=ours.resumption, left={theirs.resumption.session_id: theirs.resumption}).run()
    assert resumed.resumption.expires == NOW + 3600
    with pytest.raises(SessionClosed):
        resumed.session.seal(b"late", now=NOW + 3600)


@settings(max_examples=60, deadline=None)
@given(number=st.integers(0, 2), where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_no_changed_bit_of_a_resumption_leads_to_a_session(number, where, flip):
    ours, theirs = Ends().run()

    def between(at, message):
        if at != number:
            return message
        changed = bytearray(message)
        changed[int(where * len(changed))] ^= flip
        return bytes(changed)

    with pytest.raises(HandshakeRefused):
        Ends(resume=ours.resumption, left={theirs.resumption.session_id: theirs.resumption}).run(between)


def pair() -> tuple[Session, Session]:
    ours, theirs = Ends().run()
    return ours.session, theirs.session


def open_all(session, records):
    for record in records:
        session.open(record, now=NOW)


@pytest.mark.parametrize("attack", ["drop", "repeat", "reorder", "change", "reflect"])
def test_a_host_that_meddles_gets_a_closed_session(attack):
    ours, theirs = pair()
    (first,), (second,) = ours.seal(b"first", now=NOW), ours.seal(b"second", now=NOW)
    records = {
        "drop": [second],
        "repeat": [first, first],
        "reorder": [second, first],
        "change": [first[:-1] + bytes((first[-1] ^ 1,))],
        "reflect": theirs.seal(b"back", now=NOW),
    }[attack]
    with pytest.raises(SessionClosed):
        open_all(theirs, records)
    assert theirs.is_closed
    with pytest.raises(SessionClosed):
        theirs.seal(b"anything", now=NOW)


def test_keys_are_replaced_by_age_and_records_go_on():
    ours, theirs = pair()
    theirs.open(ours.seal(b"one", now=NOW)[0], now=NOW)
    later = NOW + MAX_KEY_SECONDS - 1
    assert len(ours.seal(b"two", now=later)) == 1
    ours, theirs = Ends().run()[0].session, None
    first, second = pair()
    records = first.seal(b"old", now=NOW) + first.seal(b"new", now=NOW + MAX_KEY_SECONDS - 0.5)
    assert [second.open(record, now=NOW) for record in records] == [b"old", b"new"]


def test_keys_are_replaced_by_volume(monkeypatch):
    monkeypatch.setattr(session_module, "MAX_RECORDS", 3)
    ours, theirs = pair()
    said = [b"%d" % number for number in range(20)]
    heard = []
    updates = 0
    for payload in said:
        for record in ours.seal(payload, now=NOW):
            opened = theirs.open(record, now=NOW)
            if opened is None:
                updates += 1
            else:
                heard.append(opened)
    assert heard == said
    assert updates == 6


def test_goodbye_closes_both_ends():
    ours, theirs = pair()
    farewell = ours.goodbye()
    assert ours.is_closed
    with pytest.raises(SessionClosed, match="peer closed"):
        theirs.open(farewell, now=NOW)
    assert ours.goodbye() is None


@given(junk=st.binary(max_size=300))
def test_junk_is_refused_and_nothing_else_is_raised(junk):
    with pytest.raises(HandshakeRefused):
        Ends().responder.receive(junk, now=NOW)
    ends = Ends()
    ends.initiator.start()
    with pytest.raises(HandshakeRefused):
        ends.initiator.receive(junk, now=NOW)


def test_secrets_are_in_no_repr():
    ours, _ = Ends().run()
    secret = ours.resumption.secret
    assert secret.hex() not in repr(ours)
    assert repr(secret) not in repr(ours)
    assert msgspec.json.encode({"shown": repr(ours.resumption)})
