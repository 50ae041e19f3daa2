"""When a batch began, and when its ledger noted anything last."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from batchrun.ledger.sqlite.queries.run_and_queue_times import Duration
from tests.support.timed_ledger import AT, UNTIL, holding


def test_the_first_and_the_last_moment_are_of_either_clock(tmp_path: Path) -> None:
    """The last moment is the later one of two clocks."""
    with holding(tmp_path, [(0, 10)]) as ledger:
        times = ledger.times()
    assert times is not None
    assert times.began_at <= times.last_noted_at <= datetime.now(UTC)
    assert times.began_at > AT  # admitted today; the Run is said to have been earlier
    (tmp_path / "later").mkdir()
    with holding(tmp_path / "later", [(1e9, 1e9 + 5)]) as ledger:
        times = ledger.times()
    assert times is not None
    assert times.last_noted_at == AT + timedelta(seconds=1e9 + 5)


def test_an_empty_ledger_has_no_measures(tmp_path: Path) -> None:
    """And no error."""
    with holding(tmp_path, []) as ledger:
        assert ledger.times() is None
        assert [ledger.durations.spread(each, [50]) for each in Duration] == [None, None]
        assert ledger.live_runs.stretches(UNTIL, 60, 8) == []
        assert (ledger.slowest_runs(3), ledger.rounds.settled_jobs(), ledger.groups.largest(3)) == ([], [], [])
        assert (ledger.rounds.attempts().runs, ledger.groups.count()) == (0, 0)
