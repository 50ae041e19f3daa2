"""Notices: bounded between two readings, and one sentence or two for each kind."""

from pathlib import Path
from typing import get_args

from batchrun.apify.wire import Denied
from batchrun.engine.notices import (
    MAX_UNREAD,
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
    Notices,
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
from batchrun.model import JobKey, RunId
from batchrun.words.notice_words import notice_words

NO_NEW_STARTS = "Nothing more is started; live Runs are followed to their end"

#: Each kind, and its words.
WORDS: list[tuple[Notice, str]] = [
    (
        StartUnanswered(reason="reset"),
        "A start got no usable answer (reset). Until it is clear whether its Run exists, its job is not started again",
    ),
    (
        StartUnanswered(),
        "A start got no usable answer. Until it is clear whether its Run exists, its job is not started again",
    ),
    (
        AccountRunsNotListed(reason="403"),
        "The account's Runs may not be listed (403); the task's own list is read instead",
    ),
    (
        UsageUnbounded(excess_usd=0.015, known_runs=0, max_open_runs=3),
        (
            "Budget: no option limits what a Run uses of storages and transfer. No cost of such a Run is known: after"
            " 3 Runs, starts pause until the first cost is final, about ten seconds after that Run's end. What they use"
            " of these can exceed the budget"
        ),
    ),
    (
        UsageUnbounded(excess_usd=0.015, known_runs=20, max_open_runs=63),
        (
            "Budget: no option limits what a Run uses of storages and transfer. Each start reserves $0.0150 for that,"
            " the most that one of 20 Runs cost beyond its limits. What live Runs use above that can exceed the budget"
        ),
    ),
    (
        UsageUnbounded(excess_usd=0.0, known_runs=20, max_open_runs=63),
        (
            "Budget: no option limits what a Run uses of storages and transfer. None of 20 Runs cost more than its"
            " limits, so no start reserves more. What live Runs use of these can exceed the budget"
        ),
    ),
    (SharedLogWeak(how="a server syncs now and then"), "a server syncs now and then"),
    (
        SecondRunAborted(run_id=RunId("r"), job_key=JobKey("k")),
        (
            "A start request of job k has started two Runs: something on the way to the API repeats requests."
            " The second one, Run r, is aborted unless it has ended; its cost counts"
        ),
    ),
    (
        StartsWaitForBudget(reserved_usd=0.25),
        (
            "Starts wait for the budget: each reserves $0.2500 until the cost of its Run is final,"
            " about ten seconds after the Run's end. Live Runs are left running"
        ),
    ),
    (
        BudgetExhausted(next_start_usd=0.25, spent_usd=9.8, limit_usd=10),
        f"The budget does not allow the next start: it reserves $0.2500, and $9.80 of $10.00 is spent. {NO_NEW_STARTS}",
    ),
    (
        BudgetExhausted(next_start_usd=0.25, spent_usd=9.8, limit_usd=None),
        f"The budget of all batches does not allow the next start: it reserves $0.2500. {NO_NEW_STARTS}",
    ),
    (
        CostsUnbounded(),
        f"No budget can be kept: the platform does not report what Runs cost, and nothing limits it. {NO_NEW_STARTS}",
    ),
    (
        BreakerTripped(group=None, reason="25 of the last 50 jobs did not succeed"),
        f"The breaker has stopped the batch: 25 of the last 50 jobs did not succeed. {NO_NEW_STARTS}",
    ),
    (
        ItemsAllTheSame(count=25),
        (
            "The first 25 successes all brought the same items. Do their inputs differ as they should?"
            " `batchrun plan --show 3` shows them"
        ),
    ),
    (
        BreakerTripped(group="de", reason="25 of the last 50 jobs did not succeed"),
        "The breaker has stopped group de: 25 of the last 50 jobs did not succeed. Other groups continue",
    ),
    (ManyFailed(failed=250, settled=1000), "250 of 1,000 settled jobs did not succeed (25%)"),
    (BudgetNearlySpent(spent_usd=8, limit_usd=10), "$8.00 of $10.00 is spent, 80% of the budget"),
    (
        BudgetNearlySpent(spent_usd=8, limit_usd=10, is_of_all=True),
        "$8.00 of $10.00 is spent, 80% of the budget of all batches",
    ),
    (
        StartsStayInDoubt(count=1, lasted_s=130),
        (
            "1 start in doubt, some for 2 min 10 s: whether their Runs exist is not clear. Their jobs are not started"
            " again meanwhile"
        ),
    ),
    (
        OutageLasts(reason="no answer", lasted_s=300),
        "The platform has not been usable for 5 min 00 s (no answer). No job fails because of this",
    ),
    (
        DiskLow(directory=Path("/data"), free_mb=200, reserved_mb=1024),
        (
            "The disk of /data is almost full: 200 MB are free, 1,024 MB are to stay free. No Run is started until it"
            " has room; live Runs are followed"
        ),
    ),
    (
        BatchEnded(reason="", settled=10, succeeded=9, left=0, items=12, cost_usd=1.5),
        "Finished. 9 of 10 settled jobs succeeded; 12 items, $1.50",
    ),
    (
        BatchEnded(reason="the disk is full.", settled=10, succeeded=9, left=3, items=12, cost_usd=1.5),
        "Stopped: the disk is full. 9 of 10 settled jobs succeeded, 3 jobs left; 12 items, $1.50",
    ),
    (BatchFailed(reason="No credit is left"), f"No credit is left. {NO_NEW_STARTS}"),
    (
        RunSuspect(run_id=RunId("r1"), job_key=JobKey("k1"), reason="no new log line for 60 s"),
        "Run r1 of job k1: no new log line for 60 s",
    ),
    (
        RunAborted(run_id=RunId("r1"), job_key=JobKey("k1"), reason="the job took too long"),
        "Run r1 of job k1 is aborted: the job took too long",
    ),
    (
        AbortRefused(run_id=RunId("r1"), reason="403"),
        "The platform refuses to abort Run r1 (403). It goes on to its own end, at its cost",
    ),
    (
        ReadDenied(what=Denied.ACTOR),
        (
            "The token is not allowed to read the Actor: prices are unknown, inputs are sent unchecked, and their"
            " secret fields are recognised by name only"
        ),
    ),
    (BatchOutOfTime(), f"deadlines.max_batch_s is over. {NO_NEW_STARTS}"),
    (WaitingForFinalCosts(), "All Runs have ended. Waiting about ten seconds until their costs are final"),
    (
        ReportNotWritten(reason="disk full", out_dir=Path("my out")),
        "report.html was not written (disk full); `batchrun report 'my out'` writes it",
    ),
    (
        UnendedLine(file="jobs.csv", line=4, is_read=True),
        (
            "jobs.csv:4: the last row has no line end, or a quote in it is never closed. The file was at rest, so it"
            " was read as it is; if more is written to it, the same command reads it again as another job"
        ),
    ),
    (
        UnendedLine(file="jobs.csv", line=4, is_read=False),
        (
            "jobs.csv:4: the last row has no line end, or a quote in it is not closed, and the file is still being"
            " written, so it was not read. End it, and run the same command again"
        ),
    ),
    (
        CostsNotWritten(reason="disk full", out_dir=Path("my out")),
        "costs.jsonl was not written (disk full); `batchrun cost 'my out'` writes it",
    ),
    (
        ManyQuiet(count=500, samples=[RunSuspect(run_id=RunId("r1"), job_key=JobKey("k1"), reason="nothing new")]),
        "500 Runs are quiet, overdue or aborted for it, such as Run r1 of job k1: nothing new",
    ),
    (NoticesDropped(count=1200), "1,200 earlier notices were dropped"),
]


def test_each_kind_of_notice_has_its_words() -> None:
    """No kind is without a sentence."""
    assert [notice_words(notice) for notice, _ in WORDS] == [words for _, words in WORDS]
    assert {type(notice) for notice, _ in WORDS} == set(get_args(Notice))


def test_each_right_that_a_token_may_lack_has_its_consequence() -> None:
    """No right is without words."""
    words = [notice_words(ReadDenied(what=what)) for what in Denied]
    assert [text.startswith("The token is not allowed to read ") and ": " in text for text in words] == [True] * len(
        Denied
    )


def test_a_notice_is_taken_once_and_in_order() -> None:
    """What was taken is forgotten."""
    notices = Notices()
    notices.add(StartUnanswered())
    notices.add(BatchOutOfTime())
    assert notices.take() == [StartUnanswered(), BatchOutOfTime()]
    assert notices.take() == []


def test_unread_notices_are_bounded_and_dropped_ones_are_counted() -> None:
    """A batch without a reader keeps its newest notices; a late reader learns how many it missed, once."""
    notices = Notices()
    for n in range(MAX_UNREAD + 3):
        notices.add(BatchFailed(reason=str(n)))
    taken = notices.take()
    assert taken[0] == NoticesDropped(count=3)
    assert taken[1:] == [BatchFailed(reason=str(n)) for n in range(3, MAX_UNREAD + 3)]
    assert notices.take() == []


def test_a_notice_is_one_line_whatever_the_platform_and_the_job_file_say() -> None:
    """A Run's status message or a job key cannot look like a line of ours."""
    reason, key = "the Actor says\n100 succeeded", JobKey("a\nb")
    shown: list[Notice] = [
        BreakerTripped(group=None, reason=reason),
        BatchFailed(reason=reason),
        RunSuspect(run_id=RunId("r"), job_key=key, reason=reason),
    ]
    assert [len(notice_words(each).splitlines()) for each in shown] == [1, 1, 1]
