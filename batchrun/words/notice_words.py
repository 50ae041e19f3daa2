"""Notices as sentences, for the terminal, the worker's page and its log."""

from typing import assert_never

from batchrun.apify.wire import Denied
from batchrun.engine.notices import (
    AbortRefused,
    AccountRunsNotListed,
    BatchEnded,
    BatchFailed,
    BatchOutOfTime,
    BreakerTripped,
    BudgetExhausted,
    BudgetNearlySpent,
    CostsNotWritten,
    CostsUnbounded,
    DiskLow,
    ItemsAllTheSame,
    ManyFailed,
    ManyQuiet,
    Notice,
    NoticesDropped,
    OutageLasts,
    ReadDenied,
    ReportNotWritten,
    RunAborted,
    RunSuspect,
    SecondRunAborted,
    SharedLogWeak,
    StartsStayInDoubt,
    StartsWaitForBudget,
    StartUnanswered,
    UnendedLine,
    UsageUnbounded,
    WaitingForFinalCosts,
)
from batchrun.output.layout import COSTS, REPORT
from batchrun.runtime.shell_command import shell_command
from batchrun.words.number_words import counted, duration, money
from batchrun.words.terminal_text import one_line

_MAX_CHARS = 3000
_UNBOUNDED = "Budget: no option limits what a Run uses of storages and transfer"
_NO_NEW_STARTS = "Nothing more is started; live Runs are followed to their end"
_UNCHECKED = "inputs are sent unchecked, and their secret fields are recognised by name only"
#: What a token may not read, and what follows from that.
_DENIED = {
    Denied.ACCOUNT: "users/me: a token of another account is not noticed when the batch is resumed",
    Denied.LIMITS: (
        "users/me/limits: more Runs are started step by step, until the account refuses one or"
        " limits.max_concurrent_runs are live"
    ),
    Denied.TASK: f"the task: its options and prices are unknown, {_UNCHECKED}",
    Denied.ACTOR: f"the Actor: prices are unknown, {_UNCHECKED}",
    Denied.BUILDS: f"the Actor's builds: {_UNCHECKED}",
}


def notice_words(notice: Notice) -> str:
    """Return a notice as one or two sentences on one line: reasons are of the platform, keys of the job file."""
    return one_line(_words(notice), _MAX_CHARS)


