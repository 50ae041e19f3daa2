"""The scheduler: never too many live Runs, no job forgotten, and an end that waits for live Runs."""

import anyio
import pytest

from batchrun.engine.ports import Chunk
from batchrun.errors import BatchRefused
from batchrun.model import BadLine, Job, Outcome, Record, RunStatus
from tests.support.memory_ledger import ListSource, WatchedLedger, make_bad_line, make_job, numbered
from tests.support.scripted_api import Engine, Plan, ScriptedApi, api_error, in_order, lost_answer, retries


async def test_never_more_runs_are_live_than_there_are_slots() -> None:
    """A hundred jobs, seven slots: seven live at most, and seven always."""
    api = ScriptedApi(lambda n: Plan(run_s=10 + n % 5))
    records = await Engine(api, WatchedLedger(sync_s=0.01), numbered(100), slots=7).run()
    assert (len(records), len(api.run_ids), api.peak) == (100, 100, 7)


async def test_a_freed_slot_is_filled_without_any_wait() -> None:
    """The next Run begins at the instant in which one ends."""
    api = ScriptedApi(Plan(run_s=10))
    await Engine(api, WatchedLedger(), numbered(6), slots=2, start_rate=1e9).run()
    assert api.begun_at == pytest.approx([0, 0, 10, 10, 20, 20], abs=1e-6)


async def test_slots_are_in_use_all_the_time() -> None:
    """128 slots, Runs of 20 s, a ledger that syncs in 5 ms: from filling to draining, 99.5 % of slot time is Runs."""
    api = ScriptedApi(Plan(run_s=20))
    engine = Engine(api, WatchedLedger(sync_s=0.005), numbered(128 * 3), slots=128, start_rate=380, burst=19)
    await engine.run()
    begin, end = 1.0, max(api.begun_at)
    busy = sum(max(0.0, min(end, at + 20) - max(begin, at)) for at in api.begun_at)
    assert busy / (128 * (end - begin)) >= 0.995
    assert api.peak == 128


async def test_every_job_is_carried_out_once_and_in_order() -> None:
    """One Run per job, started in the order of the file."""
    api = ScriptedApi(Plan(run_s=1))
    records = await Engine(api, WatchedLedger(), numbered(300), slots=50).run()
    assert [post.body for post in api.posts] == [b'{"line":%d}' % n for n in range(1, 301)]
    assert sorted(record.line for record in records) == list(range(1, 301))


async def test_the_source_is_pulled_only_as_jobs_are_needed() -> None:
    """With two slots in use, some chunks of a huge file are read and no more."""
    source = numbered(100_000)
    engine = Engine(ScriptedApi(Plan(run_s=1e9)), WatchedLedger(), source, slots=2)
    with anyio.move_on_after(100):
        await engine.run()
    assert source.pulled <= 100


async def test_an_empty_source_ends_at_once() -> None:
    """Nothing to do is done."""
    assert await Engine(ScriptedApi(), WatchedLedger(), numbered(0)).run() == []
    assert anyio.current_time() == 0


async def test_a_postponed_job_comes_back_when_it_is_due() -> None:
    """Not before its wait is over, and promptly then, also when the file is at its end."""
    api = ScriptedApi(in_order(Plan(status=RunStatus.FAILED, run_s=1)))
    await Engine(api, WatchedLedger(), numbered(1), retry=retries(2, first_s=100)).run()
    first, second = api.posts
    assert 101 <= second.at - first.at <= 201


async def test_a_job_that_is_due_goes_before_the_rest_of_the_file() -> None:
    """A retry is not put off to the end of a long file."""
    api = ScriptedApi(in_order(Plan(status=RunStatus.FAILED, run_s=1), then=Plan(run_s=1)))
    await Engine(api, WatchedLedger(), numbered(200), slots=1, retry=retries(2, first_s=5)).run()
    bodies = [post.body for post in api.posts]
    assert bodies.count(b'{"line":1}') == 2
    assert bodies[1:].index(b'{"line":1}') <= 15


