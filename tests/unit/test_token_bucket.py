from hypothesis import given
from hypothesis import strategies as st

from batchrun.policy.token_bucket import BothBuckets, TokenBucket, Tokens


def reserve(bucket: Tokens, now: float, n: int) -> list[float]:
    """Take n tokens that are all asked for at one time; return their times."""
    times = []
    for _ in range(n):
        times.append(bucket.next_at(now))
        bucket.take(times[-1])
    return times


def test_tokens_come_at_the_rate():
    """Without a burst each token comes one interval after the one before it."""
    assert reserve(TokenBucket(rate_per_s=10), 5.0, 4) == [5.0, 5.1, 5.199999999999999, 5.299999999999999]


def test_a_pause_saves_up_no_more_than_the_burst():
    """After any pause exactly `burst` tokens are ready at once."""
    bucket = TokenBucket(rate_per_s=1, burst=3)
    reserve(bucket, 0.0, 3)
    assert reserve(bucket, 100.0, 5) == [100.0, 100.0, 100.0, 101.0, 102.0]


def test_a_closed_bucket_opens_without_a_burst():
    """Tokens after a close come one by one from the moment it opens."""
    bucket = TokenBucket(rate_per_s=1, burst=5)
    bucket.close(10.0)
    assert reserve(bucket, 0.0, 3) == [10.0, 11.0, 12.0]


def test_two_closed_buckets_open_without_a_burst():
    """However fast the shared bucket is, the batch's own one gives no burst after a close."""
    bucket = BothBuckets(TokenBucket(rate_per_s=1, burst=5), TokenBucket(rate_per_s=1000))
    bucket.close(10.0)
    assert reserve(bucket, 0.0, 3) == [10.0, 11.0, 12.0]


def test_a_token_is_taken_at_once_if_its_time_has_come():
    """And only then, be it for the rate or for a close; what is refused costs no token."""
    bucket = TokenBucket(rate_per_s=10, burst=2)
    assert [bucket.try_take(5.0) for _ in range(4)] == [True, True, False, False]
    assert [bucket.try_take(at) for at in (5.05, 5.11, 5.15)] == [False, True, False]
    bucket.close(7.0)
    bucket.change_rate(1000.0, 5.2)  # its burst would reach back before the bucket opens
    assert [bucket.try_take(6.99), bucket.try_take(7.0)] == [False, True]


def test_closing_for_less_changes_nothing():
    """The longest close holds."""
    bucket = TokenBucket(rate_per_s=1)
    bucket.close(10.0)
    bucket.close(5.0)
    assert bucket.closed_until == 10.0


@given(
    limit=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.floats(0, 2), st.integers(1, 50)), max_size=30),
)
def test_no_second_holds_more_than_the_limit(limit: int, steps: list[tuple[float, int]]):
    """Whatever is asked for when, no window of one second holds more tokens than the documented limit."""
    bucket = TokenBucket.below_limit(limit)
    now, times = 0.0, []
    for pause_s, n in steps:
        now += pause_s
        times += reserve(bucket, now, n)
    assert times == sorted(times)
    for first, at in enumerate(times):
        inside = sum(1 for later in times[first : first + limit + 2] if later < at + 1 - 1e-6)
        assert inside <= max(1, limit)
