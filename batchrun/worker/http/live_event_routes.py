"""What the live page is told, as server-sent events: the worker and its batches, each piece when it has changed.

Nobody works for a listener that does not read: the next event is made when the last one is on its way.
"""

from typing import Any

import anyio
import orjson
from aiohttp import web

from batchrun.model import Selection
from batchrun.output.layout import LEDGER
from batchrun.report.failure_causes import read_failures
from batchrun.worker.http.page_fragments import batch_details, batch_head, slots_chart, worker_tiles
from batchrun.worker.http.request_context import submission_of, worker_of
from batchrun.worker.views import BatchView, batch_view, worker_view
from batchrun.worker.worker import CANCELLABLE, PAUSABLE, RESUMABLE, Worker

INTERVAL_S = 1.0
#: Batches that are shown: those under way first, then the newest.
MAX_BATCHES = 200
#: The chart of an hour need not be drawn each second.
_CHART_EVERY = 5
#: A comment is sent after so many events without news, so that a connection that is gone is noticed.
_SILENCE = 15


async def get_events(request: web.Request) -> web.StreamResponse:
    """Tell how the worker stands until the listener leaves."""
    worker = worker_of(request)
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await answer.prepare(request)
    told: dict[str, Any] = {}
    silence = tick = 0
    while True:
        news = _news(worker, told, has_chart=tick % _CHART_EVERY == 0)
        silence = 0 if news else silence + 1
        if news:
            await answer.write(b"data: %s\n\n" % orjson.dumps(news))
        elif silence % _SILENCE == 0:
            await answer.write(b":\n\n")
        tick += 1
        await anyio.sleep(INTERVAL_S)


def _news(worker: Worker, told: dict[str, Any], *, has_chart: bool) -> dict[str, Any]:
    """Return what has changed since it was told, and note it as told."""
    now = _state(worker)
    if has_chart:
        now["slots"] = slots_chart(list(worker.samples))
    news = {key: value for key, value in now.items() if told.get(key) != value}
    for gone in [key for key in told if key not in now and key != "slots"]:
        del told[gone]
    told.update(news)
    return news


def _state(worker: Worker) -> dict[str, Any]:
    views = [batch_view(worker, each) for each in _shown(worker)]
    return {
        "worker": worker_tiles(worker_view(worker)),
        "order": [view.id for view in views],
        "total": len(worker.shelf),
        **{f"batch {view.id}": {"head": batch_head(view), "name": view.name, "can": _can(view)} for view in views},
    }


def _shown(worker: Worker) -> list[Any]:
    newest = list(worker.shelf)[::-1]
    newest.sort(key=lambda each: not each.state.is_under_way)  # stable: among equals, the newest first
    return newest[:MAX_BATCHES]


def _can(view: BatchView) -> list[str]:
    """Return what a batch can be told in its state."""
    orders = {"pause": PAUSABLE, "resume": RESUMABLE, "cancel": CANCELLABLE}
    found = [order for order, states in orders.items() if view.state in states]
    return found if view.state.is_under_way else [*found, "delete"]


async def get_details(request: web.Request) -> web.Response:
    """Answer a batch's details as a piece of markup."""
    worker, submission = worker_of(request), submission_of(request)
    out_dir = worker.layout.out_dir(submission)
    failures = None
    if await anyio.Path(out_dir / LEDGER).exists():
        failures = await anyio.to_thread.run_sync(read_failures, out_dir, Selection())
    return web.Response(text=batch_details(batch_view(worker, submission), failures), content_type="text/html")


ROUTES = [web.get("/v1/events", get_events), web.get("/v1/batches/{ref}/details", get_details)]
