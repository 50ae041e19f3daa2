"""What `batchrun run` shows: an opening, the progress, a closing. All of it on stderr; stdout is for data."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from batchrun.apify.wire import Account
from batchrun.batch.open_batch import Batch
from batchrun.cli.terminal import say
from batchrun.config import Config
from batchrun.model import Ending, Outcome, Summary
from batchrun.output.layout import BAD_LINES, ITEMS, RECORDS
from batchrun.policy.forecast import Estimate
from batchrun.preflight.recent_runs import Forecast
from batchrun.report.batch_summary import slowest_run
from batchrun.report.notice_words import notice_words
from batchrun.report.progress_words import (
    ProgressSnapshot,
    Speed,
    cost_words,
    duration,
    ending_words,
    money,
    outcome_counts,
    progress_line,
    records_words,
    slot_words,
)

#: Between two redraws of the live view, and between two plain lines.
LIVE_INTERVAL_S = 0.25
PLAIN_INTERVAL_S = 5.0


def show_opening(batch: Batch, config: Config) -> None:
    """Say whose account, which plan, how many slots, how much budget; which task; how many jobs."""
    opening = batch.opening
    slots = "1 Run at once" if opening.max_concurrent_runs == 1 else f"{opening.max_concurrent_runs} Runs at once"
    account = _account_words(opening.account, is_free=config.api.is_loopback)
    say(" · ".join([*account, slots, f"task {opening.task.label}", _jobs_words(batch)]))
    wanted, room = config.limits.max_concurrent_runs, opening.max_concurrent_runs
    if wanted != "auto" and room < wanted:
        say(f"Note: limits.max_concurrent_runs is {wanted}; the account has room for {room} now.")
    if opening.lost_fields:
        names = ", ".join(opening.lost_fields)
        say(
            f"Note: overrides replace {names} of the task's input whole, nested fields included;"
            ' jobs.merge = "deep" would keep them.'
        )
    if opening.task_edits:
        say(edit_words(opening.task_edits, "since the batch was last at work"))
    if config.jobs.limit is not None:
        say(f"Only the first {config.jobs.limit:,} jobs of the file.")


def _account_words(account: Account, *, is_free: bool) -> list[str]:
    words = [f"Account {account.username}" + (f" ({account.plan})" if account.plan else "")]
    if is_free:
        words.append("on this machine, nothing to pay")
    elif account.max_monthly_usage_usd is not None:
        left = account.max_monthly_usage_usd - (account.monthly_usage_usd or 0.0)
        words.append(f"{money(max(0.0, left))} of {money(account.max_monthly_usage_usd)} left this month")
    return words


def _jobs_words(batch: Batch) -> str:
    opening = batch.opening
    jobs = "jobs from stdin" if opening.job_count is None else f"{opening.job_count:,} jobs"
    if not opening.settled_before and not opening.open_before:
        return jobs
    return f"{jobs}, of which {opening.settled_before:,} are done and {opening.open_before:,} are read in and open"


def edit_words(changed: Sequence[str], when: str) -> str:
    """Say that the task was edited, and what that means."""
    return (
        f"Warning: the task's {' and '.join(changed)} {'was' if len(changed) == 1 else 'were'} edited {when}:"
        " Runs that start now differ from those before"
    )


def forecast_lines(forecast: Forecast | None, *, are_unknowns_told: bool = True) -> list[str]:
    """Say how long a batch takes and what it costs, what that rests on, and what is not known."""
    if forecast is None:
        return []
    if forecast.elapsed_s is None or forecast.run_s is None:
        lines = []
    else:
        at_once = "1 Run" if forecast.slots == 1 else f"{forecast.slots:,} Runs"
        cost = "cost unknown" if forecast.cost_usd is None else _spread(forecast.cost_usd, money)
        each = "" if forecast.run_cost_usd is None else f" and costs {_spread(forecast.run_cost_usd, _small_money)}"
        lines = [
            f"forecast  {_spread(forecast.elapsed_s, duration)} with {at_once} at once; {cost}",
            f"          a Run takes {_spread(forecast.run_s, duration)}{each}, by {forecast.samples:,} recent ones",
        ]
    return lines + ([f"unknown   {each}" for each in forecast.unknown] if are_unknowns_told else [])


def _small_money(usd: float) -> str:
    return f"${usd:.6f}" if 0 < usd < 0.001 else money(usd)


def _spread(spread: Estimate, words: Callable[[float], str]) -> str:
    return f"{words(spread.p50)} (p90 {words(spread.p90)})"


class News:
    """What is to be told at once: notices of the engine, edits of the task, an outage's beginning and end."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._edits_told = 0
        self._outage_began_at: float | None = None

    def words(self) -> list[str]:
        """Return what is new."""
        notices = map(notice_words, self._batch.progress.notices.take())
        edits = self._batch.task_edits[self._edits_told :]
        self._edits_told += len(edits)
        return [*notices, *(edit_words(changed, "just now") for changed in edits), *self._outage_words()]

    def _outage_words(self) -> list[str]:
        reason = self._batch.outage
        if reason and self._outage_began_at is None:
            self._outage_began_at = anyio.current_time()
            return [f"The platform cannot be reached ({reason}); trying on. Nothing is lost, no job fails for it."]
        if not reason and self._outage_began_at is not None:
            lasted = duration(anyio.current_time() - self._outage_began_at)
            self._outage_began_at = None
            return [f"The platform can be reached again, after {lasted}."]
        return []


