"""One job to its record: each answer to a start, and what it leads to."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from blockbuster import BlockBuster

from batchrun.engine.doubt.reconcile import EarlierDoubts
from batchrun.engine.limits.permits import Demand
from batchrun.engine.work import Postponed, Work
from batchrun.errors import BatchRefused, BatchrunError, ConnectFailed
from batchrun.ledger.facts import READ_TO, WATCHED_S
from batchrun.ledger.sqlite.group_commit import GroupCommit, open_commit
from batchrun.ledger.sqlite.journal import Journal, open_journal
from batchrun.model import (
    Attempt,
    AttemptState,
    Cause,
    Job,
    JobKey,
    Mark,
    Outcome,
    Problem,
    Record,
    RunOptions,
    RunStatus,
)
from batchrun.output.layout import RECORDS
from batchrun.policy.deadlines import Deadlines
from batchrun.policy.retry import Escalation, RetryPolicy
from tests.support.memory_ledger import ListSource, WatchedLedger, make_job, numbered, read_to
from tests.support.scripted_api import (
    Engine,
    Plan,
    ScriptedApi,
    api_error,
    busy,
    in_order,
    lost_answer,
    output_plan,
    retries,
)

LOST = Plan(error=lost_answer())
LOST_AFTER_EFFECT = Plan(error=lost_answer(), effects=1)


async def one_job(
    api: ScriptedApi, *, job: Job | None = None, ledger: WatchedLedger | None = None, **engine: Any
) -> Record:
    """Carry one job out; return its record."""
    records = await Engine(api, ledger or WatchedLedger(), ListSource([job or make_job()]), **engine).run()
    assert len(records) == 1
    return records[0]


async def resumed(
    api: ScriptedApi, *attempts: Attempt, ledger: WatchedLedger | None = None, **engine: Any
) -> tuple[Engine, WatchedLedger]:
    """Carry one job on that an earlier process left with these attempts."""
    ledger = ledger or WatchedLedger()
    job = make_job()
    ((_, noted),) = (await ledger.admit([job], read_to(1))).jobs
    ledger.attempts.update({(noted.id, attempt.attempt_no): attempt for attempt in attempts})
    made = Engine(api, ledger, ListSource([]), **engine)
    await made.run([Work(job=job, open=noted, attempts=attempts)])
    return made, ledger


def intended(attempt_no: int = 1, **changes: Any) -> Attempt:
    """Return an attempt that an earlier process intended a moment ago."""
    at = datetime.now(UTC) - timedelta(seconds=5)
    attempt = Attempt(
        attempt_no=attempt_no, mark=Mark(f"mark-{attempt_no}"), state=AttemptState.INTENDED, intended_at=at
    )
    return replace(attempt, **changes)


async def test_every_note_comes_before_the_effect_that_it_announces() -> None:
    """Intend, POST, bind, end, settle: one of each and in this order."""
    api = ScriptedApi(Plan(run_s=3))
    ledger = WatchedLedger(sync_s=0.01)
    await one_job(api, ledger=ledger)
    assert ledger.notes == ["admit 1", "intend 1.1", "echo True", "bind 1.1 run-1", "settle 1.1 succeeded"]


async def test_the_intent_is_durable_before_the_request_is_sent() -> None:
    """The POST leaves after the sync of its intent, not before."""
    api, ledger = ScriptedApi(), WatchedLedger(sync_s=7.0)
    await one_job(api, ledger=ledger)
    assert [post.at for post in api.posts] == [14.0]  # 7 s to admit, 7 s to intend


async def test_the_request_bears_the_mark_that_was_noted() -> None:
    """The mark of the intent is the one that is sent, and the Run's User-Agent shows it."""
    api, ledger = ScriptedApi(), WatchedLedger()
    record = await one_job(api, ledger=ledger)
    assert [post.mark for post in api.posts] == [record.attempts[0].mark]
    assert len(record.attempts[0].mark) >= 16


async def test_a_record_tells_the_whole_story_of_its_job() -> None:
    """Outcome, attempt, Run, times and cost come from the platform's last word."""
    api = ScriptedApi(Plan(run_s=3, cost_usd=0.5))
    record = await one_job(api, job=make_job(7, group="g", meta={"a": 1}))
    run = api.run(api.run_ids[0])
    assert (record.key, record.line, record.group, record.meta, record.outcome) == (
        "job-7", 7, "g", {"a": 1}, Outcome.SUCCEEDED,
    )  # fmt: skip
    assert (record.run, record.started_at, record.finished_at) == (run.fields, run.started_at, run.finished_at)
    assert (record.cost_usd, record.error) == (0.5, None)
    (attempt,) = record.attempts
    assert (attempt.state, attempt.run_id, attempt.status, attempt.cost_usd) == (
        AttemptState.ENDED, "run-1", RunStatus.SUCCEEDED, 0.5,
    )  # fmt: skip


