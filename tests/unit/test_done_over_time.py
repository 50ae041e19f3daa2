"""What ended over time, in every round."""

from datetime import timedelta
from pathlib import Path

from batchrun.ledger.protocol import Settlement
from batchrun.ledger.sqlite.tables import open_ledger
from batchrun.model import JobId, Outcome, Selection
from tests.support.memory_ledger import make_job
from tests.support.timed_ledger import AT, carry


def test_what_ends_is_counted_where_it_ended_in_every_round(tmp_path: Path) -> None:
    """And a job that is opened for another round where that round began; what was before comes first."""
    with open_ledger(tmp_path) as ledger:
        with ledger.transaction():
            for line in (1, 2, 3):
                ledger.admit(make_job(line))
            carry(ledger, JobId(1), 1, -5, -1)
            ledger.settle(JobId(1), None, Settlement(outcome=Outcome.SUCCEEDED))
            carry(ledger, JobId(2), 1, 0, 25)
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
