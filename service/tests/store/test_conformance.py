"""The conformance suite against every store of this package: see `medium` in conftest."""

from __future__ import annotations

from avalon_service.store.conformance import OrderStoreConformance, WorkerDirectoryConformance
from avalon_service.store.delivery_conformance import DeliveryStoreConformance
from avalon_service.store.receipt_conformance import ReceiptStoreConformance


class TestOrders(OrderStoreConformance):
    pass


class TestWorkers(WorkerDirectoryConformance):
    pass


class TestReceipts(ReceiptStoreConformance):
    pass


class TestDeliveries(DeliveryStoreConformance):
    pass
