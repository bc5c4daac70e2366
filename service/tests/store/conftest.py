from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import msgspec
import pytest

from avalon_service.orders.ports import Store
from avalon_service.store import identities
from avalon_service.store.conformance import ManualClock, Medium
from avalon_service.store.faulty import FaultyStore
from avalon_service.store.limits import Limits
from avalon_service.store.memory import MemoryJournal, MemoryStore
from avalon_service.store.sqlite import SqliteStore


class MemoryMedium:
    def __init__(self) -> None:
        self.journal = MemoryJournal()

    async def open(self, *, clock: ManualClock, limits: Limits) -> Store:
        return MemoryStore(clock=clock, limits=limits, journal=self.journal)


class SqliteMedium:
    def __init__(self, path: Path) -> None:
        self.path = path

    async def open(self, *, clock: ManualClock, limits: Limits) -> Store:
        return await SqliteStore.open(self.path, clock=clock, limits=limits)


class PiecemealMedium(SqliteMedium):
    """Ids go into the index every few orders, and nearly all bodies into files: none of it must make a difference."""

    async def open(self, *, clock: ManualClock, limits: Limits) -> Store:
        with patch.multiple(identities, _GENERATION=3, _SLICE=2):
            return await SqliteStore.open(
                self.path, clock=clock, limits=msgspec.structs.replace(limits, stowed=2)
            )


class FaultyMedium:
    """Nothing fails unless a test says so: the wrapper itself must not change a thing."""

    def __init__(self) -> None:
        self.inner = MemoryMedium()

    async def open(self, *, clock: ManualClock, limits: Limits) -> Store:
        return FaultyStore(await self.inner.open(clock=clock, limits=limits))


@pytest.fixture(params=["memory", "sqlite", "piecemeal", "faulty"])
def medium(request: pytest.FixtureRequest, tmp_path: Path) -> Medium:
    match request.param:
        case "memory":
            return MemoryMedium()
        case "sqlite":
            return SqliteMedium(tmp_path / "avalon.db")
        case "piecemeal":
            return PiecemealMedium(tmp_path / "avalon.db")
        case _:
            return FaultyMedium()
