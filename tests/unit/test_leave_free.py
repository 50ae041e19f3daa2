import pytest

from batchrun.policy.leave_free import Allowance


def test_an_allowance_is_the_limit_less_others_less_what_is_left_free() -> None:
    """25, of which others use 3 and one is left free."""
    assert Allowance(leave_free=1, least=1).update(25, 10, 7) == 21


@pytest.mark.parametrize(("limit", "used", "own"), [(5, 5, 0), (5, 90, 0), (0, 0, 0), (1, 0, 0)])
def test_one_is_always_ours(limit: int, used: int, own: int) -> None:
    """However full the account is."""
    assert Allowance(leave_free=1, least=1).update(limit, used, own) == 1


def test_higher_use_by_others_is_believed_once_seen_twice() -> None:
    """Then the smaller of the two; lower use at once."""
    allowance = Allowance(leave_free=0, least=1)
    assert [allowance.update(100, used, 20) for used in (20, 50, 70, 60, 20, 90, 20)] == [
        100,
        100,
        70,
        60,
        100,
        100,
        100,
    ]


def test_a_counter_that_lags_behind_our_starts_gives_no_more() -> None:
    """A count below our own Runs means no use by others, not a negative one."""
    assert Allowance(leave_free=0, least=1).update(100, 5, 60) == 100