async def test_a_jobs_own_options_come_before_the_batchs() -> None:
    """What the job leaves open is filled in by the batch."""
    api = ScriptedApi()
    job = make_job(options=RunOptions(memory_mb=512))
    await one_job(api, job=job, options=RunOptions(memory_mb=256, timeout_s=60))
    assert [post.options for post in api.posts] == [RunOptions(memory_mb=512, timeout_s=60)]


@pytest.mark.parametrize(
    ("status", "outcome", "problem"),
    [
        (RunStatus.FAILED, Outcome.FAILED, "run-failed"),
        (RunStatus.TIMED_OUT, Outcome.TIMED_OUT, "run-timed-out"),
        (RunStatus.ABORTED, Outcome.ABORTED, "run-aborted"),
    ],
)
async def test_a_run_that_failed_is_an_outcome_and_no_error(status: RunStatus, outcome: Outcome, problem: str) -> None:
    """Its error says what the Actor said, with the exit code."""
    record = await one_job(ScriptedApi(Plan(status=status, exit_code=3, status_message="no page")))
    assert (record.outcome, record.error) == (
        outcome,
        Problem(type=problem, message="no page (exit code 3)", exit_code=3),
    )


async def test_a_run_without_a_last_word_is_reported_all_the_same() -> None:
    """Neither status message nor exit code are needed."""
    record = await one_job(ScriptedApi(Plan(status=RunStatus.FAILED)))
    assert record.error == Problem(type="run-failed", message="the Actor gave no status message")


async def test_the_slot_is_free_before_the_output_is_collected() -> None:
    """While one Run's output is still being read, the next job's Run is live in the same slot."""
    api = ScriptedApi(Plan(run_s=10))
    engine = Engine(_EndlessOutput(api), WatchedLedger(), ListSource(JOBS), slots=1, output=output_plan("file"))
    with anyio.move_on_after(15):
        await engine.run()
    assert [post.at for post in api.posts] == [0.0, 10.0]


@pytest.mark.parametrize(
    "error",
    [api_error(429), busy(), api_error(400, "actor-memory-limit-exceeded"), ConnectFailed("no connection")],
    ids=["429", "busy", "memory as 400", "no connection"],
)
async def test_what_started_nothing_costs_no_attempt(error: BatchrunError) -> None:
    """The job asks again, with a new mark, and its attempt is still the first."""
    api = ScriptedApi(in_order(*[Plan(error=error)] * 3))
    ledger = WatchedLedger()
    record = await one_job(api, ledger=ledger)
    assert [attempt.attempt_no for attempt in record.attempts] == [1]
    assert len(api.run_ids) == 1
    assert len({post.mark for post in api.posts}) == len(api.posts) == 4
    intents = [note for note in ledger.notes if note.split()[0] in ("intend", "withdraw", "bind")]
    assert intents == ["intend 1.1", "withdraw 1.1"] * 3 + ["intend 1.1", "bind 1.1 run-1"]


async def test_a_retry_after_of_0_does_not_hammer_the_platform() -> None:
    """In a minute of refusals a start is sent a few times only."""
    api = ScriptedApi(Plan(error=api_error(429, retry_after_s=0)))
    with anyio.move_on_after(60):
        await one_job(api)
    assert 3 <= len(api.posts) <= 12


async def test_retry_after_is_waited_out_before_the_next_start() -> None:
    """A 429 with `Retry-After: 17` is followed by nothing for 17 seconds."""
    api = ScriptedApi(in_order(Plan(error=api_error(429, retry_after_s=17))))
    await one_job(api)
    assert [post.at for post in api.posts] == [0.0, 17.0]


async def test_a_refused_job_is_rejected_and_nothing_is_tried_again() -> None:
    """invalid-input is an outcome of the job, without an attempt, a Run or a cost."""
    ledger = WatchedLedger()
    record = await one_job(ScriptedApi(Plan(error=api_error(400, "invalid-input"))), ledger=ledger, retry=retries(5))
    assert (record.outcome, record.error) == (Outcome.REJECTED, Problem(type="invalid-input", message="so it is"))
    assert (record.attempts, record.run, record.cost_usd, record.items) == ((), None, None, None)
    assert ledger.notes == ["admit 1", "intend 1.1", "withdraw 1.1", "settle 1 rejected"]


async def test_a_rejected_job_is_not_tried_for_ever() -> None:
    """Whatever is tried again otherwise."""
    api = ScriptedApi(Plan(error=api_error(400, "invalid-input")))
    everything = [Outcome(cause) for cause in Cause if cause is not Cause.OUT_OF_MEMORY]
    with anyio.move_on_after(3600):
        await one_job(api, retry=retries(9, on=everything))
    assert len(api.posts) == 1


