"""Server-sent events for the live page: the worker and its batches, each piece when it has changed.

A listener that does not read costs no work: the next event is made after the last one is sent.
"""

from typing import Any

import anyio
import orjson
from aiohttp import web

from batchrun.ledger.sqlite.connection import is_blank
from batchrun.model import Selection
from batchrun.output.layout import LEDGER
from batchrun.report.failure_causes import read_failures
from batchrun.worker.http.page_fragments import batch_details, batch_head, slots_chart, worker_tiles
from batchrun.worker.http.request_context import PAGE, submission_of, worker_of
from batchrun.worker.submission import CANCELLABLE, PAUSABLE, RESUMABLE
from batchrun.worker.views import BatchView, batch_view, worker_view
from batchrun.worker.worker import Worker

#: Seconds between two events.
INTERVAL_S = 1.0
#: Max batches on the page: those under way first, then the newest.
MAX_BATCHES = 200
#: The chart of slot use is drawn for every fifth event.
_CHART_EVERY = 5
#: A comment is sent after this many intervals without news, to detect a closed connection.
_SILENCE = 15


async def get_events(request: web.Request) -> web.StreamResponse:
    """Stream the changes of the worker's status until the listener disconnects."""
    worker = worker_of(request)
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await answer.prepare(request)
    sent: dict[str, Any] = {}
    silence = tick = 0
    while True:
        news = _news(worker, sent, has_chart=tick % _CHART_EVERY == 0)
        silence = 0 if news else silence + 1
        if news:
            await answer.write(b"data: %s\n\n" % orjson.dumps(news))
        elif silence % _SILENCE == 0:
            await answer.write(b":\n\n")
        tick += 1
        await anyio.sleep(INTERVAL_S)


def _news(worker: Worker, sent: dict[str, Any], *, has_chart: bool) -> dict[str, Any]:
    """Return what has changed since it was sent, and note it as sent."""
    now = _state(worker)
    if has_chart:
        now["slots"] = slots_chart(list(worker.samples))
    news = {key: value for key, value in now.items() if sent.get(key) != value}
    for gone in [key for key in sent if key not in now and key != "slots"]:
        del sent[gone]
    sent.update(news)
    return news


def _state(worker: Worker) -> dict[str, Any]:
    views = [batch_view(worker, each) for each in _shown(worker)]
    return {
        "worker": worker_tiles(worker_view(worker)),
        "order": [view.id for view in views],
        "total": len(worker.store),
        **{f"batch {view.id}": {"head": batch_head(view), "name": view.name, "can": _can(view)} for view in views},
    }


def _shown(worker: Worker) -> list[Any]:
    newest = list(worker.store)[::-1]
    newest.sort(key=lambda each: not each.state.is_under_way)  # stable: among equals, the newest first
    return newest[:MAX_BATCHES]


def _can(view: BatchView) -> list[str]:
    orders = {"pause": PAUSABLE, "resume": RESUMABLE, "cancel": CANCELLABLE}
    found = [order for order, states in orders.items() if view.state in states]
    return found if view.state.is_under_way else [*found, "delete"]


async def get_details(request: web.Request) -> web.Response:
    """Return a batch's details as a piece of HTML, and a query that opens its output by a link."""
    worker, submission = worker_of(request), submission_of(request)
    out_dir = worker.directory.out_dir(submission)
    failures = None
    if not await anyio.to_thread.run_sync(is_blank, out_dir / LEDGER):
        failures = await anyio.to_thread.run_sync(read_failures, out_dir, Selection())
    details = batch_details(batch_view(worker, submission), failures)
    return web.json_response({"html": details, "access": request.app[PAGE].sign(submission.id)})


ROUTES = [web.get("/v1/events", get_events), web.get("/v1/batches/{ref}/details", get_details)]
