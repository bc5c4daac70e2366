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
from pathlib import Path

from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from avalon_core.channel.launch import measured_settings
from avalon_core.channel.messages import Configure, Started
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.errors import WorkerType
from avalon_core.protocol.ids import Base64Str, HexStr, WorkerId, worker_id_of
from avalon_core.protocol.registry import EncryptionKeyGrant
from avalon_service.hosts.evidence import CollateralSource, NoCollateral, keep_fresh
from avalon_service.hosts.process import EnclaveCommand, EnclaveEnded, EnclaveProcess, start
from avalon_service.hosts.receipts import ReceiptDesk
from avalon_service.hosts.shift import HostState, Shift
from avalon_service.orders.errors import StoreUnavailable
from avalon_service.orders.ports import OrderStore, WorkerDirectory, WorkerEntry
from avalon_service.registry.keys import NotServing
from avalon_service.registry.requesters import RequesterKeys
from avalon_service.settings import Settings

log = logging.getLogger(__name__)

_SHUTDOWN_SECONDS = 10.0
_VOUCH_SECONDS = 5.0
_STABLE_SECONDS = 10.0
"""An enclave that ran this long is restarted at once; the back-off is for those that die at the start."""


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
        quoting_socket: Path | None = None,
        collateral: CollateralSource | None = None,
    ) -> None:
        """
        Args:
            settings: all of them.
            orders: where orders are claimed.
            workers: where the record is registered.
            directory: where this worker's sealed keys are kept.
            requesters: whose orders must be signed.
            receipts: brings the worker's word to receipts; None: there are none.
            on_change: is told each change of the state.
            quoting_socket: where the quoting process listens, on a SIMULATED machine.
            collateral: adds to records what the vendor publishes; None: records are as the enclave made them.
        """
        self._settings = settings
        self._orders = orders
        self._workers = workers
        self._directory = directory
        self._requesters = requesters or RequesterKeys()
        self._receipts = receipts
        self._on_change = on_change
        self._quoting_socket = quoting_socket
        self._collateral = collateral or NoCollateral()
        self._enclave: EnclaveProcess | None = None
        worker_name = settings.worker_name
        self.state = HostState(worker_name=worker_name, worker_id=worker_id_of(worker_name))
        self._serving = asyncio.Event()
        self._stopping = asyncio.Event()

    @property
    def measurements(self) -> frozenset[str]:
        """Of its enclave; empty until one has started."""
        return frozenset(filter(None, (self.state.measurement,)))

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
                wait=wait_exponential_jitter(multiplier=0.05, max=10.0, jitter=0.05),
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
        shift = Shift(self._settings, self._orders, self._requesters, self._receipts, self.state)
        configuration = self._configuration()
        enclave, started = await start(
            self._command(configuration), configuration, shift.heard, self._settings.start_timeout_seconds
        )
        fresh: asyncio.Task[None] | None = None
        try:
            self._keep_keys(started)
            self._take_note(enclave, started)
            await self._publish(started.details)
            self._tell(enclave, started)
            self._enclave = enclave
            self._change("serving")
            self._serving.set()
            fresh = asyncio.create_task(
                keep_fresh(enclave, self._settings.evidence_period, self._publish), name="evidence"
            )
            await shift.serve(enclave, self._stopping)
        finally:
            self._serving.clear()
            if fresh is not None:
                fresh.cancel()
                await asyncio.gather(fresh, return_exceptions=True)
            self._enclave = None
            enclave.kill()
            # Outliving a cancellation here would keep orders claimed by a host that is gone; leases cover that.
            await shift.put_back(crashed=not self._stopping.is_set())
            self.state.pid = None

    def _command(self, configuration: Configure) -> EnclaveCommand:
        settings = self._settings
        return EnclaveCommand(
            role="singleton",
            platform=settings.platform,
            platform_state=self._directory.parent / "simulated-platform",
            platform_config=Path(settings.platform_config) if settings.platform_config else None,
            quoting_socket=self._quoting_socket,
            simulated_kind=settings.simulated_kind,
            launcher=settings.enclave_launcher,
            channel=settings.enclave_channel,
            measured=measured_settings(configuration),
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
            children=self._settings.enclave_children,
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

    def _take_note(self, enclave: EnclaveProcess, started: Started) -> None:
        self.state.simulated = started.simulated
        self.state.platform = started.platform
        self.state.measurement = started.measurement
        self.state.pid = enclave.pid

    async def _publish(self, details: bytes) -> None:
        """Register the record, or what it says now."""
        application_types = (
            (self._settings.application_type_id,) if self._settings.application_type_id else ()
        )
        await self._workers.register(
            WorkerEntry(
                worker_id=self.state.worker_id,
                worker_type=int(WorkerType.TEE_SGX),
                organization_id=self._settings.organization_id,
                application_type_ids=application_types,
                details=await self._collateral.add_to(details),
            ),
            # A worker that the operator took off-line stays so over restarts of its enclave and of the service.
            keep_status=True,
        )

    def _tell(self, enclave: EnclaveProcess, started: Started) -> None:
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