@pytest.mark.parametrize(
    "error",
    [
        api_error(401, "user-or-token-not-found"),
        api_error(403, "insufficient-permissions"),
        api_error(404, "record-not-found"),
        api_error(402, "not-enough-usage-to-run-paid-actor"),
        api_error(405, "method-not-allowed"),
        api_error(400, "actor-disabled"),
        api_error(400, "build-outdated"),
        api_error(409, "public-actor-disabled"),
        api_error(400, "max-total-charge-usd-below-minimum"),
        api_error(400, "store-schema-invalid"),
        api_error(403, "a-type-of-tomorrow"),
        api_error(405, "a-type-of-tomorrow"),
        api_error(409, "a-type-of-tomorrow"),
    ],
    ids=lambda error: f"{error.status} {error.type}",
)
async def test_what_concerns_the_whole_batch_settles_nothing(error: BatchrunError) -> None:
    """The batch is refused, the job stays open without an attempt, and nobody asks again."""
    api, ledger = ScriptedApi(Plan(error=error)), WatchedLedger()
    engine = Engine(api, ledger, numbered(49), slots=1)
    with pytest.raises(BatchRefused, match="the platform refuses to start Runs"):
        await engine.run()
    assert (ledger.settled, ledger.attempts, len(api.posts)) == ({}, {}, 1)


async def test_an_unknown_build_of_the_jobs_own_is_its_own_matter() -> None:
    """404 unknown-build-tag rejects the job that named the build, and no other."""
    api = ScriptedApi(in_order(Plan(error=api_error(404, "unknown-build-tag"))))
    jobs = [make_job(1, options=RunOptions(build="typo")), make_job(2)]
    records = await Engine(api, WatchedLedger(), ListSource(jobs), slots=1).run()
    assert [(record.key, record.outcome) for record in records] == [
        ("job-1", Outcome.REJECTED), ("job-2", Outcome.SUCCEEDED),
    ]  # fmt: skip


async def test_an_unknown_build_of_the_batch_stops_the_batch() -> None:
    """The same answer to a job without a build of its own is the batch's trouble."""
    engine = Engine(
        ScriptedApi(Plan(error=api_error(404, "unknown-build-tag"))),
        WatchedLedger(),
        ListSource([make_job(options=RunOptions(memory_mb=256))]),
        options=RunOptions(build="typo"),
    )
    with pytest.raises(BatchRefused):
        await engine.run()


@pytest.mark.parametrize(
    "error",
    [lost_answer(), api_error(408), api_error(500), api_error(502), api_error(503, "x")],
    ids=["reset", "408", "500", "502", "503"],
)
async def test_a_lost_answer_whose_run_exists_is_adopted(error: BatchrunError) -> None:
    """One POST, one Run, one attempt with the same mark: nothing is started twice."""
    api = ScriptedApi(in_order(Plan(error=error, effects=1, run_s=30)))
    record = await one_job(api)
    assert (len(api.posts), api.run_ids) == (1, ["run-1"])
    assert [(each.attempt_no, each.run_id, each.mark) for each in record.attempts] == [(1, "run-1", api.posts[0].mark)]
    assert record.outcome is Outcome.SUCCEEDED


async def test_a_lost_answer_without_a_run_is_started_anew_after_the_horizon() -> None:
    """A new attempt with a new mark, not before horizon and listing lag have passed."""
    api = ScriptedApi(in_order(LOST))
    record = await one_job(api, start_horizon_s=60, listing_lag_s=5)
    first, second = api.posts
    assert second.at - first.at >= 65
    assert [(each.attempt_no, each.run_id, each.mark) for each in record.attempts] == [
        (1, None, first.mark), (2, "run-1", second.mark),
    ]  # fmt: skip


async def test_starts_without_effect_do_not_use_up_the_runs_that_a_job_may_have() -> None:
    """With max_attempts = 2 and two lost starts, a failed Run still gets its retry."""
    failed = Plan(status=RunStatus.FAILED, run_s=1)
    api = ScriptedApi(in_order(LOST, LOST, failed))
    record = await one_job(api, retry=retries(2), output=output_plan(items="inline"))
    assert (record.outcome, len(api.run_ids), len(record.attempts)) == (Outcome.SUCCEEDED, 2, 4)


async def test_an_attempt_in_doubt_keeps_its_slot() -> None:
    """While its Run may be missing from lists, no other job starts in its place."""
    api = ScriptedApi(in_order(LOST))
    engine = Engine(api, WatchedLedger(), ListSource([make_job(1), make_job(2)]), slots=1)
    await engine.run()
    assert [(post.at >= 5, post.at >= 65) for post in api.posts] == [(False, False), (True, False), (True, True)]


async def test_other_jobs_go_on_while_one_is_in_doubt() -> None:
    """Doubt holds one slot, not the batch."""
    api = ScriptedApi(in_order(LOST, then=Plan(run_s=1)))
    engine = Engine(api, WatchedLedger(), numbered(20), slots=2)
    records = await engine.run()
    assert [record.key for record in records][-1] == "job-1"
    assert [post.at < 30 for post in api.posts] == [True] * 20 + [False]


