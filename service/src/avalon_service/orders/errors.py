"""What can go wrong with orders, workers and their store.

```
ServiceError
├── OrderError                  one work order: carries work_order_id
│   ├── UnknownWorkOrder
│   ├── DuplicateWorkOrder
│   ├── RequestTooLarge
│   ├── StaleClaim
│   └── InvalidTransition
├── ReceiptError                one receipt: carries work_order_id
│   ├── UnknownReceipt
│   ├── UnknownReceiptUpdate
│   ├── ReceiptExists
│   ├── ReceiptUpdateRefused
│   └── ReceiptFull
├── QueueFull
├── DirectoryError
│   ├── UnknownWorker
│   ├── InvalidTag
│   └── EndOfLookUp
└── StoreUnavailable            nothing was changed; the same call may succeed later
    ├── StoreClosed
    ├── StoreInUse
    └── StoreTooNew
```
"""

from __future__ import annotations


class ServiceError(Exception):
    """The service could not do what it was asked."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class OrderError(ServiceError):
    """The work order does not allow this."""

    def __init__(self, work_order_id: str, message: str = "") -> None:
        super().__init__(f"work order {work_order_id!r}: {message or (type(self).__doc__ or '').strip()}")
        self.work_order_id = work_order_id


class UnknownWorkOrder(OrderError):
    """No such work order is stored."""


class DuplicateWorkOrder(OrderError):
    """This id was already used for another request; submit under a fresh id."""


class RequestTooLarge(OrderError):
    """The request is larger than the store accepts."""


class StaleClaim(OrderError):
    """The claim is no longer held: the order was finished, or claimed again by another host."""


class InvalidTransition(OrderError):
    """An order in this state cannot change in this way."""


class ReceiptError(ServiceError):
    """The receipt does not allow this."""

    def __init__(self, work_order_id: str, message: str = "") -> None:
        self.reason = message or (type(self).__doc__ or "").strip()
        super().__init__(f"receipt of work order {work_order_id!r}: {self.reason}")
        self.work_order_id = work_order_id


class UnknownReceipt(ReceiptError):
    """No receipt of this work order is stored."""


class UnknownReceiptUpdate(ReceiptError):
    """The receipt has no such update."""

    def __init__(self, work_order_id: str, count: int) -> None:
        super().__init__(work_order_id, f"there are {count} such updates, numbered from 1")
        self.count = count


class ReceiptExists(ReceiptError):
    """The work order has a receipt already."""


class ReceiptUpdateRefused(ReceiptError):
    """The receipt's status does not allow this update."""


class ReceiptFull(ReceiptError):
    """The receipt has as many updates as are kept."""


class QueueFull(ServiceError):
    """As many orders are open as the store accepts; try again later."""


class DirectoryError(ServiceError):
    """The worker directory cannot answer this."""


class UnknownWorker(DirectoryError):
    """No such worker is registered."""

    def __init__(self, worker_id: str) -> None:
        super().__init__(f"no worker {worker_id!r} is registered")
        self.worker_id = worker_id


class InvalidTag(DirectoryError):
    """The look-up tag is not one that this directory gave out."""


class EndOfLookUp(DirectoryError):
    """There are no more results to this look-up."""


class StoreUnavailable(ServiceError):
    """The store could not do this now; nothing was changed."""


class StoreClosed(StoreUnavailable):
    """The store was closed."""


class StoreInUse(StoreUnavailable):
    """Another process has this database open."""

    def __init__(self, path: str, pid: int | None) -> None:
        holder = "another process" if pid is None else f"process {pid}"
        super().__init__(
            f"the database {path} is in use by {holder}, expected it to be free: stop that process, "
            "or give this one a database of its own"
        )
        self.path = path
        self.pid = pid


class StoreTooNew(StoreUnavailable):
    """The database was written by a newer version."""

    def __init__(self, path: str, found: str, known: str) -> None:
        super().__init__(
            f"the database {path} has schema {found!r}, expected {known!r} or older: it was written by a newer "
            "version of the service; install that version, or restore a backup made before the upgrade"
        )
        self.path = path
        self.found = found
        self.known = known
