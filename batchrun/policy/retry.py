"""What happened so far -> again in n seconds, or an Outcome."""

from collections.abc import Callable
from dataclasses import dataclass

from batchrun.model import Outcome, RunStatus

OUTCOME_OF_STATUS = {
    RunStatus.SUCCEEDED: Outcome.SUCCEEDED,
    RunStatus.FAILED: Outcome.FAILED,
    RunStatus.TIMED_OUT: Outcome.TIMED_OUT,
    RunStatus.ABORTED: Outcome.ABORTED,
}


#: What was refused before it began would be refused again.
FINAL = frozenset({Outcome.REJECTED, Outcome.INVALID})


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """A wait that doubles up to a cap, spread so that many who wait do not return at once."""

    first_s: float
    max_s: float

    def wait_s(self, n: int, uniform: float) -> float:
        """Return the wait before try `n` + 1 (n from 1), for a random number in [0, 1).

        The spread is the upper half of the wait, at the cap too: uniform(d/2, d). The API's own advice is
        uniform(d, 2d), the same shape.
        """
        # Beyond 2**60 a float would overflow long after the cap was reached.
        ceiling_s = min(self.max_s, 2.0 * self.first_s * float(2 ** min(n - 1, 60)))
        return ceiling_s * (0.5 + 0.5 * uniform)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Which Runs get another attempt, how often, and after which wait."""

    #: Attempts per job in all, the first included.
    max_attempts: int
    on: frozenset[Outcome]
    backoff: Backoff

    def wait_before_next(self, outcome: Outcome, attempt_no: int, random: Callable[[], float]) -> float | None:
        """Return the seconds until the next attempt, or None when `outcome` is final.

        Args:
            outcome: what attempt `attempt_no` (from 1) came to.
            attempt_no: attempts made so far.
            random: gives a number in [0, 1).
        """
        if outcome in FINAL or outcome not in self.on or attempt_no >= self.max_attempts:
            return None
        return self.backoff.wait_s(attempt_no, random())
