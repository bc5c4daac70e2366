"""Status and metrics: what the service shows of itself. Numbers and names only; nothing of any order's content."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from avalon_service.deliveries.ports import DeliveryCounts, DeliveryStore
from avalon_service.hosts.shift import HostState
from avalon_service.listener.delivery_page import encode_page, read_page_query
from avalon_service.orders.ports import OrderCounts, OrderStore
from avalon_service.registry.operator import Operator, WrongToken
from avalon_service.registry.workers import WRONG_TOKEN
from avalon_service.settings import Settings

_FOR_THE_OPERATOR = (
    "for the operator: send the token in the HTTP header 'Authorization: Bearer ...' (it is in the file operator-token of "
    "the service's data directory)"
)
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class ServicePages:
    """Implements :class:`avalon_service.listener.app.Pages`."""

    def __init__(
        self,
        *,
        settings: Settings,
        version: str,
        orders: OrderStore,
        hosts: Callable[[], Sequence[HostState]],
        deliveries: DeliveryStore | None = None,
        streams: Callable[[], int] = lambda: 0,
        calls_under_way: Callable[[], int] = lambda: 0,
        operator: Operator | None = None,
        receipts: Callable[[], Iterable[tuple[str, str, int]]] = lambda: (),
        pools: Callable[[], Sequence[Mapping[str, Any]]] = lambda: (),
    ) -> None:
        """
        Args:
            receipts: kind, outcome and count (:class:`avalon_service.orders.receipt_counts.ReceiptCounts`).
            pools: what :meth:`avalon_service.pool.host.PoolHost.snapshot` tells of each pool.
        """
        self._pools = pools
        self._settings = settings
        self._version = version
        self._orders = orders
        self._hosts = hosts
        self._deliveries = deliveries
        self._streams = streams
        self._calls_under_way = calls_under_way
        self._operator = operator
        self._receipts = receipts
        self._delivery_counts = DeliveryCounts()
        self._began = time.monotonic()
        self._counts = OrderCounts()
        self._registry = CollectorRegistry()
        self._calls = Histogram(
            "avalon_call_seconds",
            "Time from a call's arrival to its answer, waits included.",
            ["method"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._by_method: dict[str, Histogram] = {}
        self._registry.register(self)

    def answered(self, method: str, seconds: float) -> None:
        child = self._by_method.get(method)
        if child is None:
            child = self._by_method[method] = self._calls.labels(method)
        child.observe(seconds)

    def is_ready(self) -> bool:
        return any(host.state == "serving" for host in self._hosts())

    async def status(self) -> bytes:
        counts = await self._orders.counts()
        hosts = self._hosts()
        return msgspec.json.encode(
            {
                "version": self._version,
                "profile": self._settings.profile,
                "simulated": any(host.simulated for host in hosts),
                "time": round(time.time(), 3),
                "uptime_seconds": round(time.monotonic() - self._began, 1),
                "accepts_legacy": self._settings.accepts_legacy,
                "workers": [
                    {
                        "worker_id": host.worker_id,
                        "name": host.worker_name,
                        "state": host.state,
                        "platform": host.platform,
                        "simulated": host.simulated,
                        "measurement": host.measurement,
                        "pid": host.pid,
                        "restarts": host.restarts,
                        "in_flight": host.in_flight,
                        "legacy_orders": host.legacy_orders,
                        "last_end": host.last_end,
                    }
                    for host in hosts
                ],
                "pools": list(self._pools()),
                "orders": {name: getattr(counts, name) for name in OrderCounts.__struct_fields__},
                "deliveries": await self._count_deliveries(),
                "event_streams": self._streams(),
                "calls_under_way": self._calls_under_way(),
            }
        )

    async def deliveries(self, headers: list[tuple[bytes, bytes]], query: bytes) -> tuple[int, bytes]:
        if self._deliveries is None or self._operator is None:
            return 404, b'{"error":"this service posts nothing"}'
        try:
            if not self._operator.sent(headers):
                return 401, msgspec.json.encode({"error": _FOR_THE_OPERATOR})
            page = read_page_query(query)
        except WrongToken:
            return 403, msgspec.json.encode({"error": WRONG_TOKEN})
        except ValueError as exc:
            return 400, msgspec.json.encode({"error": str(exc)})
        found = await self._deliveries.page(page.state, limit=page.limit, before=page.before)
        return 200, encode_page(page, found)

    async def _count_deliveries(self) -> DeliveryCounts:
        return await self._deliveries.counts() if self._deliveries is not None else DeliveryCounts()

    async def metrics(self) -> tuple[bytes, bytes]:
        self._counts = await self._orders.counts()
        self._delivery_counts = await self._count_deliveries()
        return CONTENT_TYPE_LATEST.encode(), generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """What the registry asks for at each scrape."""
        orders = GaugeMetricFamily("avalon_orders", "Stored work orders by state.", labels=["state"])
        for state in ("scheduled", "processing", "completed", "failed", "cancelled", "expired"):
            orders.add_metric([state], getattr(self._counts, state))
        yield orders
        yield CounterMetricFamily(
            "avalon_orders_put_back", "Orders that went back to the queue.", value=self._counts.put_back
        )
        yield CounterMetricFamily(
            "avalon_orders_purged", "Finished orders that were purged.", value=self._counts.purged
        )
        deliveries = GaugeMetricFamily("avalon_deliveries", "Stored deliveries by state.", labels=["state"])
        for name in DeliveryCounts.__struct_fields__:
            deliveries.add_metric([name], getattr(self._delivery_counts, name))
        yield deliveries
        receipts = CounterMetricFamily(
            "avalon_receipts",
            "Receipts created and updated, and words of the workers in them, since the start.",
            labels=["kind", "outcome"],
        )
        for kind, outcome, count in self._receipts():
            receipts.add_metric([kind, outcome], count)
        yield receipts
        yield GaugeMetricFamily(
            "avalon_event_streams", "Clients that follow an order's events.", value=self._streams()
        )
        yield from _pool_metrics(self._pools())
        serving = GaugeMetricFamily(
            "avalon_worker_serving",
            "1 while an enclave of the worker serves.",
            labels=["worker", "simulated"],
        )
        restarts = CounterMetricFamily(
            "avalon_enclave_restarts", "Enclaves that were restarted.", labels=["worker"]
        )
        legacy = CounterMetricFamily(
            "avalon_legacy_orders", "Insecure legacy orders that were accepted.", labels=["worker"]
        )
        in_flight = GaugeMetricFamily(
            "avalon_orders_in_flight", "Orders handed to an enclave.", labels=["worker"]
        )
        for host in self._hosts():
            serving.add_metric([host.worker_name, str(bool(host.simulated)).lower()], host.state == "serving")
            restarts.add_metric([host.worker_name], host.restarts)
            legacy.add_metric([host.worker_name], host.legacy_orders)
            in_flight.add_metric([host.worker_name], host.in_flight)
        yield from (serving, restarts, legacy, in_flight)


def _pool_metrics(pools: Sequence[Mapping[str, Any]]) -> Iterable[Metric]:
    enclaves = GaugeMetricFamily(
        "avalon_pool_enclaves", "Enclaves of the pool by role and state.", labels=["worker", "role", "state"]
    )
    restarts = CounterMetricFamily(
        "avalon_pool_restarts", "Enclaves of the pool that were restarted.", labels=["worker", "role", "name"]
    )
    epoch = GaugeMetricFamily(
        "avalon_pool_epoch", "Number of the encryption keys that the record publishes.", labels=["worker"]
    )
    version = GaugeMetricFamily(
        "avalon_pool_manifest_version", "Version of the manifest in force.", labels=["worker"]
    )
    links = GaugeMetricFamily("avalon_pool_links", "Links between enclaves of the pool.", labels=["worker"])
    ended = CounterMetricFamily(
        "avalon_pool_links_ended",
        "Links between enclaves that ended, by reason.",
        labels=["worker", "reason"],
    )
    rollbacks = CounterMetricFamily(
        "avalon_pool_rollbacks", "Rollbacks of sealed state that KMEs have detected.", labels=["worker"]
    )
    for pool in pools:
        worker = pool["worker"]
        for role in ("kme", "wpe"):
            states: dict[str, int] = {}
            for enclave in pool[f"{role}s"]:
                states[enclave["state"]] = states.get(enclave["state"], 0) + 1
                restarts.add_metric([worker, role, enclave["name"]], enclave["restarts"])
            for state, count in sorted(states.items()):
                enclaves.add_metric([worker, role, state], count)
        epoch.add_metric([worker], pool["epoch"])
        version.add_metric([worker], pool["manifestVersion"])
        links.add_metric([worker], pool["links"])
        for reason, count in sorted(pool["linksEnded"].items()):
            ended.add_metric([worker, reason], count)
        rollbacks.add_metric([worker], pool["rollbacks"])
    return (enclaves, restarts, epoch, version, links, ended, rollbacks) if pools else ()
