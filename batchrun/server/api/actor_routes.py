"""Endpoints of Actors and their versions, under `/v2/actors` and the older `/v2/acts`."""

from typing import Any

import anyio.to_thread
from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.api.addresses import actor_of
from batchrun.server.api.run_answers import runs_answer
from batchrun.server.api.run_starts import StartEndpoints, start_actor
from batchrun.server.catalog import actor_files
from batchrun.server.catalog.actor_catalog import Actor, LocalCommand
from batchrun.server.error_answers import thing_missing, value_invalid
from batchrun.server.ids import iso
from batchrun.server.prices import pricing_info
from batchrun.server.routing.call import Call, data_answer, list_answer
from batchrun.server.routing.route_table import RouteTable
from batchrun.server.runs.hosted_run import HostedRun
from batchrun.server.store import run_table
from batchrun.server.store.run_table import RunFilter


def add_routes(table: RouteTable) -> None:
    for collection in ("/v2/actors", "/v2/acts"):
        table.add("GET", collection, list_actors, reads_much=True)  # Actors' Runs are counted
        one = f"{collection}/{{actor}}"
        table.add("GET", one, get_actor, needs_token=False, reads_much=True)
        table.add("POST", f"{one}/validate-input", validate_input)
        table.add("GET", f"{one}/versions", list_versions)
        table.add("GET", f"{one}/versions/{{version}}", get_version)
        table.add("GET", f"{one}/versions/{{version}}/env-vars", list_variables)
        table.add("GET", f"{one}/versions/{{version}}/env-vars/{{variable}}", get_variable)
        table.add("GET", f"{one}/runs", list_runs, reads_much=True)
        StartEndpoints(_start).add_routes(table, one)


def _short(call: Call, actor: Actor) -> JsonObject:
    at = iso(call.backend.created_ms)
    return {
        "id": actor.id,
        "createdAt": at,
        "modifiedAt": iso(actor.built_ms),
        "name": actor.name,
        "username": actor.username,
        "title": actor.title,
    }


async def _stats(call: Call, actor: Actor) -> JsonObject:
    """Return the figures of an Actor; its Runs are the caller's own, so that nobody sees when others are at work."""
    total, last_ms = await call.backend.database.read(run_table.of_actor, actor.id, call.who)
    last = {"lastRunStartedAt": iso(last_ms)} if last_ms is not None else {}
    return {"totalBuilds": actor.build_no, "totalRuns": total, **last}


async def _doc(call: Call, actor: Actor) -> JsonObject:
    build = {"buildId": actor.build_id, "buildNumber": actor.build_number, "finishedAt": iso(actor.built_ms)}
    return _short(call, actor) | {
        "userId": call.backend.accounts.owner_id_of(actor.username),
        "description": actor.description,
        "isPublic": call.backend.accounts.named(actor.username) is None,
        "stats": await _stats(call, actor),
        "versions": [await _version(call, actor)],
        "defaultRunOptions": {
            "build": actor.build_tag,
            "timeoutSecs": call.backend.settings.default_timeout_s,
            "memoryMbytes": actor.default_memory_mb or call.backend.settings.default_memory_mb,
        },
        "taggedBuilds": {actor.build_tag: build},
        "pricingInfos": [pricing_info(actor.charge_events, iso(actor.built_ms))] if actor.charge_events else [],
    }


async def list_actors(call: Call) -> web.Response:
    """List the Actors that the account may use; with `my=1` only its own."""
    is_mine, sort_by = call.query.boolean("my"), call.query.text("sortBy") or "createdAt"
    if sort_by not in ("createdAt", "stats.lastRunStartedAt"):
        raise value_invalid("Parameter sortBy must be createdAt or stats.lastRunStartedAt")
    accounts, user = call.backend.accounts, call.user
    found = [actor for actor in call.backend.catalog if accounts.may_use(actor.username, user)]
    if is_mine:
        found = [actor for actor in found if accounts.named(actor.username) is user]
    shown = [{**_short(call, actor), "stats": await _stats(call, actor)} for actor in found]
    if sort_by != "createdAt":
        shown.sort(key=lambda doc: str(doc["stats"].get("lastRunStartedAt", "")))
    return list_answer(call, shown)


async def get_actor(call: Call) -> web.Response:
    return data_answer(await _doc(call, actor_of(call)))


async def list_versions(call: Call) -> web.Response:
    """List an Actor's versions: the one that its directory is."""
    return data_answer({"total": 1, "items": [await _version(call, actor_of(call))]})


async def get_version(call: Call) -> web.Response:
    return data_answer(await _version(call, _actor_of_version(call)))


async def list_variables(call: Call) -> web.Response:
    variables = _variables(_actor_of_version(call))
    return data_answer({"total": len(variables), "items": variables})


async def get_variable(call: Call) -> web.Response:
    for variable in _variables(_actor_of_version(call)):
        if variable["name"] == call.path["variable"]:
            return data_answer(variable)
    raise thing_missing("Environment variable")


def _actor_of_version(call: Call) -> Actor:
    actor = actor_of(call)
    if call.path["version"] != actor.version:
        raise thing_missing("Actor version")
    return actor


async def _version(call: Call, actor: Actor) -> JsonObject:
    """Return the version that an Actor's directory is; a caller without a token does not see its files."""
    files: list[JsonObject] = []
    if call.account is not None and isinstance(actor.runner, LocalCommand):
        files = await anyio.to_thread.run_sync(actor_files.source_files, actor.runner.cwd)
    return {
        "versionNumber": actor.version,
        "sourceType": "SOURCE_FILES",
        "sourceFiles": files,
        "envVars": _variables(actor),
        "buildTag": actor.build_tag,
        "applyEnvVarsToBuild": False,
    }


def _variables(actor: Actor) -> list[JsonObject]:
    if not isinstance(actor.runner, LocalCommand):
        return []
    return [{"name": name, "value": value, "isSecret": False} for name, value in actor.runner.variables.items()]


async def validate_input(call: Call) -> web.Response:
    actor, given = actor_of(call), await call.json_object()
    if actor.input_schema is not None:
        actor.input_schema.check(actor.input_schema.filled(given))
    answer: dict[str, Any] = {"valid": True}
    return web.json_response(answer)


async def list_runs(call: Call) -> web.Response:
    return await runs_answer(call, RunFilter(user_id=call.user.id, act_id=actor_of(call).id))


async def _start(call: Call) -> HostedRun:
    return await start_actor(call, actor_of(call), await call.body())
