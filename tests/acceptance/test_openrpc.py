"""The OpenRPC document: well formed, complete, and true of what the service and the SDK really send."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from foreign_worker import ForeignWorker, call_as, token_of
from jsonschema import Draft7Validator, Draft202012Validator
from openrpc_document import Document
from service_process import SUITES, Requester, ServiceProcess

from avalon_core.attestation import TrustPolicy
from avalon_core.crypto.manifests import SignedManifest
from avalon_core.crypto.recovery import split
from avalon_core.crypto.sealing import HpkePrivateKey
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.errors import WorkerStatus
from avalon_core.protocol.receipts import ReceiptStatus
from avalon_sdk.client import AvalonClient
from avalon_sdk.errors import ServiceError
from avalon_sdk.transports.direct import DirectTransport

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.filterwarnings("ignore::avalon_sdk.trust.SimulatedWorkerWarning"),
]

_TEXT = {"type": "string", "minLength": 1}
_REFERENCE = {
    "type": "object",
    "required": ["$ref"],
    "properties": {"$ref": {"type": "string", "pattern": "^#/components/"}},
    "additionalProperties": False,
}
_VALUE = {"type": "object", "required": ["name", "value"], "properties": {"name": _TEXT}}
_DESCRIPTOR = {
    "type": "object",
    "required": ["name", "schema"],
    "properties": {
        "name": _TEXT,
        "summary": _TEXT,
        "description": _TEXT,
        "required": {"type": "boolean"},
        "deprecated": {"type": "boolean"},
        "schema": {"type": ["object", "boolean"]},
    },
    "additionalProperties": False,
}
_ERROR = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {"code": {"type": "integer"}, "message": _TEXT, "data": {}},
    "additionalProperties": False,
}
_METHOD = {
    "type": "object",
    "required": ["name", "params", "result"],
    "properties": {
        "name": _TEXT,
        "summary": _TEXT,
        "description": _TEXT,
        "tags": {"type": "array", "items": {"type": "object", "required": ["name"]}},
        "paramStructure": {"enum": ["by-name", "by-position", "either"]},
        "params": {"type": "array", "items": {"oneOf": [_DESCRIPTOR, _REFERENCE]}},
        "result": {"oneOf": [_DESCRIPTOR, _REFERENCE]},
        "errors": {"type": "array", "items": {"oneOf": [_ERROR, _REFERENCE]}},
        "links": {"type": "array"},
        "examples": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "params", "result"],
                "properties": {"name": _TEXT, "params": {"type": "array", "items": _VALUE}, "result": _VALUE},
            },
        },
        "deprecated": {"type": "boolean"},
    },
    "patternProperties": {"^x-": {}},
    "additionalProperties": False,
}
META = {
    "type": "object",
    "required": ["openrpc", "info", "methods"],
    "properties": {
        "openrpc": {"type": "string", "pattern": r"^1\.3\.[0-9]+$"},
        "info": {
            "type": "object",
            "required": ["title", "version"],
            "properties": {
                "title": _TEXT,
                "version": _TEXT,
                "description": _TEXT,
                "termsOfService": _TEXT,
                "contact": {"type": "object"},
                "license": {"type": "object", "properties": {"name": _TEXT, "url": _TEXT}},
            },
            "patternProperties": {"^x-": {}},
            "additionalProperties": False,
        },
        "servers": {"type": "array", "items": {"type": "object", "required": ["url"]}},
        "methods": {"type": "array", "minItems": 1, "items": _METHOD},
        "components": {
            "type": "object",
            "properties": {
                "schemas": {"type": "object"},
                "errors": {"type": "object", "additionalProperties": _ERROR},
            },
            "additionalProperties": False,
        },
        "externalDocs": {"type": "object"},
    },
    "patternProperties": {"^x-": {}},
    "additionalProperties": False,
}
"""The structure of OpenRPC 1.3 documents, as far as ours has need of it."""


@pytest.fixture(scope="module")
def document(service: ServiceProcess) -> Document:
    return Document.of(service)


def test_the_structure_is_openrpc_s(document: Document) -> None:
    faults = [
        error.json_path + ": " + error.message[:200]
        for error in Draft202012Validator(META).iter_errors(document.document)
    ]
    assert not faults
    assert len(document.methods) == len(document.document["methods"])


def _schemas(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        yield from (member["schema"] for member in [node] if "schema" in member)
        for member in node.values():
            yield from _schemas(member)
    elif isinstance(node, list):
        for member in node:
            yield from _schemas(member)


def test_every_schema_is_json_schema(document: Document) -> None:
    schemas = [*_schemas(document.document["methods"]), *document.document["components"]["schemas"].values()]
    assert len(schemas) > 80
    for schema in schemas:
        Draft202012Validator.check_schema(schema)
        Draft7Validator.check_schema(schema)
    text = msgspec.json.encode(document.document).decode()
    # Other tools' regular expressions do not know Python's end of text.
    assert r"\\Z" not in text
    for reference in re.findall(r'"\$ref":"([^"]*)"', text):
        document.resolve({"$ref": reference})


async def test_it_lists_what_the_service_answers_and_nothing_else(
    document: Document, requester: Requester
) -> None:
    refused = await requester.call("NoSuchMethod", {})
    assert refused["error"]["code"] == -32601
    answered = refused["error"]["message"].partition("there are ")[2].split(", ")
    assert sorted(document.methods) == sorted(answered)
    for name in document.methods:
        # Params that no method has: what answers is the method itself.
        answer = await requester.call(name, {"noSuchMember": 1})
        assert answer["error"]["code"] in (2, 3), (name, answer)
        assert "noSuchMember" in answer["error"]["message"]


async def test_the_method_and_the_page_give_the_same(document: Document, requester: Requester) -> None:
    assert (await requester.call("rpc.discover", {}))["result"] == document.document
    status, body = await requester.get("/openrpc.json")
    assert (status, msgspec.json.decode(body)) == (200, document.document)


async def test_examples_keep_to_the_schemas_and_are_understood_by_the_service(
    document: Document, requester: Requester
) -> None:
    for name, method in document.methods.items():
        exchanges = [
            ({param["name"]: param["value"] for param in pair["params"]}, {"result": pair["result"]["value"]})
            for pair in method["examples"]
        ] + [(pair["params"], {"error": pair["error"]}) for pair in method.get("x-error-examples", ())]
        assert exchanges or name == "rpc.discover"
        for params, answer in exchanges:
            document.check_params(name, params)
            document.check_answer(name, answer)
            real = await requester.call(name, params)
            document.check_answer(name, real)
            assert "invalid params" not in real.get("error", {}).get("message", ""), (name, real)


class Recording(DirectTransport):
    """The SDK's own way to a service, with a look at what goes through."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.exchanges: list[tuple[Any, Any]] = []

    async def exchange(self, body: bytes, **options: Any) -> Any:
        reply = await super().exchange(body, **options)
        self.exchanges.append((msgspec.json.decode(body), msgspec.json.decode(reply.body)))
        return reply


