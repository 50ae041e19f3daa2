"""What `ledger/protocol.py` promises, of each ledger there is."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import anyio
import orjson
import pytest
from blockbuster import BlockBuster

from batchrun.errors import LedgerError
from batchrun.ledger.facts import DUPLICATES, ECHO, JOB_COUNT, NOTIFIED, READ_TO, TRIPS, WAIT, WATCHED_S, Facts
from batchrun.ledger.memory import MemoryLedger
from batchrun.ledger.protocol import (
    Duplicate,
    FinalCost,
    Ledger,
    MarkedAttempt,
    NotedWait,
    Notified,
    OpenJob,
    ReopenableLedger,
)
from batchrun.ledger.shared_commits import CommitLog
from batchrun.ledger.shared_log import snapshots
from batchrun.ledger.shared_log.snapshots import SnapshotMaker
from batchrun.ledger.sqlite.group_commit import GroupCommit
from batchrun.ledger.sqlite.journal import _open_journal
from batchrun.model import (
    Attempt,
    AttemptState,
    BadLine,
    Cause,
    CostSource,
    Intent,
    Job,
    JobId,
    JobKey,
    Mark,
    Outcome,
    Problem,
    Record,
    RunId,
    RunStatus,
    Selection,
    WaitKind,
    WaitReason,
)
from batchrun.output.layout import ITEMS, RECORDS
from batchrun.policy.breaker import Trip
from tests.support.memory_ledger import make_bad_line, make_job, read_to
from tests.support.shared_logs import claim, contents, open_log, replay
from tests.support.timed_ledger import AT, make_ended, make_run


class Rows(ReopenableLedger, Facts, Protocol):
    """What a ledger shows of itself between two engines."""


@dataclass
class Opened:
    """A ledger, what it shows, and what it has written."""

    ledger: Ledger
    rows: Rows
    read_records: Callable[[], bytes]
    read_items: Callable[[], bytes]

    async def committed(self) -> list[OpenJob]:
        """Return the open jobs once everything that was handed in is durable."""
        await self.ledger.known_runs([])
        return self.rows.open_jobs()

    @property
    def outcomes(self) -> list[tuple[str | None, int, str]]:
        """The records: key, round and outcome."""
        lines = [orjson.loads(line) for line in self.read_records().splitlines()]
        return [(line["key"], line["round"], line["outcome"]) for line in lines]


@asynccontextmanager
async def in_memory(_: Path) -> AsyncIterator[Opened]:
    """Open a ledger in memory."""
    ledger = MemoryLedger()
    yield Opened(
        ledger,
        ledger,
        lambda: b"".join(record.as_line() for record in ledger.records),
        lambda: b"".join(ledger.item_lines),
    )


@asynccontextmanager
async def on_disk(directory: Path, log: CommitLog | None = None) -> AsyncIterator[Opened]:
    """Open a ledger on disk, whose errors reach those who wait for it only."""
    with ExitStack() as stack:
        journal = _open_journal(stack, directory, log)
        commit = GroupCommit(journal, in_thread=False)
        async with anyio.create_task_group() as children:
            children.start_soon(_commit_until_it_fails, commit)
            yield Opened(commit, journal.ledger, (directory / RECORDS).read_bytes, (directory / ITEMS).read_bytes)
            commit.close()


@asynccontextmanager
async def on_two_machines(directory: Path) -> AsyncIterator[Opened]:
    """Open a ledger with a shared log; at the end, others that replay it or begin with a snapshot have the same."""
    here, there = directory / "here", directory / "there"
    store = open_log(directory / "log")
    async with on_disk(here, claim(store, here)) as opened:
        yield opened
    replay(store, there)
    assert contents(there) == contents(here)
    with mock.patch.object(snapshots, "MIN_BYTES", 0):
        assert SnapshotMaker(store, here).make_next()
    replay(store, directory / "third")
    assert contents(directory / "third") == contents(here)


async def _commit_until_it_fails(commit: GroupCommit) -> None:
    with suppress(Exception):
        await commit.run()


@pytest.fixture(params=[in_memory, on_disk, on_two_machines])
async def it(
    request: pytest.FixtureRequest, blockbuster: BlockBuster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Opened]:
    """A ledger of each kind, without threads and syncing."""
    blockbuster.deactivate()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    async with request.param(tmp_path) as opened:
        yield opened


async def admit(it: Opened, *entries: Job | BadLine) -> list[JobId]:
    """Admit lines; return the ids of the new jobs."""
    admission = await it.ledger.admit(entries, read_to(entries[-1].position.line))
    return [noted.id for _, noted in admission.jobs]


async def start(it: Opened, job_id: JobId, attempt_no: int = 1, run_id: str | None = None) -> Attempt:
    """Note the start of a Run; return the attempt as it has ended."""
    run = make_run(run_id or f"r{job_id}-{attempt_no}", RunStatus.FAILED)
    intent = Intent(attempt_no=attempt_no, mark=Mark(f"m{job_id}"), platform_time=AT, reserved_usd=1.0)
    attempt = await it.ledger.intend(job_id, intent)
    it.ledger.bind(job_id, attempt_no, run)
    return replace(make_ended(run, attempt_no, reserved_usd=1.0), mark=attempt.mark, intended_at=attempt.intended_at,
                   platform_time=AT)  # fmt: skip


def record_of(line: int, outcome: Outcome = Outcome.FAILED, **changes: Any) -> Record:
    """Return the record of the job on a line."""
    return Record(key=make_job(line).key, line=line, outcome=outcome, **changes)


def attempts(it: Opened) -> list[tuple[Attempt, ...]]:
    """Return the attempts of the open jobs."""
    return [job.attempts for job in it.rows.open_jobs()]


async def test_a_key_is_claimed_by_its_first_line(it: Opened) -> None:
    """The same content again is a duplicate; other content is a bad line that names the line with the key."""
    entries: list[Job | BadLine] = [
        make_job(1, group="g"),
        make_job(2, key="job-1", body=make_job(1).body),
        make_job(3, key="job-1"),
        make_bad_line(4),
        make_job(5),
    ]
    admission = await it.ledger.admit(entries, read_to(5))
    conflict = (
        "key 'job-1' stands on line 1 with other content; give this line another @key, or \"@replaces\": true if it"
        " mends that line"
    )
    assert [(record.line, record.error) for record in admission.invalid] == [
        (3, Problem(type="bad-line", message=conflict)), (4, Problem(type="bad-line", message="not JSON")),
    ]  # fmt: skip
    assert [(job, noted.key, noted.id, noted.round, noted.attempts) for job, noted in admission.jobs] == [
        (entries[0], "job-1", 1, 1, ()), (entries[4], "job-5", 4, 1, ()),
    ]  # fmt: skip
    assert admission.duplicates == [Duplicate(line=2, key=JobKey("job-1"), repeats=1)]
    it.ledger.note_all_read()
    await it.committed()
    assert (it.rows.fact(DUPLICATES), it.rows.fact(READ_TO), it.rows.fact(JOB_COUNT)) == (1, read_to(5), 5)
    assert it.outcomes == [(None, 1, "invalid")] * 2
    assert [(job.key, job.digest, job.position, job.due_at) for job in it.rows.open_jobs()] == [
        (entry.key, entry.digest, entry.position, None) for entry in (entries[0], entries[4]) if isinstance(entry, Job)
    ]


async def test_lines_that_are_read_again_change_nothing(it: Opened) -> None:
    """Open and settled jobs, bad lines, conflicts and duplicates are known: each is counted once."""
    repeated = make_job(5, key="job-2", body=make_job(2).body)
    entries: list[Job | BadLine] = [make_job(1), make_job(2), make_job(3, key="job-1"), make_bad_line(4), repeated]
    first, _ = await admit(it, *entries)
    await it.ledger.settle(first, None, record_of(1), b"")
    before = it.outcomes
    admission = await it.ledger.admit(entries, read_to(5))
    assert (admission.jobs, admission.invalid, admission.duplicates, it.outcomes) == ([], [], [], before)
    assert it.rows.fact(DUPLICATES) == 1


async def test_an_edited_line_is_a_bad_line(it: Opened) -> None:
    """The job that was admitted stays as it is."""
    await admit(it, make_job(1))
    admission = await it.ledger.admit([make_job(1, body=b'{"other":1}')], read_to(1))
    (record,) = admission.invalid
    assert record.error is not None
    assert "this line was admitted with other content" in record.error.message
    assert [job.digest for job in it.rows.open_jobs()] == [make_job(1).digest]


def mending(line: int, job: str = "job-1", body: bytes | None = None) -> Job:
    """Return the job of a line that replaces an earlier one."""
    return make_job(line, key=job, body=body, replaces=True)


async def test_a_line_replaces_the_content_of_a_job_without_an_attempt(it: Opened) -> None:
    """The job keeps its id and its round; whoever reads the lines again finds the same."""
    entries: list[Job | BadLine] = [make_job(1), make_job(2), mending(3), mending(4)]
    admission = await it.ledger.admit(entries, read_to(4))
    assert [(job.position.line, noted.id, noted.round) for job, noted in admission.jobs] == [(2, 2, 1), (4, 1, 1)]
    assert [(each.line, each.repeats) for each in admission.duplicates] == [(1, 3), (3, 4)]
    for _ in range(2):
        assert [(job.key, job.digest, job.position) for job in it.rows.open_jobs()] == [
            ("job-1", mending(4).digest, mending(4).position),
            ("job-2", make_job(2).digest, make_job(2).position),
        ]
        assert (it.rows.fact(DUPLICATES), it.outcomes) == (2, [])
        again = await it.ledger.admit(entries, read_to(4))
        assert (again.jobs, again.invalid, again.duplicates) == ([], [], [])


async def test_a_line_replaces_a_job_of_an_earlier_admission_only_if_it_is_held(it: Opened) -> None:
    """A child of this process may be about to start it with its old content."""
    job_id, _ = await admit(it, make_job(1), make_job(2))
    (record,) = (await it.ledger.admit([mending(3)], read_to(3))).invalid
    assert record.error is not None
    assert "job of line 1 is under way; append this line again once it has ended" in record.error.message
    admission = await it.ledger.admit([mending(4)], read_to(4), {job_id})
    assert [noted.id for _, noted in admission.jobs] == [job_id]
    await it.ledger.intend(job_id, Intent(attempt_no=1, mark=Mark("m")))
    assert len((await it.ledger.admit([mending(5)], read_to(5), {job_id})).invalid) == 1
    assert [job.position.line for job in await it.committed()] == [4, 2]
    await it.ledger.settle(job_id, await start(it, job_id, 2), record_of(4), b"")
    again = await it.ledger.admit([mending(3), mending(5)], read_to(5))
    assert (again.jobs, again.invalid) == ([], []), "what was refused stays refused, when lines are read again"


async def test_a_line_that_replaces_a_settled_job_opens_another_round(it: Opened) -> None:
    """Whatever its outcome was. Attempts are numbered on; the record of the earlier round stays."""
    (job_id,) = await admit(it, make_job(1))
    await it.ledger.settle(job_id, await start(it, job_id), record_of(1, Outcome.SUCCEEDED), b"")
    admission = await it.ledger.admit([mending(2)], read_to(2))
    ((job, noted),) = admission.jobs
    assert (job.position.line, noted.id, noted.round, noted.due_at) == (2, job_id, 2, None)
    assert [attempt.attempt_no for attempt in noted.attempts] == [1]
    assert admission.reopened == [Outcome.SUCCEEDED]
    await it.ledger.settle(job_id, None, replace(record_of(1), line=2, round=2), b"")
    assert it.outcomes == [("job-1", 1, "succeeded"), ("job-1", 2, "failed")]
    assert (await it.ledger.admit([make_job(1), mending(2)], read_to(2))).jobs == []


async def test_the_last_line_that_replaces_counts_in_whatever_order_lines_come(it: Opened) -> None:
    """As with `@priority`. A line that no earlier one has the key of is a job like others."""
    await admit(it, mending(8))
    admission = await it.ledger.admit([make_job(1), mending(5), make_job(3, key="job-1")], read_to(8))
    assert [(each.line, each.repeats) for each in admission.duplicates] == [(1, 8), (5, 8), (3, 8)]
    (record,) = (await it.ledger.admit([make_job(9, key="job-1")], read_to(9))).invalid
    assert record.line == 9
    assert [job.position.line for job in it.rows.open_jobs()] == [8]


async def test_a_line_that_replaces_with_the_same_content_repeats(it: Opened) -> None:
    """It is counted as a duplicate, and buys no further Run."""
    await admit(it, make_job(1))
    admission = await it.ledger.admit([mending(2, body=make_job(1).body)], read_to(2))
    assert (admission.jobs, [each.line for each in admission.duplicates]) == ([], [2])


async def test_an_attempt_is_in_doubt_until_its_run_is_known(it: Opened) -> None:
    """Intended, then bound, with all that is noted of it on the way."""
    (job_id,) = await admit(it, make_job(1))
    began = AT - timedelta(hours=1)
    intent = Intent(attempt_no=1, mark=Mark("m"), platform_time=AT, not_before=began, reserved_usd=2.0)
    attempt = await it.ledger.intend(job_id, intent)
    (job,) = it.rows.open_jobs()
    assert job.attempts == (attempt,)
    assert (attempt.state, attempt.mark, attempt.reserved_usd) == ("intended", "m", 2.0)
    assert (attempt.platform_time, attempt.not_before, attempt.earliest_start) == (AT, began, began)
    it.ledger.bind(job_id, 1, make_run())
    it.ledger.note_reservation(job_id, 1, 3.0)
    why = Problem(type="max-run-s", message="too long")
    await it.ledger.note_abort(job_id, 1, why)
    (job,) = it.rows.open_jobs()
    bound = replace(attempt, state=AttemptState.BOUND, run_id=RunId("r1"), started_at=AT)
    assert job.attempts == (replace(bound, reserved_usd=3.0, aborted_for=why),)


async def test_an_intent_that_started_nothing_leaves_nothing(it: Opened) -> None:
    """Its number can be used again; an attempt with a Run cannot be withdrawn."""
    (job_id,) = await admit(it, make_job(1))
    await it.ledger.intend(job_id, Intent(attempt_no=1, mark=Mark("a")))
    it.ledger.withdraw(job_id, 1)
    await start(it, job_id)
    it.ledger.withdraw(job_id, 1)
    (job,) = await it.committed()
    assert [(each.state, each.run_id) for each in job.attempts] == [("bound", "r1-1")]


async def test_a_postponed_job_waits_and_its_attempt_has_ended(it: Opened) -> None:
    """Both in one step; a wait without an attempt leaves the attempts as they are."""
    (job_id,) = await admit(it, make_job(1))
    named = {"defaultDatasetId": "d", "storageIds": {"datasets": {"default": "d", "sold": "e"}}}
    ended = replace(await start(it, job_id), cause=Cause.OUT_OF_MEMORY, memory_mb=512, timeout_s=60, storages=named)
    it.ledger.postpone(job_id, ended, 60)
    (first,) = await it.committed()
    it.ledger.postpone(job_id, None, 600)
    (second,) = await it.committed()
    assert first.attempts == second.attempts == (ended,)
    assert first.due_at is not None
    assert second.due_at is not None
    assert timedelta(seconds=539) < second.due_at - first.due_at < timedelta(seconds=600)


async def test_a_settled_job_has_a_record_and_its_attempt_has_ended(it: Opened) -> None:
    """The last items go with the record."""
    first, second = await admit(it, make_job(1), make_job(2))
    await it.ledger.settle(first, await start(it, first), record_of(1), b'{"i":1}\n')
    await it.ledger.settle(second, None, record_of(2, Outcome.REJECTED), b"")
    assert (it.outcomes, it.read_items()) == ([("job-1", 1, "failed"), ("job-2", 1, "rejected")], b'{"i":1}\n')
    assert (it.rows.open_jobs(), await it.ledger.bound_runs()) == ([], [])


async def test_pages_of_items_are_written_with_their_place_in_the_dataset(it: Opened) -> None:
    """Page after page, of two attempts in turn."""
    first, second = await admit(it, make_job(1), make_job(2))
    attempt = {job_id: await start(it, job_id) for job_id in (first, second)}
    for job_id, lines, items_offset in ((first, b"1\n", 10), (second, b"2\n", 20), (first, b"3\n", 30)):
        page = replace(attempt[job_id], items_offset=items_offset, items_count=1)
        await it.ledger.write_items(job_id, page, lines)
    noted = [job.attempts[0] for job in it.rows.open_jobs()]
    assert [(each.items_offset, each.items_count) for each in noted] == [(30, 1), (20, 1)]
    assert it.read_items() == b"1\n2\n3\n"


Wrong = Callable[[Opened, JobId, Attempt], Awaitable[None]]


async def _settle(it: Opened, job_id: JobId, ended: Attempt | None) -> None:
    await it.ledger.settle(job_id, ended, record_of(1), b"items\n")


async def _postpone(it: Opened, job_id: JobId, ended: Attempt | None) -> None:
    it.ledger.postpone(job_id, ended, 60)
    await it.committed()


async def _intend_again(it: Opened, job_id: JobId, ended: Attempt) -> None:
    await it.ledger.intend(job_id, Intent(attempt_no=ended.attempt_no, mark=Mark("other")))


async def _bind_again(it: Opened, job_id: JobId, ended: Attempt) -> None:
    await it.ledger.intend(job_id, Intent(attempt_no=2, mark=Mark("other")))
    it.ledger.bind(job_id, 2, make_run(ended.run_id or ""))
    await it.committed()


@pytest.mark.parametrize("verb", [_settle, _postpone])
@pytest.mark.parametrize("attempt_no", [1, 9])
async def test_an_attempt_ends_once_and_only_if_it_was_intended(it: Opened, verb: Wrong, attempt_no: int) -> None:
    """What was to go with its end has no effect either: no record, no item, no wait."""
    (job_id,) = await admit(it, make_job(1))
    ended = await start(it, job_id)
    it.ledger.postpone(job_id, ended, 0)
    before = await it.committed()
    with pytest.raises(LedgerError):
        await verb(it, job_id, replace(ended, attempt_no=attempt_no))
    assert (it.rows.open_jobs(), it.outcomes, it.read_items()) == (before, [], b"")


async def test_a_job_is_settled_once_in_a_round(it: Opened) -> None:
    """A second record is refused, and the attempt that was to end with it stays bound."""
    (job_id,) = await admit(it, make_job(1))
    ended = await start(it, job_id)
    await _settle(it, job_id, None)
    for not_open in (job_id, JobId(99)):
        with pytest.raises((LedgerError, RuntimeError)):
            await _settle(it, not_open, ended)
    assert (it.outcomes, it.read_items()) == ([("job-1", 1, "failed")], b"items\n")


@pytest.mark.parametrize("verb", [_intend_again, _bind_again])
async def test_no_attempt_has_two_intents_and_no_run_two_attempts(it: Opened, verb: Wrong) -> None:
    """Neither can a second start hide behind the first."""
    (job_id,) = await admit(it, make_job(1))
    ended = await start(it, job_id)
    with pytest.raises((LedgerError, RuntimeError)):
        await verb(it, job_id, ended)
    assert attempts(it)[0][0].mark == ended.mark


async def test_costs_are_open_until_they_are_noted_as_final(it: Opened) -> None:
    """Of Runs that have ended before a time, the oldest first; one that ended as final is not asked for."""
    ids = await admit(it, *[make_job(line) for line in range(1, 6)])
    ends = [AT + timedelta(seconds=seconds) for seconds in (30, 20, 10, 10)]
    for job_id, finished_at in zip(ids, ends, strict=False):
        ended = replace(await start(it, job_id), finished_at=finished_at, cost_is_final=job_id == ids[3])
        it.ledger.postpone(job_id, ended, 0)
    await start(it, ids[4])
    assert await it.ledger.open_costs(ends[2], 9) == []
    first, second = await it.ledger.open_costs(ends[0], 2)
    assert (first.run_id, first.finished_at, first.reserved_usd, first.cost_usd) == ("r3-1", ends[2], 1.0, 0.5)
    assert (second.run_id, first.cost_source) == ("r2-1", CostSource.PLATFORM)
    await it.ledger.note_final_costs([
        FinalCost(job_id=ids[1], attempt_no=1, cost_usd=0.25, source=CostSource.DERIVED),
        FinalCost(job_id=ids[2], attempt_no=1, cost_usd=None, source=CostSource.UNKNOWN),
    ])  # fmt: skip
    assert [each.run_id for each in await it.ledger.open_costs(ends[0] + timedelta(days=1), 9)] == ["r1-1"]
    costs = [(each.cost_usd, each.cost_source, each.cost_is_final) for (each,) in attempts(it)[1:3]]
    assert costs == [(0.25, CostSource.DERIVED, True), (None, CostSource.UNKNOWN, True)]


async def test_runs_are_known_once_they_are_bound_and_live_until_they_end(it: Opened) -> None:
    """Of those that are asked for."""
    first, second = await admit(it, make_job(1), make_job(2))
    await start(it, second)
    ended = await start(it, first)
    assert await it.ledger.bound_runs() == ["r1-1", "r2-1"]
    await it.ledger.settle(first, ended, record_of(1), b"")
    assert await it.ledger.bound_runs() == ["r2-1"]
    assert await it.ledger.known_runs([RunId("r1-1"), RunId('r\u00e9"9')]) == {"r1-1"}
    assert await it.ledger.known_runs([]) == set()


async def test_a_run_stays_bound_whose_job_is_settled_without_its_end(it: Opened) -> None:
    """It may be live: other commands find it, and the next round of the job has it."""
    (job_id,) = await admit(it, make_job(1))
    await start(it, job_id)
    await it.ledger.settle(job_id, None, record_of(1), b"")
    assert (it.rows.open_jobs(), await it.ledger.bound_runs()) == ([], ["r1-1"])


async def test_a_second_run_is_known_and_stands_beside_the_attempts(it: Opened) -> None:
    """It costs, is noted once, and changes neither the job's attempts nor their numbers."""
    first, second = await admit(it, make_job(1), make_job(2))
    await start(it, first)
    repeated, run = Mark(f"m{first}"), make_run("second")
    assert await it.ledger.attempts_marked([repeated, Mark("unknown")]) == {
        repeated: MarkedAttempt(job_key=make_job(1).key, state=AttemptState.BOUND, run_id=RunId("r1-1"))
    }
    for each in (run, run, replace(run, id=RunId("third"))):
        await it.ledger.note_second_run(repeated, each, AT)
    await it.ledger.note_second_run(Mark("unknown"), replace(run, id=RunId("fourth")), AT)
    assert await it.ledger.known_runs([RunId("second"), RunId("third"), RunId("fourth")]) == {"second", "third"}
    assert await it.ledger.bound_runs() == ["r1-1"]
    open_costs = await it.ledger.open_costs(AT + timedelta(days=1), 10)
    assert {(each.run_id, each.attempt_no, each.reserved_usd) for each in open_costs} == {
        ("second", -1, 0.0),
        ("third", -2, 0.0),
    }
    costs = [FinalCost(job_id=first, attempt_no=-1, cost_usd=0.75, source=CostSource.PLATFORM)]
    await it.ledger.note_final_costs(costs)
    assert [each.run_id for each in await it.ledger.open_costs(AT + timedelta(days=1), 10)] == ["third"]
    assert [[each.run_id for each in job.attempts] for job in it.rows.begun_jobs()] == [["r1-1"]]
    assert [[each.attempt_no for each in job.attempts] for job in it.rows.open_jobs()] == [[1], []]
    await start(it, second)


