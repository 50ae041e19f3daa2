"""Which batches need a person, and why: the same for the list, the page and its icon."""

from collections.abc import Iterator

from batchrun.worker.submission import BatchCounts, BatchState, Submission

#: Fraction of the settled jobs that may fail. While a batch is under way, it is judged by MIN_SETTLED of them or more.
MAX_FAILED_FRACTION = 0.2
MIN_SETTLED = 20
#: Fraction of a batch's budget that may be spent.
MAX_SPENT_FRACTION = 0.8

_STOPPED = frozenset({BatchState.FAILED, BatchState.TRIPPED, BatchState.OUT_OF_BUDGET, BatchState.STOPPED})


def attention_words(submission: Submission, counts: BatchCounts, budget_usd: float | None) -> str:
    """Return why a batch needs a person; empty if it does not."""
    return next(_reasons(submission, counts, budget_usd), "")


def _reasons(submission: Submission, counts: BatchCounts, budget_usd: float | None) -> Iterator[str]:
    if submission.state in _STOPPED:
        yield submission.reason or submission.state.replace("_", " ")
    if counts.in_doubt:
        yield f"{counts.in_doubt:,} {'start is' if counts.in_doubt == 1 else 'starts are'} in doubt"
    if submission.state.is_under_way and submission.reason:
        yield submission.reason
    failed, settled = counts.failed, counts.settled
    is_judged = submission.state is BatchState.FINISHED or (submission.state.is_under_way and settled >= MIN_SETTLED)
    if is_judged and failed > MAX_FAILED_FRACTION * settled:
        yield f"{failed / settled:.0%} of its jobs did not succeed"
    if submission.state.is_under_way and budget_usd and counts.cost_usd > MAX_SPENT_FRACTION * budget_usd:
        yield f"{counts.cost_usd / budget_usd:.0%} of its budget is spent"
