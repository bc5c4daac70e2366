"""Trust policies from TOML and JSON: loading that says what is wrong, and where. Writing is in the neighbour,
:mod:`avalon_core.attestation.policy_writing`.

A member that is not known is refused, with its place and the nearest right name: a restriction with a slip of the pen
in its name would else silently not be there. The members are those of
:class:`~avalon_core.attestation.policy.TrustPolicy`, and in the place of ``code`` either form:

    measurements = ["<hex>", ...]             the short form: one of these

    [[code]]                                  the long form: any of these tables may match
    measurement = "<hex>"                     with registers = {rtmr0 = "<hex>"} and label = "..." where wanted
    [[code]]
    signer = "<hex>"                          with product_id and minimum_svn
    [[code]]
    all_of = [{tee = "snp"}, {measurement = "<hex>"}, {field = "vmpl", values = ["0"]}]

A table of ``code`` is one of: ``measurement``, ``measurements``, ``registers``, ``signer``, ``tee``, ``field``,
``all_of``, ``any_of``, ``any_measurement_UNSAFE``. Durations are seconds, or texts such as ``"12h"`` and ``"30d"``.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, TypeVar

from avalon_core.attestation.claims import TcbStatus, Tee
from avalon_core.attestation.policy import (
    PROTECTING_TEES,
    SIMULATORS,
    VENDORS,
    TrustPolicy,
    unknown_roots,
)
from avalon_core.attestation.roots import TrustAnchor
from avalon_core.attestation.rules import (
    MAX_DEPTH,
    MAX_VALUES,
    AllOf,
    AnyMeasurementUNSAFE,
    AnyOf,
    Field,
    Kind,
    Measurement,
    Measurements,
    PolicyFormatError,
    Registers,
    Rule,
    Signer,
)

POLICY_VERSION = 1

MAX_POLICY_BYTES = 1024 * 1024
"""A policy is some lines; a larger text is a mistake."""

T = TypeVar("T")
D = TypeVar("D")
S = TypeVar("S", bound=str)

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"([0-9]{1,9})([smhd])\Z")
_DEVELOPMENT_NAME = TrustPolicy.development().name


def load_policy(raw: bytes | str) -> TrustPolicy:
    """Read a policy: JSON where the text begins with a brace, else TOML.

    Raises:
        PolicyFormatError: not a policy; the message names the place and what was expected there.
    """
    text = _text(raw)
    return load_policy_json(text) if text.lstrip().startswith("{") else load_policy_toml(text)


def load_policy_toml(raw: bytes | str) -> TrustPolicy:
    """Read a policy in TOML.

    Raises:
        PolicyFormatError: as :func:`load_policy`.
    """
    try:
        value = tomllib.loads(_text(raw))
    except PolicyFormatError:
        raise
    except (ValueError, RecursionError) as exc:
        raise PolicyFormatError(f"not TOML: {exc}. Expected lines such as measurements = [...]") from None
    return policy_from_object(value)


def load_policy_json(raw: bytes | str) -> TrustPolicy:
    """Read a policy in JSON.

    Raises:
        PolicyFormatError: as :func:`load_policy`; also where a member is there twice.
    """
    try:
        value = json.loads(_text(raw), object_pairs_hook=_no_duplicates)
    except PolicyFormatError:
        raise
    except (ValueError, RecursionError) as exc:
        raise PolicyFormatError(f"not JSON: {exc}. Expected an object with measurements or code") from None
    return policy_from_object(value)


def _text(raw: bytes | str) -> str:
    size = len(raw)
    if size > MAX_POLICY_BYTES:
        raise PolicyFormatError(f"too large: got {size} bytes, expected at most {MAX_POLICY_BYTES}")
    if isinstance(raw, str):
        return raw
    try:
        return raw.decode()
    except UnicodeDecodeError as exc:
        raise PolicyFormatError(f"not a text: {exc}. Expected TOML or JSON in UTF-8") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise PolicyFormatError(f"the member {name[:40]!r} is there twice: expected it once")
        members[name] = value
    return members


class _Table:
    """A table being read: what is asked of it is known, and the rest of it is refused."""

    def __init__(self, value: Any, place: str, known: Collection[str]) -> None:
        if not isinstance(value, dict):
            raise _wrong(place or "the policy", value, "a table")
        self._members: dict[str, Any] = value
        self._place = place
        for name in self._members:
            if name not in known:
                raise PolicyFormatError(
                    f"unknown member {self.place(name)}: {nearest(name, known)}, expected one of {', '.join(known)}"
                )

    def place(self, name: str) -> str:
        shown = name if len(name) <= 40 else name[:37] + "..."
        return f"{self._place}.{shown}" if self._place else shown

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def get(self, name: str, read: Callable[[Any, str], T], default: D) -> T | D:
        return read(self._members[name], self.place(name)) if name in self._members else default


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the name that was probably meant."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name[:64].lower(), by_lower, n=1, cutoff=0.5)
    return f"did you mean {by_lower[close[0]]}?" if close else "nothing is called like that"


def _wrong(place: str, value: Any, expected: str) -> PolicyFormatError:
    kinds = {dict: "a table", list: "a list", str: "a text", bool: "true or false", int: "a number"}
    found = kinds.get(type(value), type(value).__name__)
    if isinstance(value, str | int | float):
        shown = repr(value)
        found = shown if len(shown) <= 60 else shown[:57] + "..."
    return PolicyFormatError(f"{place}: got {found}, expected {expected}")


def _string(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise _wrong(place, value, "a text in quotes")
    return value


def _hex(value: Any, place: str) -> str:
    # Tools print hex in either case, and often with 0x before it; claims are in lower case.
    text = _string(value, place).lower().removeprefix("0x")
    if not re.fullmatch(r"([0-9a-f]{2})+", text):
        raise _wrong(place, value, "an even number of hex digits")
    return text


def _integer(value: Any, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(place, value, "a whole number")
    return value


def _flag(value: Any, place: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(place, value, "true or false")
    return value


def _duration(value: Any, place: str) -> int:
    if isinstance(value, str) and (match := _DURATION.match(value)):
        return int(match[1]) * _UNITS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(place, value, 'seconds, or a text such as "12h" or "30d"')
    return value


def _list(read: Callable[[Any, str], T]) -> Callable[[Any, str], tuple[T, ...]]:
    def read_list(value: Any, place: str) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise _wrong(place, value, "a list in brackets")
        if len(value) > MAX_VALUES:
            raise PolicyFormatError(f"{place}: got {len(value)} entries, expected at most {MAX_VALUES}")
        return tuple(read(entry, f"{place}[{index}]") for index, entry in enumerate(value))

    return read_list


def _set(read: Callable[[Any, str], T]) -> Callable[[Any, str], frozenset[T]]:
    read_list = _list(read)
    return lambda value, place: frozenset(read_list(value, place))


def _choice(values: Iterable[S]) -> Callable[[Any, str], S]:
    known: dict[str, S] = {str(value): value for value in values}

    def read(value: Any, place: str) -> S:
        text = _string(value, place)
        if text not in known:
            raise PolicyFormatError(
                f"{place}: got {text[:40]!r}: {nearest(text, known)}, expected one of {', '.join(known)}"
            )
        return known[text]

    return read


_tee = _choice(Tee)
_status = _choice(TcbStatus)


def _map(read: Callable[[Any, str], T]) -> Callable[[Any, str], dict[str, T]]:
    def read_map(value: Any, place: str) -> dict[str, T]:
        if not isinstance(value, dict):
            raise _wrong(place, value, "a table")
        if len(value) > MAX_VALUES:
            raise PolicyFormatError(f"{place}: got {len(value)} members, expected at most {MAX_VALUES}")
        return {name: read(entry, f"{place}.{name[:40]}") for name, entry in value.items()}

    return read_map


_MEMBERS: Final = (
    "version",
    "name",
    "measurements",
    "accept_simulator",
    "code",
    "roots",
    "own_roots",
    "tees",
    "allow_debug_UNSAFE",
    "tcb_statuses",
    "advisories",
    "fmspcs",
    "denied_fmspcs",
    "config_ids",
    "minimum_config_svn",
    "minimum_tcb",
    "minimum_tcb_evaluation",
    "maximum_age",
    "collateral_grace",
    "demand_revocation",
    "pool_owners",
    "tenants",
)


def policy_from_object(value: Any) -> TrustPolicy:
    """Read a policy from the values that a parser of TOML or JSON gives.

    Raises:
        PolicyFormatError: as :func:`load_policy`.
    """
    table = _Table(value, "", _MEMBERS)
    version = table.get("version", _integer, POLICY_VERSION)
    if version != POLICY_VERSION:
        raise PolicyFormatError(f"version: got {version}, expected {POLICY_VERSION}")
    # The short form of old: it says that this is for development, with all that goes with it.
    develops = table.get("accept_simulator", _flag, False)
    roots = table.get("roots", _set(_string), frozenset({VENDORS}))
    policy = TrustPolicy(
        name=table.get("name", _string, _DEVELOPMENT_NAME if develops else ""),
        code=_read_code(table, develops=develops),
        roots=roots | {SIMULATORS} if develops else roots,
        own_roots=table.get("own_roots", _list(_read_root), ()),
        tees=table.get("tees", _set(_tee), PROTECTING_TEES),
        allow_debug_UNSAFE=table.get("allow_debug_UNSAFE", _flag, False),
        tcb_statuses=table.get("tcb_statuses", _set(_status), frozenset({TcbStatus.UP_TO_DATE})),
        advisories=table.get("advisories", _set(_string), frozenset()),
        fmspcs=table.get("fmspcs", _set(_hex), None),
        denied_fmspcs=table.get("denied_fmspcs", _set(_hex), frozenset()),
        config_ids=table.get("config_ids", _set(_hex), None),
        minimum_config_svn=table.get("minimum_config_svn", _integer, None),
        minimum_tcb=table.get("minimum_tcb", _read_minimums, {}),
        minimum_tcb_evaluation=table.get("minimum_tcb_evaluation", _integer, None),
        maximum_age=table.get("maximum_age", _duration, None),
        collateral_grace=table.get("collateral_grace", _duration, 0),
        demand_revocation=table.get("demand_revocation", _flag, not develops),
        pool_owners=table.get("pool_owners", _set(_hex), frozenset()),
        tenants=table.get("tenants", _set(_string), None),
    )
    for name in unknown_roots(policy):
        known = [root.name for root in policy.anchors()]
        raise PolicyFormatError(
            f"roots: nobody here knows {name!r}: {nearest(name, known)}, expected {VENDORS}, {SIMULATORS} or one of "
            f"{', '.join(sorted(known))}. A root of your own goes into own_roots with its digest"
        )
    return policy


def _read_code(table: _Table, *, develops: bool) -> Rule:
    rules: list[Rule] = []
    if "measurements" in table or (develops and "code" not in table):
        rules.append(Measurements(table.get("measurements", _set(_hex), frozenset())))
    code = table.get("code", _read_alternatives, None)
    if code is None:
        return rules[0] if rules else AnyOf()
    if not rules:
        return code
    return AnyOf(*rules, *(code.parts if isinstance(code, AnyOf) else (code,)))


def _read_alternatives(value: Any, place: str) -> Rule:
    if isinstance(value, dict):
        return _read_rule(value, place, 1)
    return AnyOf(*_read_rules(value, place, 1))


def _read_rules(value: Any, place: str, depth: int) -> tuple[Rule, ...]:
    return _list(lambda entry, where: _read_rule(entry, where, depth + 1))(value, place)


def _read_minimums(value: Any, place: str) -> Mapping[Tee, Mapping[str, int]]:
    table = _Table(value, place, [str(tee) for tee in Tee])
    return {tee: table.get(tee, _map(_integer), {}) for tee in Tee if tee in table}


def _read_root(value: Any, place: str) -> TrustAnchor:
    table = _Table(value, place, ("name", "sha256", "simulated", "description"))
    for name in ("name", "sha256"):
        if name not in table:
            raise PolicyFormatError(f"{place}: expected {name}")
    sha256 = table.get("sha256", _hex, "")
    try:
        return TrustAnchor(
            name=table.get("name", _string, ""),
            sha256=sha256,
            simulated=table.get("simulated", _flag, False),
            description=table.get("description", _string, ""),
        )
    except ValueError as exc:
        raise PolicyFormatError(f"{place}: {exc}") from None


def _read_measurement(value: Any, place: str) -> Rule:
    table = _Table(value, place, ("measurement", "registers", "label"))
    return Measurement(
        value=table.get("measurement", _hex, ""),
        registers=table.get("registers", _map(_hex), {}),
        label=table.get("label", _string, ""),
    )


def _read_signer(value: Any, place: str) -> Rule:
    table = _Table(value, place, ("signer", "product_id", "minimum_svn"))
    return Signer(
        signer=table.get("signer", _hex, ""),
        product_id=table.get("product_id", _integer, None),
        minimum_svn=table.get("minimum_svn", _integer, None),
    )


def _read_field(value: Any, place: str) -> Rule:
    table = _Table(value, place, ("field", "values"))
    return Field(name=table.get("field", _string, ""), values=table.get("values", _set(_string), frozenset()))


def _read_unsafe(value: Any, place: str) -> Rule:
    if not _Table(value, place, ("any_measurement_UNSAFE",)).get("any_measurement_UNSAFE", _flag, False):
        raise PolicyFormatError(f"{place}.any_measurement_UNSAFE: expected true, or no such table")
    return AnyMeasurementUNSAFE()


_RULES: Final[Mapping[str, Callable[[Any, str], Rule]]] = {
    "measurement": _read_measurement,
    "measurements": lambda value, place: Measurements(
        _Table(value, place, ("measurements",)).get("measurements", _set(_hex), frozenset())
    ),
    "signer": _read_signer,
    "registers": lambda value, place: Registers(
        values=_Table(value, place, ("registers",)).get("registers", _map(_hex), {})
    ),
    "tee": lambda value, place: Kind(_Table(value, place, ("tee",)).get("tee", _tee, Tee.SGX)),
    "field": _read_field,
    "any_measurement_UNSAFE": _read_unsafe,
}
"""By the member that tells which rule a table is. Its order matters: a measurement may have registers."""

_RULE_MEMBERS: Final = (
    *_RULES,
    "all_of",
    "any_of",
    "label",
    "product_id",
    "minimum_svn",
    "values",
)


def _read_rule(value: Any, place: str, depth: int) -> Rule:
    if depth > MAX_DEPTH:
        raise PolicyFormatError(f"{place}: nested too deep, expected at most {MAX_DEPTH} levels")
    table = _Table(value, place, _RULE_MEMBERS)
    try:
        for name, combine in (("all_of", AllOf), ("any_of", AnyOf)):
            if name in table:
                inner = _Table(value, place, (name,))
                return combine(*inner.get(name, lambda v, where: _read_rules(v, where, depth), ()))
        for name, read in _RULES.items():
            if name in table:
                return read(value, place)
    except PolicyFormatError as exc:
        # Constructors do not know where they were called from.
        raise exc if place in exc.message else PolicyFormatError(f"{place}: {exc.message}") from None
    raise PolicyFormatError(f"{place}: expected one of {', '.join(_RULES)}, all_of, any_of")
