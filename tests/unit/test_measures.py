"""What the ledger tells about time is what adding it up by hand tells."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.ledger.protocol import Settlement
from batchrun.ledger.sqlite.largest_groups import GroupCount
from batchrun.ledger.sqlite.reader import LedgerReader, open_for_reading
from batchrun.ledger.sqlite.run_and_queue_times import Duration
from batchrun.ledger.sqlite.tables import LedgerTables, open_ledger
from batchrun.model import Intent, JobId, Mark, Outcome, RunId, RunStatus, Selection
from tests.support.memory_ledger import make_bad_line, make_job
from tests.unit.test_ledger import AT, make_ended, make_run

UNTIL = AT + timedelta(seconds=1000)


@contextmanager
def holding(directory: Path, spans: list[tuple[float, float | None]]) -> Iterator[LedgerReader]:
    """Open a ledger of jobs with one Run each, from and to given seconds after AT; None if it is live."""
    with open_ledger(directory) as ledger, ledger.transaction():
        for line, (began, ended) in enumerate(spans, 1):
            ledger.admit(make_job(line))
            _carry(ledger, JobId(line), 1, began, ended)
    with open_for_reading(directory) as reader:
        yield reader


def _carry(
    ledger: LedgerTables,
    job_id: JobId,
    attempt_no: int,
    began: float,
    ended: float | None,
    round: int = 1,  # noqa: A002 - the ledger's own word
) -> None:
    run = replace(
        make_run(f"r{job_id}-{attempt_no}"),
        started_at=AT + timedelta(seconds=began),
        finished_at=AT + timedelta(seconds=ended) if ended is not None else None,
    )
    ledger.intend(job_id, Intent(attempt_no=attempt_no, round=round, mark=Mark("m")))
    ledger.bind(job_id, attempt_no, run)
    intended_at = (AT + timedelta(seconds=began)).timestamp()
    ledger._db.execute("UPDATE attempt SET intended_at = ? WHERE attempt_no = ?", (intended_at, attempt_no))
    if ended is not None:
        ledger.postpone(job_id, make_ended(run, attempt_no), 0)


def test_an_empty_ledger_has_no_measures(tmp_path: Path) -> None:
    """And no error."""
    with holding(tmp_path, []) as ledger:
        assert ledger.times() is None
        assert [ledger.durations.spread(each, [50]) for each in Duration] == [None, None]
        assert ledger.live_runs.stretches(UNTIL, 60, 8) == []
        assert (ledger.durations.slowest(3), ledger.rounds.settled_jobs(), ledger.groups.largest(3)) == ([], [], [])
        assert (ledger.rounds.attempts().runs, ledger.groups.count()) == (0, 0)


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
        assert ledger.durations.slowest(1)[0].run_s == 0
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
            _carry(ledger, JobId(1), 1, admitted_s + 5, admitted_s + 6)
            _carry(ledger, JobId(1), 2, admitted_s + 50, admitted_s + 60)
            ledger.settle(JobId(1), None, Settlement(outcome=Outcome.FAILED))
        with ledger.transaction():
            ledger.reopen(Selection())
        again_s = ledger.open_jobs()[0].admitted_at.timestamp() - AT.timestamp()
        with ledger.transaction():
            _carry(ledger, JobId(1), 3, again_s + 7, again_s + 9, round=2)
        spread = ledger.durations.spread(Duration.QUEUE, [50, 100])
        assert spread is not None
        assert spread.count == 2
        assert spread.percentiles == {50: pytest.approx(5, abs=1e-3), 100: pytest.approx(7, abs=1e-3)}
        attempts = ledger.rounds.attempts()
        assert (attempts.runs, attempts.repeated) == (3, 1)
        assert ledger.rounds.settled_jobs() == [{Outcome.FAILED: 1}]


def test_idle_times_separate_stretches(tmp_path: Path) -> None:
    """Only those of the minimum length, and the longest of them; a live Run ends at the given time."""
    spans: list[tuple[float, float | None]] = [(0, 10), (5, 8), (30, 40), (200, 210), (900, None)]
    with holding(tmp_path, spans) as ledger:

        def stretches(min_idle_s: float, count: int = 8) -> list[tuple[float, float]]:
            found = ledger.live_runs.stretches(UNTIL, min_idle_s, count)
            return [((begin - AT).total_seconds(), (end - AT).total_seconds()) for begin, end in found]

        assert stretches(60) == [(0, 40), (200, 210), (900, 1000)]
        assert stretches(10) == [(0, 10), (30, 40), (200, 210), (900, 1000)]
        assert stretches(20) == [(0, 40), (200, 210), (900, 1000)]
        assert stretches(10, 2) == [(0, 210), (900, 1000)]
        assert stretches(10, 1) == [(0, 1000)]


moments = st.floats(min_value=0, max_value=300)


@given(
    st.lists(st.tuples(moments, st.none() | st.floats(min_value=0, max_value=100)), min_size=1, max_size=20),
    st.floats(min_value=0, max_value=100),
    st.floats(min_value=0.1, max_value=50),
    st.integers(min_value=1, max_value=12),
)
def test_live_runs_are_averages_over_each_interval(
    runs: list[tuple[float, float | None]], from_s: float, interval_s: float, intervals: int
) -> None:
    """For any Runs, live ones too, and any intervals: the sum of the parts of an interval that the Runs fill."""
    spans = [(began, began + took if took is not None else None) for began, took in runs]
    with TemporaryDirectory() as directory, holding(Path(directory), spans) as ledger:
        found = ledger.live_runs.averages(AT + timedelta(seconds=from_s), interval_s, intervals, UNTIL)
    edges = [from_s + interval_s * number for number in range(intervals + 1)]
    for value, (begin, end) in zip(found, pairwise(edges), strict=True):
        filled = [
            max(0.0, min(end, ended if ended is not None else 1000.0) - max(begin, began)) for began, ended in spans
        ]
        # The ledger's times are seconds since 1970: floats of about a microsecond.
        assert value == pytest.approx(math.fsum(filled) / (end - begin), abs=1e-4)


def test_the_slowest_runs_come_first(tmp_path: Path) -> None:
    """With their jobs; live Runs are not among them."""
    with holding(tmp_path, [(0, 4), (0, 9), (0, None), (0, 6)]) as ledger:
        found = ledger.durations.slowest(2)
    assert [(run.key, run.run_id, run.run_s, run.status, run.cost_usd) for run in found] == [
        ("job-2", RunId("r2-1"), 9.0, RunStatus.SUCCEEDED, 0.5),
        ("job-4", RunId("r4-1"), 6.0, RunStatus.SUCCEEDED, 0.5),
    ]


def test_groups_are_counted(tmp_path: Path) -> None:
    """The largest groups, by name; bad lines belong to none."""
    with open_ledger(tmp_path) as ledger, ledger.transaction():
        for line, group in enumerate(["a", "b", "b", None, "b", "a", "c"], 1):
            ledger.admit(make_job(line, group=group))
        ledger.settle(JobId(ledger.admit_bad_line(make_bad_line(9)) or 0), None, Settlement(outcome=Outcome.INVALID))
        ledger.settle(JobId(2), None, Settlement(outcome=Outcome.FAILED))
        ledger.settle(JobId(3), None, Settlement(outcome=Outcome.SUCCEEDED))
        assert ledger.groups.largest(2) == [
            GroupCount(group="a", outcomes={}, open_jobs=2),
            GroupCount(group="b", outcomes={Outcome.FAILED: 1, Outcome.SUCCEEDED: 1}, open_jobs=1),
        ]
        assert [(each.group, each.jobs) for each in ledger.groups.largest(9)] == [
            (None, 1),
            ("a", 2),
            ("b", 3),
            ("c", 1),
        ]
        assert ledger.groups.count() == 3


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


def test_what_ends_is_counted_where_it_ended_in_every_round(tmp_path: Path) -> None:
    """And a job that is opened for another round where that round began; what was before comes first."""
    with open_ledger(tmp_path) as ledger:
        with ledger.transaction():
            for line in (1, 2, 3):
                ledger.admit(make_job(line))
            _carry(ledger, JobId(1), 1, -5, -1)
            ledger.settle(JobId(1), None, Settlement(outcome=Outcome.SUCCEEDED))
            _carry(ledger, JobId(2), 1, 0, 25)
            ledger.settle(JobId(2), None, Settlement(outcome=Outcome.FAILED))
            for job_id, settled in ((1, -1), (2, 25)):
                at = (AT + timedelta(seconds=settled)).timestamp()
                ledger._db.execute("UPDATE job SET settled_at = ? WHERE id = ?", (at, job_id))
        with ledger.transaction():
            ledger.reopen(Selection())
            at = (AT + timedelta(seconds=35)).timestamp()
            ledger._db.execute("UPDATE job SET admitted_at = ? WHERE id = 2", (at,))
        flow = ledger.done.flow(AT, 10, 4)
        assert (flow.succeeded, flow.failed) == ([1, 0, 0, 0, 0], [0, 0, 0, 1, 0])
        assert (flow.reopened_succeeded, flow.reopened_failed) == ([0] * 5, [0, 0, 0, 0, 1])
        assert [usd > 0 for usd in flow.cost_usd] == [True, False, False, True, False]
        assert ledger.done.flow(AT, 10, 1).failed == [0, 0], "what ended later is left out"


def test_open_runs_are_those_of_open_jobs_oldest_first(tmp_path: Path) -> None:
    """In pages, with the number of all."""
    with holding(tmp_path, [(30, None), (10, None), (20, 21), (20, None)]) as ledger:
        runs, total = ledger.open_runs.page(0, 9)
        assert ([run.run_id for run in runs], total) == (["r2-1", "r4-1", "r1-1"], 3)
        assert [run.run_id for run in ledger.open_runs.page(1, 1)[0]] == ["r4-1"]
        key = runs[0].key.upper()
        for search in ("r2-1", key, key[1:]):
            assert [run.run_id for run in ledger.open_runs.page(0, 9, search)[0]] == ["r2-1"]
        assert ledger.open_runs.page(0, 9, "nothing") == ([], 0)
        assert ledger.open_runs.page(7, 9) == ([], 3)
        assert (runs[0].line, runs[0].started_at) == (2, AT + timedelta(seconds=10))
