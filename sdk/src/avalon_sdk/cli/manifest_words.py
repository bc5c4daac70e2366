"""A pool's manifest in words: who may do what, and what a change changes."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from avalon_core.attestation.known_roots import VENDOR_ROOTS
from avalon_core.attestation.policy_checks import duration
from avalon_core.attestation.pool_checks import owner_digest
from avalon_core.crypto.manifests import Manifest
from avalon_core.crypto.sealing import load_hpke_public_key
from avalon_core.simulator.roots import SIMULATOR_ROOTS


def is_simulated(manifest: Manifest) -> bool:
    """It admits enclaves that no hardware protects."""
    return any(
        (anchor := SIMULATOR_ROOTS.named(name)) is not None and anchor.simulated for name in manifest.roots
    )


def unknown_roots(manifest: Manifest) -> Sequence[str]:
    """Names that nobody here knows: no evidence ends in them."""
    return tuple(
        name
        for name in manifest.roots
        if VENDOR_ROOTS.named(name) is None and SIMULATOR_ROOTS.named(name) is None
    )


class _Sentence(NamedTuple):
    text: str
    label: str = ""
    items: Sequence[str] = ()
    """What it lists; each is one thing of the kind that the label names."""


def manifest_in_words(manifest: Manifest) -> Sequence[str]:
    """One sentence each, nothing left out. What a sentence lists is indented below it."""
    return tuple(
        line
        for sentence in _sentences(manifest)
        for line in (sentence.text, *(f"  {sentence.label} {item}" for item in sentence.items))
    )


def changes_in_words(before: Manifest, after: Manifest) -> Sequence[str]:
    """What differs, one line each: ``-`` is no longer so, ``+`` is new."""
    old, new = _facts(before), _facts(after)
    return (
        *(f"- {fact}" for fact in old if fact not in new),
        *(f"+ {fact}" for fact in new if fact not in old),
    )


def _facts(manifest: Manifest) -> Sequence[str]:
    return [
        fact
        for sentence in _sentences(manifest)
        for fact in (
            sentence.text.removesuffix(":"),
            *(f"{sentence.label} {item}" for item in sentence.items),
        )
    ]


def _sentences(manifest: Manifest) -> Iterator[_Sentence]:
    yield _code("hold the pool's keys", "KME", manifest.kme_measurements)
    yield _code("be given the secrets of single orders", "WPE", manifest.wpe_measurements)
    roots, statuses = " or ".join(manifest.roots), " or ".join(manifest.tcb_statuses)
    yield _Sentence(f"Evidence must end in the root {roots or 'of nobody: no enclave is admitted'}.")
    yield _Sentence(
        f"The vendor must judge the platform {statuses or 'as it never does: no enclave is admitted'}."
    )
    yield _Sentence(
        "The pool's keys may go to other admitted KMEs, and into recovery shares."
        if manifest.migration == "allowed"
        else "The pool's keys never leave the KME that made them: when it is lost, so are they."
    )
    yield _Sentence(
        "A WPE may be on any machine."
        if manifest.localisation == "anywhere"
        else "A WPE must be on the machine of the KME that it joins."
    )
    yield _Sentence(f"There are at most {manifest.max_wpes} WPEs at a time.")
    yield _Sentence(
        f"A WPE processes {manifest.orders_per_wpe} orders, then it is started afresh."
        if manifest.orders_per_wpe
        else "A WPE processes any number of orders."
    )
    yield _Sentence(
        "Only KMEs sign results; WPEs get no one-time keys."
        if manifest.kme_signs_results
        else "WPEs sign results with one-time keys that the pool's key vouches for."
    )
    yield _Sentence(f"Orders sealed to a replaced key still open for {duration(manifest.overlap_seconds)}.")
    yield _Sentence(
        "Orders whose key and iv encrypt more than one message (the original's) are processed."
        if manifest.accept_legacy
        else "Orders whose key and iv encrypt more than one message (the original's) are refused."
    )
    yield _owners(manifest)
    yield _recovery(manifest)


def _code(may: str, role: str, measurements: Sequence[str]) -> _Sentence:
    if not measurements:
        return _Sentence(f"No code may {may} ({role}s).")
    return _Sentence(f"Code that may {may} ({role}s):", role, measurements)


def _owners(manifest: Manifest) -> _Sentence:
    if not manifest.owners:
        return _Sentence("Nobody can change this manifest: it names no owners.")
    return _Sentence(
        f"{manifest.quorum} of {len(manifest.owners)} owners can change it:",
        "owner",
        [owner_digest(pem) for pem in manifest.owners],
    )


def _recovery(manifest: Manifest) -> _Sentence:
    if not manifest.recovery_keys:
        return _Sentence("When all KMEs are lost, so is the pool: no recovery keys are named.")
    return _Sentence(
        f"When all KMEs are lost, {manifest.recovery_threshold} of {len(manifest.recovery_keys)} shares restore the "
        "pool:",
        "recovery key",
        [load_hpke_public_key(key).key_id[:16] for key in manifest.recovery_keys],
    )
