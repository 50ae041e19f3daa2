"""Metrics for Prometheus; they need the extra `metrics`."""

from types import ModuleType

import anyio
from aiohttp import web

from batchrun.worker.http.error_envelope import Refused
from batchrun.worker.http.request_context import worker_of

_MISSING = "metrics need an extra; in the source directory: pip install '.[metrics]', then restart the worker"


async def get_metrics(request: web.Request) -> web.Response:
    """Return the worker's metrics in a text format of Prometheus."""
    metrics = await anyio.to_thread.run_sync(_load)
    if metrics is None:
        raise Refused(501, "extra-missing", _MISSING)
    # Read in the event loop, for a consistent state; written out in a thread, so that the loop is not blocked.
    taken = metrics.snapshot(worker_of(request))
    accept = request.headers.get("Accept", "")
    text, content_type = await anyio.to_thread.run_sync(metrics.exposition, taken, accept)
    return web.Response(body=text, headers={"Content-Type": content_type})


def _load() -> ModuleType | None:
    try:
        from batchrun.worker import metrics  # noqa: PLC0415 - its dependency may not be installed
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "prometheus_client":
            raise
        return None
    return metrics


ROUTES = [web.get("/metrics", get_metrics)]
