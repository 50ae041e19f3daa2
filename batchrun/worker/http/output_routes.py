"""Handlers for a batch's output: records, items, log and costs as streams; failures and report.

Only committed lines are sent, so a sent line is final. A slow reader is sent one piece at a time; a following one also
gets new lines until the batch rests.
"""

import math
import sys
import types
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing
from dataclasses import asdict
from pathlib import Path, PurePath
from tempfile import SpooledTemporaryFile
from weakref import WeakValueDictionary

import anyio
from aiohttp import web
from aiohttp.helpers import content_disposition_header

from batchrun.config import ApiConfig
from batchrun.ledger.sqlite.connection import is_blank
from batchrun.maintenance.noted_config import find_own_config
from batchrun.model import Selection, write_json
from batchrun.output.layout import BATCH_LOG, COSTS, ITEMS, LEDGER, RECORDS
from batchrun.output.sink import explaining
from batchrun.report.cost_sums import NO_COSTS, CostSums, cost_columns, cost_sums_json, highest_costs
from batchrun.report.output_files.costs_jsonl import write_costs
from batchrun.report.output_files.export_file import TABLE_FORMATS, content_type_of, table_pieces
from batchrun.report.report_page import make_report
from batchrun.report.shown_failures import NO_FAILURES, ShownFailures, show_causes
from batchrun.runtime.private_files import private_opener
from batchrun.worker.http.batch_files import has_ledger, length_of, out_dir_of
from batchrun.worker.http.error_envelope import Refused
from batchrun.worker.http.log_pieces import LogPlace, read_on
from batchrun.worker.http.request_context import IS_LINKED, submission_of, whole_number, worker_of
from batchrun.worker.status_views import LOG_PIECE
from batchrun.worker.submission import Submission
from batchrun.worker.submission_config import config_of
from batchrun.worker.worker import Worker

#: Seconds between two looks for new lines.
INTERVAL_S = 0.5
_PIECE_BYTES = 1 << 18
#: Max tables that are sent at once: a page of parsed lines is held for each while it is read, some 70 MB at most.
_TABLES_AT_ONCE = 4
#: The same for requests by links, which else keep those with the token waiting.
_LINKED_TABLES_AT_ONCE = 2
#: Seconds within which a piece of a table has to be read, since others may wait for their turn.
_TABLE_PIECE_S = 30.0
#: Max reports and lists of costs that are made at once, by requests with the token and by links. Each has a thread of
#: the process, which others need as well, until it is done, whether its client is still there or not.
_REPORTS_AT_ONCE = 2
#: Max requests that wait for their turn to have a table, a report or costs made.
_MAX_WAITING = 32
#: Max sums that `most` may ask for.
MAX_COST_ROWS = 1000
_LINES = "application/x-ndjson; charset=utf-8"

_TABLES = web.AppKey("tables", anyio.CapacityLimiter)
_LINKED_TABLES = web.AppKey("linked_tables", anyio.CapacityLimiter)
_REPORTS = web.AppKey("reports", anyio.CapacityLimiter)
_LINKED_REPORTS = web.AppKey("linked_reports", anyio.CapacityLimiter)
#: One place for each batch that links are used of, for tables and for reports: a link's holder has no more.
_LINKED_BATCHES = web.AppKey("linked_batches", WeakValueDictionary[tuple[object, str], anyio.CapacityLimiter])

#: Returns the number of committed bytes of a file.
Length = Callable[[], Awaitable[int]]


def prepare(app: web.Application) -> None:
    """Create what the handlers share."""
    app[_TABLES] = anyio.CapacityLimiter(_TABLES_AT_ONCE)
    app[_LINKED_TABLES] = anyio.CapacityLimiter(_LINKED_TABLES_AT_ONCE)
    app[_REPORTS] = anyio.CapacityLimiter(_REPORTS_AT_ONCE)
    app[_LINKED_REPORTS] = anyio.CapacityLimiter(_REPORTS_AT_ONCE)
    app[_LINKED_BATCHES] = WeakValueDictionary()


@asynccontextmanager
async def _turn(
    request: web.Request, own: web.AppKey[anyio.CapacityLimiter], linked: web.AppKey[anyio.CapacityLimiter]
) -> AsyncIterator[None]:
    """Wait until this request's work may begin; those by links wait for each other only, one of each batch at a time.

    Raises:
        Refused: too many wait.
        ConnectionAbortedError: its client has left meanwhile.
    """
    limiters = [request.app[own]]
    if IS_LINKED in request:
        of_batches, batch = request.app[_LINKED_BATCHES], (linked, submission_of(request).id)
        limiters = [of_batches.setdefault(batch, anyio.CapacityLimiter(1)), request.app[linked]]
    async with AsyncExitStack() as stack:
        for limiter in limiters:
            if limiter.statistics().tasks_waiting >= _MAX_WAITING:
                raise Refused(
                    503, "not-possible-now", "too many reports, costs and tables are asked for; try again soon"
                )
            await stack.enter_async_context(limiter)
        if request.transport is None or request.transport.is_closing():
            raise ConnectionAbortedError("its client has left")
        yield


