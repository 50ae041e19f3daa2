import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from batchrun.batch.resume import Backlog, reopen, take_up
from batchrun.errors import JobFileError
from batchrun.jobs import JobFile, JobFormat, open_job_file
from batchrun.ledger.protocol import OpenJob, Settlement
from batchrun.ledger.sqlite.group_commit import Journal, ReadTo, _open_journal
from batchrun.model import Intent, Job, JobId, Mark, Outcome, Selection
from tests.support.memory_ledger import ListSource

WAIT_S = 60.0
LINES = [b'{"@key": "k%d", "n": %d}\n' % (n, n) for n in range(10)]


@dataclass
class Opened:
    """A batch of ten failed jobs, opened again."""

    file: Path
    journal: Journal
    job_file: JobFile

    def backlog(self) -> Backlog:
        """Return the source of what was not begun."""
        return Backlog(self.journal, self.journal.ledger, self.job_file, ListSource([]))


@pytest.fixture
def opened(blockbuster: BlockBuster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Opened]:
    """Files and SQLite inline, without syncing."""
    blockbuster.deactivate()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    file = tmp_path / "jobs.jsonl"
    file.write_bytes(b"".join(LINES))
    with ExitStack() as stack:
        journal = _open_journal(stack, tmp_path)
        job_file = stack.enter_context(open_job_file(JobFormat(path=file)))
        with journal.ledger.transaction():
            jobs = [job for job in job_file.read() if isinstance(job, Job)]
            journal.admit(jobs, ReadTo(offset=file.stat().st_size, line=10, fingerprint=b"f"))
            for number in range(1, 11):
                journal.ledger.settle(JobId(number), None, Settlement(outcome=Outcome.FAILED))
        yield Opened(file, journal, job_file)


def drained(backlog: Backlog, journal: Journal, size: int) -> list[list[tuple[Job, OpenJob]]]:
    """Admit chunk after chunk as the engine does; return the jobs that came of each."""
    chunks = []
    while (chunk := backlog._next(size)) is not None:
        with journal.ledger.transaction():
            chunks.append(journal.admit(chunk.entries, chunk.read_to).jobs)
    return chunks


def test_reopened_jobs_come_in_chunks_from_their_lines(opened: Opened) -> None:
    """Each once, in its new round; how far the file is read stays as noted, and nothing is awaited at the end."""
    assert reopen(opened.journal, opened.job_file, WAIT_S, Selection()) == []
    read_to = opened.journal.ledger.fact("read_to")
    chunks = drained(opened.backlog(), opened.journal, 4)
    assert [len(chunk) for chunk in chunks] == [4, 4, 2]
    jobs = [(job.key, job.body, noted.key, noted.round) for chunk in chunks for job, noted in chunk]
    assert jobs == [(f"k{n}", b'{"n":%d}' % n, f"k{n}", 2) for n in range(10)]
    assert (opened.journal.awaited, opened.journal.ledger.fact("read_to")) == ({}, read_to)


def test_begun_jobs_are_taken_up_and_the_others_come_as_a_backlog(opened: Opened) -> None:
    """Begun is what has an attempt in its round or waits for one; attempts of earlier rounds begin nothing."""
    ledger = opened.journal.ledger
    with ledger.transaction():
        ledger.intend(JobId(4), Intent(attempt_no=1, round=1, mark=Mark("past")))
        ledger.reopen(Selection(keys=["k1", "k2", "k3", "k4"]))
        ledger.intend(JobId(2), Intent(attempt_no=1, round=2, mark=Mark("m")))
        ledger.postpone(JobId(3), None, 1000.0)
    begun = take_up(opened.journal, opened.job_file, WAIT_S)
    assert len(begun) == 2
    chunks = drained(opened.backlog(), opened.journal, 100)
    assert [[job.key for job, _ in chunk] for chunk in chunks] == [["k3", "k4"]]


def test_an_edited_line_reopens_nothing_and_is_named(opened: Opened) -> None:
    """The key or the content of a line may be another; the others' lines do not make up for it."""
    for edited in (
        LINES[7].replace(b"k7", b"K7"),
        LINES[7].replace(b": 7", b": 8"),
        b"x" * (len(LINES[7]) - 1) + b"\n",
    ):
        opened.file.write_bytes(b"".join([*LINES[:7], edited, *LINES[8:]]))
        with pytest.raises(JobFileError, match=":8: "):
            reopen(opened.journal, opened.job_file, WAIT_S, Selection())
        assert opened.journal.ledger.open_jobs() == []
        reopened = reopen(opened.journal, opened.job_file, WAIT_S, Selection(keys=["nope"]))
        assert reopened == []


async def test_after_the_backlog_the_file_is_read_on(opened: Opened) -> None:
    """The other source is asked only when nothing is left."""
    backlog = opened.backlog()
    backlog._is_over = True
    assert await backlog.next_chunk(5) is None
