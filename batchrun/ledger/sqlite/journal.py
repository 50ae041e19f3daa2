"""The ledger and the output files of a batch, committed together."""

import os
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import anyio

from batchrun.errors import OutputError, OutputLost
from batchrun.ledger.facts import (
    DUPLICATES,
    ECHO,
    JOB_COUNT,
    JOB_FILE_IS_COPIED,
    NOTIFIED,
    REPAIRING,
    START_COMMITS,
    TRIPS,
    UNLISTED_SINCE,
    WAIT,
    WATCHED_S,
)
from batchrun.ledger.line_admission import admit_lines
from batchrun.ledger.protocol import Admission, NotedWait, Notified, ReadTo, Settlement
from batchrun.ledger.shared_commits import CommitLog, FileGrowth
from batchrun.ledger.sqlite.job_file_copy import MAX_GROWTH_BYTES, PIECE_BYTES, JobFileCopy
from batchrun.ledger.sqlite.restored_ledger import refuse_missing_ledger, refuse_older_ledger
from batchrun.ledger.sqlite.start_log import StartLog
from batchrun.ledger.sqlite.tables import LedgerTables, open_ledger
from batchrun.model import Attempt, BadLine, Intent, Job, JobId, Mark, Record
from batchrun.output.bad_lines import bad_line_json
from batchrun.output.held_file import HeldFile
from batchrun.output.layout import BAD_LINES, ITEMS, JOB_FILE, LEDGER, RECORDS, SHARED
from batchrun.output.sink import Sink
from batchrun.policy.breaker import Trip
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.shell_command import shell_command

T = TypeVar("T")
_PUT_BACK = "Put it back and run the same command; `batchrun repair` of the directory writes missing lines again"


class Step(Generic[T]):
    """A verb with its arguments, called within a commit."""

    __slots__ = ("do", "refusal", "result")
    result: T

    def __init__(self, do: Callable[[], T]) -> None:
        self.do = do
        #: Why this step was not done, although the others of its group were; None: it was done.
        self.refusal: OutputLost | None = None


class Journal:
    """The ledger and the output files of one batch; a group is one transaction, its steps are methods of these."""

    def __init__(
        self,
        directory: Path,
        ledger: LedgerTables,
        sinks: dict[str, Sink],
        held: Sequence[HeldFile] = (),
        job_copy: JobFileCopy | None = None,
    ) -> None:
        self.ledger = ledger
        #: None: there is no shared log, or this machine has no job file.
        self.job_copy = job_copy
        #: Directory and files of the batch; they are checked before each commit.
        self._held = held
        self._start_log = StartLog(directory, ledger)
        #: Number of commits with intents, of all processes.
        self._start_commits = ledger.fact(START_COMMITS) or 0
        #: The intents of the present group.
        self._started: list[tuple[JobId, Attempt]] = []
        #: Why no start can be noted: what happened to the files.
        self._lost: OutputLost | None = None
        self._sinks = sinks
        self._trips: list[Trip] = []
        #: Number of groups committed so far.
        self.groups = 0

    def commit_group(self, steps: Sequence[Step[Any]]) -> None:
        """Do the steps and make them durable, all or none.

        A shared log has them first: what it lacks has not happened on any machine. The files are synced before the
        ledger commits their lengths. So after a crash nothing is missing before a committed length, and everything
        behind it is cut off.

        Raises:
            Superseded: Another owner has taken the batch over; none of the steps counts.
            OutputError: The group cannot be committed; none of its steps counts.
        """
        self.check_files()
        self._started.clear()
        with self.ledger.transaction():
            for step in steps:
                try:
                    step.result = step.do()
                except OutputLost as refusal:
                    step.refusal = refusal
            if self._started:
                self._start_commits += 1
                self.ledger.note_fact(START_COMMITS, self._start_commits)
            grown = {name: sink for name, sink in self._sinks.items() if sink.gathered}
            if grown:
                self.ledger.note_output_lengths(
                    {name: sink.length + len(sink.gathered) for name, sink in grown.items()}
                )
            self.ledger.share(
                {name: FileGrowth(offset=sink.length, data=sink.gathered) for name, sink in grown.items()}
            )
            crash_point("shared")
            for sink in grown.values():
                sink.flush()
            if grown:
                crash_point("appended")
        crash_point("committed")
        if self._started:
            self._start_log.append(self._start_commits, self._started)
            crash_point("logged")
        self.groups += 1

    def check_files(self) -> OutputLost | None:
        """Return what happened to the files of the batch if a path does not lead to them any more.

        Then no start is noted any more: another process would not find it. What is written goes where the files are.
        """
        if self._lost is None:
            lost = [loss for file in self._held if (loss := file.loss()) is not None]
            if lost:
                self._lost = OutputLost(f"{lost[0]}. {_PUT_BACK}")
        return self._lost

    def intend(self, job_id: JobId, intent: Intent) -> Attempt:
        if self._lost is not None:
            raise OutputLost(str(self._lost))
        attempt = self.ledger.intend(job_id, intent)
        self._started.append((job_id, attempt))
        return attempt

    def admit(self, entries: Sequence[Job | BadLine], read_to: ReadTo, held: Collection[JobId] = ()) -> Admission:
        ledger = self.ledger
        if self.job_copy is not None:  # lines that were appended since it was copied
            end = max((each.position.offset + each.position.length for each in entries), default=0)
            self.job_copy.grow(MAX_GROWTH_BYTES, end)
        return admit_lines(
            entries, read_to, ledger, ledger.admit, ledger.replace, self._settle_bad_line, ledger.note_duplicate, held
        )

    def copy_job_file(self) -> bool:
        """Let the present commit copy the next piece of the job file; return True if it is the last."""
        assert self.job_copy is not None, "only a batch with a shared log has one"
        is_copied = not self.job_copy.grow(PIECE_BYTES)
        self.ledger.note_fact(JOB_FILE_IS_COPIED, is_copied)
        return is_copied

    def _settle_bad_line(self, bad_line: BadLine, record: Record) -> bool:
        job_id = self.ledger.admit_bad_line(bad_line)
        if job_id is not None:
            self._sinks[BAD_LINES].write(bad_line_json(bad_line))
            self.settle(job_id, None, record, b"")
        return job_id is not None

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

    def note_watched(self, watched_s: Mapping[Mark, float]) -> None:
        self.ledger.note_fact(WATCHED_S, watched_s)

    def note_unlisted(self, since: datetime | None) -> None:
        self.ledger.note_fact(UNLISTED_SINCE, since)

    def note_all_read(self) -> None:
        self.ledger.note_fact(JOB_COUNT, self.ledger.count_jobs() + (self.ledger.fact(DUPLICATES) or 0))

    def note_wait(self, wait: NotedWait | None) -> None:
        self.ledger.note_fact(WAIT, wait)

    def note_notified(self, notified: Notified) -> None:
        self.ledger.note_fact(NOTIFIED, notified)

    def close(self) -> None:
        """Close what this has opened."""
        self._start_log.close()


