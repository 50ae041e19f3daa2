"""The causes of failures in lines, for `failures` of a directory and of a worker's batch."""

from collections.abc import Callable, Iterator
from pathlib import Path

from batchrun.maintenance.noted_config import why_unread
from batchrun.maintenance.retry_selection import CANNOT_BE_READ_AGAIN
from batchrun.model import RunId
from batchrun.report.failures_by_cause import cause_words
from batchrun.report.shown_failures import ShownFailure, ShownFailures
from batchrun.words.number_words import counted
from batchrun.words.terminal_text import last_lines, one_line

LOG_LINES = 5
LINE_CHARS = 200


def failure_lines(
    found: ShownFailures, *, retry: str, bad_lines: str, log_file: Callable[[RunId], object] | None = None
) -> Iterator[str]:
    """Yield the causes, an empty line after each, and what to do.

    Args:
        found: the causes.
        retry: the command that retries all.
        bad_lines: where the reasons of bad lines are.
        log_file: returns where a Run's log is; None: not on this machine.
    """
    if not found.jobs:
        yield f"No job has failed; {found.succeeded:,} have succeeded"
    for failure in found.failures:
        yield from _lines(failure, log_file)
        if found.can_retry:
            yield f"  retry  {retry} --failure {failure.id}"
        yield ""
    if found.other_causes:
        yield f"{counted(found.other_jobs, 'job')} of {counted(found.other_causes, 'other cause')}"
    if found.jobs:
        yield f"{found.jobs:,} in all: {retry if found.can_retry else CANNOT_BE_READ_AGAIN}"
    if found.bad_lines:
        yield f"{counted(found.bad_lines, 'bad line')}: {bad_lines}"


def unread_line(directory: Path) -> str | None:
    """Return why the job file that a directory names is not read for what failed jobs were sent; None: it is."""
    why = why_unread(directory)
    if why is None:
        return None
    return (
        f"What failed jobs were sent is not shown: {directory} {why}, so it could name any file of yours. If the batch"
        " is yours, run it here first, with your own file: `batchrun run BATCH.toml`"
    )


def _lines(failure: ShownFailure, log_file: Callable[[RunId], object] | None) -> Iterator[str]:
    sample = [f"line {failure.line}", f"key {one_line(failure.key, LINE_CHARS)}"]
    if failure.run_id is not None:
        sample.append(failure.run_url or f"Run {one_line(failure.run_id, LINE_CHARS)}")
    yield cause_words(failure)
    yield f"  e.g.   {', '.join(sample)}"
    if failure.override is not None:
        yield f"  sent   {one_line(failure.override, LINE_CHARS)}"
    if failure.log_tail is not None and failure.run_id is not None:
        shown = last_lines(failure.log_tail, LOG_LINES, LINE_CHARS) or ["(empty)"]
        yield from (f"  {'log' if number == 0 else '':<6} {line}" for number, line in enumerate(shown))
        if log_file is not None:
            yield f"  file   {log_file(failure.run_id)}"


def retry_lines(found: ShownFailures, open_jobs: int) -> Iterator[str]:
    """Yield what a retry would reopen, and what the batch resumes with besides."""
    yield f"{counted(found.jobs, 'job')} would be retried" + (":" if found.jobs else "")
    for failure in found.failures:
        yield f"  {cause_words(failure)}"
    if found.other_causes:
        yield f"  {found.other_jobs:,} with {counted(found.other_causes, 'other cause')}"
    if open_jobs:
        yield f"Then the batch resumes with {counted(open_jobs, 'open job')} and the unread part of the job file"
