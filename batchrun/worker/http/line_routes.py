"""Handlers for a batch's records, items and log as pages of lines, newest first, that can be searched."""

from typing import Any

import anyio
import orjson
from aiohttp import web

from batchrun.model import Outcome
from batchrun.output.layout import BATCH_LOG, ITEMS, RECORDS
from batchrun.output.line_pages import LinePage, read_line_page
from batchrun.output.sink import explaining
from batchrun.worker.http.batch_files import length_of, out_dir_of
from batchrun.worker.http.error_envelope import Refused
from batchrun.worker.http.request_context import search_of, whole_number

DEFAULT_LINES = 50
MAX_LINES = 200
#: A longer line is not sent, only its length.
MAX_LINE_BYTES = 1 << 20


async def get_record_page(request: web.Request) -> web.Response:
    """Return some records, newest first; `before` is the position that the page before has returned."""
    return await _page(request, RECORDS, "outcome")


async def get_item_page(request: web.Request) -> web.Response:
    """Return some items, newest first, likewise."""
    return await _page(request, ITEMS, "_outcome")


async def get_log_page(request: web.Request) -> web.Response:
    """Return some lines of the batch's log, newest first, likewise."""
    return await _page(request, BATCH_LOG, None)


async def _page(request: web.Request, name: str, outcome_key: str | None) -> web.Response:
    out_dir = await out_dir_of(request)
    size = await length_of(out_dir, name)
    before = min(size, whole_number(request, "before", size, 1 << 53))
    limit = whole_number(request, "limit", DEFAULT_LINES, MAX_LINES)
    words = _words(request, outcome_key)
    page = LinePage([], 0)
    if before and limit:
        with explaining(out_dir / name):
            page = await anyio.to_thread.run_sync(read_line_page, out_dir / name, before, limit, words)
    body = {"lines": [_line(line) for line in page.lines], "before": page.before, "size": size}
    return web.Response(body=orjson.dumps(body), content_type="application/json")


def _words(request: web.Request, outcome_key: str | None) -> list[str]:
    search, outcome = search_of(request), request.query.get("outcome", "")
    # As a text stands in a line of JSON.
    words = [orjson.dumps(search)[1:-1].decode()] if search else []
    if outcome and (outcome_key is None or outcome not in set(Outcome)):
        raise Refused(400, "bad-value", f"outcome: choose from {', '.join(Outcome)}, for records and items")
    return [*words, f'"{outcome_key}":"{outcome}"'] if outcome else words


def _line(line: bytes) -> Any:
    return {"line": orjson.Fragment(line)} if len(line) <= MAX_LINE_BYTES else {"bytes": len(line)}


ROUTES = [
    web.get("/v1/batches/{ref}/records/page", get_record_page),
    web.get("/v1/batches/{ref}/items/page", get_item_page),
    web.get("/v1/batches/{ref}/log/page", get_log_page),
]
