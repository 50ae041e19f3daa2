import math
from collections.abc import Callable
from dataclasses import replace

import orjson
import pytest

from batchrun.account.task import read_task
from batchrun.account.task_watch import _imprint as imprint
from batchrun.apify import answers
from batchrun.apify.answers import costs_by_run_of, items_page_of, run_of, runs_page_of, task_of, value_of
from batchrun.apify.connections import Answer
from batchrun.model import json_line, read_json


def _answer(body: bytes) -> Answer:
    return Answer(200, {"Content-Type": "application/json", "X-Apify-Pagination-Total": "1"}, body)


def test_items_with_a_lone_surrogate_are_read() -> None:
    """It is not strict JSON; slicing a string in JavaScript can leave one behind."""
    body = b'[{"text": "a\\ud83d", "n": NaN, "m": -Infinity, "big": 1e999, "id": 18446744073709551617}]'
    page = items_page_of(_answer(body))
    assert page.items == [{"text": "a\ufffd", "n": None, "m": None, "big": None, "id": 2**64 + 1}]
    assert page.replaced == 4
    assert items_page_of(_answer(b'[{"id": 18446744073709551617}]')).items == [{"id": 2**64 + 1}]


@pytest.mark.parametrize("separator", [b",", b",\n  "])
@pytest.mark.parametrize(
    "unlike", [b"17", b'[{"a": 1},{"a": 2}]', b'{"b": "x,{\\"a\\":"}', b'{"a": NaN}', b'{"a": {"a": 1}}']
)
def test_a_long_list_is_read_in_parts(monkeypatch: pytest.MonkeyPatch, separator: bytes, unlike: bytes) -> None:
    """What is read is the same, wherever parts could end: in a string, in an item, or nowhere."""
    items = [b'{"a": "x,{\\"a\\": \\\\", "b": [{"a": 2},{"a": %d},{"a": [[]]}]}' % n for n in range(100)]
    items[50] = unlike
    body = b" [" + separator.join(items) + b"] "
    whole = items_page_of(_answer(body))
    assert len(whole.items) == 100
    read = list[int]()

    def read_part(raw: bytes) -> object:
        read.append(len(raw))
        return read_json(raw)

    monkeypatch.setattr(answers, "read_json", read_part)
    monkeypatch.setattr(answers, "_PART_BYTES", 400)
    assert items_page_of(_answer(body)) == whole
    assert len(read) > 5
    for cut in (1, 700, len(body) - 2):
        with pytest.raises(ValueError, match=r"."):
            items_page_of(_answer(body[:cut]))


def test_whole_numbers_of_a_task_keep_all_their_digits() -> None:
    """Its input is merged into bodies, and its imprint notices edits."""
    task = read_task(task_of(_answer(b'{"data": {"id": "t", "input": {"id": 18446744073709551617}}}')), "t")
    assert task.input == {"id": 2**64 + 1}
    assert imprint(task) != imprint(replace(task, input={"id": 2**64 + 2}))


def test_values_with_nan_are_read() -> None:
    """It is not strict JSON; Python writes it. An error would be retried for ever."""
    assert value_of(_answer(b'{"mean": NaN, "id": -9223372036854775809}')) == {"mean": None, "id": -(2**63) - 1}


def test_values_that_are_not_strict_json_can_be_written() -> None:
    """In a record a lone surrogate is a question mark, NaN is null, and a large number is itself."""
    line = json_line({"text": "\ud83d"})
    assert line == b'{"text": "?"}\n'
    assert json_line({"n": 2**64 + 1}) == b'{"n": 18446744073709551617}\n'
    assert orjson.loads(json_line({"mean": math.nan})) == {"mean": None}


def test_a_strangers_run_does_not_spoil_the_page() -> None:
    """The others are read, whatever one item of the list holds."""
    odd = [{"id": "odd", "status": "PAUSED", "startedAt": None}, None, {"id": None}, "text", {}]
    answer = _answer(orjson.dumps({"data": {"items": [{"id": "first"}, *odd, {"id": "last"}]}}))
    page = runs_page_of(answer)
    assert ([run.id for run in page.runs], page.count, page.total) == (["first", "odd", "last"], 7, None)
    assert list(costs_by_run_of(answer)) == ["first", "odd", "last"]


@pytest.mark.parametrize("data", [{}, {"items": None}, {"items": {}}])
def test_a_list_that_is_absent_is_not_empty(data: object) -> None:
    """An empty list proves that there is no Run; an absent one proves nothing."""
    with pytest.raises(ValueError, match="list"):
        runs_page_of(_answer(orjson.dumps({"data": data})))


@pytest.mark.parametrize(
    "odd", [b"[" * 2000 + b"]" * 2000, b"[" + b"9" * 5000 + b"]", b"[{]"], ids=["deep", "digits", "no"]
)
def test_what_cannot_be_read_is_one_kind_of_error(odd: bytes) -> None:
    """Whatever a dataset, a store or a Run holds: ValueError, in words without Python."""
    readers: list[Callable[[Answer], object]] = [items_page_of, value_of, run_of]
    for read in readers:
        with pytest.raises(ValueError, match=r"^(?!.*sys\.).*$"):
            read(_answer(odd))
