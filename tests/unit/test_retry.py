"""Retries row by row: cause, attempts so far, what follows."""

from datetime import UTC, datetime

import pytest

from batchrun.config.retry_settings import RetryConfig, retry_policy
from batchrun.model import Attempt, AttemptState, Cause, Mark, Outcome, RunId, RunOptions
from batchrun.policy.retry import Backoff, Escalation, RetryPolicy, RetryRule, cause_of

AT = datetime(2026, 1, 2, tzinfo=UTC)


def attempts(*causes: Cause | None, memory_mb: int | None = 1024, timeout_s: int | None = 60) -> list[Attempt]:
    """Return ended attempts, one per cause; None started no Run."""
    return [
        Attempt(
            attempt_no=number,
            mark=Mark(f"m{number}"),
            state=AttemptState.ENDED,
            run_id=RunId(f"r{number}") if cause is not None else None,
            cause=cause,
            memory_mb=memory_mb,
            timeout_s=timeout_s,
            intended_at=AT,
        )
        for number, cause in enumerate(causes, 1)
    ]


@pytest.mark.parametrize(
    ("outcome", "exit_code", "message", "cause"),
    [
        (Outcome.SUCCEEDED, 0, None, None),
        (Outcome.SUCCEEDED, 137, "out of memory", None),
        (Outcome.FAILED, 1, "403 blocked", Cause.FAILED),
        (Outcome.FAILED, None, None, Cause.FAILED),
        (Outcome.FAILED, 137, None, Cause.OUT_OF_MEMORY),
        (Outcome.FAILED, 1, "The Actor ran out of Memory", Cause.OUT_OF_MEMORY),
        (Outcome.TIMED_OUT, 137, "memory", Cause.TIMED_OUT),
        (Outcome.ABORTED, None, None, Cause.ABORTED),
    ],
)
def test_the_cause_is_read_from_status_exit_code_and_message(
    outcome: Outcome, exit_code: int | None, message: str | None, cause: Cause | None
) -> None:
    """Lack of memory shows as exit code 137 or in the status message, of failed Runs only."""
    assert cause_of(outcome, exit_code, message) is cause


FAILED, OOM, TIMED_OUT = Cause.FAILED, Cause.OUT_OF_MEMORY, Cause.TIMED_OUT


@pytest.mark.parametrize(
    ("config", "made", "wait_s"),
    [
        # The default: one more attempt for what failed, nothing else.
        ({}, attempts(FAILED), 1.0),
        ({}, attempts(FAILED, FAILED), None),
        ({}, attempts(OOM), 1.0),
        ({}, attempts(TIMED_OUT), None),
        ({}, attempts(Cause.ABORTED), None),
        ({}, attempts(Cause.LOST), None),
        ({}, attempts(Cause.EMPTY), None),
        # A start that was lost is no Run, and counts for nothing.
        ({}, attempts(None, FAILED), 1.0),
        ({"on": []}, attempts(FAILED), None),
        ({"on": []}, attempts(OOM), None),
        ({"on": ["empty", "lost"]}, attempts(Cause.EMPTY), 1.0),
        ({"on": ["empty", "lost"]}, attempts(Cause.LOST), 1.0),
        # A table of its own makes a cause count, on its own terms.
        ({"on": [], "timed_out": {}}, attempts(TIMED_OUT), 1.0),
        ({"timed_out": {"max_attempts": 3, "backoff_s": 7.0}}, attempts(TIMED_OUT, TIMED_OUT), 14.0),
        ({"timed_out": {"max_attempts": 3}}, attempts(TIMED_OUT, FAILED), None),
        ({"timed_out": {"max_attempts": 3}}, attempts(FAILED, TIMED_OUT), 1.0),
        ({"empty": {"max_attempts": 5, "backoff_s": 4.0, "max_backoff_s": 6.0}}, attempts(*[Cause.EMPTY] * 4), 3.0),
        # Waits double for the same cause only, up to the cap.
        ({"max_attempts": 9, "max_backoff_s": 10.0}, attempts(*[FAILED] * 3), 4.0),
        ({"max_attempts": 9, "max_backoff_s": 10.0}, attempts(*[FAILED] * 8), 5.0),
        ({"max_attempts": 9}, attempts(FAILED, FAILED, OOM), 1.0),
        # At the ceiling of memory the same again would end the same.
        ({"max_attempts": 9}, attempts(OOM, memory_mb=4096), 1.0),
        ({"max_attempts": 9}, attempts(OOM, memory_mb=8192), None),
        ({"max_attempts": 9, "out_of_memory": {"memory_factor": 1}}, attempts(OOM, memory_mb=32768), 1.0),
        ({"max_attempts": 9}, attempts(OOM, memory_mb=None), 1.0),
    ],
)
def test_what_follows_an_attempt(config: dict[str, object], made: list[Attempt], wait_s: float | None) -> None:
    """Each row: the configuration, the attempts made, and the least wait before the next; None is final."""
    policy = retry_policy(RetryConfig.model_validate(config))
    assert policy.wait_before_next(made, lambda: 0.0) == wait_s