async def test_what_the_sdk_sends_and_gets_keeps_to_the_schemas(
    document: Document, service: ServiceProcess
) -> None:
    transport = Recording(service.url, operator_token=service.data_dir / "operator-token")
    key, foreign = SigningKey.generate(), ForeignWorker()
    details = msgspec.json.encode(foreign.details())
    async with AvalonClient(transport, trust=TrustPolicy.development()) as client:
        worker = await client.find_worker("singleton-worker-1")
        assert await client.workers()
        assert [listed async for listed in client.look_up_workers(application_type_ids=[], worker_type=1)]
        for suite in SUITES:
            assert (await client.run("echo-result", ["x"], suite=suite)).texts() == ["RESULT: x"]
        await client.run("echo-result", ["x"], mode="sync")
        handle = await client.submit("echo-result", ["x"], mode="poll", signer=key)
        await client.create_receipt(handle, key)
        await handle.result()
        await client.update_receipt(handle, key, ReceiptStatus.COMPLETED)
        assert (await client.retrieve_receipt(handle)).status == ReceiptStatus.COMPLETED
        assert [found async for found in client.look_up_receipts(requester_id=handle.requester_id)]
        await handle.cancel()
        await client.encryption_key(worker)
        await client.register_worker(foreign.worker_id, details, signer=foreign.signing)
        await client.update_worker(foreign.worker_id, details)
        await client.set_worker_status(foreign.worker_id, WorkerStatus.OFF_LINE)
        for ask in (client.pool_status, client.rotate_pool, client.drain_pool, client.pool_shares):
            with pytest.raises(ServiceError, match="runs no pool"):
                await ask()
        recovery = split(
            b"state", pool="1a" * 32, owners=[HpkePrivateKey.generate().public_key.hex], threshold=1
        )
        for carry in (
            client.change_pool(SignedManifest(manifest=b"{}")),
            client.recover_pool(recovery, worker_id=foreign.worker_id),
            client.return_share(recovery.shares[0]),
        ):
            with pytest.raises(ServiceError, match="runs no pool"):
                await carry
    seen = set()
    for call, answer in transport.exchanges:
        document.check_params(call["method"], call["params"])
        document.check_answer(call["method"], answer)
        seen.add(call["method"])
    never = {"EncryptionKeySet", "RequesterKeySet", "RequesterKeyGet", "rpc.discover"}
    only_with_many = {"WorkerLookUpNext", "WorkOrderReceiptLookUpNext"}
    assert set(document.methods) - seen <= never | only_with_many
    assert token_of(service) not in msgspec.json.encode(transport.exchanges).decode()


_POOL_PARAMS: dict[str, dict[str, str]] = {
    "PoolStatus": {},
    "PoolRotate": {},
    "PoolDrain": {},
    "PoolShares": {},
    "PoolChange": {"change": "{}"},
    "PoolRecover": {"recovery": "{}"},
    "PoolShare": {"share": "{}"},
}


@pytest.mark.parametrize("method", _POOL_PARAMS)
async def test_without_a_pool_its_methods_tell_the_operator_so_and_nobody_else(
    method: str, document: Document, service: ServiceProcess, requester: Requester
) -> None:
    assert {name for name in document.methods if name.startswith("Pool")} == set(_POOL_PARAMS)
    assert document.methods[method]["x-authority"].startswith("the operator")
    params = _POOL_PARAMS[method]
    assert (await requester.call(method, params))["error"]["code"] == 3
    assert (await call_as(requester, "x" * 43, method, params))["error"]["code"] == 3
    told = (await call_as(requester, token_of(service), method, params))["error"]
    assert told["code"] == 6
    assert "avalon up --pool" in told["message"]
    # Of what form the params are is told first, as everywhere.
    assert (await call_as(requester, token_of(service), method, {"other": 1}))["error"]["code"] == 2


async def test_the_copy_in_the_documentation_is_the_same() -> None:
    script = Path(__file__).parents[2] / "scripts" / "make_openrpc.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), "--check", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
