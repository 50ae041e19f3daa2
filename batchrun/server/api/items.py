"""The items of a dataset as an answer: paged, shown in a view, and streamed when there are many."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio.to_thread
import orjson
from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.api.addresses import read_storage
from batchrun.server.call import Call, raw_answer, stream_answer
from batchrun.server.faults import value_invalid
from batchrun.server.item_formats import FORMATS, JSON_FORMATS, ItemFormat, JsonFormat, add_columns
from batchrun.server.item_views import ItemView, view_of
from batchrun.server.query import UNLIMITED
from batchrun.server.tables import items
from batchrun.server.tables.storages import Kind, Storage

#: Items, and about how many bytes of them, read at once; a larger page is streamed, so that neither it nor a slow
#: reader of it fills the memory.
_ITEMS_AT_ONCE, _BYTES_AT_ONCE = 1000, 2 << 20
#: Items that are rendered on the loop.
_INLINE = 50

T = TypeVar("T")


async def items_answer(call: Call, dataset_id: str, status: int = 200) -> web.StreamResponse:
    """Answer with the items that a request asks for, with the headers of a page."""
    dataset = await read_storage(call, Kind.DATASET, dataset_id)
    call.platform.reads.note(dataset.id, reads=1)
    offset, limit, is_descending = call.query.page(UNLIMITED)
    view, name = view_of(call.query, _transformation(call, dataset)), call.query.text("format") or "json"
    if name not in JSON_FORMATS and name not in FORMATS:
        raise value_invalid(f"Format {name} is not served ({', '.join((*JSON_FORMATS, *FORMATS))} are)")
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
    selection = _Selection(call, dataset, view, offset, count, is_descending)
    if name in FORMATS:
        pieces, content_type = await _written(selection, FORMATS[name]), FORMATS[name].content_type
    else:
        pieces, content_type = _joined(selection, JSON_FORMATS[name]), JSON_FORMATS[name].content_type
    if selection.is_small or call.quirks.is_whole:
        return raw_answer(b"".join([piece async for piece in pieces]), status, content_type, headers)
    return await stream_answer(call, pieces, status, {**headers, "Content-Type": content_type})


@dataclass(frozen=True, slots=True)
class _Selection:
    """The items that a request asks for; they may be gone over several times."""

    call: Call
    dataset: Storage
    view: ItemView
    offset: int
    count: int
    is_descending: bool

    @property
    def is_small(self) -> bool:
        """Whether all of it may be held at once."""
        return self.count <= self._at_once

    @property
    def _at_once(self) -> int:
        """How many items may be held at once: fewer when they are large."""
        return max(min(_ITEMS_AT_ONCE, _BYTES_AT_ONCE * self.dataset.count // max(self.dataset.bytes, 1)), 1)

    async def pages(self) -> AsyncIterator[list[bytes]]:
        """Yield the items as they are stored."""
        database, dataset = self.call.platform.database, self.dataset
        for start in range(self.offset, self.offset + self.count, self._at_once):
            size = min(self._at_once, self.offset + self.count - start)
            yield await database.read(items.page, dataset.seq, dataset.count, start, size, self.is_descending)

    def shown(self, page: list[bytes]) -> list[Any]:
        """Return what the view shows of a page."""
        return self.view.apply(map(orjson.loads, page))


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


async def _written(selection: _Selection, form: ItemFormat) -> AsyncIterator[bytes]:
    """Return the pieces of an answer; a table's columns are known, and a wrong parameter is refused, by then."""
    columns: dict[str, None] = {}
    if form.is_table:
        async for page in selection.pages():
            await _aside(page, lambda page: add_columns(columns, selection.shown(page)))
    writer = form.writer(list(columns), selection.call.query, selection.dataset.id)

    async def pieces() -> AsyncIterator[bytes]:
        yield writer.opening()
        async for page in selection.pages():
            yield await _aside(page, lambda page: writer.page(selection.shown(page)))
        yield writer.closing()

    return pieces()


async def _aside(page: list[bytes], work: Callable[[list[bytes]], T]) -> T:
    # A large page would hold up everybody else on the loop.
    return work(page) if len(page) <= _INLINE else await anyio.to_thread.run_sync(work, page)


async def _joined(selection: _Selection, form: JsonFormat) -> AsyncIterator[bytes]:
    before = form.opening
    async for page in selection.pages():
        shown = page if selection.view.is_plain else [orjson.dumps(item) for item in selection.shown(page)]
        if shown:
            yield before + form.separator.join(shown)
            before = form.separator
    # Without any item there is no last line to end.
    if before == form.separator or form.opening:
        yield (b"" if before == form.separator else form.opening) + form.closing
