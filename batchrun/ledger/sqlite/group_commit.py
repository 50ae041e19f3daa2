"""Group commit: all steps that wait become durable with one append, one sync and one transaction.

One child commits, group after group. All others hand it their steps, and wait for the group of a step if they await it.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, ParamSpec, TypeVar

import anyio
import orjson

from batchrun.errors import OutputError
from batchrun.ledger.bad_lines import conflict, record_of
from batchrun.ledger.facts import DUPLICATES, ECHO, READ_TO, REPAIRING, TRIPS
from batchrun.ledger.protocol import Admission, OpenJob, ReadTo, Settlement
from batchrun.ledger.sqlite.tables import LedgerTables, open_ledger
from batchrun.model import Attempt, BadLine, Job, JobId, Record
from batchrun.output.layout import BAD_LINES, ITEMS, LEDGER, RECORDS
from batchrun.output.sink import Sink
from batchrun.policy.breaker import Trip
from batchrun.runtime.children import open_children
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.histogram import COUNTS, SECONDS, Histogram

P = ParamSpec("P")
T = TypeVar("T")


class _Step(Generic[T]):
    """A verb with its arguments, called within a commit."""

    __slots__ = ("do", "result")
    result: T

    def __init__(self, do: Callable[[], T]) -> None:
        self.do = do


class _Group:
    """Steps that are committed together."""

    __slots__ = ("done", "error", "steps")

    def __init__(self) -> None:
        self.steps: list[_Step[Any]] = []
        self.done = anyio.Event()
        self.error: BaseException | None = None


class Journal:
    """The ledger and the output files of one batch; a group is one transaction, its steps are methods of these."""

    def __init__(self, ledger: LedgerTables, sinks: dict[str, Sink]) -> None:
        self.ledger = ledger
        self._sinks = sinks
        self._trips: list[Trip] = []
        #: Number of groups committed so far.
        self.groups = 0

    def commit_group(self, steps: Sequence[_Step[Any]]) -> None:
        """Do the steps and make them durable, all or none.

        The files are synced before the ledger commits their lengths. So after a crash nothing is missing before a
        committed length, and everything behind it is cut off.

        Raises:
            OutputError: The group cannot be committed; none of its steps counts.
        """
        with self.ledger.transaction():
            for step in steps:
                step.result = step.do()
            grown = {name: sink.length for name, sink in self._sinks.items() if sink.flush()}
            if grown:
                self.ledger.note_output_lengths(grown)
                crash_point("appended")
        crash_point("committed")
        self.groups += 1

    def admit(self, entries: Sequence[Job | BadLine], read_to: ReadTo) -> Admission:
        admission = Admission()
        for entry in entries:
            if isinstance(entry, Job):
                self._admit_job(entry, admission)
            else:
                self._settle_bad_line(entry, admission)
        self.ledger.note_fact(READ_TO, read_to)
        if admission.duplicates:
            self.ledger.note_fact(DUPLICATES, (self.ledger.fact(DUPLICATES) or 0) + admission.duplicates)
        return admission

    def _admit_job(self, job: Job, admission: Admission) -> None:
        noted = self.ledger.admit(job)
        if isinstance(noted, OpenJob):
            admission.jobs.append((job, noted))
        elif not noted.is_same_content:
            self._settle_bad_line(conflict(job, noted), admission)
        elif not noted.is_same_line:
            admission.duplicates += 1

    def _settle_bad_line(self, bad_line: BadLine, admission: Admission) -> None:
        job_id = self.ledger.admit_bad_line(bad_line)
        if job_id is None:
            return
        record = record_of(bad_line)
        self._sinks[BAD_LINES].write(_bad_line_json(bad_line))
        self.settle(job_id, None, record, b"")
        admission.invalid.append(record)

    def settle(self, job_id: JobId, ended: Attempt | None, record: Record, item_lines: bytes) -> None:
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
                exit_code=error.exit_code if error else None,
                items_count=record.items.count if record.items else None,
            ),
        )

    def write_items(self, job_id: JobId, attempt: Attempt, lines: bytes) -> None:
        self._sinks[ITEMS].write(lines)
        self.ledger.note_items(job_id, attempt.attempt_no, attempt.items_offset, attempt.items_count)

    def note_trip(self, trip: Trip) -> None:
        self._trips.append(trip)
        self.ledger.note_fact(TRIPS, self._trips)

    def note_echo(self, echoes: bool) -> None:
        self.ledger.note_fact(ECHO, echoes)

    def close(self) -> None:
        """Close the output files."""
        for sink in self._sinks.values():
            sink.close()


def _bad_line_json(bad_line: BadLine) -> bytes:
    return orjson.dumps(
        {"line": bad_line.position.line, "reason": bad_line.reason, "content": bad_line.content},
        option=orjson.OPT_APPEND_NEWLINE,
    )


class CommitMeter:
    """The durations of commits, in seconds, and the numbers of their steps."""

    def __init__(self) -> None:
        self.latency = Histogram(SECONDS)
        self.steps = Histogram(COUNTS)

    def note(self, took_s: float, steps: int) -> None:
        """Count one more commit."""
        self.latency.note(took_s)
        self.steps.note(steps)


class GroupCommit:
    """The `Ledger` protocol over a journal: each verb is one step of the group that is committed next.

    Args:
        journal: does the steps.
        in_thread: False if commits are to block the event loop: for tests on virtual time.
        meter: measures the commits.
    """

    def __init__(self, journal: Journal, *, in_thread: bool = True, meter: CommitMeter | None = None) -> None:
        self._journal = journal
        self._meter = CommitMeter() if meter is None else meter
        self._in_thread = in_thread
        self._group = _Group()
        self._arrived = anyio.Event()
        self._is_closing = False
        tables = journal.ledger
        self.admit = self._durably(journal.admit)
        self.intend = self._durably(tables.intend)
        self.note_abort = self._durably(tables.note_abort)
        self.write_items = self._durably(journal.write_items)
        self.settle = self._durably(journal.settle)
        self.open_costs = self._durably(tables.open_costs)
        self.note_final_costs = self._durably(tables.note_final_costs)
        self.known_runs = self._durably(tables.known_runs)
        self.bound_runs = self._durably(tables.bound_runs)
        self.withdraw = self._in_passing(tables.withdraw)
        self.bind = self._in_passing(tables.bind)
        self.note_reservation = self._in_passing(tables.note_reservation)
        self.postpone = self._in_passing(tables.postpone)
        self.note_trip = self._in_passing(journal.note_trip)
        self.note_echo = self._in_passing(journal.note_echo)

    def _durably(self, verb: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Return a verb that waits until its step is committed."""

        async def durable(*args: P.args, **kwargs: P.kwargs) -> T:
            step, group = _Step(partial(verb, *args, **kwargs)), self._group
            group.steps.append(step)
            self._arrived.set()
            await group.done.wait()
            if group.error is not None:
                raise _for_one_waiter(group.error) from group.error
            return step.result

        return durable

    def _in_passing(self, verb: Callable[P, None]) -> Callable[P, None]:
        """Return a verb that leaves its step to the next commit."""

        def noted(*args: P.args, **kwargs: P.kwargs) -> None:
            self._group.steps.append(_Step(partial(verb, *args, **kwargs)))
            self._arrived.set()

        return noted

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
            # Nothing is committed after this: the next group's steps must not wait for it for ever.
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


