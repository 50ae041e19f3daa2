"""What happened so far -> again in n seconds and with what, or never."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from batchrun.model import Attempt, Cause, Outcome, RunOptions, RunStatus

OUTCOME_OF_STATUS = {
    RunStatus.SUCCEEDED: Outcome.SUCCEEDED,
    RunStatus.FAILED: Outcome.FAILED,
    RunStatus.TIMED_OUT: Outcome.TIMED_OUT,
    RunStatus.ABORTED: Outcome.ABORTED,
}
#: Exit code of a process that was killed: on the platform, for want of memory.
KILLED = 137
_SAYS_MEMORY = re.compile(r"out of memory|memory limit|not enough memory|insufficient memory", re.IGNORECASE)


def cause_of(outcome: Outcome, exit_code: int | None, status_message: str | None) -> Cause | None:
    """Return why a Run was no success, from its outcome, exit code and status message; None when it was one."""
    if outcome is Outcome.SUCCEEDED:
        return None
    is_memory = exit_code == KILLED or _SAYS_MEMORY.search(status_message or "") is not None
    return Cause.OUT_OF_MEMORY if outcome is Outcome.FAILED and is_memory else Cause(outcome)


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
class RetryRule:
    """What follows an attempt that ended for one cause."""

    #: Another attempt is made while the job has made fewer, whatever the others ended for.
    max_attempts: int
    backoff: Backoff


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """What a Run is given more of after it had too little; a factor of 1 gives no more."""

    memory_factor: int = 1
    memory_ceiling_mb: int = 32768
    timeout_factor: float = 1.0
    #: None: no ceiling.
    timeout_ceiling_s: int | None = None

    def next_options(self, attempts: Sequence[Attempt]) -> RunOptions:
        """Return what the next attempt's Run is given instead of what its job asks for; None leaves that."""
        memory_mb, timeout_s = None, None
        for attempt in attempts:
            if attempt.cause is Cause.OUT_OF_MEMORY and attempt.memory_mb:
                memory_mb = self._more_memory(attempt.memory_mb)
            elif attempt.cause is Cause.TIMED_OUT and attempt.timeout_s:
                timeout_s = self._more_time(attempt.timeout_s)
        return RunOptions(memory_mb=memory_mb, timeout_s=timeout_s)

    def had_the_most_memory(self, attempt: Attempt) -> bool:
        """Whether an attempt ran out of all the memory that there is to give: the same again would end the same."""
        is_climbing = self.memory_factor > 1 and attempt.cause is Cause.OUT_OF_MEMORY
        return is_climbing and attempt.memory_mb is not None and attempt.memory_mb >= self.memory_ceiling_mb

    def _more_memory(self, memory_mb: int) -> int | None:
        return min(memory_mb * self.memory_factor, self.memory_ceiling_mb) if self.memory_factor > 1 else None

    def _more_time(self, timeout_s: int) -> int | None:
        if self.timeout_factor <= 1:
            return None
        more_s = math.ceil(timeout_s * self.timeout_factor)
        return more_s if self.timeout_ceiling_s is None else max(timeout_s, min(more_s, self.timeout_ceiling_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Which attempts are followed by another, how often, after which wait, and with what."""

    rules: Mapping[Cause, RetryRule]
    escalation: Escalation

    def wait_before_next(self, attempts: Sequence[Attempt], random: Callable[[], float]) -> float | None:
        """Return the seconds until the next attempt, or None when the last one's end is final.

        Args:
            attempts: the job's in this round, in order; the last has ended.
            random: gives a number in [0, 1).
        """
        last = attempts[-1]
        rule = self.rules.get(last.cause) if last.cause is not None else None
        runs = [attempt for attempt in attempts if attempt.run_id is not None]
        if rule is None or len(runs) >= rule.max_attempts or self.escalation.had_the_most_memory(last):
            return None
        alike = sum(attempt.cause is last.cause for attempt in runs)
        return rule.backoff.wait_s(max(1, alike), random())