async def test_a_cost_that_is_not_known_is_never_counted_as_nothing() -> None:
    """Sums cover all Runs of the job, or there is none."""
    failed = Plan(status=RunStatus.FAILED, run_s=1, cost_usd=0.25)
    known = await one_job(ScriptedApi(in_order(failed, then=Plan(cost_usd=0.5))), retry=retries(2))
    unknown = await one_job(ScriptedApi(in_order(failed, then=Plan(cost_usd=None))), retry=retries(2))
    assert (known.cost_usd, unknown.cost_usd) == (0.75, None)


async def test_a_start_without_effect_makes_no_cost_unknown() -> None:
    """An attempt that started no Run costs nothing for certain."""
    record = await one_job(ScriptedApi(in_order(LOST, then=Plan(cost_usd=0.2))))
    assert record.cost_usd == 0.2


async def test_a_failed_run_is_tried_again_after_its_wait_and_no_more_than_allowed() -> None:
    """Three attempts in all; the last one decides."""
    api = ScriptedApi(Plan(status=RunStatus.FAILED, run_s=1))
    ledger = WatchedLedger()
    record = await one_job(api, ledger=ledger, retry=retries(3, first_s=10))
    assert (record.outcome, [each.attempt_no for each in record.attempts]) == (Outcome.FAILED, [1, 2, 3])
    gaps = [later.at - earlier.at for earlier, later in zip(api.posts, api.posts[1:], strict=False)]
    assert 11 <= gaps[0] <= 21
    assert 21 <= gaps[1] <= 41
    assert [note for note in ledger.notes if "postpone" in note] == ["postpone 1.1 True", "postpone 1.2 True"]


async def test_the_storages_of_every_run_are_in_the_record() -> None:
    """Those of the last Run in `run`, those of each earlier one with its attempt; what is no storage is left out."""
    more = {"datasets": {"default": "d", "sold": "e"}}
    deep: list[Any] = []
    for _ in range(2000):
        deep = [deep]
    named = {"defaultDatasetId": "d", "storageIds": more, "defaultRequestQueueId": deep}
    failed = Plan(status=RunStatus.FAILED, fields=named)
    record = await one_job(ScriptedApi(in_order(failed, then=Plan())), retry=retries(2))
    first, last = orjson.loads(record.as_line())["attempts"]
    assert first["storages"] == {"defaultDatasetId": "d", "storageIds": more}
    assert "storages" not in last


async def test_an_outcome_that_is_not_named_is_final() -> None:
    """An aborted Run was stopped by somebody: it is not started again unasked."""
    api = ScriptedApi(Plan(status=RunStatus.ABORTED))
    record = await one_job(api, retry=retries(5))
    assert (record.outcome, len(api.posts)) == (Outcome.ABORTED, 1)


async def test_waiting_to_retry_holds_no_slot() -> None:
    """Another job runs in the meantime."""
    api = ScriptedApi(in_order(Plan(status=RunStatus.FAILED, run_s=1), then=Plan(run_s=5)))
    engine = Engine(api, WatchedLedger(), ListSource([make_job(1), make_job(2)]), slots=1, retry=retries(2, first_s=50))
    records = await engine.run()
    assert [record.key for record in records] == ["job-2", "job-1"]


async def test_a_bound_attempt_is_followed_and_not_started() -> None:
    """The Run of an earlier process ends as this process's record."""
    api = ScriptedApi()
    run_id = api.add_run(Plan(run_s=30))
    engine, _ = await resumed(api, intended(state=AttemptState.BOUND, run_id=run_id))
    assert ([record.outcome for record in engine.records], api.posts) == ([Outcome.SUCCEEDED], [])


ABORTED_FOR = Problem(type="run-quiet", message="aborted by batchrun: no new log line for 300 s")


@pytest.mark.parametrize("is_live", [True, False])
async def test_a_run_that_an_earlier_process_was_about_to_abort_took_too_long(is_live: bool) -> None:
    """It is aborted now, if it was not then; either way its job is timed out, for the reason that was noted."""
    api = ScriptedApi()
    run_id = api.add_run(Plan(run_s=1000))
    if not is_live:
        await api.abort_run(run_id)
    engine, _ = await resumed(api, intended(state=AttemptState.BOUND, run_id=run_id, aborted_for=ABORTED_FOR))
    (record,) = engine.records
    assert (record.outcome, record.error, record.attempts[0].cause) == (
        Outcome.TIMED_OUT, ABORTED_FOR, Cause.TIMED_OUT,
    )  # fmt: skip
    assert (api.aborted, anyio.current_time() < 5) == ([run_id], True)


