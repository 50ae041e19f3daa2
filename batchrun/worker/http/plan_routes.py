"""Handler for plans: a batch's lines checked and forecast, without submitting it."""

from dataclasses import asdict

import anyio
from aiohttp import web

from batchrun.errors import BatchRefused
from batchrun.model import write_json
from batchrun.preflight.plan import Plan
from batchrun.worker.http.batch_upload import uploaded
from batchrun.worker.http.error_envelope import Refused
from batchrun.worker.http.request_context import while_asked, whole_number, worker_of
from batchrun.worker.http.submitted_form import submission_from

#: Max inputs that a plan shows.
MAX_INPUTS = 100


async def plan(request: web.Request) -> web.Response:
    """Check a batch's lines and forecast it, without submitting it; `inputs` shows so many of its inputs."""
    worker = worker_of(request)
    shown = whole_number(request, "inputs", 0, MAX_INPUTS)
    submission_id = worker.store.new_id()
    async with uploaded(request, worker.directory.of(submission_id)) as form:
        submission = submission_from(submission_id, form, None)
        try:
            async with while_asked(request):
                found = await worker.plan(submission, shown)
        except BatchRefused as error:  # asked again, the platform would say the same of this batch
            raise Refused(422, "refused-by-platform", str(error)) from error
    return web.Response(body=await anyio.to_thread.run_sync(_plan_json, found), content_type="application/json")


def _plan_json(found: Plan) -> bytes:
    return write_json({**asdict(found), "would_fail": found.would_fail})


ROUTES = [web.post("/v1/plans", plan)]
