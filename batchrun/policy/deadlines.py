"""The deadlines of jobs and Runs, as `engine/follow/deadline_watch.py` enforces them.

The time limit of a whole batch, `max_batch_s`, is in `batch/time_limit.py`.
"""

import math

from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Limits in seconds; None or infinite: no limit. The keys of `[deadlines]`, as the engine takes them."""

    max_job_s: float | None = None
    overdue_grace_s: float = math.inf
    aborts_overdue: bool = False
    quiet_s: float | None = None
    aborts_quiet: bool = False
