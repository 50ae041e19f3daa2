"""Admission alone: lines become jobs in the ledger, and only as the queue needs them."""

import anyio
import structlog

from batchrun.engine.ports import Chunk
from batchrun.engine.source_reader import SourceReader
from batchrun.engine.start_queue import MIN_CHUNK
from batchrun.ledger.protocol import Admission
from batchrun.runtime.free_space import DiskRoom
from tests.support.memory_ledger import ListSource, WatchedLedger, make_bad_line, make_job, numbered
from tests.support.start_gates import gate_of, permits_over, queue_over, work_of


async def test_the_first_lines_are_admitted_at_once_and_more_when_the_queue_needs_them() -> None:
    """With many jobs ready the next chunk waits; it comes once the queue has notified that few are left."""
    permits = permits_over(gate_of(), 1)
    queue, source = queue_over(permits), numbered(99)
    source_reader = SourceReader(source, WatchedLedger(), queue)
    first = await source_reader.next()
    assert first is not None
    assert [job.position.line for job, _ in first.jobs] == list(range(1, MIN_CHUNK + 1))
    for job, noted in first.jobs:
        queue.push(work_of(job))
        assert noted.key == job.key
    with anyio.move_on_after(100) as waiting:
        await source_reader.next()
    assert (waiting.cancelled_caught, source.pulled) == (True, MIN_CHUNK)
    queue.stop_group(None)
    assert await source_reader.next() is not None
    assert source.pulled == 2 * MIN_CHUNK


async def test_no_line_is_read_while_the_disk_is_all_but_full() -> None:
    """Lines that are no jobs need no start to become records; those that were read first go on."""
    disk_room = DiskRoom()
    source = ListSource([make_bad_line(n) for n in range(1, 2 * MIN_CHUNK)])
    source_reader = SourceReader(source, WatchedLedger(), queue_over(permits_over(gate_of(), 1)), disk_room)
    await source_reader.next()
    disk_room.note(is_full=True)
    with anyio.move_on_after(100) as waiting:
        await source_reader.next()
    assert (waiting.cancelled_caught, source.pulled) == (True, MIN_CHUNK)
    disk_room.note(is_full=False)
    assert await source_reader.next() is not None


async def test_a_cancelled_admission_is_committed_all_the_same() -> None:
    """The commit is under way and its lines are in the ledger: a stop does not lose them."""
    ledger = WatchedLedger(sync_s=5)
    source_reader = SourceReader(ListSource([make_job()]), ledger, queue_over(permits_over(gate_of())))
    with anyio.move_on_after(1):
        admission = await source_reader.next()
    assert admission is not None
    assert (len(admission.jobs), ledger.notes, source_reader.is_admitting) == (1, ["admit 1"], False)


async def test_bad_lines_and_duplicates_are_counted_and_the_end_is_none() -> None:
    """A bad line gets its record with the commit; a repeated job none, and the log names it."""
    source = ListSource([make_job(1), make_bad_line(2), make_job(3, key="job-1", body=b'{"line":1}')])
    source_reader = SourceReader(source, WatchedLedger(), queue_over(permits_over(gate_of())))
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as log:
        admission = await source_reader.next()
    assert admission is not None
    assert (len(admission.jobs), len(admission.invalid), len(admission.duplicates)) == (1, 1, 1)
    (skipped,) = (each["lines"] for each in log if each["event"] == "duplicates_skipped")
    assert skipped == [{"line": 3, "key": "job-1", "repeats": 1}]
    assert await source_reader.next() is None


async def test_jobs_that_an_earlier_process_left_open_come_with_the_admission() -> None:
    """They are in the ledger already, and nothing is committed for them."""
    left = work_of(make_job(3))

    class _Resumed:
        async def next_chunk(self, max_entries: int) -> Chunk | None:  # noqa: ARG002 - there is but one
            return Chunk(resumed=[(left.job, left.open)])

    ledger = WatchedLedger()
    admission = await SourceReader(_Resumed(), ledger, queue_over(permits_over(gate_of()))).next()
    assert admission == Admission(jobs=[(left.job, left.open)])
    assert ledger.notes == []
