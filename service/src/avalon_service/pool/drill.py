"""Proves that a recovery file and owners' keys restore a pool, without touching the pool: a fire drill.

A KME of its own is started, restored from the shares as in earnest, asked to show what it holds, and ended. The steps, each of
which must succeed:

1. The recovery file is of the pool that begins with the first manifest, and there is a key for enough of its shares.
2. A fresh KME starts without keys, under the manifest in force.
3. Its evidence that the key for the shares is its own passes the manifest's policy for KMEs. Before, no share is opened.
4. It takes the shares, and has the pool's keys.
5. The record that it announces passes the same policy and binds this pool and this manifest.
6. It signs with the verification key of that record, over words that nobody knew before.
7. The encryption key in the record is the current one of the epochs that it holds.
8. Where the record of the living pool is given: the verification key is that one's, and its encryption key is among the
   epochs. Else the recovery file is another pool's, or older than the last rotation.

The KME is the only process that sees the pool's keys; what it seals is dropped, and it ends with the drill.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from avalon_core.attestation.checks import AppraisalReport, Verdict
from avalon_core.attestation.policy import TrustPolicy
from avalon_core.attestation.pool_checks import owner_digest
from avalon_core.attestation.pools import policy_of
from avalon_core.attestation.recovery_offers import appraise_offer
from avalon_core.attestation.rules import AnyOf, Measurements
from avalon_core.attestation.workers import AppraisedWorker, appraise_worker
from avalon_core.channel.launch import measured_settings
from avalon_core.channel.messages import Configure
from avalon_core.channel.pool_messages import FromPooledEnclave, PoolConfigure, RecordChanged
from avalon_core.crypto.manifests import SignedManifest, digest_of, follow, read_manifest
from avalon_core.crypto.recovery import Recovery, Share, hand_back
from avalon_core.crypto.registry import key_digest
from avalon_core.crypto.sealing import HpkePrivateKey, load_hpke_public_key
from avalon_core.errors import AvalonError, SignatureMismatch
from avalon_core.protocol.errors import WorkerStatus, WorkerType
from avalon_core.protocol.ids import worker_id_of
from avalon_core.protocol.pools import KmeReport, PoolRecoverResult, PoolShareResult
from avalon_core.protocol.workers import WorkerRecord, decode_details
from avalon_service.hosts.process import EnclaveCommand, EnclaveEnded, EnclaveProcess, start
from avalon_service.hosts.quoting import QuotingManager, QuotingUnavailable
from avalon_service.settings import Settings

T = TypeVar("T")

_COMMAND_SECONDS = 30.0
_SHUTDOWN_SECONDS = 10.0
_TAG_BYTES = 32
_SIMULATED_PLATFORMS = frozenset({"simulated"})


class DrillFailed(Exception):
    """A step did not succeed; the message says which, and what to do."""

    def __init__(self, message: str, report: AppraisalReport | None = None) -> None:
        super().__init__(message)
        self.report = report
        """Of evidence that did not pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillPlan:
    """What a drill works with."""

    settings: Settings
    recovery: Recovery
    first_manifest: bytes
    """Canonical bytes."""

    changes: Sequence[SignedManifest]
    """Since then, in order."""

    keys: Sequence[HpkePrivateKey] = field(repr=False)
    """Owners'; as many as the threshold."""

    living: WorkerRecord | None = None
    """The record of the pool as it runs now; None: it is not compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """A step that succeeded."""

    words: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a drill that succeeded has proved."""

    pool: str
    """Hex of its id."""

    manifest_version: int
    epochs: Sequence[int]
    """Numbers of the epochs whose keys were restored, the current one first."""

    simulated: bool
    compared: bool
    """With the living pool."""

    steps: Sequence[Proved]
    seconds: float


async def run_drill(plan: DrillPlan, on_step: Callable[[Proved], None] = lambda _: None) -> Outcome:
    """Run a drill; see the module for the steps.

    Args:
        plan: what to work with.
        on_step: is told each step as it has succeeded.

    Raises:
        DrillFailed
    """
    drill = _Drill(plan, on_step)
    async with AsyncExitStack() as stack:
        try:
            return await drill.run(stack)
        except (AvalonError, EnclaveEnded, TimeoutError, QuotingUnavailable, OSError) as exc:
            said = exc.message if isinstance(exc, AvalonError) else str(exc) or "no answer came in time"
            raise DrillFailed(said) from exc


