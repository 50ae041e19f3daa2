"""Server-sent events for the live page: the worker, and the list or one batch, each when it has changed.

A listener that does not read costs no work: the next event is made after the last one is sent.
"""

from collections.abc import Callable

import anyio
from aiohttp import web

from batchrun.worker.batch_list import list_rows
from batchrun.worker.http.list_query import batch_page, read_list_query
from batchrun.worker.http.request_context import find_batch, worker_of
from batchrun.worker.status_views import batch_view, worker_view

#: Seconds between two events, at least.
INTERVAL_S = 1.0
#: The pause after an event is at least this many times what it took to make: with 10,000 batches it takes 50 ms.
_REST_PER_EVENT = 20
#: The same for all listeners together, one of whom at a time has an event made: the rest is for other requests.
_REST_OF_ALL = 4
#: A comment is sent after this many intervals without news, to detect a closed connection.
_SILENCE = 15


_TURNS = web.AppKey("turns", anyio.Lock)


def prepare(app: web.Application) -> None:
    """Create the lock that the listeners share."""
    app[_TURNS] = anyio.Lock()


async def get_events(request: web.Request) -> web.StreamResponse:
    """Stream the status of the worker and of a page of batches, or of one: `batch=REF`, until the listener leaves."""
    read = _reader(request)
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    turns = request.app[_TURNS]
    sent: dict[str, str] = {}
    silence = 0
    while True:
        async with turns:
            began_at = anyio.current_time()
            news = _news(read(), sent)
            took_s = anyio.current_time() - began_at
            await anyio.sleep(_REST_OF_ALL * took_s)
        silence = 0 if news else silence + 1
        if news:
            await answer.write(f"data: {{{','.join(news)}}}\n\n".encode())
        elif silence % _SILENCE == 0:
            await answer.write(b":\n\n")
        await anyio.sleep(max(INTERVAL_S, _REST_PER_EVENT * took_s))


def _news(now: dict[str, str], sent: dict[str, str]) -> list[str]:
    """Return the parts that have changed since they were sent, and note them as sent."""
    news = [f'"{name}":{text}' for name, text in now.items() if sent.get(name) != text]
    sent.update(now)
    return news


def _reader(request: web.Request) -> Callable[[], dict[str, str]]:
    """Return what reads the parts that a listener asks for, each as JSON by its name."""
    worker = worker_of(request)
    ref = request.query.get("batch")
    batch_id = None if ref is None else find_batch(worker, ref).id
    query = read_list_query(request)

    def read() -> dict[str, str]:
        rows = list_rows(worker)
        shown = {"worker": worker_view(worker, rows).model_dump_json()}
        if batch_id is None:
            return {**shown, "list": batch_page(worker, rows, query).model_dump_json()}
        if (submission := worker.store.get(batch_id)) is None:  # it was deleted
            return {**shown, "batch": "null"}
        return {**shown, "batch": batch_view(worker, submission).model_dump_json()}

    return read


ROUTES = [web.get("/v1/events", get_events)]
