"""What people are notified of: each kind of event once, also over processes, until the batch has ended and goes on."""

from dataclasses import replace

import anyio
import pytest

from batchrun.batch.notify_conditions import DOUBT_GRACE_S, MAX_SAMPLES, QUIET_INTERVAL_S, NotifyConditions
from batchrun.config.notify_settings import NotifyConfig
from batchrun.engine.notices import BreakerTripped, RunSuspect
from batchrun.engine.progress import Progress
from batchrun.errors import BatchRefused
from batchrun.ledger.facts import NOTIFIED
from batchrun.ledger.memory import MemoryLedger
from batchrun.model import Ending, JobKey, Outcome, RunId, Summary
from batchrun.notify.delivery import BatchNotifier
from batchrun.notify.notification import Notification
from batchrun.policy.budget import Budget

SUMMARY = Summary(
    ending=Ending.FINISHED,
    outcomes={Outcome.SUCCEEDED: 9, Outcome.FAILED: 1},
    duplicates=0,
    open_jobs=0,
    live_runs=0,
    in_doubt=0,
    items=12,
    earlier_records=0,
    empty_successes=0,
    cost_usd=0.5,
    unknown_costs=0,
    open_costs=0,
    second_runs=0,
    out_dir="shop.out",
)
QUIET = RunSuspect(run_id=RunId("r1"), job_key=JobKey("k"), reason="nothing new for 60 s")


class Watched:
    """A batch whose conditions the test sets, over several processes with one ledger."""

    def __init__(self, *, is_supervised: bool = False, **config: object) -> None:
        self.ledger = MemoryLedger()
        self.budget = Budget(10.0)
        self.outage = ""
        self.sent: list[Notification] = []
        self.config = NotifyConfig.model_validate(config)
        self.has_channel = True
        self.to = BatchNotifier(notifier=self, batch={"name": "shop"}, is_supervised=is_supervised)
        self.start_process()

    def wants(self, event: str) -> bool:
        """Return what a notifier with a channel would."""
        return self.has_channel and event in self.config.events

    def start_process(self) -> None:
        """Begin as a new process does: with the ledger, and nothing else."""
        self.progress = Progress()
        self.watch = NotifyConditions(
            self.progress,
            self.budget,
            lambda: self.outage,
            self.ledger,
            self.ledger.fact(NOTIFIED),
            self.to,
            counts=lambda: (self.progress.settled, self.progress.outcomes.get(Outcome.SUCCEEDED, 0)),
            doubts_end_s=65,
        )

    async def send(self, notification: Notification) -> None:
        self.sent.append(notification)

    async def watch_for(self, seconds: float) -> list[str]:
        """Watch for a while; return the events that were sent in this time."""
        before = len(self.sent)
        with anyio.move_on_after(seconds):
            await self.watch.run()
        return [each.event for each in self.sent[before:]]

    async def end(self, ending: Ending, failure: BatchRefused | None = None) -> list[str]:
        """End the process's work; return the events that were sent."""
        before = len(self.sent)
        await self.watch.end(replace(SUMMARY, ending=ending), failure)
        return [each.event for each in self.sent[before:]]


async def test_a_condition_is_notified_once_also_by_the_next_process() -> None:
    """A Run that is quiet twice, and once more after a restart: one notification."""
    it = Watched()
    it.progress.notices.add(QUIET)
    it.progress.notices.add(QUIET)
    assert await it.watch_for(5) == ["quiet_run"]
    assert it.sent[0].text == "Batch shop: Run r1 of job k: nothing new for 60 s"
    it.start_process()
    it.progress.notices.add(QUIET)
    assert await it.watch_for(5) == []


async def test_each_quiet_run_is_notified_once_and_many_together() -> None:
    """The first at once; five hundred that follow are one notification, after the interval or at the end."""
    it = Watched()
    it.progress.notices.add(QUIET)
    assert await it.watch_for(1) == ["quiet_run"]
    for number in range(2, 502):
        it.progress.notices.add(replace(QUIET, run_id=RunId(f"r{number}")))
        it.progress.notices.take()  # its other reader
    assert await it.watch_for(QUIET_INTERVAL_S - 5) == []
    assert await it.watch_for(10) == ["quiet_run"]
    assert it.sent[1].text == (
        "Batch shop: 500 Runs are quiet, overdue or aborted for it, such as Run r2 of job k: nothing new for 60 s"
    )
    assert (it.sent[1].data["count"], len(it.sent[1].data["samples"])) == (500, MAX_SAMPLES)
    it.progress.notices.add(replace(QUIET, run_id=RunId("last")))
    assert await it.end(Ending.FINISHED) == ["quiet_run", "finished"]
    assert len({each.id for each in it.sent}) == 4


