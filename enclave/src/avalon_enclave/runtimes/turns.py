"""Which order gets the next child process.

There are few children, and a workload may hold each of its own for as long as its limit allows. Orders wait for one
here, where they hold up no thread, and:

1. Every workload always has a place: of those that are free, one is kept for each workload that has no child at work.
   So one whose orders are slow or hang can take the places of no other.
2. Workloads take turns, and so do the requesters of one workload; a requester's own orders come one after the other.
"""

import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import Generic, TypeVar

_Order = TypeVar("_Order")
_Workload = TypeVar("_Workload")


class ChildQueue(Generic[_Workload, _Order]):
    """Orders that wait for a child. For any number of threads; those that run children are as many as ``places``."""

    def __init__(self, places: int, workloads: Collection[_Workload]) -> None:
        """``places``: how many children work at a time; at least one for each of the ``workloads``."""
        self.places = max(places, len(workloads)) if workloads else 0
        self._changed = threading.Condition()
        self._lines: OrderedDict[_Workload, OrderedDict[str, OrderedDict[_Order, None]]] = OrderedDict(
            (workload, OrderedDict()) for workload in workloads
        )
        """By workload and by requester, each in the order of their turns."""

        self._where: dict[_Order, tuple[_Workload, str]] = {}
        self._at_work = dict.fromkeys(workloads, 0)
        self._closed = False

    def __len__(self) -> int:
        """Orders that wait."""
        return len(self._where)

    def put(self, order: _Order, *, workload: _Workload, requester: str) -> None:
        """Have an order wait for its turn."""
        with self._changed:
            self._lines[workload].setdefault(requester, OrderedDict())[order] = None
            self._where[order] = workload, requester
            self._changed.notify()

    def remove(self, order: _Order) -> None:
        """Let an order wait no longer. Nothing happens where it does not."""
        with self._changed:
            found = self._where.pop(order, None)
            if found is None:
                return
            workload, requester = found
            line = self._lines[workload][requester]
            del line[order]
            if not line:
                del self._lines[workload][requester]
            if self._ended:
                self._changed.notify_all()

    def take(self) -> tuple[_Workload, _Order] | None:
        """Wait for an order whose turn it is; its workload has a child at work until :meth:`release`.

        None: the end, when no child is at work any more, in whatever thread: children die with the thread that
        started them, and another may be using one.
        """
        with self._changed:
            while True:
                workload = self._next()
                if workload is not None:
                    return workload, self._pop(workload)
                if self._ended:
                    return None
                self._changed.wait()

    def release(self, workload: _Workload) -> None:
        """The child is not at work any more. Whoever says so takes the next order, so nobody is woken for it."""
        with self._changed:
            self._at_work[workload] -= 1
            if self._ended:
                self._changed.notify_all()

    def close(self) -> None:
        """No order comes any more: :meth:`take` ends when all that wait were taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self) -> _Workload | None:
        free = self.places - sum(self._at_work.values())
        kept = sum(not at_work for at_work in self._at_work.values())
        for workload, lines in self._lines.items():
            if lines and free > (kept if self._at_work[workload] else 0):
                return workload
        return None

    def _pop(self, workload: _Workload) -> _Order:
        self._at_work[workload] += 1
        self._lines.move_to_end(workload)
        lines = self._lines[workload]
        requester = next(iter(lines))
        order, _ = lines[requester].popitem(last=False)
        if lines[requester]:
            lines.move_to_end(requester)
        else:
            del lines[requester]
        del self._where[order]
        return order

    @property
    def _ended(self) -> bool:
        return self._closed and not self._where and not any(self._at_work.values())
