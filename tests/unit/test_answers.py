import copy
import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.account.task import read_task
from batchrun.account.task_watch import _imprint as imprint
from batchrun.apify import answers
from batchrun.apify.answers import costs_by_run_of, items_page_of, run_of, runs_page_of, task_of, value_of
from batchrun.apify.connections import Answer
from batchrun.apify.wire import parse_account, parse_actor, parse_options, parse_prices
from batchrun.engine.run_outcome import outcome_of
from batchrun.model import JsonObject, json_line, read_json
from batchrun.preflight.input_schema import InputSchema, SchemaUnusable


def _answer(body: bytes) -> Answer:
    return Answer(200, {"Content-Type": "application/json", "X-Apify-Pagination-Total": "1"}, body)


@pytest.mark.parametrize("read", [task_of, run_of, runs_page_of, costs_by_run_of, answers.build_of, answers.names_of])
def test_an_object_that_would_fill_the_memory_is_not_read(read: Callable[[Answer], object]) -> None:
    """18 MB of empty objects take 430 MB; no budget counts what is no output."""
    body = b'{"data": {"id": "x", "items": [' + b"{}," * 6_000_000 + b"{}]}}"
    with pytest.raises(ValueError, match="its values would take 566 MB of memory"):
        read(_answer(body))


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
    assert ([run.id for run in page.runs.values()], page.count, page.total) == (["first", "odd", "last"], 7, None)
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


#: Answers as the platform gives them, and what reads them.
_RUN = {
    "id": "r", "status": "SUCCEEDED", "startedAt": "2026-01-01T00:00:00Z", "finishedAt": None, "exitCode": 1,
    "statusMessage": "x", "options": {"memoryMbytes": 128, "timeoutSecs": 3}, "meta": {"userAgent": "a"},
    "usageTotalUsd": None, "chargedEventCounts": {"e": 2}, "defaultDatasetId": "d",
    "pricingInfo": {"pricingModel": "PAY_PER_EVENT",
                    "pricingPerEvent": {"actorChargeEvents": {"e": {"eventPriceUsd": 1}}}},
}  # fmt: skip
_TASK = {"id": "t", "actId": "a", "username": "u", "name": "n", "input": {"n": 1}, "options": {"build": "1"}}
_ACTOR = {
    "id": "a", "username": "u", "defaultRunOptions": {"build": "latest", "memoryMbytes": 256},
    "taggedBuilds": {"latest": {"buildId": "b", "buildNumber": "0.0.1"}},
    "pricingInfos": [{"pricingModel": "PRICE_PER_DATASET_ITEM", "startedAt": "2026-01-01T00:00:00Z",
                      "tieredPricing": {"FREE": {"tieredPricePerUnitUsd": 1}}, "minimalMaxTotalChargeUsd": 1}],
}  # fmt: skip
_BUILD = {
    "id": "b", "buildNumber": "0.0.1", "inputSchema": "{}",
    "actorDefinition": {"minMemoryMbytes": 128, "input": {"properties": {"n": {"type": "integer", "default": 1}}}},
}  # fmt: skip
_ACCOUNT = {
    "id": "u", "username": "me", "plan": {"id": "FREE"}, "limits": {"maxConcurrentActorJobs": 5},
    "current": {"actorMemoryGbytes": 1, "monthlyUsageUsd": 2.5}, "itemCount": 3,
    "monthlyServiceUsage": {"ACTOR_COMPUTE_UNITS": {"baseUnitPriceUsd": 0.4}},
}  # fmt: skip


def _read_run(answer: Answer) -> None:
    run = run_of(answer)
    outcome_of(run, None)
    assert run.memory_mb is None or abs(run.memory_mb) < 1 << 63, "a ledger can note it"
    assert run.started_at is None or run.started_at - timedelta(days=365) < run.started_at + timedelta(days=365)


def _read_actor(answer: Answer) -> None:
    actor = answers.actor_of(answer)
    parse_actor(actor)
    parse_options(actor.get("defaultRunOptions"))
    parse_prices(actor, {}, datetime(2026, 6, 1, tzinfo=UTC), is_own=False)


def _read_build(answer: Answer) -> None:
    if (schema := answers.build_of(answer).input_schema) is not None:
        with suppress(SchemaUnusable):
            InputSchema(schema)


def _read_account(answer: Answer) -> None:
    account = answers.object_of(answer)
    parse_prices({}, account, datetime(2026, 6, 1, tzinfo=UTC), is_own=True)
    shown = parse_account(account, account)
    assert (shown.username + str(shown.plan)).splitlines() == [shown.username + str(shown.plan)]


def _read_task(answer: Answer) -> None:
    task = read_task(task_of(answer), "t")
    assert task.label.splitlines() == [task.label]
    imprint(task)
    parse_options(task.options)


_LISTED = {"items": [_RUN, {"username": "u", "name": "n"}, {"id": "b", "buildNumber": "0.0.1"}], "total": 3}
_READERS: list[tuple[JsonObject, Callable[[Answer], object]]] = [
    (_RUN, _read_run),
    (_TASK, _read_task),
    (_ACTOR, _read_actor),
    (_BUILD, _read_build),
    (_ACCOUNT, _read_account),
    *((_LISTED, each) for each in (runs_page_of, costs_by_run_of, answers.names_of, answers.build_ids_of)),
]
_ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 1e300, 10**400, "", "a\nb", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+14:00", [], [[]], {}]
) | st.recursive(st.none() | st.text(max_size=5), lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3))


def _places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    named = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in named:
        yield from _places(part, (*path, key))


@pytest.mark.parametrize(("shape", "read"), _READERS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_an_answer_of_another_shape_is_read_or_not_understood(
    shape: JsonObject, read: Callable[[Answer], object], data: st.DataObject
) -> None:
    """Whatever stands in a field: a value that the rest can work with, or a ValueError, which becomes an outage."""
    envelope: Any = copy.deepcopy({"data": shape})
    for path in data.draw(st.lists(st.sampled_from(list(_places(envelope))[1:]), min_size=1, max_size=3)):
        with suppress(LookupError, TypeError):  # an earlier change has removed the place
            reduce(lambda whole, key: whole[key], path[:-1], envelope)[path[-1]] = data.draw(_ODD)
    with suppress(ValueError):
        read(_answer(json.dumps(envelope).encode()))


@pytest.mark.parametrize("read", [run_of, task_of, answers.actor_of, answers.build_of])
def test_an_object_without_an_id_is_not_understood(read: Callable[[Answer], object]) -> None:
    """The missing field is named."""
    for body in (b'{"data":{}}', b'{"data":{"id":7}}'):
        with pytest.raises(ValueError, match="its `id` is no text"):
            read(_answer(body))
