"""The items of a dataset as an answer: paged, shown in a view, and streamed when there are many."""

from collections.abc import AsyncIterator

import orjson
from aiohttp import web

from batchrun.server.api.addresses import read_storage
from batchrun.server.call import Call, raw_answer
from batchrun.server.faults import value_invalid
from batchrun.server.item_views import STREAMED, WHOLE, ItemFormat, ItemView, view_of
from batchrun.server.query import UNLIMITED
from batchrun.server.tables import items
from batchrun.server.tables.storages import Kind, Storage

#: Items read at once; a larger page is streamed, so that neither it nor a slow reader of it fills the memory.
_ITEMS_AT_ONCE = 1000


async def items_answer(call: Call, dataset_id: str, status: int = 200) -> web.StreamResponse:
    """Answer with the items that a request asks for, with the headers of a page."""
    dataset = await read_storage(call, Kind.DATASET, dataset_id)
    call.platform.reads.note(dataset.id, reads=1)
    offset, limit, is_descending = call.query.page(UNLIMITED)
    view, name = view_of(call.query), call.query.text("format") or "json"
    if name not in STREAMED and name not in WHOLE:
        raise value_invalid(f"Format {name} is not served (json, jsonl and csv are)")
    count = max(min(limit, dataset.count - offset), 0)
    headers = {
        "X-Apify-Pagination-Total": str(dataset.count),
        "X-Apify-Pagination-Offset": str(offset),
        "X-Apify-Pagination-Limit": str(limit),
        "X-Apify-Pagination-Count": str(count),
        "X-Apify-Pagination-Desc": str(is_descending).lower(),
    }
    if call.query.boolean("attachment"):
        headers["Content-Disposition"] = f'attachment; filename="dataset.{name}"'
    pages = _pages(call, dataset, offset, count, is_descending=is_descending)
    if name in WHOLE:
        content_type, render = WHOLE[name]
        shown = [item for page in [page async for page in pages] for item in view.apply(map(orjson.loads, page))]
        return raw_answer(render(shown, call.query), status, content_type, headers)
    form = STREAMED[name]
    if count <= _ITEMS_AT_ONCE or call.quirks.is_whole:
        pieces = [piece for page in [page async for page in pages] for piece in _pieces(page, view)]
        return raw_answer(_whole(pieces, form), status, form.content_type, headers)
    return await _stream(call, pages, view, form, status, headers)


async def _pages(
    call: Call, dataset: Storage, offset: int, count: int, *, is_descending: bool
) -> AsyncIterator[list[bytes]]:
    for start in range(offset, offset + count, _ITEMS_AT_ONCE):
        size = min(_ITEMS_AT_ONCE, offset + count - start)
        yield await call.platform.database.read(items.page, dataset.seq, dataset.count, start, size, is_descending)


def _pieces(page: list[bytes], view: ItemView) -> list[bytes]:
    return page if view.is_plain else [orjson.dumps(item) for item in view.apply(map(orjson.loads, page))]


def _whole(pieces: list[bytes], form: ItemFormat) -> bytes:
    closing = form.closing if pieces or form.opening else b""
    return form.opening + form.separator.join(pieces) + closing


async def _stream(
    call: Call,
    pages: AsyncIterator[list[bytes]],
    view: ItemView,
    form: ItemFormat,
    status: int,
    headers: dict[str, str],
) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers={**headers, "Content-Type": form.content_type})
    await response.prepare(call.request)
    before = form.opening
    async for page in pages:
        if pieces := _pieces(page, view):
            await response.write(before + form.separator.join(pieces))
            before = form.separator
    await response.write((b"" if before == form.separator else form.opening) + form.closing)
    await response.write_eof()
    return response
