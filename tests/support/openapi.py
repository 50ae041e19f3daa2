"""The platform's own description of its API, and answers judged by it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson

DOCUMENT = Path(__file__).parents[3] / "shared" / "apify-openapi.json"
#: Where the document contradicts itself: the examples, and the platform, have arrays of items here.
_WRONG_SCHEMAS = ("run-sync-get-dataset-items",)
_METHODS = ("get", "head", "post", "put", "delete")


@dataclass(frozen=True)
class Operation:
    """One method on one path."""

    method: str
    path: str
    #: Status -> response object.
    responses: dict[str, Any]

    @property
    def name(self) -> str:
        """Return what it is called in lists."""
        return f"{self.method} {self.path}"

    @property
    def success(self) -> list[int]:
        """Return the documented statuses of success."""
        return [int(status) for status in self.responses if status[0] in "23"]


class OpenApi:
    """The document.

    Answers are judged by the document alone; it says nothing of properties that it does not name.
    """

    def __init__(self, file: Path = DOCUMENT) -> None:
        self.document: dict[str, Any] = orjson.loads(file.read_bytes())
        self._validators: dict[bytes, Any] = {}

    @cached_property
    def operations(self) -> list[Operation]:
        """All operations, as the document orders them."""
        return list(self._read_operations())

    def _read_operations(self) -> Iterator[Operation]:
        for path, item in self.document["paths"].items():
            for method in _METHODS:
                if method in item:
                    yield Operation(method.upper(), path, item[method]["responses"])

    def find(self, method: str, path: str) -> Operation | None:
        """Return the operation that a request means: the one with the most literal segments that fits."""
        segments = path.strip("/").split("/")
        fitting = [
            operation
            for operation in self.operations
            if operation.method == method and _fits(operation.path.strip("/").split("/"), segments)
        ]
        return min(fitting, key=lambda operation: operation.path.count("{"), default=None)

    def problems(self, operation: Operation, status: int, headers: Any, body: Any) -> list[str]:
        """Return what is wrong with an answer."""
        if str(status) not in operation.responses:
            return [f"status {status} is not documented"]
        response = self._resolved(operation.responses[str(status)])
        found = [f"header {name} is missing" for name in response.get("headers", {}) if name not in headers]
        if operation.method == "HEAD":
            return found + (["there is a body"] if body else [])
        # An empty object is documented for some answers of 204, which can have none.
        content = response.get("content", {}) if status != 204 else {}
        given = headers.get("Content-Type", "").partition(";")[0]
        if not content:
            return found + (["there is a body"] if body else [])
        media = content.get(given) or content.get("*/*")
        if media is None:
            return [*found, f"content type {given} is not documented"]
        if given != "application/json" or (status == 201 and operation.path.endswith(_WRONG_SCHEMAS)):
            return found
        return found + self._schema_problems(media.get("schema", {}), body)

    def _resolved(self, part: dict[str, Any]) -> dict[str, Any]:
        while (reference := part.get("$ref")) is not None:
            part = self.document
            for name in reference.removeprefix("#/").split("/"):
                part = part[name.replace("~1", "/").replace("~0", "~")]
        return part

    def _schema_problems(self, schema: dict[str, Any], body: Any) -> list[str]:
        key = orjson.dumps(schema)
        if key not in self._validators:
            whole = {**schema, "components": self.document["components"]}
            self._validators[key] = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
        return [
            f"{'/'.join(map(str, error.instance_path)) or 'body'}: {error.message[:200]}"
            for error in self._validators[key].iter_errors(body)
        ]


def _fits(template: list[str], segments: list[str]) -> bool:
    if len(template) != len(segments):
        return False
    return all(part.startswith("{") or part == given for part, given in zip(template, segments, strict=True))
