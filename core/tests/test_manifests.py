"""A pool's manifest: one encoding, a quorum of different owners, and what admits nobody."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avalon_core.crypto.manifests import (
    MAX_MANIFEST_BYTES,
    Manifest,
    SignedManifest,
    accept_change,
    digest_of,
    encode_manifest,
    follow,
    read_manifest,
    read_signed_manifest,
    sign_manifest,
)
from avalon_core.crypto.sealing import HpkePrivateKey
from avalon_core.crypto.signing import SigningKey
from avalon_core.errors import EvidenceError, PolicyViolation

OWNERS = [SigningKey(bytes([number]) * 32) for number in range(1, 6)]
PEMS = tuple(owner.verification_key.pem for owner in OWNERS)
STRANGER = SigningKey(b"\x77" * 32)

manifests = st.builds(
    Manifest,
    worker_name=st.text(min_size=1, max_size=40),
    kme_measurements=st.lists(st.sampled_from(["aa" * 32, "bb" * 48]), max_size=2).map(tuple),
    roots=st.lists(st.sampled_from(["intel-sgx", "simulator"]), max_size=2).map(tuple),
    migration=st.sampled_from(["allowed", "never"]),
    max_wpes=st.integers(1, 100_000),
    orders_per_wpe=st.integers(0, 1000),
    overlap_seconds=st.integers(0, 1000),
    owners=st.sampled_from([(), PEMS[:1], PEMS[:3]]),
    quorum=st.just(1),
)


def first(owners=3, quorum=2, **members) -> bytes:
    return encode_manifest(
        Manifest(worker_name="w", owners=PEMS[:owners], quorum=quorum if owners else 0, **members)
    )


def change_of(before: bytes, signers, **members) -> SignedManifest:
    current = read_manifest(before)
    values = {name: getattr(current, name) for name in current.__struct_fields__}
    values |= {"version": current.version + 1, "previous": digest_of(before).hex(), **members}
    manifest = encode_manifest(Manifest(**values))
    return SignedManifest(
        manifest=manifest, signatures=dict(sign_manifest(manifest, signer) for signer in signers)
    )


@given(manifest=manifests)
def test_a_manifest_has_one_encoding(manifest):
    encoded = encode_manifest(manifest)
    assert read_manifest(encoded) == manifest
    for other in (
        encoded.replace(b":", b": ", 1),
        encoded + b"\n",
        encoded.replace(b'"version":1', b'"version":1,"version":1', 1),
        encoded.replace(b'"quorum":1,', b"", 1),
    ):
        with pytest.raises(EvidenceError):
            read_manifest(other)


@given(manifest=manifests, where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_changed_bit_is_another_manifest_or_none(manifest, where, bit):
    encoded = bytearray(encode_manifest(manifest))
    encoded[int(where * len(encoded))] ^= 1 << bit
    changed = bytes(encoded)
    assert digest_of(changed) != digest_of(encode_manifest(manifest))
    with contextlib.suppress(EvidenceError):
        assert encode_manifest(read_manifest(changed)) == changed


@given(junk=st.binary(max_size=200))
def test_junk_is_no_manifest_and_nothing_else_is_raised(junk):
    for read in (read_manifest, read_signed_manifest):
        with pytest.raises(EvidenceError):
            read(junk)


def test_a_manifest_that_is_too_long_is_not_read():
    with pytest.raises(EvidenceError, match="at most"):
        read_manifest(b" " * (MAX_MANIFEST_BYTES + 1))


@given(
    owners=st.integers(1, 5),
    quorum=st.integers(1, 5),
    signers=st.lists(st.sampled_from([*OWNERS, STRANGER]), max_size=6),
)
def test_a_quorum_counts_each_owner_once_and_nobody_else(owners, quorum, signers):
    quorum = min(quorum, owners)
    before = first(owners, quorum)
    change = change_of(before, signers, max_wpes=3)
    different = {owner.verification_key.pem for owner in signers} & set(PEMS[:owners])
    if len(different) >= quorum:
        assert accept_change(before, change).max_wpes == 3
    else:
        with pytest.raises(PolicyViolation, match="owners have signed"):
            accept_change(before, change)


def test_one_owner_in_two_spellings_of_a_key_is_one_owner():
    spelled = PEMS[0].replace("\n", "\r\n")
    assert spelled != PEMS[0]
    with pytest.raises(ValueError, match="named twice"):
        Manifest(worker_name="w", owners=(PEMS[0], spelled), quorum=2)
    recovery = HpkePrivateKey.generate().public_key.hex
    with pytest.raises(ValueError, match="named twice"):
        Manifest(worker_name="w", recovery_keys=(recovery, recovery), recovery_threshold=2)


@pytest.mark.parametrize(
    "members",
    {
        "an owner without a key": {"owners": ("not a key",), "quorum": 1},
        "a recovery key that is none": {"recovery_keys": ("00",), "recovery_threshold": 1},
        "a quorum of nobody": {"owners": PEMS[:1], "quorum": 0},
        "a quorum of more than there are": {"owners": PEMS[:1], "quorum": 2},
        "a first manifest that follows another": {"previous": "00" * 32},
        "a second that follows none": {"version": 2},
    }.items(),
    ids=lambda case: case[0],
)
def test_what_can_be_no_manifest(members):
    with pytest.raises(ValueError):
        Manifest(worker_name="w", **members[1])


def test_signatures_of_another_change_count_nothing():
    before = first()
    one, other = change_of(before, OWNERS[:2], max_wpes=3), change_of(before, OWNERS[:2], max_wpes=4)
    mixed = msgspec.structs.replace(one, signatures=other.signatures)
    with pytest.raises(PolicyViolation, match="0 owners"):
        accept_change(before, mixed)


def test_a_chain_is_followed_and_broken_ones_are_not():
    chain, current = [], first()
    for number in range(3):
        chain.append(change_of(current, OWNERS[:2], max_wpes=number + 5))
        current = chain[-1].manifest
    assert follow(first(), chain) == current
    for broken in (chain[1:], chain[::-1], [chain[0], chain[2]], [chain[0], chain[0]]):
        with pytest.raises(PolicyViolation):
            follow(first(), broken)


def test_owners_that_were_replaced_change_nothing_any_more():
    before = first(2, 2)
    after = change_of(before, OWNERS[:2], owners=PEMS[2:4], quorum=2).manifest
    with pytest.raises(PolicyViolation):
        accept_change(after, change_of(after, OWNERS[:2], max_wpes=1))
    assert accept_change(after, change_of(after, OWNERS[2:4], max_wpes=1))
