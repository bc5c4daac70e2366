"""One shift: the life of one enclave from the first claim of an order to the last stored answer."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import msgspec

from avalon_core.channel.messages import Cancel, Done, Parked, Process
from avalon_core.errors import ChannelError
from avalon_core.protocol.errors import WorkOrderCode
from avalon_service.hosts.process import Answer, EnclaveEnded, EnclaveProcess, Word
from avalon_service.hosts.receipts import ReceiptDesk
from avalon_service.orders.errors import StaleClaim, StoreUnavailable
from avalon_service.orders.ports import Claim, OrderFailure, OrderStore
from avalon_service.registry.requesters import RequesterKeys
from avalon_service.settings import Settings

log = logging.getLogger(__name__)

_SHUTDOWN_SECONDS = 10.0


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


_BUSY_SECONDS = 0.2
"""An enclave that gave an order back unseen is given no more for so long."""

_IN_FLIGHT_BYTES = 256 * 1024 * 1024
"""Requests in one enclave beyond which no more are handed over: more large ones than it has threads, and fewer than
it refuses."""


_AHEAD = 2
"""So many orders more than the one with the fewest may a shift have in hand: with fewer, claims get small; with more,
one enclave has a queue of slow orders while another has nothing to do."""


class Line:
    """The shifts that take orders of one worker side by side. None gets far ahead of the others."""

    def __init__(self) -> None:
        self._shifts: set[Shift] = set()

    def enter(self, shift: Shift) -> None:
        """Count it from now on."""
        self._shifts.add(shift)

    def leave(self, shift: Shift) -> None:
        """It takes no more orders."""
        self._shifts.discard(shift)
        self.moved(shift)

    def room(self, shift: Shift) -> int | None:
        """How many orders this one may take now; None: any number, it is alone."""
        others = [other.load for other in self._shifts if other is not shift]
        return min(others) + _AHEAD - shift.load if others else None

    def moved(self, shift: Shift) -> None:
        """It has taken some: others may follow."""
        for other in self._shifts:
            if other is not shift:
                other.look_again()


class Shift:
    """The life of one enclave process from the first claim to the last answer."""

    def __init__(
        self,
        settings: Settings,
        orders: OrderStore,
        requesters: RequesterKeys,
        receipts: ReceiptDesk | None,
        state: HostState,
        *,
        late_receipts: bool = True,
        line: Line | None = None,
    ) -> None:
        """``late_receipts``: this enclave signs the updates of receipts whose orders have ended; a pool has another for it.
        ``line``: the shifts of the same worker beside this one."""
        self._settings = settings
        self._orders = orders
        self._requesters = requesters
        self._receipts = receipts
        self._state = state
        self._late_receipts = late_receipts
        self._held: dict[int, Claim] = {}
        """Orders in the enclave, by handle (the fencing token: it is unique)."""

        self._parked: set[int] = set()
        """Those of them that wait for a child process or run in one: others need not wait for these."""

        self._sizes: dict[int, int] = {}
        """Of their requests, in bytes; without the parked ones."""

        self._room = asyncio.Event()
        self._room.set()
        self._storing: set[asyncio.Task[None]] = set()
        self._was_busy = False
        self._line = line or Line()

    @property
    def load(self) -> int:
        """Orders that the enclave has in hand, without those that wait for a child process or run in one."""
        return len(self._held) - len(self._parked)

    def look_again(self) -> None:
        """Look whether more orders can be taken."""
        self._room.set()

    def heard(self, word: Word) -> None:
        """The enclave said something of an order: store an answer, off the path of the channel."""
        if isinstance(word, Parked):
            if word.handle in self._held:
                self._parked.add(word.handle)
                self._sizes.pop(word.handle, None)
                self._room.set()
            return
        claim = self._let_go(word.handle)
        if claim is not None:
            self._answered(claim, word)

    def _let_go(self, token: int) -> Claim | None:
        claim = self._held.pop(token, None)
        self._parked.discard(token)
        self._sizes.pop(token, None)
        self._state.in_flight = len(self._held)
        self._room.set()
        return claim

    def _answered(self, claim: Claim, answer: Answer) -> None:
        if isinstance(answer, Done) and answer.legacy:
            self._state.legacy_orders += 1
        task = asyncio.get_running_loop().create_task(self._store(claim, answer))
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)

    async def _store(self, claim: Claim, answer: Answer) -> None:
        try:
            if isinstance(answer, Done):
                await self._orders.complete(claim.work_order_id, claim.token, answer.result)
            elif answer.code == WorkOrderCode.BUSY:
                # No word on the order: it is full, it ends, or no KME gave it the order's secrets. Others may do better.
                self._was_busy = True
                await self._orders.release(claim.work_order_id, claim.token)
                return
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

    async def serve(
        self, enclave: EnclaveProcess, stopping: asyncio.Event, *, limit: int | None = None
    ) -> None:
        """Carry orders until the enclave ends, the service stops, or so many orders were carried (``limit``) and answered.

        Raises:
            EnclaveEnded: the enclave ended, or was ended because it gave no sign of life.
        """
        unwatch = self._orders.watch_revoked(
            self._state.worker_id, lambda _, token: self._revoked(enclave, token)
        )
        ended = asyncio.create_task(enclave.ended())
        claims = asyncio.create_task(self._claim(enclave, limit))
        leases = asyncio.create_task(self._keep_leases(enclave))
        stop = asyncio.create_task(stopping.wait())
        tasks = {ended, claims, leases, stop}
        self._line.enter(self)
        receipts = asyncio.create_task(self._keep_receipts(enclave))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if stop in done:
                claims.cancel()
                await enclave.shut_down(_SHUTDOWN_SECONDS)
                await self._drain()
                return
            if claims in done and claims.exception() is None:
                return  # as many as it may
            if leases in done or claims in done:
                enclave.kill()
                for failed in (leases, claims):
                    if failed in done:
                        failed.result()
            raise EnclaveEnded(await ended)
        finally:
            self._line.leave(self)
            unwatch()
            for task in (*tasks, receipts):
                task.cancel()
            await asyncio.gather(*tasks, receipts, return_exceptions=True)

    async def _keep_receipts(self, enclave: EnclaveProcess) -> None:
        if self._receipts is not None and self._late_receipts:
            await self._receipts.serve(self._state.worker_id, enclave.sign_receipt)

    def _revoked(self, enclave: EnclaveProcess, token: int) -> None:
        if self._let_go(token) is not None:
            enclave.send(Cancel(token))

    async def _claim(self, enclave: EnclaveProcess, limit: int | None) -> None:
        """Claim and hand over; returns where ``limit`` orders were carried and all are answered and stored."""
        worker_id, lease = self._state.worker_id, self._settings.lease_seconds
        while True:
            room = self._settings.in_flight - self.load
            fair = self._line.room(self)
            if fair is not None:
                room = min(room, fair)
            if limit is not None:
                room = min(room, limit)
            if limit == 0:
                self._line.leave(self)
            if limit == 0 and not self._held:
                await self._drain()
                return
            if room <= 0 or sum(self._sizes.values()) >= _IN_FLIGHT_BYTES:
                self._room.clear()
                await self._room.wait()
                continue
            if self._was_busy:
                await asyncio.sleep(_BUSY_SECONDS)
                self._was_busy = False
            await enclave.writable()
            claims = await self._orders.claim(worker_id, limit=room, lease=lease)
            if limit is not None:
                limit -= len(claims)
            for claim in claims:
                self._held[claim.token] = claim
                self._sizes[claim.token] = len(claim.request)
                try:
                    registered_key = self._requesters.key_of(claim.requester_id)
                    receipt = self._receipts is not None and self._receipts.awaits(claim.work_order_id)
                    enclave.send(Process(claim.token, claim.request, registered_key, receipt))
                except ChannelError as exc:
                    self._let_go(claim.token)
                    failure = OrderFailure(code=int(WorkOrderCode.FAILED), message=exc.message)
                    await self._orders.fail(claim.work_order_id, claim.token, failure)
                # The request is with the enclave now; its bytes are not needed here any more.
                if claim.token in self._held:
                    self._held[claim.token] = msgspec.structs.replace(claim, request=b"")
            self._state.in_flight = len(self._held)
            if claims:
                self._line.moved(self)
            else:
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
        self._parked.clear()
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
