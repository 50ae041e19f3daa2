"""Metrics for Prometheus; they need the extra `metrics`."""

from types import ModuleType
from typing import TYPE_CHECKING

import anyio
from aiohttp import web

from batchrun.worker.http.error_envelope import Refused
from batchrun.worker.http.request_context import worker_of
from batchrun.worker.worker import Worker

if TYPE_CHECKING:
    from batchrun.worker.metrics import MetricsSnapshot

#: Seconds for which metrics are the same for all who ask: no token is needed to ask.
FRESH_S = 1.0
#: They are also the same for this many times what they took to make: those of 300 batches take 0.2 s.
_REST_PER_SNAPSHOT = 10
_MISSING = "metrics need an extra; in the source directory: pip install '.[metrics]', then restart the worker"


class _Exposition:
    """The metrics as they were last made, in each format that was asked for."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._taken: MetricsSnapshot | None = None
        self._texts: dict[bool, tuple[bytes, str]] = {}
        self._ends_at = 0.0

    async def text(self, worker: Worker, *, is_open_metrics: bool) -> tuple[bytes, str]:
        """Return the text and its content type.

        Raises:
            Refused: the extra is not installed.
        """
        async with self._lock:
            metrics = await anyio.to_thread.run_sync(_load)
            if metrics is None:
                raise Refused(501, "extra-missing", _MISSING)
            began_at = anyio.current_time()
            if self._taken is None or began_at >= self._ends_at:
                # Read in the event loop, for a consistent state; written out in a thread, so that the loop is free.
                self._taken, self._texts = metrics.snapshot(worker), {}
                took_s = anyio.current_time() - began_at
                self._ends_at = began_at + max(FRESH_S, _REST_PER_SNAPSHOT * took_s)
            if is_open_metrics not in self._texts:
                text = await anyio.to_thread.run_sync(metrics.exposition, self._taken, is_open_metrics)
                self._texts[is_open_metrics] = text
            return self._texts[is_open_metrics]


_EXPOSITION = web.AppKey("exposition", _Exposition)


def prepare(app: web.Application) -> None:
    """Create what all who ask share."""
    app[_EXPOSITION] = _Exposition()


async def get_metrics(request: web.Request) -> web.Response:
    """Return the worker's metrics in a text format of Prometheus."""
    is_open_metrics = "application/openmetrics-text" in request.headers.get("Accept", "")
    exposition = request.app[_EXPOSITION]
    text, content_type = await exposition.text(worker_of(request), is_open_metrics=is_open_metrics)
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