async def get_records(request: web.Request) -> web.StreamResponse:
    """Stream a batch's records."""
    return await _stream_output(request, RECORDS)


async def get_items(request: web.Request) -> web.StreamResponse:
    """Stream the items of a batch's Runs."""
    return await _stream_output(request, ITEMS)


async def get_log(request: web.Request) -> web.StreamResponse:
    """Stream a batch's log lines."""
    return await _stream_output(request, BATCH_LOG)


async def get_costs(request: web.Request) -> web.StreamResponse:
    """Stream the costs of a batch's Runs as they are known now."""
    out_dir = await out_dir_of(request)
    if await has_ledger(out_dir):
        async with _turn(request, _REPORTS, _LINKED_REPORTS):
            await anyio.to_thread.run_sync(write_costs, out_dir)
    # To the end of the file that is opened: it is replaced whole, never appended to.
    return await _send(request, _from_to(out_dir / COSTS, 0, sys.maxsize))


async def _stream_output(request: web.Request, name: str) -> web.StreamResponse:
    submission = submission_of(request)
    if name == BATCH_LOG and submission.shards is not None:
        problem = (
            f"each shard has a log, which its worker has: {submission.id}-1 to {submission.id}-{submission.shards}"
        )
        raise Refused(409, "wrong-state", problem)
    out_dir, batch_name = await out_dir_of(request), submission.name
    table_format = request.query.get("format", "jsonl")
    download = f"{batch_name}-{PurePath(name).stem}.{table_format}" if "download" in request.query else None
    end = await length_of(out_dir, name)
    if table_format in TABLE_FORMATS and name != BATCH_LOG:
        table = table_pieces(out_dir / name, end, table_format, is_exact=name == ITEMS)
        async with _turn(request, _TABLES, _LINKED_TABLES):
            return await _send(
                request,
                _made_in_threads(table),
                content_type=content_type_of(table_format),
                download=download,
                piece_s=_TABLE_PIECE_S,
            )
    if table_format != "jsonl":
        raise Refused(400, "bad-value", f"format: choose from jsonl, {', '.join(TABLE_FORMATS)}; a log is jsonl")
    follows = request.query.get("follow", "0") not in ("0", "false")

    async def length() -> int:
        if submission.shards is not None:
            await out_dir_of(request)  # brings what is new
        return await length_of(out_dir, name)

    is_under_way = _is_under_way(request) if follows else None
    offset = whole_number(request, "offset", 0, 1 << 53)
    if name == BATCH_LOG:
        place = LogPlace(request.query.get("piece", ""), offset)
        return await _send_log(request, out_dir / name, place, is_under_way, download)
    pieces = _pieces(out_dir / name, offset, end, length, is_under_way)
    return await _send(request, pieces, download=download)


async def _send(
    request: web.Request,
    pieces: AsyncGenerator[bytes],
    *,
    content_type: str = _LINES,
    download: str | None = None,
    piece_s: float = math.inf,
    headers: Mapping[str, str] = types.MappingProxyType({}),
) -> web.StreamResponse:
    """Send pieces as they are read, each within `piece_s` seconds."""
    answer = web.StreamResponse(headers={"Content-Type": content_type, **headers})
    if download is not None:
        answer.headers["Content-Disposition"] = content_disposition_header("attachment", filename=download)
    await answer.prepare(request)
    async with aclosing(pieces):  # closes the file when the reader disconnects
        async for piece in pieces:
            try:
                with anyio.fail_after(piece_s):
                    await answer.write(piece)
            except TimeoutError as error:
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionAbortedError("its reader is too slow") from error
    await answer.write_eof()
    return answer


async def _made_in_threads(table: Generator[bytes]) -> AsyncGenerator[bytes]:
    with closing(table):
        while (piece := await anyio.to_thread.run_sync(next, table, None)) is not None:
            yield piece


def _is_under_way(request: web.Request) -> Callable[[], bool]:
    worker, submission_id = worker_of(request), submission_of(request).id

    def ask() -> bool:
        submission = worker.store.get(submission_id)
        is_known = submission is not None and submission.state.is_under_way
        return not worker.is_draining and (is_known or submission_id in worker.runners)

    return ask


async def _pieces(
    file: Path, offset: int, end: int, length: Length, is_under_way: Callable[[], bool] | None
) -> AsyncGenerator[bytes]:
    """Yield a file from an offset to its end; while its batch is under way, also new bytes."""
    while True:
        async with aclosing(_from_to(file, offset, end)) as pieces:
            async for piece in pieces:
                offset += len(piece)
                yield piece
        if is_under_way is None:
            return
        goes_on = is_under_way()  # before the length, so that bytes written between the two are sent
        end = await length()
        if end > offset:
            continue
        if not goes_on:
            return
        await anyio.sleep(INTERVAL_S)


