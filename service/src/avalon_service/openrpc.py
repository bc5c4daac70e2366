"""The OpenRPC document of the service: every method with its params, results, codes and examples.

It is made from the wire types and from the list in :mod:`avalon_service.openrpc_methods`; nothing in it is written
twice. Served at ``GET /openrpc.json`` and by the method ``rpc.discover``; docs/openrpc.json is a copy of it.

Where OpenRPC has no words for what our methods do, members that start with ``x-`` say it:

    x-success-is-error  success is an error object of code 0, so there is never a result
    x-error-examples    exchanges that end with an error object
    x-authority         who may call the method
    x-prefer-wait       the answer is held for the seconds of the HTTP header ``Prefer: wait=N``
    x-extension         the method is ours: the specification does not have it
"""

from __future__ import annotations

import ast
import asyncio
import functools
import importlib.metadata
import inspect
import itertools
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import msgspec

from avalon_core.protocol.errors import GeneralCode, GeneralError, RpcCode
from avalon_core.protocol.jsonrpc import Call, encode_success
from avalon_service.listener.methods import Method, decode_params
from avalon_service.openrpc_methods import DISCOVER, MEANINGS, METHODS, DiscoverParams, Example, MethodSpec
from avalon_service.settings import DEFAULT_PORT

OPENRPC = "1.3.2"
_SCHEMAS = "#/components/schemas/{name}"
_SPACES = {"GeneralError": "general", "WorkOrderError": "workOrder", "EncryptionKeyError": "encryptionKey"}
_STANDARD = {
    RpcCode.PARSE_ERROR: "the body is not JSON",
    RpcCode.INVALID_REQUEST: "not a JSON-RPC 2.0 request, or too large",
    RpcCode.METHOD_NOT_FOUND: "no such method",
    RpcCode.INTERNAL_ERROR: "a fault of the service; its log says more",
}
_ROLE = re.compile(r":\w+:`~?([^`]+)`")
_NO_RESULT = {
    "name": "none",
    "schema": {"not": {}},
    "description": "Never there: success is an error object of code 0.",
}
_DOCUMENT = {
    "name": "document",
    "schema": {"type": "object", "required": ["openrpc", "info", "methods"]},
}
_DESCRIPTION = (
    "JSON-RPC 2.0 over HTTP POST, any path, batches of up to 100 calls. Params are given by name, and an unknown member "
    "of them is code 2. The codes of the spaces overlap: the method tells which applies. Any method can also be "
    f"answered with JSON-RPC's own codes: {', '.join(f'{int(code)} {text}' for code, text in _STANDARD.items())}."
)


@functools.cache
def encoded_document() -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """The document as it is encoded."""
    structs = [spec.params for spec in METHODS] + [spec.result for spec in METHODS if spec.result is not None]
    _, schemas = msgspec.json.schema_components(structs, ref_template=_SCHEMAS)
    described = {name: _described(schema) for name, schema in schemas.items()}
    _tell_members(described, structs)
    params = {spec.params.__name__ for spec in METHODS}
    return {
        "openrpc": OPENRPC,
        "info": {
            "title": "Avalon",
            "description": _DESCRIPTION,
            "version": importlib.metadata.version("avalon-service"),
            "license": {"name": "Apache-2.0"},
        },
        "servers": [{"name": "default", "url": f"http://127.0.0.1:{DEFAULT_PORT}/"}],
        "methods": [_method(spec, described) for spec in METHODS],
        "components": {
            "schemas": {name: schema for name, schema in described.items() if name not in params},
            "errors": {
                _error_name(space.__name__, code): {"code": int(code), "message": text}
                for space, meanings in MEANINGS.items()
                for code, text in meanings.items()
            },
        },
    }


async def served_document() -> bytes:
    """The same, without keeping the event loop from its work where it has to be made first."""
    return await asyncio.to_thread(encoded_document)


class DiscoveryMethods:
    """The method that answers with the document."""

    def table(self) -> Mapping[str, Method]:
        """By its name on the wire."""
        return {DISCOVER: self._discover}

    async def _discover(self, call: Call, wait: float) -> bytes:
        decode_params(_DISCOVER, call, _invalid)
        return encode_success(call.id, msgspec.Raw(await served_document()))


_DISCOVER = msgspec.json.Decoder(DiscoverParams)


def _invalid(message: str) -> GeneralError:
    return GeneralError(GeneralCode.INVALID_PARAMETER, message)


