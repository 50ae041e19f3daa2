"""Whether, when and with what options a job is retried, from the attempts so far.

The rules come from `config/retry_settings.py`.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence

from batchrun.model import Attempt, Cause, Outcome, RunOptions, RunStatus
from batchrun.runtime.fast_dataclasses import dataclass

OUTCOME_OF_STATUS = {
    RunStatus.SUCCEEDED: Outcome.SUCCEEDED,
    RunStatus.FAILED: Outcome.FAILED,
    RunStatus.TIMED_OUT: Outcome.TIMED_OUT,
    RunStatus.ABORTED: Outcome.ABORTED,
}
#: Exit code of a process killed by SIGKILL; on the platform, for lack of memory.
KILLED = 137
_SAYS_MEMORY = re.compile(r"out of memory|memory limit|not enough memory|insufficient memory", re.IGNORECASE)


def cause_of(outcome: Outcome, exit_code: int | None, status_message: str | None) -> Cause | None:
    """Return why a Run was no success, from its outcome, exit code and status message; None for a success."""
    if outcome is Outcome.SUCCEEDED:
        return None
    is_memory = exit_code == KILLED or _SAYS_MEMORY.search(status_message or "") is not None
    return Cause.OUT_OF_MEMORY if outcome is Outcome.FAILED and is_memory else Cause(outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """A wait that doubles up to a cap, with jitter so that many waits do not end at once."""

    first_s: float
    max_s: float

    def wait_s(self, n: int, uniform: float) -> float:
        """Return the wait before try `n` + 1 (n from 1), for a random number in [0, 1).

        The jitter covers the upper half of the wait d, at the cap too: uniform(d/2, d). The API's documentation advises
        uniform(d, 2d), which has the same shape.
        """
        # Bounded to 2**60: a larger power overflows a float, long after the cap is reached.
        ceiling_s = min(self.max_s, 2.0 * self.first_s * float(2 ** min(n - 1, 60)))
        return ceiling_s * (0.5 + 0.5 * uniform)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """How often and after which wait an attempt is retried that ended for one cause."""

    #: Attempts of the job in all, whatever their causes: with fewer, another one is made.
    max_attempts: int
    backoff: Backoff


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """More memory or time for the retry of a Run that had too little; a factor of 1 gives no more."""

    memory_factor: int = 1
    memory_ceiling_mb: int = 1 << 15  # the platform gives no more
    timeout_factor: float = 1.0
    #: None: no ceiling.
    timeout_ceiling_s: int | None = None

    def next_options(self, attempts: Sequence[Attempt]) -> RunOptions:
        """Return the options that the next attempt overrides; None leaves an option as the job has it."""
        memory_mb, timeout_s = None, None
        for attempt in attempts:
            if attempt.cause is Cause.OUT_OF_MEMORY and attempt.memory_mb:
                memory_mb = self._more_memory(attempt.memory_mb)
            elif attempt.cause is Cause.TIMED_OUT and attempt.timeout_s:
                timeout_s = self._more_time(attempt.timeout_s)
        return RunOptions(memory_mb=memory_mb, timeout_s=timeout_s)

    def had_the_most_memory(self, attempt: Attempt) -> bool:
        """True if an attempt failed for lack of memory with all the memory that a retry could give."""
        is_escalating = self.memory_factor > 1 and attempt.cause is Cause.OUT_OF_MEMORY
        return is_escalating and attempt.memory_mb is not None and attempt.memory_mb >= self.memory_ceiling_mb

    def _more_memory(self, memory_mb: int) -> int | None:
        return min(memory_mb * self.memory_factor, self.memory_ceiling_mb) if self.memory_factor > 1 else None

    def _more_time(self, timeout_s: int) -> int | None:
        if self.timeout_factor <= 1:
            return None
        more_s = math.ceil(timeout_s * self.timeout_factor)
        return more_s if self.timeout_ceiling_s is None else max(timeout_s, min(more_s, self.timeout_ceiling_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Which attempts are retried, how often, after which wait, and with what options."""

    rules: Mapping[Cause, RetryRule]
    escalation: Escalation

    def wait_before_next(self, attempts: Sequence[Attempt], random: Callable[[], float]) -> float | None:
        """Return the seconds until the attempt after those of the job's round, the last of which has ended.

        None: there is no other attempt. `random` returns a number in [0, 1).
        """
        last = attempts[-1]
        rule = self.rules.get(last.cause) if last.cause is not None else None
        runs = [attempt for attempt in attempts if attempt.run_id is not None]
        if rule is None or len(runs) >= rule.max_attempts or self.escalation.had_the_most_memory(last):
            return None
        alike = sum(attempt.cause is last.cause for attempt in runs)
        return rule.backoff.wait_s(max(1, alike), random())
