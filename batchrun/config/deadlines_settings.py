"""`[deadlines]` of jobs, of the batch and of Runs, and the policy that is built of it."""

from typing import Annotated, Literal

from pydantic import Field

from batchrun.config.section import Seconds, Section
from batchrun.policy.deadlines import Deadlines


class DeadlinesConfig(Section):
    """Deadlines of jobs, of the batch and of Runs, and what happens then."""

    max_job_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds from a job's first start to its end; then its live Run is aborted, and no other is started."""
    max_batch_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which this process starts no more Runs; the same command resumes the batch."""
    overdue_grace_s: Seconds = 300.0
    """Seconds past its time limit after which a live Run is overdue."""
    on_overdue: Literal["report", "abort"] = "report"
    """What happens to an overdue Run."""
    quiet_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds without a new status message, item or log line after which a Run is quiet."""
    on_quiet: Literal["report", "abort"] = "report"
    """What happens to a quiet Run."""


def deadlines(config: DeadlinesConfig) -> Deadlines:
    """Return the deadlines of jobs and Runs."""
    return Deadlines(
        max_job_s=config.max_job_s,
        overdue_grace_s=config.overdue_grace_s,
        aborts_overdue=config.on_overdue == "abort",
        quiet_s=config.quiet_s,
        aborts_quiet=config.on_quiet == "abort",
    )
