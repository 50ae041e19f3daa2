"""Handlers for batches: list, pause, resume, cancel, change, delete."""

import secrets
from dataclasses import asdict
from typing import Any

import anyio
from aiohttp import web
from pydantic import TypeAdapter

from batchrun.maintenance.repair import Repaired
from batchrun.model import RunId, write_json
from batchrun.worker import batch_orders, resolve_and_repair, retry_orders
from batchrun.worker.batch_deletion import delete
from batchrun.worker.batch_list import list_rows
from batchrun.worker.http.batch_files import secret_fields
from batchrun.worker.http.error_envelope import Refused
from batchrun.worker.http.list_query import batch_page, read_list_query
from batchrun.worker.http.request_context import (
    batch_to_order,
    idempotency_key,
    read_object,
    submission_of,
    validated,
    while_asked,
    worker_of,
)
from batchrun.worker.status_views import ResolveRequest, RetryRequest, RetryView, batch_view
from batchrun.worker.submission import Submission
from batchrun.worker.submission_config import config_of
from batchrun.worker.worker import Worker

#: Limits of a batch that can be changed while it is open.
_LIMITS = ("max_concurrent_runs", "start_rate", "budget_usd")
_PRIORITIES = ("weight", "priority")

_REPAIRED = TypeAdapter(Repaired)


async def list_batches(request: web.Request) -> web.Response:
    """List batches, newest first or as `sort` says; `state`, `group` and `search` restrict them."""
    worker = worker_of(request)
    page = batch_page(worker, list_rows(worker), read_list_query(request))
    return web.json_response(text=page.model_dump_json())


async def get_batch(request: web.Request) -> web.Response:
    """Return the status of a batch."""
    return _answer(worker_of(request), submission_of(request))


async def get_config(request: web.Request) -> web.Response:
    """Return a batch's settings that differ from the defaults, by table, without secret values of inputs.

    The worker's own tables are left out.
    """
    worker, submission = worker_of(request), submission_of(request)
    if (mirrored := worker.sharded_with(submission.id)) is not None:
        await mirrored.bring_settings(submission.id)
    config = await anyio.to_thread.run_sync(config_of, submission, worker.directory, worker.config, worker.environ)
    shown = config.model_dump(mode="json", exclude_defaults=True, exclude={"api", "server"})
    secrets = await anyio.to_thread.run_sync(secret_fields, worker.directory.out_dir(submission))
    for table, key in ((shown, "input"), (shown.get("task", {}), "input"), (shown.get("jobs", {}), "template")):
        if key in table:
            table[key] = secrets.masked(table[key])
    return web.json_response(shown)


async def delete_batch(request: web.Request) -> web.Response:
    """Delete a batch that is not under way."""
    await delete(worker_of(request), submission_of(request).id)
    return web.Response(status=204)


async def pause_batch(request: web.Request) -> web.Response:
    """Stop new starts of a batch."""
    worker = worker_of(request)
    return _answer(worker, await batch_orders.pause(worker, batch_to_order(request).id))


async def resume_batch(request: web.Request) -> web.Response:
    """Resume a batch."""
    worker = worker_of(request)
    return _answer(worker, await batch_orders.resume(worker, batch_to_order(request).id))


async def cancel_batch(request: web.Request) -> web.Response:
    """Abort a batch's live Runs and stop new starts of it."""
    worker = worker_of(request)
    return _answer(worker, await batch_orders.cancel(worker, batch_to_order(request).id))


async def retry_batch(request: web.Request) -> web.Response:
    """Retry jobs that did not succeed, or a selection of them; with `dry_run`, only show them."""
    worker, submission = worker_of(request), batch_to_order(request)
    key = idempotency_key(request)
    given = await read_object(request) if request.body_exists else {}
    asked = validated(RetryRequest, given)
    if asked.dry_run:
        found = await retry_orders.show_retry(worker, submission, asked.wanted)
        return web.Response(body=write_json(asdict(found)), content_type="application/json")
    jobs = await retry_orders.order_retry(worker, submission.id, asked.wanted, key or secrets.token_urlsafe(12))
    view = batch_view(worker, worker.store[submission.id])
    return web.json_response(text=RetryView.model_construct(jobs=jobs or 0, batch=view).model_dump_json())