async def watch_progress(batch: Batch) -> None:
    """Show progress until cancelled: a live line on a terminal, else a plain line every few seconds."""
    news = News(batch)
    try:
        await (_live(batch, news) if sys.stderr.isatty() else _plain(batch, news))
    finally:
        for word in news.words():
            say(word)


async def _live(batch: Batch, news: News) -> None:
    speed = Speed()
    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            for word in news.words():
                console.print(Text(word))
            live.update(Text(_line(batch, speed), overflow="ellipsis", no_wrap=True), refresh=True)
            await anyio.sleep(LIVE_INTERVAL_S)


async def _plain(batch: Batch, news: News) -> None:
    speed = Speed()
    shown_at = anyio.current_time()
    speed.note(shown_at, 0)
    while True:
        await anyio.sleep(1)
        for word in news.words():
            say(word)
        if anyio.current_time() - shown_at >= PLAIN_INTERVAL_S:
            shown_at = anyio.current_time()
            say(f"{time.strftime('%H:%M:%S')}  {_line(batch, speed)}")


def _line(batch: Batch, speed: Speed) -> str:
    progress, opening = batch.progress, batch.opening
    settled = progress.settled
    speed.note(anyio.current_time(), settled)
    snapshot = ProgressSnapshot(
        settled=opening.settled_before + settled,
        succeeded=opening.succeeded_before + progress.outcomes.get(Outcome.SUCCEEDED, 0),
        job_count=opening.job_count,
        live_runs=batch.live_runs,
        postponed=progress.postponed,
        in_doubt=progress.in_doubt,
        cost_usd=opening.cost_before_usd + progress.cost_usd,
    )
    return progress_line(snapshot, speed.per_s())


def show_closing(
    summary: Summary, config: Config, *, elapsed_s: float, command: str, has_settled_any: bool, report: Path | None
) -> None:
    """Say what the batch came to, where it stands, and what can be done with what is left."""
    outcomes = outcome_counts(summary.outcomes, summary.empty_successes)
    if has_settled_any or summary.ending is not Ending.FINISHED:
        say(f"{ending_words(summary.ending)} in {duration(elapsed_s)}: {outcomes}")
    else:
        say(f"Nothing was left to do: this batch is finished ({outcomes}). Another --out carries the file out anew")
    if summary.duplicates:
        say(f"{summary.duplicates:,} lines repeat other lines and were passed over")
    for line in _file_lines(summary, config, report):
        say(line)
    if summary.open_jobs:
        say(f"open     {summary.open_jobs:,} jobs were read in and are not done")
    if (slowest := slowest_run(Path(summary.out_dir))) is not None:
        say(f"slowest  {slowest.key}  ({duration(slowest.run_s)})")
    if slots := slot_words(summary):
        say(f"slots    {slots}")
    say(f"cost     {cost_words(summary)}")
    if summary.settled > summary.outcomes.get(Outcome.SUCCEEDED, 0) + summary.outcomes.get(Outcome.INVALID, 0):
        say(f"why      batchrun failures {summary.out_dir}")
    for line in _advice(summary, config, command):
        say(line)


def _file_lines(summary: Summary, config: Config, report: Path | None) -> list[str]:
    out_dir = Path(summary.out_dir)
    lines = [f"records  {out_dir / RECORDS}  ({records_words(summary)})"]
    if config.output.items == "file":
        lines.append(f"items    {out_dir / ITEMS}  ({summary.items:,} items)")
    if invalid := summary.outcomes.get(Outcome.INVALID, 0):
        lines.append(f"bad      {out_dir / BAD_LINES}  ({invalid:,} lines, each with its reason)")
    if report is not None:
        lines.append(f"report   {report}")
    return lines


def _advice(summary: Summary, config: Config, command: str) -> list[str]:
    if summary.ending is Ending.FINISHED:
        return []
    lines = []
    if summary.live_runs:
        fate = (
            "end with this process and start again when the batch is resumed"
            if config.api.is_embedded
            else "go on" + ("" if config.api.is_loopback else " and cost money")
        )
        lines.append(f"{summary.live_runs:,} Runs {fate}")
    if summary.in_doubt:
        lines.append(f"{summary.in_doubt:,} starts were not answered: whether their Runs exist is not known")
    if summary.ending is Ending.IN_DOUBT:
        lines.append(f"resolve  batchrun resolve {summary.out_dir}  (shows which Runs may be theirs, and asks you)")
        return lines
    if summary.ending is Ending.TRIPPED:
        lines.append(f"rerun    batchrun retry {summary.out_dir} --tripped  (those that tripped it, then the rest)")
    if summary.ending is Ending.OUT_OF_BUDGET:
        lines.append("resume   the same command with a larger --budget-usd (limits.budget_usd)")
    else:
        lines.append(f"resume   {command}")
    may_live = summary.live_runs or summary.in_doubt
    return [*lines, *([f"abort    batchrun abort {summary.out_dir}"] if may_live else [])]
