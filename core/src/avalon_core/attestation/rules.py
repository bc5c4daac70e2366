"""Which code a policy admits, as objects: leaves that look at claims, and AllOf and AnyOf that combine them.

A rule judges claims and says why: the outcome of a combination holds the outcomes of its parts, so that a report can
tell of every alternative why it did not match. A rule that names nothing admits nothing, combinations included.
Whatever code there is is admitted by :class:`AnyMeasurementUNSAFE` alone, which says so in its name.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from avalon_core.attestation.claims import Claims, Tee
from avalon_core.errors import AvalonError

MAX_RULES = 2_000
"""In one policy, parts counted. Reports tell of every alternative: more would not be read."""

MAX_DEPTH = 8
MAX_VALUES = 10_000
"""Values in one allow-list: a few bytes each, and a policy file has 1 MiB at most."""

MAX_NAME_CHARS = 200
MAX_VALUE_CHARS = 512
MAX_COUNT = 2**63 - 1
MEASUREMENT_HEX_CHARS = (64, 96, 128)
"""SHA-256 (SGX, TPM), SHA-384 (TDX, SNP, Nitro), SHA-512."""

_HEX = re.compile(r"([0-9a-f]{2})+\Z")
_WORD = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_FIELDS = ("family_id", "ext_product_id", "owner", "chip_id", "config_id", "fmspc")
_NO_REGISTERS: Mapping[str, str] = MappingProxyType({})


class PolicyFormatError(AvalonError, ValueError):
    """The trust policy is not well formed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a rule says about claims, and why."""

    matched: bool
    rule: str
    """The rule in words."""

    because: str
    """What was found: what matched, or what stood against it."""

    parts: Sequence["Outcome"] = ()
    """The outcomes of a combination's parts, in their order."""


@runtime_checkable
class Rule(Protocol):
    """One rule about code."""

    def judge(self, claims: Claims) -> Outcome:
        """Whether the claims match, and why."""

    @property
    def is_empty(self) -> bool:
        """It admits nothing, whatever the claims are."""

    @property
    def is_grounded(self) -> bool:
        """Nothing passes it whose code is not pinned, unless the rule says UNSAFE in its own name."""


def admits(rule: Rule, claims: Claims) -> bool:
    """Whether the claims match the rule."""
    return rule.judge(claims).matched


def require_hex(text: str, what: str, lengths: Sequence[int] = ()) -> None:
    """Raise PolicyFormatError unless the text is lower-case hex, of one of the lengths where there are any."""
    if _HEX.match(text) and (len(text) in lengths if lengths else len(text) <= MAX_VALUE_CHARS):
        return
    digits = " or ".join(str(length) for length in lengths) if lengths else "an even number of"
    raise PolicyFormatError(f"{what}: got {_short(text)}, expected {digits} lower-case hex digits")


def require_count(number: int, what: str, least: int = 0) -> None:
    """Raise PolicyFormatError unless the number is one of ``least`` or more."""
    if isinstance(number, bool) or not least <= number <= MAX_COUNT:
        raise PolicyFormatError(f"{what}: got {number!r}, expected a number of {least} or more")


def require_text(text: str, what: str) -> None:
    """Raise PolicyFormatError unless the text is short and can be shown as it is."""
    if len(text) > MAX_NAME_CHARS or not text.isprintable():
        raise PolicyFormatError(
            f"{what}: got {_short(text)}, expected at most {MAX_NAME_CHARS} printable characters"
        )


def require_word(text: str, what: str) -> None:
    """Raise PolicyFormatError unless the text is a lower-case word: letters, digits and underscores."""
    if not _WORD.match(text):
        raise PolicyFormatError(f"{what}: got {_short(text)}, expected a lower-case word such as rtmr0")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


