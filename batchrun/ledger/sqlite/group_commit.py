"""Group commit: what waits goes out in one append, one sync and one transaction.

The engine's view of the ledger and the output files. One child commits; everybody else hands it steps and waits for
the group they are in. A step that nobody waits for (`bind`, `postpone`) is durable with the next group.
"""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio
import orjson

from batchrun.errors import OutputError
from batchrun.ledger.protocol import Admission, FinalCost, Known, OpenCost, OpenJob, ReadTo, Settlement
from batchrun.ledger.sqlite.tables import LedgerTables, open_ledger
from batchrun.model import Attempt, BadLine, Intent, Job, JobId, Outcome, Problem, Record, Run, RunId
from batchrun.output.layout import BAD_LINES, ITEMS, LEDGER, RECORDS
from batchrun.output.sink import Sink
from batchrun.policy.breaker import Trip
from batchrun.runtime.children import open_children
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.histogram import COUNTS, SECONDS, Histogram

#: Facts about the batch.
READ_TO = "read_to"
DUPLICATES = "duplicates"
ECHO = "echo"
#: The configuration that the batch was last opened with.
CONFIG = "config"
#: The command line that goes on with the batch, and the directory in which it was given.
COMMAND = "command"
#: How many jobs the job file gives, about; None where that cannot be told cheaply.
JOB_COUNT = "job_count"
#: The breaker's trips in the last process that had any: reason, group, and the keys of the jobs that tripped it.
TRIPPED = "tripped"
#: The output file that is being repaired; None or missing when none is.
REPAIRING = "repairing"


@dataclass(slots=True)
class _Step:
    do: Callable[..., Any]
    arguments: tuple[Any, ...]
    result: Any = None


class _Group:
    __slots__ = ("done", "error", "steps")

    def __init__(self) -> None:
        self.steps: list[_Step] = []
        self.done = anyio.Event()
        self.error: BaseException | None = None


class Journal:
    """Ledger and output files of one batch, as synchronous steps inside one transaction each group."""

    def __init__(self, ledger: LedgerTables, sinks: dict[str, Sink]) -> None:
        self.ledger = ledger
        self._sinks = sinks
        self.groups = 0

    def forget_duplicates(self) -> None:
        """Count repeated lines anew, since the job file is read from its first line."""
        with self.ledger.transaction():
            self.ledger.note_fact(DUPLICATES, 0)

    def commit_group(self, steps: Sequence[_Step]) -> None:
        """Carry out the steps and make them durable, all or none.

        The files are synced before the ledger commits their lengths: what a crash leaves behind a committed
        length is cut off, and nothing before it can be missing.

        Raises:
            OutputError: nothing of the group counts.
        """
        with self.ledger.transaction():
            for step in steps:
                step.result = step.do(*step.arguments)
            grown = {name: sink.length for name, sink in self._sinks.items() if sink.flush()}
            if grown:
                self.ledger.note_output_lengths(grown)
                crash_point("appended")
        crash_point("committed")
        self.groups += 1

    def admit(self, entries: Sequence[Job | BadLine], read_to: ReadTo) -> Admission:
        """Admit what is new among `entries`, settle bad lines, and note how far the file is read."""
        admission = Admission()
        for entry in entries:
            if isinstance(entry, Job):
                self._admit_job(entry, admission)
            else:
                self._settle_bad_line(entry, admission)
        self.ledger.note_fact(READ_TO, [read_to.offset, read_to.line, read_to.fingerprint.hex()])
        if admission.duplicates:
            self.ledger.note_fact(DUPLICATES, (self.ledger.fact(DUPLICATES) or 0) + admission.duplicates)
        return admission

    def _admit_job(self, job: Job, admission: Admission) -> None:
        noted = self.ledger.admit(job)
        if isinstance(noted, OpenJob):
            admission.jobs.append((job, noted))
        elif not noted.is_same_content:
            self._settle_bad_line(_conflict(job, noted), admission)
        elif not noted.is_same_line:
            admission.duplicates += 1

    def _settle_bad_line(self, bad_line: BadLine, admission: Admission) -> None:
        job_id = self.ledger.admit_bad_line(bad_line)
        if job_id is None:
            return
        problem = Problem(type="bad-line", message=bad_line.reason)
        record = Record(key=None, line=bad_line.position.line, outcome=Outcome.INVALID, error=problem)
        self._sinks[BAD_LINES].write(_bad_line_json(bad_line))
        self.settle(job_id, None, record, b"")
        admission.invalid.append(record)

    def settle(self, job_id: JobId, ended: Attempt | None, record: Record, item_lines: bytes) -> None:
        """Write a job's record (and its last items) and note its outcome, with its last attempt's end."""
        self._sinks[RECORDS].write(record.as_line())
        if item_lines:
            self._sinks[ITEMS].write(item_lines)
        error = record.error
        self.ledger.settle(
            job_id,
            ended,
            Settlement(
                outcome=record.outcome,
                error_type=error.type if error else None,
                error_message=error.message if error else None,
                items_count=record.items.count if record.items else None,
            ),
        )

    def write_items(self, job_id: JobId, attempt: Attempt, lines: bytes) -> None:
        """Write one page of items and note up to where the attempt's dataset is written."""
        self._sinks[ITEMS].write(lines)
        self.ledger.note_items(job_id, attempt.attempt_no, attempt.items_offset, attempt.items_count)

    def close(self) -> None:
        """Close the output files."""
        for sink in self._sinks.values():
            sink.close()


