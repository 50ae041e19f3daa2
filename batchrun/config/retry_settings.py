"""`[retry]`, and the policy that is built of it: which Runs are retried, when, and with what options."""

from typing import Annotated, Literal

from pydantic import Field

from batchrun.config.section import Memory, PositiveInt, Seconds, Section
from batchrun.model import Cause
from batchrun.policy.retry import (
    Backoff,
    Escalation,
    RetryPolicy,
    RetryRule,
)

#: Outcomes that may be retried; a rejected or invalid job would be so again.
_Retryable = Literal["failed", "timed_out", "aborted", "lost", "empty", "malformed"]


class RetryRuleConfig(Section):
    """How an attempt that ended for one cause is retried; a missing key is taken from [retry]."""

    max_attempts: PositiveInt | None = None
    """Attempts per job in all, the first included."""
    backoff_s: Seconds | None = None
    """Seconds before the second attempt; doubles with each further one."""
    max_backoff_s: Seconds | None = None
    """Longest wait between attempts, in seconds."""


class OutOfMemoryConfig(RetryRuleConfig):
    """How a Run is retried that failed for lack of memory."""

    memory_factor: Literal[1, 2, 4, 8] = 2
    """Factor on the memory of the Run that failed."""
    memory_ceiling_mb: Memory = 8192
    """Most memory in megabytes; a Run that had as much is not retried."""


class TimedOutConfig(RetryRuleConfig):
    """How a Run is retried that timed out."""

    timeout_factor: Annotated[float, Field(ge=1)] = 1.0
    """Factor on the time limit of the Run that timed out."""
    timeout_ceiling_s: PositiveInt | None = None
    """Longest time limit in seconds."""


class RetryConfig(Section):
    """Which Runs are retried, and with what options."""

    max_attempts: PositiveInt = 2
    """Attempts per job in all, the first included."""
    on: list[_Retryable] = ["failed"]
    """Outcomes that are retried; so is every outcome with a table below."""
    backoff_s: Seconds = 1.0
    """Seconds before the second attempt; doubles with each further one."""
    max_backoff_s: Seconds = 60.0
    """Longest wait between attempts, in seconds."""
    failed: RetryRuleConfig | None = None
    """After Runs that failed."""
    out_of_memory: OutOfMemoryConfig | None = None
    """After Runs that failed for lack of memory; default: as failed, with memory doubled up to 8192 MB."""
    timed_out: TimedOutConfig | None = None
    """After Runs that timed out."""
    aborted: RetryRuleConfig | None = None
    """After Runs that were aborted by others."""
    lost: RetryRuleConfig | None = None
    """After Runs that the platform no longer knows."""
    empty: RetryRuleConfig | None = None
    """After Runs with fewer items than expected."""
    malformed: RetryRuleConfig | None = None
    """After Runs with items that break the expected schema."""


def retry_policy(retry: RetryConfig, max_memory_mb: int | None = None) -> RetryPolicy:
    """Return the retry policy; `max_memory_mb` is the most memory that a Run can have, None if it is unknown."""
    tables: dict[Cause, RetryRuleConfig | None] = {cause: getattr(retry, cause.value) for cause in Cause}
    rules = {Cause(outcome): _rule(retry, RetryRuleConfig()) for outcome in retry.on}
    rules |= {cause: _rule(retry, table) for cause, table in tables.items() if table is not None}
    if Cause.OUT_OF_MEMORY not in rules and Cause.FAILED in rules:
        rules[Cause.OUT_OF_MEMORY] = rules[Cause.FAILED]
    memory, time = retry.out_of_memory or OutOfMemoryConfig(), retry.timed_out or TimedOutConfig()
    escalation = Escalation(
        memory_factor=memory.memory_factor,
        memory_ceiling_mb=_ceiling_mb(memory.memory_ceiling_mb, max_memory_mb),
        timeout_factor=time.timeout_factor,
        timeout_ceiling_s=time.timeout_ceiling_s,
    )
    return RetryPolicy(rules=rules, escalation=escalation)


def _ceiling_mb(wanted_mb: int, most_mb: int | None) -> int:
    """Return the largest power of two that is at most both."""
    return wanted_mb if most_mb is None or most_mb >= wanted_mb else 1 << (max(128, most_mb).bit_length() - 1)


def _rule(retry: RetryConfig, table: RetryRuleConfig) -> RetryRule:
    first_s = retry.backoff_s if table.backoff_s is None else table.backoff_s
    max_s = retry.max_backoff_s if table.max_backoff_s is None else table.max_backoff_s
    return RetryRule(
        max_attempts=retry.max_attempts if table.max_attempts is None else table.max_attempts,
        backoff=Backoff(first_s=first_s, max_s=max_s),
    )