async def test_a_run_that_ended_by_itself_before_our_abort_is_what_it_is() -> None:
    """Noted is not done."""
    api = ScriptedApi()
    run_id = api.add_run(Plan(run_s=1))
    await anyio.sleep(10)
    engine, _ = await resumed(api, intended(state=AttemptState.BOUND, run_id=run_id, aborted_for=ABORTED_FOR))
    assert [record.outcome for record in engine.records] == [Outcome.SUCCEEDED]


async def test_an_abort_of_ours_is_noted_before_it_is_sent() -> None:
    """The note is durable when the platform hears of it."""
    api, ledger = ScriptedApi(Plan(run_s=1000)), WatchedLedger(sync_s=3)
    aborted_at = list[float]()
    ledger._on_note = lambda note: aborted_at.append(len(api.aborted)) if note.startswith("abort") else None
    await one_job(api, ledger=ledger, terms={"deadlines": Deadlines(max_job_s=50)})
    assert (aborted_at, len(api.aborted)) == ([0], 1)


@pytest.mark.parametrize(("max_memory_mb", "max_job_s", "outcome", "error_type"), [
    (512, None, Outcome.REJECTED, "memory-never-available"),
    (None, 1.0, Outcome.TIMED_OUT, "max-job-s"),
])  # fmt: skip
async def test_a_job_whose_starts_were_lost_ends_by_what_stops_it(
    max_memory_mb: int | None, max_job_s: float | None, outcome: Outcome, error_type: str
) -> None:
    """Timed out is what took too long; what does not fit any more is rejected."""
    api = ScriptedApi()
    terms = {
        "max_memory_mb": max_memory_mb,
        "task_options": RunOptions(memory_mb=1024),
        "deadlines": Deadlines(max_job_s=max_job_s),
    }
    engine, _ = await resumed(api, intended(state=AttemptState.ENDED), terms=terms)
    (record,) = engine.records
    assert (record.outcome, record.error and record.error.type, api.posts) == (outcome, error_type, [])


async def test_a_last_run_that_may_not_be_read_ends_the_batch_after_its_live_runs() -> None:
    """A job gets no further attempt, and a 403 hides its last Run: it stays open, and other Runs are followed."""
    api = ScriptedApi(in_order(Plan(run_s=10, status=RunStatus.FAILED, exit_code=137), Plan(run_s=40)))

    def hide_the_run(note: str) -> None:
        if note.startswith("postpone"):
            api.errors["get_run"] = [api_error(403, "insufficient-permissions")]

    ledger = WatchedLedger(on_note=hide_the_run)
    rule = retries(2).rules[Cause.FAILED]
    retry = RetryPolicy(rules={Cause.OUT_OF_MEMORY: rule}, escalation=Escalation(memory_factor=2))
    source = ListSource([make_job(1, options=RunOptions(memory_mb=1024)), make_job(2)])
    engine = Engine(api, ledger, source, retry=retry, terms={"max_memory_mb": 1024})
    with pytest.raises(BatchRefused, match=r"Run run-1 cannot be read: .*insufficient-permissions"):
        await engine.run()
    assert [(record.line, record.outcome) for record in engine.records] == [(2, Outcome.SUCCEEDED)]


async def test_a_bound_run_that_ended_meanwhile_is_read_and_settled_at_once() -> None:
    """It need not be live any more."""
    api = ScriptedApi()
    run_id = api.add_run(Plan(run_s=1))
    await anyio.sleep(100)
    engine, ledger = await resumed(api, intended(state=AttemptState.BOUND, run_id=run_id))
    assert ([record.outcome for record in engine.records], api.posts) == ([Outcome.SUCCEEDED], [])
    assert ledger.notes[-1] == "settle 1.1 succeeded"
    assert anyio.current_time() == 100


async def test_an_intended_attempt_is_looked_for_before_anything_is_started() -> None:
    """Its Run is found by the mark of the earlier process."""
    api = ScriptedApi()
    run_id = api.add_run(user_agent="batchrun/1 (mark-1)")
    engine, _ = await resumed(api, intended())
    assert ([each.run_id for each in engine.records[0].attempts], api.posts) == ([run_id], [])


async def test_an_intended_attempt_without_a_run_is_started_anew() -> None:
    """After the horizon, as attempt 2."""
    api = ScriptedApi()
    engine, _ = await resumed(api, intended())
    assert [(each.attempt_no, each.run_id) for each in engine.records[0].attempts] == [(1, None), (2, "run-1")]
    assert api.posts[0].at >= 65


async def test_a_bound_run_that_the_platform_lost_is_lost_and_not_started_again() -> None:
    """A Run that was paid is never started twice for want of an answer about it."""
    api = ScriptedApi()
    engine, _ = await resumed(
        api, intended(state=AttemptState.BOUND, run_id="run-9"), retry=retries(3, on=[Outcome.FAILED])
    )
    (record,) = engine.records
    assert (record.outcome, api.posts) == (Outcome.LOST, [])
    assert record.error == Problem(type="run-lost", message="the platform does not know Run run-9 any more")
    assert (record.run, record.cost_usd) == (None, None)


