"""Endpoints of tasks."""

import orjson
from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.api.addresses import find_actor
from batchrun.server.api.run_answers import runs_answer
from batchrun.server.api.run_starts import StartEndpoints, start_task
from batchrun.server.error_answers import request_invalid
from batchrun.server.routing.call import Call, data_answer, empty_answer, list_answer, raw_answer
from batchrun.server.routing.route_table import RouteTable
from batchrun.server.runs.hosted_run import HostedRun
from batchrun.server.store.run_table import RunFilter

_SHORT = ("id", "userId", "actId", "name", "username", "title", "createdAt", "modifiedAt", "stats")


def add_routes(table: RouteTable) -> None:
    table.add("GET", "/v2/actor-tasks", list_tasks)
    table.add("POST", "/v2/actor-tasks", create_task)
    one = "/v2/actor-tasks/{task}"
    table.add("GET", one, get_task)
    table.add("PUT", one, update_task)
    table.add("DELETE", one, delete_task)
    table.add("GET", f"{one}/input", get_input)
    table.add("PUT", f"{one}/input", update_input)
    table.add("GET", f"{one}/runs", list_runs, reads_much=True)
    StartEndpoints(_start).add_routes(table, one)


def _task(call: Call) -> JsonObject:
    return call.backend.tasks.find(call.path["task"], call.user)


async def list_tasks(call: Call) -> web.Response:
    return list_answer(call, [_short(call, doc) for doc in call.backend.tasks.of_account(call.user)])


def _short(call: Call, doc: JsonObject) -> JsonObject:
    short = {name: doc[name] for name in _SHORT if name in doc}
    if (actor := call.backend.catalog.find(doc["actId"])) is not None:
        short |= {"actName": actor.name, "actUsername": actor.username, "actTitle": actor.title}
    return short


async def create_task(call: Call) -> web.Response:
    given = await call.json_object()
    if not isinstance(given.get("actId"), str):
        raise request_invalid('Property "actId" is required and must be a string')
    doc = await call.backend.tasks.create(call.user, find_actor(call, given["actId"]), given)
    whole = call.backend.tasks.whole(doc)
    return data_answer(whole, 201, {"Location": f"{call.backend.base_url}/v2/actor-tasks/{doc['id']}"})


async def get_task(call: Call) -> web.Response:
    return data_answer(call.backend.tasks.whole(_task(call)))


async def update_task(call: Call) -> web.Response:
    given, tasks = await call.json_object(), call.backend.tasks  # first: while it comes, the task may be deleted
    return data_answer(tasks.whole(await tasks.update(_task(call), given)))


async def delete_task(call: Call) -> web.Response:
    """Delete a task. Its live Runs are aborted; its Runs stay."""
    task = _task(call)
    await call.backend.tasks.delete(task)
    await call.backend.runs.abort_of_task(task["id"])
    return empty_answer()


async def get_input(call: Call) -> web.Response:
    """Show a task's input, without an envelope."""
    return raw_answer(call.backend.tasks.input_of(_task(call)))


async def update_input(call: Call) -> web.Response:
    """Merge top-level keys into a task's input; show the input, without an envelope."""
    given, tasks = await call.json_object(), call.backend.tasks
    task = _task(call)
    changed = await tasks.update(task, {"input": {**orjson.loads(tasks.input_of(task)), **given}})
    return raw_answer(tasks.input_of(changed))


async def list_runs(call: Call) -> web.Response:
    return await runs_answer(call, RunFilter(task_id=_task(call)["id"]))


async def _start(call: Call) -> HostedRun:
    return await start_task(call, _task(call), await call.body())
