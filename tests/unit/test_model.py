from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from batchrun.model import (
    Attempt,
    AttemptState,
    Cause,
    CostSource,
    DatasetId,
    Ending,
    Items,
    JobKey,
    Mark,
    Outcome,
    Problem,
    Record,
    RunId,
    RunOptions,
    RunStatus,
    Summary,
)

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def line_of(record: Record) -> Any:
    """Return the parsed line of a record."""
    line = record.as_line()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return orjson.loads(line)


def test_a_record_of_a_run_is_written_whole() -> None:
    """The line has every key of the public format, in order."""
    attempt = Attempt(
        attempt_no=1,
        mark=Mark("secret-mark"),
        state=AttemptState.ENDED,
        run_id=RunId("r"),
        status=RunStatus.FAILED,
        intended_at=AT,
        started_at=AT + timedelta(seconds=1),
        finished_at=AT + timedelta(seconds=11),
        cause=Cause.FAILED,
        memory_mb=1024,
        timeout_s=60,
        cost_usd=0.5,
        cost_source=CostSource.PLATFORM,
    )
    record = Record(
        key=JobKey("k"),
        line=3,
        group="g",
        meta={"sku": 1},
        outcome=Outcome.FAILED,
        attempts=(attempt,),
        run={"id": "r"},
        output=[1],
        items=Items(count=2, dataset_id=DatasetId("d")),
        error=Problem(type="run-failed", message="no\npage"),
        admitted_at=AT - timedelta(seconds=4),
        started_at=AT + timedelta(seconds=1),
        finished_at=AT + timedelta(seconds=11),
    )
    read, wanted = (
        line_of(record),
        {
            "v": 1,
            "key": "k",
            "line": 3,
            "round": 1,
            "group": "g",
            "meta": {"sku": 1},
            "outcome": "failed",
            "attempts": [
                {
                    "attempt_no": 1,
                    "run_id": "r",
                    "status": "FAILED",
                    "intended_at": "2026-01-02T03:04:05Z",
                    "started_at": "2026-01-02T03:04:06Z",
                    "finished_at": "2026-01-02T03:04:16Z",
                    "cause": "failed",
                    "memory_mb": 1024,
                    "timeout_s": 60,
                    "cost_usd": 0.5,
                    "cost_source": "platform",
                }
            ],
            "run": {"id": "r"},
            "output": [1],
            "output_error": None,
            "items": {"count": 2, "dataset_id": "d", "complete": True},
            "error": {"type": "run-failed", "message": "no\npage"},
            "times": {
                "admitted_at": "2026-01-02T03:04:01Z",
                "started_at": "2026-01-02T03:04:06Z",
                "finished_at": "2026-01-02T03:04:16Z",
                "queued_s": 4.0,
                "run_s": 10.0,
            },
            "cost_usd": 0.5,
            "cost_source": "platform",
            "cost_is_final": False,
        },
    )
    assert read == wanted
    assert list(read) == list(wanted)


def test_a_record_of_a_bad_line_has_the_same_keys() -> None:
    """Absent values are null; an unknown cost is null, not 0."""
    read = line_of(Record(key=None, line=3, outcome=Outcome.INVALID))
    assert (read["key"], read["attempts"], read["items"], read["error"]) == (None, [], None, None)
    assert (read["cost_usd"], read["cost_source"], read["times"]["run_s"]) == (None, "unknown", None)
    assert len(read) == 17


@pytest.mark.parametrize(
    ("costs", "wanted"),
    [
        ([(0.5, "platform", True), (0.25, "derived", True)], (0.75, "derived", True)),
        ([(None, "unknown", True), (0.25, "derived", False)], (None, "unknown", False)),
        ([(0.5, "platform", True), (0.25, "platform", True)], (0.75, "platform", True)),
    ],
)
def test_a_cost_is_as_good_as_its_weakest_part(
    costs: list[tuple[float | None, str, bool]], wanted: tuple[float | None, str, bool]
) -> None:
    """It is known, the platform's and final only if each attempt's is; an attempt without a Run costs nothing."""
    attempts = [
        Attempt(
            attempt_no=attempt_no,
            mark=Mark("m"),
            state=AttemptState.ENDED,
            run_id=RunId(f"r{attempt_no}"),
            intended_at=AT,
            cost_usd=cost_usd,
            cost_source=CostSource(source),
            cost_is_final=is_final,
        )
        for attempt_no, (cost_usd, source, is_final) in enumerate(costs, 1)
    ]
    unstarted = Attempt(attempt_no=9, mark=Mark("m"), state=AttemptState.ENDED, intended_at=AT)
    read = line_of(Record(key=JobKey("k"), line=1, outcome=Outcome.FAILED, attempts=(*attempts, unstarted)))
    assert (read["cost_usd"], read["cost_source"], read["cost_is_final"]) == wanted


