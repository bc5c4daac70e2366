"""Carries frames between the enclaves of a pool. It cannot read them; it can only cut a link."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from avalon_core.channel.messages import ToEnclave
from avalon_core.channel.pool_messages import LinkClosed, LinkFrame, LinkOpened
from avalon_core.errors import ChannelError

log = logging.getLogger(__name__)

ENDED = "the enclave ended"
"""Why links of an enclave that is gone are over."""


class End(Protocol):
    """An enclave, here or on another machine, as far as links are concerned."""

    def send(self, message: ToEnclave) -> None:
        """Say something to the enclave."""


@dataclass(slots=True, eq=False)
class Wire:
    """A link between two enclaves."""

    initiator: End
    responder: End
    number: int
    on_end: Callable[[str], None]
    """Called once, with the reason, when the link is over."""

    def other(self, end: End) -> End:
        """The enclave at the other end."""
        return self.responder if end is self.initiator else self.initiator


class Switch:
    """All links of a pool. For one event loop."""

    def __init__(self) -> None:
        self._wires: dict[tuple[int, int], Wire] = {}
        """By the identity of an end and the link's number."""

        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        """Links."""
        return len(self._wires) // 2

    def connect(self, initiator: End, responder: End, *, peer: int, on_end: Callable[[str], None]) -> Wire:
        """Join two enclaves; the first greets the second.

        Args:
            initiator: greets.
            responder: is greeted.
            peer: a number for the responder, the same whenever it is connected again.
            on_end: called once, when the link is over.
        """
        number = next(self._numbers)
        wire = Wire(initiator, responder, number, on_end)
        self._wires[id(initiator), number] = self._wires[id(responder), number] = wire
        responder.send(LinkOpened(number, initiate=False))
        initiator.send(LinkOpened(number, initiate=True, peer=peer))
        return wire

    def carry(self, sender: End, frame: LinkFrame) -> None:
        """Carry a frame to the other end. A frame on a link that is over is dropped."""
        wire = self._wires.get((id(sender), frame.link))
        if wire is None:
            return
        try:
            wire.other(sender).send(frame)
        except ChannelError as exc:
            self.cut(wire, f"a frame does not fit: {exc.message}")

    def closed_by(self, sender: End, link: int, reason: str) -> None:
        """An enclave has ended a link."""
        wire = self._wires.get((id(sender), link))
        if wire is not None:
            self.cut(wire, reason)

    def cut(self, wire: Wire, reason: str) -> None:
        """End a link, at both ends."""
        ends = wire.initiator, wire.responder
        if self._wires.pop((id(ends[0]), wire.number), None) is None:
            return
        self._wires.pop((id(ends[1]), wire.number), None)
        for end in ends:
            end.send(LinkClosed(wire.number))
        wire.on_end(reason)

    def gone(self, end: End) -> None:
        """An enclave is gone: end all of its links."""
        for (owner, _), wire in list(self._wires.items()):
            if owner == id(end):
                self.cut(wire, ENDED)