def _words(notice: Notice) -> str:  # noqa: C901, PLR0911, PLR0912 - one sentence per kind
    match notice:
        case StartUnanswered(reason=reason):
            return (
                f"A start got no usable answer{f' ({reason})' if reason else ''}."
                " Until it is clear whether its Run exists, its job is not started again"
            )
        case AccountRunsNotListed(reason=reason):
            return f"The account's Runs may not be listed ({reason}); the task's own list is read instead"
        case UsageUnbounded(known_runs=0, max_open_runs=most):
            return (
                f"{_UNBOUNDED}. No cost of such a Run is known: after {counted(most, 'Run')}, starts pause until the"
                " first cost is final, about ten seconds after that Run's end. What they use of these can exceed the"
                " budget"
            )
        case UsageUnbounded(excess_usd=0, known_runs=known):
            return (
                f"{_UNBOUNDED}. None of {counted(known, 'Run')} cost more than its limits, so no start reserves more."
                " What live Runs use of these can exceed the budget"
            )
        case UsageUnbounded(excess_usd=usd, known_runs=known):
            return (
                f"{_UNBOUNDED}. Each start reserves {money(usd)} for that, the most that one of"
                f" {counted(known, 'Run')} cost beyond its limits. What live Runs use above that can exceed the budget"
            )
        case SecondRunAborted(run_id=run_id, job_key=key):
            return (
                f"A start request of job {key} has started two Runs: something on the way to the API repeats requests."
                f" The second one, Run {run_id}, is aborted unless it has ended; its cost counts"
            )
        case StartsWaitForBudget(reserved_usd=usd):
            return (
                f"Starts wait for the budget: each reserves {money(usd)} until the cost of its Run is final,"
                " about ten seconds after the Run's end. Live Runs are left running"
            )
        case BudgetExhausted(next_start_usd=usd, spent_usd=spent_usd, limit_usd=limit_usd):
            of_all = " of all batches" if limit_usd is None else ""
            spent = "" if limit_usd is None else f", and {money(spent_usd)} of {money(limit_usd)} is spent"
            return (
                f"The budget{of_all} does not allow the next start: it reserves {money(usd)}{spent}. {_NO_NEW_STARTS}"
            )
        case CostsUnbounded():
            return (
                "No budget can be kept: the platform does not report what Runs cost, and nothing limits it."
                f" {_NO_NEW_STARTS}"
            )
        case ItemsAllTheSame(count=count):
            return (
                f"The first {count} successes all brought the same items. Do their inputs differ as they should?"
                " `batchrun plan --show 3` shows them"
            )
        case BreakerTripped(group=None, reason=reason):
            return f"The breaker has stopped the batch: {reason}. {_NO_NEW_STARTS}"
        case BreakerTripped(group=group, reason=reason):
            return f"The breaker has stopped group {group}: {reason}. Other groups continue"
        case BatchFailed(reason=reason):
            return f"{reason}. {_NO_NEW_STARTS}"
        case RunSuspect(run_id=run_id, job_key=key, reason=reason):
            return f"Run {run_id} of job {key}: {reason}"
        case ManyQuiet(count=count, samples=samples):
            return f"{count:,} Runs are quiet, overdue or aborted for it, such as {notice_words(samples[0])}"
        case RunAborted(run_id=run_id, job_key=key, reason=reason):
            return f"Run {run_id} of job {key} is aborted: {reason}"
        case AbortRefused(run_id=run_id, reason=reason):
            return f"The platform refuses to abort Run {run_id} ({reason}). It goes on to its own end, at its cost"
        case ReadDenied(what=what):
            return f"The token is not allowed to read {_DENIED[what]}"
        case SharedLogWeak(how=how):
            return how
        case BatchOutOfTime():
            return f"deadlines.max_batch_s is over. {_NO_NEW_STARTS}"
        case WaitingForFinalCosts():
            return "All Runs have ended. Waiting about ten seconds until their costs are final"
        case ReportNotWritten(reason=reason, out_dir=out_dir):
            return f"{REPORT} was not written ({reason}); `{shell_command('batchrun', 'report', out_dir)}` writes it"
        case UnendedLine(file=file, line=line, is_read=True):
            return (
                f"{file}:{line}: the last row has no line end, or a quote in it is never closed. The file was at rest,"
                " so it was read as it is; if more is written to it, the same command reads it again as another job"
            )
        case UnendedLine(file=file, line=line):
            return (
                f"{file}:{line}: the last row has no line end, or a quote in it is not closed, and the file is still"
                " being written, so it was not read. End it, and run the same command again"
            )
        case CostsNotWritten(reason=reason, out_dir=out_dir):
            return f"{COSTS} was not written ({reason}); `{shell_command('batchrun', 'cost', out_dir)}` writes it"
        case ManyFailed(failed=failed, settled=settled):
            return f"{failed:,} of {counted(settled, 'settled job')} did not succeed ({failed / settled:.0%})"
        case BudgetNearlySpent(spent_usd=spent_usd, limit_usd=limit_usd, is_of_all=is_of_all):
            whose = "the budget of all batches" if is_of_all else "the budget"
            return f"{money(spent_usd)} of {money(limit_usd)} is spent, {spent_usd / limit_usd:.0%} of {whose}"
        case StartsStayInDoubt(count=count, lasted_s=lasted_s):
            return (
                f"{counted(count, 'start')} in doubt, some for {duration(lasted_s)}: whether their Runs exist is not"
                " clear. Their jobs are not started again meanwhile"
            )
        case OutageLasts(reason=reason, lasted_s=lasted_s):
            return f"The platform has not been usable for {duration(lasted_s)} ({reason}). No job fails because of this"
        case DiskLow(directory=directory, free_mb=free_mb, reserved_mb=reserved_mb):
            return (
                f"The disk of {directory} is almost full: {free_mb:,} MB are free, {reserved_mb:,} MB are to stay free."
                " No Run is started until it has room; live Runs are followed"
            )
        case BatchEnded(reason=reason, settled=settled, succeeded=succeeded, left=left, items=items, cost_usd=usd):
            ended = f"Stopped: {reason.removesuffix('.')}" if reason else "Finished"
            open_jobs = f", {counted(left, 'job')} left" if left else ""
            return (
                f"{ended}. {succeeded:,} of {counted(settled, 'settled job')} succeeded{open_jobs};"
                f" {counted(items, 'item')}, {money(usd)}"
            )
        case NoticesDropped(count=count):
            return f"{count:,} earlier notices were dropped"
        case _:
            assert_never(notice)
