"""The host of one worker: keeps an enclave running and carries orders to it.

    start enclave -> register its record -> [claim orders -> hand over -> store the answers] until it ends -> again

Orders are claimed under leases with fencing tokens. The leases are extended only while the enclave gives signs of
life, so a hung enclave loses its orders: it is killed, and its orders go back to the queue. Whatever ends, an
accepted order is either answered once or still in the store.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from avalon_core.channel.messages import Cancel, Configure, Done, Process, Started
from avalon_core.errors import ChannelError
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.errors import WorkerType, WorkOrderCode
from avalon_core.protocol.ids import Base64Str, HexStr, WorkerId, worker_id_of
from avalon_core.protocol.registry import EncryptionKeyGrant
from avalon_service.hosts.process import Answer, EnclaveCommand, EnclaveEnded, EnclaveProcess, start
from avalon_service.hosts.receipts import ReceiptDesk
from avalon_service.orders.errors import StaleClaim, StoreUnavailable
from avalon_service.orders.ports import Claim, OrderFailure, OrderStore, WorkerDirectory, WorkerEntry
from avalon_service.registry.keys import NotServing
from avalon_service.registry.requesters import RequesterKeys
from avalon_service.settings import Settings

log = logging.getLogger(__name__)

_SHUTDOWN_SECONDS = 10.0
_VOUCH_SECONDS = 5.0
_STABLE_SECONDS = 10.0
"""An enclave that ran this long is restarted at once; the back-off is for those that die at the start."""


@dataclass(slots=True, kw_only=True)
class HostState:
    """What is known of the host's enclave, for status pages and metrics."""

    worker_name: str
    worker_id: str
    state: str = "starting"
    """``starting``, ``serving``, ``restarting``, ``draining`` or ``stopped``."""

    simulated: bool | None = None
    platform: str = ""
    measurement: str = ""
    pid: int | None = None
    restarts: int = 0
    legacy_orders: int = 0
    in_flight: int = 0
    last_end: str = ""
    """How the last enclave ended, in words."""


class _EndedSoon(Exception):
    """The enclave ended soon after its start: restart it, but not at once."""


