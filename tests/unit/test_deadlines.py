"""What takes too long, and successes that bring nothing: on virtual time."""

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from batchrun.engine.notices import AbortRefused, RunAborted
from batchrun.model import Cause, Outcome, Record, RunOptions, RunStatus
from batchrun.policy.deadlines import Deadlines
from batchrun.policy.expectation import Expectation
from batchrun.policy.retry import Escalation
from tests.support.memory_ledger import ListSource, WatchedLedger, make_job
from tests.support.scripted_api import Engine, Plan, ScriptedApi, api_error, in_order, output_plan, retries


async def one_job(api: ScriptedApi, *, options: RunOptions | None = None, **settings: Any) -> Record:
    """Carry out one job."""
    engine = Engine(api, WatchedLedger(), ListSource([make_job(options=options)]), **settings)
    (record,) = await engine.run()
    return record


def limits(**deadlines: Any) -> Mapping[str, Any]:
    """Return terms with these deadlines."""
    return {"deadlines": Deadlines(**deadlines)}


def error_type(record: Record) -> str | None:
    """Return the type of a record's error."""
    return record.error.type if record.error is not None else None


async def test_a_job_that_takes_too_long_is_ended() -> None:
    """Its Run is aborted at the job's deadline; that is no success, and not tried again."""
    api = ScriptedApi(Plan(run_s=10_000))
    record = await one_job(api, terms=limits(max_job_s=90), retry=retries(5, on=[Outcome.TIMED_OUT, Outcome.ABORTED]))
    assert (record.outcome, error_type(record), len(api.posts), len(api.aborted)) == (
        Outcome.TIMED_OUT, "max-job-s", 1, 1,
    )  # fmt: skip
    assert 90 <= anyio.current_time() <= 92


async def test_a_refused_abort_is_not_called_an_abort() -> None:
    """It is reported as refused, it is not asked for again, and the job has its Run's own outcome."""
    api = ScriptedApi(Plan(run_s=100))
    api.errors["abort_run"] = [api_error(403, "insufficient-permissions")]
    engine = Engine(api, WatchedLedger(), ListSource([make_job(1)]), terms=limits(max_job_s=20))
    (record,) = await engine.run()
    assert (record.outcome, record.error, api.aborted) == (Outcome.SUCCEEDED, None, [])
    assert [type(notice) for notice in engine.progress.notices.take()] == [AbortRefused]


async def test_a_run_that_is_too_new_to_be_aborted_is_aborted_later() -> None:
    """A 404 is asked again, and only the abort that is accepted is reported."""
    api = ScriptedApi(Plan(run_s=100))
    api.errors["abort_run"] = [api_error(404), api_error(404)]
    engine = Engine(api, WatchedLedger(), ListSource([make_job(1)]), terms=limits(max_job_s=20))
    (record,) = await engine.run()
    assert (record.outcome, api.aborted) == (Outcome.TIMED_OUT, ["run-1"])
    assert [type(notice) for notice in engine.progress.notices.take()] == [RunAborted]


async def test_a_jobs_time_counts_over_its_attempts() -> None:
    """From its first start on; no attempt is begun that could not be waited for."""
    api = ScriptedApi(Plan(run_s=40, status=RunStatus.FAILED))
    record = await one_job(api, terms=limits(max_job_s=100), retry=retries(9, first_s=1))
    assert record.outcome in (Outcome.FAILED, Outcome.TIMED_OUT)
    assert (len(api.posts), anyio.current_time() <= 102) == (3, True)


async def test_an_overdue_run_is_reported_and_left() -> None:
    """By default it is followed to its end all the same."""
    api = ScriptedApi(Plan(run_s=500))
    record = await one_job(api, options=RunOptions(timeout_s=60), terms=limits(overdue_grace_s=30))
    assert (record.outcome, api.aborted, anyio.current_time()) == (Outcome.SUCCEEDED, [], 500)


async def test_an_overdue_run_is_aborted_where_that_is_asked_for() -> None:
    """Past its own limit plus grace, and not before."""
    api = ScriptedApi(Plan(run_s=5000))
    terms = limits(overdue_grace_s=30, aborts_overdue=True)
    record = await one_job(api, options=RunOptions(timeout_s=60), terms=terms)
    assert (record.outcome, error_type(record)) == (Outcome.TIMED_OUT, "run-overdue")
    assert 90 <= anyio.current_time() <= 90 + 61


async def test_a_quiet_run_is_aborted_where_that_is_asked_for() -> None:
    """Without a new log line for so long."""
    api = ScriptedApi(Plan(run_s=5000))
    record = await one_job(api, terms=limits(quiet_s=300, aborts_quiet=True))
    assert (record.outcome, error_type(record)) == (Outcome.TIMED_OUT, "run-quiet")
    assert 300 <= anyio.current_time() <= 300 + 150 + 61


