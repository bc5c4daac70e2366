"""Puts a service together from its settings and runs it. The only module that knows every part."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import uvicorn

from avalon_core import allocator
from avalon_core.channel.joining import Enter
from avalon_core.channel.quoting import Vendor
from avalon_service.deliveries.addresses import AddressRules
from avalon_service.deliveries.deliverer import Deliverer
from avalon_service.deliveries.poster import HttpPoster
from avalon_service.deliveries.retries import Retries
from avalon_service.development_policy import FILE_NAME as POLICY_FILE
from avalon_service.development_policy import write_policy
from avalon_service.hosts.evidence import CollateralSource
from avalon_service.hosts.host import WorkerHost
from avalon_service.hosts.ports import Host
from avalon_service.hosts.process import EnclaveCommand, EnclaveEnded
from avalon_service.hosts.quoting import QuotingManager, QuotingUnavailable
from avalon_service.hosts.receipts import ReceiptDesk
from avalon_service.hosts.shift import HostState
from avalon_service.listener.app import Listener
from avalon_service.listener.departures import Departures
from avalon_service.listener.events import EventStreams
from avalon_service.listener.methods import Methods
from avalon_service.listener.pages import ServicePages
from avalon_service.listener.pools import PoolMethods
from avalon_service.listener.protocol import CorkedProtocol
from avalon_service.listener.receipts import ReceiptMethods
from avalon_service.listener.registry import RegistryMethods
from avalon_service.listener.work_orders import WorkOrderMethods
from avalon_service.listener.workers import WorkerMethods
from avalon_service.memory import MemoryKeeper
from avalon_service.openrpc import DiscoveryMethods
from avalon_service.orders.errors import ServiceError
from avalon_service.orders.ports import Store
from avalon_service.orders.receipt_counts import ReceiptCounts
from avalon_service.orders.receipts import ReceiptService
from avalon_service.orders.service import OrderService
from avalon_service.pool.assembly import open_pool
from avalon_service.pool.host import PoolHost, PoolUnusable
from avalon_service.pool.remote import TOKEN_FILE as POOL_TOKEN_FILE
from avalon_service.pool.remote import Gate, JoinRefused, open_pool_token
from avalon_service.registry.keys import EncryptionKeys
from avalon_service.registry.operator import FILE_NAME as TOKEN_FILE
from avalon_service.registry.operator import Operator, TokenUnusable, open_token
from avalon_service.registry.requesters import FILE_NAME as REQUESTERS_FILE
from avalon_service.registry.requesters import RequesterKeys, RequestersUnusable
from avalon_service.registry.workers import WorkerRegistry
from avalon_service.settings import Settings
from avalon_service.store.limits import Limits
from avalon_service.store.memory import MemoryStore
from avalon_service.store.sqlite import SqliteStore

log = logging.getLogger(__name__)

SIMULATED_PLATFORMS = frozenset({"simulated"})
"""Platforms that no hardware stands behind."""

COLLATERAL_PLATFORMS = frozenset({"gramine", "tsm"})
"""Platforms whose evidence is judged by collateral that vendors publish."""

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
"""Addresses that nobody else reaches."""

_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 75


class CannotStart(Exception):
    """The service cannot start; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The service accepts orders."""

    url: str
    worker: HostState
    policy: Path | None = None
    """A trust policy for this very service, where it is SIMULATED."""


async def serve(settings: Settings, on_ready: Callable[[Ready], None]) -> None:
    """Run the service until SIGINT or SIGTERM.

    Args:
        settings: all of them.
        on_ready: called once, when the listener is open and a worker serves.

    Raises:
        CannotStart
    """
    check(settings)
    allocator.reuse_pages()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        listening = _listen(settings)
        stack.callback(listening.close)
        directory = data_directory(settings)
        store = await _open_store(settings, directory)
        stack.push_async_callback(store.close)
        operator, requesters = _open_authorities(directory)
        receipt_counts = ReceiptCounts()
        desk = ReceiptDesk(
            receipts=store.receipts, orders=store.orders, workers=store.workers, counts=receipt_counts
        )
        quoting = await _launch_quoting(settings, stack)
        collateral = await _open_collateral(settings, directory, stack)
        socket_path = quoting.socket_path if quoting is not None else None
        pools: list[PoolHost] = []
        host: Host
        if settings.pool:
            pools = await _open_pools(settings, store, directory, requesters, desk, socket_path, collateral)
            host = pools[0]
            await _open_gate(settings, directory, pools, stack)
        else:
            host = WorkerHost(
                settings=settings,
                orders=store.orders,
                workers=store.workers,
                requesters=requesters,
                receipts=desk,
                directory=directory / "workers" / _folder_of(settings),
                quoting_socket=socket_path,
                collateral=collateral,
            )
        running: Sequence[Host] = pools or [host]
        hosts = {one.state.worker_id: one for one in running}
        deliverer = await _open_deliverer(settings, store, stack)
        orders = OrderService(
            store.orders,
            store.workers,
            settings,
            is_hosted=hosts.__contains__,
            requesters=requesters,
            deliverer=deliverer,
        )
        receipts = ReceiptService(
            receipts=store.receipts,
            orders=store.orders,
            workers=store.workers,
            desk=desk,
            settings=settings,
            requesters=requesters,
            counts=receipt_counts,
        )
        registry = _registry_methods(settings, store, hosts, operator, requesters)
        version = importlib.metadata.version("avalon-service")
        work_orders = WorkOrderMethods(orders, operator)
        methods = Methods(
            work_orders.table(),
            WorkerMethods(store.workers).table(),
            ReceiptMethods(receipts).table(),
            registry.table(),
            DiscoveryMethods().table(),
            guarded={
                **registry.guarded(),
                **work_orders.guarded(),
                **PoolMethods(operator, {pool.state.worker_id: pool for pool in pools}).guarded(),
            },
        )
        memory = MemoryKeeper()
        stack.callback(memory.close)
        departures = Departures(load_fell=memory.load_fell)
        streams = EventStreams(
            store.orders, limit=settings.max_event_streams, heartbeat=settings.event_heartbeat_seconds
        )
        pages = ServicePages(
            settings=settings,
            version=version,
            orders=store.orders,
            hosts=lambda: [one.state for one in hosts.values()],
            deliveries=store.deliveries,
            streams=streams.__len__,
            calls_under_way=departures.__len__,
            operator=operator,
            receipts=receipt_counts.items,
            pools=lambda: [pool.snapshot() for pool in pools],
        )
        listener = Listener(methods, pages, settings, streams, departures)
        await _run(
            listening,
            listener,
            list(hosts.values()),
            partial(_keep_house, orders, receipts, deliverer),
            stop,
            partial(_announce, settings, listening, running, quoting, directory, on_ready),
        )


def _folder_of(settings: Settings) -> str:
    return settings.worker_name.encode().hex()[:128]


async def _open_pools(
    settings: Settings,
    store: Store,
    directory: Path,
    requesters: RequesterKeys,
    desk: ReceiptDesk,
    quoting_socket: Path | None,
    collateral: CollateralSource | None,
) -> list[PoolHost]:
    """One pool for each worker that the settings name."""
    state = directory / "workers"
    state.mkdir(parents=True, exist_ok=True, mode=0o700)

    def command(role: str, name: str, measured: Mapping[str, str]) -> EnclaveCommand:
        return EnclaveCommand(
            role=role,
            platform=settings.platform,
            platform_state=state / "simulated-platform",
            platform_config=Path(settings.platform_config) if settings.platform_config else None,
            quoting_socket=quoting_socket,
            simulated_kind=settings.simulated_kind,
            launcher=settings.enclave_launcher,
            channel=settings.enclave_channel,
            measured=measured,
            name=name,
        )

    pools = []
    for name in (settings.worker_name, *settings.pool_more):
        of_worker = msgspec.structs.replace(settings, worker_name=name)
        try:
            pools.append(
                await open_pool(
                    of_worker,
                    store=store,
                    directory=directory / "pools" / _folder_of(of_worker),
                    requesters=requesters,
                    receipts=desk,
                    command=command,
                    collateral=collateral,
                )
            )
        except PoolUnusable as exc:
            raise CannotStart(str(exc)) from exc
    return pools


async def _open_collateral(
    settings: Settings, directory: Path, stack: AsyncExitStack
) -> CollateralSource | None:
    """Where records get the vendor's collateral from, on platforms whose vendor publishes some."""
    if settings.platform not in COLLATERAL_PLATFORMS:
        return None
    # Imported here: no other platform needs an HTTP client for it.
    from avalon_sdk.collateral import CollateralCache, CollateralClient, CollateralSettings
    from avalon_sdk.errors import BadRequest
    from avalon_service.hosts.collateral import VendorCollateral

    try:
        asked = (
            CollateralSettings(intel_url=settings.collateral_url, intel_kind="pccs")
            if settings.collateral_url
            else CollateralSettings()
        )
    except BadRequest as exc:
        raise CannotStart(f"collateral_url: {exc}") from exc
    client = CollateralClient(asked, cache=CollateralCache(directory / "collateral"))
    return VendorCollateral(await stack.enter_async_context(client))