class WorkerHost:
    """Runs one worker. See the module."""

    def __init__(
        self,
        *,
        settings: Settings,
        orders: OrderStore,
        workers: WorkerDirectory,
        directory: Path,
        requesters: RequesterKeys | None = None,
        receipts: ReceiptDesk | None = None,
        on_change: Callable[[HostState], None] = lambda _: None,
    ) -> None:
        """``directory``: where this worker's sealed keys are kept; ``requesters``: whose orders must be signed;
        ``receipts``: brings the worker's word to receipts; None: there are none."""
        self._settings = settings
        self._orders = orders
        self._workers = workers
        self._directory = directory
        self._requesters = requesters or RequesterKeys()
        self._receipts = receipts
        self._on_change = on_change
        self._enclave: EnclaveProcess | None = None
        worker_name = settings.worker_name
        self.state = HostState(worker_name=worker_name, worker_id=worker_id_of(worker_name))
        self._serving = asyncio.Event()
        self._stopping = asyncio.Event()

    async def serving(self) -> None:
        """Return when an enclave serves."""
        await self._serving.wait()

    async def vouch(self, tag: str) -> EncryptionKeyGrant:
        """The worker's present encryption key, signed in its enclave under a tag.

        Raises:
            NotServing: there is no enclave at the moment, or it does not answer.
        """
        if self._enclave is None:
            raise NotServing
        try:
            signed = await self._enclave.sign_key(tag, _VOUCH_SECONDS)
        except (EnclaveEnded, TimeoutError) as exc:
            raise NotServing from exc
        return EncryptionKeyGrant(
            worker_id=WorkerId(self.state.worker_id),
            encryption_key=signed.encryption_key,
            encryption_key_nonce=HexStr(signed.encryption_key_nonce),
            tag=tag,
            signature=Base64Str(encode_base64(signed.signature)),
        )

    def stop(self) -> None:
        """Ask for an orderly end: no more claims, what is in flight is finished and stored."""
        self._stopping.set()

    async def run(self) -> None:
        """Keep an enclave serving until :meth:`stop`.

        Raises:
            EnclaveEnded: the first enclave did not even start; the configuration must be wrong.
        """
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        while not self._stopping.is_set():
            # An enclave that was stable ends this inner loop, so the back-off starts anew.
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(_EndedSoon),
                wait=wait_exponential_jitter(initial=0.05, max=10.0, jitter=0.05),
                sleep=self._pause,
            ):
                with attempt:
                    if not self._stopping.is_set():
                        await self._run_and_report()
        self._change("stopped")

    async def _run_and_report(self) -> None:
        began = time.monotonic()
        try:
            await self._run_once()
            return
        except EnclaveEnded as exc:
            self.state.last_end = str(exc)
            if self.state.measurement == "":
                raise
        except StoreUnavailable as exc:
            self.state.last_end = f"the store is not available: {exc}"
        self.state.restarts += 1
        self._change("restarting")
        log.error("enclave is restarted worker=%s reason=%s", self.state.worker_name, self.state.last_end)
        if time.monotonic() - began < _STABLE_SECONDS:
            raise _EndedSoon

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _run_once(self) -> None:
        shift = _Shift(self._settings, self._orders, self._requesters, self._receipts, self.state)
        enclave, started = await start(
            self._command(), self._configuration(), shift.answered, self._settings.start_timeout_seconds
        )
        try:
            self._keep_keys(started)
            await self._register(enclave, started)
            self._enclave = enclave
            self._change("serving")
            self._serving.set()
            await shift.serve(enclave, self._stopping)
        finally:
            self._serving.clear()
            self._enclave = None
            enclave.kill()
            # Outliving a cancellation here would keep orders claimed by a host that is gone; leases cover that.
            await shift.put_back(crashed=not self._stopping.is_set())
            self.state.pid = None

    def _command(self) -> EnclaveCommand:
        return EnclaveCommand(
            role="singleton",
            platform=self._settings.platform,
            platform_state=self._directory.parent / "simulated-platform",
            name=self.state.worker_name,
        )

    def _configuration(self) -> Configure:
        sealed = None
        if self._settings.keys == "sealed":
            try:
                sealed = self._sealed_path.read_bytes()
            except FileNotFoundError:
                log.info("no sealed keys yet, the enclave makes new ones worker=%s", self.state.worker_name)
        return Configure(
            worker_name=self.state.worker_name,
            keys=self._settings.keys,
            sealed_keys=sealed,
            accept_legacy=self._settings.accepts_legacy,
            organization_id=self._settings.organization_id,
            application_type_id=self._settings.application_type_id,
            threads=self._settings.enclave_threads,
        )

    @property
    def _sealed_path(self) -> Path:
        return self._directory / "sealed-keys"

    def _keep_keys(self, started: Started) -> None:
        """Keep what the enclave sealed, durably, before anybody can seal an order to these keys."""
        if self._settings.keys != "sealed" or started.sealed_keys is None:
            return
        part = self._sealed_path.with_suffix(".part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(started.sealed_keys)
            file.flush()
            os.fsync(file.fileno())
        part.rename(self._sealed_path)
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    async def _register(self, enclave: EnclaveProcess, started: Started) -> None:
        self.state.simulated = started.simulated
        self.state.platform = started.platform
        self.state.measurement = started.measurement
        self.state.pid = enclave.pid
        application_types = (
            (self._settings.application_type_id,) if self._settings.application_type_id else ()
        )
        await self._workers.register(
            WorkerEntry(
                worker_id=self.state.worker_id,
                worker_type=int(WorkerType.TEE_SGX),
                organization_id=self._settings.organization_id,
                application_type_ids=application_types,
                details=started.details,
            ),
            # A worker that the operator took off-line stays so over restarts of its enclave and of the service.
            keep_status=True,
        )
        if started.simulated:
            log.warning(
                "SIMULATED enclave: no hardware protects what it processes worker=%s", self.state.worker_name
            )
        log.info(
            "enclave serves worker=%s pid=%d platform=%s measurement=%s keys=%s",
            self.state.worker_name,
            enclave.pid,
            started.platform,
            started.measurement,
            "restored" if started.keys_restored else "new",
        )

    def _change(self, state: str) -> None:
        self.state.state = state
        self._on_change(self.state)


class _Shift:
    """The life of one enclave process from the first claim to the last answer."""

    def __init__(
        self,
        settings: Settings,
        orders: OrderStore,
        requesters: RequesterKeys,
        receipts: ReceiptDesk | None,
        state: HostState,
    ) -> None:
        self._settings = settings
        self._orders = orders
        self._requesters = requesters
        self._receipts = receipts
        self._state = state
        self._held: dict[int, Claim] = {}
        """Orders in the enclave, by handle (the fencing token: it is unique)."""

        self._room = asyncio.Event()
        self._room.set()
        self._storing: set[asyncio.Task[None]] = set()

    def answered(self, answer: Answer) -> None:
        """The enclave answered: store it, off the path of the channel."""
        claim = self._held.pop(answer.handle, None)
        self._state.in_flight = len(self._held)
        self._room.set()
        if claim is None:
            return
        if isinstance(answer, Done) and answer.legacy:
            self._state.legacy_orders += 1
        task = asyncio.get_running_loop().create_task(self._store(claim, answer))
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)

    async def _store(self, claim: Claim, answer: Answer) -> None:
        try:
            if isinstance(answer, Done):
                await self._orders.complete(claim.work_order_id, claim.token, answer.result)
            else:
                if self._receipts is not None and answer.receipt_signature is not None:
                    await self._receipts.refused(self._state.worker_id, claim.work_order_id, answer)
                failure = OrderFailure(code=answer.code, message=answer.message)
                await self._orders.fail(claim.work_order_id, claim.token, failure)
            if self._receipts is not None and self._receipts.awaits(claim.work_order_id):
                await self._receipts.finished(self._state.worker_id, claim.work_order_id, answer)
        except StaleClaim:
            log.info("late answer refused order=%s", claim.work_order_id)
        except StoreUnavailable as exc:
            # Not lost: the lease ends, the order goes back to the queue and runs again.
            log.error(
                "answer not stored, the order will run again order=%s reason=%s", claim.work_order_id, exc
            )

    async def serve(self, enclave: EnclaveProcess, stopping: asyncio.Event) -> None:
        """Carry orders until the enclave ends or the service stops.

        Raises:
            EnclaveEnded: the enclave ended, or was ended because it gave no sign of life.
        """
        unwatch = self._orders.watch_revoked(
            self._state.worker_id, lambda _, token: self._revoked(enclave, token)
        )
        ended = asyncio.create_task(enclave.ended())
        claims = asyncio.create_task(self._claim(enclave))
        leases = asyncio.create_task(self._keep_leases(enclave))
        stop = asyncio.create_task(stopping.wait())
        tasks = {ended, claims, leases, stop}
        receipts = asyncio.create_task(self._keep_receipts(enclave))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if stop in done:
                claims.cancel()
                await enclave.shut_down(_SHUTDOWN_SECONDS)
                await self._drain()
                return
            if leases in done or claims in done:
                enclave.kill()
                for failed in (leases, claims):
                    if failed in done:
                        failed.result()
            raise EnclaveEnded(await ended)
        finally:
            unwatch()
            for task in (*tasks, receipts):
                task.cancel()
            await asyncio.gather(*tasks, receipts, return_exceptions=True)

    async def _keep_receipts(self, enclave: EnclaveProcess) -> None:
        if self._receipts is not None:
            await self._receipts.serve(self._state.worker_id, enclave.sign_receipt)

    def _revoked(self, enclave: EnclaveProcess, token: int) -> None:
        if self._held.pop(token, None) is not None:
            self._state.in_flight = len(self._held)
            self._room.set()
            enclave.send(Cancel(token))

    async def _claim(self, enclave: EnclaveProcess) -> None:
        worker_id, lease = self._state.worker_id, self._settings.lease_seconds
        while True:
            room = self._settings.in_flight - len(self._held)
            if room <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            await enclave.writable()
            claims = await self._orders.claim(worker_id, limit=room, lease=lease)
            for claim in claims:
                self._held[claim.token] = claim
                try:
                    registered_key = self._requesters.key_of(claim.requester_id)
                    receipt = self._receipts is not None and self._receipts.awaits(claim.work_order_id)
                    enclave.send(Process(claim.token, claim.request, registered_key, receipt))
                except ChannelError as exc:
                    del self._held[claim.token]
                    failure = OrderFailure(code=int(WorkOrderCode.FAILED), message=exc.message)
                    await self._orders.fail(claim.work_order_id, claim.token, failure)
                # The request is with the enclave now; its bytes are not needed here any more.
                if claim.token in self._held:
                    self._held[claim.token] = msgspec.structs.replace(claim, request=b"")
            self._state.in_flight = len(self._held)
            if not claims:
                await self._orders.claimable(worker_id, None)

    async def _keep_leases(self, enclave: EnclaveProcess) -> None:
        """Extend the leases of what the enclave holds, each time it gives a sign of life.

        Raises:
            EnclaveEnded: it gave none for a whole lease.
        """
        lease = self._settings.lease_seconds
        while True:
            await asyncio.sleep(lease / 3)
            try:
                await enclave.ping(lease / 3)
            except TimeoutError:
                raise EnclaveEnded(
                    f"no sign of life for {lease / 3:g} s: the process hangs or is stopped"
                ) from None
            if self._held:
                held = [(claim.work_order_id, claim.token) for claim in self._held.values()]
                await self._orders.extend(held, lease)

    async def _drain(self) -> None:
        if self._storing:
            await asyncio.gather(*self._storing, return_exceptions=True)

    async def put_back(self, *, crashed: bool) -> None:
        """Give back what the enclave still held when it ended; where it crashed, one of these may be the cause."""
        await self._drain()
        held, self._held = list(self._held.values()), {}
        self._state.in_flight = 0
        for claim in held:
            try:
                await self._orders.release(claim.work_order_id, claim.token, crashed=crashed)
            except StaleClaim:
                continue
            except StoreUnavailable as exc:
                log.error(
                    "order not put back, its lease will end order=%s reason=%s", claim.work_order_id, exc
                )
                return
        if held:
            log.warning("orders put back count=%d", len(held))
