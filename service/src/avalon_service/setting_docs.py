"""What each setting is for, read from the settings' own source: one place to write it, shown everywhere.

Used by ``avalon config show`` and for docs/settings.md.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from avalon_service import settings
from avalon_service.settings import ENVIRONMENT_PREFIX, Settings

_SECRET_NAME = re.compile(r"(?:^|_)(?:secret|token|password|passphrase|private_key)$")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*(?=@)")
HIDDEN = "(hidden)"


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingDoc:
    """One setting."""

    name: str
    variable: str
    """Of the environment."""

    expected: str
    """The values that it takes, in words."""

    default: Any
    text: str
    """The documentation, in one paragraph."""


def describe() -> tuple[SettingDoc, ...]:
    """Every setting, in the order in which they are written."""
    texts = _texts()
    return tuple(
        SettingDoc(
            name=field.name,
            variable=ENVIRONMENT_PREFIX + field.name.upper(),
            expected=_expected(msgspec.inspect.type_info(field.type)),
            default=field.default,
            text=texts.get(field.name, ""),
        )
        for field in msgspec.structs.fields(Settings)
    )


def shown(name: str, value: object) -> object:
    """A setting's value as it may be shown: nothing secret, no password in an address."""
    if value and _SECRET_NAME.search(name):
        return HIDDEN
    return _CREDENTIALS.sub(HIDDEN, value) if isinstance(value, str) else value


def _texts() -> dict[str, str]:
    """The docstrings under the fields."""
    tree = ast.parse(inspect.getsource(settings))
    [body] = [
        node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == Settings.__name__
    ]
    texts = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match below:
                case ast.Expr(value=ast.Constant(value=str() as text)):
                    texts[field.target.id] = " ".join(text.replace("``", "`").split())
    return texts


def _expected(kind: msgspec.inspect.Type) -> str:
    match kind:
        case msgspec.inspect.UnionType(types=types):
            return " or ".join(
                _expected(one) for one in types if not isinstance(one, msgspec.inspect.NoneType)
            )
        case msgspec.inspect.LiteralType(values=values):
            return " or ".join(f"`{value}`" for value in values)
        case msgspec.inspect.BoolType():
            return "`true` or `false`"
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return f"{'integer' if isinstance(kind, msgspec.inspect.IntType) else 'number'}{_bounds(kind)}"
        case msgspec.inspect.StrType(pattern=pattern):
            return (
                "text" if pattern is None else "hex, or empty" if "0-9a-fA-F" in pattern else "text of a form"
            )
        case msgspec.inspect.VarTupleType(item_type=item) | msgspec.inspect.ListType(item_type=item):
            return f"list of {_expected(item)}"
        case _:
            return type(kind).__name__.removesuffix("Type").lower()


def _bounds(kind: msgspec.inspect.IntType | msgspec.inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f", {kind.ge} to {kind.le}"
    if kind.ge is not None:
        return f", at least {kind.ge}"
    return f", above {kind.gt:g}" if kind.gt is not None else ""
