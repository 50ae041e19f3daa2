"""Starts Runs of tasks and Actors: merges and validates the input, decides the options."""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from batchrun.model import JsonObject, RunStatus
from batchrun.server.accounts.callers import Caller
from batchrun.server.accounts.rate_limits import PER_START
from batchrun.server.api.dataset_item_answers import items_answer
from batchrun.server.api.run_answers import run_answer, wait_s_of
from batchrun.server.api.value_answers import read_value, value_answer
from batchrun.server.api.webhook_chains import chain_of
from batchrun.server.catalog.actor_catalog import Actor
from batchrun.server.catalog.start_options import check_memory, decide, decode_webhooks, whole
from batchrun.server.content.query_parameters import Query
from batchrun.server.content.request_bodies import check_size, json_kind, load_json
from batchrun.server.error_answers import ErrorAnswer, disk_full, input_invalid, request_invalid, value_invalid
from batchrun.server.routing.call import Call
from batchrun.server.routing.route_table import RouteTable
from batchrun.server.runs.hosted_run import HostedRun
from batchrun.server.runs.run_object import RunOrder

#: Seconds that the sync endpoints wait for a Run. Source: the API reference.
_SYNC_WAIT_S = 300
_JSON_STORED = "application/json; charset=utf-8"
_ORIGINS = frozenset(
    {"DEVELOPMENT", "WEB", "API", "SCHEDULER", "TEST", "WEBHOOK", "ACTOR", "CLI", "CI", "STANDBY", "MCP"}
)


async def start_task(call: Call, task: JsonObject, body: bytes) -> HostedRun:
    """Start a Run of a task. Its input: the body over the task's input over schema defaults, top level only."""
    actor = call.backend.tasks.actor_of(task)
    if body and not _is_json(call.request.headers.get("Content-Type", "")):
        raise request_invalid("The input of a task's run must be JSON, with Content-Type: application/json")
    override = _parse_input(body) if body else {}
    if not isinstance(override, dict):
        raise input_invalid(f'Provided input must be object, got "{json_kind(override)}" instead.')
    merged = call.backend.tasks.input_of(task)
    if override or actor.input_schema is not None:
        merged = check_size(orjson.dumps(_fitting(actor, {**orjson.loads(merged), **override})))
    live = await _start(call, actor, task, (_JSON_STORED, merged))
    call.backend.tasks.count_run(task)
    return live


async def start_actor(call: Call, actor: Actor, body: bytes) -> HostedRun:
    """Start a Run of an Actor. Without an input schema it accepts any body of any type."""
    return await _start(call, actor, {}, actor_input(call, actor, body))


def actor_input(call: Call, actor: Actor, body: bytes) -> tuple[str, bytes] | None:
    """Return content type and bytes of a Run's stored input; None for no input."""
    content_type = call.header("Content-Type") or "application/octet-stream"
    if actor.input_schema is None and not _is_json(content_type):
        return (content_type, body) if body else None
    value = _parse_input(body) if body else {}
    if actor.input_schema is None:
        return (_JSON_STORED, orjson.dumps(value)) if body else None
    if not isinstance(value, dict):
        raise input_invalid(f'Provided input must be object, got "{json_kind(value)}" instead.')
    return _JSON_STORED, orjson.dumps(_fitting(actor, value))


class StartEndpoints:
    """The endpoints that start Runs of a task or of an Actor. `start` starts the Run of a call."""

    def __init__(self, start: Callable[[Call], Awaitable[HostedRun]]) -> None:
        self._do = start

    def add_routes(self, table: RouteTable, one: str) -> None:
        table.add("POST", f"{one}/runs", self.start_run, per_s=PER_START)
        table.add("GET POST", f"{one}/run-sync", self.run_sync, per_s=PER_START)
        table.add("GET POST", f"{one}/run-sync-get-dataset-items", self.run_sync_items, per_s=PER_START)

    async def _start(self, call: Call) -> HostedRun:
        live = await self._do(call)
        call.leave_room()  # the answer may wait for the Run
        return live

    async def start_run(self, call: Call) -> web.Response:
        wait_s = wait_s_of(call.query)
        live = await self._start(call)
        task_id = live.doc["actorTaskId"]
        owner = f"actors/{live.doc['actId']}" if task_id is None else f"actor-tasks/{task_id}"
        location = f"{call.backend.base_url}/v2/{owner}/runs/{live.id}"
        await call.backend.runs.wait(live.id, wait_s)
        return run_answer(call, live.doc, 201, {"Location": location})

    async def run_sync(self, call: Call) -> web.StreamResponse:
        return await _output_answer(call, await _finish_sync(call, await self._start(call)))

    async def run_sync_items(self, call: Call) -> web.StreamResponse:
        doc = await _finish_sync(call, await self._start(call))
        return await items_answer(call, doc["defaultDatasetId"], status=201)


