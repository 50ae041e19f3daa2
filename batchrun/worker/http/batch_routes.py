"""Handlers for batches: submit, list, pause, resume, cancel, change, delete."""

import secrets
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import anyio
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from batchrun.config.load import as_config_error
from batchrun.errors import BatchRefused
from batchrun.maintenance.repair import Repaired
from batchrun.model import RunId, write_json
from batchrun.preflight.plan import Plan
from batchrun.worker import batch_mending, batch_orders, retry_orders
from batchrun.worker.batch_deletion import delete
from batchrun.worker.batch_list import list_rows
from batchrun.worker.http.batch_files import secret_fields
from batchrun.worker.http.batch_upload import Form, uploaded
from batchrun.worker.http.error_envelope import Refused
from batchrun.worker.http.list_query import batch_page, read_list_query
from batchrun.worker.http.request_context import (
    batch_to_order,
    read_object,
    submission_of,
    validated,
    while_asked,
    whole_number,
    worker_of,
)
from batchrun.worker.submission import FILES, Submission
from batchrun.worker.submission_config import config_of
from batchrun.worker.views import ResolveRequest, RetryRequest, RetryView, batch_view
from batchrun.worker.worker import Worker

#: Max inputs that a plan shows.
MAX_INPUTS = 100
#: Max characters of a name, and of an idempotency key.
MAX_NAME = 200
MAX_KEY = 200
#: Limits of a batch that can be changed while it is open.
_LIMITS = ("max_concurrent_runs", "start_rate", "budget_usd")
_PRIORITIES = ("weight", "priority")

_REPAIRED = TypeAdapter(Repaired)
_SUBMITTING = web.AppKey("submitting", anyio.Lock)


def prepare(app: web.Application) -> None:
    """Create the lock that the handlers share."""
    app[_SUBMITTING] = anyio.Lock()


async def submit(request: web.Request) -> web.Response:
    """Submit a batch, or return the one that was submitted with the same Idempotency-Key and content."""
    worker = worker_of(request)
    key = _idempotency_key(request)
    if worker.is_draining:
        raise Refused(503, "not-possible-now", "the worker is stopping; submit the batch again after its restart")
    submission_id = worker.store.new_id()
    async with uploaded(request, worker.directory.of(submission_id)) as form:
        if (known := _known(worker, form, key)) is None:
            submission = _submission(submission_id, form, key)
            await worker.intake.check(submission)
            async with request.app[_SUBMITTING]:
                if (known := _known(worker, form, key)) is None:
                    taken = await worker.take(submission)
                    form.is_kept = True
                    return _answer(worker, taken, status=201)
    return _answer(worker, known)


async def plan(request: web.Request) -> web.Response:
    """Check a batch's lines and forecast it, without submitting it; `inputs` shows so many of its inputs."""
    worker = worker_of(request)
    shown = whole_number(request, "inputs", 0, MAX_INPUTS)
    submission_id = worker.store.new_id()
    async with uploaded(request, worker.directory.of(submission_id)) as form:
        submission = _submission(submission_id, form, None)
        try:
            async with while_asked(request):
                found = await worker.plan(submission, shown)
        except BatchRefused as error:  # asked again, the platform would say the same of this batch
            raise Refused(422, "refused-by-platform", str(error)) from error
    return web.Response(body=await anyio.to_thread.run_sync(_plan_json, found), content_type="application/json")


def _plan_json(found: Plan) -> bytes:
    return write_json({**asdict(found), "would_fail": found.would_fail})


def _idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isprintable()):
        raise Refused(400, "bad-value", f"Idempotency-Key: send 1 to {MAX_KEY} printable characters")
    return key


def _known(worker: Worker, form: Form, key: str | None) -> Submission | None:
    known = worker.store.with_idempotency_key(key) if key is not None else None
    if known is not None and known.content_digest not in (None, form.digest):  # an earlier version noted none
        problem = f"this Idempotency-Key has submitted batch {known.id}, with other content"
        raise Refused(409, "idempotency-key-reused", problem)
    return known


def _submission(submission_id: str, form: Form, key: str | None) -> Submission:
    texts = form.texts
    if ("config" in texts) == ("profile" in texts):
        raise Refused(400, "bad-form", "send either config, the text of a batch file, or profile, the name of one")
    if "profile" in texts and form.jobs_file is None:
        raise Refused(400, "bad-form", "jobs: is missing; a profile needs a job file")
    name = texts.get("name") or form.jobs_stem or submission_id
    if len(name) > MAX_NAME or not name.isprintable():
        raise Refused(400, "bad-value", f"name: send at most {MAX_NAME} printable characters")
    numbers = {"weight": float, "priority": int, "shards": int}
    given = {field: form.number(field, kind) for field, kind in numbers.items()}
    try:
        return Submission(
            id=submission_id,
            name=name,
            created_at=datetime.now(UTC),
            profile=texts.get("profile"),
            batch_file=FILES["config"] if "config" in texts else None,
            jobs_file=form.jobs_file,
            schema_file=FILES["schema"] if "schema" in texts else None,
            settings=form.settings(),
            idempotency_key=key,
            content_digest=form.digest if key is not None else None,
            **{field: value for field, value in given.items() if value is not None},
        )
    except ValidationError as error:
        raise Refused(400, "bad-value", str(as_config_error(error, None, {}, Submission))) from None


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
    if (wholes := worker.wholes_with(submission.id)) is not None:
        await wholes.bring_settings(submission.id)
    config = await anyio.to_thread.run_sync(config_of, submission, worker.directory, worker.config, worker.environ)
    shown = config.model_dump(mode="json", exclude_defaults=True, exclude={"api", "server"})
    secrets = await anyio.to_thread.run_sync(secret_fields, worker.directory.out_dir(submission))
    for table, key in ((shown, "input"), (shown.get("task", {}), "input"), (shown.get("jobs", {}), "template")):
        if key in table:
            table[key] = secrets.masked(table[key])
    return web.json_response(shown)


async def delete_batch(request: web.Request) -> web.Response:
    """Delete a batch that is not under way."""
    await delete(worker_of(request), batch_to_order(request).id)
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
    key = _idempotency_key(request)
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
    doubts = await batch_mending.doubts_of(worker_of(request), submission_of(request).id)
    return web.Response(body=write_json([asdict(each) for each in doubts]), content_type="application/json")


async def resolve_doubt(request: web.Request) -> web.Response:
    """Decide which Run the start in doubt of a job has started; null: none. The batch is to be resumed then."""
    worker, submission = worker_of(request), submission_of(request)
    asked = validated(ResolveRequest, await read_object(request))
    run_id = RunId(asked.run_id) if asked.run_id is not None else None
    await batch_mending.resolve_doubt(worker, submission.id, asked.key, run_id)
    return _answer(worker, worker.store[submission.id])


async def repair_batch(request: web.Request) -> web.Response:
    """Write missing or damaged lines of a batch that rests again; start nothing."""
    done = await batch_mending.repair_batch(worker_of(request), submission_of(request).id)
    return web.Response(body=_REPAIRED.dump_json(done), content_type="application/json")


async def read_last_costs(request: web.Request) -> web.Response:
    """Read the costs of a batch that rests which are not final yet; return the sum of all, as `cost` does."""
    async with while_asked(request):
        total = await batch_mending.read_last_costs(worker_of(request), submission_of(request).id)
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
    web.post("/v1/batches", submit),
    web.post("/v1/plans", plan),
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