async def test_facts_are_as_they_were_noted_last(it: Opened) -> None:
    """Every trip of the process is there; what was never noted is None."""
    assert (it.rows.fact(ECHO), it.rows.fact(TRIPS)) == (None, None)
    trips = [Trip(reason=reason, group=None, keys=(JobKey("k"),), is_for_empty=True) for reason in ("one", "two")]
    for trip in trips:
        it.ledger.note_trip(trip)
    it.ledger.note_echo(True)
    it.ledger.note_echo(False)
    it.ledger.note_watched({Mark("m"): 1.5})
    wait = NotedWait(
        pid=7,
        began_at=datetime(2026, 1, 2, tzinfo=UTC),
        noted_at=datetime(2026, 1, 3, tzinfo=UTC),
        reasons=[WaitReason(kind=WaitKind.DOUBTS, count=2, left_s=1.5)],
    )
    it.ledger.note_wait(wait)
    await it.committed()
    assert (it.rows.fact(ECHO), it.rows.fact(TRIPS), it.rows.fact(WAIT)) == (False, trips, wait)
    assert it.rows.fact(WATCHED_S) == {"m": 1.5}
    it.ledger.note_wait(None)
    await it.committed()
    assert it.rows.fact(WAIT) is None
    notified = Notified(id="n", events=["tripped"], has_ended=True, quiet_runs=[RunId("r")])
    await it.ledger.note_notified(notified)
    assert it.rows.fact(NOTIFIED) == notified


