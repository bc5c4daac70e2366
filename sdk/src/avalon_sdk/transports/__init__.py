"""How orders travel to a worker and results come back. What travels is the same on every way."""

from avalon_sdk.transports.base import EncodedOrder, NotReady, ServerEvent, Transport
from avalon_sdk.transports.direct import DirectTransport

__all__ = ["DirectTransport", "EncodedOrder", "NotReady", "ServerEvent", "Transport"]
