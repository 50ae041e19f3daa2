"""The Runs of open jobs, in pages."""

from datetime import timedelta
from pathlib import Path

from tests.support.timed_ledger import AT, holding


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
