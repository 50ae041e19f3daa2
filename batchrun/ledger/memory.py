"""The ledger in memory. It keeps every promise of the protocol, as long as its process lives."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import anyio

from batchrun.errors import LedgerError
from batchrun.ledger.facts import DUPLICATES, ECHO, JOB_COUNT, NOTIFIED, TRIPS, UNLISTED_SINCE, WAIT, WATCHED_S, Fact
from batchrun.ledger.line_admission import admit_lines
from batchrun.ledger.protocol import (
    Admission,
    FinalCost,
    Known,
    MarkedAttempt,
    NotedWait,
    Notified,
    OpenCost,
    OpenJob,
    ReadTo,
)
from batchrun.model import (
    Attempt,
    AttemptState,
    BadLine,
    Intent,
    Job,
    JobId,
    JobKey,
    Mark,
    Outcome,
    Problem,
    Record,
    Run,
    RunId,
    Selection,
    read_json,
    write_json,
)
from batchrun.policy.breaker import Trip
from batchrun.policy.failure_cause import failure_id
from batchrun.runtime.fast_dataclasses import replace

T = TypeVar("T")


class MemoryLedger:
    """A `Ledger` and a `ReopenableLedger`, whose rows are public."""

    def __init__(self) -> None:
        #: Open and settled jobs in their current rounds, without their attempts.
        self.jobs: dict[JobKey, OpenJob] = {}
        #: By job and number, of all rounds.
        self.attempts: dict[tuple[JobId, int], Attempt] = {}
        #: The records of the jobs' current rounds.
        self.settled: dict[JobId, Record] = {}
        #: All records in the order of their writing, as the record file has them.
        self.records: list[Record] = []
        #: All pages in the order of their writing, as the item file has them.
        self.item_lines: list[bytes] = []
        self._keys: dict[JobId, JobKey] = {}
        self._runs: set[RunId] = set()
        self._bad_lines: set[tuple[int, int]] = set()
        self._duplicates: set[tuple[int, int]] = set()
        #: Keys whose lines have `@replaces`.
        self._replacing: set[JobKey] = set()
        self._facts: dict[str, bytes] = {}
        self._trips: list[Trip] = []

    async def admit(self, entries: Sequence[Job | BadLine], read_to: ReadTo, held: Collection[JobId] = ()) -> Admission:
        admission = admit_lines(
            entries, read_to, self, self._claim, self._replace, self._settle_bad_line, self._note_duplicate, held
        )
        await self._commit()
        return admission

    def _claim(self, job: Job) -> OpenJob | Known:
        at, first = job.position, self.jobs.get(job.key)
        if first is not None:
            return Known(
                is_same_line=(at.line, at.variant) == (first.position.line, first.position.variant),
                is_same_content=job.digest == first.digest,
                line=first.position.line,
                replaces=job.key in self._replacing,
            )
        if job.replaces:
            self._replacing.add(job.key)
        open_job = OpenJob(
            id=JobId(len(self.jobs) + len(self._bad_lines) + 1),
            key=job.key,
            digest=job.digest,
            position=at,
            round=1,
            admitted_at=self._now(),
            due_at=None,
            attempts=(),
        )
        self.jobs[job.key] = open_job
        self._keys[open_job.id] = job.key
        return open_job

    def _replace(self, job: Job, held: Collection[JobId] | None) -> tuple[OpenJob, Outcome | None] | None:
        before = self.jobs[job.key]
        outcome = self.settled[before.id].outcome if before.id in self.settled else None
        if (job.position.line, job.position.variant) in self._bad_lines:
            return None
        if outcome is not None:
            self.reopen(Selection(outcomes=(outcome,), keys=(job.key,)))
        elif (held is not None and before.id not in held) or before.id in {begun.id for begun in self.begun_jobs()}:
            return None
        self._duplicates.add((before.position.line, before.position.variant))
        self._replacing.add(job.key)
        self.jobs[job.key] = replace(self.jobs[job.key], digest=job.digest, position=job.position)
        return next(each for each in self.open_jobs() if each.id == before.id), outcome

    def _settle_bad_line(self, bad_line: BadLine, record: Record) -> bool:
        at = (bad_line.position.line, bad_line.position.variant)
        is_new = at not in self._bad_lines
        if is_new:
            self._bad_lines.add(at)
            self.records.append(record)
        return is_new

    def _note_duplicate(self, job: Job) -> bool:
        at, before = (job.position.line, job.position.variant), len(self._duplicates)
        self._duplicates.add(at)
        return len(self._duplicates) > before

    async def intend(self, job_id: JobId, intent: Intent) -> Attempt:
        if (job_id, intent.attempt_no) in self.attempts:
            raise LedgerError(f"attempt {intent.attempt_no} of job {job_id} is intended already")
        attempt = intent.noted_at(self._now())
        self.attempts[job_id, intent.attempt_no] = attempt
        await self._commit()
        return attempt

    def may_start(self) -> bool:
        return True

    def withdraw(self, job_id: JobId, attempt_no: int) -> None:
        if self.attempts[job_id, attempt_no].state is AttemptState.INTENDED:
            del self.attempts[job_id, attempt_no]

    def bind(self, job_id: JobId, attempt_no: int, run: Run) -> None:
        if run.id in self._runs:
            raise LedgerError(f"Run {run.id} belongs to an attempt already")
        self._runs.add(run.id)
        self._change(job_id, attempt_no, state=AttemptState.BOUND, run_id=run.id, started_at=run.started_at)

    def note_reservation(self, job_id: JobId, attempt_no: int, usd: float) -> None:
        self._change(job_id, attempt_no, reserved_usd=usd)

    async def note_abort(self, job_id: JobId, attempt_no: int, problem: Problem) -> None:
        self._change(job_id, attempt_no, aborted_for=problem)
        await self._commit()

    async def write_items(self, job_id: JobId, attempt: Attempt, lines: bytes) -> None:
        self.item_lines.append(lines)
        written = {"items_offset": attempt.items_offset, "items_count": attempt.items_count}
        self._change(job_id, attempt.attempt_no, **written)
        await self._commit()

    def postpone(self, job_id: JobId, ended: Attempt | None, wait_s: float) -> None:
        self._end(job_id, ended)
        key = self._keys[job_id]
        self.jobs[key] = replace(self.jobs[key], due_at=self._now() + timedelta(seconds=wait_s))

    async def settle(self, job_id: JobId, ended: Attempt | None, record: Record, item_lines: bytes) -> None:
        if job_id in self.settled or job_id not in self._keys:
            raise LedgerError(f"job {job_id} is not open")
        self._end(job_id, ended)
        self.settled[job_id] = record
        self.records.append(record)
        if item_lines:
            self.item_lines.append(item_lines)
        await self._commit()

    def _end(self, job_id: JobId, ended: Attempt | None) -> None:
        if ended is None:
            return
        noted = self.attempts.get((job_id, ended.attempt_no))
        if noted is None or noted.state is AttemptState.ENDED:
            raise LedgerError(f"attempt {ended.attempt_no} of job {job_id} was not intended, or has ended already")
        changes = {name: getattr(ended, name) for name in _ENDS}
        self._change(job_id, ended.attempt_no, state=AttemptState.ENDED, **changes)

    async def open_costs(self, ended_before: datetime, limit: int) -> list[OpenCost]:
        await self._commit()
        found = [
            OpenCost(
                job_id=job_id,
                attempt_no=each.attempt_no,
                run_id=each.run_id,
                started_at=each.started_at,
                finished_at=each.finished_at,
                reserved_usd=each.reserved_usd if each.reserved_usd is not None else each.cost_usd,
                cost_usd=each.cost_usd,
                cost_source=each.cost_source,
            )
            for (job_id, _), each in self.attempts.items()
            if each.run_id is not None and each.started_at is not None and each.finished_at is not None
            if not each.cost_is_final and each.state is AttemptState.ENDED and each.finished_at < ended_before
        ]
        return sorted(found, key=lambda each: each.finished_at)[:limit]

    async def note_final_costs(self, costs: Sequence[FinalCost]) -> None:
        for cost in costs:
            changes = {"cost_usd": cost.cost_usd, "cost_source": cost.source, "cost_is_final": True}
            self._change(cost.job_id, cost.attempt_no, **changes)
        await self._commit()

    async def known_runs(self, run_ids: Collection[RunId]) -> set[RunId]:
        await self._commit()
        return set(run_ids) & {each.run_id for each in self.attempts.values()}

    async def attempts_marked(self, marks: Collection[Mark]) -> dict[Mark, MarkedAttempt]:
        await self._commit()
        return {
            each.mark: MarkedAttempt(job_key=self._keys[job_id], state=each.state, run_id=each.run_id)
            for (job_id, attempt_no), each in self.attempts.items()
            if each.mark in marks and attempt_no > 0
        }

    async def note_second_run(self, mark: Mark, run: Run, ended_at: datetime) -> None:
        owned = [(job_id, each) for (job_id, _), each in self.attempts.items() if each.mark == mark]
        if owned and run.id not in {each.run_id for _, each in owned}:
            job_id, first = owned[0]
            number = min(0, *(attempt_no for each_id, attempt_no in self.attempts if each_id == job_id)) - 1
            self.attempts[job_id, number] = replace(
                first,
                attempt_no=number,
                state=AttemptState.ENDED,
                run_id=run.id,
                status=run.status,
                started_at=run.started_at or ended_at,
                finished_at=ended_at,
                cost_usd=run.cost_usd,
                cost_source=run.cost_source,
                cost_is_final=False,
                reserved_usd=0.0,
            )
        await self._commit()

    async def bound_runs(self) -> list[RunId]:
        await self._commit()
        bound = [each for _, each in sorted(self.attempts.items()) if each.state is AttemptState.BOUND]
        return [each.run_id for each in bound if each.run_id is not None]

    def note_trip(self, trip: Trip) -> None:
        self._trips.append(trip)
        self.note_fact(TRIPS, self._trips)

    def note_echo(self, echoes: bool) -> None:
        self.note_fact(ECHO, echoes)

    def note_watched(self, watched_s: Mapping[Mark, float]) -> None:
        self.note_fact(WATCHED_S, watched_s)

    def note_unlisted(self, since: datetime | None) -> None:
        self.note_fact(UNLISTED_SINCE, since)

    def note_all_read(self) -> None:
        jobs = len(self.jobs) + len(self._bad_lines)
        self.note_fact(JOB_COUNT, jobs + (self.fact(DUPLICATES) or 0))

    def note_wait(self, wait: NotedWait | None) -> None:
        self.note_fact(WAIT, wait)

    async def note_notified(self, notified: Notified) -> None:
        self.note_fact(NOTIFIED, notified)
        await self._commit()

    def fact(self, fact: Fact[T]) -> T | None:
        noted = read_json(self._facts.get(fact.name, b"null"))
        return None if noted is None else fact.from_json(noted)

    def note_fact(self, fact: Fact[T], value: T | None) -> None:
        self._facts[fact.name] = write_json(None if value is None else fact.to_json(value))

    @property
    def is_empty(self) -> bool:
        return not self.jobs and not self._bad_lines

    def open_jobs(self) -> list[OpenJob]:
        of_jobs: dict[JobId, list[Attempt]] = {}
        for (job_id, attempt_no), attempt in sorted(self.attempts.items()):
            if attempt_no > 0:
                of_jobs.setdefault(job_id, []).append(attempt)
        return [
            replace(job, attempts=tuple(of_jobs.get(job.id, ())))
            for job in self.jobs.values()
            if job.id not in self.settled
        ]

    def begun_jobs(self) -> list[OpenJob]:
        return [job for job in self.open_jobs() if _is_begun(job)]

    def unbegun_jobs(self, after: JobId, limit: int) -> list[OpenJob]:
        return [job for job in self.open_jobs() if job.id > after and not _is_begun(job)][:limit]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        before = {name: copy(value) for name, value in vars(self).items()}
        try:
            yield
        except BaseException:
            vars(self).update(before)
            raise

    def reopen(self, selection: Selection) -> int:
        selected = [job for job in self.jobs.values() if _selects(selection, self.settled.get(job.id))]
        for job in selected:
            self.jobs[job.key] = replace(job, round=job.round + 1, admitted_at=self._now(), due_at=None)
            del self.settled[job.id]
        return len(selected)

    def _change(self, job_id: JobId, attempt_no: int, **changes: Any) -> None:
        if (attempt := self.attempts.get((job_id, attempt_no))) is not None:
            self.attempts[job_id, attempt_no] = replace(attempt, **changes)

    def _now(self) -> datetime:
        return datetime.now(UTC)

    async def _commit(self) -> None:
        """Let others run, as a commit to a disk would."""
        await anyio.lowlevel.checkpoint()


#: The fields of an attempt that its end brings.
_ENDS = (
    "status",
    "cause",
    "memory_mb",
    "timeout_s",
    "finished_at",
    "storages",
    "cost_usd",
    "cost_source",
    "cost_is_final",
)


def _is_begun(job: OpenJob) -> bool:
    return job.due_at is not None or any(attempt.round == job.round for attempt in job.attempts)


def _selects(selection: Selection, record: Record | None) -> bool:
    if record is None:
        return False
    error = record.error
    details = (error.type, error.exit_code, error.message) if error else (None, None, None)
    wanted = [
        (selection.outcomes, record.outcome),
        (selection.error_types, details[0]),
        (selection.groups, record.group),
        (selection.keys, record.key),
        (selection.failures, failure_id(record.outcome, *details)),
    ]
    is_left_out = selection.outcomes is None and record.outcome is Outcome.SUCCEEDED
    return not is_left_out and all(values is None or value in values for values, value in wanted)
