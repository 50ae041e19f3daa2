"""How long Runs took and jobs waited, as adding it up by hand says."""

from pathlib import Path

import pytest

from batchrun.ledger.protocol import Settlement
from batchrun.ledger.sqlite.queries.run_and_queue_times import Duration
from batchrun.ledger.sqlite.tables import open_ledger
from batchrun.model import JobId, Outcome, Selection
from tests.support.memory_ledger import make_job
from tests.support.timed_ledger import AT, UNTIL, carry, holding


def test_percentiles_are_of_the_nearest_rank(tmp_path: Path) -> None:
    """Of a hundred Runs of 1 s to 100 s, the 90th percentile is 90 s."""
    with holding(tmp_path, [(0, n) for n in range(100, 0, -1)]) as ledger:
        spread = ledger.durations.spread(Duration.RUN, [1, 50, 90, 99, 100])
    assert spread is not None
    assert spread.percentiles == {1: 1, 50: 50, 90: 90, 99: 99, 100: 100}
    assert (spread.count, spread.shortest_s, spread.longest_s, spread.mean_s) == (100, 1, 100, 50.5)


def test_a_clock_that_went_back_makes_no_time_negative(tmp_path: Path) -> None:
    """Neither the duration of a Run nor the wait of a job: the jobs are admitted today, the Runs start long before."""
    with holding(tmp_path, [(10, 5)]) as ledger:
        for duration in Duration:
            spread = ledger.durations.spread(duration, [50])
            assert spread is not None
            assert (spread.count, spread.longest_s) == (1, 0)
        assert ledger.slowest_runs(1)[0].run_s == 0
        assert ledger.live_runs.averages(AT, 20, 1, UNTIL) == [0]


def test_a_histogram_counts_every_time_once(tmp_path: Path) -> None:
    """A time on an edge belongs to the interval above; one outside to the first or last interval."""
    with holding(tmp_path, [(0, each) for each in (0.5, 1, 1.5, 2, 2, 3, 99)]) as ledger:
        assert ledger.durations.histogram(Duration.RUN, [1, 2, 3, 4]) == [3, 2, 2]
        assert ledger.durations.histogram(Duration.RUN, [1, 2]) == [7]


def test_a_wait_ends_with_the_first_run_of_each_round(tmp_path: Path) -> None:
    """Further attempts do not matter. The wait of a later round begins with the round."""
    with open_ledger(tmp_path) as ledger:
        with ledger.transaction():
            ledger.admit(make_job(1))
        admitted_s = ledger.open_jobs()[0].admitted_at.timestamp() - AT.timestamp()
        with ledger.transaction():
            carry(ledger, JobId(1), 1, admitted_s + 5, admitted_s + 6)
            carry(ledger, JobId(1), 2, admitted_s + 50, admitted_s + 60)
            ledger.settle(JobId(1), None, Settlement(outcome=Outcome.FAILED))
        with ledger.transaction():
            ledger.reopen(Selection())
        again_s = ledger.open_jobs()[0].admitted_at.timestamp() - AT.timestamp()
        with ledger.transaction():
            carry(ledger, JobId(1), 3, again_s + 7, again_s + 9, round=2)
        spread = ledger.durations.spread(Duration.QUEUE, [50, 100])
        assert spread is not None
        assert spread.count == 2
        assert spread.percentiles == {50: pytest.approx(5, abs=1e-3), 100: pytest.approx(7, abs=1e-3)}
        attempts = ledger.rounds.attempts()
        assert (attempts.runs, attempts.repeated) == (3, 1)
        assert ledger.rounds.settled_jobs() == [{Outcome.FAILED: 1}]
