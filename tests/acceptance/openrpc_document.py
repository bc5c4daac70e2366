"""The service's OpenRPC document as a test uses it: schemas of params and answers, and whether a value keeps to them."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from service_process import ServiceProcess


class Document:
    """See the module."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.methods: dict[str, Mapping[str, Any]] = {
            method["name"]: method for method in document["methods"]
        }

    @classmethod
    def of(cls, service: ServiceProcess) -> Document:
        """What a running service says of itself."""
        with urllib.request.urlopen(f"{service.url}/openrpc.json", timeout=20) as answer:
            assert answer.headers["content-type"] == "application/json"
            return cls(json.load(answer))

    def resolve(self, schema: Any) -> Any:
        """The schema itself where there is a reference to it."""
        while isinstance(schema, dict) and "$ref" in schema:
            found: Any = self.document
            for name in schema["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            schema = found
        return schema

    def params_schema(self, method: str) -> dict[str, Any]:
        """One schema for the params object of a method."""
        members = self.methods[method]["params"]
        return {
            "type": "object",
            "properties": {member["name"]: member["schema"] for member in members},
            "required": [member["name"] for member in members if member["required"]],
            "additionalProperties": False,
        }

    def codes(self, method: str) -> frozenset[int]:
        """The codes that the document declares for a method."""
        return frozenset(self.resolve(error)["code"] for error in self.methods[method]["errors"])

    def check_params(self, method: str, params: Any) -> None:
        self._check(self.params_schema(method), params, f"params of {method}")

    def check_answer(self, method: str, answer: Mapping[str, Any]) -> None:
        """An answer to a call that reached the method is one that the document tells of."""
        if "result" in answer:
            self._check(self.methods[method]["result"]["schema"], answer["result"], f"result of {method}")
        else:
            code = answer["error"]["code"]
            assert code in self.codes(method), f"{method} answered with undeclared code {code}: {answer}"

    def _check(self, schema: Any, value: Any, what: str) -> None:
        whole = {**self.resolve(schema), "components": self.document["components"]}
        faults = [
            f"{error.json_path}: {error.message[:200]}"
            for error in Draft202012Validator(whole).iter_errors(value)
        ]
        assert not faults, f"{what}: {faults}"
