"""Endpoints of logs: whole, or streamed while the Run is live."""

import re
from collections.abc import AsyncIterator

import anyio
from aiohttp import web

from batchrun.server.api.access_rights import may_follow, may_read
from batchrun.server.api.addresses import RUN_PREFIXES, read_build, run_id_of
from batchrun.server.content.body_spool import LARGE_BYTES
from batchrun.server.error_answers import not_permitted
from batchrun.server.routing.call import Call, raw_answer, stream_answer
from batchrun.server.routing.route_table import RouteTable
from batchrun.server.store import build_table, run_table

#: Terminal escape codes of ECMA-48: control sequences (colours, cursor), titles, and short ones.
_ESCAPE_CODE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
_TEXT = "text/plain; charset=utf-8"
#: Seconds between two checks of a followed log that does not grow.
_LOOK_AGAIN_S = 30


def add_routes(table: RouteTable) -> None:
    table.add("GET", "/v2/logs/{log}", get_log, needs_token=False)
    table.add("GET", "/v2/actor-builds/{log}/log", get_log, needs_token=False)
    for prefix in RUN_PREFIXES:
        table.add("GET", f"{prefix}/log", get_log, needs_token=False)


async def get_log(call: Call) -> web.StreamResponse:
    """Answer with a log; `stream=1` goes on until the Run ends, or the caller may read no more of it.

    `download=1` suggests a file name.

    Escape codes of terminals are removed unless `raw=1`. Chunks are whole lines, so none is split.
    """
    address = call.path.get("log")
    if address is not None and await call.backend.database.read(build_table.read, address) is not None:
        build = await read_build(call, address)
        line = f"{build['startedAt']} ACTOR: Took in the Actor's directory as build {build['buildNumber']}.\n"
        return raw_answer(line.encode(), content_type=_TEXT)
    run_id = address or await run_id_of(call)
    doc = await call.backend.runs.read(run_id)
    if not may_read(call, doc["generalAccess"], doc["userId"]):
        raise not_permitted("log")
    headers = {"Content-Disposition": f'attachment; filename="{run_id}.log"'} if call.query.boolean("download") else {}
    is_raw = call.query.boolean("raw")
    lines = _lines(call, run_id, is_followed=call.query.boolean("stream"), is_raw=is_raw)
    if call.faults.needs_whole_answer:
        return raw_answer(b"".join([body async for body in lines]), content_type=_TEXT, headers=headers)
    return await stream_answer(call, lines, 200, {**headers, "Content-Type": _TEXT})


async def _lines(call: Call, run_id: str, *, is_followed: bool, is_raw: bool) -> AsyncIterator[bytes]:
    sent = 0
    while True:
        live = call.backend.runs.find_live(run_id)
        if is_followed and live is not None and not may_follow(call, live):
            break
        grown = live.next_log() if live is not None else None
        chunks = await call.backend.database.read(run_table.read_log, run_id, sent, LARGE_BYTES)
        if chunks:
            sent = chunks[-1][0]
            yield _taken(chunks, is_raw=is_raw)
        elif grown is None or not is_followed:
            break
        else:
            with anyio.move_on_after(_LOOK_AGAIN_S):
                await grown.wait()


def _taken(chunks: list[tuple[int, bytes]], *, is_raw: bool) -> bytes:
    """Return the text of the chunks and empty the list, so that a slow reader keeps them only once in memory."""
    text = b"".join(body for _, body in chunks)
    chunks.clear()
    return text if is_raw else _ESCAPE_CODE.sub(b"", text)