async def test_cancelled_while_it_waits_a_verb_takes_effect_all_the_same(it: Opened) -> None:
    """What was handed in is not taken back."""
    (job_id,) = await admit(it, make_job(1))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await it.ledger.intend(job_id, Intent(attempt_no=1, mark=Mark("m")))
    (job,) = await it.committed()
    assert [attempt.mark for attempt in job.attempts] == ["m"]


async def test_begun_is_a_job_with_an_attempt_or_a_wait_in_its_round(it: Opened) -> None:
    """The others come in order of admission, from a job on, as many as are asked for."""
    ids = await admit(it, *[make_job(line) for line in range(1, 7)])
    await start(it, ids[1])
    it.ledger.postpone(ids[2], None, 60)
    await it.committed()
    assert [job.id for job in it.rows.begun_jobs()] == [ids[1], ids[2]]
    assert [job.id for job in it.rows.unbegun_jobs(JobId(0), 2)] == [ids[0], ids[3]]
    assert [job.id for job in it.rows.unbegun_jobs(ids[3], 9)] == [ids[4], ids[5]]


BLOCKED = Problem(type="run-failed", message="403 blocked (exit code 91)", exit_code=91)
SELECTIONS: list[tuple[Selection, list[int]]] = [
    (Selection(), [2, 3, 4, 5]),
    (Selection(outcomes=[Outcome.FAILED, Outcome.REJECTED]), [2, 3, 5]),
    (Selection(outcomes=[Outcome.SUCCEEDED]), [1]),
    (Selection(outcomes=[Outcome.INVALID]), []),
    (Selection(outcomes=[]), []),
    (Selection(error_types=["run-timed-out", "invalid-input"]), [4, 5]),
    (Selection(groups=["b"]), [3, 5]),
    (Selection(groups=["b"], outcomes=[Outcome.FAILED]), [3]),
    (Selection(keys=["job-1", "job-2", "job-6", "nope"]), [2]),
    (Selection(keys=[]), []),
    (Selection(failures=["184f13af"]), [2]),
    (Selection(failures=["nope"]), []),
]