@dataclass(frozen=True, slots=True)
class Measurements:
    """Accept code whose measurement is in this set, and no other."""

    allowed: Set[str] = frozenset()
    """Lower-case hex of 32, 48 or 64 bytes each."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "allowed", frozenset(self.allowed))
        if len(self.allowed) > MAX_VALUES:
            raise PolicyFormatError(
                f"measurements: got {len(self.allowed)}, expected at most {MAX_VALUES} in one list"
            )
        for measurement in self.allowed:
            require_hex(measurement, "measurement", MEASUREMENT_HEX_CHARS)

    def admits(self, measurement: str) -> bool:
        """Whether the measurement is in the set."""
        return measurement in self.allowed

    def judge(self, claims: Claims) -> Outcome:
        matched = self.admits(claims.measurement)
        because = f"the measurement is {claims.measurement}"
        if not matched and self.allowed:
            because += " and not in the list"
        return Outcome(matched=matched, rule=str(self), because=because)

    @property
    def is_empty(self) -> bool:
        return not self.allowed

    @property
    def is_grounded(self) -> bool:
        return True

    def __str__(self) -> str:
        if not self.allowed:
            return "one of 0 measurements (an empty list admits nothing)"
        if len(self.allowed) == 1:
            return f"measurement {min(self.allowed)}"
        return f"one of {len(self.allowed)} measurements"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Accept one measurement, under a name for people, and only with these registers where some are given."""

    value: str
    """Lower-case hex of 32, 48 or 64 bytes."""

    registers: Mapping[str, str] = field(default_factory=lambda: _NO_REGISTERS)
    """Lower-case hex by register: ``rtmr0``, ``pcr8``. All of them must be there and equal."""

    label: str = ""
    """``risk model 1.4``: what people call this build."""

    def __post_init__(self) -> None:
        require_hex(self.value, "measurement", MEASUREMENT_HEX_CHARS)
        require_text(self.label, "label")
        object.__setattr__(self, "registers", _registers(self.registers))

    def judge(self, claims: Claims) -> Outcome:
        differences = list(_differing(self.registers, claims))
        if claims.measurement != self.value:
            differences.insert(0, f"the measurement is {claims.measurement}")
        because = "; ".join(differences) or "the measurement and every register that is named are equal"
        return Outcome(matched=not differences, rule=str(self), because=because)

    @property
    def is_empty(self) -> bool:
        return False

    @property
    def is_grounded(self) -> bool:
        return True

    def __str__(self) -> str:
        label = f"{self.label!r}: " if self.label else ""
        registers = f" with {_listed(self.registers)}" if self.registers else ""
        return f"{label}measurement {self.value}{registers}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registers:
    """Accept what has these register values: for platforms whose measurement alone says little, as a TPM's."""

    values: Mapping[str, str]
    """Lower-case hex by register; none at all admits nothing."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _registers(self.values))

    def judge(self, claims: Claims) -> Outcome:
        differences = list(_differing(self.values, claims))
        if not self.values:
            differences = ["it names none"]
        return Outcome(
            matched=not differences,
            rule=str(self),
            because="; ".join(differences) or "every register is equal",
        )

    @property
    def is_empty(self) -> bool:
        return not self.values

    @property
    def is_grounded(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"registers {_listed(self.values)}" if self.values else "no register (empty admits nothing)"


def _registers(values: Mapping[str, str]) -> Mapping[str, str]:
    if len(values) > MAX_VALUES:
        raise PolicyFormatError(f"registers: got {len(values)}, expected at most {MAX_VALUES}")
    for name, value in values.items():
        require_word(name, "register")
        require_hex(value, f"register {name}")
    return MappingProxyType(dict(sorted(values.items())))


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _differing(expected: Mapping[str, str], claims: Claims) -> Iterator[str]:
    for name, value in expected.items():
        found = claims.registers.get(name)
        if found is None:
            yield f"the evidence has no register {name}"
        elif found != value:
            yield f"{name} is {found}, not {value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Accept whatever this signer signed as this product, from this security version on."""

    signer: str
    """Lower-case hex: MRSIGNER, the digest of SNP's author key, Nitro's PCR8."""

    product_id: int | None = None
    """ISVPRODID; None accepts all of the signer's products, and is right only where the platform knows no products."""

    minimum_svn: int | None = None
    """ISVSVN or SNP's guest SVN; None accepts every version, those with known faults too."""

    def __post_init__(self) -> None:
        require_hex(self.signer, "signer")
        if not self.signer.strip("0"):
            raise PolicyFormatError(
                "signer: got zeros only, which is what hardware reports where nobody signed; expected the digest "
                "of a signer's key"
            )
        for number, what in ((self.product_id, "product_id"), (self.minimum_svn, "minimum_svn")):
            if number is not None:
                require_count(number, what)

    def judge(self, claims: Claims) -> Outcome:
        against = list(self._against(claims))
        return Outcome(
            matched=not against,
            rule=str(self),
            because="; ".join(against) or "signer, product and security version are acceptable",
        )

    def _against(self, claims: Claims) -> Iterator[str]:
        if claims.signer != self.signer:
            yield f"the signer is {claims.signer or 'not told by this evidence'}"
        if self.product_id is not None and claims.product_id != self.product_id:
            yield f"the product id is {_told(claims.product_id)}, not {self.product_id}"
        if self.minimum_svn is not None and (claims.svn is None or claims.svn < self.minimum_svn):
            yield f"the security version is {_told(claims.svn)}, at least {self.minimum_svn} is demanded"

    @property
    def is_empty(self) -> bool:
        return False

    @property
    def is_grounded(self) -> bool:
        return True

    def __str__(self) -> str:
        product = "any product" if self.product_id is None else f"product {self.product_id}"
        version = (
            "any version" if self.minimum_svn is None else f"security version {self.minimum_svn} or later"
        )
        return f"signer {self.signer}, {product}, {version}"


def _told(number: int | None) -> str:
    return "not told by this evidence" if number is None else str(number)


