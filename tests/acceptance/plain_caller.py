"""A client that calls one method after the other over one connection, and holds each answer against the document."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections import Counter
from collections.abc import Mapping
from typing import Any

from foreign_worker import token_of
from openrpc_document import Document
from service_process import ServiceProcess

OWN_CODES = frozenset({-32700, -32600})
"""Of bodies that are no call: NaN and infinity are no JSON."""


class Caller:
    """One connection to a service, and what it must answer."""

    def __init__(self, service: ServiceProcess) -> None:
        parts = urllib.parse.urlsplit(service.url)
        self.document = Document.of(service)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        self._token = token_of(service)
        self.calls = 0
        self.seen: dict[str, Counter[int | str]] = {name: Counter() for name in self.document.methods}
        """How often each method was answered with each code, or with a result."""

    def close(self) -> None:
        self._connection.close()

    def call(self, method: str, params: Any, *, as_operator: bool = False, wait: int = 0) -> dict[str, Any]:
        """Call, check the answer against the document, and return it."""
        self.calls += 1
        body = json.dumps(
            {"jsonrpc": "2.0", "id": self.calls, "method": method, "params": params}, separators=(",", ":")
        )
        headers = {"content-type": "application/json", "prefer": f"wait={wait}"}
        if as_operator:
            headers["authorization"] = f"Bearer {self._token}"
        self._connection.request("POST", "/", body, headers)
        response = self._connection.getresponse()
        raw = response.read()
        assert response.status == 200, (response.status, raw[:500])
        answer: dict[str, Any] = json.loads(raw)
        self.check(method, answer)
        self.seen[method][answer["error"]["code"] if "error" in answer else "result"] += 1
        return answer

    def show(self) -> str:
        """What was seen, a line a method."""
        return "\n".join(
            f"  {method}: {', '.join(f'{what} {times}x' for what, times in sorted(seen.items(), key=str))}"
            f" (declared: {sorted(self.document.codes(method))})"
            for method, seen in self.seen.items()
        )

    def check(self, method: str, answer: Mapping[str, Any]) -> None:
        assert answer["jsonrpc"] == "2.0"
        assert ("result" in answer) != ("error" in answer)
        if "error" not in answer:
            assert answer["id"] == self.calls
        else:
            assert answer["error"]["message"]
            assert len(answer["error"]["message"]) < 4096
            if answer["error"]["code"] in OWN_CODES:
                return
            assert answer["id"] == self.calls
        self.document.check_answer(method, answer)
