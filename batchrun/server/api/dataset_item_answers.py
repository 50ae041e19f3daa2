"""Answers with the items of a dataset: paged, shown in a view, and streamed if there are many."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import orjson
from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.api.addresses import read_storage
from batchrun.server.content.body_spool import LARGE_BYTES
from batchrun.server.content.item_formats import (
    FORMATS,
    JSON_FORMATS,
    MAX_COLUMNS,
    FormatWriter,
    ItemFormat,
    JsonFormat,
    add_columns,
)
from batchrun.server.content.item_json import load_stored
from batchrun.server.content.item_views import ItemView, view_of
from batchrun.server.content.query_parameters import UNLIMITED
from batchrun.server.error_answers import thing_missing, value_invalid
from batchrun.server.routing.call import Call, raw_answer, stream_answer
from batchrun.server.store import item_table
from batchrun.server.store.storage_table import Kind, Storage

#: Max items read at once, fewer if they are large. An answer with more is streamed, so that memory stays bounded.
_ITEMS_AT_ONCE = 1000
#: Max bytes of a page that is rendered on the event loop; larger ones use a thread.
_INLINE_BYTES = 16_384

T = TypeVar("T")


async def items_answer(call: Call, dataset_id: str, status: int = 200) -> web.StreamResponse:
    dataset = await read_storage(call, Kind.DATASET, dataset_id, takes_signature=True)
    call.backend.final_usage.reads.note(dataset.id, reads=1)
    offset, limit, is_descending = call.query.page(UNLIMITED)
    view, name = view_of(call.query, _transformation(call, dataset)), call.query.text("format") or "json"
    if (form := JSON_FORMATS.get(name) or FORMATS.get(name)) is None:
        raise value_invalid(f"Format {name} is not served ({', '.join((*JSON_FORMATS, *FORMATS))} are)")
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
    reading = _Reading(call, dataset, view, offset, count, is_descending)
    writer = _json_writer(form, reading) if isinstance(form, JsonFormat) else await _table_or_text(reading, form)
    # Unwound items, or a table of thousands of columns, may be far larger than the page.
    is_bounded = not view.unwind and writer.items_at_once >= _ITEMS_AT_ONCE
    if call.faults.needs_whole_answer or (is_bounded and await reading.is_one_page()):
        pieces = [piece async for piece in _pieces(reading, writer)]
        return raw_answer(b"".join(pieces), status, form.content_type, headers)
    begun = await _begun(_pieces(reading, writer))
    return await stream_answer(call, begun, status, {**headers, "Content-Type": form.content_type})


class _Reading:
    """Reads the requested items page by page; `rewind` starts again."""

    def __init__(
        self, call: Call, dataset: Storage, view: ItemView, offset: int, count: int, is_descending: bool
    ) -> None:
        self._call, self.dataset, self.query, self._view = call, dataset, call.query, view
        self._first, self._end, self._is_descending = offset, offset + count, is_descending
        self._place = offset
        self._ahead: list[bytes] | None = None

    @property
    def is_done(self) -> bool:
        return self._place == self._end and self._ahead is None

    @property
    def is_plain(self) -> bool:
        """True if items are shown as they are stored."""
        return self._view.is_plain

    def rewind(self) -> None:
        self._place = self._first

    async def is_one_page(self) -> bool:
        if not self.is_done:
            self._ahead = await self.page()
        return self._place == self._end

    async def page(self) -> list[bytes]:
        """Return the next items as they are stored, at least one."""
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            return ahead
        dataset, limit = self.dataset, min(_ITEMS_AT_ONCE, self._end - self._place)
        page = await self._call.backend.database.read(
            item_table.page, dataset.seq, dataset.count, self._place, limit, self._is_descending, LARGE_BYTES
        )
        if not page:
            raise thing_missing("Dataset")
        self._place += len(page)
        return page

    def shown(self, page: Sequence[bytes]) -> list[Any]:
        return self._view.apply(map(load_stored, page))

    def is_quick(self, page: Sequence[bytes]) -> bool:
        """Return whether a page can be shown on the event loop."""
        return sum(map(len, page)) <= _INLINE_BYTES and self._view.is_quick(len(page))

    async def aside(self, work: Callable[[], T], *, is_quick: bool) -> T:
        """Call what shows a page of items: in a thread, unless it is quick."""
        return work() if is_quick else await self._call.aside(work)


async def _pieces(reading: _Reading, writer: FormatWriter) -> AsyncIterator[bytes]:
    before = writer.opening
    while not reading.is_done:
        page = await reading.page()
        is_quick = writer.is_plain or (reading.is_quick(page) and writer.items_at_once >= _ITEMS_AT_ONCE)
        show = partial(next, writer.pieces(page))
        del page  # a slow reader would keep both it and the rendered bytes in memory
        is_last = False
        while not is_last:
            piece, is_last = await reading.aside(show, is_quick=is_quick)
            made, before = [before + piece], b""
            del piece
            yield made.pop()
    yield before + writer.closing()


async def _begun(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Return an answer's pieces once the first is there: what is refused is refused before the answer has begun."""
    first = [await anext(pieces)]

    async def all_pieces() -> AsyncIterator[bytes]:
        yield first.pop()
        with suppress(StopAsyncIteration):
            while True:
                yield await anext(pieces)  # kept by nobody here: its reader may be slow

    return all_pieces()


def _transformation(call: Call, dataset: Storage) -> JsonObject | None:
    """Return the transformation of the requested view of the Actor's dataset schema; None without a view."""
    if (name := call.query.text("view")) is None:
        return None
    actor = call.backend.catalog.find(dataset.act_id) if dataset.act_id is not None else None
    view = actor.dataset_views.get(name) if actor is not None else None
    if not isinstance(view, dict):
        raise value_invalid(f'The dataset has no view "{name}"')
    transformation = view.get("transformation")
    return transformation if isinstance(transformation, dict) else {}


async def _table_or_text(reading: _Reading, form: ItemFormat) -> FormatWriter:
    """Return a writer of stored items that knows a table's columns. Refuses wrong parameters at once."""
    columns: dict[str, None] = {}
    if form.is_table:
        while not reading.is_done:
            page = await reading.page()
            await reading.aside(partial(_note_columns, columns, reading, page), is_quick=reading.is_quick(page))
        reading.rewind()
    writer = form.writer(list(columns)[:MAX_COLUMNS], reading.query, reading.dataset.id)
    return replace(writer, shown=reading.shown)


def _note_columns(columns: dict[str, None], reading: _Reading, page: Sequence[bytes]) -> None:
    add_columns(columns, reading.shown(page))


def _json_writer(form: JsonFormat, reading: _Reading) -> FormatWriter:
    """Return a writer that joins stored items as they are, or as the view shows them."""
    has_any = False

    def joined(texts: Sequence[bytes]) -> bytes:
        nonlocal has_any
        if not texts:
            return b""
        before = form.separator if has_any else b""
        has_any = True
        return before + form.separator.join(texts)

    def page(shown: Sequence[Any]) -> bytes:
        return joined([orjson.dumps(item) for item in shown])

    def end() -> bytes:
        return form.closing if has_any or form.opening else b""  # without items there is no last line to end

    if reading.is_plain:
        return FormatWriter(form.opening, joined, end, is_plain=True)
    # An unwound item may be a million: each text that is kept takes 4 KB.
    return FormatWriter(form.opening, page, end, items_at_once=_ITEMS_AT_ONCE, shown=reading.shown)