@pytest.mark.parametrize(("selection", "lines"), SELECTIONS)
async def test_selected_jobs_are_opened_for_another_round(it: Opened, selection: Selection, lines: list[int]) -> None:
    """A job must match every field. Bad lines, open jobs and, by default, successes stay as they are."""
    ids = await admit(it, *[make_job(line, group="ab"[line % 2]) for line in range(1, 7)], make_bad_line(7))
    ends = [
        (Outcome.SUCCEEDED, None),
        (Outcome.FAILED, BLOCKED),
        (Outcome.FAILED, Problem(type="run-failed", message="404 (exit code 1)", exit_code=1)),
        (Outcome.TIMED_OUT, Problem(type="run-timed-out", message="too slow")),
        (Outcome.REJECTED, Problem(type="invalid-input", message="no")),
    ]
    for line, (outcome, error) in enumerate(ends, 1):
        await it.ledger.settle(ids[line - 1], None, record_of(line, outcome, error=error, group="ab"[line % 2]), b"")
    it.ledger.postpone(ids[5], None, 60)
    await it.committed()
    before = it.outcomes
    with it.rows.transaction():
        assert it.rows.reopen(selection) == len(lines)
    reopened = it.rows.unbegun_jobs(JobId(0), 9)
    assert [(job.position.line, job.round, job.due_at) for job in reopened] == [(line, 2, None) for line in lines]
    for job in reopened:
        await it.ledger.settle(job.id, None, record_of(job.position.line, round=2), b"")
    assert it.outcomes == before + [(f"job-{line}", 2, "failed") for line in lines]


async def test_a_transaction_that_fails_changes_nothing(it: Opened) -> None:
    """Its jobs stay settled."""
    (job_id,) = await admit(it, make_job(1))
    await _settle(it, job_id, None)
    with pytest.raises(KeyError), it.rows.transaction():  # noqa: PT012 - what is raised comes after the change
        assert it.rows.reopen(Selection()) == 1
        raise KeyError
    assert it.rows.open_jobs() == []