@pytest.mark.parametrize("run_s", [0.0, 1000.0])
async def test_a_run_of_another_task_is_left_alone(run_s: float) -> None:
    """Whoever can write to a shared log can name any Run, and that it is to be aborted: nothing of it is touched."""
    api = ScriptedApi()
    run_id = api.add_run(Plan(run_s=run_s, items=[{"secret": 1}]), task_id="another")
    why = Problem(type="run-overdue", message="x")
    engine, _ = await resumed(api, intended(state=AttemptState.BOUND, run_id=run_id, aborted_for=why))
    (record,) = engine.records
    assert (record.outcome, api.posts, api.aborted) == (Outcome.LOST, [], [])
    assert record.error is not None
    assert record.error.message.startswith(f"Run {run_id} is not of the batch's task, and is left alone.")
    assert (record.run, record.cost_usd, record.items) == (None, None, None)


async def test_no_run_of_another_task_is_started_again() -> None:
    """Whatever was wrong, the entry or the answer: the Run of the ledger may be live, and paid for."""
    api = ScriptedApi()
    run_id = api.add_run(Plan(run_s=1000), task_id="another")
    bound = intended(state=AttemptState.BOUND, run_id=run_id)
    engine, _ = await resumed(api, bound, retry=retries(5, on=[Outcome.LOST]))
    assert ([record.outcome for record in engine.records], api.posts) == ([Outcome.LOST], [])


async def test_a_run_whose_task_is_not_shown_is_ours() -> None:
    """The API may leave it out while a Run is live."""
    api = ScriptedApi()
    run_id = api.add_run(Plan(run_s=30.0, fields={"actorTaskId": None}))
    engine, _ = await resumed(api, intended(state=AttemptState.BOUND, run_id=run_id))
    (record,) = engine.records
    assert (record.outcome, api.posts) == (Outcome.SUCCEEDED, [])


async def test_a_run_that_was_given_up_is_looked_for_in_the_next_round() -> None:
    """It may still be live: a new round starts no second Run beside it, and its record names it."""
    api, ledger = ScriptedApi(), WatchedLedger()
    run_id = api.add_run(Plan(run_s=30))
    job = make_job()
    ((_, noted),) = (await ledger.admit([job], read_to(1))).jobs
    bound = intended(state=AttemptState.BOUND, run_id=run_id)
    ledger.attempts[noted.id, 1] = bound
    engine = Engine(api, ledger, ListSource([]))
    await engine.run([Work(job=job, open=replace(noted, round=2), attempts=(bound,))])
    (record,) = engine.records
    assert (record.outcome, record.round, [each.run_id for each in record.attempts]) == ("succeeded", 2, [run_id])
    assert (api.posts, await ledger.bound_runs()) == ([], [])


async def test_an_attempt_that_failed_before_a_retry_is_followed_by_the_next() -> None:
    """An ended attempt that was to be retried is retried."""
    ended = intended(state=AttemptState.ENDED, run_id="run-9", status=RunStatus.FAILED)
    api = ScriptedApi()
    engine, _ = await resumed(api, ended, retry=retries(2))
    assert [each.attempt_no for each in engine.records[0].attempts] == [1, 2]


async def test_shut_down_a_job_that_waits_for_its_turn_is_left_open() -> None:
    """No more starts are wanted: no intent, no record."""
    api, ledger = ScriptedApi(), WatchedLedger()
    engine = Engine(api, ledger, ListSource([make_job(1)]), start_rate=0.001)
    engine.gate._bucket.take(0.0)
    async with anyio.create_task_group() as children:
        children.start_soon(engine.run)
        await anyio.sleep(1)
        engine.scheduler.stop_starting()
    assert (ledger.notes, engine.records, engine.progress.left_open, engine.gate.live) == (["admit 1"], [], 1, 0)


async def test_cancelled_while_a_start_is_answered_the_intent_stays() -> None:
    """Whoever comes next knows that a Run may exist."""
    api, ledger = ScriptedApi(Plan(answer_after_s=100)), WatchedLedger()
    engine = Engine(api, ledger, ListSource([make_job(1)]))
    with anyio.move_on_after(50):
        await engine.run()
    assert ledger.notes == ["admit 1", "intend 1.1"]
    assert (engine.gate.live, engine.permits.used) == (0, 0)


async def test_a_job_is_handed_back_while_it_waits_for_its_next_attempt() -> None:
    """`run_job` returns what is to be tried again and holds nothing."""
    api, ledger = ScriptedApi(Plan(status=RunStatus.FAILED, run_s=1)), WatchedLedger()
    engine = Engine(api, ledger, ListSource([]), retry=retries(2))
    ((job, noted),) = (await ledger.admit([make_job()], read_to(1))).jobs
    permit = await engine.permits.acquire()
    assert permit is not None
    permit.reserve(Demand())
    result = await engine.scheduler._runner.run_job(Work(job=job, open=noted), permit)
    assert isinstance(result, Postponed)
    assert [each.state for each in result.work.attempts] == [AttemptState.ENDED]
    assert (engine.permits.used, engine.gate.live) == (0, 0)


