import pytest

from batchrun.engine.limits.slot_use import SlotUse


def test_use_is_what_was_live_of_what_might_have_been() -> None:
    """10 of 20 for 3 s, then 20 of 20 for 1 s."""
    use = SlotUse()
    use.note(5.0, live=10, limit=20, is_wanted=True)
    use.note(8.0, live=20, limit=20, is_wanted=True)
    use.note(9.0, live=0, limit=20, is_wanted=False)
    assert use.fraction == pytest.approx(50 / 80)


def test_time_without_work_does_not_count() -> None:
    """An idle hour between two busy seconds changes nothing."""
    use = SlotUse()
    use.note(0.0, live=2, limit=2, is_wanted=True)
    use.note(1.0, live=0, limit=2, is_wanted=False)
    use.note(3601.0, live=2, limit=2, is_wanted=True)
    use.note(3602.0, live=0, limit=2, is_wanted=False)
    assert use.fraction == 1.0


def test_more_live_than_allowed_is_not_more_than_all() -> None:
    """After a limit has shrunk, slots are used wholly, not twice."""
    use = SlotUse()
    use.note(0.0, live=20, limit=5, is_wanted=True)
    use.note(1.0, live=5, limit=5, is_wanted=True)
    assert use.fraction == 1.0


def test_before_anything_ran_there_is_no_fraction() -> None:
    """Nothing is not 0 %."""
    use = SlotUse()
    use.note(1.0, live=0, limit=5, is_wanted=False)
    assert use.fraction is None
