"""Endpoints of webhooks and their dispatches."""

from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.api.addresses import actor_of, find_actor
from batchrun.server.api.webhook_chains import refuse_webhook
from batchrun.server.error_answers import ErrorAnswer, not_permitted, thing_missing
from batchrun.server.ids import now_ms
from batchrun.server.routing.call import Call, data_answer, empty_answer, page_answer
from batchrun.server.routing.route_table import RouteTable
from batchrun.server.store import webhook_table
from batchrun.server.webhooks.webhook_book import new_dispatch


def add_routes(table: RouteTable) -> None:
    table.add("GET", "/v2/webhooks", list_webhooks, reads_much=True)
    table.add("POST", "/v2/webhooks", create_webhook)
    one = "/v2/webhooks/{webhook}"
    table.add("GET", one, get_webhook)
    table.add("PUT", one, update_webhook)
    table.add("DELETE", one, delete_webhook)
    table.add("POST", f"{one}/test", test_webhook)
    table.add("GET", f"{one}/dispatches", list_dispatches, reads_much=True)
    table.add("GET", "/v2/webhook-dispatches", list_dispatches, reads_much=True)
    table.add("GET", "/v2/webhook-dispatches/{dispatch}", get_dispatch)
    table.add("GET", "/v2/actor-tasks/{task}/webhooks", list_of_task, reads_much=True)
    for collection in ("/v2/actors", "/v2/acts"):
        table.add("GET", f"{collection}/{{actor}}/webhooks", list_of_actor, reads_much=True)


async def _shown(call: Call, doc: JsonObject) -> JsonObject:
    total, last = await call.backend.database.read(webhook_table.statistics, doc["id"])
    shown = None if last is None else {"status": last["status"], "finishedAt": last.get("finishedAt")}
    return {**doc, "stats": {"totalDispatches": total}, "lastDispatch": shown}


async def _page(call: Call, docs: list[JsonObject]) -> web.Response:
    """Answer with a page of an Actor's or a task's webhooks."""
    offset, limit, is_descending = call.query.page()
    ordered = list(reversed(docs)) if is_descending else docs
    items = [await _shown(call, doc) for doc in ordered[offset : offset + limit]]
    return page_answer(items, len(docs), offset, limit, is_descending=is_descending)


async def _webhook(call: Call) -> JsonObject:
    return await call.backend.webhooks.find(call.path["webhook"], call.user)


async def list_webhooks(call: Call) -> web.Response:
    """List the account's webhooks, also those of single Runs."""
    offset, limit, is_descending = call.query.page()
    page = webhook_table.page_of_account, call.user.id, offset, limit, is_descending
    total, docs = await call.backend.database.read(*page)
    items = [await _shown(call, doc) for doc in docs]
    return page_answer(items, total, offset, limit, is_descending=is_descending)


async def list_of_task(call: Call) -> web.Response:
    return await _list_on(call, "actorTaskId", call.backend.tasks.find(call.path["task"], call.user)["id"])


async def list_of_actor(call: Call) -> web.Response:
    return await _list_on(call, "actorId", actor_of(call).id)


async def _list_on(call: Call, name: str, value: str) -> web.Response:
    docs = call.backend.webhooks.of_account(call.user)
    return await _page(call, [doc for doc in docs if doc["condition"].get(name) == value])


async def create_webhook(call: Call) -> web.Response:
    """Create a webhook, or show the one with the same idempotency key."""
    given = await call.json_object()
    await _check_condition(call, given)
    doc, is_new = await call.backend.webhooks.create(call.user, given)
    _forget_ended(call, doc)
    return data_answer(await _shown(call, doc), 201 if is_new else 200)


def _forget_ended(call: Call, doc: JsonObject) -> None:
    """Keep no webhook of a Run in memory that has ended."""
    if (run_id := doc["condition"].get("actorRunId")) is not None and call.backend.runs.find_live(run_id) is None:
        call.backend.webhooks.forget_run(run_id)


async def _check_condition(call: Call, given: JsonObject) -> None:
    """Refuse a condition on another account's things, and replace names by ids."""
    condition = given.get("condition")
    if not isinstance(condition, dict):
        return
    if isinstance(condition.get("actorId"), str):
        condition["actorId"] = find_actor(call, condition["actorId"]).id
    if isinstance(condition.get("actorTaskId"), str):
        condition["actorTaskId"] = call.backend.tasks.find(condition["actorTaskId"], call.user)["id"]
    run_id = condition.get("actorRunId")
    if isinstance(run_id, str) and not call.is_by(await call.backend.runs.owner_of(run_id)):
        raise not_permitted("Actor run")


async def get_webhook(call: Call) -> web.Response:
    return data_answer(await _shown(call, await _webhook(call)))


async def update_webhook(call: Call) -> web.Response:
    given = await call.json_object()  # first: while it comes, the webhook may be deleted
    await _check_condition(call, given)
    doc = await _webhook(call)
    changed = await call.backend.webhooks.update(doc, given)
    _forget_ended(call, changed)
    return data_answer(await _shown(call, changed))


async def delete_webhook(call: Call) -> web.Response:
    await call.backend.webhooks.delete(await _webhook(call))
    return empty_answer()


async def test_webhook(call: Call) -> web.Response:
    refuse_webhook(call, "test of a webhook")  # a ring of webhooks that test each other would never end
    webhook = await _webhook(call)
    if call.backend.runs.delivery.is_behind(webhook["userId"]):
        raise ErrorAnswer(429, "rate-limit-exceeded", "Too many calls of your webhooks wait to be delivered")
    dispatch = new_dispatch(webhook, "TEST", None)
    await call.backend.database.write(webhook_table.along, [dispatch], now_ms(), _nothing)
    call.backend.runs.delivery.expect([dispatch])
    return data_answer(dispatch, 201)


def _nothing(_: object) -> None:
    """Change nothing but the dispatches."""


async def list_dispatches(call: Call) -> web.Response:
    webhook_id = (await _webhook(call))["id"] if "webhook" in call.path else None
    offset, limit, is_descending = call.query.page()
    total, docs = await call.backend.database.read(
        webhook_table.page_dispatches, call.user.id, webhook_id, offset, limit, is_descending
    )
    return page_answer(docs, total, offset, limit, is_descending=is_descending)


async def get_dispatch(call: Call) -> web.Response:
    doc = await call.backend.database.read(webhook_table.read_dispatch, call.path["dispatch"])
    if doc is None or not call.is_by(doc["userId"]):
        raise thing_missing("Webhook dispatch")
    return data_answer(doc)
