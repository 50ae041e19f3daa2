"""Notifies people of what happens to a batch: each kind of event once, until the batch ends and goes on again.

What the ledger notes of that makes it once in all processes together; see `_send` for what a kill does.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import anyio

from batchrun.config.notify_settings import NotifyEvent
from batchrun.engine.notices import (
    MAX_QUIET,
    BatchEnded,
    BatchFailed,
    BatchOutOfTime,
    BreakerTripped,
    BudgetExhausted,
    BudgetNearlySpent,
    CostsUnbounded,
    DiskLow,
    ManyFailed,
    ManyQuiet,
    Notice,
    OutageLasts,
    RunAborted,
    RunSuspect,
    StartsStayInDoubt,
)
from batchrun.engine.progress import Progress
from batchrun.errors import BatchrunError, OutputError
from batchrun.ledger.protocol import Ledger, Notified
from batchrun.model import Ending, Outcome, RunId, Summary
from batchrun.notify.delivery import BatchNotifier
from batchrun.notify.notification import Notification
from batchrun.policy.budget import Budget
from batchrun.runtime.condition_age import ConditionAge
from batchrun.words.notice_words import notice_words

#: Seconds between two looks.
INTERVAL_S = 1.0
#: Settled jobs from which on the share of failed ones says something.
MIN_SETTLED = 20
#: Seconds that a start may be in doubt beyond the horizon and the listing lag: until then its Run is usually found.
DOUBT_GRACE_S = 60.0
#: Seconds between two notifications of quiet Runs: 500 that hang together are one, with their number.
QUIET_INTERVAL_S = 300.0
#: Max Runs that such a one lists.
MAX_SAMPLES = 20

_EVENTS: dict[type[Notice], NotifyEvent] = {
    BreakerTripped: "tripped",
    BudgetExhausted: "out_of_budget",
    CostsUnbounded: "out_of_budget",
    ManyFailed: "failed_share",
    BudgetNearlySpent: "budget_share",
    StartsStayInDoubt: "in_doubt",
    OutageLasts: "outage",
    DiskLow: "disk_low",
    BatchFailed: "stopped",
    BatchOutOfTime: "stopped",
}
_ENDINGS: dict[Ending, tuple[NotifyEvent, ...]] = {
    Ending.FINISHED: ("finished",),
    Ending.TRIPPED: ("tripped",),
    Ending.OUT_OF_BUDGET: ("out_of_budget",),
    Ending.OUT_OF_TIME: ("stopped",),
    Ending.REFUSED: ("stopped",),
    Ending.IN_DOUBT: ("in_doubt", "stopped"),
}
#: Why a batch has ended with jobs left, in words.
_REASONS = {
    Ending.TRIPPED: "the breaker has stopped it",
    Ending.OUT_OF_BUDGET: "the budget does not allow the next start",
    Ending.OUT_OF_TIME: "deadlines.max_batch_s is over",
    Ending.REFUSED: "the platform refuses it",
    Ending.IN_DOUBT: "starts are in doubt; `batchrun resolve` decides about them",
}


class NotifyConditions:
    """Watches one batch.

    Args:
        progress: of the batch in this process.
        budget: of the batch.
        outage: returns why the platform cannot be reached; empty while it can.
        ledger: of the batch.
        notified: what the ledger has of earlier processes.
        to: who is notified.
        counts: returns the settled jobs, and how many of them succeeded, earlier processes included.
        doubts_end_s: seconds after which a start should not be in doubt any more.
    """

    def __init__(
        self,
        progress: Progress,
        budget: Budget,
        outage: Callable[[], str],
        ledger: Ledger,
        notified: Notified | None,
        to: BatchNotifier,
        *,
        counts: Callable[[], tuple[int, int]],
        doubts_end_s: float,
    ) -> None:
        self._progress = progress
        self._budget = budget
        self._outage = outage
        self._ledger = ledger
        self._notified = notified
        self._to = to
        self._counts = counts
        self._doubts_end_s = doubts_end_s + DOUBT_GRACE_S
        self._outage_lasts = ConditionAge()
        self._doubts_last = ConditionAge()
        #: Quiet Runs of which people are to be notified, by Run; and until when no further notification is sent.
        self._quiet: dict[RunId, RunSuspect | RunAborted] = {}
        self._quiet_until = 0.0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._look()
            await anyio.sleep(INTERVAL_S)

    async def end(self, summary: Summary | None, failure: BatchrunError | None) -> None:
        """Notify people of the end. One that a person has asked for needs no notification."""
        self._quiet_until = 0.0  # no later look would send them
        await self._look()
        ending = summary.ending if summary is not None else None
        has_moved = self._progress.started + self._progress.settled > 0
        was_over = self._notified is not None and self._notified.has_ended and not has_moved
        if (ending is Ending.INTERRUPTED and failure is None) or was_over:
            return
        ended = _ended(summary, failure)
        for event in ("stopped",) if failure is not None or ending is None else _ENDINGS[ending]:
            await self._send(event, ended)
        if self._notified is not None:
            await self._note(replace(self._notified, has_ended=True))

    async def _look(self) -> None:
        notices = self._progress.notices
        for notice in self._found_now():
            if type(notice) not in notices.first_of:
                notices.add(notice)
        for notice in list(notices.first_of.values()):
            if (event := _EVENTS.get(type(notice))) is not None:
                await self._send(event, notice)
        await self._send_quiet()

    def _found_now(self) -> Iterator[Notice]:
        """Yield the conditions that only show to those who look."""
        config, (settled, succeeded) = self._to.notifier.config, self._counts()
        if settled >= MIN_SETTLED and settled - succeeded > config.failed_share * settled:
            yield ManyFailed(failed=settled - succeeded, settled=settled)
        budget = self._budget
        if budget.limit_usd is not None and budget.spent_usd >= config.budget_share * budget.limit_usd:
            yield BudgetNearlySpent(spent_usd=budget.spent_usd, limit_usd=budget.limit_usd)
        in_doubt, reason = self._progress.in_doubt, self._outage()
        if (lasted_s := self._doubts_last.look(holds=in_doubt > 0)) >= self._doubts_end_s:
            yield StartsStayInDoubt(count=in_doubt, lasted_s=lasted_s)
        is_ours = not self._to.is_supervised
        if (lasted_s := self._outage_lasts.look(holds=bool(reason) and is_ours)) >= config.outage_s:
            yield OutageLasts(reason=reason, lasted_s=lasted_s)

    async def _send(self, event: NotifyEvent, notice: Notice) -> None:
        """Send a notification, unless this event was notified.

        It is stored before the ledger notes it. So a process that is killed in between sends it again, with the same
        id, and none is lost.
        """
        is_workers = self._to.is_supervised and event in ("stopped", "disk_low")
        if is_workers or not self._to.notifier.wants(event):
            return
        notified = await self._notified_so_far()
        if event in notified.events:
            return
        await self._to.notifier.send(self._notification(f"{notified.id}-{event}", event, notice))
        await self._note(replace(notified, events=[*notified.events, event]))

    async def _send_quiet(self) -> None:
        """Send a notification of the Runs that have become quiet; of each once, and one of all in QUIET_INTERVAL_S."""
        self._quiet |= {each.run_id: each for each in self._progress.notices.take_quiet()}
        if not self._to.notifier.wants("quiet_run"):
            self._quiet.clear()
        if not self._quiet or anyio.current_time() < self._quiet_until:
            return
        notified = await self._notified_so_far()
        told = set(notified.quiet_runs)
        runs = [each for run_id, each in self._quiet.items() if run_id not in told]
        self._quiet.clear()
        if not runs:
            return
        self._quiet_until = anyio.current_time() + QUIET_INTERVAL_S
        notice = runs[0] if len(runs) == 1 else ManyQuiet(count=len(runs), samples=runs[:MAX_SAMPLES])
        notification_id = f"{notified.id}-quiet_run-{runs[0].run_id}"
        await self._to.notifier.send(self._notification(notification_id, "quiet_run", notice))
        quiet_runs = [*notified.quiet_runs, *(each.run_id for each in runs)][-MAX_QUIET:]
        await self._note(replace(notified, quiet_runs=quiet_runs))

    async def _notified_so_far(self) -> Notified:
        """Return what people were notified of since the batch was begun, or since it went on after an ending."""
        notified = self._notified
        if notified is None or notified.has_ended:
            notified = Notified(id=secrets.token_hex(8))
            await self._note(notified)
        return notified

    def _notification(self, notification_id: str, event: NotifyEvent, notice: Notice) -> Notification:
        return Notification(
            id=notification_id,
            event=event,
            text=f"Batch {self._to.batch['name']}: {notice_words(notice)}",
            batch=self._to.batch,
            data=_plain(asdict(notice)),
        )

    async def _note(self, notified: Notified) -> None:
        """Note it in the ledger; one that cannot be written has ended the batch, and says so itself."""
        self._notified = notified
        with suppress(OutputError):
            await self._ledger.note_notified(notified)


def _ended(summary: Summary | None, failure: BatchrunError | None) -> BatchEnded:
    if summary is None:
        return BatchEnded(reason=str(failure), settled=0, succeeded=0, left=0, items=0, cost_usd=0.0)
    return BatchEnded(
        reason=str(failure) if failure is not None else _REASONS.get(summary.ending, ""),
        settled=summary.settled,
        succeeded=summary.outcomes.get(Outcome.SUCCEEDED, 0),
        left=summary.left_jobs,
        items=summary.items,
        cost_usd=round(summary.cost_usd, 6),
    )


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
