import pytest

from batchrun.model import Outcome
from batchrun.policy.retry import Backoff, RetryPolicy

POLICY = RetryPolicy(max_attempts=3, on=frozenset({Outcome.FAILED}), backoff=Backoff(first_s=1, max_s=10))


@pytest.mark.parametrize(
    ("outcome", "attempt_no", "wait_s"),
    [
        (Outcome.FAILED, 1, 1.0),
        (Outcome.FAILED, 2, 2.0),
        (Outcome.FAILED, 3, None),
        (Outcome.SUCCEEDED, 1, None),
        (Outcome.ABORTED, 1, None),
        (Outcome.TIMED_OUT, 1, None),
    ],
)
def test_the_policy_decides_by_outcome_and_attempt(outcome: Outcome, attempt_no: int, wait_s: float | None):
    """Only outcomes that are named get another attempt, and only so many."""
    assert POLICY.wait_before_next(outcome, attempt_no, lambda: 0.0) == wait_s


def test_waits_stay_spread_at_the_cap():
    """However long it has gone on, two who wait do not wait the same time."""
    backoff = Backoff(first_s=1, max_s=10)
    assert (backoff.wait_s(500, 0.0), backoff.wait_s(500, 0.5)) == (5.0, 7.5)
