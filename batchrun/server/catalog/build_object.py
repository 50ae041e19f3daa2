"""The JSON object of a build, as the API shows it. Pure."""

import orjson

from batchrun.model import JsonObject
from batchrun.server.catalog.actor_catalog import Actor
from batchrun.server.ids import iso


def build_doc(actor: Actor, owner_id: str, at_ms: int) -> JsonObject:
    schema = actor.input_schema.schema if actor.input_schema else None
    definition: JsonObject = {"actorSpecification": 1, "name": actor.name, "version": actor.version}
    if schema is not None:
        definition["input"] = schema
    return {
        "id": actor.build_id,
        "actId": actor.id,
        "userId": owner_id,
        "startedAt": iso(at_ms),
        "finishedAt": iso(at_ms),
        "status": "SUCCEEDED",
        "meta": {"origin": "API"},
        "stats": {"durationMillis": 0, "runTimeSecs": 0, "computeUnits": 0},
        "options": {"useCache": True, "betaPackages": False, "memoryMbytes": 1024, "diskMbytes": 2048},
        "usageTotalUsd": 0,
        "buildNumber": actor.build_number,
        "actVersion": {"sourceType": "SOURCE_FILES", "buildTag": actor.build_tag, "versionNumber": actor.version},
        "inputSchema": orjson.dumps(schema).decode() if schema is not None else None,
        "actorDefinition": definition,
    }
