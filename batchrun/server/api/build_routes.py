"""Endpoints of builds: each state of an Actor's directory is one."""

import orjson
from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.api.addresses import actor_of, read_build
from batchrun.server.catalog.openapi_definition import openapi_definition
from batchrun.server.error_answers import ErrorAnswer, not_permitted, thing_missing
from batchrun.server.routing.call import Call, data_answer, empty_answer, list_answer, raw_answer
from batchrun.server.routing.route_table import RouteTable
from batchrun.server.store import build_table

_SHORT = ("id", "actId", "userId", "status", "startedAt", "finishedAt", "usageTotalUsd", "buildNumber", "meta")


def add_routes(table: RouteTable) -> None:
    for collection in ("/v2/actors", "/v2/acts"):
        one = f"{collection}/{{actor}}"
        table.add("GET", f"{one}/builds", list_builds)
        table.add("GET", f"{one}/builds/default", get_build, needs_token=False)
        table.add("GET", f"{one}/builds/default/openapi.json", get_openapi_definition, needs_token=False)
        table.add("GET", f"{one}/builds/{{log}}", get_build, needs_token=False)
        table.add("GET", f"{one}/builds/{{log}}/openapi.json", get_openapi_definition, needs_token=False)
        table.add("POST", f"{one}/builds/{{log}}/abort", abort_build)
    table.add("GET", "/v2/actor-builds", list_own_builds)
    one = "/v2/actor-builds/{log}"
    table.add("GET", one, get_build, needs_token=False)
    table.add("DELETE", one, delete_build)
    table.add("POST", f"{one}/abort", abort_build)
    table.add("GET", f"{one}/openapi.json", get_openapi_definition, needs_token=False)


async def list_builds(call: Call) -> web.Response:
    return await _page(call, [actor_of(call).id])


async def list_own_builds(call: Call) -> web.Response:
    username = call.user.username.lower()
    return await _page(call, [actor.id for actor in call.backend.catalog if actor.username.lower() == username])


async def _page(call: Call, act_ids: list[str]) -> web.Response:
    docs = await call.backend.database.read(build_table.of_actors, act_ids)
    return list_answer(call, [{name: doc[name] for name in _SHORT} for doc in docs])


async def get_build(call: Call) -> web.Response:
    return data_answer(await _read(call))


async def get_openapi_definition(call: Call) -> web.Response:
    """Show how a build's Actor is started. The bare document, not in the API's envelope."""
    doc = await _read(call)
    if (actor := call.backend.catalog.find(doc["actId"])) is None:
        raise thing_missing("Actor")
    base_url = call.backend.base_url
    return raw_answer(orjson.dumps(openapi_definition(doc, actor.full_name, actor.title, actor.description, base_url)))


async def _read(call: Call) -> JsonObject:
    """Return the build of the path; without its id, the Actor's default one."""
    if "log" not in call.path:
        return await read_build(call, actor_of(call).build_id)
    doc = await read_build(call, call.path["log"])
    if "actor" in call.path and doc["actId"] != actor_of(call).id:
        raise thing_missing("Build")
    return doc


async def delete_build(call: Call) -> web.Response:
    """Delete a build that is not the Actor's current one. Its Runs are kept."""
    doc = await _read_own(call)
    actor = call.backend.catalog.find(doc["actId"])
    if actor is not None and actor.build_id == doc["id"]:
        raise ErrorAnswer(400, "deleting-default-build", "The default build of an Actor cannot be deleted")
    await call.backend.database.write(build_table.delete, doc["id"])
    return empty_answer()


async def abort_build(call: Call) -> web.Response:
    """Show a build. Builds finish at once, so there is nothing to abort."""
    return data_answer(await _read_own(call))


async def _read_own(call: Call) -> JsonObject:
    doc = await _read(call)
    if not call.is_by(doc["userId"]):
        raise not_permitted("Actor build")
    return doc
