"""The groups with the most jobs, and their counts."""

from pathlib import Path

from batchrun.ledger.protocol import Settlement
from batchrun.ledger.sqlite.queries.largest_groups import GroupCount
from batchrun.ledger.sqlite.tables import open_ledger
from batchrun.model import JobId, Outcome
from tests.support.memory_ledger import make_bad_line, make_job


def test_the_largest_groups_come_first(tmp_path: Path) -> None:
    """The largest first, equal ones by name; bad lines belong to none."""
    with open_ledger(tmp_path) as ledger, ledger.transaction():
        for line, group in enumerate(["a", "b", "b", None, "b", "a", "c"], 1):
            ledger.admit(make_job(line, group=group))
        ledger.settle(JobId(ledger.admit_bad_line(make_bad_line(9)) or 0), None, Settlement(outcome=Outcome.INVALID))
        ledger.settle(JobId(2), None, Settlement(outcome=Outcome.FAILED))
        ledger.settle(JobId(3), None, Settlement(outcome=Outcome.SUCCEEDED))
        assert ledger.groups.largest(2) == [
            GroupCount(group="b", outcomes={Outcome.FAILED: 1, Outcome.SUCCEEDED: 1}, open_jobs=1),
            GroupCount(group="a", outcomes={}, open_jobs=2),
        ]
        assert [(each.group, each.jobs) for each in ledger.groups.largest(9)] == [
            ("b", 3),
            ("a", 2),
            (None, 1),
            ("c", 1),
        ]
        assert ledger.groups.count() == 3
