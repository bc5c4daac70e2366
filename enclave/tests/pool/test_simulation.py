"""Thousands of schedules of a pool, each from a seed, and proof that the checks can fail.

``AVALON_POOL_SCHEDULES`` says how many (default 2,000), ``AVALON_POOL_SEED`` where the seeds begin: a failure names its seed,
and ``AVALON_POOL_SEED=n AVALON_POOL_SCHEDULES=1`` plays that one again.
"""

import os
import traceback

import msgspec
import pool_world
import pytest
from pool_simulation import Simulation, Violated, quicken

from avalon_core.channel.session import Session
from avalon_core.errors import SessionClosed
from avalon_enclave.pool import ledger
from avalon_enclave.pool import state as states
from avalon_enclave.pool.kme import KmeNode
from avalon_enclave.pool.ledger import Ledger

SCHEDULES = int(os.environ.get("AVALON_POOL_SCHEDULES", "2000"))
FIRST_SEED = int(os.environ.get("AVALON_POOL_SEED", "0"))
_PART = 250


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(0, SCHEDULES, _PART))
def test_the_invariants_hold_in_every_schedule(part, monkeypatch):
    quicken(monkeypatch)
    opens = tampered = restarts = 0
    for seed in range(FIRST_SEED + part, FIRST_SEED + min(part + _PART, SCHEDULES)):
        try:
            simulation = Simulation(seed)
            simulation.play()
        except Exception as exc:  # noqa: BLE001 whatever it is, the seed is what finds it again
            pytest.fail(f"the schedule of seed {seed} failed: {exc}\n{traceback.format_exc()}")
        opens += simulation.opens
        tampered += simulation.tampered
        restarts += simulation.restarts
    if SCHEDULES >= _PART:
        assert min(opens, tampered, restarts) > _PART // 4, "schedules in which little happens show little"


# -- that the checks can fail: each breaks one rule, and is found


def _admit_all(self, work_order_id, fingerprint, token, holder):
    self._orders[work_order_id] = ledger.OpenedOrder(fingerprint, token, holder)


def _no_gossip(self):
    self._untold.clear()


def _open_anything(self, record, *, now):
    """A session that shrugs at what is not the next record."""
    try:
        return _open(self, record, now=now)
    except SessionClosed:
        self._why_closed = ""
        return None


def _ours(ours, theirs, *, now):
    return ours


def _number_wins(ours, theirs, *, now):
    """The union, but each KME keeps to its own where two epochs have the same number."""
    merged = _merge(ours, theirs, now=now)
    numbers = {epoch.number for epoch in ours.epochs}
    kept = tuple(e for e in merged.epochs if e in ours.epochs or e.number not in numbers)
    return merged if len(kept) == len(merged.epochs) else msgspec.structs.replace(merged, epochs=kept)


def _end_few(self, link, reason, message):
    if reason != "the manifest changed":
        _end(self, link, reason, message)


def _tell_anybody(self, link, peer, join):
    """The state is given to who has none, by who has not asked whether it is the newest."""
    _joined(self, link, peer, msgspec.structs.replace(join, sealed_revision=max(1, join.sealed_revision)))


def _serve_what_was_sealed(self, state, revision, *, alone):
    _restore(self, state, revision, alone=True)


_open, _merge, _restore = Session.open, states.merge, KmeNode.restore
_end, _joined = KmeNode._end, KmeNode._joined

MUTANTS = {
    "a ledger that admits everything": ((Ledger, "admit", _admit_all), "lease"),
    "a ledger that hears nothing of peers": ((Ledger, "told", lambda *_: False), "lease"),
    "KMEs that do not tell what they opened": ((KmeNode, "_gossip", _no_gossip), "lease"),
    "any measurement is admitted": ((pool_world, "judge", lambda *_: None), "(peers|keys)"),
    "a changed manifest ends no session": ((KmeNode, "_end", _end_few), "peers"),
    "a KME stays though its own code is not admitted any more": (
        (KmeNode, "_is_admitted", lambda _: True),
        "healing",
    ),
    "a KME that was restored gives its state to who has none": (
        (KmeNode, "_joined", _tell_anybody),
        "epochs",
    ),
    "records that are not the next are skipped": ((Session, "open", _open_anything), "frames"),
    "a peer's state is not merged": ((states, "merge", _ours), "(epochs|healing)"),
    "of two epochs of a number each keeps its own": ((states, "merge", _number_wins), "epochs"),
    "a KME does not ask whether its seal is the newest": (
        (KmeNode, "restore", _serve_what_was_sealed),
        "epochs",
    ),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("mutation", "invariant"), MUTANTS.values(), ids=MUTANTS)
def test_a_broken_rule_is_found(mutation, invariant, monkeypatch):
    quicken(monkeypatch)
    monkeypatch.setattr(*mutation)
    with pytest.raises(Violated, match=f"^{invariant}: "):
        _play_all()


def _play_all():
    for seed in range(600):
        Simulation(seed).play()
