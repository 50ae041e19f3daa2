"""The rules by which lines of the job file are admitted, the same for every ledger."""

from collections.abc import Callable, Collection, Sequence

from batchrun.jobs.job_key import key_conflict
from batchrun.ledger.facts import DUPLICATES, READ_TO, Facts
from batchrun.ledger.protocol import Admission, Duplicate, Known, OpenJob, ReadTo
from batchrun.model import BadLine, Job, JobId, Outcome, Problem, Record

#: Gives the job that has a line's key that line and its content. Returns the job and the outcome that it had; None: it
#: is under way, or was when the line was first read. Jobs of the ids in the second argument are not, if they have no
#: attempt; None: nor is any other job without one.
Replace = Callable[[Job, Collection[JobId] | None], tuple[OpenJob, Outcome | None] | None]


def admit_lines(
    entries: Sequence[Job | BadLine],
    read_to: ReadTo,
    facts: Facts,
    claim: Callable[[Job], OpenJob | Known],
    replace: Replace,
    settle_bad_line: Callable[[BadLine, Record], bool],
    note_duplicate: Callable[[Job], bool],
    held: Collection[JobId] | None,
) -> Admission:
    """Do what `Ledger.admit` promises; with `held` None, no job is about to be started.

    `claim` notes a new job, or returns the job that has its key. `settle_bad_line` notes a bad line and writes its
    record; `note_duplicate` notes a line whose job is that of another line. Both return False if the line was noted
    before.
    """
    admission = Admission()
    for entry in entries:
        bad_line = (
            _admit_job(entry, claim, replace, admission, note_duplicate, held) if isinstance(entry, Job) else entry
        )
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
    job: Job,
    claim: Callable[[Job], OpenJob | Known],
    replace: Replace,
    admission: Admission,
    note_duplicate: Callable[[Job], bool],
    held: Collection[JobId] | None,
) -> BadLine | None:
    """Add a job to an admission; return the bad line that it makes instead."""
    noted, line = claim(job), job.position.line
    if isinstance(noted, OpenJob):
        admission.jobs.append((job, noted))
    elif noted.is_same_line:
        return None if noted.is_same_content else _conflict(job, noted)
    elif noted.is_same_content or (noted.replaces and line < noted.line):
        if note_duplicate(job):
            admission.duplicates.append(Duplicate(line=line, key=job.key, repeats=noted.line))
    elif not job.replaces or line < noted.line:
        return _conflict(job, noted)
    elif (replaced := replace(job, _unstarted(admission, held))) is None:
        reason = f"key {job.key!r}: the job of line {noted.line} is under way; append this line again once it has ended"
        return _bad_line(job, reason)
    else:
        open_job, outcome = replaced
        admission.jobs = [each for each in admission.jobs if each[1].id != open_job.id] + [(job, open_job)]
        admission.reopened += [] if outcome is None else [outcome]
        admission.duplicates.append(Duplicate(line=noted.line, key=job.key, repeats=line))
    return None


def _unstarted(admission: Admission, held: Collection[JobId] | None) -> Collection[JobId] | None:
    """Return the jobs that nothing starts before the admission is committed; None: all of them."""
    return None if held is None else {*held, *(open_job.id for _, open_job in admission.jobs)}


def _conflict(job: Job, known: Known) -> BadLine:
    reason = (
        key_conflict(job.key, known.line)
        if not known.is_same_line
        else f"key {job.key!r}: this line was admitted with other content; put it back, or give it another @key"
    )
    return _bad_line(job, reason)


def _bad_line(job: Job, reason: str) -> BadLine:
    return BadLine(position=job.position, reason=reason, content=job.body.decode("utf-8", "replace"))