async def get_doubts(request: web.Request) -> web.Response:
    """Return the starts in doubt of a batch that rests, with the Runs that they may have started."""
    doubts = await resolve_and_repair.doubts_of(worker_of(request), submission_of(request).id)
    return web.Response(body=write_json([asdict(each) for each in doubts]), content_type="application/json")


async def resolve_doubt(request: web.Request) -> web.Response:
    """Decide which Run the start in doubt of a job has started; null: none. The batch is to be resumed then."""
    worker, submission = worker_of(request), submission_of(request)
    asked = validated(ResolveRequest, await read_object(request))
    run_id = RunId(asked.run_id) if asked.run_id is not None else None
    await resolve_and_repair.resolve_doubt(worker, submission.id, asked.key, run_id)
    return _answer(worker, worker.store[submission.id])


async def repair_batch(request: web.Request) -> web.Response:
    """Write missing or damaged lines of a batch that rests again; start nothing."""
    done = await resolve_and_repair.repair_batch(worker_of(request), submission_of(request).id)
    return web.Response(body=_REPAIRED.dump_json(done), content_type="application/json")


async def read_last_costs(request: web.Request) -> web.Response:
    """Read the costs of a batch that rests which are not final yet; return the sum of all, as `cost` does."""
    async with while_asked(request):
        total = await resolve_and_repair.read_last_costs(worker_of(request), submission_of(request).id)
    return web.Response(body=write_json(asdict(total)), content_type="application/json")


async def patch_batch(request: web.Request) -> web.Response:
    """Change a batch's weight, priority or limits, also while it is open; null restores the batch file's limit."""
    worker, submission = worker_of(request), batch_to_order(request)
    wanted = await read_object(request)
    unknown = [name for name in wanted if name not in (*_LIMITS, *_PRIORITIES)]
    if unknown:
        known = ", ".join((*_PRIORITIES, *_LIMITS))
        raise Refused(400, "bad-value", f"{unknown[0][:100]}: cannot be changed; these can: {known}")
    changes: dict[str, Any] = {name: wanted[name] for name in _PRIORITIES if name in wanted}
    settings = dict(submission.settings)
    for name in _LIMITS:
        if name in wanted and wanted[name] is None:
            settings.pop(f"limits.{name}", None)
        elif name in wanted:
            settings[f"limits.{name}"] = wanted[name]
    if settings != submission.settings:
        changes["settings"] = settings
    return _answer(worker, await batch_orders.change(worker, submission.id, **changes))


def _answer(worker: Worker, submission: Submission, *, status: int = 200) -> web.Response:
    return web.json_response(text=batch_view(worker, submission).model_dump_json(), status=status)


ROUTES = [
    web.get("/v1/batches", list_batches),
    web.get("/v1/batches/{ref}", get_batch, name="batch"),
    web.get("/v1/batches/{ref}/config", get_config),
    web.delete("/v1/batches/{ref}", delete_batch),
    web.patch("/v1/batches/{ref}", patch_batch),
    web.post("/v1/batches/{ref}/pause", pause_batch),
    web.post("/v1/batches/{ref}/resume", resume_batch),
    web.post("/v1/batches/{ref}/cancel", cancel_batch),
    web.post("/v1/batches/{ref}/retry", retry_batch),
    web.get("/v1/batches/{ref}/doubts", get_doubts),
    web.post("/v1/batches/{ref}/resolve", resolve_doubt),
    web.post("/v1/batches/{ref}/repair", repair_batch),
    web.post("/v1/batches/{ref}/cost", read_last_costs),
]