async def test_changed_notifications_hold_for_a_batch_that_is_open() -> None:
    """Without a way to reach people, nothing is noted as sent; what lasts is sent once there is one."""
    it = Watched()
    it.has_channel = False
    it.progress.outcomes = {Outcome.FAILED: 5, Outcome.SUCCEEDED: 25}
    it.budget.spent_usd = 9.0
    assert await it.watch_for(3) == []
    it.has_channel, it.config = True, NotifyConfig(failed_share=0.5)
    assert await it.watch_for(3) == ["budget_share"]
    it.config = NotifyConfig(failed_share=0.1)
    assert await it.watch_for(3) == ["failed_share"]


async def test_a_process_killed_before_it_has_noted_a_notification_sends_it_with_the_same_id() -> None:
    """At least once; a receiver recognises the second one."""
    it = Watched()
    it.progress.notices.add(QUIET)
    await it.watch_for(2)
    noted = it.ledger.fact(NOTIFIED)
    assert noted is not None
    await it.ledger.note_notified(replace(noted, quiet_runs=[]))  # as if it had died in between
    it.start_process()
    it.progress.notices.add(QUIET)
    assert await it.watch_for(2) == ["quiet_run"]
    assert it.sent[0].id == it.sent[1].id


async def test_a_batch_that_goes_on_after_its_end_notifies_anew() -> None:
    """Tripped, run again, tripped again: two notifications with two ids."""
    it = Watched()
    for _ in range(2):
        it.start_process()
        it.progress.started = 1
        it.progress.notices.add(BreakerTripped(group=None, reason="3 of the last 3 jobs did not succeed"))
        assert await it.watch_for(2) == ["tripped"]
        assert await it.end(Ending.TRIPPED) == []
    first, second = it.sent
    assert first.id != second.id


async def test_the_end_is_notified_with_the_counts_and_not_again_by_an_idle_process() -> None:
    """The same command on a finished batch does nothing; an interruption by a person needs no notification."""
    it = Watched()
    assert await it.end(Ending.INTERRUPTED) == []
    assert await it.end(Ending.FINISHED) == ["finished"]
    assert it.sent[0].text == "Batch shop: Finished. 9 of 10 settled jobs succeeded; 12 items, $0.5000"
    assert it.sent[0].data == {
        "reason": "",
        "settled": 10,
        "succeeded": 9,
        "left": 0,
        "items": 12,
        "cost_usd": 0.5,
    }
    it.start_process()
    assert await it.end(Ending.FINISHED) == []


async def test_a_batch_that_ends_in_doubt_or_is_refused_is_stopped() -> None:
    """Both need a person."""
    it = Watched()
    assert await it.end(Ending.IN_DOUBT) == ["in_doubt", "stopped"]
    it = Watched()
    assert await it.end(Ending.REFUSED, BatchRefused("no such task")) == ["stopped"]
    assert it.sent[0].text.startswith("Batch shop: Stopped: no such task. 9 of 10 settled jobs succeeded")


async def test_shares_of_failures_and_of_the_budget_are_notified_when_they_are_passed() -> None:
    """A share of few jobs says nothing."""
    it = Watched(failed_share=0.1, budget_share=0.5)
    it.progress.outcomes = {Outcome.FAILED: 5, Outcome.SUCCEEDED: 14}
    it.budget.spent_usd = 4.99
    assert await it.watch_for(3) == []
    it.progress.outcomes = {Outcome.FAILED: 5, Outcome.SUCCEEDED: 15}
    it.budget.spent_usd = 5.0
    assert sorted(await it.watch_for(3)) == ["budget_share", "failed_share"]
    texts = sorted(each.text for each in it.sent)
    assert texts == [
        "Batch shop: $5.00 of $10.00 is spent, 50% of the budget",
        "Batch shop: 5 of 20 settled jobs did not succeed (25%)",
    ]


async def test_an_outage_and_starts_in_doubt_are_notified_once_they_last() -> None:
    """Both are common and pass: a short one is not notified, and the next one counts from its own beginning."""
    it = Watched(outage_s=100)
    it.outage, it.progress.in_doubt = "no answer", 2
    assert await it.watch_for(60) == []
    it.outage, it.progress.in_doubt = "", 0
    assert await it.watch_for(10) == []
    it.outage, it.progress.in_doubt = "no answer", 2
    assert await it.watch_for(99) == []
    assert sorted(await it.watch_for(65 + DOUBT_GRACE_S - 95)) == ["in_doubt", "outage"]


@pytest.mark.parametrize("event", ["quiet_run", "finished"])
async def test_what_is_not_asked_for_is_not_sent(event: str) -> None:
    """`events` decides."""
    it = Watched(events=[event])
    it.progress.notices.add(QUIET)
    assert [*await it.watch_for(2), *await it.end(Ending.FINISHED)] == [event]


async def test_a_worker_decides_about_outages_and_stops_itself() -> None:
    """Thirty batches in one outage make one notification, which is the worker's."""
    it = Watched(is_supervised=True, outage_s=10)
    it.outage = "no answer"
    assert await it.watch_for(60) == []
    assert await it.end(Ending.REFUSED, BatchRefused("no credit")) == []
