"""Puts a service together from its settings and runs it. The only module that knows every part."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from avalon_service.hosts.host import HostState, WorkerHost
from avalon_service.hosts.process import EnclaveEnded
from avalon_service.listener.app import Listener
from avalon_service.listener.methods import Methods
from avalon_service.listener.pages import ServicePages
from avalon_service.listener.work_orders import WorkOrderMethods
from avalon_service.listener.workers import WorkerMethods
from avalon_service.orders.errors import ServiceError
from avalon_service.orders.ports import Store
from avalon_service.orders.service import OrderService
from avalon_service.settings import Settings
from avalon_service.store.limits import Limits
from avalon_service.store.memory import MemoryStore
from avalon_service.store.sqlite import SqliteStore

log = logging.getLogger(__name__)

SIMULATED_PLATFORMS = frozenset({"simulated"})
"""Platforms that no hardware stands behind."""

_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 75


class CannotStart(Exception):
    """The service cannot start; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The service accepts orders."""

    url: str
    worker: HostState


async def serve(settings: Settings, on_ready: Callable[[Ready], None]) -> None:
    """Run the service until SIGINT or SIGTERM.

    Args:
        settings: all of them.
        on_ready: called once, when the listener is open and a worker serves.

    Raises:
        CannotStart
    """
    check(settings)
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
        host = WorkerHost(
            settings=settings,
            orders=store.orders,
            workers=store.workers,
            directory=directory / "workers" / settings.worker_name.encode().hex()[:128],
        )
        orders = OrderService(store.orders, store.workers, settings)
        version = importlib.metadata.version("avalon-service")
        methods = Methods(WorkOrderMethods(orders).table(), WorkerMethods(store.workers).table())
        pages = ServicePages(
            settings=settings, version=version, orders=store.orders, hosts=lambda: [host.state]
        )
        listener = Listener(methods, pages, settings)
        await _run(settings, listening, listener, host, orders, stop, on_ready)


def check(settings: Settings) -> None:
    """Refuse settings that the profile forbids.

    Raises:
        CannotStart: says what to change.
    """
    if not settings.is_production:
        return
    if settings.platform in SIMULATED_PLATFORMS:
        raise CannotStart(
            "the production profile refuses the simulated platform: it protects nothing. "
            "Run on a TEE platform, or use the development profile"
        )
    if settings.host not in ("127.0.0.1", "::1", "localhost"):
        raise CannotStart(
            "the production profile refuses plain HTTP beyond loopback: listen on 127.0.0.1 behind a TLS proxy"
        )


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


async def _open_store(settings: Settings, directory: Path) -> Store:
    limits = Limits(max_queued=settings.max_queued, max_request=settings.max_body_bytes)
    if settings.store == "memory":
        log.warning("orders are kept in memory only and forgotten at the end")
        return MemoryStore(limits=limits)
    try:
        return await SqliteStore.open(directory / "avalon.sqlite", limits=limits)
    except ServiceError as exc:
        raise CannotStart(f"cannot open the store in {directory}: {exc}") from exc


async def _run(
    settings: Settings,
    listening: socket.socket,
    listener: Listener,
    host: WorkerHost,
    orders: OrderService,
    stop: asyncio.Event,
    on_ready: Callable[[Ready], None],
) -> None:
    server = _Server(
        uvicorn.Config(
            listener,
            loop="none",
            http="httptools",
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
    hosting = asyncio.create_task(host.run(), name="host")
    house = asyncio.create_task(orders.keep_house(), name="housekeeping")
    ready = asyncio.create_task(_announce(settings, listening, host, on_ready), name="announce")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    watched = {serving, hosting, house, stopping}
    try:
        done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            exc = task.exception()
            if isinstance(exc, EnclaveEnded):
                raise CannotStart(str(exc)) from exc
            if exc is not None:
                raise exc
    finally:
        # The listener first, so that nothing new comes in; then the host finishes what its enclave has.
        ready.cancel()
        house.cancel()
        server.should_exit = True
        host.stop()
        await asyncio.gather(serving, hosting, house, ready, return_exceptions=True)
        stopping.cancel()


async def _announce(
    settings: Settings, listening: socket.socket, host: WorkerHost, on_ready: Callable[[Ready], None]
) -> None:
    await host.serving()
    port = listening.getsockname()[1]
    name = f"[{settings.host}]" if ":" in settings.host else settings.host
    on_ready(Ready(url=f"http://{name}:{port}", worker=host.state))


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the signals are ours."""

    def install_signal_handlers(self) -> None:
        """Leave them alone."""
