"""GET /deliveries: what is to be posted, was, or could not be. For the operator.

    GET /deliveries?state=dead&limit=100&before=42

Of an address only scheme, host and port are shown: the rest may be a secret between requester and receiver.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence

import msgspec
from yarl import URL

from avalon_service.deliveries.ports import Delivery, DeliveryState

_LIMIT = 100
_MAX_LIMIT = 1000
_MAX_QUERY_BYTES = 256
_MAX_NUMBER_DIGITS = 18


class PageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for."""

    state: DeliveryState = DeliveryState.DEAD
    limit: int = _LIMIT
    before: int | None = None
    """Deliveries planned before the one of this number."""


def read_page_query(query: bytes) -> PageQuery:
    """Read the query of the URL.

    Raises:
        ValueError: says what was expected.
    """
    if len(query) > _MAX_QUERY_BYTES:
        raise ValueError("the query is too long")
    members = dict(urllib.parse.parse_qsl(query.decode("latin-1")))
    state = members.get("state", DeliveryState.DEAD.value)
    if state not in set(DeliveryState):
        raise ValueError(f"state: expected one of {', '.join(DeliveryState)}")
    limit, before = _number(members, "limit"), _number(members, "before")
    return PageQuery(
        state=DeliveryState(state), limit=min(_LIMIT if limit is None else limit, _MAX_LIMIT), before=before
    )


def encode_page(query: PageQuery, deliveries: Sequence[Delivery]) -> bytes:
    """The page as JSON; ``before`` asks for the next one and is null on the last."""
    more = len(deliveries) == query.limit > 0
    return msgspec.json.encode(
        {
            "state": query.state,
            "deliveries": [_shown(delivery) for delivery in deliveries],
            "before": deliveries[-1].number if more else None,
        }
    )


def _shown(delivery: Delivery) -> dict[str, object]:
    return {
        "number": delivery.number,
        "workOrderId": delivery.work_order_id,
        "kind": delivery.kind,
        "receiver": str(URL(delivery.uri).origin()),
        "attempts": delivery.attempts,
        "plannedAt": delivery.planned_at,
        "dueAt": delivery.due_at,
        "finishedAt": delivery.finished_at,
        "lastError": delivery.last_error,
    }


def _number(members: dict[str, str], name: str) -> int | None:
    text = members.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_NUMBER_DIGITS):
        raise ValueError(f"{name}: expected a number")
    return int(text)
