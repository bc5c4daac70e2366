"""Values from a JSON Schema: such as it describes, and such as it just does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

LONGEST = 70_000
"""Characters of the longest text: the caps of whole bodies have tests of their own."""

NASTY_TEXTS = (
    "",
    "\0",
    "\ud800",
    "\u202e",
    "\u017f",
    "0x",
    "-",
    "null",
    "\u0130",
    "\n",
    "a" * 65,
    "ab" * 33,
    "../../x",
    "%00",
)
NASTY_NUMBERS = (
    -1,
    0,
    1,
    255,
    2**31,
    2**32,
    2**63,
    2**64,
    -(2**63) - 1,
    10**400,
    0.5,
    1e308,
    math.inf,
    math.nan,
)

anything: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=30)
    | st.sampled_from(NASTY_TEXTS)
    | st.sampled_from(NASTY_NUMBERS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def valid(schema: Mapping[str, Any], resolve: Callable[[Any], Any]) -> st.SearchStrategy[Any]:
    """Values that the schema describes, those at its bounds included."""
    schema = resolve(schema)
    if "anyOf" in schema:
        return st.one_of([valid(one, resolve) for one in schema["anyOf"]])
    match schema.get("type"):
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            low, high = schema.get("minimum"), schema.get("maximum")
            bounds = [bound for bound in (low, high) if bound is not None]
            return st.integers(low, high) | (st.sampled_from(bounds) if bounds else st.nothing())
        case "number":
            return st.floats(allow_nan=False, allow_infinity=False)
        case "string":
            return _texts(schema)
        case "array":
            items = valid(schema.get("items", {}), resolve)
            return st.lists(items, max_size=min(4, schema.get("maxItems", 4)))
        case "object":
            return members(schema, resolve)
        case _:
            return anything


def members(schema: Mapping[str, Any], resolve: Callable[[Any], Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with all required members and some of the others."""
    required = schema.get("required", ())
    strategies = {name: valid(member, resolve) for name, member in schema.get("properties", {}).items()}
    return st.fixed_dictionaries(
        {name: strategy for name, strategy in strategies.items() if name in required},
        optional={name: strategy for name, strategy in strategies.items() if name not in required},
    )


def beyond(schema: Mapping[str, Any], resolve: Callable[[Any], Any]) -> st.SearchStrategy[Any]:
    """Values that lie just outside, of another type, or far off."""
    schema = resolve(schema)
    near: list[Any] = []
    for one in (resolve(one) for one in schema.get("anyOf", [schema])):
        near += [one["minimum"] - 1] if "minimum" in one else []
        near += [one["maximum"] + 1, float(one["maximum"])] if "maximum" in one else []
        for bound in ("minLength", "maxLength"):
            if bound in one:
                near += ["a" * min(length, LONGEST) for length in (one[bound] + 1, max(one[bound] - 1, 0))]
        if "maxItems" in one:
            near.append([0] * (one["maxItems"] + 1))
    return st.one_of(
        anything,
        st.sampled_from(NASTY_TEXTS),
        st.sampled_from(NASTY_NUMBERS),
        st.sampled_from([nested(10), nested(1_000)]),
        *([st.sampled_from(near)] if near else []),
    )


def _texts(schema: Mapping[str, Any]) -> st.SearchStrategy[str]:
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength")
    if "pattern" in schema:
        texts = st.from_regex(schema["pattern"].replace("$", r"\Z"), fullmatch=True)
        fitting = texts.filter(
            lambda text: shortest <= len(text) and (longest is None or len(text) <= longest)
        )
    else:
        fitting = st.text(min_size=shortest, max_size=max(shortest, min(longest or 40, 40)))
    if longest is None:
        return fitting
    at_the_bound = ["ab" * (min(longest, LONGEST) // 2)]
    return fitting | st.sampled_from(at_the_bound)
