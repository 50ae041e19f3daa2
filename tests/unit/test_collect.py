from datetime import UTC, datetime
from typing import Any

import anyio
import orjson
import pytest

from batchrun.engine.collect import MAX_ALONE_BYTES, Collected, Collector, OutputPlan
from batchrun.errors import BatchRefused, TransportError
from batchrun.model import Attempt, AttemptState, DatasetId, Items, JobId, Mark, Outcome, RunId
from batchrun.runtime.byte_budget import ByteBudget
from batchrun.runtime.free_space import DiskRoom
from tests.support.memory_ledger import WatchedLedger, make_job
from tests.support.scripted_api import Plan, ScriptedApi, api_error, output_plan

FIELDS = {"_key": "job-1", "_line": 1, "_run": "run-1", "_outcome": "succeeded"}
DATASET = DatasetId("dataset-run-1")


async def collect(
    api: ScriptedApi,
    plan: OutputPlan,
    *,
    ledger: WatchedLedger | None = None,
    items_offset: int = 0,
    items_count: int = 0,
    meta: Any = None,
    disk_room: DiskRoom | None = None,
) -> Collected:
    """Collect the output of the platform's first Run."""
    run = api.run(RunId("run-1"))
    attempt = Attempt(
        attempt_no=1,
        mark=Mark("m"),
        state=AttemptState.ENDED,
        intended_at=datetime.now(UTC),
        items_offset=items_offset,
        items_count=items_count,
    )
    collector = Collector(api, ledger or WatchedLedger(), plan, ByteBudget.of_megabytes(256), disk_room)
    with collector.room() as room:
        return await collector.collect(make_job(meta=meta), JobId(1), attempt, run, Outcome.SUCCEEDED, room)


def platform(items: list[Any], output: Any = None, replaced: int = 0) -> ScriptedApi:
    """Return a platform with one Run that left these items, the first page of which had values that are no JSON."""
    api = ScriptedApi()
    api.replaced = replaced
    api.add_run(Plan(run_s=0, items=items, output=output))
    return api


def numbers(*lines: bytes) -> list[int]:
    """Return the `n` of each line."""
    return [orjson.loads(line)["n"] for chunk in lines for line in chunk.splitlines()]


def counted(n: int) -> list[dict[str, int]]:
    """Return n items."""
    return [{"n": i} for i in range(n)]


async def test_pages_are_read_until_an_empty_one() -> None:
    """A page that is not full is no proof of the end: the platform's counters lag."""
    api, ledger = platform(counted(5)), WatchedLedger()
    collected = await collect(api, output_plan("file", page_size=2), ledger=ledger)
    assert api.pages == [0, 2, 4, 5]
    assert numbers(*ledger.item_lines, collected.item_lines) == [0, 1, 2, 3, 4]
    assert collected.items == Items(count=5, dataset_id=DATASET)


async def test_no_page_is_read_while_the_disk_is_all_but_full() -> None:
    """Neither the first one nor one in the middle; it goes on where it was."""
    api, disk_room = platform(counted(5)), DiskRoom()
    disk_room.note(is_full=True)
    found: list[Collected] = []

    async def collect_all() -> None:
        found.append(await collect(api, output_plan("file", page_size=2), ledger=ledger, disk_room=disk_room))

    class Filling(WatchedLedger):
        async def write_items(self, *args: Any) -> None:
            await super().write_items(*args)
            disk_room.note(is_full=True)

    ledger = Filling()
    async with anyio.create_task_group() as children:
        children.start_soon(collect_all)
        read = []
        for _ in range(4):
            await anyio.wait_all_tasks_blocked()
            read.append(list(api.pages))
            disk_room.note(is_full=False)
    assert read == [[], [0, 2], [0, 2, 4], [0, 2, 4, 5]]
    assert numbers(*ledger.item_lines, found[0].item_lines) == [0, 1, 2, 3, 4]


