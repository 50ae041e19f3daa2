"""How long is too long."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """What is too long, in seconds; None is never."""

    max_job_s: float | None = None
    overdue_grace_s: float = 300.0
    aborts_overdue: bool = False
    quiet_s: float | None = None
    aborts_quiet: bool = False
