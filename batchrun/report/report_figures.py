"""Everything that the report of a batch shows, read from its ledger as of one moment, beside whoever runs the batch."""

from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from heapq import nlargest
from pathlib import Path

from batchrun.ledger.protocol import CostRow, Money
from batchrun.ledger.sqlite.measures import Attempts, Duration, GroupCount, Measures, SlowRun, Spread, Times
from batchrun.ledger.sqlite.reader import LedgerReader, open_for_reading
from batchrun.model import Outcome, Selection, Summary
from batchrun.report.batch_status import status_of
from batchrun.report.charts import MAX_POINTS, MAX_STRETCHES, Histogram, Mark, Stretch, log_edges
from batchrun.report.failure_causes import Failures, failures_of

#: Per cent.
PERCENTILES = (50, 90, 99)
SLOWEST_RUNS = 10
#: The largest by jobs; and the last ones.
MAX_GROUPS = 12
MAX_DAYS = 31
#: Time without a live Run that is cut out of the chart: so many seconds at least, and such a part of it all.
_MIN_IDLE_S = 60.0
_MIN_IDLE_SHARE = 0.05
#: Runs so short are seen too.
_MIN_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """How lengths of time are spread."""

    spread: Spread
    histogram: Histogram


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCosts:
    """What the largest groups cost."""

    #: By group; a group without an ended Run is left out.
    largest: dict[str | None, CostRow]
    total: CostRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A batch at one moment."""

    read_at: datetime
    #: The process that works on it; None when none does, or when it is the one that tells.
    pid: int | None
    summary: Summary
    #: None before the first job was admitted.
    times: Times | None
    failures: Failures
    #: None before there is any.
    run_times: Distribution | None
    queue_times: Distribution | None
    #: Runs that were live, on average over each interval.
    live_runs: list[Stretch]
    slowest: list[SlowRun]
    attempts: Attempts
    #: Settled jobs by outcome, from round 1 on.
    rounds: list[dict[Outcome, int]]
    #: The largest; empty where no job has a group.
    groups: list[GroupCount]
    group_count: int
    money: Money
    cost_by_group: GroupCosts
    cost_by_outcome: list[CostRow]
    #: In order; the last MAX_DAYS.
    cost_by_day: list[CostRow]


def read_figures(directory: Path, own_summary: Summary | None = None) -> Figures:
    """Read what the report of a batch shows.

    A million jobs take about fifteen seconds and no more memory than ten; the ledger's writer is not held up.

    Args:
        directory: the output directory.
        own_summary: of the process that has just worked on the batch, when that is this one: it knows how it ended.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    with open_for_reading(directory) as ledger, ledger.snapshot():
        status = status_of(ledger, directory)
        pid, summary = status.pid, status.summary
        if own_summary is not None:
            pid = None
            summary = replace(
                summary,
                ending=own_summary.ending,
                slot_use=own_summary.slot_use,
                refill_p50_s=own_summary.refill_p50_s,
                refill_p99_s=own_summary.refill_p99_s,
            )
        return _figures(ledger, directory, pid, summary)


def _figures(ledger: LedgerReader, directory: Path, pid: int | None, summary: Summary) -> Figures:
    measures, now = ledger.measures, datetime.now(UTC)
    times, group_count = measures.times(), measures.count_groups()
    # What was live when the last process ended is not known to have lived on.
    until = now if pid is not None or times is None else times.last_noted_at
    groups = measures.largest_groups(MAX_GROUPS) if group_count else []
    return Figures(
        read_at=now,
        pid=pid,
        summary=summary,
        times=times,
        failures=failures_of(ledger, directory, Selection()),
        run_times=_distribution(measures, Duration.RUN),
        queue_times=_distribution(measures, Duration.QUEUE),
        live_runs=_live_runs(measures, until),
        slowest=measures.slowest(SLOWEST_RUNS),
        attempts=measures.attempts(),
        rounds=measures.rounds(),
        groups=groups,
        group_count=group_count,
        money=ledger.money(),
        cost_by_group=_group_costs(ledger, groups),
        cost_by_outcome=nlargest(len(Outcome) + 1, ledger.costs(["outcome"]), key=lambda row: row.cost_usd),
        cost_by_day=list(deque(ledger.costs(["day"]), maxlen=MAX_DAYS)),
    )


def _distribution(measures: Measures, duration: Duration) -> Distribution | None:
    spread = measures.spread(duration, PERCENTILES)
    if spread is None:
        return None
    edges = log_edges(spread.shortest_s, spread.longest_s)
    marks = [Mark(name=f"p{per_cent}", value=value) for per_cent, value in spread.percentiles.items()]
    counts = measures.histogram(duration, edges)
    return Distribution(spread=spread, histogram=Histogram(edges=edges, counts=counts, marks=marks))


def _live_runs(measures: Measures, until: datetime) -> list[Stretch]:
    whole = measures.live_stretches(until, _MIN_IDLE_S, 1)
    if not whole:
        return []
    ((began, ended),) = whole
    min_idle_s = max(_MIN_IDLE_S, _MIN_IDLE_SHARE * (ended - began).total_seconds())
    stretches = measures.live_stretches(until, min_idle_s, MAX_STRETCHES)
    lengths_s = [(end - begin).total_seconds() for begin, end in stretches]
    # As many points as the chart shows, shared by length; each stretch has some.
    points = MAX_POINTS - 10 * len(stretches)
    found = []
    for (begin, _), length_s in zip(stretches, lengths_s, strict=True):
        wanted = 10 + int(points * length_s / sum(lengths_s)) if length_s else 1
        interval_s = max(_MIN_INTERVAL_S, length_s / wanted)
        intervals = max(1, -int(-length_s // interval_s))
        values = measures.live_runs(begin, interval_s, intervals, until)
        found.append(Stretch(began_at=begin, interval_s=interval_s, values=values))
    return found


def _group_costs(ledger: LedgerReader, groups: list[GroupCount]) -> GroupCosts:
    names = {each.group for each in groups}
    rows = ledger.costs(["group"]) if groups else iter(())
    return GroupCosts(
        largest={row.shared[0]: row for row in rows if row.shared[0] in names}, total=ledger.total_costs()
    )
