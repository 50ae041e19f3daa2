"""How long an attempt has lasted, judged by the clock that stamps Runs."""

from datetime import UTC, datetime

from batchrun.engine.ports import RunsClock
from batchrun.model import Attempt


def elapsed_s(attempt: Attempt, clock: RunsClock) -> float:
    """Return for how many seconds at least an attempt has lasted: nothing is aborted for a clock that is wrong."""
    if clock.is_measured and attempt.started_at is not None:
        elapsed = clock.now.earliest - attempt.started_at
    else:
        # Each difference is by one clock alone; one of them may have been set since.
        elapsed = datetime.now(UTC) - attempt.intended_at
        if attempt.platform_time is not None and clock.date_now is not None:
            elapsed = min(elapsed, clock.date_now - attempt.platform_time)
    return max(0.0, elapsed.total_seconds())