async def _open_gate(
    settings: Settings, directory: Path, pools: Sequence[PoolHost], stack: AsyncExitStack
) -> None:
    """Let enclaves of other machines in, where the settings say so."""
    if not settings.pool_listen:
        return
    by_name = {pool.state.worker_name: pool for pool in pools}

    def places(enter: Enter) -> Mapping[str, str]:
        pool = by_name.get(enter.worker_name)
        if pool is None:
            raise JoinRefused(f"this service runs no pool named {enter.worker_name!r}")
        pool.may_join(enter)
        return pool.measured

    host, _, port = settings.pool_listen.rpartition(":")
    try:
        gate = Gate(
            token=open_pool_token(directory),
            places=places,
            on_joined=lambda enter, connection: by_name[enter.worker_name].welcome_remote(enter, connection),
        )
        address = gate.open(host.strip("[]"), int(port))
    except (OSError, ValueError, JoinRefused) as exc:
        raise CannotStart(f"pool_listen: {settings.pool_listen!r}: {exc}; expected HOST:PORT") from exc
    stack.push_async_callback(gate.close)
    log.info(
        "pool takes enclaves of other machines address=%s:%d token=%s", *address, directory / POOL_TOKEN_FILE
    )


async def _host_all(hosts: Sequence[Host]) -> None:
    """Run all workers; when one fails or ends, all do."""
    tasks = [asyncio.create_task(host.run(), name=host.state.worker_name) for host in hosts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for host in hosts:
            host.stop()
        await asyncio.gather(*tasks, return_exceptions=True)


def check(settings: Settings) -> None:
    """Refuse settings that the profile forbids: all of them at once.

    Raises:
        CannotStart: says of each what to change.
    """
    if settings.is_production and (refused := _refused_in_production(settings)):
        raise CannotStart("; and ".join(refused))


def _refused_in_production(settings: Settings) -> list[str]:
    refused = []
    if settings.platform in SIMULATED_PLATFORMS:
        refused.append(
            "the production profile refuses the simulated platform: it protects nothing. "
            "Run on a TEE platform, or use the development profile"
        )
    if settings.host not in LOOPBACK:
        refused.append(
            f"the production profile refuses plain HTTP beyond loopback (host is {settings.host!r}): "
            "listen on 127.0.0.1 behind a TLS proxy"
        )
    if settings.store == "memory":
        refused.append(
            "the production profile refuses the store 'memory', which forgets accepted orders: set store to 'sqlite'"
        )
    if settings.accepts_self_registration:
        refused.append(
            "the production profile refuses self_registration: anybody can make a key and register with it. "
            "Leave it unset, and register workers with the operator's token"
        )
    return refused


def data_directory(settings: Settings) -> Path:
    """Where the service keeps its state; made where it is missing, readable by its owner only.

    Raises:
        CannotStart: it cannot be made.
    """
    if settings.data_dir:
        directory = Path(settings.data_dir)
    else:
        data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
        directory = Path(data) / "avalon"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise CannotStart(
            f"cannot make the data directory {directory}: {exc.strerror}; choose another with --data-dir"
        ) from exc
    return directory.resolve()


def _listen(settings: Settings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listening = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as exc:
        raise CannotStart(
            f"cannot listen on {settings.host} port {settings.port}: {exc.strerror}; "
            "choose another with --port (0 takes any that is free)"
        ) from exc
    listening.setblocking(False)
    return listening


def _open_authorities(directory: Path) -> tuple[Operator, RequesterKeys]:
    try:
        return open_token(directory / TOKEN_FILE), RequesterKeys.open(directory / REQUESTERS_FILE)
    except (TokenUnusable, RequestersUnusable) as exc:
        raise CannotStart(str(exc)) from exc


def _registry_methods(
    settings: Settings,
    store: Store,
    hosts: Mapping[str, Host],
    operator: Operator,
    requesters: RequesterKeys,
) -> RegistryMethods:
    registry = WorkerRegistry(
        store.workers,
        is_hosted=hosts.__contains__,
        self_registration=settings.accepts_self_registration,
        max_workers=settings.max_workers,
    )
    keys = EncryptionKeys(workers=store.workers, registry=registry, requesters=requesters, host_of=hosts.get)
    return RegistryMethods(operator=operator, registry=registry, keys=keys, requesters=requesters)


async def _open_store(settings: Settings, directory: Path) -> Store:
    limits = Limits(
        max_queued=settings.max_queued,
        max_queued_per_requester=settings.max_queued_per_requester,
        max_queued_per_origin=settings.queued_per_address,
        max_request=settings.max_body_bytes,
    )
    if settings.store == "memory":
        log.warning("orders are kept in memory only and forgotten at the end")
        return MemoryStore(limits=limits)
    try:
        return await SqliteStore.open(directory / "avalon.sqlite", limits=limits)
    except ServiceError as exc:
        raise CannotStart(f"cannot open the store in {directory}: {exc}") from exc


async def _run(
    listening: socket.socket,
    listener: Listener,
    hosts: Sequence[Host],
    keep_house: Callable[[], Coroutine[None, None, None]],
    stop: asyncio.Event,
    announce: Callable[[], Coroutine[None, None, None]],
) -> None:
    server = _Server(
        uvicorn.Config(
            listener,
            loop="none",
            http=CorkedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=5,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="listener")
    hosting = asyncio.create_task(_host_all(hosts), name="hosts")
    house = asyncio.create_task(keep_house(), name="housekeeping")
    ready = asyncio.create_task(announce(), name="announce")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    watched = {serving, hosting, house, ready, stopping}
    try:
        done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        if done == {ready} and ready.exception() is None:
            done, _ = await asyncio.wait(watched - done, return_when=asyncio.FIRST_COMPLETED)
        # What keeps the quoting process from starting keeps the enclave from it, too: the cause is told.
        for task in sorted(done - {stopping}, key=lambda task: task is not ready):
            exc = task.exception()
            if isinstance(exc, EnclaveEnded | PoolUnusable | QuotingUnavailable):
                raise CannotStart(str(exc)) from exc
            if exc is not None:
                raise exc
    finally:
        # The listener first, so that nothing new comes in; then the host finishes what its enclave has.
        ready.cancel()
        house.cancel()
        listener.close()
        server.should_exit = True
        for host in hosts:
            host.stop()
        await asyncio.gather(serving, hosting, house, ready, return_exceptions=True)
        stopping.cancel()


async def _keep_house(orders: OrderService, receipts: ReceiptService, deliverer: Deliverer) -> None:
    await asyncio.gather(orders.keep_house(), receipts.keep_house(), deliverer.run())


async def _open_deliverer(settings: Settings, store: Store, stack: AsyncExitStack) -> Deliverer:
    rules = AddressRules(
        allow_http=not settings.is_production,
        allow_private=settings.delivery_allow_private,
        ports=frozenset(settings.delivery_ports),
        hosts=settings.delivery_hosts,
    )
    poster = HttpPoster(rules, timeout=settings.delivery_timeout_seconds)
    stack.push_async_callback(poster.close)
    deliverer = Deliverer(
        store=store.deliveries,
        orders=store.orders,
        poster=poster,
        rules=rules,
        retries=Retries(
            attempts=settings.delivery_attempts,
            first=settings.delivery_first_retry_seconds,
            longest=settings.delivery_longest_retry_seconds,
        ),
        max_pending=settings.max_pending_deliveries,
        concurrency=settings.delivery_concurrency,
        per_host=settings.delivery_per_host,
    )
    try:
        await deliverer.load()
    except ServiceError as exc:
        raise CannotStart(f"cannot read what is to be delivered: {exc}") from exc
    return deliverer


async def _launch_quoting(settings: Settings, stack: AsyncExitStack) -> QuotingManager | None:
    """Start the quoting process of a SIMULATED machine; it gets ready while the enclave starts. None: real hardware."""
    if settings.platform not in SIMULATED_PLATFORMS:
        return None
    quoting = QuotingManager()
    try:
        await quoting.launch()
    except OSError as exc:
        raise CannotStart(f"the SIMULATED quoting process cannot be started: {exc}") from exc
    stack.push_async_callback(quoting.stop)
    return quoting


async def _announce(
    settings: Settings,
    listening: socket.socket,
    hosts: Sequence[Host],
    quoting: QuotingManager | None,
    directory: Path,
    on_ready: Callable[[Ready], None],
) -> None:
    vendor = await quoting.ready() if quoting is not None else None
    host = hosts[0]
    await host.serving()
    policy = None
    if vendor is not None:
        policy = _write_policy(settings, vendor, directory, hosts)
    port = listening.getsockname()[1]
    name = f"[{settings.host}]" if ":" in settings.host else settings.host
    on_ready(Ready(url=f"http://{name}:{port}", worker=host.state, policy=policy))


def _write_policy(settings: Settings, vendor: Vendor, directory: Path, hosts: Sequence[Host]) -> Path | None:
    path = directory / POLICY_FILE
    try:
        measurements = frozenset[str]().union(*(host.measurements for host in hosts))
        write_policy(path, vendor, settings.simulated_kind, measurements)
    except OSError as exc:
        log.warning("the policy for requesters is not written path=%s reason=%s", path, exc)
        return None
    return path


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the signals are ours."""

    def install_signal_handlers(self) -> None:
        """Leave them alone."""