async def _finish_sync(call: Call, live: HostedRun) -> JsonObject:
    """Wait for a Run as the sync endpoints do; return it if it succeeds. After a timeout the Run goes on."""
    await call.backend.runs.wait(live.id, _SYNC_WAIT_S)
    if not live.is_ended:
        raise ErrorAnswer(408, "run-timeout-exceeded", f"Actor run exceeded the timeout of {_SYNC_WAIT_S} seconds")
    if live.status is not RunStatus.SUCCEEDED:
        message = f"Actor run did not succeed (run ID: {live.id}, status: {live.status})"
        raise ErrorAnswer(400, "run-failed", message)
    return live.doc


async def _output_answer(call: Call, doc: JsonObject) -> web.StreamResponse:
    """Answer with the record OUTPUT or `outputRecordKey`; empty if there is none."""
    stored = await read_value(call, doc["defaultKeyValueStoreId"], call.query.text("outputRecordKey") or "OUTPUT")
    return await value_answer(call, *(stored or (_JSON_STORED, b"")), status=201)


async def _start(call: Call, actor: Actor, task: JsonObject, stored_input: tuple[str, bytes] | None) -> HostedRun:
    settings = call.backend.settings
    check_spending(call)
    if not await call.backend.space.has_room():
        raise disk_full()
    given = given_options(call.query)
    options = decide(given, task.get("options") or {}, actor, settings.default_memory_mb, settings.default_timeout_s)
    order = RunOrder(
        user_id=call.user.id,
        actor=actor,
        task_id=task.get("id"),
        options=options,
        webhooks=decode_webhooks(call.query.text("webhooks")),
        stored_input=stored_input,
        origin=_origin(call),
        chain=await chain_of(call),
        client_ip=call.request.remote,
        ready_s=call.faults.ready_s,
        user_agent=None if call.faults.hides_user_agent else call.header("User-Agent"),
    )
    return await call.backend.runs.start(order)


def check_spending(call: Call) -> None:
    """Refuse to start anything for an account that has spent what it may in this month."""
    user = call.user
    if (limit_usd := user.limits.get("maxMonthlyUsageUsd")) is None:
        return
    if call.backend.final_usage.spent_usd(user.id) >= limit_usd:
        raise ErrorAnswer(403, "platform-feature-disabled", "Monthly usage hard limit exceeded")


def given_options(query: Query) -> JsonObject:
    """Return the options that a query names, in the API's spelling."""
    if query.text("forcePermissionLevel") not in (None, "FULL_PERMISSIONS"):
        raise value_invalid("Runs have FULL_PERMISSIONS here: parameter forcePermissionLevel cannot limit them")
    memory, timeout, max_items = query.number("memory"), query.number("timeout"), query.number("maxItems")
    options: JsonObject = {
        "build": query.text("build"),
        "timeoutSecs": None if timeout is None else whole("Parameter timeout", timeout),
        "memoryMbytes": None if memory is None else check_memory(memory),
        "maxItems": None if max_items is None else whole("Parameter maxItems", max_items),
        "maxTotalChargeUsd": query.number("maxTotalChargeUsd"),
        "restartOnError": query.boolean("restartOnError") if query.text("restartOnError") else None,
    }
    return {name: value for name, value in options.items() if value is not None}


def _origin(call: Call) -> str:
    if call.caller is Caller.RUN:
        return "ACTOR"
    announced = call.request.headers.get("X-Apify-Request-Origin", "API").upper()
    return announced if announced in _ORIGINS else "API"


def _fitting(actor: Actor, given: JsonObject) -> JsonObject:
    if actor.input_schema is None:
        return given
    filled = actor.input_schema.filled(given)
    actor.input_schema.check(filled)
    return filled


def _parse_input(body: bytes) -> Any:
    try:
        return load_json(body)
    except ValueError as error:
        raise ErrorAnswer(400, "run-input-body-not-valid-json", f"Run input is not valid JSON: {error}") from None


def _is_json(content_type: str) -> bool:
    return "json" in content_type.lower()
