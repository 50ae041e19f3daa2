"""The items of a dataset as an answer: paged, shown in a view, and streamed when there are many."""

from collections.abc import AsyncIterator

import anyio.to_thread
import orjson
from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.api.addresses import read_storage
from batchrun.server.call import Call, raw_answer
from batchrun.server.faults import value_invalid
from batchrun.server.item_formats import STREAMED, WHOLE, ItemFormat
from batchrun.server.item_views import ItemView, view_of
from batchrun.server.query import UNLIMITED
from batchrun.server.tables import items
from batchrun.server.tables.storages import Kind, Storage

#: Items, and about how many bytes of them, read at once; a larger page is streamed, so that neither it nor a slow
#: reader of it fills the memory.
_ITEMS_AT_ONCE, _BYTES_AT_ONCE = 1000, 8 << 20
_RENDERED_INLINE = 50


async def items_answer(call: Call, dataset_id: str, status: int = 200) -> web.StreamResponse:
    """Answer with the items that a request asks for, with the headers of a page."""
    dataset = await read_storage(call, Kind.DATASET, dataset_id)
    call.platform.reads.note(dataset.id, reads=1)
    offset, limit, is_descending = call.query.page(UNLIMITED)
    view, name = view_of(call.query, _transformation(call, dataset)), call.query.text("format") or "json"
    if name not in STREAMED and name not in WHOLE:
        raise value_invalid(f"Format {name} is not served ({', '.join((*STREAMED, *WHOLE))} are)")
    count = max(min(limit, dataset.count - offset), 0)
    headers = {
        # What an Actor stores may hold scripts: a browser must not run them in the server's name.
        **({"Content-Security-Policy": "sandbox", "X-Content-Type-Options": "nosniff"} if name == "html" else {}),
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
        return raw_answer(await _rendered(call, pages, view, name, dataset.id), status, WHOLE[name][0], headers)
    form = STREAMED[name]
    if count <= _at_once(dataset) or call.quirks.is_whole:
        pieces = [piece for page in [page async for page in pages] for piece in _pieces(page, view)]
        return raw_answer(_whole(pieces, form), status, form.content_type, headers)
    return await _stream(call, pages, view, form, status, headers)


def _transformation(call: Call, dataset: Storage) -> JsonObject | None:
    """Return what the named view of the Actor's dataset schema does to items; None without one.

    Raises:
        Fault: 400 for a view that the schema does not have.
    """
    if (name := call.query.text("view")) is None:
        return None
    actor = call.platform.catalog.find(dataset.act_id) if dataset.act_id is not None else None
    view = actor.dataset_views.get(name) if actor is not None else None
    if not isinstance(view, dict):
        raise value_invalid(f'The dataset has no view "{name}"')
    transformation = view.get("transformation")
    return transformation if isinstance(transformation, dict) else {}


async def _rendered(call: Call, pages: AsyncIterator[list[bytes]], view: ItemView, name: str, dataset_id: str) -> bytes:
    found = [body for page in [page async for page in pages] for body in page]
    _, render = WHOLE[name]

    def rendered() -> bytes:
        return render(view.apply(map(orjson.loads, found)), call.query, dataset_id)

    # A large table would hold up everybody else on the loop.
    return rendered() if len(found) <= _RENDERED_INLINE else await anyio.to_thread.run_sync(rendered)


def _at_once(dataset: Storage) -> int:
    """Return how many items may be held at once: fewer when they are large."""
    return max(min(_ITEMS_AT_ONCE, _BYTES_AT_ONCE * dataset.count // max(dataset.bytes, 1)), 1)


async def _pages(
    call: Call, dataset: Storage, offset: int, count: int, *, is_descending: bool
) -> AsyncIterator[list[bytes]]:
    at_once = _at_once(dataset)
    for start in range(offset, offset + count, at_once):
        size = min(at_once, offset + count - start)
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