@pytest.mark.parametrize(
    ("config", "made", "memory_mb", "timeout_s"),
    [
        ({}, [], None, None),
        ({}, attempts(FAILED), None, None),
        ({}, attempts(OOM), 2048, None),
        ({}, attempts(OOM, memory_mb=8192), 8192, None),
        # What was raised stays raised, whatever came after.
        ({}, attempts(OOM) + attempts(FAILED, memory_mb=2048), 2048, None),
        ({"out_of_memory": {"memory_factor": 4, "memory_ceiling_mb": 2048}}, attempts(OOM), 2048, None),
        ({"timed_out": {}}, attempts(TIMED_OUT), None, None),
        ({"timed_out": {"timeout_factor": 1.5}}, attempts(TIMED_OUT, timeout_s=61), None, 92),
        ({"timed_out": {"timeout_factor": 2.0, "timeout_ceiling_s": 100}}, attempts(TIMED_OUT), None, 100),
        ({"timed_out": {"timeout_factor": 2.0, "timeout_ceiling_s": 30}}, attempts(TIMED_OUT), None, 60),
        # 0 is no limit: there is nothing to raise.
        ({"timed_out": {"timeout_factor": 2.0}}, attempts(TIMED_OUT, timeout_s=0), None, None),
        ({"timed_out": {"timeout_factor": 2.0}}, attempts(TIMED_OUT, timeout_s=None), None, None),
        ({"timed_out": {"timeout_factor": 2.0}}, attempts(TIMED_OUT, OOM), 2048, 120),
    ],
)
def test_a_retry_has_more_of_what_was_short(
    config: dict[str, object], made: list[Attempt], memory_mb: int | None, timeout_s: int | None
) -> None:
    """Each row: the configuration, the attempts made, and the options that the next Run overrides."""
    escalation = retry_policy(RetryConfig.model_validate(config)).escalation
    assert escalation.next_options(made) == RunOptions(memory_mb=memory_mb, timeout_s=timeout_s)


def test_a_success_is_not_retried() -> None:
    """Not even if every cause is retried."""
    rules = {cause: RetryRule(max_attempts=9, backoff=Backoff(first_s=1, max_s=1)) for cause in Cause}
    succeeded = attempts(FAILED)[0]
    policy = RetryPolicy(rules=rules, escalation=Escalation())
    assert policy.wait_before_next([Attempt(attempt_no=1, mark=Mark("m"), state=succeeded.state, run_id=RunId("r"),
                                            intended_at=AT)], lambda: 0.0) is None  # fmt: skip


def test_waits_have_jitter_at_the_cap() -> None:
    """After any number of tries, two waits differ."""
    backoff = Backoff(first_s=1, max_s=10)
    assert (backoff.wait_s(500, 0.0), backoff.wait_s(500, 0.5)) == (5.0, 7.5)
