from datetime import UTC, datetime
from typing import Any

import pytest

from batchrun.model import Outcome, Selection
from batchrun.worker.fleet.fleet_list import ListedBatch
from batchrun.worker.fleet.sharded_batch import ShardedBatch, find_sharded_batches
from batchrun.worker.fleet.sharded_order import OrderVerb
from batchrun.worker.submission import BatchCounts, BatchState, RetryOrder, Submission

AT = datetime(2026, 1, 1, tzinfo=UTC)


def whole_of(count: int = 3, **changes: Any) -> ShardedBatch:
    """Return a batch in shards that was just submitted."""
    submission = Submission(
        id="shop", name="shop", created_at=AT, batch_file="batch.toml", jobs_file="jobs.csv", shards=count, **changes
    )
    listed = ListedBatch(submission=submission, files={"batch.toml": [], "jobs.csv": []})
    return find_sharded_batches({"shop": listed, **{part.submission.id: part for part in listed.parts()}})["shop"]


def parts(whole: ShardedBatch, *states: BatchState, **changes: Any) -> list[Submission]:
    """Return the parts of a batch in these states."""
    return [part.submission.but(state=state, **changes) for part, state in zip(whole.parts, states, strict=True)]


def test_the_parts_follow_from_the_batch() -> None:
    """Each worker that reads the one entry of the list knows the same parts."""
    whole = whole_of(settings={"limits.start_rate": 9}, idempotency_key="once")
    assert [(part.submission.id, part.submission.name, part.submission.settings) for part in whole.parts] == [
        (f"shop-{n}", f"shop-{n}of3", {"limits.start_rate": 9, "jobs.shard": [n, 3]}) for n in (1, 2, 3)
    ]
    assert {(part.submission.part_of, part.submission.idempotency_key) for part in whole.parts} == {("shop", None)}


Q, A, P, F, T = (
    BatchState.QUEUED, BatchState.ACTIVE, BatchState.PAUSED, BatchState.FINISHED, BatchState.TRIPPED,
)  # fmt: skip


@pytest.mark.parametrize(
    ("states", "together"),
    [
        ((Q, Q, Q), Q), ((Q, A, Q), A), ((F, F, A), A), ((F, F, F), F), ((F, P, F), P), ((P, T, F), T),
        ((A, BatchState.PAUSING, F), BatchState.PAUSING), ((T, F, A), A),
        ((BatchState.CANCELLED, F, F), BatchState.CANCELLED),
    ],
)  # fmt: skip
def test_a_batch_is_over_when_all_parts_are(states: tuple[BatchState, ...], together: BatchState) -> None:
    """Of parts that rest in several states, the one that needs a person counts; an error of a part is told at once."""
    whole = whole_of()
    found = whole.together(parts(whole, *states, reason="full", ended_at=AT))
    assert (found.state, found.ended_at) == (together, AT if together.is_over else None)
    assert found.reason == ("full" if set(states) & {F, P, T, together} else "")


def test_counts_are_summed() -> None:
    """Jobs are unknown as long as those of one part are."""
    whole = whole_of()
    counts = BatchCounts(jobs=4, outcomes={Outcome.SUCCEEDED: 2, Outcome.FAILED: 1}, cost_usd=0.5, live_runs=1, items=7)
    found = whole.together(parts(whole, A, A, A, counts=counts)).counts
    assert found == BatchCounts(
        jobs=12, outcomes={Outcome.SUCCEEDED: 6, Outcome.FAILED: 3}, cost_usd=1.5, live_runs=3, items=21
    )
    one_unknown = [part.but(counts=counts.model_copy(update={"jobs": None})) for part in parts(whole, A, A, A)[:1]]
    assert whole.together([*one_unknown, *parts(whole, A, A, A)[1:]]).counts.jobs is None


def test_a_part_obeys_each_order_once() -> None:
    """Orders that all parts have obeyed are forgotten; the state tells what they will have done."""
    whole = whole_of()
    for verb in (OrderVerb.PAUSE, OrderVerb.RESUME):
        whole = whole._replace(listed=whole.with_order(verb, {}, None))
    assert [order.number for order in whole.listed.orders] == [1, 2]
    obeyed = [part.model_copy(update={"submission": part.submission.but(ordered=1)}) for part in whole.parts]
    whole = whole._replace(parts=obeyed)
    assert [order.verb for order in whole.orders_for(obeyed[0].submission)] == [OrderVerb.RESUME]
    assert whole.together(parts(whole, P, P, F)).state is Q
    assert whole.together(parts(whole, BatchState.PAUSING, A, A)).state is A
    retry = RetryOrder(id="r", selection=Selection())
    whole = whole._replace(listed=whole.with_order(OrderVerb.RETRY, {}, retry))
    assert ([order.number for order in whole.listed.orders], whole.has_retry("r")) == ([2, 3], True)


def test_a_batch_that_lacks_a_part_is_no_whole() -> None:
    """Whoever can write to the list can delete a part alone; the other batches go on."""
    whole = whole_of(2)
    listed = {"shop": whole.listed, **{part.submission.id: part for part in whole.parts[1:]}}
    assert find_sharded_batches(listed) == {}


def test_counts_of_others_have_a_sum() -> None:
    """Whatever they have written: a number that no arithmetic takes would end every worker, at each of its starts."""
    whole, most = whole_of(2), BatchCounts(jobs=2**53, items=2**53, cost_usd=1e9, used_usd=1e9)
    counts = whole.together(parts(whole, BatchState.FINISHED, BatchState.FINISHED, counts=most)).counts
    assert (counts.jobs, counts.cost_usd) == (2**54, 2e9)
