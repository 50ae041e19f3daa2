"""A line of the job file: a job or a bad line, and its position."""

from typing import Any, NewType

from batchrun.model.exact_json import write_json
from batchrun.model.run import RunOptions
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.free_memory import parsed_bytes

#: Bytes of a line from which on it is reckoned how much memory its `meta` takes.
_LARGE_LINE_BYTES = 4096

JobKey = NewType("JobKey", str)
#: The job's row in the ledger; ids grow in the order of admission.
JobId = NewType("JobId", int)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a job or a bad line is in the job file."""

    #: Line number (element number in a JSON array), from 1.
    line: int
    #: Number of the combination of the matrix, from 0.
    variant: int = 0
    #: Bytes from the start of the (uncompressed) file.
    offset: int
    #: Length in bytes, line end included.
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One line of the job file: a job key and the overrides for the task's input."""

    key: JobKey
    #: First 16 bytes of SHA-256 over the canonical JSON of the override and the line's `@options`.
    digest: bytes
    position: Position
    #: The overrides as the JSON that is posted to start a Run.
    body: bytes
    options: RunOptions | None = None
    #: Jobs with a higher one go first, within the source's look-ahead.
    priority: int = 0
    #: True if the line mends an earlier one that has its key.
    replaces: bool = False
    group: str | None = None
    #: Any JSON, copied to the record.
    meta: Any = None

    @property
    def memory_bytes(self) -> int:
        """About how many bytes of memory it takes: `meta` stays parsed. That of a short line is not counted."""
        is_short = self.meta is None or self.position.length < _LARGE_LINE_BYTES
        return len(self.body) + (0 if is_short else parsed_bytes(write_json(self.meta)))


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line of the job file that cannot be read as a job."""

    position: Position
    #: What is wrong, and what to do.
    reason: str
    #: The line's text in the file; undecodable bytes are replaced, very long lines cut.
    content: str