def test_inline_items_are_in_the_record() -> None:
    """Next to their count."""
    items = Items(count=1, dataset_id=DatasetId("d"), values=[{"a": 1}])
    read = line_of(Record(key=JobKey("k"), line=1, outcome=Outcome.SUCCEEDED, items=items))
    assert read["items"] == {"count": 1, "dataset_id": "d", "complete": True, "values": [{"a": 1}]}
    cut = line_of(Record(key=JobKey("k"), line=1, outcome=Outcome.SUCCEEDED, items=replace(items, is_cut=True)))
    assert cut["items"] == {**read["items"], "cut": True}


def test_lengths_of_time_are_never_negative() -> None:
    """A clock that was set back starts no Run before its job was admitted. The platform's clock has no part in it."""
    begun = Attempt(attempt_no=1, mark=Mark("m"), state=AttemptState.ENDED, run_id=RunId("r"), intended_at=AT)
    record = Record(
        key=None, line=1, outcome=Outcome.LOST, attempts=(begun,), admitted_at=AT + timedelta(seconds=5), started_at=AT
    )
    assert line_of(record)["times"]["queued_s"] == 0.0
    late = replace(record, admitted_at=AT - timedelta(seconds=3), started_at=AT + timedelta(hours=1))
    assert line_of(late)["times"]["queued_s"] == 3.0


def test_four_statuses_are_terminal() -> None:
    """The other four are not."""
    terminal = {status for status in RunStatus if status.is_terminal}
    assert terminal == {RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.TIMED_OUT, RunStatus.ABORTED}


def test_options_of_a_job_override_those_of_the_batch() -> None:
    """0 and False are values; None is not."""
    own = RunOptions(timeout_s=0, restart_on_error=False)
    base = RunOptions(timeout_s=60, restart_on_error=True, memory_mb=256)
    assert own.over(base) == RunOptions(timeout_s=0, restart_on_error=False, memory_mb=256)
    assert RunOptions().over(base) == base


def summary(ending: Ending, outcomes: dict[Outcome, int]) -> Summary:
    """Return a summary of these outcomes."""
    return Summary(
        ending=ending,
        outcomes=outcomes,
        duplicates=0,
        open_jobs=0,
        live_runs=0,
        in_doubt=0,
        earlier_records=0,
        items=0,
        empty_successes=0,
        cost_usd=0.0,
        unknown_costs=0,
        second_runs=0,
        open_costs=0,
        out_dir="out",
    )


@pytest.mark.parametrize(
    ("ending", "outcomes", "has_succeeded"),
    [
        (Ending.FINISHED, {Outcome.SUCCEEDED: 3}, True),
        (Ending.FINISHED, {}, True),
        (Ending.FINISHED, {Outcome.SUCCEEDED: 3, Outcome.FAILED: 1}, False),
        (Ending.FINISHED, {Outcome.INVALID: 1}, False),
        (Ending.IN_DOUBT, {Outcome.SUCCEEDED: 3}, False),
        (Ending.INTERRUPTED, {Outcome.SUCCEEDED: 3}, False),
    ],
)
def test_a_batch_has_succeeded_if_it_is_finished_and_every_job_succeeded(
    ending: Ending, outcomes: dict[Outcome, int], has_succeeded: bool
) -> None:
    """One job that did not succeed, or one left to do, is enough that it has not."""
    assert summary(ending, outcomes).has_succeeded is has_succeeded


@pytest.mark.parametrize("name", [each.name for each in fields(RunOptions)])
def test_every_option_overrides_and_falls_back(name: str) -> None:
    """`over` forgets no field, of either value."""
    given, nothing = RunOptions(**{name: 7}), RunOptions()  # type: ignore[arg-type] # whatever the field's type is
    assert getattr(given.over(nothing), name) == getattr(nothing.over(given), name) == 7


def test_what_the_platform_nests_too_deep_is_left_out_of_a_record() -> None:
    """The rest of the Run stays, and the OUTPUT value leaves its reason: the job is settled."""
    deep: Any = 0
    for _ in range(1100):
        deep = [deep]
    record = Record(
        key=JobKey("k"),
        line=1,
        meta=deep,
        outcome=Outcome.SUCCEEDED,
        run={"id": "r", "odd": deep},
        output={"value": deep},
    )
    read = line_of(record)
    assert (read["meta"], read["run"], read["output"]) == (None, {"id": "r"}, None)
    assert read["output_error"] == "the OUTPUT value cannot be written: it is nested too deep"
    assert line_of(replace(record, output=[1]))["output"] == [1]
