"""The host of a pool: one worker to the outside, KMEs and WPEs inside.

    KMEs start -> one makes or restores the keys, the others join it -> the record is published
    WPEs start -> each joins every KME -> as many as there are places claim orders, the rest are warm spares

An enclave that dies is started again; a link that ends is made again; nothing waits for anything that is not needed: with one
KME that serves and one WPE that it has welcomed, orders are processed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext, suppress
from typing import Any

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from avalon_core.channel.joining import Enter
from avalon_core.channel.messages import Configure, Failed, ReceiptSigned, Started
from avalon_core.channel.pool_messages import (
    CloseLink,
    FromPooledEnclave,
    LinkFrame,
    PoolConfigure,
    PoolSealed,
    RecordChanged,
    Welcomed,
)
from avalon_core.crypto.manifests import digest_of, follow, read_manifest, read_signed_manifest
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.errors import WorkerType, WorkOrderCode
from avalon_core.protocol.ids import Base64Str, HexStr, WorkerId, worker_id_of
from avalon_core.protocol.registry import EncryptionKeyGrant
from avalon_core.protocol.workers import WorkloadInfo, decode_details
from avalon_service.hosts.evidence import CollateralSource, NoCollateral, keep_fresh
from avalon_service.hosts.process import EnclaveCommand, EnclaveEnded, EnclaveProcess, Word, adopt
from avalon_service.hosts.receipts import ReceiptDesk
from avalon_service.hosts.shift import HostState, Line, Shift
from avalon_service.orders.errors import StoreUnavailable
from avalon_service.orders.ports import OrderStore, WorkerDirectory, WorkerEntry
from avalon_service.pool.files import PoolFiles
from avalon_service.pool.keeper import Keeper, until_first
from avalon_service.pool.remote import JoinRefused, RemoteHandle
from avalon_service.pool.switch import ENDED, Switch
from avalon_service.registry.keys import NotServing
from avalon_service.registry.requesters import RequesterKeys
from avalon_service.settings import Settings

log = logging.getLogger(__name__)

_VOUCH_SECONDS = 5.0
_COMMAND_SECONDS = 30.0
_STATUS_SECONDS = 2.0
"""An enclave that does not answer must not hold up the page that shows it."""

_KME_HEARTBEAT_SECONDS = 1.0
"""WPEs wait for the answers of a KME that is stopped until it is found out."""

_STABLE_SECONDS = 10.0
"""A link that lasted so long is made again at once."""

_ALONE_SECONDS = 20.0
"""A KME that was restored waits so long for a peer that can say whether its seal is the newest; then it goes on alone."""

_LOOK_SECONDS = 1.0

MAX_REMOTES = 256
"""Enclaves of other machines in one pool."""


class PoolCommandFailed(Exception):
    """A KME refused a command; the message is its own."""


class PoolUnusable(Exception):
    """The pool cannot be started as it is; the message says what to do."""


class _LinkEnded(Exception):
    """The link is over: make it again, after a while."""


class KmeKeeper(Keeper):
    """One key management enclave."""

    role = "kme"

    def __init__(self, host: PoolHost, number: int) -> None:
        super().__init__(f"kme-{number}", start_timeout=host.settings.start_timeout_seconds)
        self.number = number
        self.up = asyncio.Event()
        self.serving = asyncio.Event()
        self.start_mode = ""
        self.rollbacks = 0
        self._rollbacks_of_this_run = 0
        self._unkept: bytes | None = None
        self._host = host

    @property
    def serves(self) -> bool:
        """It has the pool's keys, and has published a record of them."""
        return self.serving.is_set()

    def command(self) -> EnclaveCommand:
        return self._host.command(self.role, self.name)

    def configuration(self) -> Configure:
        sealed = self.sealed()
        self.start_mode = self._host.start_of(self, sealed)
        pool = PoolConfigure(
            first_manifest=self._host.first_manifest,
            changes=tuple(self._host.files.changes()),
            start=self.start_mode,
            sealed=sealed,
            alone=self._host.is_alone(self),
        )
        return self._host.configure(pool)

    def said(self, enclave: EnclaveProcess, message: FromPooledEnclave) -> None:
        match message:
            case PoolSealed(sealed=sealed, rollbacks=rollbacks):
                self.rollbacks += rollbacks - self._rollbacks_of_this_run
                self._rollbacks_of_this_run = rollbacks
                self._keep(sealed)
            case RecordChanged():
                self.serving.set()
                self._host.record_changed(message)
            case _:
                self._host.carry(enclave, message)

    async def attend(self, enclave: EnclaveProcess, started: Started, stopping: asyncio.Event) -> None:
        self.state = "joining"
        self.up.set()
        try:
            await until_first(
                self._host.heartbeat(enclave, every=_KME_HEARTBEAT_SECONDS),
                _ended(enclave),
                stopping.wait(),
                self._host.keep_links(self),
                self._keep_evidence(enclave),
            )
        finally:
            self.up.clear()
            self.serving.clear()
            # At once: what WPEs have asked it they ask another.
            self._host.switch.gone(enclave)

    async def _keep_evidence(self, enclave: EnclaveProcess) -> None:
        async def published(_details: bytes) -> None:
            """The KME has told it as a changed record, in order with changes of its keys."""

        await self.serving.wait()
        await keep_fresh(enclave, self._host.settings.evidence_period, published)

    async def tidy(self) -> None:
        self._rollbacks_of_this_run = 0
        self._host.look_at_state()

    def sealed(self) -> bytes | None:
        """What it sealed last; None: nothing yet."""
        return self._unkept if self._unkept is not None else self._host.files.sealed(self.name)

    def _keep(self, sealed: bytes) -> None:
        # Here and now: what a KME tells its peers of a seal must be true after a crash.
        try:
            self._host.files.keep_sealed(self.name, sealed)
            self._host.files.forget_new()
        except OSError as exc:
            # It goes on: the keys are in its memory, and an older seal is made up for by its peers.
            self._unkept = sealed
            log.error("the sealed state of a KME is not kept enclave=%s reason=%s", self.name, exc.strerror)
        else:
            self._unkept = None


