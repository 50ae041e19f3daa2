"""Handlers for the worker itself: its health, its status, and the limits of all batches together."""

import anyio
from aiohttp import web

from batchrun.config.worker_config import WorkerLimitsConfig
from batchrun.worker.batch_list import list_rows
from batchrun.worker.http.request_context import read_object, validated, worker_of
from batchrun.worker.status_views import NotifyTestView, notify_view, worker_view
from batchrun.worker.worker import Worker

#: Max profiles that are listed.
MAX_PROFILES = 1000
#: Seconds for which `/health/ready` is the same for all who ask: no token is needed, and each look is at all batches.
FRESH_S = 1.0


async def live(_request: web.Request) -> web.Response:
    """Return 200: the process is alive and its event loop runs."""
    return web.json_response({"status": "live"})


class _Readiness:
    """Whether batches could run when somebody last asked."""

    def __init__(self) -> None:
        self._is_ready = False
        self._ends_at = 0.0

    def of(self, worker: Worker) -> bool:
        """Return whether batches can run, as it was up to FRESH_S ago."""
        now = anyio.current_time()
        if now >= self._ends_at:
            self._is_ready, self._ends_at = worker.is_ready, now + FRESH_S
        return self._is_ready


_READINESS = web.AppKey("readiness", _Readiness)


def prepare(app: web.Application) -> None:
    """Create what all who ask share."""
    app[_READINESS] = _Readiness()


async def ready(request: web.Request) -> web.Response:
    """Return whether batches can run now; 503 if not. Why not, which may name batches, the worker's status says."""
    if request.app[_READINESS].of(worker_of(request)):
        return web.json_response({"status": "ready"})
    return web.json_response({"status": "not ready"}, status=503)


async def get_worker(request: web.Request) -> web.Response:
    """Return the status of the worker."""
    worker = worker_of(request)
    return web.json_response(text=worker_view(worker, list_rows(worker)).model_dump_json())


async def get_limits(request: web.Request) -> web.Response:
    """Return the current limits."""
    return web.json_response(text=worker_of(request).config.limits.model_dump_json())


async def list_profiles(request: web.Request) -> web.Response:
    """Return the names of the worker's profiles: batch files to which only a job file has to be submitted."""
    directory = worker_of(request).directory.profiles
    names = await anyio.to_thread.run_sync(lambda: sorted(each.stem for each in directory.glob("*.toml")))
    return web.json_response({"names": names[:MAX_PROFILES]})


async def patch_limits(request: web.Request) -> web.Response:
    """Change some limits until the next start or reload, and return all."""
    worker = worker_of(request)
    wanted = await read_object(request)
    limits = validated(WorkerLimitsConfig, {**worker.config.limits.model_dump(), **wanted})
    await worker.change_limits(limits)
    return await get_limits(request)


async def get_notify(request: web.Request) -> web.Response:
    """Return who is notified of what happens to batches and worker."""
    return web.json_response(text=notify_view(worker_of(request)).model_dump_json())


async def post_notify_test(request: web.Request) -> web.Response:
    """Send a test in each way, once, and return what came of it."""
    results = await worker_of(request).notifier.test()
    return web.json_response(text=NotifyTestView(results=results).model_dump_json())


ROUTES = [
    web.get("/health/live", live),
    web.get("/health/ready", ready),
    web.get("/v1/worker", get_worker),
    web.get("/v1/profiles", list_profiles),
    web.get("/v1/limits", get_limits),
    web.patch("/v1/limits", patch_limits),
    web.get("/v1/notify", get_notify),
    web.post("/v1/notify/test", post_notify_test),
]
