"""Copies of a pool's state merge to the same whatever the order, and what is encoded is read again."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_world import manifest_of

from avalon_core.crypto.manifests import (
    Manifest,
    SignedManifest,
    digest_of,
    encode_manifest,
    read_manifest,
    sign_manifest,
)
from avalon_core.crypto.signing import SigningKey
from avalon_enclave.errors import PoolStateRefused
from avalon_enclave.pool.ledger import FAILED_TOKEN, Ledger
from avalon_enclave.pool.state import (
    MAX_INSTANCES,
    Epoch,
    PoolState,
    change_manifest,
    decode_state,
    digest_of_state,
    encode_state,
    forget_old,
    merge,
    note_revision,
)

OVERLAP = 50
OWNERS = [SigningKey(bytes([number]) * 32) for number in (1, 2, 3)]
FIRST = manifest_of(
    owners=tuple(owner.verification_key.pem for owner in OWNERS), quorum=2, overlap_seconds=OVERLAP
)
NOW = 1000


def changed(before: bytes, signers, **members) -> SignedManifest:
    current = read_manifest(before)
    values = {name: getattr(current, name) for name in current.__struct_fields__}
    values |= {"version": current.version + 1, "previous": digest_of(before).hex(), **members}
    manifest = encode_manifest(Manifest(**values))
    return SignedManifest(
        manifest=manifest, signatures=dict(sign_manifest(manifest, signer) for signer in signers)
    )


def _chain() -> list[tuple[SignedManifest, SignedManifest]]:
    """Three changes, each in two spellings: signed by different quorums."""
    chain, before = [], FIRST
    for number in range(3):
        one = changed(before, OWNERS[:2], max_wpes=number + 1)
        chain.append((one, changed(before, OWNERS[1:], max_wpes=number + 1)))
        before = one.manifest
    return chain


CHAIN = _chain()
EPOCHS = [
    Epoch(number=number, made_at=made_at, rsa=b"r", hpke=bytes([number, which]) * 48)
    for number, made_at in ((1, 100), (2, NOW - 2 * OVERLAP), (3, NOW - 10), (4, NOW))
    for which in (0, 1)
]


@st.composite
def copies(draw) -> PoolState:
    """What a KME of the pool may hold at the time NOW."""
    length = draw(st.integers(0, len(CHAIN)))
    kept = draw(st.lists(st.sampled_from(EPOCHS), min_size=1, unique=True))
    return forget_old(
        PoolState(
            signing=b"s" * 32,
            first_manifest=FIRST,
            changes=tuple(draw(st.sampled_from(both)) for both in CHAIN[:length]),
            epochs=tuple(sorted(kept, key=lambda epoch: (epoch.number, epoch.hpke))),
            revisions=draw(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9))),
        ),
        now=NOW,
    )


def joined(*states: PoolState) -> bytes:
    merged = states[0]
    for other in states[1:]:
        merged = merge(merged, other, now=NOW)
    return encode_state(merged)


@settings(max_examples=200, deadline=None)
@given(ours=copies(), theirs=copies(), third=copies())
def test_merging_is_commutative_associative_and_idempotent(ours, theirs, third):
    assert joined(ours, theirs) == joined(theirs, ours)
    assert encode_state(merge(merge(ours, theirs, now=NOW), third, now=NOW)) == encode_state(
        merge(ours, merge(theirs, third, now=NOW), now=NOW)
    )
    once = merge(ours, theirs, now=NOW)
    assert encode_state(merge(once, theirs, now=NOW)) == encode_state(once)
    assert encode_state(merge(once, once, now=NOW)) == encode_state(once)


@settings(max_examples=200, deadline=None)
@given(ours=copies(), theirs=copies(), ahead=st.integers(0, 200), behind=st.integers(0, 200))
def test_kmes_whose_clocks_differ_have_one_current_epoch_and_manifest(ours, theirs, ahead, behind):
    # Each merges by its own clock what the other has, until neither says anything new: two rounds at the most.
    one, other = ours, theirs
    for _ in range(2):
        one, other = merge(one, other, now=NOW + ahead), merge(other, one, now=NOW - behind)
    assert max(e.number for e in one.epochs) == max(e.number for e in other.epochs)
    newest = max(e.number for e in one.epochs)
    assert [e for e in one.epochs if e.number == newest] == [e for e in other.epochs if e.number == newest]
    assert one.changes == other.changes
    assert one == merge(one, other, now=NOW + ahead)
    assert other == merge(other, one, now=NOW - behind)


@given(state=copies())
def test_what_is_encoded_is_read_again(state):
    assert decode_state(encode_state(state)) == state
    assert digest_of_state(decode_state(encode_state(state))) == digest_of_state(state)


@given(state=copies(), junk=st.binary(max_size=100), cut=st.floats(0, 1, exclude_max=True))
def test_what_is_no_state_is_refused_and_nothing_else_is_raised(state, junk, cut):
    encoded = encode_state(state)
    for broken in (junk, encoded[: int(cut * len(encoded))]):
        with pytest.raises(PoolStateRefused):
            decode_state(broken)


@given(state=copies(), instance=st.sampled_from("abcde"), revision=st.integers(1, 20))
def test_revisions_do_not_count_for_whether_copies_agree_and_never_go_back(state, instance, revision):
    noted = note_revision(state, instance, revision)
    assert digest_of_state(noted) == digest_of_state(state)
    assert noted.revisions[instance] == max(revision, state.revisions.get(instance, 0))


def test_the_kmes_that_sealed_last_are_remembered_whatever_the_order_of_merging():
    def with_revisions(revisions):
        return PoolState(signing=b"s" * 32, first_manifest=FIRST, epochs=(EPOCHS[0],), revisions=revisions)

    many = [
        with_revisions({f"{part}-{n}": (n * 7 + part) % 2000 for n in range(MAX_INSTANCES)})
        for part in range(3)
    ]
    results = {joined(*(many[i] for i in order)) for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2))}
    assert len(results) == 1
    everybody = {name: revision for state in many for name, revision in state.revisions.items()}
    latest = sorted(everybody.items(), key=lambda one: (one[1], one[0]))[-MAX_INSTANCES:]
    assert decode_state(results.pop()).revisions == dict(latest)


def test_two_futures_of_one_manifest_do_not_merge_however_long_one_is():
    """Owners that a change has put out of office sign another future, as long as they like."""
    state = PoolState(signing=b"s" * 32, first_manifest=FIRST, epochs=(EPOCHS[0],))
    honest = change_manifest(
        state, changed(FIRST, OWNERS[:2], owners=(OWNERS[2].verification_key.pem,), quorum=1)
    )
    forked, before = state, FIRST
    for number in range(4):
        change = changed(before, OWNERS[:2], wpe_measurements=(f"{number:02x}" * 32,))
        forked, before = change_manifest(forked, change), change.manifest
    for ours, theirs in ((honest, forked), (forked, honest)):
        with pytest.raises(PoolStateRefused, match="part after version 1"):
            merge(ours, theirs, now=NOW)


def test_a_chain_that_owners_did_not_sign_is_not_merged():
    state = PoolState(signing=b"s" * 32, first_manifest=FIRST, epochs=(EPOCHS[0],))
    forged = msgspec.structs.replace(state, changes=(changed(FIRST, OWNERS[:1], max_wpes=9),))
    with pytest.raises(PoolStateRefused, match="not admitted"):
        merge(state, forged, now=NOW)


# -- the ledger

ENTRIES = st.tuples(
    st.sampled_from(["01", "02"]),
    st.sampled_from([b"x" * 16, b"y" * 16]),
    st.integers(FAILED_TOKEN, 3),
    st.sampled_from(["v", "w"]),
)


@given(entries=st.lists(ENTRIES, max_size=8), order=st.randoms())
def test_ledgers_that_were_told_the_same_agree_in_whatever_order(entries, order):
    ledgers = [Ledger(), Ledger()]
    shuffled = list(entries)
    order.shuffle(shuffled)
    for ledger, told in zip(ledgers, (entries, [*shuffled, *entries]), strict=True):
        for entry in told:
            ledger.told(*entry)
    one, other = (
        {e[0]: e[2:] if e[2] != FAILED_TOKEN else FAILED_TOKEN for e in ledger.entries()}
        for ledger in ledgers
    )
    assert one == other


@given(entries=st.lists(ENTRIES, max_size=8), asked=ENTRIES)
def test_nobody_opens_an_order_against_what_the_ledger_was_told(entries, asked):
    ledger = Ledger()
    for entry in entries:
        ledger.told(*entry)
    id_, fingerprint, token, holder = asked
    token = max(token, 0)
    refusal = ledger.admit(id_, fingerprint, token, holder)
    about = [entry for entry in entries if entry[0] == id_]
    if any(entry[2] == FAILED_TOKEN or entry[2] > token for entry in about):
        assert refusal is not None
    assert ledger.holds(id_, holder) or refusal is not None
    assert not about or refusal is not None or any(entry[1] == fingerprint for entry in about)


def test_a_ledger_forgets_the_oldest():
    ledger = Ledger(max_orders=2)
    ledger.admit("0", b"x" * 16, 1, "w")
    ledger.admit("1", b"x" * 16, 1, "w")
    ledger.told("0", b"x" * 16, 1, "w")  # told again: it is no younger for that
    ledger.admit("2", b"x" * 16, 1, "w")
    assert [entry[0] for entry in ledger.entries()] == ["1", "2"]
