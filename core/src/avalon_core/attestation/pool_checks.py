"""Appraise a worker that is a pool: the evidence is of the enclave that holds its keys; its manifest says who else matters.

A key management enclave does what its pool's manifest says, so a policy that accepts its code has not yet accepted the code
that will see the data. The checks:

1. *pool manifest*: the record carries the manifests, and they are those that the evidence commits to.
2. *pool code*: the policy admits every measurement that the manifest admits, for either role.
3. *pool roots*: the policy accepts every root that the manifest accepts for the pool's own enclaves.
4. *pool platforms*: and every TCB status.
5. *pool owners*: nobody can change the manifest but owners whom the policy names. Owners may admit any code later.
"""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import msgspec

from avalon_core.attestation.checks import Check, could_not_check, decided, failed, passed
from avalon_core.attestation.claims import Claims
from avalon_core.attestation.policy import TrustPolicy
from avalon_core.attestation.rules import AnyMeasurementUNSAFE, admits, walk
from avalon_core.crypto.manifests import Manifest, SignedManifest, digest_of, follow, read_manifest
from avalon_core.errors import AvalonError
from avalon_core.protocol.workers import KeyBinding

_SOURCE = "the pool's manifest"


class _Measurements(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What ``extendedMeasurements`` of a pool's record holds."""

    pool_manifest: bytes
    pool_manifest_changes: tuple[SignedManifest, ...] = ()


def owner_digest(pem: str) -> str:
    """How a policy names an owner: hex of SHA-256 over the PEM, without white space around it."""
    return sha256(pem.strip().encode()).hexdigest()


def pool_checks(
    extended_measurements: Any, binding: KeyBinding, claims: Claims, policy: TrustPolicy
) -> Sequence[Check]:
    """The checks, where the record is a pool's; nothing where it is a singleton's."""
    if binding.pool is None and binding.role == "singleton":
        return ()
    manifest = _manifest_of(extended_measurements, binding)
    if isinstance(manifest, Check):
        return (manifest,)
    return (
        passed(
            "pool manifest",
            expected="the manifest that the evidence commits to",
            found=f"version {manifest.version}",
            source="worker record",
        ),
        _check_code(manifest, claims, policy),
        _check_roots(manifest, policy),
        _check_platforms(manifest, policy),
        _check_owners(manifest, policy),
    )


def _manifest_of(extended_measurements: Any, binding: KeyBinding) -> Manifest | Check:
    expected = f"the manifest with the digest {binding.manifest}"
    remedy = "Nothing says which code may see the data: do not use this worker, and tell the operator."
    try:
        told = msgspec.convert(extended_measurements, _Measurements)
        current = follow(told.pool_manifest, told.pool_manifest_changes)
        manifest = read_manifest(current)
    except (msgspec.ValidationError, AvalonError) as exc:
        return could_not_check("pool manifest", expected=expected, found=str(exc)[:300], remedy=remedy)
    if (digest_of(told.pool_manifest).hex(), digest_of(current).hex()) != (binding.pool, binding.manifest):
        return failed(
            "pool manifest",
            expected=expected,
            found=f"another one, {digest_of(current).hex()}",
            source="worker record",
            remedy=remedy,
        )
    return manifest


def _check_code(manifest: Manifest, claims: Claims, policy: TrustPolicy) -> Check:
    refused = [
        f"{measurement} ({role})"
        for role, allowed in (("kme", manifest.kme_measurements), ("wpe", manifest.wpe_measurements))
        for measurement in allowed
        if not admits(policy.code, _with_measurement(claims, measurement))
    ]
    count = len(manifest.kme_measurements) + len(manifest.wpe_measurements)
    return decided(
        "pool code",
        not refused and count > 0,
        expected="only measurements that the policy admits",
        found=f"{count} measurements, all admitted"
        if not refused
        else f"not admitted: {', '.join(refused[:4])}",
        source=_SOURCE,
        remedy="Compare with the measurements that you built or were told, of both kinds of enclave; add those that are right "
        "to the policy.",
    )


def _with_measurement(claims: Claims, measurement: str) -> Claims:
    """Claims of which nothing is known but the measurement: a rule that asks for more does not match."""
    return replace(
        claims,
        measurement=measurement,
        registers=MappingProxyType({}),
        signer=None,
        product_id=None,
        svn=None,
        attributes=MappingProxyType({}),
    )


def _check_roots(manifest: Manifest, policy: TrustPolicy) -> Check:
    anchors = policy.anchors()
    refused = [
        name
        for name in manifest.roots
        if (anchor := anchors.named(name)) is None or not policy.accepts_root(anchor)
    ]
    return decided(
        "pool roots",
        not refused and bool(manifest.roots),
        expected="only roots that the policy accepts",
        found=", ".join(manifest.roots) if not refused else f"not accepted: {', '.join(refused)}",
        source=_SOURCE,
        remedy="Enclaves of the pool may be vouched for by somebody whom the policy does not accept: do not use it.",
    )


def _check_platforms(manifest: Manifest, policy: TrustPolicy) -> Check:
    refused = sorted(set(manifest.tcb_statuses) - {str(status) for status in policy.tcb_statuses})
    return decided(
        "pool platforms",
        not refused,
        expected="only TCB statuses that the policy accepts",
        found=", ".join(manifest.tcb_statuses) if not refused else f"not accepted: {', '.join(refused)}",
        source=_SOURCE,
        remedy="Enclaves of the pool may run on platforms that the policy does not accept; accept the status, or ask the "
        "pool's owners.",
    )


def _check_owners(manifest: Manifest, policy: TrustPolicy) -> Check:
    if any(isinstance(rule, AnyMeasurementUNSAFE) for rule in walk(policy.code)):
        unknown = []  # whoever accepts any code has nothing to lose to an owner
    else:
        unknown = [
            digest for digest in map(owner_digest, manifest.owners) if digest not in policy.pool_owners
        ]
    found = (
        f"{len(manifest.owners)} owners, {manifest.quorum} of whom can change it"
        if manifest.owners
        else "nobody"
    )
    return decided(
        "pool owners",
        not unknown,
        expected="a manifest that only owners whom the policy names can change",
        found=found if not unknown else f"{found}; not named in pool_owners: {', '.join(unknown[:4])}",
        source=_SOURCE,
        remedy="These owners may admit any code to the pool later. If you trust them to, add them to pool_owners.",
    )