def _conflict(job: Job, known: Known) -> BadLine:
    reason = (
        f"key {job.key!r} stands on line {known.line} with other content; give this line another @key"
        if not known.is_same_line
        else f"key {job.key!r}: this line was admitted with other content; put it back, or give it another @key"
    )
    return BadLine(position=job.position, reason=reason, content=job.body.decode("utf-8", "replace")[:10_000])


def _bad_line_json(bad_line: BadLine) -> bytes:
    return orjson.dumps(
        {"line": bad_line.position.line, "reason": bad_line.reason, "content": bad_line.content},
        option=orjson.OPT_APPEND_NEWLINE,
    )


class CommitMeter:
    """How long commits take, in seconds, and how many steps go into one."""

    def __init__(self) -> None:
        self.latency = Histogram(SECONDS)
        self.steps = Histogram(COUNTS)

    def note(self, took_s: float, steps: int) -> None:
        """Count one more commit."""
        self.latency.note(took_s)
        self.steps.note(steps)


class GroupCommit:
    """The engine's `Ledger`: every method is one step; awaiting it means that it is durable.

    Args:
        journal: what it commits to.
        in_thread: whether commits are left to a thread.
        meter: told of each commit.
    """

    def __init__(self, journal: Journal, *, in_thread: bool = True, meter: CommitMeter | None = None) -> None:
        self._journal = journal
        self._meter = CommitMeter() if meter is None else meter
        self._in_thread = in_thread
        self._group = _Group()
        self._arrived = anyio.Event()
        self._is_closing = False
        self._trips: list[dict[str, Any]] = []

    async def admit(self, entries: Sequence[Job | BadLine], read_to: ReadTo) -> Admission:
        """Admit what is new among lines of the job file."""
        admission: Admission = await self._durably(self._journal.admit, entries, read_to)
        return admission

    async def intend(self, job_id: JobId, intent: Intent) -> Attempt:
        """Note an attempt before its start request is sent."""
        attempt: Attempt = await self._durably(self._journal.ledger.intend, job_id, intent)
        return attempt

    async def write_items(self, job_id: JobId, attempt: Attempt, lines: bytes) -> None:
        """Write one page of items; `attempt` says up to where."""
        await self._durably(self._journal.write_items, job_id, attempt, lines)

    async def settle(self, job_id: JobId, ended: Attempt | None, record: Record, item_lines: bytes) -> None:
        """Write a job's record, with its last items, and note its outcome, with its last attempt's end."""
        await self._durably(self._journal.settle, job_id, ended, record, item_lines)

    async def known_runs(self, run_ids: Collection[RunId]) -> set[RunId]:
        """Return those among some Runs that an attempt of this batch has started."""
        known: set[RunId] = await self._durably(self._journal.ledger.known_runs, run_ids)
        return known

    async def bound_runs(self) -> list[RunId]:
        """Return the Runs of this batch that are live, as far as is known."""
        runs: list[RunId] = await self._durably(self._journal.ledger.bound_runs)
        return runs

    async def open_costs(self, ended_before: datetime, limit: int) -> list[OpenCost]:
        """Return Runs that ended before a time and whose cost may not be final yet."""
        costs: list[OpenCost] = await self._durably(self._journal.ledger.open_costs, ended_before, limit)
        return costs

    async def note_final_costs(self, costs: Sequence[FinalCost]) -> None:
        """Note what Runs cost in the end."""
        await self._durably(self._journal.ledger.note_final_costs, costs)

    def withdraw(self, job_id: JobId, attempt_no: int) -> None:
        """Take back an intent whose request certainly started nothing."""
        self._add(self._journal.ledger.withdraw, job_id, attempt_no)

    def bind(self, job_id: JobId, attempt_no: int, run: Run) -> None:
        """Note the id of the Run that an attempt started; until then the attempt is in doubt, which is safe."""
        self._add(self._journal.ledger.bind, job_id, attempt_no, run)

    def note_reservation(self, job_id: JobId, attempt_no: int, usd: float) -> None:
        """Note what was set aside for a live Run that had nothing."""
        self._add(self._journal.ledger.note_reservation, job_id, attempt_no, usd)

    async def note_abort(self, job_id: JobId, attempt_no: int, problem: Problem) -> None:
        """Note why a Run is to be aborted, before that is asked for."""
        await self._durably(self._journal.ledger.note_abort, job_id, attempt_no, problem)

    def note_trip(self, trip: Trip) -> None:
        """Note that the breaker has tripped, and over which jobs."""
        self._trips.append(
            {
                "reason": trip.reason,
                "group": trip.group,
                "keys": list(trip.keys),
                "is_for_empty": trip.is_for_empty,
            }
        )
        self._add(self._journal.ledger.note_fact, TRIPPED, list(self._trips))

    def note_echo(self, echoes: bool) -> None:
        """Note whether the platform shows the mark of a Run it started."""
        self._add(self._journal.ledger.note_fact, ECHO, echoes)

    def postpone(self, job_id: JobId, ended: Attempt | None, wait_s: float) -> None:
        """Note that a job is not to be tried again for a while, with its last attempt's end."""
        self._add(self._journal.ledger.postpone, job_id, ended, wait_s)

    def _add(self, do: Callable[..., Any], *arguments: Any) -> _Step:
        step = _Step(do, arguments)
        self._group.steps.append(step)
        self._arrived.set()
        return step

    async def _durably(self, do: Callable[..., Any], *arguments: Any) -> Any:
        step, group = self._add(do, *arguments), self._group
        await group.done.wait()
        if isinstance(group.error, OutputError):
            raise OutputError(str(group.error)) from group.error
        if group.error is not None:
            raise RuntimeError("the commit failed") from group.error
        return step.result

    async def run(self) -> None:
        """Commit group after group until `close`; ends with the first group that cannot be committed."""
        while True:
            await self._arrived.wait()
            if not self._group.steps:
                return
            await self._commit_waiting()
            if not self._is_closing and not self._group.steps:
                self._arrived = anyio.Event()

    async def _commit_waiting(self) -> None:
        group, self._group = self._group, _Group()
        began_s = perf_counter()
        try:
            if self._in_thread:
                await anyio.to_thread.run_sync(self._journal.commit_group, group.steps)
            else:
                self._journal.commit_group(group.steps)
        except BaseException as error:
            # Nothing is committed any more: who joins the next group must not wait for ever.
            group.error = self._group.error = error
            self._group.done.set()
            raise
        finally:
            group.done.set()
        self._meter.note(perf_counter() - began_s, len(group.steps))

    def close(self) -> None:
        """Let `run` end once everything handed in is durable."""
        self._is_closing = True
        self._arrived.set()


