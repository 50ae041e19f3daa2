import math

import orjson

from batchrun.apify.answers import items_page_of, value_of
from batchrun.apify.connections import Answer
from batchrun.model import json_line


def _answer(body: bytes) -> Answer:
    return Answer(200, {"Content-Type": "application/json", "X-Apify-Pagination-Total": "1"}, body)


def test_items_with_a_lone_surrogate_are_read() -> None:
    """It is not strict JSON; slicing a string in JavaScript can leave one behind."""
    assert items_page_of(_answer(b'[{"text": "\\ud83d"}]')).items == [{"text": "\ud83d"}]


def test_values_with_nan_are_read() -> None:
    """It is not strict JSON; Python writes it. An error would be retried for ever."""
    assert math.isnan(value_of(_answer(b'{"mean": NaN}'))["mean"])


def test_values_that_are_not_strict_json_can_be_written() -> None:
    """In a record a lone surrogate is escaped, and NaN is null."""
    line = json_line({"text": "\ud83d"})
    assert line == b'{"text": "\\ud83d"}\n'
    assert orjson.loads(json_line({"mean": math.nan})) == {"mean": None}
