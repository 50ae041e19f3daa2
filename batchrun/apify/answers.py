"""Answers of the API -> values: the envelope, lists, pages of items, stored values.

Each function raises ValueError for an answer that it cannot read.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from batchrun.apify import wire
from batchrun.apify.connections import Answer
from batchrun.apify.mended_json import parse_mended
from batchrun.errors import AnswerTooLarge
from batchrun.model import ItemsPage, JsonObject, Run, RunId, RunsPage, read_json
from batchrun.runtime.byte_budget import Fits
from batchrun.runtime.free_memory import (
    PARSED_BYTES_PER_BYTE,
    check_memory,
    decoded_bytes,
    has_memory,
    parsed_bytes,
)

#: Bytes of a body from which on it is reckoned how much memory its values take.
_LARGE_BYTES = 1 << 16
#: Max bytes of memory for the values of one object or list of the API, whatever an input in it holds.
_MAX_PARSED_BYTES = 512 << 20
#: Bytes of a list of items that are parsed at once: orjson holds a copy of what it parses.
_PART_BYTES = 8 << 20
#: Ends of parts that may turn out to be inside an item; after them, the rest of the list is parsed at once.
_MAX_WRONG_ENDS = 16
#: The start of a list of objects; the group is the first object up to its first value.
_LIST_HEAD = re.compile(rb'\s*\[\s*(\{\s*"[^"\\]*"\s*:)')


def actor_of(answer: Answer) -> JsonObject:
    """Read an Actor, in the API's own fields; its id is there."""
    return _with_id(object_of(answer))


def object_of(answer: Answer) -> JsonObject:
    """Read an object, in the API's own fields."""
    return _object(_data(answer))


def task_of(answer: Answer) -> JsonObject:
    """Read a task, in the API's own fields; its id is there, and whole numbers in its input keep all their digits."""
    return _with_id(_object(wire.data_in(_json(answer.body)[0])))


def _data(answer: Answer) -> Any:
    _reckon(answer.body, None)
    return wire.parse_data(answer.body)


def _with_id(data: JsonObject) -> JsonObject:
    wire.id_in(data)
    return data


def _object(data: Any) -> JsonObject:
    if not isinstance(data, dict):
        raise ValueError("its `data` is no object")
    return data


def run_of(answer: Answer) -> Run:
    """Read a Run."""
    return wire.parse_run(_data(answer))


class _ListedRuns(Mapping[RunId, Run]):
    """The Runs of a list; each is parsed when it is looked up, since a list of 1,000 is searched for a few of them."""

    def __init__(self, entries: Mapping[RunId, JsonObject]) -> None:
        self._entries = entries

    def __getitem__(self, run_id: RunId) -> Run:
        return wire.parse_run(self._entries[run_id])

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._entries

    def __iter__(self) -> Iterator[RunId]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def runs_page_of(answer: Answer) -> RunsPage:
    """Read one page of a list of Runs. An entry without an id is left out; the others can be read without it."""
    data = object_of(answer)
    items, total = _items_of(data), data.get("total")
    runs = _ListedRuns({RunId(item["id"]): item for item in items if _has_id(item)})
    return RunsPage(runs=runs, count=len(items), total=total if isinstance(total, int) else None)


def costs_by_run_of(answer: Answer) -> dict[RunId, float | None]:
    """Read the ids and the reported costs in a list of Runs, and nothing else of it."""
    return {RunId(item["id"]): wire.reported_cost(item) for item in _list_of(answer) if _has_id(item)}


def names_of(answer: Answer) -> list[str]:
    """Read a list of tasks or Actors: user/name of each that has both."""
    items = [item for item in _list_of(answer) if isinstance(item, dict)]
    names = [(wire.name_in(item, "username"), wire.name_in(item, "name")) for item in items]
    return [f"{username}/{name}" for username, name in names if username and name]


def build_of(answer: Answer) -> wire.BuildInfo:
    """Read a build."""
    return wire.parse_build(object_of(answer))


def build_ids_of(answer: Answer) -> dict[str, str]:
    """Read a list of builds: their ids by build number."""
    items = [item for item in _list_of(answer) if _has_id(item) and isinstance(item.get("buildNumber"), str)]
    return {item["buildNumber"]: item["id"] for item in items}


