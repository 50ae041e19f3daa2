"""The list of batches: how many are in each group."""

from datetime import UTC, datetime

import pytest

from batchrun.model import Outcome
from batchrun.worker.attention import attention_words
from batchrun.worker.batch_list import BatchGroup, ListRow, count_groups, eta_s
from batchrun.worker.submission import BatchCounts, BatchState, Submission


def test_a_group_counts_the_batches_that_belong_to_it():
    """In every state, with and without failures, and whether or not they need attention."""
    rows = [
        ListRow(
            Submission(id="b", name="b", created_at=datetime.now(UTC), state=state),
            BatchCounts(outcomes={Outcome.SUCCEEDED: 1, Outcome.FAILED: failed}),
            None,
            needs_attention,
        )
        for state in BatchState
        for failed in (0, 1, 1)
        for needs_attention in (True, False)
    ]
    assert count_groups(rows) == {group: sum(row.belongs_to(group) for row in rows) for group in BatchGroup}
    assert all(count_groups(rows).values())


@pytest.mark.parametrize(
    ("state", "settled", "words"),
    [
        (BatchState.FINISHED, 3, "67% of its jobs did not succeed"),
        (BatchState.ACTIVE, 20, "95% of its jobs did not succeed"),
        (BatchState.ACTIVE, 19, ""),
        (BatchState.CANCELLED, 20, ""),
    ],
)
def test_many_failures_need_a_person_also_after_the_end(state, settled, words):
    """A batch under way is judged once enough jobs are settled, one that ended as it is; a cancelled one is not."""
    counts = BatchCounts(outcomes={Outcome.SUCCEEDED: 1, Outcome.FAILED: settled - 1})
    batch = Submission(id="b", name="b", created_at=datetime.now(UTC), state=state)
    assert attention_words(batch, counts, None) == words


def test_a_batch_that_stops_ends_with_its_live_runs():
    """The rest of its file is not started."""
    counts = BatchCounts(jobs=1000, outcomes={Outcome.SUCCEEDED: 100}, live_runs=8)
    assert [eta_s(state, counts, 2.0) for state in (BatchState.ACTIVE, BatchState.PAUSING)] == [450.0, 4.0]