async def test_each_page_is_noted_with_where_the_next_begins() -> None:
    """The last page goes with the record, all before it with notes of their own."""
    ledger = WatchedLedger()
    collected = await collect(platform(counted(5)), output_plan("file", page_size=2), ledger=ledger)
    assert ledger.notes == ["items 1.1 to 2 (2)", "items 1.1 to 4 (4)"]
    assert numbers(collected.item_lines) == [4]


async def test_it_goes_on_where_the_ledger_says() -> None:
    """Pages that are committed are neither read nor written again, and the count covers them."""
    api, ledger = platform(counted(5)), WatchedLedger()
    collected = await collect(api, output_plan("file", page_size=2), ledger=ledger, items_offset=4, items_count=4)
    assert (api.pages, ledger.notes, numbers(collected.item_lines)) == ([4, 5], [], [4])
    assert collected.items == Items(count=5, dataset_id=DATASET)


async def test_everything_was_written_before_the_kill() -> None:
    """Resumed behind the last page, nothing is added and the count stands."""
    collected = await collect(platform(counted(4)), output_plan("file"), items_offset=4, items_count=4)
    assert (collected.item_lines, collected.items) == (b"", Items(count=4, dataset_id=DATASET))


async def test_a_filtered_page_may_be_empty_in_the_middle() -> None:
    """`clean` runs after paging: an empty page before the end is passed over, by stored offsets."""
    items: list[Any] = [{"n": 0}, {}, {}, {}, {}, {}, {"n": 1}, {}]
    api, ledger = platform(items), WatchedLedger()
    plan = output_plan("file", page_size=2, query={"clean": "true"})
    collected = await collect(api, plan, ledger=ledger)
    assert api.pages == [0, 2, 4, 6, 8]
    assert numbers(*ledger.item_lines, collected.item_lines) == [0, 1]
    assert ledger.notes == ["items 1.1 to 2 (1)"]
    assert collected.items == Items(count=2, dataset_id=DATASET)


async def test_a_dataset_without_items_is_collected_as_such() -> None:
    """No lines, a count of 0."""
    collected = await collect(platform([]), output_plan("file"))
    assert collected == Collected(items=Items(count=0, dataset_id=DATASET))


async def test_an_items_line_is_the_item_and_where_it_is_from() -> None:
    """Its own properties are kept; those with names of ours, in `_own`. Meta is apart, so that no name can clash."""
    forged = {"_run": "forged", "_key": 1, "_line": 2, "_outcome": 3, "_meta": 4, "_own": 5}
    api = platform([{"n": 1, "sku": "own", **forged}, "text", [1], None])
    collected = await collect(api, output_plan("file"), meta={"sku": "meta", "shop": 7})
    assert [orjson.loads(line) for line in collected.item_lines.splitlines()] == [
        {"n": 1, "sku": "own", "_own": forged, "_meta": {"sku": "meta", "shop": 7}, **FIELDS},
        {"value": "text", "_meta": {"sku": "meta", "shop": 7}, **FIELDS},
        {"value": [1], "_meta": {"sku": "meta", "shop": 7}, **FIELDS},
        {"value": None, "_meta": {"sku": "meta", "shop": 7}, **FIELDS},
    ]


async def test_meta_of_a_line_may_be_any_json() -> None:
    """It is copied as it is."""
    collected = await collect(platform([{"n": 1}]), output_plan("file"), meta=["x"])
    assert orjson.loads(collected.item_lines) == {"n": 1, "_meta": ["x"], **FIELDS}


async def test_values_that_no_json_holds_are_replaced_and_counted() -> None:
    """In pages of a file and inline; every line is JSON that all consumers read."""
    for mode in ("file", "inline"):
        api = platform([{"n": 1}, {"n": 2}], replaced=2)
        items = (await collect(api, output_plan(mode))).items
        assert items is not None
        assert items.replaced == 2


