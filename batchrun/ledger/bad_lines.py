"""Bad lines, as every ledger settles them."""

from batchrun.ledger.protocol import Known
from batchrun.model import BadLine, Job, Outcome, Problem, Record

#: Length of the line in a report of a conflict, in characters: enough to recognise it.
MAX_CONTENT_CHARS = 10_000


def conflict(job: Job, known: Known) -> BadLine:
    """Return the bad line that a job makes whose key the ledger has with other content."""
    reason = (
        f"key {job.key!r} stands on line {known.line} with other content; give this line another @key"
        if not known.is_same_line
        else f"key {job.key!r}: this line was admitted with other content; put it back, or give it another @key"
    )
    content = job.body.decode("utf-8", "replace")[:MAX_CONTENT_CHARS]
    return BadLine(position=job.position, reason=reason, content=content)


def record_of(bad_line: BadLine) -> Record:
    """Return the record of a bad line, which is settled with its admission."""
    problem = Problem(type="bad-line", message=bad_line.reason)
    return Record(key=None, line=bad_line.position.line, outcome=Outcome.INVALID, error=problem)