def _close_sinks(sinks: Mapping[str, Sink]) -> None:
    for sink in sinks.values():
        sink.close()


@asynccontextmanager
async def open_journal(
    directory: Path, log: CommitLog | None = None, job_copy: Callable[[Sink], JobFileCopy] | None = None
) -> AsyncIterator[Journal]:
    """Open a batch's ledger and output files: missing ones are created, longer ones cut to their committed lengths.

    Args:
        directory: of the batch.
        log: has each commit before this machine; None: there is none.
        job_copy: opens the job file, which is copied for other machines; None: none is.

    Raises:
        OutputError: They cannot be opened, or do not belong together.
    """
    stack = ExitStack()
    try:
        yield await anyio.to_thread.run_sync(_open_journal, stack, directory, log, job_copy)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(stack.close)


def _open_journal(
    stack: ExitStack,
    directory: Path,
    log: CommitLog | None = None,
    open_copy: Callable[[Sink], JobFileCopy] | None = None,
) -> Journal:
    refuse_missing_ledger(directory)
    ledger = stack.enter_context(open_ledger(directory, log=log))
    if (name := ledger.fact(REPAIRING)) is not None:
        again = shell_command("batchrun", "repair", directory)
        raise OutputError(f"{directory / name}: its repair was cut short; run `{again}` again")
    refuse_older_ledger(ledger, directory)
    lengths = ledger.output_lengths()
    sinks: dict[str, Sink] = {}
    held: list[HeldFile] = []
    stack.callback(_close_sinks, sinks)
    for name in (RECORDS, ITEMS, BAD_LINES) if open_copy is None else SHARED:
        sinks[name] = Sink(directory / name, lengths.get(name))
    job_copy = None
    if open_copy is not None:
        job_copy = open_copy(sinks[JOB_FILE])
        stack.callback(job_copy.close)
    journal = Journal(directory, ledger, sinks, held, job_copy)
    stack.callback(journal.close)
    directory_fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, directory_fd)
    # From here on the ledger knows the files, so that what a crash leaves in them can be cut off.
    with ledger.transaction():
        ledger.note_output_lengths({name: sink.length for name, sink in sinks.items()})
    files = [directory / name for name in (LEDGER, f"{LEDGER}-wal", *sinks)]
    held += [HeldFile(directory, directory_fd), *(HeldFile(file) for file in files if file.exists())]
    return journal
