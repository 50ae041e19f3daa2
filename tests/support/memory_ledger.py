"""A ledger in memory, on virtual time, that keeps the order of its notes; and jobs for it."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import anyio

from batchrun.engine.ports import Chunk
from batchrun.ledger.protocol import Admission, FinalCost, OpenCost, OpenJob, ReadTo
from batchrun.model import (
    Attempt,
    AttemptState,
    BadLine,
    Intent,
    Job,
    JobId,
    JobKey,
    Outcome,
    Position,
    Problem,
    Record,
    Run,
    RunId,
    RunOptions,
)
from batchrun.policy.breaker import Trip


def make_job(line: int = 1, *, key: str | None = None, body: bytes | None = None, **changes: Any) -> Job:
    """Return a job whose key and content follow from its line."""
    body = b'{"line":%d}' % line if body is None else body
    position = Position(line=line, offset=100 * (line - 1), length=100)
    options: RunOptions | None = changes.pop("options", None)
    return Job(
        key=JobKey(key or f"job-{line}"),
        digest=sha256(body).digest()[:16],
        position=position,
        body=body,
        options=options,
        **changes,
    )


def make_bad_line(line: int, reason: str = "not JSON") -> BadLine:
    """Return a bad line."""
    return BadLine(position=Position(line=line, offset=100 * (line - 1), length=100), reason=reason, content="{")


def read_to(line: int) -> ReadTo:
    """Return how far the file is read with this line."""
    return ReadTo(offset=100 * line, line=line, fingerprint=b"f")


class ListSource:
    """A source over a list that counts how far it was pulled."""

    def __init__(self, entries: Sequence[Job | BadLine], *, chunk: int = 256) -> None:
        self._entries = list(entries)
        self._chunk = chunk
        self.pulled = 0

    async def next_chunk(self, max_entries: int) -> Chunk | None:
        """Return the next entries."""
        await anyio.lowlevel.checkpoint()
        taken = self._entries[self.pulled : self.pulled + min(max_entries, self._chunk)]
        self.pulled += len(taken)
        return Chunk(taken, read_to(self.pulled)) if taken else None


class MemoryLedger:
    """Notes everything in memory; `sync_s` is how long a note takes to be durable."""

    def __init__(self, *, sync_s: float = 0.0, on_note: Callable[[str], None] = lambda _: None) -> None:
        self._sync_s = sync_s
        self._on_note = on_note
        self._began = datetime.now(UTC)
        #: Each step once it is noted (and durable where somebody waits), in order, as words.
        self.notes: list[str] = []
        self.jobs: dict[JobKey, OpenJob] = {}
        self.attempts: dict[tuple[JobId, int], Attempt] = {}
        self.settled: dict[JobId, Record] = {}
        self.item_lines: list[bytes] = []
        self.trips: list[Trip] = []

    async def admit(self, entries: Sequence[Job | BadLine], read_to: ReadTo) -> Admission:
        """Admit what is new."""
        await self._sync()
        admission = Admission()
        for entry in entries:
            if isinstance(entry, BadLine):
                problem = Problem(type="bad-line", message=entry.reason)
                record = Record(key=None, line=entry.position.line, outcome=Outcome.INVALID, error=problem)
                admission.invalid.append(record)
            elif entry.key in self.jobs:
                admission.duplicates += 1
            else:
                self.jobs[entry.key] = self._open(entry)
                admission.jobs.append((entry, self.jobs[entry.key]))
        self._note(f"admit {read_to.line}")
        return admission

    async def intend(self, job_id: JobId, intent: Intent) -> Attempt:
        """Note an intent."""
        await self._sync()
        assert (job_id, intent.attempt_no) not in self.attempts, "an attempt is intended once"
        attempt = intent.noted_at(self._now())
        self.attempts[job_id, intent.attempt_no] = attempt
        self._note(f"intend {job_id}.{intent.attempt_no}")
        return attempt

    def withdraw(self, job_id: JobId, attempt_no: int) -> None:
        """Take an intent back."""
        assert self.attempts.pop((job_id, attempt_no)).state is AttemptState.INTENDED
        self._note(f"withdraw {job_id}.{attempt_no}")

    def bind(self, job_id: JobId, attempt_no: int, run: Run) -> None:
        """Note a Run's id."""
        self._change(job_id, attempt_no, state=AttemptState.BOUND, run_id=run.id, started_at=run.started_at)
        self._note(f"bind {job_id}.{attempt_no} {run.id}")

    def note_reservation(self, job_id: JobId, attempt_no: int, usd: float) -> None:
        """Note what is set aside."""
        self._change(job_id, attempt_no, reserved_usd=usd)

    async def note_abort(self, job_id: JobId, attempt_no: int, problem: Problem) -> None:
        """Note why a Run is to be aborted."""
        await self._sync()
        self._change(job_id, attempt_no, aborted_for=problem)
        self._note(f"abort {job_id}.{attempt_no} {problem.type}")

    def postpone(self, job_id: JobId, ended: Attempt | None, wait_s: float) -> None:
        """Note that a job waits."""
        self._note(f"postpone {job_id}{self._end(job_id, ended)} {wait_s > 0}")

    async def write_items(self, job_id: JobId, attempt: Attempt, lines: bytes) -> None:
        """Note a page of items."""
        await self._sync()
        self.item_lines.append(lines)
        self._note(f"items {job_id}.{attempt.attempt_no} to {attempt.items_offset} ({attempt.items_count})")

    async def settle(self, job_id: JobId, ended: Attempt | None, record: Record, item_lines: bytes) -> None:
        """Note a record, once."""
        await self._sync()
        assert job_id not in self.settled, "a job is settled once"
        self.settled[job_id] = record
        if item_lines:
            self.item_lines.append(item_lines)
        self._note(f"settle {job_id}{self._end(job_id, ended)} {record.outcome}")

    def note_trip(self, trip: Trip) -> None:
        """Note that the breaker has tripped."""
        self.trips.append(trip)
        self._note(f"trip {trip.group}")

    def note_echo(self, echoes: bool) -> None:
        """Note whether marks are echoed."""
        self._note(f"echo {echoes}")

    async def known_runs(self, run_ids: Collection[RunId]) -> set[RunId]:
        """Return those among some Runs that are noted."""
        await self._sync()
        return set(run_ids) & {each.run_id for each in self.attempts.values()}

    async def bound_runs(self) -> list[RunId]:
        """Return the Runs without a noted end."""
        await self._sync()
        return [each.run_id for each in self.attempts.values() if each.run_id and each.state is AttemptState.BOUND]

    async def open_costs(self, ended_before: datetime, limit: int) -> list[OpenCost]:
        """Return ended Runs whose cost is not final."""
        await self._sync()
        return [
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
        ][:limit]

    async def note_final_costs(self, costs: Sequence[FinalCost]) -> None:
        """Note what Runs cost in the end."""
        await self._sync()
        for cost in costs:
            changes = {"cost_usd": cost.cost_usd, "cost_source": cost.source, "cost_is_final": True}
            self._change(cost.job_id, cost.attempt_no, **changes)

    def _open(self, job: Job) -> OpenJob:
        return OpenJob(
            id=JobId(len(self.jobs) + 1),
            key=job.key,
            digest=job.digest,
            position=job.position,
            round=1,
            admitted_at=self._now(),
            due_at=None,
            attempts=(),
        )

    def _end(self, job_id: JobId, ended: Attempt | None) -> str:
        """Note an attempt's end, once; return the word for it."""
        if ended is None:
            return ""
        assert (job_id, ended.attempt_no) in self.attempts, "what was not intended cannot end"
        assert self.attempts[job_id, ended.attempt_no].state is not AttemptState.ENDED, "an attempt ends once"
        self.attempts[job_id, ended.attempt_no] = replace(ended, state=AttemptState.ENDED)
        return f".{ended.attempt_no}"

    def _change(self, job_id: JobId, attempt_no: int, **changes: Any) -> None:
        self.attempts[job_id, attempt_no] = replace(self.attempts[job_id, attempt_no], **changes)

    def _note(self, note: str) -> None:
        self.notes.append(note)
        self._on_note(note)

    def _now(self) -> datetime:
        return self._began + timedelta(seconds=anyio.current_time())

    async def _sync(self) -> None:
        await anyio.sleep(self._sync_s)