class WpeKeeper(Keeper):
    """One place for a work order processing enclave."""

    role = "wpe"

    def __init__(self, host: PoolHost, number: int) -> None:
        super().__init__(f"wpe-{number}", start_timeout=host.settings.start_timeout_seconds)
        self.number = number
        self.orders = HostState(worker_name=self.name, worker_id=host.state.worker_id)
        self._host = host
        self._shift: Shift | None = None
        self._welcomed = asyncio.Event()
        self._orders_left: int | None = None

    def command(self) -> EnclaveCommand:
        return self._host.command(self.role, self.name)

    def configuration(self) -> Configure:
        self._shift = self._host.new_shift(self.orders)
        self._welcomed.clear()
        self._orders_left = None
        pool = PoolConfigure(
            first_manifest=self._host.first_manifest, changes=tuple(self._host.files.changes())
        )
        return self._host.configure(pool)

    def heard(self, word: Word) -> None:
        if self._shift is not None:
            self._shift.heard(word)

    def said(self, enclave: EnclaveProcess, message: FromPooledEnclave) -> None:
        if isinstance(message, Welcomed):
            self._orders_left = message.orders_left if message.orders_left >= 0 else None
            self._welcomed.set()
            return
        self._host.carry(enclave, message)

    async def attend(self, enclave: EnclaveProcess, started: Started, stopping: asyncio.Event) -> None:
        self._host.offers(started.details)
        self.state = "joining"
        # Not until it is to stop: what it has in hand it finishes with its links.
        await until_first(
            self._host.heartbeat(enclave),
            self._work(enclave, stopping),
            _ended(enclave),
            self._host.keep_links(self),
        )

    async def _work(self, enclave: EnclaveProcess, stopping: asyncio.Event) -> None:
        assert self._shift is not None
        await until_first(self._welcomed.wait(), stopping.wait())
        self.state = "spare"
        async with AsyncExitStack() as stack:
            await until_first(stack.enter_async_context(self.place()), stopping.wait())
            if stopping.is_set():
                return
            self.state = "serving"
            self._host.look_at_state()
            await self._shift.serve(enclave, stopping, limit=self._orders_left)

    @property
    def availability(self) -> str:
        """``available``, ``busy`` or ``unavailable``."""
        if self.state not in ("spare", "serving"):
            return "unavailable"
        return "busy" if self.orders.in_flight else "available"

    def place(self) -> AbstractAsyncContextManager[object]:
        """Held while it takes orders: the others of this machine are warm spares."""
        return self._host.places

    async def tidy(self) -> None:
        shift, self._shift = self._shift, None
        if shift is not None:
            await shift.put_back(crashed=not self._stopping.is_set())
        self._host.look_at_state()


