"""A page of the list of batches: filtered, searched and sorted here, so that a browser never holds all of them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from batchrun.worker.attention import attention_words
from batchrun.worker.submission import BatchCounts, BatchState, Submission
from batchrun.worker.worker import Worker

#: For how long after its submission a batch that needs attention comes before those under way.
RECENT = timedelta(days=3)


class BatchGroup(StrEnum):
    """What the list can be restricted to, beside states."""

    ALL = "all"
    #: See `attention_words`.
    ATTENTION = "attention"
    UNDER_WAY = "under_way"
    PAUSED = "paused"
    FINISHED = "finished"
    #: With jobs that did not succeed, in any state.
    FAILURES = "failures"


class BatchSort(StrEnum):
    """By what the list can be sorted; the first entry of each is what people look for with it."""

    #: What needs attention and is recent, then what is under way, then older ones that need attention, then the newest.
    ATTENTION = "attention"
    NEWEST = "newest"
    NAME = "name"
    STATE = "state"
    DONE = "done"
    FAILED = "failed"
    RATE = "rate"
    ETA = "eta"
    COST = "cost"
    STARTED = "started"
    TOOK = "took"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchQuery:
    """Which batches are wanted, in which order."""

    states: frozenset[BatchState] = frozenset()
    group: BatchGroup = BatchGroup.ALL
    #: Part of a name or id, whatever its case.
    search: str = ""
    sort: BatchSort = BatchSort.NEWEST
    is_reversed: bool = False
    offset: int = 0
    limit: int = 100


class FoundBatches(NamedTuple):
    """The batches of one page, the number of all that match, and how many each group has in all."""

    page: list[Submission]
    total: int
    groups: dict[BatchGroup, int]


class ListRow(NamedTuple):
    """A batch, as far as the list sorts and filters by it."""

    submission: Submission
    counts: BatchCounts
    #: Settled jobs per second; None: it settles none.
    per_s: float | None
    needs_attention: bool

    @property
    def is_recent(self) -> bool:
        """True if somebody may not have seen yet what became of the batch."""
        submission = self.submission
        return submission.state.is_under_way or datetime.now(UTC) - submission.created_at < RECENT

    def belongs_to(self, group: BatchGroup) -> bool:
        """Return whether the batch is in a group."""
        state = self.submission.state
        match group:
            case BatchGroup.ALL:
                return True
            case BatchGroup.ATTENTION:
                return self.needs_attention
            case BatchGroup.UNDER_WAY:
                return state.is_under_way
            case BatchGroup.PAUSED:
                return state is BatchState.PAUSED
            case BatchGroup.FINISHED:
                return state.is_over
            case BatchGroup.FAILURES:
                return self.counts.failed > 0


def find_batches(rows: list[ListRow], query: BatchQuery) -> FoundBatches:
    """Return the batches that a query asks for, of `list_rows`."""
    search = query.search.casefold()
    found = [row for row in rows if _matches(row, query, search)]
    if query.sort is not BatchSort.NEWEST:
        found.sort(key=_KEYS[query.sort])
    if query.is_reversed:
        found.reverse()
    page = [row.submission for row in found[query.offset : query.offset + query.limit]]
    return FoundBatches(page, len(found), count_groups(rows))


def count_groups(rows: list[ListRow]) -> dict[BatchGroup, int]:
    """Return how many rows `belong_to` each group, without asking each row about each group."""
    states = Counter(row.submission.state for row in rows)
    return {
        BatchGroup.ALL: len(rows),
        BatchGroup.ATTENTION: sum(row.needs_attention for row in rows),
        BatchGroup.UNDER_WAY: sum(number for state, number in states.items() if state.is_under_way),
        BatchGroup.PAUSED: states[BatchState.PAUSED],
        BatchGroup.FINISHED: sum(number for state, number in states.items() if state.is_over),
        BatchGroup.FAILURES: sum(row.counts.failed > 0 for row in rows),
    }


def list_rows(worker: Worker) -> list[ListRow]:
    """Return all batches, newest first; parts of a batch in shards are in its row."""
    return [_row(worker, each) for each in worker.store if each.part_of is None or each.part_of not in worker.store][
        ::-1
    ]


def _row(worker: Worker, submission: Submission) -> ListRow:
    runner = worker.runners.get(submission.id)
    counts = submission.counts if runner is None else runner.counts()
    budget_usd = open_budget_usd(worker, submission.id)
    is_urgent = bool(attention_words(submission, counts, budget_usd))
    return ListRow(submission, counts, worker.per_s(submission.id), is_urgent)


def open_budget_usd(worker: Worker, batch: str) -> float | None:
    """Return the budget of a batch of which this worker has all, or a part, open; None: it has none."""
    whole = worker.fleet.wholes.get(batch) if worker.fleet is not None else None
    runners = [worker.runners.get(each) for each in (whole.listed.part_ids if whole is not None else [batch])]
    opened = [runner.batch for runner in runners if runner is not None and runner.batch is not None]
    return opened[0].budget_usd if opened else None


def _matches(row: ListRow, query: BatchQuery, search: str) -> bool:
    submission = row.submission
    return (
        (not query.states or submission.state in query.states)
        and row.belongs_to(query.group)
        and (not search or search in submission.name.casefold() or search in submission.id)
    )


def eta_s(state: BatchState, counts: BatchCounts, per_s: float | None) -> float | None:
    """Return the seconds until a batch is done at its present rate, or until it rests; None: unknown."""
    if state.is_stopping:
        left: int | None = counts.live_runs
    else:
        left = None if counts.jobs is None else counts.jobs - counts.settled
    return left / per_s if left and left > 0 and per_s else None


def _rate(row: ListRow) -> float:
    return row.per_s or 0.0


def _took_s(row: ListRow) -> float:
    began, ended = row.submission.begun_at, row.submission.ended_at
    until = datetime.now(UTC) if row.submission.state.is_under_way else ended
    return (until - began).total_seconds() if began is not None and until is not None else 0.0


def _done(row: ListRow) -> float:
    counts = row.counts
    return counts.settled / max(counts.jobs or 0, counts.settled, 1)


#: The least comes first.
_KEYS: dict[BatchSort, Callable[[ListRow], Any]] = {
    BatchSort.ATTENTION: lambda row: (
        not (row.needs_attention and row.is_recent),
        not row.submission.state.is_under_way,
        not row.needs_attention,
    ),
    BatchSort.NAME: lambda row: row.submission.name.casefold(),
    BatchSort.STATE: lambda row: list(BatchState).index(row.submission.state),
    BatchSort.DONE: _done,
    BatchSort.FAILED: lambda row: -row.counts.failed,
    BatchSort.RATE: lambda row: -_rate(row),
    BatchSort.ETA: lambda row: eta_s(row.submission.state, row.counts, _rate(row)) or float("inf"),
    BatchSort.COST: lambda row: -row.counts.cost_usd,
    BatchSort.STARTED: lambda row: -(row.submission.begun_at.timestamp() if row.submission.begun_at else 0.0),
    BatchSort.TOOK: lambda row: -_took_s(row),
}
