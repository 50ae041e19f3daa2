import math

import orjson

from batchrun.apify.answers import items_page_of, value_of
from batchrun.apify.connections import Answer
from batchrun.model import json_line


def _answer(body: bytes) -> Answer:
    return Answer(200, {"Content-Type": "application/json", "X-Apify-Pagination-Total": "1"}, body)


def test_items_that_are_no_strict_json_are_read() -> None:
    """A lone surrogate, which JavaScript's slicing leaves behind, costs neither the item nor the batch."""
    assert items_page_of(_answer(b'[{"text": "\\ud83d"}]')).items == [{"text": "\ud83d"}]


def test_values_that_are_no_strict_json_are_read() -> None:
    """Python's NaN in an OUTPUT value is no reason to ask for it for ever."""
    assert math.isnan(value_of(_answer(b'{"mean": NaN}'))["mean"])


def test_what_is_no_strict_json_can_be_written() -> None:
    """What was read goes into the record, escaped."""
    line = json_line({"text": "\ud83d"})
    assert line == b'{"text": "\\ud83d"}\n'
    assert orjson.loads(json_line({"mean": math.nan})) == {"mean": None}
