"""The first lines of `batchrun run`: account, task, jobs, and notes about the configuration."""

import sys

from batchrun.apify.wire import AccountInfo
from batchrun.batch.running_batch import Batch
from batchrun.cli.live_progress import edit_words
from batchrun.cli.terminal import say
from batchrun.config import Config
from batchrun.words.notice_words import notice_words
from batchrun.words.number_words import counted, money

#: Notes about lines that would do nothing new; `batchrun plan` shows all.
MAX_FUTILE_SHOWN = 3


def show_opening(batch: Batch, config: Config) -> None:
    """Print account, slots, task and jobs; then what a person may not expect of this configuration."""
    opening = batch.opening
    slots = f"{counted(opening.max_concurrent_runs, 'Run')} at once"
    account = _account_words(opening.account, is_free=config.api.is_loopback)
    say(" · ".join([*account, slots]))
    say(f"Task {opening.task.label} · {_jobs_words(batch)}")
    if batch.page_link is not None and sys.stderr.isatty():  # a log file must not contain the link's token
        say(f"Watch its Runs at {batch.page_link}")
    wanted, allowed = config.limits.max_concurrent_runs, opening.max_concurrent_runs
    if wanted != "auto" and allowed < wanted:
        say(f"Note: limits.max_concurrent_runs is {wanted}; the account allows {allowed} now.")
    for problem in opening.futile[:MAX_FUTILE_SHOWN]:
        say(f"Note: {problem}.")
    if opening.lost_fields:
        names = ", ".join(opening.lost_fields)
        say(
            f"Note: overrides replace {names} of the task's input whole, nested fields included;"
            ' jobs.merge = "deep" would keep them.'
        )
    if opening.task_edits:
        say(edit_words(opening.task_edits, "since this batch last ran"))
    for notice in batch.progress.notices.take():
        say(notice_words(notice))
    if config.jobs.limit is not None:
        say(f"Only the first {counted(config.jobs.limit, 'job')} of the file.")


def _account_words(account: AccountInfo, *, is_free: bool) -> list[str]:
    plan = f" ({account.plan})" if account.plan else ""
    words = [f"Account {account.username}{plan}" if account.id else "Account not shown"]
    if is_free:
        words.append("on this machine, free of charge")
    elif account.max_monthly_usage_usd is not None:
        left = account.max_monthly_usage_usd - (account.monthly_usage_usd or 0.0)
        words.append(f"{money(max(0.0, left))} of {money(account.max_monthly_usage_usd)} left this month")
    return words


def _jobs_words(batch: Batch) -> str:
    opening = batch.opening
    jobs = "jobs from stdin" if opening.job_count is None else counted(opening.job_count, "job")
    if not opening.settled_before and not opening.open_before:
        return jobs
    return f"{jobs}: {opening.settled_before:,} done before, {opening.open_before:,} begun"
