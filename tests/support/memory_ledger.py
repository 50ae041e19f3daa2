"""Jobs and sources for ledgers, and a ledger in memory that can be watched."""

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import islice
from typing import Any

import anyio

from batchrun.engine.ports import Chunk
from batchrun.ledger.memory import MemoryLedger
from batchrun.ledger.protocol import Admission, NotedWait, ReadTo
from batchrun.model import (
    Attempt,
    BadLine,
    Intent,
    Job,
    JobId,
    JobKey,
    Position,
    Problem,
    Record,
    Run,
    RunOptions,
)
from batchrun.policy.breaker import Trip
from batchrun.runtime.steady_time import loop_time


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
    """A source over entries that are made as they are pulled; it keeps them."""

    def __init__(self, entries: Iterable[Job | BadLine], *, chunk: int = 256) -> None:
        self._entries = iter(entries)
        self._chunk = chunk
        self.given: list[Job | BadLine] = []

    @property
    def pulled(self) -> int:
        """How many entries were pulled."""
        return len(self.given)

    async def next_chunk(self, max_entries: int) -> Chunk | None:
        """Return the next entries."""
        await anyio.lowlevel.checkpoint()
        taken = list(islice(self._entries, min(max_entries, self._chunk)))
        self.given += taken
        return Chunk(taken, read_to(self.pulled)) if taken else None


def numbered(count: int, **fields: Any) -> ListSource:
    """Return a source of jobs that differ in their lines only."""
    return ListSource(make_job(line, **fields) for line in range(1, count + 1))


class WatchedLedger(MemoryLedger):
    """A ledger in memory that lists its steps as words, once they are durable.

    Args:
        sync_s: how long a step takes to become durable.
        on_note: called with each step.
    """

    def __init__(self, *, sync_s: float = 0.0, on_note: Callable[[str], None] = lambda _: None) -> None:
        super().__init__()
        self._sync_s = sync_s
        self._on_note = on_note
        self._began = datetime.now(UTC)
        #: The steps so far.
        self.notes: list[str] = []

    async def admit(self, entries: Sequence[Job | BadLine], read_to: ReadTo, held: Collection[JobId] = ()) -> Admission:
        admission = await super().admit(entries, read_to, held)
        self._note(f"admit {read_to.line}")
        return admission

    async def intend(self, job_id: JobId, intent: Intent) -> Attempt:
        attempt = await super().intend(job_id, intent)
        self._note(f"intend {job_id}.{intent.attempt_no}")
        return attempt

    def withdraw(self, job_id: JobId, attempt_no: int) -> None:
        super().withdraw(job_id, attempt_no)
        assert (job_id, attempt_no) not in self.attempts, "the engine withdraws intents only"
        self._note(f"withdraw {job_id}.{attempt_no}")

    def bind(self, job_id: JobId, attempt_no: int, run: Run) -> None:
        super().bind(job_id, attempt_no, run)
        self._note(f"bind {job_id}.{attempt_no} {run.id}")

    async def note_abort(self, job_id: JobId, attempt_no: int, problem: Problem) -> None:
        await super().note_abort(job_id, attempt_no, problem)
        self._note(f"abort {job_id}.{attempt_no} {problem.type}")

    def postpone(self, job_id: JobId, ended: Attempt | None, wait_s: float) -> None:
        super().postpone(job_id, ended, wait_s)
        self._note(f"postpone {_named(job_id, ended)} {wait_s > 0}")

    async def write_items(self, job_id: JobId, attempt: Attempt, lines: bytes) -> None:
        await super().write_items(job_id, attempt, lines)
        self._note(f"items {job_id}.{attempt.attempt_no} to {attempt.items_offset} ({attempt.items_count})")

    async def settle(self, job_id: JobId, ended: Attempt | None, record: Record, item_lines: bytes) -> None:
        await super().settle(job_id, ended, record, item_lines)
        self._note(f"settle {_named(job_id, ended)} {record.outcome}")

    def note_trip(self, trip: Trip) -> None:
        super().note_trip(trip)
        self._note(f"trip {trip.group}")

    def note_echo(self, echoes: bool) -> None:
        super().note_echo(echoes)
        self._note(f"echo {echoes}")

    def note_wait(self, wait: NotedWait | None) -> None:
        super().note_wait(wait)
        self._note(f"wait {[str(each.kind) for each in wait.reasons] if wait is not None else 'over'}")

    def _note(self, note: str) -> None:
        self.notes.append(note)
        self._on_note(note)

    def _now(self) -> datetime:
        return self._began + timedelta(seconds=loop_time())

    async def _commit(self) -> None:
        await anyio.sleep(self._sync_s)


def _named(job_id: JobId, ended: Attempt | None) -> str:
    return f"{job_id}.{ended.attempt_no}" if ended is not None else f"{job_id}"
