"""The Runs that took longest."""

from pathlib import Path

from batchrun.model import RunId, RunStatus
from tests.support.timed_ledger import holding


def test_the_slowest_runs_come_first(tmp_path: Path) -> None:
    """With their jobs; live Runs are not among them."""
    with holding(tmp_path, [(0, 4), (0, 9), (0, None), (0, 6)]) as ledger:
        found = ledger.slowest_runs(2)
    assert [(run.key, run.run_id, run.run_s, run.status, run.cost_usd) for run in found] == [
        ("job-2", RunId("r2-1"), 9.0, RunStatus.SUCCEEDED, 0.5),
        ("job-4", RunId("r4-1"), 6.0, RunStatus.SUCCEEDED, 0.5),
    ]
