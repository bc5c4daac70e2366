"""Look-up tags of receipts: after which receipt the next page starts, and how many there are altogether."""

from __future__ import annotations

import re

import msgspec

from avalon_service.orders.errors import InvalidTag

_TAG = re.compile(r"after-([0-9]{1,18})-of-([0-9]{1,18})\Z", re.ASCII)
_SHOWN = 48


class ReceiptTag(msgspec.Struct, frozen=True, gc=False):
    """Where a look-up goes on."""

    after: int
    """The number of the last receipt on the page before."""
    total: int
    """As counted for the first page."""

    def __str__(self) -> str:
        return f"after-{self.after}-of-{self.total}"


def read_tag(tag: str) -> ReceiptTag | None:
    """The tag, or None for the first page.

    Raises:
        InvalidTag: it is not one that a store gave out.
    """
    if not tag:
        return None
    found = _TAG.match(tag)
    if found is None:
        raise InvalidTag(f"got look-up tag {tag[:_SHOWN]!r}, expected the one that came with the page before")
    return ReceiptTag(after=int(found[1]), total=int(found[2]))