async def test_many_failures_at_once_do_not_read_the_whole_file_into_memory() -> None:
    """What waits for another attempt is bounded; beyond it nothing new is read."""
    source = numbered(5_000)
    api = ScriptedApi(Plan(status=RunStatus.FAILED, run_s=0.1))
    engine = Engine(api, WatchedLedger(), source, slots=4, retry=retries(2, first_s=1e6))
    with anyio.move_on_after(1e4):
        await engine.run()
    assert engine.progress.postponed <= 8 * 4 + 2 * 32
    assert source.pulled <= 200


async def test_the_end_waits_for_jobs_that_are_postponed() -> None:
    """All retries are made before the batch is over."""
    api = ScriptedApi(Plan(status=RunStatus.FAILED, run_s=1))
    records = await Engine(api, WatchedLedger(), numbered(20), slots=5, retry=retries(3, first_s=30)).run()
    assert ([record.outcome for record in records], len(api.posts)) == ([Outcome.FAILED] * 20, 60)


class _Pipe(ListSource):
    """A source that gives its lines and then waits for more, as a pipe does."""

    async def next_chunk(self, max_entries: int) -> Chunk | None:
        chunk = await super().next_chunk(max_entries)
        if chunk is None:
            await anyio.sleep(8_000)
        return chunk


async def test_an_idle_pipe_holds_up_no_retry() -> None:
    """A job is tried again when it is due, though the source has nothing to say."""
    api = ScriptedApi(in_order(Plan(status=RunStatus.FAILED, run_s=1)))
    await Engine(api, WatchedLedger(), _Pipe([make_job()]), retry=retries(2, first_s=10)).run()
    assert 11 <= api.posts[1].at <= 21


async def test_an_idle_pipe_holds_up_no_stop() -> None:
    """A stop does not wait for a line that may never come."""
    engine = Engine(ScriptedApi(Plan(run_s=1)), WatchedLedger(), _Pipe([make_job()]))
    async with anyio.create_task_group() as children:
        children.start_soon(engine.run)
        await anyio.sleep(50)
        engine.scheduler.stop_starting()
    assert (anyio.current_time(), len(engine.records)) == (50, 1)


async def test_stopping_lets_live_runs_finish_and_starts_nothing() -> None:
    """Three are live: three records, no fourth start, and it takes as long as they do."""
    api, ledger = ScriptedApi(Plan(run_s=100)), WatchedLedger()
    engine = Engine(api, ledger, numbered(50), slots=3)
    async with anyio.create_task_group() as children:
        children.start_soon(engine.run)
        await anyio.sleep(10)
        engine.scheduler.stop_starting()
    assert (len(api.posts), len(engine.records), len(ledger.settled)) == (3, 3, 3)
    assert 100 <= anyio.current_time() <= 101
    assert (engine.permits.used, engine.gate.live) == (0, 0)


async def test_stopping_leaves_postponed_jobs_for_the_next_process() -> None:
    """It does not wait for their time."""
    api = ScriptedApi(Plan(status=RunStatus.FAILED, run_s=1))
    engine = Engine(api, WatchedLedger(), numbered(3), retry=retries(2, first_s=1e6))
    async with anyio.create_task_group() as children:
        children.start_soon(engine.run)
        await anyio.sleep(10)
        engine.scheduler.stop_starting()
    assert (anyio.current_time(), engine.records, len(api.posts)) == (10, [], 3)


async def test_stopping_before_the_start_starts_nothing() -> None:
    """A stop that comes first is heeded."""
    api = ScriptedApi()
    engine = Engine(api, WatchedLedger(), numbered(3))
    engine.scheduler.stop_starting()
    assert (await engine.run(), api.posts) == ([], [])


async def test_a_refused_batch_drains_before_it_says_so() -> None:
    """Runs that are live are followed to their records; then the refusal is raised."""
    api = ScriptedApi(lambda n: Plan(error=api_error(401)) if n == 4 else Plan(run_s=100))
    ledger = WatchedLedger()
    engine = Engine(api, ledger, numbered(50), slots=10, start_rate=1)
    with pytest.raises(BatchRefused):
        await engine.run()
    assert ([record.outcome for record in engine.records], len(api.posts)) == ([Outcome.SUCCEEDED] * 3, 4)
    assert engine.progress.left_open >= 1