class RemoteKme(KmeKeeper):
    """A KME on another machine, for as long as its connection lasts."""

    def __init__(self, host: PoolHost, number: int, name: str, connection: socket.socket) -> None:
        super().__init__(host, number)
        self.name = name
        self._connection = connection

    async def launch(self) -> tuple[EnclaveProcess, Started]:
        return await adopt(
            RemoteHandle(),
            self._connection,
            self.configuration(),
            self.heard,
            self._start_timeout,
            on_pool=self.said,
        )


class RemoteWpe(WpeKeeper):
    """A WPE on another machine, for as long as its connection lasts."""

    def __init__(self, host: PoolHost, number: int, name: str, connection: socket.socket) -> None:
        super().__init__(host, number)
        self.name = name
        self._connection = connection

    async def launch(self) -> tuple[EnclaveProcess, Started]:
        return await adopt(
            RemoteHandle(),
            self._connection,
            self.configuration(),
            self.heard,
            self._start_timeout,
            on_pool=self.said,
        )

    def place(self) -> AbstractAsyncContextManager[object]:
        # Whoever brings a WPE wants it to work.
        return nullcontext()


class PoolHost:
    """Runs one pool. To the rest of the service it is what :class:`avalon_service.hosts.host.WorkerHost` is."""

    def __init__(
        self,
        *,
        settings: Settings,
        orders: OrderStore,
        workers: WorkerDirectory,
        files: PoolFiles,
        requesters: RequesterKeys | None = None,
        receipts: ReceiptDesk | None = None,
        command: Callable[[str, str], EnclaveCommand],
        measured: Mapping[str, str],
        collateral: CollateralSource | None = None,
    ) -> None:
        """
        Args:
            settings: how many KMEs, WPEs and spares, among others.
            orders: where orders are claimed.
            workers: where the record is published.
            files: of this pool; they hold its first manifest.
            requesters: whose orders must be signed.
            receipts: brings the pool's word to receipts; None: there are none.
            command: (role, name) to how such an enclave is launched.
            measured: what enclaves of other machines are to be launched with, too.
            collateral: adds to the record what vendors publish; None: it is as the KMEs made it.
        """
        self.measured = measured
        self._collateral = collateral or NoCollateral()
        self.settings = settings
        self.files = files
        self._orders = orders
        self._workers = workers
        self._requesters = requesters or RequesterKeys()
        self._receipts = receipts
        self.command = command
        name = settings.worker_name
        self._state = HostState(worker_name=name, worker_id=worker_id_of(name))
        first = files.first_manifest
        if first is None:
            raise PoolUnusable("there is no pool yet: it begins with a manifest")
        self.first_manifest = first
        self.switch = Switch()
        self.kmes: list[KmeKeeper] = []
        self.wpes: list[WpeKeeper] = []
        self._left_restarts = self._left_legacy_orders = 0
        """Of enclaves of other machines that are gone: counters never fall."""

        self.kmes += [KmeKeeper(self, number + 1) for number in range(settings.pool_kmes)]
        self.wpes += [
            WpeKeeper(self, number + 1) for number in range(settings.pool_wpes + settings.pool_spares)
        ]
        self._numbers = 1000
        """Of enclaves of other machines; those of this one have lower numbers."""

        self._kmes_changed = asyncio.Event()
        self._remotes: set[asyncio.Task[None]] = set()
        self.links_ended: dict[str, int] = {}
        self.places = asyncio.Semaphore(settings.pool_wpes)
        self._line = Line()
        self._published = (0, 0)
        self._workloads: tuple[WorkloadInfo, ...] = ()
        self._details: bytes | None = None
        self._serving = asyncio.Event()
        self._stopping = asyncio.Event()
        self._publishing: asyncio.Task[None] | None = None
        self._alone: KmeKeeper | None = None
        """Told to go on although nobody could be asked whether its seal is the newest."""

        self._recover = settings.pool_recover
        self._draining = False

    # -- to the rest of the service

    @property
    def state(self) -> HostState:
        """Of the pool as a whole."""
        self._state.in_flight = sum(wpe.orders.in_flight for wpe in self.wpes)
        self._state.legacy_orders = self._left_legacy_orders + sum(
            wpe.orders.legacy_orders for wpe in self.wpes
        )
        self._state.restarts = self._left_restarts + sum(one.restarts for one in (*self.kmes, *self.wpes))
        return self._state

    @property
    def measurements(self) -> frozenset[str]:
        """Of the KMEs and WPEs that the manifest in force admits."""
        changes = [read_signed_manifest(change) for change in self.files.changes()]
        manifest = read_manifest(follow(self.first_manifest, changes))
        return frozenset((*manifest.kme_measurements, *manifest.wpe_measurements))

    async def serving(self) -> None:
        """Return when the record is published and a WPE serves."""
        await self._serving.wait()

    async def vouch(self, tag: str) -> EncryptionKeyGrant:
        """The pool's present encryption key, signed in a KME under a tag.

        Raises:
            NotServing: no KME answers.
        """
        for kme in self._serving_kmes():
            with suppress(EnclaveEnded, TimeoutError):
                assert kme.enclave is not None
                signed = await kme.enclave.sign_key(tag, _VOUCH_SECONDS)
                if signed.encryption_key:
                    return EncryptionKeyGrant(
                        worker_id=WorkerId(self.state.worker_id),
                        encryption_key=signed.encryption_key,
                        encryption_key_nonce=HexStr(signed.encryption_key_nonce),
                        tag=tag,
                        signature=Base64Str(encode_base64(signed.signature)),
                    )
        raise NotServing

    def stop(self) -> None:
        """Ask for an orderly end."""
        self._stopping.set()

    async def run(self) -> None:
        """Keep the pool serving until :meth:`stop`.

        Raises:
            EnclaveEnded: an enclave did not even start; the configuration must be wrong.
            PoolUnusable: the pool's keys are gone.
        """
        kmes = [asyncio.create_task(kme.run(), name=kme.name) for kme in self.kmes]
        wpes = [asyncio.create_task(wpe.run(), name=wpe.name) for wpe in self.wpes]
        others = [
            asyncio.create_task(self._keep_receipts(), name="pool receipts"),
            asyncio.create_task(self._go_on_alone(), name="pool alone"),
        ]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            watched: set[asyncio.Task[Any]] = {*kmes, *wpes, *others, stopping}
            # WPEs that were drained have ended, and the pool goes on: results are kept, receipts are signed.
            while not self._stopping.is_set():
                done, watched = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            # The WPEs first: they finish what they have, and need a KME for it.
            for wpe in self.wpes:
                wpe.stop()
            await asyncio.gather(*wpes, return_exceptions=True)
            for kme in self.kmes:
                kme.stop()
            await asyncio.gather(*self._remotes, return_exceptions=True)
            for task in (*others, stopping):
                task.cancel()
            await asyncio.gather(*kmes, *others, stopping, return_exceptions=True)
            if self._publishing is not None:
                await asyncio.gather(self._publishing, return_exceptions=True)
            self._state.state = "stopped"

    # -- commands of the operator

    def snapshot(self) -> Mapping[str, Any]:
        """What the host knows of the pool without asking an enclave: plain values."""
        return {
            "worker": self.state.worker_name,
            "workerId": self.state.worker_id,
            "pool": digest_of(self.first_manifest).hex(),
            "simulated": self.state.simulated,
            "state": "draining" if self._draining else self.state.state,
            "epoch": self._published[0],
            "manifestVersion": self._published[1],
            "links": len(self.switch),
            "linksEnded": dict(self.links_ended),
            "rollbacks": sum(kme.rollbacks for kme in self.kmes),
            "kmes": [_told(kme, "serving" if kme.serves else kme.state) for kme in self.kmes],
            "wpes": [
                {
                    **_told(wpe, wpe.state),
                    "inFlight": wpe.orders.in_flight,
                    "availability": wpe.availability,
                }
                for wpe in self.wpes
            ],
        }

    async def status(self) -> Mapping[str, Any]:
        """The same, and what each KME tells of itself."""
        snapshot = dict(self.snapshot())

        async def ask(kme: dict[str, Any]) -> None:
            with suppress(NotServing, PoolCommandFailed):
                kme["enclave"] = await self.ask("status", kme=kme["name"], timeout=_STATUS_SECONDS)

        await asyncio.gather(*(ask(kme) for kme in snapshot["kmes"]))
        return snapshot

    async def ask(
        self,
        verb: str,
        argument: bytes = b"",
        *,
        kme: str | None = None,
        timeout: float = _COMMAND_SECONDS,
    ) -> Mapping[str, Any]:
        """Have a KME do something: the named one, else the first that serves.

        Raises:
            NotServing: there is none.
            PoolCommandFailed: it refused.
        """
        chosen = [one for one in self.kmes if one.name == kme] if kme is not None else self._serving_kmes()
        if not chosen and verb in ("recover", "share"):
            chosen = [one for one in self.kmes if one.enclave is not None]
        for one in chosen:
            if one.enclave is None:
                continue
            try:
                answer = await one.enclave.command(verb, argument, timeout)
            except (EnclaveEnded, TimeoutError):
                continue
            value: Mapping[str, Any] = json.loads(answer.text)
            if not answer.ok:
                raise PoolCommandFailed(str(value.get("error", "refused")))
            return value
        raise NotServing

    async def rotate(self) -> Mapping[str, Any]:
        """Make a new epoch of encryption keys."""
        return await self.ask("rotate", msgspec.json.encode({"expected": self._published[0]}))

    async def change(self, change: bytes) -> Mapping[str, Any]:
        """Take a signed change of the manifest, and keep it for enclaves that start later."""
        answer = await self.ask("change", change)
        self.files.keep_change(change)
        return answer

    async def drain(self) -> Mapping[str, Any]:
        """Claim no more orders; what is in hand is finished."""
        self._draining = True
        self._state.state = "draining"
        for wpe in self.wpes:
            wpe.stop()
        return {"draining": True}

    # -- for the keepers

    def configure(self, pool: PoolConfigure) -> Configure:
        """The configuration of an enclave of this pool."""
        return Configure(
            worker_name=self.settings.worker_name,
            keys="fresh",
            accept_legacy=self.settings.accepts_legacy,
            organization_id=self.settings.organization_id,
            application_type_id=self.settings.application_type_id,
            threads=self.settings.enclave_threads,
            children=self.settings.enclave_children,
            pool=pool,
        )

    def start_of(self, kme: KmeKeeper, sealed: bytes | None) -> str:
        """How a KME begins.

        Raises:
            PoolUnusable: there was a pool, and nobody has its keys any more.
        """
        if self._recover and kme.number == 1 and not self._published[0]:
            return "recover"
        if sealed is not None:
            return "restore"
        if kme.number == 1 and self.files.is_new and not any(one.serves for one in self.kmes):
            return "create"
        anybody = any(one.serves or one.sealed() is not None for one in self.kmes)
        if not anybody and not self.files.is_new and not self._recover:
            raise PoolUnusable(
                "no key management enclave has the pool's keys any more: recover the pool from the owners' shares "
                "(avalon up --pool --recover, then avalon pool recover), or begin a new pool under another name"
            )
        return "join"

    def is_alone(self, kme: KmeKeeper) -> bool:
        """There is no other KME that could tell whether the seal of this one is the newest."""
        if kme is self._alone:
            return True
        if self.settings.pool_listen:
            return False  # another machine's may come
        return not any(one.serves or one.sealed() is not None for one in self.kmes if one is not kme)

    def new_shift(self, state: HostState) -> Shift:
        """The order-carrying part of a WPE's host."""
        return Shift(
            self.settings,
            self._orders,
            self._requesters,
            self._receipts,
            state,
            late_receipts=False,
            line=self._line,
        )

    def carry(self, enclave: EnclaveProcess, message: FromPooledEnclave) -> None:
        """Frames and ends of links."""
        match message:
            case LinkFrame():
                self.switch.carry(enclave, message)
            case CloseLink(link=link, reason=reason):
                self.switch.closed_by(enclave, link, reason)
            case _:
                log.warning(
                    "an enclave of the pool said %s, which it has no reason to", type(message).__name__
                )

    async def keep_links(self, initiator: Keeper) -> None:
        """Keep an enclave joined to every KME that there is; of two KMEs the one with the higher number begins."""
        links: dict[KmeKeeper, asyncio.Task[None]] = {}
        try:
            while True:
                changed = self._kmes_changed
                for kme in self.kmes:
                    begins = not isinstance(initiator, KmeKeeper) or kme.number < initiator.number
                    if begins and kme not in links:
                        links[kme] = asyncio.create_task(self.keep_link(initiator, kme))
                for kme in [kme for kme in links if kme not in self.kmes]:
                    links.pop(kme).cancel()
                await changed.wait()
        finally:
            for task in links.values():
                task.cancel()
            await asyncio.gather(*links.values(), return_exceptions=True)

    def welcome_remote(self, enter: Enter, connection: socket.socket) -> None:
        """An enclave of another machine has come in through the gate."""
        self._numbers += 1
        keeper: KmeKeeper | WpeKeeper
        if enter.role == KmeKeeper.role:
            keeper = RemoteKme(self, self._numbers, enter.name, connection)
        else:
            keeper = RemoteWpe(self, self._numbers, enter.name, connection)
        task = asyncio.create_task(self._keep_remote(keeper), name=f"remote {enter.name}")
        self._remotes.add(task)
        task.add_done_callback(self._remotes.discard)

    def may_join(self, enter: Enter) -> None:
        """Return only where there is a place for such an enclave.

        Raises:
            JoinRefused
        """
        if enter.role not in (KmeKeeper.role, WpeKeeper.role):
            raise JoinRefused(f"no role of a pool: got {enter.role!r}, expected 'kme' or 'wpe'")
        if len(self._remotes) >= MAX_REMOTES:
            raise JoinRefused(
                f"{MAX_REMOTES} enclaves of other machines are in the pool already", final=False
            )
        if self._draining or self._stopping.is_set():
            raise JoinRefused("the pool drains", final=False)
        if any(keeper.name == enter.name for keeper in (*self.kmes, *self.wpes)):
            raise JoinRefused(f"an enclave of the name {enter.name!r} is in the pool already", final=False)

    async def _keep_remote(self, keeper: KmeKeeper | WpeKeeper) -> None:
        if isinstance(keeper, KmeKeeper):
            self.kmes.append(keeper)
            self._tell_kmes_changed()
        else:
            self.wpes.append(keeper)
        log.info("an enclave of another machine joins name=%s role=%s", keeper.name, keeper.role)
        try:
            await keeper.run_once()
        except EnclaveEnded as exc:
            log.warning("an enclave of another machine is gone name=%s reason=%s", keeper.name, exc)
        finally:
            if isinstance(keeper, KmeKeeper):
                self.kmes.remove(keeper)
                self._tell_kmes_changed()
            else:
                self.wpes.remove(keeper)
                self._left_legacy_orders += keeper.orders.legacy_orders
            self._left_restarts += keeper.restarts

    def _tell_kmes_changed(self) -> None:
        changed, self._kmes_changed = self._kmes_changed, asyncio.Event()
        changed.set()

    async def keep_link(self, initiator: Keeper, kme: KmeKeeper) -> None:
        """Keep an enclave joined to a KME for as long as it lives."""
        enclave = initiator.enclave
        assert enclave is not None
        # A KME takes another as soon as it runs, and WPEs when it serves.
        ready = kme.up if isinstance(initiator, KmeKeeper) else kme.serving
        while True:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(_LinkEnded),
                wait=wait_exponential_jitter(multiplier=0.05, max=5.0, jitter=0.05),
            ):
                with attempt:
                    await ready.wait()
                    began = time.monotonic()
                    reason = await self._link(initiator, enclave, kme)
                    # The pauses grow for those that are refused again and again, not for who waits for a KME's next start.
                    if reason != ENDED and time.monotonic() - began < _STABLE_SECONDS:
                        raise _LinkEnded

    async def _link(self, initiator: Keeper, enclave: EnclaveProcess, kme: KmeKeeper) -> str:
        """One link, from its making to its end; why it ended."""
        peer = kme.enclave
        if peer is None:
            raise _LinkEnded
        over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        wire = self.switch.connect(enclave, peer, peer=kme.number, on_end=_teller(over))
        try:
            reason = await over
        finally:
            # The keeper was cancelled: its enclave ends.
            self.switch.cut(wire, ENDED)
        self.links_ended[reason] = self.links_ended.get(reason, 0) + 1
        log.info("link ended initiator=%s kme=%s reason=%s", initiator.name, kme.name, reason)
        return reason

    async def heartbeat(self, enclave: EnclaveProcess, *, every: float | None = None) -> None:
        """End an enclave that gives no sign of life.

        Args:
            enclave: the enclave.
            every: seconds between two signs; None: a third of a lease.

        Raises:
            EnclaveEnded: it gave none for a third of a lease.
        """
        third = self.settings.lease_seconds / 3
        pause = third if every is None else min(every, third)
        while True:
            await asyncio.sleep(pause)
            try:
                await enclave.ping(third)
            except TimeoutError:
                enclave.kill()
                raise EnclaveEnded(
                    f"no sign of life for {third:g} s: the process hangs or is stopped"
                ) from None

    def offers(self, details: bytes) -> None:
        """A WPE tells which workloads it has."""
        workloads = msgspec.json.decode(details, type=tuple[WorkloadInfo, ...])
        if workloads != self._workloads:
            self._workloads = workloads
            self._publish_soon()

    def record_changed(self, record: RecordChanged) -> None:
        """A KME has signed a record."""
        rank = (record.epoch, record.manifest_version)
        if rank < self._published:
            return
        self._published = rank
        self._details = record.details
        self._publish_soon()

    def look_at_state(self) -> None:
        """An enclave has begun to serve, or is gone."""
        if self._draining or self._details is None or self._published == (0, 0):
            return
        kmes = self._serving_kmes()
        if not kmes or not any(wpe.state == "serving" for wpe in self.wpes):
            if self._serving.is_set() and not self._stopping.is_set():
                self._state.state = "restarting"
            return
        self._state.state = "serving"
        self._state.simulated = kmes[0].simulated
        self._state.platform = kmes[0].platform
        self._state.measurement = kmes[0].measurement
        self._serving.set()

    # -- inside

    def _serving_kmes(self) -> Sequence[KmeKeeper]:
        return [kme for kme in self.kmes if kme.serves and kme.enclave is not None]

    def _publish_soon(self) -> None:
        if self._publishing is None or self._publishing.done():
            self._publishing = asyncio.create_task(self._publish(), name="pool record")

    async def _publish(self) -> None:
        published = None
        while (self._details, self._workloads) != published and self._details is not None:
            published = self._details, self._workloads
            signed = await self._collateral.add_to(self._details)
            details = msgspec.structs.replace(decode_details(signed), workloads=self._workloads)
            types = (self.settings.application_type_id,) if self.settings.application_type_id else ()
            try:
                await self._workers.register(
                    WorkerEntry(
                        worker_id=self.state.worker_id,
                        worker_type=int(WorkerType.TEE_SGX),
                        organization_id=self.settings.organization_id,
                        application_type_ids=types,
                        details=msgspec.json.encode(details),
                    ),
                    keep_status=True,
                )
            except StoreUnavailable as exc:
                log.error("the pool's record is not published reason=%s", exc)
                return
            log.info("pool record published epoch=%d manifest=%d", *self._published)
        self.look_at_state()

    async def _keep_receipts(self) -> None:
        """Have KMEs sign what receipts still wait for."""
        await self._serving.wait()
        if self._receipts is not None:
            await self._receipts.serve(self._state.worker_id, self._sign_receipt)

    async def _sign_receipt(self, request: bytes, result: bytes | None) -> ReceiptSigned | Failed:
        """Have a KME sign; another where it dies, or cannot at the moment (a WPE is just about to let go of the order)."""
        deadline = time.monotonic() + _COMMAND_SECONDS
        pause = 0.05
        while True:
            for kme in self._serving_kmes():
                if kme.enclave is None:
                    continue
                with suppress(EnclaveEnded, TimeoutError):
                    async with asyncio.timeout(_VOUCH_SECONDS):
                        answer = await kme.enclave.sign_receipt(request, result)
                    if isinstance(answer, ReceiptSigned) or answer.code != WorkOrderCode.BUSY:
                        return answer
            if time.monotonic() >= deadline:
                return Failed(0, int(WorkOrderCode.BUSY), "no key management enclave could sign it")
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)

    async def _go_on_alone(self) -> None:
        """Where KMEs were restored and find no peer in time, one goes on alone: better than no pool, and told in the log."""
        stuck = 0.0
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            waiting = [kme for kme in self.kmes if kme.start_mode == "restore" and kme.enclave is not None]
            if self._serving_kmes() or not waiting:
                stuck, self._alone = 0.0, None
                continue
            stuck += _LOOK_SECONDS
            if stuck >= _ALONE_SECONDS:
                stuck, self._alone = 0.0, waiting[0]
                log.error(
                    "no KME could ask a peer whether its seal is the newest: one goes on alone, unable to tell a rollback "
                    "enclave=%s",
                    waiting[0].name,
                )
                assert waiting[0].enclave is not None
                waiting[0].enclave.kill()


def _told(keeper: Keeper, state: str) -> dict[str, Any]:
    return {
        "name": keeper.name,
        "state": state,
        "pid": keeper.pid,
        "restarts": keeper.restarts,
        "measurement": keeper.measurement,
        "simulated": keeper.simulated,
        "lastEnd": keeper.last_end,
    }


def _teller(over: asyncio.Future[str]) -> Callable[[str], None]:
    def tell(reason: str) -> None:
        if not over.done():
            over.set_result(reason)

    return tell


async def _ended(enclave: EnclaveProcess) -> None:
    raise EnclaveEnded(await enclave.ended())
