"""Finding workers: the directory's order, criteria and paging, in memory.

A service has few workers and looks them up often, so every store keeps them all here and writes changes behind it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from avalon_service.orders.errors import EndOfLookUp, InvalidTag, UnknownWorker
from avalon_service.orders.ports import LookUpPage, WorkerEntry

_TAG_PREFIX = "after-"
_MAX_TAG = 32
"""Characters of a tag: the prefix and a number of 64 bits in decimal fit."""


class Directory:
    """All workers, numbered in the order of their first registration."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, WorkerEntry]] = {}
        self._numbers: list[int] = []
        self._ids: list[str] = []

    def number_for(self, worker_id: str) -> int:
        """The number that a worker has, or the one that it would get."""
        if worker_id in self._entries:
            return self._entries[worker_id][0]
        return self._numbers[-1] + 1 if self._numbers else 1

    def put(self, number: int, entry: WorkerEntry) -> None:
        """Add a worker under a number above all others, or replace the entry that has this number."""
        if entry.worker_id not in self._entries:
            self._numbers.append(number)
            self._ids.append(entry.worker_id)
        self._entries[entry.worker_id] = (number, entry)

    def retrieve(self, worker_id: str) -> WorkerEntry:
        """See `WorkerDirectory.retrieve`."""
        try:
            return self._entries[worker_id][1]
        except KeyError:
            raise UnknownWorker(worker_id) from None

    def look_up(
        self,
        *,
        worker_type: int,
        organization_id: str | None,
        application_type_ids: Sequence[str] | None,
        tag: str,
        limit: int,
    ) -> LookUpPage:
        """See `WorkerDirectory.look_up`."""
        after = _number_in(tag) if tag else 0
        applications = frozenset(application_type_ids or ())
        matching = [
            (number, worker_id)
            for number, worker_id in zip(self._numbers, self._ids, strict=True)
            if _matches(self._entries[worker_id][1], worker_type, organization_id, applications)
        ]
        start = bisect_right(matching, after, key=lambda match: match[0])
        page = matching[start : start + max(1, limit)]
        if tag and not page:
            raise EndOfLookUp
        more = start + len(page) < len(matching)
        return LookUpPage(
            total=len(matching),
            tag=f"{_TAG_PREFIX}{page[-1][0]}" if more else "",
            ids=tuple(worker_id for _, worker_id in page),
        )


def _matches(
    entry: WorkerEntry, worker_type: int, organization_id: str | None, application_type_ids: frozenset[str]
) -> bool:
    return (
        worker_type in (0, entry.worker_type)
        and (organization_id is None or organization_id == entry.organization_id)
        and application_type_ids.issubset(entry.application_type_ids)
    )


def _number_in(tag: str) -> int:
    digits = tag.removeprefix(_TAG_PREFIX)
    if len(tag) > _MAX_TAG or digits == tag or not (digits.isascii() and digits.isdigit()):
        raise InvalidTag(
            f"got look-up tag {tag[:_MAX_TAG]!r}, expected the one that came with the page before"
        )
    return int(digits)
