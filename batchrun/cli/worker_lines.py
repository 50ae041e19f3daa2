"""The status of a worker and of its batches, as lines and as a table. Formatting only."""

from collections.abc import Sequence

from batchrun.model import JsonObject, Outcome
from batchrun.words.number_words import counted, money
from batchrun.words.progress_words import ProgressSnapshot, outcome_counts, progress_line
from batchrun.words.terminal_text import one_line, table_lines
from batchrun.worker.status_views import BatchView, WorkerView

_HEADINGS = ("id", "name", "state", "done", "not succeeded", "live", "cost")
_TEXT_COLUMNS = 3
_NAME_CHARS = 40
_REASON_CHARS = 200


def label(batch: BatchView) -> str:
    """Return a batch's name, and its id if that differs."""
    name = one_line(batch.name, _NAME_CHARS)
    return name if batch.name == batch.id else f"{name} ({batch.id})"


def state_words(batch: BatchView) -> str:
    """Return a batch's state, with its reason if it has one."""
    state = batch.state.replace("_", " ")
    return f"{state}: {one_line(batch.reason, _REASON_CHARS)}" if batch.reason else state


def batch_progress(batch: BatchView) -> str:
    """Return a batch's progress in one line."""
    jobs = batch.jobs
    snapshot = ProgressSnapshot(
        settled=jobs.settled,
        succeeded=jobs.succeeded,
        job_count=jobs.total,
        live_runs=batch.live_runs,
        postponed=jobs.postponed,
        in_doubt=jobs.in_doubt,
        cost_usd=batch.cost_usd,
        is_stopping=batch.state.is_stopping,
    )
    return progress_line(snapshot, batch.settled_per_s)


def batch_lines(batch: BatchView) -> list[str]:
    """Return the status of a batch as lines."""
    jobs = batch.jobs
    total = "" if jobs.total is None else f" of about {jobs.total:,}"
    slots = "" if batch.max_concurrent_runs is None else f" of at most {batch.max_concurrent_runs:,}"
    waiting = f", {counted(jobs.postponed, 'job')} before the next attempt" if jobs.postponed else ""
    doubts = f", {counted(jobs.in_doubt, 'start')} in doubt" if jobs.in_doubt else ""
    budget = "" if batch.budget_usd is None else f" of {money(batch.budget_usd)}"
    return [
        f"batch    {label(batch)}",
        f"state    {state_words(batch)}",
        *(
            [f"trouble  {one_line(batch.attention, _REASON_CHARS)}"]
            if batch.attention not in ("", batch.reason)
            else []
        ),
        *([f"task     {batch.task}"] if batch.task is not None else []),
        *([f"shards   {batch.shards}"] if batch.shards is not None else []),
        f"weight   {batch.weight:g}, priority {batch.priority}",
        f"jobs     {jobs.settled:,}{total} done: {outcome_counts(batch.outcomes)}",
        f"runs     {batch.live_runs:,} live{slots}{waiting}{doubts}",
        *([f"waits    {batch.waits.removeprefix('waiting ')}"] if batch.waits else []),
        f"items    {batch.items:,}",
        f"cost     {money(batch.cost_usd)}{budget}{' (not final)' if batch.state.is_under_way else ''}",
        f"results  {batch.out_dir}",
        *(f"note     {one_line(notice, _REASON_CHARS)}" for notice in batch.notices),
    ]


def worker_lines(worker: WorkerView) -> list[str]:
    """Return the status of a worker as lines."""
    slots, budget = worker.slots, worker.budget
    limit = "" if slots.limit is None else f" of {slots.limit:,}"
    memory = "" if slots.max_memory_mb is None else f" of {slots.max_memory_mb:,}"
    counts = [f"{count:,} {state.replace('_', ' ')}" for state, count in worker.batches.items()]
    live = counted(worker.live_runs, "live Run")
    lines = [
        f"worker   {_condition(worker)}",
        f"platform {worker.platform}",
        f"batches  {', '.join(counts) or 'none yet'}",
        f"slots    {slots.used:,}{limit} in use, {slots.memory_mb:,}{memory} MB; {live}",
    ]
    if budget is not None and budget.limit_usd is not None:
        used = f"{money(budget.spent_usd)} spent, {money(budget.reserved_usd)} reserved"
        lines.append(f"budget   {money(budget.limit_usd)}: {used}")
    return lines


def _condition(worker: WorkerView) -> str:
    """Return whether a worker is ready, or what it waits for."""
    return worker.why_not_ready or "ready"


def batch_table(batches: Sequence[BatchView]) -> list[str]:
    """Return batches as the lines of a table; why a batch needs a person, or is as it is, stands on a line below it."""
    heading, *rows = table_lines([_HEADINGS, *map(_cells, batches)], _TEXT_COLUMNS)
    lines = [heading]
    for batch, row in zip(batches, rows, strict=True):
        lines.append(row)
        if why := batch.attention or batch.reason:
            lines.append(f"  {one_line(why, _REASON_CHARS)}")
    return lines


def _cells(batch: BatchView) -> tuple[str, ...]:
    jobs = batch.jobs
    done = f"{jobs.settled:,}" if jobs.total is None else f"{jobs.settled:,}/{jobs.total:,}"
    return (
        batch.id,
        one_line(batch.name, _NAME_CHARS),
        batch.state.replace("_", " "),
        done,
        f"{sum(batch.outcomes.values()) - batch.outcomes.get(Outcome.SUCCEEDED, 0):,}",
        f"{batch.live_runs:,}",
        money(batch.cost_usd),
    )


def limit_lines(limits: JsonObject) -> list[str]:
    """Return limits as lines; an unset one is `none`."""
    width = max(map(len, limits), default=0)
    return [f"{key.ljust(width)}  {'none' if value is None else value}" for key, value in limits.items()]