async def test_a_run_that_says_something_now_and_then_is_not_quiet() -> None:
    """A line in its log is a sign of life."""
    api = ScriptedApi(Plan(run_s=5000, log_every_s=200))
    record = await one_job(api, terms=limits(quiet_s=300, aborts_quiet=True))
    assert (record.outcome, api.aborted) == (Outcome.SUCCEEDED, [])


async def test_a_run_that_ends_by_itself_is_what_it_is() -> None:
    """An abort that comes too late changes nothing."""
    api = ScriptedApi(Plan(run_s=90))
    record = await one_job(api, terms=limits(max_job_s=90))
    assert record.outcome is Outcome.SUCCEEDED


async def test_too_few_items_are_no_success_and_may_be_tried_again() -> None:
    """With a retry budget of their own; the record is the last attempt's."""
    api = ScriptedApi(in_order(Plan(run_s=1, items=[1]), then=Plan(run_s=1, items=[1, 2, 3])))
    terms = {"expectation": Expectation(items_min=3, schema=None)}
    record = await one_job(api, terms=terms, retry=retries(2, on=[Outcome.EMPTY]), output=output_plan("file"))
    assert (record.outcome, [attempt.cause for attempt in record.attempts]) == (Outcome.SUCCEEDED, [Cause.EMPTY, None])
    assert record.items is not None
    assert record.items.count == 3


async def test_waiting_for_late_items_holds_up_no_start() -> None:
    """300 Runs of a second without an item, ten at once: thirty seconds, and a few for the last ones."""
    api = ScriptedApi(Plan(run_s=1))
    terms = {"expectation": Expectation(items_min=1, schema=None)}
    engine = Engine(api, WatchedLedger(), ListSource([make_job(n) for n in range(300)]), slots=10, terms=terms)
    records = await engine.run()
    assert ({record.outcome for record in records}, len(records)) == ({Outcome.EMPTY}, 300)
    assert anyio.current_time() == pytest.approx(36, abs=1)


async def test_items_that_are_seen_late_are_counted() -> None:
    """What was pushed last is there five seconds later."""
    items = list[int]()
    api = ScriptedApi(Plan(run_s=1, items=items))
    terms = {"expectation": Expectation(items_min=1, schema=None)}
    async with anyio.create_task_group() as children:

        async def come_late() -> None:
            await anyio.sleep(4)
            items.append(1)

        children.start_soon(come_late)
        record = await one_job(api, terms=terms)
    assert record.outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("items", ["file", "inline", "none"])
async def test_empty_is_what_it_stays(items: str) -> None:
    """However items are collected; what there is of them is collected all the same."""
    api = ScriptedApi(Plan(run_s=1, items=[{"a": 1}]))
    terms = {"expectation": Expectation(items_min=2, schema=None)}
    record = await one_job(api, terms=terms, output=output_plan(items))
    assert (record.outcome, error_type(record), record.attempts[0].cause) == (
        Outcome.EMPTY, "too-few-items", Cause.EMPTY,
    )  # fmt: skip
    assert (record.items.count if record.items else None) == (None if items == "none" else 1)


async def test_items_that_break_the_schema_are_no_success() -> None:
    """Paid for, and collected all the same."""
    api = ScriptedApi(Plan(run_s=1, items=[{"price": "dear"}]))
    schema = {"properties": {"price": {"type": "number"}}}
    terms = {"expectation": Expectation(items_min=None, schema=schema)}
    record = await one_job(api, terms=terms, output=output_plan("file"))
    assert (record.outcome, error_type(record)) == (Outcome.MALFORMED, "item-schema")


async def test_the_ladder_gives_more_memory_and_every_rung_stands_in_the_record() -> None:
    """1, 2, 4 GB: what each attempt was given, why it ended, and what it cost."""
    dead = Plan(run_s=1, status=RunStatus.FAILED, exit_code=137, cost_usd=0.1)
    api = ScriptedApi(in_order(dead, dead, then=Plan(run_s=1, cost_usd=0.4)))
    retry = retries(3, on=[Outcome.FAILED], escalation=Escalation(memory_factor=2, memory_ceiling_mb=8192))
    rules = {**retry.rules, Cause.OUT_OF_MEMORY: retry.rules[Cause.FAILED]}
    record = await one_job(
        api, options=RunOptions(memory_mb=1024), retry=type(retry)(rules=rules, escalation=retry.escalation)
    )
    assert [post.options.memory_mb for post in api.posts] == [1024, 2048, 4096]
    assert [(each.memory_mb, each.cause, each.cost_usd) for each in record.attempts] == [
        (1024, Cause.OUT_OF_MEMORY, 0.1), (2048, Cause.OUT_OF_MEMORY, 0.1), (4096, None, 0.4),
    ]  # fmt: skip
    assert record.outcome is Outcome.SUCCEEDED
    assert record.cost_usd == pytest.approx(0.6)
