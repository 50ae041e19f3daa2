"""What `batchrun run` shows: an opening, the progress, a closing. All of it on stderr; stdout is for data."""

import sys
import time
from contextlib import suppress
from pathlib import Path

import anyio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from batchrun.apify.wire import Account
from batchrun.batch import Batch
from batchrun.config import Config
from batchrun.ledger.commit import BAD_LINES, ITEMS, RECORDS
from batchrun.model import Ending, Outcome, Summary
from batchrun.report.progress import Snapshot, Speed, cost_words, duration, money, outcome_counts, progress_line
from batchrun.report.summary import slowest_job

#: Between two redraws of the live view, and between two plain lines.
LIVE_INTERVAL_S = 0.25
PLAIN_INTERVAL_S = 5.0


def show_opening(batch: Batch, config: Config) -> None:
    """Say whose account, which plan, how many slots, how much budget; which task; how many jobs."""
    opening = batch.opening
    slots = "1 Run at once" if opening.max_concurrent_runs == 1 else f"{opening.max_concurrent_runs} Runs at once"
    account = _account_words(opening.account, is_free=config.api.is_loopback)
    say(" · ".join([*account, slots, f"task {opening.task.label}", _jobs_words(batch)]))
    if opening.lost_fields:
        names = ", ".join(opening.lost_fields)
        say(
            f"Note: overrides replace {names} of the task's input whole, nested fields included;"
            ' jobs.merge = "deep" would keep them.'
        )
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
    return f"{jobs}, of which {opening.settled_before:,} are done and {opening.open_before:,} were under way"


async def watch_progress(batch: Batch) -> None:
    """Show progress until cancelled: a live line on a terminal, else a plain line every few seconds."""
    speed = Speed()
    if not sys.stderr.isatty():
        await _plain(batch, speed)
        return
    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        outage = Outage()
        while True:
            if word := outage.word(batch):
                console.print(Text(word))
            live.update(Text(_line(batch, speed), overflow="ellipsis", no_wrap=True), refresh=True)
            await anyio.sleep(LIVE_INTERVAL_S)


async def _plain(batch: Batch, speed: Speed) -> None:
    outage = Outage()
    shown_at = anyio.current_time()
    speed.note(shown_at, 0)
    while True:
        await anyio.sleep(1)
        if word := outage.word(batch):
            say(word)
        if anyio.current_time() - shown_at >= PLAIN_INTERVAL_S:
            shown_at = anyio.current_time()
            say(f"{time.strftime('%H:%M:%S')}  {_line(batch, speed)}")


class Outage:
    """Says once that the platform cannot be reached, and once that it can be again."""

    def __init__(self) -> None:
        self._began_at: float | None = None

    def word(self, batch: Batch) -> str:
        """Return what is new, or nothing."""
        reason = batch.outage
        if reason and self._began_at is None:
            self._began_at = anyio.current_time()
            return f"The platform cannot be reached ({reason}); trying on. Nothing is lost, no job fails for it."
        if not reason and self._began_at is not None:
            lasted = duration(anyio.current_time() - self._began_at)
            self._began_at = None
            return f"The platform can be reached again, after {lasted}."
        return ""


def _line(batch: Batch, speed: Speed) -> str:
    progress, opening = batch.progress, batch.opening
    settled = progress.settled
    speed.note(anyio.current_time(), settled)
    snapshot = Snapshot(
        settled=opening.settled_before + settled,
        succeeded=opening.succeeded_before + progress.outcomes.get(Outcome.SUCCEEDED, 0),
        job_count=opening.job_count,
        live_runs=batch.live_runs,
        postponed=progress.postponed,
        in_doubt=progress.in_doubt,
        cost_usd=opening.cost_before_usd + progress.cost_usd,
    )
    return progress_line(snapshot, speed.per_s())


def show_closing(summary: Summary, config: Config, *, elapsed_s: float, command: str, has_settled_any: bool) -> None:
    """Say what the batch came to, where it stands, and what can be done with what is left."""
    out_dir = Path(summary.out_dir)
    outcomes = outcome_counts(summary.outcomes, summary.empty_successes)
    if has_settled_any or summary.ending is not Ending.FINISHED:
        say(f"{_ending_words(summary)} in {duration(elapsed_s)}: {outcomes}")
    else:
        say(f"Nothing was left to do: this batch is finished ({outcomes}). Another --out carries the file out anew")
    if summary.duplicates:
        say(f"{summary.duplicates:,} lines repeat other lines and were passed over")
    say(f"records  {out_dir / RECORDS}  ({summary.settled:,} jobs)")
    if config.output.items == "file":
        say(f"items    {out_dir / ITEMS}  ({summary.items:,} items)")
    if invalid := summary.outcomes.get(Outcome.INVALID, 0):
        say(f"bad      {out_dir / BAD_LINES}  ({invalid:,} lines, each with its reason)")
    if (slowest := slowest_job(out_dir)) is not None:
        say(f"slowest  {slowest.key}  ({duration(slowest.run_s)})")
    say(f"cost     {cost_words(summary)}")
    for line in _advice(summary, config, command):
        say(line)


def _ending_words(summary: Summary) -> str:
    return {
        Ending.FINISHED: "Finished",
        Ending.IN_DOUBT: "Finished, but for starts that stay in doubt,",
        Ending.INTERRUPTED: "Stopped",
    }[summary.ending]


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
    return [*lines, f"resume   {command}", f"abort    batchrun abort {summary.out_dir}"]


def say(text: str) -> None:
    """Print a line for people; that nobody listens any more (`| head`) stops no batch."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
