"""All data of a batch's report, read from one snapshot of its ledger; another process may be running the batch."""

from collections import deque
from dataclasses import replace
from datetime import UTC, datetime
from heapq import nlargest
from pathlib import Path

from batchrun.ledger.protocol import CostRow, Money
from batchrun.ledger.sqlite.queries.batch_times import Times
from batchrun.ledger.sqlite.queries.largest_groups import GroupCount
from batchrun.ledger.sqlite.queries.round_counts import Attempts
from batchrun.ledger.sqlite.queries.run_and_queue_times import Duration, Spread
from batchrun.ledger.sqlite.queries.slowest_runs import SlowRun
from batchrun.ledger.sqlite.reader import LedgerReader, open_for_reading
from batchrun.model import Outcome, Selection, Summary
from batchrun.report.batch_status import status_of
from batchrun.report.charts import MAX_POINTS, MAX_STRETCHES, Stretch, log_edges
from batchrun.report.failures_by_cause import Failures, failures_of
from batchrun.runtime.fast_dataclasses import dataclass

#: Percentiles of the distributions, in per cent.
PERCENTILES = (50, 90, 99)
SLOWEST_RUNS = 10
#: Max rows: the groups with the most jobs, and the last days.
MAX_GROUPS = 12
MAX_DAYS = 31
#: Min time without a live Run that is cut out of the chart, in seconds and as a fraction of the whole time.
_MIN_IDLE_S = 60.0
_MIN_IDLE_FRACTION = 0.05
#: Min interval of a chart's value, in seconds; shorter Runs are averaged.
_MIN_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """How durations are distributed."""

    spread: Spread
    #: Seconds, ascending: where each bar of a histogram begins, and where the last one ends; one more than counts.
    edges: list[float]
    counts: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """The data of a batch at one moment."""

    read_at: datetime
    #: Another process that runs the batch; None: no other process does.
    pid: int | None
    summary: Summary
    #: None if no job was admitted.
    times: Times | None
    failures: Failures
    #: None if there is no value.
    run_times: Distribution | None
    queue_times: Distribution | None
    #: Average number of live Runs per interval.
    live_runs: list[Stretch]
    slowest: list[SlowRun]
    attempts: Attempts
    #: Settled jobs by outcome, one entry per round, from round 1 on.
    rounds: list[dict[Outcome, int]]
    #: The largest groups, largest first; empty if no job has a group.
    groups: list[GroupCount]
    group_count: int
    money: Money
    total_costs: CostRow
    #: Of the largest groups, without those that have no ended Run.
    cost_by_group: dict[str | None, CostRow]
    cost_by_outcome: list[CostRow]
    #: The last MAX_DAYS days, in order.
    cost_by_day: list[CostRow]


def read_report_data(directory: Path, own_summary: Summary | None = None) -> ReportData:
    """Read the data of a batch's report.

    A million jobs take about fifteen seconds and constant memory; the ledger's writer is not blocked.
    `own_summary` is that of this process, if it has just run the batch: it knows how the batch ended.
    """
    with open_for_reading(directory) as ledger, ledger.snapshot():
        if own_summary is None:  # somebody else may have made the ledger
            ledger.check_types()
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
        return _data_of(ledger, directory, pid, summary)


def _data_of(ledger: LedgerReader, directory: Path, pid: int | None, summary: Summary) -> ReportData:
    now = datetime.now(UTC)
    times, group_count = ledger.times(), ledger.groups.count()
    # Whether the Runs that were live when the last process ended lived on is unknown.
    until = now if pid is not None or times is None else times.last_noted_at
    groups = ledger.groups.largest(MAX_GROUPS) if group_count else []
    return ReportData(
        read_at=now,
        pid=pid,
        summary=summary,
        times=times,
        failures=failures_of(ledger, directory, Selection()),
        run_times=distribution(ledger, Duration.RUN),
        queue_times=distribution(ledger, Duration.QUEUE),
        live_runs=_live_runs(ledger, until),
        slowest=ledger.slowest_runs(SLOWEST_RUNS),
        attempts=ledger.rounds.attempts(),
        rounds=ledger.rounds.settled_jobs(),
        groups=groups,
        group_count=group_count,
        money=ledger.money(),
        total_costs=ledger.costs.total(),
        cost_by_group=_group_costs(ledger, groups),
        cost_by_outcome=nlargest(len(Outcome) + 1, ledger.costs.by(["outcome"]), key=lambda row: row.cost_usd),
        cost_by_day=list(deque(ledger.costs.by(["day"]), maxlen=MAX_DAYS)),
    )


def distribution(ledger: LedgerReader, duration: Duration) -> Distribution | None:
    """Return how some lengths of time are distributed; None if there is none yet."""
    spread = ledger.durations.spread(duration, PERCENTILES)
    if spread is None:
        return None
    edges = log_edges(spread.shortest_s, spread.longest_s)
    return Distribution(spread=spread, edges=edges, counts=ledger.durations.histogram(duration, edges))


def _live_runs(ledger: LedgerReader, until: datetime) -> list[Stretch]:
    whole = ledger.live_runs.stretches(until, _MIN_IDLE_S, 1)
    if not whole:
        return []
    ((began, ended),) = whole
    min_idle_s = max(_MIN_IDLE_S, _MIN_IDLE_FRACTION * (ended - began).total_seconds())
    stretches = ledger.live_runs.stretches(until, min_idle_s, MAX_STRETCHES)
    lengths_s = [(end - begin).total_seconds() for begin, end in stretches]
    # The points of the chart are divided by length; each stretch has at least ten.
    points = MAX_POINTS - 10 * len(stretches)
    found = []
    for (begin, _), length_s in zip(stretches, lengths_s, strict=True):
        wanted = 10 + int(points * length_s / sum(lengths_s)) if length_s else 1
        interval_s = max(_MIN_INTERVAL_S, length_s / wanted)
        intervals = max(1, -int(-length_s // interval_s))
        values = ledger.live_runs.averages(begin, interval_s, intervals, until)
        found.append(Stretch(began_at=begin, interval_s=interval_s, values=values))
    return found


def _group_costs(ledger: LedgerReader, groups: list[GroupCount]) -> dict[str | None, CostRow]:
    names = {each.group for each in groups}
    rows = ledger.costs.by(["group"]) if groups else iter(())
    return {row.shared[0]: row for row in rows if row.shared[0] in names}