@asynccontextmanager
async def open_commit(
    journal: Journal, *, in_thread: bool = True, meter: CommitMeter | None = None
) -> AsyncIterator[GroupCommit]:
    """Open a group commit; leaving it, however that happens, makes durable what was handed in."""
    commit = GroupCommit(journal, in_thread=in_thread, meter=meter)
    async with open_children() as children:
        # Cancelled by nothing outside: what was paid for is noted before the process may end.
        children.start_soon(_run_shielded, commit)
        try:
            yield commit
        finally:
            commit.close()


async def _run_shielded(commit: GroupCommit) -> None:
    with anyio.CancelScope(shield=True):
        await commit.run()


@asynccontextmanager
async def open_journal(directory: Path) -> AsyncIterator[Journal]:
    """Open ledger and output files of a batch, made when missing, cut back to what was committed.

    Raises:
        OutputError: they cannot be opened, or do not fit one another.
    """
    stack = ExitStack()
    try:
        yield await anyio.to_thread.run_sync(_open_journal, stack, directory)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(stack.close)


def _open_journal(stack: ExitStack, directory: Path) -> Journal:
    if not (directory / LEDGER).exists():
        _refuse_orphans(directory)
    ledger = stack.enter_context(open_ledger(directory))
    if (name := ledger.fact(REPAIRING)) is not None:
        raise OutputError(f"{directory / name}: its repair was cut short; run `batchrun repair {directory}` again")
    lengths = ledger.output_lengths()
    sinks: dict[str, Sink] = {}
    journal = Journal(ledger, sinks)
    stack.callback(journal.close)
    for name in (RECORDS, ITEMS, BAD_LINES):
        sinks[name] = Sink(directory / name, lengths.get(name))
    # From here on the ledger knows the files: what a crash leaves in them can be cut.
    with ledger.transaction():
        ledger.note_output_lengths({name: sink.length for name, sink in sinks.items()})
    return journal


def _refuse_orphans(directory: Path) -> None:
    records = directory / RECORDS
    if records.exists() and records.stat().st_size:
        raise OutputError(
            f"{records}: holds records, but {LEDGER} beside it is missing; put it back, or choose another --out"
        )
