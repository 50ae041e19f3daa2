"""When a batch began, and when its ledger noted anything last."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batchrun.errors import DamagedLedger
from batchrun.ledger.sqlite.queries.run_and_queue_times import Duration
from batchrun.output.layout import LEDGER
from batchrun.report.report_data import read_report_data
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


@pytest.mark.parametrize(
    "forged",
    [
        "job SET admitted_at = x'7b7d'",
        "job SET settled_at = 'null'",
        "job SET admitted_at = 1e308",
        "job SET round = 1.5, outcome = 'failed'",
        "job SET round = 9223372036854775807, outcome = 'failed'",
        "job SET line = 'x'",
        "attempt SET started_at = x'7b7d'",
        "attempt SET intended_at = ''",
        "attempt SET cost_usd = 'x'",
    ],
)
def test_values_of_another_type_are_damage(tmp_path: Path, forged: str) -> None:
    """Others may have made the ledger of a report; it is no bug of this program, and no work without an end."""
    with holding(tmp_path, [(0, 10), (5, 20)]):
        pass
    assert read_report_data(tmp_path).attempts.runs == 2
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
        connection.execute(f"UPDATE {forged} WHERE {'id' if forged.startswith('job') else 'job_id'} = 1")
        connection.commit()
    with pytest.raises(DamagedLedger):
        read_report_data(tmp_path)