def items_page_of(answer: Answer, fits: Fits | None = None) -> ItemsPage:
    """Read one page of a dataset; `fits` is asked about its values.

    Raises:
        AnswerTooLarge: it said no.
    """
    items, replaced = _list_in(answer.body, fits)
    if not isinstance(items, list):
        raise ValueError("it is no list of items")
    total = answer.headers.get("X-Apify-Pagination-Total", "")
    return ItemsPage(
        items=items, total=int(total) if total.isdecimal() else None, replaced=replaced, content=hash(answer.body)
    )


def value_of(answer: Answer, fits: Fits | None = None) -> Any:
    """Read a stored value: JSON parsed, text as text; None if it is neither. `fits` is asked about what JSON holds.

    Raises:
        AnswerTooLarge: it said no.
    """
    content_type, body = content_of(answer)
    if "json" in content_type:
        return _json(body, fits)[0]
    return body.decode("utf-8", "replace") if content_type.startswith("text/") else None


def is_page(value: Any) -> bool:
    """Whether a stored value looks like a web page."""
    return isinstance(value, str) and value.lstrip()[:1] == "<"


def content_of(answer: Answer) -> tuple[str, bytes]:
    """Return the content type and the body as it came."""
    return answer.headers.get("Content-Type", "application/octet-stream"), answer.body


def _list_of(answer: Answer) -> list[Any]:
    return _items_of(object_of(answer))


def _items_of(data: JsonObject) -> list[Any]:
    items = data.get("items")
    if not isinstance(items, list):
        raise ValueError("its `data.items` is no list")
    return items


def _has_id(item: Any) -> bool:
    return isinstance(item, dict) and wire.id_or_none(item.get("id")) is not None


def _list_in(body: bytes, fits: Fits | None) -> tuple[Any, int]:
    """Read what should be a list, a long one in parts; also return how many values in it were replaced.

    A part ends where the next object begins with the same property as the first one. That place may be inside an item;
    then the part is no JSON, because it leaves a bracket or a string open, and the next such place is tried.
    """
    head = _LIST_HEAD.match(body) if len(body) > 2 * _PART_BYTES else None
    if head is None:
        return _json(body, fits)
    _reckon(body, fits)
    separator = re.compile(rb",\s*(?=" + re.escape(head[1]) + rb")")
    view, items, replaced, wrong = memoryview(body), list[Any](), 0, 0
    begin = head.start(1)
    look_from = begin + _PART_BYTES
    while wrong < _MAX_WRONG_ENDS and (end := separator.search(body, look_from)) is not None:
        try:
            part, lost = _parsed(b"".join((b"[", view[begin : end.start()], b"]")))
        except ValueError:
            wrong, look_from = wrong + 1, end.end()
        else:
            items += part
            replaced += lost
            begin, look_from = end.end(), end.end() + _PART_BYTES
    part, lost = _parsed(b"".join((b"[", view[begin:])))
    return items + part, replaced + lost


def _json(body: bytes, fits: Fits | None = None) -> tuple[Any, int]:
    _reckon(body, fits)
    return _parsed(body)


def _reckon(body: bytes, fits: Fits | None) -> None:
    """Check that there is memory for the values of a body: a short one may hold millions of empty ones.

    Raises:
        AnswerTooLarge: `fits` said no.
        ValueError: without `fits`, it would take more than the API's objects do.
    """
    if len(body) < _LARGE_BYTES:
        return
    most = PARSED_BYTES_PER_BYTE * len(body)
    if fits is None and most <= _MAX_PARSED_BYTES and has_memory(most):
        return  # whatever it holds; to count that takes longer than to parse a list of Runs
    size = parsed_bytes(body)
    if fits is not None and not fits(len(body), size):
        raise AnswerTooLarge(size)
    if fits is None and size > _MAX_PARSED_BYTES:
        raise ValueError(f"its values would take {size >> 20:,} MB of memory")
    check_memory(size)


def _parsed(body: bytes) -> tuple[Any, int]:
    """Read what an Actor stored; also return how many values in it were replaced."""
    # An Actor may store lone surrogates and NaN. orjson refuses both; the data is paid for and has to be read.
    try:
        return read_json(body), 0
    except orjson.JSONDecodeError:
        if len(body) > _LARGE_BYTES:  # it is decoded as a whole first
            check_memory(decoded_bytes(body) + parsed_bytes(body))
        return parse_mended(body)