async def test_inline_items_are_bounded() -> None:
    """No more than asked for go into the record, and reading stops there."""
    api = platform(counted(100))
    collected = await collect(api, output_plan("inline", page_size=10, max_inline_items=25))
    assert collected.items == Items(count=25, dataset_id=DATASET, values=counted(25), is_cut=True)
    assert (api.pages, collected.item_lines) == ([0, 10, 20], b"")


async def test_nothing_is_fetched_where_nothing_is_wanted() -> None:
    """`none` makes no request."""
    api = platform(counted(3), output="x")
    assert await collect(api, output_plan("none")) == Collected()
    assert api.pages == []


async def test_the_output_value_comes_where_it_is_asked_for() -> None:
    """As JSON, with or without items."""
    api = platform(counted(1), output={"a": [1]})
    assert await collect(api, output_plan("none", is_value_wanted=True)) == Collected(output={"a": [1]})


async def test_a_missing_dataset_leaves_a_record_without_items() -> None:
    """A dataset that was deleted or has expired is no error of the job; nothing was collected of it."""
    api = platform([])
    api.errors["get_items"] = [api_error(404)]
    assert await collect(api, output_plan("file")) == Collected(items=Items(count=0, dataset_id=DATASET))


async def test_a_missing_dataset_does_not_cost_the_output_value() -> None:
    """What was read already is kept."""
    api = platform([], output="kept")
    api.errors["get_items"] = [api_error(404)]
    assert (await collect(api, output_plan("file", is_value_wanted=True))).output == "kept"


async def test_a_dataset_that_vanishes_midway_keeps_what_was_written() -> None:
    """The record counts the lines that stand in the item file, and says that they are not all."""
    api, ledger = platform(counted(6)), WatchedLedger()
    plan = output_plan("file", page_size=2)
    collected = await collect(_VanishingDataset(api), plan, ledger=ledger)
    assert numbers(*ledger.item_lines, collected.item_lines) == [0, 1, 2, 3]
    assert collected.items == Items(count=4, dataset_id=DATASET, is_complete=False)
    assert collected.problem is not None
    assert (collected.problem.type, str(DATASET) in collected.problem.message) == ("output-gone", True)


class _VanishingDataset(ScriptedApi):
    """A platform whose datasets are gone from the third page on."""

    def __init__(self, api: ScriptedApi) -> None:
        self.__dict__ = api.__dict__

    async def get_items(self, *args: Any, **query: Any) -> Any:
        if len(self.pages) == 2:
            raise api_error(404)
        return await super().get_items(*args, **query)


@pytest.mark.parametrize("items", ["file", "inline"])
async def test_items_that_may_not_be_read_are_one_jobs_trouble(items: str) -> None:
    """They are not taken for empty, and other jobs go on."""
    api = platform(counted(1))
    api.errors["get_items"] = [api_error(403, "insufficient-permissions")]
    collected = await collect(api, output_plan(items))
    assert collected.items is not None
    assert (collected.items.count, collected.items.is_complete) == (0, False)
    assert collected.problem is not None
    assert collected.problem.type == "output-unreadable"


async def test_an_output_value_that_cannot_be_read_leaves_its_reason() -> None:
    """The items are collected all the same."""
    api = platform(counted(1), output={"a": 1})
    api.errors["get_value"] = [TransportError("an answer could not be read: it is no JSON")]
    collected = await collect(api, output_plan("file", is_value_wanted=True))
    assert collected.items == Items(count=1, dataset_id=DATASET)
    assert (collected.output, collected.problem) == (None, None)
    assert "no JSON" in (collected.output_error or "")


async def test_a_refused_token_stops_the_batch() -> None:
    """It says nothing of the job: the batch can be resumed."""
    api = platform(counted(1))
    api.errors["get_items"] = [api_error(401, "user-or-token-not-found")]
    with pytest.raises(BatchRefused, match="dataset dataset-run-1 cannot be read"):
        await collect(api, output_plan("file"))


def deep(levels: int) -> Any:
    """Return lists within lists."""
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


