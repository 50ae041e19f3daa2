"""`batchrun status DIR`: the status of a batch."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from batchrun.cli.json_output import print_json
from batchrun.cli.terminal import answer_lines
from batchrun.ledger.protocol import NotedWait
from batchrun.model import Summary
from batchrun.report.batch_status import BudgetUse, Status, read_status
from batchrun.runtime.shell_command import shell_command
from batchrun.words.number_words import counted, money
from batchrun.words.progress_words import cost_words, outcome_counts, records_words, skipped_words
from batchrun.words.terminal_text import one_line
from batchrun.words.wait_words import wait_words

#: Max characters of what the platform or a job file has written.
_MAX_CHARS = 500


def show_status(directory: Path, *, is_json: bool) -> None:
    """Print the status of a batch; works while another process runs it."""
    found = read_status(directory)
    if is_json:
        print_json(asdict(found))
        return
    answer_lines(_status_lines(found))


def _runs_words(found: Status) -> str:
    open_starts = found.summary.in_doubt - found.lost_answers
    parts = [f"{found.summary.live_runs:,} live" + (" when last seen" if found.pid is None else "")]
    if open_starts > 0:
        parts.append(f"{counted(open_starts, 'start')} under way")
    if found.lost_answers:
        parts.append(f"{counted(found.lost_answers, 'start')} in doubt")
    return ", ".join(parts)


def _given_up_words(summary: Summary) -> str:
    abort, retry = (shell_command("batchrun", verb, summary.out_dir) for verb in ("abort", "retry"))
    return (
        f"given up {counted(summary.given_up_runs, 'Run')} that could not be followed and may be live:"
        f" `{abort}` aborts, `{retry}` looks again"
    )


def _budget_words(budget: BudgetUse) -> str:
    left_usd = max(0.0, budget.limit_usd - budget.spent_usd - budget.reserved_usd)
    return (
        f"{money(left_usd)} left of {money(budget.limit_usd)}: {money(budget.spent_usd)} spent, "
        f"{money(budget.reserved_usd)} reserved until costs are final"
    )


def _left_words(summary: Summary) -> str:
    if not summary.left_jobs:
        is_read = summary.settled or summary.unread_jobs is not None
        return "; none left" if is_read else "; the job file is not read yet"
    total = summary.settled + summary.left_jobs
    begun = f" ({summary.open_jobs:,} of them begun)" if summary.unread_jobs else ""
    return f"; {summary.left_jobs:,} of about {total:,} left{begun}"


def _waits(wait: NotedWait) -> str:
    now = datetime.now(UTC)
    waited_s, noted_s = (now - wait.began_at).total_seconds(), (now - wait.noted_at).total_seconds()
    return wait_words(wait.reasons, waited_s, noted_s)


def _status_lines(found: Status) -> list[str]:
    summary = found.summary
    lines = [
        f"process  {found.pid if found.pid is not None else 'none'}",
        f"jobs     {outcome_counts(summary.outcomes, summary.empty_successes)}{_left_words(summary)}",
        *([f"skipped  {skipped_words(summary)}"] if summary.duplicates else []),
        *([f"records  {records_words(summary)}"] if summary.earlier_records else []),
        f"runs     {_runs_words(found)}, {counted(found.waiting, 'job')} waiting",
        *([_given_up_words(summary)] if summary.given_up_runs else []),
        *([f"waits    {_waits(found.wait).removeprefix('waiting ')}"] if found.wait is not None else []),
        f"items    {summary.items:,}",
        f"cost     {cost_words(summary)}",
        *([f"budget   {_budget_words(found.budget)}"] if found.budget is not None else []),
        *(
            "breaker  last stopped "
            + one_line(f"{'the batch' if trip.group is None else f'group {trip.group}'}: {trip.reason}", _MAX_CHARS)
            for trip in found.trips
        ),
    ]
    if found.doubts and found.pid is None:
        lines.append(
            f"doubt    {counted(len(found.doubts), 'start')} without an answer; `batchrun run` asks the platform,"
        )
        lines.append(f"         `{shell_command('batchrun', 'resolve', summary.out_dir)}` asks you:")
        lines += [
            f"         {one_line(each.job_key, _MAX_CHARS)}, intended at {each.attempt.intended_at:%Y-%m-%d %H:%M:%S}Z"
            for each in found.doubts
        ]
    return lines