class Killed(BaseException):
    """The process died here."""


class Mortal:
    """A journal whose process dies at the n-th step on its way: before, within or after a group's commit."""

    def __init__(self, journal: Journal, dies_at: int) -> None:
        self._journal = journal
        self._left = dies_at
        self._commit = journal.commit_group
        #: A copy of the files as they stood when the process died.
        self.remains: Path | None = None
        journal.commit_group = self._commit_group  # type: ignore[method-assign] # what dies is not the thing tested
        self._note_lengths = journal.ledger.note_output_lengths
        journal.ledger.note_output_lengths = self._note_output_lengths  # type: ignore[method-assign] # likewise

    def _commit_group(self, steps: Any) -> None:
        self._step()
        self._commit(steps)
        self._step()

    def _note_output_lengths(self, lengths: dict[str, int]) -> None:
        self._step()  # lines are appended and synced; their lengths are not committed
        self._note_lengths(lengths)

    def _step(self) -> None:
        self._left -= 1
        if self._left == 0:
            directory = self._journal._sinks[RECORDS].file.parent
            self.remains = directory.with_name(directory.name + "+")
            shutil.copytree(directory, self.remains)
            raise Killed


JOBS = [make_job(n) for n in range(1, 6)]


async def live_once(directory: Path, api: ScriptedApi, dies_at: int) -> Path | None:
    """Carry the batch on until the process dies at its n-th step; return what it leaves, or None at the end."""
    async with open_journal(directory) as journal:
        mortal = Mortal(journal, dies_at)
        open_jobs = {noted.key: noted for noted in journal.ledger.open_jobs()}
        noted_to = journal.ledger.fact(READ_TO)
        source_at = noted_to.line if noted_to else 0
        source = ListSource(JOBS[source_at:], chunk=2)
        works = [Work(job=job, open=open_jobs[job.key], attempts=open_jobs[job.key].attempts)
                 for job in JOBS if job.key in open_jobs]  # fmt: skip
        try:
            async with open_commit(journal, in_thread=False) as commit:
                doubts = EarlierDoubts(watched_s=journal.ledger.fact(WATCHED_S) or {})
                engine = _mortal_engine(api, commit, _Shifted(source, source_at), doubts)
                await engine.run(works)
        except BaseExceptionGroup:
            if mortal.remains is None:
                raise
        return mortal.remains


class _Shifted:
    """A list source that knows how many lines came before it."""

    def __init__(self, source: ListSource, before: int) -> None:
        self._source, self._before = source, before

    async def next_chunk(self, max_entries: int) -> Any:
        chunk = await self._source.next_chunk(max_entries)
        return chunk and replace(chunk, read_to=read_to(self._before + self._source.pulled))


def _mortal_engine(api: ScriptedApi, commit: GroupCommit, source: Any, doubts: EarlierDoubts | None = None) -> Engine:
    return Engine(
        api,
        commit,
        source,
        slots=3,
        retry=retries(2),
        output=output_plan("file", page_size=2),
        start_horizon_s=2,
        listing_lag_s=1,
        doubts=doubts,
    )


def _eventful(n: int) -> Plan:
    items = [{"n": n, "i": i} for i in range(5)]
    if n % 5 == 2:
        return Plan(run_s=2, error=lost_answer(), effects=1, items=items)
    if n % 5 == 3:
        return Plan(run_s=1, status=RunStatus.FAILED)
    return Plan(run_s=1 + n % 3, items=items)


def _inline(blockbuster: BlockBuster) -> None:
    """Let this test do its files and SQLite inline: virtual time knows no threads."""
    blockbuster.deactivate()


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave syncing out: no power is cut here, and a thousand syncs cost seconds."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


def _lines(directory: Path, name: str) -> list[Any]:
    return [orjson.loads(line) for line in (directory / name).read_bytes().splitlines()]


async def _killed_and_resumed(directory: Path, api: ScriptedApi, deaths: Callable[[int], int]) -> tuple[Path, int]:
    lives = 0
    while (remains := await live_once(directory, api, deaths(lives))) is not None:
        directory, lives = remains, lives + 1
        assert lives < 200, "the batch does not get on"
    return directory, lives


def _once(dies_at: int) -> Callable[[int], int]:
    return lambda lives: 0 if lives else dies_at