async def test_an_attempt_that_stays_in_doubt_is_left_open_and_the_rest_is_done() -> None:
    """Where marks are not echoed and a stranger's Run could be ours, nothing is guessed."""
    api = ScriptedApi(in_order(Plan(error=lost_answer(), effects=1), then=Plan(run_s=1)), echoes=False)
    engine = Engine(api, WatchedLedger(), numbered(10), slots=2)
    records = await engine.run()
    assert (len(records), len(api.posts), engine.progress.left_open) == (9, 10, 1)


async def test_a_bug_stops_the_batch_at_once() -> None:
    """An exception that no one expects is not swallowed, and no further start is made."""
    api = ScriptedApi(lambda n: Plan(error=ZeroDivisionError("a bug")) if n == 4 else Plan(run_s=100))
    engine = Engine(api, WatchedLedger(), numbered(50), slots=10, start_rate=1)
    with pytest.raises(ExceptionGroup) as raised:
        await engine.run()
    assert raised.group_contains(ZeroDivisionError)
    assert (anyio.current_time() < 5, len(api.posts)) == (True, 4)


async def test_cancelled_it_ends_at_once_and_leaves_runs_noted() -> None:
    """Live Runs stay bound in the ledger."""
    api, ledger = ScriptedApi(Plan(run_s=100)), WatchedLedger()
    engine = Engine(api, ledger, numbered(50), slots=3)
    with anyio.move_on_after(10):
        await engine.run()
    assert sorted(each.run_id or "" for each in ledger.attempts.values()) == ["run-1", "run-2", "run-3"]
    assert (ledger.settled, engine.permits.used, engine.gate.live) == ({}, 0, 0)


async def test_a_slow_consumer_slows_starts() -> None:
    """While no record is taken, at most two jobs per slot are under way."""
    taking = anyio.Event()

    async def hold(_: Record) -> None:
        await taking.wait()

    api = ScriptedApi(Plan(run_s=1))
    engine = Engine(api, WatchedLedger(), numbered(200), slots=5, on_record=hold)
    async with anyio.create_task_group() as children:
        children.start_soon(engine.run)
        await anyio.sleep(1000)
        held = len(api.posts)
        taking.set()
    assert (5 <= held <= 10, len(api.posts)) == (True, 200)


async def test_a_record_is_handed_out_after_it_is_durable() -> None:
    """A record that is handed out is in the ledger."""
    ledger = WatchedLedger(sync_s=3)
    seen = list[bool]()

    async def look(record: Record) -> None:
        seen.append(record in ledger.settled.values())

    await Engine(ScriptedApi(Plan(run_s=1)), ledger, numbered(20), slots=5, on_record=look).run()
    assert seen == [True] * 20


async def test_bad_lines_become_records_and_duplicates_are_counted() -> None:
    """Two bad lines and a repeated one among three jobs."""
    lines: list[Job | BadLine] = [
        make_job(1),
        make_bad_line(2),
        make_job(3),
        make_job(4, key="job-1", body=make_job(1).body),
        make_bad_line(5),
    ]
    api = ScriptedApi(Plan(run_s=1))
    engine = Engine(api, WatchedLedger(), ListSource(lines))
    records = await engine.run()
    assert sorted((record.line, str(record.outcome)) for record in records) == [
        (1, "succeeded"), (2, "invalid"), (3, "succeeded"), (5, "invalid"),
    ]  # fmt: skip
    assert (engine.progress.duplicates, len(api.posts)) == (1, 2)
    assert engine.progress.outcomes == {Outcome.SUCCEEDED: 2, Outcome.INVALID: 2}


async def test_lines_replace_jobs_while_they_are_carried_out() -> None:
    """Ended ones get another round, waiting ones are started with the new content only; others make bad lines."""
    api = ScriptedApi(Plan(run_s=100))
    mending = [make_job(32 + n, key=f"job-{n}", replaces=True) for n in range(1, 33)]
    engine = Engine(api, WatchedLedger(), ListSource([*map(make_job, range(1, 33)), *mending]), slots=1)
    records = await engine.run()
    refused = [record.line - 32 for record in records if record.outcome is Outcome.INVALID]
    assert len(refused) == 1
    before = refused[0] - 1
    wanted = {n: [n, 32 + n] if n <= before else [n] if n in refused else [32 + n] for n in range(1, 33)}
    assert {n: [each.line for each in records if each.key == f"job-{n}"] for n in wanted} == wanted
    assert sorted(post.body for post in api.posts) == sorted(
        make_job(line).body for lines in wanted.values() for line in lines
    )
    assert engine.progress.outcomes == {Outcome.SUCCEEDED: 32, Outcome.INVALID: 1}
    assert engine.progress.duplicates == 31


