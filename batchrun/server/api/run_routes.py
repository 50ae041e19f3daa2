"""Endpoints of Runs."""

from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.accounts.rate_limits import PER_START
from batchrun.server.api.access_rights import access_of, refuse_anothers_run
from batchrun.server.api.addresses import RUN_PREFIXES, find_actor, own_run_id_of, run_id_of
from batchrun.server.api.run_answers import run_answer, runs_answer, wait_s_of
from batchrun.server.api.run_starts import actor_input, check_spending, given_options
from batchrun.server.api.webhook_chains import check_resurrection
from batchrun.server.error_answers import request_invalid
from batchrun.server.routing.call import Call, empty_answer, raw_answer
from batchrun.server.routing.route_table import RouteTable
from batchrun.server.runs import reboot_and_metamorph
from batchrun.server.store.run_table import RunFilter

#: Paths of a Run by its id, under its Actor: without the shortcuts to its storages.
_UNDER_ACTORS = ("/v2/actors/{actor}/runs/{run}", "/v2/acts/{actor}/runs/{run}")
_CHANGEABLE = {"statusMessage": str, "isStatusMessageTerminal": bool}


def add_routes(table: RouteTable) -> None:
    table.add("GET", "/v2/actor-runs", list_runs, reads_much=True)
    for prefix in (*RUN_PREFIXES, *_UNDER_ACTORS):
        table.add("GET", prefix, get_run, needs_token=False)
        table.add("POST", f"{prefix}/abort", abort_run)
        table.add("POST", f"{prefix}/metamorph", metamorph_run, per_s=PER_START)
        table.add("POST", f"{prefix}/reboot", reboot_run)
    one = RUN_PREFIXES[0]
    for prefix in (one, *_UNDER_ACTORS):
        table.add("POST", f"{prefix}/resurrect", resurrect_run, per_s=PER_START)
    table.add("PUT", one, update_run)
    table.add("DELETE", one, delete_run)
    table.add("POST", f"{one}/charge", charge_run)


async def list_runs(call: Call) -> web.Response:
    after_ms, before_ms = call.query.time_ms("startedAfter"), call.query.time_ms("startedBefore")
    return await runs_answer(
        call, RunFilter(user_id=call.user.id, started_after_ms=after_ms, started_before_ms=before_ms)
    )


async def get_run(call: Call) -> web.Response:
    """Show a Run; with `waitForFinish`, when it has ended or the time is over."""
    run_id, wait_s = await run_id_of(call), wait_s_of(call.query)
    if wait_s:
        refuse_anothers_run(call, await call.backend.runs.read(run_id))  # the time of the answer would tell of its end
    await (call.backend.runs.wait(run_id, wait_s) if wait_s else call.backend.runs.wait_begun(run_id))
    doc = await call.backend.runs.read_with_usage(run_id)
    refuse_anothers_run(call, doc)
    return run_answer(call, doc)


async def update_run(call: Call) -> web.Response:
    """Set the status message or general access. `runId` is optional: the SDKs leave it out."""
    run_id, given = await own_run_id_of(call), await call.json_object()
    if given.get("runId", run_id) != run_id:
        raise request_invalid('Property "runId" names another run than the URL')
    changes: JsonObject = {name: given[name] for name in _CHANGEABLE if name in given}
    _check_changes(changes)
    if (access := access_of(given)) is not None:
        changes["generalAccess"] = access
    return run_answer(call, await call.backend.runs.change(run_id, changes))


def _check_changes(changes: JsonObject) -> None:
    for name, value in changes.items():
        if value is not None and not isinstance(value, _CHANGEABLE[name]):
            raise request_invalid(f'Property "{name}" has the wrong type')


async def delete_run(call: Call) -> web.Response:
    await call.backend.runs.delete(await own_run_id_of(call))
    return empty_answer()


async def abort_run(call: Call) -> web.Response:
    """Abort a Run. An ended one is shown as it is."""
    is_graceful = call.query.boolean("gracefully")
    return run_answer(call, await call.backend.runs.abort(await own_run_id_of(call), is_graceful=is_graceful))


async def reboot_run(call: Call) -> web.Response:
    live = await call.backend.runs.running(await own_run_id_of(call))
    return run_answer(call, await reboot_and_metamorph.reboot(call.backend.database, live))


async def metamorph_run(call: Call) -> web.Response:
    """Turn a running Run into one of another Actor, with the body as its input."""
    run_id, address = await own_run_id_of(call), call.query.text("targetActorId")
    if address is None:
        raise request_invalid("Parameter targetActorId is required")
    actor = find_actor(call, address)
    if (build := call.query.text("build")) is not None:
        actor.check_build(build)
    stored_input = actor_input(call, actor, await call.body())
    live = await call.backend.runs.running(run_id)
    return run_answer(call, await reboot_and_metamorph.metamorph(call.backend.database, live, actor, stored_input))


async def resurrect_run(call: Call) -> web.Response:
    check_spending(call)
    given, run_id = given_options(call.query), await own_run_id_of(call)
    check_resurrection(call, await call.backend.runs.read(run_id))
    return run_answer(call, await call.backend.runs.resurrect(run_id, given))


async def charge_run(call: Call) -> web.Response:
    run_id, given = await own_run_id_of(call), await call.json_object()
    event, count = given.get("eventName"), given.get("count", 1)
    if not isinstance(event, str) or isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise request_invalid("The body must hold eventName (string) and count (a whole number from 1)")
    live, key = await call.backend.runs.running(run_id), call.request.headers.get("idempotency-key")
    await call.backend.runs.charge(live, event, count, key)
    return raw_answer(b"{}", 201)
