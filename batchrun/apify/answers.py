"""Answers of the API -> values: the envelope, lists, pages of items, stored values.

Each function raises ValueError for an answer that it cannot read.
"""

from typing import Any

import orjson

from batchrun.apify import wire
from batchrun.apify.connections import Answer
from batchrun.model import ItemsPage, JsonObject, Run, RunId, RunsPage, read_json
from batchrun.runtime.free_memory import check_memory

#: Bytes of a body from which on it is checked that there is memory for what it holds, and how much per byte.
_LARGE_BYTES = 1 << 16
_PARSED_BYTES = 16


def object_of(answer: Answer) -> JsonObject:
    """Read an object, in the API's own fields."""
    return _object(wire.parse_data(answer.body))


def task_of(answer: Answer) -> JsonObject:
    """Read a task, in the API's own fields; whole numbers in its input keep all their digits."""
    return _object(wire.data_in(_json(answer.body)[0]))


def _object(data: Any) -> JsonObject:
    if not isinstance(data, dict):
        raise ValueError("it holds no object")
    return data


def run_of(answer: Answer) -> Run:
    """Read a Run."""
    return wire.parse_run(wire.parse_data(answer.body))


def runs_page_of(answer: Answer) -> RunsPage:
    """Read one page of a list of Runs. An entry without an id is left out; the others can be read without it."""
    data = object_of(answer)
    items, total = _items_of(data), data.get("total")
    runs = [wire.parse_run(item) for item in items if _has_id(item)]
    return RunsPage(runs=runs, count=len(items), total=total if isinstance(total, int) else None)


def costs_by_run_of(answer: Answer) -> dict[RunId, float | None]:
    """Read the ids and the reported costs in a list of Runs, and nothing else of it."""
    return {RunId(item["id"]): wire.reported_cost(item) for item in _list_of(answer) if _has_id(item)}


def build_of(answer: Answer) -> wire.BuildInfo:
    """Read a build."""
    return wire.parse_build(object_of(answer))


def build_ids_of(answer: Answer) -> dict[str, str]:
    """Read a list of builds: their ids by build number."""
    items = [item for item in _list_of(answer) if isinstance(item, dict)]
    return {item["buildNumber"]: item["id"] for item in items if item.get("buildNumber") and item.get("id")}


def items_page_of(answer: Answer) -> ItemsPage:
    """Read one page of a dataset."""
    items, replaced = _json(answer.body)
    if not isinstance(items, list):
        raise ValueError("it is no list of items")
    total = answer.headers.get("X-Apify-Pagination-Total", "")
    return ItemsPage(
        items=items, total=int(total) if total.isdecimal() else None, replaced=replaced, content=hash(answer.body)
    )


def value_of(answer: Answer) -> Any:
    """Read a stored value: JSON parsed, text as text; None if it is neither."""
    content_type, body = content_of(answer)
    if "json" in content_type:
        return _json(body)[0]
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
        raise ValueError("it holds no list")
    return items


def _has_id(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("id"), str) and item["id"] != ""


def _json(body: bytes) -> tuple[Any, int]:
    """Read what an Actor stored; also return how many values in it were replaced."""
    if len(body) >= _LARGE_BYTES:
        check_memory(_PARSED_BYTES * len(body))
    # An Actor may store lone surrogates and NaN. orjson refuses both; the data is paid for and has to be read.
    try:
        return read_json(body), 0
    except orjson.JSONDecodeError:
        return wire.parse_mended(body)