async def test_a_line_replaces_a_job_that_has_ended() -> None:
    """A second round carries it out; the job counts once."""
    api, ledger = ScriptedApi(in_order(Plan(run_s=1, status=RunStatus.FAILED), then=Plan(run_s=1))), WatchedLedger()
    await Engine(api, ledger, numbered(1)).run()
    again = Engine(api, ledger, ListSource([make_job(1), make_job(2, key="job-1", replaces=True)]))
    (record,) = await again.run()
    assert (record.round, record.line, record.outcome, len(api.posts)) == (2, 2, "succeeded", 2)
    assert api.posts[1].body == make_job(2).body
    assert again.progress.outcomes == {Outcome.FAILED: -1, Outcome.SUCCEEDED: 1}


async def test_progress_counts_what_was_done() -> None:
    """Starts, outcomes and costs add up; nothing is left in doubt or postponed."""
    plans = [Plan(run_s=1, status=RunStatus.FAILED, cost_usd=0.5), Plan(run_s=1, cost_usd=None)]
    engine = Engine(
        ScriptedApi(in_order(*plans, then=Plan(run_s=1, cost_usd=0.25))), WatchedLedger(), numbered(4), slots=1
    )
    await engine.run()
    progress = engine.progress
    assert progress.outcomes == {Outcome.FAILED: 1, Outcome.SUCCEEDED: 3}
    assert (progress.started, progress.in_doubt, progress.postponed) == (4, 0, 0)
    assert (progress.cost_usd, progress.unknown_costs) == (1.0, 1)


async def test_more_slots_while_it_runs_are_used() -> None:
    """A limit that grows takes effect at once and nothing gets stuck."""
    api = ScriptedApi(Plan(run_s=10))
    engine = Engine(api, WatchedLedger(), numbered(500), slots=2)
    async with anyio.create_task_group() as children:
        children.start_soon(engine.run)
        await anyio.sleep(15)
        engine.shared.pool.resize(300)
        engine.permits.resize(300)
        await anyio.sleep(10)
        assert api.peak > 100
    assert len(engine.records) == 500


async def test_fewer_slots_while_it_runs_are_kept() -> None:
    """A limit that shrinks lets Runs end and holds from there."""
    api = ScriptedApi(Plan(run_s=10))
    engine = Engine(api, WatchedLedger(), numbered(300), slots=50)
    live = list[int]()
    async with anyio.create_task_group() as children:
        children.start_soon(engine.run)
        await anyio.sleep(5)
        engine.permits.resize(3)
        for _ in range(20):
            await anyio.sleep(10)
            live.append(api.live)
    assert (max(live[1:]), len(engine.records)) == (3, 300)


@pytest.mark.parametrize("slots", [1, 7])
async def test_under_all_troubles_at_once_every_job_gets_its_one_record(slots: int) -> None:
    """Refusals, lost answers, failures and a tight account: one record per job, and each Run is in one."""

    def trouble(n: int) -> Plan:
        errors: dict[int, Plan] = {
            0: Plan(error=api_error(429)),
            1: Plan(error=lost_answer(), effects=1, run_s=3),
            2: Plan(error=lost_answer()),
            3: Plan(run_s=2, status=RunStatus.FAILED),
            4: Plan(error=api_error(502), effects=1, run_s=5, effect_after_s=1.5),
        }
        return errors.get(n % 11, Plan(run_s=1 + n % 4, answer_after_s=0.3))

    api = ScriptedApi(trouble, capacity=5, fresh_404_s=3, list_lag_s=2)
    records = await Engine(api, WatchedLedger(sync_s=0.02), numbered(120), slots=slots, retry=retries(2)).run()
    noted = [attempt.run_id for record in records for attempt in record.attempts if attempt.run_id]
    assert sorted(record.line for record in records) == list(range(1, 121))
    assert sorted(noted) == sorted(api.run_ids)
    assert api.peak <= slots
