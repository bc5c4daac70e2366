"""Reading fixed binary structures from bytes: every length is checked before it is used."""

from typing import Literal

from avalon_core.errors import EvidenceError

ByteOrder = Literal["big", "little"]


class Cursor:
    """A position in bytes. The TPM's structures are big-endian; what firmware logs is little-endian."""

    def __init__(self, data: bytes, *, what: str, order: ByteOrder) -> None:
        """``what`` names the structure in errors."""
        self._data = data
        self._what = what
        self._order: ByteOrder = order
        self.position = 0

    @property
    def left(self) -> int:
        """Bytes that have not been read."""
        return len(self._data) - self.position

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes.

        Raises:
            EvidenceError: there are fewer.
        """
        if count > self.left:
            raise EvidenceError(
                f"{self._what} ends too early: got {self.left} bytes at offset {self.position}, expected {count}"
            )
        taken = self._data[self.position : self.position + count]
        self.position += count
        return taken

    def number(self, width: int) -> int:
        """The next unsigned integer of ``width`` bytes."""
        return int.from_bytes(self.take(width), self._order)

    def sized(self, width: int, *, most: int) -> bytes:
        """Bytes after their length, an unsigned integer of ``width`` bytes: a TPM2B where it is 2.

        Raises:
            EvidenceError: longer than ``most``, or than what is left.
        """
        length = self.number(width)
        if length > most:
            raise EvidenceError(
                f"{self._what} has a part that is too long: got {length} bytes at offset {self.position}, "
                f"expected at most {most}"
            )
        return self.take(length)

    def end(self) -> None:
        """Make sure that nothing is left.

        Raises:
            EvidenceError: something is.
        """
        if self.left:
            raise EvidenceError(f"{self._what} goes on after its end: {self.left} bytes too many")
