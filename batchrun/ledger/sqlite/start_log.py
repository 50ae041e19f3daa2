"""A second file with the starts that the ledger has noted; it shows whether the ledger is whole.

A ledger loses commits when its `-wal` file is removed, or when an older copy is put back. Starts that it does not know
would be paid for twice. So each commit with intents is counted in the ledger, and its count and intents are appended
here before a start request is sent. A log that counts further than its ledger shows that the ledger has lost commits;
`batchrun repair` rebuilds it from this file, the records and the job file.

The log is not synced with each commit, which would cost as much as the commit. It survives the death of the process;
after a power failure it may lack its last lines, and then proves less. It is never ahead of a whole ledger.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from batchrun.ledger.facts import START_COMMITS
from batchrun.ledger.sqlite.reader import LedgerReader
from batchrun.model import Attempt, AttemptState, JobId, JobKey, JsonObject, Mark
from batchrun.output.atomic_write import Replacement
from batchrun.output.committed_lines import bounded_lines
from batchrun.output.layout import RECORDS, STARTS
from batchrun.output.sink import explaining
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.private_files import private_opener

#: Bytes after which the log is rewritten with the starts of open jobs only: about 80,000 starts.
MAX_BYTES = 16 << 20
_NO_HEAD: JsonObject = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedStart:
    """An intent in the log."""

    key: JobKey
    attempt: Attempt
    #: The job's line.
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLine:
    """One line of the log: the intents of one commit, or of all open jobs where the log begins."""

    #: Number of the ledger's commits with intents, this one included.
    commits: int
    starts: Sequence[NotedStart]
    #: The facts of the batch as JSON, by name; None but where the log begins.
    facts: dict[str, str] | None
    #: Committed length of the records where the log begins. Later records are of jobs whose starts follow here.
    records_bytes: int


class StartLog:
    """The log of one batch, as the process that runs the batch writes it."""

    def __init__(self, directory: Path, ledger: LedgerReader) -> None:
        self._file = directory / STARTS
        self._ledger = ledger
        self._opened: Any = None
        self._bytes = 0

    def append(self, commits: int, started: Sequence[tuple[JobId, Attempt]]) -> None:
        """Note the intents of a commit.

        Raises:
            OutputError: they cannot be written; no start request may be sent for them.
        """
        if self._opened is None or self._bytes > MAX_BYTES:
            self.begin(commits)
            return
        names = self._ledger.names_of([job_id for job_id, _ in started])
        starts = [(*names[job_id], attempt) for job_id, attempt in started]
        with explaining(self._file):
            self._bytes += self._opened.write(_line(commits, starts))

    def begin(self, commits: int) -> None:
        """Replace the log by one line, with the facts of the batch and the attempts of all open jobs.

        Raises:
            OutputError: it cannot be written.
        """
        self.close()
        open_starts = [
            (job.key, job.position.line, attempt) for job in self._ledger.begun_jobs() for attempt in job.attempts
        ]
        replacement = Replacement(self._file)
        head = {"facts": self._ledger.all_facts(), "records_bytes": self._ledger.output_lengths().get(RECORDS, 0)}
        replacement.write(_line(commits, open_starts, head))
        self._bytes = replacement.put_in_place()
        with explaining(self._file):
            self._opened = open(self._file, "ab", buffering=0, opener=private_opener)  # noqa: SIM115

    def close(self) -> None:
        """Close the file."""
        if self._opened is not None:
            self._opened.close()


def read_start_log(directory: Path) -> Iterator[StartLine]:
    """Yield the lines of a batch's log in one pass; damaged lines are left out."""
    file = directory / STARTS
    if not file.exists():
        return
    with explaining(file), open(file, "rb", opener=private_opener) as opened:
        for line in bounded_lines(opened, file):
            try:
                yield _parsed(orjson.loads(line))
            except (ValueError, TypeError, LookupError):
                continue


def lost_commits(directory: Path, ledger: LedgerReader | None) -> int:
    """Return how many commits with intents a ledger has lost, as far as the log beside it shows; None: all of them."""
    logged = max((line.commits for line in read_start_log(directory)), default=0)
    return max(0, logged - ((ledger.fact(START_COMMITS) or 0) if ledger is not None else 0))


def _line(commits: int, starts: Iterable[tuple[JobKey, int, Attempt]], head: JsonObject = _NO_HEAD) -> bytes:
    line = {
        "commits": commits,
        "starts": [
            (
                key,
                each.attempt_no,
                each.round,
                each.mark,
                each.intended_at,
                each.platform_time,
                each.not_before,
                each.reserved_usd,
                line_no,
            )
            for key, line_no, each in starts
        ],
    }
    return orjson.dumps(head | line, option=orjson.OPT_APPEND_NEWLINE)


def _parsed(line: Any) -> StartLine:
    return StartLine(
        commits=int(line["commits"]),
        starts=[_start(*each) for each in line["starts"]],
        facts=line.get("facts"),
        records_bytes=line.get("records_bytes", 0),
    )


def _start(
    key: str,
    attempt_no: int,
    round: int,  # noqa: A002 - the ledger's own word
    mark: str,
    intended_at: str,
    platform_time: str | None,
    not_before: str | None,
    reserved_usd: float | None,
    line_no: int,
) -> NotedStart:
    attempt = Attempt(
        attempt_no=attempt_no,
        round=round,
        mark=Mark(mark),
        state=AttemptState.INTENDED,
        intended_at=datetime.fromisoformat(intended_at),
        platform_time=None if platform_time is None else datetime.fromisoformat(platform_time),
        not_before=None if not_before is None else datetime.fromisoformat(not_before),
        reserved_usd=reserved_usd,
    )
    return NotedStart(key=JobKey(key), attempt=attempt, line=line_no)