async def _from_to(file: Path, offset: int, end: int) -> AsyncGenerator[bytes]:
    """Yield a part of a file."""
    if offset >= end:
        return
    with explaining(file):
        opened = await anyio.open_file(file, "rb", opener=private_opener)
        try:
            await opened.seek(offset)
            while offset < end and (piece := await opened.read(min(_PIECE_BYTES, end - offset))):
                offset += len(piece)
                yield piece
        finally:
            opened.wrapped.close()  # synchronously: a cancelled child cannot wait for a thread


async def _send_log(
    request: web.Request, log: Path, place: LogPlace, is_under_way: Callable[[], bool] | None, download: str | None
) -> web.StreamResponse:
    """Send a log from a place on; to a reader that names a piece, to the end of that piece, or of the next one."""
    with explaining(log):
        first, after = await anyio.to_thread.run_sync(read_on, log, place, _PIECE_BYTES)
    is_of_one_piece = "piece" in request.query

    async def pieces() -> AsyncGenerator[bytes]:
        found, at = first, after
        while True:
            if found:
                yield found
            goes_on = is_under_way is not None and is_under_way()
            with explaining(log):
                found, now_at = await anyio.to_thread.run_sync(read_on, log, at, _PIECE_BYTES)
            if is_of_one_piece and now_at.piece != at.piece:
                return  # the reader asks again, and is told which piece comes next
            at = now_at
            if not found and not goes_on:
                return
            if not found:
                await anyio.sleep(INTERVAL_S)

    return await _send(request, pieces(), download=download, headers={LOG_PIECE: after.piece})


async def get_failures(request: web.Request) -> web.Response:
    """Return the jobs that did not succeed, by cause, with a sample of each."""
    found = await anyio.to_thread.run_sync(_failures, await out_dir_of(request), worker_of(request).api)
    return web.Response(body=write_json(asdict(found)), content_type="application/json")


def _failures(out_dir: Path, api: ApiConfig) -> ShownFailures:
    config = None if is_blank(out_dir / LEDGER) else find_own_config(out_dir)
    if config is None:
        return NO_FAILURES
    if config.api.is_embedded:  # its Runs have a page as long as the worker lives
        config = config.model_copy(update={"api": api})
    return show_causes(out_dir, config, Selection())


async def get_cost(request: web.Request) -> web.StreamResponse:
    """Stream a batch's costs, summed by group, day and outcome, or by those of them that `by` names.

    `most` restricts them to so many sums, the highest ones.
    """
    out_dir, names = await out_dir_of(request), cost_columns(request.query.get("by", "group"))
    if (most := whole_number(request, "most", 0, MAX_COST_ROWS)) and await has_ledger(out_dir):
        found = await anyio.to_thread.run_sync(highest_costs, out_dir, names, most)
        return web.Response(body=write_json(found), content_type="application/json")
    answer = web.StreamResponse(headers={"Content-Type": "application/json"})
    # The ledger is read before anything is sent: a slow reader would hold its snapshot open.
    async with anyio.wrap_file(SpooledTemporaryFile(_PIECE_BYTES)) as sums:
        await anyio.to_thread.run_sync(lambda: sums.wrapped.writelines(_cost_sums(out_dir, names)))
        await sums.seek(0)
        await answer.prepare(request)
        while piece := await sums.read(_PIECE_BYTES):
            await answer.write(piece)
    await answer.write_eof()
    return answer


def _cost_sums(out_dir: Path, names: list[str]) -> Iterable[bytes]:
    if is_blank(out_dir / LEDGER):
        return [write_json(asdict(CostSums(by=names, rows=[], total=NO_COSTS)))]
    return cost_sums_json(out_dir, names)


async def get_report(request: web.Request) -> web.Response:
    """Return a batch's report as a page."""
    worker, submission = worker_of(request), submission_of(request)
    if not await has_ledger(await out_dir_of(request)):
        raise Refused(
            409, "wrong-state", f"batch {submission.id} is {submission.state}: there is nothing to report yet"
        )
    async with _turn(request, _REPORTS, _LINKED_REPORTS):
        page = await anyio.to_thread.run_sync(_report, worker, submission)
    return web.Response(text=page, content_type="text/html")


def _report(worker: Worker, submission: Submission) -> str:
    config = config_of(submission, worker.directory, worker.config, worker.environ)
    return make_report(worker.directory.out_dir(submission), config)


ROUTES = [
    web.get("/v1/batches/{ref}/records", get_records),
    web.get("/v1/batches/{ref}/items", get_items),
    web.get("/v1/batches/{ref}/log", get_log),
    web.get("/v1/batches/{ref}/costs", get_costs),
    web.get("/v1/batches/{ref}/cost", get_cost),
    web.get("/v1/batches/{ref}/failures", get_failures),
    web.get("/v1/batches/{ref}/report", get_report),
]
