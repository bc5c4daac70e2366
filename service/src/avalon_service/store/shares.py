"""How much of the room each key takes, and whether it may take more."""

from __future__ import annotations


class Shares:
    """A count for each key, with one cap for all (0: none). The empty key is never counted; nor take idle keys memory."""

    __slots__ = ("_cap", "_taken")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._taken: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._taken)

    def full(self, key: str) -> bool:
        """Whether a key has all that it may have."""
        return self._cap > 0 and self._taken.get(key, 0) >= self._cap

    def take(self, key: str) -> None:
        """Count one more."""
        if self._cap > 0 and key:
            self._taken[key] = self._taken.get(key, 0) + 1

    def give_back(self, key: str) -> None:
        """Count one less."""
        if self._cap > 0 and key:
            left = self._taken[key] - 1
            if left:
                self._taken[key] = left
            else:
                del self._taken[key]
