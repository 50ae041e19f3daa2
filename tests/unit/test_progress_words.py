from dataclasses import replace
from datetime import UTC, datetime

import pytest

from batchrun.engine.progress import Progress
from batchrun.model import Attempt, AttemptState, Ending, Items, JobKey, Mark, Outcome, Record, RunId
from batchrun.words.progress_words import ProgressSnapshot, Speed, outcome_counts, progress_line, slot_words
from tests.unit.test_model import summary


def at(**changes: object) -> ProgressSnapshot:
    """Return the progress of a batch."""
    given: dict[str, object] = {
        "settled": 1200,
        "succeeded": 1190,
        "job_count": 10_000,
        "live_runs": 250,
        "postponed": 0,
        "in_doubt": 0,
        "cost_usd": 1.5,
        **changes,
    }
    return ProgressSnapshot(**given)  # type: ignore[arg-type] # a test's own values


@pytest.mark.parametrize(
    ("snapshot", "per_s", "line"),
    [
        (
            at(),
            20.0,
            "1,200/10,000 done · 250 running · 10 not succeeded · 20/s · 7 min 20 s to go · $1.50 (not final)",
        ),
        (at(job_count=None), 0.123456, "1,200 done · 250 running · 10 not succeeded · 0.123/s · $1.50 (not final)"),
        (at(), None, "1,200/10,000 done · 250 running · 10 not succeeded · $1.50 (not final)"),
        (at(live_runs=0), 20.0, "1,200/10,000 done · 0 running · 10 not succeeded · 20/s · $1.50 (not final)"),
        (
            at(is_stopping=True),
            20.0,
            "1,200/10,000 done · 250 running · 10 not succeeded · 20/s · 12 s to go · $1.50 (not final)",
        ),
        (at(job_count=1000), 5.0, "1,200/1,200 done · 250 running · 10 not succeeded · 5/s · $1.50 (not final)"),
        (
            at(postponed=3, in_doubt=2, cost_usd=0.0),
            None,
            "1,200/10,000 done · 250 running · 10 not succeeded · 3 waiting to retry · 2 in doubt · $0.00 (not final)",
        ),
    ],
)
def test_a_line_shows_the_progress(snapshot: ProgressSnapshot, per_s: float | None, line: str) -> None:
    """Unknown values and zeros are left out."""
    assert progress_line(snapshot, per_s) == line


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (
            120,
            "1,200/10,000 done · 250 running · 10 not succeeded · 3 waiting to retry · 20/s · 7 min 20 s to go · $1.50",
        ),
        (80, "1,200/10,000 done · 250 running · 10 not succeeded · 7 min 20 s to go · $1.50"),
        (60, "1,200/10,000 done · 250 running · 7 min 20 s to go · $1.50"),
        (10, "1,200/10,000 done · 7 min 20 s to go · $1.50"),
    ],
)
def test_a_narrow_terminal_keeps_time_and_cost(width: int, line: str) -> None:
    """What is less important goes first."""
    assert progress_line(at(postponed=3), 20.0, width).replace(" (not final)", "") == line


def test_speed_is_averaged_over_its_window() -> None:
    """Older jobs do not count, and a standstill has no rate."""
    speed = Speed()
    rates = []
    for now, settled in [(0, 0), (10, 100), (20, 100), (40, 130), (60, 130), (75, 130)]:
        speed.note(float(now), settled)
        rates.append(speed.per_s())
    assert rates == [None, 10.0, 5.0, 1.0, None, None]


def test_two_notes_at_one_moment_have_no_rate() -> None:
    """And cause no division by zero."""
    speed = Speed()
    speed.note(5.0, 1)
    speed.note(5.0, 2)
    assert speed.per_s() is None


def test_speed_remembers_no_more_than_its_window() -> None:
    """A day of notes costs no memory."""
    speed = Speed()
    for second in range(86_400):
        speed.note(float(second), second)
    assert (len(speed._marks) < 50, speed.per_s()) == (True, 1.0)


def test_outcomes_are_counted_successes_first() -> None:
    """With the number of successes without items."""
    counts = {Outcome.FAILED: 60, Outcome.TIMED_OUT: 2, Outcome.SUCCEEDED: 2940}
    assert outcome_counts(counts, 412) == "2,940 succeeded (412 with 0 items), 60 failed, 2 timed out"
    assert outcome_counts({}) == "no job settled"


def test_progress_adds_up_records() -> None:
    """An unknown cost is counted as unknown; an attempt without a Run has no cost."""
    progress = Progress()
    paid = Attempt(attempt_no=1, mark=Mark("m"), state=AttemptState.ENDED, run_id=RunId("r"), cost_usd=0.5,
                   intended_at=datetime(2026, 1, 2, tzinfo=UTC))  # fmt: skip
    unpaid = replace(paid, run_id=None, cost_usd=None)
    items = Items(count=3, dataset_id=None)
    progress.count(Record(key=JobKey("a"), line=1, outcome=Outcome.SUCCEEDED, items=items, attempts=(paid, unpaid)))
    progress.count(Record(key=None, line=2, outcome=Outcome.INVALID))
    assert (progress.settled, progress.items, progress.cost_usd, progress.unknown_costs) == (2, 3, 0.5, 0)
    assert progress.outcomes == {Outcome.SUCCEEDED: 1, Outcome.INVALID: 1}


@pytest.mark.parametrize(
    ("use", "half", "most", "words"),
    [
        (0.99617, 0.0042, 0.0121, "99.6 % in use, refilled within 4 ms (99 % within 12 ms)"),
        (1.0, 0.0001, 3.21, "100.0 % in use, refilled within 1 ms (99 % within 3.2 s)"),
        (0.5, None, None, "50.0 % in use"),
        (None, None, None, ""),
    ],
)
def test_the_summary_shows_how_slots_were_used(
    use: float | None, half: float | None, most: float | None, words: str
) -> None:
    """Unknown values are left out."""
    used = replace(summary(Ending.FINISHED, {}), slot_use=use, refill_p50_s=half, refill_p99_s=most)
    assert slot_words(used) == words
