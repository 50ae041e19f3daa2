"""The rules by which lines of the job file are admitted, the same for every ledger."""

from collections.abc import Callable, Sequence

from batchrun.ledger.facts import DUPLICATES, READ_TO, Facts
from batchrun.ledger.protocol import Admission, Duplicate, Known, OpenJob, ReadTo
from batchrun.model import BadLine, Job, Outcome, Problem, Record


def admit_lines(
    entries: Sequence[Job | BadLine],
    read_to: ReadTo,
    facts: Facts,
    claim: Callable[[Job], OpenJob | Known],
    settle_bad_line: Callable[[BadLine, Record], bool],
    note_duplicate: Callable[[Job], bool],
) -> Admission:
    """Do what `Ledger.admit` promises.

    `claim` notes a new job, or returns the job that has its key. `settle_bad_line` notes a bad line and writes its
    record; `note_duplicate` notes a line that repeats the job of another line. Both return False if the line was noted
    before.
    """
    admission = Admission()
    for entry in entries:
        bad_line = _admit_job(entry, claim(entry), admission, note_duplicate) if isinstance(entry, Job) else entry
        if bad_line is not None:
            problem = Problem(type="bad-line", message=bad_line.reason)
            record = Record(key=None, line=bad_line.position.line, outcome=Outcome.INVALID, error=problem)
            if settle_bad_line(bad_line, record):
                admission.invalid.append(record)
    facts.note_fact(READ_TO, read_to)
    if admission.duplicates:
        facts.note_fact(DUPLICATES, (facts.fact(DUPLICATES) or 0) + len(admission.duplicates))
    return admission


def _admit_job(
    job: Job, noted: OpenJob | Known, admission: Admission, note_duplicate: Callable[[Job], bool]
) -> BadLine | None:
    """Add a job to an admission; return the bad line that it makes instead, if its key has other content."""
    if isinstance(noted, OpenJob):
        admission.jobs.append((job, noted))
    elif not noted.is_same_content:
        return _conflict(job, noted)
    elif not noted.is_same_line and note_duplicate(job):
        admission.duplicates.append(Duplicate(line=job.position.line, key=job.key, repeats=noted.line))
    return None


def _conflict(job: Job, known: Known) -> BadLine:
    reason = (
        f"key {job.key!r} stands on line {known.line} with other content; give this line another @key"
        if not known.is_same_line
        else f"key {job.key!r}: this line was admitted with other content; put it back, or give it another @key"
    )
    return BadLine(position=job.position, reason=reason, content=job.body.decode("utf-8", "replace"))
