"""Pieces of the live page: views in, escaped HTML out, with the report's charts and styles."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from batchrun.report import charts
from batchrun.report.failure_causes import Failures
from batchrun.report.html_elements import Html, Tile, facts, foreign, join, legend, tag, tiles
from batchrun.report.number_words import money
from batchrun.worker.view_words import batch_progress, condition
from batchrun.worker.views import BatchView, WorkerView

#: Max causes of failure that are shown per batch.
_MAX_KINDS = 10
_NAME_CHARS = 120
_REASON_CHARS = 400
#: Samples further apart than this belong to different stretches of the chart.
_GAP = timedelta(seconds=10)


def worker_tiles(view: WorkerView) -> Html:
    """Return the worker's key figures."""
    slots, budget = view.slots, view.budget
    under_way = sum(count for state, count in view.batches.items() if state.is_under_way)
    limit = "" if slots.limit is None else f"of {slots.limit:,}"
    memory = "" if slots.max_memory_mb is None else f"of {slots.max_memory_mb:,}"
    shown = [
        Tile(name="batches under way", value=f"{under_way:,}", note=f"of {sum(view.batches.values()):,}"),
        Tile(name="live Runs", value=f"{view.live_runs:,}"),
        Tile(name="slots in use", value=f"{slots.used:,}", note=limit or None),
        Tile(name="memory, MB", value=f"{slots.memory_mb:,}", note=memory or None),
    ]
    if budget is not None and budget.limit_usd is not None:
        note = f"of {money(budget.limit_usd)}; {money(budget.reserved_usd)} reserved"
        shown.append(Tile(name="spent", value=money(budget.spent_usd), note=note))
    is_well = view.is_ready and not view.is_draining
    status = tag("p", condition(view), class_="condition" if is_well else "condition trouble")
    return join([status, tiles(shown)])


def slots_chart(samples: Sequence[tuple[datetime, int, int]]) -> Html:
    """Return a chart of slot use, from samples of time, live Runs and max live Runs, one per second."""
    stretches: list[list[tuple[datetime, int, int]]] = []
    for sample in samples:
        if not stretches or sample[0] - stretches[-1][-1][0] > _GAP:
            stretches.append([])
        stretches[-1].append(sample)
    drawn = [
        charts.Stretch(began_at=each[0][0], interval_s=1.0, values=[float(live) for _, live, _ in each])
        for each in stretches
    ]
    limit = float(samples[-1][2]) if samples else None
    return charts.live_runs_chart(drawn, limit)


def batch_head(view: BatchView) -> Html:
    """Return the always visible part of a batch: name, state, progress."""
    name = tag("h3", foreign(view.name, _NAME_CHARS))
    state = tag("span", view.state.replace("_", " "), class_=f"state state-{view.state}")
    reason = tag("p", foreign(view.reason, _REASON_CHARS), class_="reason") if view.reason else None
    budget = "" if view.budget_usd is None else f" of {money(view.budget_usd)}"
    progress = tag("p", f"{batch_progress(view)}{budget}", class_="soft numbers")
    open_jobs = 0 if view.jobs.total is None else max(0, view.jobs.total - view.jobs.settled)
    outcomes = charts.stacked_bar("Jobs by outcome", charts.outcome_parts(view.outcomes, open_jobs), height=10)
    waits = tag("p", foreign(view.waits, _REASON_CHARS), class_="reason") if view.waits else None
    return join([tag("div", name, state, class_="title"), reason, outcomes, progress, waits])


def batch_details(view: BatchView, failures: Failures | None) -> Html:
    """Return the details of a batch: outcomes, costs, causes of failure, notices."""
    parts = charts.outcome_parts(view.outcomes, 0)
    keys = [(part.tone, f"{part.count:,} {part.name}") for part in parts if part.count]
    slots = None if view.max_concurrent_runs is None else f"{view.max_concurrent_runs:,}"
    stated = facts(
        [
            ("id", view.id),
            ("task", foreign(view.task) if view.task is not None else None),
            ("profile", view.profile),
            ("weight", f"{view.weight:g}, priority {view.priority}"),
            ("max live Runs", slots),
            ("items", f"{view.items:,}"),
            ("results", foreign(view.out_dir)),
        ]
    )
    notices = tag("ul", *(tag("li", foreign(each, _REASON_CHARS)) for each in view.notices), class_="notices")
    return join(
        [
            legend(keys) if keys else None,
            charts.spending_bar(spent_usd=view.cost_usd, budget_usd=view.budget_usd) if view.budget_usd else None,
            stated,
            _failure_list(failures) if failures is not None and failures.jobs else None,
            notices if view.notices else None,
        ]
    )


def _failure_list(failures: Failures) -> Html:
    rows = [
        tag(
            "li",
            tag("b", f"{kind.count:,}"),
            f" {kind.outcome.replace('_', ' ')}: ",
            foreign(kind.message or kind.error_type or "no message", _REASON_CHARS),
            tag("span", " such as ", foreign(str(kind.key), 60), class_="soft"),
        )
        for kind in failures.kinds[:_MAX_KINDS]
    ]
    left = failures.jobs - sum(kind.count for kind in failures.kinds[:_MAX_KINDS])
    more = tag("li", f"{left:,} more of other kinds", class_="soft") if left else None
    return join([tag("h4", "What did not succeed"), tag("ul", *rows, more, class_="failures")])