def _method(spec: MethodSpec, schemas: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": spec.name,
        "summary": spec.summary,
        "tags": [{"name": spec.tag}],
        "paramStructure": "by-name",
        "params": _params(schemas[spec.params.__name__]),
        "result": _result(spec),
        "errors": [
            {"$ref": f"#/components/errors/{_error_name(spec.space.__name__, code)}"}
            for code in sorted(spec.codes)
        ],
        "examples": [_example(example) for example in spec.examples if example.error is None],
    }
    failures = [_error_example(example) for example in spec.examples if example.error is not None]
    extensions = {
        "x-success-is-error": spec.result is None and spec.name != DISCOVER,
        "x-error-examples": failures,
        "x-authority": spec.authority,
        "x-prefer-wait": spec.waits,
        "x-extension": spec.is_ours,
    }
    return shown | {name: value for name, value in extensions.items() if value}


def _params(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A content descriptor for each member."""
    required = schema.get("required", ())
    return [
        {
            "name": name,
            **({"description": member["description"]} if "description" in member else {}),
            "required": name in required,
            "schema": {key: value for key, value in member.items() if key != "description"},
        }
        for name, member in sorted(schema["properties"].items(), key=lambda item: item[0] not in required)
    ]


def _result(spec: MethodSpec) -> dict[str, Any]:
    if spec.name == DISCOVER:
        return _DOCUMENT
    if spec.result is None:
        return _NO_RESULT
    name = spec.result.__name__
    return {"name": name[0].lower() + name[1:], "schema": {"$ref": _SCHEMAS.format(name=name)}}


def _example(example: Example) -> dict[str, Any]:
    return {
        "name": example.name,
        "params": [{"name": name, "value": value} for name, value in example.params.items()],
        "result": {"name": "result", "value": example.result},
    }


def _error_example(example: Example) -> dict[str, Any]:
    return {"name": example.name, "params": dict(example.params), "error": example.error}


def _error_name(space: str, code: int) -> str:
    return f"{_SPACES[space]}{int(code)}"


def _described(node: Any) -> Any:
    """A schema as other tools read it: their regular expressions know no ``\\Z``, their texts no roles."""
    if isinstance(node, list):
        return [_described(member) for member in node]
    if not isinstance(node, dict):
        return node
    shown = {name: _described(member) for name, member in node.items()}
    if isinstance(shown.get("pattern"), str):
        shown["pattern"] = shown["pattern"].replace(r"\Z", "$")
    if isinstance(shown.get("description"), str):
        shown["description"] = _plain(shown["description"])
    return shown


def _tell_members(schemas: Mapping[str, Any], structs: list[type[msgspec.Struct]]) -> None:
    """Put the docstrings under the fields of the wire types beside the members' schemas."""
    for struct in _reachable(structs):
        members = schemas[struct.__name__]["properties"]
        for base in reversed(struct.__mro__):
            texts = _field_texts(base)
            for field in msgspec.structs.fields(struct):
                if field.name in texts:
                    members[field.encode_name]["description"] = texts[field.name]


def _reachable(structs: list[type[msgspec.Struct]]) -> list[type[msgspec.Struct]]:
    found: dict[type[msgspec.Struct], None] = {}
    waiting: list[Any] = [msgspec.inspect.type_info(struct) for struct in structs]
    while waiting:
        match waiting.pop():
            case msgspec.inspect.StructType(cls=cls, fields=fields) if cls not in found:
                found[cls] = None
                waiting += [field.type for field in fields]
            case msgspec.inspect.UnionType(types=types):
                waiting += types
            case msgspec.inspect.VarTupleType(item_type=item):
                waiting.append(item)
    return list(found)


@functools.cache
def _field_texts(cls: type) -> dict[str, str]:
    if not (issubclass(cls, msgspec.Struct) and cls is not msgspec.Struct):
        return {}
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except OSError:
        return {}  # installed without its source
    texts = {}
    for field, below in itertools.pairwise(body.body if isinstance(body, ast.ClassDef) else []):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match below:
                case ast.Expr(value=ast.Constant(value=str() as text)):
                    texts[field.target.id] = _plain(text)
    return texts


def _plain(text: str) -> str:
    named = _ROLE.sub(lambda role: f"`{role[1].rpartition('.')[2]}`", text)
    return " ".join(named.replace("``", "`").split())
