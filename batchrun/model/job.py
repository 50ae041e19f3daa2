"""A line of the job file: a job, or a bad line, and where it stands."""

from typing import Any, NewType

from batchrun.model.run import RunOptions
from batchrun.runtime.fast_dataclasses import dataclass

JobKey = NewType("JobKey", str)
#: The job's row in the ledger; counts up in order of admission.
JobId = NewType("JobId", int)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where in the job file a job or a bad line stands."""

    #: Line number (element number in a JSON array), from 1.
    line: int
    #: Which combination of the matrix this is, from 0.
    variant: int = 0
    #: Bytes from the start of the (uncompressed) file.
    offset: int
    #: Bytes, line end included.
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One line of the job file: a job key and the overrides for the task's input."""

    key: JobKey
    #: First 16 bytes of SHA-256 over the canonical JSON of override and own options.
    digest: bytes
    position: Position
    #: The overrides as the JSON that is posted to start a Run.
    body: bytes
    options: RunOptions | None = None
    #: Higher goes first, within the source's look-ahead.
    priority: int = 0
    group: str | None = None
    #: Any JSON, copied to the record.
    meta: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line of the job file that is no job."""

    position: Position
    #: What is wrong, and what to do.
    reason: str
    #: The line as it stands in the file; undecodable bytes are replaced, very long lines cut.
    content: str
