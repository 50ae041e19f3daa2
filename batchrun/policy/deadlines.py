"""The deadlines of jobs and Runs, as `engine/follow/deadline_watch.py` enforces them.

The time limit of a whole batch, `max_batch_s`, is in `batch/time_limit.py`.
"""

from batchrun.runtime.fast_dataclasses import dataclass

#: Default of `deadlines.overdue_grace_s`, in seconds.
OVERDUE_GRACE_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Limits in seconds; None: no limit. The keys of `[deadlines]`, as the engine takes them."""

    max_job_s: float | None = None
    overdue_grace_s: float = OVERDUE_GRACE_S
    aborts_overdue: bool = False
    quiet_s: float | None = None
    aborts_quiet: bool = False
