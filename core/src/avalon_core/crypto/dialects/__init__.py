"""How an order is hashed and its messages are laid out, one module a dialect.

``avalon`` and ``eea-1.1`` are what existing clients speak; nothing in an order names which of the two it is in: it
is the one under which its encrypted request hash opens. ``~avalon-hpke-1`` is ours and is named by payloadFormat.
"""

from avalon_core.crypto.dialects.base import Dialect, OrderKeys, WorkerKeys, WorkerPublicKeys
from avalon_core.crypto.dialects.hpke import HPKE
from avalon_core.crypto.dialects.session import AVALON, EEA

SESSION_DIALECTS = (AVALON, EEA)
"""Tried in this order: nearly every existing client speaks the first."""

DIALECTS = {dialect.name: dialect for dialect in (HPKE, AVALON, EEA)}

__all__ = [
    "AVALON",
    "DIALECTS",
    "EEA",
    "HPKE",
    "SESSION_DIALECTS",
    "Dialect",
    "OrderKeys",
    "WorkerKeys",
    "WorkerPublicKeys",
]
