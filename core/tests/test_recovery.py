"""Recovery shares: any k of n restore the state, fewer never do, and shares of anything else are refused."""

import base64
import hashlib

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avalon_core.crypto.recovery import (
    MAX_STATE_BYTES,
    combine,
    hand_back,
    open_share,
    read_recovery,
    read_share,
    recovery_report_data,
    split,
)
from avalon_core.crypto.sealing import HpkePrivateKey
from avalon_core.errors import DecryptionFailed, EvidenceError

POOL = hashlib.sha256(b"pool").hexdigest()
OWNERS = [HpkePrivateKey.generate() for _ in range(5)]
KME = HpkePrivateKey.generate()
STATE = b"the pool's state: secret"


def made(owners=5, threshold=3, *, state=STATE, pool=POOL):
    return split(
        state, pool=pool, owners=[owner.public_key.hex for owner in OWNERS[:owners]], threshold=threshold
    )


def returned(recovery, who):
    return [hand_back(recovery.shares[i], OWNERS[i], KME.public_key.hex) for i in who]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), owners=st.integers(1, 5))
def test_any_k_of_n_restore_and_fewer_never_do(data, owners):
    threshold = data.draw(st.integers(1, owners))
    recovery = made(owners, threshold)
    who = data.draw(st.lists(st.integers(0, owners - 1), min_size=threshold, max_size=owners, unique=True))
    assert combine(recovery, returned(recovery, who), KME) == STATE
    fewer = who[: threshold - 1]
    with pytest.raises(DecryptionFailed):
        combine(recovery, returned(recovery, fewer), KME)
    if fewer:
        with pytest.raises(DecryptionFailed):
            combine(recovery, returned(recovery, [*fewer, fewer[0]]), KME)


@pytest.fixture(scope="module")
def recovery():
    return made()


def test_shares_of_another_state_or_pool_are_refused(recovery):
    for other in (made(), made(pool=hashlib.sha256(b"other").hexdigest())):
        with pytest.raises(EvidenceError):
            combine(recovery, [*returned(recovery, [0, 1]), *returned(other, [2])], KME)
        relabelled = msgspec.structs.replace(
            returned(other, [2])[0], pool=recovery.pool, state=recovery.shares[0].state
        )
        with pytest.raises(DecryptionFailed):
            combine(recovery, [*returned(recovery, [0, 1]), relabelled], KME)


def test_a_share_opens_for_its_owner_and_what_is_handed_back_for_that_kme_only(recovery):
    with pytest.raises(DecryptionFailed):
        hand_back(recovery.shares[0], OWNERS[1], KME.public_key.hex)
    with pytest.raises(DecryptionFailed):
        open_share(recovery, returned(recovery, [0])[0], OWNERS[0])
    with pytest.raises(DecryptionFailed):
        # Not yet handed back: it is no share for a KME, whatever key it names.
        open_share(recovery, recovery.shares[0], OWNERS[0])


@settings(max_examples=60, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_of_a_share_or_of_the_state_is_refused(recovery, where, bit):
    shares = returned(recovery, [0, 1, 2])
    sealed = bytearray.fromhex(shares[0].sealed)
    sealed[int(where * len(sealed))] ^= 1 << bit
    changed = msgspec.structs.replace(shares[0], sealed=sealed.hex())
    with pytest.raises(DecryptionFailed):
        combine(recovery, [changed, *shares[1:]], KME)
    state = bytearray(base64.b64decode(recovery.state))
    state[int(where * len(state))] ^= 1 << bit
    other = msgspec.structs.replace(recovery, state=base64.b64encode(bytes(state)).decode())
    with pytest.raises(EvidenceError):
        combine(other, shares, KME)
    digest = hashlib.sha256(bytes(state)).hexdigest()
    with pytest.raises(DecryptionFailed):
        combine(other, [msgspec.structs.replace(share, state=digest) for share in shares], KME)


@given(junk=st.binary(max_size=300))
def test_junk_is_refused_and_nothing_else_is_raised(junk):
    for read in (read_recovery, read_share):
        with pytest.raises(EvidenceError):
            read(junk)


def test_files_are_read_as_they_were_written(recovery):
    assert read_recovery(msgspec.json.encode(recovery)) == recovery
    assert read_share(msgspec.json.encode(recovery.shares[0])) == recovery.shares[0]


def test_no_state_is_split_that_could_not_be_read_again():
    with pytest.raises(EvidenceError):
        made(state=bytes(MAX_STATE_BYTES))


def test_evidence_of_a_recovery_key_is_of_that_key_and_pool():
    other = hashlib.sha256(b"other").hexdigest()
    keys = (KME.public_key.hex, OWNERS[0].public_key.hex)
    assert len({recovery_report_data(key, pool) for key in keys for pool in (POOL, other)}) == 4
