import pytest

from batchrun.policy.full_account import PROBE_BACKOFF, Capacity


def full(at: int, now: float = 0.0) -> Capacity:
    """Return a capacity that a plain start just found full with `at` Runs live."""
    capacity = Capacity()
    assert not capacity.starting(at)
    capacity.refused(now, at, is_probe=False, sent_at=0.0, uniform=0.0)
    return capacity


def test_an_account_that_reports_its_limit_is_filled_at_once() -> None:
    """No strides are needed."""
    capacity = Capacity()
    capacity.allowed = 100_001
    assert [capacity.next_start_at(5.0, live) for live in (0, 37, 100_000)] == [5.0, 5.0, 5.0]


@pytest.mark.parametrize(("taken", "tried"), [(0, 8), (1, 9), (37, 45), (72, 81), (256, 288)])
def test_an_unreported_limit_is_approached_in_strides(taken: int, tried: int) -> None:
    """Eight starts beyond the Runs that were taken, or an eighth of these; the next start once one is answered."""
    capacity = Capacity()
    if taken:
        capacity.reached(taken)
    assert (capacity.next_start_at(5.0, tried - 1), capacity.next_start_at(5.0, tried)) == (5.0, None)


def test_a_start_within_the_known_capacity_changes_nothing() -> None:
    """The most Runs that were taken count, however few are live now."""
    capacity = Capacity()
    capacity.reached(37)
    capacity.reached(5)
    assert capacity.next_start_at(5.0, 44) == 5.0


def test_a_refusal_shows_that_the_account_is_full() -> None:
    """With fewer live Runs a start goes at once; with as many, one probe waits a second, be it the only Run of ours."""
    capacity = full(37)
    assert (capacity.next_start_at(0.0, 36), capacity.next_start_at(0.0, 37)) == (0.0, 1.0)
    assert full(0).next_start_at(0.5, 0) == 1.0


def test_there_is_one_probe_at_a_time() -> None:
    """The next one waits for its answer; that of a start within the known capacity does not count."""
    capacity = full(37)
    assert capacity.starting(37)
    assert not capacity.starting(36)
    assert capacity.next_start_at(99.0, 38) is None


def test_an_accepted_probe_lets_the_next_go_at_once() -> None:
    """So a raised limit is found without waits."""
    capacity = full(37)
    capacity.starting(37)
    capacity.started(38, is_probe=True)
    assert (capacity.next_start_at(9.0, 37), capacity.next_start_at(9.0, 38)) == (9.0, 9.0)


def test_refused_probes_wait_longer_up_to_ten_seconds() -> None:
    """1, 2, 4, 8, 10, 10: each with jitter over its upper half."""
    capacity, now, waits = full(5), 0.0, []
    for _ in range(6):
        at = capacity.next_start_at(now, 5)
        assert at is not None
        waits.append(at - now)
        now = at
        assert capacity.starting(5)
        capacity.refused(now, 5, is_probe=True, sent_at=0.0, uniform=0.0)
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0, 5.0]
    assert PROBE_BACKOFF.wait_s(6, 0.999) == pytest.approx(10.0, abs=0.01)


def test_a_probe_without_an_answer_lets_the_next_go() -> None:
    """A lost answer shows nothing and blocks no start."""
    capacity = full(5)
    capacity.starting(5)
    capacity.unanswered(0.0, is_probe=True, uniform=0.0)
    assert capacity.next_start_at(2.0, 6) == 2.0


def test_many_refusals_of_one_moment_count_as_one() -> None:
    """Starts that were sent before the first refusal do not double the wait."""
    capacity = full(40)
    for live in (39, 38, 37):
        capacity.refused(0.0, live, is_probe=False, sent_at=-0.1, uniform=0.0)
    assert (capacity.next_start_at(0.0, 36), capacity.next_start_at(0.0, 37)) == (0.0, 1.0)


def test_the_allowed_number_is_not_exceeded() -> None:
    """Nor by a probe."""
    capacity = Capacity()
    capacity.allowed = 3
    assert [capacity.next_start_at(0.0, live) for live in (2, 3, 4)] == [0.0, None, None]


def test_a_sign_of_more_capacity_sends_the_next_probe_at_once() -> None:
    """The wait after the last refusal ends; a further refusal waits longer, as before."""
    capacity = full(37)
    capacity.may_have_grown(0.25)
    assert capacity.next_start_at(0.25, 37) == 0.25


def test_competition_for_a_freed_run_makes_the_next_start_a_probe() -> None:
    """A start that replaces an ended Run of ours is refused: a second later one probe goes, not many starts."""
    capacity = full(37)
    assert not capacity.starting(36)
    capacity.refused(10.0, 36, is_probe=False, sent_at=10.0, uniform=1.0)
    capacity.ended(10.1)
    assert (capacity.next_start_at(10.1, 35), capacity.starting(35)) == (11.0, True)
    assert capacity.next_start_at(11.0, 34) is None


def test_an_accepted_probe_ends_the_competition() -> None:
    """Then starts go at once again, up to the known capacity."""
    capacity = full(37)
    capacity.refused(10.0, 36, is_probe=False, sent_at=10.0, uniform=0.0)
    assert capacity.starting(30)
    capacity.started(31, is_probe=True)
    assert (capacity.next_start_at(11.0, 35), capacity.starting(35)) == (11.0, False)
