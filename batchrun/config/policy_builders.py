"""Builds policies from sections of the configuration."""

from codecs import BOM_UTF8
from collections.abc import Mapping

from batchrun.config.batch_settings import (
    BreakerConfig,
    DeadlinesConfig,
    GroupConfig,
    OutOfMemoryConfig,
    OutputConfig,
    RetryConfig,
    RetryRuleConfig,
    TimedOutConfig,
)
from batchrun.config.text_bounds import parse_json, read_bounded
from batchrun.errors import ConfigError
from batchrun.model import Cause
from batchrun.policy.breaker import BreakerLimits
from batchrun.policy.deadlines import Deadlines
from batchrun.policy.expectation import Expectation
from batchrun.policy.retry import Backoff, Escalation, RetryPolicy, RetryRule


def deadlines(config: DeadlinesConfig) -> Deadlines:
    """Return the deadlines of jobs and Runs."""
    return Deadlines(
        max_job_s=config.max_job_s,
        overdue_grace_s=config.overdue_grace_s,
        aborts_overdue=config.on_overdue == "abort",
        quiet_s=config.quiet_s,
        aborts_quiet=config.on_quiet == "abort",
    )


def breaker_limits(config: BreakerConfig) -> BreakerLimits:
    """Return what trips the breaker."""
    max_failed = None if config.max_failed == "off" else config.max_failed
    empty_in_a_row = None if config.empty_in_a_row == "off" else config.empty_in_a_row
    return BreakerLimits(
        max_failed=max_failed,
        is_fraction=isinstance(max_failed, float),
        window=config.window,
        empty_in_a_row=empty_in_a_row,
    )


def expectation(output: OutputConfig) -> Expectation | None:
    """Return what a succeeded Run must have in its dataset; None if nothing is expected.

    Raises:
        ConfigError: the schema cannot be read, or is not a JSON Schema that can be used.
    """
    if output.expect_items_min is None and output.expect_item_schema is None:
        return None
    file = output.expect_item_schema
    try:
        schema = None if file is None else parse_json(read_bounded(file).removeprefix(BOM_UTF8))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", key="output.expect_item_schema", file=file) from error
    except ValueError as error:
        raise ConfigError(str(error), key="output.expect_item_schema", file=file) from error
    try:
        return Expectation(items_min=output.expect_items_min, schema=schema)
    except ValueError as error:
        raise ConfigError(f"cannot be used: {error}", key="output.expect_item_schema", file=file) from error


def group_limits(groups: Mapping[str, GroupConfig]) -> dict[str, int]:
    """Return the max live Runs of each group that has a limit."""
    limits = {name: group.max_concurrent_runs for name, group in groups.items()}
    return {name: limit for name, limit in limits.items() if limit is not None}


def group_weights(groups: Mapping[str, GroupConfig]) -> dict[str | None, float]:
    """Return the weights that were set; the job file is read ahead for these groups alone."""
    return {name: group.weight for name, group in groups.items() if group.weight is not None}


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
