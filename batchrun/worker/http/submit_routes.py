"""Handler that submits a batch; a repeated request with one Idempotency-Key submits none."""

import anyio
from aiohttp import web

from batchrun.worker.http.batch_upload import Form, uploaded
from batchrun.worker.http.error_envelope import Refused
from batchrun.worker.http.request_context import idempotency_key, worker_of
from batchrun.worker.http.submitted_form import submission_from
from batchrun.worker.status_views import batch_view
from batchrun.worker.submission import Submission
from batchrun.worker.worker import Worker

_SUBMITTING = web.AppKey("submitting", anyio.Lock)


def prepare(app: web.Application) -> None:
    """Create the lock that the requests share."""
    app[_SUBMITTING] = anyio.Lock()


async def submit(request: web.Request) -> web.Response:
    """Submit a batch, or return the one that was submitted with the same Idempotency-Key and content."""
    worker = worker_of(request)
    key = idempotency_key(request)
    if worker.is_draining:
        raise Refused(503, "not-possible-now", "the worker is stopping; submit the batch again after its restart")
    submission_id = worker.store.new_id()
    async with uploaded(request, worker.directory.of(submission_id)) as form:
        if (known := _known(worker, form, key)) is None:
            submission = submission_from(submission_id, form, key)
            await worker.intake.check(submission)
            async with request.app[_SUBMITTING]:
                if (known := _known(worker, form, key)) is None:
                    taken = await worker.take(submission)
                    if taken.id == submission_id:
                        form.is_kept = True
                        return _answer(worker, taken, 201)
                    known = _same(taken, form)  # another worker of the fleet has taken it just before
    return _answer(worker, known, 200)


def _known(worker: Worker, form: Form, key: str | None) -> Submission | None:
    known = worker.store.with_idempotency_key(key) if key is not None else None
    return _same(known, form) if known is not None else None


def _same(known: Submission, form: Form) -> Submission:
    """Return the batch of a key if it has the content of a form; one with other content is Refused."""
    if known.has_other_content(form.digest):
        problem = f"this Idempotency-Key has submitted batch {known.id}, with other content"
        raise Refused(409, "idempotency-key-reused", problem)
    return known


def _answer(worker: Worker, submission: Submission, status: int) -> web.Response:
    return web.json_response(text=batch_view(worker, submission).model_dump_json(), status=status)


ROUTES = [web.post("/v1/batches", submit)]