def _assert_kept_promise(directory: Path, api: ScriptedApi) -> None:
    records = _lines(directory, "records.jsonl")
    assert sorted(record["key"] for record in records) == sorted(job.key for job in JOBS)
    noted = [attempt["run_id"] for record in records for attempt in record["attempts"] if attempt["run_id"]]
    assert sorted(noted) == sorted(api.run_ids)
    for record in records:
        runs = [attempt["run_id"] for attempt in record["attempts"] if attempt["run_id"]]
        statuses = [attempt["status"] for attempt in record["attempts"] if attempt["run_id"]]
        assert "SUCCEEDED" not in statuses[:-1], f"{record['key']} was started again after {runs[0]} had succeeded"
    items = [(item["_key"], item["i"]) for item in _lines(directory, "items.jsonl")]
    succeeded = [record for record in records if record["items"]["count"]]
    assert sorted(items) == sorted((record["key"], i) for record in succeeded for i in range(5))


@pytest.mark.usefixtures("no_sync")
async def test_killed_once_at_any_step_and_run_again_nothing_is_lost_or_doubled(
    tmp_path: Path, blockbuster: BlockBuster
) -> None:
    """For every step at which the process can die: one record per job, no Run twice, every item once."""
    _inline(blockbuster)
    for dies_at in range(1, 400):
        directory, api = tmp_path / f"{dies_at}", ScriptedApi(_eventful)
        directory.mkdir()
        directory, lives = await _killed_and_resumed(directory, api, _once(dies_at))
        _assert_kept_promise(directory, api)
        if not lives:
            assert dies_at > 30
            return
    pytest.fail("the batch takes more steps than were tried")


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("every", [11, 13, 17, 23])
async def test_killed_again_and_again_the_batch_still_ends(
    tmp_path: Path, blockbuster: BlockBuster, every: int
) -> None:
    """A process that dies at every n-th step gets the batch done, with the same promise."""
    _inline(blockbuster)
    (tmp_path / "out").mkdir()
    api = ScriptedApi(_eventful)
    directory, lives = await _killed_and_resumed(tmp_path / "out", api, lambda _: every)
    assert lives
    _assert_kept_promise(directory, api)


async def test_a_run_that_ended_before_the_kill_is_settled_and_not_started_again(
    tmp_path: Path, blockbuster: BlockBuster
) -> None:
    """Killed between the end's commit and the record's, the job is followed on, not paid twice."""
    _inline(blockbuster)
    api = ScriptedApi(Plan(run_s=1))
    async with open_journal(tmp_path) as journal:
        async with open_commit(journal, in_thread=False) as commit:
            with anyio.move_on_after(50):
                engine = Engine(_EndlessOutput(api), commit, ListSource(JOBS[:1]), output=output_plan("file"))
                await engine.run()
        (open_job,) = journal.ledger.open_jobs()
    assert JobKey("job-1") == open_job.key
    async with open_journal(tmp_path) as journal, open_commit(journal, in_thread=False) as commit:
        (open_job,) = journal.ledger.open_jobs()
        work = Work(job=JOBS[0], open=open_job, attempts=open_job.attempts)
        await Engine(api, commit, ListSource([])).run([work])
    assert len(api.posts) == 1


class _EndlessOutput(ScriptedApi):
    """A platform whose datasets never answer."""

    def __init__(self, api: ScriptedApi) -> None:
        self.__dict__ = api.__dict__

    async def get_items(self, *_: Any, **__: Any) -> Any:
        await anyio.sleep_forever()


async def test_a_run_that_ends_with_an_unknown_status_is_lost_and_not_retried() -> None:
    """It may have succeeded and was paid for: its items are collected; only `retry.on = ["lost"]` starts another."""
    plan = Plan(status=RunStatus.FAILED, run_s=1, api_status="MIGRATED", status_message="moved", items=[{"a": 1}])
    api = ScriptedApi(plan)
    record = await one_job(api, retry=retries(2), output=output_plan(items="inline"))
    words = (
        "the Run ended with the status 'MIGRATED', which batchrun does not know; whether it succeeded is unknown: moved"
    )
    assert (record.outcome, record.error) == (Outcome.LOST, Problem(type="run-status-unknown", message=words))
    assert record.items is not None
    assert (record.items.count, record.cost_usd, len(api.posts)) == (1, 0.25, 1)
    again = ScriptedApi(plan)
    await one_job(again, retry=retries(2, on=[Outcome.LOST]))
    assert len(again.posts) == 2


async def test_odd_fields_of_an_ended_run_are_passed_over() -> None:
    """A status message that is no text, an exit code that is no number."""
    api = ScriptedApi(Plan(status=RunStatus.FAILED, run_s=1, status_message={"a": 1}, exit_code="x"))  # type: ignore[arg-type] # as a strange platform
    record = await one_job(api)
    assert record.error == Problem(type="run-failed", message="the Actor gave no status message")


async def test_a_run_without_a_beginning_is_bound_and_followed() -> None:
    """A Run in the platform's queue may have no `startedAt` yet; the attempt's is ours."""
    api = ScriptedApi(Plan(run_s=5, is_queued=True))
    record = await one_job(api)
    assert record.outcome is Outcome.SUCCEEDED
    assert record.attempts[0].started_at is not None
