"""The conformance suite against every store of this package: see `medium` in conftest."""

from __future__ import annotations

from avalon_service.store.conformance import OrderStoreConformance, WorkerDirectoryConformance


class TestOrders(OrderStoreConformance):
    pass


class TestWorkers(WorkerDirectoryConformance):
    pass
