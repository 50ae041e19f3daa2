"""The OpenAPI document of an Actor's build: how to start it, with what input.

Its shape is that of the documents that the platform shows for public Actors. Pure.
"""

from typing import Any

import orjson

from batchrun.model import JsonObject

#: Keywords of an input schema that OpenAPI 3.0 knows. The others describe a form.
_KEYWORDS = (
    "title", "description", "type", "default", "enum", "nullable", "pattern", "minimum", "maximum", "minLength",
    "maxLength", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "required", "example",
)  # fmt: skip
#: Path and summary of each way to start an Actor, and the schema of its answer.
_STARTS = (
    (
        "run-sync-get-dataset-items",
        "Executes an Actor, waits for its completion, and returns Actor's dataset items in response.",
        None,
    ),
    ("runs", "Executes an Actor and returns information about the initiated run in response.", "runsResponseSchema"),
    (
        "run-sync",
        "Executes an Actor, waits for completion, and returns the OUTPUT from Key-value store in response.",
        None,
    ),
)
_TOKEN = {
    "name": "token",
    "in": "query",
    "required": True,
    "schema": {"type": "string"},
    "description": "Enter your Apify token here",
}
_TEXT, _OBJECT, _TIME = {"type": "string"}, {"type": "object"}, {"type": "string", "format": "date-time"}
_RUN = {
    **dict.fromkeys(("id", "actId", "userId", "status", "buildId", "buildNumber", "containerUrl"), _TEXT),
    **dict.fromkeys(("startedAt", "finishedAt"), _TIME),
    **dict.fromkeys(("defaultKeyValueStoreId", "defaultDatasetId", "defaultRequestQueueId"), _TEXT),
    **dict.fromkeys(("meta", "stats", "options", "usage", "usageUsd"), _OBJECT),
    "usageTotalUsd": {"type": "number"},
}


def openapi_definition(build: JsonObject, full_name: str, title: str, description: str, base_url: str) -> JsonObject:
    """Return the document of a build of the Actor `full_name` (`username/name`)."""
    address = full_name.replace("/", "~")
    schema = orjson.loads(build["inputSchema"]) if build["inputSchema"] else {"type": "object"}
    answer = {"type": "object", "properties": {"data": {"type": "object", "properties": _RUN}}}
    return {
        "openapi": "3.0.1",
        "info": {
            "title": title,
            "description": description,
            "version": build["actVersion"]["versionNumber"],
            "x-build-id": build["id"],
        },
        "servers": [{"url": f"{base_url}/v2"}],
        "paths": {
            f"/acts/{address}/{path}": {"post": _start(f"{path}-{address.replace('~', '-')}", summary, answer_schema)}
            for path, summary, answer_schema in _STARTS
        },
        "components": {"schemas": {"inputSchema": _translated(schema), "runsResponseSchema": answer}},
    }


def _start(operation_id: str, summary: str, answer_schema: str | None) -> JsonObject:
    answer: JsonObject = {"description": "OK"}
    if answer_schema is not None:
        answer["content"] = _json(answer_schema)
    return {
        "operationId": operation_id,
        "x-openai-isConsequential": False,
        "summary": summary,
        "tags": ["Run Actor"],
        "requestBody": {"required": True, "content": _json("inputSchema")},
        "parameters": [_TOKEN],
        # The server says 201 for `runs`; the platform's document has 200 for all.
        "responses": {"200": answer},
    }


def _json(schema: str) -> JsonObject:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _translated(schema: Any) -> Any:
    """Return a schema, or a part of one, in the words of OpenAPI 3.0."""
    if not isinstance(schema, dict):
        return schema
    kept: JsonObject = {name: schema[name] for name in _KEYWORDS if name in schema}
    if not kept.get("required"):
        kept.pop("required", None)
    if not isinstance(kept.get("type"), str):
        # OpenAPI 3.0 has no lists of types.
        kept.pop("type", None)
    if isinstance(properties := schema.get("properties"), dict):
        kept["properties"] = {name: _translated(part) for name, part in properties.items()}
    if "additionalProperties" in schema:
        kept["additionalProperties"] = _translated(schema["additionalProperties"])
    if kept.get("type") == "array":
        kept["items"] = _translated(schema.get("items", {}))
    return kept
