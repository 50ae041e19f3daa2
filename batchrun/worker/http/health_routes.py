"""Health checks: whether the process is alive, and whether it can run batches."""

from aiohttp import web

from batchrun.worker.http.request_context import worker_of


async def live(_request: web.Request) -> web.Response:
    """Return 200: the process is alive and its event loop runs."""
    return web.json_response({"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """Return whether batches can run now; 503 with the reason if not."""
    worker = worker_of(request)
    if worker.is_ready:
        return web.json_response({"status": "ready"})
    reason = "draining" if worker.is_draining else worker.outage or "the platform has not answered yet"
    return web.json_response({"status": "not ready", "reason": reason}, status=503)


ROUTES = [web.get("/health/live", live), web.get("/health/ready", ready)]