@dataclass(frozen=True, slots=True)
class Kind:
    """Accept one kind of TEE. It says nothing about code: to be combined with a rule that does."""

    tee: Tee

    def judge(self, claims: Claims) -> Outcome:
        return Outcome(matched=claims.tee is self.tee, rule=str(self), because=f"the TEE is {claims.tee}")

    @property
    def is_empty(self) -> bool:
        return False

    @property
    def is_grounded(self) -> bool:
        return False

    def __str__(self) -> str:
        return f"TEE {self.tee}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """Accept certain values of another field of the claims. To be combined with a rule that pins the code."""

    name: str
    """``family_id``, ``ext_product_id``, ``owner``, ``chip_id``, ``config_id``, ``fmspc``, or one of the attributes:
    ``vmpl``."""

    values: Set[str]
    """Exact texts, as the claims show them; none at all admits nothing."""

    def __post_init__(self) -> None:
        require_word(self.name, "field")
        object.__setattr__(self, "values", frozenset(self.values))
        if len(self.values) > MAX_VALUES:
            raise PolicyFormatError(f"values: got {len(self.values)}, expected at most {MAX_VALUES}")
        for value in self.values:
            require_text(value, f"value of {self.name}")

    def judge(self, claims: Claims) -> Outcome:
        value = getattr(claims, self.name) if self.name in _FIELDS else claims.attributes.get(self.name)
        because = (
            f"{self.name} is {value}" if value is not None else f"the evidence does not tell {self.name}"
        )
        return Outcome(matched=value is not None and value in self.values, rule=str(self), because=because)

    @property
    def is_empty(self) -> bool:
        return not self.values

    @property
    def is_grounded(self) -> bool:
        return False

    def __str__(self) -> str:
        if not self.values:
            return f"{self.name} one of none (empty admits nothing)"
        return f"{self.name} {' or '.join(sorted(self.values))}"


@dataclass(frozen=True, slots=True)
class AnyMeasurementUNSAFE:
    """Accept whatever code runs in the TEE. Only for trying things out: it proves nothing about the worker."""

    def admits(self, measurement: str) -> bool:
        """True, for every measurement."""
        return True

    def judge(self, claims: Claims) -> Outcome:
        return Outcome(matched=True, rule=str(self), because=f"the measurement is {claims.measurement}")

    @property
    def is_empty(self) -> bool:
        return False

    @property
    def is_grounded(self) -> bool:
        return True

    def __str__(self) -> str:
        return "any code at all (UNSAFE)"


@dataclass(frozen=True, slots=True, init=False)
class AllOf:
    """Accept what every part accepts; no part at all admits nothing."""

    parts: Sequence[Rule]

    def __init__(self, *parts: Rule) -> None:
        object.__setattr__(self, "parts", parts)

    def judge(self, claims: Claims) -> Outcome:
        outcomes = tuple(part.judge(claims) for part in self.parts)
        failed = [outcome for outcome in outcomes if not outcome.matched]
        matched = bool(outcomes) and not failed
        because = "; ".join(outcome.because for outcome in failed) if failed else "every part matched"
        return Outcome(
            matched=matched,
            rule=str(self),
            because=because if outcomes else "it has no parts",
            parts=outcomes,
        )

    @property
    def is_empty(self) -> bool:
        return not self.parts or any(part.is_empty for part in self.parts)

    @property
    def is_grounded(self) -> bool:
        return not self.parts or any(part.is_grounded for part in self.parts)

    def __str__(self) -> str:
        if not self.parts:
            return "all of no rules (empty admits nothing)"
        return "all of (" + "; ".join(str(part) for part in self.parts) + ")"


@dataclass(frozen=True, slots=True, init=False)
class AnyOf:
    """Accept what one of the parts accepts; no part at all admits nothing."""

    parts: Sequence[Rule]

    def __init__(self, *parts: Rule) -> None:
        object.__setattr__(self, "parts", parts)

    def judge(self, claims: Claims) -> Outcome:
        outcomes = tuple(part.judge(claims) for part in self.parts)
        first = next((outcome for outcome in outcomes if outcome.matched), None)
        if first is not None:
            because = first.because
        else:
            because = "none of its alternatives matched" if outcomes else "it has no alternatives"
        return Outcome(matched=first is not None, rule=str(self), because=because, parts=outcomes)

    @property
    def is_empty(self) -> bool:
        return all(part.is_empty for part in self.parts)

    @property
    def is_grounded(self) -> bool:
        return all(part.is_grounded for part in self.parts)

    def __str__(self) -> str:
        if not self.parts:
            return "any of no rules (empty admits nothing)"
        return "any of (" + "; ".join(str(part) for part in self.parts) + ")"


def walk(rule: Rule) -> Iterator[Rule]:
    """The rule and all its parts, outermost first."""
    yield rule
    if isinstance(rule, AllOf | AnyOf):
        for part in rule.parts:
            yield from walk(part)


def require_bounds(rule: Rule) -> None:
    """Raise PolicyFormatError where the rule has too many parts, or they are nested too deep."""
    waiting: list[tuple[Rule, int]] = [(rule, 1)]
    count = 0
    while waiting:
        current, depth = waiting.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise PolicyFormatError(f"rules are nested too deep: expected at most {MAX_DEPTH} levels")
        if count > MAX_RULES:
            raise PolicyFormatError(f"too many rules: expected at most {MAX_RULES}")
        if isinstance(current, AllOf | AnyOf):
            waiting.extend((part, depth + 1) for part in current.parts)
