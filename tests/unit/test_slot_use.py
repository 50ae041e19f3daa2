import pytest

from batchrun.engine.limits.slot_use import Latencies, SlotUse


def test_use_is_what_was_live_of_what_might_have_been() -> None:
    """10 of 20 for 3 s, then 20 of 20 for 1 s."""
    use = SlotUse()
    use.note(5.0, live=10, limit=20, is_wanted=True)
    use.note(8.0, live=20, limit=20, is_wanted=True)
    use.note(9.0, live=0, limit=20, is_wanted=False)
    assert use.share == pytest.approx(50 / 80)


def test_time_without_work_does_not_count() -> None:
    """An idle hour between two busy seconds changes nothing."""
    use = SlotUse()
    use.note(0.0, live=2, limit=2, is_wanted=True)
    use.note(1.0, live=0, limit=2, is_wanted=False)
    use.note(3601.0, live=2, limit=2, is_wanted=True)
    use.note(3602.0, live=0, limit=2, is_wanted=False)
    assert use.share == 1.0


def test_more_live_than_allowed_is_not_more_than_all() -> None:
    """After a limit has shrunk, slots are used wholly, not twice."""
    use = SlotUse()
    use.note(0.0, live=20, limit=5, is_wanted=True)
    use.note(1.0, live=5, limit=5, is_wanted=True)
    assert use.share == 1.0


def test_before_anything_ran_there_is_no_share() -> None:
    """Nothing is not 0 %."""
    use = SlotUse()
    use.note(1.0, live=0, limit=5, is_wanted=False)
    assert (use.share, Latencies().quantile(0.5)) == (None, None)


def test_quantiles_are_right_within_a_bucket() -> None:
    """Of 1 to 1,000 ms the half are not above 500 ms and 99 % not above 990 ms, within 5 %."""
    latencies = Latencies()
    for ms in range(1, 1001):
        latencies.note(ms / 1000)
    assert latencies.quantile(0.5) == pytest.approx(0.5, rel=0.05)
    assert latencies.quantile(0.99) == pytest.approx(0.99, rel=0.05)


def test_the_ends_of_the_scale_hold_what_is_beyond() -> None:
    """Zero is the shortest, a day the longest that is told apart."""
    latencies = Latencies()
    for length_s in (0.0, 1e-9, 86_400.0, 1e9):
        latencies.note(length_s)
    assert latencies.quantile(0.5) == 1e-4
    assert (latencies.quantile(1.0) or 0) > 7 * 3600