class _Drill:
    def __init__(self, plan: DrillPlan, on_step: Callable[[Proved], None]) -> None:
        self._plan = plan
        self._on_step = on_step
        self._steps: list[Proved] = []
        self._began = self._last = time.monotonic()
        self._in_force = follow(plan.first_manifest, plan.changes)
        self._manifest = read_manifest(self._in_force)
        self._pool = digest_of(plan.first_manifest).hex()
        self._record: asyncio.Future[RecordChanged] = asyncio.get_running_loop().create_future()

    async def run(self, stack: AsyncExitStack) -> Outcome:
        plan = self._plan
        own = self._own_shares()
        try:
            policy = policy_of(self._manifest, "kme")
        except ValueError as exc:
            raise DrillFailed(f"the manifest makes no policy: {exc}") from exc
        kme, simulated = await self._start(stack)
        mark = " (SIMULATED: protects nothing)" if simulated else ""
        self._done(f"a fresh KME started without keys{mark}")
        offer = await _ask(kme, "recover", msgspec.json.encode(plan.recovery), PoolRecoverResult)
        self._judge_offer(offer, policy)
        await self._hand_back(kme, own, offer.key)
        async with asyncio.timeout(_COMMAND_SECONDS):
            record = await self._record
        worker, key_id = self._judge_record(record, policy)
        await self._check_signature(kme, worker)
        status = await _ask(kme, "status", b"", KmeReport)
        self._check_epochs(status, key_id)
        if plan.living is not None:
            self._compare(plan.living, worker, status)
        return Outcome(
            pool=self._pool,
            manifest_version=self._manifest.version,
            epochs=[epoch.number for epoch in status.epochs],
            simulated=simulated,
            compared=plan.living is not None,
            steps=self._steps,
            seconds=time.monotonic() - self._began,
        )

    def _done(self, words: str) -> None:
        now = time.monotonic()
        step = Proved(words=words, seconds=now - self._last)
        self._last = now
        self._steps.append(step)
        self._on_step(step)

    def _own_shares(self) -> Sequence[tuple[Share, HpkePrivateKey]]:
        recovery = self._plan.recovery
        if recovery.pool != self._pool:
            raise DrillFailed(
                f"the recovery file is of the pool {recovery.pool[:16]}, the manifest of {self._pool[:16]}: they do not "
                "belong together"
            )
        shares = {share.key: share for share in recovery.shares}
        found = {
            key.public_key.key_id: (shares[key.public_key.key_id], key)
            for key in self._plan.keys
            if key.public_key.key_id in shares
        }
        needed = recovery.shares[0].threshold
        if len(found) < needed:
            raise DrillFailed(
                f"{len(found)} of the {len(self._plan.keys)} keys open a share of this file, and {needed} are needed: "
                "bring more of the owners' keys, or the file's own owners"
            )
        self._done(f"{len(found)} keys for {needed} of {len(recovery.shares)} shares")
        return list(found.values())[:needed]

    async def _start(self, stack: AsyncExitStack) -> tuple[EnclaveProcess, bool]:
        settings = self._plan.settings
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="avalon-drill-")))
        socket_path = None
        if settings.platform in _SIMULATED_PLATFORMS:
            quoting = QuotingManager()
            stack.push_async_callback(quoting.stop)
            await quoting.start()
            socket_path = quoting.socket_path
        configure = Configure(
            worker_name=self._manifest.worker_name,
            keys="fresh",
            accept_legacy=settings.accepts_legacy,
            pool=PoolConfigure(
                first_manifest=self._plan.first_manifest,
                changes=tuple(msgspec.json.encode(change) for change in self._plan.changes),
                start="recover",
            ),
        )
        command = EnclaveCommand(
            role="kme",
            platform=settings.platform,
            platform_state=folder / "platform",
            platform_config=Path(settings.platform_config) if settings.platform_config else None,
            quoting_socket=socket_path,
            simulated_kind=settings.simulated_kind,
            launcher=settings.enclave_launcher,
            channel=settings.enclave_channel,
            measured=measured_settings(configure),
            name="drill",
        )
        kme, started = await start(
            command, configure, lambda _: None, settings.start_timeout_seconds, on_pool=self._heard
        )
        stack.push_async_callback(_end, kme)
        return kme, started.simulated

    def _heard(self, kme: EnclaveProcess, message: FromPooledEnclave) -> None:
        # What it seals is dropped: nothing of a drill outlives it.
        if isinstance(message, RecordChanged) and not self._record.done():
            self._record.set_result(message)

    def _judge_offer(self, offer: PoolRecoverResult, policy: TrustPolicy) -> None:
        if offer.pool != self._pool:
            raise DrillFailed("the KME answered for another pool")
        report = appraise_offer(offer, policy, as_of=datetime.now(UTC))
        if report.verdict is not Verdict.PASSED:
            raise DrillFailed(
                "the KME's evidence does not pass the pool's own manifest: no share was opened. In earnest, this "
                "installation could not recover the pool",
                report,
            )
        self._done(
            f"its evidence passes the manifest, version {self._manifest.version}: {len(report.checks)} checks"
        )

    async def _hand_back(
        self, kme: EnclaveProcess, own: Sequence[tuple[Share, HpkePrivateKey]], key: str
    ) -> None:
        progress = None
        for share, owner in own:
            returned = hand_back(share, owner, key)
            progress = await _ask(kme, "share", msgspec.json.encode(returned), PoolShareResult)
        if progress is None or not progress.recovered:
            raise DrillFailed("the KME took the shares, and has no keys: the recovery file is damaged")
        self._done(f"{len(own)} shares restored the pool's state")

    def _judge_record(self, record: RecordChanged, policy: TrustPolicy) -> tuple[AppraisedWorker, str]:
        """``policy``: for KMEs."""
        details = decode_details(record.details)
        worker_id = worker_id_of(self._manifest.worker_name)
        manifest = self._manifest
        # A requester's view: besides the KME, the WPEs and owners that the pool's manifest names must be acceptable, too.
        whole = replace(
            policy,
            code=AnyOf(Measurements(frozenset((*manifest.kme_measurements, *manifest.wpe_measurements)))),
            pool_owners=frozenset(owner_digest(pem) for pem in manifest.owners),
        )
        report, worker = appraise_worker(
            WorkerRecord(
                worker_type=WorkerType.TEE_SGX,
                organization_id="",
                application_type_id="",
                details=details,
                status=WorkerStatus.ACTIVE,
            ),
            whole,
            worker_id=worker_id,
            as_of=datetime.now(UTC),
        )
        code = report.claims.measurement if report.claims is not None else ""
        if worker is None or code not in manifest.kme_measurements:
            raise DrillFailed("the record of the restored pool does not pass its own manifest", report)
        data = details.worker_type_data
        bound = data.key_binding
        if bound is None or (bound.pool, bound.manifest) != (self._pool, digest_of(self._in_force).hex()):
            raise DrillFailed("the record of the restored pool binds another pool, or another manifest")
        self._done(f"it announces the pool's record: {len(report.checks)} checks")
        return worker, load_hpke_public_key(data.hpke_encryption_key or "").key_id

    async def _check_signature(self, kme: EnclaveProcess, worker: AppraisedWorker) -> None:
        tag = os.urandom(_TAG_BYTES).hex()
        signed = await kme.sign_key(tag, _COMMAND_SECONDS)
        digest = key_digest(
            worker_id=worker_id_of(self._manifest.worker_name),
            encryption_key=signed.encryption_key,
            encryption_key_nonce=signed.encryption_key_nonce,
            tag=tag,
        )
        try:
            worker.verification_key.verify(digest, signed.signature)
        except SignatureMismatch as exc:
            raise DrillFailed("the restored pool does not sign with the key of its record") from exc
        self._done("it signs with the pool's key")

    def _check_epochs(self, status: KmeReport, key_id: str) -> None:
        if not status.epochs or status.epochs[0].key != key_id:
            raise DrillFailed("the encryption key of the restored pool's record is not its current one")
        numbers = ", ".join(str(epoch.number) for epoch in status.epochs)
        self._done(
            f"it holds the encryption keys of epoch {numbers}; the record's is epoch {status.epochs[0].number}'s"
        )

    def _compare(self, living: WorkerRecord, worker: AppraisedWorker, status: KmeReport) -> None:
        data = living.details.worker_type_data
        if data.verification_key != worker.verification_key.pem:
            raise DrillFailed(
                "the living pool has another verification key: the recovery file is of another pool"
            )
        key = load_hpke_public_key(data.hpke_encryption_key or "").key_id
        known = {epoch.key: epoch.number for epoch in status.epochs}
        if key not in known:
            raise DrillFailed(
                f"the living pool's encryption key {key[:16]} is not among those restored: orders sealed to it would be lost. "
                "The recovery file is older than the last rotation: make a new one with 'avalon pool shares'"
            )
        self._done(f"its keys are the living pool's, whose current ones are epoch {known[key]}'s")


async def _ask(kme: EnclaveProcess, verb: str, argument: bytes, kind: type[T]) -> T:
    answer = await kme.command(verb, argument, _COMMAND_SECONDS)
    if not answer.ok:
        said: Mapping[str, Any] = json.loads(answer.text)
        raise DrillFailed(f"the KME refused {verb!r}: {said.get('error', 'it did not say why')}")
    return msgspec.json.decode(answer.text, type=kind)


async def _end(kme: EnclaveProcess) -> None:
    await kme.shut_down(_SHUTDOWN_SECONDS)