async def test_an_item_nested_very_deeply_does_not_stop_the_batch() -> None:
    """What can be read can be written, or is reported as what cannot."""
    collected = await collect(platform([{"n": deep(400)}]), output_plan("file"))
    assert collected.items == Items(count=1, dataset_id=DATASET)


@pytest.mark.parametrize("where", ["file", "inline"])
async def test_items_that_cannot_be_written_are_left_out_and_reported(where: str) -> None:
    """The others are kept; their job does not succeed."""
    api = platform([{"n": 0}, {"n": deep(1000)}, {"n": 2}])
    collected = await collect(api, output_plan(where))
    assert collected.items is not None
    assert (collected.items.count, collected.items.is_complete) == (2, False)
    kept = collected.items.values or [orjson.loads(line) for line in collected.item_lines.splitlines()]
    assert [item["n"] for item in kept] == [0, 2]
    assert collected.problem is not None
    assert collected.problem.type == "output-unreadable"
    assert "1 of the items of dataset dataset-run-1 cannot be written: they are nested too deep" in str(
        collected.problem.message
    )


async def test_items_left_out_before_a_kill_are_not_forgotten() -> None:
    """The committed pages hold fewer items than their offset says."""
    collected = await collect(platform(counted(4)), output_plan("file"), items_offset=4, items_count=3)
    assert collected.items == Items(count=3, dataset_id=DATASET, is_complete=False)


async def test_pages_are_smaller_where_items_are_large() -> None:
    """A page that is too large is asked for again with fewer items, and the next ones are right at once."""
    api = platform(counted(100))
    api.item_bytes = 1 << 20
    collected = await collect(api, output_plan("file"))
    assert collected.items == Items(count=100, dataset_id=DATASET)
    assert api.pages[:4] == [0, 0, 0, 7]
    assert api.limits[:3] == [1000, 79, 7]
    assert (set(api.limits[3:]), api.pages[-1]) == ({8}, 100)


async def test_an_item_larger_than_all_buffers_is_read_alone() -> None:
    """A single item is never too large for its page."""
    api = platform(counted(3))
    api.item_bytes = 300 << 20
    collected = await collect(api, output_plan("file"))
    assert collected.items == Items(count=3, dataset_id=DATASET)
    assert api.limits[-3:] == [1, 1, 1]


async def test_an_item_without_an_end_is_given_up() -> None:
    """A platform that sends one would fill the memory; it is this job's trouble alone."""
    api = platform(counted(3))
    api.item_bytes = MAX_ALONE_BYTES + 1
    collected = await collect(api, output_plan("file"))
    assert collected.items is not None
    assert (collected.items.count, collected.items.is_complete) == (0, False)
    assert collected.problem is not None
    assert collected.problem.type == "output-unreadable"


async def test_a_page_that_ignores_its_limit_is_written_in_parts() -> None:
    """Each part is noted with its own offset: it can be resumed in the middle."""
    api, ledger = _LimitIgnored(), WatchedLedger()
    api.add_run(Plan(run_s=0, items=counted(40)))
    api.item_bytes = 1 << 20
    collected = await collect(api, output_plan("file"), ledger=ledger)
    assert ledger.notes == [f"items 1.1 to {n} ({n})" for n in (8, 16, 24, 32)]
    assert numbers(*ledger.item_lines, collected.item_lines) == list(range(40))


class _LimitIgnored(ScriptedApi):
    async def get_items(self, *args: Any, limit: int, **rest: Any) -> Any:
        return await super().get_items(*args, limit=max(limit, 1000), **rest)


async def test_inline_items_are_marked_as_cut_only_if_there_are_more() -> None:
    """One more item is asked for than goes into the record."""
    for count, is_cut in ((24, False), (25, False), (26, True)):
        collected = await collect(platform(counted(count)), output_plan("inline", page_size=25, max_inline_items=25))
        assert collected.items is not None
        assert (collected.items.count, collected.items.is_cut) == (min(count, 25), is_cut)