def _for_one_waiter(error: BaseException) -> Exception:
    """Return an error for one of those that waited for a commit; a bug is raised as itself by the committing child."""
    return type(error)(str(error)) if isinstance(error, OutputError) else RuntimeError("the commit failed")


@asynccontextmanager
async def open_commit(
    journal: Journal, *, in_thread: bool = True, meter: CommitMeter | None = None
) -> AsyncIterator[GroupCommit]:
    """Open a group commit. Leaving the context, even by cancellation, makes durable what was handed in."""
    commit = GroupCommit(journal, in_thread=in_thread, meter=meter)
    async with open_children() as children:
        # Shielded: what was paid for is noted before the process may end.
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
    """Open a batch's ledger and output files: missing ones are created, longer ones cut to their committed lengths.

    Raises:
        OutputError: They cannot be opened, or do not belong together.
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
    # From here on the ledger knows the files, so that what a crash leaves in them can be cut off.
    with ledger.transaction():
        ledger.note_output_lengths({name: sink.length for name, sink in sinks.items()})
    return journal


def _refuse_orphans(directory: Path) -> None:
    records = directory / RECORDS
    if records.exists() and records.stat().st_size:
        raise OutputError(
            f"{records}: holds records, but {LEDGER} beside it is missing; put it back, or choose another --out"
        )
